//! What a step leads to.

use std::collections::BTreeMap;

use super::super::*;
use super::Halt;
use super::facts::{CommitNo, Facts, Maker, bit, frontier, offsets};
use super::lake::{Decision, Lake, TableNo};
use super::state::{
    Answer, Foreign, How, Instance, Last, Local, Memory, Mix, Phase, Request, State, Step, TABLES,
};
use super::table::{Change, Table};
use crate::broken::{self, Variant};

/// How often each thing happened: a search that never comes upon it proves nothing about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub committed: u64,
    pub conflicts: u64,
    pub already_committed: u64,
    pub superseded: u64,
    pub refused: u64,
    /// Commits whose files were deleted.
    pub deleted: u64,
    /// Requests that landed when nobody waited for them.
    pub landed_late: u64,
    /// Ledgers rewound.
    pub rewound: u64,
    /// Paths that ended with [`Halt::Blind`].
    pub blind: u64,
    /// By table: epochs whose commits to both tables were open when that to this one landed first.
    pub landed_first: [u64; TABLES],
    /// Crashes after one table's commit of an epoch was finalized and before the other's was.
    pub crashed_between: u64,
    /// Commits that were finalized as in the table after the other table's failed.
    pub went_on: u64,
    /// Runs that began with one table ahead of the other.
    pub began_apart: u64,
    /// Epochs of which one table dropped records that it had already.
    pub dropped: u64,
}

/// The world without its state.
pub(super) struct World {
    pub lake: Lake,
    pub seen: Seen,
    /// How many tables the flow has.
    pub tables: usize,
    takes_old_numbers: bool,
}

impl World {
    pub(crate) fn new(mix: &Mix) -> Self {
        Self {
            lake: Lake::new(Facts::new(mix.items), mix.tables),
            seen: Seen::default(),
            tables: mix.tables,
            takes_old_numbers: mix.takes_old_numbers,
        }
    }

    /// Before anything happened.
    pub(crate) fn first(&self, mix: &Mix) -> State {
        State::new(self.lake.first(), mix)
    }

    /// What `step` leads to.
    pub(crate) fn apply(&mut self, state: &State, step: Step) -> Result<State, Halt> {
        let mut next = *state;
        match step {
            Step::Start(who) => self.start(&mut next, who)?,
            Step::Seal(who, lengths) => self.seal(&mut next, who, lengths)?,
            Step::Attempt(who, table) => self.attempt(&mut next, who, table)?,
            Step::Answer(who, table, answer) => self.answer(&mut next, who, table, answer)?,
            Step::Finalize(who, table) => self.finalize(&mut next, who, table)?,
            Step::Crash(who, memory) => {
                self.seen.crashed_between += u64::from(self.is_half_finalized(&next, who));
                crash(&mut next, who, memory);
            }
            Step::Copy(who) => next.instances[who].copy = Some(next.instances[who].local),
            Step::Arrive(which) => {
                if let Some(request) = next.take_late(which)
                    && self.meet(&mut next, request)?
                {
                    self.seen.landed_late += 1;
                }
            }
            Step::Move { partition, to, noticed } => {
                next.left.moves -= 1;
                if noticed {
                    let loser = &mut next.instances[1 - to];
                    loser.owns &= !bit(partition);
                    loser.at[partition] = None;
                }
                self.gain(&mut next, to, partition)?;
            }
            Step::Foreign(table, foreign) => self.foreign(&mut next, table, foreign)?,
        }
        let head_may_return = next.left.rollbacks > 0;
        let tables = next.tables;
        next.canonical(|request| {
            let table = self.lake.table(tables[self.lake.facts.table_of(request.commit)]);
            self.is_new(table, request) && (head_may_return || request.pin == table.head)
        });
        Ok(next)
    }

    fn foreign(&mut self, state: &mut State, table: usize, foreign: Foreign) -> Result<(), Halt> {
        let left = &mut state.left;
        let (left, change) = match foreign {
            Foreign::Append => (&mut left.appends, Change::Append),
            Foreign::Compact => (&mut left.compactions, Change::Compact),
            Foreign::Expire { what, orphans } => {
                (&mut left.expirations, Change::Expire { what, orphans })
            }
            Foreign::Rollback(to) => (&mut left.rollbacks, Change::Rollback(to)),
            Foreign::Rewind => {
                left.rewinds -= 1;
                if let Some(rewound) = self.lake.rewind(state.tables[table])? {
                    state.tables[table] = rewound;
                    self.seen.rewound += 1;
                }
                return Ok(());
            }
        };
        *left -= 1;
        state.tables[table] = self.lake.change(state.tables[table], change)?;
        Ok(())
    }

