//! A record that could not be decoded.

use std::fmt;

use super::RecordError;
use crate::protocol::{Offset, TopicPartition};

/// A record that could not be decoded, under `BAD_RECORDS=fail`.
#[derive(Debug)]
pub(crate) struct BadRecord {
    /// Its partition.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// Why.
    pub error: RecordError,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bad record at topic {} partition {} offset {}: {}",
            self.partition.topic, self.partition.partition, self.offset, self.error
        )
    }
}
