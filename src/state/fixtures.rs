//! Checkpoints for the tests of the store.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::protocol::{
    Checkpoint, CommitId, Epoch, Frontier, LastCheckpoint, LocalState, OffsetRange, PendingCommit,
    PendingFile, Prepared, Ranges, RowCounts, Settled, Shown, Superseded, TopicPartition,
};

pub(super) const FLOW: &str = "flow";
pub(super) const TABLE: &str = "lake.readings";

pub(super) fn checkpoint(epoch: u64) -> Checkpoint {
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
        commit_id: id(epoch),
        pipeline: "flow".into(),
        instance: "one".into(),
        epoch: Epoch(epoch),
        table: TABLE.into(),
        table_uuid: "table-1".into(),
        cluster_id: "cluster-1".into(),
        topic_ids: BTreeMap::from([("readings".into(), "topic-1".into())]),
        generation: 0,
        from: Frontier::from_iter([(tp.clone(), start)]),
        ranges: Ranges::from([(tp.clone(), OffsetRange { start, end })]),
        files: vec![file],
        rows: RowCounts { written: 6, skipped: 1, dead_lettered: 0, tombstones: 2 },
    };
    let frontiers = BTreeMap::from([(TABLE.into(), Frontier::from_iter([(tp, end)]))]);
    Checkpoint { epoch: Epoch(epoch), frontiers, pending: vec![pending] }
}

pub(super) fn id(epoch: u64) -> CommitId {
    CommitId(format!("commit-{epoch}"))
}

/// What a store says of a table of which it saw the checkpoint of `epoch` last.
pub(super) fn last(epoch: u64) -> BTreeMap<String, LastCheckpoint> {
    let frontier = checkpoint(epoch).frontiers[TABLE].clone();
    let table_uuid = String::from("table-1");
    let last = LastCheckpoint { epoch: Epoch(epoch), frontier, generation: 0, table_uuid };
    BTreeMap::from([(TABLE.into(), last)])
}

/// The same by an older program, which did not keep which table it was.
pub(super) fn last_without_uuid(epoch: u64) -> BTreeMap<String, LastCheckpoint> {
    let mut last = last(epoch);
    last.values_mut().for_each(|last| last.table_uuid.clear());
    last
}

/// The epoch of the last checkpoint seen in the table.
pub(super) fn last_epoch(state: &LocalState) -> Option<Epoch> {
    state.last.get(TABLE).map(|last| last.epoch)
}

pub(super) fn start() -> CheckpointStart {
    let leaders = Leaders::default();
    let (instance, started_ms) = ("one".into(), 1_700_000_000_000);
    CheckpointStart { instance, started_ms, seal_seconds: 0.5, leaders }
}

pub(super) fn end(retained: usize) -> CheckpointEnd {
    let seconds = StepSeconds { prepare: Some(0.25), commit: Some(1.5), ..StepSeconds::default() };
    CheckpointEnd { ended_ms: 1_700_000_002_000, seconds, retained }
}

pub(super) fn committed(snapshot: i64) -> Outcome {
    Outcome::Committed { snapshot: Some(snapshot) }
}

/// The commit of an epoch is in the table by this snapshot.
pub(super) fn in_table(commit: CommitId, snapshot: i64) -> Settled {
    Settled::Committed(Shown::forged(commit, Some(snapshot)))
}

pub(super) fn superseded(commit: CommitId) -> Settled {
    Settled::Superseded(Superseded::forged(commit))
}

/// The commits of a checkpoint, as the store gives them back.
pub(super) fn prepared(checkpoint: &Checkpoint) -> Vec<Prepared> {
    checkpoint.pending.iter().cloned().map(Prepared::on_disk).collect()
}

pub(super) fn open(dir: &Path) -> StateStore {
    StateStore::open(dir, "flow").unwrap()
}

/// A directory with one finalized checkpoint and one that is open.
pub(super) fn two_epochs() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.prepare(FLOW, &checkpoint(1), &start()).unwrap();
    store.finalize(FLOW, &in_table(id(1), 77), &end(10)).unwrap();
    store.prepare(FLOW, &checkpoint(2), &start()).unwrap();
    dir
}
