//! What a shard reads, shared by its queue, the threads that fetch for it, and the source.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::metadata::{MetadataBroker, MetadataTopic};

use super::connection::Address;
use super::partition_fetch::{BACKOFF, Content, PartitionFetch};
use super::round_robin::RoundRobin;
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use super::wire::{Answer, Fetched, Limits, Wanted};
use crate::protocol::Offset;
use crate::source::{PartitionId, SourceError, TopicIndex, Topics};

/// How long a broker may wait for a first record: a partition that is taken meanwhile waits, too.
const WAIT_MS: i32 = 250;
/// Least and most bytes of an answer. Above that, only memory grows; below, a hundred brokers would not
/// be within a shard's share. A broker answers with one batch in any case.
const ANSWER: (u64, u64) = (16 << 10, 4 << 20);
/// Least bytes of one partition in an answer, so that many partitions take turns in it.
const PARTITION: i32 = 1 << 20;

/// Who leads which partition, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::source) struct Cluster {
    pub(super) brokers: BTreeMap<i32, Address>,
    pub(super) leaders: BTreeMap<PartitionId, i32>,
}

impl Cluster {
    /// Adds what the cluster's metadata says of a topic, and the brokers that it names.
    pub(in crate::source) fn learn(
        &mut self,
        topic: TopicIndex,
        metadata: &MetadataTopic,
        brokers: &[MetadataBroker],
    ) {
        self.brokers.extend(brokers.iter().filter_map(|broker| {
            let port = u16::try_from(broker.port()).ok()?;
            Some((broker.id(), Address { host: broker.host().to_owned(), port }))
        }));
        let led = metadata.partitions().iter().filter(|p| p.leader() >= 0);
        self.leaders.extend(led.map(|p| (PartitionId { topic, partition: p.id() }, p.leader())));
    }
}

/// An answer on its way to the shard.
pub(super) struct Chunk {
    pub(super) buffer: Vec<u8>,
    pub(super) sections: std::vec::IntoIter<Section>,
}

/// One partition's part of an answer.
pub(super) struct Section {
    /// Of which assignment of the partition it is.
    pub(super) token: u64,
    pub(super) partition: PartitionId,
    pub(super) content: Content,
}

/// What to ask a broker for.
pub(super) struct Plan {
    pub(super) address: Address,
    pub(super) wanted: Vec<Wanted>,
    pub(super) limits: Limits,
    broker: i32,
    /// Tells it from the shard's other plans. Not 0.
    number: u64,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<PartitionId, PartitionFetch>,
    cluster: Arc<Cluster>,
    /// Brokers that have a thread.
    workers: BTreeSet<i32>,
    round_robin: BTreeMap<i32, RoundRobin>,
    plans: u64,
    answers: u64,
    stopped: bool,
    spare: Vec<Vec<u8>>,
    /// Answers that the shard did not take yet: one with records, and failures.
    chunks: VecDeque<Chunk>,
    /// Brokers whose answers wait for room there, in their order.
    queued: VecDeque<i32>,
}

impl State {
    /// Where a partition is read, if that is known.
    fn leader(&self, partition: PartitionId) -> Option<i32> {
        let leader = self.cluster.leaders.get(&partition).copied();
        leader.filter(|leader| self.cluster.brokers.contains_key(leader))
    }

    /// Partitions that are read, each with its leader.
    fn leaders(&self) -> impl Iterator<Item = Option<i32>> {
        let read = self.partitions.iter().filter(|(_, fetch)| !fetch.failed);
        read.map(|(partition, _)| self.leader(*partition))
    }

    /// Keeps a buffer for the next answer, as long as all of them are within `most` bytes: one that a
    /// huge batch made large is let go.
    fn keep(&mut self, buffer: Vec<u8>, most: u64) {
        let kept: usize = self.spare.iter().map(Vec::capacity).sum();
        if (kept + buffer.capacity()) as u64 <= most {
            self.spare.push(buffer);
        }
    }
}

/// Whether it is to be asked who leads, by any of the shards.
#[derive(Default)]
pub(super) struct LeadersWanted {
    /// Leaders are not known or not right.
    pub(super) wanted: AtomicBool,
    /// They were until now, or something of them changed.
    pub(super) news: AtomicBool,
}

