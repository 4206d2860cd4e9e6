//! Records of a shard to Parquet files: batches of rows, handed to the table's writer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rows::RowBuilder;
use super::seams::{Closing, Omitted, Sink};
use crate::decode::{Format, Pushed};
use crate::failure::{Failure, chain};
use crate::protocol::{DataFileNames, Offset, PendingFile};
use crate::source::{PartitionId, Record, Topics};
use crate::table::{LoadedTable, check_writable};
use crate::write::{ClosingFiles, TableWriter, WriteSettings};

/// Rows of a batch for a table where each may be a file: few enough that an epoch which has its files does
/// not get many more before somebody can end it.
const FEW_ROWS: usize = 512;
/// So many rows for each file are enough for batches to grow.
const ROWS_OF_A_FILE: usize = 8;
/// How often the descriptions of an epoch's files are in memory while it is committed: as they are, and
/// as what is written, kept and sent of them.
const COMMITTED: u64 = 6;

/// How a shard writes.
#[derive(Clone)]
pub(crate) struct SinkSettings {
    /// The topics, for their column.
    pub topics: Topics,
    /// How payloads are written.
    pub format: Format,
    /// Names of its files.
    pub names: DataFileNames,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Bytes of a batch: a batch ends at rows or bytes, whichever first.
    pub batch_bytes: usize,
    /// Bytes that one record may take: as text, and as columns.
    pub record_bytes: usize,
    /// Longest that rows wait in a batch.
    pub batch_timeout: Duration,
    /// Bytes at which a data file is closed and another begun.
    pub target_file_size: u64,
    /// Bytes of memory in row groups being encoded.
    pub max_buffered_bytes: u64,
    /// Drives file I/O.
    pub runtime: tokio::runtime::Handle,
}

/// Writes the rows of one shard to data files of the table.
pub(crate) struct FileSink {
    settings: SinkSettings,
    table: Arc<LoadedTable>,
    rows: RowBuilder,
    writer: Option<TableWriter>,
    writers_made: u64,
    /// Where the first row of this epoch comes from: the names of its files say so. Not a record
    /// that is no row: one that stops its partition is not part of the epoch's commit.
    first: Option<(PartitionId, Offset)>,
    batch_since: Option<Instant>,
    /// Rows of a batch, at present.
    batch_rows: usize,
    /// Bytes that describe the files of the last epoch, which is being committed.
    committing: u64,
}

impl FileSink {
    /// For the table as it is now.
    ///
    /// # Errors
    /// If records cannot be decoded into its schema, or files not be written for it.
    pub(crate) fn new(settings: SinkSettings, table: Arc<LoadedTable>) -> Result<Self, Failure> {
        check_writable(&table.name, &table.metadata)?;
        let rows = rows(&table, &settings)?;
        let batch_rows = settings.batch_rows.min(FEW_ROWS);
        Ok(Self {
            batch_rows,
            committing: 0,
            settings,
            table,
            rows,
            writer: None,
            writers_made: 0,
            first: None,
            batch_since: None,
        })
    }

    /// Hands the open batch to the writer.
    fn flush(&mut self) -> Result<(), Failure> {
        self.batch_since = None;
        if self.rows.rows() == 0 {
            return Ok(());
        }
        let batch = self.rows.take()?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => {
                let Some((partition, offset)) = self.first else {
                    return Err(Failure::Internal(String::from("rows that no record brought")));
                };
                // Somebody may have altered the table since the last epoch. Files that nobody may commit
                // would be in the way at every start.
                check_writable(&self.table.name, &self.table.metadata)?;
                self.writers_made += 1;
                let prefix = self.settings.names.prefix(
                    self.settings.topics.name(partition.topic),
                    partition.partition,
                    offset,
                    self.writers_made,
                );
                let most = self.settings.max_buffered_bytes;
                let left = most.saturating_sub(COMMITTED * self.committing).max(most / 2);
                let settings = WriteSettings {
                    target_file_size: self.settings.target_file_size,
                    max_buffered_bytes: left,
                    ..WriteSettings::new(prefix)
                };
                empty.insert(TableWriter::new(
                    self.table.metadata.clone(),
                    self.table.io.clone(),
                    settings,
                    self.settings.runtime.clone(),
                )?)
            }
        };
        let files = writer.files();
        writer.write(&batch)?;
        let few = writer.files().saturating_sub(files) * ROWS_OF_A_FILE > batch.num_rows();
        let rows = if few { FEW_ROWS } else { self.batch_rows.saturating_mul(2) };
        self.batch_rows = rows.min(self.settings.batch_rows);
        Ok(())
    }

    /// Appends a payload as a row. A batch that is full is not the record's fault: it is flushed,
    /// and the record begins the next one.
    fn append(&mut self, record: &Record<'_>, payload: &[u8]) -> Result<Pushed, Failure> {
        if !self.rows.has_room_for(payload.len()) {
            self.flush()?;
        }
        match self.rows.push(record, payload) {
            Pushed::Full => {
                self.flush()?;
                Ok(self.rows.push(record, payload))
            }
            pushed => Ok(pushed),
        }
    }
}

