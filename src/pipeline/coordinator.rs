//! The loop of a run: when to send a barrier, what to do with its answers, when to end.
//!
//! One epoch is open in the shards while at most one other is between prepare and finalize (I2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::behind::Behind;
use super::committer::{Committer, Done, Work};
use super::end::{Finish, RunEnd, join_error};
use super::flow_tables::Tables;
use super::hearing::Hearing;
use super::log_ends::LogEnds;
use super::membership::Members;
use super::messages::{Command, Event, Progress, Report, Sealed};
use super::renewing::Renewing;
use super::seams::{Source, now};
use super::set_aside::SetAside;
use super::settings::RunSettings;
use super::unprepared::Unprepared;
use super::world::{Loaded, World};
use crate::base::clock::now_ms;
use crate::decode::BadRecord;
use crate::failure::{Failure, chain};
use crate::protocol::{
    Checkpoint, Epoch, Flow, Frontier, Offset, OpenEpoch, Settled, TableShare, TopicPartition,
    Trigger,
};
use crate::source::TopicInfo;
use crate::telemetry::{CheckpointOutcome, Health, Metrics, Server};

/// How often the loop looks at counters and clocks.
const TICK: Duration = Duration::from_millis(10);
/// How often gauges that nobody waits for are renewed.
const GAUGES: Duration = Duration::from_secs(1);

/// The coordinator of one run.
pub(super) struct Coordinator<W: World> {
    pub settings: Arc<RunSettings>,
    pub info: TopicInfo,
    pub flow: Flow,
    pub tables: Tables<W>,
    pub epoch: Epoch,
    /// The partitions that this instance reads, by their positions and shards.
    pub owned: BTreeMap<TopicPartition, Owned>,
    /// Timestamp of the last record below the ledger by partition, where this run knows it.
    pub timestamps: BTreeMap<TopicPartition, i64>,
    /// Ends of the log to reach, with `--until-caught-up`.
    pub targets: Option<BTreeMap<TopicPartition, Offset>>,
    /// Files of an epoch that came to nothing.
    pub left: Vec<Sealed>,
    pub committer: Arc<Committer<W>>,
    pub source: W::Source,
    pub progress: Arc<Progress>,
    pub commands: Vec<SyncSender<Command<Loaded<W>>>>,
    pub reports: mpsc::UnboundedReceiver<Report>,
    pub events: mpsc::Receiver<Event>,
    pub metrics: Metrics,
    pub health: Health,
    /// Commits settled by the process.
    pub commits: Arc<AtomicU64>,
    /// Something was read that is not committed.
    pub uncommitted: Arc<AtomicBool>,
    /// Since when tables lack records.
    pub behind: Arc<Mutex<Behind>>,
}

/// A partition that this instance reads.
pub(super) struct Owned {
    /// Next offset to read, as its shard shows it.
    pub position: Arc<AtomicI64>,
    /// The offset that was read first.
    pub start: Offset,
    /// Index of its shard.
    pub shard: usize,
}

/// A barrier on its way through the shards.
pub(super) struct Sealing {
    epoch: Epoch,
    began: Instant,
    started_ms: i64,
    parts: Vec<Sealed>,
    last: bool,
}

/// The commits of a sealed epoch, under way.
type Commits<T> = JoinHandle<Result<Vec<Done<T>>, Failure>>;

/// What changes while a run goes on.
pub(super) struct Run<W: World> {
    trigger: Trigger,
    pub sealing: Option<Sealing>,
    pub commit: Option<Commits<Loaded<W>>>,
    /// When it was begun.
    committing_since: Instant,
    /// Shards that asked for tables as they are now, and the reading that is under way for them.
    pub renewing: Renewing<W>,
    /// Changes of the assignment, and where the one under way is.
    pub members: Members,
    /// Partitions that cannot be read.
    pub aside: SetAside,
    /// What is known of the ends of their logs.
    pub ends: LogEnds,
    /// What is heard of the group.
    pub hearing: Hearing,
    /// Timestamps of the last records by partition of the epoch being committed.
    timestamps: BTreeMap<TopicPartition, i64>,
    last_seal: Instant,
    last_finish: Option<Instant>,
    moves_sealed: u64,
    pub finish: Option<Finish>,
    /// When we were asked to stop, whatever else the run was ending for.
    stop_since: Option<Instant>,
    /// The epoch sealed for the finish is under way, or nothing was left to seal.
    final_seal: bool,
    unreachable: Option<Instant>,
    pub refreshed: Instant,
}

