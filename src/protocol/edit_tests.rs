use std::collections::BTreeSet;

use super::*;
use crate::protocol::fixtures::{UUID, frontier, ledger, ranges, tp};
use crate::protocol::{Admission, Prepared, admit, journal_is_contiguous};

const NONE: &[(i32, Offset)] = &[];

/// A snapshot of ours with number, parent, commit and (partition, start, end)s.
fn ours(
    id: i64,
    parent: Option<i64>,
    commit: &str,
    moved: &[(i32, Offset, Offset)],
) -> SnapshotFacts {
    SnapshotFacts {
        ours: Some(JournalParts {
            commit_id: CommitId(commit.into()),
            instance: "one".into(),
            epoch: Epoch(1),
            ranges: ranges(moved),
            rows: RowCounts::default(),
            edit: None,
        }),
        ..foreign(id, parent)
    }
}

fn foreign(id: i64, parent: Option<i64>) -> SnapshotFacts {
    SnapshotFacts {
        snapshot_id: id,
        parent_id: parent,
        sequence_number: id,
        timestamp_ms: id,
        inherited: None,
        ours: None,
    }
}

fn edited(mut snapshot: SnapshotFacts, edit: Edit) -> SnapshotFacts {
    snapshot.ours.as_mut().unwrap().edit = Some(edit);
    snapshot
}

fn basis(head: Option<i64>, ledger: Option<Ledger>, snapshots: Vec<SnapshotFacts>) -> EditBasis {
    let last = snapshots.iter().map(|snapshot| snapshot.sequence_number).max().unwrap_or(0);
    EditBasis {
        pipeline: "flow".into(),
        instance: "person".into(),
        table: "lake.readings".into(),
        table_uuid: UUID.into(),
        head,
        ledger,
        snapshots,
        next_sequence_number: last + 1,
    }
}

fn rewound(basis: &EditBasis, given: &[(i32, Offset)]) -> Result<Frontier, EditError> {
    basis.rewind(None, &frontier(given), &[tp(0), tp(1)]).map(|edit| edit.after.frontier)
}

/// Three commits; partition 1 moves in the second only.
fn three() -> Vec<SnapshotFacts> {
    vec![
        ours(1, None, "a", &[(0, 0, 10)]),
        ours(2, Some(1), "b", &[(0, 10, 20), (1, 3, 5)]),
        ours(3, Some(2), "c", &[(0, 20, 30)]),
    ]
}

fn at_three() -> Ledger {
    ledger("c", &[(0, 30), (1, 5)])
}

fn source(topic_id: &str, log: &[(i32, Offset, Offset)]) -> SourceView {
    SourceView {
        cluster_id: "cluster-1".into(),
        topic_ids: BTreeMap::from([("readings".into(), topic_id.into())]),
        log: log
            .iter()
            .map(|(p, start, end)| (tp(*p), LogRange { start: *start, end: *end }))
            .collect(),
        untold: BTreeSet::new(),
    }
}

#[test]
fn a_rewind_takes_the_ledger_to_what_the_ancestry_holds() {
    let edit = basis(Some(2), Some(at_three()), three())
        .rewind(Some(2), &Frontier::default(), &[])
        .unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 20), (1, 5)]));
    assert_eq!(edit.after.generation, 1);
    assert_eq!(edit.after.commit_id, edit.parts.commit_id);
    assert_eq!(edit.parts.edit, Some(Edit::Rewind { to_snapshot: 2 }));
    assert_eq!(edit.parts.ranges, Ranges::new());
    assert_eq!(edit.moves()[&tp(0)], (Some(30), Some(20)));
}

#[test]
fn a_partition_of_which_nothing_is_left_is_read_again_from_where_it_began() {
    let edit =
        basis(Some(1), Some(at_three()), three()).rewind(None, &Frontier::default(), &[]).unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 10), (1, 3)]));
    // The journal tells it from now on.
    assert_eq!(edit.parts.ranges, ranges(&[(1, 3, 3)]));
}

