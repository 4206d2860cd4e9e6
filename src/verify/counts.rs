//! Rows against the counts of the journal. Offsets are not dense, so a missing row shows only as a
//! commit with fewer rows than it wrote.

use super::deletions::Deletions;
use super::eras::Place;
use super::finding::Kind;
use super::foreign::ForeignSnapshot;
use super::judge::{Judge, length, list, named};
use super::rows::{NAMED, RowIndex};
use crate::protocol::{JournalEntry, Offset, OffsetRange};

/// Judges each commit's rows together: the journal counts them in all its ranges at once.
pub(super) fn by_commit(judge: &mut Judge<'_>, rows: &RowIndex, strangers: u64) {
    let mut deletions = Deletions::of_rows(&judge.evidence.history.foreign, strangers);
    let mut excused = Excused::default();
    let mut unclear = Unclear::default();
    for entry in judge.commits().rev() {
        let ranges = judge.ranges(entry);
        let found = found(rows, &ranges);
        let written = entry.rows.written;
        if ranges.iter().any(|(place, _)| rows.unclear(&place.tp).is_some()) {
            unclear.add(found, written);
            continue;
        }
        if found > written {
            let detail = format!(
                "{} has {found} rows in its ranges but wrote {written}{}",
                named(entry),
                judge.suspects(ForeignSnapshot::brings_rows)
            );
            judge.find(Kind::RowsExtra, only(&ranges), detail);
        } else if found < written {
            let missing = written - found;
            let taken = deletions.take(entry.sequence_number, missing);
            excused.add(taken);
            if taken < missing {
                absent(judge, rows, entry, missing - taken);
            }
        }
    }
    unclear.judge(judge, rows, &mut deletions, &mut excused);
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

/// Commits whose rows cannot be told from those of the same offsets in another era: only the sum
/// of all of them can be judged.
#[derive(Default)]
struct Unclear {
    commits: u64,
    found: u64,
    written: u64,
}

impl Unclear {
    fn add(&mut self, found: u64, written: u64) {
        self.commits += 1;
        self.found += found;
        self.written += written;
    }

    fn judge(
        self,
        judge: &mut Judge<'_>,
        rows: &RowIndex,
        deletions: &mut Deletions<'_>,
        excused: &mut Excused,
    ) {
        if self.commits == 0 {
            return;
        }
        let found = self.found + rows.all_unclear();
        let (written, commits) = (self.written, self.commits);
        let suspects = judge.suspects(|s| s.brings_rows() || s.removes_files());
        if found > written && judge.evidence.history.complete {
            let detail =
                format!("{commits} commits wrote {written} rows and have {found}{suspects}");
            judge.find(Kind::RowsExtra, None, detail);
        } else if found < written {
            let taken = deletions.take(0, written - found);
            excused.add(taken);
            if taken < written - found {
                let missing = written - found - taken;
                let detail = format!(
                    "{missing} of {written} rows of {commits} commits are missing{suspects}"
                );
                judge.find(Kind::RowsMissing, None, detail);
            }
        }
    }
}

/// Judges the number of all rows.
pub(super) fn in_total(judge: &mut Judge<'_>, total: u64, lacking: &[String]) {
    let written: u64 = judge.commits().map(|entry| entry.rows.written).sum();
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
fn found(rows: &RowIndex, ranges: &[(Place, OffsetRange)]) -> u64 {
    let count = |place, range| rows.get(place).map_or(0, |rows| rows.offsets.count(range));
    ranges.iter().map(|(place, range)| count(place, *range)).sum()
}

/// Names what is missing as exactly as can be known.
fn absent(judge: &mut Judge<'_>, rows: &RowIndex, entry: &JournalEntry, missing: u64) {
    let mut holes: Vec<(Place, u64, Vec<Offset>)> = Vec::new();
    for (place, range) in judge.ranges(entry) {
        let present = rows.get(&place).map_or(0, |rows| rows.offsets.count(range));
        let count = length(range.start, range.end).saturating_sub(present);
        if count > 0 {
            let first = match rows.get(&place) {
                Some(rows) => rows.offsets.absent(range, NAMED),
                None => (range.start..range.end).take(NAMED).collect(),
            };
            holes.push((place, count, first));
        }
    }
    let suspects = judge.suspects(|s| s.removed > 0 || s.takes_rows());
    let wrote = format!("{} wrote {} rows", named(entry), entry.rows.written);
    if holes.iter().map(|(_, count, _)| count).sum::<u64>() == missing {
        for (place, count, first) in holes {
            let offsets = list(&first, count);
            let detail = format!("{count} rows are missing: {wrote}; offsets {offsets}{suspects}");
            judge.verdict(&place).missing += count;
            judge.find(Kind::RowsMissing, Some(&place), detail);
        }
    } else if let [(place, ..)] = holes.as_slice() {
        judge.verdict(place).missing += missing;
        let detail = format!("{missing} rows are missing: {wrote}{suspects}");
        judge.find(Kind::RowsMissing, Some(place), detail);
    } else {
        let places: Vec<_> = holes.iter().map(|(place, ..)| place.tp.to_string()).collect();
        let detail = format!(
            "{missing} rows are missing: {wrote}; they are of one or more of {}{suspects}",
            places.join(", ")
        );
        judge.in_doubt.extend(holes.into_iter().map(|(place, ..)| place));
        judge.find(Kind::RowsMissing, None, detail);
    }
}

fn only(ranges: &[(Place, OffsetRange)]) -> Option<&Place> {
    match ranges {
        [(place, _)] => Some(place),
        _ => None,
    }
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
