//! A run of an instance: start, reading, seal, and how it ends.

use super::super::*;
use super::facts::{LOG_START, Sealing, TABLE_NAMES, bit, frontier};
use super::lake::TableNo;
use super::state::{Last, Local, Offsets, Open, PARTITIONS, Phase, State, TABLES};
use super::steps::World;
use super::{Halt, LIVE, violated};

impl World {
    /// The table in `view` is refused, which must not be unless it was rolled back.
    pub(crate) fn refuse(
        &mut self,
        state: &mut State,
        who: usize,
        view: TableNo,
        refusal: &str,
    ) -> Result<(), Halt> {
        let table = self.lake.table(view);
        if !table.rolled_back {
            return violated(LIVE, format!("refused without cause: {refusal}"));
        }
        self.seen.refused += 1;
        state.instances[who].phases[table.number] = Phase::Failed;
        Ok(())
    }

    pub(crate) fn start(&mut self, state: &mut State, who: usize) -> Result<(), Halt> {
        let local = state.instances[who].local;
        let known = self.local_state(&local);
        let next_epoch = recover(&known, &Default::default()).next_epoch;
        state.instances[who].epoch = u8::try_from(next_epoch.0.saturating_sub(1)).unwrap();
        for (table, name) in TABLE_NAMES.iter().enumerate().take(self.tables) {
            let view = state.tables[table];
            let seen = self.lake.history(view).and_then(|()| {
                match (local.open[table], local.last[table]) {
                    (None, None) => Ok(()),
                    _ => check_last(name, &known, &self.lake.view(view))
                        .map_err(|refusal| refusal.name()),
                }
            });
            match (seen, local.open[table]) {
                (Err(refusal), _) => self.refuse(state, who, view, refusal)?,
                (Ok(()), Some(Open { commit, .. })) => {
                    state.instances[who].phases[table] =
                        Phase::Pending { commit, recovering: true, retry: false };
                }
                (Ok(()), None) => state.instances[who].phases[table] = Phase::Running,
            }
        }
        self.go_on(state, who, state.tables, true)
    }

    fn local_state(&self, local: &Local) -> LocalState {
        let open = local.open.iter().flatten();
        let last = TABLE_NAMES.into_iter().zip(local.last).filter_map(|(name, last)| {
            let Last { epoch, frontier: next, generation } = last?;
            let (epoch, frontier) = (Epoch(epoch.into()), frontier(&next));
            let generation = generation.into();
            Some((
                name.to_owned(),
                LastCheckpoint { epoch, frontier, generation, ..LastCheckpoint::default() },
            ))
        });
        LocalState {
            pending: open.map(|open| self.lake.facts.pending(open.commit).clone()).collect(),
            last: last.collect(),
            given_up: false,
        }
    }

    /// What a run does when a table came to an end: nothing before all did. Then a failure of one
    /// ends the process, a fence the run; else it reads on from the tables as they were in `views`.
    pub(crate) fn go_on(
        &mut self,
        state: &mut State,
        who: usize,
        views: [TableNo; TABLES],
        recovering: bool,
    ) -> Result<(), Halt> {
        let me = &mut state.instances[who];
        if me.phases.iter().any(|phase| phase.is_open()) {
            Ok(())
        } else if me.phases.contains(&Phase::Failed) {
            me.end_process();
            Ok(())
        } else if me.phases.contains(&Phase::Fenced) {
            me.end_run();
            Ok(())
        } else if recovering {
            self.read_from(state, who, views)
        } else {
            self.read_assigned(state, who, views)
        }
    }

    /// A run finds its place in the tables as they were in `views`.
    fn read_from(
        &mut self,
        state: &mut State,
        who: usize,
        views: [TableNo; TABLES],
    ) -> Result<(), Halt> {
        let owns = state.instances[who].owns;
        let mut lowest = None;
        for (table, view) in views.into_iter().enumerate().take(self.tables) {
            match self.lake.start(owns, view) {
                Ok((ledger, generation, at)) => {
                    let me = &mut state.instances[who];
                    (me.ledgers[table], me.generations[table]) = (ledger, generation);
                    lowest = Some(lowest.map_or(at, |lowest| lower(lowest, at)));
                }
                Err(refusal) => {
                    self.refuse(state, who, view, refusal)?;
                    state.instances[who].end_process();
                    return Ok(());
                }
            }
        }
        let me = &mut state.instances[who];
        me.at = lowest.unwrap_or_default();
        let mut others = me.ledgers[..self.tables].iter().skip(1);
        self.seen.began_apart += u64::from(others.any(|ledger| *ledger != me.ledgers[0]));
        Ok(())
    }

