//! From gathered text to a [`Config`], or to every problem at once.
//!
//! First every value is held against its [`Kind`]. Then the config is built: a getter whose value
//! is missing or bad has its problem reported and returns a placeholder, which nobody sees,
//! because with a problem there is no config.

use std::fs::File;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::error::Problem;
use super::kind::Kind;
use super::settings::{self, SETTINGS, SettingDoc};
use super::sources::{self, Found, Gathered};
use super::{
    BadRecords, Checkpointing, Config, EffectiveSetting, Log, LogFormat, RestartStrategy, Shares,
    Write, servers,
};
use crate::base::secret::{is_secret_name, mask};

const MIB: u64 = 1024 * 1024;
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

pub(super) fn validate(gathered: Gathered) -> Result<Config, Vec<Problem>> {
    let mut values = Values { gathered };
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

/// The gathered values, and the problems found with them so far.
pub(super) struct Values {
    gathered: Gathered,
}

impl Values {
    fn check_kinds(&mut self) {
        for doc in SETTINGS {
            let wrong = self.raw(doc.name).and_then(|value| wrong(doc, value));
            if let Some(allowed) = wrong {
                self.invalid(doc.name, Some(allowed));
            }
        }
    }

    /// The text of a setting, if it is set and not known to be bad.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        let found = self.gathered.found.get(name)?;
        (!self.gathered.unusable.contains(name)).then_some(found.value.as_str())
    }

    /// The text of a setting that may stay unset.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.raw(name).map(str::to_owned)
    }

    /// The text of a setting, of which a missing one is a problem.
    pub(super) fn required(&mut self, name: &'static str) -> String {
        let text = self.text(name);
        if text.is_none() {
            self.missing(name);
        }
        text.unwrap_or_default()
    }

    /// Like [`Self::required`], and the text must satisfy `is_valid`.
    pub(super) fn required_if(
        &mut self,
        name: &'static str,
        is_valid: impl Fn(&str) -> bool,
    ) -> String {
        let text = self.required(name);
        if !text.is_empty() && !is_valid(&text) {
            self.invalid(name, None);
        }
        text
    }

    /// A word of a setting that takes one of several, in the case of the settings table.
    pub(super) fn word(&self, name: &'static str) -> Option<String> {
        let Some(Kind::OneOf(words)) = settings::by_name(name).map(|doc| doc.kind) else {
            return None;
        };
        let text = self.raw(name)?;
        words.iter().find(|word| word.eq_ignore_ascii_case(text)).map(|word| (*word).to_owned())
    }

    /// `true` or `false`, if set.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.raw(name).and_then(parse_bool)
    }

    fn integer(&mut self, name: &'static str) -> u64 {
        self.required(name).parse().unwrap_or_default()
    }

    fn size(&mut self, name: &'static str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or_default()
    }

    fn number(&mut self, name: &'static str) -> f64 {
        self.required(name).parse().unwrap_or_default()
    }

    pub(super) fn millis(&mut self, name: &'static str) -> Duration {
        Duration::from_millis(self.integer(name))
    }

    /// Where the value of a setting came from.
    pub(super) fn source(&self, name: &str) -> Option<&str> {
        self.gathered.found.get(name).map(|found| found.source.as_str())
    }

    /// The user's librdkafka properties.
    pub(super) fn properties(&self) -> Vec<(String, Found)> {
        let properties = self.gathered.properties.iter();
        properties.map(|(name, found)| (name.clone(), found.clone())).collect()
    }

    /// Shows `value` as the effective one of a setting that stood for something else.
    pub(super) fn resolve(&mut self, name: &'static str, value: String) {
        let default = Found { value: String::new(), source: sources::DEFAULT.to_owned() };
        self.gathered.found.entry(name).or_insert(default).value = value;
    }

    /// Takes a value away that does not apply.
    pub(super) fn unset(&mut self, name: &str) {
        self.gathered.found.remove(name);
    }

    /// Reports that a setting is missing, unless it is set to something already reported.
    pub(super) fn missing(&mut self, name: &'static str) {
        let Some(doc) = settings::by_name(name) else { return };
        if !self.gathered.unusable.contains(name) {
            let allowed = doc.kind.to_string();
            self.report(Problem::Missing { setting: doc.name, key: doc.key, allowed });
        }
    }

    /// Reports the value of a setting; `allowed` says more than the settings table does.
    pub(super) fn invalid(&mut self, name: &'static str, allowed: Option<String>) {
        let (Some(doc), Some(found)) = (settings::by_name(name), self.gathered.found.get(name))
        else {
            return;
        };
        let problem = Problem::Invalid {
            setting: doc.name,
            source_name: found.source.clone(),
            value: mask(doc.secret, &found.value),
            allowed: allowed.unwrap_or_else(|| doc.kind.to_string()),
        };
        self.gathered.unusable.insert(doc.name);
        self.report(problem);
    }

    /// Reports a problem.
    pub(super) fn report(&mut self, problem: Problem) {
        self.gathered.problems.push(problem);
    }

    fn into_problems(self) -> Vec<Problem> {
        self.gathered.problems
    }

    fn effective(&self) -> Vec<EffectiveSetting> {
        let settings = SETTINGS.iter().filter_map(|doc| {
            let found = self.gathered.found.get(doc.name)?;
            Some((doc.name.to_owned(), doc.secret, found))
        });
        let properties =
            self.gathered.properties.iter().map(|(name, found)| {
                (format!("kafka.properties.{name}"), is_secret_name(name), found)
            });
        let shown = settings.chain(properties).map(|(name, secret, found)| EffectiveSetting {
            name,
            value: mask(secret, &found.value),
            source: found.source.clone(),
        });
        shown.collect()
    }
}

/// What `value` should be, if it is not that.
fn wrong(doc: &SettingDoc, value: &str) -> Option<String> {
    let fits = match doc.kind {
        Kind::Text(_) => true,
        Kind::Integer { min, max } => in_range(value, min, max),
        Kind::IntegerOr { word, min, max } => value == word || in_range(value, min, max),
        Kind::Number { min, max } => {
            value.parse::<f64>().is_ok_and(|number| (min..=max).contains(&number))
        }
        Kind::Bool => parse_bool(value).is_some(),
        Kind::OneOf(words) => words.iter().any(|word| word.eq_ignore_ascii_case(value)),
        Kind::ExistingPath => {
            return File::open(value).err().map(|error| format!("the {} ({error})", doc.kind));
        }
    };
    (!fits).then(|| doc.kind.to_string())
}

fn in_range(value: &str, min: u64, max: u64) -> bool {
    value.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
}

fn parse_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
