//! A run of a simulated world: what happens when, and what must be so in the end.

mod remade;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use tokio::sync::{OnceCell as AsyncOnceCell, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::kafka::Client;
use super::lake::{Lake, TABLES};
use super::port::Port;
use super::state::{Life, Met, PIPELINE, Sim, State, TOPIC};
use crate::config::{BadRecords, Config};
use crate::failure::{Failure, chain};
use crate::pipeline::real::Once;
use crate::pipeline::seams::now;
use crate::pipeline::settings::RunSettings;
use crate::pipeline::world::Connected;
use crate::pipeline::{Pipeline, RunEnd};
use crate::protocol::{ResetPolicy, Trigger, journal_is_contiguous};
use crate::retry::Backoff;
use crate::telemetry::{Health, Metrics};

/// How long, by the simulated clock, a world without faults may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(180);
/// As the service spreads fenced instances.
const FENCED_SPREAD: f64 = 0.5;

/// What a run showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Of everything that happened, in its order.
    pub digest: u64,
    pub findings: Vec<String>,
    pub commits: usize,
    /// Requests decided on what the last commit left.
    pub remembered: usize,
    pub rows: usize,
    /// How often it happened what the world is there for.
    pub met: Met,
    pub crashes: u32,
    pub seconds: u64,
}

/// Runs the world of a seed.
pub(super) fn run(seed: u64, print: bool) -> Outcome {
    run_world(seed, print, false)
}

/// The same, and the topic is made again in it.
pub(super) fn run_remade(seed: u64, print: bool) -> Outcome {
    run_world(seed, print, true)
}