    /// Is one table's commit of the open epoch finalized?
    fn is_half_finalized(&self, state: &State, who: usize) -> bool {
        let local = &state.instances[who].local;
        let mut open = local.open.iter().flatten();
        let epoch = open.next().map(|open| self.lake.facts.pending(open.commit).epoch.0);
        local.last.iter().flatten().any(|last| Some(u64::from(last.epoch)) == epoch)
    }

    /// Reads the table, admits, sends.
    fn attempt(&mut self, state: &mut State, who: usize, table: usize) -> Result<(), Halt> {
        let Phase::Pending { commit, recovering, retry } = state.instances[who].phases[table]
        else {
            return Ok(());
        };
        let view = state.tables[table];
        if broken::is(Variant::FinalizeBeforeCommit) && !recovering && !retry {
            self.settle_locally(state, who, commit, Some(view))?;
        }
        let decision = match retry && broken::is(Variant::RetryWithoutReading) {
            true => Decision::Commit,
            false => self.lake.decide(commit, view)?,
        };
        let settled = |how| Phase::Settled { commit, how, view, recovering };
        match decision {
            Decision::Commit => return self.send(state, who, commit, recovering),
            Decision::AlreadyCommitted => {
                self.seen.already_committed += 1;
                state.instances[who].phases[table] = settled(How::AlreadyCommitted);
            }
            Decision::Superseded { .. } => {
                self.seen.superseded += 1;
                state.instances[who].phases[table] = settled(How::Superseded);
            }
            Decision::Refused(refusal) => {
                self.refuse(state, who, view, refusal)?;
                return self.go_on(state, who, state.tables, recovering);
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        state: &mut State,
        who: usize,
        commit: CommitNo,
        recovering: bool,
    ) -> Result<(), Halt> {
        let number = self.lake.facts.table_of(commit);
        let table = self.lake.table(state.tables[number]);
        let (pin, before, last) = (table.head, table.ledger, table.last);
        let ledger = self.lake.facts.advanced(before, commit);
        let pending = self.lake.facts.pending(commit);
        let synced = self.checkpoint(&state.instances[who].local);
        request_is_prepared(synced.as_ref(), &pending.commit_id)?;
        let request = Request { commit, pin, ledger, number: last + 1 };
        state.instances[who].phases[number] = Phase::Waiting { request, recovering };
        Ok(())
    }

    /// The checkpoint that is open.
    fn checkpoint(&self, local: &Local) -> Option<Checkpoint> {
        let mut checkpoint = None;
        for open in local.open.iter().flatten() {
            let pending = self.lake.facts.pending(open.commit);
            let Checkpoint { frontiers, pending: all, .. } = checkpoint.get_or_insert_with(|| {
                Checkpoint { epoch: pending.epoch, frontiers: BTreeMap::new(), pending: Vec::new() }
            });
            frontiers.insert(pending.table.clone(), frontier(&open.frontier));
            all.push(PendingCommit::clone(pending));
        }
        checkpoint
    }

    /// Numbers of snapshots only grow, also when the head is moved back.
    fn is_new(&self, table: &Table, request: &Request) -> bool {
        self.takes_old_numbers || request.number > table.last
    }

    /// The catalog's compare-and-swap: does the request land?
    fn meet(&mut self, state: &mut State, request: Request) -> Result<bool, Halt> {
        let number = self.lake.facts.table_of(request.commit);
        let table = self.lake.table(state.tables[number]);
        if table.head != request.pin || !self.is_new(table, &request) {
            return Ok(false);
        }
        state.tables[number] = self.lake.change(state.tables[number], Change::Land(request))?;
        self.seen.committed += 1;
        self.seen.landed_first[number] += u64::from(self.is_before_other(state, request.commit));
        Ok(true)
    }

    /// Is the commit of the same epoch to the other table open, too, and not in it?
    fn is_before_other(&self, state: &State, commit: CommitNo) -> bool {
        let other = 1 - self.lake.facts.table_of(commit);
        let open = |instance: &Instance| instance.local.open.map(|open| Some(open?.commit));
        let mut all = state.instances.iter().map(open);
        let epoch = all.find(|commits| commits.contains(&Some(commit)));
        epoch.and_then(|commits| commits[other]).is_some_and(|other_commit| {
            let mut snapshots = self.lake.table(state.tables[other]).snapshots.iter();
            snapshots.all(|snapshot| snapshot.by != Some(Maker::Commit(other_commit)))
        })
    }

    fn answer(
        &mut self,
        state: &mut State,
        who: usize,
        table: usize,
        answer: Answer,
    ) -> Result<(), Halt> {
        let Phase::Waiting { request, recovering } = state.instances[who].phases[table] else {
            return Ok(());
        };
        match answer {
            Answer::Told => {}
            Answer::ToldTwice | Answer::Late => state.left.late -= 1,
            Answer::Lost | Answer::Gone | Answer::Rejected => state.left.answers -= 1,
        }
        let decided = matches!(answer, Answer::Told | Answer::ToldTwice | Answer::Lost);
        let landed = decided && self.meet(state, request)?;
        if matches!(answer, Answer::ToldTwice | Answer::Late) {
            state.put_late(request);
        }
        let commit = request.commit;
        state.instances[who].phases[table] = match answer {
            Answer::Told | Answer::ToldTwice if landed => {
                let (how, view) = (How::Committed, state.tables[table]);
                Phase::Settled { commit, how, view, recovering }
            }
            Answer::Rejected => Phase::Failed,
            _ => {
                self.seen.conflicts += u64::from(decided && !landed);
                Phase::Pending { commit, recovering, retry: true }
            }
        };
        self.go_on(state, who, state.tables, recovering)
    }

    /// One synced write, then the files and, in a run, the report.
    fn finalize(&mut self, state: &mut State, who: usize, table: usize) -> Result<(), Halt> {
        let Phase::Settled { commit, how, view, recovering } = state.instances[who].phases[table]
        else {
            return Ok(());
        };
        let committed = how != How::Superseded;
        self.settle_locally(state, who, commit, committed.then_some(view))?;
        if !committed {
            self.drop_files(state, commit, view)?;
        } else {
            let failed = state.instances[who].phases.contains(&Phase::Failed);
            self.seen.went_on += u64::from(failed);
        }
        if committed && !recovering {
            self.report(state, who, commit)?;
        }
        state.instances[who].phases[table] = match committed || recovering {
            true => Phase::Running,
            false => Phase::Fenced,
        };
        let mut views = state.tables;
        views[table] = view;
        self.go_on(state, who, views, recovering)
    }

    /// The table has the commit: the ledger that the run knows and the group offsets move. (What is
    /// reported is the lowest of all tables, and this is not below it.)
    fn report(&mut self, state: &mut State, who: usize, commit: CommitNo) -> Result<(), Halt> {
        let table = self.lake.facts.table_of(commit);
        let pending = self.lake.facts.pending(commit);
        let to = pending.to();
        let ledger = self.lake.ledger(state.tables[table]);
        // A person's edit may have taken the ledger back, and so may a rollback.
        let rolled_back = self.lake.table(state.tables[table]).rolled_back;
        if !rolled_back && generation(ledger) == pending.generation {
            let frontier = ledger.map(|ledger| ledger.frontier.clone()).unwrap_or_default();
            group_is_behind_ledger(&to, &frontier)?;
        }
        let known = &mut state.instances[who].ledgers[table];
        for (ledger, next) in known.iter_mut().zip(offsets(&to)) {
            *ledger = next.or(*ledger);
        }
        Ok(())
    }

    /// The synced write of finalize. `view` is what shows the commit, unless it was superseded.
    fn settle_locally(
        &mut self,
        state: &mut State,
        who: usize,
        commit: CommitNo,
        view: Option<TableNo>,
    ) -> Result<(), Halt> {
        if let Some(view) = view {
            self.lake.check_shown(commit, view)?;
        }
        let pending = self.lake.facts.pending(commit);
        let epoch = u8::try_from(pending.epoch.0).unwrap();
        let generation = u8::try_from(pending.generation).unwrap();
        let table = self.lake.facts.table_of(commit);
        let local = &mut state.instances[who].local;
        if let (Some(open), Some(_)) = (local.open[table], view) {
            local.last[table] = Some(Last { epoch, frontier: open.frontier, generation });
        }
        local.open[table] = None;
        Ok(())
    }

    /// The files of a superseded commit, if the table that was read proves that it lacks them.
    fn drop_files(
        &mut self,
        state: &mut State,
        commit: CommitNo,
        view: TableNo,
    ) -> Result<(), Halt> {
        if self.lake.decide(commit, view)? != (Decision::Superseded { absent: true }) {
            return Ok(());
        }
        let open = state.instances.iter().flat_map(|instance| instance.local.open).flatten();
        let pending: Vec<CommitNo> = open.map(|open| open.commit).collect();
        let table = &mut state.tables[self.lake.facts.table_of(commit)];
        self.lake.check_doomed(commit, *table, &pending)?;
        *table = self.lake.change(*table, Change::Delete(commit))?;
        self.seen.deleted += 1;
        Ok(())
    }
}

fn crash(state: &mut State, who: usize, memory: Memory) {
    state.left.crashes -= 1;
    let instance = &mut state.instances[who];
    match memory {
        Memory::Kept => {}
        Memory::Lost => {
            state.left.losses -= 1;
            instance.local = Local::default();
        }
        Memory::Restored => {
            state.left.restores -= 1;
            instance.local = instance.copy.unwrap_or_default();
        }
    }
    instance.end_process();
}
