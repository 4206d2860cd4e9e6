//! icestream's own way to read from brokers, beside librdkafka's.
//!
//! librdkafka stays the client of the cluster: it knows its brokers, is the member of the group and
//! commits offsets. Only the records themselves, which cost by far the most, do not come through it:
//! it makes an object of each and passes them one by one between threads, while here whole answers
//! go to the shard, which reads records where they lie.
//!
//! For each shard there is a [`shard_fetch::ShardFetch`], which knows what is read and how far, and
//! for each broker that leads some of it a thread ([`worker::Worker`]) that asks and passes on. At
//! most one answer for each thread, one on its way and one being read are in memory.

mod batch;
mod codec;
mod connection;
mod epochs;
mod exchange_error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod partition_fetch;
mod queue;
mod reader;
mod round_robin;
mod sasl;
mod scram;
mod security;
mod shard_fetch;
mod sync;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod trying;
mod wire;
mod worker;

#[cfg(test)]
mod broker_tests;
#[cfg(test)]
mod interleaved;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use shard_fetch::{LeadersWanted, ShardFetch};
use worker::Worker;

use super::{PartitionId, Share, Topics};
use crate::protocol::{Offset, TopicPartition};

pub(super) use batch::BatchHeaders;
pub(crate) use queue::FetchQueue;
pub(super) use security::Security;
pub(super) use shard_fetch::Cluster;
pub(super) use wire::{Decoder, Malformed};

/// Bytes of a fetching thread's stack: there is one thread for each shard and broker.
const STACK: usize = 256 << 10;

/// Fetching threads of which it is told that they are many.
const MANY: usize = 1_000;

/// What fetches for all shards of a run.
pub(super) struct Fetcher {
    topics: Topics,
    queue_bytes: u64,
    /// Fewer than these are what a batch may unpack to.
    batch_bytes: usize,
    security: Arc<Security>,
    inner: Mutex<Inner>,
    leaders: Arc<LeadersWanted>,
    told_of_many: AtomicBool,
    /// Names assignments of a partition, so that answers to an earlier one are told apart. Not 0.
    tokens: AtomicU64,
}

#[derive(Default)]
struct Inner {
    shards: Vec<Arc<ShardFetch>>,
    cluster: Arc<Cluster>,
    /// The shard of each partition that is read.
    readers: BTreeMap<PartitionId, usize>,
}

impl Fetcher {
    pub(super) fn new(topics: &Topics, queue_bytes: u64, security: Security) -> Self {
        Self {
            topics: topics.clone(),
            queue_bytes,
            batch_bytes: usize::MAX,
            security: Arc::new(security),
            inner: Mutex::default(),
            leaders: Arc::default(),
            told_of_many: AtomicBool::new(false),
            tokens: AtomicU64::new(1),
        }
    }

    /// Batches may unpack to fewer than so many bytes.
    pub(super) fn with_batches_below(mut self, bytes: u64) -> Self {
        self.batch_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self
    }

    /// A queue for each of `shards`.
    pub(super) fn queues(&self, shards: usize) -> Vec<FetchQueue> {
        let mut inner = self.lock();
        let fetch = |_| Arc::new(ShardFetch::new(&self.topics, self.queue_bytes, &self.leaders));
        inner.shards = (0..shards).map(fetch).collect();
        let queue = |fetch: &Arc<ShardFetch>| {
            FetchQueue::new(fetch.clone()).with_batches_below(self.batch_bytes)
        };
        inner.shards.iter().map(queue).collect()
    }

    /// Reads each partition from its offset for the shard of that index.
    pub(super) fn assign(&self, shares: &[Share]) -> io::Result<()> {
        let mut inner = self.lock();
        for Share { tp, start, epoch, shard } in shares {
            let Some(fetch) = inner.shards.get(*shard) else {
                return Err(io::Error::other(format!("no shard {shard}")));
            };
            let Some(id) = self.topics.id(tp) else {
                return Err(io::Error::other(format!("{tp} is of another topic")));
            };
            fetch.assign(id, *start, *epoch, self.tokens.fetch_add(1, Ordering::Relaxed));
            let before = inner.readers.insert(id, *shard);
            if let Some(other) = before.filter(|before| before != shard)
                && let Some(fetch) = inner.shards.get(other)
            {
                fetch.revoke(id);
            }
        }
        self.tell(&inner)
    }

