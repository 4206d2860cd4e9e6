//! What is in the topics.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::flights::Flights;
use crate::support::kafka::Kafka;
use crate::support::producing::{Produced, Record};
use crate::support::unique;

/// How often the flights are repeated, so that a run takes long enough to be measured.
const FLIGHTS_TIMES: usize = 3;

/// An input that can be made.
pub enum Input {
    /// So many readings of sensors as JSON of about 300 bytes, over so many partitions.
    Readings(u64, i32),
    /// The flights, into a table by month.
    Flights,
}

/// An input in its topic.
pub struct Preloaded {
    /// Name for people.
    pub name: String,
    /// What is in the topic.
    pub produced: Produced,
    /// Bytes of all payloads.
    pub bytes: u64,
    /// The table's schema.
    pub schema: Value,
    /// The table's partition spec, if any.
    pub spec: Option<&'static str>,
}

impl Input {
    /// All inputs, with so many readings.
    pub fn each(records: u64) -> [Self; 3] {
        [Self::Readings(records, 1), Self::Readings(records, 6), Self::Flights]
    }

    /// Name for people.
    pub fn name(&self) -> String {
        match self {
            Self::Readings(records, 1) => format!("{records} readings, 1 partition"),
            Self::Readings(records, n) => format!("{records} readings, {n} partitions"),
            Self::Flights => {
                format!("flights, {FLIGHTS_TIMES} times, 6 partitions, table by month")
            }
        }
    }

    /// Fills a new topic.
    pub fn produce(&self, kafka: &Kafka) -> Preloaded {
        let (name, topic) = (self.name(), unique("bench"));
        let mut bytes = 0;
        let mut weigh = |record: Record| {
            bytes += record.payload.as_ref().map_or(0, Vec::len) as u64;
            record
        };
        match self {
            Self::Readings(records, partitions) => {
                kafka.create_topic(&topic, *partitions, &[]);
                let all = (0..*records).zip((0..*partitions).cycle());
                let all = all.map(|(n, partition)| Record::new(partition, reading(n)));
                let produced = kafka.produce(&topic, all.map(&mut weigh));
                Preloaded { name, produced, bytes, schema: readings_schema(), spec: None }
            }
            Self::Flights => {
                kafka.create_topic(&topic, 6, &[]);
                let all = (0..FLIGHTS_TIMES).flat_map(|_| Flights::get().records(6));
                let produced = kafka.produce(&topic, all.map(&mut weigh));
                let schema = Flights::schema();
                Preloaded { name, produced, bytes, schema, spec: Some("month(time_hour)") }
            }
        }
    }
}

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
fn reading(n: u64) -> String {
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

fn readings_schema() -> Value {
    let optional = |id: i32, name: &str, kind: Value| json!({ "id": id, "name": name, "required": false, "type": kind });
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
