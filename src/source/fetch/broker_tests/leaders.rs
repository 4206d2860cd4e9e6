//! Partitions move between brokers, and brokers move.

use std::collections::BTreeMap;
use std::time::Duration;

use super::broker::{Broker, new_address};
use super::{Rig, SMALL, until};
use crate::source::fetch::shard_fetch::Cluster;

fn append(rig: &Rig, batches: usize) {
    for partition in rig.world.partitions() {
        for _ in 0..batches {
            rig.world.append(partition, 20, 1000);
        }
    }
}

fn assert_all(rig: &Rig) {
    assert!(rig.got.failed.is_empty(), "{:?}", rig.got.failed);
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..rig.world.end(partition));
    }
}

#[test]
fn reading_goes_on_at_the_new_leader() {
    let mut rig = Rig::new(2, 4, SMALL);
    append(&rig, 5);
    rig.take_all();
    rig.read_all();
    // As the cluster is known, nobody asks for it.
    assert!(!rig.fetcher.take_leaders_wanted());
    for round in 0..4 {
        for partition in rig.world.partitions() {
            rig.world.lead(partition, (partition.partition + round) % 2);
        }
        append(&rig, 5);
        if round > 0 {
            until("asking for leaders", || rig.fetcher.take_leaders_wanted());
        }
        rig.tell();
        rig.read_all();
    }
    assert_all(&rig);
}

#[test]
fn an_answer_of_the_old_leader_that_comes_late_is_not_taken() {
    let mut rig = Rig::new(2, 1, SMALL);
    append(&rig, 5);
    rig.broker().hold(true);
    rig.take_all();
    until("an answer to be held back", || rig.broker().held() == 1);
    rig.world.lead(0, 1);
    rig.tell();
    rig.read_all();
    rig.broker().hold(false);
    // It is not asked again: its connection is closed.
    until("the old leader to be left", || rig.broker().open() == 0);
    append(&rig, 5);
    rig.read_all();
    assert_eq!(rig.broker().served(), 1);
    assert_all(&rig);
}

#[test]
fn answers_of_two_leaders_that_wait_for_the_shard_are_handed_over_in_order() {
    let mut rig = Rig::new(2, 2, SMALL);
    append(&rig, 5);
    rig.take_all();
    // The shard has one answer to take, the other waits with its records.
    until("answers of both", || rig.brokers.values().all(|broker| broker.served() == 1));
    for partition in rig.world.partitions() {
        rig.world.lead(partition, 1 - partition.partition);
    }
    append(&rig, 5);
    rig.tell();
    rig.read_all();
    assert_all(&rig);
}

#[test]
fn a_leader_that_is_unknown_for_a_while_is_asked_for_until_it_is_told() {
    let mut rig = Rig::new(1, 2, SMALL);
    append(&rig, 2);
    rig.world.lead(1, -1);
    rig.tell();
    rig.take_all();
    rig.read([0]);
    for _ in 0..3 {
        assert!(rig.fetcher.take_leaders_wanted());
        rig.tell();
    }
    rig.world.lead(1, 0);
    rig.tell();
    rig.read_all();
    assert_all(&rig);
    rig.fetcher.take_leaders_wanted();
    rig.tell();
    assert!(!rig.fetcher.take_leaders_wanted(), "all are known");
}

#[test]
fn a_leader_whose_address_is_not_told_is_asked_for() {
    let mut rig = Rig::new(1, 1, SMALL);
    append(&rig, 2);
    rig.fetcher
        .set_cluster(Cluster { brokers: BTreeMap::new(), leaders: rig.world.leaders() })
        .unwrap();
    rig.take_all();
    assert!(rig.fetcher.take_leaders_wanted());
    assert_eq!(rig.poll(Duration::ZERO), 0);
    rig.tell();
    rig.read_all();
    assert_all(&rig);
}

#[test]
fn a_broker_that_comes_back_at_another_address_is_read_there() {
    let mut rig = Rig::new(2, 2, SMALL);
    append(&rig, 3);
    rig.take_all();
    rig.read_all();
    rig.brokers.remove(&0);
    append(&rig, 3);
    until("asking for leaders", || rig.fetcher.take_leaders_wanted());
    // It is not back yet. The other goes on.
    rig.tell();
    rig.read([1]);
    let back = Broker::start(0, &rig.world);
    rig.brokers.insert(0, back);
    rig.tell();
    rig.read_all();
    assert_all(&rig);
}

#[test]
fn a_broker_that_is_away_is_tried_until_it_is_back_at_its_address() {
    let mut rig = Rig::new(1, 1, SMALL);
    append(&rig, 3);
    let address = new_address();
    let leaders = rig.world.leaders();
    let cluster = Cluster { brokers: [(0, address.clone())].into(), leaders };
    rig.fetcher.set_cluster(cluster).unwrap();
    rig.take_all();
    for _ in 0..3 {
        until("asking for leaders", || rig.fetcher.take_leaders_wanted());
    }
    let back = Broker::start_at(0, &rig.world, address);
    rig.brokers.insert(0, back);
    rig.read_all();
    assert_all(&rig);
}

#[test]
fn a_broker_that_leads_nothing_any_more_is_left_and_found_again() {
    let mut rig = Rig::new(2, 2, SMALL);
    append(&rig, 3);
    rig.take_all();
    rig.read_all();
    rig.world.lead(0, 1);
    rig.tell();
    until("the connection to be closed", || rig.broker().open() == 0);
    append(&rig, 3);
    rig.read_all();
    rig.world.lead(0, 0);
    append(&rig, 3);
    rig.tell();
    rig.read_all();
    assert_all(&rig);
    assert_eq!(rig.broker().accepted().len(), 2);
    // The same if its partition is released and taken again.
    rig.revoke(0);
    until("the connection to be closed", || rig.broker().open() == 0);
    append(&rig, 3);
    rig.assign(0, rig.got.next(0).unwrap());
    rig.read_all();
    assert_all(&rig);
}
