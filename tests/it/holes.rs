//! Logs with holes: transactions that interleave, abort and stay open; compaction and tombstones.

use std::collections::BTreeSet;

use serde_json::json;

use crate::landing::{pipeline, schema};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::{End, Produced, Record};
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, unique, wait_for};

/// Records of one producer, spread over both partitions, whose text tells how they end.
fn records(end: End, numbers: std::ops::Range<i64>) -> impl Iterator<Item = Record> {
    numbers.zip((0..2).cycle()).map(move |(id, partition)| {
        Record::new(partition, json!({ "id": id, "text": format!("{end:?}") }).to_string())
    })
}

/// By metadata and by rows.
fn verify(icestream: &Icestream) {
    icestream.command(&["verify"]).success();
    icestream.command(&["verify", "--rows"]).success();
}

fn ids(table: &Table<'_>) -> (i64, i64) {
    let sql = "SELECT count(DISTINCT id), count(*) FILTER (text = 'Abort') FROM t";
    let row = &oracle::query(table, Reader::DuckDb, sql)[0];
    let number = |at: usize| row[at].as_deref().unwrap().parse().unwrap();
    (number(0), number(1))
}

#[test]
fn interleaved_committed_and_aborted_transactions_land_exactly_and_never_stall() {
    land_transactions("auto");
}

/// The test, with records fetched by one or the other.
pub fn land_transactions(fetcher: &str) {
    let kafka = Kafka::shared();
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream = icestream.set("KAFKA_FETCHER", fetcher);
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = Produced { topic: topic.clone(), ..Produced::default() };
    let (mut next, mut committed) = (0_i64, 0_i64);
    let mut running = icestream.run();
    for round in 0..6 {
        // Batches of four producers alternate in the log; two of them abort, in changing order.
        let ends = match round % 2 {
            0 => [End::Commit, End::Abort, End::Commit, End::Abort],
            _ => [End::Abort, End::Abort, End::Commit, End::Commit],
        };
        let open: Vec<_> = ends.map(|end| (end, kafka.begin_transaction(&topic))).into();
        for _ in 0..5 {
            for (end, transaction) in &open {
                transaction.send(records(*end, next..next + 30));
                next += 30;
            }
            // Between them records without a transaction.
            produced = produced.and(&kafka.produce(&topic, records(End::Commit, next..next + 7)));
            next += 7;
            committed += 7;
        }
        for (end, transaction) in open {
            produced = produced.and(&transaction.end(end));
            committed += if end == End::Commit { 150 } else { 0 };
        }
        // Markers at the end of the log do not hold it up.
        running.wait_count("icestream_committed_records_total", &[], committed as f64);
    }
    running.kill();
    // One transaction stays open: nobody sees its records, nor those after it, and a backfill ends.
    let open = kafka.begin_transaction(&topic);
    open.send(records(End::Commit, next..next + 100));
    next += 100;
    let after = kafka.produce(&topic, records(End::Commit, next..next + 100));
    next += 100;
    let exit = icestream.run_until_caught_up();
    assert!(exit.log.contains("transactions that are not ended"), "{}", exit.log);
    let checked = icestream.command(&["check"]).success();
    assert!(checked.stdout.contains("transactions there are not ended"), "{}", checked.stdout);
    assert_eq!(assert_exactly_once(&table, &[&produced]), committed.unsigned_abs());
    let mut running = icestream.run();
    running.wait_count("icestream_open_transaction_offsets", &[], 200.0);
    let lag = running.metrics().unwrap().value("icestream_table_lag_records", &[]);
    assert_eq!(lag, Some(0.0));
    running.kill();
    produced = produced.and(&open.end(End::Commit)).and(&after);
    committed += 200;
    // The log ends in an aborted transaction.
    kafka.produce_in_transaction(&topic, records(End::Abort, next..next + 100), End::Abort);
    let crashing = icestream.clone().crash_at("commit.after-request");
    crashing.start(&["run", "--until-caught-up"]).wait(PATIENCE).aborted();
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), committed.unsigned_abs());
    assert_eq!(ids(&table), (committed, 0));
    verify(&icestream);
    let (snapshots, ends) = (table.snapshots().len(), kafka.watermarks(&topic));
    icestream.run_until_caught_up();
    assert_eq!(table.snapshots().len(), snapshots, "nothing was left to read");
    println!("{committed} rows of {ends:?} offsets in {snapshots} snapshots");
}

/// A broker that compacts at once.
fn compacting() -> Kafka {
    Kafka::with_config(&[
        ("log.cleaner.backoff.ms", "50"),
        ("log.cleaner.dedupe.buffer.size", "4194304"),
        ("log.initial.task.delay.ms", "100"),
    ])
}

const COMPACT: [(&str, &str); 6] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "100"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("min.compaction.lag.ms", "0"),
    ("max.compaction.lag.ms", "100"),
    ("delete.retention.ms", "3600000"),
];

/// Keys of the compacted topic.
const KEYS: i64 = 200;

/// Keyed records: each key is written many times, and every tenth key is deleted at the end.
fn keyed(first: i64, rounds: i64) -> Vec<Record> {
    let mut records = Vec::new();
    for id in first..first + rounds * 40 {
        let (partition, key) = ((id % 2) as i32, format!("key-{}", id % KEYS));
        let payload = json!({ "id": id, "text": key }).to_string();
        records.push(Record::new(partition, payload).key(key));
    }
    for key in (0..KEYS).step_by(10) {
        records.push(Record::tombstone((key % 2) as i32, format!("key-{key}")));
    }
    records
}

