//! The counts of the journal against snapshots and manifests: no data file is read.

use super::deletions::Deletions;
use super::finding::Kind;
use super::foreign::ForeignSnapshot;
use super::judge::{Judge, length, named};
use crate::protocol::JournalEntry;

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
    let records = entry.rows.records();
    let ranges = judge.ranges(entry);
    let offsets: u64 = ranges.iter().map(|(_, range)| length(range.start, range.end)).sum();
    if records > offsets {
        let detail = format!("{} counts {records} records in {offsets} offsets", named(entry));
        let only = ranges.first().filter(|_| ranges.len() == 1).map(|(place, _)| place.clone());
        judge.find(Kind::CommitTooFull, only.as_ref(), detail);
    }
}
