//! The simulated side of the seams: how one run of one process reaches the world.
//!
//! Every call takes some time there and back, and the process may die before its effect and after
//! it. Requests to the catalog and writes to the disk go their way whatever becomes of the caller.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::kafka::index;
use super::lake::{Meta, Request, TABLES};
use super::sink::SimQueue;
use super::state::{Life, Sim, State, TOPIC};
use crate::failure::Failure;
use crate::pipeline::messages::Event;
use crate::pipeline::reading::Reading;
use crate::pipeline::seams::{Source, Table};
use crate::protocol::{Frontier, JournalParts, LogRange, Offset, Permit, TopicPartition};
use crate::source::{Reported, Reporter, Share, SourceError, TopicInfo, Topics};
use crate::state::StateError;
use crate::table::{CommitOutcome, NotSent, TableError};

/// One run of a process.
#[derive(Clone)]
pub(super) struct Port {
    pub sim: Sim,
    pub life: Life,
    pub client: u64,
    /// A write to the disk failed: no more are taken.
    pub write_failed: Arc<AtomicBool>,
}

/// What becomes of a request to the catalog.
#[derive(Debug)]
enum Fate {
    Delivered,
    Twice(Duration),
    ReplyLost,
    Late(Duration),
    Lost,
    NeverSent,
    Busy,
    Rejected,
}

impl Port {
    /// The tables of the flow.
    pub(crate) fn tables(&self) -> BTreeMap<String, SimTable> {
        let names = TABLES.iter().enumerate().take(self.sim.lock().plan.tables);
        let table = |at| SimTable { port: self.clone(), at };
        names.map(|(at, name)| ((*name).to_owned(), table(at))).collect()
    }

    /// One line of the program: here it may die, or stand still for a while.
    pub(crate) async fn pass(&self, what: &str) {
        if !self.life.step(&self.sim, what) {
            std::future::pending::<()>().await;
        }
        let until = self.sim.lock().frozen.get(&self.life.slot()).copied();
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
            if self.life.is_dead() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn travel(&self) {
        let time = {
            let mut state = self.sim.lock();
            let longest = state.plan.travel;
            match state.rng.bool() {
                true => Some(state.up_to(longest)),
                false => None,
            }
        };
        if let Some(time) = time {
            tokio::time::sleep(time).await;
        }
    }

    pub(super) async fn call<T>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&mut State) -> T + Send,
    ) -> T {
        self.pass(what).await;
        self.travel().await;
        self.pass(what).await;
        let answer = effect(&mut self.sim.lock());
        self.travel().await;
        self.pass(what).await;
        answer
    }

    /// A write that ends, whoever waits for it, unless the process dies.
    pub(super) async fn write<T: Default + Send + 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&mut State) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.pass(what).await;
        if self.write_failed.load(Ordering::Relaxed) {
            return Err(broken_disk());
        }
        let (answer, answered) = oneshot::channel();
        let (port, slot) = (self.clone(), self.life.slot());
        self.sim.lock().drives[slot].writing += 1;
        let written = tokio::spawn(async move {
            port.travel().await;
            if port.life.step(&port.sim, what) {
                let mut state = port.sim.lock();
                let rate = state.plan.disk_errors;
                let (fails, anyway) = (state.fault(rate), state.rng.bool());
                let mut result =
                    if fails && !anyway { Ok(T::default()) } else { effect(&mut state) };
                if fails {
                    state
                        .note(format_args!("{} {what} failed: on disk {anyway}", port.life.name()));
                    port.write_failed.store(true, Ordering::Relaxed);
                    result = Err(broken_disk());
                }
                answer.send(result).ok();
            }
            port.sim.lock().drives[slot].writing -= 1;
        });
        drop(written);
        let result = match answered.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        };
        self.travel().await;
        self.pass(what).await;
        result
    }

    async fn kafka<T>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&mut State) -> T + Send,
    ) -> Result<T, Failure> {
        self.call(what, |state| match state.fault(state.plan.kafka_errors) {
            true => Err(kafka_error(what)),
            false => Ok(effect(state)),
        })
        .await
    }

    fn fate(&self) -> Fate {
        let mut state = self.sim.lock();
        let plan = state.plan.clone();
        let late = state.up_to(plan.late);
        let fates = [
            (plan.rejected, Fate::Rejected),
            (plan.busy, Fate::Busy),
            (plan.unreachable, Fate::NeverSent),
            (plan.lost_requests, Fate::Lost),
            (plan.late_requests, Fate::Late(late)),
            (plan.lost_replies, Fate::ReplyLost),
            (plan.twice, Fate::Twice(late)),
        ];
        for (rate, fate) in fates {
            if state.fault(rate) {
                state.note(format_args!("{} request: {fate:?}", self.life.name()));
                return fate;
            }
        }
        Fate::Delivered
    }

    /// Sends a request: it arrives after `there`, and a second time after `again`.
    fn send(
        &self,
        at: usize,
        request: Request,
        there: Duration,
        again: Option<Duration>,
    ) -> oneshot::Receiver<Option<(i64, Arc<Meta>)>> {
        let (answer, answered) = oneshot::channel();
        let sim = self.sim.clone();
        sim.lock().lakes[at].in_flight += 1;
        drop(tokio::spawn(async move {
            tokio::time::sleep(there).await;
            let landed = sim.lock().land(&request);
            answer.send(landed).ok();
            if let Some(again) = again {
                tokio::time::sleep(again).await;
                sim.lock().land(&request);
            }
            sim.lock().lakes[at].in_flight -= 1;
        }));
        answered
    }
}

