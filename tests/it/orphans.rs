//! Files that killed processes leave behind: found, told apart from all others, and deleted.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::landing::{pipeline, records};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::{Produced, Record};
use crate::support::s3::S3;
use crate::support::table::{Lake, NewLake, Table};
use crate::support::{PATIENCE, files, wait_for};

/// The stores, each under a catalog of its own.
const LAKES: [(&str, NewLake); 3] = [
    ("SQLite, local files", Lake::sqlite),
    ("SQLite, S3", Lake::sqlite_on_s3),
    ("REST, S3", Lake::rest_on_s3),
];

/// What other engines, and people, leave beside our files.
const STRANGERS: [&str; 4] = [
    "data/00000-0-0c5a2f1e-7c0f-4c1f-9e57-1a3f6f0d9f11-00001.parquet",
    "data/00000-0-0c5a2f1e-7c0f-4c1f-9e57-1a3f6f0d9f11.parquet",
    "data/notes.txt",
    "metadata/0c5a2f1e-7c0f-4c1f-9e57-1a3f6f0d9f11-m0.avro",
];

/// `icestream orphans` for files of any age.
fn orphans(icestream: &Icestream, delete: bool) -> Value {
    let mut arguments = vec!["orphans", "--older-than", "0s", "--json"];
    if delete {
        arguments.push("--delete");
    }
    icestream.command(&arguments).success().json()
}

fn names(report: &Value) -> BTreeSet<String> {
    let rows = report["orphans"].as_array().expect("rows");
    rows.iter().map(|row| file_name(row["path"].as_str().expect("a path"))).collect()
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap().to_owned()
}

/// Names of files in the store that no snapshot has by pyiceberg, less table metadata.
fn unreferenced(table: &Table<'_>) -> BTreeSet<String> {
    let known = files::referenced(table);
    let all = files::in_store(table).into_iter().map(|path| file_name(&path));
    all.filter(|name| !known.contains(name) && !name.ends_with(".metadata.json")).collect()
}

/// Runs up to a crash, and loses the checkpoints with it.
fn crash(icestream: &Icestream, point: &str) {
    icestream.clone().crash_at(point).run().wait(PATIENCE).aborted();
    icestream.lose_checkpoints();
}

#[test]
fn what_killed_processes_leave_is_found_and_deleted_and_nothing_else() {
    for (kind, lake) in LAKES {
        let lake = lake();
        let (icestream, topic) = pipeline(&lake, 2);
        // The directories of its table partitions have names with escapes in them.
        let icestream = icestream
            .set("CHECKPOINT_INTERVAL_MS", "100")
            .set("ICEBERG_PARTITION_SPEC", "truncate[1](text)");
        let table = lake.table(&format!("db.{topic}"));
        let kafka = Kafka::shared();
        let mut produced = kafka.produce(&topic, records(2, 0..500));
        crash(&icestream, "seal.files-closed");
        produced = produced.and(&kafka.produce(&topic, records(2, 500..1000)));
        crash(&icestream, "commit.before-request");
        // Its first commit lands, its second does not.
        produced = produced.and(&kafka.produce(&topic, records(2, 1000..1500)));
        let mut running = icestream.clone().crash_at("prepare.after:2").run();
        running.wait_log("checkpoint complete", PATIENCE);
        produced = produced.and(&kafka.produce(&topic, records(2, 1500..2000)));
        running.wait(PATIENCE).aborted();
        icestream.lose_checkpoints();
        icestream.run_until_caught_up();
        for stranger in STRANGERS {
            files::put(&table, stranger, "of another");
        }

        let expected: BTreeSet<String> = {
            let all = unreferenced(&table);
            let strangers: BTreeSet<String> =
                STRANGERS.iter().map(|path| file_name(path)).collect();
            assert!(strangers.is_subset(&all), "{kind}: {all:?}");
            all.difference(&strangers).cloned().collect()
        };
        let data = expected.iter().filter(|name| name.ends_with(".parquet")).count();
        assert!(data >= 3 && expected.len() > data, "{kind}: {expected:?}");

        let young = icestream.command(&["orphans", "--json"]).success().json();
        assert_eq!(names(&young), BTreeSet::new(), "{kind}: none is three days old");
        let before = files::in_store(&table);
        let seen = orphans(&icestream, false);
        assert_eq!(names(&seen), expected, "{kind}");
        assert_eq!(seen["undecided"]["files"], 0, "{kind}: {seen}");
        assert_eq!(files::in_store(&table), before, "{kind}: a look deletes nothing");

        let report = orphans(&icestream, true);
        assert_eq!(report["deleted"]["files"], expected.len(), "{kind}: {report}");
        assert_eq!(report["failed"]["files"], 0, "{kind}: {report}");
        assert_eq!(files::in_store(&table).len(), before.len() - expected.len(), "{kind}");
        assert_eq!(names(&orphans(&icestream, true)), BTreeSet::new(), "{kind}");
        assert_exact(&icestream, &table, &produced);
        println!("{kind}: {} orphans, {data} of them data", expected.len());
    }
}

