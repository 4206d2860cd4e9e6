//! From a state on nothing goes wrong any more: the requests under way that nobody waits for die,
//! one instance is left, and everything answers. It must bring the tables exactly to the end of the
//! log. (That such requests land instead is a step of the search, and leads to a state of its own.)

use std::collections::HashSet;

use super::facts::{Facts, bit};
use super::lake::TableNo;
use super::state::{Answer, Budget, Instance, LATE, PARTITIONS, Phase, State, Step, TABLES};
use super::steps::World;
use super::{Halt, LIVE, violated};

/// More steps than any end takes.
const PATIENCE: usize = 200;

/// What was found to end well.
#[derive(Default)]
pub(super) struct Quiet {
    ended: HashSet<([TableNo; TABLES], Instance)>,
}

impl Quiet {
    /// Checks both instances; on a failure `steps` are those that led to it.
    pub(crate) fn check(
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
        let mut refused = world.seen.refused;
        let mut began_before = true;
        steps.clear();
        while steps.len() < PATIENCE {
            let me = state.instances[who];
            if !alone_in_group {
                if self.ended.contains(&(state.tables, me)) {
                    break;
                }
                passed.push((state.tables, me));
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
            began_before &= !matches!(step, Step::Start(_));
            state = world.apply(&state, step)?;
            // With a cause: the step looked at that. The commits to other tables came to their ends,
            // but those that failed in this run before nothing went wrong any more: the next has them.
            if world.seen.refused > refused && state.instances[who].is_down() {
                if began_before {
                    refused = world.seen.refused;
                    continue;
                }
                others_are_done(world, &state, who)?;
                break;
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
    if me.is_down() {
        return Some(Step::Start(who));
    }
    let of_table = |(table, phase): (usize, &Phase)| match phase {
        Phase::Pending { .. } => Some(Step::Attempt(who, table)),
        Phase::Waiting { .. } => Some(Step::Answer(who, table, Answer::Told)),
        Phase::Settled { .. } => Some(Step::Finalize(who, table)),
        Phase::Down | Phase::Running | Phase::Fenced | Phase::Failed => None,
    };
    me.phases.iter().enumerate().find_map(of_table).or_else(|| {
        let rest = |p: usize| me.at[p].map_or(0, |at| facts.rest(p, at).len());
        let lengths = [0, 1].map(|p| u8::try_from(rest(p)).unwrap());
        (lengths != [0, 0]).then_some(Step::Seal(who, lengths))
    })
}

/// A flow that ended with a refusal left nothing pending for a table that was not refused.
fn others_are_done(world: &World, state: &State, who: usize) -> Result<(), Halt> {
    let open = state.instances[who].local.open;
    for (table, open) in state.tables.into_iter().zip(open) {
        if open.is_some() && !world.lake.table(table).rolled_back {
            return violated(LIVE, "the commit to a table waits for one to another");
        }
    }
    Ok(())
}

fn at_the_end(world: &World, state: &State) -> Result<(), Halt> {
    for number in state.tables.into_iter().take(world.tables) {
        let ledger = world.lake.ledger(number).map(|ledger| &ledger.frontier);
        for partition in 0..PARTITIONS {
            let next = ledger.and_then(|ledger| ledger.get(&super::facts::number_tp(partition)));
            let end = world.lake.facts.end(partition);
            if next != Some(end.into()) && end > 0 {
                let name = world.lake.name(number);
                let detail =
                    format!("partition {partition} of {name} ended at {next:?}, not {end}");
                return violated(LIVE, detail);
            }
        }
        if let Err(detail) = world.lake.is_exact(world.lake.table(number)) {
            return violated("I1", detail);
        }
    }
    Ok(())
}