fn topics() -> Topics {
    Topics::new([TOPIC])
}

fn topic_ids(state: &State) -> BTreeMap<String, String> {
    topics().iter().map(|(_, name)| (name.to_owned(), state.topic_id().to_owned())).collect()
}

fn kafka_error(what: &'static str) -> Failure {
    let (brokers, detail) = (String::from("b"), String::from("simulated"));
    Failure::Source(SourceError::Operation { what, brokers, detail })
}

fn catalog_error(doing: &str) -> Failure {
    Failure::Table(unreachable(doing))
}

fn unreachable(doing: &str) -> TableError {
    TableError::Unreachable {
        catalog: String::from("c"),
        doing: doing.to_owned(),
        detail: String::from("simulated"),
        source: None,
    }
}

fn broken_disk() -> Failure {
    Failure::State(StateError::WriteFailedBefore { dir: PathBuf::from("d") })
}

impl Source for Port {
    type Queue = SimQueue;

    fn topics(&self) -> Topics {
        topics()
    }

    async fn describe(&self) -> Result<TopicInfo, Failure> {
        self.kafka("describe", |state| TopicInfo {
            cluster_id: String::from("k"),
            topic_ids: topic_ids(state),
            partitions: state.log.all(),
        })
        .await
    }

    async fn topic_ids(&self) -> BTreeMap<String, String> {
        self.kafka("topic ids", |state| topic_ids(state)).await.unwrap_or_default()
    }

