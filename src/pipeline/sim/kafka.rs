//! The log, and the consumer group that shares its partitions out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::lake::Meta;
use super::state::{Life, State, tp};
use crate::pipeline::messages::Event;
use crate::protocol::{Frontier, Offset, TopicPartition};
use crate::source::{LeftOut, Membership, Reported, Share};

/// What is at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    Bad,
    Tombstone,
}

/// A partition: records with holes between and after them.
#[derive(Default)]
pub(super) struct Partition {
    pub records: Vec<(Offset, Kind)>,
    pub start: Offset,
    pub end: Offset,
}

impl Partition {
    /// The records of `[start, end)`.
    pub(crate) fn range(&self, start: Offset, end: Offset) -> &[(Offset, Kind)] {
        let from = self.records.partition_point(|(offset, _)| *offset < start);
        let to = self.records.partition_point(|(offset, _)| *offset < end);
        &self.records[from..to.max(from)]
    }
}

pub(super) struct Log {
    pub partitions: Vec<Partition>,
}

impl Log {
    pub(crate) fn new(partitions: i32) -> Self {
        Self { partitions: (0..partitions).map(|_| Partition::default()).collect() }
    }

    pub(crate) fn all(&self) -> Vec<TopicPartition> {
        (0_i32..).zip(&self.partitions).map(|(number, _)| tp(number)).collect()
    }

    pub(crate) fn partition(&mut self, number: i32) -> &mut Partition {
        &mut self.partitions[index(number)]
    }
}

pub(super) fn index(partition: i32) -> usize {
    usize::try_from(partition).unwrap()
}

/// Where a client reads a partition.
pub(super) struct Fetch {
    pub shard: usize,
    pub start: Offset,
    pub next: Offset,
}

/// The client of one run.
pub(super) struct Client {
    pub life: Life,
    pub member: u64,
    pub events: Option<Sender<Event>>,
    pub fetches: BTreeMap<i32, Fetch>,
    /// Partitions of its own that it does not read.
    pub aside: BTreeSet<i32>,
    /// What was fetched of partitions that are released: shard, partition and offset.
    pub stale: Vec<(usize, i32, Offset)>,
    /// The tables by number as it read them last, since it asked where logs begin.
    pub read: BTreeMap<usize, Arc<Meta>>,
    pub lost_at: Option<Instant>,
}

impl Client {
    fn tell(&self, event: Event) -> bool {
        self.events.as_ref().is_some_and(|events| events.try_send(event).is_ok())
    }
}

/// A member as the group knows it. Members are static: one that comes back has its partitions.
struct Member {
    client: u64,
    seen: Instant,
    owned: BTreeSet<i32>,
    changes: VecDeque<(bool, Vec<i32>)>,
    /// The change that the client has not answered: is it an assignment, of what, since when.
    unanswered: Option<(bool, Vec<i32>, Instant)>,
}

impl Member {
    /// What it is to give up.
    fn revoking(&self) -> impl Iterator<Item = i32> {
        let unanswered = self.unanswered.iter().map(|(assigned, of, _)| (assigned, of));
        let changes = self.changes.iter().map(|(assigned, of)| (assigned, of)).chain(unanswered);
        changes.filter(|(assigned, _)| !**assigned).flat_map(|(_, of)| of.iter().copied())
    }

    /// What the group's last answer gave it.
    fn assigned(&self) -> BTreeSet<i32> {
        let revoking: BTreeSet<i32> = self.revoking().collect();
        self.owned.difference(&revoking).copied().collect()
    }
}

#[derive(Default)]
pub(super) struct Group {
    members: BTreeMap<u64, Member>,
    /// Something happened after which partitions are shared out anew.
    rebalances: bool,
    /// Did a turn find partitions that were left to nobody?
    left_out: bool,
    /// The offsets reported to it.
    pub offsets: BTreeMap<i32, Reported>,
}

