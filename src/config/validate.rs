//! From gathered text to a [`Config`], or to every problem at once.
//!
//! First every value is held against its kind. Then the config is built: a getter whose value
//! is missing or bad has its problem reported and returns a placeholder, which nobody sees,
//! because with a problem there is no config.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::error::Problem;
use super::sources::Gathered;
use super::values::Values;
use super::{
    BadRecords, Checkpointing, Config, Log, LogFormat, RestartStrategy, Shares, Write, servers,
};

const MIB: u64 = 1024 * 1024;
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

pub(super) fn validate(gathered: Gathered) -> Result<Config, Vec<Problem>> {
    let mut values = Values::new(gathered);
    values.check_kinds();
    let kafka = servers::kafka(&mut values);
    let iceberg = servers::iceberg(&mut values);
    let memory_limit = values.integer("MEMORY_LIMIT_MB").saturating_mul(MIB);
    let config = Config {
        kafka,
        iceberg,
        checkpoint: checkpointing(&mut values),
        write: write(&mut values),
        bad_records: match values.word("BAD_RECORDS").as_deref() {
            Some("skip") => BadRecords::Skip,
            _ => BadRecords::Fail,
        },
        expire_snapshots: values.flag("MAINTENANCE_EXPIRE_SNAPSHOTS").unwrap_or(false),
        http_listen: http_listen(&mut values),
        log: log(&mut values),
        restart: restart(&mut values),
        retry_give_up: values.millis("RETRY_GIVE_UP_MS"),
        shutdown_timeout: values.millis("SHUTDOWN_TIMEOUT_MS"),
        memory_limit,
        parallelism: parallelism(&mut values, Shares::most_shards(memory_limit)),
        effective: values.effective(),
    };
    let problems = values.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn checkpointing(values: &mut Values) -> Checkpointing {
    Checkpointing {
        interval: values.millis("CHECKPOINT_INTERVAL_MS"),
        timeout: values.millis("CHECKPOINT_TIMEOUT_MS"),
        min_pause: values.millis("CHECKPOINT_MIN_PAUSE_MS"),
        max_bytes: values.integer("CHECKPOINT_MAX_BYTES"),
        max_records: values.integer("CHECKPOINT_MAX_RECORDS"),
        tolerable_failed: values.integer("CHECKPOINT_TOLERABLE_FAILED_CHECKPOINTS"),
        retained: values.size("CHECKPOINT_RETAINED"),
        dir: values.required("CHECKPOINT_DIR").into(),
    }
}

fn restart(values: &mut Values) -> RestartStrategy {
    const ATTEMPTS: &str = "RESTART_EXPONENTIAL_DELAY_ATTEMPTS_BEFORE_RESET_BACKOFF";
    let initial = values.millis("RESTART_EXPONENTIAL_DELAY_INITIAL_BACKOFF_MS");
    let exponential = RestartStrategy::ExponentialDelay {
        initial,
        max: values.millis("RESTART_EXPONENTIAL_DELAY_MAX_BACKOFF_MS").max(initial),
        multiplier: values.number("RESTART_EXPONENTIAL_DELAY_BACKOFF_MULTIPLIER"),
        reset_threshold: values.millis("RESTART_EXPONENTIAL_DELAY_RESET_BACKOFF_THRESHOLD_MS"),
        jitter: values.number("RESTART_EXPONENTIAL_DELAY_JITTER_FACTOR"),
        attempts: (values.raw(ATTEMPTS) != Some("infinite")).then(|| values.integer(ATTEMPTS)),
    };
    let failure_rate = RestartStrategy::FailureRate {
        max_failures: values.size("RESTART_FAILURE_RATE_MAX_FAILURES_PER_INTERVAL"),
        interval: values.millis("RESTART_FAILURE_RATE_FAILURE_RATE_INTERVAL_MS"),
        delay: values.millis("RESTART_FAILURE_RATE_DELAY_MS"),
    };
    let fixed = RestartStrategy::FixedDelay {
        attempts: values.integer("RESTART_FIXED_DELAY_ATTEMPTS"),
        delay: values.millis("RESTART_FIXED_DELAY_DELAY_MS"),
    };
    match values.word("RESTART_STRATEGY").as_deref() {
        Some("failure-rate") => failure_rate,
        Some("fixed-delay") => fixed,
        Some("none") => RestartStrategy::None,
        _ => exponential,
    }
}

fn write(values: &mut Values) -> Write {
    Write {
        batch_size: values.size("BATCH_SIZE"),
        batch_timeout: Duration::try_from_secs_f64(values.number("BATCH_TIMEOUT_SECONDS"))
            .unwrap_or_default(),
        target_file_size: values.integer("TARGET_FILE_SIZE_MB").saturating_mul(MIB),
    }
}

/// `most` is what the memory allows.
fn parallelism(values: &mut Values, most: usize) -> usize {
    const NAME: &str = "PARALLELISM";
    let (wanted, how) = match values.raw(NAME) {
        // One shard where the system does not tell: slow is better than refused.
        Some("auto") => {
            (std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(256), "auto")
        }
        _ => (values.size(NAME), ""),
    };
    if wanted > most {
        values.resolve(NAME, format!("{most} (MEMORY_LIMIT_MB allows no more)"));
    } else if !how.is_empty() {
        values.resolve(NAME, format!("{wanted} ({how})"));
    }
    wanted.min(most)
}

fn http_listen(values: &mut Values) -> Option<SocketAddr> {
    const NAME: &str = "HTTP_LISTEN";
    let text = values.raw(NAME)?.to_owned();
    if text.eq_ignore_ascii_case("off") {
        return None;
    }
    let address = match text.strip_prefix("localhost:").map(|port| ("127.0.0.1", port)) {
        Some((host, port)) => format!("{host}:{port}"),
        None if text.starts_with(':') => format!("0.0.0.0{text}"),
        None => text,
    };
    let address = address.parse().ok();
    if address.is_none() {
        values.invalid(NAME, None);
    }
    address
}

fn log(values: &mut Values) -> Log {
    const NAME: &str = "LOG_LEVEL";
    let level = values.required(NAME);
    // A filter takes any lone word for the name of a target and would then log nothing else.
    let is_word = |part: &str| {
        let part = part.trim();
        part.contains('=') || LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level))
    };
    let parses = EnvFilter::builder().parse(&level).is_ok();
    let is_filter = level.split(',').all(is_word) && parses;
    if !level.is_empty() && !is_filter {
        values.invalid(NAME, None);
    }
    let format = match values.word("LOG_FORMAT").as_deref() {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    };
    Log { level, format }
}
