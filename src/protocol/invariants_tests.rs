use super::*;
use crate::protocol::fixtures::*;
use crate::protocol::{Checkpoint, PendingFile};

fn id(result: Result<(), Violation>) -> &'static str {
    result.unwrap_err().id.name()
}

#[test]
fn an_invariant_is_cited_by_its_number() {
    let cited: Vec<String> = InvariantId::COUNTED.iter().map(ToString::to_string).collect();
    assert_eq!(cited, ["I1", "I2", "I3", "I5", "I6", "I7", "I8", "I9", "I10"]);
    assert_eq!(InvariantId::I4.to_string(), "I4");
}

#[test]
fn i1_a_journal_that_repeats_skips_or_misses_the_ledger_is_found() {
    let two = |start| vec![entry(1, "a", &[(0, 0, 10)]), entry(2, "b", &[(0, start, 20)])];
    let at = |next| Some(ledger("b", &[(0, next)]));
    assert_eq!(journal_is_contiguous(&full_view(at(20), two(10))), Ok(()));
    let broken = [(20, 9), (20, 11), (21, 10)];
    for (next, start) in broken {
        let broken = full_view(at(next), two(start));
        assert_eq!(id(journal_is_contiguous(&broken)), "I1");
    }
    let mut beside = two(10);
    beside.push(outside(entry(3, "c", &[(0, 20, 30)])));
    assert_eq!(journal_is_contiguous(&full_view(at(20), beside)), Ok(()));
}

#[test]
fn i1_a_journal_begins_anew_where_a_topic_was_reset() {
    let mut reset = entry(2, "r", &[]);
    let (topic, from) = (String::from("readings"), BTreeMap::from([(0, 10)]));
    let (old_id, new_id) = (String::from("topic-1"), String::from("topic-2"));
    reset.edit = Some(Edit::Reset { topic, old_id, new_id, from });
    let entries = |start| {
        vec![
            entry(1, "a", &[(0, 0, 10), (1, 0, 5)]),
            reset.clone(),
            entry(3, "b", &[(0, start, 20)]),
        ]
    };
    let at = |next: &[(i32, Offset)]| Some(ledger("b", next));
    assert_eq!(journal_is_contiguous(&full_view(at(&[(0, 20), (1, 5)]), entries(0))), Ok(()));
    assert_eq!(journal_is_contiguous(&full_view(at(&[(0, 20), (1, 5)]), entries(17))), Ok(()));
    assert_eq!(id(journal_is_contiguous(&full_view(at(&[(0, 20)]), entries(0)))), "I1");
}

#[test]
fn i2_a_second_open_epoch_is_found() {
    assert_eq!(one_epoch_is_open(None, Epoch(2)), Ok(()));
    assert_eq!(id(one_epoch_is_open(Some(Epoch(1)), Epoch(2))), "I2");
}

#[test]
fn i3_a_pending_commit_that_does_not_continue_is_found() {
    let commit = pending("x", &[(0, 10)], &[(0, 10, 20)]);
    assert_eq!(pending_is_contiguous(&commit), Ok(()));
    assert_eq!(pending_continues(&commit, &frontier(&[(0, 10), (1, 4)])), Ok(()));
    assert_eq!(id(pending_continues(&commit, &frontier(&[(0, 11)]))), "I3");
    assert_eq!(id(pending_continues(&commit, &frontier(&[]))), "I3");
    for moved in [(0, 9, 20), (0, 10, 9), (1, -1, 3)] {
        assert_eq!(id(pending_is_contiguous(&pending("x", &[(0, 10)], &[moved]))), "I3");
    }
}

#[test]
fn i4_a_request_that_was_not_prepared_is_found() {
    let commit = pending("x", &[], &[(0, 0, 1)]);
    let name = commit.commit_id.clone();
    let synced = Checkpoint { epoch: Epoch(4), frontiers: BTreeMap::new(), pending: vec![commit] };
    assert_eq!(request_is_prepared(Some(&synced), &name), Ok(()));
    assert_eq!(id(request_is_prepared(Some(&synced), &CommitId("y".into()))), "I4");
    assert_eq!(id(request_is_prepared(None, &name)), "I4");
}

