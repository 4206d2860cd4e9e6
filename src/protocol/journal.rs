//! The journal: what each of our snapshots says about itself in its summary.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::json::{PartitionNumber, UniqueMap};
use super::{
    CommitId, Edit, Epoch, JournalEntry, LedgerError, Offset, OffsetRange, PendingCommit, Ranges,
    RowCounts, ShownCommit, TopicPartition,
};

/// Summary key: the pipeline that made the snapshot.
pub(crate) const SUMMARY_PIPELINE: &str = "icestream.pipeline";
/// Summary key: the commit that made the snapshot.
pub(crate) const SUMMARY_COMMIT_ID: &str = "icestream.commit-id";
/// Summary key: the process that made the snapshot.
pub(crate) const SUMMARY_INSTANCE: &str = "icestream.instance";
/// Summary key: the epoch of that process.
pub(crate) const SUMMARY_EPOCH: &str = "icestream.epoch";
/// Summary key: the offset ranges of this commit, `{"topic":{"0":[start,end]}}`.
pub(crate) const SUMMARY_RANGES: &str = "icestream.ranges";
/// Summary key: what became of the records of these ranges, as [`RowCounts`].
pub(crate) const SUMMARY_ROWS: &str = "icestream.rows";
/// Summary key, only of the edit of a ledger: what a person did, as [`Edit`].
pub(crate) const SUMMARY_EDIT: &str = "icestream.edit";
/// Marks the empty snapshot with which a table begins. It is of no pipeline.
pub(crate) const SUMMARY_FOUNDING: &str = "icestream.founding";

/// What a snapshot summary says about the commit that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalParts {
    /// The commit.
    pub commit_id: CommitId,
    /// The process that made it.
    pub instance: String,
    /// The epoch of that process.
    pub epoch: Epoch,
    /// What it brought in.
    pub ranges: Ranges,
    /// What became of the records in `ranges`.
    pub rows: RowCounts,
    /// What a person did, if it is an edit.
    pub edit: Option<Edit>,
}

/// Any snapshot that the table's metadata still shows, ours or not. `T` is as much of what ours say
/// about themselves as was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFacts<T = JournalParts> {
    /// The snapshot.
    pub snapshot_id: i64,
    /// The snapshot it was made on; the metadata may not show that one any more.
    pub parent_id: Option<i64>,
    /// Data sequence number; 0 in tables of format version 1.
    pub sequence_number: i64,
    /// When it was made, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Was it made on files of an older snapshot, by the running totals of its summary? `None`
    /// where they do not tell. It only matters of a snapshot without a parent.
    pub inherited: Option<bool>,
    /// What was found in its summary, if the pipeline made it.
    pub ours: Option<T>,
}

impl SnapshotFacts {
    /// As much of it as admission needs.
    pub(crate) fn brief(&self) -> SnapshotFacts<CommitId> {
        SnapshotFacts {
            snapshot_id: self.snapshot_id,
            parent_id: self.parent_id,
            sequence_number: self.sequence_number,
            timestamp_ms: self.timestamp_ms,
            inherited: self.inherited,
            ours: self.ours.as_ref().map(|ours| ours.commit_id.clone()),
        }
    }
}

/// The summary entries of the snapshot that brings `pending` into the table.
///
/// # Errors
/// [`LedgerError::Malformed`] if a partition or an offset is negative or a range ends before it
/// starts: nothing unreadable is ever written.
pub fn encode_summary(pending: &PendingCommit) -> Result<BTreeMap<String, String>, LedgerError> {
    let parts = JournalParts {
        commit_id: pending.commit_id.clone(),
        instance: pending.instance.clone(),
        epoch: pending.epoch,
        ranges: pending.ranges.clone(),
        rows: pending.rows,
        edit: None,
    };
    encode_parts(&pending.pipeline, &parts)
}

/// The summary entries of the snapshot of `pipeline` that is to say `parts`.
///
/// # Errors
/// As [`encode_summary`].
pub(crate) fn encode_parts(
    pipeline: &str,
    parts: &JournalParts,
) -> Result<BTreeMap<String, String>, LedgerError> {
    let mut topics = BTreeMap::<&str, UniqueMap<PartitionNumber, (Offset, Offset)>>::new();
    for (tp, range) in &parts.ranges {
        check_range(tp, *range)?;
        let partitions = topics.entry(&tp.topic).or_default();
        partitions.0.insert(PartitionNumber(tp.partition), (range.start, range.end));
    }
    let mut entries = vec![
        (SUMMARY_PIPELINE, pipeline.to_owned()),
        (SUMMARY_COMMIT_ID, parts.commit_id.to_string()),
        (SUMMARY_INSTANCE, parts.instance.clone()),
        (SUMMARY_EPOCH, parts.epoch.to_string()),
        (SUMMARY_RANGES, json(SUMMARY_RANGES, &topics)?),
        (SUMMARY_ROWS, json(SUMMARY_ROWS, &parts.rows)?),
    ];
    if let Some(edit) = &parts.edit {
        entries.push((SUMMARY_EDIT, json(SUMMARY_EDIT, edit)?));
    }
    Ok(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn json(key: &str, value: &impl serde::Serialize) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| LedgerError::malformed(key, error))
}

