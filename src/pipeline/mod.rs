//! A pipeline: a topic into a table. This module starts a run; its parts carry it.
//!
//! ```text
//! shard threads ── reports ──> coordinator ── work ──> committer ──> table
//!       ^───────── barriers ───────┘  ^── events ── monitor thread (Kafka)
//! ```
//!
//! A run begins at the table's ledger and ends for a reason. Whatever the reason, beginning anew
//! at the ledger is always right, so the service simply starts another run after fencing, new
//! partitions, or an error that may pass.

mod committer;
mod connect;
mod coordinator;
mod membership;
mod memory;
mod monitor;
mod partitions;
mod real;
mod rows;
pub mod seams;
mod shard;
#[cfg(test)]
mod sim;
mod sink;
mod start;
mod unprepared;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{OnceCell, mpsc, watch};

use crate::config::{Assignment, BadRecords, Config, OffsetReset};
use crate::failure::{Failure, chain};
use crate::protocol::{Offset, ResetPolicy, TopicPartition, Trigger, Violation};
use crate::source::{SourceError, TopicInfo};
use crate::telemetry::{Health, Invariant, Metrics, Server};

pub use connect::{connect_catalog, open_table, source_settings, table_name, table_plan};
pub use rows::{KAFKA_COLUMNS, RowBuilder};
pub use shard::BadRecord;
pub use start::Connected;

use coordinator::Coordinator;
use seams::{Source, World};
use shard::{Progress, Shard, ShardSettings, ShardTask};
use start::Started;

/// Room for events of the monitor.
const EVENTS: usize = 16;
/// A membership that is taken from us twice within this time has another process.
const REPLACED_AGAIN: Duration = Duration::from_secs(600);
/// Room for commands to a shard: a barrier and a change of partitions.
const COMMANDS: usize = 2;

/// Why a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Everything up to the ends of the log at start is in the table.
    CaughtUp,
    /// It was asked to stop.
    Stopped,
    /// Another instance committed; begin anew at the ledger.
    Fenced,
    /// Partitions went to another instance before their records were committed; begin anew.
    Dropped,
    /// The topic has new partitions; begin anew with them.
    PartitionsAdded,
}

/// Why a run is to end.
enum Finish {
    Stopped,
    CaughtUp,
    PartitionsAdded,
    Bad(BadRecord),
}

impl Finish {
    fn name(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::CaughtUp => "caught_up",
            Self::PartitionsAdded => "partitions_added",
            Self::Bad(_) => "bad_record",
        }
    }
}

/// What a run is told by the settings.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The pipeline: its ledger's name, and its consumer group's.
    pub pipeline: String,
    /// The topic.
    pub topic: String,
    /// The table as `namespace.table`.
    pub table: String,
    /// Shards.
    pub parallelism: usize,
    /// Does the consumer group share the partitions out?
    pub group: bool,
    /// When to seal.
    pub trigger: Trigger,
    /// Longest that sealing may take.
    pub checkpoint_timeout: Duration,
    /// Checkpoints to keep for people to read.
    pub retained: usize,
    /// Longest that a stop waits for its last commit.
    pub shutdown_timeout: Duration,
    /// Longest that revoked partitions wait for theirs.
    pub revocation_timeout: Duration,
    /// How long a server that does not answer is tried.
    pub retry_give_up: Duration,
    /// Where to begin in a topic that the table has no ledger of.
    pub reset: ResetPolicy,
    /// What to do with bad records.
    pub bad_records: BadRecords,
}

