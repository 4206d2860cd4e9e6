use super::*;
use crate::protocol::fixtures::*;
use crate::protocol::{CommitId, Edit, Frontier, FullView, JournalEntry, Ledger, Settled};

/// A verdict in short.
#[derive(Debug, PartialEq, Eq)]
enum Admitted {
    /// By a permit for this head.
    Commit(Option<i64>),
    AlreadyCommitted,
    /// At this ledger.
    Superseded(Frontier),
    Refused(&'static str),
}

/// Admits a commit, and checks that the verdict is about that and about nothing else.
fn admit(pending: &PendingCommit, view: &TableView) -> Admitted {
    let prepared = Prepared::on_disk(pending.clone());
    match super::admit(&prepared, view) {
        Admission::Commit(permit) => {
            assert_eq!((permit.commit(), permit.ledger()), (pending, view.ledger.as_ref()));
            assert_eq!(permit.table_uuid(), pending.table_uuid);
            Admitted::Commit(permit.head())
        }
        Admission::AlreadyCommitted(shown) => {
            assert_eq!(Ok(&shown), Shown::by(view, &pending.commit_id).as_ref());
            Admitted::AlreadyCommitted
        }
        Admission::Superseded(superseded) => {
            let ledger = superseded.ledger().clone();
            assert_eq!(*Settled::Superseded(superseded).commit_id(), pending.commit_id);
            Admitted::Superseded(ledger)
        }
        Admission::Refused(refusal) => Admitted::Refused(refusal.name()),
    }
}

fn refused(admitted: &Admitted) -> &'static str {
    match admitted {
        Admitted::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// A table in which commit `a` brought in partition 0 up to 10.
fn at_ten() -> TableView {
    view(Some(ledger("a", &[(0, 10)])), vec![entry(1, "a", &[(0, 0, 10)])])
}

#[test]
fn a_first_commit_enters_an_empty_table() {
    let admission = admit(&pending("x", &[], &[(0, 3, 8)]), &empty());
    assert_eq!(admission, Admitted::Commit(None));
}

#[test]
fn a_commit_that_continues_the_ledger_is_pinned_to_the_inspected_head() {
    let admission = admit(&pending("x", &[(0, 10)], &[(0, 10, 20)]), &at_ten());
    assert_eq!(admission, Admitted::Commit(Some(1)));
}

#[test]
fn partitions_of_other_instances_do_not_fence_a_commit() {
    let view = view(Some(ledger("b", &[(0, 10), (1, 7)])), vec![entry(2, "b", &[(1, 0, 7)])]);
    let stale_elsewhere = pending("x", &[(0, 10), (1, 3)], &[(0, 10, 20)]);
    assert_eq!(admit(&stale_elsewhere, &view), Admitted::Commit(Some(2)));
}

#[test]
fn a_commit_in_the_ledger_is_already_committed() {
    let mut view = at_ten();
    view.commits.clear();
    assert_eq!(admit(&pending("a", &[], &[(0, 0, 10)]), &view), Admitted::AlreadyCommitted);
}

#[test]
fn a_commit_in_the_ancestry_is_already_committed_though_the_ledger_went_on() {
    let view = view(
        Some(ledger("b", &[(0, 20)])),
        vec![entry(1, "a", &[(0, 0, 10)]), entry(2, "b", &[(0, 10, 20)])],
    );
    assert_eq!(admit(&pending("a", &[], &[(0, 0, 10)]), &view), Admitted::AlreadyCommitted);
    assert_eq!(snapshot_of(&view, &CommitId("a".into())), Some(1));
}

#[test]
fn a_commit_in_a_snapshot_outside_the_ancestry_is_not_committed() {
    let rewound = view(
        Some(ledger("w", &[(0, 0)])),
        vec![outside(entry(1, "a", &[(0, 0, 10)])), entry(2, "w", &[(0, 0, 0)])],
    );
    let admission = admit(&pending("a", &[(0, 0)], &[(0, 0, 10)]), &rewound);
    assert_eq!(admission, Admitted::Commit(Some(2)));
}

#[test]
fn a_stale_ledger_is_superseded() {
    let admission = admit(&pending("x", &[(0, 4)], &[(0, 4, 9)]), &at_ten());
    assert_eq!(admission, Admitted::Superseded(frontier(&[(0, 10)])));
}

#[test]
fn a_partition_begun_by_another_instance_is_superseded() {
    let admission = admit(&pending("x", &[], &[(0, 0, 9)]), &at_ten());
    assert_eq!(admission, Admitted::Superseded(frontier(&[(0, 10)])));
}

#[test]
fn one_partition_ahead_supersedes_the_whole_commit() {
    let view = view(Some(ledger("b", &[(0, 10), (1, 7)])), vec![entry(2, "b", &[(1, 0, 7)])]);
    let admission = admit(&pending("x", &[(0, 10), (1, 3)], &[(0, 10, 20), (1, 3, 4)]), &view);
    assert_eq!(admission, Admitted::Superseded(frontier(&[(0, 10), (1, 7)])));
}

#[test]
fn a_ledger_behind_the_commit_is_refused() {
    let commit = Prepared::on_disk(pending("x", &[(0, 11)], &[(0, 11, 12)]));
    assert_eq!(
        super::admit(&commit, &at_ten()),
        Admission::Refused(Refusal::LedgerBehind {
            table: "lake.readings".into(),
            partition: tp(0),
            ledger: Some(10),
            from: 11,
        })
    );
}

#[test]
fn a_partition_gone_from_the_ledger_is_refused() {
    let one = admit(&pending("x", &[(1, 5)], &[(1, 5, 6)]), &at_ten());
    assert_eq!(refused(&one), "ledger-behind");
    let whole = admit(&pending("x", &[(0, 10)], &[(0, 10, 20)]), &empty());
    assert_eq!(refused(&whole), "ledger-behind");
}

#[test]
fn a_partition_behind_is_refused_though_another_is_ahead() {
    let view = view(Some(ledger("b", &[(0, 10), (1, 7)])), vec![entry(2, "b", &[(1, 0, 7)])]);
    for from in [[(0, 11), (1, 3)], [(0, 3), (1, 8)]] {
        let moved = [(0, from[0].1, 20), (1, from[1].1, 20)];
        assert_eq!(refused(&admit(&pending("x", &from, &moved), &view)), "ledger-behind");
    }
}

#[test]
fn another_table_uuid_is_refused_though_it_shows_the_commit() {
    let mut copy = at_ten();
    copy.table_uuid = "table-2".into();
    assert_eq!(refused(&admit(&pending("a", &[], &[(0, 0, 10)]), &copy)), "table-replaced");
}

#[test]
fn another_cluster_is_refused() {
    let mut commit = pending("x", &[(0, 10)], &[(0, 10, 20)]);
    commit.cluster_id = "cluster-2".into();
    assert_eq!(refused(&admit(&commit, &at_ten())), "cluster-changed");
}

#[test]
fn another_topic_id_is_refused() {
    let mut commit = pending("x", &[(0, 10)], &[(0, 10, 20)]);
    commit.topic_ids.insert("readings".into(), "topic-2".into());
    assert_eq!(refused(&admit(&commit, &at_ten())), "topic-recreated");
}

#[test]
fn ids_that_one_side_does_not_know_are_not_compared() {
    let mut commit = pending("x", &[(0, 10)], &[(0, 10, 20)]);
    commit.cluster_id = String::new();
    commit.topic_ids.clear();
    assert_eq!(admit(&commit, &at_ten()), Admitted::Commit(Some(1)));
    commit.topic_ids.insert("readings".into(), String::new());
    assert_eq!(admit(&commit, &at_ten()), Admitted::Commit(Some(1)));

    let mut bare = at_ten();
    if let Some(ledger) = &mut bare.ledger {
        ledger.cluster_id = String::new();
        ledger.topic_ids.clear();
    }
    let commit = pending("x", &[(0, 10)], &[(0, 10, 20)]);
    assert_eq!(admit(&commit, &bare), Admitted::Commit(Some(1)));
}

#[test]
fn a_pending_commit_that_contradicts_itself_is_refused() {
    let from = [(0, 10)];
    for moved in [&[(0, 11, 20)][..], &[(0, 10, 9)], &[], &[(-1, 0, 1)]] {
        let admission = admit(&pending("x", &from, moved), &at_ten());
        assert_eq!(refused(&admission), "pending-malformed");
    }
}

#[test]
fn a_commit_of_a_rolled_back_table_is_refused() {
    let rolled_back = view(
        Some(ledger("b", &[(0, 20)])),
        vec![entry(1, "a", &[(0, 0, 10)]), outside(entry(2, "b", &[(0, 10, 20)]))],
    );
    let admission = admit(&pending("x", &[(0, 20)], &[(0, 20, 30)]), &rolled_back);
    assert_eq!(refused(&admission), "table-rolled-back");
}

// Edits by a person.

/// A table whose ledger was rewound to 5 by the edit `w`, after `a` had been rolled back.
fn rewound() -> TableView {
    let edit = Some(Edit::Rewind { to_snapshot: 0 });
    view(
        Some(Ledger { generation: 1, ..ledger("w", &[(0, 5)]) }),
        vec![outside(entry(1, "a", &[(0, 5, 10)])), JournalEntry { edit, ..entry(2, "w", &[]) }],
    )
}

#[test]
fn a_commit_from_before_an_edit_is_superseded_though_its_offsets_fit() {
    let admission = admit(&pending("x", &[(0, 5)], &[(0, 5, 9)]), &rewound());
    assert_eq!(admission, Admitted::Superseded(frontier(&[(0, 5)])));
    let rolled_back = admit(&pending("a", &[(0, 5)], &[(0, 5, 10)]), &rewound());
    assert_eq!(rolled_back, Admitted::Superseded(frontier(&[(0, 5)])));
}

#[test]
fn a_commit_from_before_a_reset_is_superseded_though_its_topic_id_differs() {
    let mut commit = pending("x", &[(0, 5)], &[(0, 5, 9)]);
    commit.topic_ids.insert("readings".into(), "topic-0".into());
    commit.cluster_id = "cluster-0".into();
    let admission = admit(&commit, &rewound());
    assert_eq!(admission, Admitted::Superseded(frontier(&[(0, 5)])));
}

#[test]
fn a_commit_of_the_ledger_s_generation_is_compared_as_ever() {
    let commit =
        |from| PendingCommit { generation: 1, ..pending("x", &[(0, from)], &[(0, from, 9)]) };
    assert_eq!(admit(&commit(5), &rewound()), Admitted::Commit(Some(2)));
    assert_eq!(refused(&admit(&commit(6), &rewound())), "ledger-behind");
    assert!(matches!(admit(&commit(4), &rewound()), Admitted::Superseded(_)));
}

#[test]
fn a_ledger_that_lost_an_edit_is_refused() {
    let commit = PendingCommit { generation: 2, ..pending("x", &[(0, 5)], &[(0, 5, 9)]) };
    assert_eq!(refused(&admit(&commit, &rewound())), "ledger-edit-lost");
    assert_eq!(refused(&admit(&commit, &empty())), "ledger-edit-lost");
}

#[test]
fn across_an_edit_no_commit_is_provably_absent() {
    let commit = pending("x", &[(0, 5)], &[(0, 5, 9)]);
    assert!(!is_provably_absent(&commit, &rewound(), |_| panic!("it is decided without")));
}

// The cases of the ledger against the journal.

fn history(view: &TableView) -> Result<(), &'static str> {
    check_history("lake.readings", view).map_err(|refusal| refusal.name())
}

#[test]
fn a_ledger_written_by_an_ancestor_of_the_head_is_fine() {
    assert_eq!(history(&at_ten()), Ok(()));
    let foreign_head = TableView { head: Some(50), ..at_ten() };
    assert_eq!(history(&foreign_head), Ok(()));
}

#[test]
fn a_table_without_ledger_and_without_our_snapshots_is_fine() {
    assert_eq!(history(&empty()), Ok(()));
    assert_eq!(history(&TableView { head: Some(5), ..empty() }), Ok(()));
}

#[test]
fn a_ledger_whose_snapshots_are_all_expired_is_fine() {
    assert_eq!(history(&view(Some(ledger("a", &[(0, 10)])), Vec::new())), Ok(()));
}

#[test]
fn a_ledger_whose_snapshot_is_outside_the_ancestry_was_rolled_back() {
    let alone = view(Some(ledger("a", &[(0, 10)])), vec![outside(entry(1, "a", &[(0, 0, 10)]))]);
    assert_eq!(history(&alone), Err("table-rolled-back"));
}

#[test]
fn a_ledger_whose_snapshot_is_gone_while_an_older_one_is_reachable_was_rolled_back() {
    let expired = view(Some(ledger("b", &[(0, 20)])), vec![entry(1, "a", &[(0, 0, 10)])]);
    assert_eq!(history(&expired), Err("table-rolled-back"));
}

#[test]
fn a_ledger_whose_snapshot_is_gone_while_another_is_outside_the_ancestry_is_fine() {
    let tagged = view(Some(ledger("b", &[(0, 20)])), vec![outside(entry(1, "a", &[(0, 0, 10)]))]);
    assert_eq!(history(&tagged), Ok(()));
}

#[test]
fn a_ledger_in_a_table_without_a_head_was_rolled_back() {
    let headless = TableView { head: None, ..view(Some(ledger("a", &[(0, 10)])), Vec::new()) };
    assert_eq!(history(&headless), Err("table-rolled-back"));
}

#[test]
fn a_ledger_older_than_a_commit_in_the_ancestry_was_set_back() {
    let set_back = view(
        Some(ledger("a", &[(0, 10)])),
        vec![entry(1, "a", &[(0, 0, 10)]), entry(2, "b", &[(0, 10, 20)])],
    );
    assert_eq!(history(&set_back), Err("ledger-set-back"));
}

#[test]
fn a_ledger_removed_from_a_table_with_our_snapshots_is_refused() {
    let removed = view(None, vec![entry(1, "a", &[(0, 0, 10)])]);
    assert_eq!(history(&removed), Err("ledger-missing"));
}

#[test]
fn a_table_of_format_version_one_with_a_sound_ledger_is_fine() {
    let unnumbered = |entry: JournalEntry| JournalEntry { sequence_number: 0, ..entry };
    let sound = view(
        Some(ledger("b", &[(0, 20)])),
        vec![unnumbered(entry(1, "a", &[(0, 0, 10)])), unnumbered(entry(2, "b", &[(0, 10, 20)]))],
    );
    assert_eq!(history(&sound), Ok(()));
}

// When files may be deleted.

fn absent(commit: &PendingCommit, full: &FullView) -> bool {
    is_provably_absent(commit, &full.brief(), |shown| full.ranges_of(shown))
}

#[test]
fn a_superseded_commit_is_absent_if_the_journal_shows_who_moved_its_partition() {
    let commit = pending("x", &[(0, 0)], &[(0, 0, 5)]);
    let shown = full_view(
        Some(ledger("b", &[(0, 20)])),
        vec![entry(1, "a", &[(0, 0, 10)]), entry(2, "b", &[(0, 10, 20)])],
    );
    assert!(absent(&commit, &shown));
}

#[test]
fn a_superseded_commit_is_not_provably_absent_if_it_may_have_been_expired() {
    let commit = pending("x", &[(0, 0)], &[(0, 0, 5)]);
    let expired = full_view(Some(ledger("b", &[(0, 20)])), vec![entry(2, "b", &[(0, 10, 20)])]);
    assert!(!absent(&commit, &expired));
    let all_expired = full_view(Some(ledger("b", &[(0, 20)])), Vec::new());
    assert!(!absent(&commit, &all_expired));
}

#[test]
fn a_superseded_commit_is_absent_if_one_of_its_partitions_was_never_moved() {
    let commit = pending("x", &[(0, 0), (1, 3)], &[(0, 0, 5), (1, 3, 9)]);
    let expired = full_view(Some(ledger("b", &[(0, 20), (1, 3)])), Vec::new());
    assert!(absent(&commit, &expired));
}

#[test]
fn what_came_before_a_commit_does_not_matter_to_who_moved_its_partition() {
    let commit = pending("x", &[(0, 10)], &[(0, 10, 15)]);
    let shown = full_view(
        Some(ledger("b", &[(0, 20)])),
        vec![entry(1, "a", &[(0, 0, 10)]), entry(2, "b", &[(0, 10, 20)])],
    );
    assert!(absent(&commit, &shown));
}

/// It may have landed, and left the ledger there as it was.
#[test]
fn a_partition_that_a_commit_does_not_move_proves_nothing() {
    let commit = pending("x", &[(0, 0), (1, 5)], &[(0, 0, 10), (1, 5, 5)]);
    let expired = full_view(Some(ledger("b", &[(0, 20), (1, 5)])), Vec::new());
    assert!(!absent(&commit, &expired), "the ledger stands where the commit found it");
    let moved_since = full_view(
        Some(ledger("b", &[(0, 20), (1, 9)])),
        vec![entry(2, "b", &[(0, 10, 20), (1, 5, 9)])],
    );
    assert!(!absent(&commit, &moved_since), "another moved on from there");
}

#[test]
fn a_journal_that_does_not_lead_to_the_ledger_proves_nothing() {
    let commit = pending("x", &[(0, 0)], &[(0, 0, 5)]);
    let with_a_gap = full_view(
        Some(ledger("c", &[(0, 20), (1, 5)])),
        vec![entry(1, "a", &[(0, 0, 10)]), entry(3, "c", &[(1, 0, 5)])],
    );
    assert!(!absent(&commit, &with_a_gap));
}

#[test]
fn a_partition_that_another_only_began_proves_nothing() {
    let commit = pending("x", &[], &[(0, 3, 9)]);
    let begun = full_view(Some(ledger("a", &[(0, 3)])), vec![entry(1, "a", &[(0, 3, 3)])]);
    assert!(!absent(&commit, &begun));
}

#[test]
fn a_commit_that_may_still_land_is_not_provably_absent() {
    let full = full_view(Some(ledger("a", &[(0, 10)])), vec![entry(1, "a", &[(0, 0, 10)])]);
    assert!(!absent(&pending("x", &[(0, 10)], &[(0, 10, 20)]), &full));
}

#[test]
fn a_commit_in_a_snapshot_outside_the_ancestry_is_not_provably_absent() {
    let commit = pending("x", &[(0, 0)], &[(0, 0, 5)]);
    let seen = full_view(
        Some(ledger("b", &[(0, 20)])),
        vec![
            outside(entry(1, "x", &[(0, 0, 5)])),
            entry(2, "a", &[(0, 0, 10)]),
            entry(3, "b", &[(0, 10, 20)]),
        ],
    );
    assert!(!absent(&commit, &seen));
}

#[test]
fn a_commit_is_not_provably_absent_where_the_journal_cannot_be_asked() {
    let commit = pending("x", &[(0, 0)], &[(0, 0, 5)]);
    let shown = view(
        Some(ledger("b", &[(0, 20)])),
        vec![entry(1, "a", &[(0, 0, 10)]), entry(2, "b", &[(0, 10, 20)])],
    );
    assert!(!is_provably_absent(&commit, &shown, |_| None));
}
