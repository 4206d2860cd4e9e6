//! Manifests and manifest lists: the files between a snapshot and its data files.

use std::collections::{BTreeMap, HashSet};

use iceberg::ErrorKind;
use iceberg::spec::{
    DataContentType, DataFile, FormatVersion, ManifestFile, ManifestList, ManifestListWriter,
    ManifestWriterBuilder, PartitionSpec, PartitionSpecRef, Schema, SchemaRef,
    SnapshotSummaryCollector, TableMetadata, deserialize_data_file_from_json,
};
use uuid::Uuid;

use super::{BoxError, LoadedTable, TableError};
use crate::protocol::{PendingCommit, PendingFile};

/// A data file of a pending commit, with the schema it was written with.
pub(super) struct NewFile {
    file: DataFile,
    schema: SchemaRef,
}

/// New data files by the id of the partition spec they were written with.
pub(super) type NewFiles = BTreeMap<i32, Vec<NewFile>>;

/// Where the table keeps its metadata files.
pub(super) fn metadata_dir(metadata: &TableMetadata) -> String {
    match metadata.properties().get("write.metadata.path") {
        Some(path) => path.trim_end_matches('/').to_string(),
        None => format!("{}/metadata", metadata.location()),
    }
}

/// The data files of a pending commit, each read with the spec and schema it was written with:
/// the table may have moved on to others since the file was closed.
pub(super) fn data_files(
    loaded: &LoadedTable,
    pending: &PendingCommit,
) -> Result<NewFiles, TableError> {
    let mut by_spec = NewFiles::new();
    let mut paths = HashSet::new();
    for file in &pending.files {
        let new = data_file(&loaded.metadata, file).map_err(|reason| TableError::BadFile {
            table: loaded.name.clone(),
            path: file.path.clone(),
            reason,
        })?;
        if !paths.insert(file.path.as_str()) {
            return Err(TableError::BadFile {
                table: loaded.name.clone(),
                path: file.path.clone(),
                reason: "it is twice in the pending commit".into(),
            });
        }
        by_spec.entry(file.spec_id).or_default().push(new);
    }
    Ok(by_spec)
}

/// # Errors
/// What is wrong with the file.
fn data_file(metadata: &TableMetadata, pending: &PendingFile) -> Result<NewFile, String> {
    let spec = metadata
        .partition_spec_by_id(pending.spec_id)
        .ok_or_else(|| format!("the table no longer has its partition spec {}", pending.spec_id))?;
    let schema = metadata
        .schema_by_id(pending.schema_id)
        .ok_or_else(|| format!("the table no longer has its schema {}", pending.schema_id))?;
    let partition_type = spec.partition_type(schema).map_err(|error| error.to_string())?;
    if partition_type.fields().iter().any(|field| !field.field_type.is_primitive()) {
        // The crate's manifest writer panics on these.
        return Err("a partition field of its spec is not of a primitive type".into());
    }
    let json = &pending.data_file;
    let file = deserialize_data_file_from_json(json, pending.spec_id, &partition_type, schema)
        .map_err(|error| format!("its description cannot be read: {error}"))?;
    if file.content_type() != DataContentType::Data {
        return Err("it is not a data file".into());
    }
    if file.file_path() != pending.path {
        return Err(format!("its description names another file, {}", file.file_path()));
    }
    if file.record_count() != pending.records {
        let (told, described) = (pending.records, file.record_count());
        return Err(format!("it should have {told} rows, its description says {described}"));
    }
    let (found, expected) = (file.partition().fields().len(), partition_type.fields().len());
    if found != expected {
        return Err(format!("it has {found} partition values, its spec has {expected} fields"));
    }
    Ok(NewFile { file, schema: schema.clone() })
}

/// Writes one manifest for each partition spec among the new files, none if there are no files.
/// Each path is put in `written` before it is written.
pub(super) async fn write_manifests(
    loaded: &LoadedTable,
    snapshot_id: i64,
    files: NewFiles,
    summary: &mut SnapshotSummaryCollector,
    written: &mut Vec<String>,
) -> Result<Vec<ManifestFile>, TableError> {
    let directory = metadata_dir(&loaded.metadata);
    let attempt = Uuid::new_v4();
    let mut manifests = Vec::with_capacity(files.len());
    for (number, (spec_id, files)) in files.into_iter().enumerate() {
        let path = format!("{directory}/{attempt}-m{number}.avro");
        let Some(spec) = loaded.metadata.partition_spec_by_id(spec_id) else { continue };
        let schema = manifest_schema(loaded.metadata.current_schema(), spec, &files);
        for new in &files {
            summary.add_file(&new.file, schema.clone(), spec.clone());
        }
        written.push(path.clone());
        manifests.push(write_manifest(loaded, path, snapshot_id, schema, spec, files).await?);
    }
    Ok(manifests)
}

