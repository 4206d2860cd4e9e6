//! Deletes what an expiry freed, after the commit is certain.
//!
//! By reachability alone: a file is deleted only if a snapshot that is gone names it and none that
//! is still there does. So no file of a pending commit is ever deleted that is not in a snapshot (I8),
//! whoever wrote it. A crash before the end leaves files that nothing refers to: space, never rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use iceberg::spec::{ManifestFile, Operation, SnapshotRef, TableMetadata, TableMetadataRef};

use super::maintenance::Sweeping;
use super::{LoadedTable, TableError, io, list, manifest};

/// Metadata files that are read at once.
const AT_ONCE: usize = 8;
/// Data files that are looked for at once; more than that are left behind.
const MAX_FILES: usize = 100_000;

/// What a commit took out of a table, to be deleted.
pub struct Freed {
    /// The table with the commit.
    table: LoadedTable,
    /// Its metadata before.
    before: TableMetadataRef,
    /// Snapshots that are gone.
    expired: Vec<SnapshotRef>,
    /// Files of table metadata that the log no longer names.
    old_metadata: Vec<String>,
    sweeping: Sweeping,
}

impl Freed {
    /// `None` if nothing was freed. `intended` are the snapshots that the request took out.
    pub(super) fn new(
        table: &LoadedTable,
        before: &TableMetadataRef,
        intended: &[i64],
        old_metadata: &[String],
        sweeping: Sweeping,
    ) -> Option<Self> {
        // What the catalog shows counts.
        let gone = intended.iter().filter(|id| table.metadata.snapshot_by_id(**id).is_none());
        let expired: Vec<_> = gone.filter_map(|id| before.snapshot_by_id(*id).cloned()).collect();
        sweeping.0.add_expired(expired.len());
        let mut left = sweeping.0.take_left();
        left.extend_from_slice(old_metadata);
        let anything = !expired.is_empty() || !left.is_empty();
        let (table, before, old_metadata) = (table.clone(), before.clone(), left);
        anything.then(|| Self { table, before, expired, old_metadata, sweeping })
    }

    /// Deletes it. What cannot be deleted, or not be proven unreferenced, is left, counted and
    /// logged.
    pub async fn sweep(self) {
        let name = &self.table.name;
        let mut paths = match self.unreferenced().await {
            Ok(paths) => paths,
            Err(error) => {
                tracing::warn!(table = %name, %error, snapshots = self.expired.len(), "files of expired snapshots are left");
                self.sweeping.0.add_removed(0, self.expired.len() as u64);
                Vec::new()
            }
        };
        paths.extend(self.old_metadata.iter().cloned());
        let (failed, first) = io::delete_counted(&self.table.io, &paths).await;
        let removed = (paths.len() as u64).saturating_sub(failed);
        self.sweeping.0.add_removed(removed, failed);
        for path in &paths {
            self.sweeping.0.cache.forget(path);
        }
        match first {
            None => {
                tracing::debug!(table = %name, snapshots = self.expired.len(), files = removed, "freed files deleted");
            }
            Some(error) => {
                tracing::warn!(table = %name, %error, failed, "files that nothing refers to are left");
            }
        }
    }

    /// Data files first, then manifests, then lists: what is left after a crash can be found again.
    async fn unreferenced(&self) -> Result<Vec<String>, TableError> {
        if self.expired.is_empty() {
            return Ok(Vec::new());
        }
        let remaining: Vec<SnapshotRef> = self.table.metadata.snapshots().cloned().collect();
        let kept = self.manifests(&remaining).await?;
        let mut gone = self.manifests(&self.expired).await?;
        gone.retain(|path, _| !kept.contains_key(path));
        let mut paths = match frees_data(&self.before, &self.table.metadata, &self.expired) {
            false => Vec::new(),
            true => self.data_files(&gone, &kept).await?,
        };
        paths.extend(gone.into_keys());
        let lists: HashSet<&str> = remaining.iter().map(|s| s.manifest_list()).collect();
        let expired = self.expired.iter().map(|snapshot| snapshot.manifest_list());
        paths.extend(expired.filter(|list| !lists.contains(list)).map(str::to_owned));
        paths.extend(self.statistics());
        Ok(paths)
    }

