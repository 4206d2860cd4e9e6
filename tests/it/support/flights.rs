//! Real input: the 336,776 flights that left New York in 2013.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::new_dir;
use super::oracle::{self, ColumnStats};
use super::producing::Record;

/// The flights.
pub struct Flights {
    lines: String,
    columns: BTreeMap<String, ColumnStats>,
}

impl Flights {
    /// Number of flights.
    pub const COUNT: usize = 336_776;

    /// Reads them, once per test process.
    pub fn get() -> &'static Self {
        static FLIGHTS: OnceLock<Flights> = OnceLock::new();
        FLIGHTS.get_or_init(|| {
            let dir = new_dir("flights");
            oracle::python(&oracle::script("flights.py"), &[&dir.display().to_string()]);
            Self {
                lines: read(&dir.join("flights.jsonl")),
                columns: serde_json::from_str(&read(&dir.join("columns.json")))
                    .expect("statistics of the flights' columns"),
            }
        })
    }

    /// A JSON object a flight, in the order of the file.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.lines()
    }

    /// The flights as records, dealt out to so many partitions one by one.
    pub fn records(&self, partitions: i32) -> impl Iterator<Item = Record> + '_ {
        self.lines()
            .zip((0..partitions).cycle())
            .map(|(line, partition)| Record::new(partition, line.as_bytes()))
    }

    /// Count, nulls and sum of every column, straight from the CSV: what a table's must equal.
    pub fn columns(&self) -> &BTreeMap<String, ColumnStats> {
        &self.columns
    }

    /// The Iceberg schema. `time_hour` is the flight's time, a `timestamptz`.
    pub fn schema() -> Value {
        let names = [
            ("year", "int"),
            ("month", "int"),
            ("day", "int"),
            ("dep_time", "int"),
            ("sched_dep_time", "int"),
            ("dep_delay", "double"),
            ("arr_time", "int"),
            ("sched_arr_time", "int"),
            ("arr_delay", "double"),
            ("carrier", "string"),
            ("flight", "long"),
            ("tailnum", "string"),
            ("origin", "string"),
            ("dest", "string"),
            ("air_time", "double"),
            ("distance", "long"),
            ("hour", "int"),
            ("minute", "int"),
            ("time_hour", "timestamptz"),
        ];
        let fields: Vec<Value> = names
            .iter()
            .zip(1..)
            .map(|((name, kind), id)| {
                json!({ "id": id, "name": name, "required": false, "type": kind })
            })
            .collect();
        json!({ "type": "struct", "schema-id": 0, "fields": fields })
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
