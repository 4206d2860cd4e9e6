//! Fan-out over table partitions, rolling, and the life of a writer's files.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, PartitionSpecRef, StructType, TableMetadata,
    serialize_data_file_to_json,
};
use tokio::runtime::Handle;

use super::WriteError;
use super::file::{ClosingFile, FileFormat, OpenFile};
use super::location::{Locations, partition_path};
use super::open_partition::{OpenPartition, OpenPartitions};
use super::partition::{Group, PartitionKey, Partitioner, single_value};
use crate::base::durable::sync;
use crate::base::masking::mask_text;
use crate::protocol::{PendingFile, with_partition_values};

/// Files that may be ending at once: what an upload keeps of each is not counted any more.
const MOST_CLOSING: usize = 8;
/// A file that ended takes its description in memory, and once more where it is written down.
const DESCRIBED: u64 = 2;

/// Settings of a [`TableWriter`].
#[derive(Clone, Debug)]
pub struct WriteSettings {
    /// A file is closed when it reaches about this many bytes. The table property
    /// `write.target-file-size-bytes` wins.
    pub target_file_size: u64,
    /// Begins the name of every file. Never used twice for one table: made of instance, epoch and
    /// shard.
    pub file_prefix: String,
    /// Files open at once, at least 1. Beyond it the least recently written one is closed.
    pub max_open_files: usize,
    /// Bytes of memory in table partitions, rows that wait, all row groups being encoded, what the codec
    /// keeps for them (beside one encoder), parts of uploads, and what describes files that ended.
    /// Beyond it the largest row group is ended early, and then the file with the largest part closed.
    pub max_buffered_bytes: u64,
    /// Bytes of memory that rows of a table partition take before they are encoded: more where an
    /// encoder by itself takes more, less where `max_buffered_bytes` is below eight times as much. A
    /// table that is not partitioned has its rows encoded at once.
    pub gathered_bytes: u64,
}

impl WriteSettings {
    /// The usual bounds, under a file prefix: files of 512 MiB, 64 files open, 256 MiB buffered, of
    /// it 1 MiB of rows for each table partition.
    pub fn new(file_prefix: impl Into<String>) -> Self {
        Self {
            target_file_size: 512 << 20,
            file_prefix: file_prefix.into(),
            max_open_files: 64,
            max_buffered_bytes: 256 << 20,
            gathered_bytes: 1 << 20,
        }
    }
}

/// Writes record batches into Parquet data files of one table.
///
/// Belongs to one plain thread: file I/O blocks it, on the given runtime. Must be ended with
/// [`close`](Self::close) or [`abort`](Self::abort); a writer that is only dropped leaves files
/// behind that no snapshot names.
#[must_use = "a writer that is dropped leaves files behind"]
pub struct TableWriter {
    metadata: Arc<TableMetadata>,
    spec: PartitionSpecRef,
    partition_type: StructType,
    format: Arc<FileFormat>,
    partitioner: Option<Arc<Partitioner>>,
    locations: Locations,
    file_io: FileIO,
    runtime: Handle,
    settings: WriteSettings,
    /// Bytes of memory that all may take.
    most_buffered: u64,
    /// Bytes of rows of a table partition that are worth an encoder.
    gathered_bytes: u64,
    /// All that have rows, or a file.
    partitions: OpenPartitions,
    /// Files that end, oldest first.
    closing: VecDeque<ClosingFile>,
    done: Vec<DataFile>,
    /// Counts writes: orders the open files by use.
    clock: u64,
    /// Bytes that describe the files that ended.
    described: u64,
    failed: bool,
}

