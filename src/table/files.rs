//! The files that a table's head shows, from its manifests alone.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use iceberg::ErrorKind;
use iceberg::io::FileIO;
use iceberg::spec::{DataContentType, ManifestEntry, ManifestFile};

use super::cache::FileCache;
use super::{LoadedTable, TableError, list, manifest};

/// Manifests that are read at once.
const AT_ONCE: usize = 16;

/// A data or delete file that is part of the table, as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveFile {
    /// Location.
    pub path: String,
    /// The snapshot that put this file into the table.
    pub snapshot_id: Option<i64>,
    /// Data sequence number: the snapshot whose rows it holds. A program that rewrites files may
    /// keep an older one than that of the snapshot that put it in. 0 in format version 1.
    pub sequence_number: i64,
    /// Rows in it, or deletes.
    pub rows: u64,
    /// Is it a delete file?
    pub deletes: bool,
}

impl LiveFile {
    fn new(entry: &ManifestEntry) -> Self {
        Self {
            path: entry.file_path().to_owned(),
            snapshot_id: entry.snapshot_id(),
            sequence_number: entry.sequence_number().unwrap_or_default(),
            rows: entry.record_count(),
            deletes: entry.content_type() != DataContentType::Data,
        }
    }
}

/// Shows `visit` every live file of the head, in any order. Reads the manifest list and every
/// manifest in it; no data file.
///
/// # Errors
/// `Storage` or `Unreadable` if one of them cannot be read.
pub(crate) async fn live_files(
    loaded: &LoadedTable,
    mut visit: impl FnMut(LiveFile),
) -> Result<(), TableError> {
    let manifests = list::of_head(loaded, &FileCache::new(0)).await?;
    let mut manifests = stream::iter(manifests)
        .map(|file| {
            let io = loaded.io.clone();
            async move { (live(&io, &file).await, file.manifest_path) }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((live, path)) = manifests.next().await {
        let live = live.map_err(|error| unreadable(loaded, &path, error))?;
        live.iter().for_each(|entry| visit(LiveFile::new(entry)));
    }
    Ok(())
}

async fn live(io: &FileIO, file: &ManifestFile) -> iceberg::Result<Vec<ManifestEntry>> {
    if file.key_metadata.is_some() {
        let (entries, _) = file.load_manifest(io).await?.into_parts();
        let live = entries.into_iter().filter(|entry| entry.is_alive());
        return Ok(live.map(Arc::unwrap_or_clone).collect());
    }
    let bytes = io.new_input(&file.manifest_path)?.read().await?;
    Ok(manifest::live_entries(&bytes, file)?.0)
}

pub(super) fn unreadable(loaded: &LoadedTable, path: &str, error: iceberg::Error) -> TableError {
    match error.kind() {
        ErrorKind::DataInvalid | ErrorKind::FeatureUnsupported => TableError::Unreadable {
            table: loaded.name.clone(),
            what: "a manifest",
            location: path.to_owned(),
            source: error.into(),
        },
        _ => TableError::storage("read", path, error),
    }
}