/// The files of an epoch of a shard, if it has any.
pub(crate) struct EpochFiles(Option<ClosingFiles>);

impl Closing for EpochFiles {
    fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(ClosingFiles::is_over)
    }

    fn held_bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, ClosingFiles::held_bytes)
    }

    fn wait(self) -> Result<Vec<PendingFile>, Failure> {
        Ok(self.0.map_or(Ok(Vec::new()), ClosingFiles::wait)?)
    }
}

impl Sink for FileSink {
    type Table = LoadedTable;
    type Closing = EpochFiles;

    fn push(&mut self, record: &Record<'_>, payload: &[u8]) -> Result<Pushed, Failure> {
        let pushed = self.append(record, payload)?;
        if matches!(pushed, Pushed::Row) {
            self.first.get_or_insert((record.id(), record.offset));
            self.batch_since.get_or_insert_with(Instant::now);
            if self.rows.rows() >= self.batch_rows
                || self.rows.buffered_bytes() >= self.settings.batch_bytes
            {
                self.flush()?;
            }
        }
        Ok(pushed)
    }

    fn tick(&mut self) -> Result<(), Failure> {
        if self.batch_since.is_some_and(|since| since.elapsed() >= self.settings.batch_timeout) {
            self.flush()?;
        }
        Ok(())
    }

    fn buffered_bytes(&self) -> u64 {
        let written = self.writer.as_ref().map_or(0, TableWriter::buffered_bytes);
        self.rows.buffered_bytes() as u64 + written
    }

    fn described_bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, TableWriter::described_bytes)
    }

    fn take_omitted(&mut self) -> Omitted {
        self.rows.take_omitted()
    }

    fn close(&mut self, next: &Arc<LoadedTable>) -> Result<EpochFiles, Failure> {
        self.flush()?;
        let files = self.writer.take().map(TableWriter::close).transpose()?;
        if let Some(files) = &files {
            // Without files of its own, what the epoch before had may still be on its way.
            self.committing = files.described_bytes();
        }
        self.first = None;
        if !same_shape(&self.table, next) {
            self.rows = rows(next, &self.settings)?;
            // Each row may be a file by the new partition spec.
            self.batch_rows = self.settings.batch_rows.min(FEW_ROWS);
        }
        self.table = next.clone();
        Ok(EpochFiles(files))
    }

    fn is_full(&self, beside: u64) -> bool {
        beside > 0 && self.buffered_bytes() + beside > self.settings.max_buffered_bytes
    }

    fn abandon(&mut self) {
        self.first = None;
        let Some(writer) = self.writer.take() else { return };
        for error in writer.abort() {
            tracing::warn!(error = %chain(&error), "a file of an abandoned epoch stays behind as an orphan");
        }
    }
}

fn rows(table: &LoadedTable, settings: &SinkSettings) -> Result<RowBuilder, Failure> {
    let name = table.name.to_string();
    RowBuilder::new(&table.metadata, &name, &settings.topics, settings.format)
        .map(|rows| rows.with_record_bytes(settings.record_bytes))
}

