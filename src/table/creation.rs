//! A table that is to be made: as metadata, before any catalog is asked for it.

use std::collections::HashMap;

use iceberg::TableCreation;
use iceberg::spec::{
    FormatVersion, Schema, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec,
};

use super::{TableError, TableName, check_writable};

/// What to create.
pub(crate) struct Creation<'a> {
    /// Its name.
    pub(crate) table: &'a TableName,
    /// Its columns.
    pub(crate) schema: &'a Schema,
    /// What it is partitioned by.
    pub(crate) spec: &'a UnboundPartitionSpec,
    /// Its properties, of which `format-version` is none in its metadata.
    pub(crate) properties: &'a HashMap<String, String>,
}

impl Creation<'_> {
    /// The table's first metadata.
    ///
    /// # Errors
    /// `Unsupported` if there can be no such table, or if it could not be written to once it is made.
    pub(crate) fn metadata(&self, location: String) -> Result<TableMetadata, TableError> {
        let invalid = |what: String| TableError::Unsupported { table: self.table.clone(), what };
        let mut properties = self.properties.clone();
        let format_version = match properties.remove("format-version").as_deref() {
            None | Some("2") => FormatVersion::V2,
            Some("3") => FormatVersion::V3,
            Some(other) => {
                return Err(invalid(format!("format-version {other} is neither 2 nor 3")));
            }
        };
        let table = TableCreation::builder()
            .name(self.table.name.clone())
            .location(location)
            .schema(self.schema.clone())
            .partition_spec(self.spec.clone())
            .properties(properties)
            .format_version(format_version)
            .build();
        let metadata = TableMetadataBuilder::from_table_creation(table)
            .and_then(TableMetadataBuilder::build)
            .map_err(|error| invalid(error.to_string()))?
            .metadata;
        check_writable(self.table, &metadata)?;
        Ok(metadata)
    }
}
