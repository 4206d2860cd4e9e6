//! Random schemas and random values of them, written as JSON in every accepted way, come back as
//! the same values.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, TimeDelta};
use fastrand::Rng;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Table;

/// An Iceberg type.
#[derive(Clone, Debug)]
pub(super) enum Type {
    Primitive(&'static str),
    Decimal(u8, u8),
    List(Box<Field>),
    Map(Box<Type>, Box<Field>),
    Struct(Vec<Field>),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub required: bool,
    pub of: Type,
}

/// A value of any type. Floats by their bits, so that equality is exact.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Datum {
    Null,
    Boolean(bool),
    Number(i128),
    Bits(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Datum>),
    Map(Vec<(Datum, Datum)>),
    Struct(Vec<Datum>),
}

const PRIMITIVES: [&str; 15] = [
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "timestamp_ns",
    "timestamptz_ns",
    "string",
    "uuid",
    "fixed[5]",
    "binary",
];
const NAMES: [&str; 12] = [
    "id",
    "i",
    "a b",
    "é",
    "a_name_of_more_than_sixteen_bytes",
    "a_name_of_more_than_sixteen_bytez",
    "quo\"te",
    "back\\slash",
    "key",
    "value",
    "tab\t",
    "😀",
];
const DAY: i64 = 86_400;

pub(super) fn random_fields(rng: &mut Rng, depth: u32) -> Vec<Field> {
    let count = rng.usize(1..=5);
    let names = rng.choose_multiple(NAMES, count);
    names.into_iter().map(|name| random_field(rng, name, depth)).collect()
}

fn random_field(rng: &mut Rng, name: &str, depth: u32) -> Field {
    Field { name: name.to_owned(), required: rng.bool(), of: random_type(rng, depth) }
}

fn random_type(rng: &mut Rng, depth: u32) -> Type {
    match rng.u32(0..if depth == 0 { 6 } else { 9 }) {
        0 => {
            let precision = rng.u8(1..=38);
            Type::Decimal(precision, rng.u8(0..=precision))
        }
        1..=5 => Type::Primitive(rng.choice(PRIMITIVES).unwrap()),
        6 => Type::List(Box::new(random_field(rng, "element", depth - 1))),
        7 => {
            let key = random_type(rng, 0);
            Type::Map(Box::new(key), Box::new(random_field(rng, "value", depth - 1)))
        }
        _ => Type::Struct(random_fields(rng, depth - 1)),
    }
}

impl Type {
    fn to_json(&self, id: &mut i32) -> Value {
        let mut next = || {
            *id += 1;
            *id
        };
        match self {
            Self::Primitive(name) => json!(name),
            Self::Decimal(precision, scale) => json!(format!("decimal({precision}, {scale})")),
            Self::List(element) => json!({
                "type": "list", "element-id": next(), "element-required": element.required, "element": element.of.to_json(id),
            }),
            Self::Map(key, value) => json!({
                "type": "map", "key-id": next(), "value-id": next(), "key": key.to_json(id),
                "value-required": value.required, "value": value.of.to_json(id),
            }),
            Self::Struct(fields) => {
                let fields: Vec<Value> = fields.iter().map(|field| {
                    *id += 1;
                    json!({"id": *id, "name": field.name, "required": field.required, "type": field.of.to_json(id)})
                }).collect();
                json!({"type": "struct", "fields": fields})
            }
        }
    }
}

pub(super) fn table(fields: &[Field]) -> Table {
    let mut id = 1000;
    let fields: Vec<_> =
        fields.iter().map(|f| (f.name.as_str(), f.required, f.of.to_json(&mut id))).collect();
    Table::new(&fields)
}

pub(super) fn random_struct(rng: &mut Rng, fields: &[Field]) -> Datum {
    Datum::Struct(fields.iter().map(|field| random_datum(rng, field)).collect())
}

fn random_datum(rng: &mut Rng, field: &Field) -> Datum {
    if !field.required && rng.u32(0..4) == 0 {
        return Datum::Null;
    }
    random_value(rng, &field.of)
}

