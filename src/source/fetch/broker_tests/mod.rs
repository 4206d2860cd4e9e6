//! The fetcher against brokers in the test process, which do as they are told.

mod bounds;
mod broker;
mod connections;
mod errors;
mod leaders;
mod reading;
mod stale;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, World, payload};

use super::shard_fetch::Cluster;
use super::{FetchQueue, Fetcher, Security};
use crate::protocol::{Offset, TopicPartition};
use crate::source::{PartitionId, Polled, Share, SourceError, TopicIndex, Topics};

/// The topics. Most tests read the first one alone.
const TOPICS: [&str; 2] = ["orders", "payments"];
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Queue bytes of a shard whose answers have the least size.
const SMALL: u64 = 1;
/// And that size.
const ANSWER: usize = 256 << 10;

fn topics() -> Topics {
    Topics::new(TOPICS)
}

/// A number alone is a partition of the first topic.
impl From<i32> for PartitionId {
    fn from(partition: i32) -> Self {
        Self { topic: TopicIndex::default(), partition }
    }
}

/// What is told of partitions of the first topic.
fn of_first<const N: usize>(told: [(i32, Offset); N]) -> [(PartitionId, Offset); N] {
    told.map(|(partition, offset)| (partition.into(), offset))
}

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
        Self::of_topics(brokers, &[partitions], queue_bytes)
    }

    /// The same with so many partitions of each topic.
    fn of_topics(brokers: i32, partitions: &[i32], queue_bytes: u64) -> Self {
        // Enough for each broker's answer to have the size, one that is read and one that waits.
        let least = (2 + u64::try_from(brokers).unwrap()) * ANSWER as u64;
        let queue_bytes = queue_bytes.max(least);
        let world = Arc::new(World::new(&topics(), partitions, |partition| partition % brokers));
        let brokers = (0..brokers).map(|id| (id, Broker::start(id, &world))).collect();
        let fetcher = Fetcher::new(&topics(), queue_bytes, Security::default());
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

    fn assign(&self, partition: impl Into<PartitionId>, start: Offset) {
        self.fetcher.assign(&[share(partition, start)]).unwrap();
    }

    fn take_all(&self) {
        let partitions = self.world.partitions().into_iter();
        self.fetcher.assign(&partitions.map(|id| share(id, 0)).collect::<Vec<_>>()).unwrap();
    }

    fn revoke(&self, partition: impl Into<PartitionId>) {
        self.fetcher.revoke(&[tp(partition)]);
    }

    fn log_end(&self, partition: impl Into<PartitionId>) -> Option<Offset> {
        self.fetcher.log_end(&tp(partition))
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
    fn read(&mut self, partitions: impl IntoIterator<Item = impl Into<PartitionId>>) {
        let ids = partitions.into_iter().map(Into::into);
        let ends: BTreeMap<PartitionId, Offset> = ids.map(|p| (p, self.world.end(p))).collect();
        self.read_until("the ends of the logs", |got| {
            ends.iter().all(|(partition, end)| got.next(*partition) >= Some(*end))
        });
    }

    fn read_all(&mut self) {
        self.read(self.world.partitions());
    }

    fn positions(&self) -> Vec<(PartitionId, Offset)> {
        self.queue.positions(self.world.partitions().into_iter())
    }

    /// The one broker's, or the first one's.
    fn broker(&self) -> &Broker {
        &self.brokers[&0]
    }
}

fn tp(partition: impl Into<PartitionId>) -> TopicPartition {
    topics().tp(partition.into())
}

fn share(partition: impl Into<PartitionId>, start: Offset) -> Share {
    Share { tp: tp(partition), start, epoch: None, shard: 0 }
}

/// What a shard was handed.
#[derive(Default)]
struct Got {
    offsets: BTreeMap<PartitionId, Vec<Offset>>,
    /// The partition of each record, as they came.
    order: Vec<PartitionId>,
    failed: Vec<(PartitionId, SourceError)>,
}

impl Got {
    fn take(&mut self, polled: Polled<'_>) -> bool {
        match polled {
            Polled::Failed { partition, error } => self.failed.push((partition, error)),
            Polled::Record(record) => {
                let id = record.id();
                let failed = self.failed.iter().find(|(partition, _)| *partition == id);
                assert!(failed.is_none(), "a record of a partition that failed: {failed:?}");
                let offsets = self.offsets.entry(id).or_default();
                let last = offsets.last().copied();
                assert!(last < Some(record.offset), "{} after {last:?}", record.offset);
                offsets.push(record.offset);
                self.order.push(id);
                let expected = payload(id, record.offset, record.value.unwrap().len());
                assert!(record.value == Some(&expected[..]), "another record's value");
            }
        }
        true
    }

    fn next(&self, partition: impl Into<PartitionId>) -> Option<Offset> {
        Some(self.offsets.get(&partition.into())?.last()? + 1)
    }

    fn count(&self) -> usize {
        self.offsets.values().map(Vec::len).sum()
    }

    /// These and no others came of a partition.
    fn assert_all(&self, partition: impl Into<PartitionId>, expected: std::ops::Range<Offset>) {
        let partition = partition.into();
        let got = self.offsets.get(&partition).cloned().unwrap_or_default();
        let whole: Vec<Offset> = expected.clone().collect();
        assert!(got == whole, "{partition:?}: {:?}, {} of {expected:?}", got.first(), got.len());
    }
}
