//! Carries a sealed epoch of a flow into its tables: prepare, commit, finalize, report.
//!
//! One synced write prepares the commits of all tables. From there on each table goes its own way
//! ([`TableCommitter`]): side by side, in any order, and one that fails keeps its commit pending while
//! the others are finalized. Killed at any line, the next start finishes the same work with the same
//! code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;

use super::end::{refused, violated};
use super::reading::{Reading, Readings};
use super::seams::{Checkpoints, Source, now};
use super::table_committer::TableCommitter;
use super::world::{Loaded, World};
use crate::broken::{self, Variant};
use crate::crash;
use crate::failure::{Failure, chain};
use crate::protocol::{
    Checkpoint, Frontier, Offset, PendingCommit, Prepared, Refusal, Settled, TopicPartition,
    generation, group_is_behind_ledger,
};
use crate::source::Reporter;
use crate::state::{CheckpointStart, Leaders, StateError, StepSeconds};
use crate::telemetry::{CheckpointOutcome, Metrics, Server, Step};

/// Commits to the tables of a flow.
pub(crate) struct Committer<W: World> {
    /// Its tables, by `namespace.table`.
    pub tables: BTreeMap<String, TableCommitter<W>>,
    /// Names this process.
    pub instance: String,
    /// Local state of the flow.
    pub state: W::Checkpoints,
    /// The topics, of which ids are asked and to whose group offsets are reported.
    pub source: W::Source,
    /// Counters.
    pub metrics: Metrics,
}

/// A sealed epoch on its way into the tables.
pub(crate) struct Work<T> {
    /// What is prepared.
    pub checkpoint: Checkpoint,
    /// Wall-clock milliseconds at which the barrier went out.
    pub started_ms: i64,
    /// How long the shards took to seal.
    pub seal: Duration,
    /// The tables for which its files were written, by `namespace.table`.
    pub tables: BTreeMap<String, Arc<T>>,
    /// The ledgers of those tables of the flow for which nothing moved.
    pub unmoved: Vec<Frontier>,
    /// Who tells the group of it.
    pub reporter: Reporter,
}

impl<T> Work<T> {
    /// How far all tables are once it is in them: of each partition that moved for one of them the lowest
    /// offset of all. A table for which it did not move may be ahead, or behind where the partition stopped
    /// before a record that is bad for it; one that has not begun it leaves the partition out.
    fn lowest(&self) -> Frontier {
        let ledgers = || self.checkpoint.frontiers.values().chain(&self.unmoved);
        let moved = self.checkpoint.pending.iter().flat_map(|pending| pending.ranges.keys());
        let all = moved.filter_map(|tp| {
            let each: Option<Vec<Offset>> = ledgers().map(|ledger| ledger.get(tp)).collect();
            Some((tp.clone(), each?.into_iter().min()?))
        });
        all.collect()
    }
}

/// A commit that came to its end.
pub(crate) struct Done<T> {
    /// How.
    pub settled: Settled,
    /// The table after it.
    pub reading: Reading<T>,
    /// What was committed.
    pub pending: Prepared,
}

/// How long the steps of one commit took.
#[derive(Clone, Copy, Default)]
struct Took {
    commit: Duration,
    finalize: Duration,
}

impl<W: World> Committer<W> {
    /// Prepares, commits and finalizes an epoch and reports its offsets to the group.
    ///
    /// # Errors
    /// If it did not come to its end for all tables; those for which it did are finalized.
    pub(crate) async fn carry(
        &self,
        work: Work<Loaded<W>>,
    ) -> Result<Vec<Done<Loaded<W>>>, Failure> {
        let epoch = work.checkpoint.epoch;
        self.metrics.observe_step(Step::Seal, work.seal);

        if let Err(failure) = self.check_topics(&work).await {
            let failure = match self.drop_unprepared(&work).await {
                Ok(()) => failure,
                Err(deleting) => worse(Some(failure), deleting),
            };
            return Err(failure.of_checkpoint(epoch));
        }
        let began = now();
        crash::point("prepare.before");
        let epochs = self.source.leader_epochs(&work.lowest());
        let prepared = self.prepare(&work, &epochs).await?;
        crash::point("prepare.after");
        let preparing = now() - began;
        self.metrics.observe_step(Step::Prepare, preparing);

        let (done, took) = self.bring_all(prepared).await?;
        self.metrics.observe_step(Step::Commit, took.commit);
        self.metrics.observe_step(Step::Finalize, took.finalize);
        self.count_checkpoint(&done);

        let began = now();
        crash::point("report.before");
        self.report(&done, &work, epochs).await?;
        crash::point("report.after");
        let reporting = now() - began;
        self.metrics.observe_step(Step::Report, reporting);
        let seconds = StepSeconds {
            prepare: Some(preparing.as_secs_f64()),
            finalize: Some(took.finalize.as_secs_f64()),
            report: Some(reporting.as_secs_f64()),
            ..StepSeconds::default()
        };
        self.state.add_seconds(seconds).await?;
        for Done { settled, pending, .. } in &done {
            tracing::info!(
                %epoch, commit_id = %pending.commit_id, outcome = settled.name(),
                files = pending.files.len(), rows = pending.rows.written,
                skipped = pending.rows.skipped, tombstones = pending.rows.tombstones,
                seal_seconds = work.seal.as_secs_f64(), commit_seconds = took.commit.as_secs_f64(),
                "checkpoint complete"
            );
        }
        Ok(done)
    }

