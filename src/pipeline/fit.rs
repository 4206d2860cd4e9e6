//! Can records go into a table, before one is read?

use iceberg::io::FileIO;
use iceberg::spec::TableMetadata;

use super::rows::RowBuilder;
use crate::config::Config;
use crate::connect::{FORMAT, topics};
use crate::failure::Failure;
use crate::table::{TableName, check_writable};
use crate::write::{TableWriter, WriteSettings};

/// Can records be decoded into the table's columns, its files be written, and be committed? Must be called
/// within a tokio runtime. Neither reads nor writes anything.
///
/// # Errors
/// Why not, with what to do.
pub(crate) fn check_fit(
    config: &Config,
    table: &TableName,
    metadata: &TableMetadata,
    io: FileIO,
) -> Result<(), Failure> {
    check_writable(table, metadata)?;
    RowBuilder::new(metadata, &table.to_string(), &topics(config), FORMAT)?;
    // Opens no file before the first row.
    let runtime = tokio::runtime::Handle::current();
    drop(TableWriter::new(metadata.clone().into(), io, WriteSettings::new("check"), runtime)?);
    Ok(())
}
