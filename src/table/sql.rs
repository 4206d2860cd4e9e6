//! SQL catalogs: SQLite and PostgreSQL, in the tables that Java's JdbcCatalog and pyiceberg's
//! SqlCatalog use, so that all of them open the same catalog.
//!
//! A table is one row with the location of its current metadata file; a commit is one `UPDATE` that
//! finds the row only while it still names the file that was loaded.

use std::future::Future;
use std::io::Read;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iceberg::MetadataLocation;
use iceberg::io::FileIO;
use iceberg::spec::TableMetadata;
use sqlx::{Executor, Row};

use super::io::Encoded;
use super::snapshot::Proposal;
use super::sql_pool::{Pool, Refusal, open, refusal};
use super::sql_text::with_values;
use super::{
    CatalogSettings, CommitOutcome, Creation, LoadedTable, NotSent, TableError, TableName, io,
    parse_metadata, unreadable,
};
use crate::base::location::{FOLDED, is_folded};
use crate::base::secret::Properties;

/// Columns as Java's JdbcCatalog makes them.
const CREATE_TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS iceberg_tables (\
     catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, \
     table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000), \
     previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5), \
     PRIMARY KEY (catalog_name, table_namespace, table_name))",
    "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (\
     catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL, \
     property_key VARCHAR(255) NOT NULL, property_value VARCHAR(1000), \
     PRIMARY KEY (catalog_name, namespace, property_key))",
];

/// Bytes to which table metadata may unpack.
const MOST_METADATA: u64 = 1 << 30;

const SWAP: &str = "UPDATE iceberg_tables \
     SET metadata_location = $1, previous_metadata_location = $2 \
     WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 \
     AND metadata_location = $2";

/// A catalog in SQLite or PostgreSQL.
#[derive(Debug)]
pub struct SqlCatalog {
    pool: Pool,
    /// Value of the column `catalog_name`.
    name: String,
    /// Address without secrets, for messages.
    pub(super) label: String,
    warehouse: Option<String>,
    io_properties: Properties,
    timeout: Duration,
    /// Did it give us a table, and did it take a commit?
    has_read: AtomicBool,
    has_written: AtomicBool,
    /// Catalogs made by older programs have no column `iceberg_type`, and hold no views.
    has_type: bool,
}

impl SqlCatalog {
    /// Opens the database, with a new file for SQLite where there is none, and makes the catalog's
    /// tables if they are absent.
    pub(super) async fn connect(settings: &CatalogSettings) -> Result<Self, TableError> {
        Self::with_pool(open(settings)?, settings).await
    }

    /// The catalog in the database that `pool` opens.
    pub(super) async fn with_pool(
        pool: Pool,
        settings: &CatalogSettings,
    ) -> Result<Self, TableError> {
        let mut catalog = Self {
            pool,
            name: settings.name.clone(),
            label: settings.uri.to_string(),
            warehouse: settings.warehouse.clone(),
            io_properties: settings.io_properties.clone(),
            timeout: settings.request_timeout,
            has_read: AtomicBool::new(false),
            has_written: AtomicBool::new(false),
            has_type: true,
        };
        if !catalog.has_tables().await? {
            catalog.create_tables().await?;
        }
        catalog.has_type = catalog.has_type_column().await?;
        Ok(catalog)
    }

    async fn has_tables(&self) -> Result<bool, TableError> {
        let doing = "look for the catalog's tables";
        let sql = match &self.pool {
            Pool::Sqlite(_) => {
                "SELECT CAST(COUNT(*) AS TEXT) FROM sqlite_master WHERE type = 'table' AND name IN \
                 ('iceberg_tables', 'iceberg_namespace_properties')"
            }
            Pool::Postgres(_) => {
                "SELECT COUNT(to_regclass(name))::text FROM (VALUES ('iceberg_tables'), \
                 ('iceberg_namespace_properties')) AS wanted (name)"
            }
        };
        Ok(self.text(doing, sql, &[]).await?.as_deref() == Some("2"))
    }

    async fn create_tables(&self) -> Result<(), TableError> {
        for sql in CREATE_TABLES {
            let create = || async {
                let doing = "create the catalog's tables";
                self.change(doing, sql, &[]).await
            };
            // PostgreSQL can fail IF NOT EXISTS when two processes create at once; the second try
            // then finds the table.
            if create().await.is_err() {
                create().await?;
            }
        }
        Ok(())
    }

    async fn has_type_column(&self) -> Result<bool, TableError> {
        let doing = "look at the catalog's tables";
        let sql = match &self.pool {
            Pool::Sqlite(_) => {
                "SELECT name FROM pragma_table_info('iceberg_tables') WHERE name = 'iceberg_type'"
            }
            Pool::Postgres(_) => {
                "SELECT attname::text FROM pg_attribute WHERE attname = 'iceberg_type' \
                 AND attrelid = 'iceberg_tables'::regclass AND NOT attisdropped"
            }
        };
        Ok(self.text(doing, sql, &[]).await?.is_some())
    }