fn run_world(seed: u64, print: bool, remade: bool) -> Outcome {
    // The code under test takes its chances here.
    fastrand::seed(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let processes = tokio::task::LocalSet::new();
    processes.block_on(&runtime.unwrap(), async {
        let sim = Sim::new(seed, print);
        let mut driver = Driver::new(sim.clone());
        match remade {
            true => driver.run_remade().await,
            false => driver.run().await,
        }
        let state = sim.lock();
        Outcome {
            digest: state.trace.digest,
            findings: state.findings.clone(),
            commits: state.lakes.iter().map(Lake::commits).sum(),
            remembered: state.lakes.iter().map(|lake| lake.remembered).sum(),
            rows: (0..state.lakes.len()).map(|at| state.live_rows(at).0.len()).sum(),
            met: state.met.clone(),
            crashes: driver.crashes,
            seconds: driver.began.elapsed().as_secs(),
        }
    })
}

thread_local! {
    static METRICS: OnceCell<Metrics> = const { OnceCell::new() };
    static CONFIG: OnceCell<Arc<Config>> = const { OnceCell::new() };
}

/// Of all runs of this thread.
pub(super) fn metrics() -> Metrics {
    METRICS.with(|metrics| metrics.get_or_init(|| Metrics::new().unwrap()).clone())
}

/// Runs begin with settings of their own; this is what else a pipeline holds.
fn config() -> Arc<Config> {
    let load = || {
        let set = [
            ("KAFKA_BROKERS", "b"),
            ("KAFKA_TOPIC", TOPIC),
            ("KAFKA_GROUP_ID", PIPELINE),
            ("ICEBERG_TABLE", "n.t"),
        ];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Arc::new(crate::config::load(None, None, set.into_iter()).unwrap())
    };
    CONFIG.with(|config| config.get_or_init(load).clone())
}

/// A process that runs.
struct Process {
    life: Life,
    stop: watch::Sender<bool>,
    until_caught_up: bool,
    /// Does it stop at a bad record?
    strict: bool,
    task: JoinHandle<Result<RunEnd, Failure>>,
}

struct Driver {
    sim: Sim,
    settings: Arc<RunSettings>,
    processes: Vec<Option<Process>>,
    /// When to start an instance that is down.
    starts: Vec<Instant>,
    /// Was it killed, so that it may have lost what it had on disk?
    killed: Vec<bool>,
    names: u32,
    crashes: u32,
    began: Instant,
}

impl Driver {
    fn new(sim: Sim) -> Self {
        let began = Instant::now();
        let (settings, instances) = {
            let mut state = sim.lock();
            (Arc::new(draw_settings(&mut state)), state.plan.instances)
        };
        Self {
            sim,
            settings,
            processes: (0..instances).map(|_| None).collect(),
            starts: vec![began; instances],
            killed: vec![false; instances],
            names: 0,
            crashes: 0,
            began,
        }
    }

    async fn run(&mut self) {
        let chaos = self.sim.lock().plan.chaos;
        while self.began.elapsed() < chaos && !self.has_found() {
            self.start_due(false);
            self.act();
            self.turn().await;
        }
        self.calm();
        let until_caught_up = self.sim.lock().rng.bool();
        match until_caught_up {
            true => self.finish_caught_up().await,
            false => self.finish_stopped().await,
        }
        self.wait_for_requests().await;
        if !self.has_found() {
            judge(&mut self.sim.lock());
        }
    }

    async fn wait_for_requests(&self) {
        while !self.has_found() && self.sim.lock().lakes.iter().any(|lake| lake.in_flight > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn has_found(&self) -> bool {
        !self.sim.lock().findings.is_empty()
    }

    /// A while passes, the group takes its turn, and processes that ended are seen.
    async fn turn(&mut self) {
        let wait = self.sim.lock().up_to(Duration::from_millis(40));
        tokio::time::sleep(wait).await;
        if self.sim.lock().plan.group {
            self.sim.lock().group_turn();
        }
        for slot in 0..self.processes.len() {
            self.reap(slot).await;
        }
    }

    /// Looks whether a process is dead or has ended.
    async fn reap(&mut self, slot: usize) {
        let Some(process) = &self.processes[slot] else { return };
        let dead = process.life.is_dead();
        if !dead && !process.task.is_finished() {
            return;
        }
        let Some(process) = self.processes[slot].take() else { return };
        if dead {
            process.task.abort();
            self.crashes += 1;
        }
        let ended = process.task.await;
        let mut state = self.sim.lock();
        let name = process.life.name().to_owned();
        state.clients.retain(|_, client| client.life.name() != name);
        let pause = state.up_to(Duration::from_millis(400));
        self.starts[slot] = Instant::now() + pause;
        self.killed[slot] = dead;
        if dead {
            return;
        }
        process.life.kill();
        let stopped = *process.stop.borrow();
        match ended {
            Ok(Ok(RunEnd::Stopped)) if stopped => state.note(format_args!("{name} stopped")),
            Ok(Err(Failure::Refused(refusal)))
                if state.remade.is_some() && refusal.name() == "topic-recreated" =>
            {
                state.met.refused += 1;
                state.note(format_args!("{name} is refused: {refusal}"));
            }
            Ok(Ok(RunEnd::CaughtUp)) if process.until_caught_up && state.remade.is_none() => {
                state.note(format_args!("{name} caught up"));
            }
            Ok(Err(Failure::Unfit { .. })) if state.rejected.contains(&name) => {
                state.note(format_args!("{name} left: its commit was rejected"));
            }
            Ok(Err(Failure::Refused(refusal)))
                if state.was_rolled_back() && refusal.name() == "table-rolled-back" =>
            {
                state.met.refused += 1;
                state.note(format_args!("{name} is refused: {refusal}"));
            }
            Ok(Err(Failure::BadRecord(record))) if process.strict => {
                state.met.stopped += 1;
                state.note(format_args!("{name} stopped before a bad record: {record:?}"));
            }
            Ok(Ok(end)) => state.find(format!("{name} ended: {end:?}")),
            Ok(Err(failure)) => state.find(format!("{name} failed: {}", chain(&failure))),
            Err(error) => state.find(format!("{name} panicked: {error}")),
        }
    }

    fn start_due(&mut self, until_caught_up: bool) {
        for slot in 0..self.processes.len() {
            if self.processes[slot].is_none() && self.starts[slot] <= Instant::now() {
                self.start(slot, until_caught_up);
            }
        }
    }

    fn start(&mut self, slot: usize, until_caught_up: bool) {
        self.names += 1;
        let mut state = self.sim.lock();
        let name = format!("i{slot}-{}", self.names);
        let disk = if self.killed[slot] { state.rng.u32(0..10) } else { 9 };
        let drive = &mut state.drives[slot];
        match disk {
            0 => drive.now = Default::default(),
            1 | 2 if !drive.copies.is_empty() => {
                let copy = drive.copies[self.names as usize % drive.copies.len()].clone();
                drive.now = copy;
            }
            _ => {}
        }
        if state.drives[slot].now.member == 0 {
            state.last_member += 1;
            state.drives[slot].now.member = state.last_member;
        }
        let open = state.drives[slot].now.open.as_ref().map(|open| open.epoch);
        let fuses = state.plan.fuses;
        let strict = state.plan.strict && !until_caught_up && self.names.is_multiple_of(3);
        let fuse = state.fault(fuses).then(|| state.rng.i64(1..300));
        state.note(format_args!(
            "{name} starts, disk {disk}, open {open:?}, fuse {fuse:?}, strict {strict}"
        ));
        drop(state);
        let life = Life::new(slot, name, fuse);
        let (stop, stopping) = watch::channel(false);
        let mut settings = self.settings.clone();
        if strict {
            Arc::make_mut(&mut settings).bad_records = BadRecords::Fail;
        }
        let task = supervise(self.sim.clone(), life.clone(), settings, stopping, until_caught_up);
        let task = tokio::task::spawn_local(task);
        self.processes[slot] = Some(Process { life, stop, until_caught_up, strict, task });
    }

    /// What happens to the world, by chance.
    fn act(&mut self) {
        let sim = self.sim.clone();
        let mut state = sim.lock();
        let plan = state.plan.clone();
        if state.chance(plan.produce) {
            state.produce();
        }
        if state.chance(plan.foreign) {
            state.foreign();
        }
        if state.chance(10) {
            state.retain();
        }
        if state.chance(5) && state.log.partitions.len() < 6 {
            state.add_partition();
        }
        if state.fault(plan.kafka_errors) {
            state.waver();
        }
        if plan.rollbacks > 0 && state.fault(plan.rollbacks) {
            state.roll_back();
        }
        let slot = state.rng.usize(0..plan.instances);
        let Some(process) = &self.processes[slot] else { return };
        let name = process.life.name();
        if state.fault(plan.crashes) {
            state.note(format_args!("{name} KILLED"));
            process.life.kill();
        } else if state.fault(plan.crashes / 2) {
            state.note(format_args!("{name} is asked to stop"));
            process.stop.send_replace(true);
        } else if state.fault(plan.mutes) {
            let wait = state.up_to(2 * plan.session);
            state.note(format_args!("{name} is not heard for {wait:?}"));
            state.muted.insert(slot, Instant::now() + wait);
        } else if state.fault(plan.freezes) {
            let wait = state.up_to(2 * plan.session);
            state.note(format_args!("{name} stands still for {wait:?}"));
            state.was_frozen = true;
            state.frozen.insert(slot, Instant::now() + wait);
        }
    }

    /// Faults are over.
    fn calm(&mut self) {
        let mut state = self.sim.lock();
        state.note(format_args!("calm"));
        state.calm = true;
        state.roll_forward();
        state.muted.clear();
        state.frozen.clear();
        let now = Instant::now();
        for client in state.clients.values_mut() {
            client.lost_at = client.lost_at.map(|at| at.min(now));
        }
        for process in self.processes.iter().flatten() {
            process.life.disarm();
        }
        self.starts.fill(now);
    }

    /// All come back, reach the ends of the log, and are asked to stop.
    async fn finish_stopped(&mut self) {
        let began = Instant::now();
        while !is_caught_up(&self.sim.lock()) {
            self.start_due(false);
            if self.stalls(began, "the ends of the log are not reached") {
                return;
            }
            self.turn().await;
        }
        for process in self.processes.iter().flatten() {
            process.stop.send_replace(true);
        }
        self.wait_for_the_end("a process does not stop").await;
    }

    /// All end, and processes that end by themselves bring the rest.
    async fn finish_caught_up(&mut self) {
        let killed = self.sim.lock().rng.bool();
        for process in self.processes.iter().flatten() {
            if killed {
                process.life.kill();
            } else {
                process.stop.send_replace(true);
            }
        }
        self.wait_for_the_end("a process does not stop").await;
        self.starts.fill(Instant::now());
        self.start_due(true);
        self.wait_for_the_end("a process does not catch up").await;
    }

    async fn wait_for_the_end(&mut self, what: &str) {
        let began = Instant::now();
        while self.processes.iter().any(Option::is_some) {
            if self.stalls(began, what) {
                return;
            }
            self.turn().await;
        }
    }

    fn stalls(&self, began: Instant, what: &str) -> bool {
        if began.elapsed() > PATIENCE {
            self.sim.lock().find(format!("stall: {what}"));
        }
        self.has_found()
    }
}

pub(super) fn draw_settings(state: &mut State) -> RunSettings {
    let latest = state.plan.latest;
    let group = state.plan.group;
    let rng = &mut state.rng;
    let mut ms = |from: u64, to: u64| Duration::from_millis(rng.u64(from..=to));
    let interval = ms(30, 300);
    let min_pause = ms(0, 20);
    let revocation_timeout = ms(100, 1000);
    let shutdown_timeout = ms(500, 3000);
    let checkpoint_timeout = ms(500, 5000);
    let fresh = ms(10, 300);
    state.oldest_reading = interval + fresh;
    state.most_files = state.rng.u64(2..=12);
    RunSettings {
        pipeline: PIPELINE.to_owned(),
        topic: TOPIC.to_owned(),
        parallelism: state.rng.usize(1..=2),
        group,
        trigger: Trigger {
            interval,
            min_pause,
            max_bytes: state.rng.u64(20..=400),
            max_records: state.rng.u64(5..=100),
            max_described: state.most_files,
        },
        checkpoint_timeout,
        retained: 2,
        shutdown_timeout,
        revocation_timeout,
        retry_give_up: Duration::from_secs(60),
        fresh,
        reset: if latest { ResetPolicy::Latest } else { ResetPolicy::Earliest },
        bad_records: BadRecords::Skip,
        hide_values: false,
    }
}

/// One run after another, as the service does it.
async fn supervise(
    sim: Sim,
    life: Life,
    settings: Arc<RunSettings>,
    mut stop: watch::Receiver<bool>,
    until_caught_up: bool,
) -> Result<RunEnd, Failure> {
    let pipeline = Pipeline {
        config: config(),
        instance: life.name().to_owned(),
        until_caught_up,
        metrics: metrics(),
        health: Health::new(Duration::from_secs(120)),
        settings: settings.clone(),
        commits: Arc::new(AtomicU64::new(0)),
        uncommitted: Arc::default(),
        once: Once::default(),
        behind: Arc::default(),
        targets: AsyncOnceCell::new(),
        replaced: parking_lot::Mutex::default(),
    };
    let mut backoff = Backoff::new(now(), settings.retry_give_up);
    loop {
        let commits = pipeline.commits();
        let port = connect(&sim, &life);
        let connected = Connected {
            world: port.clone(),
            source: port.clone(),
            tables: port.tables(),
            state: port.clone(),
        };
        let ended = pipeline.run_connected(connected, &mut stop).await;
        disconnect(&port).await;
        if pipeline.commits() != commits {
            backoff = Backoff::new(now(), settings.retry_give_up);
        }
        let wait = match ended {
            Ok(RunEnd::Fenced) => {
                settings.trigger.interval.mul_f64(FENCED_SPREAD * fastrand::f64())
            }
            Ok(RunEnd::PartitionsAdded | RunEnd::Dropped) => Duration::ZERO,
            Ok(end @ (RunEnd::CaughtUp | RunEnd::Stopped)) => return Ok(end),
            Err(failure) if failure.is_transient() => {
                sim.lock().note(format_args!("{}: {}", life.name(), chain(&failure)));
                let Some(wait) = backoff.next_wait(now()) else {
                    let after = backoff.spent(now());
                    return Err(Failure::GaveUp { after, last: Box::new(failure) });
                };
                wait
            }
            Err(failure) => return Err(failure),
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(RunEnd::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

pub(super) fn connect(sim: &Sim, life: &Life) -> Port {
    let mut state = sim.lock();
    state.last_client += 1;
    let client = state.last_client;
    if !life.is_dead() {
        let member = state.drives[life.slot()].now.member;
        state.note(format_args!("{} begins a run", life.name()));
        let fetches = BTreeMap::new();
        let made = Client {
            life: life.clone(),
            member,
            events: None,
            fetches,
            stale: Vec::new(),
            aside: BTreeSet::new(),
            read: BTreeMap::new(),
            lost_at: None,
        };
        state.clients.insert(client, made);
    }
    drop(state);
    let write_failed = Arc::new(AtomicBool::new(false));
    Port { sim: sim.clone(), life: life.clone(), client, write_failed }
}

/// The client is closed, and the directory when nothing is written to it any more.
async fn disconnect(port: &Port) {
    port.pass("disconnect").await;
    port.sim.lock().clients.remove(&port.client);
    while port.sim.lock().drives[port.life.slot()].writing > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    port.pass("disconnect").await;
}

fn is_caught_up(state: &State) -> bool {
    let mut partitions = (0_i32..).zip(&state.log.partitions);
    partitions.all(|(number, log)| log.end == 0 || state.ledger_of(number) == Some(log.end))
}

/// Everything came to its end: is it what it must be?
fn judge(state: &mut State) {
    if !is_caught_up(state) {
        state.find(String::from("the ledger is not at the ends of the log"));
    }
    for (at, table) in TABLES.iter().enumerate().take(state.lakes.len()) {
        let (rows, expected) = (state.live_rows(at), state.expected_rows(at));
        if rows != expected {
            let count = |rows: &(Vec<_>, usize)| (rows.0.len(), rows.1);
            let (rows, expected) = (count(&rows), count(&expected));
            state.find(format!("I1: {table} has rows {rows:?}, expected {expected:?}, or others"));
        }
        let missing = state.missing_files(at);
        if missing > 0 {
            state.find(format!("I8: {missing} files of live snapshots of {table} are deleted"));
        }
        let view = state.lakes[at].meta.clone().map(|meta| meta.full_view());
        if let Some(Err(violation)) = view.as_ref().map(journal_is_contiguous) {
            state.find(violation.to_string());
        }
    }
}
