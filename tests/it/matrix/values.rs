//! Types of columns with values from their corners: what a record says, what readers should find, and
//! how filters name it.

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::{Value, json};

/// Values of a type, the same number of each. Shorter lists begin anew.
pub const SLOTS: usize = 12;

/// A value as the test knows it.
#[derive(Clone, Debug)]
pub struct Cell {
    /// In a record.
    pub json: Value,
    /// As all readers are made to show it; none for null.
    pub shown: Option<String>,
    /// As literals are made of it.
    pub text: String,
    /// Orders values of a type; none where readers order differently or not at all.
    pub rank: Option<Rank>,
}

/// What orders values.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub enum Rank {
    /// Numbers, times.
    Number(i128),
    /// Floats. NaN and null are not in order.
    Float(f64),
    /// Texts, bytes.
    Bytes(Vec<u8>),
}

/// A type of a column.
#[derive(Clone, Debug)]
pub struct Kind {
    /// In the names of columns.
    pub name: &'static str,
    /// In Iceberg's words.
    pub iceberg: &'static str,
    /// Transforms that its values can go through.
    pub transforms: &'static [&'static str],
    /// Who has the type?
    pub readers: &'static [&'static str],
    /// Only in tables of version 3?
    pub needs_v3: bool,
    /// The values.
    pub cells: Vec<Cell>,
}

/// Readers, by which types they have. Spark has neither times of the day nor nanoseconds, and DuckDB no
/// nanoseconds with a zone.
pub const ALL: &[&str] = &["duckdb", "pyiceberg", "spark"];
/// See [`ALL`].
pub const NOT_SPARK: &[&str] = &["duckdb", "pyiceberg"];
/// See [`ALL`].
pub const PYICEBERG: &[&str] = &["pyiceberg"];

const PLAIN: &[&str] = &["identity", "void"];
const HASHED: &[&str] = &["identity", "bucket[5]", "void"];
/// Identities that some reader cannot be served with are refused, see docs/decisions.md.
const FIXED: &[&str] = &["bucket[5]", "void"];
const CUT_NUMBER: &[&str] = &["identity", "bucket[5]", "truncate[10]", "void"];
const CUT_TEXT: &[&str] = &["identity", "bucket[5]", "truncate[3]", "void"];
const DATED: &[&str] = &["identity", "bucket[5]", "year", "month", "day", "void"];
const NANOS: &[&str] = &["bucket[5]", "year", "month", "day", "hour"];
const TIMED: &[&str] = &["identity", "bucket[5]", "year", "month", "day", "hour", "void"];

fn cell(json: Value, shown: String, text: &str, rank: Option<Rank>) -> Cell {
    Cell { json, shown: Some(shown), text: text.to_owned(), rank }
}

fn null() -> Cell {
    Cell { json: Value::Null, shown: None, text: String::new(), rank: None }
}

/// The values with a null among them, as many as there are slots.
fn filled(cells: impl IntoIterator<Item = Cell>) -> Vec<Cell> {
    let mut cells: Vec<Cell> = cells.into_iter().collect();
    cells.push(null());
    assert!(cells.len() <= SLOTS, "{cells:?}");
    cells.into_iter().cycle().take(SLOTS).collect()
}

fn integers(values: &[i64]) -> Vec<Cell> {
    filled(
        values.iter().map(|v| {
            cell(json!(v), v.to_string(), &v.to_string(), Some(Rank::Number((*v).into())))
        }),
    )
}

/// Floats of either width, shown by their bits.
fn floats(values: &[&str], bits: fn(&str) -> String) -> Vec<Cell> {
    filled(values.iter().map(|text| {
        let value: f64 = text.parse().unwrap();
        let json =
            if value.is_finite() { serde_json::from_str(text).unwrap() } else { json!(text) };
        let rank = (!value.is_nan()).then_some(Rank::Float(value));
        cell(json, bits(text), text, rank)
    }))
}

/// A float as text by its bits; every NaN is one.
pub fn float_bits(text: &str) -> String {
    let value: f32 = text.parse().unwrap_or_else(|_| panic!("{text} is no float"));
    if value.is_nan() { "nan".into() } else { format!("{:08x}", value.to_bits()) }
}