    /// An instance that is between prepare and finalize reads an assigned partition after that:
    /// what it is about to commit may be of that partition.
    pub(crate) fn gain(
        &mut self,
        state: &mut State,
        who: usize,
        partition: usize,
    ) -> Result<(), Halt> {
        state.instances[who].owns |= bit(partition);
        match state.instances[who].is_reading() {
            true => self.read_assigned(state, who, state.tables),
            false => Ok(()),
        }
    }

    /// Reading of the partitions that were assigned since starts at the ledgers in `views`.
    fn read_assigned(
        &mut self,
        state: &mut State,
        who: usize,
        views: [TableNo; TABLES],
    ) -> Result<(), Halt> {
        for partition in 0..PARTITIONS {
            let me = state.instances[who];
            if me.owns & bit(partition) == 0 || me.at[partition].is_some() {
                continue;
            }
            for (table, view) in views.into_iter().enumerate().take(self.tables) {
                match self.lake.start(bit(partition), view) {
                    // The generation stays that of the start: an edit since fences the whole run.
                    Ok((ledger, _, at)) => {
                        let me = &mut state.instances[who];
                        me.ledgers[table][partition] = ledger[partition];
                        let (lowest, at) = (&mut me.at[partition], at[partition]);
                        *lowest = lowest.map_or(at, |lowest| at.map(|at| at.min(lowest)));
                    }
                    Err(refusal) => {
                        self.refuse(state, who, view, refusal)?;
                        state.instances[who].end_process();
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads, seals and prepares.
    pub(crate) fn seal(
        &mut self,
        state: &mut State,
        who: usize,
        lengths: [u8; PARTITIONS],
    ) -> Result<(), Halt> {
        let me = &mut state.instances[who];
        let open = me.local.open.iter().flatten().next();
        let open = open.map(|open| self.lake.facts.pending(open.commit).epoch);
        one_epoch_is_open(open, Epoch((me.epoch + 1).into()))?;
        me.sealed = true;
        me.epoch += 1;
        for (partition, length) in lengths.into_iter().enumerate().filter(|(_, l)| *l > 0) {
            let Some(at) = &mut me.at[partition] else { continue };
            let read = &self.lake.facts.rest(partition, *at)[..usize::from(length)];
            *at = read.last().map_or(*at, |item| item.next);
        }
        let mut ranges = [Default::default(); TABLES];
        for (table, range) in ranges.iter_mut().enumerate().take(self.tables) {
            *range = self.seal_for(state, who, table)?;
        }
        self.seen.dropped += u64::from(self.tables > 1 && ranges[0] != ranges[1]);
        Ok(())
    }

    /// What was read for one table, whose range begins at its own ledger: it drops what it has.
    fn seal_for(
        &mut self,
        state: &mut State,
        who: usize,
        table: usize,
    ) -> Result<[Option<(u8, u8)>; PARTITIONS], Halt> {
        let me = &mut state.instances[who];
        let ledger = me.ledgers[table];
        let (mut from, mut ranges, mut after) = (Offsets::default(), [None; PARTITIONS], ledger);
        for partition in 0..PARTITIONS {
            let (Some(end), next) = (me.at[partition], ledger[partition]) else { continue };
            let start = next.unwrap_or(LOG_START);
            if end > start {
                from[partition] = next;
                ranges[partition] = Some((start, end));
                after[partition] = Some(end);
            }
        }
        if ranges == [None; PARTITIONS] {
            return Ok(ranges);
        }
        let (incarnation, epoch, generation) = (me.incarnation, me.epoch, me.generations[table]);
        let sealing = Sealing { table, who, incarnation, epoch, from, ranges, generation };
        let commit = self.lake.facts.commit(sealing, &frontier(&ledger))?;
        me.local.open[table] = Some(Open { commit, frontier: after });
        me.phases[table] = Phase::Pending { commit, recovering: false, retry: false };
        Ok(ranges)
    }
}

/// Of each partition the lower of two offsets.
fn lower(one: Offsets, other: Offsets) -> Offsets {
    let mut lower = one;
    for (low, next) in lower.iter_mut().zip(other) {
        *low = low.and_then(|low| next.map(|next| next.min(low)));
    }
    lower
}
