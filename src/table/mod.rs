//! Iceberg tables: catalogs, schemas, the ledger as a table shows it, and our own commit path.
//!
//! A commit is **one** compare-and-swap, pinned to the snapshot that was inspected. Nothing here
//! retries it and nothing rebases it: whoever wants another attempt loads the table again and asks
//! the protocol whether the pending commit may still enter it.
//!
//! # What an answer means
//! | [`append`] returns | the commit is | files it wrote |
//! |---|---|---|
//! | `Committed` | in the table; the catalog showed its snapshot | are the table's |
//! | `Conflict` | not in the table and never will be by this request | deleted (left if in doubt) |
//! | `Rejected` | not in the table; the same request would be refused again | left |
//! | `TurnedAway` | not in the table: the catalog did not look at the request | left |
//! | `Unknown` | maybe in the table, maybe about to be: load and look for the commit id | left |
//! | [`NotSent`] | not in the table: nothing was sent | deleted |
//!
//! Files it wrote means manifests, manifest lists and table metadata; data files of a pending commit
//! are never deleted here (I8). A future that is dropped while the request is under way leaves an
//! unknown outcome, as a lost reply does.

mod avro_header;
mod cache;
mod client_log;
mod columns_kept;
mod commit;
mod creation;
mod error;
mod expiry;
mod files;
mod founding;
mod http;
mod io;
mod ledger;
mod lent_keys;
mod list;
mod listing;
mod long_values;
mod maintenance;
mod manifest;
mod merge;
mod not_sent;
mod orphans;
mod partition_names;
mod properties;
mod rest;
mod rest_client;
mod row_ids;
mod s3_store;
mod scanning;
mod schema;
mod settings;
mod size;
mod small_files;
mod snapshot;
mod spec;
mod sql;
mod sql_pool;
mod sql_text;
mod sweep;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ::iceberg::io::FileIO;
use ::iceberg::spec::{Schema, TableMetadata, TableMetadataRef, UnboundPartitionSpec};
use ::iceberg::{NamespaceIdent, Runtime, TableIdent};

use crate::base::names;

pub use commit::{CommitOutcome, append};
pub(crate) use commit::{append_edit, check_places, check_writable};
pub(crate) use creation::Creation;
pub(crate) use error::{BoxError, TableError};
pub(crate) use files::{LiveFile, live_files};
pub(crate) use founding::{check_fencing, found};
pub(crate) use io::delete_files;
pub use io::file_io;
pub use ledger::{Understood, view};
pub(crate) use ledger::{edit_basis, entry, full_view};
pub use maintenance::Maintenance;
pub(crate) use maintenance::MaintenanceTotals;
pub(crate) use not_sent::NotSent;
pub(crate) use orphans::{Judged, OrphanSearch, OrphansError, OwnFile, delete_orphans};
pub(crate) use properties::of_made_table;
pub(crate) use rest::RestCatalog;
pub use schema::parse_schema;
pub(crate) use schema::with_kafka_columns;
pub use settings::{CatalogKind, CatalogSettings, RestAuth};
pub(crate) use size::TableSize;
pub use spec::parse_spec;
pub(crate) use sql::SqlCatalog;
pub(crate) use sweep::Freed;

/// A table as `namespace.table`; a namespace may have several levels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Levels of the namespace, outermost first; never empty.
    pub namespace: Vec<String>,
    /// Name of the table.
    pub name: String,
}

impl TableName {
    /// The namespace as SQL catalogs store it.
    fn dotted_namespace(&self) -> String {
        self.namespace.join(".")
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for level in &self.namespace {
            write!(f, "{}.", names::part(level))?;
        }
        f.write_str(&names::part(&self.name))
    }
}

impl FromStr for TableName {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, TableError> {
        let mut parts = names::parts(text).unwrap_or_default();
        match parts.pop() {
            Some(name) if !parts.is_empty() => Ok(Self { namespace: parts, name }),
            _ => Err(TableError::Setting {
                setting: "table name",
                reason: format!(
                    "{text:?} is not of the form namespace.table (a namespace may have several levels: a.b.table; a name with a dot stands in backticks)"
                ),
            }),
        }
    }
}

/// One consistent reading of a table: its metadata, and the store that holds its files.
#[derive(Clone)]
pub struct LoadedTable {
    /// The table.
    pub name: TableName,
    /// Its metadata.
    pub metadata: TableMetadataRef,
    /// Where the metadata was read from, as the catalog names it.
    pub metadata_location: String,
    /// The store of its files. Keys that the catalog lends are renewed by themselves.
    pub io: FileIO,
}

impl fmt::Debug for LoadedTable {
    /// Leaves out the store, which carries credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedTable")
            .field("name", &self.name)
            .field("uuid", &self.metadata.uuid())
            .field("head", &self.metadata.current_snapshot_id())
            .field("metadata_location", &self.metadata_location)
            .finish_non_exhaustive()
    }
}

