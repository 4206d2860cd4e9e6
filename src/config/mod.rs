//! Settings: from the environment, an env file, a TOML file and the built-in defaults to one
//! validated [`Config`].
//!
//! The process environment wins over the env file, which wins over the TOML file, which wins over
//! `config/default.toml`: what `docker run -e` or `docker compose` put into the environment
//! overrides the files, as their users expect. An empty value is no value. Every problem is
//! reported at once, and no secret is ever shown: see [`Secret`], [`Uri`] and [`Properties`].

mod env_file;
#[cfg(test)]
mod env_readers_tests;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod kind;
mod lookup;
mod owned;
#[cfg(test)]
mod page;
mod servers;
mod setting;
mod settings;
mod shares;
mod sources;
mod suggest;
#[cfg(test)]
mod tests;
mod validate;
mod values;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::secret::{Properties, Secret, Uri};

pub(crate) use error::ConfigError;
pub(crate) use settings::SETTINGS;
pub(crate) use shares::Shares;

/// All settings, validated. Made by [`load`] only.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where the records come from.
    pub kafka: Kafka,
    /// Where the rows go.
    pub iceberg: Iceberg,
    /// When a checkpoint is taken and where it is kept.
    pub checkpoint: Checkpointing,
    /// How batches and data files are cut.
    pub write: Write,
    /// What becomes of a record that cannot be a row.
    pub bad_records: BadRecords,
    /// Does a message about a bad record show nothing of its value?
    pub hide_values: bool,
    /// Are old snapshots taken out of the table along with the commits? Where it does not say, the
    /// table does.
    pub expire_snapshots: Option<bool>,
    /// Where metrics and health are served, if at all.
    pub http_listen: Option<HttpListen>,
    /// Which log lines are written, and how.
    pub log: Log,
    /// What follows a failure that may pass.
    pub restart: RestartStrategy,
    /// How long a server or disk that fails is tried again before the process gives up.
    pub retry_give_up: Duration,
    /// How long sealing and committing may take when the process is asked to stop.
    pub shutdown_timeout: Duration,
    /// Bytes that the process stays below.
    pub memory_limit: u64,
    /// Number of shards, at least one.
    pub parallelism: usize,
    effective: Vec<EffectiveSetting>,
    warnings: Vec<String>,
}

impl Config {
    /// The name of the pipeline, for ever: `KAFKA_GROUP_ID`.
    pub(crate) fn pipeline(&self) -> &str {
        &self.kafka.group_id
    }

    /// The name under which local state keeps the flow of these settings. It is their only one, and
    /// has the pipeline's name.
    pub(crate) fn flow(&self) -> &str {
        self.pipeline()
    }

    /// What each part of the process may take of the memory.
    pub(crate) fn shares(&self) -> Shares {
        Shares::new(self.memory_limit, self.parallelism)
    }

    /// Every setting that has a value, with its source and without its secrets, in the order of
    /// the settings page; the user's librdkafka properties after them.
    pub(crate) fn effective(&self) -> &[EffectiveSetting] {
        &self.effective
    }

    /// What is no mistake and should be known: credentials in the open, limits that cannot hold.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// A setting as `icestream check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EffectiveSetting {
    /// Name of the setting, or `kafka.properties.` and the property.
    pub name: String,
    /// Its value, masked if it is secret.
    pub value: String,
    /// Where the value came from: a file's path, `the environment` or `default`.
    pub source: String,
}

/// Where metrics and health are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HttpListen {
    /// The address; `[::]` is those of IPv4, too.
    pub address: SocketAddr,
    /// Nobody asked for this address: where it is taken, another port will do.
    pub any_port: bool,
}

/// Where the records come from.
#[derive(Clone, Debug)]
pub(crate) struct Kafka {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// Topic to read.
    pub topic: String,
    /// Name of the pipeline and of its consumer group.
    pub group_id: String,
    /// Who decides which partitions this process reads.
    pub assignment: Assignment,
    /// Name of this process in the consumer group; `None`: made once and kept with the checkpoints.
    pub group_instance_id: Option<String>,
    /// How long the group waits for a sign of life.
    pub session_timeout: Duration,
    /// How long partitions that the group takes away may take to be sealed and committed.
    pub revocation_timeout: Duration,
    /// Where a partition begins that the ledger does not have.
    pub auto_offset_reset: OffsetReset,
    /// Who fetches the records.
    pub fetcher: Fetcher,
    /// Security, SASL and SSL settings and the user's own properties, ready for librdkafka. None
    /// of [`owned::OWNED_PROPERTIES`] is the user's.
    pub properties: Properties,
}

/// Who decides which partitions a process reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Assignment {
    /// The consumer group shares them out among the processes of the pipeline.
    Group,
    /// Nobody: the process reads them all.
    All,
}

/// Who fetches records from the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetcher {
    /// icestream itself.
    Icestream,
    /// The same, unless a broker is too old for that.
    Auto,
    /// librdkafka.
    Librdkafka,
}

impl Fetcher {
    /// Its name, as in `KAFKA_FETCHER`, as long as brokers are not asked.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Icestream | Self::Auto => "icestream",
            Self::Librdkafka => "librdkafka",
        }
    }
}

