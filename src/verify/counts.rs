//! Rows against the counts of the journal. Offsets are not dense, so a missing row shows only as a
//! commit with fewer rows than it wrote.

use super::evidence::ForeignSnapshot;
use super::finding::Kind;
use super::judge::{Judge, list};
use super::rows::{NAMED, RowIndex};
use crate::protocol::{JournalEntry, Offset, TopicPartition};

/// Judges each commit's rows together: the journal counts them in all its ranges at once.
pub(super) fn by_commit(judge: &mut Judge<'_>, rows: &RowIndex, strangers: u64) {
    let mut deletions = Deletions::new(judge.evidence.history.foreign.as_slice(), strangers);
    let mut excused = Excused::default();
    for entry in judge.commits().rev() {
        capacity(judge, entry);
        let found = found(rows, entry);
        let written = entry.rows.written;
        if found > written {
            let detail = format!(
                "{} has {found} rows in its ranges but wrote {written}{}",
                named(entry),
                judge.suspects(ForeignSnapshot::brings_rows)
            );
            judge.find(Kind::RowsExtra, only_partition(entry), detail);
        } else if found < written {
            let missing = written - found;
            let taken = deletions.take(entry, missing);
            excused.add(taken);
            if taken < missing {
                absent(judge, rows, entry, missing - taken);
            }
        }
    }
    if excused.rows > 0 {
        let detail = format!(
            "{} rows of {} commits were deleted by others{}",
            excused.rows,
            excused.commits,
            judge.suspects(ForeignSnapshot::takes_rows)
        );
        judge.find(Kind::RowsDeletedByOthers, None, detail);
    }
}

/// Judges the number of all rows.
pub(super) fn in_total(judge: &mut Judge<'_>, total: u64, lacking: &[String]) {
    let written: u64 = judge.commits().map(|entry| entry.rows.written).sum();
    for entry in judge.commits() {
        capacity(judge, entry);
    }
    let history = &judge.evidence.history;
    let by_others = history.foreign.iter().filter(|s| s.operation != "replace");
    let expected = by_others
        .clone()
        .fold(i128::from(written), |sum, s| sum + i128::from(s.added) - i128::from(s.removed));
    let countable = by_others.clone().all(|s| s.deleted == 0 && !s.deleted_by_value);
    let mut detail = format!(
        "the table lacks {}: rows cannot be judged by offset, only their number ({total})",
        lacking.join(", ")
    );
    if !history.complete {
        detail.push_str("; that cannot be judged either, since snapshots were expired");
    } else if !countable {
        detail.push_str("; that cannot be judged either, since foreign snapshots deleted rows");
    } else if i128::from(total) != expected {
        let suspects = judge.suspects(|s| s.takes_rows() || s.brings_rows());
        let kind = match i128::from(total) < expected {
            true => Kind::RowsMissing,
            false => Kind::RowsExtra,
        };
        let wrong = format!("the table has {total} rows and should have {expected}{suspects}");
        judge.find(kind, None, wrong);
    } else {
        detail.push_str(", which is what the commits wrote");
    }
    judge.find(Kind::CountOnly, None, detail);
}

/// Rows, each offset once, in the ranges of a commit.
fn found(rows: &RowIndex, entry: &JournalEntry) -> u64 {
    let count = |tp, range| rows.get(tp).map_or(0, |rows| rows.offsets.count(range));
    entry.ranges.iter().map(|(tp, range)| count(tp, *range)).sum()
}

/// I10: a commit cannot have had more records than its ranges have offsets.
fn capacity(judge: &mut Judge<'_>, entry: &JournalEntry) {
    let rows = entry.rows;
    let records = [rows.written, rows.skipped, rows.dead_lettered, rows.tombstones]
        .iter()
        .fold(0_u64, |sum, count| sum.saturating_add(*count));
    let offsets: u64 = entry.ranges.values().map(|range| length(range.start, range.end)).sum();
    if records > offsets {
        let detail = format!("{} counts {records} records in {offsets} offsets", named(entry));
        judge.find(Kind::CommitTooFull, only_partition(entry), detail);
    }
}

