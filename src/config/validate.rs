//! From gathered text to a [`Config`], or to every problem at once.
//!
//! First every value is held against its kind. Then the config is built: a getter whose value
//! is missing or bad has its problem reported and returns a placeholder, which nobody sees,
//! because with a problem there is no config.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::error::Problem;
use super::sources::{self, Gathered};
use super::values::Values;
use super::{
    BadRecords, Checkpointing, Config, HttpListen, Log, LogFormat, RestartStrategy, Shares, Write,
    servers,
};
use crate::base::memory_bound;

const MIB: u64 = 1024 * 1024;
/// What the process takes at most where nobody says so, and the least with which it works.
const MEMORY: u64 = 1024 * MIB;
const LEAST_MEMORY: u64 = 128 * MIB;
/// Its part of what a container may have: what it cannot count (see `Shares`) comes on top, and so do
/// pages of files that the kernel has not written yet.
const MEMORY_SHARE: (u64, u64) = (3, 4);
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

pub(super) fn validate(gathered: Gathered) -> Result<Config, Vec<Problem>> {
    let mut values = Values::new(gathered);
    values.check_kinds();
    let kafka = servers::kafka(&mut values);
    let iceberg = servers::iceberg(&mut values);
    let memory_limit = memory_limit(&mut values, memory_bound::of_control_group());
    plain_credentials(&mut values);
    let config = Config {
        kafka,
        iceberg,
        checkpoint: checkpointing(&mut values),
        write: write(&mut values),
        bad_records: match values.word("BAD_RECORDS").as_deref() {
            Some("skip") => BadRecords::Skip,
            _ => BadRecords::Fail,
        },
        hide_values: values.word("BAD_RECORD_VALUES").as_deref() == Some("hide"),
        expire_snapshots: values.flag("MAINTENANCE_EXPIRE_SNAPSHOTS"),
        http_listen: http_listen(&mut values),
        log: log(&mut values),
        restart: restart(&mut values),
        retry_give_up: values.millis("RETRY_GIVE_UP_MS"),
        shutdown_timeout: values.millis("SHUTDOWN_TIMEOUT_MS"),
        memory_limit,
        parallelism: parallelism(&mut values, Shares::most_shards(memory_limit)),
        effective: values.effective(),
        warnings: values.take_warnings(),
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

/// `bound` is what the system allows.
fn memory_limit(values: &mut Values, bound: Option<u64>) -> u64 {
    const NAME: &str = "MEMORY_LIMIT_MB";
    let in_mib = |bytes: u64| bytes / MIB;
    if values.raw(NAME) != Some("auto") {
        let set = values.integer(NAME).saturating_mul(MIB);
        if let Some(bound) = bound.filter(|bound| set > *bound) {
            values.warn(format!(
                "{NAME} is {}, and the control group of this process (its container) allows {} MiB: the \
                 system will end it before it reaches its limit. Leave the setting out, or give the \
                 container more",
                in_mib(set),
                in_mib(bound)
            ));
        }
        return set;
    }
    let Some(bound) = bound else {
        values.resolve(NAME, format!("{} (auto)", in_mib(MEMORY)));
        return MEMORY;
    };
    let share = bound.saturating_mul(MEMORY_SHARE.0) / MEMORY_SHARE.1 / MIB * MIB;
    let limit = share.clamp(LEAST_MEMORY, MEMORY);
    if limit > share {
        values.warn(format!(
            "the control group of this process (its container) allows {} MiB; icestream takes up to {} MiB, \
             and should have a third more",
            in_mib(bound),
            in_mib(limit)
        ));
    }
    let words = format!("{} (auto; the control group allows {})", in_mib(limit), in_mib(bound));
    values.resolve(NAME, words);
    limit
}

/// Credentials that travel so that everybody on the way can read them.
fn plain_credentials(values: &mut Values) {
    let set = |values: &Values, name: &str| values.source(name).is_some();
    let over_http = |values: &Values, name: &str| {
        let uri = values.raw(name).and_then(|uri| uri.split_once("://"));
        uri.is_some_and(|(scheme, rest)| scheme.eq_ignore_ascii_case("http") && !is_local(rest))
    };
    const OAUTH: &str = "ICEBERG_REST_OAUTH2_SERVER_URI";
    let is_rest = values.word("ICEBERG_CATALOG_TYPE").as_deref() == Some("rest");
    let catalog = is_rest && over_http(values, "ICEBERG_CATALOG_URI");
    let token = if set(values, OAUTH) { over_http(values, OAUTH) } else { catalog };
    let sasl = values.word("KAFKA_SECURITY_PROTOCOL").as_deref() == Some("sasl_plaintext");
    let plain = values.word("KAFKA_SASL_MECHANISM").as_deref() == Some("PLAIN");
    let local = values.raw("KAFKA_BROKERS").is_some_and(|all| all.split(',').all(is_local));
    let found = [
        (
            is_rest && token && set(values, "ICEBERG_REST_CREDENTIAL"),
            "ICEBERG_REST_CREDENTIAL goes over http:// to where tokens are asked for",
        ),
        (
            catalog
                && (set(values, "ICEBERG_REST_CREDENTIAL") || set(values, "ICEBERG_REST_TOKEN")),
            "the token goes over http:// to the catalog",
        ),
        (sasl && plain && !local, "KAFKA_SASL_PASSWORD goes over sasl_plaintext by PLAIN"),
    ];
    for (_, what) in found.into_iter().filter(|(found, _)| *found) {
        values.warn(format!("{what}: whoever is on the way can read it; use TLS"));
    }
    if !is_rest && values.raw("ICEBERG_CATALOG_URI").is_some_and(is_plain_postgres) {
        values.warn(String::from(
            "the password in ICEBERG_CATALOG_URI goes to PostgreSQL without TLS where that does not offer \
             it, and somebody on the way may say that it does not: whoever is on the way can read it; add \
             `?sslmode=verify-full&sslrootcert=/path/ca.pem`, or at least `?sslmode=require`",
        ));
    }
}

/// A PostgreSQL catalog with a password, on another machine, for which TLS is not demanded.
fn is_plain_postgres(uri: &str) -> bool {
    let Some(uri) = url::Url::parse(uri).ok().filter(|uri| uri.scheme().starts_with("postgres"))
    else {
        return false;
    };
    let last = |names: &[&str]| {
        let named = uri.query_pairs().filter(|(name, _)| names.contains(&name.as_ref()));
        named.last().map(|(_, value)| value.into_owned())
    };
    let host = last(&["host", "hostaddr"]).or_else(|| uri.host_str().map(str::to_owned));
    // A path is a socket of this machine.
    let is_here = host.is_none_or(|host| host.starts_with('/') || is_local(&host));
    let demanded = last(&["sslmode", "ssl-mode"]).is_some_and(|mode| {
        ["require", "verify-ca", "verify-full"].iter().any(|safe| mode.eq_ignore_ascii_case(safe))
    });
    let has_password = uri.password().is_some() || last(&["password"]).is_some();
    has_password && !is_here && !demanded
}

/// Is this the machine itself? What may follow the host is left away.
fn is_local(address: &str) -> bool {
    let authority = address.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default().trim();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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

fn http_listen(values: &mut Values) -> Option<HttpListen> {
    const NAME: &str = "HTTP_LISTEN";
    let any_port = values.source(NAME) == Some(sources::DEFAULT);
    let text = values.raw(NAME)?.to_owned();
    if text.eq_ignore_ascii_case("off") {
        return None;
    }
    let address = match text.strip_prefix("localhost:").map(|port| ("127.0.0.1", port)) {
        Some((host, port)) => format!("{host}:{port}"),
        // Of both families.
        None if text.starts_with(':') => format!("[::]{text}"),
        None => text,
    };
    let address = address.parse().ok();
    if address.is_none() {
        values.invalid(NAME, None);
    }
    Some(HttpListen { address: address?, any_port })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::config::tests::environment;

    /// The limit in MiB, how it is shown, and what is warned of.
    fn limit(set: &str, bound_mib: Option<u64>) -> (u64, String, Vec<String>) {
        let set = [("MEMORY_LIMIT_MB", set)];
        let gathered = sources::gather(None, None, environment(&set)).ok().unwrap();
        let mut values = Values::new(gathered);
        let limit = memory_limit(&mut values, bound_mib.map(|mib| mib * MIB));
        let shown = values.text("MEMORY_LIMIT_MB").unwrap();
        (limit / MIB, shown, values.take_warnings())
    }

    #[test]
    fn without_a_setting_the_limit_is_a_share_of_what_the_container_may_have() {
        for (bound, expected) in [
            (None, 1024),
            (Some(512), 384),
            (Some(513), 384),
            (Some(2048), 1024),
            (Some(1 << 30), 1024),
        ] {
            let (found, shown, warnings) = limit("auto", bound);
            assert_eq!(found, expected, "{bound:?}");
            assert!(shown.starts_with(&format!("{expected} (auto")), "{shown}");
            assert_eq!(warnings, Vec::<String>::new());
        }
        let (found, _, warnings) = limit("auto", Some(150));
        assert_eq!(found, 128);
        assert!(warnings[0].contains("allows 150 MiB"), "{warnings:?}");
    }

    #[test]
    fn a_limit_that_the_container_does_not_allow_counts_and_is_warned_of() {
        let (found, shown, warnings) = limit("1024", Some(512));
        assert_eq!((found, shown.as_str()), (1024, "1024"));
        assert!(warnings[0].starts_with("MEMORY_LIMIT_MB is 1024, and"), "{warnings:?}");
        assert!(warnings[0].contains("512 MiB"), "{warnings:?}");
        for bound in [None, Some(1024), Some(4096)] {
            assert_eq!(limit("1024", bound).2, Vec::<String>::new());
        }
    }

    #[test]
    fn credentials_that_everybody_on_the_way_can_read_are_warned_of() {
        let rest = |uri| [("ICEBERG_CATALOG_TYPE", "rest"), ("ICEBERG_CATALOG_URI", uri)];
        let sasl = [
            ("KAFKA_SASL_MECHANISM", "PLAIN"),
            ("KAFKA_SASL_USERNAME", "ice"),
            ("KAFKA_SASL_PASSWORD", "hunter2"),
        ];
        let count = |all: &[&[(&str, &str)]]| {
            let config = load(None, None, environment(&all.concat())).unwrap();
            let about = |warning: &&String| warning.contains("whoever is on the way");
            config.warnings().iter().filter(about).count()
        };
        let credential = [("ICEBERG_REST_CREDENTIAL", "id:hunter2")];
        let token = [("ICEBERG_REST_TOKEN", "hunter2")];
        assert_eq!(count(&[&rest("http://catalog:8181"), &credential]), 2);
        assert_eq!(count(&[&rest("http://catalog:8181"), &token]), 1);
        assert_eq!(count(&[&rest("http://catalog:8181")]), 0);
        assert_eq!(count(&[&rest("https://catalog:8181"), &credential]), 0);
        for local in ["http://localhost:1/a", "http://127.0.0.1:8181", "HTTP://[::1]:8181"] {
            assert_eq!(count(&[&rest(local), &credential]), 0, "{local}");
        }
        let identity = [("ICEBERG_REST_OAUTH2_SERVER_URI", "http://id/token")];
        assert_eq!(count(&[&rest("https://catalog:8181"), &credential, &identity]), 1);
        let brokers = [("KAFKA_BROKERS", "kafka-1:9092,127.0.0.1:9092")];
        let plaintext = [("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext")];
        assert_eq!(count(&[&sasl, &brokers, &plaintext]), 1);
        assert_eq!(count(&[&sasl, &plaintext]), 0, "the broker is this machine");
        assert_eq!(count(&[&sasl, &brokers, &[("KAFKA_SECURITY_PROTOCOL", "sasl_ssl")]]), 0);
        let postgres = |uri| [("ICEBERG_CATALOG_URI", uri), ("ICEBERG_WAREHOUSE", "/w")];
        for (plain, uri) in [
            (true, "postgres://u:p@db/d"),
            (true, "postgresql://u:p@db:5432/d?sslmode=prefer"),
            (true, "postgres://u:p@db/d?sslmode=disable"),
            (true, "postgres://u@db/d?password=p&sslmode=allow"),
            (true, "postgres://u:p@localhost/d?host=db"),
            (false, "postgres://u:p@db/d?sslmode=require"),
            (false, "postgres://u:p@db/d?sslmode=Verify-Full&sslrootcert=/ca.pem"),
            (false, "postgres://u@db/d"),
            (false, "postgres://u:p@127.0.0.1:5432/d"),
            (false, "postgres://u:p@[::1]/d"),
            (false, "postgres://u:p@db/d?host=/var/run/postgresql"),
        ] {
            assert_eq!(count(&[&postgres(uri)]), usize::from(plain), "{uri}");
        }
        let scram = [("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")];
        assert_eq!(count(&[&sasl, &brokers, &plaintext, &scram]), 0);
    }
}
