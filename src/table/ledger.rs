//! What a table's metadata says about a pipeline: its ledger and its journal.

use std::collections::HashMap;

use super::{LoadedTable, TableError};
use crate::protocol::{self, Ledger, LedgerError, SnapshotFacts, TableView};

/// All that admission looks at, from one reading of the table.
///
/// # Errors
/// `Ledger` if the pipeline's ledger, or a snapshot that names the pipeline, cannot be understood.
pub fn view(loaded: &LoadedTable, pipeline: &str) -> Result<TableView, TableError> {
    let metadata = &loaded.metadata;
    let head = metadata.current_snapshot_id();
    let snapshots = metadata
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
        .map_err(|source| failed(loaded, pipeline, source))?;
    Ok(TableView {
        table_uuid: metadata.uuid().to_string(),
        head,
        ledger: read(loaded, pipeline)?,
        journal: protocol::journal(head, snapshots),
    })
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
