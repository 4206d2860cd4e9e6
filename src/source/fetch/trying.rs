//! Tries brokers as the threads that fetch would use them, and takes nothing from them.

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use super::connection::{Address, Connection};
use super::exchange_error::ExchangeError;
use super::partition_fetch::{Content, PartitionFetch};
use super::wire::Limits;
use super::{Fetcher, STACK, Security};
use crate::protocol::{Offset, TopicPartition};
use crate::source::{PartitionId, SourceError, Topics};

/// One batch of records, whatever its size, and no waiting for it.
const LITTLE: Limits = Limits { wait_ms: 0, bytes: 1, partition_bytes: 1 };

/// How a broker answered.
pub(in crate::source) struct Tried {
    /// Can nothing be fetched from it because it is too old?
    pub(in crate::source) is_too_old: bool,
    /// What it, or the first partition, said.
    pub(in crate::source) outcome: Result<(), SourceError>,
}

/// What a broker is asked for.
type Wanted = Vec<(PartitionId, Offset)>;

impl Fetcher {
    /// Connects to each broker that leads one of these partitions, side by side, agrees on versions, logs
    /// in, and asks for what is at these offsets. One that has not answered `within` the time is told as that.
    pub(in crate::source) fn try_leaders(
        &self,
        at: impl Iterator<Item = (TopicPartition, Offset)>,
        within: Duration,
    ) -> Vec<Tried> {
        let cluster = self.lock().cluster.clone();
        let mut led = BTreeMap::<i32, Wanted>::new();
        for (id, offset) in at.filter_map(|(tp, at)| Some((self.topics.id(&tp)?, at))) {
            if let Some(leader) = cluster.leaders.get(&id) {
                led.entry(*leader).or_default().push((id, offset));
            }
        }
        let brokers = led.into_iter();
        let brokers =
            brokers.filter_map(|(id, wanted)| Some((cluster.brokers.get(&id)?.clone(), wanted)));
        self.try_all(brokers.collect(), within)
    }

    /// The same of so many brokers that lead anything, asked for nothing.
    pub(in crate::source) fn try_some(&self, most: usize, within: Duration) -> Vec<Tried> {
        let cluster = self.lock().cluster.clone();
        let brokers = cluster.brokers.values().take(most);
        self.try_all(brokers.map(|address| (address.clone(), Vec::new())).collect(), within)
    }

    fn try_all(&self, brokers: Vec<(Address, Wanted)>, within: Duration) -> Vec<Tried> {
        let (out, answers) = channel();
        let mut silent: BTreeMap<String, &str> = BTreeMap::new();
        for (address, wanted) in brokers {
            let name = address.to_string();
            let why = match self.start_trying(address, wanted, out.clone()) {
                Ok(()) => "no answer",
                Err(_) => "there is no thread to ask it by",
            };
            silent.insert(name, why);
        }
        drop(out);
        let until = Instant::now() + within;
        let mut tried = Vec::new();
        let left = || until.saturating_duration_since(Instant::now());
        while let Ok((broker, answer)) = answers.recv_timeout(left()) {
            silent.remove(&broker);
            tried.push(answer);
        }
        let of_silent = |(broker, why): (String, &str)| {
            let detail = format!("{why} within {} s", within.as_secs());
            Tried { is_too_old: false, outcome: Err(SourceError::Broker { broker, detail }) }
        };
        tried.extend(silent.into_iter().map(of_silent));
        tried
    }

    /// On a thread of its own, which is not waited for: it ends when its broker answers or is given up.
    fn start_trying(
        &self,
        address: Address,
        wanted: Wanted,
        out: Sender<(String, Tried)>,
    ) -> std::io::Result<()> {
        let (topics, security) = (self.topics.clone(), self.security.clone());
        let thread = std::thread::Builder::new().name(format!("try-{address}")).stack_size(STACK);
        let ask = move || {
            let tried = match ask(&address, &security, &topics, &wanted) {
                Ok(outcome) => Tried { is_too_old: false, outcome },
                Err(error) => {
                    let (broker, detail) = (address.to_string(), error.to_string());
                    let outcome = Err(SourceError::Broker { broker, detail });
                    Tried { is_too_old: matches!(error, ExchangeError::Version), outcome }
                }
            };
            // Nobody waits for it any more, if it took too long.
            out.send((address.to_string(), tried)).ok();
        };
        thread.spawn(ask).map(drop)
    }
}

/// What the first of the partitions says that cannot be read.
fn ask(
    address: &Address,
    security: &Security,
    topics: &Topics,
    wanted: &Wanted,
) -> Result<Result<(), SourceError>, ExchangeError> {
    let mut connection = Connection::open(address, security)?;
    if wanted.is_empty() {
        return Ok(Ok(()));
    }
    let fetches = wanted.iter().map(|(id, at)| (*id, PartitionFetch::new(1, *at, None)));
    let mut fetches: BTreeMap<PartitionId, PartitionFetch> = fetches.collect();
    let asked: Vec<_> = fetches.iter().map(|(id, fetch)| fetch.wanted(*id)).collect();
    let mut buffer = Vec::new();
    let answer = connection.fetch(topics, &asked, LITTLE, &mut buffer)?;
    for fetched in answer.partitions {
        let (id, tp) = (fetched.partition, topics.tp(fetched.partition));
        // A leader that moves is no error, and neither is what a reader waits out.
        let content = fetches.get_mut(&id).and_then(|fetch| fetch.accept(&tp, fetched, &buffer, 1));
        if let Some(Content::Failed(error)) = content {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}
