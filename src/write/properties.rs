//! Table properties that govern data files, and the Parquet settings made from them.
//!
//! A property set on the table wins over our settings, as in every engine: whoever owns the table
//! decides how its files look. docs/table-properties.md lists them.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use arrow::array::RecordBatch;
use parquet::basic::{
    BrotliLevel, Compression, Encoding, GzipLevel, Type as PhysicalType, ZstdLevel,
};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::SchemaDescriptor;

use super::WriteError;
use super::codec_state::CodecBytes;
use super::encoding::without_dictionary;
use super::modes::Modes;
use super::schema::FileSchema;

const FORMAT: &str = "write.format.default";
const CODEC: &str = "write.parquet.compression-codec";
const LEVEL: &str = "write.parquet.compression-level";
const TARGET_FILE_SIZE: &str = "write.target-file-size-bytes";
const ROW_GROUP_BYTES: &str = "write.parquet.row-group-size-bytes";
const PAGE_SIZE: &str = "write.parquet.page-size-bytes";
const PAGE_ROW_LIMIT: &str = "write.parquet.page-row-limit";
const PAGE_VERSION: &str = "write.parquet.page-version";
const DICTIONARY_SIZE: &str = "write.parquet.dict-size-bytes";
const BLOOM: &str = "write.parquet.bloom-filter-enabled.column.";
const BLOOM_RATE: &str = "write.parquet.bloom-filter-fpp.column.";
const BLOOM_BYTES: &str = "write.parquet.bloom-filter-max-bytes";

/// Level 1: level 3 costs half as much CPU again and saves one byte in a hundred.
const ZSTD_LEVEL: i32 = 1;
/// Smaller than Parquet's usual 1 MiB: cheaper to encode (fits the cache) and to skip. A page is looked
/// at after each 1,024 values, and up to 256 KiB zstd looks for shorter repetitions at level 1: pages
/// that end below it make files a tenth smaller than pages that end above it, for 2 % more CPU.
const PAGE_BYTES: usize = 192 << 10;
const PAGE_ROWS: usize = 100_000;
/// A dictionary that outgrows this is given up for the rest of its column chunk. Columns that would
/// outgrow it (ids, timestamps, free text) are not given one, see `encoding`.
const DICTIONARY_BYTES: usize = 128 << 10;
/// Rows of a row group, whatever they weigh.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Memory of one row group that is being written.
const MAX_ROW_GROUP_BYTES: u64 = 64 << 20;

/// How the data files of a table are to look.
#[derive(Debug)]
pub(super) struct FileProperties {
    /// Settings of the Parquet encoder, alike for all columns.
    parquet: WriterPropertiesBuilder,
    /// Most bytes of a dictionary.
    dictionary_bytes: usize,
    /// What manifests tell of each column.
    pub(super) modes: Modes,
    /// A file is closed when it reaches about this many bytes.
    pub(super) target_file_size: u64,
    /// A row group is ended when it holds this many bytes of memory.
    pub(super) row_group_bytes: usize,
    /// What the codec keeps for each column of a row group.
    pub(super) codec: CodecBytes,
}

