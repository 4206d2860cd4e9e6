//! One Parquet data file that is being written.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, PrimitiveLiteral, SchemaRef, Struct,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use tokio::runtime::Handle;

use super::WriteError;
use super::byte_sink::{ByteSink, Closing};
use super::codec_state::{CodecState, Sizes};
use super::metrics::{FileMetrics, NanColumns};
use super::properties::FileProperties;
use super::schema::FileSchema;
use crate::base::location::on_s3;

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

    /// Bytes of memory that the encoder of a row group takes before it has rows, at least.
    pub(super) fn encoder_bytes(&self) -> u64 {
        self.properties.codec.bare * self.schema.parquet.num_columns() as u64
    }

    /// About the bytes that describe a file of few rows.
    pub(super) fn described_bytes(&self) -> u64 {
        FILE + self.schema.parquet.num_columns() as u64 * (4 * COUNT + 2 * BOUND)
    }
}

/// Bytes of the JSON that describes a file in a checkpoint: of all but its columns and texts, of a count
/// of a column, and of a bound of one, whose own bytes are written as numbers.
const FILE: u64 = 900;
const COUNT: u64 = 28;
const BOUND: u64 = 64;
const BYTE: u64 = 4;

/// About the bytes that describe `file` in a checkpoint.
fn described_bytes(file: &DataFile) -> u64 {
    let counts = [
        file.column_sizes(),
        file.value_counts(),
        file.null_value_counts(),
        file.nan_value_counts(),
    ];
    let counts: usize = counts.iter().map(|counts| counts.len()).sum();
    let bounds = file.lower_bounds().values().chain(file.upper_bounds().values());
    let bounds: u64 = bounds.map(|bound| BOUND + BYTE * text_bytes(bound.literal())).sum();
    let values = file.partition().iter().flatten();
    let texts = values.filter_map(|value| value.as_primitive_literal());
    // A text is a value of the partition twice, and in the path, which is there twice.
    let values: u64 = texts.map(|text| COUNT + 2 * BYTE * text_bytes(&text)).sum();
    FILE + 2 * file.file_path().len() as u64 + COUNT * counts as u64 + bounds + values
}

/// Of a value of any length.
fn text_bytes(value: &PrimitiveLiteral) -> u64 {
    match value {
        PrimitiveLiteral::String(text) => text.len() as u64,
        PrimitiveLiteral::Binary(bytes) => bytes.len() as u64,
        _ => 0,
    }
}

/// One Parquet data file that is being written. Row groups are encoded in memory and sent to the
/// store when they end.
pub(super) struct OpenFile {
    format: Arc<FileFormat>,
    path: String,
    partition: Struct,
    encoder: ArrowWriter<ByteSink>,
    codec: CodecState,
    /// None for local files, which take what they are given at once.
    upload: Option<Upload>,
    nan_counts: HashMap<i32, u64>,
}

/// A data file that ends.
pub(super) struct ClosingFile {
    file: DataFile,
    closing: Closing,
    held: u64,
    described: u64,
}

impl ClosingFile {
    pub(super) fn path(&self) -> &str {
        self.file.file_path()
    }

    /// Would [`Self::wait`] not have to wait?
    pub(super) fn is_over(&self) -> bool {
        self.closing.is_over()
    }

    /// About the bytes that describe it in a checkpoint.
    pub(super) fn described_bytes(&self) -> u64 {
        self.described
    }

    /// Bytes of memory that are on their way to the store, or kept by its client: at most.
    pub(super) fn held_bytes(&self) -> u64 {
        if self.is_over() { 0 } else { self.held }
    }

    /// Waits until the file is durable at its path.
    pub(super) fn wait(self) -> Result<DataFile, WriteError> {
        match self.closing.wait() {
            Ok(()) => Ok(self.file),
            Err(refusal) => Err(refusal.of(self.file.file_path())),
        }
    }
}

/// What the client of an object store keeps of an unfinished upload: parts are of at least this
/// size, and the last one waits until it is known whether another follows.
#[derive(Debug, Default)]
struct Upload {
    seen: u64,
    gathered: u64,
    waiting: u64,
}

impl Upload {
    const PART: u64 = 5 << 20;