    async fn log_ranges(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, LogRange>, Failure> {
        let client = self.client;
        self.kafka("log ranges", move |state| {
            state.ask_for_logs(client, &partitions);
            let short = state.fault(state.plan.short_log_ends);
            let range = |tp: TopicPartition| {
                let log = &state.log.partitions[index(tp.partition)];
                let end = if short { log.start.max(log.end - 5) } else { log.end };
                (tp, LogRange { start: log.start, end })
            };
            partitions.into_iter().map(range).collect()
        })
        .await
    }

    async fn known_log_ranges(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, LogRange>, Failure> {
        let mut known = self.log_ranges(partitions).await?;
        let mut state = self.sim.lock();
        let rate = state.plan.kafka_errors;
        if !known.is_empty() && state.fault(rate) {
            let at = state.rng.usize(..known.len());
            let absent = known.keys().nth(at).cloned();
            known.retain(|tp, _| Some(tp) != absent.as_ref());
            state.met.absent += 1;
        }
        Ok(known)
    }

    async fn open_transactions(
        &self,
        _partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Failure> {
        self.kafka("open transactions", |_| BTreeMap::new()).await
    }

    fn queues(&self, shards: usize) -> Vec<SimQueue> {
        (0..shards).map(|shard| SimQueue { port: self.clone(), shard }).collect()
    }

    fn watch(
        &self,
        _partitions: usize,
    ) -> Result<(mpsc::Receiver<Event>, BoxFuture<'static, bool>), Failure> {
        let (send, events) = mpsc::channel(64);
        let gone = send.clone();
        if self.life.step(&self.sim, "join") {
            self.sim.lock().join(self.client, send);
        }
        Ok((
            events,
            async move {
                gone.closed().await;
                true
            }
            .boxed(),
        ))
    }

    fn assign(&self, starts: &[Share], absent: &[TopicPartition]) -> Result<(), Failure> {
        if self.life.step(&self.sim, "assign") {
            self.sim.lock().assign(self.client, starts, absent);
        }
        Ok(())
    }

    fn begin(&self, starts: &[Share]) -> Result<(), Failure> {
        if self.life.step(&self.sim, "begin") {
            self.sim.lock().begin(self.client, starts);
        }
        Ok(())
    }

    fn set_aside(&self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        if self.life.step(&self.sim, "set aside") {
            let numbers: Vec<i32> = partitions.iter().map(|tp| tp.partition).collect();
            self.sim.lock().set_aside(self.client, &numbers);
        }
        Ok(())
    }

    fn revoke(&self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        if self.life.step(&self.sim, "revoke") {
            let numbers: Vec<i32> = partitions.iter().map(|tp| tp.partition).collect();
            self.sim.lock().revoke(self.client, &numbers);
        }
        Ok(())
    }

    fn rejoin(&self) -> Result<(), Failure> {
        if self.life.step(&self.sim, "rejoin") {
            self.sim.lock().rejoin(self.client);
        }
        Ok(())
    }

    fn leader_epochs(&self, frontier: &Frontier) -> BTreeMap<TopicPartition, i32> {
        self.sim.lock().leader_epochs(self.client, frontier)
    }

    async fn report(
        &self,
        frontier: Frontier,
        by: Reporter,
        epochs: BTreeMap<TopicPartition, i32>,
    ) -> Result<(), Failure> {
        let name = self.life.name().to_owned();
        self.kafka("report", move |state| {
            for (tp, offset) in frontier.iter() {
                let ledger = state.ledger_of(tp.partition);
                if ledger.is_none_or(|ledger| ledger < offset) {
                    state.find(format!("I9: {name} reports {tp} at {offset}, ledger {ledger:?}"));
                }
                let epoch = epochs.get(tp).copied();
                let reported = Reported { offset, by: by.clone(), epoch };
                state.group.offsets.insert(tp.partition, reported);
            }
        })
        .await
    }

    async fn reported(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Reported>, Failure> {
        self.kafka("reported", move |state| {
            let of = |tp: TopicPartition| {
                let reported = state.group.offsets.get(&tp.partition).cloned();
                reported.map(|reported| (tp, reported))
            };
            partitions.into_iter().filter_map(of).collect()
        })
        .await
    }

    fn log_end(&self, tp: &TopicPartition) -> Option<Offset> {
        Some(self.sim.lock().log.partitions[index(tp.partition)].end)
    }

    fn unreachable(&self) -> Failure {
        kafka_error("read")
    }

    fn silent(&self) -> Failure {
        kafka_error("ask for the id of the topic")
    }

    fn no_group(&self) -> Failure {
        kafka_error("hear from the group")
    }
}

fn read(meta: Arc<Meta>) -> Reading<Arc<Meta>> {
    let view = meta.view();
    Reading::new(meta, view)
}

/// A table, as one run of a process reaches it.
#[derive(Clone)]
pub(super) struct SimTable {
    port: Port,
    at: usize,
}

impl Table for SimTable {
    type Loaded = Arc<Meta>;

    async fn load(&self) -> Result<Option<Reading<Arc<Meta>>>, Failure> {
        let (slot, client, at) = (self.port.life.slot(), self.port.client, self.at);
        self.port
            .call("load", move |state| match state.is_unreachable(at) {
                true => Err(catalog_error("load")),
                false => {
                    state.lakes[at].readers.insert(slot);
                    let meta = state.lakes[at].meta.clone();
                    if let (Some(client), Some(meta)) = (state.clients.get_mut(&client), &meta) {
                        client.read.insert(at, meta.clone());
                    }
                    Ok(meta.map(read))
                }
            })
            .await
    }

    async fn open(&self) -> Result<Reading<Arc<Meta>>, Failure> {
        let at = self.at;
        self.port
            .call("open", move |state| match state.is_unreachable(at) {
                true => Err(catalog_error("open")),
                false => Ok(read(state.create_table(at))),
            })
            .await
    }

    fn entry(&self, loaded: &Arc<Meta>, snapshot_id: i64) -> Result<Option<JournalParts>, Failure> {
        Ok(loaded.entry(snapshot_id))
    }

    async fn append(
        &self,
        reading: &Reading<Arc<Meta>>,
        permit: Permit<'_>,
    ) -> Result<CommitOutcome<Reading<Arc<Meta>>>, NotSent> {
        let at = self.at;
        self.port.pass("append").await;
        let fate = self.port.fate();
        let (request, there, patience) = {
            let mut state = self.port.sim.lock();
            let pending = permit.commit();
            state.check_request(self.port.life.slot(), self.port.client, pending);
            let longest = state.plan.travel;
            if let Some(path) = state.newer_file(reading.table(), pending) {
                let table = TABLES[at].parse().map_err(NotSent::simulated)?;
                let reason = String::from("its schema is not there");
                return Err(NotSent::simulated(TableError::BadFile { table, path, reason }));
            }
            if !state.lakes[at].readers.remove(&self.port.life.slot()) {
                state.lakes[at].remembered += 1;
            }
            let request = state.request(self.port.life.name(), reading.table(), pending);
            (request, state.up_to(longest), state.up_to(8 * longest))
        };
        let unknown = || CommitOutcome::Unknown(String::from("no answer"));
        let outcome = match fate {
            Fate::NeverSent => return Err(NotSent::simulated(unreachable("append"))),
            Fate::Busy => CommitOutcome::Conflict(String::from("busy")),
            Fate::Rejected => {
                self.port.sim.lock().rejected.insert(self.port.life.name().to_owned());
                CommitOutcome::Rejected(String::from("simulated"))
            }
            Fate::Lost => {
                tokio::time::sleep(patience).await;
                unknown()
            }
            Fate::ReplyLost | Fate::Late(_) => {
                let late = if let Fate::Late(late) = fate { late } else { Duration::ZERO };
                drop(self.port.send(at, request, there + late, None));
                tokio::time::sleep(patience).await;
                unknown()
            }
            Fate::Delivered | Fate::Twice(_) => {
                let again = if let Fate::Twice(again) = fate { Some(again) } else { None };
                match self.port.send(at, request, there, again).await {
                    Ok(Some((snapshot_id, table))) => {
                        CommitOutcome::Committed { snapshot_id, table: read(table) }
                    }
                    Ok(None) => CommitOutcome::Conflict(String::from("the head moved")),
                    Err(_) => unknown(),
                }
            }
        };
        self.port.travel().await;
        self.port.pass("append").await;
        Ok(outcome)
    }

    async fn delete_files(&self, _loaded: &Arc<Meta>, paths: Vec<String>) -> Result<(), Failure> {
        let name = self.port.life.name().to_owned();
        self.port
            .call("delete files", move |state| match state.fault(state.plan.store_errors) {
                true => Err(catalog_error("delete files")),
                false => {
                    state.delete_files(&name, &paths);
                    Ok(())
                }
            })
            .await
    }
}
