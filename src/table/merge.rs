//! Merging of small manifests in tiers, so that their number stays bounded however many commits
//! there were, and each entry is written again only once a tier.
//!
//! A manifest of `n` data files is in tier `log_min_count(n)`. When `min_count` manifests of one
//! spec and tier are there, as many of the smallest as make one manifest of the target size are
//! merged into one, which is then in a higher tier or too large to be merged again. One merge a
//! commit, so that the time and the memory of a commit stay bounded, too.
//!
//! Entries keep their snapshot id, both sequence numbers and, in format version 3, their row ids. What
//! cannot be carried over without loss stays as it is: manifests of deletes, encrypted ones, those of
//! another partition type.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{
    FormatVersion, ManifestContentType, ManifestEntry, ManifestFile, PartitionSpecRef, StructType,
};

use super::cache::FileCache;
use super::io::Encoded;
use super::maintenance::Maintenance;
use super::manifest;
use super::properties::MergePolicy;
use super::{LoadedTable, TableError, row_ids};

/// Entries that one merge holds in memory at most.
const MAX_ENTRIES: u64 = 10_000;
/// Manifests that are read at once.
const READS_AT_ONCE: usize = 16;

/// What a merge made of the manifests of the head.
pub(super) struct Merged {
    /// The new manifest.
    pub(super) manifest: ManifestFile,
    /// Its file.
    pub(super) file: Encoded,
    /// Manifests that it stands for.
    pub(super) replaced: Vec<String>,
}

/// Merges manifests of the head if enough small ones are there. A merge that cannot be made is not
/// made: the commit does not depend on it.
///
/// # Errors
/// `Storage` if a manifest cannot be read.
pub(super) async fn merge(
    loaded: &LoadedTable,
    manifests: &[ManifestFile],
    snapshot_id: i64,
    maintenance: &Maintenance,
) -> Result<Option<Merged>, TableError> {
    let cache = &maintenance.cache;
    let mut policy = MergePolicy::of(loaded.metadata.properties());
    policy.target_bytes = policy.target_bytes.min(maintenance.merge_bytes);
    if !policy.enabled {
        return Ok(None);
    }
    // A table that was just upgraded gives its manifests their row ids with the commit that comes now.
    let has_row_ids = |m: &ManifestFile| !keeps_row_ids(loaded) || m.first_row_id.is_some();
    let mut by_spec = BTreeMap::<i32, Vec<&ManifestFile>>::new();
    for manifest in manifests.iter().filter(|m| has_row_ids(m) && !cache.is_unfit(&m.manifest_path))
    {
        by_spec.entry(manifest.partition_spec_id).or_default().push(manifest);
    }
    for (spec_id, manifests) in by_spec {
        let chosen = choose(&manifests, policy);
        if chosen.is_empty() {
            continue;
        }
        let Some((spec, partition_type)) = writable(loaded, spec_id) else { continue };
        let merged = rewrite(loaded, &chosen, snapshot_id, spec, &partition_type, cache).await?;
        if merged.is_some() {
            return Ok(merged);
        }
    }
    Ok(None)
}

fn keeps_row_ids(loaded: &LoadedTable) -> bool {
    loaded.metadata.format_version() == FormatVersion::V3
}

/// The spec and the type of its partitions, if entries of it can be written with the current schema.
fn writable(loaded: &LoadedTable, spec_id: i32) -> Option<(&PartitionSpecRef, StructType)> {
    let spec = loaded.metadata.partition_spec_by_id(spec_id)?;
    let partition_type = spec.partition_type(loaded.metadata.current_schema()).ok()?;
    // The crate's manifest writer panics on others.
    let primitive = partition_type.fields().iter().all(|field| field.field_type.is_primitive());
    primitive.then_some((spec, partition_type))
}

/// The manifests to merge, all of one spec: none if there is no need.
fn choose<'a>(manifests: &[&'a ManifestFile], policy: MergePolicy) -> Vec<&'a ManifestFile> {
    let target = policy.target_bytes;
    let mut tiers = BTreeMap::<u32, Vec<(u64, u64, &ManifestFile)>>::new();
    for manifest in manifests {
        let Some((bytes, files)) = size(manifest) else { continue };
        // A merge that ends at the target takes more than half of it, and is never merged again.
        if bytes <= target / 2 && files <= MAX_ENTRIES / 2 {
            let base = u64::try_from(policy.min_count).unwrap_or(u64::MAX);
            tiers.entry(files.ilog(base)).or_default().push((bytes, files, manifest));
        }
    }
    let Some(mut tier) = tiers.into_values().find(|tier| tier.len() >= policy.min_count) else {
        return Vec::new();
    };
    tier.sort_by_key(|(bytes, _, manifest)| (*bytes, manifest.sequence_number));
    tier.truncate(policy.min_count);
    let (mut all_bytes, mut all_files) = (0, 0);
    let fits = |(bytes, files, _): &(u64, u64, _)| {
        all_bytes += bytes;
        all_files += files;
        all_bytes <= target && all_files <= MAX_ENTRIES
    };
    tier.into_iter().take_while(fits).map(|(_, _, manifest)| manifest).collect()
}