impl Group {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

fn names(partitions: &[i32]) -> Vec<TopicPartition> {
    partitions.iter().map(|partition| tp(*partition)).collect()
}

impl State {
    /// A few records, and now and then a hole.
    pub(crate) fn produce(&mut self) {
        let number = self.rng.usize(0..self.log.partitions.len());
        let count = self.rng.u32(1..=12);
        for _ in 0..count {
            let kind = match self.rng.u32(0..16) {
                0 => Kind::Bad,
                1 => Kind::Tombstone,
                _ => Kind::Good,
            };
            let hole = if self.rng.u32(0..5) == 0 { self.rng.i64(1..4) } else { 0 };
            let before = self.rng.bool();
            let partition = &mut self.log.partitions[number];
            let offset = partition.end + if before { hole } else { 0 };
            partition.records.push((offset, kind));
            partition.end = offset + 1 + if before { 0 } else { hole };
        }
        let end = self.log.partitions[number].end;
        self.note(format_args!("log {number}: {count} records, end {end}"));
    }

    /// Old records go, as far as the ledger is past them.
    pub(crate) fn retain(&mut self) {
        let number = self.rng.i32(0..i32::try_from(self.log.partitions.len()).unwrap());
        let ledger = self.ledger_of(number).unwrap_or(0);
        let start = self.rng.i64(0..=ledger);
        let partition = self.log.partition(number);
        partition.start = partition.start.max(start);
        self.note(format_args!("log {number}: begins at {start} at least"));
    }

    /// A client asks where logs begin. Commits may have landed since it read the tables, and
    /// retention may have followed them.
    pub(crate) fn ask_for_logs(&mut self, id: u64, partitions: &[TopicPartition]) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let read = std::mem::take(&mut client.read);
        for number in partitions.iter().map(|tp| tp.partition) {
            if self.plan.short_logs && self.remade.is_none() {
                let ledger = self.ledger_of(number).unwrap_or(0);
                let partition = self.log.partition(number);
                partition.start = partition.start.max(ledger);
            }
            let start = self.log.partitions[index(number)].start;
            let mut known = read.values().filter_map(|meta| meta.ledger_of(number));
            if known.any(|ledger| ledger < start) {
                self.met.overtaken += 1;
                self.note(format_args!("log {number}: begins at {start}, past a ledger just read"));
            }
        }
    }

    /// Somebody deletes the topic and makes it again, and at once it holds records at every offset that
    /// anybody knows.
    pub(crate) fn remake(&mut self) {
        let count = i32::try_from(self.log.partitions.len()).unwrap();
        let old = std::mem::replace(&mut self.log, Log::new(count));
        let behind = |(new, old): (&Partition, &Partition)| new.end < old.end + 10;
        while self.log.partitions.iter().zip(&old.partitions).any(behind) {
            self.produce();
        }
        self.remade = Some(old);
        self.note(format_args!("the topic is made again"));
    }

    /// The log of the topic that the pipeline reads, not of one that has its name now.
    pub(crate) fn first_log(&self) -> &Log {
        self.remade.as_ref().unwrap_or(&self.log)
    }

