//! The queue of one shard, whoever fills it.

use std::time::Duration;

use super::client_queue::ClientQueue;
use super::fetch::FetchQueue;
use super::{Headers, PartitionId, SourceError, TopicIndex};
use crate::protocol::Offset;

/// A record, borrowed from where it lies until the call returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// Its topic.
    pub topic: TopicIndex,
    /// Number of its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: Offset,
    /// Milliseconds since the Unix epoch, if the record has a timestamp.
    pub timestamp_ms: Option<i64>,
    /// The key; an empty one is a key, too.
    #[cfg_attr(
        not(any(test, feature = "fuzzing")),
        expect(dead_code, reason = "part of a record; no format reads it yet")
    )]
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, not read yet.
    #[cfg_attr(
        not(any(test, feature = "fuzzing")),
        expect(dead_code, reason = "part of a record; no format reads it yet")
    )]
    pub headers: Headers<'a>,
}

impl Record<'_> {
    /// The partition that it is of.
    #[inline]
    pub(crate) fn id(&self) -> PartitionId {
        PartitionId { topic: self.topic, partition: self.partition }
    }
}

/// What a queue yields.
#[derive(Debug)]
pub(crate) enum Polled<'a> {
    /// A record.
    Record(Record<'a>),
    /// Reading failed.
    Failed {
        /// The partition.
        partition: PartitionId,
        /// Why.
        error: SourceError,
    },
}

/// The queue of one shard. Owned by its thread.
pub(crate) enum ShardQueue {
    /// Filled by librdkafka.
    Client(ClientQueue),
    /// Filled by icestream itself.
    Fetched(Box<FetchQueue>),
}

impl ShardQueue {
    /// Hands over what is ready, at most one batch; waits up to `wait` for a first message.
    /// Returns how many were handed over. `take` returns false to stop early: the rest of the
    /// batch is dropped unread, so the caller must not read on from this queue.
    pub(crate) fn poll(&mut self, wait: Duration, take: impl FnMut(Polled<'_>) -> bool) -> usize {
        match self {
            Self::Client(queue) => queue.poll(wait, take),
            Self::Fetched(queue) => queue.poll(wait, take),
        }
    }

    /// Waits up to `wait` until something is there that [`Self::poll`] would look at, which may be what no
    /// reader may see. Hands nothing over.
    pub(crate) fn has_some(&mut self, wait: Duration) -> bool {
        match self {
            Self::Client(queue) => queue.has_some(wait),
            Self::Fetched(queue) => queue.has_some(wait),
        }
    }

    /// The next offset to read of each of these partitions: everything below it was handed over,
    /// or is a transaction marker, or belongs to an aborted transaction. Partitions of which
    /// nothing came yet are left out.
    pub(crate) fn positions(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Vec<(PartitionId, Offset)> {
        match self {
            Self::Client(queue) => queue.positions(partitions),
            Self::Fetched(queue) => queue.positions(partitions),
        }
    }
}

#[cfg(test)]
mod tests;
