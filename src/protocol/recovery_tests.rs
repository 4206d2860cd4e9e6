use super::*;
use crate::protocol::fixtures::*;
use crate::protocol::{Ledger, finalized_is_shown};

const TABLE: &str = "lake.readings";

fn tables(view: TableView) -> BTreeMap<String, TableView> {
    BTreeMap::from([(TABLE.to_owned(), view)])
}

fn at_ten() -> TableView {
    view(Some(ledger("a", &[(0, 10)])), vec![entry(1, "a", &[(0, 0, 10)])])
}

fn local(pending: Vec<PendingCommit>, last: &[(i32, Offset)]) -> LocalState {
    let last = LastCheckpoint { epoch: Epoch(3), frontier: frontier(last), generation: 0 };
    LocalState { pending, last: BTreeMap::from([(TABLE.to_owned(), last)]) }
}

fn admissions(recovery: &Recovery) -> Vec<&Admission> {
    recovery.steps.iter().map(|step| &step.admission).collect()
}

#[test]
fn a_first_start_has_nothing_to_do() {
    let recovery = recover(None, &tables(empty()));
    assert_eq!(recovery.steps, []);
    assert_eq!(recovery.resume, Frontier::default());
    assert_eq!(recovery.next_epoch, Epoch(1));
    assert_eq!(recovery.standing, LocalStanding::Absent);
}

#[test]
fn lost_local_state_resumes_at_the_ledger() {
    let recovery = recover(Some(&LocalState::default()), &tables(at_ten()));
    assert_eq!(recovery.resume, frontier(&[(0, 10)]));
    assert_eq!(recovery.standing, LocalStanding::Absent);
}

#[test]
fn a_prepared_commit_that_continues_the_ledger_is_committed_without_reading_again() {
    let state = local(vec![pending("x", &[(0, 10)], &[(0, 10, 20)])], &[(0, 10)]);
    let recovery = recover(Some(&state), &tables(at_ten()));
    assert_eq!(admissions(&recovery), [&Admission::Commit { head: Some(1) }]);
    assert_eq!(recovery.standing, LocalStanding::Same);
    assert_eq!(recovery.next_epoch, Epoch(5));
}

#[test]
fn a_commit_whose_reply_was_lost_is_finalized() {
    let state = local(vec![pending("a", &[], &[(0, 0, 10)])], &[]);
    assert_eq!(
        admissions(&recover(Some(&state), &tables(at_ten()))),
        [&Admission::AlreadyCommitted]
    );
}

#[test]
fn an_old_copy_of_local_state_is_superseded_and_resumes_at_the_ledger() {
    let state = local(vec![pending("x", &[(0, 4)], &[(0, 4, 9)])], &[(0, 4)]);
    let recovery = recover(Some(&state), &tables(at_ten()));
    assert_eq!(admissions(&recovery), [&Admission::Superseded { ledger: frontier(&[(0, 10)]) }]);
    assert_eq!(recovery.resume, frontier(&[(0, 10)]));
    assert_eq!(recovery.standing, LocalStanding::Older);
}

#[test]
fn local_state_newer_than_the_table_resumes_at_the_ledger_all_the_same() {
    let recovery = recover(Some(&local(vec![], &[(0, 30)])), &tables(at_ten()));
    assert_eq!(recovery.resume, frontier(&[(0, 10)]));
    assert_eq!(recovery.standing, LocalStanding::Newer);
}

