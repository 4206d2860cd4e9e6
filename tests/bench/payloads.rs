//! The records: record number `n` of a kind is the same one whenever it is made.

use std::fmt::Write;

use serde_json::{Value, json};

const TYPES: [(&str, &str); 6] = [
    ("heart_rate", "bpm"),
    ("blood_pressure", "mmHg"),
    ("oxygen_saturation", "percent"),
    ("body_temperature", "celsius"),
    ("step_count", "steps"),
    ("sleep_stage", "stage"),
];
const WORDS: [&str; 12] = [
    "resting",
    "walking",
    "after",
    "lunch",
    "sensor",
    "moved",
    "calibrated",
    "manual",
    "entry",
    "evening",
    "quiet",
    "checked",
];

/// Reading number `n`: the same one whenever it is made.
pub fn reading(n: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(n);
    let (kind, unit) = TYPES[rng.usize(..TYPES.len())];
    let id = rng.u128(..);
    let millis = n * 7;
    let (ms, s) = (millis % 1000, millis / 1000);
    let mut text = String::with_capacity(400);
    write!(
        text,
        "{{\"id\":\"{:08x}-{:04x}-{:04x}-{:04x}-{:012x}\",\"user\":\"user-{:06}\",\
         \"type\":\"{kind}\",\"value\":{}.{:03},\"unit\":\"{unit}\",\
         \"ts\":\"2026-02-{:02}T{:02}:{:02}:{:02}.{ms:03}Z\",\"seq\":{n},\"ok\":{},",
        (id >> 96) & 0xffff_ffff,
        (id >> 80) & 0xffff,
        (id >> 64) & 0xffff,
        (id >> 48) & 0xffff,
        id & 0xffff_ffff_ffff,
        rng.u32(..50_000),
        rng.u32(..200),
        rng.u32(..1000),
        1 + s / 86_400 % 28,
        s / 3600 % 24,
        s / 60 % 60,
        s % 60,
        rng.u8(..20) > 0,
    )
    .expect("a String takes everything");
    if rng.u8(..4) == 0 {
        text.push_str("\"note\":null,");
    } else {
        text.push_str("\"note\":\"");
        for _ in 0..rng.usize(7..12) {
            text.push_str(WORDS[rng.usize(..WORDS.len())]);
            text.push(' ');
        }
        text.push_str("\",");
    }
    write!(
        text,
        "\"meta\":{{\"device\":\"watch-{:05}\",\"ver\":\"{}.{}.{}\",\"quality\":{}}}}}",
        rng.u32(..20_000),
        rng.u8(1..4),
        rng.u8(..10),
        rng.u8(..30),
        rng.u8(..=100),
    )
    .expect("a String takes everything");
    text
}

/// Values that may be null where one in ten is.
const NULLABLE: [&str; 7] = ["user", "type", "value", "unit", "ts", "ok", "note"];

/// Reading number `n` with its keys in an order of its own and a tenth of its values null.
pub fn shuffled(n: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(!n);
    let text = reading(n);
    let (head, meta) = text.split_once("\"meta\":").expect("a reading has meta");
    let meta = meta.strip_suffix('}').expect("a reading is an object");
    // No value of a reading has a comma in it.
    let members = head.trim_start_matches('{').trim_end_matches(',').split(',');
    let mut members: Vec<String> = members
        .map(|member| {
            let name = member.split('"').nth(1).expect("a member has a name");
            match NULLABLE.contains(&name) && rng.u8(..10) == 0 {
                true => format!("\"{name}\":null"),
                false => member.to_owned(),
            }
        })
        .collect();
    let mut inner: Vec<&str> =
        meta.trim_start_matches('{').trim_end_matches('}').split(',').collect();
    rng.shuffle(&mut inner);
    members.push(format!("\"meta\":{{{}}}", inner.join(",")));
    rng.shuffle(&mut members);
    format!("{{{}}}", members.join(","))
}

