//! `icestream verify` and `icestream ledger at`, on tables whose metadata a test breaks by hand.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::landing::{pipeline, records};
use crate::support::files;
use crate::support::foreign;
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader};
use crate::support::table::{Lake, Table, local_path};
use crate::tables::{append_foreign, expire};

/// Three commits of a hundred records each, fifty in each of two partitions.
fn three_commits(lake: &Lake) -> (Icestream, String, Table<'_>) {
    let (icestream, topic) = pipeline(lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    for round in 0..3 {
        Kafka::shared().produce(&topic, records(2, 100 * round..100 * (round + 1)));
        icestream.run_until_caught_up();
    }
    assert_eq!(table.snapshots().len(), 3);
    (icestream, topic, table)
}

/// Where the metadata file is.
fn metadata_file(table: &Table<'_>) -> PathBuf {
    local_path(&table.metadata_location().expect("a table"))
}

/// Changes the metadata file itself, as no program would.
fn doctor(table: &Table<'_>, change: impl FnOnce(&mut Value)) {
    let mut metadata = table.metadata().expect("a table");
    change(&mut metadata);
    fs::write(metadata_file(table), metadata.to_string()).expect("cannot write metadata");
}

/// The summary of a snapshot, the oldest of which is number 0; the empty one before it does not count.
fn summary(metadata: &mut Value, number: usize) -> &mut Value {
    let snapshots = metadata["snapshots"].as_array_mut().expect("snapshots");
    snapshots.sort_by_key(|snapshot| snapshot["sequence-number"].as_i64());
    &mut snapshots[number + 1]["summary"]
}

fn id(table: &Table<'_>, number: usize) -> i64 {
    let mut snapshots = table.snapshots();
    snapshots.sort_by_key(|snapshot| snapshot["sequence-number"].as_i64());
    snapshots[number]["snapshot-id"].as_i64().expect("an id")
}

fn findings(icestream: &Icestream, arguments: &[&str], code: i32) -> Vec<Value> {
    let report = icestream.command(arguments).with_code(code).json();
    assert_eq!(report["ok"], code == 0, "{report}");
    report["findings"].as_array().expect("findings").clone()
}

#[test]
fn the_journal_is_proved_without_reading_a_data_file() {
    let lake = Lake::sqlite();
    let (icestream, topic, table) = three_commits(&lake);
    assert!(findings(&icestream, &["verify", "--json"], 0).is_empty());
    assert!(findings(&icestream, &["verify", "--rows", "--json"], 0).is_empty());
    for file in files::on_disk(&table) {
        fs::remove_file(file).expect("cannot remove a data file");
    }
    let text = icestream.command(&["verify"]).success().stdout;
    assert!(text.contains(&format!("{topic}[1]")) && text.contains("contiguous"), "{text}");
    let report = icestream.command(&["verify", "--json"]).success().json();
    assert_eq!((&report["proof"], &report["rows"]), (&json!("metadata"), &json!(300)));
    assert_ne!(icestream.command(&["verify", "--rows"]).code, Some(0), "these need the files");
}

#[test]
fn a_gap_and_an_overlap_are_named_with_their_range_and_snapshots() {
    let lake = Lake::sqlite();
    let (icestream, topic, table) = three_commits(&lake);
    let ranges = |start: i64| json!({ &topic: { "0": [start, 150], "1": [100, 150] } }).to_string();
    let (second, third) = (id(&table, 1), id(&table, 2));
    doctor(&table, |metadata| summary(metadata, 2)["icestream.ranges"] = ranges(120).into());
    let text = icestream.command(&["verify"]).with_code(1).stdout;
    let told =
        format!("{topic}[0]: [100, 120) is missing between snapshot {second} and snapshot {third}");
    assert!(text.contains(&told), "{text}");
    let found = findings(&icestream, &["verify", "--json"], 1);
    assert_eq!(found[0]["kind"], "journal-gap");
    assert_eq!(found[0]["partition"], json!({ "topic": topic, "partition": 0 }));
    assert_eq!(found[0]["range"], json!({ "start": 100, "end": 120 }));
    assert_eq!(found[0]["snapshots"], json!([second, third]));

    doctor(&table, |metadata| summary(metadata, 2)["icestream.ranges"] = ranges(80).into());
    let text = icestream.command(&["verify"]).with_code(1).stdout;
    let told = format!("[80, 100) is in both snapshot {second} and snapshot {third}");
    assert!(text.contains(&told), "{text}");
    doctor(&table, |metadata| summary(metadata, 2)["icestream.ranges"] = ranges(100).into());
    icestream.command(&["verify"]).success();

    let rows = json!({ "written": 99, "skipped": 1, "dead_lettered": 0, "tombstones": 0 });
    doctor(&table, |metadata| {
        summary(metadata, 1)["icestream.rows"] = rows.to_string().into();
    });
    let found = findings(&icestream, &["verify", "--json"], 1);
    assert!(found.iter().all(|finding| finding["kind"] == "counts-disagree"), "{found:?}");
    assert_eq!(found.len(), 2, "with the snapshot's own count, and with the manifests': {found:?}");
}

#[test]
fn after_expiry_the_journal_is_proved_as_far_as_it_reaches_and_the_rows_do_the_rest() {
    let lake = Lake::sqlite();
    let (icestream, topic, table) = three_commits(&lake);
    append_foreign(&table, 0..10);
    let foreign = id(&table, 3);
    Kafka::shared().produce(&topic, records(2, 300..400));
    icestream.run_until_caught_up();
    expire(&table);
    let text = icestream.command(&["verify"]).success().stdout;
    let told = format!(
        "{topic}[0]: proven from 150 on; what is below was expired from the journal; --rows proves it"
    );
    assert!(text.contains(&told), "{text}");
    let report = icestream.command(&["verify", "--rows", "--json"]).success().json();
    for partition in report["partitions"].as_array().unwrap() {
        assert_eq!(partition["verdict"], "proved", "{partition}");
        assert_eq!((&partition["from"], &partition["rows"]), (&json!(0), &json!(200)));
    }
    assert!(!text.contains(&foreign.to_string()), "expired too");
}

#[test]
fn foreign_snapshots_are_named() {
    let lake = Lake::sqlite();
    let (icestream, _, table) = three_commits(&lake);
    append_foreign(&table, 0..10);
    let text = icestream.command(&["verify"]).success().stdout;
    let told = format!("snapshot {} (foreign, append", id(&table, 3));
    assert!(text.contains(&told) && text.contains("+10 -0 rows"), "{text}");
    let report = icestream.command(&["verify", "--json"]).success().json();
    assert_eq!(report["foreign"][0]["added"], 10);
}

#[test]
fn an_offset_is_found_in_its_snapshot_and_read_by_the_query_that_is_given() {
    let lake = Lake::sqlite();
    let (icestream, topic, table) = three_commits(&lake);
    let at = |offset: i64, code: i32| {
        let offset = offset.to_string();
        let arguments = ["ledger", "at", "--partition", "1", "--offset", &offset, "--json"];
        icestream.command(&arguments).with_code(code).json()
    };
    for (offset, number) in [(0, 0), (49, 0), (50, 1), (99, 1), (100, 2), (149, 2)] {
        let found = at(offset, 0);
        assert_eq!(found["answer"], "in-table");
        let snapshot = &found["snapshots"][0];
        assert_eq!(snapshot["snapshot_id"], id(&table, number));
        let start = 50 * number;
        assert_eq!(snapshot["range"], json!({ "start": start, "end": start + 50 }));
        let query = snapshot["sql"]["duckdb"].as_str().unwrap();
        let sql = format!(
            "SELECT count(*), count(*) FILTER (_kafka_partition = 1 AND _kafka_offset = {offset}) \
             FROM ({query})"
        );
        let read = oracle::query(&table, Reader::DuckDb, &sql);
        let expected = [(100 * (number + 1)).to_string(), String::from("1")].map(Some);
        assert_eq!(read, [expected], "offset {offset}");
    }
    assert_eq!(at(150, 1)["answer"], "not-yet");
    let elsewhere = ["ledger", "at", "--topic", "other", "--partition", "0", "--offset", "0"];
    let text = icestream.command(&elsewhere).with_code(1).stdout;
    assert!(text.contains("has not begun this partition"), "{text}");
    let negative = ["ledger", "at", "--partition", "1", "--offset", "-1"];
    icestream.command(&negative).with_code(2);

    let text = ["ledger", "at", "--topic", &topic, "--partition", "0", "--offset", "120"];
    let text = icestream.command(&text).success().stdout;
    let head = id(&table, 2);
    assert!(text.contains(&format!("VERSION AS OF {head};")), "{text}");
    expire(&table);
    let found = at(99, 1);
    assert_eq!((&found["answer"], &found["journal_from"]), (&json!("expired"), &json!(100)));
}

/// Every partition's era and verdict, by rows.
fn verdicts(icestream: &Icestream) -> Vec<(Value, Value)> {
    let report = icestream.command(&["verify", "--rows", "--json"]).success().json();
    let partitions = report["partitions"].as_array().expect("partitions").iter();
    partitions.map(|partition| (partition["era"].clone(), partition["verdict"].clone())).collect()
}

fn run_and_edit(icestream: &Icestream, edit: &[&str]) {
    icestream.command(&["run", "--until-caught-up"]).with_code(4);
    icestream.command(&[edit, &["--yes"]].concat()).success();
    icestream.run_until_caught_up();
}

#[test]
fn a_topic_made_again_is_judged_by_era_until_another_engine_mixes_the_rows() {
    let lake = Lake::sqlite();
    let (icestream, topic, table) = three_commits(&lake);
    let kafka = Kafka::shared();
    kafka.delete_topic(&topic);
    kafka.create_topic(&topic, 2, &[]);
    kafka.produce(&topic, records(2, 1000..1200));
    run_and_edit(&icestream, &["ledger", "reset", "--topic", &topic]);
    icestream.command(&["verify"]).success();
    let era = |era: i64| (json!(era), json!("proved"));
    assert_eq!(verdicts(&icestream), [era(0), era(1), era(0), era(1)]);
    let at = ["ledger", "at", "--partition", "1", "--offset", "60", "--json"];
    let found = icestream.command(&at).success().json();
    let holders = found["snapshots"].as_array().unwrap();
    let ids = (&holders[0]["snapshot_id"], &holders[1]["snapshot_id"]);
    assert_eq!(ids, (&json!(id(&table, 4)), &json!(id(&table, 1))));
    assert_eq!(holders[1]["before_reset"], id(&table, 3));

    // A row of the new era once more is a repeat, although the old era has the offset too.
    let again = "
from pyiceberg.expressions import And, EqualTo
rows = table.scan(row_filter=And(EqualTo('id', 1002), EqualTo('_kafka_partition', 0))).to_arrow()
table.append(rows)
answer = rows.num_rows
";
    assert_eq!(foreign::run(&table, again, Value::Null), 1);
    let found = findings(&icestream, &["verify", "--rows", "--json"], 1);
    assert_eq!(found[0]["kind"], "rows-repeated", "{found:?}");
    let remove = "
from pyiceberg.expressions import And, EqualTo
rows = table.scan(row_filter=And(EqualTo('id', 1002), EqualTo('_kafka_partition', 0))).to_arrow()
table.overwrite(rows.slice(0, 1), overwrite_filter=And(EqualTo('id', 1002), EqualTo('_kafka_partition', 0)))
";
    foreign::run(&table, remove, Value::Null);
    foreign::maintain(&table, "rewrite", 0);
    icestream.command(&["verify"]).success();
    let found = findings(&icestream, &["verify", "--rows", "--json"], 0);
    let unproved = found.iter().find(|finding| finding["kind"] == "rows-unproved").unwrap();
    let detail = unproved["detail"].as_str().unwrap();
    let named = table.snapshots().len() - 1;
    assert!(detail.contains("rewritten since a reset"), "{detail}");
    assert!(detail.contains(&format!("snapshot {}", id(&table, named))), "{detail}");
    assert!(verdicts(&icestream).iter().any(|(_, verdict)| *verdict == "unproved"));
}

#[test]
fn skipped_offsets_are_told_as_lost_and_not_as_a_gap() {
    let lake = Lake::sqlite();
    let (icestream, topic, table) = three_commits(&lake);
    let kafka = Kafka::shared();
    kafka.produce(&topic, records(2, 300..400));
    kafka.delete_records(&topic, 0, 180);
    run_and_edit(&icestream, &["ledger", "skip"]);
    let text = icestream.command(&["verify"]).success().stdout;
    let told =
        format!("{topic}[0]: [150, 180) was lost before it was read, and given up by snapshot");
    assert!(text.contains(&told), "{text}");
    assert!(verdicts(&icestream).iter().all(|(_, verdict)| *verdict == "proved"));
    let lost = ["ledger", "at", "--partition", "0", "--offset", "160", "--json"];
    let found = icestream.command(&lost).with_code(1).json();
    assert_eq!(found["answer"], "lost");
    assert_eq!(found["snapshots"][0]["snapshot_id"], id(&table, 3));
}

#[test]
fn a_table_that_was_rolled_back_is_a_violation_until_the_ledger_is_rewound() {
    let lake = Lake::sqlite();
    let (icestream, _, table) = three_commits(&lake);
    let code = "table.manage_snapshots().rollback_to_snapshot(data).commit()";
    foreign::run(&table, code, json!(id(&table, 0)));
    let found = findings(&icestream, &["verify", "--json"], 1);
    assert_eq!(found[0]["kind"], "history", "{found:?}");
    run_and_edit(&icestream, &["ledger", "rewind"]);
    let found = findings(&icestream, &["verify", "--json"], 0);
    assert!(found.iter().any(|finding| finding["kind"] == "rewound"), "{found:?}");
    assert!(verdicts(&icestream).iter().all(|(_, verdict)| *verdict == "proved"));
}
