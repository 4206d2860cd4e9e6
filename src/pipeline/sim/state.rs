//! The state of a simulated world, and the chances that its seed takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::disk::Drive;
use super::kafka::{Client, Group, Log};
use super::lake::Lake;
use crate::protocol::TopicPartition;

/// The topic of every simulated world.
pub(super) const TOPIC: &str = "t";
/// The pipeline of every simulated world.
pub(super) const PIPELINE: &str = "p";

pub(super) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

/// What a seed decides once: how large the world is and how ill it is.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Tables of the flow.
    pub tables: usize,
    /// Do some processes stop at a bad record?
    pub strict: bool,
    pub instances: usize,
    pub partitions: i32,
    /// Does the group share the partitions out? If not, all instances read them all.
    pub group: bool,
    /// Does reading begin at the ends of the log?
    pub latest: bool,
    /// Does the catalog compare the whole metadata, as SQL catalogs do, or only the head?
    pub by_version: bool,
    /// Does retention catch up with the ledger whenever somebody asks where the log begins?
    pub short_logs: bool,
    pub chaos: Duration,
    /// In a thousand, at each opportunity.
    pub lost_requests: u32,
    pub lost_replies: u32,
    pub late_requests: u32,
    pub twice: u32,
    pub busy: u32,
    pub rejected: u32,
    pub unreachable: u32,
    pub kafka_errors: u32,
    pub disk_errors: u32,
    pub store_errors: u32,
    pub stale_queues: u32,
    pub short_log_ends: u32,
    pub crashes: u32,
    pub fuses: u32,
    pub mutes: u32,
    pub freezes: u32,
    pub foreign: u32,
    pub rollbacks: u32,
    pub produce: u32,
    /// Longest that one leg of a call takes.
    pub travel: Duration,
    /// Longest that a request may be on its way after its sender gave it up.
    pub late: Duration,
    /// Most messages of a batch.
    pub batch: usize,
    /// Rows after which a data file is closed.
    pub roll: usize,
    pub session: Duration,
    /// How long the group waits for a revocation to be answered.
    pub revocation: Duration,
    /// Longest that an instance does not know that the group took it for dead.
    pub zombie: Duration,
}

impl Plan {
    /// From the seed's chances. A third of the worlds are nearly well, so that what only happens
    /// to the healthy happens, too.
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Self {
        let ill = rng.u32(0..3);
        let mut rate = |often: u32| match ill {
            0 => often / 8,
            _ if rng.bool() => rng.u32(0..=often * ill),
            _ => 0,
        };
        let mut plan = Self {
            tables: 1,
            strict: false,
            rollbacks: 0,
            lost_requests: rate(100),
            lost_replies: rate(150),
            late_requests: rate(150),
            twice: rate(100),
            busy: rate(100),
            rejected: rate(4),
            unreachable: rate(40),
            kafka_errors: rate(20),
            disk_errors: rate(30),
            store_errors: rate(20),
            stale_queues: rate(500),
            short_log_ends: rate(40),
            crashes: rate(30),
            fuses: rate(500),
            mutes: rate(30),
            freezes: rate(20),
            foreign: rate(200) + 20,
            instances: 0,
            partitions: 0,
            group: true,
            latest: false,
            by_version: false,
            short_logs: false,
            chaos: Duration::ZERO,
            produce: 0,
            travel: Duration::ZERO,
            late: Duration::ZERO,
            batch: 0,
            roll: 0,
            session: Duration::ZERO,
            revocation: Duration::ZERO,
            zombie: Duration::ZERO,
        };
        let mut ms = |from: u64, to: u64| Duration::from_millis(rng.u64(from..=to));
        plan.chaos = ms(500, 2500);
        plan.travel = ms(1, 12);
        plan.late = ms(50, 2000);
        plan.session = ms(150, 900);
        plan.revocation = ms(150, 1200);
        plan.zombie = ms(1, 800);
        plan.instances = rng.usize(1..=3);
        plan.partitions = rng.i32(2..=4);
        plan.group = rng.u32(0..4) > 0;
        plan.latest = rng.u32(0..8) == 0;
        plan.by_version = rng.bool();
        plan.produce = rng.u32(200..=900);
        plan.batch = rng.usize(1..=20);
        plan.roll = rng.usize(1..=30);
        plan
    }
}

/// A process of an instance. Everything that it does to the world goes through the seams, so a
/// process that stands still there for ever was killed there.
#[derive(Clone)]
pub(super) struct Life(Arc<LifeInner>);

struct LifeInner {
    slot: usize,
    name: String,
    dead: AtomicBool,
    /// Steps left until it dies; negative: it is not to die by itself.
    fuse: AtomicI64,
}

impl Life {
    pub(crate) fn new(slot: usize, name: String, fuse: Option<i64>) -> Self {
        let fuse = AtomicI64::new(fuse.unwrap_or(-1));
        Self(Arc::new(LifeInner { slot, name, dead: AtomicBool::new(false), fuse }))
    }