/// Names what is missing as exactly as can be known.
fn absent(judge: &mut Judge<'_>, rows: &RowIndex, entry: &JournalEntry, missing: u64) {
    let mut holes: Vec<(&TopicPartition, u64, Vec<Offset>)> = Vec::new();
    for (tp, range) in &entry.ranges {
        let present = rows.get(tp).map_or(0, |rows| rows.offsets.count(*range));
        let count = length(range.start, range.end).saturating_sub(present);
        if count > 0 {
            let first = match rows.get(tp) {
                Some(rows) => rows.offsets.absent(*range, NAMED),
                None => (range.start..range.end).take(NAMED).collect(),
            };
            holes.push((tp, count, first));
        }
    }
    let suspects = judge.suspects(|s| s.removed > 0 || s.takes_rows());
    let wrote = format!("{} wrote {} rows", named(entry), entry.rows.written);
    if holes.iter().map(|(_, count, _)| count).sum::<u64>() == missing {
        for (tp, count, first) in holes {
            let offsets = list(&first, count);
            let detail = format!("{count} rows are missing: {wrote}; offsets {offsets}{suspects}");
            judge.verdict(tp).missing += count;
            judge.find(Kind::RowsMissing, Some(tp), detail);
        }
    } else if let [(tp, ..)] = holes.as_slice() {
        judge.verdict(tp).missing += missing;
        let detail = format!("{missing} rows are missing: {wrote}{suspects}");
        judge.find(Kind::RowsMissing, Some(tp), detail);
    } else {
        let places: Vec<_> = holes.iter().map(|(tp, ..)| tp.to_string()).collect();
        let detail = format!(
            "{missing} rows are missing: {wrote}; they are of one or more of {}{suspects}",
            places.join(", ")
        );
        judge.in_doubt.extend(holes.into_iter().map(|(tp, ..)| tp.clone()));
        judge.find(Kind::RowsMissing, None, detail);
    }
}

fn named(entry: &JournalEntry) -> String {
    format!(
        "commit {} of {} (snapshot {})",
        entry.commit_id,
        super::rfc3339(entry.timestamp_ms),
        entry.snapshot_id
    )
}

fn only_partition(entry: &JournalEntry) -> Option<&TopicPartition> {
    match entry.ranges.len() {
        1 => entry.ranges.keys().next(),
        _ => None,
    }
}

fn length(start: Offset, end: Offset) -> u64 {
    u64::try_from(end.saturating_sub(start)).unwrap_or(0)
}

#[derive(Default)]
struct Excused {
    rows: u64,
    commits: u64,
}

impl Excused {
    fn add(&mut self, rows: u64) {
        self.rows += rows;
        self.commits += u64::from(rows > 0);
    }
}

/// How many rows the foreign snapshots may have deleted, given out to commits from the newest to
/// the oldest: only a snapshot made after a commit can have deleted its rows.
struct Deletions<'a> {
    /// Oldest first; those at the end are not yet counted in.
    foreign: &'a [ForeignSnapshot],
    left: u64,
    /// Rows in the table that others put in, not yet counted against a snapshot.
    strangers: u64,
}

impl<'a> Deletions<'a> {
    fn new(foreign: &'a [ForeignSnapshot], strangers: u64) -> Self {
        // Rows that plain appends put in say nothing about what an overwrite took.
        let appended = foreign
            .iter()
            .filter(|s| s.operation == "append")
            .fold(0_u64, |sum, s| sum.saturating_add(s.added));
        Self { foreign, left: 0, strangers: strangers.saturating_sub(appended) }
    }

    /// How many of `missing` rows of `entry` others may have deleted.
    fn take(&mut self, entry: &JournalEntry, missing: u64) -> u64 {
        while let Some((last, older)) = self.foreign.split_last()
            && last.sequence_number >= entry.sequence_number
        {
            self.foreign = older;
            let most = self.most(last);
            self.left = self.left.saturating_add(most);
        }
        let taken = missing.min(self.left);
        self.left -= taken;
        taken
    }

    /// The most rows that a snapshot can have deleted. One that rewrites files adds again what it
    /// keeps, so only the difference is gone, and as many more as it put in of its own.
    fn most(&mut self, snapshot: &ForeignSnapshot) -> u64 {
        if !snapshot.takes_rows() {
            return 0;
        }
        if snapshot.deleted_by_value {
            return u64::MAX;
        }
        let own = self.strangers.min(snapshot.added).min(snapshot.removed);
        self.strangers -= own;
        let gone = snapshot.removed.saturating_sub(snapshot.added).saturating_add(own);
        gone.saturating_add(snapshot.deleted)
    }
}
