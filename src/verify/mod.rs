//! Proves a table: from its metadata alone, or from its rows as well.
//!
//! ```text
//! evidence   what one reading of the table shows
//! scan       reads it: metadata and manifests; the rows if asked, of which only positions are kept
//! eras       resets of a topic: what its offsets meant before and after
//! offsets    sets of offsets, about one bit each
//! judge      evidence -> findings and verdicts, pure
//!   journal    the ranges of the commits: no gap, no overlap, up to the ledger
//!   files      the counts of the journal against snapshots and manifests
//!   positions  where rows are: once each, below the ledger
//!   counts     rows against the counts of the journal
//! report     for people, and as JSON
//! ```
//!
//! The rows are read by the `iceberg` crate's own scan and not by anything that wrote them.

mod chain;
mod counts;
mod deletions;
mod eras;
mod evidence;
mod files;
mod finding;
#[cfg(test)]
mod fixtures;
mod foreign;
mod journal;
#[cfg(test)]
mod journal_tests;
mod judge;
#[cfg(test)]
mod judge_tests;
mod judging;
mod offsets;
mod positions;
#[cfg(test)]
mod random_tests;
mod report;
mod rows;
mod scan;
#[cfg(test)]
mod scan_tests;
mod written;

pub(crate) use evidence::history;
pub(crate) use judge::judge;
pub(crate) use report::Report;
pub(crate) use scan::{Depth, gather};