    pub(crate) fn slot(&self) -> usize {
        self.0.slot
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn kill(&self) {
        self.0.dead.store(true, Ordering::Relaxed);
    }

    pub(crate) fn disarm(&self) {
        self.0.fuse.store(-1, Ordering::Relaxed);
    }

    /// One line of the program. False: it is not reached.
    pub(crate) fn step(&self, sim: &Sim, what: &str) -> bool {
        if self.is_dead() {
            return false;
        }
        let left = self.0.fuse.load(Ordering::Relaxed);
        if left == 0 {
            self.kill();
            sim.lock().note(format_args!("{} KILLED at {what}", self.name()));
            return false;
        }
        if left > 0 {
            self.0.fuse.store(left - 1, Ordering::Relaxed);
        }
        true
    }
}

/// What happened, as a digest, and as text for those who look.
pub(super) struct Trace {
    pub digest: u64,
    pub print: bool,
    began: Instant,
    buffer: String,
}

impl Trace {
    fn note(&mut self, text: fmt::Arguments<'_>) {
        self.buffer.clear();
        let at = self.began.elapsed().as_millis();
        // Writing to a string does not fail.
        write!(self.buffer, "{at:>6} {text}").ok();
        for byte in self.buffer.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.print {
            println!("{}", self.buffer);
        }
    }
}

/// How often it happened what a world is there for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Met {
    /// Checkpoints of which one commit was finalized while another was pending.
    pub halves: usize,
    /// Runs that began with such a checkpoint.
    pub half_starts: usize,
    /// Runs that ended with a refusal of the table that was rolled back.
    pub refused: usize,
    /// Runs that stopped before a bad record.
    pub stopped: usize,
    /// Members that joined again, since the group left partitions to nobody.
    pub rejoins: usize,
    /// Times that a log began past a ledger that its reader had just read.
    pub overtaken: usize,
    /// Partitions of which no leader told, once, where their logs begin and end.
    pub absent: usize,
    /// Partitions that could not be read on, once.
    pub set_aside: usize,
    /// Partitions that were begun with the leader epoch of the record before, and without.
    pub known_leaders: usize,
    pub unknown_leaders: usize,
    /// Shards that had all the files of an epoch that ended.
    pub full: usize,
    /// Tables that were read for shards which would have opened files for older ones.
    pub renewals: usize,
}

/// All of a simulated world.
pub(super) struct State {
    pub plan: Plan,
    pub rng: fastrand::Rng,
    pub trace: Trace,
    /// What must never be. The first ends the run.
    pub findings: Vec<String>,
    /// Faults are over.
    pub calm: bool,
    pub log: Log,
    /// The log of the topic before it was made again, if it was.
    pub remade: Option<Log>,
    pub group: Group,
    /// One for each run of an instance.
    pub clients: BTreeMap<u64, Client>,
    pub last_client: u64,
    /// One for each table of the flow.
    pub lakes: Vec<Lake>,
    /// How old a reading may be for which a file is opened.
    pub oldest_reading: Duration,
    /// Files with which an epoch ends.
    pub most_files: u64,
    /// A table that the catalog does not give.
    pub away: Option<usize>,
    /// How often it happened what the world is there for.
    pub met: Met,
    /// One for each instance.
    pub drives: Vec<Drive>,
    pub last_member: u64,
    /// Processes to which a commit was rejected: they may leave with that.
    pub rejected: BTreeSet<String>,
    /// Instances that do nothing until then.
    pub frozen: BTreeMap<usize, Instant>,
    /// Did anybody stand still?
    pub was_frozen: bool,
    /// Instances that the group does not hear until then.
    pub muted: BTreeMap<usize, Instant>,
}

impl State {
    pub(crate) fn note(&mut self, text: fmt::Arguments<'_>) {
        self.trace.note(text);
    }

    pub(crate) fn find(&mut self, text: String) {
        self.note(format_args!("FOUND {text}"));
        self.findings.push(text);
    }

    /// Does asking the catalog for a table come to nothing this time?
    pub(crate) fn is_unreachable(&mut self, at: usize) -> bool {
        self.away == Some(at) || self.fault(self.plan.unreachable)
    }

    /// Does a fault of this rate happen here?
    pub(crate) fn fault(&mut self, per_thousand: u32) -> bool {
        !self.calm && self.chance(per_thousand)
    }

    pub(crate) fn chance(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.rng.u32(0..1000) < per_thousand
    }

    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        let most = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.rng.u64(1..=most))
    }
}

/// A simulated world, shared by all that runs in it.
#[derive(Clone)]
pub(super) struct Sim(Arc<Mutex<State>>);

impl Sim {
    pub(crate) fn new(seed: u64, print: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plan = Plan::draw(&mut rng);
        // By the number itself, so that a test can choose worlds of a kind.
        if seed % 3 == 2 {
            plan.tables = 2;
            plan.rollbacks = if seed.is_multiple_of(2) { 4 } else { 0 };
        }
        plan.strict = seed % 5 == 1;
        plan.short_logs = seed % 7 == 3;
        let trace = Trace {
            digest: 0xcbf2_9ce4_8422_2325,
            print,
            began: Instant::now(),
            buffer: String::new(),
        };
        let drives = (0..plan.instances).map(|_| Drive::default()).collect();
        let mut state = State {
            log: Log::new(plan.partitions),
            remade: None,
            group: Group::new(),
            clients: BTreeMap::new(),
            last_client: 0,
            lakes: (0..plan.tables).map(|_| Lake::default()).collect(),
            away: None,
            met: Met::default(),
            oldest_reading: Duration::ZERO,
            most_files: u64::MAX,
            drives,
            last_member: 0,
            rejected: BTreeSet::new(),
            frozen: BTreeMap::new(),
            was_frozen: false,
            muted: BTreeMap::new(),
            findings: Vec::new(),
            calm: false,
            plan,
            rng,
            trace,
        };
        let plan = format!("{:?}", state.plan);
        state.note(format_args!("seed {seed}: {plan}"));
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}