/// Bytes and live files of a manifest that may be merged.
fn size(manifest: &ManifestFile) -> Option<(u64, u64)> {
    let files = u64::from(manifest.added_files_count?) + u64::from(manifest.existing_files_count?);
    let data = manifest.content == ManifestContentType::Data && manifest.key_metadata.is_none();
    let bytes = u64::try_from(manifest.manifest_length).ok()?;
    (data && files > 0).then_some((bytes, files))
}

/// Reads the chosen manifests and writes one in their place; none if fewer than two of them can be
/// carried over.
async fn rewrite(
    loaded: &LoadedTable,
    chosen: &[&ManifestFile],
    snapshot_id: i64,
    spec: &PartitionSpecRef,
    partition_type: &StructType,
    cache: &FileCache,
) -> Result<Option<Merged>, TableError> {
    // Owned, or the compiler finds the future not general enough.
    let chosen: Vec<ManifestFile> = chosen.iter().copied().cloned().collect();
    let reads = stream::iter(chosen).map(|file| async move {
        let bytes = cache.read(&loaded.io, &file.manifest_path).await?;
        Ok::<_, TableError>((file, bytes))
    });
    let read: Vec<_> = reads.buffered(READS_AT_ONCE).try_collect().await?;
    let (mut entries, mut replaced) = (Vec::new(), Vec::new());
    for (file, bytes) in read {
        let carried = carried(&file, &bytes, partition_type);
        let carried = carried.and_then(|entries| match keeps_row_ids(loaded) {
            true => row_ids::written_out(&file, entries),
            false => Ok(entries),
        });
        match carried {
            Ok(live) => {
                entries.extend(live);
                replaced.push(file.manifest_path.clone());
            }
            Err(reason) => {
                tracing::warn!(
                    table = %loaded.name, manifest = %file.manifest_path, %reason,
                    "a manifest stays as it is: it cannot be merged"
                );
                cache.set_unfit(&file.manifest_path);
            }
        }
    }
    if replaced.len() < 2 {
        return Ok(None);
    }
    let path = manifest::new_path(&loaded.metadata);
    let schema = loaded.metadata.current_schema().clone();
    let version = loaded.metadata.format_version();
    // Not those that the list would give it: none are new.
    let first_row_id = row_ids::least(&entries).filter(|_| keeps_row_ids(loaded));
    let encoded = manifest::encode(&path, version, snapshot_id, schema, spec, |writer| {
        entries.into_iter().try_for_each(|entry| {
            writer.add_existing_file(
                entry.data_file,
                entry.snapshot_id.unwrap_or_default(),
                entry.sequence_number.unwrap_or_default(),
                entry.file_sequence_number,
            )
        })
    });
    match encoded.await {
        Ok((manifest, file)) => {
            let manifest = ManifestFile { first_row_id, ..manifest };
            Ok(Some(Merged { manifest, file, replaced }))
        }
        Err(error) => {
            tracing::warn!(table = %loaded.name, %error, "manifests stay as they are: they cannot be merged");
            replaced.iter().for_each(|path| cache.set_unfit(path));
            Ok(None)
        }
    }
}

