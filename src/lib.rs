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

pub mod base;
pub mod broken;
pub mod cli;
pub mod commands;
pub mod config;
pub mod connect;
pub mod crash;
pub mod decode;
pub mod demo;
pub mod failure;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod pipeline;
pub mod program;
pub mod protocol;
pub mod restart;
pub mod retry;
pub mod service;
pub mod source;
pub mod state;
pub mod table;
pub mod telemetry;
pub mod verify;
pub mod watch;
pub mod write;
