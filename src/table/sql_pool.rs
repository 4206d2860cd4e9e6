//! The databases under an SQL catalog: how they are opened, and which of their errors mean for
//! certain that nothing was done.

use std::path::Path;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteError, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{PgPool, SqlitePool};

use super::client_log::without_values;
use super::{CatalogSettings, TableError};

/// Few: commits come one at a time, and SQLite has one writer.
const MAX_CONNECTIONS: u32 = 4;

/// Connections to either database.
#[derive(Debug)]
pub(super) enum Pool {
    /// A file of this machine.
    Sqlite(SqlitePool),
    /// A server.
    Postgres(PgPool),
}

/// Opens the database that the settings name, when it is first used.
pub(super) fn open(settings: &CatalogSettings) -> Result<Pool, TableError> {
    let bad = |reason: String| TableError::Setting { setting: "catalog uri", reason };
    let (uri, shown) = (settings.uri.expose(), &settings.uri);
    if uri.starts_with("sqlite:") {
        let options = SqliteConnectOptions::from_str(uri)
            .map_err(|error| bad(format!("{shown}: {error}")))?;
        let file = options.get_filename().to_path_buf();
        if uri.contains(":memory:") || uri.contains("mode=memory") || file.as_os_str().is_empty() {
            return Err(bad(format!("{shown}: a catalog in memory would be lost; name a file")));
        }
        create_parent(&file)?;
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(settings.request_timeout / 2);
        return Ok(Pool::Sqlite(
            SqlitePoolOptions::new()
                .max_connections(MAX_CONNECTIONS)
                .acquire_timeout(settings.request_timeout)
                .connect_lazy_with(options),
        ));
    }
    if uri.starts_with("postgresql:") || uri.starts_with("postgres:") {
        let options = without_values(|| PgConnectOptions::from_str(uri))
            .map_err(|error| bad(format!("{shown}: {error}")))?;
        return Ok(Pool::Postgres(
            PgPoolOptions::new()
                .max_connections(MAX_CONNECTIONS)
                .acquire_timeout(settings.request_timeout)
                .connect_lazy_with(
                    // No statement is prepared, see `sql_text`; and a pooler may not know that parameter.
                    options
                        .application_name("icestream")
                        .statement_cache_capacity(0)
                        .extra_float_digits(None),
                ),
        ));
    }
    Err(bad(format!("{shown} is neither sqlite:///path nor postgresql://...")))
}

fn create_parent(file: &Path) -> Result<(), TableError> {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => std::fs::create_dir_all(parent)
            .map_err(|e| TableError::storage("create directory", &parent.display().to_string(), e)),
        _ => Ok(()),
    }
}

/// Answers with which a database says that it did nothing.
pub(super) enum Refusal {
    /// Another connection holds a lock; it passes.
    Busy,
    /// It takes no writes: after a failover another server does.
    Standby,
    /// Not allowed to sign in, or not allowed to do this.
    Unauthorised,
    /// The database or its tables are not there.
    Absent,
    /// It would be refused again.
    Rejected,
}

/// Only codes that mean for certain that the statement was not made. SQLite rolls back a statement
/// that ends with BUSY or LOCKED, also when that comes at its own commit. PostgreSQL aborts the
/// transaction with each of these; codes of class 57 (shutdown) and 08 (connection) may come after it.
pub(super) fn refusal(error: &sqlx::Error) -> Option<Refusal> {
    let sqlx::Error::Database(error) = error else { return None };
    let code = error.code()?;
    if error.try_downcast_ref::<SqliteError>().is_some() {
        // The low byte is the primary code: BUSY, LOCKED; PERM, AUTH; ERROR, READONLY, CANTOPEN, NOTADB.
        return match code.parse::<i32>().ok()? & 0xff {
            5 | 6 => Some(Refusal::Busy),
            3 | 23 => Some(Refusal::Unauthorised),
            1 | 8 | 14 | 26 => Some(Refusal::Rejected),
            _ => None,
        };
    }
    match code.as_ref() {
        "40001" | "40P01" | "55P03" => Some(Refusal::Busy),
        "25006" => Some(Refusal::Standby),
        "42501" | "28000" | "28P01" => Some(Refusal::Unauthorised),
        "3D000" | "42P01" => Some(Refusal::Absent),
        "42703" | "22001" => Some(Refusal::Rejected),
        _ => None,
    }
}
