//! A pipeline: topics into tables, as a flow. This module starts a run; its parts carry it.
//!
//! ```text
//! shard threads ── reports ──> coordinator ── work ──> committer ──> table
//!       ^───────── barriers ───────┘  ^── events ── monitor thread (Kafka)
//! ```
//!
//! A run begins at the ledgers of its flow's tables and ends for a reason. Whatever the reason, beginning anew
//! at the ledger is always right, so the service simply starts another run after fencing, new
//! partitions, or an error that may pass.

mod behind;
mod committer;
mod coordinator;
mod end;
mod fit;
mod flow_tables;
mod hearing;
mod log_ends;
mod membership;
mod memory;
mod messages;
mod monitor;
mod own_thread;
mod partitions;
mod reading;
mod real;
mod renewing;
mod rows;
pub(crate) mod seams;
mod set_aside;
mod settings;
mod shard;
#[cfg(test)]
mod sim;
mod sink;
mod start;
mod starts;
mod table_committer;
mod unprepared;
mod world;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc, watch};

use crate::config::Config;
use crate::failure::{Failure, chain};
use crate::protocol::{Offset, TopicPartition};
use crate::source::SourceError;
use crate::telemetry::{Health, Metrics, Server};

pub(crate) use end::RunEnd;
pub(crate) use fit::check_fit;

use behind::Behind;
use committer::worse;
use coordinator::Coordinator;
use messages::Progress;
use seams::Source;
use settings::RunSettings;
use shard::{Shard, ShardSettings};
use start::Started;
use world::{Connected, ShardTask, World};

/// A membership that is taken from us twice within this time has another process.
const REPLACED_AGAIN: Duration = Duration::from_secs(600);
/// How often a process that recovers tells that it is alive.
const ALIVE: Duration = Duration::from_secs(1);
/// Room for commands to a shard: a barrier, a change of partitions, and tables that it asked for.
const COMMANDS: usize = 3;

/// What all runs of a process share.
pub(crate) struct Pipeline {
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
    once: real::Once,
    /// Ends of the log when the process began.
    targets: OnceCell<BTreeMap<TopicPartition, Offset>>,
    /// Since when tables lack records.
    behind: Arc<Mutex<Behind>>,
    /// When the group last gave our membership to another.
    replaced: Mutex<Option<Instant>>,
}