    /// Statistics of the snapshots that are gone, where the table names them no more.
    fn statistics(&self) -> Vec<String> {
        let of = |metadata: &TableMetadata| -> HashSet<(i64, String)> {
            let tables = metadata.statistics_iter();
            let tables = tables.map(|file| (file.snapshot_id, file.statistics_path.clone()));
            let partitions = metadata.partition_statistics_iter();
            let partitions =
                partitions.map(|file| (file.snapshot_id, file.statistics_path.clone()));
            tables.chain(partitions).collect()
        };
        let gone: HashSet<i64> = self.expired.iter().map(|s| s.snapshot_id()).collect();
        let named: HashSet<String> =
            of(&self.table.metadata).into_iter().map(|(_, path)| path).collect();
        let before = of(&self.before).into_iter();
        let freed = before.filter(|(id, path)| gone.contains(id) && !named.contains(path));
        freed.map(|(_, path)| path).collect()
    }

    /// The manifests that snapshots consist of, by path.
    async fn manifests(
        &self,
        snapshots: &[SnapshotRef],
    ) -> Result<HashMap<String, ManifestFile>, TableError> {
        let (io, cache) = (&self.table.io, &self.sweeping.0.cache);
        let reads = stream::iter(snapshots.to_vec()).map(|snapshot| async move {
            let bytes = cache.read_once(io, snapshot.manifest_list()).await?;
            list::parse(&self.table, &snapshot, &bytes)
        });
        let mut reads = reads.buffer_unordered(AT_ONCE);
        let mut found = HashMap::new();
        while let Some(manifests) = reads.next().await {
            found.extend(manifests?.into_iter().map(|m| (m.manifest_path.clone(), m)));
        }
        Ok(found)
    }

    /// The files that manifests which are gone name and no live entry of the kept ones does.
    async fn data_files(
        &self,
        gone: &HashMap<String, ManifestFile>,
        kept: &HashMap<String, ManifestFile>,
    ) -> Result<Vec<String>, TableError> {
        let mut files = HashSet::new();
        self.each_path(gone.values(), |path| {
            if files.len() < MAX_FILES {
                files.insert(path);
            }
        })
        .await?;
        self.each_path(kept.values(), |path| {
            files.remove(&path);
        })
        .await?;
        Ok(files.into_iter().collect())
    }

    async fn each_path<'a>(
        &self,
        manifests: impl Iterator<Item = &'a ManifestFile>,
        mut visit: impl FnMut(String),
    ) -> Result<(), TableError> {
        let (io, cache) = (&self.table.io, &self.sweeping.0.cache);
        let manifests: Vec<ManifestFile> = manifests.cloned().collect();
        let reads = stream::iter(manifests).map(|file| async move {
            let path = &file.manifest_path;
            let bytes = cache.read_once(io, path).await?;
            let (entries, _) = manifest::live_entries(&bytes, &file)
                .map_err(|error| TableError::storage("read", path, error))?;
            let paths = entries.iter().map(|entry| entry.file_path().to_owned());
            Ok::<Vec<String>, TableError>(paths.collect())
        });
        let mut reads = reads.buffer_unordered(AT_ONCE);
        while let Some(paths) = reads.next().await {
            paths?.into_iter().for_each(&mut visit);
        }
        Ok(())
    }
}

/// May a data file be in none of the remaining snapshots? Not if all snapshots were one line of
/// appends as far back as the first that is gone, for then the oldest that remains has every file
/// of those before it.
fn frees_data(before: &TableMetadata, after: &TableMetadata, expired: &[SnapshotRef]) -> bool {
    let ids: HashSet<i64> = expired.iter().map(|snapshot| snapshot.snapshot_id()).collect();
    let mut next = after.current_snapshot_id();
    let mut line = Vec::<&Arc<iceberg::spec::Snapshot>>::new();
    while let Some(snapshot) =
        next.and_then(|id| after.snapshot_by_id(id).or_else(|| before.snapshot_by_id(id)))
        && line.len() <= before.snapshots().len()
    {
        next = snapshot.parent_snapshot_id();
        line.push(snapshot);
    }
    let Some(oldest) = line.iter().rposition(|snapshot| ids.contains(&snapshot.snapshot_id()))
    else {
        return true;
    };
    let line = &line[..=oldest];
    let in_line: HashSet<i64> = line.iter().map(|snapshot| snapshot.snapshot_id()).collect();
    // The oldest one's own operation took files only out of snapshots before it.
    let appends = line[..oldest].iter().all(|s| s.summary().operation == Operation::Append);
    !(appends && ids.is_subset(&in_line))
}
