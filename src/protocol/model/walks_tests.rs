//! The same world with a longer log and many faults, at random: deeper than a search can go.

use proptest::prelude::*;

use super::Halt;
use super::quiet::Quiet;
use super::state::{Budget, Mix, Step};
use super::steps::World;

const MANY: u8 = 200;

const LONG: Mix = Mix {
    tables: 1,
    items: [30, 30],
    owns: [3, 3],
    budget: Budget {
        crashes: 20,
        losses: 10,
        restores: 10,
        answers: MANY,
        late: MANY,
        appends: 10,
        compactions: 5,
        expirations: 20,
        rollbacks: 0,
        rewinds: 0,
        moves: MANY,
    },
    takes_old_numbers: false,
};

/// Takes the steps that `choices` choose among those that may happen, and ends in quiet.
fn walk(mix: &Mix, choices: &[u16]) -> Result<(), String> {
    let mut world = World::new(mix);
    let mut state = world.first(mix);
    let mut quiet = Quiet::default();
    let mut steps = Vec::new();
    let told = |way: &[_], ending: &[_], halt| match halt {
        Halt::Broken(violation) => {
            Err(super::search::tell(mix, violation, way, ending).to_string())
        }
        Halt::Blind => Ok(()),
    };
    for choice in choices {
        let mut all = world.steps(&state);
        all.retain(|step| !matches!(step, Step::Seal(_, [a, b]) if *a > 2 || *b > 2));
        let Some(step) = all.get(usize::from(*choice) % all.len().max(1)).copied() else { break };
        steps.push(step);
        match world.apply(&state, step) {
            Ok(next) => state = next,
            Err(halt) => return told(&steps, &[], halt),
        }
    }
    let mut ending = Vec::new();
    quiet.check(&mut world, &state, &mut ending).or_else(|halt| told(&steps, &ending, halt))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_long_history_of_faults_leaves_the_table_exact(
        choices in proptest::collection::vec(any::<u16>(), 0..300),
    ) {
        walk(&LONG, &choices).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_long_history_with_a_rollback_leaves_the_table_exact_or_refused(
        choices in proptest::collection::vec(any::<u16>(), 0..120),
    ) {
        let budget = Budget { rollbacks: 2, rewinds: 3, ..LONG.budget };
        walk(&Mix { budget, ..LONG }, &choices).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_long_history_of_faults_leaves_two_tables_of_a_flow_exact(
        choices in proptest::collection::vec(any::<u16>(), 0..300),
    ) {
        walk(&Mix { tables: 2, ..LONG }, &choices).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_long_history_with_rollbacks_leaves_each_of_two_tables_exact_or_refused(
        choices in proptest::collection::vec(any::<u16>(), 0..200),
    ) {
        let budget = Budget { rollbacks: 2, rewinds: 3, ..LONG.budget };
        walk(&Mix { tables: 2, budget, ..LONG }, &choices).map_err(TestCaseError::fail)?;
    }
}