/// Of [`reading`] and [`shuffled`].
pub fn readings_schema() -> Value {
    let meta = json!({ "type": "struct", "fields": [
        optional(11, "device", json!("string")),
        optional(12, "ver", json!("string")),
        optional(13, "quality", json!("int")),
    ]});
    json!({ "type": "struct", "schema-id": 0, "fields": [
        { "id": 1, "name": "id", "required": true, "type": "string" },
        optional(2, "user", json!("string")),
        optional(3, "type", json!("string")),
        optional(4, "value", json!("double")),
        optional(5, "unit", json!("string")),
        optional(6, "ts", json!("timestamptz")),
        optional(7, "seq", json!("long")),
        optional(8, "ok", json!("boolean")),
        optional(9, "note", json!("string")),
        optional(10, "meta", meta),
    ]})
}

fn optional(id: i32, name: &str, kind: Value) -> Value {
    json!({ "id": id, "name": name, "required": false, "type": kind })
}

/// What is in the fields of a wide record, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wide {
    /// One of twelve words.
    Word,
    /// One of ten thousand names.
    Name,
    /// Several words.
    Text,
    /// Sixteen random hexadecimal digits.
    Hex,
    /// A double with three decimals.
    Double,
    /// A long.
    Long,
    /// An instant.
    Time,
    /// True or false.
    Flag,
}

/// Fields of a wide record: of 40 texts, 25 doubles, 20 longs, 5 instants and 10 flags.
pub const WIDE_FIELDS: usize = 100;

impl Wide {
    /// What is in field number `field`.
    pub fn at(field: usize) -> Self {
        // Spread over the record, as they would be.
        match field % 20 {
            0 | 7 | 14 => Self::Word,
            3 | 10 => Self::Name,
            5 | 12 => Self::Text,
            17 => Self::Hex,
            1 | 4 | 8 | 11 | 15 => Self::Double,
            2 | 6 | 13 | 18 => Self::Long,
            9 => Self::Time,
            _ => Self::Flag,
        }
    }

    /// The name of field number `field`.
    pub fn name(field: usize) -> String {
        let prefix = match Self::at(field) {
            Self::Word => "word",
            Self::Name => "name",
            Self::Text => "text",
            Self::Hex => "hex",
            Self::Double => "double",
            Self::Long => "long",
            Self::Time => "time",
            Self::Flag => "flag",
        };
        format!("{prefix}_{field:03}")
    }
}

/// Wide record number `n`.
pub fn wide(n: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(n);
    let mut text = String::with_capacity(2500);
    for field in 0..WIDE_FIELDS {
        text.push(if field == 0 { '{' } else { ',' });
        write!(text, "\"{}\":", Wide::name(field)).expect("a String takes everything");
        match Wide::at(field) {
            Wide::Word => write!(text, "\"{}\"", WORDS[rng.usize(..WORDS.len())]),
            Wide::Name => write!(text, "\"member-{:06}\"", rng.u32(..10_000)),
            Wide::Text => write!(
                text,
                "\"{} {} {}\"",
                WORDS[rng.usize(..WORDS.len())],
                WORDS[rng.usize(..WORDS.len())],
                rng.u32(..1000),
            ),
            Wide::Hex => write!(text, "\"{:016x}\"", rng.u64(..)),
            Wide::Double => write!(text, "{}.{:03}", rng.u32(..2000), rng.u32(..1000)),
            Wide::Long => write!(text, "{}", n * 3 + rng.u64(..100_000)),
            Wide::Time => {
                let s = n / 100 + rng.u64(..60);
                write!(
                    text,
                    "\"2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z\"",
                    1 + s / 86_400 % 28,
                    s / 3600 % 24,
                    s / 60 % 60,
                    s % 60,
                    rng.u32(..1000),
                )
            }
            Wide::Flag => write!(text, "{}", rng.bool()),
        }
        .expect("a String takes everything");
    }
    text.push('}');
    text
}

