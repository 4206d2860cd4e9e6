//! The log, and the commits and ledgers that states name by number.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::fixtures::{UUID, tp};
use super::super::*;
use super::state::{NAMES, Offsets, PARTITIONS, TABLES};
use super::{Halt, violated};

pub(super) const TABLE_NAMES: [&str; TABLES] = ["lake.readings", "lake.readings_too"];
pub(super) const UUIDS: [&str; TABLES] = [UUID, "table-2"];
pub(super) const PIPELINE: &str = "flow";
const CLUSTER: &str = "cluster-1";
/// The first offset of every log.
pub(super) const LOG_START: u8 = 0;

pub(super) type CommitNo = u16;
pub(super) type LedgerNo = u16;
pub(super) type EditNo = u16;

/// What a reader takes from a partition at once: a record, or nothing but a new position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub record: Option<(u8, Fate)>,
    /// The position after it.
    pub next: u8,
}

/// The items of a partition. The first has a bad record; the second has offsets that are no
/// record, tombstones, and moves of the position past the last record.
fn items(partition: usize, count: u8) -> Vec<Item> {
    let mut next = 0;
    let item = |number: u8| {
        let at = next;
        let item = match (partition, number % 3) {
            (0, 1) => Item { record: Some((at, Fate::Skipped)), next: at + 1 },
            (0, _) => Item { record: Some((at, Fate::Row)), next: at + 1 },
            (_, 0) => Item { record: Some((at + 1, Fate::Row)), next: at + 2 },
            (_, 1) => Item { record: Some((at, Fate::Tombstone)), next: at + 1 },
            (_, _) => Item { record: None, next: at + 1 },
        };
        next = item.next;
        item
    };
    (0..count).map(item).collect()
}

/// All that makes a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sealing {
    pub table: usize,
    pub who: usize,
    pub incarnation: u8,
    pub epoch: u8,
    /// The ledger of each partition that moves.
    pub from: Offsets,
    /// Where reading began and ended, of each partition that moves.
    pub ranges: [Option<(u8, u8)>; PARTITIONS],
    /// Generation of the ledger that it continues.
    pub generation: u8,
}

/// What made a snapshot of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Maker {
    Commit(CommitNo),
    Edit(EditNo),
}

/// A commit.
pub(super) struct Commit {
    /// The number of its table.
    pub table: usize,
    pub pending: Prepared,
    /// What its snapshot says, after a way through the summary.
    pub journal: JournalParts,
    /// The records in its files: partition and offset.
    pub rows: Vec<(usize, u8)>,
}

/// Values that states share.
pub(super) struct Facts {
    pub log: [Vec<Item>; PARTITIONS],
    pub commits: Vec<Commit>,
    commit_numbers: HashMap<Sealing, CommitNo>,
    pub ledgers: Vec<Ledger>,
    ledger_numbers: HashMap<String, LedgerNo>,
    /// What the snapshots of edits say.
    edits: Vec<JournalParts>,
}

impl Facts {
    pub(crate) fn new(counts: [u8; PARTITIONS]) -> Self {
        Self {
            log: [items(0, counts[0]), items(1, counts[1])],
            commits: Vec::new(),
            commit_numbers: HashMap::new(),
            ledgers: Vec::new(),
            ledger_numbers: HashMap::new(),
            edits: Vec::new(),
        }
    }

    /// One past the last offset of the log.
    pub(crate) fn end(&self, partition: usize) -> u8 {
        self.log[partition].last().map_or(0, |item| item.next)
    }

    /// The items at and after a position.
    pub(crate) fn rest(&self, partition: usize, position: u8) -> &[Item] {
        let items = &self.log[partition];
        let done = items.iter().take_while(|item| item.next <= position).count();
        &items[done..]
    }

    /// The commit that `sealing` makes, checked as the pipeline checks it (I3, I7, I10).
    pub(crate) fn commit(&mut self, sealing: Sealing, held: &Frontier) -> Result<CommitNo, Halt> {
        let number = match self.commit_numbers.get(&sealing) {
            Some(number) => *number,
            None => self.new_commit(sealing)?,
        };
        pending_continues(&self.commits[usize::from(number)].pending, held)?;
        Ok(number)
    }

