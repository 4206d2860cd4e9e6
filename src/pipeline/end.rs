//! How a run ends, and what is common to those who end it.

use crate::decode::BadRecord;
use crate::failure::Failure;
use crate::protocol::{Refusal, Violation};
use crate::telemetry::Metrics;

/// Why a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
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
    /// Of all that is to be read only partitions are left that cannot be; why the first cannot.
    Aside(Box<Failure>),
}

impl Finish {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::CaughtUp => "caught_up",
            Self::PartitionsAdded => "partitions_added",
            Self::Bad(_) => "bad_record",
            Self::Aside(_) => "nothing_left_to_read",
        }
    }
}

pub(super) fn join_error(error: tokio::task::JoinError) -> Failure {
    Failure::Internal(format!("a task ended without a result: {error}"))
}

/// Counts a refusal and makes it the end of the flow.
pub(super) fn refused(metrics: &Metrics, refusal: Refusal) -> Failure {
    metrics.add_refusal(refusal.name());
    Failure::Refused(refusal)
}

/// Counts a broken invariant and makes it the end of the process: nothing is built on it.
pub(super) fn violated(metrics: &Metrics, violation: &Violation) -> Failure {
    metrics.add_violation(violation.id);
    Failure::Internal(violation.to_string())
}
