//! Everything arrives, once and in order.

use std::time::{Duration, Instant};

use super::broker::Trick;
use super::{ANSWER, Rig, SMALL};

/// Batches of all sizes, some larger than an answer is asked to be.
fn fill(rig: &Rig, rounds: usize) {
    for round in 0..rounds {
        for partition in rig.world.partitions() {
            let turn = round + usize::try_from(partition.partition).unwrap();
            match turn % 5 {
                0 => rig.world.append(partition, 1, 10),
                1 => rig.world.append(partition, 400, 100),
                2 => rig.world.append(partition, 3, 50_000),
                3 => rig.world.append(partition, 1, ANSWER + 100_000),
                _ => rig.world.append(partition, 1500, 20),
            }
        }
    }
}

fn reads_all(brokers: i32, partitions: i32, queue_bytes: u64) {
    let mut rig = Rig::new(brokers, partitions, queue_bytes);
    fill(&rig, 6);
    rig.take_all();
    rig.read_all();
    // And what comes later, while the brokers wait for it.
    fill(&rig, 2);
    rig.read_all();
    assert!(rig.got.failed.is_empty(), "{:?}", rig.got.failed);
    for partition in rig.world.partitions() {
        let end = rig.world.end(partition);
        rig.got.assert_all(partition, 0..end);
        assert_eq!(rig.log_end(partition), Some(end));
    }
    let ends: Vec<_> = rig.world.partitions().into_iter().map(|p| (p, rig.world.end(p))).collect();
    assert_eq!(rig.positions(), ends);
    for broker in rig.brokers.values() {
        assert_eq!(broker.accepted().len(), 1, "connections");
    }
}

#[test]
fn all_records_of_one_broker_arrive_once_and_in_order_in_small_answers() {
    reads_all(1, 5, SMALL);
}

#[test]
fn all_records_of_one_broker_arrive_once_and_in_order_in_large_answers() {
    reads_all(1, 5, 64 << 20);
}

#[test]
fn all_records_of_three_brokers_arrive_once_and_in_order() {
    reads_all(3, 7, SMALL);
}

#[test]
fn a_broker_that_speaks_version_11_at_most_is_read() {
    let mut rig = Rig::new(1, 2, SMALL);
    rig.broker().on_versions(&[Trick::Speak(0, 11)]);
    fill(&rig, 3);
    rig.take_all();
    rig.read_all();
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..rig.world.end(partition));
    }
}

#[test]
fn reading_begins_in_the_middle_of_a_batch() {
    let mut rig = Rig::new(1, 1, SMALL);
    rig.world.append(0, 100, 50);
    rig.world.append(0, 100, 50);
    rig.assign(0, 142);
    rig.read_all();
    rig.got.assert_all(0, 142..200);
}

#[test]
fn many_full_partitions_move_together_though_answers_are_small() {
    let mut rig = Rig::new(1, 20, SMALL);
    for partition in rig.world.partitions() {
        for _ in 0..10 {
            rig.world.append(partition, 1, ANSWER / 2 - 1000);
        }
    }
    rig.take_all();
    rig.read_all();
    // An answer holds two such batches.
    for turn in rig.got.order.chunks(40) {
        for partition in rig.world.partitions() {
            let records = turn.iter().filter(|each| **each == partition).count();
            assert_eq!(records, 2, "{turn:?}");
        }
    }
}

#[test]
fn of_many_full_partitions_a_request_names_a_few() {
    let mut rig = Rig::new(1, 100, SMALL);
    for partition in rig.world.partitions() {
        for _ in 0..10 {
            rig.world.append(partition, 1, ANSWER / 4 - 1000);
        }
    }
    let begun = Instant::now();
    rig.take_all();
    rig.read_all();
    let named = rig.broker().named();
    assert_eq!(named[0], 100);
    // An answer holds four such batches; all are asked for once a second, and at the end.
    let whole = named.iter().filter(|count| **count > 8).count();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(named.len() >= 250 && whole <= 20 + seconds, "{named:?}");
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..10);
    }
}

#[test]
fn a_partition_that_is_idle_among_full_ones_is_read_when_it_gets_a_record() {
    let mut rig = Rig::new(1, 3, SMALL);
    let read_one = |rig: &mut Rig| {
        // More than is under way, so that the broker never has less.
        while rig.world.end(0) < rig.got.next(0).unwrap_or(0) + 10 {
            rig.world.append(0, 1, ANSWER - 1000);
        }
        rig.poll_one(super::PATIENCE);
    };
    rig.take_all();
    let few = |rig: &Rig| rig.broker().named().contains(&1);
    until_so(&mut rig, "a request that names the full one only", few, read_one);
    rig.world.append(2, 1, 10);
    until_so(&mut rig, "the record of the idle one", |rig| rig.got.next(2).is_some(), read_one);
}

/// Does `step` again and again until it is `so`.
fn until_so(rig: &mut Rig, what: &str, so: impl Fn(&Rig) -> bool, step: impl Fn(&mut Rig)) {
    let begun = Instant::now();
    while !so(rig) {
        assert!(begun.elapsed() < super::PATIENCE, "in vain: {what}; {:?}", rig.broker().named());
        step(rig);
    }
}

#[test]
fn a_partition_that_is_taken_while_the_others_are_idle_is_read() {
    let mut rig = Rig::new(1, 2, SMALL);
    rig.world.append(0, 10, 10);
    rig.world.append(1, 10, 10);
    rig.assign(0, 0);
    rig.read([0]);
    rig.assign(1, 0);
    rig.read([1]);
    assert_eq!(rig.poll(Duration::ZERO), 0);
    rig.got.assert_all(1, 0..10);
}
