//! Merged manifests and expired snapshots, as other programs see them.

use serde_json::{Value, json};

use crate::landing::{pipeline, records};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::{Reader, assert_exactly_once, query};
use crate::support::producing::Produced;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, files, foreign, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";

/// What a table says to be kept small: by its number of snapshots, whatever their age.
const SMALL: [(&str, &str); 5] = [
    ("commit.manifest.min-count-to-merge", "3"),
    ("history.expire.max-snapshot-age-ms", "1"),
    ("history.expire.min-snapshots-to-keep", "4"),
    ("write.metadata.previous-versions-max", "3"),
    ("write.metadata.delete-after-commit.enabled", "true"),
];

fn set_properties(table: &Table<'_>, properties: &[(&str, &str)]) {
    let code = "with table.transaction() as transaction:\n\
                \x20   transaction.set_properties(dict(data))";
    foreign::run(table, code, json!(properties));
}

/// One commit for each round, each with its own records.
fn rounds(
    running: &mut Running,
    topic: &str,
    rounds: std::ops::Range<i64>,
    mut produced: Produced,
) -> Produced {
    const EACH: i64 = 20;
    for round in rounds {
        let new = Kafka::shared().produce(topic, records(2, round * EACH..(round + 1) * EACH));
        produced = produced.and(&new);
        running.wait_count(COMMITTED, &[], produced.count() as f64);
    }
    produced
}

/// Snapshots, manifests of the head, and files of the head with both sequence numbers.
fn shape(table: &Table<'_>) -> Value {
    let code = "
table = catalog.load_table(name)
entries = [e for e in table.inspect.entries().to_pylist() if e['status'] != 2]
answer = {
    'snapshots': len(table.snapshots()),
    'manifests': len(table.inspect.manifests()),
    'files': {e['data_file']['file_path']: [e['snapshot_id'], e['sequence_number'], e['file_sequence_number']] for e in entries},
}
";
    foreign::run(table, code, Value::Null)
}

/// Files in the store that no snapshot, manifest, list or metadata log names.
fn strangers(table: &Table<'_>) -> Vec<String> {
    let known = files::referenced(table);
    let names = files::in_store(table).into_iter();
    let names = names.map(|path| path.rsplit('/').next().unwrap().to_owned());
    names.filter(|name| !known.contains(name)).collect()
}

/// Commits that merged manifests.
pub fn merges(table: &Table<'_>) -> usize {
    let snapshots = table.snapshots();
    let replaced = snapshots.iter().filter(|snapshot| {
        let count = snapshot["summary"]["manifests-replaced"].as_str();
        count.is_some_and(|count| count != "0")
    });
    replaced.count()
}

/// Makes a table in two schemas and two specs, with rows by others, by many commits that merge
/// manifests. Gives its shape after the first and what belongs in it.
pub fn grow_across_changes(
    icestream: &Icestream,
    table: &Table<'_>,
    topic: &str,
) -> (Value, [Produced; 2]) {
    let mut running = icestream.clone().set("CHECKPOINT_INTERVAL_MS", "100").run();
    let first = Kafka::shared().produce(topic, records(2, 0..20));
    running.wait_count(COMMITTED, &[], 20.0);
    set_properties(table, &SMALL[..1]);
    let seen = shape(table);
    let mut produced = rounds(&mut running, topic, 1..8, first);
    // What others do in between: rows, a column, a spec.
    foreign::maintain(table, "append", 0);
    foreign::maintain(table, "add_column", 0);
    produced = rounds(&mut running, topic, 8..14, produced);
    let spec = "
from pyiceberg.transforms import BucketTransform
with table.update_spec() as update:
    update.add_field('id', BucketTransform(2), 'id_bucket')
";
    foreign::run(table, spec, Value::Null);
    produced = rounds(&mut running, topic, 14..22, produced);
    running.stop(PATIENCE).success();
    let others =
        Produced { topic: "foreign".into(), offsets: [(0, vec![0..10])].into(), payloads: None };
    (seen, [produced, others])
}

#[test]
fn manifests_are_merged_across_changes_of_schema_and_spec_and_foreign_commits() {
    for (kind, lake) in [("SQLite", Lake::sqlite()), ("REST", Lake::rest())] {
        let (icestream, topic) = pipeline(&lake, 2);
        let table = lake.table(&format!("db.{topic}"));
        let (seen, produced) = grow_across_changes(&icestream, &table, &topic);

        let now = shape(&table);
        let files = now["files"].as_object().unwrap();
        let manifests = now["manifests"].as_u64().unwrap();
        assert!(files.len() >= 22, "{kind}: {now}");
        assert!(manifests <= 20 && manifests < files.len() as u64, "{kind}: {now}");
        for (path, numbers) in seen["files"].as_object().unwrap() {
            assert_eq!(&files[path], numbers, "{kind}: {path}");
        }
        for snapshot in table.snapshots() {
            // Each file says the snapshot that brought it, and that snapshot's sequence number.
            let (id, number) = (&snapshot["snapshot-id"], &snapshot["sequence-number"]);
            let of = files.values().filter(|numbers| numbers[0] == *id);
            for numbers in of {
                assert_eq!((&numbers[1], &numbers[2]), (number, number), "{kind}: {numbers}");
            }
        }
        let merged = merges(&table);
        assert!(merged >= 4, "{kind}: {merged}");
        assert_exactly_once(&table, &[&produced[0], &produced[1]]);
        icestream.command(&["verify"]).success();
    }
}

