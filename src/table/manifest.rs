//! Manifests: the files that name data files and describe them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use iceberg::ErrorKind;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, Datum, FormatVersion, Literal, Manifest,
    ManifestEntry, ManifestFile, ManifestMetadata, ManifestStatus, ManifestWriter,
    ManifestWriterBuilder, NestedFieldRef, PartitionSpec, PartitionSpecRef, Schema, SchemaRef,
    SnapshotSummaryCollector, Struct, StructType, TableMetadata, deserialize_data_file_from_json,
};
use uuid::Uuid;

use super::avro_header::Header;
use super::io::Encoded;
use super::partition_names::Disguise;
use super::{LoadedTable, TableError, partition_names};
use crate::base::location::metadata_root;
use crate::protocol::{self, PendingCommit, PendingFile};

/// A data file of a pending commit, with the schema it was written with.
pub(super) struct NewFile {
    file: DataFile,
    schema: SchemaRef,
}

impl NewFile {
    /// The values of its partition.
    pub(super) fn partition(&self) -> &Struct {
        self.file.partition()
    }
}

/// New data files by the id of the partition spec they were written with.
pub(super) type NewFiles = BTreeMap<i32, Vec<NewFile>>;

/// Where the table keeps its metadata files.
pub(super) fn metadata_dir(metadata: &TableMetadata) -> String {
    metadata_root(metadata.location(), metadata.properties())
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
        let bad = |reason: String| TableError::BadFile {
            table: loaded.name.clone(),
            path: file.path.clone(),
            reason,
        };
        let new = data_file(&loaded.metadata, file).map_err(bad)?;
        if !paths.insert(file.path.as_str()) {
            return Err(bad("it is twice in the pending commit".into()));
        }
        if !by_spec.contains_key(&file.spec_id)
            && let Some(spec) = loaded.metadata.partition_spec_by_id(file.spec_id)
        {
            // No files are opened for such a spec, but an earlier version did.
            Disguise::of(spec, &new.schema).map_err(bad)?;
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
    let (schema, partition_type) = schema_for(metadata, pending, spec)?;
    if partition_type.fields().iter().any(|field| !field.field_type.is_primitive()) {
        // The crate's manifest writer panics on these.
        return Err("a partition field of its spec is not of a primitive type".into());
    }
    let file = described(pending, &partition_type, &schema)
        .map_err(|reason| format!("its description cannot be read: {reason}"))?;
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
    Ok(NewFile { file, schema })
}

/// The schema that the file was written with, or if the table has it no more, the newest that has what the
/// spec is of: columns go by their ids, which mean the same in each.
fn schema_for(
    metadata: &TableMetadata,
    pending: &PendingFile,
    spec: &PartitionSpec,
) -> Result<(SchemaRef, StructType), String> {
    let mut others: Vec<&SchemaRef> = metadata.schemas_iter().collect();
    others.sort_by_key(|schema| std::cmp::Reverse(schema.schema_id()));
    let known = metadata.schema_by_id(pending.schema_id).into_iter();
    let fits = |schema: &SchemaRef| Some((schema.clone(), spec.partition_type(schema).ok()?));
    known.chain(others).find_map(fits).ok_or_else(|| {
        format!("the table no longer has a schema for its partition spec {}", pending.spec_id)
    })
}

/// The data file that a pending file describes.
fn described(
    pending: &PendingFile,
    types: &StructType,
    schema: &Schema,
) -> Result<DataFile, String> {
    let read = |json: &str, types: &StructType| {
        deserialize_data_file_from_json(json, pending.spec_id, types, schema)
            .map_err(|error| error.to_string())
    };
    let Some((json, values)) = protocol::take_partition_values(&pending.data_file)? else {
        return read(&pending.data_file, types);
    };
    let file = read(&json, &StructType::new(Vec::new()))?;
    let value = |field: &NestedFieldRef| {
        let other = || format!("the table's partition spec {} is another one now", pending.spec_id);
        let Some(bytes) = values.get(&field.id).ok_or_else(other)? else { return Ok(None) };
        let kind = field.field_type.as_primitive_type().cloned().ok_or_else(other)?;
        let value = Datum::try_from_bytes(bytes, kind).map_err(|error| error.to_string())?;
        Ok::<_, String>(Some(Literal::from(value)))
    };
    if values.len() != types.fields().len() {
        let (found, expected) = (values.len(), types.fields().len());
        return Err(format!("it has {found} partition values, its spec has {expected} fields"));
    }
    let values: Result<Struct, _> = types.fields().iter().map(value).collect();
    with_partition(&file, pending.spec_id, values?)
}

/// The same file in another partition.
fn with_partition(file: &DataFile, spec_id: i32, partition: Struct) -> Result<DataFile, String> {
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(partition)
        .partition_spec_id(spec_id)
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec));
    builder.build().map_err(|error| error.to_string())
}

/// How many table partitions the files are in.
pub(super) fn partitions(files: &NewFiles) -> usize {
    let each = files.iter().flat_map(|(spec, files)| files.iter().map(move |new| (spec, new)));
    let each = each.filter(|(_, new)| !new.file.partition().fields().is_empty());
    each.map(|(spec, new)| (spec, new.file.partition())).collect::<HashSet<_>>().len()
}

