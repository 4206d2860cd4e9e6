//! Brokers that do not keep to the protocol, and others that listen at their address.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::exchange_error::ExchangeError;
use super::super::partition_fetch::Content;
use super::super::shard_fetch::{Chunk, Cluster, Section, ShardFetch};
use super::broker::{Trick, new_address};
use super::{Rig, SMALL, topics, until};
use crate::source::PartitionId;

const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
/// A port that speaks TLS, and is not spoken to in TLS.
const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 0x46];
/// Sizes of 2 GiB and of -1.
const HUGE: &[u8] = &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
const NEGATIVE: &[u8] = &[0xff, 0xff, 0xff, 0xff];

fn rig() -> Rig {
    let rig = Rig::new(1, 2, SMALL);
    for partition in rig.world.partitions() {
        for _ in 0..3 {
            rig.world.append(partition, 50, 500);
        }
    }
    rig
}

/// Each of `failures` fails one connection, and the next one goes on.
fn goes_on(mut rig: Rig, failures: usize) {
    rig.take_all();
    rig.read_all();
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..rig.world.end(partition));
    }
    assert!(rig.got.failed.is_empty());
    assert_eq!(rig.broker().accepted().len(), failures + 1, "connections");
    assert!(rig.fetcher.take_leaders_wanted());
}

#[test]
fn a_broker_that_fails_before_it_tells_its_versions_is_tried_again() {
    let rig = rig();
    rig.broker().on_accept(&[Trick::Close]);
    rig.broker().on_versions(&[Trick::Close, Trick::Cut(3), Trick::Cut(7)]);
    goes_on(rig, 4);
}

#[test]
fn something_else_that_listens_at_its_address_is_tried_again() {
    let rig = rig();
    let tricks = [HTTP, ALERT, HUGE, NEGATIVE].map(Trick::Say);
    rig.broker().on_versions(&tricks);
    goes_on(rig, tricks.len());
}

#[test]
fn a_broker_that_is_not_understood_is_tried_again() {
    let rig = rig();
    let tricks = [Trick::Mistake, Trick::Error(35), Trick::Speak(0, 10), Trick::Speak(13, 17)];
    rig.broker().on_versions(&tricks);
    goes_on(rig, tricks.len());
}

#[test]
fn an_answer_with_records_that_is_cut_off_is_asked_for_again() {
    for cut in [0, 2, 4, 6, 20, 300, usize::MAX] {
        let rig = rig();
        rig.broker().on_fetch(&[Trick::Cut(cut)]);
        goes_on(rig, 1);
    }
}

#[test]
fn an_answer_with_records_that_is_not_one_is_asked_for_again() {
    for trick in [Trick::Close, Trick::Mistake, Trick::Say(HTTP), Trick::Say(HUGE)] {
        let rig = rig();
        rig.broker().on_fetch(&[trick]);
        goes_on(rig, 1);
    }
}

#[test]
fn a_connection_that_fails_later_is_made_again_where_reading_was() {
    let mut rig = rig();
    rig.take_all();
    for trick in [Trick::Close, Trick::Cut(100), Trick::Say(HTTP)] {
        rig.read_all();
        rig.broker().on_fetch(&[trick]);
        rig.world.append(0, 30, 300);
        rig.world.append(1, 30, 300);
    }
    until("four connections", || rig.broker().accepted().len() == 4);
    rig.world.append(0, 30, 300);
    rig.read_all();
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..rig.world.end(partition));
    }
}

#[test]
fn a_broker_that_fails_again_and_again_is_left_alone_longer_and_longer() {
    let rig = rig();
    rig.broker().on_accept(&[Trick::Close; 4]);
    rig.assign(0, 0);
    until("five connections", || rig.broker().accepted().len() == 5);
    let accepted = rig.broker().accepted();
    // A connection is counted before it is closed, so these are the whole waits.
    for (index, pair) in accepted.windows(2).enumerate() {
        assert!(
            pair[1] - pair[0] >= Duration::from_millis(100 << index),
            "{index}: {:?}",
            pair[1] - pair[0]
        );
    }
}

/// From the first request for records to the second.
fn pause_after(trick: Trick, in_between: impl Fn(&Rig)) -> Duration {
    let mut rig = rig();
    rig.broker().on_fetch(&[trick]);
    let begun = Instant::now();
    rig.take_all();
    until("the first request", || !rig.broker().asked().is_empty());
    in_between(&rig);
    until("the second request", || rig.broker().asked().len() >= 2);
    let asked = rig.broker().asked();
    assert!(asked[0] >= begun);
    rig.read_all();
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..rig.world.end(partition));
    }
    asked[1] - asked[0]
}

#[test]
fn a_broker_that_asks_to_be_left_alone_is_left_alone_whatever_changes() {
    let paused = pause_after(Trick::Throttle(700), |rig| {
        // As another broker leads or partitions come and go.
        for _ in 0..3 {
            rig.revoke(1);
            rig.assign(1, 0);
        }
    });
    assert!(paused >= Duration::from_millis(700), "{paused:?}");
}

#[test]
fn an_error_of_the_whole_answer_is_waited_out() {
    let paused = pause_after(Trick::Error(-1), |_| ());
    assert!(paused >= Duration::from_secs(2), "{paused:?}");
}

#[test]
fn a_broker_that_says_nothing_of_partitions_is_not_asked_again_at_once() {
    let paused = pause_after(Trick::Nothing, |_| ());
    assert!(paused >= Duration::from_millis(100), "{paused:?}");
}

#[test]
fn a_broker_that_does_not_let_us_in_for_long_fails_what_it_leads_and_nothing_else() {
    let cluster = Cluster {
        brokers: [0, 1].map(|id| (id, new_address())).into(),
        leaders: [(0.into(), 0), (1.into(), 1), (2.into(), 0)].into(),
    };
    let fetch = ShardFetch::new(&topics(), SMALL, &Arc::default());
    for partition in [0, 1, 2] {
        fetch.assign(partition.into(), 5, None, 7);
    }
    fetch.set_cluster(&Arc::new(cluster));
    fetch.refuse(0, "kafka:9092", "no such user");
    // It was said already.
    fetch.refuse(0, "kafka:9092", "no such user");
    let failed = |chunk: Chunk| -> Vec<(PartitionId, String)> {
        let error = |section: Section| match section.content {
            Content::Failed(error) => (section.partition, error.to_string()),
            Content::Records { .. } => panic!("nothing was fetched"),
        };
        chunk.sections.map(error).collect()
    };
    let text = "cannot fetch from the broker at kafka:9092: no such user";
    let first = failed(fetch.next_chunk(Duration::ZERO).unwrap());
    assert_eq!(first, [0, 2].map(|partition| (partition.into(), text.to_owned())));
    assert!(fetch.next_chunk(Duration::ZERO).is_none());
    // What the other one leads is still asked for.
    assert!(fetch.plan(0).is_none());
    assert_eq!(fetch.plan(1).unwrap().wanted.len(), 1);
}

#[test]
fn what_waiting_does_not_help_against_is_told_from_what_it_does() {
    let lasting = [ExchangeError::Version, ExchangeError::Login(String::from("no such user"))];
    assert!(lasting.iter().all(ExchangeError::is_lasting));
    let passing = [ExchangeError::Size(1), io::Error::from(io::ErrorKind::TimedOut).into()];
    assert!(!passing.iter().any(ExchangeError::is_lasting));
}
