//! icestream carries records from Kafka into Apache Iceberg tables, each exactly once.
//!
//! The table itself records which source offsets it holds (the *ledger*), and each commit is a
//! compare-and-swap on that record. Local state is a cache; any process may die at any line.

pub mod config;
pub mod crash;
pub mod decode;
pub mod pipeline;
pub mod protocol;
pub mod source;
pub mod state;
pub mod table;
pub mod telemetry;
pub mod write;
