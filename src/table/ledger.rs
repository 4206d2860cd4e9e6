//! What a table's metadata says about a pipeline: its ledger and its journal.

use std::collections::HashMap;

use super::{LoadedTable, TableError};
use crate::protocol::{self, EditBasis, Ledger, LedgerError, SnapshotFacts, TableView};

/// All that admission looks at, from one reading of the table.
///
/// # Errors
/// `Ledger` if the pipeline's ledger, or a snapshot that names the pipeline, cannot be understood.
pub fn view(loaded: &LoadedTable, pipeline: &str) -> Result<TableView, TableError> {
    let head = loaded.metadata.current_snapshot_id();
    Ok(TableView {
        table_uuid: loaded.metadata.uuid().to_string(),
        head,
        ledger: read(loaded, pipeline)?,
        journal: protocol::journal(head, snapshots(loaded, pipeline)?),
    })
}

/// All that a person's edit of the ledger is decided from, by a command that calls itself `instance`.
/// A ledger that cannot be read counts as lost; one of a newer version only if `discard_newer`.
///
/// # Errors
/// `Ledger` if the ledger is of a newer version, or if a snapshot that names the pipeline cannot be
/// understood.
pub fn edit_basis(
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
        snapshots: snapshots(loaded, pipeline)?,
        next_sequence_number: metadata.next_sequence_number(),
    })
}

/// All snapshots of the table, with what those of the pipeline say about themselves.
fn snapshots(loaded: &LoadedTable, pipeline: &str) -> Result<Vec<SnapshotFacts>, TableError> {
    loaded
        .metadata
        .snapshots()
        .map(|snapshot| {
            let summary: &HashMap<String, String> = &snapshot.summary().additional_properties;
            Ok(SnapshotFacts {
                snapshot_id: snapshot.snapshot_id(),
                parent_id: snapshot.parent_snapshot_id(),
                sequence_number: snapshot.sequence_number(),
                timestamp_ms: snapshot.timestamp_ms(),
                inherited: protocol::inherited(summary),
                ours: protocol::decode_summary(pipeline, summary)?,
            })
        })
        .collect::<Result<Vec<_>, LedgerError>>()
        .map_err(|source| failed(loaded, pipeline, source))
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
