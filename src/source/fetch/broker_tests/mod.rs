//! The fetcher against brokers in the test process, which do as they are told.

mod bounds;
mod broker;
mod connections;
mod errors;
mod leaders;
mod reading;
mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, World, payload};

use super::lane::Cluster;
use super::{FetchQueue, Fetcher, Security};
use crate::protocol::{Offset, TopicPartition};
use crate::source::{Polled, SourceError};

/// The topic that all read.
const TOPIC: &str = "orders";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Queue bytes of a shard whose answers have the least size.
const SMALL: u64 = 1;
/// And that size.
const ANSWER: usize = 256 << 10;

/// Waits for something that other threads do.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A cluster, and a fetcher with one shard.
struct Rig {
    world: Arc<World>,
    brokers: BTreeMap<i32, Broker>,
    fetcher: Fetcher,
    queue: FetchQueue,
    got: Got,
}

impl Rig {
    /// Brokers and partitions are numbered from 0 on and dealt in turn.
    fn new(brokers: i32, partitions: i32, queue_bytes: u64) -> Self {
        let world = Arc::new(World::new(partitions, |partition| partition % brokers));
        let brokers = (0..brokers).map(|id| (id, Broker::start(id, &world))).collect();
        let fetcher = Fetcher::new(TOPIC, queue_bytes, Security::default());
        let queue = fetcher.queues(1).remove(0);
        let rig = Self { world, brokers, fetcher, queue, got: Got::default() };
        rig.tell();
        rig
    }

    /// What the cluster would tell now.
    fn cluster(&self) -> Cluster {
        let brokers = self.brokers.iter().map(|(id, broker)| (*id, broker.address().clone()));
        Cluster { brokers: brokers.collect(), leaders: self.world.leaders() }
    }

    fn tell(&self) {
        self.fetcher.set_cluster(self.cluster()).unwrap();
    }

    fn take(&self, partition: i32, start: Offset) {
        let tp = TopicPartition::new(TOPIC, partition);
        self.fetcher.take(&[(tp, start, 0)]).unwrap();
    }

    fn take_all(&self) {
        let partitions = self.world.partitions().into_iter();
        let shares: Vec<_> = partitions.map(|p| (TopicPartition::new(TOPIC, p), 0, 0)).collect();
        self.fetcher.take(&shares).unwrap();
    }

    fn release(&self, partition: i32) {
        self.fetcher.release(&[TopicPartition::new(TOPIC, partition)]);
    }

    /// One call of the shard.
    fn poll(&mut self, wait: Duration) -> usize {
        let got = &mut self.got;
        self.queue.poll(wait, |polled| got.take(polled))
    }

    /// One call of the shard that takes no more than one record.
    fn poll_one(&mut self, wait: Duration) -> usize {
        let got = &mut self.got;
        self.queue.poll(wait, |polled| {
            got.take(polled);
            false
        })
    }

    fn read_until(&mut self, what: &str, done: impl Fn(&Got) -> bool) {
        let begun = Instant::now();
        while !done(&self.got) {
            assert!(begun.elapsed() < PATIENCE, "in vain: {what}; {:?}", self.got.failed);
            self.poll(Duration::from_millis(20));
        }
    }

    /// Reads to the ends of these partitions.
    fn read(&mut self, partitions: impl IntoIterator<Item = i32>) {
        let ends: BTreeMap<i32, Offset> =
            partitions.into_iter().map(|p| (p, self.world.end(p))).collect();
        self.read_until("the ends of the logs", |got| {
            ends.iter().all(|(partition, end)| got.next(*partition) >= Some(*end))
        });
    }

    fn read_all(&mut self) {
        self.read(self.world.partitions());
    }

    fn positions(&self) -> Vec<(i32, Offset)> {
        self.queue.positions(self.world.partitions().into_iter())
    }

    /// The one broker's, or the first one's.
    fn broker(&self) -> &Broker {
        &self.brokers[&0]
    }
}

/// What a shard was handed.
#[derive(Default)]
struct Got {
    offsets: BTreeMap<i32, Vec<Offset>>,
    /// The partition of each record, as they came.
    order: Vec<i32>,
    failed: Vec<(i32, SourceError)>,
}

impl Got {
    fn take(&mut self, polled: Polled<'_>) -> bool {
        match polled {
            Polled::Failed { partition, error } => self.failed.push((partition, error)),
            Polled::Record(record) => {
                let failed =
                    self.failed.iter().find(|(partition, _)| *partition == record.partition);
                assert!(failed.is_none(), "a record of a partition that failed: {failed:?}");
                let offsets = self.offsets.entry(record.partition).or_default();
                let last = offsets.last().copied();
                assert!(last < Some(record.offset), "{} after {last:?}", record.offset);
                offsets.push(record.offset);
                self.order.push(record.partition);
                let expected =
                    payload(record.partition, record.offset, record.payload.unwrap().len());
                assert!(record.payload == Some(&expected[..]), "another record's value");
            }
        }
        true
    }

    fn next(&self, partition: i32) -> Option<Offset> {
        Some(self.offsets.get(&partition)?.last()? + 1)
    }

    fn count(&self) -> usize {
        self.offsets.values().map(Vec::len).sum()
    }

    /// These and no others came of a partition.
    fn assert_all(&self, partition: i32, expected: std::ops::Range<Offset>) {
        let got = self.offsets.get(&partition).cloned().unwrap_or_default();
        let whole: Vec<Offset> = expected.clone().collect();
        assert!(
            got == whole,
            "partition {partition}: {:?}, {} of {expected:?}",
            got.first(),
            got.len()
        );
    }
}
