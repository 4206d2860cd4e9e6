//! How large a table has become.

use iceberg::spec::{Snapshot, TableMetadata};

/// Of one reading of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableSize {
    /// Snapshots in its metadata.
    pub snapshots: usize,
    /// Bytes of its metadata, which each commit writes anew: reckoned, since writing it only to count
    /// would cost as much as a commit.
    pub metadata_bytes: u64,
    /// Data files of the head, as it tells.
    pub data_files: Option<u64>,
    /// Data files that the head's own commit added, as it tells.
    pub added_files: Option<u64>,
}

impl TableSize {
    pub(crate) fn of(metadata: &TableMetadata) -> Self {
        /// Schemas, specs and what else hardly changes.
        const REST: usize = 2_000;
        let properties: usize =
            metadata.properties().iter().map(|(key, value)| text(key) + text(value)).sum();
        let log = metadata.metadata_log().iter().map(|entry| 60 + entry.metadata_file.len());
        let snapshots: u64 = metadata.snapshots().map(|snapshot| snapshot_bytes(snapshot)).sum();
        let told = |key: &str| -> Option<u64> {
            let head = metadata.current_snapshot()?;
            head.summary().additional_properties.get(key)?.parse().ok()
        };
        Self {
            snapshots: metadata.snapshots().len(),
            metadata_bytes: snapshots + (REST + properties + log.sum::<usize>()) as u64,
            data_files: told("total-data-files"),
            added_files: told("added-data-files"),
        }
    }
}

/// What a snapshot takes of the metadata, with its entry in the log.
pub(super) fn snapshot_bytes(snapshot: &Snapshot) -> u64 {
    const NAMES_AND_NUMBERS: usize = 340;
    let summary = &snapshot.summary().additional_properties;
    let summary: usize = summary.iter().map(|(key, value)| text(key) + text(value)).sum();
    (NAMES_AND_NUMBERS + snapshot.manifest_list().len() + summary) as u64
}

/// A text of JSON, with quotes and what follows it. A quote within it has a backslash.
fn text(text: &str) -> usize {
    text.len() + text.matches('"').count() + 3
}
