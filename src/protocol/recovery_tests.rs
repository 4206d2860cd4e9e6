use std::collections::BTreeSet;

use super::*;
use crate::protocol::fixtures::*;
use crate::protocol::{Ledger, PendingCommit};

const TABLE: &str = "lake.readings";

/// After a start that finds the table as in `view`.
fn recovered(local: &LocalState, view: &TableView) -> Recovery {
    recover(local, &BTreeMap::from([(TABLE, view)]))
}

fn at_ten() -> TableView {
    view(Some(ledger("a", &[(0, 10)])), vec![entry(1, "a", &[(0, 0, 10)])])
}

fn local(pending: Vec<PendingCommit>, last: &[(i32, Offset)]) -> LocalState {
    let last = LastCheckpoint {
        epoch: Epoch(3),
        frontier: frontier(last),
        generation: 0,
        ..LastCheckpoint::default()
    };
    let pending = pending.into_iter().map(Prepared::on_disk).collect();
    LocalState { pending, last: BTreeMap::from([(TABLE.to_owned(), last)]), given_up: false }
}

#[test]
fn a_first_start_begins_with_the_first_epoch() {
    let first = Recovery { next_epoch: Epoch(1), standing: LocalStanding::Absent };
    assert_eq!(recovered(&LocalState::default(), &empty()), first);
    assert_eq!(recovered(&LocalState::default(), &at_ten()), first, "or local state was lost");
}

#[test]
fn an_epoch_that_is_pending_or_complete_is_not_used_again() {
    let state = local(vec![pending("x", &[(0, 10)], &[(0, 10, 20)])], &[(0, 10)]);
    assert_eq!(recovered(&state, &at_ten()).next_epoch, Epoch(5));
    assert_eq!(recovered(&local(vec![], &[(0, 10)]), &at_ten()).next_epoch, Epoch(4));
}