/// One manifest for each partition spec among the new files, none if there are no files.
pub(super) async fn encode_new(
    loaded: &LoadedTable,
    snapshot_id: i64,
    files: NewFiles,
    summary: &mut SnapshotSummaryCollector,
    encoded: &mut Vec<Encoded>,
) -> Result<Vec<ManifestFile>, TableError> {
    let mut manifests = Vec::with_capacity(files.len());
    for (spec_id, files) in files {
        let Some(spec) = loaded.metadata.partition_spec_by_id(spec_id) else { continue };
        let schema = manifest_schema(loaded.metadata.current_schema(), spec, &files);
        let bad = |new: &NewFile, reason| TableError::BadFile {
            table: loaded.name.clone(),
            path: new.file.file_path().to_owned(),
            reason,
        };
        for new in &files {
            // Without its partition: the crate would write its values out, and panics at times before 1970.
            let bare =
                with_partition(&new.file, spec_id, Struct::empty()).map_err(|why| bad(new, why))?;
            summary.add_file(&bare, schema.clone(), spec.clone());
        }
        let path = new_path(&loaded.metadata);
        let fill = |writer: &mut ManifestWriter| {
            // -1: the file's sequence number is that of the commit, assigned when it lands.
            files.into_iter().try_for_each(|new| writer.add_file(new.file, -1))
        };
        let version = loaded.metadata.format_version();
        let (manifest, file) = encode(&path, version, snapshot_id, schema, spec, fill)
            .await
            .map_err(|error| write_error(loaded, &path, error))?;
        manifests.push(manifest);
        encoded.push(file);
    }
    Ok(manifests)
}

/// Where the next manifest goes. Never the path of another one.
pub(super) fn new_path(metadata: &TableMetadata) -> String {
    let (uuid, sequence) = (metadata.uuid().to_string(), metadata.next_sequence_number());
    let unique = Uuid::new_v4().simple().to_string();
    format!("{}/{}", metadata_dir(metadata), protocol::manifest_name(&uuid, sequence, &unique))
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

fn invalid(reason: String) -> iceberg::Error {
    iceberg::Error::new(ErrorKind::DataInvalid, reason)
}

/// A manifest of data files with what `fill` puts into it, complete in memory.
pub(super) async fn encode(
    path: &str,
    version: FormatVersion,
    snapshot_id: i64,
    schema: SchemaRef,
    spec: &PartitionSpec,
    fill: impl FnOnce(&mut ManifestWriter) -> iceberg::Result<()>,
) -> iceberg::Result<(ManifestFile, Encoded)> {
    let disguise = Disguise::of(spec, &schema).map_err(invalid)?;
    let memory = FileIO::new_with_memory();
    let output = memory.new_output(path)?;
    let (shown, columns) =
        disguise.as_ref().map_or((spec, &schema), |disguise| (&disguise.spec, &disguise.schema));
    let builder =
        ManifestWriterBuilder::new(output, Some(snapshot_id), columns.clone(), shown.clone());
    let mut writer = match version {
        FormatVersion::V3 => builder.build_v3_data(),
        FormatVersion::V1 | FormatVersion::V2 => builder.build_v2_data(),
    };
    fill(&mut writer)?;
    let mut manifest = writer.write_manifest_file().await?;
    let mut bytes = memory.new_input(path)?.read().await?;
    if let Some(disguise) = disguise {
        bytes = disguise.taken_off(&bytes, spec, &schema).map_err(invalid)?.into();
        manifest.manifest_length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    }
    Ok((manifest, Encoded { path: path.to_owned(), bytes }))
}

/// A manifest, whatever its partition fields are called by whoever wrote it.
///
/// # Errors
/// If the bytes are no manifest.
pub(super) fn parse(bytes: &[u8]) -> iceberg::Result<Manifest> {
    Manifest::parse_avro(&partition_names::readable(bytes))
}

/// The live entries of a manifest and what it says of itself, each entry with what it inherits from its place in the manifest list,
/// as `ManifestFile::load_manifest` gives them. Partition values are in the types in which the crate
/// carries them, see [`Disguise`].
///
/// # Errors
/// If the bytes are no manifest.
pub(super) fn live_entries(
    bytes: &Bytes,
    manifest: &ManifestFile,
) -> iceberg::Result<(Vec<ManifestEntry>, ManifestMetadata)> {
    let shown = partition_names::readable(bytes);
    let (entries, mut metadata) = Manifest::parse_avro(&shown)?.into_parts();
    if let (Cow::Owned(_), Some(header)) = (&shown, Header::parse(bytes)) {
        metadata = ManifestMetadata::parse(&header.into_entries())?;
    }
    let live = entries.into_iter().filter(|entry| entry.is_alive()).map(|entry| {
        let mut entry = std::sync::Arc::unwrap_or_clone(entry);
        let inherits = entry.status == ManifestStatus::Added || manifest.sequence_number == 0;
        let inherited = inherits.then_some(manifest.sequence_number);
        entry.snapshot_id = entry.snapshot_id.or(Some(manifest.added_snapshot_id));
        entry.sequence_number = entry.sequence_number.or(inherited);
        entry.file_sequence_number = entry.file_sequence_number.or(inherited);
        entry
    });
    Ok((live.collect(), metadata))
}

/// The crate reports values that it cannot write as invalid data, and the store's errors otherwise.
pub(super) fn write_error(loaded: &LoadedTable, path: &str, error: iceberg::Error) -> TableError {
    match error.kind() {
        ErrorKind::DataInvalid | ErrorKind::FeatureUnsupported => TableError::Unsupported {
            table: loaded.name.clone(),
            what: format!("{path} cannot be made: {error}"),
        },
        _ => TableError::storage("write", path, error),
    }
}
