//! The snapshot of a commit, and the table metadata with it.

use std::collections::HashMap;

use iceberg::spec::{
    MAIN_BRANCH, Operation, Snapshot, SnapshotSummaryCollector, Summary, TableMetadata,
};
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use super::manifest::{self, NewFiles};
use super::{LoadedTable, TableError};

/// A commit, ready for the one request that makes it.
pub(super) struct Proposal {
    /// The new snapshot.
    pub(super) snapshot_id: i64,
    /// The table's metadata with it.
    pub(super) metadata: TableMetadata,
    /// What leads from the loaded metadata to the new one.
    pub(super) updates: Vec<TableUpdate>,
    /// What must still hold when the catalog makes the commit.
    pub(super) requirements: Vec<TableRequirement>,
}

/// What an append brings besides its files.
pub(super) struct Change {
    /// Data files, possibly none.
    pub(super) files: NewFiles,
    /// Keys for the summary of the snapshot.
    pub(super) summary: HashMap<String, String>,
    /// Table properties to set with it.
    pub(super) properties: HashMap<String, String>,
    /// Milliseconds since the Unix epoch by our clock.
    pub(super) now_ms: i64,
}

/// Writes the manifests and the manifest list of an append and makes the metadata with it. The path
/// of each file is put in `written` before it is written.
pub(super) async fn propose(
    loaded: &LoadedTable,
    change: Change,
    written: &mut Vec<String>,
) -> Result<Proposal, TableError> {
    let metadata = &loaded.metadata;
    let snapshot_id = fresh_snapshot_id(metadata);
    let mut collector = SnapshotSummaryCollector::default();
    let existing = manifest::read_list(loaded).await?;
    let mut manifests =
        manifest::write_manifests(loaded, snapshot_id, change.files, &mut collector, written)
            .await?;
    let (created, kept) = (manifests.len(), existing.len());
    manifests.extend(existing);
    let list = manifest::write_list(loaded, snapshot_id, manifests, written).await?;

    // Computed keys win over ours.
    let mut summary = change.summary;
    summary.insert("manifests-created".into(), created.to_string());
    summary.insert("manifests-kept".into(), kept.to_string());
    summary.extend(collector.build());
    add_totals(&mut summary, metadata);

    let builder = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(metadata.current_snapshot_id())
        .with_sequence_number(metadata.next_sequence_number())
        .with_timestamp_ms(timestamp(metadata, change.now_ms))
        .with_manifest_list(list.location)
        .with_summary(Summary { operation: Operation::Append, additional_properties: summary })
        .with_schema_id(metadata.current_schema_id());
    let snapshot = match list.row_range {
        Some((first, added)) => builder.with_row_range(first, added).build(),
        None => builder.build(),
    };
    apply(loaded, snapshot, change.properties)
}

/// The crate's builder keeps the retention that a user set on `main`; its list of changes is what a
/// REST catalog is asked to apply.
fn apply(
    loaded: &LoadedTable,
    snapshot: Snapshot,
    properties: HashMap<String, String>,
) -> Result<Proposal, TableError> {
    let metadata = &loaded.metadata;
    let snapshot_id = snapshot.snapshot_id();
    let built = metadata
        .as_ref()
        .clone()
        .into_builder(Some(loaded.metadata_location.clone()))
        .set_branch_snapshot(snapshot, MAIN_BRANCH)
        .and_then(|builder| builder.set_properties(properties))
        .and_then(|builder| builder.build())
        .map_err(|error| TableError::Unsupported {
            table: loaded.name.clone(),
            what: format!("a snapshot cannot be added to its metadata: {error}"),
        })?;
    let requirements = vec![
        TableRequirement::UuidMatch { uuid: metadata.uuid() },
        TableRequirement::RefSnapshotIdMatch {
            r#ref: MAIN_BRANCH.to_string(),
            snapshot_id: metadata.current_snapshot_id(),
        },
    ];
    Ok(Proposal { snapshot_id, metadata: built.metadata, updates: built.changes, requirements })
}

/// Positive, random, and not in the table.
fn fresh_snapshot_id(metadata: &TableMetadata) -> i64 {
    loop {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let id = i64::try_from((high ^ low) >> 1).unwrap_or_default();
        if id > 0 && metadata.snapshot_by_id(id).is_none() {
            return id;
        }
    }
}

/// Our clock, but never before what the table has seen: a clock that is behind, here or at an
/// earlier writer that was ahead, must not stop commits.
fn timestamp(metadata: &TableMetadata, now_ms: i64) -> i64 {
    let logged = metadata.history().last().map_or(i64::MIN, |entry| entry.timestamp_ms);
    now_ms.max(metadata.last_updated_ms()).max(logged)
}

/// Running totals, as other writers keep them. One that the head does not tell stays untold.
fn add_totals(summary: &mut HashMap<String, String>, metadata: &TableMetadata) {
    const TOTALS: [(&str, Option<&str>); 6] = [
        ("total-data-files", Some("added-data-files")),
        ("total-records", Some("added-records")),
        ("total-files-size", Some("added-files-size")),
        ("total-delete-files", None),
        ("total-position-deletes", None),
        ("total-equality-deletes", None),
    ];
    let head = metadata.current_snapshot().map(|head| &head.summary().additional_properties);
    for (total, added) in TOTALS {
        let before: Option<u64> = match head {
            Some(head) => head.get(total).and_then(|value| value.parse().ok()),
            None => Some(0),
        };
        if let Some(before) = before {
            let added = added.and_then(|key| summary.get(key)).and_then(|v| v.parse().ok());
            let after = before.saturating_add(added.unwrap_or(0));
            summary.insert(total.to_string(), after.to_string());
        }
    }
}