impl TableWriter {
    /// A writer for the table's current schema and partition spec. Opens no file yet.
    ///
    /// # Errors
    /// If a table property, a type or a transform of the table cannot be followed.
    pub fn new(
        metadata: Arc<TableMetadata>,
        file_io: FileIO,
        settings: WriteSettings,
        runtime: Handle,
    ) -> Result<Self, WriteError> {
        let schema = Arc::clone(metadata.current_schema());
        let spec = Arc::clone(metadata.default_partition_spec());
        let partition_type = spec
            .partition_type(&schema)
            .map_err(|source| WriteError::Metadata(Box::new(source)))?;
        let mut format =
            FileFormat::new(Arc::clone(&schema), metadata.properties(), settings.target_file_size)?;
        // While a row group ends it is there twice, as pages and as bytes of the file.
        let most = usize::try_from(settings.max_buffered_bytes / 8 * 3).unwrap_or(usize::MAX);
        let row_group_bytes = &mut format.properties.row_group_bytes;
        *row_group_bytes = (*row_group_bytes).min(most.max(1));
        let partitioner = match spec.is_unpartitioned() {
            true => None,
            false => {
                let spec = Arc::clone(&spec);
                Some(Arc::new(Partitioner::new(spec, partition_type.clone(), &schema)?))
            }
        };
        // One encoder is needed, whatever it takes.
        let encoder = format.encoder_bytes();
        let most_buffered = settings.max_buffered_bytes.saturating_add(encoder);
        let gathered_bytes =
            settings.gathered_bytes.max(encoder).min(settings.max_buffered_bytes / 8);
        let locations =
            Locations::new(metadata.location(), metadata.properties(), &settings.file_prefix)?;
        Ok(Self {
            metadata,
            spec,
            partition_type,
            format: Arc::new(format),
            partitioner,
            locations,
            file_io,
            runtime,
            settings,
            most_buffered,
            gathered_bytes,
            partitions: OpenPartitions::default(),
            closing: VecDeque::new(),
            done: Vec::new(),
            clock: 0,
            described: 0,
            failed: false,
        })
    }

