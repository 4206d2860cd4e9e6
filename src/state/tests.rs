mod formats;
mod leaders;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rocksdb::DB;
use tempfile::TempDir;

use super::fixtures::*;
use super::*;
use crate::protocol::{
    Checkpoint, CommitId, Epoch, Frontier, InvariantId, LocalState, PendingCommit, TopicPartition,
};

/// Changes what is stored under `key`, behind the back of the store.
fn change(dir: &Path, key: &[u8], change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let db = DB::open_default(dir).unwrap();
    let old = db.get(key).unwrap().unwrap();
    db.put(key, change(old)).unwrap();
}

#[test]
fn a_new_store_is_empty() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir.path().join("made/with/parents"));
    assert_eq!(store.load(FLOW).unwrap(), LocalState::default());
    assert_eq!(store.open_checkpoint(FLOW).unwrap(), None);
    assert_eq!(store.checkpoints(FLOW).unwrap(), []);
}

#[test]
fn what_was_prepared_is_there_after_opening_again() {
    let dir = TempDir::new().unwrap();
    open(dir.path()).prepare(FLOW, &checkpoint(1), &start()).unwrap();
    let store = open(dir.path());
    assert_eq!(
        store.load(FLOW).unwrap(),
        LocalState { pending: prepared(&checkpoint(1)), last: BTreeMap::new(), given_up: false }
    );
    assert_eq!(store.open_checkpoint(FLOW).unwrap(), Some(checkpoint(1)));
    let records = store.checkpoints(FLOW).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].outcome(), Outcome::Pending);
    assert_eq!((records[0].bytes, records[0].records, records[0].files), (4096, 9, 1));
}

#[test]
fn finalizing_removes_the_pending_commits_and_completes_the_record() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.prepare(FLOW, &checkpoint(1), &start()).unwrap();
    store.finalize(FLOW, &in_table(id(1), 77), &end(10)).unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(
        store.load(FLOW).unwrap(),
        LocalState { pending: vec![], last: last(1), given_up: false }
    );
    let record = store.checkpoints(FLOW).unwrap().remove(0);
    assert_eq!(record.outcome(), committed(77));
    assert_eq!(record.ended_ms, Some(1_700_000_002_000));
    let seconds = StepSeconds {
        seal: Some(0.5),
        prepare: Some(0.25),
        commit: Some(1.5),
        ..StepSeconds::default()
    };
    assert_eq!(record.seconds, seconds);
}

#[test]
fn a_checkpoint_that_did_not_reach_the_table_is_not_the_last_one() {
    let dir = two_epochs();
    let store = open(dir.path());
    store.finalize(FLOW, &superseded(id(2)), &end(10)).unwrap();
    store.prepare(FLOW, &checkpoint(3), &start()).unwrap();
    let state = store.load(FLOW).unwrap();
    assert_eq!(last_epoch(&state), Some(Epoch(1)));
    let failed = Outcome::Failed { reason: "given up".into() };
    store.give_up(FLOW, "given up").unwrap();
    // It is known that there was something to give up.
    assert_eq!(store.load(FLOW).unwrap(), LocalState { given_up: true, ..LocalState::default() });
    let outcomes: Vec<Outcome> =
        store.checkpoints(FLOW).unwrap().into_iter().map(|record| record.outcome()).collect();
    assert_eq!(outcomes, [committed(77), Outcome::Superseded, failed]);
}

#[test]
fn seconds_known_only_afterwards_are_added_to_the_newest_record() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let later =
        StepSeconds { finalize: Some(0.125), report: Some(f64::NAN), ..StepSeconds::default() };
    store.add_seconds(FLOW, &later).unwrap();
    assert_eq!(store.checkpoints(FLOW).unwrap(), []);
    store.prepare(FLOW, &checkpoint(1), &start()).unwrap();
    store.finalize(FLOW, &in_table(id(1), 77), &end(10)).unwrap();
    store.add_seconds(FLOW, &later).unwrap();
    let seconds = store.checkpoints(FLOW).unwrap()[0].seconds;
    assert_eq!((seconds.seal, seconds.finalize, seconds.report), (Some(0.5), Some(0.125), None));
}

