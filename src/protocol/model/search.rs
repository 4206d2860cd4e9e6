//! Breadth first through every state, so that the first violation has the shortest trace.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::quiet::Quiet;
use super::state::{Answer, Foreign, How, Memory, Mix, NAMES, Phase, State, Step};
use super::steps::{Seen, World};
use super::{Halt, Violation};

/// What a search came to.
#[derive(Debug)]
pub(super) struct Found {
    /// States reached.
    pub states: usize,
    /// Steps taken from them.
    pub steps: u64,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// Tables reached, also in the quiet ends.
    pub tables: usize,
    /// What was come upon.
    pub seen: Seen,
    /// Did it go through all states?
    pub complete: bool,
    /// The first violation.
    pub violation: Option<Trace>,
}

/// The shortest way to a violation.
#[derive(Debug)]
pub(super) struct Trace {
    pub violation: Violation,
    /// Each step in words, and what it led to.
    pub steps: Vec<String>,
}

/// Goes through every state that `mix` allows, until something is violated or there are more than
/// `limit` states.
pub(super) fn search(mix: &Mix, limit: usize) -> Found {
    let mut world = World::new(mix);
    let mut quiet = Quiet::default();
    let mut reached = Reached::new(world.first(mix));
    let (mut steps, mut at) = (0, 0);
    let mut quiet_steps = Vec::new();
    let mut seen = Seen::default();
    let violation = loop {
        let Some(state) = reached.states.get(at).copied() else { break None };
        if reached.states.len() > limit {
            break None;
        }
        if let Err(Halt::Broken(violation)) = quiet.check(&mut world, &state, &mut quiet_steps) {
            break Some(tell(mix, violation, &reached.way(at), &quiet_steps));
        }
        world.seen = seen;
        let mut broken = None;
        for step in world.steps(&state) {
            steps += 1;
            match world.apply(&state, step) {
                Ok(next) => reached.insert(next, at, step),
                Err(Halt::Blind) => world.seen.blind += 1,
                Err(Halt::Broken(violation)) => {
                    let mut way = reached.way(at);
                    way.push(step);
                    broken = Some(tell(mix, violation, &way, &[]));
                    break;
                }
            }
        }
        seen = world.seen;
        if broken.is_some() {
            break broken;
        }
        at += 1;
    };
    Found {
        states: reached.states.len(),
        steps,
        depth: reached.way(reached.states.len() - 1).len(),
        tables: world.lake.len(),
        seen,
        complete: at == reached.states.len(),
        violation,
    }
}

/// States in the order in which they were reached, each once, and how.
struct Reached {
    states: Vec<State>,
    /// Whence and by which step; of the first state nothing true.
    from: Vec<(u32, Step)>,
    /// A hash table of the places of states; [`FREE`] is none.
    slots: Vec<u32>,
}

const FREE: u32 = u32::MAX;

impl Reached {
    fn new(first: State) -> Self {
        let (states, from) = (Vec::new(), Vec::new());
        let mut reached = Self { states, from, slots: vec![FREE; 1 << 16] };
        reached.insert(first, 0, Step::Start(0));
        reached
    }

    fn insert(&mut self, state: State, from: usize, step: Step) {
        let slot = self.slot(&state);
        if self.slots[slot] != FREE {
            return;
        }
        self.slots[slot] = u32::try_from(self.states.len()).unwrap();
        self.states.push(state);
        self.from.push((u32::try_from(from).unwrap(), step));
        if self.states.len() * 2 > self.slots.len() {
            self.slots = vec![FREE; self.slots.len() * 2];
            for place in 0..self.states.len() {
                let slot = self.slot(&self.states[place]);
                self.slots[slot] = u32::try_from(place).unwrap();
            }
        }
    }

    /// Where `state` is, or where it would be.
    fn slot(&self, state: &State) -> usize {
        let mask = self.slots.len() - 1;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
        let mut slot = usize::try_from(hash).unwrap() & mask;
        while self.slots[slot] != FREE && self.states[self.slots[slot] as usize] != *state {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The steps from the first state to the one at `place`.
    fn way(&self, mut place: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        while place > 0 {
            let (from, step) = self.from[place];
            steps.push(step);
            place = from as usize;
        }
        steps.reverse();
        steps
    }
}

/// The trace of a violation: its steps again, from the beginning. `quiet` are those of the end
/// without faults that failed, if one did.
pub(super) fn tell(mix: &Mix, violation: Violation, way: &[Step], quiet: &[Step]) -> Trace {
    let mut world = World::new(mix);
    let mut state = world.first(mix);
    let mut steps = Vec::new();
    for step in way {
        let words = in_words(*step);
        let Ok(next) = world.apply(&state, *step) else {
            steps.push(words);
            break;
        };
        steps.push(format!("{words}{}", outcome(&world, *step, &next)));
        state = next;
    }
    steps.extend(quiet.iter().map(|step| format!("with no more faults: {}", in_words(*step))));
    Trace { violation, steps }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} after {} steps", self.violation, self.steps.len())?;
        let mut numbered = self.steps.iter().zip(1..);
        numbered.try_for_each(|(step, number)| writeln!(f, "{number:>4}. {step}"))
    }
}

