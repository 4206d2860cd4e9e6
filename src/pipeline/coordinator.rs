//! The loop of a run: when to send a barrier, what to do with its answers, when to end.
//!
//! One epoch is open in the shards while at most one other is between prepare and finalize (I2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::committer::{Committer, Done, Settled, Work};
use super::monitor::Event;
use super::shard::{BadRecord, Command, Progress, Report, Sealed, TableContext};
use super::{Finish, RunEnd, join_error, now_ms, violated};
use crate::config::Config;
use crate::failure::{Failure, chain};
use crate::protocol::{
    Checkpoint, Epoch, Frontier, Offset, OpenEpoch, PendingCommit, TopicPartition, Trigger,
    commit_id, pending_continues, pending_is_contiguous, written_rows_are_in_files,
};
use crate::source::{Source, TopicInfo};
use crate::telemetry::{CheckpointOutcome, Health, Metrics, Server};

/// How often the loop looks at counters and clocks.
const TICK: Duration = Duration::from_millis(10);
/// How often gauges that nobody waits for are renewed.
const GAUGES: Duration = Duration::from_secs(1);

/// The coordinator of one run.
pub(super) struct Coordinator {
    pub config: Arc<Config>,
    pub instance: String,
    pub info: TopicInfo,
    pub table: Arc<TableContext>,
    pub epoch: Epoch,
    /// The ledger as last seen.
    pub ledger: Frontier,
    /// Timestamp of the last record below the ledger by partition, where this run knows it.
    pub timestamps: BTreeMap<TopicPartition, i64>,
    /// Ends of the log to reach, with `--until-caught-up`.
    pub targets: Option<BTreeMap<TopicPartition, Offset>>,
    pub committer: Arc<Committer>,
    pub source: Arc<Source>,
    pub progress: Arc<Progress>,
    pub commands: Vec<SyncSender<Command>>,
    pub reports: mpsc::Receiver<Report>,
    pub events: mpsc::Receiver<Event>,
    pub metrics: Metrics,
    pub health: Health,
    /// Commits settled by the process.
    pub commits: Arc<AtomicU64>,
    /// When the run began.
    pub began: SystemTime,
}

/// A barrier on its way through the shards.
struct Sealing {
    epoch: Epoch,
    began: Instant,
    started_ms: i64,
    parts: Vec<Sealed>,
    last: bool,
}

/// What changes while a run goes on.
struct Run {
    trigger: Trigger,
    sealing: Option<Sealing>,
    commit: Option<JoinHandle<Result<Done, Failure>>>,
    /// Timestamps of the last records by partition of the epoch being committed.
    timestamps: BTreeMap<TopicPartition, i64>,
    last_seal: Instant,
    last_finish: Option<Instant>,
    moves_sealed: u64,
    finish: Option<Finish>,
    finish_since: Instant,
    /// The epoch sealed for the finish is under way, or nothing was left to seal.
    final_seal: bool,
    unreachable: Option<Instant>,
}

impl Coordinator {
    /// Runs until there is a reason to end. Dropping the coordinator stops the shards.
    pub async fn run(mut self, stop: &mut watch::Receiver<bool>) -> Result<RunEnd, Failure> {
        let now = Instant::now();
        let c = &self.config.checkpoint;
        let mut run = Run {
            trigger: Trigger {
                interval: c.interval,
                min_pause: c.min_pause,
                max_bytes: c.max_bytes,
                max_records: c.max_records,
            },
            sealing: None,
            commit: None,
            timestamps: BTreeMap::new(),
            last_seal: now,
            last_finish: None,
            moves_sealed: 0,
            finish: None,
            finish_since: now,
            final_seal: false,
            unreachable: None,
        };
        let ended = self.turns(&mut run, stop).await;
        if let Some(commit) = run.commit.take() {
            self.leave(commit).await;
        }
        ended
    }