/// What a snapshot's summary says, or `None` if `pipeline` did not make that snapshot.
///
/// # Errors
/// [`LedgerError::Malformed`] if the summary names `pipeline` but is not what [`encode_summary`]
/// writes.
pub(crate) fn decode_summary(
    pipeline: &str,
    summary: &HashMap<String, String>,
) -> Result<Option<JournalParts>, LedgerError> {
    if !is_of(pipeline, summary) {
        return Ok(None);
    }
    let value = |key| value(summary, key);
    let epoch = value(SUMMARY_EPOCH)?;
    Ok(Some(JournalParts {
        commit_id: CommitId(value(SUMMARY_COMMIT_ID)?.clone()),
        instance: value(SUMMARY_INSTANCE)?.clone(),
        epoch: epoch.parse().map(Epoch).map_err(|error| {
            LedgerError::malformed(SUMMARY_EPOCH, format!("{epoch:?}: {error}"))
        })?,
        ranges: decode_ranges(value(SUMMARY_RANGES)?)?,
        rows: serde_json::from_str(value(SUMMARY_ROWS)?)
            .map_err(|error| LedgerError::malformed(SUMMARY_ROWS, error))?,
        edit: summary
            .get(SUMMARY_EDIT)
            .map(|edit| serde_json::from_str(edit))
            .transpose()
            .map_err(|error| LedgerError::malformed(SUMMARY_EDIT, error))?,
    }))
}

/// The commit that made the snapshot, or `None` if `pipeline` did not make it. Nothing else of the
/// summary is looked at.
///
/// # Errors
/// [`LedgerError::Malformed`] if the summary names `pipeline` and no commit.
pub(crate) fn decode_commit_id(
    pipeline: &str,
    summary: &HashMap<String, String>,
) -> Result<Option<CommitId>, LedgerError> {
    if !is_of(pipeline, summary) {
        return Ok(None);
    }
    value(summary, SUMMARY_COMMIT_ID).map(|commit| Some(CommitId(commit.clone())))
}

fn is_of(pipeline: &str, summary: &HashMap<String, String>) -> bool {
    summary.get(SUMMARY_PIPELINE).map(String::as_str) == Some(pipeline)
}

fn value<'a>(summary: &'a HashMap<String, String>, key: &str) -> Result<&'a String, LedgerError> {
    let value = summary.get(key).filter(|value| !value.is_empty());
    value.ok_or_else(|| LedgerError::malformed(key, "it is missing"))
}

/// The journal of the table whose metadata shows `snapshots`, oldest entry first.
///
/// An entry is in the ancestry if the parents lead to it from `head`. Where expiry broke that
/// chain, an entry older than the break may or may not have been an ancestor. Such an entry (kept
/// alive by a tag, say) is left out, as if it had been expired too: it proves nothing.
pub(crate) fn journal(head: Option<i64>, snapshots: Vec<SnapshotFacts>) -> Vec<JournalEntry> {
    let entry = |(in_ancestry, snapshot): (bool, SnapshotFacts)| {
        let ours = snapshot.ours?;
        Some(JournalEntry {
            snapshot_id: snapshot.snapshot_id,
            timestamp_ms: snapshot.timestamp_ms,
            in_ancestry,
            sequence_number: snapshot.sequence_number,
            commit_id: ours.commit_id,
            instance: ours.instance,
            epoch: ours.epoch,
            ranges: ours.ranges,
            rows: ours.rows,
            edit: ours.edit,
        })
    };
    ours_in_order(head, snapshots).into_iter().filter_map(entry).collect()
}

/// As [`journal`], without what the entries say.
pub(crate) fn commits(
    head: Option<i64>,
    snapshots: Vec<SnapshotFacts<CommitId>>,
) -> Vec<ShownCommit> {
    let commit = |(in_ancestry, snapshot): (bool, SnapshotFacts<CommitId>)| {
        Some(ShownCommit {
            snapshot_id: snapshot.snapshot_id,
            in_ancestry,
            sequence_number: snapshot.sequence_number,
            commit_id: snapshot.ours?,
        })
    };
    ours_in_order(head, snapshots).into_iter().filter_map(commit).collect()
}