#[test]
fn an_idle_partition_whose_commits_are_expired_stays_where_the_ledger_has_it() {
    let mut shown = three();
    shown.drain(..1);
    shown.push(ours(4, Some(3), "d", &[(0, 30, 40)]));
    shown.iter_mut().for_each(|snapshot| {
        snapshot.ours.as_mut().unwrap().ranges.remove(&tp(1));
    });
    let ledger = ledger("d", &[(0, 40), (1, 5)]);
    assert_eq!(
        rewound(&basis(Some(3), Some(ledger), shown), NONE),
        Ok(frontier(&[(0, 30), (1, 5)]))
    );
}

#[test]
fn a_position_that_expiry_took_away_needs_a_person_s_word() {
    // Rolled back to 2 and the commits after it expired: partition 7 may have moved in them.
    let shown = vec![ours(2, Some(1), "b", &[(0, 10, 20)])];
    let ledger = ledger("d", &[(0, 40), (7, 5)]);
    let basis = basis(Some(2), Some(ledger), shown);
    let Err(EditError::Unknown { partitions, .. }) = rewound(&basis, NONE) else { panic!() };
    assert_eq!(partitions, [tp(1), tp(7)]);
    let given = rewound(&basis, &[(1, 0), (7, 4)]);
    assert_eq!(given, Ok(frontier(&[(0, 20), (1, 0), (7, 4)])));
    let Err(EditError::Contradicted { known, .. }) = rewound(&basis, &[(7, 4), (0, 19)]) else {
        panic!()
    };
    assert_eq!(known, Some(20));
}

#[test]
fn a_lost_ledger_is_rebuilt_and_its_generation_is_above_all_that_were() {
    let edit = basis(Some(3), None, three()).rewind(None, &Frontier::default(), &[]).unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 30), (1, 5)]));
    assert_eq!(edit.after.generation, 4);
    assert_eq!(edit.after.topic_ids, BTreeMap::new());
}

#[test]
fn a_partition_that_ledger_and_journal_may_both_have_lost_needs_a_person_s_word() {
    // The ledger is lost, and partition 1 moved before expiry took the oldest snapshots.
    let basis = basis(Some(3), None, vec![ours(3, Some(2), "c", &[(0, 20, 30)])]);
    let Err(EditError::Unknown { partitions, .. }) = rewound(&basis, NONE) else { panic!() };
    assert_eq!(partitions, [tp(1)]);
    assert_eq!(rewound(&basis, &[(1, 5)]), Ok(frontier(&[(0, 30), (1, 5)])));
}

#[test]
fn a_partition_that_no_commit_of_a_whole_journal_names_was_never_begun() {
    let basis = basis(Some(1), None, vec![ours(1, None, "a", &[(0, 0, 10)])]);
    assert_eq!(rewound(&basis, NONE), Ok(frontier(&[(0, 10)])));
}

#[test]
fn a_person_s_word_may_say_what_is_known() {
    let basis = basis(Some(2), Some(at_three()), three());
    assert_eq!(rewound(&basis, &[(0, 20)]), Ok(frontier(&[(0, 20), (1, 5)])));
}

#[test]
fn a_ledger_that_was_set_back_is_brought_forward() {
    let basis = basis(Some(3), Some(ledger("a", &[(0, 10)])), three());
    assert_eq!(rewound(&basis, NONE), Ok(frontier(&[(0, 30), (1, 5)])));
}

#[test]
fn a_ledger_that_was_set_back_still_tells_of_partitions_whose_commits_are_expired() {
    let shown = vec![ours(2, Some(1), "b", &[(0, 10, 20)]), ours(3, Some(2), "c", &[(0, 20, 30)])];
    let basis = basis(Some(3), Some(ledger("b", &[(0, 20), (1, 5), (7, 4)])), shown);
    assert_eq!(rewound(&basis, NONE), Ok(frontier(&[(0, 30), (1, 5), (7, 4)])));
}

