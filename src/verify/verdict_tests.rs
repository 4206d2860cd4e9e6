use super::fixtures::{TOPIC, World, tp, verdicts};
use crate::protocol::{OffsetRange, TopicPartition};
use crate::verify::finding::{Kind, Verdict};
use crate::verify::rows::Rows;

#[test]
fn a_clean_table_is_proved_from_its_first_offset_to_the_ledger() {
    let judgement = World::two_commits().judge();
    assert_eq!(judgement.findings, []);
    assert!(judgement.is_clean());
    let first = &judgement.partitions[0];
    assert_eq!((first.from, first.ledger, first.ranges), (Some(0), Some(20), 2));
    assert_eq!((first.rows, first.repeated, first.missing, first.extra), (Some(20), 0, 0, 0));
    assert_eq!(verdicts(&judgement), [Verdict::Proved; 2]);
}

#[test]
fn holes_between_offsets_and_commits_without_rows_are_no_violation() {
    let mut world = World::new();
    world.commit_from(&[(0, 40)], 40, |_| true);
    world.commit_from(&[(0, 1_000_000)], 0, |offset| offset % 1000 != 7);
    world.commit_from(&[(0, 1_000_500)], 0, |_| true);
    assert_eq!(world.kinds(), []);
}

#[test]
fn a_table_without_ledger_and_rows_is_clean_and_says_that_nothing_was_begun() {
    assert_eq!(World::new().kinds(), [Kind::NotBegun]);
    assert!(World::new().judge().is_clean());
}

#[test]
fn rows_of_the_topic_without_a_ledger_are_a_violation() {
    let mut world = World::new();
    world.rows.push((tp(0), 3));
    world.evidence.other_topics.insert(TOPIC.into(), "other".into());
    let finding = world.only(Kind::RowsAboveLedger);
    assert!(finding.violation && finding.detail.contains("pipeline other"), "{finding:?}");
}

#[test]
fn a_repeated_row_is_found_with_its_offset() {
    let mut world = World::two_commits();
    world.rows.extend([(tp(1), 13), (tp(1), 13), (tp(1), 4)]);
    let finding = world.only(Kind::RowsRepeated);
    assert_eq!((finding.invariant, finding.partition.clone()), ("I1", Some(tp(1))));
    assert!(finding.detail.starts_with("3 rows repeat an offset: offsets 4, 13"), "{finding:?}");
    let judgement = world.judge();
    assert_eq!(judgement.partitions[1].repeated, 3);
    assert_eq!(verdicts(&judgement), [Verdict::Proved, Verdict::Violated]);
}

#[test]
fn a_file_added_twice_by_others_is_found_and_named() {
    let mut world = World::two_commits();
    let again: Vec<_> = world.rows.iter().take(10).cloned().collect();
    world.rows.extend(again);
    world.foreign("append", 30).added = 10;
    let finding = world.only(Kind::RowsRepeated);
    assert!(finding.detail.contains("snapshot 777 (foreign, append"), "{finding:?}");
}

#[test]
fn a_missing_row_of_dense_offsets_is_named_exactly() {
    let mut world = World::two_commits();
    world.remove(1, 17);
    let finding = world.only(Kind::RowsMissing);
    assert_eq!(finding.partition, Some(tp(1)));
    assert!(finding.detail.contains("wrote 20 rows; offsets 17"), "{finding:?}");
    assert_eq!(world.judge().partitions[1].missing, 1);
}

#[test]
fn a_missing_row_among_holes_puts_the_partitions_of_its_commit_in_doubt() {
    let mut world = World::new();
    world.commit_from(&[(0, 10), (1, 10)], 0, |offset| offset % 2 == 0);
    world.commit(&[(2, 10)]);
    world.remove(0, 5);
    let finding = world.only(Kind::RowsMissing);
    assert_eq!(finding.partition, None);
    assert!(finding.detail.contains("readings[0], readings[1]"), "{finding:?}");
    let judgement = world.judge();
    assert!(!judgement.is_clean());
    assert_eq!(verdicts(&judgement), [Verdict::InDoubt, Verdict::InDoubt, Verdict::Proved]);
}

#[test]
fn a_repeated_row_does_not_hide_a_missing_one() {
    let mut world = World::two_commits();
    world.remove(0, 3);
    world.rows.push((tp(0), 4));
    assert_eq!(world.kinds(), [Kind::RowsRepeated, Kind::RowsMissing]);
}

#[test]
fn a_row_at_or_above_the_ledger_is_found() {
    let mut world = World::two_commits();
    world.rows.push((tp(0), 20));
    let finding = world.only(Kind::RowsAboveLedger);
    assert!(finding.detail.contains("offsets 20"), "{finding:?}");
    world.rows.push((tp(7), 0));
    assert_eq!(world.kinds(), [Kind::RowsAboveLedger; 2]);
}