impl Pipeline {
    /// A pipeline that has not begun.
    pub(crate) fn new(
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
            once: real::Once::default(),
            targets: OnceCell::new(),
            behind: Arc::default(),
            replaced: Mutex::new(None),
        }
    }

    /// Commits settled by this process so far: its measure of progress.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Did the run read something that is not in the table yet? As of about a second ago.
    pub(crate) fn uncommitted(&self) -> bool {
        self.uncommitted.load(Ordering::Relaxed)
    }

    /// Makes a failure that may pass visible to those who watch.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.health.set_not_ready(chain(failure));
        if let Some(server) = failure.server() {
            self.metrics.add_retry(server);
            self.metrics.set_reachable(server, false);
            self.health.set_unreachable(server, chain(failure));
        }
    }

    /// One run: connects, recovers what earlier runs left, reads from the ledger on, and commits
    /// until there is a reason to end.
    pub(crate) async fn run(&self, stop: &mut watch::Receiver<bool>) -> Result<RunEnd, Failure> {
        let connected = tokio::select! {
            connected = real::connect(&self.config, &self.instance, &self.metrics, &self.once) => {
                connected?
            }
            // Nothing was read yet, so nothing is to be sealed.
            _ = stop.wait_for(|stop| *stop) => return Ok(RunEnd::Stopped),
        };
        let (source, state) = (connected.source.clone(), connected.state.clone());
        let in_time = self.in_time(stop.clone());
        let run = async {
            let ended = self.run_connected(connected, stop).await;
            source.close().await;
            state.close().await;
            ended
        };
        let ended = tokio::select! {
            biased;
            ended = run => ended,
            () = in_time => {
                tracing::warn!("leaving before all is closed: what is not committed is read again");
                Ok(RunEnd::Stopped)
            }
        };
        self.forgive(ended)
    }

    /// Ends when a stop has taken the time that it may.
    async fn in_time(&self, mut stop: watch::Receiver<bool>) {
        if stop.wait_for(|stop| *stop).await.is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(self.settings.shutdown_timeout).await;
    }

    /// Recovery is waited for as long as servers may be: it is no less alive for that.
    async fn alive_while<T>(&self, recovering: impl Future<Output = T>) -> T {
        let (mut recovering, until) = (pin!(recovering), seams::now() + self.settings.recovery());
        loop {
            tokio::select! {
                biased;
                done = &mut recovering => return done,
                () = tokio::time::sleep(ALIVE) => {}
            }
            if seams::now() < until {
                self.health.heartbeat();
            }
        }
    }

    /// After a broker that hung, the group may take a request that a client repeated for another
    /// process of its name. So once is no proof; another one that is there does it again.
    fn forgive(&self, ended: Result<RunEnd, Failure>) -> Result<RunEnd, Failure> {
        let error = match ended {
            Err(Failure::Source(error @ SourceError::MemberReplaced { .. })) => error,
            other => return other,
        };
        let mut replaced = self.replaced.lock();
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
            started = self.alive_while(starting) => started?,
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
        self.health.set_unread(None);
        if self.settings.group {
            self.health.set_not_ready(hearing::not_answered(&self.settings.pipeline));
        }
        self.metrics.set_partitions(0, 0);

        let progress = Arc::new(Progress::default());
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
            let tables = started.tables.iter();
            let sinks = tables.map(|t| connected.world.sink(index, &t.target, &t.loaded));
            let sinks = sinks.collect::<Result<Vec<_>, Failure>>()?;
            let settings = ShardSettings {
                bad_records: self.settings.bad_records,
                hide_values: self.settings.hide_values,
                trigger: self.settings.trigger,
                interval: self.settings.trigger.interval,
                fresh: self.settings.fresh,
            };
            let shard = Shard::new(
                index,
                settings,
                connected.source.topics(),
                sinks,
                started.tables.fresh(seams::now()).at,
                progress.clone(),
                self.metrics.clone(),
            );
            let (send, receive) = std_mpsc::sync_channel(COMMANDS);
            let reports = reports_in.clone();
            let task = ShardTask { index, shard, queue, commands: receive, reports };
            running.push(connected.world.spawn_shard(task)?);
            commands.push(send);
        }
        drop(reports_in);
        let (events, watching) = connected.source.watch(started.info.partitions.len())?;
        running.push(watching);

        let committer = started.committer;
        let coordinator = Coordinator {
            settings: self.settings.clone(),
            info: started.info,
            flow: started.flow,
            tables: started.tables,
            epoch: started.epoch,
            left: Vec::new(),
            owned: BTreeMap::new(),
            timestamps: BTreeMap::new(),
            targets,
            committer: committer.clone(),
            source: connected.source.clone(),
            progress,
            commands,
            reports,
            events,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            commits: self.commits.clone(),
            uncommitted: self.uncommitted.clone(),
            behind: self.behind.clone(),
        };
        let (ended, unprepared) = coordinator.run(stop).await;
        // The coordinator is gone, and with it the channels that the others live by.
        let intact = futures::future::join_all(running).await.into_iter().all(|intact| intact);
        let deleted = unprepared.delete(&committer).await;
        let ended = match ended {
            Ok(_) if !intact => {
                Err(Failure::Internal(String::from("a thread of the pipeline panicked")))
            }
            ended => ended,
        };
        match (ended, deleted) {
            (ended, Ok(())) => ended,
            (Ok(_), Err(failure)) => Err(failure),
            (Err(ended), Err(deleting)) => Err(worse(Some(ended), deleting)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_process_that_recovers_is_alive_for_as_long_as_servers_are_waited_for() {
        let set = [
            ("KAFKA_BROKERS", "kafka:9092"),
            ("KAFKA_TOPIC", "t"),
            ("KAFKA_GROUP_ID", "p"),
            ("ICEBERG_TABLE", "db.t"),
            ("RETRY_GIVE_UP_MS", "60000"),
        ];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Arc::new(crate::config::load(None, None, set.into_iter()).unwrap());
        let (limit, health) = (5 * SECOND, Health::new(5 * SECOND));
        let pipeline = Pipeline::new(config, false, Metrics::new().unwrap(), health.clone());
        health.heartbeat();
        assert_eq!(pipeline.alive_while(async { 7 }).await, 7);

        let most = pipeline.settings.recovery();
        assert!(most >= 60 * SECOND && most > 2 * limit, "{most:?}");
        let begun = seams::now();
        let until = async |end: Duration| {
            // As a supervisor, who looks now and then.
            while seams::now() < begun + end {
                assert!(health.liveness(seams::now()).alive, "{:?}", seams::now() - begun);
                tokio::time::sleep(SECOND).await;
            }
        };
        let watched = async {
            until(most).await;
            tokio::time::sleep(2 * limit).await;
        };
        tokio::select! {
            () = pipeline.alive_while(std::future::pending()) => panic!("it never ends"),
            () = watched => {}
        }
        assert!(!health.liveness(seams::now()).alive, "nobody waits for ever");
    }
}
