//! What may happen in a state, and what it leads to.

use std::collections::BTreeMap;

use super::super::*;
use super::facts::{CommitNo, Facts, Sealing, TABLE, bit, frontier, offsets};
use super::lake::{Decision, Lake, TableNo};
use super::state::{
    Answer, Expiry, How, Instance, Last, Local, Memory, Mix, Open, PARTITIONS, Phase, Request,
    State, Step,
};
use super::table::{Change, Table};
use super::{Halt, LIVE, violated};
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
}

/// The world without its state.
pub(super) struct World {
    pub lake: Lake,
    pub seen: Seen,
    takes_old_numbers: bool,
}

impl World {
    pub fn new(mix: &Mix) -> Self {
        let lake = Lake::new(Facts::new(mix.items));
        Self { lake, seen: Seen::default(), takes_old_numbers: mix.takes_old_numbers }
    }

    /// Everything that may happen in `state`.
    pub fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for who in 0..2 {
            self.own_steps(state, who, &mut steps);
        }
        self.shared_steps(state, &mut steps);
        steps
    }

    fn own_steps(&self, state: &State, who: usize, steps: &mut Vec<Step>) {
        let instance = &state.instances[who];
        match instance.phase {
            Phase::Down => steps.push(Step::Start(who)),
            Phase::Running => {
                let rest =
                    |p: usize| instance.at[p].map_or(0, |at| self.lake.facts.rest(p, at).len());
                let upto = |p| 0..=u8::try_from(rest(p)).unwrap();
                let lengths = upto(0).flat_map(|one| upto(1).map(move |two| [one, two]));
                steps.extend(lengths.filter(|l| *l != [0, 0]).map(|l| Step::Seal(who, l)));
            }
            Phase::Pending { .. } => steps.push(Step::Attempt(who)),
            Phase::Waiting { .. } => {
                let mut answer = |answer| steps.push(Step::Answer(who, answer));
                answer(Answer::Told);
                if state.left.answers > 0 {
                    [Answer::Lost, Answer::Gone, Answer::Rejected]
                        .into_iter()
                        .for_each(&mut answer);
                }
                if state.left.late > 0 && state.has_room() {
                    [Answer::Late, Answer::ToldTwice].into_iter().for_each(&mut answer);
                }
            }
            Phase::Settled { .. } => steps.push(Step::Finalize(who)),
        }
        if state.left.crashes > 0 {
            if instance.phase != Phase::Down {
                steps.push(Step::Crash(who, Memory::Kept));
            }
            if state.left.losses > 0 && instance.local != Local::default() {
                steps.push(Step::Crash(who, Memory::Lost));
            }
            if state.left.restores > 0 {
                if instance.copy.is_some_and(|copy| copy != instance.local) {
                    steps.push(Step::Crash(who, Memory::Restored));
                }
                if instance.copy.is_none() && instance.local != Local::default() {
                    steps.push(Step::Copy(who));
                }
            }
        }
    }

    fn shared_steps(&self, state: &State, steps: &mut Vec<Step>) {
        steps.extend((0..state.late.len()).filter(|i| state.late[*i].is_some()).map(Step::Arrive));
        if state.left.moves > 0 {
            for (partition, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let owns = |who: usize| state.instances[who].owns & bit(partition) != 0;
                if !owns(to) {
                    steps.push(Step::Move { partition, to, noticed: false });
                    if owns(1 - to) {
                        steps.push(Step::Move { partition, to, noticed: true });
                    }
                }
            }
        }
        let table = self.lake.table(state.table);
        if state.left.appends > 0 {
            steps.push(Step::Append);
        }
        let Some(head) = table.head else { return };
        if state.left.compactions > 0 {
            steps.push(Step::Compact);
        }
        let others = || table.snapshots.iter().map(|snapshot| snapshot.id).filter(|id| *id != head);
        if state.left.expirations > 0 && others().next().is_some() {
            for orphans in [false, true] {
                steps.push(Step::Expire { what: Expiry::AllButHead, orphans });
                if others().nth(1).is_some() {
                    let one = |id| Step::Expire { what: Expiry::One(id), orphans };
                    steps.extend(others().map(one));
                }
            }
        }
        if state.left.rollbacks > 0 {
            steps.extend(others().map(Step::Rollback));
        }
        if state.left.rewinds > 0 {
            steps.push(Step::Rewind);
        }
    }

    /// What `step` leads to.
    pub fn apply(&mut self, state: &State, step: Step) -> Result<State, Halt> {
        let mut next = *state;
        let left = &mut next.left;
        match step {
            Step::Start(who) => self.start(&mut next, who)?,
            Step::Seal(who, lengths) => self.seal(&mut next, who, lengths)?,
            Step::Attempt(who) => self.attempt(&mut next, who)?,
            Step::Answer(who, answer) => self.answer(&mut next, who, answer)?,
            Step::Finalize(who) => self.finalize(&mut next, who)?,
            Step::Crash(who, memory) => crash(&mut next, who, memory),
            Step::Copy(who) => next.instances[who].copy = Some(next.instances[who].local),
            Step::Arrive(which) => {
                if let Some(request) = next.take_late(which)
                    && self.meet(&mut next, request)?
                {
                    self.seen.landed_late += 1;
                }
            }
            Step::Move { partition, to, noticed } => {
                left.moves -= 1;
                if noticed {
                    let loser = &mut next.instances[1 - to];
                    loser.owns &= !bit(partition);
                    loser.at[partition] = None;
                }
                self.gain(&mut next, to, partition)?;
            }
            Step::Append => {
                left.appends -= 1;
                next.table = self.lake.change(state.table, Change::Append)?;
            }
            Step::Compact => {
                left.compactions -= 1;
                next.table = self.lake.change(state.table, Change::Compact)?;
            }
            Step::Expire { what, orphans } => {
                left.expirations -= 1;
                let change = Change::Expire { what, orphans };
                next.table = self.lake.change(state.table, change)?;
            }
            Step::Rollback(to) => {
                left.rollbacks -= 1;
                next.table = self.lake.change(state.table, Change::Rollback(to))?;
            }
            Step::Rewind => {
                left.rewinds -= 1;
                if let Some(table) = self.lake.rewind(state.table)? {
                    next.table = table;
                    self.seen.rewound += 1;
                }
            }
        }
        let table = self.lake.table(next.table);
        let head_may_return = next.left.rollbacks > 0;
        next.canonical(|request| {
            self.is_new(table, request) && (head_may_return || request.pin == table.head)
        });
        Ok(next)
    }

    /// The process ends with a refusal of the table in `view`, which must not be unless that was
    /// rolled back.
    fn refuse(
        &mut self,
        state: &mut State,
        who: usize,
        view: TableNo,
        refusal: &str,
    ) -> Result<(), Halt> {
        if !self.lake.table(view).rolled_back {
            return violated(LIVE, format!("refused without cause: {refusal}"));
        }
        self.seen.refused += 1;
        state.instances[who].end_process();
        Ok(())
    }

    fn start(&mut self, state: &mut State, who: usize) -> Result<(), Halt> {
        let instance = state.instances[who];
        let local = self.local_state(&instance.local);
        let seen = self.lake.history(state.table).and_then(|()| match instance.local {
            Local { open: None, last: None } => Ok(()),
            _ => check_last(TABLE, &local, &self.lake.view(state.table)).map_err(|r| r.name()),
        });
        if let Err(refusal) = seen {
            return self.refuse(state, who, state.table, refusal);
        }
        let next_epoch = recover(&local, &BTreeMap::new()).next_epoch;
        let me = &mut state.instances[who];
        me.epoch = u8::try_from(next_epoch.0.saturating_sub(1)).unwrap();
        match instance.local.open {
            Some(Open { commit, .. }) => {
                me.phase = Phase::Pending { commit, recovering: true, retry: false };
                Ok(())
            }
            None => self.read_from(state, who, state.table),
        }
    }

    fn local_state(&self, local: &Local) -> LocalState {
        LocalState {
            pending: local.open.iter().map(|o| self.lake.facts.pending(o.commit).clone()).collect(),
            last: local
                .last
                .map(|last| LastCheckpoint {
                    epoch: Epoch(last.epoch.into()),
                    frontier: frontier(&last.frontier),
                    generation: last.generation.into(),
                })
                .map(|last| (TABLE.to_owned(), last))
                .into_iter()
                .collect(),
        }
    }

    /// A run finds its place in the table as it was in `view`.
    fn read_from(&mut self, state: &mut State, who: usize, view: TableNo) -> Result<(), Halt> {
        match self.lake.start(state.instances[who].owns, view) {
            Ok((ledger, generation, at)) => {
                let me = &mut state.instances[who];
                (me.ledger, me.generation, me.at) = (ledger, generation, at);
                me.phase = Phase::Running;
                Ok(())
            }
            Err(refusal) => self.refuse(state, who, view, refusal),
        }
    }

    /// An instance that is between prepare and finalize reads an assigned partition after that:
    /// what it is about to commit may be of that partition.
    fn gain(&mut self, state: &mut State, who: usize, partition: usize) -> Result<(), Halt> {
        state.instances[who].owns |= bit(partition);
        match state.instances[who].phase {
            Phase::Running => self.read_assigned(state, who, state.table),
            _ => Ok(()),
        }
    }

    /// Reading of the partitions that were assigned since starts at the ledger in `view`.
    fn read_assigned(&mut self, state: &mut State, who: usize, view: TableNo) -> Result<(), Halt> {
        for partition in 0..PARTITIONS {
            let me = state.instances[who];
            if me.owns & bit(partition) == 0 || me.at[partition].is_some() {
                continue;
            }
            match self.lake.start(bit(partition), view) {
                // The generation stays that of the start: an edit since fences the whole run.
                Ok((ledger, _, at)) => {
                    state.instances[who].ledger[partition] = ledger[partition];
                    state.instances[who].at[partition] = at[partition];
                }
                Err(refusal) => return self.refuse(state, who, view, refusal),
            }
        }
        Ok(())
    }

    /// Reads, seals and prepares.
    fn seal(
        &mut self,
        state: &mut State,
        who: usize,
        lengths: [u8; PARTITIONS],
    ) -> Result<(), Halt> {
        let me = &mut state.instances[who];
        let mut sealing = Sealing {
            who,
            incarnation: me.incarnation,
            epoch: me.epoch + 1,
            from: Default::default(),
            ranges: Default::default(),
            generation: me.generation,
        };
        let open = me.local.open.map(|open| self.lake.facts.pending(open.commit).epoch);
        one_epoch_is_open(open, Epoch(sealing.epoch.into()))?;
        for (partition, length) in lengths.into_iter().enumerate().filter(|(_, l)| *l > 0) {
            let Some(at) = me.at[partition] else { continue };
            let read = &self.lake.facts.rest(partition, at)[..usize::from(length)];
            let end = read.last().map_or(at, |item| item.next);
            sealing.from[partition] = me.ledger[partition];
            sealing.ranges[partition] = Some((at, end));
            me.at[partition] = Some(end);
        }
        let commit = self.lake.facts.commit(sealing, &frontier(&me.ledger))?;
        let mut after = me.ledger;
        for (next, range) in after.iter_mut().zip(sealing.ranges) {
            *next = range.map(|(_, end)| end).or(*next);
        }
        me.sealed = true;
        me.epoch = sealing.epoch;
        me.local.open = Some(Open { commit, frontier: after });
        me.phase = Phase::Pending { commit, recovering: false, retry: false };
        Ok(())
    }

    /// Reads the table, admits, sends.
    fn attempt(&mut self, state: &mut State, who: usize) -> Result<(), Halt> {
        let Phase::Pending { commit, recovering, retry } = state.instances[who].phase else {
            return Ok(());
        };
        if broken::is(Variant::FinalizeBeforeCommit) && !recovering && !retry {
            self.settle_locally(state, who, commit, Some(state.table))?;
        }
        let decision = match retry && broken::is(Variant::RetryWithoutReading) {
            true => Decision::Commit,
            false => self.lake.decide(commit, state.table)?,
        };
        let view = state.table;
        let settled = |how| Phase::Settled { commit, how, view, recovering };
        match decision {
            Decision::Commit => return self.send(state, who, commit, recovering),
            Decision::AlreadyCommitted => {
                self.seen.already_committed += 1;
                state.instances[who].phase = settled(How::AlreadyCommitted);
            }
            Decision::Superseded { .. } => {
                self.seen.superseded += 1;
                state.instances[who].phase = settled(How::Superseded);
            }
            Decision::Refused(refusal) => return self.refuse(state, who, view, refusal),
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
        let table = self.lake.table(state.table);
        let (pin, before, number) = (table.head, table.ledger, table.last + 1);
        let ledger = self.lake.facts.advanced(before, commit);
        let pending = self.lake.facts.pending(commit);
        let open = state.instances[who].local.open;
        let synced = open.map(|open| {
            let prepared = self.lake.facts.pending(open.commit);
            Checkpoint {
                epoch: prepared.epoch,
                frontiers: BTreeMap::from([(TABLE.to_owned(), frontier(&open.frontier))]),
                pending: vec![PendingCommit::clone(prepared)],
            }
        });
        request_is_prepared(synced.as_ref(), &pending.commit_id)?;
        let request = Request { commit, pin, ledger, number };
        state.instances[who].phase = Phase::Waiting { request, recovering };
        Ok(())
    }

    /// Numbers of snapshots only grow, also when the head is moved back.
    fn is_new(&self, table: &Table, request: &Request) -> bool {
        self.takes_old_numbers || request.number > table.last
    }

    /// The catalog's compare-and-swap: does the request land?
    fn meet(&mut self, state: &mut State, request: Request) -> Result<bool, Halt> {
        let table = self.lake.table(state.table);
        if table.head != request.pin || !self.is_new(table, &request) {
            return Ok(false);
        }
        state.table = self.lake.change(state.table, Change::Land(request))?;
        self.seen.committed += 1;
        Ok(true)
    }

    fn answer(&mut self, state: &mut State, who: usize, answer: Answer) -> Result<(), Halt> {
        let Phase::Waiting { request, recovering } = state.instances[who].phase else {
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
        state.instances[who].phase = match answer {
            Answer::Told | Answer::ToldTwice if landed => {
                let (how, view) = (How::Committed, state.table);
                Phase::Settled { commit, how, view, recovering }
            }
            Answer::Rejected => {
                state.instances[who].end_process();
                return Ok(());
            }
            _ => {
                self.seen.conflicts += u64::from(decided && !landed);
                Phase::Pending { commit, recovering, retry: true }
            }
        };
        Ok(())
    }

    /// One synced write, then the files and the report.
    fn finalize(&mut self, state: &mut State, who: usize) -> Result<(), Halt> {
        let Phase::Settled { commit, how, view, recovering } = state.instances[who].phase else {
            return Ok(());
        };
        let committed = how != How::Superseded;
        self.settle_locally(state, who, commit, committed.then_some(view))?;
        if !committed {
            self.drop_files(state, commit, view)?;
        }
        if recovering {
            return self.read_from(state, who, view);
        }
        if !committed {
            state.instances[who].end_run();
            return Ok(());
        }
        let pending = self.lake.facts.pending(commit);
        let to = pending.to();
        let ledger = self.lake.ledger(state.table);
        // A person's edit may have taken the ledger back, and so may a rollback.
        if !self.lake.table(state.table).rolled_back && generation(ledger) == pending.generation {
            let frontier = ledger.map(|ledger| ledger.frontier.clone()).unwrap_or_default();
            group_is_behind_ledger(&to, &frontier)?;
        }
        let me = &mut state.instances[who];
        for (ledger, next) in me.ledger.iter_mut().zip(offsets(&to)) {
            *ledger = next.or(*ledger);
        }
        me.phase = Phase::Running;
        self.read_assigned(state, who, view)
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
        let local = &mut state.instances[who].local;
        if let (Some(open), Some(_)) = (local.open, view) {
            local.last = Some(Last { epoch, frontier: open.frontier, generation });
        }
        local.open = None;
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
        let open = state.instances.iter().filter_map(|instance: &Instance| instance.local.open);
        let pending: Vec<CommitNo> = open.map(|open| open.commit).collect();
        self.lake.check_doomed(commit, state.table, &pending)?;
        state.table = self.lake.change(state.table, Change::Delete(commit))?;
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