impl LeadersWanted {
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    pub(super) fn news(&self) {
        self.news.store(true, Ordering::Release);
    }
}

/// See the module.
pub(super) struct ShardFetch {
    pub(super) topics: Topics,
    queue_bytes: u64,
    state: Mutex<State>,
    /// What is to be read or where may have changed.
    changed: Condvar,
    /// The shard may have something to take, or there may be room for more.
    arrived: Condvar,
    room: Condvar,
    leaders: Arc<LeadersWanted>,
}

impl ShardFetch {
    pub(super) fn new(topics: &Topics, queue_bytes: u64, leaders: &Arc<LeadersWanted>) -> Self {
        Self {
            topics: topics.clone(),
            queue_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
            arrived: Condvar::new(),
            room: Condvar::new(),
            leaders: leaders.clone(),
        }
    }

    /// Begins to read a partition. What was fetched of it before is not of this assignment.
    pub(super) fn assign(
        &self,
        partition: PartitionId,
        start: Offset,
        epoch: Option<i32>,
        token: u64,
    ) {
        let mut state = self.lock();
        state.partitions.insert(partition, PartitionFetch::new(token, start, epoch));
        if state.leader(partition).is_none() {
            self.leaders.news();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends to read a partition: nothing of it is handed over from now on.
    pub(super) fn revoke(&self, partition: PartitionId) {
        self.lock().partitions.remove(&partition);
        self.changed.notify_all();
    }

    /// Reads nothing more from a partition, and keeps in mind under which leaders the records were written
    /// that it read: they may be committed yet.
    pub(super) fn set_aside(&self, partition: PartitionId) {
        if let Some(fetch) = self.lock().partitions.get_mut(&partition) {
            fetch.let_go();
            self.changed.notify_all();
        }
    }

    /// Tells who leads. Returns the brokers that need a thread now.
    pub(super) fn set_cluster(&self, cluster: &Arc<Cluster>) -> Vec<i32> {
        let mut state = self.lock();
        if state.cluster != *cluster {
            state.cluster = cluster.clone();
            self.changed.notify_all();
        }
        if state.leaders().any(|leader| leader.is_none()) {
            self.ask_for_leaders();
        }
        let leaders = state.leaders().flatten();
        let new: BTreeSet<i32> = leaders.filter(|id| !state.workers.contains(id)).collect();
        state.workers.extend(&new);
        new.into_iter().collect()
    }

    /// How many threads fetch for it.
    pub(super) fn workers(&self) -> usize {
        self.lock().workers.len()
    }

    /// The thread of a broker is gone before its time: another may be started.
    pub(super) fn lost_worker(&self, broker: i32) {
        self.lock().workers.remove(&broker);
        self.ask_for_leaders();
    }

    /// Ends all threads that fetch.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
        self.room.notify_all();
    }

    /// End of the log of a partition, if it is read here and an answer told it.
    pub(super) fn log_end(&self, partition: PartitionId) -> Option<Offset> {
        self.lock().partitions.get(&partition)?.end
    }

    /// Leader epoch of the record before an offset, if the partition is read here and that is known.
    pub(super) fn epoch_before(&self, partition: PartitionId, next: Offset) -> Option<i32> {
        self.lock().partitions.get(&partition)?.epoch_before(next)
    }

    /// Is this the assignment under which a partition is read now?
    pub(super) fn is_current(&self, partition: PartitionId, token: u64) -> bool {
        self.lock().partitions.get(&partition).is_some_and(|fetch| fetch.token == token)
    }

    /// Keeps those that are of the present assignments.
    pub(super) fn retain_current<T>(&self, of: &mut BTreeMap<PartitionId, (u64, T)>) {
        let state = self.lock();
        of.retain(|partition, (token, _)| {
            state.partitions.get(partition).is_some_and(|fetch| fetch.token == *token)
        });
    }

    /// Reads nothing more from a partition, and hands nothing more over: it has a hole now.
    pub(super) fn fail(&self, partition: PartitionId, token: u64) {
        if let Some(fetch) = self.lock().partitions.get_mut(&partition)
            && fetch.token == token
        {
            fetch.let_go();
            self.changed.notify_all();
        }
    }

    /// A buffer for an answer, with what an earlier one left in it.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        self.lock().keep(buffer, self.queue_bytes);
    }