impl LoadedTable {
    /// The table as the `iceberg` crate knows it, to scan it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Unreadable` if the crate does not accept the metadata.
    pub fn to_iceberg(&self) -> Result<::iceberg::table::Table, TableError> {
        let unreadable = |source: ::iceberg::Error| TableError::Unreadable {
            table: self.name.clone(),
            what: "table metadata",
            location: self.metadata_location.clone(),
            source: source.into(),
        };
        let namespace =
            NamespaceIdent::from_vec(self.name.namespace.clone()).map_err(unreadable)?;
        ::iceberg::table::Table::builder()
            .file_io(scanning::for_scan(&self.io))
            .metadata(self.metadata.clone())
            .metadata_location(self.metadata_location.clone())
            .identifier(TableIdent::new(namespace, self.name.name.clone()))
            .runtime(Runtime::try_current().map_err(unreadable)?)
            .build()
            .map_err(unreadable)
    }
}

/// A catalog: where tables are found, created and swapped.
#[derive(Debug)]
pub enum Catalog {
    /// SQLite or PostgreSQL.
    Sql(SqlCatalog),
    /// The Iceberg REST protocol.
    Rest(RestCatalog),
}

impl Catalog {
    /// Reaches the catalog and checks that it is one. An SQL catalog gets its tables if it lacks them.
    ///
    /// # Errors
    /// `Unreachable`, `Unauthorised`, `Rejected` or `Setting`.
    pub async fn connect(settings: &CatalogSettings) -> Result<Self, TableError> {
        if settings.request_timeout < Duration::from_millis(1) {
            return Err(TableError::Setting {
                setting: "catalog request timeout",
                reason: "must be at least 1 ms".into(),
            });
        }
        Ok(match settings.kind {
            CatalogKind::Sql => Self::Sql(SqlCatalog::connect(settings).await?),
            CatalogKind::Rest => Self::Rest(RestCatalog::connect(settings).await?),
        })
    }

    /// What it is called in errors: its address, without secrets.
    fn label(&self) -> &str {
        match self {
            Self::Sql(catalog) => &catalog.label,
            Self::Rest(catalog) => catalog.label(),
        }
    }

    /// Reads a table; `None` if the catalog does not have it.
    ///
    /// # Errors
    /// `Unreachable`, `Unauthorised`, `Rejected`, `Unreadable`, `Storage` or `Setting`.
    pub async fn load(&self, table: &TableName) -> Result<Option<LoadedTable>, TableError> {
        match self {
            Self::Sql(catalog) => catalog.load(table).await,
            Self::Rest(catalog) => catalog.load(table).await,
        }
    }

    /// Where a table would be that is created now; `None` if only the catalog knows.
    ///
    /// # Errors
    /// As [`Catalog::load`]; `Setting` if no table can be there.
    pub(crate) async fn place_of(&self, table: &TableName) -> Result<Option<String>, TableError> {
        match self {
            Self::Sql(catalog) => Ok(Some(catalog.new_table_location(table).await?.1)),
            Self::Rest(_) => Ok(None),
        }
    }

    /// Creates a table, and its namespace if that is absent. If another process creates it first,
    /// that process's table is returned, with its own schema.
    ///
    /// The format version is 2, or what the property `format-version` says. The catalog assigns the
    /// field ids of the schema anew: use those of the table that is returned.
    ///
    /// # Errors
    /// As [`Catalog::load`]; a transient error may leave the table created or not.
    pub async fn create(
        &self,
        table: &TableName,
        schema: &Schema,
        spec: &UnboundPartitionSpec,
        properties: &HashMap<String, String>,
    ) -> Result<LoadedTable, TableError> {
        let creation = Creation { table, schema, spec, properties };
        match self {
            Self::Sql(catalog) => catalog.create(&creation).await,
            Self::Rest(catalog) => catalog.create(&creation).await,
        }
    }
}

/// Parses table metadata, which is not compressed any more.
fn parse_metadata(
    table: &TableName,
    location: &str,
    bytes: &[u8],
) -> Result<TableMetadata, TableError> {
    let metadata =
        serde_json::from_slice(bytes).map_err(|error| unknown(table, location, bytes, error))?;
    check_kept(table, bytes, &metadata)?;
    Ok(metadata)
}

/// Does the metadata that was read from these bytes have what they say of columns?
fn check_kept(table: &TableName, bytes: &[u8], metadata: &TableMetadata) -> Result<(), TableError> {
    columns_kept::check_defaults(bytes, metadata)
        .map_err(|what| TableError::Unsupported { table: table.clone(), what })
}

/// Bytes that are no metadata for the crate, perhaps because of the columns.
fn unknown(
    table: &TableName,
    location: &str,
    bytes: &[u8],
    source: impl Into<BoxError>,
) -> TableError {
    match columns_kept::unknown_types(bytes) {
        Some(what) => TableError::Unsupported { table: table.clone(), what },
        None => unreadable(table, location, source),
    }
}

fn unreadable(table: &TableName, location: &str, source: impl Into<BoxError>) -> TableError {
    TableError::Unreadable {
        table: table.clone(),
        what: "table metadata",
        location: location.to_string(),
        source: source.into(),
    }
}
