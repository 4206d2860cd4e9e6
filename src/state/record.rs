//! The records of the store. Their JSON is the format on disk: a change of a field, here or in a
//! type of the protocol that they hold, needs a new format version and a way up from the old one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::{Checkpoint, CommitId, Epoch, Frontier, Offset, Settled, TopicPartition};

/// A retained checkpoint, for people to read. Its id is its instance and epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// The process that sealed it.
    pub instance: String,
    /// When its seal started, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// When it was finalized, milliseconds since the Unix epoch; `None` while it is pending.
    pub ended_ms: Option<i64>,
    /// How long each step took.
    pub seconds: StepSeconds,
    /// Bytes of its files.
    pub bytes: u64,
    /// Records that it covers, with those that became no row.
    pub records: u64,
    /// Number of its files.
    pub files: u64,
    /// What it held for each table that moved.
    pub commits: Vec<CommitRecord>,
}

/// What a retained checkpoint held for one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The table as `namespace.table`; empty in a record that an older version of this program
    /// made, which had one table.
    pub table: String,
    /// Names the commit; empty in a record of an older version.
    pub commit_id: CommitId,
    /// What the table's ledger was known to be with it.
    pub frontier: Frontier,
    /// What became of it.
    pub outcome: Outcome,
}

/// How long the steps of a checkpoint took, in seconds; `None` where a process did not live to
/// tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepSeconds {
    /// Barrier to closed files.
    pub seal: Option<f64>,
    /// The synced write before the commit.
    pub prepare: Option<f64>,
    /// From the first reading of the table to the answer that settled it.
    pub commit: Option<f64>,
    /// The synced write after the commit.
    pub finalize: Option<f64>,
    /// Group offsets to Kafka.
    pub report: Option<f64>,
}

impl StepSeconds {
    /// Takes from `other` each step that it knows. What is not a number is not known.
    pub(super) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.seal, other.seal),
            (&mut self.prepare, other.prepare),
            (&mut self.commit, other.commit),
            (&mut self.finalize, other.finalize),
            (&mut self.report, other.report),
        ];
        for (mine, theirs) in pairs {
            *mine = theirs.filter(|seconds| seconds.is_finite()).or(*mine);
        }
    }
}

/// What became of a commit of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Prepared and not finalized.
    Pending,
    /// Its records are in the table.
    Committed {
        /// The snapshot that brought them in; `None` if it had been expired before it was seen.
        snapshot: Option<i64>,
    },
    /// Another instance committed its records; its own commit was dropped.
    Superseded,
    /// Its commit was given up.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// As it is kept.
    pub fn of(settled: &Settled) -> Self {
        match settled {
            Settled::Committed(shown) | Settled::AlreadyCommitted(shown) => {
                Self::Committed { snapshot: shown.snapshot_id() }
            }
            Settled::Superseded(_) => Self::Superseded,
        }
    }
}

/// What is known of a checkpoint when it is prepared, beside the checkpoint itself.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointStart {
    /// The process that sealed it.
    pub instance: String,
    /// When its seal started, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// How long the seal took.
    pub seal_seconds: f64,
    /// Under which leaders the last of its records were written.
    pub leaders: Leaders,
}

/// Leader epochs of the records before offsets, as they were read for tables as they were then: they tell a
/// log that was cut off since, and has grown again (KIP-320).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaders {
    /// The tables, separated by commas.
    pub tables: String,
    /// Generations of their ledgers, added up: an edit by a person may have gone back to where a log was cut.
    pub generation: u64,
    /// By topic and partition: the next offset to read, and the leader epoch of the record before it.
    pub before: BTreeMap<String, BTreeMap<i32, (Offset, i32)>>,
}

impl Leaders {
    /// Knows the epoch of the record before `next` from now on, and that of no other of the partition.
    pub fn insert(&mut self, tp: &TopicPartition, next: Offset, epoch: i32) {
        self.before.entry(tp.topic.clone()).or_default().insert(tp.partition, (next, epoch));
    }

    /// The epoch of the record before `next`, where it is known.
    pub fn epoch(&self, tp: &TopicPartition, next: Offset) -> Option<i32> {
        let (at, epoch) = self.before.get(&tp.topic)?.get(&tp.partition)?;
        (*at == next).then_some(*epoch)
    }

    /// What is known of partitions that `newer` says nothing of stays known, if it is for the same tables.
    pub(super) fn extend(&mut self, newer: &Self) {
        if (&self.tables, self.generation) != (&newer.tables, newer.generation) {
            *self = newer.clone();
            return;
        }
        for (topic, partitions) in &newer.before {
            self.before.entry(topic.clone()).or_default().extend(partitions);
        }
    }
}

/// What is known of a checkpoint when it is finalized.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointEnd {
    /// When it ended, milliseconds since the Unix epoch.
    pub ended_ms: i64,
    /// How long the steps took that are done.
    pub seconds: StepSeconds,
    /// How many checkpoints to keep, this one with them. At least this one is kept.
    pub retained: usize,
}

/// The store itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub pipeline: String,
}

/// The process as a member of its consumer group.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Member {
    pub id: String,
}

/// The prepared checkpoint, with the number of its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    pub number: u64,
    pub checkpoint: Checkpoint,
}

impl CheckpointRecord {
    /// What became of it as a whole: what is worst among its commits.
    pub fn outcome(&self) -> Outcome {
        let weight = |outcome: &Outcome| match outcome {
            Outcome::Committed { .. } => 0,
            Outcome::Superseded => 1,
            Outcome::Failed { .. } => 2,
            Outcome::Pending => 3,
        };
        let worst = self.commits.iter().map(|commit| &commit.outcome).max_by_key(|o| weight(o));
        worst.cloned().unwrap_or(Outcome::Committed { snapshot: None })
    }

    /// Says what became of a commit. A record that format 1 left has one, without a name.
    pub(super) fn settle(&mut self, commit_id: &CommitId, outcome: Outcome) {
        let named = self.commits.iter().position(|commit| commit.commit_id == *commit_id);
        let unnamed = || self.commits.iter().position(|commit| commit.commit_id.0.is_empty());
        if let Some(commit) = named.or_else(unnamed).and_then(|at| self.commits.get_mut(at)) {
            commit.outcome = outcome;
        }
    }

    /// The record of a checkpoint that is being prepared.
    pub(super) fn prepared(checkpoint: &Checkpoint, start: &CheckpointStart) -> Self {
        let files = || checkpoint.pending.iter().flat_map(|pending| &pending.files);
        let mut seconds = StepSeconds::default();
        seconds.add(&StepSeconds { seal: Some(start.seal_seconds), ..seconds });
        Self {
            epoch: checkpoint.epoch,
            instance: start.instance.clone(),
            started_ms: start.started_ms,
            ended_ms: None,
            seconds,
            bytes: files().map(|file| file.bytes).fold(0, u64::saturating_add),
            records: checkpoint
                .pending
                .iter()
                .map(|pending| pending.rows.records())
                .fold(0, u64::saturating_add),
            files: files().fold(0, |count, _| count + 1),
            commits: checkpoint
                .pending
                .iter()
                .map(|pending| CommitRecord {
                    table: pending.table.clone(),
                    commit_id: pending.commit_id.clone(),
                    frontier: checkpoint.frontiers.get(&pending.table).cloned().unwrap_or_default(),
                    outcome: Outcome::Pending,
                })
                .collect(),
        }
    }
}
