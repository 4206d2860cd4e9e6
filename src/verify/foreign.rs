//! Snapshots that the pipeline did not make.

use std::collections::HashMap;

use iceberg::spec::{Operation, Snapshot};
use serde::Serialize;

use crate::base::clock::rfc3339;
use crate::protocol::SUMMARY_PIPELINE;

/// A snapshot in the ancestry of the head that this pipeline did not make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ForeignSnapshot {
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
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let summary = &snapshot.summary().additional_properties;
        let number = |key: &str| number(summary, key).unwrap_or(0);
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

    /// Did it remove data files, of whatever rows?
    pub(super) fn removes_files(&self) -> bool {
        self.removed > 0
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

/// A number in a snapshot's summary; writers leave out those that are 0.
pub(super) fn number(summary: &HashMap<String, String>, key: &str) -> Option<u64> {
    summary.get(key).and_then(|value| value.parse().ok())
}
