//! What a pipeline needs of the world outside, as traits with two sides: the real one in `real.rs`
//! and a simulated one in the tests, which runs the same coordinator, shards and committer on a
//! clock and in an order that a seed decides.
//!
//! Everything that blocks in the real world is a future here. Errors are [`Failure`]s, so that
//! both sides are judged by the same code.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::messages::Event;
use super::reading::Reading;
use crate::decode::Pushed;
use crate::failure::Failure;
use crate::protocol::{
    Checkpoint, Frontier, JournalParts, LocalState, LogRange, Offset, PendingFile, Permit,
    Prepared, Settled, TopicPartition,
};
use crate::source::{PartitionId, Polled, Record, Reported, Reporter, Share, TopicInfo, Topics};
use crate::state::{CheckpointEnd, CheckpointStart, Leaders, StepSeconds};
use crate::table::{CommitOutcome, NotSent};

/// The topics, and the group that distributes their partitions.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// A shard's share of the topics.
    type Queue: Queue;

    /// The topics that are read.
    fn topics(&self) -> Topics;
    /// Cluster, topic ids and partitions now.
    fn describe(&self) -> impl Future<Output = Result<TopicInfo, Failure>> + Send;
    /// The id of each topic now, where the cluster tells it.
    fn topic_ids(&self) -> impl Future<Output = BTreeMap<String, String>> + Send;
    /// First offset kept and end of what a committed reader may see, of all of them.
    fn log_ranges(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> impl Future<Output = Result<BTreeMap<TopicPartition, LogRange>, Failure>> + Send;
    /// The same of those whose leaders tell it; the others are left out.
    fn known_log_ranges(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> impl Future<Output = Result<BTreeMap<TopicPartition, LogRange>, Failure>> + Send;
    /// Offsets behind the beginning of a transaction that is not ended, of those partitions that have some
    /// and whose leaders tell it.
    fn open_transactions(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> impl Future<Output = Result<BTreeMap<TopicPartition, Offset>, Failure>> + Send;
    /// An empty queue for each of `shards`.
    fn queues(&self, shards: usize) -> Vec<Self::Queue>;
    /// Begins to tell events, membership in the group among them. The future ends when nobody
    /// listens any more; false: it panicked.
    ///
    /// # Errors
    /// If the group cannot be asked to let us in.
    fn watch(
        &self,
        partitions: usize,
    ) -> Result<(mpsc::Receiver<Event>, BoxFuture<'static, bool>), Failure>;
    /// Accepts an assignment (none is one, too) and reads each partition from its offset into
    /// the queue of its shard; those that are absent are not read.
    ///
    /// # Errors
    /// If the client does not take it.
    fn assign(&self, starts: &[Share], absent: &[TopicPartition]) -> Result<(), Failure>;
    /// Begins to read partitions that are assigned and not read.
    ///
    /// # Errors
    /// If the client does not take it.
    fn begin(&self, starts: &[Share]) -> Result<(), Failure>;
    /// Reads nothing more from partitions that stay ours for the group, until [`Self::begin`].
    ///
    /// # Errors
    /// If the client does not take it.
    fn set_aside(&self, partitions: &[TopicPartition]) -> Result<(), Failure>;
    /// Acknowledges that partitions were revoked; nothing more is read from them.
    ///
    /// # Errors
    /// If the client does not take it.
    fn revoke(&self, partitions: &[TopicPartition]) -> Result<(), Failure>;
    /// Joins the group again, so that it shares the partitions out anew; ours are revoked first.
    ///
    /// # Errors
    /// If the client does not take it.
    fn rejoin(&self) -> Result<(), Failure>;
    /// Leader epochs of the records before these offsets, as far as they were read here.
    fn leader_epochs(&self, frontier: &Frontier) -> BTreeMap<TopicPartition, i32>;
    /// Tells the group how far the ledger is, for lag tools, who says so, and leader epochs of the records
    /// before that.
    fn report(
        &self,
        frontier: Frontier,
        by: Reporter,
        epochs: BTreeMap<TopicPartition, i32>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// What pipelines told the group of these partitions; nothing, if we may not know it.
    fn reported(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> impl Future<Output = Result<BTreeMap<TopicPartition, Reported>, Failure>> + Send;
    /// End of the log as the last fetch saw it, if there was one.
    fn log_end(&self, tp: &TopicPartition) -> Option<Offset>;
    /// The error of a cluster that stays away.
    fn unreachable(&self) -> Failure;
    /// The error of a cluster that told a topic's id before and does not tell it now.
    fn silent(&self) -> Failure;
    /// The error of a group that does not answer.
    fn no_group(&self) -> Failure;
}

/// The records of one shard's partitions.
pub(crate) trait Queue: Send + 'static {
    /// Hands over what is ready, at most one batch; waits up to `wait` for a first message.
    /// `take` returns false to stop early, and nothing may be read from the queue after that.
    /// Returns how many were handed over.
    fn poll(&mut self, wait: Duration, take: impl FnMut(Polled<'_>) -> bool) -> usize;
    /// Waits up to `wait` until something is there that [`Self::poll`] would look at. Hands nothing over.
    fn has_some(&mut self, wait: Duration) -> bool;
    /// The next offset to read of each of these partitions, where anything came since it was
    /// assigned: everything below was handed over, or is nothing that a reader may see.
    fn positions(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Vec<(PartitionId, Offset)>;
}

/// The table, as a pipeline sees it.
pub(crate) trait Table: Clone + Send + Sync + 'static {
    /// The table's metadata, and the store that holds its files.
    type Loaded: Clone + Send + Sync + 'static;

    /// Reads the table; `None` if there is none of its name. A refusal, if its ledger or journal
    /// cannot be understood.
    fn load(&self) -> impl Future<Output = Result<Option<Reading<Self::Loaded>>, Failure>> + Send;
    /// Reads the table, and makes it if there is none and it is known how. Refuses as [`Self::load`].
    fn open(&self) -> impl Future<Output = Result<Reading<Self::Loaded>, Failure>> + Send;
    /// What a snapshot of ours says about the commit that made it; decoded anew each time.
    ///
    /// # Errors
    /// A refusal, if it cannot be understood.
    fn entry(
        &self,
        loaded: &Self::Loaded,
        snapshot_id: i64,
    ) -> Result<Option<JournalParts>, Failure>;
    /// Appends the commit that `permit` is for to the table, with one request pinned to the head
    /// that it was decided on. Nothing is sent unless `reading` is the one that it was decided on.
    fn append(
        &self,
        reading: &Reading<Self::Loaded>,
        permit: Permit<'_>,
    ) -> impl Future<Output = Result<CommitOutcome<Reading<Self::Loaded>>, NotSent>> + Send;
    /// Deletes data files that nothing refers to.
    fn delete_files(
        &self,
        loaded: &Self::Loaded,
        paths: Vec<String>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The checkpoint store. What was written is on disk when the future ends.
pub(crate) trait Checkpoints: Clone + Send + Sync + 'static {
    /// What recovery needs.
    fn load(&self) -> impl Future<Output = Result<LocalState, Failure>> + Send;
    /// Under which leaders the records were written that earlier checkpoints read last.
    fn leaders(&self) -> impl Future<Output = Result<Leaders, Failure>> + Send;
    /// Step 2 of a commit. Only what it gives back may be admitted (I4).
    fn prepare(
        &self,
        checkpoint: Checkpoint,
        start: CheckpointStart,
    ) -> impl Future<Output = Result<Vec<Prepared>, Failure>> + Send;
    /// Step 4, of one commit of the checkpoint, on the proof of how it ended (I5).
    fn finalize(
        &self,
        settled: Settled,
        end: CheckpointEnd,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Adds to the newest record how long steps took.
    fn add_seconds(&self, seconds: StepSeconds)
    -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What is in records and not in their rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Omitted {
    /// Fields that the table lacks.
    pub unknown_fields: u64,
    /// Timestamps of records outside the years 1 to 9999, which no engine can show.
    pub timestamps: u64,
}

/// What turns the records of an epoch into data files that nobody sees yet.
pub(crate) trait Sink: Send + 'static {
    /// What it writes for.
    type Table;
    /// The files of an epoch that ended.
    type Closing: Closing;

    /// Takes a record's payload as one row, or nothing. It makes room by itself: one that is full all
    /// the same has a defect.
    ///
    /// # Errors
    /// If rows taken before cannot be written.
    fn push(&mut self, record: &Record<'_>, payload: &[u8]) -> Result<Pushed, Failure>;
    /// Writes what has waited long enough.
    ///
    /// # Errors
    /// If it cannot be written.
    fn tick(&mut self) -> Result<(), Failure>;
    /// Bytes of memory that it holds.
    fn buffered_bytes(&self) -> u64;
    /// Bytes that would describe the files of the open epoch in a checkpoint.
    fn described_bytes(&self) -> u64;
    /// What rows lack of their records, since the last call.
    fn take_omitted(&mut self) -> Omitted;
    /// Ends the epoch: nothing more is written to its files. The next one is written for `next`, and
    /// may be while they become durable.
    ///
    /// # Errors
    /// If files cannot be written.
    fn close(&mut self, next: &Arc<Self::Table>) -> Result<Self::Closing, Failure>;
    /// Would it hold more than it may with so many bytes beside its own?
    fn is_full(&self, beside: u64) -> bool;
    /// Deletes what was written of the open epoch.
    fn abandon(&mut self);
}

/// Files that become durable.
pub(crate) trait Closing: Send + 'static {
    /// Would [`Self::wait`] not have to wait?
    fn is_over(&self) -> bool;
    /// Bytes of memory that they hold.
    fn held_bytes(&self) -> u64;
    /// Closed and durable files.
    ///
    /// # Errors
    /// If files cannot be written: then none are left.
    fn wait(self) -> Result<Vec<PendingFile>, Failure>;
}

/// The time, by the clock that tokio sleeps by: a simulation sets that one.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
