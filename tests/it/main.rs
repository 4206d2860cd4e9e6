//! The tests on real parts: Apache Kafka, a REST catalog, an S3 store, PostgreSQL, and the binary
//! itself, judged by readers that share no code with it. One crate, so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test reports by panicking, and so do the helpers that only tests call"
)]
#![allow(clippy::single_range_in_vec_init, reason = "ranges of offsets are meant, often one")]

mod alerts;
mod altered;
mod bad_input;
mod broken_servers;
mod columns;
mod crashes;
mod crates;
mod cut_logs;
mod databases;
mod directories;
mod earlier;
mod fan_out;
mod fencing;
mod fetching;
mod field_names;
mod flights;
mod foreign_writers;
mod group_silence;
mod groups;
mod harness;
mod holes;
mod housekeeping;
mod kills;
mod landing;
mod leaderless;
mod matrix;
mod memory;
mod old_brokers;
mod old_copies;
mod orphans;
mod outages;
mod pages;
mod partition_values;
mod places;
mod proofs;
mod refusals;
mod replies;
mod secrets;
mod secure;
mod soak;
mod spark;
mod stopping;
#[allow(dead_code, reason = "the helpers are one vocabulary, of which each test uses a part")]
mod support;
mod table_buckets;
mod tables;
mod tidy;
mod unreadable;
mod uploads;
mod watching;
mod zombies;
