//! All tables that were reached, each once, with what must hold in them and what the protocol says
//! of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::*;
use super::facts::{CommitNo, Facts, PIPELINE, TABLE_NAMES, UUIDS, number_tp};
use super::state::{Offsets, PARTITIONS, Request, TABLES};
use super::table::{Change, Table};
use super::{Halt, LIVE, violated};

pub(super) type TableNo = u32;

/// What [`admit`] decides, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Commit,
    AlreadyCommitted,
    /// Is it proven that the commit is not in the table?
    Superseded {
        absent: bool,
    },
    Refused(&'static str),
}

/// The ledger that a run finds, its generation, and where to start to read.
pub(super) type Start = Result<(Offsets, u8, Offsets), &'static str>;

/// See the module.
pub(super) struct Lake {
    pub facts: Facts,
    tables: Vec<Table>,
    numbers: HashMap<Table, TableNo>,
    changes: HashMap<(TableNo, Change), TableNo>,
    decisions: HashMap<(CommitNo, TableNo), Decision>,
    starts: HashMap<(u8, TableNo), Start>,
    shown: HashSet<(CommitNo, TableNo)>,
}

impl Lake {
    /// With the tables of a flow to which nobody wrote.
    pub(crate) fn new(facts: Facts, tables: usize) -> Self {
        let tables: Vec<Table> = (0..tables).map(Table::new).collect();
        Self {
            facts,
            numbers: tables.iter().cloned().zip(0..).collect(),
            tables,
            changes: HashMap::new(),
            decisions: HashMap::new(),
            starts: HashMap::new(),
            shown: HashSet::new(),
        }
    }

    pub(crate) fn table(&self, number: TableNo) -> &Table {
        &self.tables[number as usize]
    }

    /// What a world begins with. A table that the flow has not stays what the first began as.
    pub(crate) fn first(&self) -> [TableNo; TABLES] {
        let mut first = [0; TABLES];
        for (number, table) in (0..).zip(&self.tables) {
            first[table.number] = number;
        }
        first
    }

    pub(crate) fn len(&self) -> usize {
        self.tables.len()
    }

