//! The files of a table by the snapshot that put them in.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::table::LiveFile;

/// Files that are in the table twice and named.
const NAMED: usize = 20;

/// The files of a table by the snapshot that put them in, as the head's manifests list them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// Data files and the rows in them.
    pub by_snapshot: BTreeMap<i64, FileCount>,
    /// Rows in all data files, those deleted by delete files too.
    pub rows: u64,
    /// Delete files.
    pub deletes: u64,
    /// Data files that are listed more than once, with their rows; the first of them.
    pub repeated: Vec<(String, u64)>,
    seen: HashSet<u128>,
    hashers: (RandomState, RandomState),
}

/// Data files that one snapshot put in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileCount {
    /// How many.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
}

impl Files {
    /// Counts one file.
    pub(crate) fn insert(&mut self, file: &LiveFile) {
        if file.deletes {
            self.deletes += 1;
            return;
        }
        self.rows += file.rows;
        if !self.seen.insert(self.hash(&file.path)) && self.repeated.len() < NAMED {
            self.repeated.push((file.path.clone(), file.rows));
        }
        if let Some(snapshot) = file.snapshot_id {
            let count = self.by_snapshot.entry(snapshot).or_default();
            count.files += 1;
            count.rows += file.rows;
        }
    }

    /// 16 bytes for a path, as no two of them share.
    fn hash(&self, path: &str) -> u128 {
        let (high, low) = (self.hashers.0.hash_one(path), self.hashers.1.hash_one(path));
        u128::from(high) << 64 | u128::from(low)
    }
}