/// The live entries of a manifest, if each can be written again without loss.
fn carried(
    file: &ManifestFile,
    bytes: &bytes::Bytes,
    partition_type: &StructType,
) -> Result<Vec<ManifestEntry>, String> {
    let (entries, metadata) =
        manifest::live_entries(bytes, file).map_err(|error| error.to_string())?;
    let own = metadata.partition_spec().partition_type(metadata.schema());
    let types = |of: &StructType| -> Vec<_> {
        of.fields().iter().map(|field| (field.id, field.field_type.clone())).collect()
    };
    if own.as_ref().map(types).ok() != Some(types(partition_type)) {
        return Err("its partition values have other types than the table's".into());
    }
    let whole = |entry: &ManifestEntry| {
        let numbers = [entry.snapshot_id, entry.sequence_number, entry.file_sequence_number];
        numbers.iter().all(Option::is_some)
            && entry.data_file.partition().fields().len() == partition_type.fields().len()
    };
    match entries.iter().find(|entry| !whole(entry)) {
        None => Ok(entries),
        Some(entry) => {
            Err(format!("{} lacks a sequence number or a partition value", entry.file_path()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(number: i64, files: u32, bytes: i64) -> ManifestFile {
        ManifestFile {
            manifest_path: format!("m{number}"),
            manifest_length: bytes,
            partition_spec_id: 0,
            content: ManifestContentType::Data,
            sequence_number: number,
            min_sequence_number: number,
            added_snapshot_id: number,
            added_files_count: Some(files),
            existing_files_count: Some(0),
            deleted_files_count: Some(0),
            added_rows_count: Some(1),
            existing_rows_count: Some(0),
            deleted_rows_count: Some(0),
            partitions: None,
            key_metadata: None,
            first_row_id: None,
        }
    }

    const HEADER: i64 = 3_000;
    const ENTRY: i64 = 300;

    /// Commits one manifest after the other. The number of manifests after each, and how often an
    /// entry was written again in all.
    fn history(policy: MergePolicy, files: impl Iterator<Item = u32>) -> (Vec<usize>, u64, u64) {
        let (mut all, mut counts) = (Vec::<ManifestFile>::new(), Vec::new());
        let (mut rewritten, mut total) = (0, 0);
        for (number, files) in (1_i64..).zip(files) {
            let chosen = choose(&all.iter().collect::<Vec<_>>(), policy);
            let paths: Vec<String> = chosen.iter().map(|m| m.manifest_path.clone()).collect();
            let merged: u32 = chosen.iter().map(|m| m.added_files_count.unwrap()).sum();
            assert!(u64::from(merged) <= MAX_ENTRIES);
            if !paths.is_empty() {
                assert!(paths.len() > 1);
                all.retain(|m| !paths.contains(&m.manifest_path));
                all.push(manifest(-number, merged, HEADER + ENTRY * i64::from(merged)));
            }
            all.push(manifest(number, files, HEADER + ENTRY * i64::from(files)));
            rewritten += u64::from(merged);
            total += u64::from(files);
            counts.push(all.len());
        }
        (counts, rewritten, total)
    }

    fn policy(min_count: usize, target_bytes: u64) -> MergePolicy {
        MergePolicy { enabled: true, min_count, target_bytes }
    }

    #[test]
    fn after_ten_thousand_commits_there_are_as_few_manifests_as_the_digits_of_the_count() {
        let (counts, rewritten, total) = history(policy(10, 8 << 20), (0..10_000).map(|_| 1));
        // Up to ten of each tier, and one more while a merge is due.
        assert!(counts.iter().all(|count| *count <= 10 * 4 + 4), "{:?}", counts.iter().max());
        assert!(rewritten <= 4 * total, "{rewritten} of {total}");
    }

    #[test]
    fn fewer_than_the_least_count_are_left_alone() {
        let (counts, rewritten, _) = history(policy(100, 8 << 20), (0..100).map(|_| 3));
        assert_eq!((counts.last(), rewritten), (Some(&100), 0));
    }

    #[test]
    fn deletes_encrypted_and_empty_manifests_are_never_chosen() {
        let deletes = ManifestFile { content: ManifestContentType::Deletes, ..manifest(1, 1, 10) };
        let encrypted = ManifestFile { key_metadata: Some(vec![1]), ..manifest(2, 1, 10) };
        let unknown = ManifestFile { added_files_count: None, ..manifest(3, 1, 10) };
        let (empty, large) = (manifest(4, 0, 10), manifest(5, 1, 600));
        let all = [&deletes, &encrypted, &unknown, &empty, &large];
        assert!(choose(&all, policy(2, 1000)).is_empty());
        let small = [manifest(6, 1, 500), manifest(7, 1, 500), manifest(8, 1, 500)];
        let all: Vec<_> = all.into_iter().chain(&small).collect();
        let chosen: Vec<_> =
            choose(&all, policy(2, 1000)).iter().map(|m| m.sequence_number).collect();
        assert_eq!(chosen, [6, 7]);
    }

    proptest! {
        #[test]
        fn the_number_of_manifests_stays_bounded_and_each_file_is_rewritten_once_a_tier(
            files in prop::collection::vec(1_u32..200, 1..1500),
            min_count in 2_usize..30,
            target in 100_000_u64..2_000_000,
        ) {
            let policy = policy(min_count, target);
            let (counts, rewritten, total) = history(policy, files.into_iter());
            let tiers = u64::from(total.ilog(min_count as u64)) + 1;
            let bytes = total * ENTRY as u64 + counts.len() as u64 * HEADER as u64;
            // Those at more than half of the target are done with.
            let done = 2 * bytes / target + 1;
            let bound = min_count as u64 * tiers + tiers + done;
            let most = counts.iter().copied().max().unwrap_or(0) as u64;
            prop_assert!(most <= bound, "{most} manifests, {bound} allowed");
            prop_assert!(rewritten <= total * (tiers + 1), "{rewritten} of {total}, {tiers} tiers");
        }
    }
}