#[test]
fn a_table_that_expires_as_it_grows_is_read_verified_and_recovered() {
    for (kind, lake) in [("SQLite", Lake::sqlite()), ("REST", Lake::rest())] {
        let (icestream, topic) = pipeline(&lake, 2);
        let icestream = icestream
            .set("CHECKPOINT_INTERVAL_MS", "100")
            .set("MAINTENANCE_EXPIRE_SNAPSHOTS", "true");
        let table = lake.table(&format!("db.{topic}"));
        let mut running = icestream.run();
        let produced = Kafka::shared().produce(&topic, records(2, 0..20));
        running.wait_count(COMMITTED, &[], 20.0);
        set_properties(&table, &SMALL);
        let mut produced = rounds(&mut running, &topic, 1..6, produced);
        // What a compaction replaces is deleted when the last snapshot that has it is gone.
        foreign::maintain(&table, "rewrite", 0);
        produced = rounds(&mut running, &topic, 6..18, produced);
        assert!(table.snapshots().len() <= 7, "{kind}: {}", table.snapshots().len());
        // Killed, with whatever was under way; the next process finishes it.
        running.kill();
        produced = produced.and(&Kafka::shared().produce(&topic, records(2, 360..380)));
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], 20.0);
        running.stop(PATIENCE).success();

        assert_exactly_once(&table, &[&produced]);
        for arguments in [["verify", "--json"].as_slice(), &["verify", "--rows", "--json"]] {
            let report = icestream.command(arguments).success().json();
            assert_eq!(report["complete"], false, "{kind}: snapshots were expired");
        }
        // No more than a killed process's sweep, and what pyiceberg's own commits left.
        let left = strangers(&table);
        assert!(left.len() <= 24, "{kind}: {left:?}");
        let data = left.iter().filter(|name| name.ends_with(".parquet")).count();
        assert_eq!(data, 0, "{kind}: {left:?}");
    }
}

#[test]
fn tags_outlive_expiry_and_can_be_read() {
    let lake = Lake::rest();
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream =
        icestream.set("CHECKPOINT_INTERVAL_MS", "100").set("MAINTENANCE_EXPIRE_SNAPSHOTS", "true");
    let table = lake.table(&format!("db.{topic}"));
    let mut running = icestream.run();
    let produced = Kafka::shared().produce(&topic, records(2, 0..20));
    running.wait_count(COMMITTED, &[], 20.0);
    set_properties(&table, &SMALL);
    let tag = "
table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, 'audit').commit()
answer = table.scan().to_arrow().num_rows
";
    let tagged = foreign::run(&table, tag, Value::Null);
    let produced = rounds(&mut running, &topic, 1..15, produced);
    running.stop(PATIENCE).success();
    let read = "
snapshot = table.snapshot_by_name('audit')
answer = table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows
";
    assert_eq!(foreign::run(&table, read, Value::Null), tagged);
    assert!(table.snapshots().len() <= 8);
    assert_exactly_once(&table, &[&produced]);
}

#[test]
fn a_process_that_is_alone_reads_no_metadata_and_one_that_is_not_reads_what_it_must() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    // Nothing is merged here: that reads what others wrote.
    let icestream = icestream
        .set("CHECKPOINT_INTERVAL_MS", "100")
        .set("ICEBERG_TABLE_PROPERTIES", "commit.manifest.min-count-to-merge=100");
    let table = lake.table(&format!("db.{topic}"));
    let mut running = icestream.run();
    let produced = Kafka::shared().produce(&topic, records(2, 0..20));
    running.wait_count(COMMITTED, &[], 20.0);
    let produced = rounds(&mut running, &topic, 1..10, produced);
    let value = |running: &Running, name: &str, labels: &[(&str, &str)]| {
        wait_for("the metrics", PATIENCE, || running.metrics()?.value(name, labels))
    };
    const READS: &str = "icestream_metadata_reads_total";
    let conflict = [("outcome", "conflict")];
    assert_eq!(value(&running, READS, &[]), 0.0);
    assert_eq!(value(&running, "icestream_commits_total", &conflict), 0.0);
    foreign::maintain(&table, "append", 0);
    let produced = rounds(&mut running, &topic, 10..14, produced);
    assert_eq!(value(&running, READS, &[]), 1.0, "the list of the foreign commit");
    assert_eq!(value(&running, "icestream_commits_total", &conflict), 1.0, "and one conflict");
    running.stop(PATIENCE).success();
    let rows = query(&table, Reader::DuckDb, "SELECT count(*) FROM t");
    assert_eq!(rows, [[Some((produced.count() + 10).to_string())]]);
}