/// What a committed reader sees, from these offsets on: the rows, and how many tombstones.
fn seen(kafka: &Kafka, topic: &str, from: &dyn Fn(i32) -> i64) -> (Produced, usize) {
    let records = kafka.read_all(topic).into_iter().filter(|(p, offset, _)| *offset >= from(*p));
    let (rows, tombstones): (Vec<_>, Vec<_>) = records.partition(|(.., value)| value.is_some());
    let rows = rows.into_iter().map(|(partition, offset, _)| (partition, offset));
    (Produced::of(topic, rows), tombstones.len())
}

/// Writes until the cleaner has taken every record below these ends but those that are the last of
/// their keys, and then has it stop.
fn compact(kafka: &Kafka, topic: &str, below: &dyn Fn(i32) -> i64) {
    let mut number = 0;
    wait_for("the cleaner", PATIENCE, || {
        // A segment is rolled, and so becomes cleanable, when a record comes after its time.
        for partition in 0..2 {
            let payload = json!({ "id": -1 - number, "text": "roller" }).to_string();
            kafka.produce(topic, [Record::new(partition, payload).key("roller")]);
        }
        number += 1;
        let left = kafka.read_all(topic);
        let mut old: Vec<_> = left.iter().filter(|(p, offset, _)| *offset < below(*p)).collect();
        old.retain(|(.., value)| value.is_some());
        (old.len() <= usize::try_from(2 * KEYS).unwrap()).then_some(())
    });
    kafka.configure_topic(topic, &[("cleanup.policy", "delete"), ("retention.ms", "-1")]);
    // A cleaning that was under way may still end: the log is at rest once it reads the same.
    let mut last = BTreeSet::new();
    wait_for("the cleaner to rest", PATIENCE, || {
        let offsets = |records: Vec<(i32, i64, _)>| records.into_iter().map(|(p, o, _)| (p, o));
        let now: BTreeSet<_> = offsets(kafka.read_all(topic)).collect();
        let same = now == last;
        last = now;
        same.then_some(())
    });
    println!("{} records are left after {number} rollers", last.len());
}

#[test]
fn a_compacted_topic_with_holes_and_tombstones_lands_exactly() {
    land_compacted("auto");
}

/// The test, with records fetched by one or the other.
pub fn land_compacted(fetcher: &str) {
    let kafka = compacting();
    let lake = Lake::sqlite();
    let topic = unique("compacted");
    kafka.create_topic(&topic, 2, &[]);
    let table = lake.table(&format!("db.{topic}"));
    let by = |table: &Table<'_>| {
        let icestream = Icestream::new(&kafka, &topic, &lake, &table.name()).schema(&schema());
        icestream.set("KAFKA_FETCHER", fetcher)
    };
    let icestream = by(&table);
    // The first pipeline reads a part before it is compacted, and goes on after.
    let early = kafka.produce(&topic, keyed(0, 50));
    icestream.run_until_caught_up();
    let ledger = kafka.committed(icestream.setting("KAFKA_GROUP_ID").unwrap(), &topic);
    kafka.configure_topic(&topic, &COMPACT);
    kafka.produce(&topic, keyed(2000, 50));
    kafka.produce_in_transaction(&topic, keyed(4000, 2), End::Abort);
    kafka.produce_in_transaction(&topic, keyed(6000, 50), End::Commit);
    let ends = kafka.watermarks(&topic);
    compact(&kafka, &topic, &|partition| ends[&partition].1);
    kafka.produce_in_transaction(&topic, keyed(8000, 2), End::Abort);

    let (late, _) = seen(&kafka, &topic, &|partition| ledger[&partition]);
    icestream.run_until_caught_up();
    let tombstones = Produced::of(&topic, tombstones(&early));
    let early = tombstones.offsets.iter().fold(early, |early, (partition, ranges)| {
        let offsets = ranges.iter().cloned().flatten();
        offsets.fold(early, |early, offset| early.without(*partition, offset))
    });
    assert_exactly_once(&table, &[&early.and(&late)]);
    verify(&icestream);

    // The second one meets holes from its first offset on, and dies on the way.
    let again = lake.table(&format!("db.{topic}_again"));
    let second = by(&again);
    let (left, deleted) = seen(&kafka, &topic, &|_| 0);
    let small = second.clone().set("CHECKPOINT_MAX_RECORDS", "40");
    small.clone().crash_at("prepare.after").run().wait(PATIENCE).aborted();
    small.clone().crash_at("commit.after-request").run().wait(PATIENCE).aborted();
    second.run_until_caught_up();
    assert_eq!(assert_exactly_once(&again, &[&left]), left.count().unsigned_abs());
    verify(&second);
    let offsets: i64 = kafka.watermarks(&topic).values().map(|(_, end)| end).sum();
    println!("{} rows and {deleted} tombstones of {offsets} offsets", left.count());
    assert!(left.count() * 4 < offsets && deleted > 0, "real holes, and tombstones");
}

/// The tombstones of [`keyed`], which come last.
fn tombstones(early: &Produced) -> Vec<(i32, i64)> {
    let ends = early.offsets.iter().map(|(partition, ranges)| (*partition, ranges[0].end));
    // Their keys are all even, so that all are in partition 0.
    ends.filter(|(partition, _)| *partition == 0)
        .flat_map(|(partition, end)| (end - KEYS / 10..end).map(move |o| (partition, o)))
        .collect()
}