#[test]
fn more_rows_than_a_commit_wrote_are_found() {
    let mut world = World::new();
    world.commit_from(&[(0, 10)], 0, |offset| offset == 3);
    world.rows.push((tp(0), 3));
    let finding = world.only(Kind::RowsExtra);
    assert!(finding.detail.contains("has 10 rows in its ranges but wrote 9"), "{finding:?}");
}

#[test]
fn rows_below_the_first_offset_read_are_found() {
    let mut world = World::new();
    world.commit_from(&[(0, 40)], 30, |_| false);
    world.rows.push((tp(0), 29));
    assert_eq!(world.kinds(), [Kind::RowsBeforeBeginning]);
    world.foreign("append", 1).added = 1;
    assert_eq!(world.kinds(), [Kind::RowsUnproved], "somebody else put them there before");
}

#[test]
fn a_gap_in_the_journal_is_found() {
    let mut world = World::two_commits();
    world.commit(&[(0, 30)]);
    let journal = &mut world.evidence.view.journal;
    journal[2].ranges.insert(tp(0), OffsetRange { start: 22, end: 30 });
    journal[2].rows.written -= 2;
    world.rows.retain(|(_, offset)| !(20..22).contains(offset));
    let finding = world.only(Kind::JournalGap);
    assert!(
        finding.detail.contains("[20, 22) is missing between snapshot 102 and snapshot 103"),
        "{finding:?}"
    );
    assert_eq!(world.kinds(), [Kind::JournalGap]);
}

#[test]
fn an_overlap_in_the_journal_is_found() {
    let mut world = World::two_commits();
    world.commit_from(&[(0, 30)], 0, |_| true);
    world.evidence.view.journal[2].ranges.insert(tp(0), OffsetRange { start: 15, end: 30 });
    let finding = world.only(Kind::JournalOverlap);
    assert_eq!((finding.invariant, finding.partition.clone()), ("I1", Some(tp(0))));
    assert!(
        finding.detail.contains("[15, 20) is in both snapshot 102 and snapshot 103"),
        "{finding:?}"
    );
}

#[test]
fn a_ledger_ahead_of_the_journal_is_found() {
    let mut world = World::two_commits();
    let ledger = world.evidence.view.ledger.as_mut().expect("committed");
    ledger.frontier.set(tp(0), 21);
    ledger.frontier.set(tp(5), 9);
    let findings = world.judge().findings;
    let found: Vec<_> = findings.iter().map(|f| (f.kind, f.partition.clone())).collect();
    assert_eq!(found, [(Kind::LedgerAhead, Some(tp(0))), (Kind::LedgerAhead, Some(tp(5)))]);
}

#[test]
fn a_ledger_behind_the_journal_is_found() {
    let mut world = World::two_commits();
    let ledger = world.evidence.view.ledger.as_mut().expect("committed");
    ledger.frontier.set(tp(0), 12);
    ledger.frontier.0.remove(&tp(1));
    let kinds = world.kinds();
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::LedgerBehind).count(), 2, "{kinds:?}");
    assert_eq!(world.only(Kind::RowsAboveLedger).partition, Some(tp(0)));
}

#[test]
fn a_table_that_was_rolled_back_is_found() {
    let mut world = World::two_commits();
    world.evidence.view.journal[1].in_ancestry = false;
    world.evidence.view.head = Some(101);
    world.rows.retain(|(_, offset)| *offset < 10);
    let finding = world.only(Kind::History);
    assert!(finding.detail.contains("rolled back"), "{finding:?}");
    assert!(!world.judge().is_clean());
}

#[test]
fn a_ledger_commit_that_no_snapshot_shows_is_found_unless_some_were_expired() {
    let mut world = World::two_commits();
    world.evidence.view.journal.clear();
    assert!(world.kinds().contains(&Kind::History));
    world.evidence.history.complete = false;
    let told = [Kind::Expired, Kind::Expired, Kind::ProvedByRows, Kind::ProvedByRows];
    assert_eq!(world.kinds(), told);
    assert_eq!(verdicts(&world.judge()), [Verdict::Proved; 2]);
    world.rows.push((tp(0), 4));
    assert_eq!(world.kinds()[0], Kind::RowsRepeated);
}