    /// The table as `namespace.table`.
    pub(crate) fn name(&self, number: TableNo) -> &'static str {
        TABLE_NAMES[self.table(number).number]
    }

    pub(crate) fn ledger(&self, number: TableNo) -> Option<&Ledger> {
        self.facts.ledger(self.table(number).ledger)
    }

    /// Changes a table, and checks what must hold after it.
    pub(crate) fn change(&mut self, number: TableNo, change: Change) -> Result<TableNo, Halt> {
        if let Some(after) = self.changes.get(&(number, change)) {
            return Ok(*after);
        }
        let before = self.table(number);
        let table = before.after(change);
        if let Change::Land(request) = change {
            self.check_landing(before, request)?;
        }
        let after = match self.numbers.get(&table).copied() {
            Some(after) => after,
            None => {
                self.check(&table, change)?;
                let after = TableNo::try_from(self.tables.len()).unwrap();
                self.tables.push(table.clone());
                self.numbers.insert(table, after);
                after
            }
        };
        self.changes.insert((number, change), after);
        Ok(after)
    }

    fn check_landing(&self, before: &Table, request: Request) -> Result<(), Halt> {
        if before.deleted.contains(&request.commit) {
            return violated("I8", "the files of a commit were deleted before it landed");
        }
        let after = self.facts.ledger(Some(request.ledger));
        if !before.rolled_back {
            ledger_does_not_decrease(self.facts.ledger(before.ledger), after)?;
        }
        Ok(())
    }

    /// What must hold in every table: it is exact, or it was rolled back and is refused. Without a
    /// rollback nothing is refused.
    fn check(&self, table: &Table, change: Change) -> Result<(), Halt> {
        for snapshot in &table.snapshots {
            if snapshot.files.intersection(&table.deleted).next().is_some() {
                return violated("I8", "a file of a snapshot was deleted");
            }
        }
        let view = self.view_of(table);
        let history = check_history(TABLE_NAMES[table.number], &view);
        let exact = self.is_exact(table);
        let is_foreign = matches!(change, Change::Expire { .. } | Change::Rollback(_));
        match (&history, exact) {
            (Ok(()), Ok(())) => Ok(journal_is_contiguous(&self.full_view_of(table))?),
            (Ok(()), Err(_)) if table.rolled_back && is_foreign => Err(Halt::Blind),
            (Ok(()), Err(detail)) => violated("I1", detail),
            (Err(_), Err(detail)) if !table.rolled_back => violated("I1", detail),
            (Err(_), _) if table.rolled_back => Ok(()),
            (Err(refusal), _) => violated(LIVE, format!("refused without cause: {refusal}")),
        }
    }

    /// Each record below the ledger that is not skipped is in the table once, and no other is.
    pub(crate) fn is_exact(&self, table: &Table) -> Result<(), String> {
        let ledger = self.facts.ledger(table.ledger).map(|ledger| &ledger.frontier);
        let mut found = BTreeMap::<(usize, u8), usize>::new();
        let shown = table.snapshot(table.head).map_or(&[][..], |head| &head.rows);
        let rows = shown.iter().flat_map(|commit| &self.facts.commits[usize::from(*commit)].rows);
        rows.for_each(|row| *found.entry(*row).or_default() += 1);
        for partition in 0..PARTITIONS {
            let next = ledger.and_then(|frontier| frontier.get(&number_tp(partition)));
            for item in &self.facts.log[partition] {
                let Some((offset, Fate::Row)) = item.record else { continue };
                let due = usize::from(next.is_some_and(|next| Offset::from(offset) < next));
                let times = found.remove(&(partition, offset)).unwrap_or(0);
                if times != due {
                    return Err(format!(
                        "the record {} at {offset} is in the table {times} times, the ledger has {next:?}",
                        number_tp(partition)
                    ));
                }
            }
        }
        Ok(())
    }

    /// The table as the protocol sees it.
    pub(crate) fn view(&self, number: TableNo) -> TableView {
        self.view_of(self.table(number))
    }

    fn view_of(&self, table: &Table) -> TableView {
        self.basis(table).view()
    }

    fn full_view_of(&self, table: &Table) -> FullView {
        self.basis(table).full_view()
    }

    /// The table as a person's edit sees it.
    fn basis(&self, table: &Table) -> EditBasis {
        let facts = |snapshot: &super::table::Snapshot| SnapshotFacts {
            snapshot_id: snapshot.id.into(),
            parent_id: snapshot.parent.map(i64::from),
            sequence_number: snapshot.id.into(),
            timestamp_ms: snapshot.id.into(),
            inherited: Some(snapshot.inherited),
            ours: snapshot.by.map(|by| self.facts.journal(by)),
        };
        EditBasis {
            pipeline: PIPELINE.into(),
            instance: format!("a person at {}", table.last),
            table: TABLE_NAMES[table.number].into(),
            table_uuid: UUIDS[table.number].into(),
            head: table.head.map(i64::from),
            ledger: self.facts.ledger(table.ledger).cloned(),
            snapshots: table.snapshots.iter().map(facts).collect(),
            next_sequence_number: i64::from(table.last) + 1,
        }
    }

    /// The table after a person rewound its ledger; `None` if that cannot be proven right.
    pub(crate) fn rewind(&mut self, number: TableNo) -> Result<Option<TableNo>, Halt> {
        let partitions = [0, 1].map(number_tp);
        let basis = self.basis(self.table(number));
        let Ok(edit) = basis.rewind(None, &Frontier::default(), &partitions) else {
            return Ok(None);
        };
        let (edit, ledger) = self.facts.edit(&edit);
        self.change(number, Change::Edit(edit, ledger)).map(Some)
    }

    /// What the protocol decides about a commit that meets a table, at a start and in a run alike.
    pub(crate) fn decide(&mut self, commit: CommitNo, number: TableNo) -> Result<Decision, Halt> {
        if let Some(decision) = self.decisions.get(&(commit, number)) {
            return Ok(*decision);
        }
        let (pending, view) = (self.facts.pending(commit), self.view(number));
        let decision = match admit(pending, &view) {
            Admission::Commit(permit) if permit.head() == view.head => Decision::Commit,
            Admission::Commit(_) => return violated("I6", "admitted to another head"),
            Admission::AlreadyCommitted(_) => Decision::AlreadyCommitted,
            Admission::Superseded(_) => {
                let full = self.full_view_of(self.table(number));
                let ranges_of = |shown: &ShownCommit| full.ranges_of(shown);
                Decision::Superseded { absent: is_provably_absent(pending, &view, ranges_of) }
            }
            Admission::Refused(refusal) => Decision::Refused(refusal.name()),
        };
        self.decisions.insert((commit, number), decision);
        Ok(decision)
    }

    /// [`check_history`], with the name of a refusal.
    pub(crate) fn history(&self, number: TableNo) -> Result<(), &'static str> {
        match self.table(number).rolled_back {
            // What is not rolled back was checked when it was reached.
            false => Ok(()),
            true => check_history(self.name(number), &self.view(number))
                .map_err(|refusal| refusal.name()),
        }
    }

    /// Where a run that reads the partitions in `owns` starts.
    pub(crate) fn start(&mut self, owns: u8, number: TableNo) -> Start {
        if let Some(start) = self.starts.get(&(owns, number)) {
            return *start;
        }
        let view = self.view(number);
        let source = self.facts.source(owns);
        let starts = positions(self.name(number), &view, &source, ResetPolicy::Earliest);
        // The model's logs hold every ledger: that one partition cannot start would be a finding.
        let starts = starts.and_then(|starts| {
            starts.into_iter().map(|(tp, at)| Ok((tp, at?))).collect::<Result<BTreeMap<_, _>, _>>()
        });
        let start = starts.map_err(|refusal| refusal.name()).map(|starts| {
            let (mut ledger, mut at) = (Offsets::default(), Offsets::default());
            for partition in 0..PARTITIONS {
                let tp = number_tp(partition);
                let begun = view.ledger.as_ref().and_then(|ledger| ledger.frontier.get(&tp));
                ledger[partition] = begun.map(|next| u8::try_from(next).unwrap());
                let start = starts.get(&tp).map(|start| start.start);
                at[partition] = start.map(|start| u8::try_from(start).unwrap());
            }
            let generation = u8::try_from(generation(view.ledger.as_ref())).unwrap();
            (ledger, generation, at)
        });
        self.starts.insert((owns, number), start);
        start
    }

    /// I5: the table shows the commit.
    pub(crate) fn check_shown(&mut self, commit: CommitNo, number: TableNo) -> Result<(), Halt> {
        if !self.shown.contains(&(commit, number)) {
            Shown::by(&self.view(number), &self.facts.pending(commit).commit_id)?;
            self.shown.insert((commit, number));
        }
        Ok(())
    }

    /// I8: nothing needs the files of `commit` that are about to be deleted.
    pub(crate) fn check_doomed(
        &self,
        commit: CommitNo,
        number: TableNo,
        pending: &[CommitNo],
    ) -> Result<(), Halt> {
        let shown = self.table(number).snapshots.iter().flat_map(|snapshot| &snapshot.files);
        let needed = shown.chain(pending).map(|commit| self.facts.pending(*commit));
        let paths = needed.flat_map(|pending| &pending.files).map(|file| file.path.as_str());
        let in_use: BTreeSet<&str> = paths.collect();
        let doomed = self.facts.pending(commit).files.iter().map(|file| file.path.as_str());
        Ok(doomed_files_are_unused(doomed, &in_use)?)
    }
}
