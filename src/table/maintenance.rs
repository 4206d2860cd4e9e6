//! What one process knows and does besides its commits to a table.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::cache::FileCache;
use super::ledger::Understood;
use super::properties::is_maintained;
use super::small_files::SmallFiles;

/// What is kept between the commits of a process to one table, and what is done along with them.
/// Commits that share one read nothing that one of them wrote.
pub struct Maintenance {
    pub(super) cache: FileCache,
    /// What of the journals in the table was looked at.
    pub understood: Understood,
    /// Bytes of manifests that one merge reads at most; decoded they take several times as much.
    pub(super) merge_bytes: u64,
    /// Are snapshots expired with the commits? Where it does not say, by the table.
    expire_snapshots: Option<bool>,
    /// There is nothing to look for before the table has so many snapshots.
    pub(super) expire_from: AtomicUsize,
    sweeping: AtomicBool,
    /// What commits freed while a sweep was under way.
    left: Mutex<Vec<String>>,
    counters: Counters,
    /// Tells of commits of many small files.
    pub(super) small_files: SmallFiles,
}

#[derive(Default)]
struct Counters {
    files_written: AtomicU64,
    bytes_written: AtomicU64,
    merged_manifests: AtomicU64,
    expired_snapshots: AtomicU64,
    removed_files: AtomicU64,
    failed_removals: AtomicU64,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceTotals {
    /// Metadata files that commits read from the store.
    pub files_read: u64,
    /// Metadata files that commits wrote.
    pub files_written: u64,
    /// Bytes of those.
    pub bytes_written: u64,
    /// Manifests that were merged into others.
    pub merged_manifests: u64,
    /// Snapshots that were expired.
    pub expired_snapshots: u64,
    /// Files that were deleted because nothing refers to them any more.
    pub removed_files: u64,
    /// Files that should have been and could not be.
    pub failed_removals: u64,
}

impl Maintenance {
    /// Keeps up to `cache_bytes` of metadata files in memory, and expires snapshots if told to, or if
    /// the table says so and nothing else was told.
    pub fn new(cache_bytes: usize, expire_snapshots: impl Into<Option<bool>>) -> Arc<Self> {
        Arc::new(Self {
            cache: FileCache::new(cache_bytes),
            understood: Understood::default(),
            merge_bytes: (cache_bytes as u64).clamp(1 << 20, 8 << 20),
            expire_snapshots: expire_snapshots.into(),
            expire_from: AtomicUsize::new(0),
            sweeping: AtomicBool::new(false),
            left: Mutex::default(),
            counters: Counters::default(),
            small_files: SmallFiles::default(),
        })
    }

    /// For a single commit: keeps nothing and expires nothing.
    pub(super) fn none() -> Arc<Self> {
        Self::new(0, false)
    }

    /// Are snapshots of a table with these properties expired?
    pub(super) fn expires(&self, properties: &HashMap<String, String>) -> bool {
        self.expire_snapshots.unwrap_or_else(|| is_maintained(properties))
    }

    /// What was done so far.
    pub fn totals(&self) -> MaintenanceTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        MaintenanceTotals {
            files_read: self.cache.reads(),
            files_written: get(&counters.files_written),
            bytes_written: get(&counters.bytes_written),
            merged_manifests: get(&counters.merged_manifests),
            expired_snapshots: get(&counters.expired_snapshots),
            removed_files: get(&counters.removed_files),
            failed_removals: get(&counters.failed_removals),
        }
    }

    pub(super) fn add_written(&self, files: usize, bytes: usize) {
        add(&self.counters.files_written, files);
        add(&self.counters.bytes_written, bytes);
    }

    pub(super) fn add_merged(&self, manifests: usize) {
        add(&self.counters.merged_manifests, manifests);
    }

    pub(super) fn add_expired(&self, snapshots: usize) {
        add(&self.counters.expired_snapshots, snapshots);
    }

    pub(super) fn add_removed(&self, removed: u64, failed: u64) {
        self.counters.removed_files.fetch_add(removed, Ordering::Relaxed);
        self.counters.failed_removals.fetch_add(failed, Ordering::Relaxed);
    }

    /// Leaves files to the next sweep.
    pub(super) fn leave(&self, paths: &[String]) {
        let mut left = self.left.lock();
        left.extend_from_slice(paths);
    }

    /// What was left to the next sweep.
    pub(super) fn take_left(&self) -> Vec<String> {
        std::mem::take(&mut *self.left.lock())
    }

    /// Takes the one place for a sweep; `None` while another has it.
    pub(super) fn begin_sweep(self: &Arc<Self>) -> Option<Sweeping> {
        let free = !self.sweeping.swap(true, Ordering::AcqRel);
        free.then(|| Sweeping(self.clone()))
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// The one place for a sweep; free again when this is dropped.
pub(super) struct Sweeping(pub(super) Arc<Maintenance>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.sweeping.store(false, Ordering::Release);
    }
}
