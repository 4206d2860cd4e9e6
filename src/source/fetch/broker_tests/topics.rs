//! Two topics in one request, over one connection.

use std::time::Duration;

use super::broker::{Refusal, Trick};
use super::{Rig, SMALL, TOPICS, topics, tp, until};
use crate::protocol::Offset;
use crate::source::{PartitionId, SourceError};

/// A partition of the first or the second topic.
fn at(topic: usize, partition: i32) -> PartitionId {
    let topic = topics().index(TOPICS[topic]).unwrap();
    PartitionId { topic, partition }
}

fn append(rig: &Rig, batches: usize) {
    for partition in rig.world.partitions() {
        for _ in 0..batches {
            rig.world.append(partition, 10, 100);
        }
    }
}

/// Topics of two partitions and of three, with a hundred records each.
fn rig() -> Rig {
    let rig = Rig::of_topics(1, &[2, 3], SMALL);
    append(&rig, 10);
    rig
}

fn assert_all(rig: &Rig) {
    assert!(rig.got.failed.is_empty(), "{:?}", rig.got.failed);
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..rig.world.end(partition));
    }
}

#[test]
fn all_records_of_two_topics_arrive_once_and_in_order_over_one_connection() {
    let mut rig = rig();
    rig.take_all();
    rig.read_all();
    append(&rig, 2);
    rig.read_all();
    assert_all(&rig);
    let ends: Vec<(PartitionId, Offset)> =
        rig.world.partitions().into_iter().map(|id| (id, rig.world.end(id))).collect();
    assert_eq!(rig.positions(), ends);
    for (id, end) in ends {
        assert_eq!(rig.log_end(id), Some(end));
    }
    assert_eq!(rig.broker().accepted().len(), 1);
    assert_eq!(rig.broker().named_by_topic()[0], [2, 3]);
}

#[test]
fn topics_that_are_led_by_different_brokers_are_read_from_both() {
    let mut rig = Rig::of_topics(2, &[1, 1], SMALL);
    rig.world.lead(at(1, 0), 1);
    rig.tell();
    append(&rig, 10);
    rig.take_all();
    rig.read_all();
    assert_all(&rig);
    for broker in rig.brokers.values() {
        assert_eq!(broker.named_by_topic()[0], [1]);
    }
}

#[test]
fn an_answer_may_name_its_topics_in_any_order() {
    let mut rig = rig();
    rig.broker().on_fetch(&[Trick::Reverse; 20]);
    rig.take_all();
    rig.read_all();
    assert_all(&rig);
    assert_eq!(rig.broker().accepted().len(), 1);
}

#[test]
fn an_error_of_a_partition_of_one_topic_is_not_one_of_the_same_number_of_another() {
    let mut rig = rig();
    // At the end of an answer, so that what it has is read before.
    rig.world.refuse_from(at(1, 0), 100, Refusal::Code(29));
    rig.take_all();
    rig.read_until("the failure", |got| !got.failed.is_empty());
    append(&rig, 5);
    let others = [at(0, 0), at(0, 1), at(1, 1), at(1, 2)];
    rig.read(others);
    let (partition, error) = rig.got.failed.remove(0);
    assert_eq!(partition, at(1, 0));
    let words = error.to_string();
    assert!(matches!(error, SourceError::Unauthorised { .. }), "{words}");
    assert!(words.contains(&tp(partition).to_string()) && words.contains(TOPICS[1]), "{words}");
    rig.got.assert_all(at(1, 0), 0..100);
    for id in others {
        rig.got.assert_all(id, 0..150);
    }
    assert!(rig.got.failed.is_empty(), "{:?}", rig.got.failed);
}

#[test]
fn a_topic_that_cannot_be_served_for_a_while_does_not_hold_up_the_other() {
    let mut rig = rig();
    for partition in 0..3 {
        rig.world.refuse(at(1, partition), &[5; 3]);
    }
    rig.take_all();
    rig.read([at(0, 0), at(0, 1)]);
    assert_eq!(rig.got.next(at(1, 0)), None);
    rig.read_all();
    assert_all(&rig);
}

/// An answer that names the first topic otherwise is not taken, and what was asked for is asked for
/// again over another connection.
fn renamed(name: &'static str, read: &[PartitionId]) {
    let mut rig = rig();
    rig.broker().on_fetch(&[Trick::Rename(name)]);
    let shares: Vec<_> = read.iter().map(|id| super::share(*id, 0)).collect();
    rig.fetcher.assign(&shares).unwrap();
    rig.read(read.iter().copied());
    for id in read {
        rig.got.assert_all(*id, 0..100);
    }
    assert_eq!(rig.got.count(), 100 * read.len());
    assert_eq!(rig.broker().accepted().len(), 2, "connections");
}

#[test]
fn an_answer_with_a_topic_that_nobody_reads_is_refused_whole() {
    renamed("refunds", &[at(0, 0), at(1, 0)]);
}

#[test]
fn an_answer_with_a_topic_that_is_read_but_was_not_asked_for_is_refused_whole() {
    renamed(TOPICS[1], &[at(0, 0)]);
}

#[test]
fn a_partition_that_is_released_is_not_the_one_of_the_same_number_of_another_topic() {
    let mut rig = rig();
    rig.take_all();
    rig.read_all();
    rig.revoke(at(1, 1));
    append(&rig, 5);
    let others = [at(0, 0), at(0, 1), at(1, 0), at(1, 2)];
    rig.read(others);
    // What would be asked of it would be in the answers to these.
    let asked = rig.broker().asked().len();
    until("two more requests", || rig.broker().asked().len() >= asked + 2);
    rig.poll(Duration::ZERO);
    rig.got.assert_all(at(1, 1), 0..100);
    assert_eq!(rig.positions(), others.map(|id| (id, 150)));
    assert_eq!((rig.log_end(at(1, 1)), rig.log_end(at(0, 1))), (None, Some(150)));
    rig.assign(at(1, 1), 100);
    rig.read_all();
    assert_all(&rig);
}

#[test]
fn a_partition_of_a_topic_that_is_not_read_is_refused() {
    let rig = rig();
    let mut share = super::share(0, 0);
    share.tp.topic = String::from("refunds");
    let error = rig.fetcher.assign(&[share]).unwrap_err();
    assert!(error.to_string().contains("refunds[0]"), "{error}");
}
