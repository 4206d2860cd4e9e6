//! A table partitioned so that each row is a partition of its own.

use serde_json::{Value, json};

use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::Record;
use crate::support::table::Lake;
use crate::support::{PATIENCE, unique};

const MIB: u64 = 1 << 20;
const RECORDS: i64 = 30_000;

#[test]
fn a_partition_for_each_row_is_committed_in_parts_within_the_memory_and_warned_of() {
    let (kafka, lake, topic) = (Kafka::shared(), Lake::sqlite(), unique("fan_out"));
    kafka.create_topic(&topic, 4, &[]);
    let records = (0..RECORDS).zip((0..4).cycle()).map(|(number, partition)| {
        let payload = json!({ "id": number, "text": format!("reading {number}") });
        Record::new(partition, payload.to_string())
    });
    let produced = kafka.produce(&topic, records);
    let schema = json!({ "type": "struct", "fields": [
        { "id": 1, "name": "id", "required": true, "type": "long" },
        { "id": 2, "name": "text", "required": false, "type": "string" },
    ]});
    let table = lake.table(&format!("db.{topic}"));
    let icestream = Icestream::new(kafka, &topic, &lake, &table.name())
        .schema(&schema)
        .set("ICEBERG_PARTITION_SPEC", "id")
        .set("MEMORY_LIMIT_MB", "192")
        .set("PARALLELISM", "2")
        // All that ends an epoch here but the last one is the number of its files.
        .set("CHECKPOINT_INTERVAL_MS", "3600000");
    let mut running = icestream.run();
    running.wait_metrics("have read all", 4 * PATIENCE, |metrics| {
        let committed = metrics.value("icestream_committed_records_total", &[])?;
        // The rest is less than what ends an epoch.
        (committed > 0.8 * RECORDS as f64).then_some(())
    });
    let memory = running.memory();
    let log = running.stop(PATIENCE).success().log;
    icestream.run_until_caught_up();
    let brought: Vec<u64> = table.snapshots().iter().filter_map(added_files).collect();
    println!("{} MiB at most; commits of {brought:?} files", memory.peak / MIB);
    assert!(memory.peak < 192 * MIB, "{} MiB", memory.peak / MIB);
    assert!(brought.len() >= 5 && brought.iter().all(|files| *files < 6_000), "{brought:?}");
    assert_eq!(brought.iter().sum::<u64>(), RECORDS.unsigned_abs());
    assert_eq!(assert_exactly_once(&table, &[&produced]), RECORDS.unsigned_abs());
    let warned = log.lines().filter(|line| line.contains("data files with 1.0 rows each")).count();
    assert_eq!(warned, 1, "{log}");
    assert!(log.contains("partition field id (identity) had"), "{log}");
}

fn added_files(snapshot: &Value) -> Option<u64> {
    snapshot["summary"]["added-data-files"].as_str()?.parse().ok()
}
