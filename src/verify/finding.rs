//! What verifying finds, and the verdict on each partition.

use serde::Serialize;

use super::eras::{Era, Place};
use crate::protocol::{Offset, OffsetRange, TopicPartition};

/// What kind of finding it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
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
    /// A snapshot added another number of rows than its commit wrote.
    CountsDisagree,
    /// A data file is in the table twice.
    FileRepeated,
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
    /// Rows of commits in files that others rewrote or removed; only rows can tell what is left.
    FilesRewritten,
    /// Rows that cannot be judged, because of expired or foreign snapshots.
    RowsUnproved,
    /// Expired from the journal, and the rows hold each offset once.
    ProvedByRows,
    /// Rows without topic, partition or offset.
    RowsWithoutPosition,
    /// Rows of a topic that another pipeline reads into the same table.
    RowsOfOtherPipeline,
    /// The oldest snapshots were expired: proved from a later offset on.
    Expired,
    /// A person gave up offsets whose records were gone before they were read, or could not be.
    Skipped,
    /// A person set the ledger back, because the table was rolled back.
    Rewound,
    /// A person began a topic anew, because it was made again: its offsets mean other records.
    Reset,
    /// The pipeline has no ledger in the table.
    NotBegun,
    /// The table has no columns to tell a row's offset: rows are only counted.
    CountOnly,
}

impl Kind {
    /// Is it a violation of what icestream promises? The others are worth knowing.
    pub(crate) fn is_violation(self) -> bool {
        match self {
            Self::History
            | Self::JournalGap
            | Self::JournalOverlap
            | Self::CommitTooFull
            | Self::LedgerAhead
            | Self::LedgerBehind
            | Self::CountsDisagree
            | Self::FileRepeated
            | Self::RowsAboveLedger
            | Self::RowsBeforeBeginning
            | Self::RowsRepeated
            | Self::RowsMissing
            | Self::RowsExtra
            | Self::RowsUnaccounted => true,
            Self::RowsDeletedByOthers
            | Self::FilesRewritten
            | Self::RowsUnproved
            | Self::ProvedByRows
            | Self::RowsWithoutPosition
            | Self::RowsOfOtherPipeline
            | Self::Expired
            | Self::Skipped
            | Self::Rewound
            | Self::Reset
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
pub(crate) struct Finding {
    /// The kind.
    pub kind: Kind,
    /// Is it a violation?
    pub violation: bool,
    /// The invariant it is about: `I1` to `I10`.
    pub invariant: &'static str,
    /// The partition, if it is about one.
    pub partition: Option<TopicPartition>,
    /// The offsets, if it is about a range of them.
    pub range: Option<OffsetRange>,
    /// The snapshots that it is about: those on either side of a gap, both of an overlap.
    pub snapshots: Vec<i64>,
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
            range: None,
            snapshots: Vec::new(),
            detail,
        }
    }

    /// The same about a range of offsets and some snapshots.
    pub(super) fn about(mut self, range: OffsetRange, snapshots: &[i64]) -> Self {
        self.range = Some(range);
        self.snapshots = snapshots.to_vec();
        self
    }
}

/// What could be shown of a partition: of its journal, and of its rows where they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Every offset from the first that the pipeline read up to the ledger, once.
    Proved,
    /// The same from a later offset on, since older snapshots were expired.
    ProvedInPart,
    /// Nothing of it can be told: its commits were expired, or rows cannot be told apart.
    Unproved,
    /// The commits are whole, and rows have no offset to judge them by.
    Counted,
    /// Rows are missing, and this is one of the partitions that may lack them.
    InDoubt,
    /// Wrong.
    Violated,
}

/// The verdict on one partition, in one era of its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PartitionVerdict {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Resets of the topic that the journal shows before; none for rows of which it cannot be told.
    pub era: Option<usize>,
    /// Offset from which on it is proved.
    pub from: Option<Offset>,
    /// Next offset to read, by the ledger; where a reset ended the era, by the ledger at that time.
    pub ledger: Option<Offset>,
    /// Commits that moved it and are still shown.
    pub ranges: u64,
    /// Offsets that were gone before they were read, or could not be, and that a person gave up.
    pub lost: Vec<OffsetRange>,
    /// Rows in the table, repeated ones too; unknown where rows were not read or have no offset.
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

impl PartitionVerdict {
    pub(super) fn new(place: &Place, ledger: Option<Offset>) -> Self {
        Self {
            topic: place.tp.topic.clone(),
            partition: place.tp.partition,
            era: match place.era {
                Era::At(number) => Some(number),
                Era::Hidden | Era::Unclear => None,
            },
            from: None,
            ledger,
            ranges: 0,
            lost: Vec::new(),
            rows: None,
            repeated: 0,
            missing: 0,
            extra: 0,
            verdict: Verdict::Unproved,
        }
    }
}

/// The verdict on a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Judgement {
    /// One for each partition (and era of its topic) in ledger, journal or rows of the pipeline's
    /// topics.
    pub partitions: Vec<PartitionVerdict>,
    /// Violations first.
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// Is nothing wrong?
    pub(crate) fn is_clean(&self) -> bool {
        !self.findings.iter().any(|finding| finding.violation)
    }
}
