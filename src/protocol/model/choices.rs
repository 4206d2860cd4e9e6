//! What may happen in a state.

use super::facts::bit;
use super::state::{Answer, Expiry, Foreign, Local, Memory, Phase, State, Step};
use super::steps::World;
use super::table::Table;

impl World {
    /// Everything that may happen in `state`.
    pub(crate) fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for who in 0..2 {
            self.own_steps(state, who, &mut steps);
        }
        self.shared_steps(state, &mut steps);
        steps
    }

    fn own_steps(&self, state: &State, who: usize, steps: &mut Vec<Step>) {
        let instance = &state.instances[who];
        if instance.is_down() {
            steps.push(Step::Start(who));
        }
        if instance.is_reading() {
            let rest = |p: usize| instance.at[p].map_or(0, |at| self.lake.facts.rest(p, at).len());
            let upto = |p| 0..=u8::try_from(rest(p)).unwrap();
            let lengths = upto(0).flat_map(|one| upto(1).map(move |two| [one, two]));
            steps.extend(lengths.filter(|l| *l != [0, 0]).map(|l| Step::Seal(who, l)));
        }
        for (table, phase) in instance.phases.into_iter().enumerate() {
            self.table_steps(state, who, table, phase, steps);
        }
        self.crashes(state, who, steps);
    }

    /// What an instance does with one table.
    fn table_steps(
        &self,
        state: &State,
        who: usize,
        table: usize,
        phase: Phase,
        steps: &mut Vec<Step>,
    ) {
        match phase {
            Phase::Down | Phase::Running | Phase::Fenced | Phase::Failed => {}
            Phase::Pending { .. } => steps.push(Step::Attempt(who, table)),
            Phase::Waiting { .. } => {
                let mut answer = |answer| steps.push(Step::Answer(who, table, answer));
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
            Phase::Settled { .. } => steps.push(Step::Finalize(who, table)),
        }
    }

    fn crashes(&self, state: &State, who: usize, steps: &mut Vec<Step>) {
        let instance = &state.instances[who];
        if state.left.crashes > 0 {
            if !instance.is_down() {
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
        for (number, table) in state.tables.into_iter().enumerate().take(self.tables) {
            let foreign = foreign_steps(state, self.lake.table(table));
            steps.extend(foreign.into_iter().map(|foreign| Step::Foreign(number, foreign)));
        }
    }
}

/// What others may do to a table.
fn foreign_steps(state: &State, table: &Table) -> Vec<Foreign> {
    let mut steps = Vec::new();
    if state.left.appends > 0 {
        steps.push(Foreign::Append);
    }
    let Some(head) = table.head else { return steps };
    if state.left.compactions > 0 {
        steps.push(Foreign::Compact);
    }
    let others = || table.snapshots.iter().map(|snapshot| snapshot.id).filter(|id| *id != head);
    if state.left.expirations > 0 && others().next().is_some() {
        for orphans in [false, true] {
            steps.push(Foreign::Expire { what: Expiry::AllButHead, orphans });
            if others().nth(1).is_some() {
                let one = |id| Foreign::Expire { what: Expiry::One(id), orphans };
                steps.extend(others().map(one));
            }
        }
    }
    if state.left.rollbacks > 0 {
        steps.extend(others().map(Foreign::Rollback));
    }
    if state.left.rewinds > 0 {
        steps.push(Foreign::Rewind);
    }
    steps
}