    /// Lets a commit under way come to its end, within the time for leaving. Cut off, its pending
    /// commit stays in the checkpoint and the next start settles it.
    async fn leave(&self, mut commit: JoinHandle<Result<Done, Failure>>) {
        match tokio::time::timeout(self.config.shutdown_timeout, &mut commit).await {
            Ok(Ok(Ok(done))) => {
                tracing::info!(epoch = %done.pending.epoch, "the last commit is settled")
            }
            Ok(Ok(Err(failure))) => {
                tracing::warn!(error = %chain(&failure), "the last commit is left to the next start");
            }
            Ok(Err(error)) => tracing::error!(%error, "the committer ended without a result"),
            Err(_) => {
                commit.abort();
                // Waits for what cannot be cut off (a synced write), so that state is closed.
                if let Err(error) = commit.await
                    && !error.is_cancelled()
                {
                    tracing::error!(%error, "the committer ended without a result");
                }
            }
        }
    }

    async fn turns(
        &mut self,
        run: &mut Run,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<RunEnd, Failure> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut gauges = Instant::now();
        loop {
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => self.reported(run, report)?,
                    None => return Err(Failure::Internal(String::from("every shard ended"))),
                },
                done = finished(&mut run.commit) => {
                    run.commit = None;
                    let done = done.inspect_err(|_| {
                        self.metrics.add_checkpoint(CheckpointOutcome::Failed, SystemTime::now());
                    })?;
                    if let Some(end) = self.done(run, done)? {
                        return Ok(end);
                    }
                }
                event = self.events.recv() => match event {
                    Some(event) => self.event(run, event)?,
                    None => return Err(Failure::Internal(String::from("the monitor of Kafka ended"))),
                },
                _ = stop.changed(), if run.finish.is_none() => self.finish(run, Finish::Stopped),
                _ = tick.tick() => {}
            }
            self.health.heartbeat();
            let now = Instant::now();
            if now.duration_since(gauges) >= GAUGES {
                gauges = now;
                self.gauges();
            }
            if let Some(end) = self.advance(run, now)? {
                return Ok(end);
            }
        }
    }

    /// Looks at the clocks and counters: seal, end, or go on.
    fn advance(&mut self, run: &mut Run, now: Instant) -> Result<Option<RunEnd>, Failure> {
        let timeout = self.config.checkpoint.timeout;
        if let Some(sealing) = &run.sealing
            && now.duration_since(sealing.began) > timeout
        {
            self.metrics.add_checkpoint(CheckpointOutcome::TimedOut, SystemTime::now());
            return Err(Failure::CheckpointTimeout { epoch: sealing.epoch.0, timeout });
        }
        if let Some(since) = run.unreachable {
            let give_up = self.config.retry_give_up;
            if now.duration_since(since) > give_up {
                return Err(Failure::GaveUp {
                    after: give_up,
                    last: Box::new(Failure::Source(self.source.unreachable())),
                });
            }
        }
        self.progress.hold.store(run.commit.is_some(), Ordering::Relaxed);
        if run.finish.is_none() && self.caught_up() {
            self.finish(run, Finish::CaughtUp);
        }
        if run.sealing.is_some() || run.commit.is_some() {
            return Ok(self.overdue(run, now));
        }
        if run.final_seal {
            return self.end(run).map(Some);
        }
        let moves = self.progress.moves.load(Ordering::Acquire);
        let bytes = self.progress.epoch_bytes.load(Ordering::Relaxed);
        let records = self.progress.epoch_records.load(Ordering::Relaxed);
        let moved = moves != run.moves_sealed || self.starts_unrecorded();
        let open =
            OpenEpoch { last_seal: run.last_seal, last_finished: run.last_finish, bytes, records };
        let due = run.trigger.due(now, &open);
        if run.finish.is_some() || (due && moved) {
            run.final_seal = run.finish.is_some();
            run.moves_sealed = moves;
            self.seal(run, now)?;
        }
        Ok(None)
    }

    /// Under `latest` the starting position itself is progress: without it in the ledger a
    /// restart would begin at a later end and lose what came in between.
    fn starts_unrecorded(&self) -> bool {
        self.config.kafka.auto_offset_reset == crate::config::OffsetReset::Latest
            && self.progress.positions.keys().any(|tp| self.ledger.get(tp).is_none())
    }

    fn caught_up(&self) -> bool {
        self.targets.as_ref().is_some_and(|targets| {
            targets.iter().all(|(tp, end)| {
                self.progress
                    .positions
                    .get(tp)
                    .is_some_and(|position| position.load(Ordering::Acquire) >= *end)
            })
        })
    }

    fn finish(&self, run: &mut Run, finish: Finish) {
        tracing::info!(reason = finish.name(), "finishing: the open epoch is sealed and committed");
        run.finish = Some(finish);
        run.finish_since = Instant::now();
    }

    /// A stop waits for its last commit, but not for ever: what is not committed is read again.
    fn overdue(&self, run: &Run, now: Instant) -> Option<RunEnd> {
        let stopping = matches!(run.finish, Some(Finish::Stopped));
        if stopping && now.duration_since(run.finish_since) > self.config.shutdown_timeout {
            tracing::warn!("leaving before the last commit is settled; the next start settles it");
            return Some(RunEnd::Stopped);
        }
        None
    }

    fn end(&self, run: &mut Run) -> Result<RunEnd, Failure> {
        match run.finish.take() {
            Some(Finish::Bad(record)) => Err(Failure::BadRecord(record)),
            Some(Finish::CaughtUp) => Ok(RunEnd::CaughtUp),
            Some(Finish::PartitionsAdded) => Ok(RunEnd::PartitionsAdded),
            Some(Finish::Stopped) | None => Ok(RunEnd::Stopped),
        }
    }

    fn seal(&mut self, run: &mut Run, now: Instant) -> Result<(), Failure> {
        self.epoch = self.epoch.next();
        let began = now;
        run.last_seal = now;
        tracing::debug!(epoch = %self.epoch, "barrier");
        for shard in &self.commands {
            let command = Command::Seal { epoch: self.epoch, next: self.table.clone() };
            // Room for one: a shard takes a barrier before the next is sent.
            shard.try_send(command).map_err(|_| {
                Failure::Internal(String::from("a shard did not take the last barrier"))
            })?;
        }
        run.sealing = Some(Sealing {
            epoch: self.epoch,
            began,
            started_ms: now_ms(),
            parts: Vec::with_capacity(self.commands.len()),
            last: run.final_seal,
        });
        Ok(())
    }

    fn reported(&mut self, run: &mut Run, report: Report) -> Result<(), Failure> {
        match report {
            Report::Failed(failure) => Err(failure),
            Report::Bad(record) => {
                self.bad(run, record);
                Ok(())
            }
            Report::Sealed(epoch, part) => {
                let Some(sealing) = &mut run.sealing else {
                    return Err(Failure::Internal(format!("epoch {epoch} sealed unasked")));
                };
                sealing.parts.push(*part);
                if sealing.parts.len() == self.commands.len()
                    && let Some(sealing) = run.sealing.take()
                {
                    self.sealed(run, sealing)?;
                }
                Ok(())
            }
        }
    }

    fn bad(&self, run: &mut Run, record: BadRecord) {
        tracing::error!(%record, "stopping at a bad record (BAD_RECORDS=fail)");
        self.finish(run, Finish::Bad(record));
    }

    /// Every shard answered: the epoch is a pending commit now.
    fn sealed(&mut self, run: &mut Run, sealing: Sealing) -> Result<(), Failure> {
        let now = Instant::now();
        run.last_finish = Some(now);
        let pending = self.pending(sealing.epoch, sealing.parts, &mut run.timestamps);
        if pending.ranges.is_empty() {
            return Ok(());
        }
        let checks = pending_is_contiguous(&pending)
            .and_then(|()| pending_continues(&pending, &self.ledger))
            .and_then(|()| written_rows_are_in_files(&pending));
        if let Err(violation) = checks {
            return Err(violated(&self.metrics, &violation));
        }
        let mut frontier = self.ledger.clone();
        for (tp, next) in pending.to().iter() {
            frontier.set(tp.clone(), next);
        }
        let work = Work {
            checkpoint: Checkpoint { epoch: sealing.epoch, frontier, pending: vec![pending] },
            started_ms: sealing.started_ms,
            seal: now.duration_since(sealing.began),
            io: self.table.io.clone(),
        };
        tracing::debug!(epoch = %sealing.epoch, last = sealing.last, "sealed");
        let committer = self.committer.clone();
        let source = self.source.clone();
        run.commit = Some(tokio::spawn(async move { committer.carry(work, source).await }));
        Ok(())
    }

    fn pending(
        &self,
        epoch: Epoch,
        parts: Vec<Sealed>,
        timestamps: &mut BTreeMap<TopicPartition, i64>,
    ) -> PendingCommit {
        let mut from = Frontier::default();
        let mut ranges = BTreeMap::new();
        let mut files = Vec::new();
        let mut rows = crate::protocol::RowCounts::default();
        for part in parts {
            from.0.extend(part.from);
            ranges.extend(part.ranges);
            files.extend(part.files);
            timestamps.extend(part.last_timestamps);
            rows.written += part.rows.written;
            rows.skipped += part.rows.skipped;
            rows.dead_lettered += part.rows.dead_lettered;
            rows.tombstones += part.rows.tombstones;
        }
        let pipeline = self.config.kafka.group_id.clone();
        let table_uuid = self.table.metadata.uuid().to_string();
        let topic = self.config.kafka.topic.clone();
        PendingCommit {
            commit_id: commit_id(&pipeline, &self.instance, epoch, &table_uuid, &from, &ranges),
            pipeline,
            instance: self.instance.clone(),
            epoch,
            table: self.table.name.clone(),
            table_uuid,
            cluster_id: self.info.cluster_id.clone(),
            topic_ids: self.info.topic_id.iter().map(|id| (topic.clone(), id.clone())).collect(),
            from,
            ranges,
            files,
            rows,
        }
    }

    /// A commit is settled.
    fn done(&mut self, run: &mut Run, done: Done) -> Result<Option<RunEnd>, Failure> {
        run.last_finish = Some(Instant::now());
        if let Settled::Superseded { ledger } = &done.settled {
            tracing::warn!(
                commit_id = %done.pending.commit_id, ledger = %show(ledger),
                "fenced: another instance of this pipeline committed these offsets; reading on from the ledger"
            );
            return Ok(Some(RunEnd::Fenced));
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        for (tp, next) in done.pending.to().iter() {
            self.ledger.set(tp.clone(), next);
        }
        self.table = Arc::new(TableContext {
            name: self.table.name.clone(),
            metadata: done.table.metadata.clone(),
            io: done.table.io.clone(),
        });
        self.timestamps.append(&mut run.timestamps);
        self.gauges();
        Ok(None)
    }

    fn event(&mut self, run: &mut Run, event: Event) -> Result<(), Failure> {
        match event {
            Event::Reachable => {
                run.unreachable = None;
                self.metrics.set_reachable(Server::Kafka, true);
                self.health.set_reachable(Server::Kafka);
            }
            Event::Unreachable(reason) => {
                run.unreachable.get_or_insert_with(Instant::now);
                self.metrics.add_retry(Server::Kafka);
                self.metrics.set_reachable(Server::Kafka, false);
                self.health.set_unreachable(Server::Kafka, reason);
            }
            Event::PartitionsAdded(partitions) => {
                tracing::info!(partitions, "the topic has new partitions");
                if run.finish.is_none() {
                    self.finish(run, Finish::PartitionsAdded);
                }
            }
            Event::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn gauges(&self) {
        let held = self.progress.hold.load(Ordering::Relaxed)
            && self.progress.epoch_bytes.load(Ordering::Relaxed)
                >= self.config.checkpoint.max_bytes;
        let assigned = self.progress.positions.len();
        self.metrics.set_partitions(assigned, if held { assigned } else { 0 });
        for (tp, position) in &self.progress.positions {
            let read = position.load(Ordering::Relaxed);
            let end = self.source.cached_log_end(tp).map_or(read, |end| end.max(read));
            let ledger = self.ledger.get(tp).unwrap_or(0);
            // The oldest missing record came after the last one that the table has.
            let last = self.timestamps.get(tp).and_then(|millis| u64::try_from(*millis).ok());
            let behind = (ledger < end)
                .then(|| last.map_or(self.began, |last| UNIX_EPOCH + Duration::from_millis(last)));
            self.metrics.set_position(tp, ledger, end, behind);
        }
    }
}

async fn finished(commit: &mut Option<JoinHandle<Result<Done, Failure>>>) -> Result<Done, Failure> {
    match commit {
        Some(handle) => handle.await.map_err(join_error)?,
        None => std::future::pending().await,
    }
}

/// A frontier in one line of a log.
pub(super) fn show(frontier: &Frontier) -> String {
    let parts: Vec<String> = frontier.iter().map(|(tp, next)| format!("{tp}={next}")).collect();
    parts.join(" ")
}
