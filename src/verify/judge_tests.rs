use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::protocol::{
    CommitId, Epoch, Frontier, JournalEntry, Ledger, Offset, OffsetRange, RowCounts, TableView,
    TopicPartition,
};

const TOPIC: &str = "readings";

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

/// A table under test: what it says, and the offset of each row, in any order.
#[derive(Clone, Debug)]
struct World {
    evidence: Evidence,
    rows: Vec<(TopicPartition, Offset)>,
    without_position: u64,
}

impl World {
    fn new() -> Self {
        let view = TableView {
            table_uuid: String::from("u"),
            head: None,
            ledger: None,
            journal: Vec::new(),
        };
        let evidence = Evidence {
            table: String::from("db.readings"),
            pipeline: String::from("p"),
            topic: String::from(TOPIC),
            view,
            history: History { complete: true, foreign: Vec::new() },
            other_topics: std::collections::BTreeMap::new(),
            rows: Rows::ByOffset(RowIndex::default()),
        };
        Self { evidence, rows: Vec::new(), without_position: 0 }
    }

    /// Adds a commit that brings each partition from its ledger (or `begin`) to `end`; the
    /// offsets for which `hole` is true become no rows.
    fn commit_from(
        &mut self,
        ends: &[(i32, Offset)],
        begin: Offset,
        hole: impl Fn(Offset) -> bool,
    ) {
        let number = i64::try_from(self.evidence.view.journal.len()).expect("few") + 1;
        let mut frontier =
            self.evidence.view.ledger.take().map(|ledger| ledger.frontier).unwrap_or_default();
        let mut entry = JournalEntry {
            snapshot_id: 100 + number,
            timestamp_ms: 1_700_000_000_000 + number,
            in_ancestry: true,
            sequence_number: number * 10,
            commit_id: CommitId(format!("c{number}")),
            instance: String::from("i"),
            epoch: Epoch(1),
            ranges: std::collections::BTreeMap::new(),
            rows: RowCounts::default(),
            edit: None,
        };
        for &(partition, end) in ends {
            let start = frontier.get(&tp(partition)).unwrap_or(begin);
            entry.ranges.insert(tp(partition), OffsetRange { start, end });
            frontier.set(tp(partition), end);
            let written = (start..end).filter(|offset| !hole(*offset));
            let before = self.rows.len();
            self.rows.extend(written.map(|offset| (tp(partition), offset)));
            entry.rows.written += (self.rows.len() - before) as u64;
        }
        let view = &mut self.evidence.view;
        view.head = Some(entry.snapshot_id);
        view.ledger = Some(ledger(&entry.commit_id, frontier));
        view.journal.push(entry);
    }

    fn commit(&mut self, ends: &[(i32, Offset)]) {
        self.commit_from(ends, 0, |_| false);
    }

    /// Two commits on two partitions, offsets 0 to 10 and 10 to 20 of each.
    fn two_commits() -> Self {
        let mut world = Self::new();
        world.commit(&[(0, 10), (1, 10)]);
        world.commit(&[(0, 20), (1, 20)]);
        world
    }

    fn expire(&mut self, oldest: usize) {
        self.evidence.view.journal.drain(..oldest);
        self.evidence.history.complete = oldest == 0;
    }

    fn foreign(&mut self, operation: &str, sequence_number: i64) -> &mut ForeignSnapshot {
        self.evidence.history.foreign.push(ForeignSnapshot {
            snapshot_id: 777,
            timestamp_ms: 1_700_000_000_000,
            sequence_number,
            operation: operation.to_owned(),
            ..ForeignSnapshot::default()
        });
        self.evidence.history.foreign.last_mut().expect("just pushed")
    }

    fn remove(&mut self, partition: i32, offset: Offset) {
        let before = self.rows.len();
        self.rows.retain(|row| *row != (tp(partition), offset));
        assert_eq!(self.rows.len(), before - 1);
    }

    fn judge(&self) -> Judgement {
        let mut evidence = self.evidence.clone();
        if let Rows::ByOffset(index) = &mut evidence.rows {
            for (tp, offset) in &self.rows {
                index.insert(&tp.topic, tp.partition, *offset);
            }
            index.without_position = self.without_position;
        }
        judge(&evidence)
    }

    fn kinds(&self) -> Vec<Kind> {
        self.judge().findings.iter().map(|finding| finding.kind).collect()
    }

    /// The only finding of the kind.
    fn only(&self, kind: Kind) -> Finding {
        let judgement = self.judge();
        let mut found = judgement.findings.into_iter().filter(|finding| finding.kind == kind);
        let finding = found.next().expect("the finding");
        assert_eq!(found.next(), None);
        finding
    }
}

fn ledger(commit_id: &CommitId, frontier: Frontier) -> Ledger {
    Ledger {
        cluster_id: String::new(),
        commit_id: commit_id.clone(),
        generation: 0,
        topic_ids: std::collections::BTreeMap::new(),
        frontier,
    }
}

fn verdicts(judgement: &Judgement) -> Vec<Verdict> {
    judgement.partitions.iter().map(|partition| partition.verdict).collect()
}

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
    assert!(finding.detail.contains("offsets 20 to 21 are in no commit"), "{finding:?}");
    assert_eq!(world.kinds(), [Kind::JournalGap]);
}

#[test]
fn an_overlap_in_the_journal_is_found() {
    let mut world = World::two_commits();
    world.commit_from(&[(0, 30)], 0, |_| true);
    world.evidence.view.journal[2].ranges.insert(tp(0), OffsetRange { start: 15, end: 30 });
    let finding = world.only(Kind::JournalOverlap);
    assert_eq!((finding.invariant, finding.partition.clone()), ("I1", Some(tp(0))));
    assert!(finding.detail.contains("offsets 15 to 19 are in two commits"), "{finding:?}");
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
    assert_eq!(world.kinds(), [Kind::Expired; 2]);
    assert_eq!(verdicts(&world.judge()), [Verdict::Unproved; 2]);
    world.rows.push((tp(0), 4));
    assert_eq!(world.kinds()[0], Kind::RowsRepeated);
}

#[test]
fn expired_snapshots_leave_a_proof_from_a_later_offset_on() {
    let mut world = World::two_commits();
    world.expire(1);
    let judgement = world.judge();
    assert!(judgement.is_clean());
    assert_eq!(verdicts(&judgement), [Verdict::ProvedInPart; 2]);
    assert!(judgement.findings[0].detail.contains("proved from offset 10 on"));
    world.remove(0, 4);
    assert!(world.judge().is_clean(), "what was expired cannot be judged");
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
