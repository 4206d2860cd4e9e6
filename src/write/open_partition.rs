//! A table partition that is being written: rows that wait for the encoder, and the file.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use iceberg::spec::Struct;

use super::WriteError;
use super::file::OpenFile;

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
    /// The bytes that the writer has counted for it.
    pub(super) counted: u64,
}

impl OpenPartition {
    pub(super) fn new(values: Struct, below: String) -> Self {
        let (waiting, file) = (Vec::new(), None);
        Self { values, below, last_use: 0, file, waiting, waiting_bytes: 0, counted: 0 }
    }

    /// Keeps rows until there are enough of them.
    pub(super) fn keep(&mut self, rows: RecordBatch) {
        self.waiting_bytes += rows.get_array_memory_size() as u64;
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
    pub(super) fn bytes(&self) -> u64 {
        self.waiting_bytes + self.file.as_ref().map_or(0, OpenFile::memory_bytes)
    }

    /// Bytes already given to the store by the open file.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, OpenFile::sent_bytes)
    }
}