    /// Notes how much the client was given in all.
    fn given(&mut self, bytes: u64) {
        self.take(bytes.saturating_sub(self.seen));
        self.seen = bytes;
    }

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
    pub(super) fn create(
        format: Arc<FileFormat>,
        file_io: &FileIO,
        path: String,
        partition: Struct,
        rows: &RecordBatch,
        runtime: &Handle,
    ) -> Result<Self, WriteError> {
        let properties = format.properties.encoder(rows, &format.schema.parquet);
        let codec = CodecState::new(format.properties.codec, &properties, &format.schema.parquet);
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            // Engines read the Parquet schema; the Arrow one would only add bytes to each footer.
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(format.schema.parquet.clone());
        let sink = match file_io.new_output(&path) {
            Ok(output) => runtime.block_on(output.writer()),
            Err(error) => Err(error),
        };
        let sink = sink.map_err(|source| WriteError::storage("create", &path, source))?;
        let upload = on_s3(&path).map(|_| Upload::default());
        let sink = match upload {
            Some(_) => ByteSink::aside(sink, runtime.clone()),
            None => ByteSink::here(sink, runtime.clone()),
        };
        let arrow_schema = Arc::clone(&format.schema.arrow);
        let encoder = ArrowWriter::try_new_with_options(sink, arrow_schema, options)
            .map_err(|source| WriteError::encode(&path, source))?;
        let nan_counts = HashMap::new();
        Ok(Self { format, path, partition, encoder, codec, upload, nan_counts })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Bytes of memory in the row group that is being encoded, with what the codec keeps for it.
    pub(super) fn row_group_bytes(&self) -> u64 {
        as_u64(self.encoder.memory_size()) + self.codec.bytes()
    }

    /// What the codec keeps for the columns of that row group.
    pub(super) fn codec(&self) -> &CodecState {
        &self.codec
    }

    /// Bytes of memory that are on their way to the store, or kept by its client.
    pub(super) fn held_bytes(&self) -> u64 {
        self.encoder.inner().waiting() + self.upload.as_ref().map_or(0, Upload::held)
    }

    /// Bytes of memory in all.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.row_group_bytes() + self.held_bytes()
    }

    /// Bytes already given to the store.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.encoder.inner().sent()
    }

    /// About the size that the file would have if it were closed now.
    pub(super) fn estimated_size(&self) -> u64 {
        self.encoder.inner().taken().saturating_add(as_u64(self.encoder.in_progress_size()))
    }

    /// Encodes `rows`, which have the columns of the schema and these sizes.
    pub(super) fn write(&mut self, rows: &RecordBatch, sizes: &Sizes) -> Result<(), WriteError> {
        self.format.nan_columns.count(rows, &mut self.nan_counts)?;
        let rows_before = self.encoder.in_progress_rows();
        let written = self.encoder.write(rows);
        self.checked(written)?;
        if self.encoder.in_progress_rows() < rows_before + rows.num_rows() {
            // It ended the row group by itself: it had as many rows as one may have.
            self.codec.clear();
        }
        self.codec.add(sizes);
        if self.encoder.memory_size() >= self.format.properties.row_group_bytes {
            self.end_row_group()?;
        }
        Ok(())
    }

    /// Ends the row group and gives it to the store, which frees its memory.
    pub(super) fn end_row_group(&mut self) -> Result<(), WriteError> {
        let ended = self.encoder.flush();
        self.checked(ended)?;
        self.codec.clear();
        let sent = self.encoder.inner_mut().send();
        self.checked(sent.map_err(ParquetError::from))
    }

    /// Writes the footer, describes the file and begins to make it durable.
    /// Tells also how many bytes it has.
    pub(super) fn close(mut self, spec_id: i32) -> Result<(ClosingFile, u64), WriteError> {
        let ended = self.encoder.finish();
        let footer = self.checked(ended)?;
        let held = self.held_bytes();
        let sink = self.encoder.inner_mut().take();
        let bytes = sink.taken();
        let closing = sink.close().map_err(|refusal| refusal.of(&self.path))?;
        let file = self.describe(&footer, spec_id, bytes)?;
        let described = described_bytes(&file);
        Ok((ClosingFile { file, closing, held, described }, bytes))
    }

    /// Ends the file without a footer, so that it can be deleted.
    pub(super) fn abandon(mut self) -> (String, Result<(), WriteError>) {
        let ended = self.encoder.inner_mut().take().abandon();
        let ended = ended.map_err(|source| WriteError::storage("abandon", &self.path, source));
        (self.path, ended)
    }

    /// If the encoder failed because the store did, the store's error.
    fn checked<T>(&mut self, outcome: Result<T, ParquetError>) -> Result<T, WriteError> {
        if let Some(upload) = &mut self.upload {
            upload.given(self.encoder.inner().sent());
        }
        outcome.map_err(|source| match self.encoder.inner_mut().take_refusal() {
            Some(refusal) => refusal.of(&self.path),
            None => WriteError::encode(&self.path, source),
        })
    }

    fn describe(
        &self,
        footer: &ParquetMetaData,
        spec_id: i32,
        bytes: u64,
    ) -> Result<DataFile, WriteError> {
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
            .file_size_in_bytes(bytes)
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