/// Of [`wide`].
pub fn wide_schema() -> Value {
    let fields: Vec<Value> = (0..WIDE_FIELDS)
        .zip(1..)
        .map(|(field, id)| {
            let kind = match Wide::at(field) {
                Wide::Word | Wide::Name | Wide::Text | Wide::Hex => "string",
                Wide::Double => "double",
                Wide::Long => "long",
                Wide::Time => "timestamptz",
                Wide::Flag => "boolean",
            };
            optional(id, &Wide::name(field), json!(kind))
        })
        .collect();
    json!({ "type": "struct", "schema-id": 0, "fields": fields })
}

/// Nested record number `n`.
pub fn nested(n: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(n);
    let mut text = String::with_capacity(900);
    write!(
        text,
        "{{\"id\":{n},\"device\":{{\"model\":\"model-{:02}\",\"os\":{{\"name\":\"{}\",\"version\":\"{}.{}\"}},\
         \"location\":{{\"lat\":{}.{:05},\"lon\":{}.{:05}}}}},\"tags\":[",
        rng.u8(..40),
        WORDS[rng.usize(..WORDS.len())],
        rng.u8(1..20),
        rng.u8(..10),
        rng.u8(..90),
        rng.u32(..100_000),
        rng.u8(..180),
        rng.u32(..100_000),
    )
    .expect("a String takes everything");
    let list = |text: &mut String, count: usize, item: &mut dyn FnMut(&mut String, usize)| {
        for i in 0..count {
            if i > 0 {
                text.push(',');
            }
            item(text, i);
        }
    };
    let count = rng.usize(..5);
    list(&mut text, count, &mut |text, _| {
        write!(text, "\"{}\"", WORDS[rng.usize(..WORDS.len())]).expect("a String takes everything");
    });
    text.push_str("],\"samples\":[");
    let count = rng.usize(2..10);
    list(&mut text, count, &mut |text, i| {
        write!(
            text,
            "{{\"at\":{},\"value\":{}.{:02}}}",
            n * 1000 + i as u64 * 40,
            rng.u8(..200),
            rng.u8(..100)
        )
        .expect("a String takes everything");
    });
    text.push_str("],\"attributes\":{");
    let count = rng.usize(1..6);
    list(&mut text, count, &mut |text, i| {
        write!(text, "\"{}\":\"value-{:03}\"", WORDS[i], rng.u16(..1000))
            .expect("a String takes everything");
    });
    text.push_str("},\"counts\":{");
    let count = rng.usize(..5);
    list(&mut text, count, &mut |text, i| {
        write!(text, "\"{}\":{}", WORDS[i + 5], rng.u32(..10_000))
            .expect("a String takes everything");
    });
    text.push_str("}}");
    text
}

/// Of [`nested`].
pub fn nested_schema() -> Value {
    let structure = |fields: Vec<Value>| json!({ "type": "struct", "fields": fields });
    let list = |id: i32, element: Value| json!({ "type": "list", "element-id": id, "element-required": false, "element": element });
    let map = |id: i32, value: &str| {
        json!({ "type": "map", "key-id": id, "key": "string",
                "value-id": id + 1, "value-required": false, "value": value })
    };
    let os = structure(vec![
        optional(11, "name", json!("string")),
        optional(12, "version", json!("string")),
    ]);
    let location =
        structure(vec![optional(13, "lat", json!("double")), optional(14, "lon", json!("double"))]);
    let device = structure(vec![
        optional(15, "model", json!("string")),
        optional(16, "os", os),
        optional(17, "location", location),
    ]);
    let sample =
        structure(vec![optional(18, "at", json!("long")), optional(19, "value", json!("double"))]);
    json!({ "type": "struct", "schema-id": 0, "fields": [
        { "id": 1, "name": "id", "required": true, "type": "long" },
        optional(2, "device", device),
        optional(3, "tags", list(20, json!("string"))),
        optional(4, "samples", list(21, sample)),
        optional(5, "attributes", map(22, "string")),
        optional(6, "counts", map(24, "long")),
    ]})
}
