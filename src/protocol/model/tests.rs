//! The searches, and the searches of protocols that are broken on purpose.
//!
//! `ICESTREAM_MODEL` enlarges every world: `ICESTREAM_MODEL="items=3 crashes=2"` sets, in each, the
//! items of both partitions and the budget of crashes (see [`Budget`]; `states=` the largest number
//! of states, each of which takes about 200 bytes).

use super::search::{Found, search};
use super::state::{Budget, Mix};

/// Both instances read all partitions, as processes without a consumer group do.
const BOTH_READ_ALL: Mix =
    Mix { tables: 1, items: [1, 1], owns: [3, 3], budget: NOTHING, takes_old_numbers: false };
/// Each instance reads one partition.
const EACH_READS_ONE: Mix = Mix { owns: [1, 2], ..BOTH_READ_ALL };

const NOTHING: Budget = Budget {
    crashes: 0,
    losses: 0,
    restores: 0,
    answers: 0,
    late: 0,
    appends: 0,
    compactions: 0,
    expirations: 0,
    rollbacks: 0,
    rewinds: 0,
    moves: 0,
};

/// More states than a search of the suite may have.
const MANY: usize = 20_000_000;

/// `mix` as `ICESTREAM_MODEL` wants it, and the largest number of states.
fn enlarged(mut mix: Mix) -> (Mix, usize) {
    let mut states = MANY;
    let wish = std::env::var("ICESTREAM_MODEL").unwrap_or_default();
    for word in wish.split_whitespace() {
        let (name, value) = word.split_once('=').expect("ICESTREAM_MODEL is `name=number ...`");
        let value: usize = value.parse().expect("a number in ICESTREAM_MODEL");
        let small = u8::try_from(value).unwrap_or(u8::MAX);
        let budget = &mut mix.budget;
        match name {
            "states" => states = value,
            "tables" => mix.tables = value,
            "items" => mix.items = [small; 2],
            "crashes" => budget.crashes = small,
            "losses" => budget.losses = small,
            "restores" => budget.restores = small,
            "answers" => budget.answers = small,
            "late" => budget.late = small,
            "appends" => budget.appends = small,
            "compactions" => budget.compactions = small,
            "expirations" => budget.expirations = small,
            "rollbacks" => budget.rollbacks = small,
            "rewinds" => budget.rewinds = small,
            "moves" => budget.moves = small,
            other => panic!("ICESTREAM_MODEL knows no {other}"),
        }
    }
    (mix, states)
}

/// Searches, tells the figures, and expects no violation.
fn sound(name: &str, mix: Mix) -> Found {
    let began = std::time::Instant::now();
    let (mix, states) = enlarged(mix);
    let found = search(&mix, states);
    println!(
        "model, {name}: {} states, {} steps, depth {}, {} tables, {:.1} s; {:?}",
        found.states,
        found.steps,
        found.depth,
        found.tables,
        began.elapsed().as_secs_f64(),
        found.seen,
    );
    if let Some(trace) = &found.violation {
        panic!("{name}: {trace}");
    }
    assert!(found.complete, "{name} has more states than {states}");
    found
}

#[test]
fn every_answer_lost_late_or_twice_leaves_the_table_exact() {
    let budget = Budget { crashes: 2, answers: 2, late: 1, ..NOTHING };
    let found = sound("answers", Mix { budget, ..BOTH_READ_ALL });
    assert!(found.seen.landed_late > 0 && found.seen.already_committed > 0, "{found:?}");
    assert!(found.seen.superseded > 0 && found.seen.deleted > 0, "{found:?}");
}

#[test]
fn epochs_of_every_length_leave_the_table_exact() {
    let budget = Budget { answers: 1, late: 1, ..NOTHING };
    let found = sound("longer log", Mix { items: [2, 1], budget, ..BOTH_READ_ALL });
    assert!(found.seen.landed_late > 0 && found.seen.superseded > 0, "{found:?}");
}

