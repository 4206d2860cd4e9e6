//! Partitions that are let go while something of them is on its way, and come back.

use std::time::Duration;

use super::{Rig, SMALL, of_first, until};
use crate::protocol::Offset;

const BATCH: i64 = 3000;

/// Two batches in partition 0, each of more records than are handed over at once.
fn rig() -> Rig {
    let rig = Rig::new(1, 2, SMALL);
    rig.world.append(0, BATCH, 10);
    rig.world.append(0, BATCH, 10);
    rig
}

/// Only records of the new assignment come, from `start` on.
fn reads_from(rig: &mut Rig, start: Offset) {
    rig.got.offsets.clear();
    assert!(rig.positions().is_empty(), "nothing came of this assignment");
    rig.read([0]);
    rig.got.assert_all(0, start..2 * BATCH);
    assert_eq!(rig.positions(), of_first([(0, 2 * BATCH)]));
    assert!(rig.got.failed.is_empty(), "{:?}", rig.got.failed);
}

fn retaken_on_the_way(first: Offset, second: Offset) {
    let mut rig = rig();
    rig.broker().hold(true);
    rig.assign(0, first);
    until("an answer on its way", || rig.broker().held() == 1);
    rig.revoke(0);
    rig.assign(0, second);
    rig.broker().hold(false);
    reads_from(&mut rig, second);
}

#[test]
fn an_answer_on_its_way_is_not_of_the_assignment_that_follows_from_a_higher_offset() {
    retaken_on_the_way(10, 4000);
}

#[test]
fn an_answer_on_its_way_is_not_of_the_assignment_that_follows_from_a_lower_offset() {
    retaken_on_the_way(4000, 10);
}

/// The answer waits for the shard, as another one waits for that.
fn retaken_while_it_waits(first: Offset, second: Offset) {
    let mut rig = Rig::new(2, 2, SMALL);
    rig.world.append(0, BATCH, 10);
    rig.world.append(0, BATCH, 10);
    rig.world.append(1, 1, 10);
    rig.assign(1, 0);
    until("the answer before", || rig.brokers[&1].served() == 1);
    rig.assign(0, first);
    until("the answer", || rig.broker().served() == 1);
    rig.revoke(0);
    rig.assign(0, second);
    rig.read([0, 1]);
    rig.got.assert_all(0, second..2 * BATCH);
    assert_eq!(rig.positions(), of_first([(0, 2 * BATCH), (1, 1)]));
}

#[test]
fn an_answer_that_waits_is_not_of_the_assignment_that_follows_from_a_higher_offset() {
    retaken_while_it_waits(10, 4000);
}

#[test]
fn an_answer_that_waits_is_not_of_the_assignment_that_follows_from_a_lower_offset() {
    retaken_while_it_waits(4000, 10);
}

fn retaken_half_read(second: Offset) {
    let mut rig = rig();
    rig.assign(0, 100);
    rig.read_until("a part of the answer", |got| got.count() > 0);
    let half = rig.got.next(0).unwrap();
    assert!(half < BATCH, "{half}");
    assert_eq!(rig.positions(), of_first([(0, half)]));
    rig.revoke(0);
    assert!(rig.positions().is_empty());
    assert_eq!(rig.poll(Duration::ZERO), 0);
    rig.assign(0, second);
    reads_from(&mut rig, second);
}

#[test]
fn an_answer_half_read_is_not_of_the_assignment_that_follows_from_a_higher_offset() {
    retaken_half_read(4000);
}

#[test]
fn an_answer_half_read_is_not_of_the_assignment_that_follows_from_a_lower_offset() {
    retaken_half_read(10);
}

#[test]
fn an_answer_half_read_is_not_of_the_assignment_that_follows_at_once() {
    let mut rig = rig();
    rig.assign(0, 100);
    rig.read_until("a part of the answer", |got| got.count() > 0);
    rig.revoke(0);
    rig.assign(0, 10);
    reads_from(&mut rig, 10);
}

#[test]
fn a_failure_of_an_earlier_assignment_is_not_told() {
    let mut rig = rig();
    rig.broker().hold(true);
    // Behind the end of the log.
    rig.assign(0, 9000);
    until("an answer on its way", || rig.broker().held() == 1);
    rig.revoke(0);
    rig.assign(0, 0);
    rig.broker().hold(false);
    reads_from(&mut rig, 0);
}

#[test]
fn a_released_partition_has_no_end_of_its_log() {
    let mut rig = rig();
    rig.assign(0, 0);
    rig.read([0]);
    assert_eq!(rig.log_end(0), Some(2 * BATCH));
    rig.revoke(0);
    assert_eq!(rig.log_end(0), None);
    assert_eq!(rig.log_end(1), None);
}
