//! Why the demo did not come to a good end.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rdkafka::error::KafkaError;

use super::progress::grouped;
use crate::config::ConfigError;
use crate::failure::{Failure, exit};
use crate::table::TableError;

/// Why the demo did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// More records than the embedded broker keeps.
    #[error(
        "the embedded broker keeps at most {} records of the demo in memory, and {} were asked for; use fewer --records, or `icestream run` with a Kafka of your own",
        grouped(*.most), grouped(*.asked)
    )]
    TooManyRecords {
        /// Records asked for.
        asked: u64,
        /// Records that fit.
        most: u64,
    },
    /// More kills than records.
    #[error(
        "{kills} kills need at least as many records, and there are {records}; use fewer --kills"
    )]
    TooManyKills {
        /// Kills asked for.
        kills: u32,
        /// Records asked for.
        records: u64,
    },
    /// The directory of `--keep` holds something already.
    #[error(
        "{path} is not an empty directory; name one that is empty or does not exist for --keep"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A path that an env file cannot hold.
    #[error(
        "{path:?} is not UTF-8 or holds a line break; use another directory for --keep, or another TMPDIR"
    )]
    Path {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory of the demo.
    #[error("cannot {what} {path}")]
    File {
        /// The operation.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The program's own file, which the child runs.
    #[error("cannot find the program's own file, which the demo runs as its child")]
    Executable(#[source] std::io::Error),
    /// Tasks or signals.
    #[error("cannot start what the demo runs on")]
    Runtime(#[source] std::io::Error),
    /// Standard output is gone.
    #[error("cannot write the result to standard output")]
    Output(#[source] std::io::Error),
    /// The embedded broker or the producer.
    #[error("the embedded broker: cannot {what}")]
    Broker {
        /// The operation.
        what: &'static str,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// The embedded broker does not hold what it acknowledged: nothing can be proven with it.
    #[error(
        "partition {partition} of the embedded broker holds offsets {low} to {high}, and {acknowledged} records were acknowledged in all partitions, {total} are held; this is a fault of the demo, not of the table"
    )]
    BrokerLost {
        /// The partition that shows it.
        partition: i32,
        /// First offset kept.
        low: i64,
        /// End of the log.
        high: i64,
        /// Records acknowledged.
        acknowledged: u64,
        /// Records held.
        total: u64,
    },
    /// Settings that the demo itself wrote.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The catalog.
    #[error(transparent)]
    Catalog(Box<Failure>),
    /// The table.
    #[error(transparent)]
    Table(Box<TableError>),
    /// The table is not where the child should have made it.
    #[error("the catalog has no table {table}, though the child ended well")]
    TableAbsent {
        /// The table.
        table: String,
    },
    /// Reading the table back.
    #[error("cannot read the table back")]
    Scan(#[source] Box<iceberg::Error>),
    /// A column of the table is not what icestream makes.
    #[error("column {column} of the table is missing or not of type {wanted}")]
    Column {
        /// The column.
        column: &'static str,
        /// The type.
        wanted: &'static str,
    },
    /// The child ended by itself, and not well.
    #[error("icestream run ended by itself ({status}); the end of {log}:\n{tail}", log = .log.display())]
    Child {
        /// Its exit code or signal.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The child lives and does nothing.
    #[error("icestream run moved nothing for {after:?}; the end of {log}:\n{tail}", log = .log.display())]
    Stuck {
        /// How long.
        after: Duration,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A signal.
    #[error("interrupted; the child is ended and nothing is left behind, except what --keep keeps")]
    Interrupted,
    /// The table does not hold every record once.
    #[error("the table is wrong: {repeated} repeated, {missing} missing, {unknown} never produced; everything is left in {dir} for a look", dir = .dir.display())]
    Wrong {
        /// The demo's directory.
        dir: PathBuf,
        /// Rows beyond the first of a record.
        repeated: u64,
        /// Records without a row.
        missing: u64,
        /// Rows of records that were never produced.
        unknown: u64,
    },
}

impl From<Failure> for DemoError {
    fn from(failure: Failure) -> Self {
        Self::Catalog(Box::new(failure))
    }
}

impl From<TableError> for DemoError {
    fn from(error: TableError) -> Self {
        Self::Table(Box::new(error))
    }
}

impl DemoError {
    /// Is the demo's directory needed to find out why?
    pub(super) fn leaves_evidence(&self) -> bool {
        matches!(self, Self::Child { .. } | Self::Stuck { .. } | Self::Wrong { .. })
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted => exit::INTERRUPTED,
            _ => exit::FAILED,
        }
    }
}