#[test]
fn local_state_lost_or_old_leaves_the_table_exact() {
    let budget = Budget { crashes: 1, losses: 1, restores: 1, late: 1, expirations: 1, ..NOTHING };
    let found = sound("local state", Mix { budget, ..BOTH_READ_ALL });
    assert!(found.seen.already_committed > 0, "{found:?}");
}

#[test]
fn foreign_commits_compaction_and_expiry_leave_the_table_exact_and_are_never_refused() {
    let budget = Budget { answers: 1, appends: 1, compactions: 1, expirations: 1, ..NOTHING };
    let found = sound("foreign", Mix { budget, ..BOTH_READ_ALL });
    assert!(found.seen.deleted > 0, "{found:?}");
}

#[test]
fn partitions_that_move_with_or_without_notice_leave_the_table_exact() {
    let budget = Budget { crashes: 1, answers: 1, late: 1, moves: 2, ..NOTHING };
    let found = sound("group", Mix { budget, ..EACH_READS_ONE });
    assert!(found.seen.superseded > 0, "{found:?}");
}

#[test]
fn a_table_that_was_rolled_back_is_exact_or_refused() {
    let budget = Budget { late: 1, appends: 1, expirations: 1, rollbacks: 1, ..NOTHING };
    let found = sound("rollback", Mix { budget, ..BOTH_READ_ALL });
    assert!(found.seen.refused > 0, "{found:?}");
}

#[test]
fn a_table_that_was_rolled_back_goes_on_exactly_after_its_ledger_is_rewound() {
    let budget = Budget { crashes: 1, late: 1, rollbacks: 1, rewinds: 1, ..NOTHING };
    let found = sound("rewind", Mix { budget, ..BOTH_READ_ALL });
    assert!(found.seen.refused > 0 && found.seen.rewound > 0, "{found:?}");
}

/// A flow of two tables.
const TWO_TABLES: Mix = Mix { tables: 2, items: [1, 0], ..BOTH_READ_ALL };

/// Each table's commit of an epoch landed before the other's.
fn either_order(found: &Found) {
    assert!(found.seen.landed_first.iter().all(|times| *times > 0), "{found:?}");
}

#[test]
fn every_answer_lost_late_or_twice_leaves_two_tables_of_a_flow_exact() {
    let budget = Budget { crashes: 2, answers: 2, late: 1, ..NOTHING };
    let found = sound("two tables", Mix { budget, ..TWO_TABLES });
    either_order(&found);
    assert!(found.seen.landed_late > 0 && found.seen.already_committed > 0, "{found:?}");
    assert!(found.seen.crashed_between > 0 && found.seen.went_on > 0, "{found:?}");
}

#[test]
fn a_table_that_is_ahead_of_the_other_drops_what_it_has() {
    let budget = Budget { crashes: 1, ..NOTHING };
    let found = sound("two tables, longer log", Mix { items: [2, 0], budget, ..TWO_TABLES });
    either_order(&found);
    assert!(found.seen.began_apart > 0 && found.seen.dropped > 0, "{found:?}");
    assert!(found.seen.crashed_between > 0, "{found:?}");
}

#[test]
fn local_state_lost_or_old_leaves_two_tables_of_a_flow_exact() {
    let budget = Budget { crashes: 2, losses: 1, restores: 1, late: 1, expirations: 1, ..NOTHING };
    let found = sound("two tables, local state", Mix { budget, ..TWO_TABLES });
    either_order(&found);
    assert!(found.seen.crashed_between > 0 && found.seen.began_apart > 0, "{found:?}");
}

#[test]
fn a_table_that_is_refused_lets_the_other_come_to_its_end() {
    let budget = Budget { crashes: 1, rollbacks: 1, ..NOTHING };
    let mix = Mix { items: [2, 0], budget, ..TWO_TABLES };
    let found = sound("two tables, rollback of one", mix);
    either_order(&found);
    assert!(found.seen.refused > 0 && found.seen.went_on > 0, "{found:?}");
    assert!(found.seen.crashed_between > 0, "{found:?}");
}

