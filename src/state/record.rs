//! The records of the store. Their JSON is the format on disk: a change of a field, here or in a
//! type of the protocol that they hold, needs a new format version and a way up from the old one.

use serde::{Deserialize, Serialize};

use crate::protocol::{Checkpoint, Epoch, Frontier, PendingCommit};

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
    /// Next offsets to read after it.
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

/// What became of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Prepared and not finalized.
    Pending,
    /// Its records are in the table.
    Committed {
        /// The snapshot that brought them in; `None` if the checkpoint moved nothing, or if that
        /// snapshot had been expired before it was seen.
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

/// What is known of a checkpoint when it is prepared, beside the checkpoint itself.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointStart {
    /// The process that sealed it.
    pub instance: String,
    /// When its seal started, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// How long the seal took.
    pub seal_seconds: f64,
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
            records: checkpoint.pending.iter().map(covered).fold(0, u64::saturating_add),
            files: files().fold(0, |count, _| count + 1),
            frontier: checkpoint.frontier.clone(),
            outcome: Outcome::Pending,
        }
    }
}

fn covered(pending: &PendingCommit) -> u64 {
    let rows = &pending.rows;
    [rows.written, rows.skipped, rows.dead_lettered, rows.tombstones]
        .into_iter()
        .fold(0, u64::saturating_add)
}
