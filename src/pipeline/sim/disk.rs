//! The checkpoint directories, and what a process does in its own.

use std::collections::BTreeMap;

use super::port::Port;
use crate::failure::Failure;
use crate::pipeline::seams::Checkpoints;
use crate::protocol::{
    Checkpoint, LastCheckpoint, LocalState, Prepared, Settled, one_epoch_is_open,
};
use crate::state::{CheckpointEnd, CheckpointStart, Leaders, Outcome, StateError, StepSeconds};

/// What is on disk in a checkpoint directory.
#[derive(Clone, Default)]
pub(super) struct Directory {
    pub open: Option<Checkpoint>,
    /// By table.
    pub last: BTreeMap<String, LastCheckpoint>,
    pub leaders: Leaders,
    /// The name as a member of the group; 0 while there is none.
    pub member: u64,
}

/// The directory of an instance, with copies that somebody made of it.
#[derive(Default)]
pub(super) struct Drive {
    pub now: Directory,
    pub copies: Vec<Directory>,
    /// Writes under way: they end, whoever waits for them.
    pub writing: usize,
}

/// Copies kept of a directory.
const COPIES: usize = 6;

impl Drive {
    /// Somebody makes a copy.
    pub(crate) fn copy(&mut self) {
        if self.copies.len() == COPIES {
            self.copies.remove(0);
        }
        self.copies.push(self.now.clone());
    }
}

fn prepared(checkpoint: &Checkpoint) -> Vec<Prepared> {
    checkpoint.pending.iter().cloned().map(Prepared::on_disk).collect()
}

impl Checkpoints for Port {
    async fn load(&self) -> Result<LocalState, Failure> {
        let slot = self.life.slot();
        self.call("load state", move |state| {
            let now = &state.drives[slot].now;
            let half = now.open.as_ref().is_some_and(|o| o.pending.len() < o.frontiers.len());
            state.met.half_starts += usize::from(half);
            let now = &state.drives[slot].now;
            let pending = now.open.iter().flat_map(prepared).collect();
            Ok(LocalState { pending, last: now.last.clone(), given_up: false })
        })
        .await
    }

    async fn leaders(&self) -> Result<Leaders, Failure> {
        let slot = self.life.slot();
        self.call("load leaders", move |state| Ok(state.drives[slot].now.leaders.clone())).await
    }

    async fn prepare(
        &self,
        checkpoint: Checkpoint,
        start: CheckpointStart,
    ) -> Result<Vec<Prepared>, Failure> {
        let life = self.life.clone();
        self.write("prepare", move |state| {
            let next = checkpoint.epoch;
            let open = state.drives[life.slot()].now.open.as_ref().map(|open| open.epoch);
            if let Err(violation) = one_epoch_is_open(open, next) {
                state.find(violation.to_string());
                return Err(Failure::State(violation.into()));
            }
            state.note(format_args!("{} prepares epoch {next}", life.name()));
            let drive = &mut state.drives[life.slot()];
            let prepared = prepared(&checkpoint);
            drive.now.open = Some(checkpoint);
            drive.now.leaders = start.leaders;
            drive.copy();
            Ok(prepared)
        })
        .await
    }

    async fn finalize(&self, settled: Settled, _end: CheckpointEnd) -> Result<(), Failure> {
        let (commit, outcome) = (settled.commit_id().clone(), Outcome::of(&settled));
        let life = self.life.clone();
        self.write("finalize", move |state| {
            let slot = life.slot();
            let mut open = state.drives[slot].now.open.take();
            let done = open.as_mut().and_then(|open| {
                let at = open.pending.iter().position(|pending| pending.commit_id == commit)?;
                Some((open.epoch, open.frontiers.clone(), open.pending.remove(at)))
            });
            let Some((epoch, frontiers, pending)) = done else {
                let text = format!("{} finalizes {commit}, which is not open", life.name());
                state.find(text);
                return Err(Failure::State(StateError::NotOpen { commit, open: None }));
            };
            state.drives[slot].now.open = open.filter(|open| !open.pending.is_empty());
            state.met.halves += usize::from(state.drives[slot].now.open.is_some());
            state.note(format_args!(
                "{} finalizes epoch {epoch} in {}: {outcome:?}",
                life.name(),
                pending.table
            ));
            if matches!(outcome, Outcome::Committed { .. }) {
                if !state.has_landed(&commit) {
                    state.find(format!("I5: {commit} is finalized and did not land"));
                }
                let frontier = frontiers.get(&pending.table).cloned().unwrap_or_default();
                let (generation, table_uuid) = (pending.generation, pending.table_uuid.clone());
                let last = LastCheckpoint { epoch, frontier, generation, table_uuid };
                state.drives[slot].now.last.insert(pending.table, last);
            }
            state.drives[slot].copy();
            Ok(())
        })
        .await
    }

    async fn add_seconds(&self, _seconds: StepSeconds) -> Result<(), Failure> {
        self.pass("add seconds").await;
        Ok(())
    }
}
