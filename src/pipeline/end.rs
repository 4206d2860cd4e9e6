//! How a run ends, and what is common to those who end it.

use crate::decode::BadRecord;
use crate::failure::Failure;
use crate::protocol::Violation;
use crate::telemetry::{Invariant, Metrics};

/// Why a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Everything up to the ends of the log at start is in the table.
    CaughtUp,
    /// It was asked to stop.
    Stopped,
    /// Another instance committed; begin anew at the ledger.
    Fenced,
    /// Partitions went to another instance before their records were committed; begin anew.
    Dropped,
    /// The topic has new partitions; begin anew with them.
    PartitionsAdded,
}

/// Why a run is to end.
pub(super) enum Finish {
    Stopped,
    CaughtUp,
    PartitionsAdded,
    Bad(BadRecord),
}

impl Finish {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::CaughtUp => "caught_up",
            Self::PartitionsAdded => "partitions_added",
            Self::Bad(_) => "bad_record",
        }
    }
}

pub(super) fn join_error(error: tokio::task::JoinError) -> Failure {
    Failure::Internal(format!("a task ended without a result: {error}"))
}

/// Counts a broken invariant and makes it the end of the process: nothing is built on it.
pub(super) fn violated(metrics: &Metrics, violation: &Violation) -> Failure {
    metrics.add_violation(match violation.id {
        "I1" => Invariant::I1,
        "I2" => Invariant::I2,
        "I3" => Invariant::I3,
        "I4" => Invariant::I4,
        "I5" => Invariant::I5,
        "I6" => Invariant::I6,
        "I7" => Invariant::I7,
        "I8" => Invariant::I8,
        "I9" => Invariant::I9,
        _ => Invariant::I10,
    });
    Failure::Internal(violation.to_string())
}