    /// The text in the first column of the first row, if there is a row and it is not null.
    async fn text(
        &self,
        doing: &str,
        sql: &str,
        values: &[&str],
    ) -> Result<Option<String>, TableError> {
        let found: Option<Option<String>> = match &self.pool {
            Pool::Sqlite(db) => {
                let query = values.iter().fold(sqlx::query_scalar(sql), |query, v| query.bind(*v));
                self.run(doing, query.fetch_optional(db)).await?
            }
            Pool::Postgres(db) => {
                let sql = self.literal(doing, sql, values)?;
                let rows = self.run(doing, db.fetch_all(sql.as_str())).await?;
                let first = rows.first().map(|row| row.try_get(0)).transpose();
                first.map_err(|error| self.failed(doing, error))?
            }
        };
        Ok(found.flatten())
    }

    /// How many rows a statement changed.
    async fn change(&self, doing: &str, sql: &str, values: &[&str]) -> Result<u64, TableError> {
        match &self.pool {
            Pool::Sqlite(db) => {
                let query = values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                Ok(self.run(doing, query.execute(db)).await?.rows_affected())
            }
            Pool::Postgres(db) => {
                let sql = self.literal(doing, sql, values)?;
                Ok(self.run(doing, db.execute(sql.as_str())).await?.rows_affected())
            }
        }
    }

    fn literal(&self, doing: &str, sql: &str, values: &[&str]) -> Result<String, TableError> {
        with_values(sql, values).map_err(|detail| TableError::Rejected {
            catalog: self.label.clone(),
            doing: doing.to_string(),
            detail,
        })
    }

