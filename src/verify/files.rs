//! The counts of the journal against snapshots and manifests: no data file is read.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::deletions::Deletions;
use super::finding::Kind;
use super::foreign::ForeignSnapshot;
use super::judge::{Judge, length, named};
use crate::protocol::JournalEntry;
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

/// What each commit says that it wrote is what its snapshot added and, where others removed no
/// files, what the table still lists.
pub(super) fn by_snapshot(judge: &mut Judge<'_>) {
    let evidence = judge.evidence;
    for (path, rows) in &evidence.files.repeated {
        let detail = format!(
            "data file {path} is in the table more than once: its {rows} rows repeat{}",
            judge.suspects(ForeignSnapshot::brings_rows)
        );
        judge.find(Kind::FileRepeated, None, detail);
    }
    let mut removals = Deletions::of_files(&evidence.history.foreign);
    let mut rewritten = (0_u64, 0_u64);
    for entry in judge.commits().rev() {
        capacity(judge, entry);
        let written = entry.rows.written;
        let added = evidence.history.added.get(&entry.snapshot_id).copied();
        if added.is_some_and(|added| added != written) {
            let added = added.unwrap_or_default();
            let detail = format!(
                "{} wrote {written} rows by the journal, and its snapshot added {added}",
                named(entry)
            );
            judge.find(Kind::CountsDisagree, None, detail);
        }
        let listed =
            evidence.files.by_snapshot.get(&entry.snapshot_id).copied().unwrap_or_default();
        if listed.rows > written {
            let detail = format!(
                "{} wrote {written} rows by the journal, and the {} data files that its snapshot \
                 put in hold {}",
                named(entry),
                listed.files,
                listed.rows
            );
            judge.find(Kind::CountsDisagree, None, detail);
            continue;
        }
        let gone = written - listed.rows;
        let taken = removals.take(entry.sequence_number, gone);
        rewritten.0 += taken;
        rewritten.1 += u64::from(taken > 0);
        // The rows tell more exactly what is missing, where they are read.
        if taken < gone && !judge.rows_are_read() {
            let detail = format!(
                "{} wrote {written} rows, of which {} are in no data file of the table, and no \
                 snapshot since removed them{}",
                named(entry),
                gone - taken,
                judge.suspects(ForeignSnapshot::removes_files)
            );
            judge.find(Kind::RowsMissing, None, detail);
        }
    }
    if rewritten.0 > 0 && !judge.rows_are_read() {
        let detail = format!(
            "{} rows of {} commits were in files that others replaced or removed; --rows tells \
             what became of them{}",
            rewritten.0,
            rewritten.1,
            judge.suspects(ForeignSnapshot::removes_files)
        );
        judge.find(Kind::FilesRewritten, None, detail);
    }
}

/// I10: a commit cannot have had more records than its ranges have offsets.
fn capacity(judge: &mut Judge<'_>, entry: &JournalEntry) {
    let rows = entry.rows;
    let records = [rows.written, rows.skipped, rows.dead_lettered, rows.tombstones]
        .iter()
        .fold(0_u64, |sum, count| sum.saturating_add(*count));
    let ranges = judge.ranges(entry);
    let offsets: u64 = ranges.iter().map(|(_, range)| length(range.start, range.end)).sum();
    if records > offsets {
        let detail = format!("{} counts {records} records in {offsets} offsets", named(entry));
        let only = ranges.first().filter(|_| ranges.len() == 1).map(|(place, _)| place.clone());
        judge.find(Kind::CommitTooFull, only.as_ref(), detail);
    }
}