    fn new_commit(&mut self, sealing: Sealing) -> Result<CommitNo, Halt> {
        let flow = Flow {
            pipeline: PIPELINE.into(),
            instance: format!("{}.{}", NAMES[sealing.who], sealing.incarnation),
            cluster_id: CLUSTER.into(),
            topic_ids: topic_ids(),
        };
        let table = FlowTable {
            name: TABLE_NAMES[sealing.table].into(),
            uuid: UUIDS[sealing.table].into(),
            generation: sealing.generation.into(),
        };
        let mut share = TableShare { from: frontier(&sealing.from).0, ..TableShare::default() };
        let mut consumed = Frontier::default();
        let mut rows = Vec::new();
        let mut records = 0;
        for (partition, range) in sealing.ranges.into_iter().enumerate() {
            let Some((start, end)) = range else { continue };
            let whole = OffsetRange { start: start.into(), end: end.into() };
            share.ranges.insert(number_tp(partition), whole);
            let read = self.rest(partition, start).iter().take_while(|item| item.next <= end);
            for item in read {
                consumed.set(number_tp(partition), item.next.into());
                let Some((offset, fate)) = item.record else { continue };
                records += 1;
                share.rows.count(fate);
                if fate == Fate::Row {
                    rows.push((partition, offset));
                }
            }
        }
        if !rows.is_empty() {
            share.files.push(PendingFile {
                path: format!("{}.parquet", self.commits.len()),
                data_file: String::new(),
                schema_id: 0,
                spec_id: 0,
                records: rows.len() as u64,
                bytes: 1,
            });
        }
        let pending = flow.commit(&table, Epoch(sealing.epoch.into()), share);
        pending_is_contiguous(&pending)?;
        consumed_is_covered(&consumed, &pending.ranges)?;
        every_record_has_one_fate(records, &pending.rows)?;
        written_rows_are_in_files(&pending)?;
        // After an edit by a person a process may seal the same records in the same epoch again, as
        // the commit of that name that was superseded; both are never in the table.
        let same = |other: &&Commit| other.pending.commit_id == pending.commit_id;
        if let Some(other) = self.commits.iter().find(same)
            && other.pending.generation == pending.generation
        {
            return violated("I1", format!("two commits are named {}", pending.commit_id));
        }
        let summary = encode_summary(&pending).unwrap().into_iter().collect();
        let journal = decode_summary(PIPELINE, &summary).unwrap().unwrap();
        let number = CommitNo::try_from(self.commits.len()).unwrap();
        let pending = Prepared::on_disk(pending);
        self.commits.push(Commit { table: sealing.table, pending, journal, rows });
        self.commit_numbers.insert(sealing, number);
        Ok(number)
    }

    pub(crate) fn pending(&self, commit: CommitNo) -> &Prepared {
        &self.commits[usize::from(commit)].pending
    }

    /// The number of the table that a commit is for.
    pub(crate) fn table_of(&self, commit: CommitNo) -> usize {
        self.commits[usize::from(commit)].table
    }

    pub(crate) fn ledger(&self, ledger: Option<LedgerNo>) -> Option<&Ledger> {
        ledger.map(|number| &self.ledgers[usize::from(number)])
    }

    /// The ledger that a commit would set on a table with `before`, by way of the property's text.
    pub(crate) fn advanced(&mut self, before: Option<LedgerNo>, commit: CommitNo) -> LedgerNo {
        self.ledger_number(&advance(self.ledger(before), self.pending(commit)))
    }

    fn ledger_number(&mut self, ledger: &Ledger) -> LedgerNo {
        let text = encode_ledger(ledger).unwrap();
        let Self { ledgers, ledger_numbers, .. } = self;
        *ledger_numbers.entry(text).or_insert_with_key(|text| {
            ledgers.push(decode_ledger(text).unwrap());
            LedgerNo::try_from(ledgers.len() - 1).unwrap()
        })
    }

    /// The number of an edit, by way of the summary, and of the ledger that it sets.
    pub(crate) fn edit(&mut self, edit: &LedgerEdit) -> (EditNo, LedgerNo) {
        let summary = encode_parts(PIPELINE, &edit.parts).unwrap().into_iter().collect();
        let parts = decode_summary(PIPELINE, &summary).unwrap().unwrap();
        let known = self.edits.iter().position(|known| *known == parts);
        let number = known.unwrap_or_else(|| {
            self.edits.push(parts);
            self.edits.len() - 1
        });
        (EditNo::try_from(number).unwrap(), self.ledger_number(&edit.after))
    }

    /// What a snapshot of ours says.
    pub(crate) fn journal(&self, by: Maker) -> JournalParts {
        match by {
            Maker::Commit(commit) => self.commits[usize::from(commit)].journal.clone(),
            Maker::Edit(edit) => self.edits[usize::from(edit)].clone(),
        }
    }

    /// The log of the partitions in `owns`, as Kafka tells it.
    pub(crate) fn source(&self, owns: u8) -> SourceView {
        let owned = (0..PARTITIONS).filter(|partition| owns & bit(*partition) != 0);
        let log = owned.map(|partition| {
            let end = self.end(partition).into();
            (number_tp(partition), LogRange { start: LOG_START.into(), end })
        });
        SourceView {
            cluster_id: CLUSTER.into(),
            topic_ids: topic_ids(),
            log: log.collect(),
            untold: BTreeSet::new(),
        }
    }
}

fn topic_ids() -> BTreeMap<String, String> {
    BTreeMap::from([("readings".into(), "topic-1".into())])
}

pub(super) fn bit(partition: usize) -> u8 {
    1 << partition
}

pub(super) fn number_tp(partition: usize) -> TopicPartition {
    tp(i32::try_from(partition).unwrap())
}

pub(super) fn frontier(offsets: &Offsets) -> Frontier {
    let begun = offsets.iter().enumerate();
    begun.filter_map(|(p, offset)| Some((number_tp(p), Offset::from((*offset)?)))).collect()
}

pub(super) fn offsets(frontier: &Frontier) -> Offsets {
    let mut offsets = Offsets::default();
    for (partition, offset) in offsets.iter_mut().enumerate() {
        *offset = frontier.get(&number_tp(partition)).map(|next| u8::try_from(next).unwrap());
    }
    offsets
}