impl RunSettings {
    /// From the settings of the process.
    pub fn new(config: &Config) -> Self {
        let checkpoint = &config.checkpoint;
        Self {
            pipeline: config.kafka.group_id.clone(),
            topic: config.kafka.topic.clone(),
            table: config.iceberg.table.clone(),
            parallelism: config.parallelism.max(1),
            group: config.kafka.assignment == Assignment::Group,
            trigger: Trigger {
                interval: checkpoint.interval,
                min_pause: checkpoint.min_pause,
                max_bytes: checkpoint.max_bytes,
                max_records: checkpoint.max_records,
            },
            checkpoint_timeout: checkpoint.timeout,
            retained: checkpoint.retained,
            shutdown_timeout: config.shutdown_timeout,
            revocation_timeout: config.kafka.revocation_timeout,
            retry_give_up: config.retry_give_up,
            reset: match config.kafka.auto_offset_reset {
                OffsetReset::Earliest => ResetPolicy::Earliest,
                OffsetReset::Latest => ResetPolicy::Latest,
            },
            bad_records: config.bad_records,
        }
    }

    /// The id of the topic by its name, where the cluster tells it.
    fn topic_ids(&self, info: &TopicInfo) -> BTreeMap<String, String> {
        info.topic_id.iter().map(|id| (self.topic.clone(), id.clone())).collect()
    }
}

/// What all runs of a process share.
pub struct Pipeline {
    /// Settings.
    pub config: Arc<Config>,
    /// Names this process in ledgers, journals and file names; never used twice.
    pub instance: String,
    /// End once everything up to the ends of the log at start is in the table.
    pub until_caught_up: bool,
    /// Counters.
    pub metrics: Metrics,
    /// Liveness and readiness.
    pub health: Health,
    settings: Arc<RunSettings>,
    commits: Arc<AtomicU64>,
    uncommitted: Arc<AtomicBool>,
    /// Ends of the log when the process began.
    targets: OnceCell<BTreeMap<TopicPartition, Offset>>,
    /// When the group last gave our membership to another.
    replaced: Mutex<Option<Instant>>,
}

impl Pipeline {
    /// A pipeline that has not begun.
    pub fn new(
        config: Arc<Config>,
        until_caught_up: bool,
        metrics: Metrics,
        health: Health,
    ) -> Self {
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let settings = Arc::new(RunSettings::new(&config));
        Self {
            config,
            instance,
            until_caught_up,
            metrics,
            health,
            settings,
            commits: Arc::new(AtomicU64::new(0)),
            uncommitted: Arc::new(AtomicBool::new(false)),
            targets: OnceCell::new(),
            replaced: Mutex::new(None),
        }
    }

    /// Commits settled by this process so far: its measure of progress.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Did the run read something that is not in the table yet? As of about a second ago.
    pub fn uncommitted(&self) -> bool {
        self.uncommitted.load(Ordering::Relaxed)
    }

    /// Makes a failure that may pass visible to those who watch.
    pub fn failed(&self, failure: &Failure) {
        self.health.set_not_ready(chain(failure));
        if let Some(server) = failure.server() {
            self.metrics.add_retry(server);
            self.metrics.set_reachable(server, false);
            self.health.set_unreachable(server, chain(failure));
        }
    }

    /// One run: connects, recovers what earlier runs left, reads from the ledger on, and commits
    /// until there is a reason to end.
    pub async fn run(&self, stop: &mut watch::Receiver<bool>) -> Result<RunEnd, Failure> {
        let connected = tokio::select! {
            connected = real::connect(self) => connected?,
            // Nothing was read yet, so nothing is to be sealed.
            _ = stop.wait_for(|stop| *stop) => return Ok(RunEnd::Stopped),
        };
        let (source, state) = (connected.source.clone(), connected.state.clone());
        let ended = self.run_connected(connected, stop).await;
        source.close().await;
        state.close().await;
        self.forgive(ended)
    }

    /// After a broker that hung, the group may take a request that a client repeated for another
    /// process of its name. So once is no proof; another one that is there does it again.
    fn forgive(&self, ended: Result<RunEnd, Failure>) -> Result<RunEnd, Failure> {
        let error = match ended {
            Err(Failure::Source(error @ SourceError::MemberReplaced { .. })) => error,
            other => return other,
        };
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let last = replaced.replace(Instant::now());
        if last.is_some_and(|last| last.elapsed() < REPLACED_AGAIN) {
            return Err(error.into());
        }
        tracing::warn!(%error, "joining the group again, once");
        Ok(RunEnd::Dropped)
    }

