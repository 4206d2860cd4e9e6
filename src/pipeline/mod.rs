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
mod coordinator;
mod monitor;
mod rows;
mod shard;
mod start;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{OnceCell, mpsc, watch};

use crate::config::{Config, OffsetReset};
use crate::failure::{Failure, chain};
use crate::protocol::{Offset, TopicPartition, Violation};
use crate::telemetry::{Health, Invariant, Metrics, Rebalance, Server};

pub use rows::{KAFKA_COLUMNS, RowBuilder};
pub use shard::BadRecord;
pub use start::{connect_catalog, open_table, source_settings, table_name, table_plan};

use coordinator::Coordinator;
use shard::{Command, Progress, Shard, ShardSettings, TableContext};
use start::Started;

/// Room for reports of shards: each sends one a barrier, and one at its end.
const REPORTS: usize = 64;
/// Room for events of the monitor.
const EVENTS: usize = 16;
/// A batch ends at this many bytes, so that memory does not follow the size of records.
const BATCH_BYTES: usize = 8 << 20;

/// Why a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Everything up to the ends of the log at start is in the table.
    CaughtUp,
    /// It was asked to stop.
    Stopped,
    /// Another instance committed; begin anew at the ledger.
    Fenced,
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
    commits: Arc<AtomicU64>,
    /// Ends of the log when the process began.
    targets: OnceCell<BTreeMap<TopicPartition, Offset>>,
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
        Self {
            config,
            instance,
            until_caught_up,
            metrics,
            health,
            commits: Arc::new(AtomicU64::new(0)),
            targets: OnceCell::new(),
        }
    }

    /// Commits settled by this process so far: its measure of progress.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
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

    /// Recovers what earlier runs left, reads from the ledger on, and commits until there is a
    /// reason to end.
    pub async fn run(&self, stop: &mut watch::Receiver<bool>) -> Result<RunEnd, Failure> {
        let started = tokio::select! {
            started = Started::new(self) => started?,
            // Nothing was read yet, so nothing is to be sealed.
            _ = stop.wait_for(|stop| *stop) => return Ok(RunEnd::Stopped),
        };
        let targets = match self.until_caught_up {
            true => {
                let ends = || async {
                    started.log.iter().map(|(tp, log)| (tp.clone(), log.end)).collect()
                };
                Some(self.targets.get_or_init(ends).await.clone())
            }
            false => None,
        };
        self.metrics.add_rebalance(Rebalance::Assigned);
        self.metrics.set_partitions(started.starts.len(), 0);
        for server in [Server::Kafka, Server::Catalog, Server::Store] {
            self.metrics.set_reachable(server, true);
            self.health.set_reachable(server);
        }
        self.health.set_ready();

        let progress = Arc::new(Progress {
            positions: started
                .starts
                .iter()
                .map(|(tp, at)| (tp.clone(), AtomicI64::new(at.start)))
                .collect(),
            ..Progress::default()
        });
        let table = Arc::new(TableContext {
            name: self.config.iceberg.table.clone(),
            metadata: started.table.metadata.clone(),
            io: started.table.io.clone(),
        });
        let (reports_in, reports) = mpsc::channel(REPORTS);
        let (commands, shards) = self.shards(&started, &table, &progress, &reports_in)?;
        drop(reports_in);
        let (events_in, events) = mpsc::channel(EVENTS);
        let over = Arc::new(AtomicBool::new(false));
        let monitor = std::thread::Builder::new().name("kafka-monitor".into()).spawn({
            let (source, over) = (started.source.clone(), over.clone());
            let known = started.info.partitions.len();
            move || monitor::run(&source, known, &over, &events_in)
        });
        let monitor = monitor.map_err(thread_error)?;

        let coordinator = Coordinator {
            config: self.config.clone(),
            instance: self.instance.clone(),
            info: started.info.clone(),
            table,
            epoch: started.epoch,
            ledger: started.ledger.clone(),
            targets,
            committer: started.committer.clone(),
            source: started.source.clone(),
            progress,
            commands,
            reports,
            events,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            timestamps: BTreeMap::new(),
            commits: self.commits.clone(),
            began: SystemTime::now(),
        };
        let ended = coordinator.run(stop).await;
        over.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(move || {
            let mut intact = true;
            for thread in shards.into_iter().chain([monitor]) {
                intact &= thread.join().is_ok();
            }
            intact
        });
        if !joined.await.map_err(join_error)? && ended.is_ok() {
            return Err(Failure::Internal(String::from("a thread of the pipeline panicked")));
        }
        ended
    }

    #[allow(clippy::type_complexity, reason = "two lists, one entry a shard each")]
    fn shards(
        &self,
        started: &Started,
        table: &Arc<TableContext>,
        progress: &Arc<Progress>,
        reports: &mpsc::Sender<shard::Report>,
    ) -> Result<(Vec<std_mpsc::SyncSender<Command>>, Vec<std::thread::JoinHandle<()>>), Failure>
    {
        let starts = started.starts.iter().map(|(tp, at)| (tp.clone(), at.start)).collect();
        let queues = started.source.assign(&starts, self.config.parallelism)?;
        let (mut commands, mut threads) = (Vec::new(), Vec::new());
        for (index, queue) in queues.into_iter().enumerate() {
            let own: Vec<_> = queue
                .partitions()
                .filter_map(|tp| started.starts.get(tp).map(|at| (tp.clone(), at.ledger, at.start)))
                .collect();
            let shard = Shard::new(
                self.shard_settings(index),
                table.clone(),
                &self.config.kafka.topic,
                own,
                progress.clone(),
                self.metrics.clone(),
            )?;
            let (send, receive) = std_mpsc::sync_channel(1);
            let reports = reports.clone();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || shard.run(queue, &receive, &reports))
                .map_err(thread_error)?;
            commands.push(send);
            threads.push(thread);
        }
        Ok((commands, threads))
    }

    fn shard_settings(&self, index: usize) -> ShardSettings {
        let config = &self.config;
        ShardSettings {
            file_prefix: format!("{}-{:013}-{index}", self.instance, now_ms()),
            batch_rows: config.write.batch_size,
            batch_bytes: BATCH_BYTES,
            batch_timeout: config.write.batch_timeout,
            target_file_size: config.write.target_file_size,
            max_buffered_bytes: config.memory_limit / 4 / config.parallelism.max(1) as u64,
            bad_records: config.bad_records,
            max_epoch_bytes: config.checkpoint.max_bytes,
            record_start: config.kafka.auto_offset_reset == OffsetReset::Latest,
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

fn thread_error(error: std::io::Error) -> Failure {
    Failure::Internal(format!("cannot start a thread: {error}"))
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