/// Our snapshots, oldest first, each with whether it is in the ancestry; see [`journal`].
fn ours_in_order<T>(
    head: Option<i64>,
    snapshots: Vec<SnapshotFacts<T>>,
) -> Vec<(bool, SnapshotFacts<T>)> {
    let (walk, end) = ancestry(head, &snapshots);
    let oldest = walk.last().map(|oldest| (oldest.sequence_number, oldest.timestamp_ms));
    let break_at = if end == AncestryEnd::Broken { oldest } else { None };
    let ancestry: HashSet<i64> = walk.iter().map(|snapshot| snapshot.snapshot_id).collect();
    let mut ours: Vec<(bool, SnapshotFacts<T>)> = snapshots
        .into_iter()
        .filter(|snapshot| snapshot.ours.is_some())
        .map(|snapshot| (ancestry.contains(&snapshot.snapshot_id), snapshot))
        .filter(|(in_ancestry, snapshot)| {
            let age = (snapshot.sequence_number, snapshot.timestamp_ms);
            *in_ancestry || break_at.is_none_or(|at| age >= at)
        })
        .collect();
    ours.sort_by_key(|(_, s)| (s.sequence_number, s.timestamp_ms, s.snapshot_id));
    ours
}

/// Where the walk from the head to its oldest ancestor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AncestryEnd {
    /// At a snapshot that was made on nothing: the table holds what the walk shows, and no more.
    Root,
    /// At one without a parent that may have had one: its summary does not tell.
    Unclear,
    /// At one whose parent was expired.
    Broken,
}

/// The head and its ancestors, the newest first, as far as the metadata shows them.
///
/// A snapshot without a parent is not always a beginning: some engines take the parent away from a
/// snapshot when they expire that parent. Only the running totals of its summary tell the two
/// apart, for those of a beginning (also one by `CREATE OR REPLACE TABLE`) count from zero.
pub(crate) fn ancestry<T>(
    head: Option<i64>,
    snapshots: &[SnapshotFacts<T>],
) -> (Vec<&SnapshotFacts<T>>, AncestryEnd) {
    let by_id: HashMap<i64, &SnapshotFacts<T>> =
        snapshots.iter().map(|snapshot| (snapshot.snapshot_id, snapshot)).collect();
    let (mut walk, mut seen) = (Vec::new(), HashSet::new());
    let mut next = head;
    while let Some(snapshot) = next.and_then(|id| by_id.get(&id)) {
        if !seen.insert(snapshot.snapshot_id) {
            // A cycle: the metadata is broken, and this walk must still end.
            return (walk, AncestryEnd::Unclear);
        }
        walk.push(*snapshot);
        next = snapshot.parent_id;
    }
    let end = match (next, walk.last()) {
        (Some(_), _) => AncestryEnd::Broken,
        (None, None) => AncestryEnd::Root,
        // Nothing was before the first snapshot of a table.
        (None, Some(oldest)) if oldest.sequence_number == 1 => AncestryEnd::Root,
        (None, Some(oldest)) => match oldest.inherited {
            Some(true) => AncestryEnd::Broken,
            Some(false) => AncestryEnd::Root,
            None => AncestryEnd::Unclear,
        },
    };
    (walk, end)
}

/// Was a snapshot made on files of an older one? Its running totals, less what it added and with
/// what it removed, are those of the one before. `None` if its summary does not tell.
pub(crate) fn inherited(summary: &HashMap<String, String>) -> Option<bool> {
    const COUNTS: [[&str; 3]; 3] = [
        ["total-data-files", "added-data-files", "deleted-data-files"],
        ["total-delete-files", "added-delete-files", "removed-delete-files"],
        ["total-records", "added-records", "deleted-records"],
    ];
    let number = |key| match summary.get(key) {
        // Iceberg's counts are of 64 bits: no sum of three of them overflows.
        Some(value) => value.parse::<i64>().ok().map(i128::from),
        None => Some(0_i128),
    };
    for [total, added, removed] in COUNTS {
        if number(total)? - number(added)? + number(removed)? > 0 {
            return Some(true);
        }
    }
    summary.contains_key(COUNTS[0][0]).then_some(false)
}

fn decode_ranges(text: &str) -> Result<Ranges, LedgerError> {
    type Topics = UniqueMap<String, UniqueMap<PartitionNumber, (Offset, Offset)>>;
    let topics: Topics = serde_json::from_str(text)
        .map_err(|error| LedgerError::malformed(SUMMARY_RANGES, error))?;
    let mut ranges = Ranges::new();
    for (topic, partitions) in topics.0 {
        for (PartitionNumber(partition), (start, end)) in partitions.0 {
            let tp = TopicPartition::new(topic.clone(), partition);
            let range = OffsetRange { start, end };
            check_range(&tp, range)?;
            ranges.insert(tp, range);
        }
    }
    Ok(ranges)
}

fn check_range(tp: &TopicPartition, range: OffsetRange) -> Result<(), LedgerError> {
    if tp.topic.is_empty() || tp.partition < 0 || range.start < 0 || range.end < range.start {
        let detail = format!("{tp} has the range [{}, {})", range.start, range.end);
        return Err(LedgerError::malformed(SUMMARY_RANGES, detail));
    }
    Ok(())
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
