//! Carries a sealed epoch into the table: prepare, commit, finalize, report.
//!
//! It holds no decision of its own: [`admit`] decides, and nothing is retried without reading the
//! ledger again. Killed at any line, the next start finishes the same work with the same code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{join_error, now_ms};
use crate::crash;
use crate::failure::{Failure, chain};
use crate::protocol::{
    Admission, Checkpoint, Frontier, PendingCommit, Refusal, TableView, admit, invariants,
};
use crate::retry::Backoff;
use crate::source::Source;
use crate::state::{CheckpointRecord, Outcome, StateStore, StepSeconds};
use crate::table::{self, Catalog, CommitOutcome, LoadedTable, TableName};
use crate::telemetry::{Health, Metrics};

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

/// Commits to one table.
pub struct Committer {
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// The table.
    pub table: TableName,
    /// The pipeline whose ledger is moved.
    pub pipeline: String,
    /// Local state.
    pub state: Arc<StateStore>,
    /// How long a catalog that does not answer is tried.
    pub give_up: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// Readiness.
    pub health: Health,
}

/// A sealed epoch on its way into the table.
pub struct Work {
    /// What is prepared.
    pub checkpoint: Checkpoint,
    /// Wall-clock milliseconds at which the barrier went out.
    pub started_ms: u64,
    /// Seconds that the shards took to seal.
    pub seal_seconds: f64,
    /// Payload bytes read in the epoch.
    pub bytes: u64,
}

/// A finished epoch.
pub struct Done {
    /// How its pending commit ended.
    pub settled: Settled,
    /// The table after it.
    pub table: LoadedTable,
    /// What was committed.
    pub pending: PendingCommit,
}

impl Committer {
    /// Prepares, commits and finalizes an epoch and reports its offsets to the group.
    pub async fn carry(&self, work: Work, source: Arc<Source>) -> Result<Done, Failure> {
        let epoch = work.checkpoint.epoch;
        let mut steps = StepSeconds { seal: work.seal_seconds, ..StepSeconds::default() };

        let began = Instant::now();
        crash::point("prepare.before");
        let state = self.state.clone();
        let checkpoint = work.checkpoint.clone();
        tokio::task::spawn_blocking(move || state.prepare(&checkpoint))
            .await
            .map_err(join_error)??;
        crash::point("prepare.after");
        steps.prepare = began.elapsed().as_secs_f64();

        let pending = single(work.checkpoint.pending)?;
        let began = Instant::now();
        let (settled, table) = self.settle(&pending).await?;
        steps.commit = began.elapsed().as_secs_f64();

        let began = Instant::now();
        crash::point("finalize.before");
        self.finalize(&pending, &settled, &table, steps.clone(), work.started_ms, work.bytes)
            .await?;
        crash::point("finalize.after");
        steps.finalize = began.elapsed().as_secs_f64();

        let began = Instant::now();
        crash::point("report.before");
        if !matches!(settled, Settled::Superseded { .. }) {
            self.report(&pending, source).await?;
        }
        crash::point("report.after");
        steps.report = began.elapsed().as_secs_f64();
        self.metrics.checkpoint_steps(&steps);
        tracing::info!(
            %epoch, commit_id = %pending.commit_id, outcome = ?settled, files = pending.files.len(),
            rows = pending.rows.written, seal_seconds = steps.seal, prepare_seconds = steps.prepare,
            commit_seconds = steps.commit, finalize_seconds = steps.finalize, "checkpoint complete"
        );
        Ok(Done { settled, table, pending })
    }