    /// Reads nothing more from these.
    pub(super) fn revoke(&self, partitions: &[TopicPartition]) {
        let mut inner = self.lock();
        for id in partitions.iter().filter_map(|tp| self.topics.id(tp)) {
            if let Some(fetch) = inner.readers.remove(&id).and_then(|shard| inner.shards.get(shard))
            {
                fetch.revoke(id);
            }
        }
    }

    /// Reads nothing more from these until they are assigned again.
    pub(super) fn set_aside(&self, partitions: &[TopicPartition]) {
        let inner = self.lock();
        for id in partitions.iter().filter_map(|tp| self.topics.id(tp)) {
            if let Some(fetch) = inner.readers.get(&id).and_then(|shard| inner.shards.get(*shard)) {
                fetch.set_aside(id);
            }
        }
    }

    /// Learns who leads what.
    pub(super) fn set_cluster(&self, cluster: Cluster) -> io::Result<()> {
        let mut inner = self.lock();
        if *inner.cluster != cluster {
            // One leader that moved is mostly followed by others.
            self.leaders.news();
        }
        inner.cluster = Arc::new(cluster);
        self.tell(&inner)
    }

    /// Are leaders not known, or not those that were told? True once for each time.
    pub(super) fn take_leaders_wanted(&self) -> bool {
        self.leaders.wanted.swap(false, Ordering::AcqRel)
    }

    /// Is there a reason for that which there was not before? True once for each time.
    pub(super) fn take_news(&self) -> bool {
        self.leaders.news.swap(false, Ordering::AcqRel)
    }

    /// To be asked for leaders again.
    pub(super) fn want_leaders(&self) {
        self.leaders.want();
    }

    /// End of the log of a partition as the last answer told it.
    pub(super) fn log_end(&self, tp: &TopicPartition) -> Option<Offset> {
        let id = self.topics.id(tp)?;
        let inner = self.lock();
        let fetch = inner.shards.get(*inner.readers.get(&id)?)?;
        fetch.log_end(id)
    }

    /// Leader epoch of the record before the offset `next` of a partition, if it is read here and that
    /// record, or the assignment, told it.
    pub(super) fn epoch_before(&self, tp: &TopicPartition, next: Offset) -> Option<i32> {
        let id = self.topics.id(tp)?;
        let inner = self.lock();
        let fetch = inner.shards.get(*inner.readers.get(&id)?)?;
        fetch.epoch_before(id, next)
    }

    /// Tells all shards who leads, and starts the threads that they lack.
    fn tell(&self, inner: &Inner) -> io::Result<()> {
        for (index, fetch) in inner.shards.iter().enumerate() {
            let new = fetch.set_cluster(&inner.cluster).into_iter();
            // All are made before one is started: those that are not started are told to the shard.
            let workers: Vec<(i32, Worker)> = new
                .map(|broker| (broker, Worker::new(fetch.clone(), broker, self.security.clone())))
                .collect();
            for (broker, worker) in workers {
                // Not joined: it ends with its shard, at the latest when its broker answers or is given
                // up.
                std::thread::Builder::new()
                    .name(format!("fetch-{index}-{broker}"))
                    .stack_size(STACK)
                    .spawn(move || worker.run())?;
            }
        }
        let threads: usize = inner.shards.iter().map(|fetch| fetch.workers()).sum();
        if threads > MANY && !self.told_of_many.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                threads,
                shards = inner.shards.len(),
                "many threads fetch, each with a connection: one for each shard and broker. A smaller \
                 PARALLELISM needs fewer"
            );
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        for fetch in &self.lock().shards {
            fetch.stop();
        }
    }
}