fn in_words(step: Step) -> String {
    match step {
        Step::Start(who) => format!("{} starts a run", NAMES[who]),
        Step::Seal(who, [a, b]) => {
            format!("{} reads {a} items of partition 0 and {b} of 1, seals, prepares", NAMES[who])
        }
        Step::Attempt(who, table) => format!("{} reads table {table} and admits", NAMES[who]),
        Step::Answer(who, table, answer) => {
            let what = match answer {
                Answer::Told => "decides and answers",
                Answer::ToldTwice => "decides and answers, and a copy of the request is late",
                Answer::Lost => "decides, the answer is lost",
                Answer::Late => "does not answer, the request is late",
                Answer::Gone => "does not answer, the request is gone",
                Answer::Rejected => "rejects; the process ends",
            };
            format!("the catalog, asked by {} for table {table}, {what}", NAMES[who])
        }
        Step::Finalize(who, table) => format!("{} finalizes table {table}", NAMES[who]),
        Step::Crash(who, memory) => {
            let memory = match memory {
                Memory::Kept => "crashes",
                Memory::Lost => "crashes, local state is lost",
                Memory::Restored => "crashes, local state is restored from the copy",
            };
            format!("{} {memory}", NAMES[who])
        }
        Step::Copy(who) => format!("local state of {} is copied", NAMES[who]),
        Step::Arrive(_) => String::from("a late request arrives"),
        Step::Move { partition, to, noticed } => {
            let old = if noticed { "the other knows" } else { "the other does not know" };
            format!("partition {partition} is given to {}, {old}", NAMES[to])
        }
        Step::Foreign(table, foreign) => {
            let what = match foreign {
                Foreign::Append => String::from("a foreign engine appends"),
                Foreign::Compact => String::from("a foreign engine compacts"),
                Foreign::Expire { what, orphans } => {
                    let parents = if orphans { ", and the parents of those left" } else { "" };
                    format!("a foreign engine expires {what:?}{parents}")
                }
                Foreign::Rewind => String::from("a person rewinds the ledger"),
                Foreign::Rollback(to) => format!("a foreign engine moves the head to {to}"),
            };
            format!("{what}, in table {table}")
        }
    }
}

/// What a step led to, as far as it is not said by the step.
fn outcome(world: &World, step: Step, state: &State) -> String {
    let shown = |table| shown(world, state, table);
    let said: Vec<String> = match step {
        Step::Crash(..) | Step::Copy(_) | Step::Move { .. } => Vec::new(),
        Step::Arrive(_) => (0..world.tables).map(shown).collect(),
        Step::Foreign(table, _) => vec![shown(table)],
        Step::Start(who) | Step::Seal(who, _) => {
            (0..world.tables).map(|table| stands(world, state, who, table)).collect()
        }
        Step::Attempt(who, table) | Step::Answer(who, table, _) | Step::Finalize(who, table) => {
            vec![stands(world, state, who, table)]
        }
    };
    said.into_iter().map(|said| format!("; {said}")).collect()
}

fn shown(world: &World, state: &State, table: usize) -> String {
    let number = state.tables[table];
    let head = world.lake.table(number).head;
    let head = head.map_or_else(|| String::from("none"), |head| head.to_string());
    let next = world.lake.ledger(number).map(|ledger| super::facts::offsets(&ledger.frontier));
    format!("table {table}: head {head}, ledger {:?}", next.unwrap_or_default())
}

/// Where an instance stands with a table.
fn stands(world: &World, state: &State, who: usize, table: usize) -> String {
    let me = &state.instances[who];
    let shown = shown(world, state, table);
    match me.phases[table] {
        Phase::Down => String::from("its run ends"),
        Phase::Running => format!("reads on at {:?}", me.at),
        Phase::Pending { commit, .. } => format!("commit {commit} is pending; {shown}"),
        Phase::Waiting { request, .. } => {
            format!("sends commit {} pinned to the head of {shown}", request.commit)
        }
        Phase::Settled { commit, how: How::Superseded, .. } => {
            format!("commit {commit} is superseded; {shown}")
        }
        Phase::Settled { commit, .. } => format!("commit {commit} is in the table; {shown}"),
        Phase::Fenced => format!("its run is to end; {shown}"),
        Phase::Failed => format!("its process is to end; {shown}"),
    }
}
