use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rocksdb::DB;
use tempfile::TempDir;

use super::*;
use crate::protocol::{
    Checkpoint, CommitId, Epoch, Frontier, LastCheckpoint, LocalState, OffsetRange, PendingCommit,
    PendingFile, Ranges, RowCounts, TopicPartition,
};

fn checkpoint(epoch: u64) -> Checkpoint {
    let tp = TopicPartition::new("readings", 0);
    let (start, end) = (10 * (epoch as i64 - 1), 10 * epoch as i64);
    let file = PendingFile {
        path: format!("s3://lake/readings/{epoch}.parquet"),
        data_file: r#"{"record-count":6}"#.into(),
        schema_id: 1,
        spec_id: 0,
        records: 6,
        bytes: 4096,
    };
    let pending = PendingCommit {
        commit_id: CommitId(format!("commit-{epoch}")),
        pipeline: "flow".into(),
        instance: "one".into(),
        epoch: Epoch(epoch),
        table: "lake.readings".into(),
        table_uuid: "table-1".into(),
        cluster_id: "cluster-1".into(),
        topic_ids: BTreeMap::from([("readings".into(), "topic-1".into())]),
        generation: 0,
        from: Frontier::from_iter([(tp.clone(), start)]),
        ranges: Ranges::from([(tp.clone(), OffsetRange { start, end })]),
        files: vec![file],
        rows: RowCounts { written: 6, skipped: 1, dead_lettered: 0, tombstones: 2 },
    };
    let frontier = Frontier::from_iter([(tp, end)]);
    Checkpoint { epoch: Epoch(epoch), frontier, pending: vec![pending] }
}

fn start() -> CheckpointStart {
    CheckpointStart { instance: "one".into(), started_ms: 1_700_000_000_000, seal_seconds: 0.5 }
}

fn end(retained: usize) -> CheckpointEnd {
    let seconds = StepSeconds { prepare: Some(0.25), commit: Some(1.5), ..StepSeconds::default() };
    CheckpointEnd { ended_ms: 1_700_000_002_000, seconds, retained }
}

fn committed(snapshot: i64) -> Outcome {
    Outcome::Committed { snapshot: Some(snapshot) }
}

fn open(dir: &Path) -> StateStore {
    StateStore::open(dir, "flow").unwrap()
}

/// A directory with one finalized checkpoint and one that is open.
fn two_epochs() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.prepare(&checkpoint(1), &start()).unwrap();
    store.finalize(Epoch(1), committed(77), &end(10)).unwrap();
    store.prepare(&checkpoint(2), &start()).unwrap();
    dir
}

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
    assert_eq!(store.load().unwrap(), LocalState::default());
    assert_eq!(store.open_checkpoint().unwrap(), None);
    assert_eq!(store.checkpoints().unwrap(), []);
}

#[test]
fn what_was_prepared_is_there_after_opening_again() {
    let dir = TempDir::new().unwrap();
    open(dir.path()).prepare(&checkpoint(1), &start()).unwrap();
    let store = open(dir.path());
    assert_eq!(store.load().unwrap(), LocalState { pending: checkpoint(1).pending, last: None });
    assert_eq!(store.open_checkpoint().unwrap(), Some(checkpoint(1)));
    let records = store.checkpoints().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].outcome, Outcome::Pending);
    assert_eq!((records[0].bytes, records[0].records, records[0].files), (4096, 9, 1));
}

#[test]
fn finalizing_removes_the_pending_commits_and_completes_the_record() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.prepare(&checkpoint(1), &start()).unwrap();
    store.finalize(Epoch(1), committed(77), &end(10)).unwrap();
    drop(store);

    let store = open(dir.path());
    let last = LastCheckpoint { epoch: Epoch(1), frontier: checkpoint(1).frontier, generation: 0 };
    assert_eq!(store.load().unwrap(), LocalState { pending: vec![], last: Some(last) });
    let record = store.checkpoints().unwrap().remove(0);
    assert_eq!(record.outcome, committed(77));
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
    store.finalize(Epoch(2), Outcome::Superseded, &end(10)).unwrap();
    store.prepare(&checkpoint(3), &start()).unwrap();
    let failed = Outcome::Failed { reason: "given up".into() };
    store.finalize(Epoch(3), failed.clone(), &end(10)).unwrap();
    let state = store.load().unwrap();
    assert_eq!(state.pending, []);
    assert_eq!(state.last.map(|last| last.epoch), Some(Epoch(1)));
    let outcomes: Vec<Outcome> =
        store.checkpoints().unwrap().into_iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [committed(77), Outcome::Superseded, failed]);
}

#[test]
fn seconds_known_only_afterwards_are_added_to_the_newest_record() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let later =
        StepSeconds { finalize: Some(0.125), report: Some(f64::NAN), ..StepSeconds::default() };
    store.add_seconds(&later).unwrap();
    assert_eq!(store.checkpoints().unwrap(), []);
    store.prepare(&checkpoint(1), &start()).unwrap();
    store.finalize(Epoch(1), committed(77), &end(10)).unwrap();
    store.add_seconds(&later).unwrap();
    let seconds = store.checkpoints().unwrap()[0].seconds;
    assert_eq!((seconds.seal, seconds.finalize, seconds.report), (Some(0.5), Some(0.125), None));
}