/// The current schema, or if the table dropped a column that this spec needs, that of the newest of
/// the files, which has it.
fn manifest_schema(current: &SchemaRef, spec: &PartitionSpecRef, files: &[NewFile]) -> SchemaRef {
    let fits = |schema: &Schema| spec.partition_type(schema).is_ok();
    match files.iter().map(|new| &new.schema).max_by_key(|schema| schema.schema_id()) {
        Some(newest) if !fits(current) => newest.clone(),
        _ => current.clone(),
    }
}

async fn write_manifest(
    loaded: &LoadedTable,
    path: String,
    snapshot_id: i64,
    schema: SchemaRef,
    spec: &PartitionSpec,
    files: Vec<NewFile>,
) -> Result<ManifestFile, TableError> {
    let failed = |error| write_error(loaded, &path, error);
    let output = loaded.io.new_output(&path).map_err(failed)?;
    let builder = ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec.clone());
    let mut writer = match loaded.metadata.format_version() {
        FormatVersion::V3 => builder.build_v3_data(),
        FormatVersion::V1 | FormatVersion::V2 => builder.build_v2_data(),
    };
    for new in files {
        // -1: the file's sequence number is that of the commit, assigned when it lands.
        writer.add_file(new.file, -1).map_err(failed)?;
    }
    writer.write_manifest_file().await.map_err(failed)
}

/// The manifests of the snapshot at the head, without those that hold no live file.
pub(super) async fn read_list(loaded: &LoadedTable) -> Result<Vec<ManifestFile>, TableError> {
    let Some(head) = loaded.metadata.current_snapshot() else { return Ok(Vec::new()) };
    let location = head.manifest_list();
    let failed = |error| TableError::storage("read", location, error);
    let bytes = loaded.io.new_input(location).map_err(failed)?.read().await.map_err(failed)?;
    let list = parse_list(&bytes, loaded.metadata.format_version()).map_err(|source| {
        TableError::Unreadable {
            table: loaded.name.clone(),
            what: "the manifest list",
            location: location.to_string(),
            source,
        }
    })?;
    let live = |m: &ManifestFile| m.has_added_files() || m.has_existing_files();
    Ok(list.consume_entries().into_iter().filter(live).collect())
}

/// A table that was upgraded keeps the lists of its older snapshots in the older format.
fn parse_list(bytes: &[u8], version: FormatVersion) -> Result<ManifestList, BoxError> {
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

/// A manifest list that was written.
pub(super) struct WrittenList {
    /// Where it is.
    pub(super) location: String,
    /// V3: the first row id that it assigned, and how many.
    pub(super) row_range: Option<(u64, u64)>,
}

/// Writes the manifest list of the new snapshot. Its path is put in `written` before it is written.
pub(super) async fn write_list(
    loaded: &LoadedTable,
    snapshot_id: i64,
    manifests: Vec<ManifestFile>,
    written: &mut Vec<String>,
) -> Result<WrittenList, TableError> {
    let metadata = &loaded.metadata;
    let attempt = Uuid::new_v4();
    let location = format!("{}/snap-{snapshot_id}-0-{attempt}.avro", metadata_dir(metadata));
    let failed = |error| write_error(loaded, &location, error);
    written.push(location.clone());
    let file = loaded.io.new_output(&location).map_err(failed)?.writer().await.map_err(failed)?;
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
    writer.add_manifests(manifests.into_iter()).map_err(failed)?;
    let row_range = writer.next_row_id().map(|next| (first_row, next.saturating_sub(first_row)));
    writer.close().await.map_err(failed)?;
    Ok(WrittenList { location, row_range })
}

/// The crate reports values that it cannot write as invalid data, and the store's errors otherwise.
fn write_error(loaded: &LoadedTable, path: &str, error: iceberg::Error) -> TableError {
    match error.kind() {
        ErrorKind::DataInvalid | ErrorKind::FeatureUnsupported => TableError::Unsupported {
            table: loaded.name.clone(),
            what: format!("{path} cannot be made: {error}"),
        },
        _ => TableError::storage("write", path, error),
    }
}