/// A double as text by its bits.
pub fn double_bits(text: &str) -> String {
    let value: f64 = text.parse().unwrap_or_else(|_| panic!("{text} is no double"));
    if value.is_nan() { "nan".into() } else { format!("{:016x}", value.to_bits()) }
}

/// Decimals by their digits, shown without the point.
fn decimals(scale: usize, unscaled: &[i128]) -> Vec<Cell> {
    filled(unscaled.iter().map(|value| {
        let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
        let (whole, rest) = digits.split_at(digits.len() - scale);
        let sign = if *value < 0 { "-" } else { "" };
        let text = format!("{sign}{whole}.{rest}");
        cell(json!(text), value.to_string(), &text, Some(Rank::Number(*value)))
    }))
}

/// A decimal that a reader shows, perhaps with an exponent, without the point.
pub fn unscaled(text: &str, scale: usize) -> String {
    let (number, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap();
    let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
    let zeros = i32::try_from(scale).unwrap() + exponent - i32::try_from(rest.len()).unwrap();
    let digits = format!("{whole}{rest}{}", "0".repeat(zeros.try_into().unwrap()));
    digits.parse::<i128>().unwrap().to_string()
}

fn dates(values: &[&str]) -> Vec<Cell> {
    filled(values.iter().map(|text| {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").unwrap();
        let days = (date - NaiveDate::default()).num_days();
        cell(json!(text), days.to_string(), text, Some(Rank::Number(days.into())))
    }))
}

fn times(values: &[&str]) -> Vec<Cell> {
    let rank = |text: &str| Some(Rank::Bytes(text.as_bytes().to_vec()));
    filled(values.iter().map(|text| cell(json!(text), (*text).into(), text, rank(text))))
}

/// Timestamps, shown as counts of which there are so many a second.
fn timestamps(values: &[&str], zone: &str, per_second: i128) -> Vec<Cell> {
    filled(values.iter().map(|text| {
        let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").unwrap().and_utc();
        let (seconds, nanos) = (time.timestamp(), time.timestamp_subsec_nanos());
        let count =
            i128::from(seconds) * per_second + i128::from(nanos) * per_second / 1_000_000_000;
        let text = format!("{text}{zone}");
        cell(json!(text), count.to_string(), &text, Some(Rank::Number(count)))
    }))
}

fn texts(values: &[&str]) -> Vec<Cell> {
    let rank = |text: &str| Some(Rank::Bytes(text.as_bytes().to_vec()));
    filled(values.iter().map(|text| cell(json!(text), (*text).into(), text, rank(text))))
}

fn uuids(values: &[&str]) -> Vec<Cell> {
    filled(values.iter().map(|text| cell(json!(text), text.replace('-', ""), text, None)))
}

fn bytes(values: &[&[u8]]) -> Vec<Cell> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    filled(values.iter().map(|bytes| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let rank = Some(Rank::Bytes(bytes.to_vec()));
        cell(json!(STANDARD.encode(bytes)), hex.clone(), &hex, rank)
    }))
}

const FLOATS: [&str; 11] = [
    "NaN",
    "Infinity",
    "-Infinity",
    "0.0",
    "-0.0",
    "1.5",
    "-1.5",
    "3.4028235e38",
    "-3.4028235e38",
    "1e-45",
    "123456.79",
];
const MOMENTS: [&str; 10] = [
    "1969-12-31T23:59:59.999999",
    "1970-01-01T00:00:00",
    "1969-12-31T00:00:00",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59.999999",
    "2024-02-29T12:00:00.5",
    "1582-10-15T00:00:00.000001",
    "2262-04-12T00:00:00",
    "1677-09-21T00:12:43",
    "2026-01-02T03:04:05.123456",
];
const NANO_MOMENTS: [&str; 9] = [
    "1969-12-31T23:59:59.999999999",
    "1970-01-01T00:00:00",
    "1969-12-31T00:00:00.000000001",
    "1900-01-01T00:00:00",
    "2261-12-31T23:59:59.999999999",
    "2024-02-29T12:00:00.5",
    "1677-09-22T00:00:00",
    "2026-01-02T03:04:05.123456789",
    "1999-12-31T23:59:59.999999",
];
/// Of more than sixteen characters and bytes, which bounds are cut to, with wide ones at the cut.
const TEXTS: [&str; 11] = [
    "",
    "a",
    "é",
    "fifteen-letters\u{10FFFF}\u{10FFFF}",
    "sixteen-letters!",
    "fifteen-letters\u{D7FF}x",
    "a rather long text, longer than any bound",
    "ääääääääääääääääää",
    "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
    "it's a \"quote\"",
    "Z",
];