fn random_value(rng: &mut Rng, of: &Type) -> Datum {
    let magnitude = rng.u32(1..64);
    match of {
        Type::Decimal(precision, _) => {
            let digits = rng.u8(1..=*precision);
            let value = rng.i128(..) % 10i128.pow(digits.into());
            Datum::Number(value)
        }
        Type::List(element) => {
            Datum::List((0..rng.usize(0..5)).map(|_| random_datum(rng, element)).collect())
        }
        Type::Map(key, value) => {
            let mut entries: Vec<(Datum, Datum)> = Vec::new();
            for _ in 0..rng.usize(0..12) {
                let key = random_value(rng, key);
                if entries.iter().all(|(other, _)| *other != key) {
                    entries.push((key, random_datum(rng, value)));
                }
            }
            Datum::Map(entries)
        }
        Type::Struct(fields) => random_struct(rng, fields),
        Type::Primitive(name) => match *name {
            "boolean" => Datum::Boolean(rng.bool()),
            "int" => Datum::Number((rng.i32(..) >> magnitude.min(31)).into()),
            "long" => Datum::Number((rng.i64(..) >> magnitude).into()),
            "float" => Datum::Bits(random_float(rng).to_bits().into()),
            "double" => Datum::Bits(random_double(rng).to_bits()),
            "date" => Datum::Number(rng.i32(-719_162..=2_932_896).into()),
            "time" => Datum::Number(rng.i64(0..DAY * 1_000_000).into()),
            "timestamp" | "timestamptz" => {
                let coarse = *rng.choice(&[1, 1_000, 1_000_000, 60_000_000]).unwrap();
                Datum::Number(
                    (rng.i64(-719_162 * DAY..2_932_897 * DAY) * 1_000_000
                        + rng.i64(0..1_000_000) / coarse * coarse)
                        .into(),
                )
            }
            "timestamp_ns" | "timestamptz_ns" => Datum::Number(rng.i64(..).into()),
            "string" => Datum::Text(random_text(rng)),
            "uuid" => Datum::Bytes(rng.u128(..).to_be_bytes().to_vec()),
            "fixed[5]" => Datum::Bytes((0..5).map(|_| rng.u8(..)).collect()),
            _ => Datum::Bytes((0..rng.usize(0..20)).map(|_| rng.u8(..)).collect()),
        },
    }
}

fn random_float(rng: &mut Rng) -> f32 {
    let value = f32::from_bits(rng.u32(..));
    if value.is_nan() { f32::NAN } else { value }
}

fn random_double(rng: &mut Rng) -> f64 {
    let value = if rng.bool() {
        f64::from_bits(rng.u64(..))
    } else {
        f64::from(rng.i32(-100_000..100_000)) / 1000.0
    };
    if value.is_nan() { f64::NAN } else { value }
}

fn random_text(rng: &mut Rng) -> String {
    (0..rng.usize(0..40))
        .map(|_| match rng.u32(0..12) {
            0 => '"',
            1 => '\\',
            2 => '\n',
            3 => 'é',
            4 => '😀',
            5 => rng.char(..),
            _ => rng.alphanumeric(),
        })
        .collect()
}

/// Whitespace, mostly none.
fn space(rng: &mut Rng) -> &'static str {
    rng.choice(["", "", "", "", " ", "\n", "\t\r "]).unwrap()
}

fn quoted(rng: &mut Rng, text: &str) -> String {
    if rng.u32(0..4) != 0 {
        return serde_json::to_string(text).unwrap();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        if rng.bool() {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").unwrap();
            }
        } else {
            let plain = serde_json::to_string(&c).unwrap();
            out.push_str(&plain[1..plain.len() - 1]);
        }
    }
    out.push('"');
    out
}

pub(super) fn write_struct(rng: &mut Rng, fields: &[Field], values: &[Datum]) -> String {
    let mut members: Vec<String> = Vec::new();
    for (field, value) in fields.iter().zip(values) {
        if *value == Datum::Null && rng.bool() {
            continue;
        }
        let value = write(rng, &field.of, value);
        members.push(format!("{}{}:{}{value}", quoted(rng, &field.name), space(rng), space(rng)));
    }
    if rng.u32(0..5) == 0 {
        members.push("\"not a column\":[{\"id\":[1.5e-3,null,\"\\u0000\"]},{},[]]".to_owned());
    }
    if rng.bool() {
        rng.shuffle(&mut members);
    }
    format!(
        "{{{}{}{}}}",
        space(rng),
        members.join(&format!("{},{}", space(rng), space(rng))),
        space(rng)
    )
}

