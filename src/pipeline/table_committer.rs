//! Carries pending commits into one table: settle, finalize.
//!
//! It holds no decision of its own: [`admit`] decides, and nothing is retried without reading the
//! ledger again.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::end::{refused, violated};
use super::memory::Memory;
use super::reading::Reading;
use super::seams::{Checkpoints, Table, now};
use super::world::{Loaded, World};
use crate::base::clock::now_ms;
use crate::broken::{self, Variant};
use crate::failure::{Failure, chain};
#[cfg(feature = "faults")]
use crate::protocol::Permit;
use crate::protocol::{
    Admission, Contiguity, PendingCommit, PendingFile, Prepared, Refusal, Settled, Shown,
    ShownCommit, TableView, Violation, admit, doomed_files_are_unused, is_provably_absent,
    ledger_does_not_decrease,
};
use crate::retry::Backoff;
use crate::state::{CheckpointEnd, StepSeconds};
use crate::table::CommitOutcome;
use crate::telemetry::{Admission as Decision, CommitOutcome as Answer, Health, Metrics, Server};

/// How long a store may take to delete files: one that hangs must not hold the end of a run.
const DELETING: Duration = Duration::from_secs(30);

/// Commits to one table of a flow.
pub(crate) struct TableCommitter<W: World> {
    /// The table, in its catalog.
    pub table: W::Table,
    /// The table as `namespace.table`.
    pub name: String,
    /// Local state of the flow.
    pub state: W::Checkpoints,
    /// Checkpoints to keep for people to read.
    pub retained: usize,
    /// How long a catalog that does not answer is tried.
    pub give_up: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// Readiness.
    pub health: Health,
    /// The table as our last commit left it.
    pub memory: Mutex<Memory<Reading<Loaded<W>>>>,
}