/// Every type that a column of the crate can have.
pub fn kinds() -> Vec<Kind> {
    let kind = |name, iceberg, transforms, cells| Kind {
        name,
        iceberg,
        transforms,
        readers: ALL,
        needs_v3: false,
        cells,
    };
    let far = i128::pow(10, 38) - 1;
    let hidden = |kind: Kind| Kind { readers: NOT_SPARK, ..kind };
    let newer = |kind: Kind, readers| Kind { needs_v3: true, readers, ..kind };
    let longs = [0, 1, -1, 9, -10, 11, i64::MAX, i64::MIN, 1 << 32, -(1 << 32)];
    let ints = [0, 1, -1, 9, -10, 11, 2_147_483_647, -2_147_483_648, 65_536];
    let booleans = [true, false]
        .map(|v| cell(json!(v), v.to_string(), &v.to_string(), Some(Rank::Number(v.into()))));
    let mut doubles = FLOATS.to_vec();
    doubles[9] = "5e-324";
    doubles[7] = "1.7976931348623157e308";
    let long = [0xff_u8; 20];
    let binary: [&[u8]; 8] = [
        b"",
        b"\0",
        b"a",
        b"\xff",
        b"\xff\xff\xff\xff",
        &long,
        b"sixteen bytes ok",
        b"seventeen bytes !",
    ];
    vec![
        kind("boolean", "boolean", PLAIN, filled(booleans)),
        kind("int", "int", CUT_NUMBER, integers(&ints)),
        kind("long", "long", CUT_NUMBER, integers(&longs)),
        kind("float", "float", PLAIN, floats(&FLOATS, float_bits)),
        kind("double", "double", PLAIN, floats(&doubles, double_bits)),
        kind(
            "small",
            "decimal(9, 2)",
            CUT_NUMBER,
            decimals(2, &[0, 1, -1, 9, -10, 999_999_999, -999_999_999]),
        ),
        kind(
            "middle",
            "decimal(18, 4)",
            CUT_NUMBER,
            decimals(4, &[0, 1, -1, 128, -129, 999_999_999_999_999_999, -999_999_999_999_999_999]),
        ),
        kind(
            "large",
            "decimal(38, 10)",
            CUT_NUMBER,
            decimals(10, &[0, 1, -1, 255, -256, far, -far, i64::MAX.into()]),
        ),
        kind(
            "date",
            "date",
            DATED,
            dates(&[
                "1970-01-01",
                "1969-12-31",
                "0001-01-01",
                "9999-12-31",
                "2024-02-29",
                "1582-10-14",
                "1900-03-01",
            ]),
        ),
        hidden(kind(
            "time",
            "time",
            HASHED,
            times(&["00:00:00", "23:59:59.999999", "12:34:56", "00:00:00.000001"]),
        )),
        kind("local", "timestamp", TIMED, timestamps(&MOMENTS, "", 1_000_000)),
        kind("instant", "timestamptz", TIMED, timestamps(&MOMENTS, "Z", 1_000_000)),
        newer(
            kind("localns", "timestamp_ns", NANOS, timestamps(&NANO_MOMENTS, "", 1_000_000_000)),
            NOT_SPARK,
        ),
        newer(
            kind(
                "instantns",
                "timestamptz_ns",
                NANOS,
                timestamps(&NANO_MOMENTS, "Z", 1_000_000_000),
            ),
            PYICEBERG,
        ),
        kind("text", "string", CUT_TEXT, texts(&TEXTS)),
        kind(
            "uuid",
            "uuid",
            FIXED,
            uuids(&[
                "00000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
                "7fffffff-ffff-ffff-7fff-ffffffffffff",
                "80000000-0000-0000-8000-000000000000",
                "123e4567-e89b-12d3-a456-426614174000",
            ]),
        ),
        kind(
            "fixed",
            "fixed[5]",
            FIXED,
            bytes(&[b"\0\0\0\0\0", b"\xff\xff\xff\xff\xff", b"abcde", b"\x7f\x80\0\x01\xfe"]),
        ),
        kind("binary", "binary", CUT_TEXT, bytes(&binary)),
    ]
}