#[test]
fn an_upload_that_a_killed_process_left_open_is_found_and_taken_back_and_no_other() {
    for (kind, lake) in LAKES.into_iter().skip(1) {
        let lake = lake();
        let (icestream, topic) = pipeline(&lake, 1);
        // Row groups that go up while the file is open.
        let icestream = icestream
            .set("PARALLELISM", "1")
            .set("ICEBERG_TABLE_PROPERTIES", "write.parquet.row-group-size-bytes=2097152")
            .set("CHECKPOINT_INTERVAL_MS", "600000");
        let table = lake.table(&format!("db.{topic}"));
        let (_, place) = lake.warehouse().split_once("://").expect("a location");
        let (store, bucket) = (S3::shared(), place.split('/').next().expect("a bucket").to_owned());
        let mut random = fastrand::Rng::with_seed(1);
        let records = (0..32_000).map(|id| {
            let text: String = (0..1_000).map(|_| random.alphanumeric()).collect();
            Record::new(0, json!({ "id": id, "text": text }).to_string())
        });
        let produced = Kafka::shared().produce(&topic, records);
        let mut running = icestream.run();
        wait_for("an open upload", PATIENCE, || {
            (!store.open_uploads(&bucket).is_empty()).then_some(())
        });
        let undecided = orphans(&icestream, true);
        assert_eq!(names(&undecided), BTreeSet::new(), "{kind}: its process goes on");
        assert_eq!(undecided["undecided"]["files"], 1, "{kind}: {undecided}");
        running.kill();
        icestream.lose_checkpoints();
        let left = store.open_uploads(&bucket);
        assert_eq!(left.len(), 1, "{kind}: {left:?}");
        // One of another program, at the same place.
        let place = left[0].rsplit_once('/').expect("a directory").0;
        let stranger =
            format!("{place}/00000-0-0c5a2f1e-7c0f-4c1f-9e57-1a3f6f0d9f11-00001.parquet");
        store.begin_upload(&format!("{bucket}/{stranger}"));

        icestream.run_until_caught_up();
        let seen = orphans(&icestream, false);
        assert_eq!(seen["uploads_not_listed"], Value::Null, "{kind}: {seen}");
        let uploads: Vec<&Value> = seen["orphans"].as_array().expect("rows").iter().collect();
        assert!(uploads.iter().all(|row| row["kind"] == "upload"), "{kind}: {seen}");
        assert_eq!(names(&seen), BTreeSet::from([file_name(&left[0])]), "{kind}");
        assert_eq!(store.open_uploads(&bucket).len(), 2, "{kind}: a look takes nothing back");
        let report = orphans(&icestream, true);
        assert_eq!(report["deleted"]["files"], 1, "{kind}: {report}");
        assert_eq!(store.open_uploads(&bucket), [stranger], "{kind}");
        assert_eq!(names(&orphans(&icestream, true)), BTreeSet::new(), "{kind}");
        assert_eq!(assert_exactly_once(&table, &[&produced]), 32_000, "{kind}");
    }
}

/// No row is lost and none is there twice, by two readers, and the pipeline goes on.
fn assert_exact(icestream: &Icestream, table: &Table<'_>, produced: &Produced) {
    assert_eq!(assert_exactly_once(table, &[produced]), produced.count().unsigned_abs());
    let read = oracle::judge(table, &[produced], Reader::PyIceberg);
    assert!(read.is_exact(), "{read:?}");
    icestream.command(&["verify", "--rows"]).success();
}