#[test]
fn a_second_epoch_is_not_prepared_before_the_first_is_finalized() {
    let dir = two_epochs();
    let store = open(dir.path());
    let error = store.prepare(FLOW, &checkpoint(3), &start()).unwrap_err();
    assert!(matches!(&error, StateError::StillOpen(i2) if i2.id == InvariantId::I2), "{error}");
    assert_eq!(store.load(FLOW).unwrap().pending, prepared(&checkpoint(2)));
}

#[test]
fn only_the_prepared_epoch_is_finalized_and_only_once() {
    let dir = two_epochs();
    let store = open(dir.path());
    let error = store.finalize(FLOW, &superseded(id(1)), &end(10)).unwrap_err();
    assert!(matches!(&error, StateError::NotOpen { open: Some(Epoch(2)), .. }), "{error}");
    assert_eq!(store.load(FLOW).unwrap().pending, prepared(&checkpoint(2)));
    store.finalize(FLOW, &superseded(id(2)), &end(10)).unwrap();
    let error = store.finalize(FLOW, &superseded(id(2)), &end(10)).unwrap_err();
    assert!(matches!(error, StateError::NotOpen { open: None, .. }), "{error}");
}

#[test]
fn only_the_retained_checkpoints_are_kept_newest_last() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let epochs = || -> Vec<u64> {
        store.checkpoints(FLOW).unwrap().iter().map(|record| record.epoch.0).collect()
    };
    for epoch in 1..=7 {
        store.prepare(FLOW, &checkpoint(epoch), &start()).unwrap();
        store.finalize(FLOW, &in_table(id(epoch), 1), &end(3)).unwrap();
    }
    assert_eq!(epochs(), [5, 6, 7]);
    // A new process counts its epochs from wherever it likes: the order is that of preparing.
    store.prepare(FLOW, &checkpoint(2), &start()).unwrap();
    assert_eq!(epochs(), [5, 6, 7, 2]);
    store.finalize(FLOW, &in_table(id(2), 1), &end(0)).unwrap();
    assert_eq!(epochs(), [2]);
}

/// A checkpoint for two tables.
fn for_two_tables(epoch: u64) -> Checkpoint {
    let mut both = checkpoint(epoch);
    let other = PendingCommit {
        commit_id: CommitId(format!("other-{epoch}")),
        table: "lake.other".into(),
        ..both.pending[0].clone()
    };
    let frontier = Frontier::from_iter([(TopicPartition::new("readings", 0), 7)]);
    both.frontiers.insert("lake.other".into(), frontier);
    both.pending.push(other);
    both
}

#[test]
fn each_commit_of_a_checkpoint_is_finalized_by_itself_and_the_last_completes_it() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.prepare(FLOW, &for_two_tables(1), &start()).unwrap();
    let other = CommitId("other-1".into());
    store.finalize(FLOW, &in_table(other.clone(), 5), &end(10)).unwrap();
    drop(store);

    let store = open(dir.path());
    let state = store.load(FLOW).unwrap();
    assert_eq!(
        state.pending,
        prepared(&checkpoint(1)),
        "the other table's commit is pending still"
    );
    assert_eq!(state.last.keys().collect::<Vec<_>>(), ["lake.other"]);
    let record = store.checkpoints(FLOW).unwrap().remove(0);
    assert_eq!((record.outcome(), record.ended_ms), (Outcome::Pending, None));
    let again = store.finalize(FLOW, &in_table(other.clone(), 5), &end(10)).unwrap_err();
    assert!(matches!(again, StateError::NotOpen { open: Some(Epoch(1)), .. }), "{again}");
    let next = store.prepare(FLOW, &checkpoint(2), &start()).unwrap_err();
    assert!(matches!(next, StateError::StillOpen(_)), "I2: {next}");

    store.finalize(FLOW, &superseded(id(1)), &end(10)).unwrap();
    let state = store.load(FLOW).unwrap();
    assert_eq!(state.pending, []);
    assert_eq!(state.last.keys().collect::<Vec<_>>(), ["lake.other"], "superseded: not seen");
    let record = store.checkpoints(FLOW).unwrap().remove(0);
    let outcomes: Vec<_> = record.commits.iter().map(|commit| commit.outcome.clone()).collect();
    assert_eq!(outcomes, [Outcome::Superseded, committed(5)]);
    assert_eq!((record.outcome(), record.ended_ms.is_some()), (Outcome::Superseded, true));
}