    pub(super) fn ask_for_leaders(&self) {
        self.leaders.want();
    }

    /// The same because of what was well before.
    pub(super) fn ask_for_leaders_now(&self) {
        self.leaders.news();
        self.leaders.want();
    }

    /// Waits until there is something to ask of a broker; `None` ends its thread: all is over, or
    /// it leads nothing that is read. It gets another one when it does.
    pub(super) fn plan(&self, broker: i32) -> Option<Plan> {
        let mut state = self.lock();
        loop {
            if state.stopped || !state.leaders().any(|leader| leader == Some(broker)) {
                state.workers.remove(&broker);
                return None;
            }
            let now = Instant::now();
            let (mut ready, mut wake) = (Vec::new(), None);
            for (partition, fetch) in &state.partitions {
                if fetch.failed || state.leader(*partition) != Some(broker) {
                    continue;
                }
                match fetch.not_before.filter(|time| *time > now) {
                    Some(time) => wake = Some(wake.map_or(time, |w: Instant| w.min(time))),
                    None => ready.push((fetch.served, *partition)),
                }
            }
            match state.cluster.brokers.get(&broker).cloned() {
                Some(address) if !ready.is_empty() => {
                    return Some(self.plan_of(&mut state, broker, address, ready));
                }
                _ => state = wait(&self.changed, state, wake.map(|time| time - now)),
            }
        }
    }

    fn plan_of(
        &self,
        state: &mut State,
        broker: i32,
        address: Address,
        mut ready: Vec<(u64, PartitionId)>,
    ) -> Plan {
        state.plans += 1;
        let number = state.plans;
        ready.sort_unstable();
        let has_more = |(_, partition): &(u64, PartitionId)| state.partitions[partition].has_more();
        let more: Vec<_> = ready.iter().copied().filter(has_more).collect();
        let few = state.round_robin.entry(broker).or_default().next(Instant::now(), more.len());
        if let Some(few) = few {
            ready = more;
            ready.truncate(few);
        }
        let mut wanted = Vec::with_capacity(ready.len());
        for (_, partition) in ready {
            let Some(fetch) = state.partitions.get_mut(&partition) else { continue };
            fetch.asked = number;
            wanted.push(fetch.wanted(partition));
        }
        // One answer is being read by the shard, one waits for it, and each broker's thread has one.
        let bytes = self.queue_bytes / (2 + state.workers.len().max(1) as u64);
        let bytes = i32::try_from(bytes.clamp(ANSWER.0, ANSWER.1)).unwrap_or(i32::MAX);
        let share = bytes / i32::try_from(wanted.len()).unwrap_or(i32::MAX);
        let partition_bytes = share.max(PARTITION).min(bytes);
        // For others there may be records meanwhile.
        let wait_ms = if few.is_some() { 0 } else { WAIT_MS };
        Plan { address, wanted, limits: Limits { wait_ms, bytes, partition_bytes }, broker, number }
    }