    pub(crate) fn topic_id(&self) -> &'static str {
        if self.remade.is_some() { "j" } else { "i" }
    }

    pub(crate) fn add_partition(&mut self) {
        self.log.partitions.push(Partition::default());
        let count = self.log.partitions.len();
        self.group.rebalances = true;
        self.note(format_args!("log: {count} partitions"));
        if !self.plan.group {
            for client in self.clients.values() {
                client.tell(Event::PartitionsAdded(count));
            }
        }
    }

    pub(crate) fn waver(&mut self) {
        for client in self.clients.values().filter(|client| !client.life.is_dead()) {
            client.tell(Event::Unreachable(String::from("brokers are away")));
            client.tell(Event::Reachable);
        }
    }

    /// A client asks for partitions.
    pub(crate) fn join(&mut self, id: u64, events: Sender<Event>) {
        let all: Vec<i32> = (0_i32..).zip(&self.log.partitions).map(|(n, _)| n).collect();
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.events = Some(events);
        let (member, name) = (client.member, client.life.name().to_owned());
        if !self.plan.group {
            client.tell(Event::Membership(Membership::Assigned(names(&all))));
            return;
        }
        let rebalances = &mut self.group.rebalances;
        let known = self.group.members.entry(member).or_insert_with(|| {
            *rebalances = true;
            Member {
                client: id,
                seen: Instant::now(),
                owned: BTreeSet::new(),
                changes: VecDeque::new(),
                unanswered: None,
            }
        });
        known.client = id;
        known.seen = Instant::now();
        // A member that is back gets what the last answer gave it. If it was to give some up and then
        // come for the second step, nobody begins that one now.
        known.owned = known.assigned();
        known.changes.clear();
        known.unanswered = None;
        let owned: Vec<i32> = known.owned.iter().copied().collect();
        self.note(format_args!("{name} joins as member {member}, owns {owned:?}"));
        if let Some(known) = self.group.members.get_mut(&member) {
            known.changes.push_back((true, owned));
        }
    }

    /// A client takes what was assigned to it.
    pub(crate) fn assign(&mut self, id: u64, shares: &[Share], absent: &[TopicPartition]) {
        let started = shares.iter().map(|share| share.tp.partition);
        let mut taken: Vec<i32> = started.chain(absent.iter().map(|tp| tp.partition)).collect();
        taken.sort_unstable();
        if self.plan.group {
            self.answer(id, true, &taken);
        }
        self.begin(id, shares);
    }

    /// The leader epoch of the record before an offset: leaders change often. A topic that is made again has
    /// the same here: it may be begun as if it were the first one, before anybody knows.
    fn leader_epoch(partition: i32, next: Offset) -> i32 {
        partition + i32::try_from(next / 3).unwrap_or(i32::MAX)
    }

    /// Those before these offsets, of partitions that the client reads.
    pub(crate) fn leader_epochs(
        &self,
        id: u64,
        frontier: &Frontier,
    ) -> BTreeMap<TopicPartition, i32> {
        let Some(client) = self.clients.get(&id) else { return BTreeMap::new() };
        let read = frontier.iter().filter(|(tp, _)| client.fetches.contains_key(&tp.partition));
        read.map(|(tp, next)| (tp.clone(), Self::leader_epoch(tp.partition, next))).collect()
    }

    /// A client begins to read partitions that it has.
    pub(crate) fn begin(&mut self, id: u64, shares: &[Share]) {
        for share in shares {
            let of_log = Self::leader_epoch(share.tp.partition, share.start);
            match share.epoch {
                None => self.met.unknown_leaders += 1,
                Some(epoch) if epoch == of_log => self.met.known_leaders += 1,
                Some(epoch) => self.find(format!(
                    "{} is read from {} as if the record before had the leader epoch {epoch}, not {of_log}",
                    share.tp, share.start
                )),
            }
        }
        let Some(client) = self.clients.get_mut(&id) else { return };
        for share in shares {
            let (shard, start) = (share.shard, share.start);
            let fetch = Fetch { shard, start, next: start };
            client.fetches.insert(share.tp.partition, fetch);
            client.aside.remove(&share.tp.partition);
        }
        let name = client.life.name().to_owned();
        let shown: Vec<_> = shares.iter().map(|s| (s.tp.partition, s.start, s.shard)).collect();
        self.note(format_args!("{name} takes {shown:?}"));
    }

    /// A client reads nothing more from partitions that stay its own.
    pub(crate) fn set_aside(&mut self, id: u64, partitions: &[i32]) {
        self.met.set_aside += partitions.len();
        self.release(id, partitions);
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.aside.extend(partitions);
    }

    /// A client lets go of partitions.
    pub(crate) fn revoke(&mut self, id: u64, partitions: &[i32]) {
        self.release(id, partitions);
        if let Some(client) = self.clients.get_mut(&id) {
            client.aside.retain(|partition| !partitions.contains(partition));
        }
        self.answer(id, false, partitions);
    }

    fn release(&mut self, id: u64, partitions: &[i32]) {
        let stale = self.fault(self.plan.stale_queues);
        let Some(client) = self.clients.get_mut(&id) else { return };
        for number in partitions {
            let Some(fetch) = client.fetches.remove(number) else { continue };
            let log = &self.log.partitions[index(*number)];
            if stale {
                let rest = log.range(fetch.next, fetch.next + 5).iter();
                client.stale.extend(rest.map(|(offset, _)| (fetch.shard, *number, *offset)));
            }
        }
        let name = client.life.name().to_owned();
        self.note(format_args!("{name} releases {partitions:?}"));
    }

    /// A shard has nothing more in hand of what was fetched before.
    pub(super) fn drop_stale(&mut self, id: u64, shard: usize) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.stale.retain(|(of, ..)| *of != shard);
        }
    }

    fn answer(&mut self, id: u64, assigned: bool, partitions: &[i32]) {
        let Some(client) = self.clients.get(&id) else { return };
        let expelled = client.lost_at.is_some();
        let member = self.group.members.get_mut(&client.member);
        let Some(member) = member.filter(|member| member.client == id) else { return };
        let known = member.unanswered.take();
        let same = known.as_ref().is_some_and(|(was, of, _)| *was == assigned && of == partitions);
        if !same && !expelled {
            let text = format!("{partitions:?} (assigned {assigned}) answers {known:?}");
            return self.find(text);
        }
        if !assigned {
            member.owned.retain(|partition| !partitions.contains(partition));
            self.group.rebalances = true;
        }
    }

    /// A client gives up what it has and joins again.
    pub(crate) fn rejoin(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else { return };
        let name = client.life.name().to_owned();
        let member = self.group.members.get_mut(&client.member);
        let Some(member) = member.filter(|member| member.client == id) else { return };
        // Not those that it is letting go of already: by then they may be given to it anew.
        let told = member.unanswered.iter().map(|(assigned, of, _)| (*assigned, of));
        let to_tell = member.changes.iter().map(|(assigned, of)| (*assigned, of));
        let revoked = told.chain(to_tell).filter(|(assigned, _)| !assigned);
        let leaving: BTreeSet<i32> = revoked.flat_map(|(_, of)| of.iter().copied()).collect();
        let owned: Vec<i32> = member.owned.difference(&leaving).copied().collect();
        match owned.is_empty() {
            true => self.group.rebalances = true,
            false => member.changes.push_back((false, owned)),
        }
        self.met.rejoins += 1;
        self.note(format_args!("{name} joins again"));
    }

    /// Is the process heard by the group?
    fn is_heard(&self, id: u64) -> bool {
        let now = Instant::now();
        self.clients.get(&id).is_some_and(|client| {
            let slot = client.life.slot();
            !client.life.is_dead()
                && client.events.as_ref().is_some_and(|events| !events.is_closed())
                && [&self.muted, &self.frozen]
                    .iter()
                    .all(|until| until.get(&slot).is_none_or(|until| *until <= now))
        })
    }

    /// The broker's turn: who is dead, who is to have what.
    pub(crate) fn group_turn(&mut self) {
        let now = Instant::now();
        self.expel_the_silent(now);
        if std::mem::take(&mut self.group.rebalances) {
            self.share_out();
        }
        self.tell_left_out();
        for member in self.group.members.values_mut() {
            let Some(client) = self.clients.get(&member.client) else { continue };
            if member.unanswered.is_some() {
                continue;
            }
            let Some((assigned, partitions)) = member.changes.pop_front() else { continue };
            let change = match assigned {
                true => Membership::Assigned(names(&partitions)),
                false => Membership::Revoked(names(&partitions)),
            };
            if client.tell(Event::Membership(change)) {
                member.unanswered = Some((assigned, partitions, now));
            }
        }
        let told: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| is_due(client, now))
            .map(|(id, _)| *id)
            .collect();
        for id in told {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            client.lost_at = None;
            client.tell(Event::Membership(Membership::Lost));
            let name = client.life.name().to_owned();
            self.note(format_args!("{name} hears that its partitions are lost"));
        }
    }

    /// Members look at the group: which partitions does it leave to nobody?
    fn tell_left_out(&mut self) {
        let assigned: BTreeMap<u64, BTreeSet<i32>> =
            self.group.members.iter().map(|(id, member)| (*id, member.assigned())).collect();
        let all = (0_i32..).zip(&self.log.partitions).map(|(number, _)| number);
        let left: Vec<i32> =
            all.filter(|number| !assigned.values().any(|own| own.contains(number))).collect();
        let before = std::mem::replace(&mut self.group.left_out, !left.is_empty());
        if left.is_empty() && !before {
            return;
        }
        for (id, member) in &self.group.members {
            let own = (assigned[id].len(), *id);
            let poorer = assigned.iter().filter(|(id, of)| (of.len(), **id) < own).count();
            let before = u32::try_from(poorer).unwrap();
            let left_out = LeftOut {
                partitions: names(&left),
                is_settled: true,
                is_member: true,
                before,
                others: BTreeSet::new(),
            };
            if let Some(client) = self.clients.get(&member.client) {
                client.tell(Event::LeftOut(Some(left_out)));
            }
        }
    }

    fn expel_the_silent(&mut self, now: Instant) {
        let (session, revocation) = (self.plan.session, self.plan.revocation);
        let ids: Vec<u64> = self.group.members.keys().copied().collect();
        for id in ids {
            let Some(client) = self.group.members.get(&id).map(|member| member.client) else {
                continue;
            };
            let heard = self.is_heard(client);
            let Some(member) = self.group.members.get_mut(&id) else { continue };
            if heard {
                member.seen = now;
            }
            let slow =
                matches!(&member.unanswered, Some((false, _, since)) if now - *since > revocation);
            if now - member.seen <= session && !slow {
                continue;
            }
            let owned = self.group.members.remove(&id).map(|member| member.owned);
            self.group.rebalances = true;
            let zombie = self.plan.zombie;
            let wait = if self.calm { Duration::from_millis(1) } else { self.up_to(zombie) };
            if let Some(client) = self.clients.get_mut(&client) {
                client.lost_at = Some(now + wait);
            }
            self.note(format_args!("group: member {id} is gone, {owned:?} are free"));
        }
    }

    /// Evenly, and with as few moves as possible.
    fn share_out(&mut self) {
        if self.group.members.is_empty() {
            return;
        }
        let owned: BTreeSet<i32> =
            self.group.members.values().flat_map(|member| member.owned.iter().copied()).collect();
        let mut free: Vec<i32> = (0_i32..)
            .zip(&self.log.partitions)
            .map(|(number, _)| number)
            .filter(|number| !owned.contains(number))
            .collect();
        let (all, members) = (self.log.partitions.len(), self.group.members.len());
        let mut order: Vec<u64> = self.group.members.keys().copied().collect();
        order.sort_by_key(|id| std::cmp::Reverse(self.group.members[id].owned.len()));
        let mut notes = Vec::new();
        for (place, id) in order.iter().enumerate() {
            let quota = all / members + usize::from(place < all % members);
            let Some(member) = self.group.members.get_mut(id) else { continue };
            let have = member.owned.len();
            if have > quota && member.revoking().next().is_none() {
                let going: Vec<i32> = member.owned.iter().skip(quota).copied().collect();
                notes.push(format!("group: {going:?} are to leave member {id}"));
                member.changes.push_back((false, going));
            } else if have < quota && !free.is_empty() {
                let coming: Vec<i32> = free.drain(..(quota - have).min(free.len())).collect();
                notes.push(format!("group: {coming:?} go to member {id}"));
                member.owned.extend(&coming);
                member.changes.push_back((true, coming));
            }
        }
        for note in notes {
            self.note(format_args!("{note}"));
        }
    }
}

fn is_due(client: &Client, now: Instant) -> bool {
    client.lost_at.is_some_and(|at| at <= now)
}