    /// Awaits a statement for at most the request timeout.
    async fn run<T>(
        &self,
        doing: &str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, TableError> {
        match tokio::time::timeout(self.timeout, statement).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failed(doing, error)),
            Err(_) => Err(TableError::Unreachable {
                catalog: self.label.clone(),
                doing: doing.to_string(),
                detail: format!("no answer within {:?}", self.timeout),
                source: None,
            }),
        }
    }

    /// The error for what the database said. One that worked before and now does not know us, or lacks what it
    /// had, passes: a password is being changed there and here, a backup put back, a proxy leads elsewhere.
    fn failed(&self, doing: &str, error: sqlx::Error) -> TableError {
        let worked = |done: &AtomicBool| done.load(Ordering::Relaxed);
        let has_worked = worked(&self.has_read) || worked(&self.has_written);
        let (catalog, doing, detail) = (self.label.clone(), doing.to_string(), error.to_string());
        match refusal(&error) {
            Some(Refusal::Unauthorised) if !has_worked => {
                TableError::Unauthorised { catalog, doing, detail }
            }
            Some(Refusal::Absent) if !has_worked => TableError::Rejected { catalog, doing, detail },
            Some(Refusal::Rejected) => TableError::Rejected { catalog, doing, detail },
            Some(Refusal::Unauthorised | Refusal::Absent | Refusal::Busy | Refusal::Standby)
            | None => {
                TableError::Unreachable { catalog, doing, detail, source: Some(error.into()) }
            }
        }
    }

    /// What became of a commit at which the database failed: unknown unless it is certain that it did nothing.
    /// Who may read need not be allowed to write.
    fn not_swapped(&self, error: sqlx::Error) -> CommitOutcome {
        let has_written = self.has_written.load(Ordering::Relaxed);
        match refusal(&error) {
            Some(Refusal::Busy) => CommitOutcome::Conflict(format!("the catalog is busy: {error}")),
            Some(Refusal::Rejected) => CommitOutcome::Rejected(error.to_string()),
            Some(Refusal::Unauthorised | Refusal::Absent) if !has_written => {
                CommitOutcome::Rejected(error.to_string())
            }
            Some(Refusal::Unauthorised | Refusal::Absent | Refusal::Standby) => {
                CommitOutcome::TurnedAway(self.failed("commit", error))
            }
            None => CommitOutcome::Unknown(error.to_string()),
        }
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<LoadedTable>, TableError> {
        let Some(location) = self.metadata_location(table).await? else { return Ok(None) };
        if is_folded(&location) {
            // It may be there under another key, or not: nothing that waiting would change.
            let what = format!("its metadata is at {location}: {FOLDED}");
            return Err(TableError::Unsupported { table: table.clone(), what });
        }
        let io = io::file_io(&location, &self.io_properties)?;
        let metadata = read_metadata(&io, table, &location).await?;
        self.has_read.store(true, Ordering::Relaxed);
        Ok(Some(LoadedTable {
            name: table.clone(),
            metadata: metadata.into(),
            metadata_location: location,
            io,
        }))
    }

    async fn metadata_location(&self, table: &TableName) -> Result<Option<String>, TableError> {
        let only_tables = if self.has_type {
            " AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)"
        } else {
            ""
        };
        let sql = format!(
            "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 \
             AND table_namespace = $2 AND table_name = $3{only_tables}"
        );
        let namespace = table.dotted_namespace();
        self.text("load the table", &sql, &[&self.name, &namespace, &table.name]).await
    }

    pub(super) async fn create(&self, creation: &Creation<'_>) -> Result<LoadedTable, TableError> {
        let table = creation.table;
        if let Some(existing) = self.load(table).await? {
            return Ok(existing);
        }
        let (root, location) = self.new_table_location(table).await?;
        let metadata = creation.metadata(location)?;
        self.create_namespace(table).await?;
        let file = MetadataLocation::new_with_metadata(metadata.location(), &metadata);
        let io = io::file_io(metadata.location(), &self.io_properties)?;
        let written = file.to_string();
        let encoded = encode_metadata(&metadata, &file).await?;
        // Up to the root, because the directories of the namespace may be new as well.
        io::write_all(&io, &root, &[encoded]).await?;
        if self.insert_table(table, &written).await? {
            self.has_written.store(true, Ordering::Relaxed);
            let metadata = metadata.into();
            return Ok(LoadedTable {
                name: table.clone(),
                metadata,
                metadata_location: written,
                io,
            });
        }
        // Another process was first: its table it is.
        if let Err(error) = io::delete_files(&io, &[written]).await {
            tracing::warn!(%table, %error, "a metadata file that nothing refers to is left");
        }
        self.load(table).await?.ok_or_else(|| TableError::Missing { table: table.clone() })
    }

    async fn create_namespace(&self, table: &TableName) -> Result<(), TableError> {
        let sql = "INSERT INTO iceberg_namespace_properties \
                   (catalog_name, namespace, property_key, property_value) \
                   VALUES ($1, $2, 'exists', 'true') ON CONFLICT DO NOTHING";
        let namespace = table.dotted_namespace();
        self.change("create the namespace", sql, &[&self.name, &namespace]).await.map(|_| ())
    }

    /// Where to create under, and where the table is then: under the namespace's own location if it
    /// has one, else under the warehouse, as in Java.
    pub(super) async fn new_table_location(
        &self,
        table: &TableName,
    ) -> Result<(String, String), TableError> {
        let sql = "SELECT property_value FROM iceberg_namespace_properties \
                   WHERE catalog_name = $1 AND namespace = $2 AND property_key = 'location'";
        let namespace = table.dotted_namespace();
        let own = self.text("read the namespace", sql, &[&self.name, &namespace]).await?;
        if let Some(own) = own {
            if is_folded(&own) {
                return Err(TableError::Setting {
                    setting: "location of the namespace",
                    reason: format!(
                        "{own} is where the catalog puts tables of {namespace}: {FOLDED}; correct it, or \
                         name another namespace in ICEBERG_TABLE"
                    ),
                });
            }
            let location = format!("{}/{}", own.trim_end_matches('/'), table.name);
            return Ok((own, location));
        }
        let warehouse = self.warehouse.as_deref().ok_or_else(|| TableError::Setting {
            setting: "warehouse",
            reason: format!("table {table} is absent and needs a warehouse to be created in"),
        })?;
        let warehouse = absolute(warehouse)?;
        let location = format!("{warehouse}/{}/{}", table.namespace.join("/"), table.name);
        Ok((warehouse, location))
    }

    /// False if the table is there already.
    async fn insert_table(&self, table: &TableName, location: &str) -> Result<bool, TableError> {
        let (column, value) =
            if self.has_type { (", iceberg_type", ", 'TABLE'") } else { ("", "") };
        let sql = format!(
            "INSERT INTO iceberg_tables \
             (catalog_name, table_namespace, table_name, metadata_location{column}) \
             VALUES ($1, $2, $3, $4{value}) ON CONFLICT DO NOTHING"
        );
        let namespace = table.dotted_namespace();
        let values = [self.name.as_str(), &namespace, &table.name, location];
        Ok(self.change("create the table", &sql, &values).await? == 1)
    }

    /// Where the metadata that follows `loaded` is to be written.
    pub(super) fn next_metadata_location(
        &self,
        loaded: &LoadedTable,
        next: &TableMetadata,
    ) -> MetadataLocation {
        match MetadataLocation::from_str(&loaded.metadata_location) {
            Ok(current) => current.with_next_version().with_new_metadata(next),
            // Not named as catalogs name them (a registered table, say): start to count.
            Err(_) => {
                MetadataLocation::new_with_metadata(next.location(), next).with_next_version()
            }
        }
    }

    /// The compare-and-swap: the table's row, if it still names the loaded metadata, comes to name
    /// `new_location`, where the proposal's metadata is.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(super) async fn swap(
        &self,
        loaded: &LoadedTable,
        proposal: &Proposal,
        new_location: &str,
    ) -> Result<CommitOutcome, NotSent> {
        let namespace = loaded.name.dotted_namespace();
        let values =
            [new_location, &loaded.metadata_location, &self.name, &namespace, &loaded.name.name];
        let result = match &self.pool {
            // Reaching the database is apart from asking it: what fails here was not sent.
            Pool::Sqlite(db) => {
                let acquired = self.run("commit", db.acquire()).await;
                let mut connection = acquired.map_err(NotSent::because)?;
                let update = values.iter().fold(sqlx::query(SWAP), |query, v| query.bind(*v));
                let update = update.execute(&mut *connection);
                tokio::time::timeout(self.timeout, update)
                    .await
                    .map(|result| result.map(|done| done.rows_affected()))
            }
            Pool::Postgres(db) => {
                let sql = self.literal("commit", SWAP, &values).map_err(NotSent::because)?;
                let acquired = self.run("commit", db.acquire()).await;
                let mut connection = acquired.map_err(NotSent::because)?;
                let update = (&mut *connection).execute(sql.as_str());
                let done = tokio::time::timeout(self.timeout, update)
                    .await
                    .map(|result| result.map(|done| done.rows_affected()));
                if let Ok(Err(error)) = &done
                    && matches!(refusal(error), Some(Refusal::Standby))
                {
                    // The next one leads to who takes writes.
                    connection.close_on_drop();
                }
                done
            }
        };
        Ok(match result {
            Ok(Ok(1)) => {
                self.has_written.store(true, Ordering::Relaxed);
                CommitOutcome::Committed {
                    snapshot_id: proposal.snapshot_id,
                    table: LoadedTable {
                        name: loaded.name.clone(),
                        metadata: proposal.metadata.clone(),
                        metadata_location: new_location.to_string(),
                        io: loaded.io.clone(),
                    },
                }
            }
            Ok(Ok(0)) => CommitOutcome::Conflict(format!(
                "the catalog no longer names {} for the table",
                loaded.metadata_location
            )),
            Ok(Ok(rows)) => CommitOutcome::Unknown(format!(
                "{rows} rows of the catalog were changed, there should be one"
            )),
            Ok(Err(error)) => self.not_swapped(error),
            Err(_) => CommitOutcome::Unknown(format!("no answer within {:?}", self.timeout)),
        })
    }
}