fn write(rng: &mut Rng, of: &Type, value: &Datum) -> String {
    match (of, value) {
        (_, Datum::Null) => "null".to_owned(),
        (_, Datum::Boolean(value)) => value.to_string(),
        (Type::List(element), Datum::List(values)) => {
            let values: Vec<String> =
                values.iter().map(|value| write(rng, &element.of, value)).collect();
            format!("[{}{}]", values.join(&format!("{},", space(rng))), space(rng))
        }
        (Type::Struct(fields), Datum::Struct(values)) => write_struct(rng, fields, values),
        (Type::Map(key, value), Datum::Map(entries)) => write_map(rng, key, value, entries),
        (Type::Primitive("int" | "long"), Datum::Number(number)) => match rng.u32(0..6) {
            0 => format!("{number}.0"),
            1 if *number != 0 => format!("{number}00e-2"),
            2 => format!("{number}E+0"),
            _ => number.to_string(),
        },
        (Type::Primitive("date"), Datum::Number(days)) if rng.u32(0..4) == 0 => days.to_string(),
        (Type::Primitive("timestamp" | "timestamptz"), Datum::Number(micros))
            if micros % 1000 == 0 && rng.bool() =>
        {
            (micros / 1000).to_string()
        }
        (Type::Primitive("timestamp_ns" | "timestamptz_ns"), Datum::Number(nanos))
            if nanos % 1_000_000 == 0 =>
        {
            (nanos / 1_000_000).to_string()
        }
        (Type::Primitive("float" | "double") | Type::Decimal(..), _) => {
            let text = key_text(rng, of, value);
            let word = text.ends_with(|c: char| c.is_ascii_alphabetic());
            let as_string = word || (matches!(of, Type::Decimal(..)) && rng.bool());
            if as_string { format!("\"{text}\"") } else { text }
        }
        _ => {
            let text = key_text(rng, of, value);
            quoted(rng, &text)
        }
    }
}

fn write_map(rng: &mut Rng, key: &Type, value: &Field, entries: &[(Datum, Datum)]) -> String {
    if rng.bool() {
        let members: Vec<String> = entries
            .iter()
            .map(|(k, v)| {
                let text = key_text(rng, key, k);
                format!("{}:{}", quoted(rng, &text), write(rng, &value.of, v))
            })
            .collect();
        return format!("{{{}}}", members.join(","));
    }
    let fields = [Field { name: "key".into(), required: true, of: key.clone() }, value.clone()];
    let entries: Vec<String> =
        entries.iter().map(|(k, v)| write_struct(rng, &fields, &[k.clone(), v.clone()])).collect();
    format!("[{}]", entries.join(","))
}

/// The text of a primitive value, as it stands in a string or in a key.
fn key_text(rng: &mut Rng, of: &Type, value: &Datum) -> String {
    match (of, value) {
        (_, Datum::Boolean(value)) => value.to_string(),
        (_, Datum::Text(text)) => text.clone(),
        (Type::Primitive("uuid"), Datum::Bytes(bytes)) => {
            let uuid = uuid::Uuid::from_slice(bytes).unwrap().hyphenated().to_string();
            if rng.bool() { uuid } else { uuid.to_uppercase() }
        }
        (_, Datum::Bytes(bytes)) => STANDARD.encode(bytes),
        (Type::Primitive("float"), Datum::Bits(bits)) => {
            float_text(rng, f32::from_bits(u32::try_from(*bits).unwrap()))
        }
        (_, Datum::Bits(bits)) => float_text(rng, f64::from_bits(*bits)),
        (Type::Decimal(_, scale), Datum::Number(number)) => {
            decimal_text(rng, *number, (*scale).into())
        }
        (Type::Primitive("date"), Datum::Number(days)) => {
            day(i64::try_from(*days).unwrap()).to_string()
        }
        (Type::Primitive(name), Datum::Number(number)) => match *name {
            "time" => instant_text(rng, i64::try_from(*number).unwrap(), 6, None)[11..].to_owned(),
            "timestamp" => instant_text(rng, i64::try_from(*number).unwrap(), 6, None),
            "timestamp_ns" => instant_text(rng, i64::try_from(*number).unwrap(), 9, None),
            "timestamptz" | "timestamptz_ns" => {
                let digits = if *name == "timestamptz" { 6 } else { 9 };
                let number = i64::try_from(*number).unwrap();
                let minutes = if number.abs() < i64::MAX / 2
                    && digits == 6
                    && number.abs() < 50_000_000_000_000_000
                {
                    rng.i64(-23 * 60..23 * 60)
                } else {
                    0
                };
                instant_text(rng, number, digits, Some(minutes))
            }
            _ => number.to_string(),
        },
        _ => panic!("{of:?} {value:?} is no primitive"),
    }
}

fn float_text<F: std::fmt::Debug + std::fmt::LowerExp>(rng: &mut Rng, value: F) -> String {
    match format!("{value:?}").as_str() {
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        "NaN" => "NaN".to_owned(),
        text if rng.bool() => text.to_owned(),
        _ => format!("{value:e}"),
    }
}

