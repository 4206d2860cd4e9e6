//! A shard's fetch and its queue, where threads meet, in every order in which they may take turns. The
//! files under test are the product's, compiled a second time with a [`sync`] that decides whose
//! turn it is.

mod sync;

// What the two files name as their neighbours.
use super::{connection, partition_fetch, reader, round_robin, wire};

#[allow(clippy::duplicate_mod, dead_code, reason = "the product's file, with another `fetch`")]
#[path = "../queue.rs"]
mod queue;
#[allow(clippy::duplicate_mod, dead_code, reason = "the product's file, with another `sync`")]
#[path = "../shard_fetch.rs"]
mod shard_fetch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use connection::Address;
use queue::FetchQueue;
use shard_fetch::{Cluster, Plan, ShardFetch};
use sync::{Ways, explore, wait_until};
use wire::{Answer, Fetched};

use super::tests::Written;
use crate::protocol::Offset;
use crate::source::{PartitionId, Polled, Topics};

/// Longer than any run. Where a limit is waited for, a wake-up was lost.
const FOR_EVER: Duration = Duration::from_secs(100_000);
/// Records of each partition's log, one in an answer.
const RECORDS: Offset = 2;

type Body = Box<dyn FnOnce() + Send>;

fn partition(number: i32) -> PartitionId {
    PartitionId { partition: number, ..PartitionId::default() }
}

/// Who leads which partition.
fn cluster(leaders: &[(i32, i32)]) -> Arc<Cluster> {
    let address = |broker: i32| (broker, Address { host: format!("b{broker}"), port: 1 });
    Arc::new(Cluster {
        brokers: leaders.iter().map(|(_, broker)| address(*broker)).collect(),
        leaders: leaders.iter().map(|(number, broker)| (partition(*number), *broker)).collect(),
    })
}

/// A shard's fetch that reads these partitions from their beginning, each from a broker.
fn fetch(leaders: &[(i32, i32)]) -> Arc<ShardFetch> {
    let fetch = Arc::new(ShardFetch::new(&Topics::new(["t"]), 1 << 20, &Arc::default()));
    for (number, _) in leaders {
        fetch.assign(partition(*number), 0, None, 1);
    }
    fetch.set_cluster(&cluster(leaders));
    fetch
}

/// What a broker answers: the next record of each partition, as far as there is one.
fn answer(plan: &Plan, buffer: &mut Vec<u8>) -> Answer {
    buffer.clear();
    let mut partitions = Vec::new();
    for wanted in &plan.wanted {
        let start = buffer.len();
        if wanted.offset < RECORDS {
            buffer.extend(Written::of(wanted.offset, &[0]).bytes());
        }
        partitions.push(Fetched {
            partition: wanted.partition,
            error: 0,
            end: RECORDS,
            cut_off_at: None,
            aborted: Vec::new(),
            elsewhere: false,
            records: start..buffer.len(),
        });
    }
    Answer { throttle_ms: 0, error: 0, partitions }
}

/// As [`super::worker::Worker::run`], with a broker that answers at once while it has records; without
/// any it keeps its answer until `more` holds, or for ever. Counts what it gives.
fn work(fetch: &ShardFetch, broker: i32, given: &AtomicUsize, more: Option<&Arc<AtomicBool>>) {
    loop {
        let none_comes = more.is_none_or(|more| more.load(SeqCst));
        let Some(plan) = fetch.plan(broker) else { return };
        if plan.wanted.iter().all(|wanted| wanted.offset >= RECORDS) {
            match more.cloned() {
                Some(more) if !none_comes => wait_until(move || more.load(SeqCst)),
                _ => return,
            }
        }
        let mut buffer = fetch.buffer();
        let answer = answer(&plan, &mut buffer);
        if !fetch.accept(&plan, answer, buffer) {
            return;
        }
        given.fetch_add(1, SeqCst);
    }
}

fn worker(fetch: &Arc<ShardFetch>, broker: i32, given: &Arc<AtomicUsize>) -> Body {
    let (fetch, given) = (fetch.clone(), given.clone());
    Box::new(move || work(&fetch, broker, &given, None))
}

