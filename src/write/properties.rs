//! Table properties that govern data files, and the Parquet settings made from them.
//!
//! A property set on the table wins over our settings, as in every engine: whoever owns the table
//! decides how its files look. Properties not named here (per-column encodings, bloom filters,
//! metrics modes) are not followed.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use super::WriteError;

const FORMAT: &str = "write.format.default";
const CODEC: &str = "write.parquet.compression-codec";
const LEVEL: &str = "write.parquet.compression-level";
const TARGET_FILE_SIZE: &str = "write.target-file-size-bytes";
const ROW_GROUP_BYTES: &str = "write.parquet.row-group-size-bytes";

/// Level 1: level 3 costs half as much CPU again and saves one byte in a hundred.
const ZSTD_LEVEL: i32 = 1;
/// Smaller than Parquet's usual 1 MiB: cheaper to encode (fits the cache) and to skip, for about
/// one byte in a hundred.
const PAGE_BYTES: usize = 256 << 10;
const PAGE_ROWS: usize = 100_000;
/// A dictionary that outgrows this is given up for the rest of its column chunk. Columns with
/// many values (ids, timestamps, free text) thus stop paying for hashing early.
const DICTIONARY_BYTES: usize = 128 << 10;
/// Bounds of text and binary columns are cut to this many bytes, here and in the manifests.
const BOUND_BYTES: usize = 32;
/// Rows of a row group, whatever they weigh.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Memory of one row group that is being written.
const MAX_ROW_GROUP_BYTES: u64 = 64 << 20;

/// How the data files of a table are to look.
#[derive(Debug)]
pub(super) struct FileProperties {
    /// Settings of the Parquet encoder.
    pub(super) parquet: WriterProperties,
    /// A file is closed when it reaches about this many bytes.
    pub(super) target_file_size: u64,
    /// A row group is ended when it holds this many bytes of memory.
    pub(super) row_group_bytes: usize,
}

impl FileProperties {
    /// Reads the table's properties; `target_file_size` is ours, for a table that names none.
    pub(super) fn new(
        table: &HashMap<String, String>,
        target_file_size: u64,
    ) -> Result<Self, WriteError> {
        if let Some(format) = table.get(FORMAT)
            && !format.eq_ignore_ascii_case("parquet")
        {
            return Err(refused(FORMAT, format, "only parquet can be written"));
        }
        let row_group_bytes =
            positive(table, ROW_GROUP_BYTES)?.unwrap_or(u64::MAX).min(MAX_ROW_GROUP_BYTES);
        Ok(Self {
            parquet: parquet_defaults().set_compression(compression(table)?).build(),
            target_file_size: positive(table, TARGET_FILE_SIZE)?.unwrap_or(target_file_size),
            row_group_bytes: usize::try_from(row_group_bytes).unwrap_or(usize::MAX),
        })
    }
}

fn parquet_defaults() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by(concat!("icestream version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_data_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_truncate_length(Some(BOUND_BYTES))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
}

fn compression(table: &HashMap<String, String>) -> Result<Compression, WriteError> {
    let Some(codec) = table.get(CODEC) else { return zstd(table) };
    match codec.to_ascii_lowercase().as_str() {
        "zstd" => zstd(table),
        "snappy" => Ok(Compression::SNAPPY),
        "uncompressed" | "none" => Ok(Compression::UNCOMPRESSED),
        _ => Err(refused(CODEC, codec, "zstd, snappy and uncompressed can be written")),
    }
}

fn zstd(table: &HashMap<String, String>) -> Result<Compression, WriteError> {
    let level = parsed(table, LEVEL, "a whole number")?.unwrap_or(ZSTD_LEVEL);
    let level = ZstdLevel::try_new(level)
        .map_err(|_| refused(LEVEL, &level.to_string(), "zstd has the levels 1 to 22"))?;
    Ok(Compression::ZSTD(level))
}

fn positive(table: &HashMap<String, String>, key: &'static str) -> Result<Option<u64>, WriteError> {
    const WANTED: &str = "a whole number of bytes above zero";
    match parsed(table, key, WANTED)? {
        Some(0) => Err(refused(key, "0", WANTED)),
        bytes => Ok(bytes),
    }
}

fn parsed<T: FromStr<Err: Display>>(
    table: &HashMap<String, String>,
    key: &'static str,
    wanted: &str,
) -> Result<Option<T>, WriteError> {
    let Some(value) = table.get(key) else { return Ok(None) };
    match value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(error) => Err(refused(key, value, &format!("{wanted} is wanted ({error})"))),
    }
}

fn refused(key: &'static str, value: &str, reason: &str) -> WriteError {
    WriteError::Property { key, value: value.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use parquet::schema::types::ColumnPath;

    use super::*;

    fn table(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn codec(pairs: &[(&str, &str)]) -> Compression {
        let properties = FileProperties::new(&table(pairs), 1).unwrap();
        properties.parquet.compression(&ColumnPath::from("any"))
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        FileProperties::new(&table(pairs), 1).unwrap_err().to_string()
    }

    #[test]
    fn a_table_without_properties_gets_zstd_level_1_and_our_target() {
        assert_eq!(codec(&[]), Compression::ZSTD(ZstdLevel::try_new(1).unwrap()));
        let properties = FileProperties::new(&table(&[]), 77).unwrap();
        assert_eq!(properties.target_file_size, 77);
        assert_eq!(properties.row_group_bytes as u64, MAX_ROW_GROUP_BYTES);
    }

    #[test]
    fn table_properties_win_over_our_settings() {
        let properties = FileProperties::new(&table(&[(TARGET_FILE_SIZE, "4096")]), 77).unwrap();
        assert_eq!(properties.target_file_size, 4096);
        assert_eq!(codec(&[(CODEC, "SNAPPY")]), Compression::SNAPPY);
        assert_eq!(codec(&[(CODEC, "uncompressed")]), Compression::UNCOMPRESSED);
        let level_9 = Compression::ZSTD(ZstdLevel::try_new(9).unwrap());
        assert_eq!(codec(&[(CODEC, "zstd"), (LEVEL, "9")]), level_9);
    }

    #[test]
    fn a_row_group_is_bounded_even_if_the_table_asks_for_more() {
        let asks = table(&[(ROW_GROUP_BYTES, "1073741824")]);
        let properties = FileProperties::new(&asks, 1).unwrap();
        assert_eq!(properties.row_group_bytes as u64, MAX_ROW_GROUP_BYTES);
        let small = table(&[(ROW_GROUP_BYTES, "1048576")]);
        assert_eq!(FileProperties::new(&small, 1).unwrap().row_group_bytes, 1 << 20);
    }

    #[test]
    fn a_property_that_cannot_be_followed_is_named_with_its_value() {
        let text = refusal(&[(CODEC, "brotli")]);
        assert!(text.contains(CODEC) && text.contains("brotli"), "{text}");
        assert!(refusal(&[(LEVEL, "99")]).contains("1 to 22"));
        assert!(refusal(&[(TARGET_FILE_SIZE, "0")]).contains("above zero"));
        assert!(refusal(&[(TARGET_FILE_SIZE, "512MB")]).contains("512MB"));
        assert!(refusal(&[(FORMAT, "orc")]).contains("only parquet"));
    }
}
