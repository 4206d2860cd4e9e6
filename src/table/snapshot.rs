//! The snapshot of a commit, and the table metadata with it.

use std::collections::{HashMap, HashSet};

use iceberg::spec::{
    MAIN_BRANCH, Operation, Snapshot, SnapshotSummaryCollector, Summary, TableMetadata,
    TableMetadataRef,
};
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use super::io::Encoded;
use super::maintenance::Maintenance;
use super::manifest::{self, NewFiles};
use super::properties::deletes_old_metadata;
use super::{LoadedTable, TableError, expiry, list, merge};

/// A commit, ready for the one request that makes it.
pub(super) struct Proposal {
    /// The new snapshot.
    pub(super) snapshot_id: i64,
    /// The table's metadata with it.
    pub(super) metadata: TableMetadataRef,
    /// What leads from the loaded metadata to the new one.
    pub(super) updates: Vec<TableUpdate>,
    /// What must still hold when the catalog makes the commit.
    pub(super) requirements: Vec<TableRequirement>,
    /// Manifests that it merged into another.
    pub(super) replaced: Vec<String>,
    /// Snapshots that it takes out of the table.
    pub(super) expired: Vec<i64>,
    /// Files of table metadata that fall out of its log.
    pub(super) old_metadata: Vec<String>,
}

/// What an append brings besides its files.
pub(super) struct Change {
    /// The head that it was decided on; the request is pinned to it.
    pub(super) head: Option<i64>,
    /// Data files, possibly none.
    pub(super) files: NewFiles,
    /// Keys for the summary of the snapshot.
    pub(super) summary: HashMap<String, String>,
    /// Table properties to set with it.
    pub(super) properties: HashMap<String, String>,
    /// Milliseconds since the Unix epoch by our clock.
    pub(super) now_ms: i64,
}

/// Makes the manifests and the manifest list of an append, and the metadata with it and without
/// the snapshots that are to `expire`. The files are put into `encoded`; nothing is written.
pub(super) async fn propose(
    loaded: &LoadedTable,
    change: Change,
    expire: &[i64],
    maintenance: &Maintenance,
    encoded: &mut Vec<Encoded>,
) -> Result<Proposal, TableError> {
    let metadata = &loaded.metadata;
    let snapshot_id = fresh_snapshot_id(metadata);
    let mut collector = SnapshotSummaryCollector::default();
    let mut existing = list::of_head(loaded, &maintenance.cache).await?;
    let partitions = manifest::partitions(&change.files);
    let mut manifests =
        manifest::encode_new(loaded, snapshot_id, change.files, &mut collector, encoded).await?;
    let mut replaced = Vec::new();
    if let Some(merged) = merge::merge(loaded, &existing, snapshot_id, maintenance).await? {
        let gone: HashSet<String> = merged.replaced.into_iter().collect();
        existing.retain(|manifest| !gone.contains(&manifest.manifest_path));
        maintenance.add_merged(gone.len());
        replaced.extend(gone);
        manifests.push(merged.manifest);
        encoded.push(merged.file);
    }
    let (created, kept) = (manifests.len(), existing.len());
    manifests.extend(existing);
    let list = list::encode(loaded, snapshot_id, manifests).await?;
    let list_location = list.file.path.clone();
    encoded.push(list.file);

    // Computed keys win over ours.
    let mut summary = change.summary;
    summary.insert("manifests-created".into(), created.to_string());
    summary.insert("manifests-kept".into(), kept.to_string());
    summary.insert("manifests-replaced".into(), replaced.len().to_string());
    summary.extend(collector.build());
    if partitions > 0 {
        summary.insert("changed-partition-count".into(), partitions.to_string());
    }
    add_totals(&mut summary, metadata);

    let builder = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(change.head)
        .with_sequence_number(metadata.next_sequence_number())
        .with_timestamp_ms(timestamp(metadata, change.now_ms))
        .with_manifest_list(list_location)
        .with_summary(Summary { operation: Operation::Append, additional_properties: summary })
        .with_schema_id(metadata.current_schema_id());
    let snapshot = match list.row_range {
        Some((first, added)) => builder.with_row_range(first, added).build(),
        None => builder.build(),
    };
    let (head, properties) = (change.head, change.properties);
    let proposal = apply(loaded, head, snapshot.clone(), properties.clone(), expire)?;
    let shown = LoadedTable { metadata: proposal.metadata.clone(), ..loaded.clone() };
    let proposal = match expire.is_empty() || expiry::is_consistent(&shown, maintenance) {
        true => proposal,
        false => apply(loaded, head, snapshot, properties, &[])?,
    };
    Ok(Proposal { replaced, ..proposal })
}

/// The crate's builder keeps the retention that a user set on `main`; its list of changes is what a
/// REST catalog is asked to apply.
fn apply(
    loaded: &LoadedTable,
    head: Option<i64>,
    snapshot: Snapshot,
    properties: HashMap<String, String>,
    expire: &[i64],
) -> Result<Proposal, TableError> {
    let metadata = &loaded.metadata;
    let snapshot_id = snapshot.snapshot_id();
    let built = metadata
        .as_ref()
        .clone()
        .into_builder(Some(loaded.metadata_location.clone()))
        .set_branch_snapshot(snapshot, MAIN_BRANCH)
        .and_then(|builder| builder.set_properties(properties))
        .and_then(|builder| {
            expire
                .iter()
                .fold(builder, |builder, id| {
                    builder.remove_statistics(*id).remove_partition_statistics(*id)
                })
                .remove_snapshots(expire)
                .build()
        })
        .map_err(|error| TableError::Unsupported {
            table: loaded.name.clone(),
            what: format!("a snapshot cannot be added to its metadata: {error}"),
        })?;
    let requirements = vec![
        TableRequirement::UuidMatch { uuid: metadata.uuid() },
        TableRequirement::RefSnapshotIdMatch { r#ref: MAIN_BRANCH.to_string(), snapshot_id: head },
    ];
    let old = built.expired_metadata_logs.into_iter().map(|entry| entry.metadata_file);
    let old_metadata = match deletes_old_metadata(built.metadata.properties()) {
        true => old.collect(),
        false => Vec::new(),
    };
    Ok(Proposal {
        snapshot_id,
        metadata: built.metadata.into(),
        updates: built.changes,
        requirements,
        replaced: Vec::new(),
        expired: expire.to_vec(),
        old_metadata,
    })
}

/// Positive, random, and not in the table.
pub(super) fn fresh_snapshot_id(metadata: &TableMetadata) -> i64 {
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
