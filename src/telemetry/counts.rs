//! Figures that come in sets.

/// What commits did beside appending.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MaintenanceCounts {
    /// Manifests and manifest lists that were read from the store.
    pub files_read: u64,
    /// Bytes of metadata files that were written.
    pub bytes_written: u64,
    /// Manifests that were merged into others.
    pub merged_manifests: u64,
    /// Snapshots that were expired.
    pub expired_snapshots: u64,
    /// Files that were deleted because nothing refers to them.
    pub removed_files: u64,
    /// Files that should have been and could not be.
    pub failed_removals: u64,
}

/// How large a table has become.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TableCounts {
    /// Snapshots in its metadata.
    pub snapshots: u64,
    /// Bytes of its metadata.
    pub metadata_bytes: u64,
    /// Data files in it, if it tells.
    pub data_files: Option<u64>,
    /// Data files of its newest snapshot, if that brought some.
    pub added_files: Option<u64>,
}
