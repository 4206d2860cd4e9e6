//! Carries a sealed epoch into the table: prepare, commit, finalize, report.
//!
//! It holds no decision of its own: [`admit`] decides, and nothing is retried without reading the
//! ledger again. Killed at any line, the next start finishes the same work with the same code.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::end::{now_ms, violated};
use super::memory::Memory;
use super::seams::{Checkpoints, Source, Table, now};
use super::unprepared;
use super::world::{Loaded, World};
use crate::broken::{self, Variant};
use crate::crash;
use crate::failure::{Failure, chain};
use crate::protocol::{
    Admission, Checkpoint, Frontier, PendingCommit, Refusal, TableView, admit, finalized_is_shown,
    group_is_behind_ledger, is_provably_absent, ledger_does_not_decrease, snapshot_of,
};
use crate::retry::Backoff;
use crate::state::{CheckpointEnd, CheckpointStart, Outcome, StepSeconds};
use crate::table::CommitOutcome;
use crate::telemetry::{
    Admission as Decision, CheckpointOutcome, CommitOutcome as Answer, Health, Metrics, Server,
    Step,
};

/// How a pending commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Our request made this snapshot.
    Committed {
        /// The snapshot.
        snapshot_id: i64,
    },
    /// An earlier request had made it already.
    AlreadyCommitted,
    /// Another instance was faster; the pending commit is dropped.
    Superseded {
        /// The ledger that fenced it.
        ledger: Frontier,
    },
}

impl Settled {
    /// For logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Committed { .. } => "committed",
            Self::AlreadyCommitted => "already_committed",
            Self::Superseded { .. } => "superseded",
        }
    }
}

/// Commits to one table.
pub struct Committer<W: World> {
    /// The table, in its catalog.
    pub table: W::Table,
    /// The table as `namespace.table`.
    pub name: String,
    /// Names this process.
    pub instance: String,
    /// Local state.
    pub state: W::Checkpoints,
    /// The topic, of which ids are asked and to whose group offsets are reported.
    pub source: W::Source,
    /// Checkpoints to keep for people to read.
    pub retained: usize,
    /// How long a catalog that does not answer is tried.
    pub give_up: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// Readiness.
    pub health: Health,
    /// The table as our last commit left it.
    pub memory: Mutex<Memory<Loaded<W>>>,
}

/// A sealed epoch on its way into the table.
pub struct Work<T> {
    /// What is prepared.
    pub checkpoint: Checkpoint,
    /// Wall-clock milliseconds at which the barrier went out.
    pub started_ms: i64,
    /// How long the shards took to seal.
    pub seal: Duration,
    /// The table for which its files were written.
    pub table: T,
}

/// A finished epoch.
pub struct Done<T> {
    /// How its pending commit ended.
    pub settled: Settled,
    /// The table after it.
    pub table: T,
    /// What was committed.
    pub pending: PendingCommit,
}

impl<W: World> Committer<W> {
    /// Prepares, commits and finalizes an epoch and reports its offsets to the group.
    pub async fn carry(&self, work: Work<Loaded<W>>) -> Result<Done<Loaded<W>>, Failure> {
        let epoch = work.checkpoint.epoch;
        self.metrics.observe_step(Step::Seal, work.seal);

        if let Err(failure) = self.check_topics(&work).await {
            self.drop_unprepared(&work).await;
            return Err(failure.of_checkpoint(epoch));
        }
        let began = now();
        crash::point("prepare.before");
        self.prepare(&work).await?;
        crash::point("prepare.after");
        let preparing = now() - began;
        self.metrics.observe_step(Step::Prepare, preparing);

        let pending = single(work.checkpoint.pending)?;
        if broken::is(Variant::FinalizeBeforeCommit) {
            let (table, _) = self.load().await?;
            self.finalize(&pending, &Settled::AlreadyCommitted, &table, Duration::ZERO).await?;
        }
        for file in &pending.files {
            self.metrics.add_file(file.records, file.bytes);
        }
        let began = now();
        let (settled, table) = self.settle(&pending).await?;
        let committing = now() - began;
        self.metrics.observe_step(Step::Commit, committing);

        let began = now();
        crash::point("finalize.before");
        if !broken::is(Variant::FinalizeBeforeCommit) {
            self.finalize(&pending, &settled, &table, committing).await?;
        }
        crash::point("finalize.after");
        let finalizing = now() - began;
        self.metrics.observe_step(Step::Finalize, finalizing);

        let began = now();
        crash::point("report.before");
        if !matches!(settled, Settled::Superseded { .. }) {
            self.report(&pending, &table).await?;
        }
        crash::point("report.after");
        let reporting = now() - began;
        self.metrics.observe_step(Step::Report, reporting);
        let seconds = StepSeconds {
            prepare: Some(preparing.as_secs_f64()),
            finalize: Some(finalizing.as_secs_f64()),
            report: Some(reporting.as_secs_f64()),
            ..StepSeconds::default()
        };
        self.state.add_seconds(seconds).await?;
        tracing::info!(
            %epoch, commit_id = %pending.commit_id, outcome = settled.name(),
            files = pending.files.len(), rows = pending.rows.written,
            skipped = pending.rows.skipped, tombstones = pending.rows.tombstones,
            seal_seconds = work.seal.as_secs_f64(), commit_seconds = committing.as_secs_f64(),
            "checkpoint complete"
        );
        Ok(Done { settled, table, pending })
    }