#[test]
fn a_second_epoch_is_not_prepared_before_the_first_is_finalized() {
    let dir = two_epochs();
    let store = open(dir.path());
    let error = store.prepare(&checkpoint(3), &start()).unwrap_err();
    assert!(matches!(error, StateError::StillOpen { open: Epoch(2), next: Epoch(3) }), "{error}");
    assert_eq!(store.load().unwrap().pending, checkpoint(2).pending);
}

#[test]
fn only_the_prepared_epoch_is_finalized_and_only_once() {
    let dir = two_epochs();
    let store = open(dir.path());
    let error = store.finalize(Epoch(1), Outcome::Superseded, &end(10)).unwrap_err();
    let two = Some(Epoch(2));
    assert!(
        matches!(&error, StateError::NotOpen { epoch: Epoch(1), open } if *open == two),
        "{error}"
    );
    assert_eq!(store.load().unwrap().pending, checkpoint(2).pending);
    store.finalize(Epoch(2), Outcome::Superseded, &end(10)).unwrap();
    let error = store.finalize(Epoch(2), Outcome::Superseded, &end(10)).unwrap_err();
    assert!(matches!(error, StateError::NotOpen { epoch: Epoch(2), open: None }), "{error}");
}

#[test]
fn only_the_retained_checkpoints_are_kept_newest_last() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let epochs = || -> Vec<u64> {
        store.checkpoints().unwrap().iter().map(|record| record.epoch.0).collect()
    };
    for epoch in 1..=7 {
        store.prepare(&checkpoint(epoch), &start()).unwrap();
        store.finalize(Epoch(epoch), committed(1), &end(3)).unwrap();
    }
    assert_eq!(epochs(), [5, 6, 7]);
    // A new process counts its epochs from wherever it likes: the order is that of preparing.
    store.prepare(&checkpoint(2), &start()).unwrap();
    assert_eq!(epochs(), [5, 6, 7, 2]);
    store.finalize(Epoch(2), committed(1), &end(0)).unwrap();
    assert_eq!(epochs(), [2]);
}

#[test]
fn a_checkpoint_in_which_nothing_moved_is_prepared_and_finalized_too() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let idle = Checkpoint { pending: vec![], ..checkpoint(1) };
    store.prepare(&idle, &start()).unwrap();
    assert_eq!(store.open_checkpoint().unwrap(), Some(idle.clone()));
    store.finalize(Epoch(1), Outcome::Committed { snapshot: None }, &end(1)).unwrap();
    assert_eq!(store.load().unwrap().last.map(|last| last.frontier), Some(idle.frontier));
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
    let error = StateStore::open(dir.path(), "other").unwrap_err();
    assert!(
        matches!(&error, StateError::OtherPipeline { found, expected, .. }
            if found == "flow" && expected == "other"),
        "{error:?}"
    );
    assert_eq!(open(dir.path()).load().unwrap().pending, checkpoint(2).pending);
}

#[test]
fn a_reader_sees_the_store_beside_the_process_that_holds_it() {
    let dir = two_epochs();
    let store = open(dir.path());
    let reader = StateStore::open_read_only(dir.path()).unwrap();
    assert_eq!(reader.pipeline().unwrap().as_deref(), Some("flow"));
    assert_eq!(reader.load().unwrap(), store.load().unwrap());
    assert_eq!(reader.checkpoints().unwrap(), store.checkpoints().unwrap());
    store.finalize(Epoch(2), committed(78), &end(10)).unwrap();
    let later = StateStore::open_read_only(dir.path()).unwrap();
    assert_eq!(later.open_checkpoint().unwrap(), None);
}