#[test]
fn a_table_that_was_emptied_is_filled_again_from_where_reading_began() {
    let mut emptied = three();
    emptied.push(SnapshotFacts { inherited: Some(false), ..foreign(4, None) });
    for head in [None, Some(4)] {
        let edit =
            basis(head, Some(at_three()), emptied.clone()).rewind(None, &Frontier::default(), &[]);
        let edit = edit.unwrap();
        assert_eq!(edit.after.frontier, frontier(&[(0, 0), (1, 3)]), "{head:?}");
        let to_snapshot = head.unwrap_or(NO_SNAPSHOT);
        assert_eq!(edit.parts.edit, Some(Edit::Rewind { to_snapshot }));
    }
    let headless = basis(None, Some(at_three()), three());
    let to = |to| headless.rewind(Some(to), &Frontier::default(), &[]);
    assert_eq!(to(NO_SNAPSHOT).unwrap().after.frontier, frontier(&[(0, 0), (1, 3)]));
    assert!(matches!(to(3), Err(EditError::NotTheHead { .. })));
}

#[test]
fn a_head_that_may_hold_rows_of_expired_ancestors_proves_nothing_about_partitions_it_does_not_name()
{
    for inherited in [Some(true), None] {
        let mut shown = three();
        shown.push(SnapshotFacts { inherited, ..foreign(6, None) });
        let ledger = ledger("c", &[(0, 30), (1, 5)]);
        let found = rewound(&basis(Some(6), Some(ledger), shown), NONE);
        match inherited {
            // Nothing contradicts the ledger: it stays.
            Some(true) => assert_eq!(found, Ok(frontier(&[(0, 30), (1, 5)]))),
            _ => assert!(matches!(found, Err(EditError::Unknown { .. })), "{found:?}"),
        }
    }
}

#[test]
fn the_ledger_follows_the_table_and_does_not_move_it() {
    let shown = || {
        let mut shown = three();
        shown.push(foreign(4, Some(2)));
        basis(Some(4), Some(at_three()), shown)
    };
    let to = |to| shown().rewind(Some(to), &Frontier::default(), &[]);
    assert_eq!(to(4).unwrap().after.frontier, frontier(&[(0, 20), (1, 5)]));
    assert_eq!(to(2).unwrap().after.frontier, frontier(&[(0, 20), (1, 5)]));
    let Err(EditError::CommitsSince { commit, snapshot, .. }) = to(1) else { panic!() };
    assert_eq!((commit, snapshot), (CommitId("b".into()), 2));
    assert!(matches!(to(3), Err(EditError::NotTheHead { .. })));
    assert!(matches!(to(NO_SNAPSHOT), Err(EditError::NotTheHead { .. })));
}

#[test]
fn a_rewind_across_a_reset_brings_back_the_old_topic_and_its_offsets() {
    let from = BTreeMap::from([(0, 30), (1, 5)]);
    let reset = Edit::Reset {
        topic: "readings".into(),
        old_id: "topic-0".into(),
        new_id: "topic-1".into(),
        from,
    };
    let mut shown = three();
    shown.push(edited(ours(4, Some(3), "r", &[]), reset));
    shown.push(ours(5, Some(4), "e", &[(0, 0, 7)]));
    let ledger = ledger("e", &[(0, 7)]);
    let undone = basis(Some(2), Some(ledger.clone()), shown.clone());
    let undone = undone.rewind(None, &Frontier::default(), &[]).unwrap();
    assert_eq!(undone.after.frontier, frontier(&[(0, 20), (1, 5)]));
    assert_eq!(undone.after.topic_ids["readings"], "topic-0");
    // Back to the reset itself: all begins anew, and the topic stays known.
    let kept = basis(Some(4), Some(ledger), shown).rewind(None, &Frontier::default(), &[]).unwrap();
    assert_eq!(kept.after.frontier, Frontier::default());
    assert_eq!(kept.after.topic_ids["readings"], "topic-1");
}

