//! The checkpoint store: RocksDB, one directory for each process.
//!
//! It carries what a table cannot: the pending commits whose files are written and not yet known
//! to be in the table, and a record of the retained checkpoints for people to read. It is a cache:
//! lost, or restored from last week, it must be harmless, so nothing here decides what a table
//! holds. An epoch is prepared by one synced batch, for all tables of its flow, and each of its
//! pending commits is finalized by one.
//!
//! Each value is a frame (magic, format version, JSON, CRC-32C; see `frame.rs`) under a key that says
//! what it is (see `keys.rs`). All flows of a process share the directory. Format 1 knew one flow and
//! one table; the first change to the checkpoints of such a store upgrades it in place, in one synced
//! batch. Until then an older program can read it.
//!
//! After a failed write the store takes no more: what a failed sync left on disk is unknown, and
//! asking the kernel again can get a yes for pages that it has dropped. Only opening it again
//! tells.

mod error;
mod format_1;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keys;
mod reader;
mod record;
mod store;

pub(crate) use error::StateError;
pub(crate) use reader::StateReader;
#[cfg(test)]
pub(crate) use record::CommitRecord;
pub(crate) use record::{CheckpointEnd, CheckpointRecord, Outcome, StepSeconds};
pub use record::{CheckpointStart, Leaders};
pub use store::StateStore;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
