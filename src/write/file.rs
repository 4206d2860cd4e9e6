//! One Parquet data file that is being written.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use iceberg::io::{FileIO, FileWrite};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, SchemaRef, Struct,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::metadata::ParquetMetaData;

use super::WriteError;
use super::metrics::{FileMetrics, NanColumns};
use super::properties::FileProperties;
use super::schema::FileSchema;

/// What all files of a writer share.
#[derive(Debug)]
pub(super) struct FileFormat {
    pub(super) schema: FileSchema,
    pub(super) properties: FileProperties,
    nan_columns: NanColumns,
}

impl FileFormat {
    /// For tables of this schema and with these properties; `target_file_size` is ours, for a table
    /// that names none.
    pub(super) fn new(
        schema: SchemaRef,
        table: &HashMap<String, String>,
        target_file_size: u64,
    ) -> Result<Self, WriteError> {
        let nan_columns = NanColumns::new(&schema)?;
        let schema = FileSchema::new(schema)?;
        let properties = FileProperties::new(&schema, table, target_file_size)?;
        Ok(Self { schema, properties, nan_columns })
    }
}

/// One Parquet data file that is being written. Row groups are encoded in memory and sent to the
/// store when they end.
pub(super) struct OpenFile {
    format: Arc<FileFormat>,
    path: String,
    partition: Struct,
    encoder: ArrowWriter<Vec<u8>>,
    sink: Box<dyn FileWrite>,
    sent: u64,
    /// None for local files, which take what they are given at once.
    upload: Option<Upload>,
    nan_counts: HashMap<i32, u64>,
}

/// What the client of an object store keeps of an unfinished upload: parts are of at least this
/// size, and the last one waits until it is known whether another follows.
#[derive(Debug, Default)]
struct Upload {
    gathered: u64,
    waiting: u64,
}

impl Upload {
    const PART: u64 = 5 << 20;

    fn take(&mut self, bytes: u64) {
        self.gathered += bytes;
        if self.gathered >= Self::PART {
            self.waiting = std::mem::take(&mut self.gathered);
        }
    }

    fn held(&self) -> u64 {
        self.gathered + self.waiting
    }
}

impl OpenFile {
    /// Opens a file that will begin with `rows`: its encodings are chosen from them.
    pub(super) async fn create(
        format: Arc<FileFormat>,
        file_io: &FileIO,
        path: String,
        partition: Struct,
        rows: &RecordBatch,
    ) -> Result<Self, WriteError> {
        let options = ArrowWriterOptions::new()
            .with_properties(format.properties.encoder(rows, &format.schema.parquet))
            // Engines read the Parquet schema; the Arrow one would only add bytes to each footer.
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(format.schema.parquet.clone());
        let arrow_schema = Arc::clone(&format.schema.arrow);
        let encoder = ArrowWriter::try_new_with_options(Vec::new(), arrow_schema, options)
            .map_err(|source| WriteError::encode(&path, source))?;
        let sink = match file_io.new_output(&path) {
            Ok(output) => output.writer().await,
            Err(error) => Err(error),
        };
        let sink = sink.map_err(|source| WriteError::storage("create", &path, source))?;
        let upload = path.starts_with("s3").then(Upload::default);
        let nan_counts = HashMap::new();
        Ok(Self { format, path, partition, encoder, sink, sent: 0, upload, nan_counts })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Bytes of memory in the row group that is being encoded.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.encoder.memory_size()
    }

    /// Bytes of memory that the store's client keeps of the file.
    pub(super) fn held_bytes(&self) -> u64 {
        self.upload.as_ref().map_or(0, Upload::held)
    }

    /// Bytes already given to the store.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// About the size that the file would have if it were closed now.
    pub(super) fn estimated_size(&self) -> u64 {
        self.sent.saturating_add(as_u64(self.encoder.in_progress_size()))
    }

