//! Arrow record batches into Parquet data files of one table.
//!
//! One [`TableWriter`] belongs to one shard thread and to one epoch of one table. It owns the
//! files it opened until [`TableWriter::close`] hands them over as pending files: closed, durable at
//! their final path and visible to nobody. It never touches the table's metadata.
//!
//! The Parquet files and their metrics are made here, on the `parquet` crate, and not with
//! iceberg's own `ParquetWriter`: that one leaves row groups with truncated statistics out of a
//! file's bounds (readers would then skip rows that are there), cannot bound the memory of a row
//! group, and writes `uuid` columns without their logical type. For the same reason the temporal and
//! the truncate transforms are ours (see `transform`).

mod byte_sink;
mod codec_state;
mod encoding;
mod error;
mod file;
mod human;
mod location;
mod metrics;
mod modes;
mod open_partition;
mod partition;
mod properties;
mod schema;
mod table_writer;
#[cfg(test)]
mod tests;
mod transform;

pub(crate) use error::WriteError;
pub use table_writer::{ClosingFiles, TableWriter, WriteSettings};