    /// Writes `batch`, whose columns are those of the table's current schema, in order. File sizes
    /// are looked at once a batch, so batches should stay well below the target size.
    ///
    /// # Errors
    /// After an error the writer holds part of the batch and can only be aborted.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        self.guarded(|writer| {
            let batch = writer.format.schema.conform(batch)?;
            if batch.num_rows() == 0 {
                return Ok(());
            }
            let Some(partitioner) = writer.partitioner.clone() else {
                return writer.write_all(&batch);
            };
            let groups = partitioner.split(&batch)?;
            groups.into_iter().try_for_each(|group| writer.gather(&partitioner, group))
        })
    }

    /// Bytes of memory in table partitions and rows not yet given to the store, with what the codec
    /// keeps for them, in parts of uploads, and in what describes the files that ended.
    pub fn buffered_bytes(&self) -> u64 {
        self.partitions.bytes() + DESCRIBED * self.described
    }

    /// The most of them, as long as the descriptions alone are less.
    #[cfg(test)]
    pub(super) fn buffered_bytes_bound(&self) -> u64 {
        self.most_buffered
    }

    /// Bytes given to the store so far, in open and in finished files.
    pub fn written_bytes(&self) -> u64 {
        self.partitions.sent_bytes()
    }

    /// Files that it would have if it were closed now.
    pub fn files(&self) -> usize {
        self.done.len() + self.closing.len() + self.partitions.len()
    }

    /// Bytes that would describe them in a checkpoint: of a file that has not ended, about as many as of
    /// one that has.
    pub fn described_bytes(&self) -> u64 {
        let ended = (self.done.len() + self.closing.len()) as u64;
        let each = self.described.checked_div(ended).unwrap_or(self.format.described_bytes());
        self.described + each * self.partitions.len() as u64
    }

    /// Ends every file: nothing more is written to them, and they become durable. Other writers may
    /// write meanwhile.
    ///
    /// # Errors
    /// If it fails, all files of this writer are deleted again, as far as that is possible.
    pub fn close(mut self) -> Result<ClosingFiles, WriteError> {
        match self.guarded(Self::end_files) {
            Ok(()) => Ok(ClosingFiles(self)),
            Err(error) => Err(self.undo(error)),
        }
    }

    fn undo(self, error: WriteError) -> WriteError {
        for left in self.abort() {
            tracing::warn!(error = %left, "a data file was not deleted");
        }
        error
    }

    /// Deletes every file that this writer made and returns what could not be done: those files
    /// stay behind, and no snapshot names them.
    pub fn abort(mut self) -> Vec<WriteError> {
        let mut errors = Vec::new();
        let mut paths: Vec<String> =
            self.done.iter().map(|file| file.file_path().to_owned()).collect();
        for file in self.closing.drain(..) {
            paths.push(file.path().to_owned());
            errors.extend(file.wait().err());
        }
        for file in self.partitions.take_files() {
            let (path, ended) = file.abandon();
            errors.extend(ended.err());
            paths.push(path);
        }
        for path in paths {
            let deleted = self.runtime.block_on(self.file_io.delete(&path));
            errors.extend(deleted.err().map(|e| WriteError::storage("delete", &path, e)));
        }
        errors
    }

    /// Runs `step`; if it fails, nothing but `abort` is allowed from then on.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        let outcome = step(self);
        self.failed = outcome.is_err();
        outcome
    }

    /// Writes the rows of a table that is not partitioned.
    fn write_all(&mut self, rows: &RecordBatch) -> Result<(), WriteError> {
        let key = PartitionKey::default();
        if !self.partitions.contains(&key) {
            // Void fields alone leave a table unpartitioned, but each has its null.
            let nulls = self.partition_type.fields().iter().map(|_| None).collect();
            self.partitions.insert(&key, OpenPartition::new(&key, nulls, String::new()));
        }
        self.encode(&key, rows)?;
        self.shed_memory()
    }

    /// Keeps rows of a table partition until they are worth an encoder.
    fn gather(&mut self, partitioner: &Partitioner, group: Group) -> Result<(), WriteError> {
        let key = group.key.clone();
        if !self.partitions.contains(&key) {
            let values = partitioner.values(&group)?;
            let below = partition_path(&self.spec, &self.partition_type, &values);
            self.partitions.insert(&key, OpenPartition::new(&key, values, below));
        }
        self.clock += 1;
        let (clock, columns) = (self.clock, self.format.schema.parquet.num_columns() as u64);
        let waiting = self.partitions.update(&key, |open| {
            open.last_use = clock;
            open.keep(group.rows, columns);
            Ok(open.waiting_bytes())
        })?;
        if waiting >= self.gathered_bytes {
            self.encode_waiting(&key)?;
        }
        self.shed_memory()
    }

    /// Encodes the rows of a table partition that waited, if there are any.
    fn encode_waiting(&mut self, key: &PartitionKey) -> Result<(), WriteError> {
        let rows = self.partitions.update(key, OpenPartition::take_waiting)?;
        rows.map_or(Ok(()), |rows| self.encode(key, &rows))
    }

    /// Encodes rows of a table partition that is known, into a file that is opened if there is none.
    fn encode(&mut self, key: &PartitionKey, rows: &RecordBatch) -> Result<(), WriteError> {
        self.open_file(key, rows)?;
        let Some(file) = self.file(key) else { return Err(WriteError::Failed) };
        let sizes = file.codec().sizes(rows);
        let alone = file.codec().bytes_of(&sizes).saturating_sub(self.format.encoder_bytes());
        let more = file.codec().bytes_with(&sizes) - file.codec().bytes();
        if alone > self.settings.max_buffered_bytes / 2 && rows.num_rows() > 1 {
            let half = rows.num_rows() / 2;
            self.encode(key, &rows.slice(0, half))?;
            return self.encode(key, &rows.slice(half, rows.num_rows() - half));
        }
        self.free_encoders(more)?;
        // That may have closed this very file.
        self.open_file(key, rows)?;
        self.partitions.update(key, |open| match &mut open.file {
            Some(file) => file.write(rows, &sizes),
            None => Err(WriteError::Failed),
        })?;
        let full = self
            .file(key)
            .is_some_and(|file| file.estimated_size() >= self.format.properties.target_file_size);
        if full { self.close_file(key) } else { Ok(()) }
    }

    fn file(&self, key: &PartitionKey) -> Option<&OpenFile> {
        self.partitions.get(key)?.file.as_ref()
    }

    /// Ends the largest row groups, or encodes the rows that wait for one, and closes the files with
    /// the largest parts of uploads, until all together are within their bound.
    fn shed_memory(&mut self) -> Result<(), WriteError> {
        self.partitions.forget_closed();
        while self.buffered_bytes() > self.most_buffered {
            let Some((bytes, key)) = self.partitions.largest() else { break };
            self.encode_waiting(&key)?;
            self.free(&key)?;
            if self.partitions.largest().is_some_and(|largest| largest == (bytes, key.clone())) {
                // All that is left is what it takes to have the partition and its file.
                self.close_file(&key)?;
            }
            self.partitions.forget_closed();
        }
        Ok(())
    }

    /// Makes room for `more` bytes beside the encoders, but lets rows wait that do.
    fn free_encoders(&mut self, more: u64) -> Result<(), WriteError> {
        while self.buffered_bytes() + more > self.most_buffered {
            let Some(key) = self.partitions.largest_file() else { break };
            self.free(&key)?;
        }
        Ok(())
    }

    /// Ends the row group of a file, or the file, if parts of its upload are more.
    fn free(&mut self, key: &PartitionKey) -> Result<(), WriteError> {
        let Some(file) = self.file(key) else { return Ok(()) };
        if file.row_group_bytes() < file.held_bytes() {
            self.close_file(key)?;
            // Only when it is gone is its memory free.
            return self.settle(0);
        }
        let end =
            |open: &mut OpenPartition| open.file.as_mut().map_or(Ok(()), OpenFile::end_row_group);
        self.partitions.update(key, end)
    }

    /// Opens a file that begins with `rows`, if there is none for this table partition.
    fn open_file(&mut self, key: &PartitionKey, rows: &RecordBatch) -> Result<(), WriteError> {
        if self.file(key).is_some() {
            return Ok(());
        }
        self.make_room()?;
        let file = self.create_file(key, rows)?;
        self.partitions.update(key, |open| {
            open.file = Some(file);
            Ok(())
        })
    }

    /// Closes the least recently used files until one more may be opened.
    fn make_room(&mut self) -> Result<(), WriteError> {
        while self.partitions.files() >= self.settings.max_open_files.max(1) {
            let Some(key) = self.partitions.oldest_file() else { break };
            self.close_file(&key)?;
        }
        Ok(())
    }

    fn create_file(
        &mut self,
        key: &PartitionKey,
        rows: &RecordBatch,
    ) -> Result<OpenFile, WriteError> {
        let Some(open) = self.partitions.get(key) else { return Err(WriteError::Failed) };
        let (values, path) = (open.values.clone(), self.locations.next(&open.below));
        // I8: a file that is already there may be in a snapshot, and creating it would empty it.
        let exists = self.runtime.block_on(self.file_io.exists(&path));
        if exists.map_err(|source| WriteError::storage("look for", &path, source))? {
            return Err(WriteError::FileExists { path });
        }
        let format = Arc::clone(&self.format);
        OpenFile::create(format, &self.file_io, path, values, rows, &self.runtime)
    }

    /// Begins to end a file. Others may be written meanwhile.
    fn close_file(&mut self, key: &PartitionKey) -> Result<(), WriteError> {
        let taken = self.partitions.update(key, |open| Ok(open.file.take()))?;
        let Some(file) = taken else { return Ok(()) };
        let (path, sent) = (file.path().to_owned(), file.sent_bytes());
        match file.close(self.spec.spec_id()) {
            Ok((file, bytes)) => {
                self.partitions.add_sent(bytes - sent);
                self.described += file.described_bytes();
                self.closing.push_back(file);
            }
            Err(error) => {
                self.discard(&path);
                return Err(error);
            }
        }
        self.settle(MOST_CLOSING)
    }

    /// Waits until at most so many files are ending.
    fn settle(&mut self, most: usize) -> Result<(), WriteError> {
        while self.closing.len() > most {
            let Some(file) = self.closing.pop_front() else { break };
            let path = file.path().to_owned();
            match file.wait() {
                Ok(file) => self.done.push(file),
                Err(error) => {
                    self.discard(&path);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Deletes a file that is in no list any more, so that `abort` would not find it.
    fn discard(&self, path: &str) {
        if let Err(left) = self.runtime.block_on(self.file_io.delete(path)) {
            tracing::warn!(
                path,
                error = mask_text(&left.to_string()),
                "a data file was not deleted"
            );
        }
    }

    fn end_files(&mut self) -> Result<(), WriteError> {
        self.partitions.in_order_of_use().into_iter().try_for_each(|key| {
            if !self.partitions.contains(&key) {
                return Ok(());
            }
            self.encode_waiting(&key)?;
            self.close_file(&key)?;
            self.partitions.forget_closed();
            Ok(())
        })
    }

    fn finish(&mut self) -> Result<Vec<PendingFile>, WriteError> {
        self.settle(0)?;
        self.sync_directories()?;
        self.done.iter().map(|file| self.pending(file)).collect()
    }

    /// A local file is durable only when the directories that lead to it are.
    fn sync_directories(&self) -> Result<(), WriteError> {
        let directories: BTreeSet<PathBuf> = self
            .done
            .iter()
            .flat_map(|file| self.locations.directories(file.file_path()))
            .collect();
        for directory in directories {
            sync(&directory).map_err(|source| WriteError::SyncDirectory {
                path: directory.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }

    fn pending(&self, file: &DataFile) -> Result<PendingFile, WriteError> {
        let path = file.file_path().to_owned();
        let failed = |reason: String| WriteError::Describe { path: path.clone(), reason };
        let version: FormatVersion = self.metadata.format_version();
        let mut data_file =
            serialize_data_file_to_json(file.clone(), &self.partition_type, version)
                .map_err(|error| failed(error.to_string()))?;
        if !self.partition_type.fields().is_empty() {
            let ids = self.partition_type.fields().iter().map(|field| field.id);
            let values = file.partition().iter().map(|value| value.and_then(single_value));
            let values = ids.zip(values).collect();
            data_file = with_partition_values(&data_file, &values).map_err(failed)?;
        }
        Ok(PendingFile {
            path,
            data_file,
            schema_id: self.metadata.current_schema_id(),
            spec_id: self.spec.spec_id(),
            records: file.record_count(),
            bytes: file.file_size_in_bytes(),
        })
    }
}

/// All files of a writer, while they end.
pub struct ClosingFiles(TableWriter);

impl ClosingFiles {
    /// Would [`Self::wait`] not have to wait for the store?
    pub fn is_over(&self) -> bool {
        self.0.closing.iter().all(ClosingFile::is_over)
    }

    /// Bytes of memory that are on their way to the store.
    pub fn held_bytes(&self) -> u64 {
        self.0.closing.iter().map(ClosingFile::held_bytes).sum()
    }

    /// Bytes that describe them in a checkpoint.
    pub fn described_bytes(&self) -> u64 {
        self.0.described
    }

    /// Waits until they are durable at their final path. They come in the order in which they were ended.
    ///
    /// # Errors
    /// If it fails, all of them are deleted again, as far as that is possible.
    pub fn wait(self) -> Result<Vec<PendingFile>, WriteError> {
        let Self(mut writer) = self;
        match writer.guarded(TableWriter::finish) {
            Ok(files) => Ok(files),
            Err(error) => Err(writer.undo(error)),
        }
    }
}
