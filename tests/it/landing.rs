//! The main job: a topic into a table, caught up, judged by readers that are not ours.

use serde_json::{Value, json};

use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::{End, Record};
use crate::support::table::Lake;
use crate::support::unique;

/// A schema with a number, a text and a time.
pub fn schema() -> Value {
    json!({"type": "struct", "fields": [
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "text", "required": false, "type": "string"},
        {"id": 3, "name": "ts", "required": false, "type": "timestamptz"},
    ]})
}

/// Records of [`schema`], spread over the partitions in turn.
pub fn records(partitions: i32, numbers: std::ops::Range<i64>) -> impl Iterator<Item = Record> {
    numbers.zip((0..partitions).cycle()).map(|(number, partition)| {
        let (day, second) = (1 + number % 28, number % 60);
        let payload = json!({
            "id": number, "text": format!("é{number}"),
            "ts": format!("2026-02-{day:02}T10:00:{second:02}.5Z"),
        });
        Record::new(partition, payload.to_string())
    })
}

/// A pipeline on a new topic, with the table still to be made.
pub fn pipeline(lake: &Lake, partitions: i32) -> (Icestream, String) {
    let kafka = Kafka::shared();
    let topic = unique("landing");
    kafka.create_topic(&topic, partitions, &[]);
    let table = format!("db.{topic}");
    (Icestream::new(kafka, &topic, lake, &table).schema(&schema()), topic)
}

#[test]
fn every_record_is_in_the_table_once_on_every_catalog_and_store() {
    for (name, lake) in Lake::each() {
        println!("on {name}");
        let lake = lake();
        let (icestream, topic) = pipeline(&lake, 3);
        let produced = Kafka::shared().produce_kept(&topic, records(3, 0..20_000));
        icestream.run_until_caught_up();
        let table = lake.table(&format!("db.{topic}"));
        assert_eq!(assert_exactly_once(&table, &[&produced]), 20_000);
        oracle::assert_payloads(&table, &produced, &["id", "text"]);
        let read = oracle::judge(&table, &[&produced], Reader::PyIceberg);
        assert!(read.is_exact(), "{read:?}");
        let more = Kafka::shared().produce(&topic, records(3, 20_000..25_000));
        icestream.run_until_caught_up();
        assert_eq!(assert_exactly_once(&table, &[&produced, &more]), 25_000);
    }
}

#[test]
fn a_log_that_ends_in_markers_and_aborted_records_is_caught_up() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let kafka = Kafka::shared();
    let kept = kafka.produce_in_transaction(&topic, records(2, 0..1000), End::Commit);
    kafka.produce_in_transaction(&topic, records(2, 1000..2000), End::Abort);
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&kept]), 1000);
}
