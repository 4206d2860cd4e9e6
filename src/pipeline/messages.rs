//! What the coordinator, the shards and the monitor tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::decode::BadRecord;
use crate::failure::Failure;
use crate::protocol::{Epoch, Offset, StartAt, TableShare, TopicPartition, Trigger};
use crate::source::{Ends, LeftOut, Membership, SourceError};

/// Counters that the coordinator reads while shards run.
#[derive(Default)]
pub(crate) struct Progress {
    /// Payload bytes read since the last barrier.
    pub epoch_bytes: AtomicU64,
    /// Records read since the last barrier.
    pub epoch_records: AtomicU64,
    /// Bytes that would describe the files of the open epoch in its checkpoint.
    pub epoch_described: AtomicU64,
    /// Counts every change of a position, for ever.
    pub moves: AtomicU64,
    /// Set while the open epoch may not grow: the last one is still being committed.
    pub hold: AtomicBool,
}

impl Progress {
    /// May the open epoch not grow any more? While the last one is committed it may not read more than an
    /// epoch does, and never have more files than a checkpoint holds.
    pub(crate) fn is_full(&self, trigger: &Trigger) -> bool {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let long = get(&self.epoch_bytes) >= trigger.max_bytes;
        (long && self.hold.load(Ordering::Relaxed))
            || get(&self.epoch_described) >= trigger.max_described
    }
}

/// A partition that a shard is to read.
pub(crate) struct Begin {
    /// The partition.
    pub tp: TopicPartition,
    /// Where it starts in each table of the flow, in their order.
    pub tables: Vec<StartAt>,
    /// The offset to read first: the lowest of these. A table that is ahead drops what it holds.
    pub start: Offset,
    /// Next offset to read, for others to see.
    pub position: Arc<AtomicI64>,
}

/// The tables of a flow, in their order, and when the oldest reading among them was asked for.
pub(crate) struct Fresh<T> {
    /// The tables.
    pub tables: Vec<Arc<T>>,
    /// When.
    pub at: Instant,
}

/// What a shard is told.
pub(crate) enum Command<T> {
    /// Read these partitions, too. Answered before they are assigned: a record that comes before
    /// the shard knows its partition would be dropped as somebody else's.
    Take(Vec<Begin>),
    /// End the epoch.
    Seal {
        /// The epoch that ends.
        epoch: Epoch,
        /// The tables for the epoch after it.
        next: Fresh<T>,
        /// Partitions that belong to the epoch and are read no further.
        revoked: Arc<BTreeSet<TopicPartition>>,
    },
    /// The answer to [`Report::Stale`]: write the open epoch, of which nothing is written yet, for these.
    Renew(Fresh<T>),
}

/// What a shard did in an epoch.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    /// What goes into each table of the flow, in their order.
    pub shares: Vec<TableShare>,
    /// Timestamp of the last record by partition, milliseconds since the Unix epoch.
    pub last_timestamps: BTreeMap<TopicPartition, i64>,
    /// Payload bytes read.
    pub bytes: u64,
}

/// What a shard reports.
pub(crate) enum Report {
    /// The answer to [`Command::Take`].
    Ready,
    /// The answer to a barrier.
    Sealed(Epoch, Box<Sealed>),
    /// Files of an epoch that came to nothing, since those of another table could not be written.
    Left(Box<Sealed>),
    /// The shard of this number has records, and what it knows of the tables is too old to open files for.
    /// It reads no further until it is told.
    Stale(usize),
    /// A bad record under `fail`: its partition goes no further; seal what precedes it.
    Bad(BadRecord),
    /// A partition cannot be read on: it goes no further, the others do.
    Unread(TopicPartition, SourceError),
    /// The shard ended.
    Failed(Failure),
}

/// What the monitor tells.
pub(crate) enum Event {
    /// The cluster answered.
    Reachable,
    /// It did not.
    Unreachable(String),
    /// Where the logs end of those partitions whose leaders told it when they were asked.
    Ends(Ends),
    /// The assignment changes.
    Membership(Membership),
    /// What the group leaves to nobody, also if that is nothing; `None`: it did not answer.
    LeftOut(Option<LeftOut>),
    /// The topics have more partitions than this run reads.
    PartitionsAdded(usize),
    /// An error that waiting does not cure.
    Failed(SourceError),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_epoch_of_as_many_files_as_a_checkpoint_holds_is_full_also_while_nothing_is_committed() {
        let trigger = Trigger {
            interval: Duration::from_secs(60),
            min_pause: Duration::from_secs(60),
            max_bytes: 100,
            max_records: 1000,
            max_described: 10,
        };
        let progress = Progress::default();
        let is_full = |bytes, described, hold| {
            progress.epoch_bytes.store(bytes, Ordering::Relaxed);
            progress.epoch_described.store(described, Ordering::Relaxed);
            progress.hold.store(hold, Ordering::Relaxed);
            progress.is_full(&trigger)
        };
        for (bytes, described, hold, full) in [
            (99, 9, true, false),
            (100, 0, false, false),
            (100, 0, true, true),
            (0, 10, false, true),
            (0, 10, true, true),
        ] {
            assert_eq!(is_full(bytes, described, hold), full, "{bytes} {described} {hold}");
        }
    }
}
