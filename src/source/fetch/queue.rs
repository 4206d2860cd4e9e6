//! The shard's end: records out of the answers that were fetched for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::partition_fetch::Content;
use super::reader::{Progress, Reader};
use super::shard_fetch::{Chunk, Section, ShardFetch};
use crate::protocol::Offset;
use crate::source::{PartitionId, Polled, Record, SourceError};

/// Records handed over at once: few enough that a barrier is seen soon.
const BATCH: usize = 1000;

/// See the module. Owned by the shard's thread.
pub(crate) struct FetchQueue {
    fetch: Arc<ShardFetch>,
    /// The answer being read.
    chunk: Option<Chunk>,
    /// The section being read: assignment, partition and where its bytes are.
    section: Option<(u64, PartitionId, std::ops::Range<usize>)>,
    reader: Reader,
    /// The next offset to read of partitions of which something came.
    positions: BTreeMap<PartitionId, (u64, Offset)>,
}

impl FetchQueue {
    pub(super) fn new(fetch: Arc<ShardFetch>) -> Self {
        Self {
            fetch,
            chunk: None,
            section: None,
            reader: Reader::default(),
            positions: BTreeMap::new(),
        }
    }

    /// One whose batches may unpack to fewer than so many bytes.
    pub(super) fn with_batches_below(mut self, bytes: usize) -> Self {
        self.reader = Reader::of_batches_below(bytes);
        self
    }

    /// See [`super::super::ShardQueue::poll`].
    pub(crate) fn poll(
        &mut self,
        wait: Duration,
        mut take: impl FnMut(Polled<'_>) -> bool,
    ) -> usize {
        let (mut count, mut patience) = (0, Patience::new(wait));
        loop {
            if self.section.is_none() {
                match self.next_section(&mut patience, count == 0) {
                    None => return count,
                    Some(Section { partition, content: Content::Failed(error), .. }) => {
                        count += 1;
                        if !take(Polled::Failed { partition, error }) {
                            return count;
                        }
                        continue;
                    }
                    Some(Section {
                        token,
                        partition,
                        content: Content::Records { part, bytes },
                    }) => {
                        self.reader.begin(part);
                        self.section = Some((token, partition, bytes));
                    }
                }
            }
            if !self.hand_over(&mut count, &mut take) {
                return count;
            }
        }
    }

    /// See [`super::super::ShardQueue::has_some`].
    pub(crate) fn has_some(&mut self, wait: Duration) -> bool {
        if self.section.is_none() && self.chunk.is_none() {
            self.chunk = self.fetch.next_chunk(wait);
        }
        self.section.is_some() || self.chunk.is_some()
    }

    /// The next offset to read of each of these partitions, where anything came since it was
    /// taken.
    pub(crate) fn positions(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Vec<(PartitionId, Offset)> {
        let known = partitions.filter_map(|p| Some((p, *self.positions.get(&p)?)));
        let mut known: BTreeMap<PartitionId, (u64, Offset)> = known.collect();
        self.fetch.retain_current(&mut known);
        known.into_iter().map(|(partition, (_, offset))| (partition, offset)).collect()
    }

    /// Hands over records of the open section. False: enough for this time.
    fn hand_over(&mut self, count: &mut usize, take: &mut impl FnMut(Polled<'_>) -> bool) -> bool {
        let (Some(chunk), Some((token, partition, bytes))) = (&self.chunk, &self.section) else {
            self.section = None;
            return true;
        };
        let (token, partition) = (*token, *partition);
        // A partition that was let go since, and may be ours again from another offset.
        if !self.fetch.is_current(partition, token) {
            self.section = None;
            return true;
        }
        let data = &chunk.buffer[bytes.clone()];
        let mut each = |record: Record<'_>| take(Polled::Record(record));
        let read = self.reader.read(data, BATCH, count, &mut each);
        self.positions.insert(partition, (token, self.reader.position()));
        match read {
            Ok(Progress::More | Progress::Stopped) => false,
            Ok(Progress::End) => {
                self.section = None;
                true
            }
            Err(error) => {
                self.section = None;
                self.fetch.fail(partition, token);
                let error = SourceError::Unreadable {
                    partition: self.fetch.topics.tp(partition),
                    offset: self.reader.position(),
                    next: self.reader.end_of_batch(),
                    detail: error.to_string(),
                };
                *count += 1;
                take(Polled::Failed { partition, error })
            }
        }
    }

    /// The next section that is of a present assignment. `waits` for an answer, if it may.
    fn next_section(&mut self, patience: &mut Patience, waits: bool) -> Option<Section> {
        loop {
            if let Some(chunk) = &mut self.chunk {
                let fetch = &self.fetch;
                let current = |each: &Section| fetch.is_current(each.partition, each.token);
                if let Some(section) = chunk.sections.find(current) {
                    return Some(section);
                }
            }
            if let Some(chunk) = self.chunk.take() {
                self.fetch.give_back(chunk.buffer);
            }
            let left = patience.left()?;
            let wait = if waits { left } else { Duration::ZERO };
            self.chunk = Some(self.fetch.next_chunk(wait)?);
        }
    }
}

impl Drop for FetchQueue {
    /// Nobody takes what is fetched.
    fn drop(&mut self) {
        self.fetch.stop();
    }
}

/// How long a call may go on to begin answers: those of which no reader may see a record would
/// keep it as long as they come.
struct Patience {
    begun: Instant,
    wait: Duration,
    asked: bool,
}

impl Patience {
    fn new(wait: Duration) -> Self {
        Self { begun: Instant::now(), wait, asked: false }
    }

    /// What is left of the time; `None` when it is over, but one answer is always looked for.
    fn left(&mut self) -> Option<Duration> {
        let left = self.wait.saturating_sub(self.begun.elapsed());
        let first = !std::mem::replace(&mut self.asked, true);
        (first || !left.is_zero()).then_some(left)
    }
}
