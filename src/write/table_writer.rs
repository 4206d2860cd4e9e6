//! Fan-out over table partitions, rolling, and the life of a writer's files.

use std::collections::{BTreeSet, HashMap, VecDeque};
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
use super::open_partition::OpenPartition;
use super::partition::{Group, PartitionKey, Partitioner, single_value};
use crate::base::durable::sync;
use crate::base::masking::mask_text;
use crate::protocol::{PendingFile, with_partition_values};

/// Files that may be ending at once: what an upload keeps of each is not counted any more.
const MOST_CLOSING: usize = 8;

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
    /// Bytes of memory in rows that wait, all row groups being encoded, what the codec keeps for them
    /// (beside one encoder), and parts of uploads. Beyond it the largest row group is ended early,
    /// and then the file with the largest part closed.
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
    /// All that had rows.
    partitions: HashMap<PartitionKey, OpenPartition>,
    /// Files that end, oldest first.
    closing: VecDeque<ClosingFile>,
    done: Vec<DataFile>,
    /// Counts writes: orders the open files by use.
    clock: u64,
    buffered: u64,
    written: u64,
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
            partitions: HashMap::new(),
            closing: VecDeque::new(),
            done: Vec::new(),
            clock: 0,
            buffered: 0,
            written: 0,
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

    /// Bytes of memory in rows not yet given to the store, with what the codec keeps for them, and in
    /// parts of uploads.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffered
    }

    /// Bytes given to the store so far, in open and in finished files.
    pub fn written_bytes(&self) -> u64 {
        self.written
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
        for file in self.partitions.drain().filter_map(|(_, open)| open.file) {
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
        // Void fields alone leave a table unpartitioned, but each has its null.
        let nulls = self.partition_type.fields().iter().map(|_| None).collect();
        self.partitions
            .entry(key.clone())
            .or_insert_with(|| OpenPartition::new(nulls, String::new()));
        self.encode(&key, rows)?;
        self.shed_memory()
    }

    /// Keeps rows of a table partition until they are worth an encoder.
    fn gather(&mut self, partitioner: &Partitioner, group: Group) -> Result<(), WriteError> {
        let key = group.key.clone();
        if !self.partitions.contains_key(&key) {
            let values = partitioner.values(&group)?;
            let below = partition_path(&self.spec, &self.partition_type, &values);
            self.partitions.insert(key.clone(), OpenPartition::new(values, below));
        }
        self.clock += 1;
        let clock = self.clock;
        self.with_open(&key, |open| {
            open.last_use = clock;
            open.keep(group.rows);
            Ok(())
        })?;
        if self.partitions.get(&key).is_some_and(|open| open.waiting_bytes() >= self.gathered_bytes)
        {
            self.encode_waiting(&key)?;
        }
        self.shed_memory()
    }

    /// Encodes the rows of a table partition that waited, if there are any.
    fn encode_waiting(&mut self, key: &PartitionKey) -> Result<(), WriteError> {
        let mut rows = None;
        self.with_open(key, |open| {
            rows = open.take_waiting()?;
            Ok(())
        })?;
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
        self.with_open(key, |open| match &mut open.file {
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

    /// Lets `step` work on a table partition and keeps the byte counts right, also if it fails.
    fn with_open(
        &mut self,
        key: &PartitionKey,
        step: impl FnOnce(&mut OpenPartition) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let Some(open) = self.partitions.get_mut(key) else { return Err(WriteError::Failed) };
        let sent = open.sent_bytes();
        let outcome = step(open);
        self.written += open.sent_bytes().saturating_sub(sent);
        let bytes = open.bytes();
        self.buffered = self.buffered - open.counted + bytes;
        open.counted = bytes;
        outcome
    }

    /// Ends the largest row groups, or encodes the rows that wait for one, and closes the files with
    /// the largest parts of uploads, until all together are within their bound.
    fn shed_memory(&mut self) -> Result<(), WriteError> {
        while self.buffered > self.most_buffered {
            let largest = self.partitions.iter().max_by_key(|(_, open)| open.counted);
            let Some((key, _)) = largest.filter(|(_, open)| open.counted > 0) else { break };
            let key = key.clone();
            self.encode_waiting(&key)?;
            self.free(&key)?;
        }
        Ok(())
    }

    /// Makes room for `more` bytes beside the encoders, but lets rows wait that do.
    fn free_encoders(&mut self, more: u64) -> Result<(), WriteError> {
        while self.buffered + more > self.most_buffered {
            let bytes = |open: &OpenPartition| open.bytes() - open.waiting_bytes();
            let largest = self.partitions.iter().max_by_key(|(_, open)| bytes(open));
            let Some((key, _)) = largest.filter(|(_, open)| bytes(open) > 0) else { break };
            let key = key.clone();
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
        self.with_open(key, |open| open.file.as_mut().map_or(Ok(()), OpenFile::end_row_group))
    }

    /// Opens a file that begins with `rows`, if there is none for this table partition.
    fn open_file(&mut self, key: &PartitionKey, rows: &RecordBatch) -> Result<(), WriteError> {
        if self.file(key).is_some() {
            return Ok(());
        }
        self.make_room()?;
        let file = self.create_file(key, rows)?;
        self.with_open(key, |open| {
            open.file = Some(file);
            Ok(())
        })
    }

    /// Closes the least recently used files until one more may be opened.
    fn make_room(&mut self) -> Result<(), WriteError> {
        let with_file = |open: &&OpenPartition| open.file.is_some();
        while self.partitions.values().filter(with_file).count()
            >= self.settings.max_open_files.max(1)
        {
            let files = self.partitions.iter().filter(|(_, open)| open.file.is_some());
            let oldest = files.min_by_key(|(_, open)| open.last_use);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
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
        let mut taken = None;
        self.with_open(key, |open| {
            taken = open.file.take();
            Ok(())
        })?;
        let Some(file) = taken else { return Ok(()) };
        let (path, sent) = (file.path().to_owned(), file.sent_bytes());
        match file.close(self.spec.spec_id()) {
            Ok((file, bytes)) => {
                self.written += bytes - sent;
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
        let mut keys: Vec<_> =
            self.partitions.iter().map(|(key, open)| (open.last_use, key.clone())).collect();
        keys.sort();
        keys.into_iter().try_for_each(|(_, key)| {
            self.encode_waiting(&key)?;
            self.close_file(&key)
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