/// Two tables of a flow come to their ends at the same time, each on a thread of its own.
#[test]
fn commits_that_are_finalized_side_by_side_lose_nothing_of_each_other() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    for epoch in 1..=100 {
        store.prepare(FLOW, &for_two_tables(epoch), &start()).unwrap();
        let together = std::sync::Barrier::new(2);
        let finalize = |commit: CommitId| {
            together.wait();
            store.finalize(FLOW, &in_table(commit, 5), &end(10)).unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| finalize(id(epoch)));
            scope.spawn(|| finalize(CommitId(format!("other-{epoch}"))));
        });
        let state = store.load(FLOW).unwrap();
        assert_eq!(state.pending, [], "epoch {epoch}");
        assert!(state.last.values().all(|last| last.epoch == Epoch(epoch)), "{state:?}");
        assert_eq!(state.last.len(), 2);
        let record = store.checkpoints(FLOW).unwrap().pop().unwrap();
        assert!(record.commits.iter().all(|commit| commit.outcome == committed(5)), "{record:?}");
        assert!(record.ended_ms.is_some());
    }
}

#[test]
fn flows_of_one_process_do_not_see_each_other() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.prepare("one", &checkpoint(1), &start()).unwrap();
    store.prepare("two", &for_two_tables(9), &start()).unwrap();
    let held = store.open_checkpoint("two").unwrap();
    store.finalize("one", &in_table(id(1), 1), &end(1)).unwrap();
    store.prepare("one", &checkpoint(2), &start()).unwrap();
    store.give_up("one", "a reason").unwrap();
    assert_eq!(store.open_checkpoint("one").unwrap(), None);
    assert_eq!(store.open_checkpoint("two").unwrap(), held);
    let epochs = |flow| -> Vec<u64> {
        store.checkpoints(flow).unwrap().iter().map(|record| record.epoch.0).collect()
    };
    assert_eq!((epochs("one"), epochs("two")), (vec![1, 2], vec![9]));
    store.add_seconds("one", &StepSeconds { report: Some(1.0), ..StepSeconds::default() }).unwrap();
    assert_eq!(store.checkpoints("two").unwrap()[0].seconds.report, None);
    store.prepare("one", &checkpoint(3), &start()).unwrap();
    drop(store);
    let reader = StateStore::open_read_only(dir.path()).unwrap();
    let open: Vec<u64> =
        reader.open_checkpoints().unwrap().iter().map(|open| open.epoch.0).collect();
    assert_eq!(open, [3, 9]);
}

