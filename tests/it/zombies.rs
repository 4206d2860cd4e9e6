//! Processes that are not alone, that wake up late, or that remember what is no longer true.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::landing::{pipeline, records};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::Produced;
use crate::support::proxy::{Fault, Matching, Proxy};
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, files, foreign, process, wait_for};

/// A metric of a process; 0 as long as it does not answer.
fn metric(running: &Running, name: &str, labels: &[(&str, &str)]) -> f64 {
    running.metrics().and_then(|metrics| metrics.value(name, labels)).unwrap_or_default()
}

fn superseded(running: &Running) -> f64 {
    metric(running, "icestream_admissions_total", &[("decision", "superseded")])
}

fn committed(running: &Running) -> f64 {
    metric(running, "icestream_commits_total", &[("outcome", "committed")])
}

/// Produces the next thousand records, counted in `produced`.
fn produce_more(topic: &str, produced: &mut Produced) {
    let next = produced.count();
    let more = Kafka::shared().produce(topic, records(2, next..next + 1000));
    *produced = std::mem::take(produced).and(&more);
}

fn nothing(topic: &str) -> Produced {
    Produced { topic: topic.into(), ..Produced::default() }
}

fn wait_rows(table: &Table<'_>, produced: &Produced) {
    wait_for("all records in the table", PATIENCE, || {
        (files::head_total(table, "total-records") >= produced.count()).then_some(())
    });
}

#[test]
fn two_processes_of_one_pipeline_at_once_write_each_record_once() {
    let lake = Lake::sqlite();
    let (one, topic) = pipeline(&lake, 2);
    let one = one.set("CHECKPOINT_INTERVAL_MS", "100");
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = nothing(&topic);
    produce_more(&topic, &mut produced);
    // Both also find no table and make it.
    let (mut a, mut b) = (one.run(), one.another().run());
    wait_for("commits by both and a fenced one", PATIENCE, || {
        produce_more(&topic, &mut produced);
        assert!(a.runs() && b.runs(), "one ended:\n{}\n{}", a.log(), b.log());
        let both = committed(&a) > 0.0 && committed(&b) > 0.0;
        (both && superseded(&a) + superseded(&b) > 0.0).then_some(())
    });
    for running in [&a, &b] {
        assert_eq!(metric(running, "icestream_assigned_partitions", &[]), 2.0);
    }
    println!("fenced: {} and {}", superseded(&a), superseded(&b));
    let exits = [a.stop(PATIENCE).success(), b.stop(PATIENCE).success()];
    one.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), produced.count().unsigned_abs());
    one.command(&["verify", "--rows"]).success();
    for exit in exits {
        assert!(files::snapshots_by(&table, &exit.instance()) > 0);
    }
    println!("{} records, {} orphans", produced.count(), files::orphans(&table));
}

/// Waits until a thawed process was fenced, and checks that it is useful again after that.
fn fenced_and_useful(
    pipeline: &Icestream,
    mut zombie: Running,
    topic: &str,
    table: &Table<'_>,
    produced: &mut Produced,
) {
    zombie.wait_metrics("a fenced commit", PATIENCE, |metrics| {
        let fenced = metrics.value("icestream_admissions_total", &[("decision", "superseded")])?;
        (fenced >= 1.0).then_some(())
    });
    zombie.wait_log("fenced: another instance", PATIENCE);
    produce_more(topic, produced);
    wait_rows(table, produced);
    zombie.stop(PATIENCE).success();
    pipeline.command(&["verify", "--rows"]).success();
    assert_eq!(assert_exactly_once(table, &[produced]), produced.count().unsigned_abs());
    assert_eq!(
        files::orphans(table),
        0,
        "files of the fenced commit are provably not in the table"
    );
}

#[test]
fn a_frozen_process_is_fenced_when_it_wakes_up() {
    let lake = Lake::sqlite();
    let (one, topic) = pipeline(&lake, 2);
    let one = one.set("CHECKPOINT_INTERVAL_MS", "100");
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = nothing(&topic);
    produce_more(&topic, &mut produced);
    let zombie = one.run();
    wait_rows(&table, &produced);
    zombie.freeze();
    produce_more(&topic, &mut produced);
    one.another().run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 2000);
    // It reads on where it was: records that are in the table by now.
    zombie.thaw();
    fenced_and_useful(&one, zombie, &topic, &table, &mut produced);
}