    /// Deletes the files of an epoch that never became a checkpoint: nothing names them (I8).
    async fn drop_unprepared(&self, work: &Work<Loaded<W>>) {
        let files = work.checkpoint.pending.iter().flat_map(|pending| &pending.files);
        unprepared::delete::<W>(&self.table, &work.table, files).await;
    }

    /// The client reads on at its offsets in a topic that was made again meanwhile. Ids are never
    /// used twice: with the same one after the last record as before the first, all records are of
    /// that topic.
    async fn check_topics(&self, work: &Work<Loaded<W>>) -> Result<(), Failure> {
        let known = || work.checkpoint.pending.iter().flat_map(|pending| &pending.topic_ids);
        if known().next().is_none() {
            return Ok(());
        }
        let told = self.source.topic_ids().await;
        for (topic, known) in known() {
            match told.get(topic) {
                Some(found) if found == known => {}
                Some(found) => {
                    return Err(self.refuse(Refusal::TopicRecreated {
                        table: self.name.clone(),
                        topic: topic.clone(),
                        ledger: known.clone(),
                        found: found.clone(),
                    }));
                }
                None => return Err(self.source.silent()),
            }
        }
        Ok(())
    }

    async fn prepare(&self, work: &Work<Loaded<W>>) -> Result<(), Failure> {
        let start = CheckpointStart {
            instance: self.instance.clone(),
            started_ms: work.started_ms,
            seal_seconds: work.seal.as_secs_f64(),
        };
        let files = work.checkpoint.pending.iter().flat_map(|pending| &pending.files);
        let bytes: u64 = files.map(|file| file.bytes).sum();
        self.state.prepare(work.checkpoint.clone(), start).await?;
        self.metrics.set_checkpoint_size(bytes);
        Ok(())
    }

