//! Memory, and the end of it all.

use std::time::{Duration, Instant};

use super::{ANSWER, Rig, SMALL, of_first, tp, until};

/// Partitions of batches with one record each, of which an answer holds one.
fn rig(brokers: i32) -> Rig {
    let rig = Rig::new(brokers, brokers, SMALL);
    for partition in rig.world.partitions() {
        for _ in 0..15 {
            rig.world.append(partition, 1, ANSWER - 1000);
        }
    }
    rig
}

fn served(rig: &Rig) -> usize {
    rig.brokers.values().map(|broker| broker.served()).sum()
}

fn bounded(brokers: i32) {
    let mut rig = rig(brokers);
    rig.take_all();
    // One for each thread, one for the shard to take.
    let ready = usize::try_from(brokers).unwrap() + 1;
    until("answers", || served(&rig) >= ready);
    // One more was read before it is counted here.
    let (begun, end) = (Instant::now(), 15 * usize::try_from(brokers).unwrap());
    while rig.got.count() < end {
        rig.poll(Duration::from_millis(1));
        assert!(served(&rig) <= rig.got.count() + ready);
        assert!(begun.elapsed() < super::PATIENCE, "{} of {end}", rig.got.count());
    }
    rig.read_all();
    // Those buffers were enough for all answers, but for those of idle brokers now.
    let fetch = rig.fetcher.lock().shards[0].clone();
    rig.fetcher.revoke(&rig.world.partitions().into_iter().map(tp).collect::<Vec<_>>());
    until("the threads to end", || rig.brokers.values().all(|broker| broker.open() == 0));
    rig.poll(Duration::ZERO);
    let used: Vec<Vec<u8>> =
        std::iter::repeat_with(|| fetch.buffer()).take_while(|buffer| !buffer.is_empty()).collect();
    assert!((1..=ready + 1).contains(&used.len()), "{} buffers", used.len());
}

#[test]
fn one_broker_is_asked_for_no_more_while_the_shard_does_not_read() {
    bounded(1);
}

#[test]
fn three_brokers_are_asked_for_no_more_while_the_shard_does_not_read() {
    bounded(3);
}

#[test]
fn a_huge_batch_does_not_leave_its_buffer_behind() {
    let mut rig = Rig::new(1, 1, SMALL);
    rig.world.append(0, 1, 9 << 20);
    rig.world.append(0, 1, 10);
    rig.take_all();
    rig.read_all();
    let fetch = rig.fetcher.lock().shards[0].clone();
    rig.revoke(0);
    until("the thread to end", || rig.broker().open() == 0);
    rig.poll(Duration::ZERO);
    let kept: usize =
        std::iter::repeat_with(|| fetch.buffer().capacity()).take_while(|c| *c > 0).sum();
    assert!(kept < 9 << 20, "{kept}");
}

#[test]
fn dropping_the_fetcher_ends_threads_that_wait_for_the_shard() {
    let rig = rig(3);
    rig.take_all();
    until("answers", || served(&rig) == 4);
    let Rig { fetcher, queue, brokers, .. } = rig;
    drop(fetcher);
    until("the connections to be closed", || brokers.values().all(|broker| broker.open() == 0));
    drop(queue);
}

#[test]
fn dropping_the_fetcher_ends_threads_that_wait_for_brokers_or_their_turn() {
    let mut rig = Rig::new(2, 2, SMALL);
    rig.world.append(0, 1, 10);
    // The other answers with an error again and again.
    rig.world.refuse(1, &[5; 1000]);
    rig.take_all();
    rig.read([0]);
    until("both to be asked", || rig.brokers.values().all(|broker| broker.asked().len() > 1));
    let Rig { fetcher, queue, brokers, .. } = rig;
    drop(fetcher);
    until("the connections to be closed", || brokers.values().all(|broker| broker.open() == 0));
    drop(queue);
}

#[test]
fn a_shard_that_is_gone_ends_its_threads() {
    let rig = rig(2);
    rig.take_all();
    until("answers", || served(&rig) == 3);
    let Rig { fetcher, queue, brokers, .. } = rig;
    drop(queue);
    until("the connections to be closed", || brokers.values().all(|broker| broker.open() == 0));
    drop(fetcher);
}

#[test]
fn answers_without_a_record_to_see_move_positions_and_keep_the_shard_one_by_one() {
    let mut rig = Rig::new(1, 1, SMALL);
    for _ in 0..15 {
        rig.world.append_aborted(0, 1, ANSWER - 1000);
    }
    rig.world.append(0, 1, 10);
    rig.take_all();
    let (begun, mut last) = (Instant::now(), 0);
    while rig.got.count() == 0 {
        // Each of the first answers holds one record.
        rig.poll(Duration::ZERO);
        let position = rig.positions().first().map_or(0, |(_, position)| *position);
        assert!(position <= last + 1 || position == 16, "from {last} to {position}");
        last = position;
        assert!(begun.elapsed() < super::PATIENCE, "at {last}");
    }
    rig.got.assert_all(0, 15..16);
    assert_eq!(rig.positions(), of_first([(0, 16)]));
}

#[test]
fn what_is_asked_of_a_hundred_brokers_is_within_the_share_of_a_shard() {
    use crate::source::fetch::connection::Address;
    use crate::source::fetch::shard_fetch::{Cluster, ShardFetch};
    for (brokers, share) in
        [(1, 1 << 20), (3, 1 << 20), (40, 1 << 20), (100, 4 << 20), (100, 64 << 20)]
    {
        let fetch = ShardFetch::new(&super::topics(), share, &std::sync::Arc::default());
        let mut cluster = Cluster::default();
        for id in 0..brokers {
            let address = Address { host: String::from("broker"), port: 9092 };
            let partition = crate::source::PartitionId::from(id);
            cluster.brokers.insert(id, address);
            cluster.leaders.insert(partition, id);
            fetch.assign(partition, 0, None, 1);
        }
        assert_eq!(fetch.set_cluster(&cluster.into()).len(), usize::try_from(brokers).unwrap());
        let limits: Vec<u64> = (0..brokers)
            .map(|id| u64::try_from(fetch.plan(id).unwrap().limits.bytes).unwrap())
            .collect();
        // One more is being read, and one waits.
        let most = limits.iter().sum::<u64>() + 2 * limits[0];
        assert!(most <= share, "{brokers} brokers: {most} of {share}");
    }
}