fn same_shape(one: &LoadedTable, other: &LoadedTable) -> bool {
    one.metadata.current_schema_id() == other.metadata.current_schema_id()
        && one.metadata.default_partition_spec_id() == other.metadata.default_partition_spec_id()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use iceberg::io::FileIO;
    use iceberg::spec::{
        FormatVersion, SortOrder, TableMetadataBuilder, Transform, UnboundPartitionSpec,
    };

    use super::*;
    use crate::protocol::Origin;
    use crate::source::{Headers, TopicIndex};

    fn sink(dir: &tempfile::TempDir, runtime: &tokio::runtime::Runtime) -> FileSink {
        let schema = crate::table::parse_schema(
            r#"{"type": "struct", "fields": [
                {"id": 1, "name": "id", "required": true, "type": "long"},
                {"id": 2, "name": "absent", "required": false, "type": "long"}]}"#,
        );
        let metadata = TableMetadataBuilder::new(
            schema.unwrap(),
            UnboundPartitionSpec::builder().build(),
            SortOrder::unsorted_order(),
            format!("file://{}/t", dir.path().display()),
            FormatVersion::V2,
            HashMap::new(),
        );
        let table = LoadedTable {
            name: "db.t".parse().unwrap(),
            metadata: metadata.unwrap().build().unwrap().metadata.into(),
            metadata_location: String::new(),
            io: FileIO::new_with_fs(),
        };
        let instance = "0123456789abcdef".repeat(2);
        let names = DataFileNames::new("uuid", "flow", 3, &instance, (1_700_000_000_000, 0));
        let settings = SinkSettings {
            topics: Topics::new(["t"]),
            format: Format::Json,
            names,
            batch_rows: 100,
            batch_bytes: 1 << 20,
            record_bytes: 1 << 20,
            batch_timeout: std::time::Duration::from_secs(1),
            target_file_size: 1 << 20,
            max_buffered_bytes: 1 << 20,
            runtime: runtime.handle().clone(),
        };
        FileSink::new(settings, Arc::new(table)).unwrap()
    }

    fn push(sink: &mut FileSink, partition: i32, offset: Offset, payload: &str) -> Pushed {
        let record = Record {
            topic: TopicIndex::default(),
            partition,
            offset,
            timestamp_ms: None,
            key: None,
            value: Some(payload.as_bytes()),
            headers: Headers::NONE,
        };
        sink.push(&record, payload.as_bytes()).unwrap()
    }

    /// Pushes records of (partition, offset, payload), and gives where the names of the files say
    /// that the epoch began.
    fn epoch(sink: &mut FileSink, records: &[(i32, Offset, &str)]) -> Vec<(u64, i32, Offset)> {
        for (partition, offset, payload) in records {
            let pushed = push(sink, *partition, *offset, payload);
            assert_eq!(pushed == Pushed::Row, payload.starts_with('{'));
        }
        let table = sink.table.clone();
        let files = sink.close(&table).unwrap().wait().unwrap();
        let origin = |file: &PendingFile| match Origin::of(file.path.rsplit('/').next().unwrap()) {
            Some(Origin::Data { generation, partition, offset, .. }) => {
                (generation, partition, offset)
            }
            other => panic!("{}: {other:?}", file.path),
        };
        files.iter().map(origin).collect()
    }

    #[test]
    fn files_are_named_by_the_record_of_the_first_row_of_their_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut sink = sink(&dir, &runtime);
        let row = r#"{"id": 1}"#;
        // A bad record is no row: under `fail` its partition is not part of the commit.
        let first = epoch(&mut sink, &[(0, 40, "bad"), (1, 7, row), (0, 41, row), (1, 8, row)]);
        assert_eq!(first, [(3, 1, 7)]);
        assert_eq!(epoch(&mut sink, &[]), []);
        assert_eq!(epoch(&mut sink, &[(0, 42, row), (1, 9, row)]), [(3, 0, 42)]);
        assert_eq!(epoch(&mut sink, &[(2, 5, "bad")]), []);
        assert_eq!(epoch(&mut sink, &[(0, 43, row)]), [(3, 0, 43)]);
    }

    #[test]
    fn batches_grow_as_long_as_rows_share_files_and_begin_small_for_another_spec() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut sink = sink(&dir, &runtime);
        sink.settings.batch_rows = 4_000;
        sink.batch_rows = FEW_ROWS;
        for offset in 0..4_000 {
            assert_eq!(push(&mut sink, 0, offset, r#"{"id": 1}"#), Pushed::Row);
        }
        assert_eq!(sink.batch_rows, 4_000);
        let spec = UnboundPartitionSpec::builder().with_spec_id(1);
        let spec = spec.add_partition_field(1, "id", Transform::Identity).unwrap().build();
        let metadata = sink.table.metadata.as_ref().clone().into_builder(None);
        let metadata = metadata.add_default_partition_spec(spec).unwrap().build().unwrap();
        let next =
            LoadedTable { metadata: metadata.metadata.into(), ..sink.table.as_ref().clone() };
        sink.close(&Arc::new(next)).unwrap().wait().unwrap();
        assert_eq!(sink.batch_rows, FEW_ROWS);
        for offset in 4_000..6_000 {
            let row = format!("{{\"id\": {offset}}}");
            assert_eq!(push(&mut sink, 0, offset, &row), Pushed::Row);
        }
        assert_eq!(sink.batch_rows, FEW_ROWS, "each row is a file");
    }

    #[test]
    fn a_record_for_which_a_batch_has_no_room_begins_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut sink = sink(&dir, &runtime);
        assert_eq!(push(&mut sink, 0, 5, r#"{"id": 1}"#), Pushed::Row);
        // Nearly all that columns can address: the payload fits, and the row does not.
        sink.rows.pretend_to_hold(i32::MAX as usize - 9);
        assert_eq!(push(&mut sink, 0, 6, r#"{"id": 2}"#), Pushed::Row);
        assert_eq!(sink.rows.rows(), 1);
        let table = sink.table.clone();
        let files = sink.close(&table).unwrap().wait().unwrap();
        assert_eq!(files.iter().map(|file| file.records).sum::<u64>(), 2);
    }
}
