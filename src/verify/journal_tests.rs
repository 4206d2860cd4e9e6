//! What metadata alone proves: ranges, counts, edits.

use std::collections::BTreeMap;

use super::fixtures::{TOPIC, World, tp, verdicts};
use super::*;
use crate::protocol::{Edit, Offset, OffsetRange};
use crate::table::LiveFile;
use crate::verify::finding::{Kind, Verdict};

fn range(start: Offset, end: Offset) -> OffsetRange {
    OffsetRange { start, end }
}

/// The findings of a judgement on metadata alone.
fn found(world: &World) -> Vec<(Kind, Option<OffsetRange>, Vec<i64>)> {
    let findings = world.judge_metadata().findings;
    findings.into_iter().map(|f| (f.kind, f.range, f.snapshots)).collect()
}

#[test]
fn metadata_alone_proves_that_the_commits_follow_each_other() {
    let judgement = World::two_commits().judge_metadata();
    assert_eq!(judgement.findings, []);
    assert_eq!(verdicts(&judgement), [Verdict::Proved; 2]);
    let first = &judgement.partitions[0];
    assert_eq!((first.from, first.ledger, first.rows), (Some(0), Some(20), None));
}

#[test]
fn a_gap_is_told_as_the_exact_range_between_two_snapshots() {
    let mut world = World::two_commits();
    world.commit(&[(0, 30)]);
    world.evidence.view.journal[2].ranges.insert(tp(0), range(25, 30));
    world.evidence.view.journal[2].rows.written = 5;
    assert_eq!(found(&world), [(Kind::JournalGap, Some(range(20, 25)), vec![102, 103])]);
}

#[test]
fn an_overlap_is_told_with_every_snapshot_that_has_the_range() {
    let mut world = World::two_commits();
    world.commit(&[(0, 30)]);
    world.evidence.view.journal[2].ranges.insert(tp(0), range(5, 30));
    let both =
        |start, end, snapshot| (Kind::JournalOverlap, Some(range(start, end)), vec![snapshot, 103]);
    assert_eq!(found(&world), [both(5, 10, 101), both(10, 20, 102)]);
}

#[test]
fn a_commit_out_of_order_is_told_although_no_offset_is_lost_or_repeated() {
    let mut world = World::two_commits();
    world.commit(&[(0, 30)]);
    let journal = &mut world.evidence.view.journal;
    journal[1].ranges.insert(tp(0), range(20, 30));
    journal[2].ranges.insert(tp(0), range(10, 20));
    let kinds: Vec<Kind> = found(&world).into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [Kind::JournalGap, Kind::JournalOverlap, Kind::LedgerAhead]);
}

#[test]
fn a_ledger_that_is_not_where_the_commits_end_is_told_with_the_range() {
    let mut world = World::two_commits();
    world.evidence.view.ledger.as_mut().unwrap().frontier.set(tp(0), 21);
    assert_eq!(found(&world), [(Kind::LedgerAhead, Some(range(20, 21)), vec![102])]);
    world.evidence.view.ledger.as_mut().unwrap().frontier.set(tp(0), 12);
    assert_eq!(found(&world), [(Kind::LedgerBehind, Some(range(12, 20)), vec![102])]);
}

#[test]
fn a_snapshot_that_added_other_rows_than_its_commit_wrote_is_found() {
    let mut world = World::two_commits();
    world.evidence.history.added = BTreeMap::from([(101, 20), (102, 20)]);
    assert_eq!(found(&world), []);
    world.evidence.history.added.insert(102, 19);
    assert_eq!(found(&world), [(Kind::CountsDisagree, None, vec![])]);
}

#[test]
fn files_that_hold_other_rows_than_the_journal_counts_are_found() {
    let mut world = World::two_commits();
    let mut files = world.files();
    files[1].rows = 21;
    world.files = Some(files.clone());
    assert_eq!(found(&world), [(Kind::CountsDisagree, None, vec![])]);
    files[1].rows = 19;
    world.files = Some(files.clone());
    assert_eq!(found(&world), [(Kind::RowsMissing, None, vec![])]);
    assert!(world.judge_metadata().findings[0].detail.contains("of which 1 are in no data file"));
}

#[test]
fn a_file_that_is_in_the_table_twice_is_found_and_named() {
    let mut world = World::two_commits();
    let mut files = world.files();
    files.push(LiveFile { snapshot_id: Some(777), ..files[0].clone() });
    world.files = Some(files);
    world.foreign("append", 30).added = 20;
    assert_eq!(found(&world), [(Kind::FileRepeated, None, vec![])]);
    let detail = &world.judge_metadata().findings[0].detail;
    assert!(detail.contains("data file c1.parquet") && detail.contains("snapshot 777"), "{detail}");
}

#[test]
fn files_that_others_rewrote_are_told_and_left_to_the_rows() {
    let mut world = World::two_commits();
    let mut files = world.files();
    for file in &mut files {
        file.path.push_str(".rewritten");
        file.snapshot_id = Some(777);
    }
    world.files = Some(files);
    let foreign = world.foreign("replace", 30);
    (foreign.removed, foreign.added) = (40, 40);
    assert_eq!(found(&world), [(Kind::FilesRewritten, None, vec![])]);
    assert_eq!(world.kinds(), []);
    world.evidence.history.foreign[0].removed = 39;
    let kinds: Vec<Kind> = found(&world).into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [Kind::RowsMissing, Kind::FilesRewritten], "only 39 were removed");
}