/// A warehouse without a scheme is a directory here; tables need its absolute location.
fn absolute(warehouse: &str) -> Result<String, TableError> {
    let warehouse = warehouse.trim_end_matches('/');
    if warehouse.contains(':') {
        return Ok(warehouse.to_string());
    }
    let path = std::path::absolute(warehouse).map_err(|error| TableError::Setting {
        setting: "warehouse",
        reason: format!("{warehouse:?} is no directory: {error}"),
    })?;
    Ok(format!("file://{}", path.display()))
}

/// Table metadata as a file, compressed if the table wants it so.
pub(super) async fn encode_metadata(
    metadata: &TableMetadata,
    location: &MetadataLocation,
) -> Result<Encoded, TableError> {
    let (path, memory) = (location.to_string(), FileIO::new_with_memory());
    let failed = |error| TableError::storage("write", &path, error);
    metadata.write_to(&memory, location).await.map_err(failed)?;
    let bytes = memory.new_input(&path).map_err(failed)?.read().await.map_err(failed)?;
    Ok(Encoded { path, bytes })
}

async fn read_metadata(
    io: &FileIO,
    table: &TableName,
    location: &str,
) -> Result<TableMetadata, TableError> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let failed = |error| TableError::storage("read", location, error);
    let bytes = io.new_input(location).map_err(failed)?.read().await.map_err(failed)?;
    if bytes.starts_with(&GZIP) {
        let unpacked = unpack(&bytes).map_err(|error| unreadable(table, location, error))?;
        return parse_metadata(table, location, &unpacked);
    }
    parse_metadata(table, location, &bytes)
}

/// The crate would unpack it as well, but then nobody sees what it does not know of the columns.
fn unpack(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    flate2::read::MultiGzDecoder::new(packed).take(MOST_METADATA).read_to_end(&mut unpacked)?;
    match unpacked.len() as u64 {
        MOST_METADATA => Err(std::io::Error::other("it unpacks to 1 GiB or more")),
        _ => Ok(unpacked),
    }
}