#[test]
fn a_ledger_below_what_local_state_saw_is_refused_and_any_other_is_not() {
    let table = TABLE;
    let view = at_ten();
    assert_eq!(check_last(table, &local(vec![], &[(0, 10)]), &view), Ok(()));
    assert_eq!(check_last(table, &local(vec![], &[(0, 9)]), &view), Ok(()));
    assert_eq!(check_last(table, &LocalState::default(), &empty()), Ok(()));
    for (seen, view) in [(11, view), (10, empty())] {
        let refused = check_last(table, &local(vec![], &[(0, seen)]), &view);
        let ledger = view.ledger;
        let Err(Refusal::LedgerBehind { from, ledger: found, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((from, found), (seen, ledger.map(|_| 10)));
    }
}

#[test]
fn local_state_is_compared_only_with_a_ledger_of_its_own_generation() {
    let ledger = |generation| Ledger { generation, ..ledger("a", &[(0, 10)]) };
    let mut local = local(vec![], &[(0, 99)]);
    let mut check = |known, ledger: Option<Ledger>| {
        local.last.get_mut(TABLE).unwrap().generation = known;
        check_last(TABLE, &local, &view(ledger, vec![])).map_err(|refusal| refusal.name())
    };
    assert_eq!(check(0, Some(ledger(1))), Ok(()));
    assert_eq!(check(1, Some(ledger(1))), Err("ledger-behind"));
    assert_eq!(check(2, Some(ledger(1))), Err("ledger-edit-lost"));
    assert_eq!(check(1, None), Err("ledger-behind"));
}

#[test]
fn a_table_in_the_place_of_the_one_that_a_commit_waits_for_is_named_as_that() {
    let state = local(vec![pending("x", &[(0, 10)], &[(0, 10, 20)])], &[(0, 10)]);
    let other = TableView { table_uuid: "table-2".into(), ..empty() };
    let refused = check_last(TABLE, &state, &other).map_err(|refusal| refusal.name());
    assert_eq!(refused, Err("table-replaced"));
}

#[test]
fn a_topic_that_was_reset_starts_at_its_first_offset_whatever_the_policy() {
    let mut reset = at_ten();
    reset.ledger.as_mut().unwrap().frontier = Frontier::default();
    let log = [(0, 3, 50), (1, 0, 9)];
    for policy in [ResetPolicy::Earliest, ResetPolicy::Latest] {
        assert_eq!(start(&reset, &log, policy), Ok(vec![(None, 3), (None, 0)]));
    }
}

#[test]
fn a_pending_commit_whose_table_is_gone_is_refused() {
    let state = local(vec![pending("x", &[(0, 4)], &[(0, 4, 9)])], &[]);
    let recovery = recover(Some(&state), &BTreeMap::new());
    assert_eq!(
        admissions(&recovery),
        [&Admission::Refused(Refusal::TableMissing { table: TABLE.into() })]
    );
}

#[test]
fn a_partition_resumes_at_the_lowest_ledger_of_its_tables() {
    let mut views = tables(view(Some(ledger("a", &[(0, 10), (1, 5), (2, 1)])), vec![]));
    views.insert("lake.other".into(), view(Some(ledger("b", &[(0, 7), (1, 6)])), vec![]));
    assert_eq!(recover(None, &views).resume, frontier(&[(0, 7), (1, 5)]));
}

#[test]
fn each_table_is_compared_with_what_local_state_saw_in_it_and_with_nothing_else() {
    let mut state = local(vec![], &[(0, 10)]);
    let other = LastCheckpoint { epoch: Epoch(9), frontier: frontier(&[(0, 99)]), generation: 0 };
    state.last.insert("lake.other".to_owned(), other);
    state.pending.push(PendingCommit {
        table: "lake.other".into(),
        table_uuid: "table-2".into(),
        ..pending("y", &[(0, 99)], &[(0, 99, 120)])
    });
    assert_eq!(check_last(TABLE, &state, &at_ten()), Ok(()));
    let refused = check_last("lake.other", &state, &at_ten()).map_err(|refusal| refusal.name());
    assert_eq!(refused, Err("table-replaced"));
    let views = tables(at_ten());
    assert_eq!(recover(Some(&state), &views).next_epoch, Epoch(10), "the newest of all tables");
}

#[test]
fn an_epoch_number_at_the_very_end_does_not_panic() {
    let mut state = local(vec![], &[]);
    let (epoch, frontier) = (Epoch(u64::MAX), Frontier::default());
    let last = LastCheckpoint { epoch, frontier, generation: 0 };
    state.last.insert(TABLE.to_owned(), last);
    assert_eq!(recover(Some(&state), &tables(empty())).next_epoch, Epoch(u64::MAX));
}

#[test]
fn a_damaged_epoch_of_a_pending_commit_does_not_change_what_is_admitted() {
    let commit = PendingCommit { epoch: Epoch(u64::MAX), ..pending("a", &[], &[(0, 0, 10)]) };
    let views = tables(at_ten());
    let recovery = recover(Some(&local(vec![commit.clone()], &[])), &views);
    assert_eq!(admissions(&recovery), [&Admission::AlreadyCommitted]);
    assert_eq!(finalized_is_shown(&views[TABLE], &commit.commit_id), Ok(()));
}

// Where partitions start.

fn source(log: &[(i32, Offset, Offset)]) -> SourceView {
    let log = log.iter().map(|(p, start, end)| (tp(*p), LogRange { start: *start, end: *end }));
    SourceView {
        cluster_id: "cluster-1".into(),
        topic_ids: BTreeMap::from([("readings".into(), "topic-1".into())]),
        log: log.collect(),
    }
}

fn start(
    view: &TableView,
    log: &[(i32, Offset, Offset)],
    reset: ResetPolicy,
) -> Result<Vec<(Option<Offset>, Offset)>, &'static str> {
    positions(TABLE, view, &source(log), reset)
        .map(|starts| starts.values().map(|at| (at.ledger, at.start)).collect())
        .map_err(|refusal| refusal.name())
}

#[test]
fn the_reset_policy_decides_only_where_there_is_no_ledger() {
    let log = [(0, 3, 50)];
    assert_eq!(start(&empty(), &log, ResetPolicy::Earliest), Ok(vec![(None, 3)]));
    assert_eq!(start(&empty(), &log, ResetPolicy::Latest), Ok(vec![(None, 50)]));
    assert_eq!(start(&at_ten(), &log, ResetPolicy::Latest), Ok(vec![(Some(10), 10)]));
}

#[test]
fn a_partition_added_to_a_known_topic_starts_at_its_first_offset() {
    let log = [(0, 3, 50), (1, 2, 9)];
    assert_eq!(start(&at_ten(), &log, ResetPolicy::Latest), Ok(vec![(Some(10), 10), (None, 2)]));
}

#[test]
fn a_new_topic_beside_a_known_one_starts_by_the_reset_policy() {
    let mut source = source(&[]);
    let other = TopicPartition::new("other", 0);
    source.log.insert(other.clone(), LogRange { start: 2, end: 9 });
    let starts = positions(TABLE, &at_ten(), &source, ResetPolicy::Latest).unwrap();
    assert_eq!(starts[&other], StartAt { ledger: None, start: 9 });
}

#[test]
fn a_ledger_at_either_end_of_the_log_is_within_it() {
    for log in [[(0, 10, 10)], [(0, 10, 20)], [(0, 0, 10)]] {
        assert_eq!(start(&at_ten(), &log, ResetPolicy::Earliest), Ok(vec![(Some(10), 10)]));
    }
}

#[test]
fn a_ledger_below_the_start_of_the_log_is_refused() {
    assert_eq!(
        start(&at_ten(), &[(0, 11, 20)], ResetPolicy::Earliest),
        Err("retention-passed-ledger")
    );
}

#[test]
fn a_ledger_beyond_the_end_of_the_log_is_refused() {
    for log in [[(0, 0, 9)], [(0, 0, 0)]] {
        assert_eq!(start(&at_ten(), &log, ResetPolicy::Earliest), Err("ledger-beyond-log-end"));
    }
}

#[test]
fn a_log_of_another_cluster_or_another_topic_is_refused() {
    let mut moved = source(&[(0, 0, 50)]);
    moved.cluster_id = "cluster-2".into();
    let name = |source: &SourceView| {
        positions(TABLE, &at_ten(), source, ResetPolicy::Earliest).unwrap_err().name()
    };
    assert_eq!(name(&moved), "cluster-changed");
    let mut recreated = source(&[(0, 0, 50)]);
    recreated.topic_ids.insert("readings".into(), "topic-2".into());
    assert_eq!(name(&recreated), "topic-recreated");
}

#[test]
fn a_rolled_back_table_is_refused_before_anything_is_read() {
    let rolled_back =
        view(Some(ledger("a", &[(0, 10)])), vec![outside(entry(1, "a", &[(0, 0, 10)]))]);
    assert_eq!(start(&rolled_back, &[(0, 0, 50)], ResetPolicy::Earliest), Err("table-rolled-back"));
}

#[test]
fn a_ledger_for_a_partition_that_is_not_assigned_is_left_alone() {
    let two = view(Some(Ledger { ..ledger("a", &[(0, 10), (1, 99)]) }), vec![]);
    assert_eq!(start(&two, &[(0, 0, 50)], ResetPolicy::Earliest), Ok(vec![(Some(10), 10)]));
}