    /// Brings prepared commits to their ends, side by side. None waits for another, and one that
    /// fails leaves the others to come to theirs.
    async fn bring_all(
        &self,
        pending: Vec<Prepared>,
    ) -> Result<(Vec<Done<Loaded<W>>>, Took), Failure> {
        let ended = join_all(pending.into_iter().map(|pending| self.bring(pending))).await;
        let (mut all, mut longest, mut failed) = (Vec::new(), Took::default(), None);
        for end in ended {
            match end {
                Ok((done, took)) => {
                    longest.commit = longest.commit.max(took.commit);
                    longest.finalize = longest.finalize.max(took.finalize);
                    all.push(done);
                }
                Err(failure) => failed = Some(worse(failed, failure)),
            }
        }
        match failed {
            Some(failure) => Err(failure),
            None => Ok((all, longest)),
        }
    }

    /// Commits and finalizes what is prepared for one table.
    async fn bring(&self, pending: Prepared) -> Result<(Done<Loaded<W>>, Took), Failure> {
        let table = self.table(&pending)?;
        #[cfg(feature = "faults")]
        if broken::is(Variant::FinalizeBeforeCommit) {
            let reading = table.load().await?;
            let shown = crate::protocol::Shown::forged(pending.commit_id.clone(), None);
            let settled = Settled::AlreadyCommitted(shown);
            table.finalize(&pending, &settled, &reading, Duration::ZERO).await?;
        }
        for file in &pending.files {
            self.metrics.add_file(file.records, file.bytes);
        }
        let began = now();
        let (settled, reading) = table.settle(&pending).await?;
        let commit = now() - began;

        let began = now();
        crash::point("finalize.before");
        if !broken::is(Variant::FinalizeBeforeCommit) {
            table.finalize(&pending, &settled, &reading, commit).await?;
        }
        crash::point("finalize.after");
        let took = Took { commit, finalize: now() - began };
        Ok((Done { settled, reading, pending }, took))
    }

    /// The table that a commit is for, if the flow has it. One that was given another name since is known
    /// by its uuid where there is only one.
    pub(crate) fn table_of(&self, pending: &PendingCommit) -> Option<&TableCommitter<W>> {
        let only = || match self.tables.len() {
            1 => self.tables.values().next(),
            _ => None,
        };
        self.tables.get(&pending.table).or_else(only)
    }

    /// [`Self::table_of`] it.
    ///
    /// # Errors
    /// [`Refusal::TableMissing`] if the flow has no such table.
    pub(crate) fn table(&self, pending: &PendingCommit) -> Result<&TableCommitter<W>, Failure> {
        self.table_of(pending)
            .ok_or_else(|| self.refuse(Refusal::TableMissing { table: pending.table.clone() }))
    }

    /// Counts a checkpoint whose commits all came to their ends.
    pub(crate) fn count_checkpoint(&self, done: &[Done<Loaded<W>>]) {
        let superseded = done.iter().any(|done| done.settled.is_superseded());
        let outcome = match superseded {
            true => CheckpointOutcome::Superseded,
            false => CheckpointOutcome::Complete,
        };
        self.metrics.add_checkpoint(outcome, SystemTime::now());
    }

    /// A reading of every table, tried again until catalogs that are away are back or time is up.
    ///
    /// # Errors
    /// If one cannot be read.
    pub(crate) async fn readings(&self) -> Result<Readings<Loaded<W>>, Failure> {
        let readings = self
            .tables
            .iter()
            .map(|(name, table)| async move { Ok((name.clone(), table.load_patiently().await?)) });
        join_all(readings).await.into_iter().collect()
    }

