//! What a run knows of a table gets old: somebody alters it while there is nothing to write, and keys to
//! its files end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::landing::{pipeline, records, schema};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::lender::Lender;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::Record;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, foreign, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";
/// What is known of a table for so long is not asked again.
const FRESH: Duration = Duration::from_secs(1);

fn batch(topic: &str, numbers: std::ops::Range<i64>) -> crate::support::producing::Produced {
    let records = numbers.map(|n| {
        let row = json!({ "id": n, "text": format!("t{n}"), "extra": n });
        Record::new((n % 4) as i32, row.to_string())
    });
    Kafka::shared().produce(topic, records)
}

/// Until what a commit left is too old to open files for.
fn let_pass(since: Instant) {
    wait_for("a second", PATIENCE, || (since.elapsed() > FRESH).then_some(()));
}

#[test]
fn a_column_added_while_the_topic_is_idle_has_its_values_from_the_first_record_on() {
    for lake in [Lake::sqlite(), Lake::rest()] {
        for fetcher in ["icestream", "librdkafka"] {
            let (icestream, topic) = pipeline(&lake, 4);
            let table = lake.table(&format!("db.{topic}"));
            let icestream = icestream
                .set("KAFKA_FETCHER", fetcher)
                .set("PARALLELISM", "2")
                // Far longer than the test: no commit tells that the table is another one.
                .set("CHECKPOINT_INTERVAL_MS", "300000")
                .set("CHECKPOINT_MAX_RECORDS", "100");
            let mut produced = batch(&topic, 0..100);
            let mut running = icestream.run();
            running.wait_count(COMMITTED, &[], 100.0);
            let committed = Instant::now();
            let change = "from pyiceberg.types import *\n\
                          with table.update_schema() as update:\n\
                          \x20   update.add_column('extra', LongType())\n";
            foreign::run(&table, change, Value::Null);
            let_pass(committed);
            produced = produced.and(&batch(&topic, 100..200));
            running.wait_count(COMMITTED, &[], 200.0);
            running.stop(PATIENCE).success();
            assert_eq!(assert_exactly_once(&table, &[&produced]), 200);
            for reader in Reader::EACH {
                let sql = "SELECT count(extra), sum(extra) FROM t";
                let found = oracle::query(&table, reader, sql);
                assert_eq!(found, [["100", "14950"].map(|n| Some(n.to_owned()))], "{reader:?}");
            }
        }
    }
}

/// Alterations after which icestream cannot write a table for all readers, how they are undone, and what is
/// said of them.
const ALTERATIONS: [(&str, &str, &str); 2] = [
    ("update.add_identity('u')", "update.remove_field('u')", "\"u\" has values of uuid"),
    (
        "update.add_field('id', BucketTransform(2), 'a.b').add_field('id', BucketTransform(3), 'a_x2Eb')",
        "update.remove_field('a.b').remove_field('a_x2Eb')",
        "a_x2Eb",
    ),
];

fn respec(table: &Table<'_>, change: &str) {
    let code = "from pyiceberg.transforms import *\nwith table.update_spec() as update:\n    ";
    foreign::run(table, &format!("{code}{change}\n"), Value::Null);
}

fn with_uuids(lake: &Lake) -> (Icestream, String) {
    let (icestream, topic) = pipeline(lake, 2);
    let mut with = schema();
    let column = json!({ "id": 4, "name": "u", "required": false, "type": "uuid" });
    with["fields"].as_array_mut().unwrap().push(column);
    (icestream.schema(&with), topic)
}

#[test]
fn a_table_that_becomes_one_that_cannot_be_written_is_refused_before_an_epoch_is_prepared_for_it() {
    let lake = Lake::sqlite();
    for (change, undo, words) in ALTERATIONS {
        let (icestream, topic) = with_uuids(&lake);
        let table = lake.table(&format!("db.{topic}"));
        let icestream =
            icestream.set("CHECKPOINT_INTERVAL_MS", "300000").set("CHECKPOINT_MAX_RECORDS", "100");
        let produced = Kafka::shared().produce(&topic, records(2, 0..100));
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], 100.0);
        let committed = Instant::now();
        respec(&table, change);
        let_pass(committed);
        let more = Kafka::shared().produce(&topic, records(2, 100..200));
        let exit = running.wait(PATIENCE).with_code(3);
        assert!(exit.log.contains(words), "{}", exit.log);
        // Nor is one prepared by the next start, which knows the table already.
        let exit = icestream.command(&["run", "--until-caught-up"]).with_code(3);
        assert!(exit.log.contains(words), "{}", exit.log);
        assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
        // With the field gone it goes on: nothing is in the way.
        respec(&table, undo);
        icestream.run_until_caught_up();
        assert_eq!(assert_exactly_once(&table, &[&produced, &more]), 200);
    }
}

#[test]
fn a_commit_that_was_prepared_before_the_table_became_one_that_cannot_be_written_is_made() {
    let lake = Lake::sqlite();
    for (change, undo, words) in ALTERATIONS {
        let (icestream, topic) = with_uuids(&lake);
        let table = lake.table(&format!("db.{topic}"));
        let produced = Kafka::shared().produce(&topic, records(2, 0..100));
        icestream.clone().crash_at("prepare.after").run().wait(PATIENCE).aborted();
        respec(&table, change);
        let exit = icestream.command(&["run", "--until-caught-up"]).with_code(3);
        assert!(exit.log.contains("recovered a pending commit"), "{}", exit.log);
        assert!(exit.log.contains(words), "{}", exit.log);
        let rows = assert_exactly_once(&table, &[&produced]);
        assert_eq!(rows, 100);
        respec(&table, undo);
        let more = Kafka::shared().produce(&topic, records(2, 100..200));
        icestream.run_until_caught_up();
        assert_eq!(assert_exactly_once(&table, &[&produced, &more]), 200);
    }
}