/// Where a partition begins that the ledger does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetReset {
    /// At the first record that the topic still holds.
    Earliest,
    /// After the last record at that moment.
    Latest,
}

/// Where the rows go.
#[derive(Clone, Debug)]
pub(crate) struct Iceberg {
    /// Kind of catalog.
    pub catalog_type: CatalogType,
    /// Name under which a SQL catalog keeps its tables.
    pub catalog_name: String,
    /// Where the catalog is: `sqlite:`, `postgres://` or `postgresql://` for SQL, `http://` or
    /// `https://` for REST.
    pub catalog_uri: Uri,
    /// For SQL always set, and a `file://`, `s3://` or `s3a://` location; a path without a scheme
    /// was made absolute. For REST whatever the server calls it.
    pub warehouse: Option<String>,
    /// `namespace.table`, the namespace of one or more parts.
    pub table: String,
    /// Iceberg schema as JSON; the file existed and held a JSON object when settings were read.
    pub table_schema: Option<PathBuf>,
    /// Partition spec in words, not yet parsed.
    pub partition_spec: Option<String>,
    /// Properties of a table that is created.
    pub table_properties: HashMap<String, String>,
    /// Add the `_kafka_*` columns to a table that is created.
    pub kafka_columns: bool,
    /// How to log in to a REST catalog.
    pub rest: Rest,
    /// `s3.*` properties, ready for Iceberg's file IO.
    pub io_properties: Properties,
}

/// Kind of catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CatalogType {
    /// A SQLite file or a PostgreSQL database.
    Sql,
    /// A server that speaks Iceberg's REST protocol.
    Rest,
}

/// How to log in to a REST catalog.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    /// `client-id:client-secret`. Never set together with `token`.
    pub credential: Option<Secret>,
    /// A fixed bearer token.
    pub token: Option<Secret>,
    /// Scope to ask a token for.
    pub scope: Option<String>,
    /// Audience to ask a token for.
    pub audience: Option<String>,
    /// Resource to ask a token for.
    pub resource: Option<String>,
    /// PEM file of authorities to trust beside those of the system.
    pub ca_file: Option<String>,
    /// Where a token is asked for; unset for the catalog's own endpoint.
    pub oauth2_server_uri: Option<Uri>,
}

/// When a checkpoint is taken and where it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Checkpointing {
    /// From one checkpoint's start to the next one's.
    pub interval: Duration,
    /// How long the shards may take to seal.
    pub timeout: Duration,
    /// Least time between the end of one and the start of the next.
    pub min_pause: Duration,
    /// Bytes of records read since the last one that start one early.
    pub max_bytes: u64,
    /// Records read since the last one that start one early.
    pub max_records: u64,
    /// Ones in a row that may fail before they are prepared.
    pub tolerable_failed: u64,
    /// Finished ones to keep.
    pub retained: usize,
    /// RocksDB's directory.
    pub dir: PathBuf,
}

/// What follows a failure that may pass: names and meaning are Flink's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RestartStrategy {
    /// A restart after a wait that grows from failure to failure.
    ExponentialDelay {
        /// Wait after the first failure.
        initial: Duration,
        /// Longest wait, not below the first.
        max: Duration,
        /// Each wait is so many times the one before; at least 1.
        multiplier: f64,
        /// After so long without a failure all begins anew.
        reset_threshold: Duration,
        /// Part of a wait that chance adds or takes away, 0 to 1.
        jitter: f64,
        /// Restarts until all begins anew; `None` is any number.
        attempts: Option<u64>,
    },
    /// A restart as long as failures are rare.
    FailureRate {
        /// Failures within the interval that are followed by a restart.
        max_failures: usize,
        /// The interval.
        interval: Duration,
        /// Wait before each restart.
        delay: Duration,
    },
    /// So many restarts.
    FixedDelay {
        /// Restarts in the life of the process.
        attempts: u64,
        /// Wait before each.
        delay: Duration,
    },
    /// No restart.
    None,
}

/// How batches and data files are cut.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Rows in one Arrow batch.
    pub batch_size: usize,
    /// How long a batch that is not full waits.
    pub batch_timeout: Duration,
    /// Bytes at which a data file is closed.
    pub target_file_size: u64,
}

/// What becomes of a record that cannot be a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRecords {
    /// Stop at the record and name it.
    Fail,
    /// Leave it out and count it.
    Skip,
}

/// Which log lines are written, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// A level or filter directives, known to parse.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads and validates all settings. `environment` is [`process_environment`], or what a test says.
///
/// # Errors
/// Everything that is wrong with the settings at once. If a file cannot be read or parsed at all,
/// that alone.
pub(crate) fn load(
    env_file: Option<&Path>,
    config_file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    sources::gather(env_file, config_file, environment)
        .and_then(validate::validate)
        .map_err(|problems| ConfigError { problems })
}

/// The environment of this process. Bytes that are not UTF-8 are replaced, where
/// [`std::env::vars`] would panic.
pub(crate) fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
}