#[test]
fn more_orphans_than_a_store_lists_at_once_are_all_found_and_deleted() {
    const MORE: usize = 1100;
    let lake = Lake::sqlite_on_s3();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let produced = Kafka::shared().produce(&topic, records(2, 0..500));
    icestream.run_until_caught_up();
    let before = files::in_store(&table);
    // As that process would have named further files of the epoch that it committed.
    let last = "-00000.parquet";
    let own = before.iter().find_map(|path| path.strip_suffix(last)).expect("a data file");
    let left: Vec<String> = (1..=MORE).map(|n| format!("{own}-{n:05}.parquet")).collect();
    left.iter().for_each(|path| files::put(&table, path, "no footer"));

    let seen = orphans(&icestream, false);
    assert_eq!(names(&seen), left.iter().map(|path| file_name(path)).collect());
    let report = orphans(&icestream, true);
    assert_eq!(report["deleted"]["files"], MORE, "{}", report["failed"]);
    assert_eq!(files::in_store(&table), before);
    assert_exact(&icestream, &table, &produced);
}

#[test]
fn a_prepared_commit_keeps_its_files_and_lands_after_all() {
    for (kind, lake) in LAKES {
        for point in ["prepare.after", "commit.before-manifest", "commit.before-request"] {
            let lake = lake();
            let (icestream, topic) = pipeline(&lake, 2);
            let icestream = icestream.set("CHECKPOINT_INTERVAL_MS", "100");
            let table = lake.table(&format!("db.{topic}"));
            let produced = Kafka::shared().produce(&topic, records(2, 0..500));
            icestream.run_until_caught_up();
            let more = Kafka::shared().produce(&topic, records(2, 500..1000));
            let crashed = icestream.clone().crash_at(point).run().wait(PATIENCE).aborted();

            // From a place that knows nothing of the checkpoint.
            let elsewhere = icestream.another();
            let report = orphans(&elsewhere, true);
            assert_eq!(names(&report), BTreeSet::new(), "{kind}, {point}: {report}");
            assert!(report["undecided"]["files"].as_u64() > Some(0), "{kind}, {point}: {report}");
            let beside = orphans(&icestream, true);
            assert_eq!(names(&beside), BTreeSet::new(), "{kind}, {point}: {beside}");

            let exit = icestream.run_until_caught_up();
            assert!(exit.log.contains("recovered a pending commit"), "{}", exit.log);
            assert_eq!(files::snapshots_by(&table, &crashed.instance()), 1, "{kind}, {point}");
            assert_exact(&icestream, &table, &produced.and(&more));
        }
    }
}

#[test]
fn a_process_that_sleeps_keeps_its_open_epoch_until_another_has_passed_it() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let kafka = Kafka::shared();
    let mut produced = kafka.produce(&topic, records(2, 0..500));
    icestream.run_until_caught_up();
    let none = files::on_disk(&table).len();
    // Rows go to files soon, and no checkpoint comes by itself.
    let slow =
        icestream.set("CHECKPOINT_INTERVAL_MS", "600000").set("BATCH_TIMEOUT_SECONDS", "0.05");

    // It sleeps over a look, and its file is still there when it goes on.
    let mut sleeper = slow.run();
    produced = produced.and(&kafka.produce(&topic, records(2, 500..1000)));
    wait_for("a file of the open epoch", PATIENCE, || {
        (files::on_disk(&table).len() > none).then_some(())
    });
    sleeper.freeze();
    let report = orphans(&slow.another(), true);
    assert_eq!(names(&report), BTreeSet::new(), "{report}");
    assert!(report["undecided"]["files"].as_u64() > Some(0), "{report}");
    sleeper.thaw();
    let exit = sleeper.stop(PATIENCE).success();
    assert_eq!(files::snapshots_by(&table, &exit.instance()), 1);
    assert_exact(&slow, &table, &produced);

    // It sleeps until another has brought in what it holds.
    let before = files::on_disk(&table);
    let mut sleeper = slow.run();
    produced = produced.and(&kafka.produce(&topic, records(2, 1000..1500)));
    wait_for("a file of the open epoch", PATIENCE, || {
        (files::on_disk(&table).len() > before.len()).then_some(())
    });
    sleeper.freeze();
    slow.another().set("CHECKPOINT_INTERVAL_MS", "100").run_until_caught_up();
    let report = orphans(&slow.another(), true);
    let deleted = names(&report);
    assert!(
        !deleted.is_empty() && deleted.iter().all(|name| name.ends_with(".parquet")),
        "{report}"
    );
    sleeper.thaw();
    let exit = sleeper.stop(PATIENCE);
    assert_eq!(files::snapshots_by(&table, &exit.instance()), 0, "it was fenced");
    slow.clone().set("CHECKPOINT_INTERVAL_MS", "100").run_until_caught_up();
    assert_exact(&slow, &table, &produced);
}
