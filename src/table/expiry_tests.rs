use std::time::Duration;

use super::*;

const HOUR: i64 = 3_600_000;
const NOW: i64 = 1_000 * HOUR;

/// The snapshots `1..=count`, each made on the one before, an hour apart, the last one now.
fn chain(count: i64) -> Vec<Fact> {
    (1..=count)
        .map(|id| Fact {
            id,
            parent: (id > 1).then_some(id - 1),
            sequence_number: id,
            timestamp_ms: NOW - (count - id) * HOUR,
            bytes: 1_000,
            writer: None,
        })
        .collect()
}

fn written(mut facts: Vec<Fact>, ids: &[i64], pipeline: &str, instance: &str) -> Vec<Fact> {
    for fact in facts.iter_mut().filter(|fact| ids.contains(&fact.id)) {
        fact.writer = Some((pipeline.to_owned(), instance.to_owned()));
    }
    facts
}

fn keep(min_snapshots: usize, hours: u64) -> Retention {
    Retention { min_snapshots, max_age: Duration::from_secs(hours * 3600), max_bytes: None }
}

fn main_at(head: i64, retention: Retention) -> Keeper {
    Keeper { head, main: true, branch: Some(retention) }
}

#[test]
fn age_and_least_number_keep_what_either_of_them_keeps() {
    let due = |retention| choose(&chain(10), &[main_at(10, retention)], retention, NOW);
    assert_eq!(due(keep(1, 3)), [1, 2, 3, 4, 5, 6]);
    assert_eq!(due(keep(8, 3)), [1, 2]);
    assert_eq!(due(keep(20, 0)), Vec::<i64>::new());
    assert_eq!(due(keep(1, 0)), (1..10).collect::<Vec<_>>());
}

