//! Proves a table: from its metadata alone, or from its rows as well.
//!
//! ```text
//! evidence   what one reading of the table shows
//!   foreign    snapshots that the pipeline did not make
//!   files      data files by the snapshot that put them in
//!   rows       rows by where they came from
//! scan       reads it: metadata and manifests; the rows if asked, of which only positions are kept
//! eras       resets of a topic: what its offsets meant before and after
//! offsets    sets of offsets, about one bit each
//! verdict    evidence -> findings and verdicts, pure
//!   journal    the ranges of the commits: no gap, no overlap, up to the ledger
//!   chain      those of one partition
//!   written    the counts of the journal against snapshots and manifests
//!   positions  where rows are: once each, below the ledger
//!   counts     rows against the counts of the journal
//!   deletions  how many rows foreign snapshots may have taken
//! judge      what these found so far
//! finding    what can be found, and the verdict on a partition
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
mod offsets;
mod positions;
#[cfg(test)]
mod random_tests;
mod report;
mod rows;
mod scan;
#[cfg(test)]
mod scan_tests;
mod verdict;
#[cfg(test)]
mod verdict_tests;
mod written;

pub(crate) use evidence::history;
pub(crate) use report::Report;
pub(crate) use scan::{Depth, gather};
