//! A real PostgreSQL server with a new, empty cluster.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use sqlx::{Connection, PgConnection};

use super::process::{self, Process, under};
use super::{PATIENCE, block_on, free_port, new_dir, parts, unique};

/// A PostgreSQL server. Dropping it kills it.
pub struct Postgres {
    port: u16,
    _process: Process,
}

impl Postgres {
    /// The server that all tests share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::own)
    }

    /// A server of one's own, which may be dropped in the middle of a test.
    pub fn own() -> Self {
        Self::start(&new_dir("postgres"), &[])
    }

    /// The same that offers TLS with a certificate.
    pub fn with_certificate(certificate: &Path, key: &Path) -> Self {
        let dir = new_dir("postgres");
        let set = [("ssl_cert_file", certificate), ("ssl_key_file", key)].map(|(name, file)| {
            let own = dir.join(file.file_name().unwrap());
            std::fs::copy(file, &own).unwrap();
            std::fs::set_permissions(&own, Permissions::from_mode(0o600)).unwrap();
            format!("{name}={}", own.display())
        });
        Self::start(&dir, &["ssl=on", &set[0], &set[1]])
    }

    fn start(dir: &Path, set: &[&str]) -> Self {
        let data = dir.join("data");
        hand_over(dir);
        let mut initdb = Command::new(parts::postgres_bin().join("initdb"));
        initdb.args(["--auth=trust", "--username=icestream", "--encoding=UTF8", "--no-sync"]);
        initdb.arg("-D").arg(&data).current_dir(dir);
        process::output("initdb", as_postgres(dir, initdb));

        let port = free_port();
        let mut server = Command::new(parts::postgres_bin().join("postgres"));
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "fsync=off"]);
        server.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        server.arg(format!("unix_socket_directories={}", dir.display())).current_dir(dir);
        server.args(set.iter().flat_map(|set| ["-c", set]));
        let mut process =
            Process::start("PostgreSQL", as_postgres(dir, server), &dir.join("postgres.log"));
        process.wait_ready("take connections", PATIENCE, |_| {
            block_on(async { PgConnection::connect(&url(port, "postgres")).await }).ok().map(drop)
        });
        Self { port, _process: process }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs one statement as who may do everything, also while the server takes no writes.
    pub fn execute(&self, statement: &str) {
        let whatever = "?options[default_transaction_read_only]=off";
        sql::execute(&(url(self.port, "postgres") + whatever), statement);
    }

    /// Creates a database and gives its URL, for `ICEBERG_CATALOG_URI`.
    pub fn create_database(&self) -> String {
        let name = unique("catalog");
        let server = url(self.port, "postgres");
        sql::execute(&server, &format!("CREATE DATABASE {name}"));
        url(self.port, &name)
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://icestream@127.0.0.1:{port}/{database}")
}

fn is_root(own_dir: &Path) -> bool {
    own_dir.metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// Gives a directory to the user under which [`as_postgres`] runs what refuses to run as root.
fn hand_over(dir: &Path) {
    if is_root(dir) {
        let mut chown = Command::new("chown");
        chown.args(["-R", "postgres:"]).arg(dir);
        process::output("the hand-over of a directory to the user postgres", chown);
    }
}

/// A command that refuses to run as root, as the user postgres if root runs the tests. `dir` is a new
/// directory of its own, which becomes that user's.
pub fn as_postgres(dir: &Path, command: Command) -> Command {
    // Who may hand over is root, also after it did.
    let is_ours = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_ours {
        return command;
    }
    hand_over(dir);
    let user = ["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig", "KILL"];
    under("setpriv", &user, command)
}

/// Statements against a SQL catalog, past the code under test.
pub mod sql {
    use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

    use crate::support::block_on;

    /// Runs one statement on a `postgres://` or `sqlite://` database.
    pub fn execute(url: &str, statement: &str) {
        let done = block_on(async {
            if url.starts_with("postgres") {
                PgConnection::connect(url).await?.execute(statement).await.map(drop)
            } else {
                SqliteConnection::connect(url).await?.execute(statement).await.map(drop)
            }
        });
        done.unwrap_or_else(|error| panic!("{statement} failed: {error}"));
    }

    /// How SQLite and PostgreSQL say that a database or a table is not there.
    const ABSENT: &[&str] = &["unable to open database file", "no such table", "does not exist"];

    /// The text in the first column of the first row of a query with two text parameters; none if
    /// there is no row, no such table or no such database yet.
    pub fn text(url: &str, query: &str, first: &str, second: &str) -> Option<String> {
        let found: Result<Option<(String,)>, sqlx::Error> = block_on(async {
            if url.starts_with("postgres") {
                let mut connection = PgConnection::connect(url).await?;
                let query = sqlx::query_as(query).bind(first).bind(second);
                query.fetch_optional(&mut connection).await
            } else {
                let mut connection = SqliteConnection::connect(url).await?;
                let query = sqlx::query_as(query).bind(first).bind(second);
                query.fetch_optional(&mut connection).await
            }
        });
        match found {
            Ok(row) => row.map(|(text,)| text),
            Err(error) if ABSENT.iter().any(|part| error.to_string().contains(part)) => None,
            Err(error) => panic!("{query} failed: {error}"),
        }
    }
}
