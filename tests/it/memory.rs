//! Resident memory stays below `MEMORY_LIMIT_MB`, whatever the records and the table look like.

use serde_json::{Value, json};

use crate::landing::schema;
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::Record;
use crate::support::table::Lake;
use crate::support::{PATIENCE, unique};

const MIB: u64 = 1 << 20;

/// Reads the records from the start of a topic at full speed into a table. Gives the most that was
/// resident.
fn peak(
    lake: &Lake,
    partitions: i32,
    schema: &Value,
    records: impl Iterator<Item = Record>,
    set: &[(&str, &str)],
) -> u64 {
    let kafka = Kafka::shared();
    let topic = unique("memory");
    kafka.create_topic(&topic, partitions, &[("max.message.bytes", "20000000")]);
    let produced = kafka.produce(&topic, records);
    let icestream = Icestream::new(kafka, &topic, lake, &format!("db.{topic}")).schema(schema);
    let icestream =
        set.iter().fold(icestream, |icestream, (name, value)| icestream.set(name, *value));
    let mut running = icestream.run();
    running.wait_count("icestream_committed_records_total", &[], produced.count() as f64);
    let memory = running.memory();
    running.stop(PATIENCE).success();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), produced.count().unsigned_abs());
    println!(
        "{} records, {} shards, limit {} MiB: {} MiB at most, {} MiB at the end",
        produced.count(),
        icestream.setting("PARALLELISM").unwrap_or("auto"),
        icestream.setting("MEMORY_LIMIT_MB").unwrap_or("1024"),
        memory.peak / MIB,
        memory.resident / MIB
    );
    memory.peak
}

/// Letters that do not pack.
fn noise(random: &mut fastrand::Rng, length: usize) -> String {
    (0..length).map(|_| random.alphanumeric()).collect()
}

#[test]
fn tiny_records_of_many_partitions_do_not_pass_the_limit() {
    // Each costs the client many times its size.
    let tiny = (0..1_500_000i64)
        .zip((0..12).cycle())
        .map(|(number, partition)| Record::new(partition, format!("{{\"id\":{number}}}")));
    let settings = [("MEMORY_LIMIT_MB", "192"), ("PARALLELISM", "2")];
    let peak = peak(&Lake::sqlite(), 12, &schema(), tiny, &settings);
    assert!(peak < 192 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn large_records_do_not_pass_the_limit() {
    let mut random = fastrand::Rng::with_seed(3);
    let large = (0..300i64).zip((0..4).cycle()).map(move |(number, partition)| {
        let text = noise(&mut random, 500_000);
        Record::new(partition, json!({ "id": number, "text": text }).to_string())
    });
    let settings = [("MEMORY_LIMIT_MB", "256"), ("PARALLELISM", "2")];
    let peak = peak(&Lake::sqlite(), 4, &schema(), large, &settings);
    assert!(peak < 256 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn many_open_files_and_uploads_do_not_pass_the_limit() {
    let mut random = fastrand::Rng::with_seed(5);
    let spread = (0..250_000i64).zip((0..4).cycle()).map(move |(number, partition)| {
        let text = noise(&mut random, 300);
        let day = 1 + number % 28;
        let ts = format!("2026-02-{day:02}T10:00:00Z");
        Record::new(partition, json!({ "id": number, "text": text, "ts": ts }).to_string())
    });
    // One epoch holds all, in 28 files a shard.
    let settings = [
        ("MEMORY_LIMIT_MB", "192"),
        ("PARALLELISM", "2"),
        ("ICEBERG_PARTITION_SPEC", "day(ts)"),
        ("CHECKPOINT_INTERVAL_MS", "10000"),
    ];
    let peak = peak(&Lake::sqlite_on_s3(), 4, &schema(), spread, &settings);
    assert!(peak < 192 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn more_shards_than_the_memory_has_room_for_do_not_pass_the_limit() {
    let mut random = fastrand::Rng::with_seed(9);
    let records = (0..400_000i64).zip((0..16).cycle()).map(move |(number, partition)| {
        let text = noise(&mut random, 200);
        Record::new(partition, json!({ "id": number, "text": text }).to_string())
    });
    let settings = [("MEMORY_LIMIT_MB", "128"), ("PARALLELISM", "16")];
    let peak = peak(&Lake::sqlite(), 16, &schema(), records, &settings);
    assert!(peak < 128 * MIB, "{} MiB", peak / MIB);
}

/// A table of an id and so many numbers in all, and records of it over 4 partitions.
fn numbers(columns: i64, count: i64) -> (Value, impl Iterator<Item = Record>) {
    let name = |id: i64| if id == 1 { "id".to_owned() } else { format!("n{id}") };
    let field =
        move |id: i64| json!({ "id": id, "name": name(id), "required": id == 1, "type": "long" });
    let fields: Vec<Value> = (1..=columns).map(field).collect();
    let mut random = fastrand::Rng::with_seed(11);
    let records = (0..count).zip((0..4).cycle()).map(move |(number, partition)| {
        let others = (2..=columns).map(|id| (name(id), json!(random.i64(0..1 << 40))));
        let mut record: serde_json::Map<String, Value> = others.collect();
        record.insert(name(1), json!(number));
        Record::new(partition, Value::Object(record).to_string())
    });
    (json!({ "type": "struct", "fields": fields }), records)
}

#[test]
fn a_high_level_of_zstd_for_many_columns_does_not_pass_the_limit() {
    // At level 9 zstd keeps 5 to 10 MiB for each column that has filled a page.
    let (schema, records) = numbers(60, 120_000);
    // One epoch holds all: more than a page of each column in each shard.
    let settings = [
        ("MEMORY_LIMIT_MB", "512"),
        ("PARALLELISM", "2"),
        ("ICEBERG_TABLE_PROPERTIES", "write.parquet.compression-level=9"),
        ("CHECKPOINT_INTERVAL_MS", "10000"),
    ];
    let peak = peak(&Lake::sqlite(), 4, &schema, records, &settings);
    assert!(peak < 512 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn many_table_partitions_of_many_columns_do_not_pass_the_limit() {
    // The encoders of a row group of each would take 4 MiB before they have rows.
    let (schema, records) = numbers(40, 120_000);
    let settings = [
        ("MEMORY_LIMIT_MB", "256"),
        ("PARALLELISM", "2"),
        ("ICEBERG_PARTITION_SPEC", "bucket[60](id)"),
        ("CHECKPOINT_INTERVAL_MS", "10000"),
    ];
    let peak = peak(&Lake::sqlite(), 4, &schema, records, &settings);
    assert!(peak < 256 * MIB, "{} MiB", peak / MIB);
}
