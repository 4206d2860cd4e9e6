//! What verifying finds, and the verdict on each partition.

use serde::Serialize;

use crate::protocol::{Offset, TopicPartition};

/// What kind of finding it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Ledger and snapshots contradict each other: rolled back, set back, lost.
    History,
    /// Offsets between two commits that no commit brought in.
    JournalGap,
    /// Offsets that two commits brought in.
    JournalOverlap,
    /// A commit counts more records than its ranges have offsets.
    CommitTooFull,
    /// The ledger counts offsets that no commit brought in.
    LedgerAhead,
    /// A commit brought in offsets that the ledger does not count.
    LedgerBehind,
    /// Rows at or above the ledger.
    RowsAboveLedger,
    /// Rows below the first offset that the pipeline ever read.
    RowsBeforeBeginning,
    /// More than one row of the same offset.
    RowsRepeated,
    /// Fewer rows than were written, and nothing that explains it.
    RowsMissing,
    /// More rows than were written.
    RowsExtra,
    /// Rows of a topic that no ledger of the table knows.
    RowsUnaccounted,
    /// Rows gone that a foreign snapshot deleted.
    RowsDeletedByOthers,
    /// Rows that cannot be judged, because of expired or foreign snapshots.
    RowsUnproved,
    /// Rows without topic, partition or offset.
    RowsWithoutPosition,
    /// Rows of a topic that another pipeline reads into the same table.
    RowsOfOtherPipeline,
    /// The oldest snapshots were expired: proved from a later offset on.
    Expired,
    /// The pipeline has no ledger in the table.
    NotBegun,
    /// The table has no columns to tell a row's offset: rows are only counted.
    CountOnly,
}

impl Kind {
    /// Is it a violation of what icestream promises? The others are worth knowing.
    pub fn is_violation(self) -> bool {
        match self {
            Self::History
            | Self::JournalGap
            | Self::JournalOverlap
            | Self::CommitTooFull
            | Self::LedgerAhead
            | Self::LedgerBehind
            | Self::RowsAboveLedger
            | Self::RowsBeforeBeginning
            | Self::RowsRepeated
            | Self::RowsMissing
            | Self::RowsExtra
            | Self::RowsUnaccounted => true,
            Self::RowsDeletedByOthers
            | Self::RowsUnproved
            | Self::RowsWithoutPosition
            | Self::RowsOfOtherPipeline
            | Self::Expired
            | Self::NotBegun
            | Self::CountOnly => false,
        }
    }

    /// The invariant it is about.
    fn invariant(self) -> &'static str {
        match self {
            Self::LedgerBehind => "I6",
            Self::CommitTooFull => "I10",
            _ => "I1",
        }
    }
}

/// One thing that verifying found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind.
    pub kind: Kind,
    /// Is it a violation?
    pub violation: bool,
    /// The invariant it is about: `I1` to `I10`.
    pub invariant: &'static str,
    /// The partition, if it is about one.
    pub partition: Option<TopicPartition>,
    /// What was found, where, and what may explain it.
    pub detail: String,
}

impl Finding {
    pub(super) fn new(kind: Kind, partition: Option<&TopicPartition>, detail: String) -> Self {
        Self {
            kind,
            violation: kind.is_violation(),
            invariant: kind.invariant(),
            partition: partition.cloned(),
            detail,
        }
    }
}

/// What could be shown of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every record from the first that the pipeline read up to the ledger, once.
    Proved,
    /// The same from a later offset on, since older snapshots were expired.
    ProvedInPart,
    /// No commit of it is still shown; no row is repeated or above the ledger.
    Unproved,
    /// The commits are whole, and rows have no offset to judge them by.
    Counted,
    /// Rows are missing, and this is one of the partitions that may lack them.
    InDoubt,
    /// Wrong.
    Violated,
}

/// The verdict on one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionVerdict {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset from which on commits are still shown.
    pub from: Option<Offset>,
    /// Next offset to read, by the ledger.
    pub ledger: Option<Offset>,
    /// Commits that moved it and are still shown.
    pub ranges: u64,
    /// Rows in the table, repeated ones too; unknown where rows have no offset.
    pub rows: Option<u64>,
    /// Rows beyond the first of their offset.
    pub repeated: u64,
    /// Rows that are certainly missing here.
    pub missing: u64,
    /// Rows outside what the commits brought in.
    pub extra: u64,
    /// The verdict.
    pub verdict: Verdict,
}

/// The verdict on a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// One for each partition in ledger, journal or rows of the pipeline's topics.
    pub partitions: Vec<PartitionVerdict>,
    /// Violations first.
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// Is nothing wrong?
    pub fn is_clean(&self) -> bool {
        !self.findings.iter().any(|finding| finding.violation)
    }
}
