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
    Retention { min_snapshots, max_age: Duration::from_secs(hours * 3600) }
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
    let later = NOW + HOUR;
    let due = choose(&facts, &[main_at(100, keep(1, 0))], keep(1, 0), later);
    assert_eq!(due, (1..100).collect::<Vec<_>>(), "now nobody waits for it any more");
}

#[test]
fn parents_in_a_circle_end() {
    let mut facts = chain(3);
    facts[0].parent = Some(3);
    let due = choose(&facts, &[main_at(3, keep(1, 0))], keep(1, 0), NOW);
    assert_eq!(due, [1, 2]);
}