#[test]
fn i5_a_commit_finalized_before_the_table_shows_it_is_found() {
    let shown = view(Some(ledger("b", &[(0, 2)])), vec![entry(1, "a", &[(0, 0, 1)])]);
    for commit in ["a", "b"] {
        assert_eq!(finalized_is_shown(&shown, &CommitId(commit.into())), Ok(()));
    }
    assert_eq!(id(finalized_is_shown(&shown, &CommitId("c".into()))), "I5");
}

#[test]
fn i6_a_ledger_that_goes_back_or_forgets_is_found() {
    let old = ledger("a", &[(0, 10)]);
    let check = |new: Option<&Ledger>| ledger_does_not_decrease(Some(&old), new);
    assert_eq!(check(Some(&ledger("b", &[(0, 10), (1, 3)]))), Ok(()));
    assert_eq!(ledger_does_not_decrease(None, Some(&old)), Ok(()));
    assert_eq!(id(check(Some(&ledger("b", &[(0, 9)])))), "I6");
    assert_eq!(id(check(Some(&ledger("b", &[(1, 10)])))), "I6");
    assert_eq!(id(check(None)), "I6");
    let edited = Ledger { generation: 1, ..ledger("b", &[(1, 3)]) };
    assert_eq!(check(Some(&edited)), Ok(()));
    assert_eq!(id(ledger_does_not_decrease(Some(&edited), Some(&old))), "I6");
    assert_eq!(id(ledger_does_not_decrease(Some(&edited), None)), "I6");
}

#[test]
fn i7_a_record_that_did_not_advance_its_partition_is_found() {
    let moved = ranges(&[(0, 0, 5)]);
    assert_eq!(consumed_is_covered(&frontier(&[(0, 5)]), &moved), Ok(()));
    for consumed in [&[(0, 6)][..], &[(0, 4)], &[(1, 1)]] {
        assert_eq!(id(consumed_is_covered(&frontier(consumed), &moved)), "I7");
    }
}

#[test]
fn i8_a_file_in_use_that_is_to_be_deleted_is_found() {
    let used = BTreeSet::from(["a", "b"]);
    assert_eq!(doomed_files_are_unused(["c"], &used), Ok(()));
    assert_eq!(id(doomed_files_are_unused(["c", "b"], &used)), "I8");
}

#[test]
fn i9_a_group_offset_beyond_the_ledger_is_found() {
    let ledger = frontier(&[(0, 10)]);
    assert_eq!(group_is_behind_ledger(&frontier(&[(0, 10)]), &ledger), Ok(()));
    assert_eq!(id(group_is_behind_ledger(&frontier(&[(0, 11)]), &ledger)), "I9");
    assert_eq!(id(group_is_behind_ledger(&frontier(&[(1, 0)]), &ledger)), "I9");
}

#[test]
fn i10_a_record_with_no_fate_or_two_is_found() {
    let rows = RowCounts { written: 5, skipped: 1, dead_lettered: 2, tombstones: 3 };
    assert_eq!(every_record_has_one_fate(11, &rows), Ok(()));
    assert_eq!(id(every_record_has_one_fate(12, &rows)), "I10");
    assert_eq!(id(every_record_has_one_fate(10, &rows)), "I10");
    let absurd = RowCounts { written: u64::MAX, skipped: 1, ..rows };
    assert_eq!(id(every_record_has_one_fate(0, &absurd)), "I10");
}

#[test]
fn i10_written_rows_that_are_in_no_file_are_found() {
    let mut commit = pending("x", &[], &[(0, 0, 9)]);
    commit.rows.written = 5;
    assert_eq!(id(written_rows_are_in_files(&commit)), "I10");
    commit.files.push(PendingFile {
        path: "s3://b/f.parquet".into(),
        data_file: "{}".into(),
        schema_id: 0,
        spec_id: 0,
        records: 5,
        bytes: 100,
    });
    assert_eq!(written_rows_are_in_files(&commit), Ok(()));
}