#[test]
fn a_reader_makes_nothing_where_there_is_no_store() {
    let dir = TempDir::new().unwrap();
    for path in [dir.path().join("absent"), dir.path().to_owned()] {
        let error = StateStore::open_read_only(&path).unwrap_err();
        assert!(matches!(error, StateError::Missing { .. }), "{error:?}");
    }
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
    let cases: [(Vec<u8>, &str); 4] = [
        (keys::META.to_vec(), "meta"),
        (keys::OPEN.to_vec(), "open checkpoint"),
        (keys::LAST.to_vec(), "last checkpoint"),
        (keys::record(1).to_vec(), "checkpoint record 1"),
    ];
    for (raw, name) in cases {
        let dir = two_epochs();
        change(dir.path(), &raw, damage);
        let read = StateStore::open(dir.path(), "flow").and_then(|store| {
            store.load()?;
            store.checkpoints()
        });
        match read {
            Err(StateError::Corrupt { key, .. }) => assert_eq!(key, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_record_of_a_newer_version_is_refused_as_such() {
    let dir = two_epochs();
    change(dir.path(), keys::OPEN, |mut bytes| {
        bytes.truncate(bytes.len() - 4);
        bytes[4..6].copy_from_slice(&2u16.to_be_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    });
    let error = open(dir.path()).load().unwrap_err();
    assert!(matches!(error, StateError::NewerVersion { found: 2, .. }), "{error:?}");
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

/// The values of format version 1, byte for byte. If this fails, the format has changed: give it
/// a new version, and a way up from this one.
#[test]
fn a_store_of_format_version_one_is_read_and_written_alike() {
    let fixture = include_str!("../../tests/data/state_v1.txt");
    let golden: BTreeMap<Vec<u8>, Vec<u8>> = fixture
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(key, value)| (unhex(key), unhex(value)))
        .collect();
    let written = two_epochs();
    let stored: BTreeMap<Vec<u8>, Vec<u8>> = DB::open_default(written.path())
        .unwrap()
        .iterator(rocksdb::IteratorMode::Start)
        .map(|item| item.map(|(key, value)| (key.into_vec(), value.into_vec())).unwrap())
        .collect();
    assert_eq!(hex_lines(&stored), hex_lines(&golden));

    let dir = TempDir::new().unwrap();
    let db = DB::open_default(dir.path()).unwrap();
    golden.iter().for_each(|(key, value)| db.put(key, value).unwrap());
    drop(db);
    let state = open(dir.path()).load().unwrap();
    assert_eq!(state.pending, checkpoint(2).pending);
    let last = LastCheckpoint { epoch: Epoch(1), frontier: checkpoint(1).frontier, generation: 0 };
    assert_eq!(state.last, Some(last));
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn hex_lines(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    records.iter().map(|(key, value)| format!("{} {}\n", hex(key), hex(value))).collect()
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
        open(&dir).prepare(&checkpoint(1), &start()).unwrap();
        let held = open(&dir);
        held.finalize(Epoch(1), committed(77), &end(10)).unwrap();
        held.prepare(&checkpoint(2), &start()).unwrap();
        std::process::abort();
    }
    let dir = TempDir::new().unwrap();
    let output = run_child("what_was_prepared_survives_the_death_of_its_process", dir.path(), "");
    assert!(output.status.signal().is_some(), "{}", text(&output));
    let state = open(dir.path()).load().unwrap();
    assert_eq!(state.pending, checkpoint(2).pending);
    assert_eq!(state.last.map(|last| last.epoch), Some(Epoch(1)));
}

#[test]
fn a_directory_held_by_another_process_is_refused_and_left_alone() {
    let name = "a_directory_held_by_another_process_is_refused_and_left_alone";
    if let Some(dir) = child_dir() {
        let error = StateStore::open(&dir, "flow").unwrap_err();
        assert!(matches!(error, StateError::InUse { .. }), "{error:?}");
        let reader = StateStore::open_read_only(&dir).unwrap();
        assert_eq!(reader.load().unwrap().pending, checkpoint(2).pending);
        return;
    }
    let dir = two_epochs();
    let held = open(dir.path());
    let output = run_child(name, dir.path(), "");
    assert!(output.status.success(), "{}", text(&output));
    held.finalize(Epoch(2), committed(78), &end(10)).unwrap();
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
    let state = store.load().unwrap();
    let last = state.last.unwrap().epoch.0;
    let open = store.open_checkpoint().unwrap().map_or(last, |open| open.epoch.0);
    assert!(last >= acknowledged && open <= acknowledged + 1, "{last} {open} {acknowledged}");
    // And it takes writes again.
    let next = checkpoint(open + 1);
    if open > last {
        store.finalize(Epoch(open), Outcome::Superseded, &end(10)).unwrap();
    }
    store.prepare(&next, &start()).unwrap();
    assert_eq!(store.load().unwrap().pending, next.pending);
}

fn fill_until_a_write_fails(dir: &Path) {
    let store = open(dir);
    let mut acknowledged = 0;
    let error = loop {
        let mut next = checkpoint(acknowledged + 1);
        next.pending[0].files[0].data_file = "x".repeat(50_000);
        let written = store
            .prepare(&next, &start())
            .and_then(|()| store.finalize(next.epoch, committed(1), &end(2)));
        match written {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "no write ever failed");
    };
    assert!(matches!(error, StateError::RocksDb { operation: "write", .. }), "{error:?}");
    let open = store.open_checkpoint().unwrap().map(|open| open.epoch);
    let next = match open {
        Some(epoch) => store.finalize(epoch, Outcome::Superseded, &end(2)),
        None => store.prepare(&checkpoint(acknowledged + 1), &start()),
    };
    assert!(matches!(next, Err(StateError::WriteFailedBefore { .. })), "{next:?}");
    let later = store.add_seconds(&StepSeconds::default());
    assert!(matches!(later, Err(StateError::WriteFailedBefore { .. })), "{later:?}");
    println!("\nacknowledged {acknowledged}");
}
