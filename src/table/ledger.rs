//! What a table's metadata says about a pipeline: its ledger and its journal.

use std::collections::{HashMap, HashSet};

use iceberg::spec::SnapshotRef;
use parking_lot::Mutex;

use super::{LoadedTable, TableError};
use crate::protocol::{
    self, EditBasis, FullView, JournalParts, Ledger, LedgerError, SnapshotFacts, TableView,
};

/// Snapshots of ours whose summaries were understood, by pipeline. A snapshot never changes, so one
/// look at each is enough: what a commit costs does not grow with the journal's ranges.
#[derive(Debug, Default)]
pub struct Understood(Mutex<HashMap<String, HashSet<i64>>>);

impl Understood {
    /// Decodes what was not looked at before, and keeps nothing of it.
    fn check(&self, loaded: &LoadedTable, pipeline: &str) -> Result<(), LedgerError> {
        let mut by_pipeline = self.0.lock();
        let known = by_pipeline.entry(pipeline.to_owned()).or_default();
        for snapshot in loaded.metadata.snapshots() {
            let id = snapshot.snapshot_id();
            if !known.contains(&id)
                && protocol::decode_summary(pipeline, summary(snapshot))?.is_some()
            {
                known.insert(id);
            }
        }
        // Those that were expired; not every time, since that is work for all.
        if known.len() > 2 * loaded.metadata.snapshots().len() {
            known.retain(|id| loaded.metadata.snapshot_by_id(*id).is_some());
        }
        Ok(())
    }
}

/// All that admission looks at, from one reading of the table. What the journal's entries say is
/// decoded only to see that it can be, and only where that was not `understood` before.
///
/// # Errors
/// `Ledger` if the pipeline's ledger, or a snapshot that names the pipeline, cannot be understood.
pub fn view(
    loaded: &LoadedTable,
    pipeline: &str,
    understood: &Understood,
) -> Result<TableView, TableError> {
    let ledger = read(loaded, pipeline)?;
    let shown = understood
        .check(loaded, pipeline)
        .and_then(|()| snapshots(loaded, |summary| protocol::decode_commit_id(pipeline, summary)))
        .map_err(|source| failed(loaded, pipeline, source))?;
    let head = loaded.metadata.current_snapshot_id();
    Ok(TableView {
        table_uuid: loaded.metadata.uuid().to_string(),
        head,
        ledger,
        commits: protocol::commits(head, shown),
    })
}

/// The ledger and the whole journal, decoded.
///
/// # Errors
/// As [`view`].
pub(crate) fn full_view(loaded: &LoadedTable, pipeline: &str) -> Result<FullView, TableError> {
    let ledger = read(loaded, pipeline)?;
    let shown = snapshots(loaded, |summary| protocol::decode_summary(pipeline, summary))
        .map_err(|source| failed(loaded, pipeline, source))?;
    let head = loaded.metadata.current_snapshot_id();
    Ok(FullView {
        table_uuid: loaded.metadata.uuid().to_string(),
        head,
        ledger,
        journal: protocol::journal(head, shown),
    })
}

/// What one snapshot says about the commit of `pipeline` that made it, if it is one and is shown.
///
/// # Errors
/// `Ledger` if it cannot be understood.
pub(crate) fn entry(
    loaded: &LoadedTable,
    pipeline: &str,
    snapshot_id: i64,
) -> Result<Option<JournalParts>, TableError> {
    let Some(snapshot) = loaded.metadata.snapshot_by_id(snapshot_id) else { return Ok(None) };
    protocol::decode_summary(pipeline, summary(snapshot))
        .map_err(|source| failed(loaded, pipeline, source))
}

/// All that a person's edit of the ledger is decided from, by a command that calls itself `instance`.
/// A ledger that cannot be read counts as lost; one of a newer version only if `discard_newer`.
///
/// # Errors
/// `Ledger` if the ledger is of a newer version, or if a snapshot that names the pipeline cannot be
/// understood.
pub(crate) fn edit_basis(
    loaded: &LoadedTable,
    pipeline: &str,
    instance: &str,
    discard_newer: bool,
) -> Result<EditBasis, TableError> {
    let metadata = &loaded.metadata;
    let ledger = match read(loaded, pipeline) {
        Err(TableError::Ledger { source: LedgerError::Malformed { .. }, .. }) => None,
        Err(TableError::Ledger { .. }) if discard_newer => None,
        read => read?,
    };
    Ok(EditBasis {
        pipeline: pipeline.to_owned(),
        instance: instance.to_owned(),
        table: loaded.name.to_string(),
        table_uuid: metadata.uuid().to_string(),
        head: metadata.current_snapshot_id(),
        ledger,
        snapshots: snapshots(loaded, |summary| protocol::decode_summary(pipeline, summary))
            .map_err(|source| failed(loaded, pipeline, source))?,
        next_sequence_number: metadata.next_sequence_number(),
    })
}

/// All snapshots of the table, with what `ours` decodes of those of the pipeline.
fn snapshots<T>(
    loaded: &LoadedTable,
    ours: impl Fn(&HashMap<String, String>) -> Result<Option<T>, LedgerError>,
) -> Result<Vec<SnapshotFacts<T>>, LedgerError> {
    let facts = |snapshot: &SnapshotRef| {
        let parent_id = snapshot.parent_snapshot_id();
        Ok(SnapshotFacts {
            snapshot_id: snapshot.snapshot_id(),
            parent_id,
            sequence_number: snapshot.sequence_number(),
            timestamp_ms: snapshot.timestamp_ms(),
            inherited: match parent_id {
                Some(_) => None,
                None => protocol::inherited(summary(snapshot)),
            },
            ours: ours(summary(snapshot))?,
        })
    };
    loaded.metadata.snapshots().map(facts).collect()
}

fn summary(snapshot: &SnapshotRef) -> &HashMap<String, String> {
    &snapshot.summary().additional_properties
}

/// The pipeline's ledger, from the table property.
pub(super) fn read(loaded: &LoadedTable, pipeline: &str) -> Result<Option<Ledger>, TableError> {
    let property = loaded.metadata.properties().get(&protocol::ledger_key(pipeline));
    let ledger = property.map(|value| protocol::decode_ledger(value)).transpose();
    ledger.map_err(|source| failed(loaded, pipeline, source))
}

/// An error of the ledger's or the journal's text.
pub(super) fn failed(loaded: &LoadedTable, pipeline: &str, source: LedgerError) -> TableError {
    TableError::Ledger { table: loaded.name.clone(), pipeline: pipeline.to_string(), source }
}