    /// Load, read the ledger, admit, commit; until the fate of `pending` is known.
    /// I4: the caller has synced the checkpoint. Conflict and unknown both come back to the load.
    pub async fn settle(
        &self,
        pending: &PendingCommit,
    ) -> Result<(Settled, LoadedTable), Failure> {
        let mut backoff = Backoff::new(Instant::now(), self.give_up);
        loop {
            let tried = match self.attempt(pending).await {
                Ok(Attempt::Settled(settled, table)) => {
                    self.health.set_ready("catalog");
                    return Ok((settled, *table));
                }
                Ok(Attempt::Again(reason)) => Failure::Unfit {
                    table: self.table.to_string(),
                    detail: reason,
                },
                Err(failure) if failure.is_transient() => {
                    self.health.set_not_ready("catalog", &chain(&failure));
                    self.metrics.retry(failure.part());
                    failure
                }
                Err(failure) => return Err(failure),
            };
            let now = Instant::now();
            let Some(wait) = backoff.next_wait(now) else {
                return Err(Failure::GaveUp { after: backoff.spent(now), last: Box::new(tried) });
            };
            tracing::warn!(
                commit_id = %pending.commit_id, reason = %chain(&tried), wait_ms = wait.as_millis() as u64,
                "commit not settled, reading the ledger again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, pending: &PendingCommit) -> Result<Attempt, Failure> {
        let (loaded, view) = self.load().await?;
        match admit(pending, &view) {
            Admission::Commit { .. } => {}
            Admission::AlreadyCommitted => {
                self.metrics.commit_outcome("already_committed");
                return Ok(Attempt::Settled(Settled::AlreadyCommitted, Box::new(loaded)));
            }
            Admission::Superseded { ledger } => {
                self.metrics.fenced.inc();
                return Ok(Attempt::Settled(Settled::Superseded { ledger }, Box::new(loaded)));
            }
            Admission::Refused(refusal) => return Err(self.refuse(refusal)),
        }
        match table::append(&self.catalog, &loaded, pending).await {
            CommitOutcome::Committed { snapshot_id, table } => {
                self.metrics.commit_outcome("committed");
                self.check(&view, &table, pending)?;
                Ok(Attempt::Settled(Settled::Committed { snapshot_id }, table))
            }
            CommitOutcome::Conflict(reason) => {
                self.metrics.commit_outcome("conflict");
                Ok(Attempt::Again(format!("another commit came first: {reason}")))
            }
            CommitOutcome::Unknown(reason) => {
                self.metrics.commit_outcome("unknown");
                self.metrics.unknown_commits.inc();
                self.health.set_not_ready("catalog", &reason);
                Ok(Attempt::Again(format!("the outcome of the commit is not known: {reason}")))
            }
            CommitOutcome::Rejected(error) => {
                self.metrics.commit_outcome("rejected");
                Err(error.into())
            }
        }
    }

    /// The table and what its metadata says of our pipeline.
    pub async fn load(&self) -> Result<(LoadedTable, TableView), Failure> {
        let loaded = self.catalog.load(&self.table).await?.ok_or_else(|| {
            self.refuse(Refusal::TableReplaced {
                table: self.table.to_string(),
                expected: String::from("the table this pipeline wrote to"),
                found: String::from("no table of this name"),
            })
        })?;
        let view = table::view(&loaded, &self.pipeline)?;
        Ok((loaded, view))
    }

    fn refuse(&self, refusal: Refusal) -> Failure {
        self.metrics.refusal(refusal.name());
        Failure::Refused(refusal)
    }

    /// I5 and I6 on what the catalog answered, before anything is finalized.
    fn check(
        &self,
        before: &TableView,
        after: &LoadedTable,
        pending: &PendingCommit,
    ) -> Result<(), Failure> {
        let after = table::view(after, &self.pipeline)?;
        let checks = [
            invariants::finalize_needs_commit(pending, &after),
            invariants::ledger_never_decreases(before, &after),
        ];
        for violation in checks.into_iter().filter_map(Result::err) {
            self.metrics.violation(&violation);
            return Err(Failure::Internal(violation.to_string()));
        }
        Ok(())
    }

    /// One synced write: pending removed, checkpoint complete. Files of a superseded commit are
    /// deleted: the ledger just read proves that they are not in the table (I8).
    pub async fn finalize(
        &self,
        pending: &PendingCommit,
        settled: &Settled,
        table: &LoadedTable,
        steps: StepSeconds,
        started_ms: u64,
        bytes: u64,
    ) -> Result<(), Failure> {
        let outcome = match settled {
            Settled::Committed { snapshot_id } => Outcome::Committed { snapshot_id: *snapshot_id },
            Settled::AlreadyCommitted => Outcome::AlreadyCommitted,
            Settled::Superseded { .. } => Outcome::Superseded,
        };
        let record = CheckpointRecord {
            epoch: pending.epoch,
            instance: pending.instance.clone(),
            commit_id: Some(pending.commit_id.clone()),
            started_ms,
            ended_ms: now_ms(),
            steps,
            bytes,
            file_bytes: pending.files.iter().map(|f| f.bytes).sum(),
            rows: pending.rows,
            files: pending.files.len() as u64,
            frontier: pending.to(),
            outcome,
        };
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || state.finalize(&record)).await.map_err(join_error)??;
        self.metrics.checkpoint_done(settled_label(settled), now_ms());
        if matches!(settled, Settled::Superseded { .. }) {
            let paths: Vec<String> = pending.files.iter().map(|f| f.path.clone()).collect();
            if let Err(error) = table::delete_files(&table.io, &paths).await {
                tracing::warn!(error = %chain(&error), "files of a superseded commit remain as orphans");
            }
        }
        Ok(())
    }

    /// Group offsets are for lag tools: a failure is counted and told, and decides nothing.
    async fn report(&self, pending: &PendingCommit, source: Arc<Source>) -> Result<(), Failure> {
        let frontier = pending.to();
        let reported = tokio::task::spawn_blocking(move || source.report(&frontier))
            .await
            .map_err(join_error)?;
        if let Err(error) = reported {
            self.metrics.retry("kafka");
            tracing::warn!(error = %chain(&error), "group offsets not reported; lag tools lag until the next checkpoint");
        }
        Ok(())
    }
}

enum Attempt {
    Settled(Settled, Box<LoadedTable>),
    Again(String),
}

fn settled_label(settled: &Settled) -> &'static str {
    match settled {
        Settled::Committed { .. } | Settled::AlreadyCommitted => "completed",
        Settled::Superseded { .. } => "superseded",
    }
}

/// A pipeline has one table today; a checkpoint that says otherwise is not ours.
fn single(mut pending: Vec<PendingCommit>) -> Result<PendingCommit, Failure> {
    match (pending.pop(), pending.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(Failure::Internal(String::from("a checkpoint without exactly one pending commit"))),
    }
}
