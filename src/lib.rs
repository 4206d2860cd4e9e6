//! icestream carries records from Kafka into Apache Iceberg tables, each exactly once.
//!
//! The table itself records which source offsets it holds (the *ledger*), and each commit is a
//! compare-and-swap on that record. Local state is a cache; any process may die at any line.
//!
//! ```text
//! Kafka ─ partition queues ─> shard: poll ─> decode ─> Arrow ─> Parquet writer(s) ─> object store
//!                              (thread)     bad record ─> policy: fail | skip
//!                                 │ sealed {ranges, files, counts}
//! coordinator ── barrier ──>  aligns answers ──> committer: prepare, commit, finalize, report
//! ```
//!
//! | module | what it owns |
//! |---|---|
//! | [`base`] | rules that several modules must share |
//! | [`protocol`] | the words, the decisions, the invariants; no I/O |
//! | [`source`] | Kafka |
//! | [`decode`] | bytes to Arrow |
//! | [`mod@write`] | Arrow to Parquet data files |
//! | [`table`] | catalogs, and our own commit path |
//! | [`state`] | checkpoints in RocksDB |
//! | [`pipeline`] | shards, coordinator, committer: executes what `protocol` decides |
//! | [`connect`] | from settings to the servers that they name |
//! | [`service`] | one run after another, signals, exit |
//! | [`restart`] | whether and when a run that failed is followed by another |
//! | [`watch`] | do checkpoints complete while there is something to commit |
//! | [`telemetry`] | metrics, HTTP, logs |
//! | [`program`] | command line to exit code |
//!
//! Arrows point one way: `protocol` <- {`source`, `decode`, `write`, `table`, `state`} <-
//! `pipeline` <- `service` <- `program`. ARCHITECTURE.md tells the rest.

// What nobody outside can name is dead when nobody inside uses it: the compiler says so.
#![warn(unreachable_pub)]

mod base;
mod broken;
mod cli;
mod commands;
mod config;
mod connect;
mod crash;
mod decode;
mod demo;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod parts;
mod pipeline;
pub mod program;
mod protocol;
mod restart;
mod retry;
mod service;
mod source;
mod state;
mod table;
mod telemetry;
mod verify;
mod watch;
mod write;