#[test]
fn a_table_that_is_refused_after_a_rejection_of_the_other_lets_the_next_run_end_that() {
    let budget = Budget { answers: 1, rollbacks: 1, ..NOTHING };
    let mix = Mix { items: [2, 0], budget, ..TWO_TABLES };
    let found = sound("two tables, rejection of one and rollback of the other", mix);
    assert!(found.seen.refused > 0 && found.seen.went_on > 0, "{found:?}");
}

#[test]
fn partitions_that_move_leave_two_tables_of_a_flow_exact() {
    let budget = Budget { crashes: 1, moves: 1, ..NOTHING };
    let found = sound("two tables, group", Mix { tables: 2, budget, ..EACH_READS_ONE });
    either_order(&found);
    assert!(found.seen.superseded > 0 && found.seen.crashed_between > 0, "{found:?}");
}

/// What the promise about deleted files stands on: that a catalog gives no sequence number twice.
#[test]
fn a_catalog_that_takes_old_sequence_numbers_could_show_deleted_files_after_a_rollback() {
    let budget = Budget { late: 1, appends: 1, rollbacks: 1, ..NOTHING };
    let mix = Mix { items: [1, 0], takes_old_numbers: true, budget, ..BOTH_READ_ALL };
    let trace = search(&mix, MANY).violation.expect("a violation");
    println!("model, old sequence numbers: {trace}");
    assert_eq!(trace.violation.id, "I8", "{trace}");
    let sound = search(&Mix { takes_old_numbers: false, ..mix }, MANY);
    assert!(sound.complete && sound.violation.is_none(), "{sound:?}");
}

/// Tests of the test: a protocol without one of its measures is caught, and with it is not.
#[cfg(feature = "faults")]
mod broken_variants {
    use super::super::LIVE;
    use super::*;
    use crate::broken::{Variant, with};

    fn caught(variant: Variant, items: u8, violated: &str) {
        caught_with(1, variant, items, violated);
    }

    fn caught_with(tables: usize, variant: Variant, items: u8, violated: &str) {
        let budget = Budget { answers: 1, appends: 1, ..NOTHING };
        let mix = Mix { tables, items: [items, 0], budget, ..BOTH_READ_ALL };
        caught_in(&mix, variant, violated);
    }

    fn caught_in(mix: &Mix, variant: Variant, violated: &str) {
        let found = with(Some(variant), || search(mix, MANY));
        let trace = found.violation.expect("a violation");
        println!("model, {}, {} states: {trace}", variant.name(), found.states);
        assert_eq!(trace.violation.id, violated, "{trace}");
        let sound = with(None, || search(mix, MANY));
        assert!(sound.complete && sound.violation.is_none(), "{sound:?}");
    }

    #[test]
    fn admission_that_only_asks_whether_the_ledger_is_elsewhere_is_caught() {
        caught(Variant::NotEqualOnly, 2, "I1");
    }

    #[test]
    fn a_retry_that_does_not_read_the_ledger_is_caught() {
        caught(Variant::RetryWithoutReading, 2, "I1");
    }

    #[test]
    fn a_ledger_that_is_only_looked_for_in_the_head_is_caught() {
        caught(Variant::MarkerOnlyInHead, 1, "I1");
        caught(Variant::MarkerOnlyInHead, 2, LIVE);
    }

    #[test]
    fn a_checkpoint_that_is_finalized_before_its_commit_is_caught() {
        caught(Variant::FinalizeBeforeCommit, 2, "I5");
    }

    #[test]
    fn variants_are_caught_with_two_tables_in_the_flow() {
        caught_with(2, Variant::FinalizeBeforeCommit, 1, "I5");
        caught_with(2, Variant::RetryWithoutReading, 1, "I1");
        caught_with(2, Variant::MarkerOnlyInHead, 1, "I1");
    }

    #[test]
    fn files_that_are_deleted_without_proof_are_caught() {
        let budget = Budget { answers: 1, expirations: 1, ..NOTHING };
        let mix = Mix { items: [2, 0], budget, ..BOTH_READ_ALL };
        caught_in(&mix, Variant::DeleteWithoutProof, "I8");
    }
}
