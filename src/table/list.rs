//! Manifest lists: which manifests a snapshot consists of.

use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{FormatVersion, ManifestFile, ManifestList, ManifestListWriter, Snapshot};
use uuid::Uuid;

use super::cache::FileCache;
use super::io::Encoded;
use super::manifest::{metadata_dir, write_error};
use super::{BoxError, LoadedTable, TableError};
use crate::protocol;

/// The manifests of the snapshot at the head, without those that hold no live file.
pub(super) async fn of_head(
    loaded: &LoadedTable,
    cache: &FileCache,
) -> Result<Vec<ManifestFile>, TableError> {
    let Some(head) = loaded.metadata.current_snapshot() else { return Ok(Vec::new()) };
    let bytes = cache.read(&loaded.io, head.manifest_list()).await?;
    let live = |m: &ManifestFile| m.has_added_files() || m.has_existing_files();
    Ok(parse(loaded, head, &bytes)?.into_iter().filter(live).collect())
}

/// All manifests in the list of a snapshot, whose content is `bytes`.
///
/// # Errors
/// `Unreadable`.
pub(super) fn parse(
    loaded: &LoadedTable,
    snapshot: &Snapshot,
    bytes: &Bytes,
) -> Result<Vec<ManifestFile>, TableError> {
    let list = parse_any(bytes, loaded.metadata.format_version());
    let list = list.map_err(|source| TableError::Unreadable {
        table: loaded.name.clone(),
        what: "the manifest list",
        location: snapshot.manifest_list().to_string(),
        source,
    })?;
    Ok(list.consume_entries().into_iter().collect())
}

/// A table that was upgraded keeps the lists of its older snapshots in the older format.
fn parse_any(bytes: &[u8], version: FormatVersion) -> Result<ManifestList, BoxError> {
    let older: &[FormatVersion] = match version {
        FormatVersion::V1 => &[],
        FormatVersion::V2 => &[FormatVersion::V1],
        FormatVersion::V3 => &[FormatVersion::V2, FormatVersion::V1],
    };
    ManifestList::parse_with_version(bytes, version).or_else(|error| {
        older
            .iter()
            .find_map(|older| ManifestList::parse_with_version(bytes, *older).ok())
            .ok_or_else(|| error.into())
    })
}

/// A manifest list, complete in memory.
pub(super) struct EncodedList {
    /// The file.
    pub(super) file: Encoded,
    /// V3: the first row id that it assigned, and how many.
    pub(super) row_range: Option<(u64, u64)>,
}

/// The manifest list of the new snapshot.
pub(super) async fn encode(
    loaded: &LoadedTable,
    snapshot_id: i64,
    manifests: Vec<ManifestFile>,
) -> Result<EncodedList, TableError> {
    let metadata = &loaded.metadata;
    let (uuid, sequence) = (metadata.uuid().to_string(), metadata.next_sequence_number());
    let unique = Uuid::new_v4().simple().to_string();
    let name = protocol::manifest_list_name(snapshot_id, &uuid, sequence, &unique);
    let path = format!("{}/{name}", metadata_dir(metadata));
    let encoded = encode_at(loaded, snapshot_id, manifests, &path).await;
    encoded.map_err(|error| write_error(loaded, &path, error))
}

async fn encode_at(
    loaded: &LoadedTable,
    snapshot_id: i64,
    manifests: Vec<ManifestFile>,
    path: &str,
) -> iceberg::Result<EncodedList> {
    let (metadata, memory) = (&loaded.metadata, FileIO::new_with_memory());
    let file = memory.new_output(path)?.writer().await?;
    let (parent, sequence) = (metadata.current_snapshot_id(), metadata.next_sequence_number());
    let first_row = metadata.next_row_id();
    let mut writer = match metadata.format_version() {
        FormatVersion::V3 => {
            ManifestListWriter::v3(file, snapshot_id, parent, sequence, Some(first_row))
        }
        FormatVersion::V1 | FormatVersion::V2 => {
            ManifestListWriter::v2(file, snapshot_id, parent, sequence)
        }
    };
    writer.add_manifests(manifests.into_iter())?;
    let row_range = writer.next_row_id().map(|next| (first_row, next.saturating_sub(first_row)));
    writer.close().await?;
    let bytes = memory.new_input(path)?.read().await?;
    Ok(EncodedList { file: Encoded { path: path.to_owned(), bytes }, row_range })
}