#[test]
fn a_skip_is_no_gap_and_the_lost_offsets_are_told() {
    let mut world = World::two_commits();
    world.edit(Edit::Skip, &[(0, 20, 35)]);
    world.commit(&[(0, 40), (1, 25)]);
    assert_eq!(found(&world), [(Kind::Skipped, Some(range(20, 35)), vec![103])]);
    let judgement = world.judge();
    assert!(judgement.is_clean());
    assert_eq!(verdicts(&judgement), [Verdict::Proved; 2]);
    assert_eq!(judgement.partitions[0].lost, [range(20, 35)]);
    world.rows.push((tp(0), 30));
    assert_eq!(world.kinds(), [Kind::RowsExtra, Kind::Skipped]);
}

#[test]
fn a_rewound_ledger_is_contiguous_without_what_was_rolled_back() {
    let mut world = World::two_commits();
    world.commit(&[(0, 30), (1, 30)]);
    world.evidence.view.journal[2].in_ancestry = false;
    world.rows.retain(|(_, offset)| *offset < 20);
    assert!(world.kinds().contains(&Kind::History), "rolled back, not yet rewound");
    let frontier = &mut world.evidence.view.ledger.as_mut().unwrap().frontier;
    frontier.set(tp(0), 20);
    frontier.set(tp(1), 20);
    world.edit(Edit::Rewind { to_snapshot: 102 }, &[(2, 7, 7)]);
    world.commit(&[(0, 33), (2, 9)]);
    assert_eq!(world.kinds(), [Kind::Rewound]);
    assert_eq!(verdicts(&world.judge()), [Verdict::Proved; 3]);
}

fn reset() -> Edit {
    Edit::Reset {
        topic: TOPIC.into(),
        old_id: "a".into(),
        new_id: "b".into(),
        from: BTreeMap::from([(0, 20), (1, 20)]),
    }
}

/// Two commits, a reset of both partitions, and a commit of the topic as it was made again.
fn reset_world() -> World {
    let mut world = World::two_commits();
    world.edit(reset(), &[(0, 0, 0)]);
    world.commit(&[(0, 15), (1, 8)]);
    world
}

#[test]
fn after_a_reset_the_same_offsets_are_other_records() {
    let world = reset_world();
    assert_eq!(found(&world), [(Kind::Reset, None, vec![])]);
    let judgement = world.judge();
    assert!(judgement.is_clean(), "{:?}", judgement.findings);
    let told: Vec<_> = judgement
        .partitions
        .iter()
        .map(|p| (p.partition, p.era, p.ledger, p.rows, p.verdict))
        .collect();
    let proved = |partition, era, end: Offset| {
        (partition, Some(era), Some(end), Some(end.unsigned_abs()), Verdict::Proved)
    };
    assert_eq!(told, [proved(0, 0, 20), proved(0, 1, 15), proved(1, 0, 20), proved(1, 1, 8)]);
}

#[test]
fn each_side_of_a_reset_is_judged_by_its_own_rows() {
    let mut world = reset_world();
    world.rows.push((tp(0), 3));
    assert_eq!(world.kinds(), [Kind::RowsRepeated, Kind::Reset]);
    world = reset_world();
    world.remove(0, 3);
    assert_eq!(world.kinds(), [Kind::RowsMissing, Kind::Reset]);
    let finding = world.only(Kind::RowsMissing);
    assert!(finding.detail.contains("offsets 3 (since the last reset)"), "{finding:?}");
    world = reset_world();
    world.before_resets[0].retain(|row| *row != (tp(1), 19));
    let finding = world.only(Kind::RowsMissing);
    assert!(finding.detail.ends_with("19 (before the reset of snapshot 103)"), "{finding:?}");
    world = reset_world();
    world.rows.push((tp(0), 17));
    assert_eq!(world.kinds(), [Kind::RowsAboveLedger, Kind::Reset], "of 15, not of 20");
}

#[test]
fn the_ledger_that_a_reset_ended_is_where_its_commits_ended() {
    let mut world = reset_world();
    let Some(Edit::Reset { from, .. }) = &mut world.evidence.view.journal[2].edit else { panic!() };
    from.insert(1, 23);
    let ahead = (Kind::LedgerAhead, Some(range(20, 23)), vec![102]);
    assert_eq!(found(&world), [ahead, (Kind::Reset, None, vec![])]);
}

#[test]
fn rows_rewritten_since_a_reset_cannot_be_told_apart_and_still_must_be_as_many() {
    let mut world = reset_world();
    world.mixed = world.before_resets.remove(0);
    world.mixed.append(&mut world.rows);
    world.before_resets.push(Vec::new());
    let foreign = world.foreign("overwrite", 50);
    (foreign.removed, foreign.added) = (63, 63);
    assert_eq!(world.kinds(), [Kind::Reset, Kind::RowsUnproved, Kind::RowsUnproved]);
    let judgement = world.judge();
    assert!(judgement.findings[1].detail.contains("snapshot 777"), "{:?}", judgement.findings);
    assert!(verdicts(&judgement).iter().all(|verdict| *verdict == Verdict::Unproved));
    let row = world.mixed.pop().unwrap();
    assert!(world.kinds().contains(&Kind::RowsMissing));
    world.mixed.extend([row.clone(), row]);
    assert!(world.kinds().contains(&Kind::RowsExtra));
}

#[test]
fn where_a_reset_may_have_been_expired_older_rows_are_not_judged() {
    let mut world = reset_world();
    world.expire(3);
    let eras = eras::Eras::of(&world.evidence.view, false);
    assert_eq!(eras.since(39, false), eras::Since::Hidden);
    assert_eq!(eras.since(40, false), eras::Since::Passed(0));
    assert_eq!(eras.since(50, true), eras::Since::AtMost(0));
    world.evidence.view.ledger.as_mut().unwrap().generation = 0;
    assert!(eras::Eras::of(&world.evidence.view, false).is_one());
}
