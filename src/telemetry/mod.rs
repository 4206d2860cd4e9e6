//! What operators see: metrics, health over HTTP, and logs.
//!
//! Owns the names and labels of all metrics, the three HTTP endpoints and the log format. Decides
//! nothing: the pipeline never reads anything back from here.

pub mod health;
pub mod http;
pub mod labels;
pub mod logs;
pub mod metrics;
mod page;

pub use health::Health;
pub use http::{HttpError, HttpServer};
pub use labels::{Admission, CheckpointOutcome, CommitOutcome, Rebalance, Restart, Server, Step};
pub use metrics::{Metrics, PartitionMetrics, UpkeepCounts};
pub use page::metrics_page;
