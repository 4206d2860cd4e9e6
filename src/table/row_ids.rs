//! Row ids of format version 3. A file in a manifest without one of its own inherits the first of its
//! row ids by its place: that of the manifest, and one for each row of the files before it that inherit
//! theirs, too. Who writes it into another manifest writes it out.

use iceberg::spec::{DataFile, DataFileBuilder, ManifestEntry, ManifestFile};

/// Gives the live entries of a manifest, in their order, the row ids that they inherit.
///
/// # Errors
/// If the manifest has none to inherit, or they run out.
pub(super) fn written_out(
    manifest: &ManifestFile,
    entries: Vec<ManifestEntry>,
) -> Result<Vec<ManifestEntry>, String> {
    let first = manifest.first_row_id.ok_or("it has no first row id")?;
    let mut next = i64::try_from(first).ok();
    let give = |entry: ManifestEntry| {
        if entry.data_file.first_row_id().is_some() {
            return Ok(entry);
        }
        let first = next.ok_or("its row ids run out")?;
        let rows = i64::try_from(entry.data_file.record_count()).ok();
        next = rows.and_then(|rows| first.checked_add(rows));
        let data_file = with_row_id(&entry.data_file, manifest.partition_spec_id, first)?;
        Ok(ManifestEntry { data_file, ..entry })
    };
    entries.into_iter().map(give).collect()
}

/// The least row id of entries that all have one.
pub(super) fn least(entries: &[ManifestEntry]) -> Option<u64> {
    let ids = entries.iter().filter_map(|entry| entry.data_file.first_row_id());
    ids.min().and_then(|least| u64::try_from(least).ok())
}

fn with_row_id(file: &DataFile, spec_id: i32, first_row_id: i64) -> Result<DataFile, String> {
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .partition_spec_id(spec_id)
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(Some(first_row_id))
        .referenced_data_file(file.referenced_data_file())
        .content_offset(file.content_offset())
        .content_size_in_bytes(file.content_size_in_bytes());
    if let Some(id) = file.sort_order_id() {
        builder.sort_order_id(id);
    }
    builder.build().map_err(|error| error.to_string())
}