/// What was before is expired: only the edit that was rolled back tells where partition 1 was.
#[test]
fn a_reset_that_was_rolled_back_tells_the_offsets_of_its_own_topic_and_of_no_other() {
    let rolled_back = |topic: &str, from, ledger| {
        let (topic, old_id, new_id) = (topic.into(), "topic-0".into(), "topic-1".into());
        let reset = Edit::Reset { topic, old_id, new_id, from: BTreeMap::from([(1, from)]) };
        let after = edited(ours(6, Some(5), "r", &[]), reset);
        let shown = vec![ours(5, Some(4), "a", &[(0, 0, 10)]), after];
        rewound(&basis(Some(5), Some(ledger), shown), NONE)
    };
    let expected = Ok(frontier(&[(0, 10), (1, 5)]));
    assert_eq!(rolled_back("readings", 5, ledger("r", &[(0, 10)])), expected);
    assert_eq!(rolled_back("other", 77, ledger("r", &[(0, 10), (1, 5)])), expected);
}

#[test]
fn a_rewind_after_a_rewind_knows_what_the_first_one_said() {
    let mut shown = three();
    let first = basis(Some(1), Some(at_three()), shown.clone());
    let first = first.rewind(None, &Frontier::default(), &[]).unwrap();
    shown.push(SnapshotFacts { ours: Some(first.parts.clone()), ..foreign(4, Some(1)) });
    shown.push(ours(5, Some(4), "e", &[(0, 10, 15), (1, 3, 4)]));
    let then = Ledger { generation: 1, ..ledger("e", &[(0, 15), (1, 4)]) };
    let again = basis(Some(4), Some(then), shown.clone()).rewind(None, &Frontier::default(), &[]);
    let again = again.unwrap();
    assert_eq!(again.after.frontier, first.after.frontier);
    assert_eq!(again.after.generation, 2);
    // And what was sealed before it is superseded, though its offsets fit.
    shown.push(SnapshotFacts { ours: Some(again.parts.clone()), ..foreign(6, Some(4)) });
    let basis = basis(Some(6), Some(again.after), shown);
    assert_eq!(journal_is_contiguous(&basis.full_view()), Ok(()));
    let view = basis.view();
    let mut old = crate::protocol::fixtures::pending("x", &[(0, 10)], &[(0, 10, 20)]);
    old.generation = 1;
    let admitted = Prepared::on_disk(old.clone());
    assert!(matches!(admit(&admitted, &view), Admission::Superseded(_)));
    old.generation = 2;
    let admitted = Prepared::on_disk(old);
    assert!(matches!(admit(&admitted, &view), Admission::Commit(_)));
}

// Reset.

#[test]
fn a_topic_made_again_begins_anew_under_its_new_id() {
    let basis = basis(Some(3), Some(at_three()), three());
    let edit =
        basis.reset("readings", &source("topic-2", &[(0, 0, 99)]), &Frontier::default(), false);
    let edit = edit.unwrap();
    assert_eq!(edit.after.frontier, Frontier::default());
    assert_eq!(edit.after.topic_ids["readings"], "topic-2");
    assert_eq!(edit.parts.ranges, Ranges::new());
    let from = BTreeMap::from([(0, 30), (1, 5)]);
    let (topic, old_id, new_id) = ("readings".into(), "topic-1".into(), "topic-2".into());
    assert_eq!(edit.parts.edit, Some(Edit::Reset { topic, old_id, new_id, from }));
}

#[test]
fn a_topic_of_another_cluster_begins_anew_there() {
    let mut moved = source("topic-1", &[(0, 0, 99), (1, 0, 99)]);
    moved.cluster_id = "cluster-2".into();
    let edit = basis(Some(3), Some(at_three()), three()).reset(
        "readings",
        &moved,
        &Frontier::default(),
        false,
    );
    let edit = edit.unwrap();
    assert_eq!((edit.after.frontier.len(), edit.after.cluster_id.as_str()), (0, "cluster-2"));
}

