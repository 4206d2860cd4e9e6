//! One test for each row of the table of conversions in `docs/json.md`.

use arrow::array::{
    BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array,
    Int32Array, Int64Array, LargeBinaryArray, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use serde_json::json;

use super::Reason::{BadText, Inexact, MissingField, NotJson, OutOfRange, WrongType};
use super::{accepts, read, refuses};

#[test]
fn booleans_are_true_and_false_only() {
    let of = |value: bool| BooleanArray::from(vec![value]);
    accepts("boolean", &[("true", of(true)), ("false", of(false))]);
    refuses("boolean", WrongType, &["1", "0", "\"true\"", "[true]", "{}"]);
    refuses("boolean", NotJson, &["True", "tru", "truefalse"]);
}

#[test]
fn ints_are_whole_numbers_in_range() {
    let of = |value: i32| Int32Array::from(vec![value]);
    accepts(
        "int",
        &[
            ("7", of(7)),
            ("-0", of(0)),
            ("1.0", of(1)),
            ("1e3", of(1000)),
            ("-2147483648", of(i32::MIN)),
        ],
    );
    refuses("int", OutOfRange, &["2147483648", "-2147483649", "1e10", "1e999"]);
    refuses("int", Inexact, &["1.5", "1e-1", "-0.0001"]);
    refuses("int", WrongType, &["\"1\"", "true", "{}", "[1]"]);
    refuses("int", NotJson, &["01", "+1", "1.", ".5", "0x10", "NaN", "1_000", "- 1"]);
}

#[test]
fn longs_are_whole_numbers_in_range() {
    let of = |value: i64| Int64Array::from(vec![value]);
    accepts(
        "long",
        &[
            ("9223372036854775807", of(i64::MAX)),
            ("-9223372036854775808", of(i64::MIN)),
            ("9007199254740993", of(9_007_199_254_740_993)),
            ("9007199254740993.0", of(9_007_199_254_740_993)),
        ],
    );
    refuses("long", OutOfRange, &["9223372036854775808", "-9223372036854775809"]);
    refuses("long", Inexact, &["1.5"]);
    refuses("long", WrongType, &["\"9007199254740993\""]);
}

#[test]
fn floats_are_rounded_once_and_never_overflow() {
    let of = |value: f32| Float32Array::from(vec![value]);
    accepts(
        "float",
        &[("0.1", of(0.1)), ("3", of(3.0)), ("-1e-50", of(-0.0)), ("3.4028235e38", of(f32::MAX))],
    );
    // Halfway between two floats as a double, above it as a decimal: rounding twice would go down.
    accepts("float", &[("1.000000059604644775390625000001", of(1.000_000_1))]);
    accepts("float", &[("\"Infinity\"", of(f32::INFINITY))]);
    refuses("float", OutOfRange, &["3.5e38", "1e39", "-1e39"]);
    refuses("float", WrongType, &["\"1.5\"", "\"inf\"", "true"]);
}

#[test]
fn doubles_take_numbers_and_three_words() {
    let of = |value: f64| Float64Array::from(vec![value]);
    accepts(
        "double",
        &[
            ("0.1", of(0.1)),
            ("-0.0", of(-0.0)),
            ("1e23", of(1e23)),
            ("12345678901234567890", of(12_345_678_901_234_567_890.0)),
            ("\"Infinity\"", of(f64::INFINITY)),
            ("\"-Infinity\"", of(f64::NEG_INFINITY)),
        ],
    );
    let nan = read(&json!("double"), "\"NaN\"").unwrap();
    assert!(nan.as_any().downcast_ref::<Float64Array>().unwrap().value(0).is_nan());
    refuses("double", OutOfRange, &["1e309", "-1e309"]);
    refuses("double", WrongType, &["\"1.5\"", "\"nan\"", "\"\"", "false", "[]"]);
    refuses("double", NotJson, &["NaN", "Infinity", "-Infinity", "1.5.2", "1e"]);
}

#[test]
fn decimals_are_exact_from_numbers_and_from_strings() {
    let of =
        |value: i128| Decimal128Array::from(vec![value]).with_precision_and_scale(38, 10).unwrap();
    accepts(
        "decimal(38, 10)",
        &[
            (
                "1234567890123456789012345678.0123456789",
                of(12_345_678_901_234_567_890_123_456_780_123_456_789),
            ),
            (
                "\"-1234567890123456789012345678.0123456789\"",
                of(-12_345_678_901_234_567_890_123_456_780_123_456_789),
            ),
            ("0.1", of(1_000_000_000)),
            ("\"1E-10\"", of(1)),
            ("0.10000000000000000000000", of(1_000_000_000)),
            ("9007199254740993", of(90_071_992_547_409_930_000_000_000)),
        ],
    );
    refuses("decimal(9, 2)", Inexact, &["0.001", "\"0.001\"", "1e-3"]);
    refuses("decimal(9, 2)", OutOfRange, &["10000000", "-10000000.00", "1e7", "1e99999999999"]);
    refuses(
        "decimal(9, 2)",
        BadText,
        &["\"\"", "\" 1\"", "\"1,5\"", "\"+1\"", "\"NaN\"", "\"007\""],
    );
    refuses("decimal(9, 2)", WrongType, &["true", "[1]", "{}"]);
}

#[test]
fn dates_are_text_or_days_and_never_seconds() {
    let of = |value: i32| Date32Array::from(vec![value]);
    accepts(
        "date",
        &[
            ("\"1970-01-02\"", of(1)),
            ("\"0001-01-01\"", of(-719_162)),
            ("19000", of(19_000)),
            ("-1", of(-1)),
        ],
    );
    accepts("date", &[("\"2024\\u002d02-29\"", of(19_782))]);
    refuses("date", OutOfRange, &["\"2023-02-29\"", "1700000000", "1700000000000"]);
    refuses(
        "date",
        BadText,
        &["\"2024-1-1\"", "\"01.02.2024\"", "\"2024-01-01T00:00:00\"", "\"\""],
    );
    refuses("date", Inexact, &["1.5"]);
    refuses("date", WrongType, &["true", "[2024,1,1]"]);
}

#[test]
fn times_are_text_only() {
    let of = |value: i64| Time64MicrosecondArray::from(vec![value]);
    accepts(
        "time",
        &[
            ("\"00:00:00\"", of(0)),
            ("\"10:15\"", of(36_900_000_000)),
            ("\"23:59:59.999999\"", of(86_399_999_999)),
        ],
    );
    refuses("time", WrongType, &["36900000", "false", "{}"]);
    refuses("time", OutOfRange, &["\"24:00:00\"", "\"23:59:60\""]);
    refuses("time", Inexact, &["\"10:15:00.0000001\""]);
    refuses("time", BadText, &["\"10\"", "\"10:15Z\""]);
}

#[test]
fn timestamps_are_text_without_zone_or_milliseconds() {
    let of = |value: i64| TimestampMicrosecondArray::from(vec![value]);
    accepts(
        "timestamp",
        &[
            ("\"2023-11-14T22:13:20.123456\"", of(1_700_000_000_123_456)),
            ("\"2023-11-14 22:13:20\"", of(1_700_000_000_000_000)),
            ("1700000000123", of(1_700_000_000_123_000)),
            ("1.700000000123E12", of(1_700_000_000_123_000)),
            ("-1", of(-1_000)),
        ],
    );
    refuses(
        "timestamp",
        BadText,
        &["\"2023-11-14T22:13:20Z\"", "\"2023-11-14\"", "\"1700000000123\""],
    );
    refuses("timestamp", Inexact, &["1700000000123.5", "\"2023-11-14T22:13:20.1234567\""]);
    refuses("timestamp", OutOfRange, &["1700000000123456", "\"2023-11-14T25:13:20\""]);
    refuses("timestamp", WrongType, &["true", "[]"]);
}

#[test]
fn timestamps_with_zone_need_one() {
    let of = |value: i64| TimestampMicrosecondArray::from(vec![value]).with_timezone("+00:00");
    accepts(
        "timestamptz",
        &[
            ("\"2023-11-14T22:13:20.123456Z\"", of(1_700_000_000_123_456)),
            ("\"2023-11-15T00:13:20+02:00\"", of(1_700_000_000_000_000)),
            ("\"2023-11-14 22:13:20.123456000Z\"", of(1_700_000_000_123_456)),
            ("1700000000123", of(1_700_000_000_123_000)),
        ],
    );
    refuses("timestamptz", BadText, &["\"2023-11-14T22:13:20\"", "\"2023-11-14T22:13:20 UTC\""]);
    refuses("timestamptz", Inexact, &["\"2023-11-14T22:13:20.1234567Z\""]);
    refuses("timestamptz", OutOfRange, &["1700000000123456"]);
}

#[test]
fn nanosecond_timestamps_keep_nine_digits() {
    let of = |value: i64| TimestampNanosecondArray::from(vec![value]);
    accepts(
        "timestamp_ns",
        &[
            ("\"2023-11-14T22:13:20.123456789\"", of(1_700_000_000_123_456_789)),
            ("1", of(1_000_000)),
        ],
    );
    let zoned =
        TimestampNanosecondArray::from(vec![1_700_000_000_123_456_789]).with_timezone("+00:00");
    accepts("timestamptz_ns", &[("\"2023-11-14T22:13:20.123456789Z\"", zoned)]);
    refuses("timestamp_ns", Inexact, &["\"2023-11-14T22:13:20.1234567891\""]);
    refuses("timestamp_ns", OutOfRange, &["\"2300-01-01T00:00:00\"", "\"1600-01-01T00:00:00\""]);
}

#[test]
fn strings_are_json_strings_with_every_escape() {
    let of = |value: &str| StringArray::from(vec![value]);
    accepts(
        "string",
        &[
            ("\"\"", of("")),
            ("\"plain\"", of("plain")),
            (r#""\"\\\/\b\f\n\r\t""#, of("\"\\/\u{8}\u{c}\n\r\t")),
            (r#""\u00e9\u4e2d\uD83D\ude00""#, of("é中😀")),
            ("\"é中😀 \u{7f}\"", of("é中😀 \u{7f}")),
            (r#""\u0000""#, of("\0")),
            (
                r#""eight by \"quoted\" and more than a word of plain text""#,
                of("eight by \"quoted\" and more than a word of plain text"),
            ),
        ],
    );
    refuses("string", WrongType, &["1", "true", "{\"a\":1}", "[\"a\"]"]);
    refuses(
        "string",
        NotJson,
        &[
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83d\u0041""#,
            r#""\ud83dx""#,
            r#""\x41""#,
            r#""\u12g4""#,
            r#""\u+123""#,
            r#""\u12""#,
            "\"a\nb\"",
            "\"a\tb\"",
            "\"a\0b\"",
            "\"1234567\u{1f}\"",
            "'a'",
            "\"a",
            "\"a\\\"",
        ],
    );
}

#[test]
fn uuids_are_canonical_text() {
    let bytes = *b"\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x14\x17\x40\x00";
    let of = || FixedSizeBinaryArray::try_from_iter([bytes].into_iter()).unwrap();
    accepts(
        "uuid",
        &[
            ("\"123e4567-e89b-12d3-a456-426614174000\"", of()),
            ("\"123E4567-E89B-12D3-A456-426614174000\"", of()),
        ],
    );
    refuses(
        "uuid",
        BadText,
        &[
            "\"123e4567-e89b-12d3-a456-42661417400g\"",
            "\"123e4567-e89b-12d3-a456-4266141740\"",
            "\"{123e4567-e89b-12d3-a456-426614174000}\"",
        ],
    );
    refuses("uuid", OutOfRange, &["\"\"", "\"AAECAw==\"", "\"123e4567e89b12d3a456426614174000\""]);
    refuses("uuid", WrongType, &["1", "[]"]);
}

#[test]
fn fixeds_are_base64_of_exactly_their_length() {
    let of = |bytes: &[u8]| FixedSizeBinaryArray::try_from_iter([bytes].into_iter()).unwrap();
    accepts(
        "fixed[4]",
        &[("\"AAECAw==\"", of(&[0, 1, 2, 3])), ("\"\\/\\/\\/\\/\\/w==\"", of(&[255; 4]))],
    );
    accepts(
        "fixed[16]",
        &[(
            "\"AAECAwQFBgcICQoLDA0ODw==\"",
            of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        )],
    );
    refuses("fixed[4]", OutOfRange, &["\"AAEC\"", "\"AAECAwQ=\"", "\"\""]);
    refuses("fixed[4]", BadText, &["\"AAECAw\"", "\"AAECA===\"", "\"AAEC_w==\"", "\"0x01020\""]);
    refuses("fixed[4]", WrongType, &["[0,1,2,3]", "4"]);
}

#[test]
fn binaries_are_base64() {
    let of = |bytes: &[u8]| LargeBinaryArray::from_vec(vec![bytes]);
    accepts("binary", &[("\"\"", of(&[])), ("\"+/8=\"", of(&[0xFB, 0xFF]))]);
    refuses("binary", BadText, &["\"+/8\"", "\"-_8=\"", "\" +/8=\"", "\"hello\""]);
    refuses("binary", WrongType, &["[1]", "1"]);
}

#[test]
fn null_and_absence_are_null_where_optional_and_a_fault_where_required() {
    for data_type in [
        "boolean",
        "int",
        "long",
        "float",
        "double",
        "decimal(9, 2)",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "timestamp_ns",
        "timestamptz_ns",
        "string",
        "uuid",
        "fixed[3]",
        "binary",
    ] {
        refuses(data_type, MissingField, &["null"]);
        let mut table = super::Table::new(&[("v", false, json!(data_type))]);
        table.push(b"{\"v\":null}").unwrap();
        table.push(b"{}").unwrap();
        let batch = table.finish();
        assert_eq!((batch.num_rows(), batch.column(0).null_count()), (2, 2), "{data_type}");
    }
}