#[test]
fn a_directory_in_use_is_refused_and_named() {
    let dir = TempDir::new().unwrap();
    let _held = open(dir.path());
    let error = StateStore::open(dir.path(), "flow").unwrap_err();
    assert!(matches!(error, StateError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

#[test]
fn a_directory_of_another_pipeline_is_refused() {
    let dir = two_epochs();
    let read = StateStore::open_read_only(dir.path()).and_then(|reader| reader.is_of("other"));
    for error in [
        StateStore::open(dir.path(), "other").unwrap_err(),
        StateStore::open_existing(dir.path(), "other").unwrap_err(),
        read.unwrap_err(),
    ] {
        assert!(
            matches!(&error, StateError::OtherPipeline { found, expected, .. }
                if found == "flow" && expected == "other"),
            "{error:?}"
        );
    }
    assert_eq!(open(dir.path()).load(FLOW).unwrap().pending, prepared(&checkpoint(2)));
}

#[test]
fn a_reader_sees_the_store_beside_the_process_that_holds_it() {
    let dir = two_epochs();
    let store = open(dir.path());
    let reader = StateStore::open_read_only(dir.path()).unwrap();
    assert_eq!(reader.pipeline().unwrap().as_deref(), Some("flow"));
    assert_eq!(reader.load(FLOW).unwrap(), store.load(FLOW).unwrap());
    assert_eq!(reader.checkpoints(FLOW).unwrap(), store.checkpoints(FLOW).unwrap());
    store.finalize(FLOW, &in_table(id(2), 78), &end(10)).unwrap();
    let later = StateStore::open_read_only(dir.path()).unwrap();
    assert_eq!(later.open_checkpoint(FLOW).unwrap(), None);
}

#[test]
fn a_reader_makes_nothing_where_there_is_no_store() {
    let dir = TempDir::new().unwrap();
    for path in [dir.path().join("absent"), dir.path().to_owned()] {
        for error in [
            StateStore::open_read_only(&path).unwrap_err(),
            StateStore::open_existing(&path, "flow").unwrap_err(),
        ] {
            assert!(matches!(error, StateError::Missing { .. }), "{error:?}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(!dir.path().join("absent").exists());
}

#[test]
fn a_path_that_is_a_file_is_refused_and_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = StateStore::open(&file, "flow").unwrap_err();
    assert!(matches!(error, StateError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[test]
fn a_damaged_record_is_found_and_named() {
    let damage = |mut bytes: Vec<u8>| {
        bytes[20] ^= 1;
        bytes
    };
    let cases: [(Vec<u8>, &str); 3] = [
        (keys::META.to_vec(), "meta"),
        (keys::open(FLOW), "open checkpoint"),
        (keys::last(FLOW), "last checkpoint"),
    ];
    for (raw, name) in cases {
        let dir = two_epochs();
        change(dir.path(), &raw, damage);
        let read = StateStore::open(dir.path(), "flow").and_then(|store| store.load(FLOW));
        match read {
            Err(StateError::Corrupt { key, .. }) => assert_eq!(key, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_record_of_a_newer_version_is_refused_as_such() {
    let dir = two_epochs();
    change(dir.path(), &keys::open(FLOW), |mut bytes| {
        bytes.truncate(bytes.len() - 4);
        bytes[4..6].copy_from_slice(&3u16.to_be_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    });
    let error = open(dir.path()).load(FLOW).unwrap_err();
    assert!(matches!(error, StateError::NewerVersion { found: 3, .. }), "{error:?}");
}

#[test]
fn a_store_whose_files_are_damaged_is_told_apart_from_a_new_one() {
    let dir = two_epochs();
    let files = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let is_manifest = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST"))
    };
    files.filter(is_manifest).for_each(|path| std::fs::write(path, "not a manifest").unwrap());
    let error = StateStore::open(dir.path(), "flow").unwrap_err();
    assert!(matches!(error, StateError::Damaged { .. }), "{error:?}");
}

#[test]
fn a_store_that_lost_its_first_file_is_told_apart_from_none() {
    let dir = two_epochs();
    std::fs::remove_file(dir.path().join("CURRENT")).unwrap();
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    let error = StateStore::open_existing(dir.path(), "flow").unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("`icestream ledger adopt`"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
}

/// Tells a test that it is the process which another run of it has started.
const CHILD: &str = "ICESTREAM_TEST_CHILD_DIR";

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Runs the test `name` in a process of its own, on `dir`, after the shell commands `before`.
fn run_child(name: &str, dir: &Path, before: &str) -> Output {
    Command::new("sh")
        .args(["-c", &format!("{before} exec \"$0\" --exact \"state::tests::$1\" --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, dir)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn what_was_prepared_survives_the_death_of_its_process() {
    if let Some(dir) = child_dir() {
        open(&dir).prepare(FLOW, &checkpoint(1), &start()).unwrap();
        let held = open(&dir);
        held.finalize(FLOW, &in_table(id(1), 77), &end(10)).unwrap();
        held.prepare(FLOW, &checkpoint(2), &start()).unwrap();
        std::process::abort();
    }
    let dir = TempDir::new().unwrap();
    let output = run_child("what_was_prepared_survives_the_death_of_its_process", dir.path(), "");
    assert!(output.status.signal().is_some(), "{}", text(&output));
    let state = open(dir.path()).load(FLOW).unwrap();
    assert_eq!(state.pending, prepared(&checkpoint(2)));
    assert_eq!(last_epoch(&state), Some(Epoch(1)));
}

#[test]
fn a_directory_held_by_another_process_is_refused_and_left_alone() {
    let name = "a_directory_held_by_another_process_is_refused_and_left_alone";
    if let Some(dir) = child_dir() {
        let error = StateStore::open(&dir, "flow").unwrap_err();
        assert!(matches!(error, StateError::InUse { .. }), "{error:?}");
        let reader = StateStore::open_read_only(&dir).unwrap();
        assert_eq!(reader.load(FLOW).unwrap().pending, prepared(&checkpoint(2)));
        return;
    }
    let dir = two_epochs();
    let held = open(dir.path());
    let output = run_child(name, dir.path(), "");
    assert!(output.status.success(), "{}", text(&output));
    held.finalize(FLOW, &in_table(id(2), 78), &end(10)).unwrap();
}

/// A limit on the size of files lets a real write of RocksDB fail half way.
#[test]
fn a_store_takes_no_write_after_a_failed_one_and_opens_again_with_what_was_synced() {
    let name = "a_store_takes_no_write_after_a_failed_one_and_opens_again_with_what_was_synced";
    if let Some(dir) = child_dir() {
        return fill_until_a_write_fails(&dir);
    }
    let dir = TempDir::new().unwrap();
    let output = run_child(name, dir.path(), "trap '' XFSZ; ulimit -f 600;");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    let acknowledged = text.lines().find_map(|line| line.strip_prefix("acknowledged "));
    let acknowledged: u64 = acknowledged.unwrap().parse().unwrap();
    assert!(acknowledged > 0);

    let store = open(dir.path());
    let state = store.load(FLOW).unwrap();
    let last = last_epoch(&state).unwrap().0;
    let open = store.open_checkpoint(FLOW).unwrap().map_or(last, |open| open.epoch.0);
    assert!(last >= acknowledged && open <= acknowledged + 1, "{last} {open} {acknowledged}");
    // And it takes writes again.
    let next = checkpoint(open + 1);
    if open > last {
        store.finalize(FLOW, &superseded(id(open)), &end(10)).unwrap();
    }
    store.prepare(FLOW, &next, &start()).unwrap();
    assert_eq!(store.load(FLOW).unwrap().pending, prepared(&next));
}

fn fill_until_a_write_fails(dir: &Path) {
    let store = open(dir);
    let mut acknowledged = 0;
    let error = loop {
        let mut next = checkpoint(acknowledged + 1);
        next.pending[0].files[0].data_file = "x".repeat(50_000);
        let written = store
            .prepare(FLOW, &next, &start())
            .and_then(|_| store.finalize(FLOW, &in_table(id(next.epoch.0), 1), &end(2)));
        match written {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "no write ever failed");
    };
    assert!(matches!(error, StateError::RocksDb { operation: "write", .. }), "{error:?}");
    let open = store.open_checkpoint(FLOW).unwrap().map(|open| open.epoch);
    let next = match open {
        Some(epoch) => store.finalize(FLOW, &superseded(id(epoch.0)), &end(2)),
        None => store.prepare(FLOW, &checkpoint(acknowledged + 1), &start()).map(|_| ()),
    };
    assert!(matches!(next, Err(StateError::WriteFailedBefore { .. })), "{next:?}");
    let later = store.add_seconds(FLOW, &StepSeconds::default());
    assert!(matches!(later, Err(StateError::WriteFailedBefore { .. })), "{later:?}");
    println!("\nacknowledged {acknowledged}");
}
