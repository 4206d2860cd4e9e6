//! The table partitions that are being written: of each the rows that wait for the encoder, and the
//! file.

use std::collections::{BTreeSet, HashMap};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use iceberg::spec::Struct;

use super::WriteError;
use super::file::OpenFile;
use super::partition::PartitionKey;

/// What rows that wait take for each of their columns beside its bytes: a few addresses, counters and
/// headers of the allocator. It is most of what a single row takes.
const COLUMN: u64 = 160;

/// What a writer has of one table partition.
pub(super) struct OpenPartition {
    /// Its values, as they stand in the manifest.
    pub(super) values: Struct,
    /// The directory of its files, below that of the data.
    pub(super) below: String,
    /// When rows came last, by the writer's clock.
    pub(super) last_use: u64,
    pub(super) file: Option<OpenFile>,
    waiting: Vec<RecordBatch>,
    waiting_bytes: u64,
    /// Bytes that it takes by itself.
    own: u64,
    /// The bytes that are counted for it.
    counted: u64,
}

impl OpenPartition {
    pub(super) fn new(key: &PartitionKey, values: Struct, below: String) -> Self {
        /// Its places in a table with room to grow and in an index.
        const PLACES: usize = 2 * size_of::<(PartitionKey, OpenPartition)>() + 64;
        // The key holds texts that are among the values, too.
        let texts = 2 * key.len() + below.len();
        let own = PLACES + texts + size_of_val(values.fields());
        let (waiting, file) = (Vec::new(), None);
        let own = own as u64;
        Self { values, below, last_use: 0, file, waiting, waiting_bytes: 0, own, counted: 0 }
    }

    /// Keeps rows of so many columns until there are enough of them.
    pub(super) fn keep(&mut self, rows: RecordBatch, columns: u64) {
        self.waiting_bytes += rows.get_array_memory_size() as u64 + COLUMN * columns;
        self.waiting.push(rows);
    }

    /// Bytes of memory of the rows that wait.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// The rows that waited, in the order in which they came.
    pub(super) fn take_waiting(&mut self) -> Result<Option<RecordBatch>, WriteError> {
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let Some(first) = waiting.first() else { return Ok(None) };
        concat_batches(first.schema_ref(), &waiting).map(Some).map_err(WriteError::Split)
    }

    /// Bytes of memory in all.
    fn bytes(&self) -> u64 {
        self.own + self.waiting_bytes + self.file_bytes()
    }

    /// Bytes of memory of the open file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, OpenFile::memory_bytes)
    }

    /// Bytes already given to the store by the open file.
    fn sent_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, OpenFile::sent_bytes)
    }
}

/// All table partitions of which there is a file, or rows that wait. Which holds most is known without
/// looking at all of them: there may be as many as rows.
#[derive(Default)]
pub(super) struct OpenPartitions {
    known: HashMap<PartitionKey, OpenPartition>,
    by_bytes: BTreeSet<(u64, PartitionKey)>,
    /// Those with a file, no more than may be open.
    with_file: Vec<PartitionKey>,
    /// Those whose file was closed since they were last looked through.
    closed: Vec<PartitionKey>,
    bytes: u64,
    sent: u64,
}

impl OpenPartitions {
    pub(super) fn contains(&self, key: &PartitionKey) -> bool {
        self.known.contains_key(key)
    }

    pub(super) fn get(&self, key: &PartitionKey) -> Option<&OpenPartition> {
        self.known.get(key)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Bytes of memory of all.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes given to the store, as far as [`Self::update`] saw it.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// Bytes that a file was given when it ended.
    pub(super) fn add_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// Adds one.
    pub(super) fn insert(&mut self, key: &PartitionKey, open: OpenPartition) {
        self.known.insert(key.clone(), open);
    }

    /// Lets `step` work on one and keeps the counts right, also if it fails.
    pub(super) fn update<T>(
        &mut self,
        key: &PartitionKey,
        step: impl FnOnce(&mut OpenPartition) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let Some(open) = self.known.get_mut(key) else { return Err(WriteError::Failed) };
        let (sent, had_file) = (open.sent_bytes(), open.file.is_some());
        let outcome = step(open);
        self.sent += open.sent_bytes().saturating_sub(sent);
        match (had_file, open.file.is_some()) {
            (false, true) => self.with_file.push(key.clone()),
            (true, false) => {
                self.with_file.retain(|other| other != key);
                self.closed.push(key.clone());
            }
            _ => {}
        }
        let (before, now) = (open.counted, open.bytes());
        if before != now {
            open.counted = now;
            self.bytes = self.bytes - before + now;
            self.by_bytes.remove(&(before, key.clone()));
            self.by_bytes.insert((now, key.clone()));
        }
        outcome
    }

    /// Forgets those of which neither rows nor a file are left. Not while one of them is worked on.
    pub(super) fn forget_closed(&mut self) {
        for key in std::mem::take(&mut self.closed) {
            let idle = |open: &OpenPartition| open.file.is_none() && open.waiting.is_empty();
            if self.known.get(&key).is_some_and(idle)
                && let Some(open) = self.known.remove(&key)
            {
                self.bytes -= open.counted;
                self.by_bytes.remove(&(open.counted, key));
            }
        }
    }

    /// The one that holds most, and how much that is.
    pub(super) fn largest(&self) -> Option<(u64, PartitionKey)> {
        self.by_bytes.last().cloned()
    }

    /// The one whose file holds most, if any holds something.
    pub(super) fn largest_file(&self) -> Option<PartitionKey> {
        let files =
            self.with_file.iter().filter_map(|key| Some((self.get(key)?.file_bytes(), key)));
        files.filter(|(bytes, _)| *bytes > 0).max().map(|(_, key)| key.clone())
    }

    /// How many files are open.
    pub(super) fn files(&self) -> usize {
        self.with_file.len()
    }

    /// The one with a file that got no rows for the longest time.
    pub(super) fn oldest_file(&self) -> Option<PartitionKey> {
        let files = self.with_file.iter().filter_map(|key| Some((self.get(key)?.last_use, key)));
        files.min().map(|(_, key)| key.clone())
    }

    /// All in the order in which rows came last.
    pub(super) fn in_order_of_use(&self) -> Vec<PartitionKey> {
        let mut all: Vec<_> =
            self.known.iter().map(|(key, open)| (open.last_use, key.clone())).collect();
        all.sort();
        all.into_iter().map(|(_, key)| key).collect()
    }

    /// Takes all open files out.
    pub(super) fn take_files(&mut self) -> Vec<OpenFile> {
        let all = std::mem::take(self).known;
        all.into_values().filter_map(|open| open.file).collect()
    }
}
