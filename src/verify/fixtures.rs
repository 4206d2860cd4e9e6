//! A table made up for tests: what it says, and its rows.

use super::eras::{Eras, Since};
use super::verdict::judge;
use crate::protocol::{
    CommitId, Edit, Epoch, Frontier, FullView, JournalEntry, Ledger, Offset, OffsetRange,
    RowCounts, TopicPartition,
};
use crate::table::LiveFile;
use crate::verify::evidence::{Evidence, History};
use crate::verify::files::Files;
use crate::verify::finding::{Finding, Judgement, Kind, Verdict};
use crate::verify::foreign::ForeignSnapshot;
use crate::verify::rows::{RowIndex, Rows};

pub(super) const TOPIC: &str = "readings";

pub(super) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

/// A table under test: what it says, and the offset of each row, in any order.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub evidence: Evidence,
    pub rows: Vec<(TopicPartition, Offset)>,
    pub without_position: u64,
    /// Rows from before each reset.
    pub before_resets: Vec<Vec<(TopicPartition, Offset)>>,
    /// Rows in files that somebody rewrote since the last reset.
    pub mixed: Vec<(TopicPartition, Offset)>,
    /// Data files; none for one that has all rows of each commit.
    pub files: Option<Vec<LiveFile>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let view = FullView {
            table_uuid: String::from("u"),
            head: None,
            ledger: None,
            journal: Vec::new(),
        };
        let evidence = Evidence {
            table: String::from("db.readings"),
            pipeline: String::from("p"),
            topic: String::from(TOPIC),
            view,
            history: History { complete: true, ..History::default() },
            other_topics: std::collections::BTreeMap::new(),
            files: Files::default(),
            rows: Rows::ByOffset(RowIndex::default()),
        };
        Self {
            evidence,
            rows: Vec::new(),
            without_position: 0,
            before_resets: Vec::new(),
            mixed: Vec::new(),
            files: None,
        }
    }

    /// Adds a commit that brings each partition from its ledger (or `begin`) to `end`; the
    /// offsets for which `hole` is true become no rows.
    pub(crate) fn commit_from(
        &mut self,
        ends: &[(i32, Offset)],
        begin: Offset,
        hole: impl Fn(Offset) -> bool,
    ) {
        let number = i64::try_from(self.evidence.view.journal.len()).expect("few") + 1;
        let before = self.evidence.view.ledger.take();
        let generation = before.as_ref().map(|ledger| ledger.generation).unwrap_or_default();
        let mut frontier = before.map(|ledger| ledger.frontier).unwrap_or_default();
        let mut entry = JournalEntry {
            snapshot_id: 100 + number,
            timestamp_ms: 1_700_000_000_000 + number,
            in_ancestry: true,
            sequence_number: number * 10,
            commit_id: CommitId(format!("c{number}")),
            instance: String::from("i"),
            epoch: Epoch(1),
            ranges: std::collections::BTreeMap::new(),
            rows: RowCounts::default(),
            edit: None,
        };
        for &(partition, end) in ends {
            let start = frontier.get(&tp(partition)).unwrap_or(begin);
            entry.ranges.insert(tp(partition), OffsetRange { start, end });
            frontier.set(tp(partition), end);
            let written = (start..end).filter(|offset| !hole(*offset));
            let before = self.rows.len();
            self.rows.extend(written.map(|offset| (tp(partition), offset)));
            entry.rows.written += (self.rows.len() - before) as u64;
        }
        let view = &mut self.evidence.view;
        view.head = Some(entry.snapshot_id);
        view.ledger = Some(Ledger { generation, ..ledger(&entry.commit_id, frontier) });
        view.journal.push(entry);
    }

    pub(crate) fn commit(&mut self, ends: &[(i32, Offset)]) {
        self.commit_from(ends, 0, |_| false);
    }

    /// Two commits on two partitions, offsets 0 to 10 and 10 to 20 of each.
    pub(crate) fn two_commits() -> Self {
        let mut world = Self::new();
        world.commit(&[(0, 10), (1, 10)]);
        world.commit(&[(0, 20), (1, 20)]);
        world
    }

    pub(crate) fn expire(&mut self, oldest: usize) {
        self.evidence.view.journal.drain(..oldest);
        self.evidence.history.complete = oldest == 0;
    }

    pub(crate) fn foreign(
        &mut self,
        operation: &str,
        sequence_number: i64,
    ) -> &mut ForeignSnapshot {
        self.evidence.history.foreign.push(ForeignSnapshot {
            snapshot_id: 777,
            timestamp_ms: 1_700_000_000_000,
            sequence_number,
            operation: operation.to_owned(),
            ..ForeignSnapshot::default()
        });
        self.evidence.history.foreign.last_mut().expect("just pushed")
    }

    pub(crate) fn remove(&mut self, partition: i32, offset: Offset) {
        let before = self.rows.len();
        self.rows.retain(|row| *row != (tp(partition), offset));
        assert_eq!(self.rows.len(), before - 1);
    }

    pub(crate) fn judge(&self) -> Judgement {
        let mut evidence = self.evidence.clone();
        self.files().iter().for_each(|file| evidence.files.insert(file));
        if let Rows::ByOffset(index) = &mut evidence.rows {
            *index = RowIndex::new(Eras::of(&evidence.view, evidence.history.complete));
            let resets = self.before_resets.len();
            let groups = (0..).zip(&self.before_resets).map(|(n, rows)| (Since::Passed(n), rows));
            let now = [(Since::Passed(resets), &self.rows), (Since::AtMost(resets), &self.mixed)];
            for (since, rows) in groups.chain(now) {
                index.begin(since);
                rows.iter().for_each(|(tp, offset)| index.insert(&tp.topic, tp.partition, *offset));
            }
            index.without_position = self.without_position;
        }
        judge(&evidence)
    }

    /// Without its rows.
    pub(crate) fn judge_metadata(&self) -> Judgement {
        Self { evidence: Evidence { rows: Rows::NotRead, ..self.evidence.clone() }, ..self.clone() }
            .judge()
    }

    pub(crate) fn files(&self) -> Vec<LiveFile> {
        let of_commits = || self.evidence.view.journal.iter().map(data_file).collect();
        self.files.clone().unwrap_or_else(of_commits)
    }

    /// A snapshot by a person, after all commits.
    pub(crate) fn edit(&mut self, edit: Edit, ranges: &[(i32, Offset, Offset)]) {
        self.commit(&[]);
        let view = &mut self.evidence.view;
        let ledger = view.ledger.as_mut().expect("committed");
        ledger.generation += 1;
        if let Edit::Reset { topic, from, .. } = &edit {
            self.before_resets.push(std::mem::take(&mut self.rows));
            for partition in from.keys() {
                ledger.frontier.0.remove(&TopicPartition::new(topic, *partition));
            }
        }
        let entry = view.journal.last_mut().expect("just made");
        for (partition, start, end) in ranges {
            entry.ranges.insert(tp(*partition), OffsetRange { start: *start, end: *end });
            ledger.frontier.set(tp(*partition), *end);
        }
        entry.edit = Some(edit);
    }

    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.judge().findings.iter().map(|finding| finding.kind).collect()
    }

    /// The only finding of the kind.
    pub(crate) fn only(&self, kind: Kind) -> Finding {
        let judgement = self.judge();
        let mut found = judgement.findings.into_iter().filter(|finding| finding.kind == kind);
        let finding = found.next().expect("the finding");
        assert_eq!(found.next(), None);
        finding
    }
}

pub(super) fn ledger(commit_id: &CommitId, frontier: Frontier) -> Ledger {
    Ledger {
        cluster_id: String::new(),
        commit_id: commit_id.clone(),
        generation: 0,
        topic_ids: std::collections::BTreeMap::new(),
        frontier,
    }
}

/// One data file with all rows of a commit.
pub(super) fn data_file(entry: &JournalEntry) -> LiveFile {
    LiveFile {
        path: format!("{}.parquet", entry.commit_id),
        snapshot_id: Some(entry.snapshot_id),
        sequence_number: entry.sequence_number,
        rows: entry.rows.written,
        deletes: false,
    }
}

/// What could be shown of each partition.
pub(super) fn verdicts(judgement: &Judgement) -> Vec<Verdict> {
    judgement.partitions.iter().map(|partition| partition.verdict).collect()
}
