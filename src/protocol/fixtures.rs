//! Small values for the tests of the protocol.

use std::collections::BTreeMap;

use super::*;

pub(super) const UUID: &str = "table-1";

pub(super) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("readings", partition)
}

pub(super) fn frontier(offsets: &[(i32, Offset)]) -> Frontier {
    offsets.iter().map(|(partition, offset)| (tp(*partition), *offset)).collect()
}

pub(super) fn ranges(ranges: &[(i32, Offset, Offset)]) -> Ranges {
    let range = |(p, start, end): &(i32, Offset, Offset)| {
        (tp(*p), OffsetRange { start: *start, end: *end })
    };
    ranges.iter().map(range).collect()
}

/// A commit that continues `from`; each triple is partition, start, end.
pub(super) fn pending(
    id: &str,
    from: &[(i32, Offset)],
    moved: &[(i32, Offset, Offset)],
) -> PendingCommit {
    PendingCommit {
        commit_id: CommitId(id.into()),
        pipeline: "flow".into(),
        instance: "one".into(),
        epoch: Epoch(4),
        table: "lake.readings".into(),
        table_uuid: UUID.into(),
        cluster_id: "cluster-1".into(),
        topic_ids: BTreeMap::from([("readings".into(), "topic-1".into())]),
        generation: 0,
        from: frontier(from),
        ranges: ranges(moved),
        files: Vec::new(),
        rows: RowCounts::default(),
    }
}

pub(super) fn ledger(commit: &str, offsets: &[(i32, Offset)]) -> Ledger {
    Ledger {
        cluster_id: "cluster-1".into(),
        commit_id: CommitId(commit.into()),
        generation: 0,
        topic_ids: BTreeMap::from([("readings".into(), "topic-1".into())]),
        frontier: frontier(offsets),
    }
}

/// An entry in the ancestry, made by the snapshot and sequence number `number`.
pub(super) fn entry(number: i64, commit: &str, moved: &[(i32, Offset, Offset)]) -> JournalEntry {
    JournalEntry {
        snapshot_id: number,
        timestamp_ms: number * 1000,
        in_ancestry: true,
        sequence_number: number,
        commit_id: CommitId(commit.into()),
        instance: "one".into(),
        epoch: Epoch(1),
        ranges: ranges(moved),
        rows: RowCounts::default(),
        edit: None,
    }
}

pub(super) fn outside(entry: JournalEntry) -> JournalEntry {
    JournalEntry { in_ancestry: false, ..entry }
}

pub(super) fn view(ledger: Option<Ledger>, journal: Vec<JournalEntry>) -> TableView {
    full_view(ledger, journal).brief()
}

pub(super) fn full_view(ledger: Option<Ledger>, journal: Vec<JournalEntry>) -> FullView {
    let head = journal.iter().rev().find(|e| e.in_ancestry).map(|entry| entry.snapshot_id);
    FullView {
        table_uuid: UUID.into(),
        head: head.or(ledger.as_ref().map(|_| 99)),
        ledger,
        journal,
    }
}

pub(super) fn empty() -> TableView {
    view(None, Vec::new())
}