    /// A run on what it is connected to.
    async fn run_connected<W: World>(
        &self,
        connected: Connected<W>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<RunEnd, Failure> {
        let starting =
            Started::new(&connected, &self.settings, &self.instance, &self.metrics, &self.health);
        let started = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(RunEnd::Stopped),
            started = starting => started?,
        };
        let targets = match self.until_caught_up {
            true => {
                let ends = || started.log_ends(&self.settings);
                Some(self.targets.get_or_try_init(ends).await?.clone())
            }
            false => None,
        };
        for server in [Server::Kafka, Server::Catalog, Server::Store] {
            self.metrics.set_reachable(server, true);
            self.health.set_reachable(server);
        }
        self.health.set_ready();
        self.metrics.set_partitions(0, 0);

        let progress = Arc::new(Progress::default());
        let table = Arc::new(started.table);
        #[allow(
            clippy::disallowed_methods,
            reason = "one report answers one command, of which there are few; else one a partition"
        )]
        let (reports_in, reports) = mpsc::unbounded_channel();
        let mut commands = Vec::new();
        let mut running = Vec::new();
        let shards = match self.settings.group {
            true => self.settings.parallelism,
            false => self.settings.parallelism.min(started.info.partitions.len()).max(1),
        };
        for (index, queue) in connected.source.queues(shards).into_iter().enumerate() {
            let sink = connected.world.sink(index, &table, started.generation)?;
            let settings = ShardSettings {
                bad_records: self.settings.bad_records,
                max_epoch_bytes: self.settings.trigger.max_bytes,
            };
            let shard = Shard::new(settings, sink, progress.clone(), self.metrics.clone());
            let (send, receive) = std_mpsc::sync_channel(COMMANDS);
            let reports = reports_in.clone();
            let task = ShardTask { index, shard, queue, commands: receive, reports };
            running.push(connected.world.spawn_shard(task)?);
            commands.push(send);
        }
        drop(reports_in);
        let (events, watching) = connected.source.watch(started.info.partitions.len())?;
        running.push(watching);

        let coordinator = Coordinator {
            settings: self.settings.clone(),
            instance: self.instance.clone(),
            info: started.info,
            table,
            table_uuid: started.table_uuid,
            epoch: started.epoch,
            ledger: started.ledger,
            generation: started.generation,
            owned: BTreeMap::new(),
            timestamps: BTreeMap::new(),
            targets,
            committer: started.committer,
            source: connected.source.clone(),
            progress,
            commands,
            reports,
            events,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            commits: self.commits.clone(),
            uncommitted: self.uncommitted.clone(),
            began: SystemTime::now(),
        };
        let (ended, unprepared) = coordinator.run(stop).await;
        // The coordinator is gone, and with it the channels that the others live by.
        let intact = futures::future::join_all(running).await.into_iter().all(|intact| intact);
        unprepared.delete(&connected.table).await;
        if !intact && ended.is_ok() {
            return Err(Failure::Internal(String::from("a thread of the pipeline panicked")));
        }
        ended
    }
}

fn join_error(error: tokio::task::JoinError) -> Failure {
    Failure::Internal(format!("a task ended without a result: {error}"))
}

/// Counts a broken invariant and makes it the end of the process: nothing is built on it.
fn violated(metrics: &Metrics, violation: &Violation) -> Failure {
    metrics.add_violation(match violation.id {
        "I1" => Invariant::I1,
        "I2" => Invariant::I2,
        "I3" => Invariant::I3,
        "I4" => Invariant::I4,
        "I5" => Invariant::I5,
        "I6" => Invariant::I6,
        "I7" => Invariant::I7,
        "I8" => Invariant::I8,
        "I9" => Invariant::I9,
        _ => Invariant::I10,
    });
    Failure::Internal(violation.to_string())
}

/// Milliseconds since the Unix epoch; 0 for a clock before it. For people only: nothing is
/// decided from it.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
