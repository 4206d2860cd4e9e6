//! What operators see: metrics, health over HTTP, and logs.
//!
//! Owns the names and labels of all metrics, the three HTTP endpoints and the log format. Decides
//! nothing: the pipeline never reads anything back from here.

mod connections;
mod counts;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod labels;
pub(crate) mod logs;
pub(crate) mod metrics;
#[cfg(test)]
mod page;

pub(crate) use self::http::{HttpError, HttpServer, PIPELINE};
pub(crate) use counts::{MaintenanceCounts, TableCounts};
pub(crate) use health::Health;
pub(crate) use labels::{
    Admission, CheckpointOutcome, CommitOutcome, Rebalance, Restart, Server, Step, Unread,
};
pub(crate) use metrics::{Metrics, PartitionMetrics, Standing};