impl<W: World> Run<W> {
    /// Does the cluster not answer?
    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable.is_some()
    }
}

impl<W: World> Coordinator<W> {
    /// Runs until there is a reason to end. Dropping the coordinator stops the shards; what is left
    /// of an epoch that was not prepared is for the caller.
    pub(crate) async fn run(
        mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> (Result<RunEnd, Failure>, Unprepared<W>) {
        let begun = now();
        let interval = self.settings.trigger.interval;
        // Instances that were started together should not commit together for ever.
        let phase = interval.mul_f64(if self.settings.group { fastrand::f64() } else { 0.0 });
        let mut run = Run {
            trigger: self.settings.trigger,
            sealing: None,
            commit: None,
            committing_since: begun,
            renewing: Renewing::default(),
            members: Members::default(),
            aside: SetAside::default(),
            ends: LogEnds::default(),
            hearing: Hearing::new(begun),
            timestamps: BTreeMap::new(),
            last_seal: begun.checked_sub(phase).unwrap_or(begun),
            last_finish: None,
            moves_sealed: 0,
            finish: None,
            stop_since: None,
            final_seal: false,
            unreachable: None,
            refreshed: begun,
        };
        let ended = self.run_loop(&mut run, stop).await;
        run.members.abandon();
        run.renewing.abandon();
        if let Some(commit) = run.commit.take() {
            let spent = run.stop_since.map_or(Duration::ZERO, |since| now() - since);
            let patience = match ended {
                // Others wait for these partitions; the next run settles the commit.
                Ok(RunEnd::Dropped) => Duration::ZERO,
                _ => self.settings.last_commit().saturating_sub(spent),
            };
            leave(commit, patience).await;
        }
        let mut taken = run.sealing.map(|sealing| sealing.parts).unwrap_or_default();
        taken.append(&mut self.left);
        (ended, Unprepared { taken, reports: self.reports, tables: self.tables })
    }

    async fn run_loop(
        &mut self,
        run: &mut Run<W>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<RunEnd, Failure> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut gauges = now();
        loop {
            tokio::select! {
                // In this order, so that a run is the same each time it is simulated.
                biased;
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
                read = run.members.read() => self.was_read(run, read?)?,
                read = run.renewing.read() => self.renewed(run, read?)?,
                event = self.events.recv() => match event {
                    Some(event) => self.event(run, event)?,
                    None => return Err(Failure::Internal(String::from("the monitor of Kafka ended"))),
                },
                _ = stop.changed(), if run.stop_since.is_none() => self.stop(run),
                _ = tick.tick() => {}
            }
            self.health.heartbeat();
            let now = now();
            if now.duration_since(gauges) >= GAUGES {
                gauges = now;
                self.gauges(run);
                self.look_aside(run, now);
                self.look_at_group(run, now)?;
                let moved = self.progress.moves.load(Ordering::Acquire) != run.moves_sealed;
                let waits = moved || run.sealing.is_some() || run.commit.is_some();
                self.uncommitted.store(waits, Ordering::Relaxed);
            }
            if let Some(end) = self.advance(run, now)? {
                return Ok(end);
            }
        }
    }

    /// Looks at the clocks and counters: seal, end, or go on.
    fn advance(&mut self, run: &mut Run<W>, now: Instant) -> Result<Option<RunEnd>, Failure> {
        let timeout = self.settings.checkpoint_timeout;
        if let Some(sealing) = &run.sealing
            && now.duration_since(sealing.began) > timeout
        {
            self.metrics.add_checkpoint(CheckpointOutcome::TimedOut, SystemTime::now());
            return Err(Failure::CheckpointTimeout { epoch: sealing.epoch.0, timeout });
        }
        if let Some(since) = run.unreachable {
            let give_up = self.settings.retry_give_up;
            if now.duration_since(since) > give_up {
                return Err(Failure::GaveUp {
                    after: give_up,
                    last: Box::new(self.source.unreachable()),
                });
            }
        }
        let under_way = run.sealing.is_some() || run.commit.is_some();
        self.progress.hold.store(under_way, Ordering::Relaxed);
        if run.finish.is_none() && self.caught_up(run) {
            self.finish_aside(run, |tp| self.targets.as_ref().is_some_and(|t| t.contains_key(tp)));
        }
        if run.finish.is_none() && self.caught_up(run) {
            self.finish(run, Finish::CaughtUp);
        }
        if run.finish.is_none() && self.nothing_is_left(run) {
            self.finish_aside(run, |_| true);
        }
        if let Some(end) = self.membership(run, now)? {
            return Ok(Some(end));
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
        let described = self.progress.epoch_described.load(Ordering::Relaxed);
        let moved = moves != run.moves_sealed;
        let (last_seal, last_finished) = (run.last_seal, run.last_finish);
        let open = OpenEpoch { last_seal, last_finished, bytes, records, described };
        let due = run.trigger.due(now, &open);
        let revoked = run.members.take_revoked();
        if run.finish.is_some() || revoked.is_some() || (due && moved) {
            run.final_seal = run.finish.is_some();
            run.moves_sealed = moves;
            self.seal(run, now, revoked.unwrap_or_default())?;
        }
        Ok(None)
    }

    /// Is everything up to the ends of the log at start read by us, in the table already, or beyond what can
    /// be read?
    fn caught_up(&self, run: &Run<W>) -> bool {
        let is_done = |tp: &TopicPartition, end: Offset| match self.position(tp) {
            // A ledger beyond its log's end is not caught up.
            _ if run.aside.contains(tp) => run.aside.lasts(tp),
            Some(position) => position >= end,
            None if self.settings.group || run.members.is_absent(tp) => {
                self.tables.ledger(tp).is_some_and(|next| next >= end)
            }
            None => false,
        };
        let mut targets = self.targets.iter().flatten();
        self.targets.is_some() && targets.all(|(tp, end)| is_done(tp, *end))
    }

    /// The next offset to read of a partition that is ours.
    pub(super) fn position(&self, tp: &TopicPartition) -> Option<Offset> {
        self.owned.get(tp).map(|owned| owned.position.load(Ordering::Acquire))
    }

    pub(super) fn finish(&self, run: &mut Run<W>, finish: Finish) {
        tracing::info!(reason = finish.name(), "finishing: the open epoch is sealed and committed");
        run.finish = Some(finish);
    }

    fn stop(&self, run: &mut Run<W>) {
        run.stop_since = Some(now());
        if run.finish.is_none() {
            self.finish(run, Finish::Stopped);
        }
    }

    /// A stop waits for its last commit, but not for ever: what is not committed is read again.
    fn overdue(&self, run: &Run<W>, now: Instant) -> Option<RunEnd> {
        let timeout = self.settings.last_commit();
        if run.stop_since.is_some_and(|since| now.duration_since(since) > timeout) {
            tracing::warn!("leaving before the last commit is settled; the next start settles it");
            return Some(RunEnd::Stopped);
        }
        None
    }

    fn end(&self, run: &mut Run<W>) -> Result<RunEnd, Failure> {
        match run.finish.take() {
            Some(Finish::Bad(record)) => Err(Failure::BadRecord(record)),
            Some(Finish::Aside(why)) => Err(*why),
            Some(Finish::CaughtUp) => Ok(RunEnd::CaughtUp),
            Some(Finish::PartitionsAdded) => Ok(RunEnd::PartitionsAdded),
            Some(Finish::Stopped) | None => Ok(RunEnd::Stopped),
        }
    }

    fn seal(
        &mut self,
        run: &mut Run<W>,
        now: Instant,
        revoked: Arc<BTreeSet<TopicPartition>>,
    ) -> Result<(), Failure> {
        self.epoch = self.epoch.next();
        let began = now;
        run.last_seal = now;
        tracing::debug!(epoch = %self.epoch, "barrier");
        // Before the first shard is told: its answer may be there when the next one turns out to have ended.
        run.sealing = Some(Sealing {
            epoch: self.epoch,
            began,
            started_ms: now_ms(),
            parts: Vec::with_capacity(self.commands.len()),
            last: run.final_seal,
        });
        for shard in 0..self.commands.len() {
            let next = self.tables.fresh(now);
            let revoked = revoked.clone();
            self.tell(run, shard, Command::Seal { epoch: self.epoch, next, revoked })?;
        }
        Ok(())
    }

    fn reported(&mut self, run: &mut Run<W>, report: Report) -> Result<(), Failure> {
        match report {
            Report::Failed(failure) => Err(match &run.sealing {
                Some(sealing) => {
                    self.metrics.add_checkpoint(CheckpointOutcome::Failed, SystemTime::now());
                    failure.of_checkpoint(sealing.epoch)
                }
                None => failure,
            }),
            Report::Bad(record) => {
                self.bad(run, record);
                Ok(())
            }
            Report::Unread(tp, error) => self.set_aside(run, tp, error.into()),
            // Why is told next; until then it is a part of the epoch that comes to nothing.
            Report::Left(part) => {
                self.left.push(*part);
                Ok(())
            }
            Report::Ready => self.ready(run),
            Report::Stale(shard) => self.stale(run, shard),
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

    /// Tells a shard. There is room for a barrier and a change of partitions, and a shard takes each
    /// before the next of its kind is sent.
    pub(super) fn tell(
        &mut self,
        run: &mut Run<W>,
        shard: usize,
        command: Command<Loaded<W>>,
    ) -> Result<(), Failure> {
        let told = self.commands.get(shard).map(|shard| shard.try_send(command));
        match told {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Disconnected(_))) => Err(self.why_ended(run)),
            Some(Err(TrySendError::Full(_))) | None => {
                Err(Failure::Internal(format!("shard {shard} did not take the last command")))
            }
        }
    }

    /// A shard ended: what it reported before is not read yet.
    fn why_ended(&mut self, run: &mut Run<W>) -> Failure {
        while let Ok(report) = self.reports.try_recv() {
            match (report, &mut run.sealing) {
                (Report::Sealed(_, part), Some(sealing)) => sealing.parts.push(*part),
                (Report::Left(part), _) => self.left.push(*part),
                (failed @ Report::Failed(_), _) => {
                    if let Err(failure) = self.reported(run, failed) {
                        return failure;
                    }
                }
                _ => {}
            }
        }
        Failure::Internal(String::from("a shard ended without saying why"))
    }

    fn bad(&self, run: &mut Run<W>, record: BadRecord) {
        tracing::error!(%record, "stopping at a bad record (BAD_RECORDS=fail)");
        // A run that ends anyway leaves it to the next one, and the first of several is told.
        if run.finish.is_none() {
            self.finish(run, Finish::Bad(record));
        }
    }

    /// Every shard answered: the epoch is a pending commit now.
    fn sealed(&mut self, run: &mut Run<W>, sealing: Sealing) -> Result<(), Failure> {
        let now = now();
        run.last_finish = Some(now);
        let mut shares: Vec<TableShare> = Vec::new();
        shares.resize_with(self.tables.0.len(), TableShare::default);
        for part in sealing.parts {
            run.timestamps.extend(part.last_timestamps);
            for (whole, share) in shares.iter_mut().zip(part.shares) {
                whole.merge(share);
            }
        }
        let (mut frontiers, mut pending) = (BTreeMap::new(), Vec::new());
        for (table, share) in self.tables.iter().zip(shares) {
            if share.ranges.is_empty() {
                continue;
            }
            let (commit, frontier) =
                table.commit(&self.flow, sealing.epoch, share, &self.metrics)?;
            frontiers.insert(commit.table.clone(), frontier);
            pending.push(commit);
        }
        if pending.is_empty() {
            return Ok(());
        }
        let checkpoint = Checkpoint { epoch: sealing.epoch, frontiers, pending };
        let work = Work {
            unmoved: self.tables.unmoved(&checkpoint),
            reporter: self.tables.reporter(),
            checkpoint,
            started_ms: sealing.started_ms,
            seal: now.duration_since(sealing.began),
            tables: self.tables.loaded(),
        };
        tracing::debug!(epoch = %sealing.epoch, last = sealing.last, "sealed");
        let committer = self.committer.clone();
        run.committing_since = now;
        run.commit = Some(tokio::spawn(async move { committer.carry(work).await }));
        Ok(())
    }

    /// The commits of an epoch are settled.
    fn done(
        &mut self,
        run: &mut Run<W>,
        all: Vec<Done<Loaded<W>>>,
    ) -> Result<Option<RunEnd>, Failure> {
        run.last_finish = Some(now());
        let mut fenced = false;
        for done in all {
            if let Settled::Superseded(superseded) = &done.settled {
                tracing::warn!(
                    commit_id = %done.pending.commit_id, ledger = %superseded.ledger(),
                    "fenced: another instance of this pipeline committed these offsets, or the ledger was edited; reading on from the ledger"
                );
                fenced = true;
            } else {
                self.settled(done, run.committing_since);
            }
        }
        if fenced {
            return Ok(Some(RunEnd::Fenced));
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.timestamps.append(&mut run.timestamps);
        self.gauges(run);
        Ok(None)
    }

    /// A commit is in its table.
    fn settled(&mut self, done: Done<Loaded<W>>, began: Instant) {
        let Done { reading, pending, .. } = done;
        let Some(table) = self.tables.get_mut(&pending.table) else { return };
        table.ledger.0.extend(pending.to().0);
        let ledger = reading.view().ledger.as_ref().map(|ledger| ledger.frontier.clone());
        if began >= table.at {
            (table.loaded, table.at) = (Arc::new(reading.into_table()), began);
        }
        if let Some(ledger) = ledger {
            self.others(&pending.table, &ledger);
        }
    }

    /// What other instances committed; it counts for `--until-caught-up`. Of our own partitions we
    /// know it ourselves, and what differs there fences the next commit.
    pub(super) fn others(&mut self, table: &str, ledger: &Frontier) {
        let Some(table) = self.tables.get_mut(table) else { return };
        let theirs = ledger.iter().filter(|(tp, _)| !self.owned.contains_key(tp));
        table.ledger.0.extend(theirs.map(|(tp, next)| (tp.clone(), next)));
    }

    fn event(&mut self, run: &mut Run<W>, event: Event) -> Result<(), Failure> {
        match event {
            Event::Reachable => {
                run.hearing.reachable(run.unreachable.take(), now());
                self.show_unread(run);
            }
            Event::Ends(ends) => self.ends_told(run, &ends),
            Event::Unreachable(reason) => {
                run.unreachable.get_or_insert_with(now);
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
            Event::Membership(change) => self.group_changed(run, change),
            Event::LeftOut(told) => self.group_asked(run, told)?,
            Event::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Do the shards read no further, since the open epoch is full?
    pub(super) fn is_held(&self) -> bool {
        self.progress.is_full(&self.settings.trigger)
    }
}

/// Lets a commit under way come to its end, within the time for leaving. Cut off, its pending
/// commit stays in the checkpoint and the next start settles it.
async fn leave<T>(mut commit: Commits<T>, patience: Duration) {
    match tokio::time::timeout(patience, &mut commit).await {
        Ok(Ok(Ok(done))) => {
            for Done { pending, .. } in done {
                tracing::info!(epoch = %pending.epoch, "the last commit is settled");
            }
        }
        Ok(Ok(Err(failure))) => {
            tracing::warn!(error = %chain(&failure), "the last commit is left to the next start");
        }
        Ok(Err(error)) => tracing::error!(%error, "the committer ended without a result"),
        Err(_) => {
            commit.abort();
            if let Err(error) = commit.await
                && !error.is_cancelled()
            {
                tracing::error!(%error, "the committer ended without a result");
            }
        }
    }
}

async fn finished<T>(commit: &mut Option<Commits<T>>) -> Result<Vec<Done<T>>, Failure> {
    match commit {
        Some(handle) => handle.await.map_err(join_error)?,
        None => std::future::pending().await,
    }
}