#[test]
fn a_topic_that_is_the_same_is_not_reset() {
    let basis = basis(Some(3), Some(at_three()), three());
    let reset =
        |topic, source: &SourceView| basis.reset(topic, source, &Frontier::default(), false);
    let whole = source("topic-1", &[(0, 0, 30), (1, 0, 9)]);
    assert!(matches!(reset("readings", &whole), Err(EditError::NothingToReset { .. })));
    assert!(matches!(reset("other", &whole), Err(EditError::NoSuchTopic { .. })));
}

#[test]
fn of_a_log_that_was_cut_only_the_partitions_beyond_its_end_begin_anew_by_a_person_s_word() {
    let basis = basis(Some(3), Some(at_three()), three());
    let cut = source("topic-1", &[(0, 0, 25), (1, 0, 9)]);
    let reset = |given: &[(i32, Offset)]| basis.reset("readings", &cut, &frontier(given), false);
    let Err(EditError::LogWasCut { log_end, ledger, .. }) = reset(&[]) else { panic!() };
    assert_eq!((log_end, ledger), (25, 30));
    assert!(matches!(reset(&[(0, 26)]), Err(EditError::NotInLog { .. })));
    assert!(matches!(reset(&[(0, 24), (1, 4)]), Err(EditError::Contradicted { .. })));
    let edit = reset(&[(0, 24)]).unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 24), (1, 5)]));
    assert_eq!(edit.parts.ranges, ranges(&[(0, 24, 24)]));
}

#[test]
fn without_ids_a_ledger_beyond_the_log_means_a_topic_made_again() {
    let mut unnamed = at_three();
    unnamed.topic_ids.clear();
    let basis = basis(Some(3), Some(unnamed), three());
    let edit =
        basis.reset("readings", &source("", &[(0, 0, 25), (1, 0, 9)]), &Frontier::default(), false);
    assert_eq!(edit.unwrap().after.frontier, Frontier::default());
}

// Skip.

#[test]
fn a_skip_moves_exactly_the_partitions_that_lost_records() {
    let basis = basis(Some(3), Some(at_three()), three());
    let deleted = source("topic-1", &[(0, 35, 50), (1, 5, 9), (2, 7, 9)]);
    let edit = basis.skip(&deleted, &Frontier::default()).unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 35), (1, 5)]));
    assert_eq!(edit.parts.ranges, ranges(&[(0, 30, 35)]));
    assert_eq!(edit.parts.rows, RowCounts::default());
    let nothing = source("topic-1", &[(0, 30, 50), (1, 0, 9)]);
    let nothing = basis.skip(&nothing, &Frontier::default());
    assert!(matches!(nothing, Err(EditError::NothingToSkip { .. })));
}

#[test]
fn a_skip_to_where_a_person_says_moves_nothing_else_and_only_on() {
    let basis = basis(Some(3), Some(at_three()), three());
    // Of partition 1 records were deleted; nobody said to give those up.
    let source = source("topic-1", &[(0, 0, 50), (1, 7, 9), (2, 7, 9)]);
    let skip = |given: &[(i32, Offset)]| basis.skip(&source, &frontier(given));
    let edit = skip(&[(0, 42)]).unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 42), (1, 5)]));
    assert_eq!(edit.parts.ranges, ranges(&[(0, 30, 42)]));
    // A partition that was never begun would have begun at its first record.
    let edit = skip(&[(2, 8)]).unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 30), (1, 5), (2, 8)]));
    assert_eq!(edit.parts.ranges, ranges(&[(2, 7, 8)]));
    for given in [30, 29] {
        let error = skip(&[(0, given)]).unwrap_err();
        assert!(matches!(error, EditError::NotAhead { at: 30, .. }), "{error}");
    }
    for beyond in [(0, 51), (1, 6), (9, 1)] {
        let error = skip(&[beyond]).unwrap_err();
        assert!(matches!(error, EditError::NotInLog { .. }), "{error}");
    }
}

