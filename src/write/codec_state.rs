//! What zstd keeps for the columns of an open row group, which the Parquet encoder does not count.
//!
//! Each column has a context of its own, made when the row group begins, grown when the first page is
//! packed and kept until the row group ends. At high levels it is many times what the rows take, and
//! so it is at level 1 where many row groups are open.

use arrow::array::{Array, RecordBatch};
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::SchemaDescriptor;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

use super::encoding::leaves;

/// A page is looked at after each 1,024 values: it may be as many times larger than it should.
const OVERLONG: usize = 4;
/// Pages above this are seldom.
const LARGEST_PAGE: usize = 4 << 20;

/// Bytes that a codec keeps for a column.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CodecBytes {
    /// From its first row on: the crate makes a decompressor, too.
    pub(super) bare: u64,
    /// Once it has packed a page.
    packed: u64,
}

impl CodecBytes {
    /// For pages of about this size: asked of zstd itself, which sizes its tables by level and page.
    ///
    /// # Errors
    /// What zstd says, if it cannot have the memory.
    pub(super) fn new(codec: Compression, page_bytes: usize) -> Result<Self, String> {
        let Compression::ZSTD(level) = codec else { return Ok(Self::default()) };
        let said = |code| get_error_name(code).to_owned();
        let mut context = CCtx::try_create().ok_or("no memory for a context of zstd")?;
        let other = DCtx::try_create().ok_or("no memory for a context of zstd")?;
        let bare = (context.sizeof() + other.sizeof()) as u64;
        let level = CParameter::CompressionLevel(level.compression_level());
        context.set_parameter(level).map_err(said)?;
        let page = vec![0; page_bytes.saturating_mul(OVERLONG).clamp(1, LARGEST_PAGE)];
        let mut packed = vec![0; compress_bound(page.len())];
        context.compress2(packed.as_mut_slice(), &page).map_err(said)?;
        Ok(Self { bare, packed: (context.sizeof() + other.sizeof()) as u64 })
    }
}

/// The contexts of the row group that is being written.
#[derive(Debug)]
pub(super) struct CodecState {
    codec: CodecBytes,
    page_rows: u64,
    rows: u64,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    /// Bytes of values since the row group began.
    bytes: u64,
    /// So many fill a page.
    page_bytes: u64,
}

/// Rows, as they count for [`CodecState`]: how many, and the bytes of each column.
pub(super) struct Sizes {
    rows: u64,
    columns: Vec<u64>,
}

impl CodecState {
    /// For a file with these properties.
    pub(super) fn new(
        codec: CodecBytes,
        file: &WriterProperties,
        schema: &SchemaDescriptor,
    ) -> Self {
        let paths = schema.columns().iter().map(|column| column.path());
        let columns = paths.map(|path| {
            let page = file.column_data_page_size_limit(path) as u64;
            // Pages of numbers of a dictionary's values are filled by rows, not by bytes.
            let page_bytes = if file.dictionary_enabled(path) { u64::MAX } else { page };
            Column { bytes: 0, page_bytes }
        });
        let page_rows = file.data_page_row_count_limit() as u64;
        Self { codec, page_rows, rows: 0, columns: columns.collect() }
    }

    /// The sizes of rows that have the columns of the file.
    pub(super) fn sizes(&self, rows: &RecordBatch) -> Sizes {
        // Of all types that columns have the size is known.
        let bytes = |leaf: arrow::array::ArrayRef| {
            leaf.to_data().get_slice_memory_size().unwrap_or_default() as u64
        };
        let columns = match self.codec.packed {
            0 => Vec::new(),
            _ => leaves(rows).into_iter().map(bytes).collect(),
        };
        Sizes { rows: rows.num_rows() as u64, columns }
    }

    /// Rows are encoded.
    pub(super) fn add(&mut self, sizes: &Sizes) {
        self.rows += sizes.rows;
        for (column, bytes) in self.columns.iter_mut().zip(&sizes.columns) {
            column.bytes += bytes;
        }
    }

    /// The row group ended, and the contexts with it.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
        self.columns.iter_mut().for_each(|column| column.bytes = 0);
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes_at(self.rows, self.columns.iter().map(|column| column.bytes))
    }

    /// Bytes of memory if rows of these sizes were a row group.
    pub(super) fn bytes_of(&self, sizes: &Sizes) -> u64 {
        self.bytes_at(sizes.rows, sizes.columns.iter().copied())
    }

    /// Bytes of memory if rows of these sizes were added.
    pub(super) fn bytes_with(&self, sizes: &Sizes) -> u64 {
        let bytes =
            self.columns.iter().zip(&sizes.columns).map(|(column, more)| column.bytes + more);
        self.bytes_at(self.rows + sizes.rows, bytes)
    }

    fn bytes_at(&self, rows: u64, columns: impl Iterator<Item = u64>) -> u64 {
        let full = |(column, bytes): &(&Column, u64)| *bytes >= column.page_bytes;
        let contexts = match rows >= self.page_rows {
            true => self.columns.len(),
            false => self.columns.iter().zip(columns).filter(full).count(),
        };
        if rows == 0 {
            return 0;
        }
        let (bare, packed) = ((self.columns.len() - contexts) as u64, contexts as u64);
        self.codec.bare * bare + self.codec.packed * packed
    }
}