#[test]
fn expired_snapshots_leave_a_proof_from_a_later_offset_on() {
    let mut world = World::two_commits();
    world.expire(1);
    let judgement = world.judge_metadata();
    assert!(judgement.is_clean());
    assert_eq!(verdicts(&judgement), [Verdict::ProvedInPart; 2]);
    let detail = &judgement.findings[0].detail;
    assert!(detail.starts_with("proven from 10 on; what is below was expired"), "{detail}");
    assert!(detail.contains("--rows proves it"), "{detail}");
    assert_eq!(verdicts(&world.judge()), [Verdict::Proved; 2], "each row from 0 on is there");
    world.remove(0, 4);
    let judgement = world.judge();
    assert!(judgement.is_clean(), "a hole in what was expired may be one of the log");
    assert_eq!(verdicts(&judgement), [Verdict::ProvedInPart, Verdict::Proved]);
    let finding = world.only(Kind::RowsUnproved);
    assert!(finding.detail.contains("1 offsets between them have none (4)"), "{finding:?}");
    world.remove(0, 14);
    assert_eq!(world.kinds()[0], Kind::RowsMissing);
}

#[test]
fn rows_that_a_foreign_snapshot_deleted_are_named_and_no_violation() {
    let mut world = World::two_commits();
    world.remove(0, 4);
    world.remove(0, 14);
    let foreign = world.foreign("overwrite", 30);
    (foreign.removed, foreign.added) = (20, 18);
    let finding = world.only(Kind::RowsDeletedByOthers);
    assert!(!finding.violation && finding.detail.contains("snapshot 777"), "{finding:?}");
    assert!(world.judge().is_clean());
    world.remove(0, 5);
    let finding = world.only(Kind::RowsMissing);
    assert!(finding.detail.contains("1 rows are missing"), "only two are explained: {finding:?}");
}

#[test]
fn a_foreign_snapshot_does_not_explain_rows_missing_of_later_commits() {
    let mut world = World::two_commits();
    world.foreign("delete", 15).removed = 5;
    world.remove(0, 4);
    assert_eq!(world.kinds(), [Kind::RowsDeletedByOthers]);
    world.remove(0, 14);
    assert_eq!(world.kinds(), [Kind::RowsMissing, Kind::RowsDeletedByOthers]);
}

#[test]
fn a_compaction_explains_no_missing_row_but_is_named() {
    let mut world = World::two_commits();
    let foreign = world.foreign("replace", 30);
    (foreign.removed, foreign.added) = (40, 40);
    assert_eq!(world.kinds(), []);
    world.remove(0, 4);
    let finding = world.only(Kind::RowsMissing);
    assert!(finding.violation && finding.detail.contains("(foreign, replace"), "{finding:?}");
}

#[test]
fn deletes_by_value_explain_any_number_of_missing_rows() {
    let mut world = World::two_commits();
    world.rows.retain(|(tp, _)| tp.partition == 1);
    world.foreign("delete", 30).deleted_by_value = true;
    assert_eq!(world.kinds(), [Kind::RowsDeletedByOthers]);
}

#[test]
fn a_commit_with_more_records_than_offsets_is_found() {
    let mut world = World::two_commits();
    world.evidence.view.journal[0].rows.skipped = 1;
    let finding = world.only(Kind::CommitTooFull);
    assert_eq!(finding.invariant, "I10");
}

#[test]
fn rows_of_other_topics_belong_to_another_pipeline_or_to_nobody() {
    let mut world = World::two_commits();
    world.rows.push((TopicPartition::new("other", 0), 1));
    assert_eq!(world.kinds(), [Kind::RowsUnaccounted]);
    world.evidence.other_topics.insert("other".into(), "q".into());
    assert_eq!(world.kinds(), [Kind::RowsOfOtherPipeline]);
}

#[test]
fn rows_without_position_are_told_and_no_violation() {
    let mut world = World::two_commits();
    world.without_position = 4;
    assert_eq!(world.kinds(), [Kind::RowsWithoutPosition]);
}

#[test]
fn without_offset_columns_only_the_number_of_rows_is_judged_and_that_is_said() {
    let mut world = World::two_commits();
    let count = |total| Rows::CountOnly { total, lacking: vec![String::from("_kafka_offset")] };
    world.evidence.rows = count(40);
    assert_eq!(world.kinds(), [Kind::CountOnly]);
    assert_eq!(verdicts(&world.judge()), [Verdict::Counted; 2]);
    world.evidence.rows = count(39);
    assert_eq!(world.kinds(), [Kind::RowsMissing, Kind::CountOnly]);
    world.evidence.rows = count(41);
    assert_eq!(world.kinds(), [Kind::RowsExtra, Kind::CountOnly]);
    world.foreign("append", 30).added = 1;
    assert_eq!(world.kinds(), [Kind::CountOnly]);
    world.expire(1);
    world.evidence.rows = count(7);
    assert!(world.judge().is_clean(), "nothing can be said");
}