    /// Waits for so long, or less if something changed. False: it is over.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        !state.stopped && !wait(&self.changed, state, Some(time)).stopped
    }

    /// Waits for so long, whatever changes. False: it is over.
    pub(super) fn rest(&self, time: Duration) -> bool {
        let begun = Instant::now();
        let mut state = self.lock();
        while !state.stopped {
            match time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => state = wait(&self.changed, state, Some(left)),
                None => return true,
            }
        }
        false
    }

    /// Moves on by an answer to `plan`, whose bytes are in `buffer`, and gives the shard its part.
    /// Waits while the shard has enough: it gets the answers in the order in which partitions
    /// move on. False: it is over.
    pub(super) fn accept(&self, plan: &Plan, answer: Answer, buffer: Vec<u8>) -> bool {
        let mut state = self.lock();
        // What has no records needs no room.
        if answer.partitions.iter().any(|each| !each.records.is_empty()) {
            state = self.wait_for_room(state, plan.broker);
        }
        if state.stopped {
            return false;
        }
        let sections = self.sections(&mut state, plan, answer.partitions, &buffer);
        if sections.iter().any(|each| matches!(each.content, Content::Records { .. })) {
            state.chunks.push_back(Chunk { buffer, sections: sections.into_iter() });
            self.arrived.notify_one();
            return true;
        }
        state.keep(buffer, self.queue_bytes);
        // Others may wait for the room that this one did not need.
        self.room.notify_all();
        if !sections.is_empty() {
            let chunk = Chunk { buffer: Vec::new(), sections: sections.into_iter() };
            state.chunks.push_back(chunk);
            self.arrived.notify_one();
        }
        true
    }

    fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        broker: i32,
    ) -> MutexGuard<'a, State> {
        state.queued.push_back(broker);
        while !state.stopped && (!state.chunks.is_empty() || state.queued.front() != Some(&broker))
        {
            state = wait(&self.room, state, None);
        }
        state.queued.pop_front();
        state
    }

    /// Gives up what a broker leads: it cannot be read from there.
    pub(super) fn refuse(&self, broker: i32, address: &str, detail: &str) {
        let mut state = self.lock();
        let read = state.partitions.keys().copied();
        let led: Vec<PartitionId> = read.filter(|p| state.leader(*p) == Some(broker)).collect();
        let mut sections = Vec::new();
        for partition in led {
            let Some(fetch) = state.partitions.get_mut(&partition) else { continue };
            if std::mem::replace(&mut fetch.failed, true) {
                continue;
            }
            let error =
                SourceError::Broker { broker: address.to_owned(), detail: detail.to_owned() };
            let content = Content::Failed(error);
            sections.push(Section { token: fetch.token, partition, content });
        }
        if sections.is_empty() {
            return;
        }
        state.chunks.push_back(Chunk { buffer: Vec::new(), sections: sections.into_iter() });
        self.arrived.notify_one();
    }

    /// The next answer for the shard; waits up to `time` for it.
    pub(super) fn next_chunk(&self, time: Duration) -> Option<Chunk> {
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(chunk) = state.chunks.pop_front() {
                self.room.notify_all();
                return Some(chunk);
            }
            let left = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero())?;
            state = wait(&self.arrived, state, Some(left));
        }
    }

    fn sections(
        &self,
        state: &mut State,
        plan: &Plan,
        answered: Vec<Fetched>,
        buffer: &[u8],
    ) -> Vec<Section> {
        state.answers += 1;
        let answers = state.answers;
        let given = answered.iter().map(|each| each.records.len()).filter(|bytes| *bytes > 0);
        let (count, bytes) = given.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        let most = usize::try_from(plan.limits.bytes).unwrap_or(0);
        state.round_robin.entry(plan.broker).or_default().answered(count, bytes, most);
        let (mut sections, mut refused, mut news) = (Vec::new(), false, false);
        for fetched in answered {
            let partition = fetched.partition;
            let Some(fetch) = state.partitions.get_mut(&partition) else { continue };
            if fetch.asked != plan.number || fetch.failed {
                continue;
            }
            fetch.asked = 0;
            let token = fetch.token;
            let (tp, before) = (self.topics.tp(partition), fetch.is_refused());
            let content = fetch.accept(&tp, fetched, buffer, answers);
            refused |= fetch.is_refused();
            news |= fetch.is_refused() && !before;
            sections.extend(content.map(|content| Section { token, partition, content }));
        }
        match (refused, news) {
            (_, true) => self.ask_for_leaders_now(),
            (true, false) => self.ask_for_leaders(),
            (false, false) => {}
        }
        // A broker that says nothing of a partition would say so again at once.
        let later = Instant::now() + BACKOFF;
        for fetch in state.partitions.values_mut().filter(|each| each.asked == plan.number) {
            fetch.asked = 0;
            fetch.not_before = Some(later);
        }
        sections
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is made by one statement: it is whole, whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits to be notified, for at most so long.
fn wait<'a>(
    on: &Condvar,
    state: MutexGuard<'a, State>,
    most: Option<Duration>,
) -> MutexGuard<'a, State> {
    match most {
        None => on.wait(state).unwrap_or_else(PoisonError::into_inner),
        Some(most) => on.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0,
    }
}