#[test]
fn reset_and_skip_wait_until_a_rolled_back_table_is_rewound() {
    let basis = basis(Some(2), Some(at_three()), three());
    let source = source("topic-2", &[(0, 35, 50)]);
    for error in [
        basis.reset("readings", &source, &Frontier::default(), false).unwrap_err(),
        basis
            .skip(&SourceView { topic_ids: BTreeMap::new(), ..source }, &Frontier::default())
            .unwrap_err(),
    ] {
        let EditError::Refused(refusal) = error else { panic!("{error}") };
        assert_eq!(refusal.name(), "table-rolled-back");
    }
}

#[test]
fn an_edit_that_is_not_made_says_what_it_knows() {
    let (table, partition) = (String::from("lake.readings"), tp(7));
    let at = |head| EditError::NotTheHead { table: table.clone(), to: 5, head }.to_string();
    assert!(at(Some(9)).contains("the head of table lake.readings (9)"), "{}", at(Some(9)));
    assert!(at(None).contains("the head of table lake.readings (it has none)"), "{}", at(None));
    let known = |known| {
        EditError::Contradicted { partition: partition.clone(), given: 4, known }.to_string()
    };
    assert!(known(Some(6)).contains("readings[7] is known to stand at 6;"), "{}", known(Some(6)));
    assert!(known(None).contains("readings[7] is known to begin anew;"), "{}", known(None));
    let unknown = EditError::Unknown { table: table.clone(), partitions: vec![tp(1), tp(7)] };
    let unknown = unknown.to_string();
    assert!(unknown.contains("the position of readings[1], readings[7]:"), "{unknown}");
}

#[test]
fn a_log_that_was_cut_and_has_grown_again_begins_where_a_person_says_and_no_other_partition_does() {
    let basis = basis(Some(3), Some(at_three()), three());
    let grown = source("topic-1", &[(0, 0, 90), (1, 0, 9)]);
    let reset =
        |given: &[(i32, Offset)], cut| basis.reset("readings", &grown, &frontier(given), cut);
    assert!(matches!(reset(&[(0, 20)], false), Err(EditError::NothingToReset { .. })));
    assert!(matches!(reset(&[], true), Err(EditError::NothingToReset { .. })));
    assert!(matches!(reset(&[(0, 91)], true), Err(EditError::NotInLog { .. })));
    for at in [20, 30, 90] {
        let edit = reset(&[(0, at)], true).unwrap();
        assert_eq!(edit.after.frontier, frontier(&[(0, at), (1, 5)]));
        assert_eq!(edit.after.generation, 1);
    }
}

#[test]
fn a_partition_that_nobody_leads_keeps_no_other_from_its_edit() {
    let basis = basis(Some(3), Some(at_three()), three());
    let untold = |log: &[(i32, Offset, Offset)]| SourceView {
        untold: BTreeSet::from([tp(1)]),
        ..source("topic-1", log)
    };
    // Of the other one it is not known, so nothing is done about it.
    let cut = untold(&[(0, 0, 25)]);
    let edit = basis.reset("readings", &cut, &frontier(&[(0, 25)]), false).unwrap();
    assert_eq!(edit.after.frontier, frontier(&[(0, 25), (1, 5)]));
    let skipped = basis.skip(&untold(&[(0, 40, 90)]), &Frontier::default()).unwrap();
    assert_eq!(skipped.after.frontier, frontier(&[(0, 40), (1, 5)]));
    let asked = basis.skip(&cut, &frontier(&[(1, 7)]));
    assert_eq!(asked.unwrap_err(), EditError::Untold { partition: tp(1) });
}
