//! The process dies at each line at which something was just done or is just about to be done.

use std::collections::BTreeSet;

use icestream::parts::POINTS;

use crate::landing::{pipeline, records};
use crate::support::icestream::{Exit, Icestream, RUN};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader};
use crate::support::producing::Produced;
use crate::support::table::{Lake, Table, snapshots};
use crate::support::{PATIENCE, files};

/// What a crash point leaves behind.
struct Leaves {
    /// The crash point.
    point: &'static str,
    /// What recovery makes of the checkpoint's pending commit; none if there is none.
    pending: Option<&'static str>,
    /// The table has the epoch's commit before any recovery.
    landed: bool,
}

const fn leaves(point: &'static str, pending: Option<&'static str>, landed: bool) -> Leaves {
    Leaves { point, pending, landed }
}

const LEAVES: [Leaves; 10] = [
    leaves("seal.files-closed", None, false),
    leaves("prepare.before", None, false),
    leaves("prepare.after", Some("committed"), false),
    leaves("commit.before-manifest", Some("committed"), false),
    leaves("commit.before-request", Some("committed"), false),
    leaves("commit.after-request", Some("already_committed"), true),
    leaves("finalize.before", Some("already_committed"), true),
    leaves("finalize.after", None, true),
    leaves("report.before", None, true),
    leaves("report.after", None, true),
];

/// What becomes of the checkpoint directory after the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directory {
    Kept,
    Lost,
}

impl Leaves {
    fn at(point: &str) -> &'static Self {
        LEAVES
            .iter()
            .find(|leaves| leaves.point == point)
            .unwrap_or_else(|| panic!("nothing says what a crash at {point} leaves behind"))
    }

    /// Does the epoch's own commit get into the table, or are its records read again?
    fn survives(&self, directory: Directory) -> bool {
        self.landed || (directory == Directory::Kept && self.pending == Some("committed"))
    }
}

#[test]
fn every_crash_point_has_an_expectation_and_no_other_has() {
    let known: BTreeSet<_> = POINTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(known, LEAVES.iter().map(|leaves| leaves.point).collect());
}

#[test]
fn a_crash_at_any_point_is_recovered_from_the_checkpoint() {
    for (point, _) in POINTS {
        crash_twice(Leaves::at(point), Directory::Kept);
    }
}

#[test]
fn a_crash_at_any_point_is_harmless_when_the_checkpoint_is_lost_too() {
    for (point, _) in POINTS {
        crash_twice(Leaves::at(point), Directory::Lost);
    }
}

/// Checkpoints as fast as they may follow each other, and one shard: an epoch makes one file.
fn quick(icestream: Icestream) -> Icestream {
    icestream.set("CHECKPOINT_INTERVAL_MS", "100").set("PARALLELISM", "1")
}

/// A crash in the first epoch that the table ever saw, and one in a second epoch of a process.
fn crash_twice(leaves: &Leaves, directory: Directory) {
    let point = leaves.point;
    println!("{point}, directory {directory:?}");
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream = quick(icestream);
    let table = lake.table(&format!("db.{topic}"));
    let kafka = Kafka::shared();
    let produce = |from: i64| kafka.produce(&topic, records(2, from..from + 500));

    let mut produced = produce(0);
    let crashed = icestream.clone().crash_at(point).run().wait(PATIENCE).aborted();
    produced = produced.and(&produce(500));
    recover(&icestream, leaves, directory);
    let made = files::snapshots_by(&table, &crashed.instance());
    assert_eq!(made, usize::from(leaves.survives(directory)), "{point}: commits by the crashed");

    produced = produced.and(&produce(1000));
    let before = table.snapshots().len();
    let mut second = icestream.clone().crash_at(&format!("{point}:2")).run();
    table.wait_for("a commit before the crash", PATIENCE, |metadata| {
        (snapshots(metadata).len() > before).then_some(())
    });
    produced = produced.and(&produce(1500));
    let crashed = second.wait(PATIENCE).aborted();
    produced = produced.and(&produce(2000));
    recover(&icestream, leaves, directory);
    let made = files::snapshots_by(&table, &crashed.instance());
    assert_eq!(made, 1 + usize::from(leaves.survives(directory)), "{point}:2: commits");

    assert_exact(&icestream, &table, &produced);
    // Files stay behind where their records were read again, and only there.
    let orphans = files::orphans(&table);
    let abandoned = if leaves.survives(directory) { 0..=0 } else { 1..=2 };
    assert!(abandoned.contains(&orphans), "{point}, {directory:?}: {orphans} orphans");
}

/// By DuckDB, and by the proof that users run. Every table here is the same to other readers.
fn assert_exact(icestream: &Icestream, table: &Table<'_>, produced: &Produced) {
    let verdict = oracle::judge(table, &[produced], Reader::DuckDb);
    assert!(verdict.is_exact(), "{}: {verdict:#?}", table.name());
    icestream.command(&["verify", "--rows"]).success();
}

/// A start after a crash: it makes of the pending commit what it should, and catches up.
fn recover(icestream: &Icestream, leaves: &Leaves, directory: Directory) {
    if directory == Directory::Lost {
        icestream.lose_checkpoints();
    }
    let exit = icestream.run_until_caught_up();
    let expected = leaves.pending.filter(|_| directory == Directory::Kept);
    assert_eq!(recovered(&exit), expected.into_iter().collect::<Vec<_>>(), "{}", leaves.point);
}

/// What recovery made of the pending commits, as it logged it.
fn recovered(exit: &Exit) -> Vec<&str> {
    let lines = exit.log.lines().filter(|line| line.contains("recovered a pending commit"));
    lines
        .map(|line| {
            let outcome = line.split_once("outcome=\"").and_then(|(_, rest)| rest.split_once('"'));
            outcome.expect("an outcome in the line").0
        })
        .collect()
}

#[test]
fn a_crash_in_the_recovery_from_a_crash_is_recovered_too() {
    let kafka = Kafka::shared();
    for leaves in LEAVES.iter().filter(|leaves| leaves.point.starts_with("commit.")) {
        let lake = Lake::sqlite();
        let (icestream, topic) = pipeline(&lake, 2);
        let icestream = quick(icestream);
        let table = lake.table(&format!("db.{topic}"));
        let produced: Produced = kafka.produce(&topic, records(2, 0..1000));
        let first = icestream.clone().crash_at("prepare.after").run().wait(PATIENCE).aborted();
        let produced = produced.and(&kafka.produce(&topic, records(2, 1000..2000)));
        let second = icestream.clone().crash_at(leaves.point).run().wait(RUN).aborted();
        assert!(!second.log.contains("reading from the ledger"), "{}: it read on", leaves.point);
        recover(&icestream, leaves, Directory::Kept);
        assert_eq!(files::snapshots_by(&table, &first.instance()), 1, "{}", leaves.point);
        assert_eq!(files::snapshots_by(&table, &second.instance()), 0, "{}", leaves.point);
        assert_exact(&icestream, &table, &produced);
        assert_eq!(files::orphans(&table), 0, "{}", leaves.point);
    }
}