#[test]
fn a_request_that_arrives_after_another_process_committed_changes_nothing() {
    let lake = Lake::rest();
    let direct = lake.rest_catalog().uri();
    let proxy = Proxy::before(&lake.rest_catalog().address());
    let lake = lake.through(proxy.uri());
    let (one, topic) = pipeline(&lake, 2);
    let one = one.set("CHECKPOINT_INTERVAL_MS", "100");
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = nothing(&topic);
    produce_more(&topic, &mut produced);
    let zombie = one.run();
    wait_rows(&table, &produced);

    let late = proxy.on(Matching::ledger_of("db", &topic), Fault::HoldRequest);
    produce_more(&topic, &mut produced);
    late.wait_hits(1, PATIENCE);
    zombie.freeze();
    one.another().set("ICEBERG_CATALOG_URI", direct).run_until_caught_up();
    let head = table.metadata_location();
    late.release();
    late.wait_done(1, PATIENCE);
    assert_eq!(table.metadata_location(), head);
    assert_eq!(proxy.seen().last().and_then(|seen| seen.status), Some(409));
    zombie.thaw();
    fenced_and_useful(&one, zombie, &topic, &table, &mut produced);
}

/// A copy of the checkpoint directory of a stopped process.
struct Copy {
    of: PathBuf,
    copy: PathBuf,
}

impl Copy {
    fn of(icestream: &Icestream) -> Self {
        let of = PathBuf::from(icestream.setting("CHECKPOINT_DIR").unwrap());
        let copy = of.with_extension("copy");
        copy_all(&of, &copy);
        Self { of, copy }
    }

    /// Puts the copy in the place of what is there now.
    fn restore(&self) {
        std::fs::remove_dir_all(&self.of).unwrap();
        copy_all(&self.copy, &self.of);
    }
}

fn copy_all(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    process::output("the copy of a directory", command);
}

#[test]
fn an_old_copy_of_the_checkpoints_is_harmless() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = nothing(&topic);
    produce_more(&topic, &mut produced);
    icestream.run_until_caught_up();
    let old = Copy::of(&icestream);
    for _ in 0..2 {
        produce_more(&topic, &mut produced);
        icestream.run_until_caught_up();
    }
    old.restore();
    produce_more(&topic, &mut produced);
    let exit = icestream.run_until_caught_up();
    assert!(exit.log.contains("local=Older pending=0"), "{}", exit.log);
    assert_eq!(assert_exactly_once(&table, &[&produced]), 4000);
}

/// A pipeline whose old checkpoints, put back at the end, have a pending commit that truly landed.
/// Gives what recovery made of it, and whether its files are still there.
fn restore_a_landed_commit(expire: impl Fn(&Table<'_>)) -> (String, bool) {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = nothing(&topic);
    produce_more(&topic, &mut produced);
    icestream.clone().crash_at("commit.after-request").run().wait(PATIENCE).aborted();
    let landed: BTreeSet<PathBuf> = files::on_disk(&table);
    assert!(!landed.is_empty());
    let old = Copy::of(&icestream);
    for _ in 0..2 {
        produce_more(&topic, &mut produced);
        icestream.run_until_caught_up();
    }
    expire(&table);
    old.restore();
    produce_more(&topic, &mut produced);
    let exit = icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 4000);
    icestream.command(&["verify", "--rows"]).success();
    assert_eq!(files::orphans(&table), 0);
    (exit.log, landed.is_subset(&files::on_disk(&table)))
}

#[test]
fn an_old_pending_commit_that_landed_is_recognized_in_the_journal() {
    let (log, kept) = restore_a_landed_commit(|_| ());
    assert!(log.contains("outcome=\"already_committed\""), "{log}");
    assert!(kept);
}

#[test]
fn an_old_pending_commit_that_landed_and_was_expired_keeps_its_files() {
    let (log, kept) = restore_a_landed_commit(|table| {
        let before = table.snapshots().len();
        assert!(before >= 3);
        let code = "
head = table.metadata.current_snapshot_id
others = [s.snapshot_id for s in table.metadata.snapshots if s.snapshot_id != head]
table.maintenance.expire_snapshots().by_ids(others).commit()
";
        foreign::run(table, code, Value::Null);
        assert_eq!(table.snapshots().len(), 1);
    });
    assert!(log.contains("outcome=\"superseded\""), "{log}");
    assert!(log.contains("files of a superseded commit are kept"), "{log}");
    assert!(kept);
}