impl<W: World> TableCommitter<W> {
    /// Load, read the ledger, admit, commit; until the fate of `pending` is known. The first
    /// attempt is decided on what the catalog answered to our last commit, where that is kept.
    /// Conflict and unknown both come back to the load; a conflict soon, since the catalog is well
    /// and only another instance was faster.
    pub(crate) async fn settle(
        &self,
        pending: &Prepared,
    ) -> Result<(Settled, Reading<Loaded<W>>), Failure> {
        let mut outage = Backoff::new(now(), self.give_up);
        let mut conflict = Backoff::quick(now(), self.give_up);
        let mut sent = false;
        let mut remembered = self.memory().take();
        let mut first = true;
        loop {
            let by_memory = remembered.is_some();
            let attempt = match remembered.take() {
                Some(reading) => self.attempt_on(pending, reading).await,
                None => self.attempt(pending, sent, first).await,
            };
            first = false;
            sent |= matches!(attempt, Ok(Attempt::Conflict(_) | Attempt::Unknown(_)));
            let (reason, failure, backoff) = match attempt {
                Ok(Attempt::Settled(settled, reading)) => {
                    self.remember(&settled, &reading);
                    self.metrics.set_unknown_commit(&self.name, false);
                    self.answered();
                    return Ok((settled, *reading));
                }
                Ok(Attempt::Conflict(reason)) => {
                    if by_memory {
                        self.memory().set_shared();
                    }
                    (reason, None, &mut conflict)
                }
                Ok(Attempt::Unknown(reason)) => (reason, None, &mut outage),
                Ok(Attempt::NotSent(failure)) | Err(failure) if failure.is_transient() => {
                    (self.failed(&failure), Some(failure), &mut outage)
                }
                Ok(Attempt::NotSent(failure)) | Err(failure) => return Err(failure),
            };
            let Some(wait) = backoff.next_wait(now()) else {
                let last = failure.unwrap_or_else(|| Failure::Unsettled {
                    commit: pending.commit_id.clone(),
                    reason: reason.clone(),
                });
                return Err(Failure::GaveUp { after: backoff.spent(now()), last: Box::new(last) });
            };
            self.health.heartbeat();
            tracing::warn!(
                commit_id = %pending.commit_id, %reason, wait_seconds = wait.as_secs_f64(),
                "commit not settled, reading the ledger again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory<Reading<Loaded<W>>>> {
        self.memory.lock()
    }

    /// Keeps the table that a commit of ours is the head of, for the next one.
    fn remember(&self, settled: &Settled, reading: &Reading<Loaded<W>>) {
        let ours = matches!(settled, Settled::Committed(_));
        let head = if ours { reading.view().head } else { None };
        let kept = ours.then(|| reading.clone());
        self.memory().keep(kept, head);
    }

    async fn attempt(
        &self,
        pending: &Prepared,
        sent: bool,
        first: bool,
    ) -> Result<Attempt<Loaded<W>>, Failure> {
        let reading = self.load().await?;
        if first {
            self.memory().compare(reading.view().head);
        }
        self.decide(pending, reading, sent).await
    }

    /// A first attempt on what the last commit left. Only "commit" is ever decided on it, because
    /// the catalog then says whether it was still so. Anything else may be about a table that moved
    /// on since: a partition that another instance brought forward looks as if it had gone back, and
    /// files that were opened for a newer reading look as if their schema had gone.
    async fn attempt_on(
        &self,
        pending: &Prepared,
        known: Reading<Loaded<W>>,
    ) -> Result<Attempt<Loaded<W>>, Failure> {
        match admit(pending, known.view()) {
            Admission::Commit(_) => match self.decide(pending, known, false).await {
                Ok(Attempt::NotSent(failure)) if !failure.is_transient() => {
                    self.attempt(pending, false, true).await
                }
                decided => decided,
            },
            _ if broken::is(Variant::DecideOnMemory) => self.decide(pending, known, false).await,
            _ => self.attempt(pending, false, true).await,
        }
    }

    /// `sent`: a request for it went out before.
    async fn decide(
        &self,
        pending: &Prepared,
        reading: Reading<Loaded<W>>,
        sent: bool,
    ) -> Result<Attempt<Loaded<W>>, Failure> {
        let admission = admission(pending, reading.view(), sent);
        self.metrics.add_admission(match &admission {
            Admission::Commit(_) => Decision::Commit,
            Admission::AlreadyCommitted(_) => Decision::AlreadyCommitted,
            Admission::Superseded(_) => Decision::Superseded,
            Admission::Refused(_) => Decision::Refused,
        });
        let permit = match admission {
            Admission::Commit(permit) => permit,
            Admission::AlreadyCommitted(shown) => {
                return Ok(Attempt::settled(Settled::AlreadyCommitted(shown), reading));
            }
            Admission::Superseded(superseded) => {
                return Ok(Attempt::settled(Settled::Superseded(superseded), reading));
            }
            Admission::Refused(refusal) => return Err(self.refuse(refusal)),
        };
        let outcome = match self.table.append(&reading, permit).await {
            Ok(outcome) => outcome,
            Err(not_sent) => return Ok(Attempt::NotSent(not_sent.into())),
        };
        match outcome {
            CommitOutcome::Committed { table, .. } => {
                self.metrics.add_commit(Answer::Committed);
                let shown = self.check(reading.view(), table.view(), pending)?;
                Ok(Attempt::settled(Settled::Committed(shown), table))
            }
            CommitOutcome::Conflict(reason) => {
                self.metrics.add_commit(Answer::Conflict);
                Ok(Attempt::Conflict(format!("another commit came first: {reason}")))
            }
            CommitOutcome::Unknown(reason) => {
                self.metrics.add_commit(Answer::Unknown);
                self.metrics.set_unknown_commit(&self.name, true);
                self.catalog_is_away(&reason);
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
            CommitOutcome::TurnedAway(error) => {
                self.metrics.add_commit(Answer::TurnedAway);
                Err(error.into())
            }
        }
    }

    /// Shows a failure that may pass at the server that it is of, and says what it was. Who waits for it is
    /// alive.
    fn failed(&self, failure: &Failure) -> String {
        let (server, reason) = (failure.server().unwrap_or(Server::Catalog), chain(failure));
        self.metrics.add_retry(server);
        self.metrics.set_reachable(server, false);
        self.health.set_unreachable(server, reason.as_str());
        self.health.heartbeat();
        reason
    }

    /// The catalog answered, and the store let metadata be written and read.
    fn answered(&self) {
        for server in [Server::Catalog, Server::Store] {
            self.metrics.set_reachable(server, true);
            self.health.set_reachable(server);
        }
    }

    fn catalog_is_away(&self, reason: &str) {
        self.metrics.set_reachable(Server::Catalog, false);
        self.health.set_unreachable(Server::Catalog, reason);
    }

    /// The table and what its metadata says of our pipeline.
    pub(crate) async fn load(&self) -> Result<Reading<Loaded<W>>, Failure> {
        let missing = || self.refuse(Refusal::TableMissing { table: self.name.clone() });
        self.find().await?.ok_or_else(missing)
    }

    /// [`Self::load`]; `None` if there is no such table.
    pub(crate) async fn find(&self) -> Result<Option<Reading<Loaded<W>>>, Failure> {
        self.table.load().await.map_err(|failure| self.counted(failure))
    }

    /// [`Self::load`]; makes a table that is not there, if it is known how.
    pub(crate) async fn open(&self) -> Result<Reading<Loaded<W>>, Failure> {
        self.table.open().await.map_err(|failure| self.counted(failure))
    }

    /// [`Self::load`], tried again until a catalog that is away is back or time is up.
    pub(crate) async fn load_patiently(&self) -> Result<Reading<Loaded<W>>, Failure> {
        let mut backoff = Backoff::new(now(), self.give_up);
        let mut waited = false;
        loop {
            match self.load().await {
                Err(failure) if failure.is_transient() => {
                    let reason = self.failed(&failure);
                    let Some(wait) = backoff.next_wait(now()) else {
                        let after = backoff.spent(now());
                        return Err(Failure::GaveUp { after, last: Box::new(failure) });
                    };
                    tracing::warn!(%reason, wait_seconds = wait.as_secs_f64(), "table not read");
                    tokio::time::sleep(wait).await;
                    waited = true;
                }
                read => {
                    if waited && read.is_ok() {
                        self.answered();
                    }
                    return read;
                }
            }
        }
    }

    fn counted(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused(refusal) => self.refuse(refusal),
            other => other,
        }
    }

    /// Counts a refusal and makes it the end of the flow.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Failure {
        refused(&self.metrics, refusal)
    }

    /// I5 and I6 on what the catalog answered, before anything is finalized.
    pub(super) fn check(
        &self,
        before: &TableView,
        after: &TableView,
        pending: &PendingCommit,
    ) -> Result<Shown, Failure> {
        let (was, is) = (before.ledger.as_ref(), after.ledger.as_ref());
        Shown::by(after, &pending.commit_id)
            .and_then(|shown| ledger_does_not_decrease(was, is).map(|()| shown))
            .map_err(|violation| violated(&self.metrics, &violation))
    }

    /// One synced write: pending no more, and with the last table's the checkpoint is complete. Files of a superseded commit are
    /// deleted only if the table just read proves that they are not in it (I8).
    pub(crate) async fn finalize(
        &self,
        pending: &PendingCommit,
        settled: &Settled,
        reading: &Reading<Loaded<W>>,
        committing: Duration,
    ) -> Result<(), Failure> {
        let end = CheckpointEnd {
            ended_ms: now_ms(),
            seconds: StepSeconds {
                commit: Some(committing.as_secs_f64()),
                ..StepSeconds::default()
            },
            retained: self.retained,
        };
        self.state.finalize(settled.clone(), end).await?;
        match settled {
            Settled::Superseded(_) => self.drop_files(pending, reading).await?,
            Settled::Committed(_) | Settled::AlreadyCommitted(_) => {
                self.metrics.add_committed_records(pending.rows.written);
            }
        }
        Ok(())
    }

    async fn drop_files(
        &self,
        pending: &PendingCommit,
        reading: &Reading<Loaded<W>>,
    ) -> Result<(), Failure> {
        let ranges_of = |shown: &ShownCommit| {
            let entry = self.table.entry(reading.table(), shown.snapshot_id);
            entry.ok().flatten().map(|entry| entry.ranges)
        };
        if !is_provably_absent(pending, reading.view(), ranges_of) {
            tracing::warn!(
                commit_id = %pending.commit_id,
                "files of a superseded commit are kept: the journal does not prove that they are not in the table"
            );
            return Ok(());
        }
        match self.delete_unused(reading.table(), &pending.files).await {
            Ok(()) => {}
            Err(violation @ Failure::Internal(_)) => return Err(violation),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "files of a superseded commit stay behind as orphans");
            }
        }
        Ok(())
    }

    /// Deletes data files that no snapshot has, unless a pending commit in the checkpoint store names
    /// one of them (I8).
    ///
    /// # Errors
    /// If the store names one, or they cannot be deleted.
    pub(crate) async fn delete_unused(
        &self,
        loaded: &Loaded<W>,
        files: impl IntoIterator<Item = &PendingFile>,
    ) -> Result<(), Failure> {
        let doomed: Vec<String> = files.into_iter().map(|file| file.path.clone()).collect();
        if doomed.is_empty() {
            return Ok(());
        }
        let local = self.state.load().await?;
        let named = local.pending.iter().flat_map(|pending| &pending.files);
        let named = named.map(|file| file.path.as_str()).collect();
        doomed_files_are_unused(doomed.iter().map(String::as_str), &named)
            .map_err(|violation| violated(&self.metrics, &violation))?;
        self.table.delete_files(loaded, doomed).await
    }

    /// Deletes files of an epoch that never became a checkpoint. What cannot be deleted stays behind as
    /// orphans.
    ///
    /// # Errors
    /// If a checkpoint names one of them (I8).
    pub(super) async fn delete_unprepared(
        &self,
        loaded: &Loaded<W>,
        files: impl IntoIterator<Item = &PendingFile>,
    ) -> Result<(), Failure> {
        let deleting = self.delete_unused(loaded, files);
        let left = match tokio::time::timeout(DELETING, deleting).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(violation @ Failure::Internal(_))) => return Err(violation),
            Ok(Err(error)) => chain(&error),
            Err(_) => String::from("the store did not answer in time"),
        };
        tracing::warn!(error = %left, "files of an epoch that was not prepared stay behind as orphans");
        Ok(())
    }

    /// I1, as far as the metadata shows it. What is wrong is in the table already, and stopping would
    /// heal nothing: it is counted and told.
    pub(crate) fn check_journal(&self, reading: &Reading<Loaded<W>>) {
        let view = reading.view();
        let mut journal = Contiguity::default();
        for shown in view.commits.iter().filter(|shown| shown.in_ancestry) {
            // The reading was refused if it could not be understood.
            let Ok(Some(entry)) = self.table.entry(reading.table(), shown.snapshot_id) else {
                return;
            };
            let added = journal.add(&entry.commit_id, &entry.ranges, entry.edit.as_ref());
            if let Err(violation) = added {
                return self.journal_is_wrong(&violation);
            }
        }
        if let Err(violation) = journal.end(view.ledger.as_ref()) {
            self.journal_is_wrong(&violation);
        }
    }

    fn journal_is_wrong(&self, violation: &Violation) {
        self.metrics.add_violation(violation.id);
        tracing::error!(
            table = %self.name, %violation,
            "the journal of the table has a gap or a repetition: run `icestream verify`"
        );
    }
}

enum Attempt<T> {
    Settled(Settled, Box<Reading<T>>),
    Conflict(String),
    Unknown(String),
    /// Nothing was sent.
    NotSent(Failure),
}

impl<T> Attempt<T> {
    fn settled(settled: Settled, reading: Reading<T>) -> Self {
        Self::Settled(settled, Box::new(reading))
    }
}

/// [`admit`], but in a variant that is broken on purpose.
#[cfg(feature = "faults")]
fn admission<'a>(pending: &'a Prepared, view: &'a TableView, sent: bool) -> Admission<'a> {
    match sent && broken::is(Variant::RetryWithoutReading) {
        true => Admission::Commit(Permit::forged(pending, view)),
        false => admit(pending, view),
    }
}

#[cfg(not(feature = "faults"))]
fn admission<'a>(pending: &'a Prepared, view: &'a TableView, _sent: bool) -> Admission<'a> {
    admit(pending, view)
}
