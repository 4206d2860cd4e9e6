//! Readings of sensors as JSON, the same ones for the same seed.

use std::fmt::Write as _;

use chrono::{DateTime, Duration, SecondsFormat, Utc};

/// No reading takes more bytes in the log: key, value and what a record needs besides them.
pub(super) const MAX_RECORD_BYTES: usize = 280;

/// Schema of the table that the readings go into.
pub(super) const SCHEMA: &str = r#"{
  "type": "struct",
  "fields": [
    {"id": 1, "name": "sample_id", "required": true, "type": "string"},
    {"id": 2, "name": "device", "required": true, "type": "string"},
    {"id": 3, "name": "metric", "required": true, "type": "string"},
    {"id": 4, "name": "value", "required": false, "type": "double"},
    {"id": 5, "name": "unit", "required": false, "type": "string"},
    {"id": 6, "name": "measured_at", "required": true, "type": "timestamptz"},
    {"id": 7, "name": "site", "required": false, "type": {"type": "struct", "fields": [
      {"id": 8, "name": "plant", "required": false, "type": "string"},
      {"id": 9, "name": "line", "required": false, "type": "int"}
    ]}}
  ]
}
"#;

const METRICS: [(&str, &str, f64, f64); 4] = [
    ("temperature", "Cel", 18.0, 95.0),
    ("vibration", "mm/s", 0.1, 12.0),
    ("pressure", "bar", 0.8, 10.0),
    ("humidity", "%", 20.0, 80.0),
];
const MACHINES: [&str; 5] = ["press", "lathe", "oven", "mixer", "pump"];
const PLANTS: [&str; 3] = ["north", "south", "harbour"];
/// 2026-01-01T00:00:00Z.
const FIRST_MEASURED: i64 = 1_767_225_600;

/// One reading.
pub(super) struct Reading {
    pub sample_id: String,
    pub json: String,
}

/// An endless row of readings.
pub(super) struct Readings {
    random: fastrand::Rng,
    number: u64,
    measured_at: DateTime<Utc>,
}

impl Readings {
    pub(crate) fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let measured_at = DateTime::from_timestamp(FIRST_MEASURED, 0).unwrap_or_default();
        Self { random, number: 0, measured_at }
    }
}

impl Iterator for Readings {
    type Item = Reading;

    fn next(&mut self) -> Option<Reading> {
        let random = &mut self.random;
        self.number += 1;
        // Half a second a reading: half a million of them are three days.
        self.measured_at += Duration::milliseconds(random.i64(1..1_000));
        let sample_id = format!("s-{:010}", self.number);
        let machine = random.usize(..MACHINES.len());
        let (metric, unit, low, high) = METRICS[random.usize(..METRICS.len())];
        let mut json = String::with_capacity(MAX_RECORD_BYTES);
        let at = self.measured_at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let written = write!(
            json,
            r#"{{"sample_id":"{sample_id}","device":"{}-{:03}","metric":"{metric}","value":{:.3},"unit":"{unit}","measured_at":"{at}","site":{{"plant":"{}","line":{}}}}}"#,
            MACHINES[machine],
            random.u32(1..=200),
            low + (high - low) * random.f64(),
            PLANTS[machine % PLANTS.len()],
            random.u32(1..=12),
        );
        written.ok().map(|()| Reading { sample_id, json })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Bytes of a record in a batch besides key and value, all lengths at their longest.
    const RECORD_FRAME: usize = 24;

    #[test]
    fn every_reading_has_exactly_the_fields_of_the_schema_with_their_types() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        for reading in Readings::new(7).take(2_000) {
            let value: Value = serde_json::from_str(&reading.json).unwrap();
            assert_fields(&schema, &value);
            assert_eq!(value["sample_id"], reading.sample_id.as_str());
        }
    }

    fn assert_fields(schema: &Value, value: &Value) {
        let fields = schema["fields"].as_array().unwrap();
        assert_eq!(fields.len(), value.as_object().unwrap().len(), "{value}");
        for field in fields {
            let found = &value[field["name"].as_str().unwrap()];
            match field["type"].as_str() {
                Some("string") => assert!(found.is_string(), "{field} {value}"),
                Some("double") => assert!(found.is_f64(), "{field} {value}"),
                Some("int") => assert!(found.is_i64(), "{field} {value}"),
                Some("timestamptz") => {
                    assert!(
                        DateTime::parse_from_rfc3339(found.as_str().unwrap()).is_ok(),
                        "{value}"
                    );
                }
                None => assert_fields(&field["type"], found),
                Some(other) => panic!("no reading has a {other}"),
            }
        }
    }

    #[test]
    fn the_schema_is_one_that_a_table_is_made_from() {
        assert!(crate::table::parse_schema(SCHEMA).is_ok());
    }

    #[test]
    fn the_same_seed_makes_the_same_readings_and_no_sample_twice() {
        let all = |seed| Readings::new(seed).take(5_000).map(|r| r.json).collect::<Vec<_>>();
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let ids: std::collections::BTreeSet<_> =
            Readings::new(1).take(5_000).map(|r| r.sample_id).collect();
        assert_eq!(ids.len(), 5_000);
    }

    #[test]
    fn no_record_is_larger_than_what_the_partitions_are_counted_with() {
        let largest = Readings::new(3)
            .take(20_000)
            .map(|r| r.sample_id.len() + r.json.len() + RECORD_FRAME)
            .max()
            .unwrap();
        assert!(largest <= MAX_RECORD_BYTES, "{largest}");
        assert!(largest * 4 > MAX_RECORD_BYTES * 3, "wasteful: {largest}");
    }
}