impl FileProperties {
    /// Reads the table's properties; `target_file_size` is ours, for a table that names none.
    pub(super) fn new(
        schema: &FileSchema,
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
        let modes = Modes::new(&schema.iceberg, table)?;
        let dictionary_bytes = bytes(table, DICTIONARY_SIZE, DICTIONARY_BYTES)?;
        let (codec, page_bytes) = (compression(table)?, bytes(table, PAGE_SIZE, PAGE_BYTES)?);
        let codec_bytes = CodecBytes::new(codec, page_bytes)
            .map_err(|reason| refused(LEVEL, &codec.to_string(), &reason))?;
        let parquet = WriterProperties::builder()
            .set_created_by(concat!("icestream version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(codec)
            .set_data_page_size_limit(page_bytes)
            .set_data_page_row_count_limit(bytes(table, PAGE_ROW_LIMIT, PAGE_ROWS)?)
            .set_dictionary_page_size_limit(dictionary_bytes)
            .set_statistics_truncate_length(Some(modes.statistics_bytes()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
        let parquet = with_page_version(parquet, schema, table)?;
        Ok(Self {
            parquet: with_bloom_filters(parquet, schema, table)?,
            dictionary_bytes,
            modes,
            target_file_size: positive(table, TARGET_FILE_SIZE)?.unwrap_or(target_file_size),
            row_group_bytes: usize::try_from(row_group_bytes).unwrap_or(usize::MAX),
            codec: codec_bytes,
        })
    }

    /// Settings of the encoder of a file that begins with `rows`.
    pub(super) fn encoder(
        &self,
        rows: &RecordBatch,
        schema: &SchemaDescriptor,
    ) -> WriterProperties {
        without_dictionary(rows, schema, self.dictionary_bytes)
            .into_iter()
            .fold(self.parquet.clone(), |builder, path| {
                builder.set_column_dictionary_enabled(path, false)
            })
            .build()
    }
}

/// Pages of the version that the table asks for. With version 2 come the DELTA encodings for columns
/// without dictionary; what some readers lack even then (RLE for flags) is not used.
fn with_page_version(
    builder: WriterPropertiesBuilder,
    schema: &FileSchema,
    table: &HashMap<String, String>,
) -> Result<WriterPropertiesBuilder, WriteError> {
    match table.get(PAGE_VERSION).map(|version| version.trim().to_ascii_lowercase()).as_deref() {
        None | Some("1" | "v1") => return Ok(builder),
        Some("2" | "v2") => {}
        Some(other) => return Err(refused(PAGE_VERSION, other, "1 or 2 is wanted")),
    }
    let builder = builder.set_writer_version(WriterVersion::PARQUET_2_0);
    Ok(schema.parquet.columns().iter().fold(builder, |builder, column| {
        let encoding = match column.physical_type() {
            PhysicalType::INT32 | PhysicalType::INT64 => Encoding::DELTA_BINARY_PACKED,
            PhysicalType::BYTE_ARRAY => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            _ => Encoding::PLAIN,
        };
        builder.set_column_encoding(column.path().clone(), encoding)
    }))
}

/// Bloom filters for the columns that the table names. One of a column that it does not have is
/// passed over: the column may have been dropped.
fn with_bloom_filters(
    builder: WriterPropertiesBuilder,
    schema: &FileSchema,
    table: &HashMap<String, String>,
) -> Result<WriterPropertiesBuilder, WriteError> {
    const FALSE_POSITIVES: f64 = 0.01;
    let most_bytes = bytes(table, BLOOM_BYTES, 1 << 20)?;
    let mut builder = builder;
    for (key, value) in table {
        let Some(name) = key.strip_prefix(BLOOM) else { continue };
        match value.trim().to_ascii_lowercase().as_str() {
            "true" => {}
            "false" => continue,
            _ => return Err(refused(key, value, "true or false is wanted")),
        }
        let Some(path) = schema.parquet_column(name) else { continue };
        let rate_key = format!("{BLOOM_RATE}{name}");
        const WANTED: &str = "a number above 0 and below 1";
        let rate = parsed(table, &rate_key, WANTED)?.unwrap_or(FALSE_POSITIVES);
        if !(rate > 0.0 && rate < 1.0) {
            return Err(refused(&rate_key, &rate.to_string(), WANTED));
        }
        builder = builder
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_fpp(path.clone(), rate)
            .set_column_bloom_filter_ndv(path, filtered_values(most_bytes, rate));
    }
    Ok(builder)
}

/// How many different values a split-block Bloom filter of so many bytes holds at this rate of
/// false positives: the inverse of the formula in Parquet's specification of them.
fn filtered_values(bytes: usize, rate: f64) -> u64 {
    let bits = bytes as f64 * 8.0;
    let values = -bits / 8.0 * (1.0 - rate.powf(1.0 / 8.0)).ln();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let values = values as u64;
    values.max(1)
}

fn compression(table: &HashMap<String, String>) -> Result<Compression, WriteError> {
    let codec = table.get(CODEC).map_or("zstd", String::as_str);
    let level = |least: i32, most: i32, ours: i32| -> Result<i32, WriteError> {
        let level = parsed(table, LEVEL, "a whole number")?.unwrap_or(ours);
        if (least..=most).contains(&level) {
            return Ok(level);
        }
        let reason = format!("{codec} has the levels {least} to {most}");
        Err(refused(LEVEL, &level.to_string(), &reason))
    };
    let unfit = |error: ParquetError| refused(LEVEL, codec, &error.to_string());
    Ok(match codec.to_ascii_lowercase().as_str() {
        "zstd" => Compression::ZSTD(ZstdLevel::try_new(level(1, 22, ZSTD_LEVEL)?).map_err(unfit)?),
        "snappy" => Compression::SNAPPY,
        "gzip" => {
            let level = level(0, 9, 6)?.unsigned_abs();
            Compression::GZIP(GzipLevel::try_new(level).map_err(unfit)?)
        }
        "brotli" => {
            let level = level(0, 11, 1)?.unsigned_abs();
            Compression::BROTLI(BrotliLevel::try_new(level).map_err(unfit)?)
        }
        "lz4" | "lz4_raw" => Compression::LZ4_RAW,
        "uncompressed" | "none" => Compression::UNCOMPRESSED,
        _ => {
            let reason = "zstd, snappy, gzip, lz4, brotli and uncompressed can be written";
            return Err(refused(CODEC, codec, reason));
        }
    })
}

/// A number of bytes or rows that the table names, or else ours.
fn bytes(table: &HashMap<String, String>, key: &str, ours: usize) -> Result<usize, WriteError> {
    Ok(positive(table, key)?.map_or(ours, |n| usize::try_from(n).unwrap_or(usize::MAX)))
}

fn positive(table: &HashMap<String, String>, key: &str) -> Result<Option<u64>, WriteError> {
    const WANTED: &str = "a whole number above zero";
    match parsed(table, key, WANTED)? {
        Some(0) => Err(refused(key, "0", WANTED)),
        bytes => Ok(bytes),
    }
}

fn parsed<T: FromStr<Err: Display>>(
    table: &HashMap<String, String>,
    key: &str,
    wanted: &str,
) -> Result<Option<T>, WriteError> {
    let Some(value) = table.get(key) else { return Ok(None) };
    match value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(error) => Err(refused(key, value, &format!("{wanted} is wanted ({error})"))),
    }
}

fn refused(key: &str, value: &str, reason: &str) -> WriteError {
    WriteError::Property { key: key.into(), value: value.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iceberg::spec::{NestedField, PrimitiveType, Schema, StructType, Type};
    use parquet::schema::types::ColumnPath;

    use super::*;

    fn table(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn made(pairs: &[(&str, &str)], target: u64) -> Result<FileProperties, WriteError> {
        let text = Type::Primitive(PrimitiveType::String);
        let within = vec![NestedField::optional(3, "id", text.clone()).into()];
        let fields = [
            NestedField::optional(1, "name", text).into(),
            NestedField::optional(2, "meta", Type::Struct(StructType::new(within))).into(),
        ];
        let schema = Schema::builder().with_fields(fields).build().unwrap();
        FileProperties::new(&FileSchema::new(Arc::new(schema)).unwrap(), &table(pairs), target)
    }

    fn codec(pairs: &[(&str, &str)]) -> Compression {
        made(pairs, 1).unwrap().parquet.build().compression(&ColumnPath::from("any"))
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        made(pairs, 1).unwrap_err().to_string()
    }

    #[test]
    fn a_table_without_properties_gets_zstd_level_1_and_our_target() {
        assert_eq!(codec(&[]), Compression::ZSTD(ZstdLevel::try_new(1).unwrap()));
        let properties = made(&[], 77).unwrap();
        assert_eq!(properties.target_file_size, 77);
        assert_eq!(properties.row_group_bytes as u64, MAX_ROW_GROUP_BYTES);
    }

    #[test]
    fn table_properties_win_over_our_settings() {
        let properties = made(&[(TARGET_FILE_SIZE, "4096")], 77).unwrap();
        assert_eq!(properties.target_file_size, 4096);
        assert_eq!(codec(&[(CODEC, "SNAPPY")]), Compression::SNAPPY);
        assert_eq!(codec(&[(CODEC, "uncompressed")]), Compression::UNCOMPRESSED);
        let level_9 = Compression::ZSTD(ZstdLevel::try_new(9).unwrap());
        assert_eq!(codec(&[(CODEC, "zstd"), (LEVEL, "9")]), level_9);
    }

    #[test]
    fn every_codec_of_iceberg_is_written() {
        let level_6 = Compression::GZIP(GzipLevel::try_new(6).unwrap());
        assert_eq!(codec(&[(CODEC, "gzip")]), level_6);
        assert_eq!(codec(&[(CODEC, "lz4")]), Compression::LZ4_RAW);
        assert!(matches!(codec(&[(CODEC, "brotli"), (LEVEL, "4")]), Compression::BROTLI(_)));
    }

    #[test]
    fn pages_dictionaries_and_bloom_filters_are_as_the_table_asks() {
        let bloom = |name: &str| format!("{BLOOM}{name}");
        let properties = made(
            &[
                (PAGE_SIZE, "65536"),
                (PAGE_ROW_LIMIT, "500"),
                (DICTIONARY_SIZE, "4096"),
                (&bloom("meta.id"), "true"),
                (&bloom("name"), "false"),
                (&bloom("gone"), "true"),
                (&format!("{BLOOM_RATE}meta.id"), "0.05"),
            ],
            1,
        );
        let properties = properties.unwrap();
        assert_eq!(properties.dictionary_bytes, 4096);
        let parquet = properties.parquet.build();
        let id = ColumnPath::new(vec!["meta".into(), "id".into()]);
        assert_eq!(parquet.column_data_page_size_limit(&id), 65536);
        assert_eq!(parquet.data_page_row_count_limit(), 500);
        assert_eq!(parquet.bloom_filter_properties(&id).map(|bloom| bloom.fpp), Some(0.05));
        assert!(parquet.bloom_filter_properties(&ColumnPath::from("name")).is_none());
    }

    #[test]
    fn pages_of_version_2_have_delta_encodings_and_others_none() {
        let text = ColumnPath::from("name");
        let encoding = |pairs: &[(&str, &str)]| {
            let parquet = made(pairs, 1).unwrap().parquet.build();
            (parquet.writer_version(), parquet.encoding(&text))
        };
        let plain = (WriterVersion::PARQUET_1_0, None);
        assert_eq!((encoding(&[]), encoding(&[(PAGE_VERSION, "1")])), (plain, plain));
        let delta = (WriterVersion::PARQUET_2_0, Some(Encoding::DELTA_LENGTH_BYTE_ARRAY));
        assert_eq!(encoding(&[(PAGE_VERSION, "v2")]), delta);
        assert!(refusal(&[(PAGE_VERSION, "3")]).contains("1 or 2"));
    }

    #[test]
    fn a_bloom_filter_of_a_mebibyte_holds_hundreds_of_thousands_of_values() {
        let values = filtered_values(1 << 20, 0.01);
        assert!((800_000..900_000).contains(&values), "{values}");
    }

    #[test]
    fn a_row_group_is_bounded_even_if_the_table_asks_for_more() {
        let properties = made(&[(ROW_GROUP_BYTES, "1073741824")], 1).unwrap();
        assert_eq!(properties.row_group_bytes as u64, MAX_ROW_GROUP_BYTES);
        let small = made(&[(ROW_GROUP_BYTES, "1048576")], 1).unwrap();
        assert_eq!(small.row_group_bytes, 1 << 20);
    }

    #[test]
    fn a_property_that_cannot_be_followed_is_named_with_its_value() {
        let text = refusal(&[(CODEC, "lzo")]);
        assert!(text.contains(CODEC) && text.contains("lzo"), "{text}");
        assert!(refusal(&[(CODEC, "gzip"), (LEVEL, "10")]).contains("gzip has the levels 0 to 9"));
        assert!(refusal(&[(PAGE_SIZE, "0")]).contains(PAGE_SIZE));
        let text = refusal(&[(&format!("{BLOOM}name"), "yes")]);
        assert!(text.contains("column.name") && text.contains("yes"), "{text}");
        let rate = (&*format!("{BLOOM_RATE}name"), "1.5");
        assert!(refusal(&[(&format!("{BLOOM}name"), "true"), rate]).contains("below 1"));
        assert!(refusal(&[(LEVEL, "99")]).contains("1 to 22"));
        assert!(refusal(&[(TARGET_FILE_SIZE, "0")]).contains("above zero"));
        assert!(refusal(&[(TARGET_FILE_SIZE, "512MB")]).contains("512MB"));
        assert!(refusal(&[(FORMAT, "orc")]).contains("only parquet"));
    }
}