/// Polls once, for as long as it takes.
fn poll(queue: &mut FetchQueue, got: &mut BTreeMap<i32, Vec<Offset>>) {
    queue.poll(FOR_EVER, |polled| match polled {
        Polled::Record(record) => {
            got.entry(record.partition).or_default().push(record.offset);
            true
        }
        Polled::Failed { error, .. } => panic!("{error}"),
    });
}

/// Reads until each of these partitions has all its records.
fn read_all(queue: &mut FetchQueue, partitions: &[i32]) -> BTreeMap<i32, Vec<Offset>> {
    let mut got = BTreeMap::new();
    let all = partitions.len() * usize::try_from(RECORDS).unwrap();
    while got.values().map(Vec::len).sum::<usize>() < all {
        poll(queue, &mut got);
    }
    got
}

/// All with few changes of turns, and many at random.
fn in_all_ways(threads: impl Fn() -> Vec<Body> + Clone + Send + Sync + 'static) {
    let some = explore(Ways::All { changes: 2 }, threads.clone());
    println!("{some} ways");
    assert!(some > 100, "{some} ways only");
    explore(Ways::Random(500), threads);
}

#[test]
fn two_brokers_answers_come_each_once_and_no_more_than_two_are_held() {
    in_all_ways(|| {
        let fetch = fetch(&[(0, 1), (1, 2)]);
        let given = Arc::new(AtomicUsize::new(0));
        let mut queue = FetchQueue::new(fetch.clone());
        let handed = given.clone();
        let reader = move || {
            let (mut got, mut count) = (BTreeMap::<i32, Vec<Offset>>::new(), 0);
            while count < 4 {
                queue.poll(FOR_EVER, |polled| {
                    let Polled::Record(record) = polled else { panic!("{polled:?}") };
                    got.entry(record.partition).or_default().push(record.offset);
                    count += 1;
                    // The one that is read, and one that waits.
                    assert!(
                        handed.load(SeqCst) <= count + 1,
                        "{} and {count}",
                        handed.load(SeqCst)
                    );
                    true
                });
            }
            assert_eq!(got, BTreeMap::from([(0, vec![0, 1]), (1, vec![0, 1])]));
        };
        vec![worker(&fetch, 1, &given), worker(&fetch, 2, &given), Box::new(reader)]
    });
}

#[test]
fn a_partition_revoked_while_its_answer_comes_begins_anew_where_it_is_assigned() {
    in_all_ways(|| {
        let fetch = fetch(&[(0, 1)]);
        let given = Arc::new(AtomicUsize::new(0));
        let [begun, taken] = [false; 2].map(|not_yet| Arc::new(AtomicBool::new(not_yet)));
        let mut queue = FetchQueue::new(fetch.clone());
        let (fetched, more) = (fetch.clone(), taken.clone());
        let ask = move || work(&fetched, 1, &given, Some(&more));
        let (changed, begins) = (fetch, begun.clone());
        let change = move || {
            begins.store(true, SeqCst);
            changed.revoke(partition(0));
            changed.assign(partition(0), 1, None, 2);
            // A worker that found nothing to read has ended; another takes its place.
            let lost = changed.set_cluster(&cluster(&[(0, 1)]));
            taken.store(true, SeqCst);
            for broker in lost {
                work(&changed, broker, &AtomicUsize::new(0), None);
            }
        };
        let read = move || {
            let mut got = BTreeMap::<i32, Vec<Offset>>::new();
            let end = [(partition(0), RECORDS)];
            while !(begun.load(SeqCst) && queue.positions([partition(0)].into_iter()) == end) {
                poll(&mut queue, &mut got);
            }
            let got = got.remove(&0).unwrap_or_default();
            let ways: [&[Offset]; 3] = [&[1], &[0, 1], &[0, 1, 1]];
            assert!(ways.contains(&&got[..]), "{got:?}");
        };
        vec![Box::new(ask), Box::new(change), Box::new(read)]
    });
}