/// An unscaled number as text: plain, with an exponent, or with zeros that change nothing.
fn decimal_text(rng: &mut Rng, unscaled: i128, scale: usize) -> String {
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    match rng.u32(0..3) {
        0 => format!("{unscaled}e-{scale}"),
        1 => format!("{sign}{whole}.{fraction}000"),
        _ if scale == 0 => unscaled.to_string(),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

fn day(days: i64) -> NaiveDate {
    NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + TimeDelta::days(days)
}

/// An instant as ISO 8601 text, by chrono; with the offset of a zone, in minutes, if there is one.
fn instant_text(rng: &mut Rng, value: i64, digits: u32, zone: Option<i64>) -> String {
    let unit = 10i64.pow(digits);
    let seconds = value.div_euclid(unit) + zone.unwrap_or(0) * 60;
    let fraction = value.rem_euclid(unit);
    let separator = rng.choice(["T", "t", " "]).unwrap();
    let local = DateTime::from_timestamp(seconds, 0).unwrap().naive_utc();
    let mut text = local.format(&format!("%Y-%m-%d{separator}%H:%M")).to_string();
    let second = local.format(":%S").to_string();
    if fraction != 0 {
        write!(
            text,
            "{second}.{fraction:0>width$}{}",
            rng.choice(["", "0", "000000000"]).unwrap(),
            width = digits as usize
        )
        .unwrap();
    } else if second != ":00" || rng.bool() {
        text.push_str(&second);
    }
    match zone {
        None => {}
        Some(0) => text.push_str(rng.choice(["Z", "z", "+00:00", "-0000"]).unwrap()),
        Some(minutes) => {
            let sign = if minutes < 0 { '-' } else { '+' };
            let colon = rng.choice(["", ":"]).unwrap();
            write!(text, "{sign}{:02}{colon}{:02}", minutes.abs() / 60, minutes.abs() % 60)
                .unwrap();
        }
    }
    text
}

/// The value of a row of an array.
pub(super) fn datum(array: &dyn Array, row: usize) -> Datum {
    if array.is_null(row) {
        return Datum::Null;
    }
    match array.data_type() {
        DataType::Boolean => Datum::Boolean(array.as_boolean().value(row)),
        DataType::Int32 => Datum::Number(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Datum::Number(array.as_primitive::<Int64Type>().value(row).into()),
        DataType::Float32 => {
            Datum::Bits(array.as_primitive::<Float32Type>().value(row).to_bits().into())
        }
        DataType::Float64 => Datum::Bits(array.as_primitive::<Float64Type>().value(row).to_bits()),
        DataType::Decimal128(..) => {
            Datum::Number(array.as_primitive::<Decimal128Type>().value(row))
        }
        DataType::Date32 => Datum::Number(array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Time64(_) => {
            Datum::Number(array.as_primitive::<Time64MicrosecondType>().value(row).into())
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Datum::Number(array.as_primitive::<TimestampMicrosecondType>().value(row).into())
        }
        DataType::Timestamp(..) => {
            Datum::Number(array.as_primitive::<TimestampNanosecondType>().value(row).into())
        }
        DataType::Utf8 => Datum::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::LargeBinary => Datum::Bytes(array.as_binary::<i64>().value(row).to_owned()),
        DataType::FixedSizeBinary(_) => {
            Datum::Bytes(array.as_fixed_size_binary().value(row).to_owned())
        }
        DataType::Struct(_) => {
            Datum::Struct(array.as_struct().columns().iter().map(|c| datum(c, row)).collect())
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(row);
            Datum::List((0..list.len()).map(|item| datum(&list, item)).collect())
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            Datum::Map(
                (0..entries.len())
                    .map(|at| (datum(entries.column(0), at), datum(entries.column(1), at)))
                    .collect(),
            )
        }
        other => panic!("{other}"),
    }
}

/// The rows of a batch.
pub(super) fn rows(table: &mut Table) -> Vec<Datum> {
    let batch = table.finish();
    (0..batch.num_rows())
        .map(|row| Datum::Struct(batch.columns().iter().map(|c| datum(c, row)).collect()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_value_comes_back_however_it_is_written(seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let fields = random_fields(rng, 3);
        let mut table = table(&fields);
        for _ in 0..2 {
            let mut expected = Vec::new();
            for _ in 0..rng.usize(0..12) {
                let row = random_struct(rng, &fields);
                let Datum::Struct(values) = &row else { unreachable!() };
                let payload = write_struct(rng, &fields, values);
                if let Err(fault) = table.push(&payload) {
                    panic!("{fault}\n{payload}\n{row:?}");
                }
                expected.push(row);
            }
            prop_assert_eq!(rows(&mut table), expected);
        }
    }
}
