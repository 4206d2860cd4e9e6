//! Any sequence of commits is clean, and any single fault is found.

use proptest::prelude::*;
use proptest::sample::Index;

use super::fixtures::{World, tp};
use crate::protocol::{Offset, OffsetRange, TopicPartition};

/// One commit: for each of three partitions how far it moves, and which offsets are holes.
type Step = ([Offset; 3], Offset);

fn build(steps: &[Step], begin: Offset) -> World {
    let mut world = World::new();
    for (lengths, modulus) in steps {
        let frontier = world.evidence.view.ledger.clone().map(|l| l.frontier).unwrap_or_default();
        let next = |partition| frontier.get(&tp(partition)).unwrap_or(begin);
        let ends: Vec<_> = (0..3)
            .zip(lengths)
            .filter(|(_, length)| **length > 0)
            .map(|(partition, length)| (partition, next(partition) + length))
            .collect();
        world.commit_from(&ends, begin, |offset| offset % modulus == 0);
    }
    world
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lengths = prop::array::uniform3(0_i64..50);
    prop::collection::vec((lengths, 2_i64..9), 1..8)
}

#[derive(Clone, Debug)]
enum Fault {
    LoseRow,
    RepeatRow,
    RowAboveLedger,
    LedgerForward,
    LedgerBack,
    Count(bool),
    StretchRange,
    ShiftRange,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::LoseRow),
        Just(Fault::RepeatRow),
        Just(Fault::RowAboveLedger),
        Just(Fault::LedgerForward),
        Just(Fault::LedgerBack),
        any::<bool>().prop_map(Fault::Count),
        Just(Fault::StretchRange),
        Just(Fault::ShiftRange),
    ]
}

/// Breaks the table in one place; false if there is no such place in it.
fn inject(world: &mut World, fault: &Fault, at: Index) -> bool {
    let view = &mut world.evidence.view;
    let Some(ledger) = view.ledger.as_mut() else { return false };
    let partitions: Vec<_> = ledger.frontier.iter().map(|(tp, next)| (tp.clone(), next)).collect();
    if partitions.is_empty() || view.journal.is_empty() {
        return false;
    }
    let (tp, next) = partitions[at.index(partitions.len())].clone();
    let entry = at.index(view.journal.len());
    // Only what is still in the journal can be missed.
    let shown: Vec<usize> = (0..world.rows.len())
        .filter(|row| {
            let (tp, offset) = &world.rows[*row];
            let within = |range: &OffsetRange| (range.start..range.end).contains(offset);
            view.journal.iter().any(|entry| entry.ranges.get(tp).is_some_and(within))
        })
        .collect();
    match fault {
        Fault::LoseRow if shown.is_empty() => return false,
        Fault::LoseRow => drop(world.rows.remove(shown[at.index(shown.len())])),
        Fault::RepeatRow if world.rows.is_empty() => return false,
        Fault::RepeatRow => {
            let row = world.rows[at.index(world.rows.len())].clone();
            world.rows.push(row);
        }
        Fault::RowAboveLedger => world.rows.push((tp, next + at.index(100) as i64)),
        Fault::LedgerForward => ledger.frontier.set(tp, next + 1),
        Fault::LedgerBack => ledger.frontier.set(tp, next - 1),
        Fault::Count(true) => view.journal[entry].rows.written += 1,
        Fault::Count(false) if view.journal[entry].rows.written == 0 => return false,
        Fault::Count(false) => view.journal[entry].rows.written -= 1,
        Fault::StretchRange => match view.journal[entry].ranges.values_mut().next() {
            Some(range) => range.end += 1,
            None => return false,
        },
        Fault::ShiftRange => {
            // The first range of a partition may begin anywhere: it continues nothing.
            let (earlier, later) = view.journal.split_at_mut(entry);
            let begun = |tp: &TopicPartition| earlier.iter().any(|e| e.ranges.contains_key(tp));
            let mut ranges = later[0].ranges.iter_mut().filter(|(tp, _)| begun(tp));
            match ranges.next() {
                Some((_, range)) => range.start -= 1,
                None => return false,
            }
        }
    }
    true
}

/// Partitions whose every commit was expired can only be judged by repeats: their ledger cannot
/// be told to be wrong unless a row contradicts it.
fn ledger_fault_is_visible(world: &World, fault: &Fault, at: Index) -> bool {
    let Some(ledger) = &world.evidence.view.ledger else { return false };
    let partitions: Vec<_> = ledger.frontier.iter().map(|(tp, _)| tp.clone()).collect();
    let tp = &partitions[at.index(partitions.len())];
    match fault {
        Fault::LedgerForward | Fault::LedgerBack => {
            world.evidence.view.journal.iter().any(|entry| entry.ranges.contains_key(tp))
        }
        _ => true,
    }
}

proptest! {
    #[test]
    fn any_sequence_of_commits_is_clean_however_many_were_expired(
        steps in steps(), begin in 0_i64..70_000, expired in any::<Index>(),
    ) {
        let mut world = build(&steps, begin);
        world.expire(expired.index(steps.len() + 1));
        let judgement = world.judge();
        prop_assert!(judgement.is_clean(), "{:?}", judgement.findings);
    }

    #[test]
    fn any_single_fault_in_what_is_shown_is_found(
        steps in steps(), begin in 1_i64..70_000, expired in any::<Index>(),
        fault in fault(), at in any::<Index>(),
    ) {
        let mut world = build(&steps, begin);
        world.expire(expired.index(steps.len()));
        prop_assume!(inject(&mut world, &fault, at));
        prop_assume!(ledger_fault_is_visible(&world, &fault, at));
        prop_assert!(!world.judge().is_clean(), "not found: {:?}", fault);
    }
}