    /// Deletes the files of an epoch that never became a checkpoint.
    async fn drop_unprepared(&self, work: &Work<Loaded<W>>) -> Result<(), Failure> {
        let mut failed = None;
        for pending in &work.checkpoint.pending {
            let table = self.tables.get(&pending.table).zip(work.tables.get(&pending.table));
            if let Some((table, loaded)) = table
                && let Err(failure) = table.delete_unprepared(loaded, &pending.files).await
            {
                failed = Some(worse(failed, failure));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The client reads on at its offsets in a topic that was made again meanwhile. Ids are never
    /// used twice: with the same one after the last record as before the first, all records are of
    /// that topic.
    async fn check_topics(&self, work: &Work<Loaded<W>>) -> Result<(), Failure> {
        let mut known = BTreeMap::new();
        for pending in &work.checkpoint.pending {
            known.extend(pending.topic_ids.iter().map(|(topic, id)| (topic, (id, &pending.table))));
        }
        if known.is_empty() || broken::is(Variant::LeaveOutTopicId) {
            return Ok(());
        }
        let told = self.source.topic_ids().await;
        for (topic, (known, table)) in known {
            match told.get(topic) {
                Some(found) if found == known => {}
                Some(found) => {
                    return Err(self.refuse(Refusal::TopicRecreated {
                        table: table.clone(),
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

    /// `epochs` are those of the leaders of what was read last.
    pub(super) async fn prepare(
        &self,
        work: &Work<Loaded<W>>,
        epochs: &BTreeMap<TopicPartition, i32>,
    ) -> Result<Vec<Prepared>, Failure> {
        let Reporter { tables, generation } = work.reporter.clone();
        let mut leaders = Leaders { tables, generation, ..Leaders::default() };
        for (tp, next) in work.lowest().iter() {
            if let Some(epoch) = epochs.get(tp) {
                leaders.insert(tp, next, *epoch);
            }
        }
        let start = CheckpointStart {
            instance: self.instance.clone(),
            started_ms: work.started_ms,
            seal_seconds: work.seal.as_secs_f64(),
            leaders,
        };
        let files = work.checkpoint.pending.iter().flat_map(|pending| &pending.files);
        let bytes: u64 = files.map(|file| file.bytes).sum();
        let prepared = self.state.prepare(work.checkpoint.clone(), start).await;
        let prepared = prepared.map_err(|failure| match failure {
            Failure::State(StateError::StillOpen(violation)) => violated(&self.metrics, &violation),
            other => other,
        })?;
        self.metrics.set_checkpoint_size(bytes);
        Ok(prepared)
    }

    /// Tells the group how far all tables are in the partitions that moved. Group offsets are for lag
    /// tools: a failure is counted and told, and decides nothing.
    pub(super) async fn report(
        &self,
        done: &[Done<Loaded<W>>],
        work: &Work<Loaded<W>>,
        epochs: BTreeMap<TopicPartition, i32>,
    ) -> Result<(), Failure> {
        if done.iter().any(|done| done.settled.is_superseded()) {
            return Ok(());
        }
        // A person edited a ledger after the commit landed and before its answer was known: how far it
        // came is not what the table says now, and the next commit is fenced.
        let is_edited = |done: &Done<Loaded<W>>| {
            generation(done.reading.view().ledger.as_ref()) > done.pending.generation
        };
        if done.iter().any(is_edited) {
            return Ok(());
        }
        let frontier = work.lowest();
        let none = Frontier::default();
        for Done { reading, pending, .. } in done {
            let ledger = reading.view().ledger.as_ref().map_or(&none, |ledger| &ledger.frontier);
            let moved = pending.ranges.keys();
            let reported = moved.filter_map(|tp| Some((tp.clone(), frontier.get(tp)?))).collect();
            group_is_behind_ledger(&reported, ledger)
                .map_err(|violation| violated(&self.metrics, &violation))?;
        }
        if let Err(error) = self.source.report(frontier, work.reporter.clone(), epochs).await {
            self.metrics.add_retry(Server::Kafka);
            tracing::warn!(error = %chain(&error), "group offsets not reported; lag tools lag until the next checkpoint");
        }
        Ok(())
    }

    /// Counts a refusal and makes it the end of the flow.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Failure {
        refused(&self.metrics, refusal)
    }
}

/// Of two failures the one that a person must look at; of such, the first. The other is logged.
pub(super) fn worse(first: Option<Failure>, next: Failure) -> Failure {
    match first {
        Some(first) if !first.is_transient() || next.is_transient() => {
            tracing::warn!(error = %chain(&next), "something else failed, too");
            first
        }
        Some(first) => {
            tracing::warn!(error = %chain(&first), "something else failed, too");
            next
        }
        None => next,
    }
}