    /// Load, read the ledger, admit, commit; until the fate of `pending` is known. The first
    /// attempt is decided on what the catalog answered to our last commit, where that is kept.
    /// I4: the caller has synced the checkpoint. Conflict and unknown both come back to the load;
    /// a conflict soon, since the catalog is well and only another instance was faster.
    pub async fn settle(&self, pending: &PendingCommit) -> Result<(Settled, Loaded<W>), Failure> {
        let mut outage = Backoff::new(now(), self.give_up);
        let mut conflict = Backoff::quick(now(), self.give_up);
        let mut sent = false;
        let mut remembered = self.memory().take();
        let mut first = true;
        loop {
            let blind = sent && broken::is(Variant::RetryWithoutReading);
            let by_memory = remembered.is_some();
            let attempt = match remembered.take() {
                Some(table) => self.attempt_on(pending, table).await,
                None => self.attempt(pending, blind, first).await,
            };
            first = false;
            sent |= matches!(attempt, Ok(Attempt::Conflict(_) | Attempt::Unknown(_)));
            let (reason, failure, backoff) = match attempt {
                Ok(Attempt::Settled(settled, table)) => {
                    self.remember(&settled, &table)?;
                    self.metrics.set_unknown_commits(0);
                    self.reachable(None);
                    return Ok((settled, *table));
                }
                Ok(Attempt::Conflict(reason)) => {
                    if by_memory {
                        self.memory().set_shared();
                    }
                    (reason, None, &mut conflict)
                }
                Ok(Attempt::Unknown(reason)) => (reason, None, &mut outage),
                Err(failure) if failure.is_transient() => {
                    let reason = chain(&failure);
                    self.metrics.add_retry(Server::Catalog);
                    self.reachable(Some(&reason));
                    (reason, Some(failure), &mut outage)
                }
                Err(failure) => return Err(failure),
            };
            let Some(wait) = backoff.next_wait(now()) else {
                let last = failure.unwrap_or_else(|| Failure::Unsettled {
                    commit: pending.commit_id.clone(),
                    reason: reason.clone(),
                });
                return Err(Failure::GaveUp { after: backoff.spent(now()), last: Box::new(last) });
            };
            tracing::warn!(
                commit_id = %pending.commit_id, %reason, wait_seconds = wait.as_secs_f64(),
                "commit not settled, reading the ledger again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory<Loaded<W>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the table that a commit of ours is the head of, for the next one.
    fn remember(&self, settled: &Settled, table: &Loaded<W>) -> Result<(), Failure> {
        let ours = matches!(settled, Settled::Committed { .. });
        let head = if ours { self.view(table)?.head } else { None };
        let kept = (ours && self.table.may_be_kept(table)).then(|| table.clone());
        self.memory().keep(kept, head);
        Ok(())
    }

    async fn attempt(
        &self,
        pending: &PendingCommit,
        blind: bool,
        first: bool,
    ) -> Result<Attempt<Loaded<W>>, Failure> {
        let (loaded, view) = self.load().await?;
        if first {
            self.memory().compare(view.head);
        }
        self.decide(pending, loaded, view, blind).await
    }

    /// A first attempt on what the last commit left. Only "commit" is ever decided on it, because
    /// the catalog then says whether it was still so. Anything else may be about a table that moved
    /// on since: a partition that another instance brought forward looks as if it had gone back.
    async fn attempt_on(
        &self,
        pending: &PendingCommit,
        known: Loaded<W>,
    ) -> Result<Attempt<Loaded<W>>, Failure> {
        let view = self.view(&known)?;
        match admit(pending, &view) {
            Admission::Commit { .. } => self.decide(pending, known, view, false).await,
            _ => self.attempt(pending, false, true).await,
        }
    }

    /// `blind` is never true but in a variant that is broken on purpose.
    async fn decide(
        &self,
        pending: &PendingCommit,
        loaded: Loaded<W>,
        view: TableView,
        blind: bool,
    ) -> Result<Attempt<Loaded<W>>, Failure> {
        let decision = match blind {
            false => admit(pending, &view),
            true => Admission::Commit { head: view.head },
        };
        self.metrics.add_admission(match &decision {
            Admission::Commit { .. } => Decision::Commit,
            Admission::AlreadyCommitted => Decision::AlreadyCommitted,
            Admission::Superseded { .. } => Decision::Superseded,
            Admission::Refused(_) => Decision::Refused,
        });
        match decision {
            Admission::Commit { .. } => {}
            Admission::AlreadyCommitted => {
                return Ok(Attempt::Settled(Settled::AlreadyCommitted, Box::new(loaded)));
            }
            Admission::Superseded { ledger } => {
                return Ok(Attempt::Settled(Settled::Superseded { ledger }, Box::new(loaded)));
            }
            Admission::Refused(refusal) => return Err(self.refuse(refusal)),
        }
        match self.table.append(&loaded, pending).await? {
            CommitOutcome::Committed { snapshot_id, table } => {
                self.metrics.add_commit(Answer::Committed);
                self.check(&view, &table, pending)?;
                Ok(Attempt::Settled(Settled::Committed { snapshot_id }, Box::new(table)))
            }
            CommitOutcome::Conflict(reason) => {
                self.metrics.add_commit(Answer::Conflict);
                Ok(Attempt::Conflict(format!("another commit came first: {reason}")))
            }
            CommitOutcome::Unknown(reason) => {
                self.metrics.add_commit(Answer::Unknown);
                self.metrics.set_unknown_commits(1);
                self.reachable(Some(&reason));
                Ok(Attempt::Unknown(format!("the outcome of the commit is not known: {reason}")))
            }
            CommitOutcome::Rejected(detail) => {
                self.metrics.add_commit(Answer::Rejected);
                Err(Failure::Unfit {
                    table: self.name.clone(),
                    detail: format!(
                        "the catalog rejected the commit: {detail}; nothing is lost, the commit is kept in the checkpoint"
                    ),
                })
            }
        }
    }

    fn reachable(&self, error: Option<&str>) {
        self.metrics.set_reachable(Server::Catalog, error.is_none());
        match error {
            None => self.health.set_reachable(Server::Catalog),
            Some(error) => self.health.set_unreachable(Server::Catalog, error),
        }
    }

    /// The table and what its metadata says of our pipeline.
    pub async fn load(&self) -> Result<(Loaded<W>, TableView), Failure> {
        let missing = || self.refuse(Refusal::TableMissing { table: self.name.clone() });
        let loaded = self.table.load().await?.ok_or_else(missing)?;
        let view = self.view(&loaded)?;
        Ok((loaded, view))
    }

    /// [`Self::load`], tried again until a catalog that is away is back or time is up.
    pub async fn load_patiently(&self) -> Result<(Loaded<W>, TableView), Failure> {
        let mut backoff = Backoff::new(now(), self.give_up);
        loop {
            match self.load().await {
                Err(failure) if failure.is_transient() => {
                    let reason = chain(&failure);
                    self.metrics.add_retry(Server::Catalog);
                    self.reachable(Some(&reason));
                    let Some(wait) = backoff.next_wait(now()) else {
                        let after = backoff.spent(now());
                        return Err(Failure::GaveUp { after, last: Box::new(failure) });
                    };
                    tracing::warn!(%reason, wait_seconds = wait.as_secs_f64(), "table not read");
                    tokio::time::sleep(wait).await;
                }
                read => return read,
            }
        }
    }

    /// What the table's metadata says of our pipeline.
    pub fn view(&self, table: &Loaded<W>) -> Result<TableView, Failure> {
        self.table.view(table).map_err(|failure| match failure {
            Failure::Refused(refusal) => self.refuse(refusal),
            other => other,
        })
    }

    /// Counts a refusal and makes it the end of the process.
    pub fn refuse(&self, refusal: Refusal) -> Failure {
        self.metrics.add_refusal(refusal.name());
        Failure::Refused(refusal)
    }

    /// I5 and I6 on what the catalog answered, before anything is finalized.
    fn check(
        &self,
        before: &TableView,
        after: &Loaded<W>,
        pending: &PendingCommit,
    ) -> Result<(), Failure> {
        let after = self.view(after)?;
        finalized_is_shown(&after, &pending.commit_id)
            .and_then(|()| ledger_does_not_decrease(before.ledger.as_ref(), after.ledger.as_ref()))
            .map_err(|violation| violated(&self.metrics, &violation))
    }

    /// One synced write: pending removed, checkpoint complete. Files of a superseded commit are
    /// deleted only if the table just read proves that they are not in it (I8).
    pub async fn finalize(
        &self,
        pending: &PendingCommit,
        settled: &Settled,
        table: &Loaded<W>,
        committing: Duration,
    ) -> Result<(), Failure> {
        let view = self.view(table)?;
        let (outcome, counted) = match settled {
            Settled::Committed { .. } | Settled::AlreadyCommitted => (
                Outcome::Committed { snapshot: snapshot_of(&view, &pending.commit_id) },
                CheckpointOutcome::Complete,
            ),
            Settled::Superseded { .. } => (Outcome::Superseded, CheckpointOutcome::Superseded),
        };
        let end = CheckpointEnd {
            ended_ms: now_ms(),
            seconds: StepSeconds {
                commit: Some(committing.as_secs_f64()),
                ..StepSeconds::default()
            },
            retained: self.retained,
        };
        self.state.finalize(pending.commit_id.clone(), outcome, end).await?;
        self.metrics.add_checkpoint(counted, SystemTime::now());
        match settled {
            Settled::Superseded { .. } => self.drop_files(pending, &view, table).await,
            Settled::Committed { .. } | Settled::AlreadyCommitted => {
                self.metrics.add_committed_records(pending.rows.written);
            }
        }
        Ok(())
    }

    async fn drop_files(&self, pending: &PendingCommit, view: &TableView, table: &Loaded<W>) {
        if !is_provably_absent(pending, view) {
            tracing::warn!(
                commit_id = %pending.commit_id,
                "files of a superseded commit are kept: the journal does not prove that they are not in the table"
            );
            return;
        }
        let paths: Vec<String> = pending.files.iter().map(|file| file.path.clone()).collect();
        if let Err(error) = self.table.delete_files(table, paths).await {
            tracing::warn!(error = %chain(&error), "files of a superseded commit stay behind as orphans");
        }
    }

    /// Group offsets are for lag tools: a failure is counted and told, and decides nothing.
    async fn report(&self, pending: &PendingCommit, table: &Loaded<W>) -> Result<(), Failure> {
        let frontier = pending.to();
        let ledger = self.view(table)?.ledger.map(|ledger| ledger.frontier).unwrap_or_default();
        group_is_behind_ledger(&frontier, &ledger)
            .map_err(|violation| violated(&self.metrics, &violation))?;
        if let Err(error) = self.source.report(frontier).await {
            self.metrics.add_retry(Server::Kafka);
            tracing::warn!(error = %chain(&error), "group offsets not reported; lag tools lag until the next checkpoint");
        }
        Ok(())
    }
}

enum Attempt<T> {
    Settled(Settled, Box<T>),
    Conflict(String),
    Unknown(String),
}

/// A pipeline has one table today; a checkpoint that says otherwise is not ours.
fn single(mut pending: Vec<PendingCommit>) -> Result<PendingCommit, Failure> {
    match (pending.pop(), pending.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => {
            Err(Failure::Internal(String::from("a checkpoint without exactly one pending commit")))
        }
    }
}
