//! What was read of a table or written to it before, so that the next commit need not read it.
//!
//! Keyed by path: manifests and manifest lists are never changed once they are written, so what is
//! remembered is right whatever became of the table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use iceberg::io::FileIO;
use parking_lot::{Mutex, MutexGuard};

use super::TableError;

/// Paths of manifests that cannot be merged which are remembered at most.
const MAX_UNFIT: usize = 10_000;
/// What a file costs beside its bytes and twice its path.
const OVERHEAD: usize = 128;

/// Metadata files by path, within a bound of bytes: those that were not used for longest go first.
pub(super) struct FileCache {
    limit: usize,
    inner: Mutex<Inner>,
    reads: AtomicU64,
}

#[derive(Default)]
struct Inner {
    files: HashMap<String, Held>,
    /// Paths by when they were last used.
    by_use: BTreeMap<u64, String>,
    clock: u64,
    bytes: usize,
    unfit: HashSet<String>,
}

struct Held {
    bytes: Bytes,
    used: u64,
}

impl FileCache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default(), reads: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// The content of a file, from memory if it is there.
    ///
    /// # Errors
    /// `Storage` if it has to be read and cannot be.
    pub(super) async fn read(&self, io: &FileIO, path: &str) -> Result<Bytes, TableError> {
        if let Some(bytes) = self.get(path) {
            return Ok(bytes);
        }
        let bytes = self.read_past(io, path).await?;
        self.put(path, bytes.clone());
        Ok(bytes)
    }

    /// As [`Self::read`], but keeps nothing: for files that are read once.
    pub(super) async fn read_once(&self, io: &FileIO, path: &str) -> Result<Bytes, TableError> {
        match self.get(path) {
            Some(bytes) => Ok(bytes),
            None => self.read_past(io, path).await,
        }
    }

    async fn read_past(&self, io: &FileIO, path: &str) -> Result<Bytes, TableError> {
        let failed = |error| TableError::storage("read", path, error);
        self.reads.fetch_add(1, Ordering::Relaxed);
        io.new_input(path).map_err(failed)?.read().await.map_err(failed)
    }

    /// Files that were read from the store.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn get(&self, path: &str) -> Option<Bytes> {
        let mut inner = self.lock();
        inner.clock += 1;
        let now = inner.clock;
        let held = inner.files.get_mut(path)?;
        let (bytes, before) = (held.bytes.clone(), std::mem::replace(&mut held.used, now));
        if let Some(path) = inner.by_use.remove(&before) {
            inner.by_use.insert(now, path);
        }
        Some(bytes)
    }

    /// Keeps a file, unless it would take most of the room.
    pub(super) fn put(&self, path: &str, bytes: Bytes) {
        if cost(path, &bytes) > self.limit / 2 {
            return;
        }
        let mut inner = self.lock();
        inner.forget(path);
        inner.clock += 1;
        let used = inner.clock;
        inner.bytes += cost(path, &bytes);
        inner.by_use.insert(used, path.to_owned());
        inner.files.insert(path.to_owned(), Held { bytes, used });
        while inner.bytes > self.limit
            && let Some((_, oldest)) = inner.by_use.pop_first()
        {
            inner.forget(&oldest);
        }
    }

    /// Forgets a file that is not needed any more.
    pub(super) fn forget(&self, path: &str) {
        self.lock().forget(path);
    }

    /// Remembers that a manifest cannot be merged, so that it is not tried at each commit.
    pub(super) fn set_unfit(&self, path: &str) {
        let mut inner = self.lock();
        if inner.unfit.len() >= MAX_UNFIT {
            inner.unfit.clear();
        }
        inner.unfit.insert(path.to_owned());
    }

    pub(super) fn is_unfit(&self, path: &str) -> bool {
        self.lock().unfit.contains(path)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

impl Inner {
    fn forget(&mut self, path: &str) {
        if let Some(held) = self.files.remove(path) {
            self.by_use.remove(&held.used);
            self.bytes -= cost(path, &held.bytes);
        }
    }
}

fn cost(path: &str, bytes: &Bytes) -> usize {
    bytes.len() + 2 * path.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kib(byte: u8) -> Bytes {
        Bytes::from(vec![byte; 1024])
    }

    #[test]
    fn the_file_that_was_not_used_for_longest_goes_first_and_the_bound_holds() {
        let cache = FileCache::new(4 * 1024);
        for name in ["a", "b", "c"] {
            cache.put(name, kib(1));
        }
        assert!(cache.get("a").is_some());
        cache.put("d", kib(2));
        assert!(cache.get("b").is_none(), "a was used after it");
        assert_eq!(cache.get("a"), Some(kib(1)));
        assert_eq!(cache.get("d"), Some(kib(2)));
        assert!(cache.bytes() <= 4 * 1024);
        for name in ["a", "c", "d"] {
            cache.forget(name);
        }
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_file_that_would_take_most_of_the_room_is_not_kept() {
        let cache = FileCache::new(4 * 1024);
        cache.put("a", kib(1));
        cache.put("large", Bytes::from(vec![0; 3 * 1024]));
        assert!(cache.get("large").is_none());
        assert!(cache.get("a").is_some());
    }

    #[tokio::test]
    async fn a_file_is_read_from_the_store_once() {
        let (io, cache) = (FileIO::new_with_memory(), FileCache::new(1 << 20));
        io.new_output("memory:/a").unwrap().write(kib(7)).await.unwrap();
        for _ in 0..3 {
            assert_eq!(cache.read(&io, "memory:/a").await.unwrap(), kib(7));
        }
        assert_eq!(cache.reads(), 1);
        let error = cache.read(&io, "memory:/none").await.unwrap_err();
        assert!(error.to_string().contains("memory:/none"), "{error}");
    }
}