#[test]
fn local_state_is_older_or_newer_than_the_table_or_the_same() {
    let standing = |seen: &[(i32, Offset)]| recovered(&local(vec![], seen), &at_ten()).standing;
    assert_eq!(standing(&[(0, 10)]), LocalStanding::Same);
    assert_eq!(standing(&[(0, 4)]), LocalStanding::Older);
    assert_eq!(standing(&[(0, 30)]), LocalStanding::Newer);
    assert_eq!(standing(&[(0, 4), (1, 1)]), LocalStanding::Newer);
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
fn each_table_is_compared_with_what_local_state_saw_in_it_and_with_nothing_else() {
    let mut state = local(vec![], &[(0, 10)]);
    let other = LastCheckpoint {
        epoch: Epoch(9),
        frontier: frontier(&[(0, 99)]),
        generation: 0,
        ..LastCheckpoint::default()
    };
    state.last.insert("lake.other".to_owned(), other);
    state.pending.push(Prepared::on_disk(PendingCommit {
        table: "lake.other".into(),
        table_uuid: "table-2".into(),
        ..pending("y", &[(0, 99)], &[(0, 99, 120)])
    }));
    assert_eq!(check_last(TABLE, &state, &at_ten()), Ok(()));
    let refused = check_last("lake.other", &state, &at_ten()).map_err(|refusal| refusal.name());
    assert_eq!(refused, Err("table-replaced"));
    assert_eq!(recovered(&state, &at_ten()).next_epoch, Epoch(10), "the newest of all tables");
}

/// What local state makes of one reading of each of these tables.
fn known(local: &LocalState, views: &[(&str, Option<&TableView>)]) -> Result<Vec<String>, Refusal> {
    let known = recognised(local.clone(), &views.iter().copied().collect())?;
    Ok(known.last.into_keys().collect())
}

#[test]
fn local_state_of_another_table_is_refused_with_the_names_of_both() {
    let seen = local(vec![], &[(0, 10)]);
    let typo = String::from("lake.typo");
    assert!(seen.is_of_others([&typo]));
    let behind = view(Some(ledger("b", &[(0, 9)])), vec![entry(1, "b", &[(0, 0, 9)])]);
    for view in [None, Some(&empty()), Some(&behind)] {
        let refused = known(&seen, &[(&typo, view)]).unwrap_err();
        let Refusal::OtherTable { table, known } = &refused else { panic!("{refused:?}") };
        assert_eq!((table.as_str(), known.as_str()), ("lake.typo", TABLE));
    }
}

#[test]
fn a_table_that_has_all_that_was_seen_is_the_same_by_another_name() {
    let seen = local(vec![], &[(0, 10)]);
    let ahead = view(Some(ledger("a", &[(0, 12)])), vec![entry(1, "a", &[(0, 0, 12)])]);
    for view in [&at_ten(), &ahead] {
        assert_eq!(known(&seen, &[("lake.renamed", Some(view))]), Ok(vec!["lake.renamed".into()]));
    }
    // An edit may leave anything in the ledger of any table.
    let edited = view(Some(Ledger { generation: 1, ..ledger("a", &[(0, 12)]) }), vec![]);
    let refused = known(&seen, &[("lake.typo", Some(&edited))]).map_err(|refusal| refusal.name());
    assert_eq!(refused, Err("other-table"));
}

#[test]
fn a_table_whose_uuid_was_seen_is_the_same_whatever_its_name_and_its_ledger() {
    let mut seen = local(vec![], &[(0, 10)]);
    seen.last.get_mut(TABLE).unwrap().table_uuid = at_ten().table_uuid;
    let edited = view(Some(Ledger { generation: 1, ..ledger("a", &[]) }), vec![]);
    for view in [&at_ten(), &edited, &empty()] {
        assert_eq!(known(&seen, &[("lake.renamed", Some(view))]), Ok(vec!["lake.renamed".into()]));
    }
    let other = TableView { table_uuid: "another".into(), ..at_ten() };
    let refused = known(&seen, &[("lake.typo", Some(&other))]).map_err(|refusal| refusal.name());
    assert_eq!(refused, Err("other-table"), "it holds as much, and is another");
}

#[test]
fn what_was_seen_in_a_table_without_a_name_is_compared_with_the_table_that_is_set() {
    let mut seen = local(vec![], &[(0, 10)]);
    let last = seen.last.remove(TABLE).unwrap();
    seen.last.insert(UNNAMED.to_owned(), last);
    assert!(seen.is_of_others([&TABLE.to_owned()]));
    assert_eq!(known(&seen, &[(TABLE, Some(&at_ten()))]), Ok(vec![TABLE.into()]));
    let new = empty();
    let name = |view| known(&seen, &[(TABLE, view)]).map_err(|refusal| refusal.name());
    assert_eq!(name(Some(&new)), Err("ledger-behind"), "it may be the same table, gone back");
    assert_eq!(name(None), Err("table-missing"));
    assert_eq!(
        known(&seen, &[("lake.new", Some(&new)), (TABLE, Some(&at_ten()))]),
        Ok(vec![TABLE.into()])
    );
}

#[test]
fn a_flow_may_gain_tables_beside_one_that_is_known() {
    let names = [TABLE.to_owned(), String::from("lake.new")];
    assert!(!local(vec![], &[(0, 10)]).is_of_others(&names));
    assert!(!LocalState::default().is_of_others(&names), "lost, or a first start");
}

#[test]
fn a_table_that_is_not_there_to_compare_says_nothing_of_how_local_state_stands() {
    let mut state = local(vec![], &[(0, 10)]);
    let other = LastCheckpoint {
        epoch: Epoch(9),
        frontier: frontier(&[(0, 99)]),
        generation: 0,
        ..LastCheckpoint::default()
    };
    state.last.insert("lake.other".to_owned(), other);
    assert_eq!(recovered(&state, &at_ten()).standing, LocalStanding::Same);
    state.last.remove(TABLE);
    assert_eq!(recovered(&state, &at_ten()).standing, LocalStanding::Absent);
}

#[test]
fn an_epoch_number_at_the_very_end_does_not_panic() {
    let mut state = local(vec![], &[]);
    let (epoch, frontier) = (Epoch(u64::MAX), Frontier::default());
    let last = LastCheckpoint { epoch, frontier, generation: 0, ..LastCheckpoint::default() };
    state.last.insert(TABLE.to_owned(), last);
    assert_eq!(recovered(&state, &empty()).next_epoch, Epoch(u64::MAX));
}

// Where partitions start.

fn source(log: &[(i32, Offset, Offset)]) -> SourceView {
    let log = log.iter().map(|(p, start, end)| (tp(*p), LogRange { start: *start, end: *end }));
    SourceView {
        cluster_id: "cluster-1".into(),
        topic_ids: BTreeMap::from([("readings".into(), "topic-1".into())]),
        log: log.collect(),
        untold: BTreeSet::new(),
    }
}

fn start(
    view: &TableView,
    log: &[(i32, Offset, Offset)],
    reset: ResetPolicy,
) -> Result<Vec<(Option<Offset>, Offset)>, &'static str> {
    let starts = positions(TABLE, view, &source(log), reset).map_err(|refusal| refusal.name())?;
    let at = |at: Result<StartAt, Refusal>| at.map(|at| (at.ledger, at.start));
    starts.into_values().map(|start| at(start).map_err(|refusal| refusal.name())).collect()
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
    assert_eq!(starts[&other], Ok(StartAt { ledger: None, start: 9 }));
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
fn a_partition_whose_log_lacks_its_ledger_does_not_keep_the_others_from_starting() {
    let all = view(Some(ledger("a", &[(0, 10), (1, 10), (2, 10)])), vec![]);
    let log = [(0, 11, 20), (1, 0, 9), (2, 0, 50)];
    let named = |source: &SourceView| {
        let starts = positions(TABLE, &all, source, ResetPolicy::Earliest)?;
        let named = starts.into_values().map(|start| start.map_err(|refusal| refusal.name()));
        Ok::<_, Refusal>(named.map(|start| start.map(|at| at.start)).collect::<Vec<_>>())
    };
    let each = vec![Err("retention-passed-ledger"), Err("ledger-beyond-log-end"), Ok(10)];
    assert_eq!(named(&source(&log)), Ok(each));
    // A topic that may be another one is refused as a whole.
    let unknown = SourceView { topic_ids: BTreeMap::new(), ..source(&log) };
    assert_eq!(named(&unknown).unwrap_err().name(), "ledger-beyond-log-end");
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