/// A pipeline into a table whose catalog lends keys for so long, without any of its own.
fn borrowing(lake: &Lake, lender: &Lender) -> (Icestream, String) {
    let (icestream, topic) = pipeline(lake, 2);
    let icestream = icestream
        .set("ICEBERG_CATALOG_URI", lender.catalog.uri())
        .set("AWS_ENDPOINT_URL_S3", lender.endpoint())
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY");
    (icestream, topic)
}

/// It went on with more than one key, was never refused, and no run ended but the last.
fn went_on(lender: &Lender, running: &mut Running) {
    let restarts = running.metrics().unwrap().value("icestream_restarts_total", &[]);
    assert_eq!(restarts, Some(0.0), "{}", running.log());
    running.stop(PATIENCE).success();
    let (keys, refused) = lender.used();
    assert_eq!(refused, [] as [&str; 0], "{keys} keys were used");
    assert!(keys > 1, "{keys} keys were used");
}

#[test]
fn keys_that_ended_while_the_topic_was_idle_are_renewed_before_the_next_file() {
    let lake = Lake::rest_on_s3();
    let life = Duration::from_secs(3);
    let lender = Lender::before(&lake, life);
    let (icestream, topic) = borrowing(&lake, &lender);
    let table = lake.table(&format!("db.{topic}"));
    let mut running = icestream.set("CHECKPOINT_INTERVAL_MS", "300").run();
    let mut produced = Kafka::shared().produce(&topic, records(2, 0..100));
    running.wait_count(COMMITTED, &[], 100.0);
    let idle = Instant::now();
    wait_for("twice their life", PATIENCE, || (idle.elapsed() > 2 * life).then_some(()));
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 100..200)));
    running.wait_count(COMMITTED, &[], 200.0);
    went_on(&lender, &mut running);
    assert_eq!(assert_exactly_once(&table, &[&produced]), 200);
}

#[test]
fn keys_that_live_shorter_than_a_checkpoint_interval_are_renewed_while_files_are_open() {
    let lake = Lake::rest_on_s3();
    let life = Duration::from_secs(6);
    let lender = Lender::before(&lake, life);
    let (icestream, topic) = borrowing(&lake, &lender);
    let table = lake.table(&format!("db.{topic}"));
    let icestream =
        icestream.set("CHECKPOINT_INTERVAL_MS", "15000").set("TARGET_FILE_SIZE_MB", "1");
    let mut running = icestream.run();
    let steady = Kafka::shared().produce_steadily(&topic, 2_000, records(2, 0..i64::MAX));
    running.wait_metrics("three commits", 2 * PATIENCE, |metrics| {
        let committed = [("outcome", "committed")];
        (metrics.value("icestream_commits_total", &committed) >= Some(3.0)).then_some(())
    });
    let produced = steady.stop();
    running.wait_count(COMMITTED, &[], produced.count() as f64);
    went_on(&lender, &mut running);
    let count = assert_exactly_once(&table, &[&produced]);
    assert!(count > 10_000, "{count}");
}

#[test]
fn keys_are_asked_for_alone_where_the_catalog_says_so_and_with_the_table_where_it_then_does_not() {
    for there in [true, false] {
        let lake = Lake::rest_on_s3();
        let life = Duration::from_secs(6);
        let lender = Lender::before(&lake, life).alone(there);
        let (icestream, topic) = borrowing(&lake, &lender);
        let table = lake.table(&format!("db.{topic}"));
        let mut running = icestream.set("CHECKPOINT_INTERVAL_MS", "300").run();
        let steady = Kafka::shared().produce_steadily(&topic, 1_000, records(2, 0..i64::MAX));
        let asked = |end: &str| lender.asked().iter().filter(|path| path.ends_with(end)).count();
        let (alone, with_table) = ("/credentials", "?snapshots=refs");
        let last = if there { alone } else { with_table };
        wait_for("keys to be renewed twice", PATIENCE, || (asked(last) > 1).then_some(()));
        let produced = steady.stop();
        running.wait_count(COMMITTED, &[], produced.count() as f64);
        went_on(&lender, &mut running);
        assert!(asked(alone) > 1, "{:?}", lender.asked());
        assert_eq!(asked(with_table) > 0, !there, "{:?}", lender.asked());
        let count = assert_exactly_once(&table, &[&produced]);
        assert_eq!(count, produced.count().unsigned_abs());
    }
}

#[test]
fn keys_that_end_before_their_time_cost_nothing_but_another_run() {
    let lake = Lake::rest_on_s3();
    // As when a session is revoked: the store says `400 ExpiredToken`.
    let lender =
        Lender::before(&lake, Duration::from_secs(5)).that_promises(Duration::from_secs(600));
    let (icestream, topic) = borrowing(&lake, &lender);
    let table = lake.table(&format!("db.{topic}"));
    let mut running = icestream.set("CHECKPOINT_INTERVAL_MS", "300").run();
    let steady = Kafka::shared().produce_steadily(&topic, 1_000, records(2, 0..i64::MAX));
    wait_for("the store to refuse a key, and another one", PATIENCE, || {
        let (keys, refused) = lender.used();
        (keys > 1 && !refused.is_empty()).then_some(())
    });
    let produced = steady.stop();
    running.wait_count(COMMITTED, &[], produced.count() as f64);
    running.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&table, &[&produced]), produced.count().unsigned_abs());
}
