//! The checkpoint store: RocksDB, one directory for each process.
//!
//! It carries what a table cannot: the pending commits whose files are written and not yet known
//! to be in the table, and a record of the retained checkpoints for people to read. It is a cache:
//! lost, or restored from last week, it must be harmless, so nothing here decides what a table
//! holds. Both of its writes of an epoch, prepare and finalize, are one synced batch each.
//!
//! After a failed write the store takes no more: what a failed sync left on disk is unknown, and
//! asking the kernel again can get a yes for pages that it has dropped. Only opening it again
//! tells.

mod error;
mod frame;
mod keys;
mod reader;
mod record;
mod store;

pub use error::StateError;
pub use reader::StateReader;
pub use record::{CheckpointEnd, CheckpointRecord, CheckpointStart, Outcome, StepSeconds};
pub use store::StateStore;

#[cfg(test)]
mod tests;
