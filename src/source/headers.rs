//! The headers of a record, read where they lie, and only when somebody asks for them.

use std::fmt;

use super::client_queue::MessageHeaders;
use super::fetch::BatchHeaders;

/// A header's name and value. The name should be UTF-8, but no broker looks.
pub(crate) type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// Headers that are not what Kafka's format says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its headers cannot be read: {0}")]
pub(crate) struct HeadersError(pub(super) String);

/// The headers of a record, in its order, where names may occur more than once.
#[derive(Clone, Copy)]
pub(crate) struct Headers<'a>(Place<'a>);

/// Where they lie.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// Behind the value in a batch; no bytes are no headers.
    Batch(&'a [u8]),
    /// In a message of librdkafka's.
    Message(MessageHeaders<'a>),
}

impl<'a> Headers<'a> {
    /// None.
    pub(crate) const NONE: Self = Self(Place::Batch(&[]));

    /// As they lie in a batch, from their number on.
    #[inline]
    pub(super) fn of_batch(bytes: &'a [u8]) -> Self {
        Self(Place::Batch(bytes))
    }

    /// Those of a message.
    #[inline]
    pub(super) fn of_message(message: MessageHeaders<'a>) -> Self {
        Self(Place::Message(message))
    }

    /// Reads them, one after the other. An error is the last that comes, and where librdkafka reads
    /// them the only one.
    pub(crate) fn iter(self) -> impl Iterator<Item = Result<Header<'a>, HeadersError>> {
        match self.0 {
            Place::Batch(bytes) => Read::Batch(BatchHeaders::new(bytes)),
            Place::Message(message) => Read::Message(message.iter()),
        }
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Two kinds of iterators as one.
enum Read<B, M> {
    Batch(B),
    Message(M),
}

impl<T, B: Iterator<Item = T>, M: Iterator<Item = T>> Iterator for Read<B, M> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Batch(batch) => batch.next(),
            Self::Message(message) => message.next(),
        }
    }
}