#[test]
fn tags_and_branches_keep_what_they_reach_within_their_own_retention() {
    let mut facts = chain(10);
    // A branch of 3, off 4, of which the table's own retention would keep one.
    for (id, parent) in [(11, 4), (12, 11), (13, 12)] {
        let base = facts[3].clone();
        facts.push(Fact { id, parent: Some(parent), sequence_number: id, ..base });
    }
    let keepers = [
        main_at(10, keep(1, 0)),
        Keeper { head: 2, main: false, branch: None },
        Keeper { head: 13, main: false, branch: Some(keep(3, 0)) },
    ];
    let due = choose(&facts, &keepers, keep(1, 0), NOW);
    assert_eq!(due, [1, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn what_no_branch_reaches_is_kept_while_it_is_young() {
    let mut facts = chain(10);
    for (id, age) in [(11, 1), (12, 5)] {
        let base = facts[3].clone();
        facts.push(Fact { id, sequence_number: id, timestamp_ms: NOW - age * HOUR, ..base });
    }
    let due = choose(&facts, &[main_at(10, keep(100, 0))], keep(100, 3), NOW);
    assert_eq!(due, [12]);
}

#[test]
fn the_newest_snapshot_of_each_pipeline_is_kept_however_old() {
    let facts = written(chain(10), &[1, 3], "retired", "a");
    let facts = written(facts, &[2, 8], "other", "b");
    let due = choose(&facts, &[main_at(10, keep(1, 0))], keep(1, 0), NOW);
    assert_eq!(due, [1, 2, 4, 5, 6, 7, 9]);
}

#[test]
fn the_line_back_to_the_last_commit_of_an_instance_is_unbroken_for_an_hour() {
    let minutes = |facts: Vec<Fact>| -> Vec<Fact> {
        let at = |fact: &Fact| NOW - (NOW - fact.timestamp_ms) / 60;
        facts.into_iter().map(|fact| Fact { timestamp_ms: at(&fact), ..fact }).collect()
    };
    let facts = minutes(written(chain(100), &(1..=100).collect::<Vec<_>>(), "p", "a"));
    let facts = written(facts, &[20, 70], "p", "b");
    let due = choose(&facts, &[main_at(100, keep(1, 0))], keep(1, 0), NOW);
    assert_eq!(due, (1..70).collect::<Vec<_>>(), "the last of b was half an hour ago");
    let mut later = facts.clone();
    for (id, half_hours) in [(101, 1), (102, 2)] {
        let (parent, timestamp_ms) = (Some(id - 1), NOW + half_hours * HOUR / 2);
        later.push(Fact { id, parent, timestamp_ms, sequence_number: id, ..facts[99].clone() });
    }
    let due = choose(&later, &[main_at(102, keep(1, 0))], keep(1, 0), NOW + HOUR + 60_000);
    assert_eq!(due, (1..102).collect::<Vec<_>>(), "now nobody waits for it any more");
}

/// [`chain`] with a commit a minute.
fn by_the_minute(count: i64) -> Vec<Fact> {
    let minutes = |fact: Fact| Fact { timestamp_ms: NOW - (NOW - fact.timestamp_ms) / 60, ..fact };
    chain(count).into_iter().map(minutes).collect()
}

/// The facts with one more commit, of an instance of its own, at a time.
fn and_at(mut facts: Vec<Fact>, timestamp_ms: i64) -> Vec<Fact> {
    let last = facts[facts.len() - 1].clone();
    let writer = Some((String::from("p"), String::from("a")));
    let (id, parent) = (last.id + 1, Some(last.id));
    facts.push(Fact { id, parent, sequence_number: id, timestamp_ms, writer, ..last });
    facts
}

#[test]
fn a_clock_that_jumps_ahead_takes_a_part_of_the_history_and_not_all_of_it() {
    let (six_days, hours) = (NOW + 6 * 24 * HOUR, keep(1, 5));
    let due = |now| choose(&by_the_minute(400), &[main_at(400, hours)], hours, now).len();
    assert_eq!(due(NOW), 99);
    assert_eq!(due(six_days), 159, "a fifth of five hours more");
    // And once commits were made by that clock.
    let facts = and_at(and_at(by_the_minute(400), six_days), six_days);
    assert_eq!(choose(&facts, &[main_at(402, hours)], hours, six_days).len(), 159);
}

#[test]
fn a_clock_that_jumps_ahead_leaves_half_of_the_time_to_look_for_a_lost_answer() {
    let six_days = NOW + 6 * 24 * HOUR;
    let facts = written(by_the_minute(100), &[80], "p", "b");
    let facts = and_at(and_at(facts, six_days), six_days);
    let due = choose(&facts, &[main_at(102, keep(1, 0))], keep(1, 0), six_days);
    assert_eq!(due, (1..80).collect::<Vec<_>>());
}

#[test]
fn a_snapshot_of_the_future_makes_no_other_older_than_it_is() {
    let mut facts = chain(10);
    facts[9].timestamp_ms = NOW + 4 * 365 * 24 * HOUR;
    let due = choose(&facts, &[main_at(10, keep(1, 5))], keep(1, 5), NOW);
    assert_eq!(due, [1, 2, 3, 4], "as if it were of now");
}

#[test]
fn who_commits_once_a_week_keeps_as_many_days_as_are_asked_for_and_who_paused_keeps_more() {
    let days = keep(1, 10 * 24);
    let weekly = |fact: Fact| Fact { timestamp_ms: NOW - (NOW - fact.timestamp_ms) * 168, ..fact };
    let facts: Vec<Fact> = chain(30).into_iter().map(weekly).collect();
    let due = choose(&facts, &[main_at(30, days)], days, NOW);
    assert_eq!(due, (1..29).collect::<Vec<_>>());
    // Twenty days after a time of hourly commits: the pause counts as two days.
    let paused = NOW + 20 * 24 * HOUR;
    let due = choose(&chain(300), &[main_at(300, days)], days, paused);
    assert_eq!(due, (1..108).collect::<Vec<_>>());
}

#[test]
fn the_bytes_that_snapshots_take_bound_how_many_are_kept_but_for_the_newest() {
    let bounded = |max_bytes| Retention { max_bytes: Some(max_bytes), ..keep(1, 1_000) };
    let due = |max_bytes| {
        choose(&chain(100), &[main_at(100, bounded(max_bytes))], bounded(max_bytes), NOW).len()
    };
    assert_eq!(due(1_000_000), 0);
    assert_eq!(due(60_500), 40);
    assert_eq!(due(0), 100 - LEAST);
    let aged = Retention { max_bytes: Some(60_500), ..keep(1, 9) };
    assert_eq!(choose(&chain(100), &[main_at(100, aged)], aged, NOW).len(), 90, "age counts, too");
}

#[test]
fn parents_in_a_circle_end() {
    let mut facts = chain(3);
    facts[0].parent = Some(3);
    let due = choose(&facts, &[main_at(3, keep(1, 0))], keep(1, 0), NOW);
    assert_eq!(due, [1, 2]);
}
