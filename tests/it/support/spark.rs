//! Apache Spark with Iceberg's runtime: a reader that shares no code with the others.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use reqwest::Method;
use serde_json::Value;

use super::http::{self, Reply};
use super::kafka::LOG_SETTINGS;
use super::process::Process;
use super::table::Table;
use super::{PATIENCE, new_dir, parts, unique};

/// What Spark reaches into, as its own launcher opens it; a JVM keeps it closed otherwise.
const OPENED: [&str; 14] = [
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/sun.nio.cs",
    "java.base/sun.security.action",
    "java.base/sun.util.calendar",
];

/// A Spark of one core. It is started once per test process and takes one statement at a time.
pub struct Spark {
    port: u16,
    _process: Process,
}

/// Settings and temporary views of one test.
pub struct Session {
    url: String,
}

impl Spark {
    /// A new session of the one that all tests share.
    pub fn session() -> Session {
        static SHARED: OnceLock<Spark> = OnceLock::new();
        let port = SHARED.get_or_init(Self::start).port;
        Session { url: format!("http://127.0.0.1:{port}/{}", unique("session")) }
    }

    fn start() -> Self {
        let dir = new_dir("spark");
        let log_settings = dir.join("log4j2.properties");
        fs::write(&log_settings, LOG_SETTINGS).expect("cannot write log settings");
        let mut command = Command::new(parts::java());
        command.args(["-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.args(OPENED.map(|package| format!("--add-opens={package}=ALL-UNNAMED")));
        command.arg(format!("-Djava.io.tmpdir={}", dir.display()));
        command.arg(format!("-Dlog4j2.configurationFile={}", log_settings.display()));
        command.args(["-cp", &parts::spark_classpath(), "SparkSql"]).arg(&dir);
        // Else Spark asks for the address of the machine's name.
        command.env("SPARK_LOCAL_IP", "127.0.0.1").current_dir(&dir);
        let mut process = Process::start("Spark", command, &dir.join("spark.log"));
        let port = process.wait_ready("listen", PATIENCE, |process| {
            let log = process.log();
            let line = log.lines().find_map(|line| line.strip_prefix("listening "))?;
            line.trim().parse().ok()
        });
        Self { port, _process: process }
    }
}

impl Session {
    /// Makes the table's catalog known and gives the table's name in Spark's SQL.
    pub fn know(&self, table: &Table<'_>) -> String {
        for (name, value) in table.spark_catalog() {
            self.sql(&format!("SET `spark.sql.catalog.{name}`={value}"));
        }
        format!("icestream.{}", table.name())
    }

    /// The rows of a statement: objects by column.
    ///
    /// # Panics
    /// If Spark refuses it, with Spark's reason.
    pub fn sql(&self, statement: &str) -> Vec<Value> {
        let reply = self.ask(statement);
        assert_eq!(reply.status, 200, "{statement}\n{}", reply.body);
        let row = |line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in a row: {line}"))
        };
        reply.body.lines().map(row).collect()
    }

    /// Why Spark does not do a statement.
    ///
    /// # Panics
    /// If it does.
    pub fn refusal(&self, statement: &str) -> String {
        let reply = self.ask(statement);
        assert_eq!(reply.status, 400, "{statement}\n{}", reply.body);
        reply.body
    }

    /// Has Spark read a whole table and write what it read into Parquet files, for
    /// [`super::oracle::assert_same_rows`].
    pub fn read(&self, name: &str) -> PathBuf {
        let dir = new_dir("spark_read").join("rows");
        let shown = dir.display();
        self.sql(&format!(
            "INSERT OVERWRITE DIRECTORY '{shown}' USING parquet SELECT * FROM {name}"
        ));
        dir
    }

    fn ask(&self, statement: &str) -> Reply {
        http::request_within(PATIENCE, Method::POST, &self.url, &[], statement.to_owned())
            .unwrap_or_else(|error| panic!("no answer to {statement}: {error}"))
    }
}
