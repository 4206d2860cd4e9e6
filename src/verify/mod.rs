//! Proves a table from its ledger, its journal and its rows.
//!
//! ```text
//! evidence   what one reading of the table shows
//! scan       its rows, streamed; only their positions are kept
//! offsets    sets of offsets, about one bit each
//! judge      evidence -> findings and verdicts, pure
//! counts     rows against the counts of the journal
//! report     for people, and as JSON
//! ```
//!
//! The rows are read by the `iceberg` crate's own scan and not by anything that wrote them.

mod counts;
mod evidence;
mod finding;
mod judge;
#[cfg(test)]
mod judge_tests;
mod offsets;
mod report;
mod rows;
mod scan;
#[cfg(test)]
mod scan_tests;

pub use evidence::{Evidence, ForeignSnapshot, History, rfc3339};
pub use finding::{Finding, Judgement, Kind, PartitionVerdict, Verdict};
pub use judge::judge;
pub use report::Report;
pub use rows::{RowIndex, Rows};
pub use scan::gather;
