//! What a table shows: all that its verdict is made of.

use std::collections::{BTreeMap, HashSet};

use iceberg::spec::TableMetadata;

use super::files::Files;
use super::foreign::{ForeignSnapshot, number};
use super::rows::Rows;
use crate::protocol::{FullView, SUMMARY_FOUNDING, SUMMARY_PIPELINE, inherited};

/// All that a table shows about one pipeline, from one reading.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// Table as `namespace.table`.
    pub table: String,
    /// The pipeline that is judged.
    pub pipeline: String,
    /// The topic that it reads by its settings.
    pub topic: String,
    /// Its ledger and journal.
    pub view: FullView,
    /// The other snapshots.
    pub history: History,
    /// Topics in the ledgers of other pipelines, and whose they are.
    pub other_topics: BTreeMap<String, String>,
    /// The files that the head's manifests list.
    pub files: Files,
    /// The rows.
    pub rows: Rows,
}

/// The ancestry of the head, as far as it is still shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Does it surely lead back to a snapshot that was made on nothing? False once the oldest were
    /// expired, and where that cannot be told.
    pub complete: bool,
    /// The snapshots in it that this pipeline did not make, oldest first.
    pub foreign: Vec<ForeignSnapshot>,
    /// Rows that this pipeline's snapshots added by their own summaries, where these tell.
    pub added: BTreeMap<i64, u64>,
}

/// Sequence number of a table's first snapshot.
const FIRST: i64 = 1;

/// Reads the ancestry of the head, as `pipeline` sees it.
///
/// That the oldest snapshot has no parent does not make it the first: some programs that expire
/// snapshots take the name of the expired parent out of its child. Its number stays, and so do
/// the running totals in its summary.
pub(crate) fn history(metadata: &TableMetadata, pipeline: &str) -> History {
    let mut seen = HashSet::new();
    let mut foreign = Vec::new();
    let mut added = BTreeMap::new();
    let mut begins = true;
    let mut next = metadata.current_snapshot_id();
    while let Some(id) = next {
        let Some(snapshot) = metadata.snapshot_by_id(id).filter(|_| seen.insert(id)) else { break };
        let summary = &snapshot.summary().additional_properties;
        if summary.get(SUMMARY_PIPELINE).is_none_or(|name| name != pipeline) {
            // By whoever it is called so, if it brought anything it is told.
            let empty =
                ["added-data-files", "added-records"].iter().all(|key| !summary.contains_key(*key));
            if !(empty && summary.contains_key(SUMMARY_FOUNDING)) {
                foreign.push(ForeignSnapshot::new(snapshot));
            }
        } else if let Some(rows) = number(summary, "added-records") {
            added.insert(id, rows);
        }
        let first = snapshot.sequence_number() == FIRST;
        begins = first || inherited(summary) == Some(false);
        next = snapshot.parent_snapshot_id();
    }
    foreign.reverse();
    History { complete: next.is_none() && begins, foreign, added }
}