    /// Encodes `rows`, which have the columns of the schema.
    pub(super) async fn write(&mut self, rows: &RecordBatch) -> Result<(), WriteError> {
        self.format.nan_columns.count(rows, &mut self.nan_counts)?;
        self.encoder.write(rows).map_err(|source| WriteError::encode(&self.path, source))?;
        if self.buffered_bytes() >= self.format.properties.row_group_bytes {
            self.end_row_group().await?;
        }
        self.send().await
    }

    /// Ends the row group and gives it to the store, which frees its memory.
    pub(super) async fn end_row_group(&mut self) -> Result<(), WriteError> {
        self.encoder.flush().map_err(|source| WriteError::encode(&self.path, source))?;
        self.send().await
    }

    /// Writes the footer, makes the file durable and describes it.
    pub(super) async fn close(mut self, spec_id: i32) -> Result<DataFile, WriteError> {
        let footer =
            self.encoder.finish().map_err(|source| WriteError::encode(&self.path, source))?;
        self.send().await?;
        self.sink
            .close()
            .await
            .map_err(|source| WriteError::storage("close", &self.path, source))?;
        self.describe(&footer, spec_id)
    }

    /// Ends the file without a footer. An unfinished upload of an object store is completed by
    /// this, so that the object can be deleted and no parts of it stay behind unseen.
    pub(super) async fn abandon(mut self) -> (String, Result<(), WriteError>) {
        let ended = self.sink.close().await;
        let ended = ended.map_err(|source| WriteError::storage("abandon", &self.path, source));
        (self.path, ended)
    }

    /// Gives the store what the encoder has finished.
    async fn send(&mut self) -> Result<(), WriteError> {
        let mut bytes = std::mem::take(self.encoder.inner_mut());
        if bytes.is_empty() {
            return Ok(());
        }
        let length = as_u64(bytes.len());
        if let Some(upload) = &mut self.upload {
            upload.take(length);
            // It is kept for a while, and with it the room that it grew into.
            bytes.shrink_to_fit();
        }
        self.sink
            .write(Bytes::from(bytes))
            .await
            .map_err(|source| WriteError::storage("write", &self.path, source))?;
        self.sent += length;
        Ok(())
    }

    fn describe(self, footer: &ParquetMetaData, spec_id: i32) -> Result<DataFile, WriteError> {
        let failed = |reason: String| WriteError::Describe { path: self.path.clone(), reason };
        let modes = &self.format.properties.modes;
        let metrics = FileMetrics::new(&self.format.schema.iceberg, modes, footer)
            .map_err(|error| failed(error.to_string()))?;
        let mut nan_counts = self.nan_counts.clone();
        nan_counts.retain(|id, _| modes.of(*id).counts());
        let records = u64::try_from(footer.file_metadata().num_rows())
            .map_err(|error| failed(error.to_string()))?;
        let offsets = footer.row_groups().iter().filter_map(|group| group.file_offset()).collect();
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path(self.path.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(self.partition.clone())
            .partition_spec_id(spec_id)
            .record_count(records)
            .file_size_in_bytes(self.sent)
            .column_sizes(metrics.column_sizes)
            .value_counts(metrics.value_counts)
            .null_value_counts(metrics.null_counts)
            .nan_value_counts(nan_counts)
            .lower_bounds(metrics.lower_bounds)
            .upper_bounds(metrics.upper_bounds)
            .split_offsets(Some(offsets))
            .build()
            .map_err(|error| failed(error.to_string()))
    }
}

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_holds_what_is_less_than_a_part_and_the_last_part() {
        let mut upload = Upload::default();
        upload.take(1 << 20);
        assert_eq!(upload.held(), 1 << 20);
        upload.take(6 << 20);
        assert_eq!(upload.held(), 7 << 20);
        upload.take(2 << 20);
        assert_eq!(upload.held(), 9 << 20);
        // The first part goes out when the next one is whole.
        upload.take(3 << 20);
        assert_eq!(upload.held(), 5 << 20);
    }
}
