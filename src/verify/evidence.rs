//! What a table shows: all that its verdict is made of.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, SecondsFormat};
use iceberg::spec::{Operation, Snapshot, TableMetadata};

use super::rows::Rows;
use crate::protocol::{SUMMARY_PIPELINE, TableView};

/// All that a table shows about one pipeline, from one reading.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Table as `namespace.table`.
    pub table: String,
    /// The pipeline that is judged.
    pub pipeline: String,
    /// The topic that it reads by its settings.
    pub topic: String,
    /// Its ledger and journal.
    pub view: TableView,
    /// The other snapshots.
    pub history: History,
    /// Topics in the ledgers of other pipelines, and whose they are.
    pub other_topics: BTreeMap<String, String>,
    /// The rows.
    pub rows: Rows,
}

/// The ancestry of the head, as far as it is still shown.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Does it surely lead back to the table's first snapshot? False once the oldest were expired,
    /// and always false in tables of format version 1, where that cannot be told.
    pub complete: bool,
    /// The snapshots in it that this pipeline did not make, oldest first.
    pub foreign: Vec<ForeignSnapshot>,
}

/// A snapshot in the ancestry of the head that this pipeline did not make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignSnapshot {
    /// The snapshot.
    pub snapshot_id: i64,
    /// When it was made, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Data sequence number; 0 in tables of format version 1.
    pub sequence_number: i64,
    /// `append`, `overwrite`, `delete` or `replace`.
    pub operation: String,
    /// The pipeline that made it, if another pipeline did.
    pub pipeline: Option<String>,
    /// Rows in the data files it added.
    pub added: u64,
    /// Rows in the data files it removed.
    pub removed: u64,
    /// Rows deleted by position.
    pub deleted: u64,
    /// Did it delete by value? How many rows that took, it does not say.
    pub deleted_by_value: bool,
}

impl ForeignSnapshot {
    fn new(snapshot: &Snapshot) -> Self {
        let summary = &snapshot.summary().additional_properties;
        let number =
            |key: &str| summary.get(key).and_then(|value| value.parse().ok()).unwrap_or(0_u64);
        Self {
            snapshot_id: snapshot.snapshot_id(),
            timestamp_ms: snapshot.timestamp_ms(),
            sequence_number: snapshot.sequence_number(),
            operation: match snapshot.summary().operation {
                Operation::Append => "append",
                Operation::Replace => "replace",
                Operation::Overwrite => "overwrite",
                Operation::Delete => "delete",
            }
            .to_owned(),
            pipeline: summary.get(SUMMARY_PIPELINE).cloned(),
            added: number("added-records"),
            removed: number("deleted-records"),
            deleted: number("added-position-deletes"),
            deleted_by_value: number("added-equality-deletes") > 0,
        }
    }

    /// A `replace` (compaction) keeps every row; what it removes it also adds, less what was
    /// deleted before. Whatever else removes or deletes, may take rows of ours.
    pub(super) fn takes_rows(&self) -> bool {
        let removes = self.removed > 0 || self.deleted > 0 || self.deleted_by_value;
        removes && self.operation != "replace"
    }

    /// Could it have put rows in that no pipeline read?
    pub(super) fn brings_rows(&self) -> bool {
        self.added > 0 && self.operation != "replace" && self.pipeline.is_none()
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let maker = match &self.pipeline {
            Some(pipeline) => format!("by pipeline {pipeline}"),
            None => String::from("foreign"),
        };
        let mut text = format!(
            "snapshot {} ({maker}, {}, {}, +{} -{} rows",
            self.snapshot_id,
            self.operation,
            rfc3339(self.timestamp_ms),
            self.added,
            self.removed
        );
        if self.deleted > 0 {
            text.push_str(&format!(", {} deleted by position", self.deleted));
        }
        if self.deleted_by_value {
            text.push_str(", deletes by value");
        }
        text.push(')');
        text
    }
}

/// Sequence number of a table's first snapshot.
const FIRST: i64 = 1;

/// Reads the ancestry of the head.
///
/// That the oldest snapshot has no parent does not make it the first: some programs that expire
/// snapshots take the name of the expired parent out of its child. Its number stays.
pub(super) fn history(metadata: &TableMetadata, pipeline: &str) -> History {
    let mut seen = HashSet::new();
    let mut foreign = Vec::new();
    let mut oldest = None;
    let mut next = metadata.current_snapshot_id();
    while let Some(id) = next {
        let Some(snapshot) = metadata.snapshot_by_id(id).filter(|_| seen.insert(id)) else { break };
        let summary = &snapshot.summary().additional_properties;
        if summary.get(SUMMARY_PIPELINE).is_none_or(|name| name != pipeline) {
            foreign.push(ForeignSnapshot::new(snapshot));
        }
        oldest = Some(snapshot.sequence_number());
        next = snapshot.parent_snapshot_id();
    }
    foreign.reverse();
    let complete = next.is_none() && oldest.is_none_or(|number| number == FIRST);
    History { complete, foreign }
}

/// A time in milliseconds since the Unix epoch, for people: RFC 3339, UTC.
pub fn rfc3339(timestamp_ms: i64) -> String {
    match DateTime::from_timestamp_millis(timestamp_ms) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        None => format!("{timestamp_ms} ms"),
    }
}
