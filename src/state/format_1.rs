//! Format 1: one table, and a checkpoint that is finalized as a whole. It is read as what it would
//! be today, and upgraded in place with the first change to the checkpoints of the store.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::record::{CheckpointRecord, CommitRecord, Open, Outcome, StepSeconds};
use super::{StateError, StateReader, keys};
use crate::protocol::{
    Checkpoint, CommitId, Epoch, Frontier, LastCheckpoint, PendingCommit, UNNAMED,
};

#[derive(Debug, Deserialize)]
pub(super) struct OpenOne {
    number: u64,
    checkpoint: CheckpointOne,
}

#[derive(Debug, Deserialize)]
struct CheckpointOne {
    epoch: Epoch,
    frontier: Frontier,
    pending: Vec<PendingCommit>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RecordOne {
    epoch: Epoch,
    instance: String,
    started_ms: i64,
    ended_ms: Option<i64>,
    seconds: StepSeconds,
    bytes: u64,
    records: u64,
    files: u64,
    frontier: Frontier,
    outcome: Outcome,
}

impl OpenOne {
    pub(super) fn upgraded(self) -> Open {
        let CheckpointOne { epoch, frontier, pending } = self.checkpoint;
        let table = pending.first().map(|pending| pending.table.clone());
        let frontiers = table.into_iter().map(|table| (table, frontier.clone())).collect();
        Open { number: self.number, checkpoint: Checkpoint { epoch, frontiers, pending } }
    }
}

impl RecordOne {
    pub(super) fn upgraded(self) -> CheckpointRecord {
        let commit = CommitRecord {
            table: String::new(),
            commit_id: CommitId(String::new()),
            frontier: self.frontier,
            outcome: self.outcome,
        };
        CheckpointRecord {
            epoch: self.epoch,
            instance: self.instance,
            started_ms: self.started_ms,
            ended_ms: self.ended_ms,
            seconds: self.seconds,
            bytes: self.bytes,
            records: self.records,
            files: self.files,
            commits: vec![commit],
        }
    }
}

/// The open checkpoint of a store of format 1. One without a pending commit moved nothing, and is
/// done.
pub(super) fn open_checkpoint(reader: &StateReader) -> Result<Option<Open>, StateError> {
    let open = reader.get::<OpenOne>(keys::OPEN_1)?.map(OpenOne::upgraded);
    Ok(open.filter(|open| !open.checkpoint.pending.is_empty()))
}

/// What a store of format 1 last saw in its table. It did not say which one, but a pending commit
/// does. The table that the process is set to is not taken for it: whether it is the same is what
/// this is for.
pub(super) fn last(reader: &StateReader) -> Result<BTreeMap<String, LastCheckpoint>, StateError> {
    let Some(last) = reader.get::<LastCheckpoint>(keys::LAST_1)? else {
        return Ok(BTreeMap::new());
    };
    let pending =
        open_checkpoint(reader)?.and_then(|open| open.checkpoint.pending.into_iter().next());
    let table = pending.map_or_else(|| UNNAMED.to_owned(), |pending| pending.table);
    Ok(BTreeMap::from([(table, last)]))
}

/// The retained checkpoints of a store of format 1 by number, oldest first, as far as they can be
/// read.
pub(super) fn records(reader: &StateReader) -> Result<Vec<(u64, CheckpointRecord)>, StateError> {
    let mut records = Vec::new();
    for number in reader.record_numbers(keys::records_1())? {
        let key = keys::record(keys::records_1(), number);
        let record = reader.lenient::<RecordOne>(&key)?.map(RecordOne::upgraded);
        records.extend(record.map(|record| (number, record)));
    }
    Ok(records)
}
