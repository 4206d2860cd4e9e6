//! From a state on nothing goes wrong any more: the requests under way that nobody waits for die,
//! one instance is left, and everything answers. It must bring the table exactly to the end of the
//! log. (That such requests land instead is a step of the search, and leads to a state of its own.)

use std::collections::HashSet;

use super::facts::{Facts, bit};
use super::lake::TableNo;
use super::state::{Answer, Budget, Instance, LATE, PARTITIONS, Phase, State, Step};
use super::steps::World;
use super::{Halt, LIVE, violated};

/// More steps than any end takes.
const PATIENCE: usize = 200;

/// What was found to end well.
#[derive(Default)]
pub(super) struct Quiet {
    ended: HashSet<(TableNo, Instance)>,
}

impl Quiet {
    /// Checks both instances; on a failure `steps` are those that led to it.
    pub fn check(
        &mut self,
        world: &mut World,
        state: &State,
        steps: &mut Vec<Step>,
    ) -> Result<(), Halt> {
        (0..2).try_for_each(|who| self.end(world, state, who, steps))
    }

    fn end(
        &mut self,
        world: &mut World,
        state: &State,
        who: usize,
        steps: &mut Vec<Step>,
    ) -> Result<(), Halt> {
        let mut state = alone(state, who);
        let mut passed = Vec::new();
        let mut alone_in_group = false;
        steps.clear();
        while steps.len() < PATIENCE {
            let me = state.instances[who];
            if !alone_in_group {
                if self.ended.contains(&(state.table, me)) {
                    break;
                }
                passed.push((state.table, me));
            }
            let Some(step) = next_step(&world.lake.facts, &me, who) else {
                if alone_in_group {
                    at_the_end(world, &state)?;
                    break;
                }
                // The other instance is gone, and the group gives all partitions to this one.
                alone_in_group = true;
                state.instances[who].end_run();
                state.instances[who].owns = (0..PARTITIONS).map(bit).sum();
                continue;
            };
            steps.push(step);
            let refused = world.seen.refused;
            state = world.apply(&state, step)?;
            if world.seen.refused > refused {
                break; // with a cause: the step looked at that
            }
        }
        if steps.len() == PATIENCE {
            return violated(LIVE, "an instance alone does not come to an end");
        }
        self.ended.extend(passed);
        Ok(())
    }
}

/// `who` with all that was there, and nothing else.
fn alone(state: &State, who: usize) -> State {
    let mut alone = *state;
    alone.late = [None; LATE];
    alone.left = Budget::default();
    alone.instances[1 - who] = Instance::default();
    alone.instances[who].copy = None;
    alone
}

fn next_step(facts: &Facts, me: &Instance, who: usize) -> Option<Step> {
    match me.phase {
        Phase::Down => Some(Step::Start(who)),
        Phase::Pending { .. } => Some(Step::Attempt(who)),
        Phase::Waiting { .. } => Some(Step::Answer(who, Answer::Told)),
        Phase::Settled { .. } => Some(Step::Finalize(who)),
        Phase::Running => {
            let rest = |p: usize| me.at[p].map_or(0, |at| facts.rest(p, at).len());
            let lengths = [0, 1].map(|p| u8::try_from(rest(p)).unwrap());
            (lengths != [0, 0]).then_some(Step::Seal(who, lengths))
        }
    }
}

fn at_the_end(world: &World, state: &State) -> Result<(), Halt> {
    let table = world.lake.table(state.table);
    let ledger = world.lake.ledger(state.table).map(|ledger| &ledger.frontier);
    for partition in 0..PARTITIONS {
        let next = ledger.and_then(|ledger| ledger.get(&super::facts::number_tp(partition)));
        let end = world.lake.facts.end(partition);
        if next != Some(end.into()) && end > 0 {
            return violated(LIVE, format!("partition {partition} ended at {next:?}, not {end}"));
        }
    }
    match world.lake.is_exact(table) {
        Ok(()) => Ok(()),
        Err(detail) => violated("I1", detail),
    }
}