#[test]
fn an_answer_that_was_let_go_while_it_waited_gives_its_room_to_the_next() {
    in_all_ways(|| {
        let fetch = fetch(&[(0, 1), (1, 2), (2, 3)]);
        let given = Arc::new(AtomicUsize::new(0));
        let mut queue = FetchQueue::new(fetch.clone());
        let workers = [1, 2, 3].map(|broker| worker(&fetch, broker, &given));
        let revoke = move || fetch.revoke(partition(1));
        let read = move || {
            let mut got = BTreeMap::<i32, Vec<Offset>>::new();
            let all =
                |got: &BTreeMap<i32, Vec<Offset>>, of| got.get(&of).is_some_and(|g| g.len() == 2);
            while !(all(&got, 0) && all(&got, 2)) {
                poll(&mut queue, &mut got);
            }
            assert!(got.values().all(|got| [&[0][..], &[0, 1]].contains(&&got[..])), "{got:?}");
        };
        workers.into_iter().chain([Box::new(revoke) as Body, Box::new(read)]).collect()
    });
}

#[test]
fn all_threads_end_when_the_shard_is_gone() {
    in_all_ways(|| {
        let fetch = fetch(&[(0, 1), (1, 2)]);
        let given = Arc::new(AtomicUsize::new(0));
        let mut queue = FetchQueue::new(fetch.clone());
        let workers = [1, 2].map(|broker| worker(&fetch, broker, &given));
        let resting = fetch.clone();
        let rest = move || assert!(!resting.rest(FOR_EVER));
        // Leads nothing that may be read before it was stopped.
        let idle = move || assert!(!fetch.pause(FOR_EVER) || fetch.plan(3).is_none());
        let read = move || poll(&mut queue, &mut BTreeMap::new());
        let others = [Box::new(rest) as Body, Box::new(idle), Box::new(read)];
        workers.into_iter().chain(others).collect()
    });
}

#[test]
fn a_partition_that_changes_its_leader_is_read_on_and_nothing_twice() {
    in_all_ways(|| {
        let fetch = fetch(&[(0, 1)]);
        let given = Arc::new(AtomicUsize::new(0));
        let mut queue = FetchQueue::new(fetch.clone());
        let first = worker(&fetch, 1, &given);
        let lead = move || {
            for broker in fetch.set_cluster(&cluster(&[(0, 2)])) {
                work(&fetch, broker, &given, None);
            }
        };
        let read = move || {
            let got = read_all(&mut queue, &[0]);
            assert_eq!(got, BTreeMap::from([(0, vec![0, 1])]));
        };
        vec![first, Box::new(lead), Box::new(read)]
    });
}

#[test]
fn a_broker_that_is_given_up_is_told_to_a_shard_that_waits() {
    in_all_ways(|| {
        let fetch = fetch(&[(0, 1), (1, 2)]);
        let given = Arc::new(AtomicUsize::new(0));
        let mut queue = FetchQueue::new(fetch.clone());
        let other = worker(&fetch, 2, &given);
        let refuse = move || fetch.refuse(1, "b1:1", "no");
        let read = move || {
            let (mut got, mut failed) = (Vec::new(), 0);
            while failed == 0 || got.len() < 2 {
                queue.poll(FOR_EVER, |polled| {
                    match polled {
                        Polled::Record(record) => got.push((record.partition, record.offset)),
                        Polled::Failed { partition: id, .. } => {
                            assert_eq!(id, partition(0));
                            failed += 1;
                        }
                    }
                    true
                });
            }
            assert_eq!((failed, got), (1, vec![(1, 0), (1, 1)]));
        };
        vec![other, Box::new(refuse), Box::new(read)]
    });
}

#[test]
#[should_panic(expected = "all wait, and nobody wakes them")]
fn a_wake_up_that_is_lost_is_found() {
    explore(Ways::All { changes: 1 }, || {
        let shared = Arc::new((sync::Mutex::<bool>::default(), sync::Condvar::new()));
        let (waiting, telling) = (shared.clone(), shared);
        let wait = move || {
            // Asks and waits in two steps.
            if !*waiting.0.lock().unwrap() {
                drop(waiting.1.wait(waiting.0.lock().unwrap()));
            }
        };
        let tell = move || {
            *telling.0.lock().unwrap() = true;
            telling.1.notify_one();
        };
        vec![Box::new(wait) as Body, Box::new(tell)]
    });
}
