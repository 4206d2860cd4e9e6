use std::collections::BTreeMap;
use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;
use crate::base::masking::MASK;
use crate::config::kind::Kind;
use crate::config::owned::OWNED_PROPERTIES;
use crate::config::page::settings_page;

/// The least that a run needs, and `more`, which wins.
pub(super) fn environment(more: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let mut all = BTreeMap::from([
        ("KAFKA_BROKERS", "127.0.0.1:9092"),
        ("KAFKA_TOPIC", "readings"),
        ("KAFKA_GROUP_ID", "pipeline"),
        ("ICEBERG_TABLE", "lake.readings"),
    ]);
    all.extend(more.iter().copied());
    let owned = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    owned.collect::<Vec<_>>().into_iter()
}

fn loaded(more: &[(&str, &str)]) -> Config {
    load(None, None, environment(more)).unwrap()
}

fn refused(more: &[(&str, &str)]) -> Vec<String> {
    problems(load(None, None, environment(more)))
}

pub(super) fn problems<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> Vec<String> {
    result.unwrap_err().problems.iter().map(ToString::to_string).collect()
}

pub(super) fn file(text: &str, suffix: &str) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn with_toml(text: &str) -> Result<Config, ConfigError> {
    load(None, Some(file(text, ".toml").path()), environment(&[]))
}

fn with_env_file(text: &str) -> Result<Config, ConfigError> {
    load(Some(file(text, ".env").path()), None, environment(&[]))
}

fn shown(config: &Config, name: &str) -> Option<(String, String)> {
    let setting = config.effective().iter().find(|setting| setting.name == name)?;
    Some((setting.value.clone(), setting.source.clone()))
}

#[test]
fn what_must_be_set_is_enough() {
    let config = loaded(&[]);
    assert_eq!(config.kafka.topic, "readings");
    assert_eq!(config.kafka.auto_offset_reset, OffsetReset::Earliest);
    assert_eq!(config.iceberg.catalog_type, CatalogType::Sql);
    assert_eq!(config.checkpoint.interval, Duration::from_secs(60));
    assert_eq!(config.write.target_file_size, 128 * 1024 * 1024);
    assert!((128..=1024).contains(&(config.memory_limit >> 20)));
    assert_eq!(config.bad_records, BadRecords::Fail);
    let address = "127.0.0.1:9464".parse().unwrap();
    assert_eq!(config.http_listen, Some(HttpListen { address, any_port: true }));
    assert_eq!(config.log, Log { level: "info".to_owned(), format: LogFormat::Text });
    assert!(config.parallelism >= 1);
}

#[test]
fn every_default_in_the_table_is_the_one_built_in() {
    let config = loaded(&[]);
    for doc in SETTINGS {
        let Some((value, source)) = shown(&config, doc.name) else { continue };
        let value = match doc.name {
            "PARALLELISM" | "MEMORY_LIMIT_MB" => "auto".to_owned(),
            "ICEBERG_WAREHOUSE" => "icestream-data/warehouse".to_owned(),
            _ => value,
        };
        if source == "default" {
            assert!(doc.default.contains(&value), "{}: {} is not {value}", doc.name, doc.default);
        }
    }
    let without = |name: &str| shown(&config, name).is_none();
    for doc in SETTINGS.iter().filter(|doc| doc.default.starts_with("none")) {
        assert!(without(doc.name), "{} has a default", doc.name);
    }
}

#[test]
fn the_default_file_names_every_key() {
    for doc in SETTINGS {
        let key = doc.key.rsplit('.').next().unwrap();
        let mut lines = sources::DEFAULTS.lines();
        let names = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(lines.any(names), "{}", doc.key);
    }
}

#[test]
fn what_must_be_set_and_is_not_is_reported_all_at_once() {
    let missing = problems(load(None, None, std::iter::empty()));
    let required: Vec<_> = SETTINGS.iter().filter(|doc| doc.default == "required").collect();
    assert_eq!(missing.len(), required.len(), "{missing:?}");
    for (problem, doc) in missing.iter().zip(required) {
        assert!(problem.starts_with(&format!("{} is not set", doc.name)), "{problem}");
        assert!(problem.contains(doc.key), "{problem}");
    }
}

#[test]
fn every_problem_of_every_source_is_reported_at_once() {
    let toml = file(
        "[kafka]\nbrokerz = 1\n[checkpoint]\nretained = 0\n[kafka.properties]\n\"group.id\" = \"x\"\n",
        ".toml",
    );
    let env = file("KAFKA_TOPIK=x\nBATCH_SIZE=many\nA=b c\n", ".env");
    let more = [("HTTP_LISTEN", "everywhere"), ("LOG_FORMAT", "xml"), ("ICEBERG_TABLE", "t")];
    let result = load(Some(env.path()), Some(toml.path()), environment(&more));
    let text = result.unwrap_err().to_string();
    let expected = [
        "9 problems with the settings:",
        "`kafka.brokerz`",
        "did you mean `kafka.brokers`?",
        "CHECKPOINT_RETAINED is `0`",
        "`group.id`",
        "use KAFKA_GROUP_ID",
        "`KAFKA_TOPIK`",
        "BATCH_SIZE is `many`",
        "line 3 of",
        "HTTP_LISTEN is `everywhere` (from the environment)",
        "LOG_FORMAT is `xml`",
        "`text` or `json`",
        "ICEBERG_TABLE is `t`",
    ];
    for part in expected {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(text.lines().count(), 10, "{text}");
}

#[test]
fn the_environment_wins_over_the_env_file_over_the_toml_file_over_the_default() {
    let toml = file(
        "[write]\nbatch_size = 1\n[checkpoint]\nretained = 1\n[log]\nlevel = \"warn\"\n",
        ".toml",
    );
    let env = file("BATCH_SIZE=2\nCHECKPOINT_RETAINED=2\n", ".env");
    let more = [("BATCH_SIZE", "3")];
    let config = load(Some(env.path()), Some(toml.path()), environment(&more)).unwrap();
    assert_eq!((config.write.batch_size, config.checkpoint.retained), (3, 2));
    assert_eq!(config.log.level, "warn");
    let source = |name| shown(&config, name).unwrap().1;
    assert_eq!(source("BATCH_SIZE"), "the environment");
    assert_eq!(source("CHECKPOINT_RETAINED"), env.path().display().to_string());
    assert_eq!(source("LOG_LEVEL"), toml.path().display().to_string());
    assert_eq!(source("LOG_FORMAT"), "default");
}

#[test]
fn an_empty_value_is_no_value() {
    let env = file("BATCH_SIZE=7\nKAFKA_SASL_USERNAME=\n", ".env");
    let more = [("BATCH_SIZE", ""), ("ICEBERG_PARTITION_SPEC", " ")];
    let config = load(Some(env.path()), None, environment(&more)).unwrap();
    assert_eq!(config.write.batch_size, 7);
    assert_eq!(config.iceberg.partition_spec, None);
    assert!(config.iceberg.table_properties.is_empty());
}

#[test]
fn each_bound_is_inside_and_one_past_it_is_outside() {
    for doc in SETTINGS {
        let (inside, outside) = match doc.kind {
            Kind::Integer { min, max } | Kind::IntegerOr { min, max, .. } => {
                let below = min.checked_sub(1).map_or("-1".to_owned(), |below| below.to_string());
                (
                    vec![min.to_string(), max.to_string()],
                    vec![below, (max + 1).to_string(), "1.5".into(), "many".into()],
                )
            }
            Kind::Number { min, max } => (
                vec![min.to_string(), max.to_string()],
                vec![(min - 0.001).to_string(), (max + 0.1).to_string(), "NaN".into(), "x".into()],
            ),
            Kind::Bool => (vec!["true".into(), "FALSE".into()], vec!["yes".into(), "1".into()]),
            Kind::OneOf(_) => (vec![], vec!["neither".into()]),
            Kind::ExistingPath => (vec![], vec!["/no/such/file".into()]),
            Kind::Text(_) => continue,
        };
        for value in inside {
            load(None, None, environment(&[(doc.name, &value)])).unwrap();
        }
        for value in outside {
            let problems = refused(&[(doc.name, &value)]);
            let expected = format!("{} is `{value}` (from the environment)", doc.name);
            assert!(problems.iter().any(|problem| problem.starts_with(&expected)), "{problems:?}");
        }
    }
}

#[test]
fn numbers_keep_their_units() {
    let config = loaded(&[
        ("CHECKPOINT_MIN_PAUSE_MS", "250"),
        ("BATCH_TIMEOUT_SECONDS", "0.5"),
        ("TARGET_FILE_SIZE_MB", "2"),
        ("MEMORY_LIMIT_MB", "128"),
        ("RETRY_GIVE_UP_MS", "5000"),
        ("SHUTDOWN_TIMEOUT_MS", "700"),
        ("PARALLELISM", "3"),
    ]);
    assert_eq!(config.checkpoint.min_pause, Duration::from_millis(250));
    assert_eq!(config.write.batch_timeout, Duration::from_millis(500));
    assert_eq!(config.write.target_file_size, 2 << 20);
    assert_eq!(config.memory_limit, 128 << 20);
    assert_eq!(config.retry_give_up, Duration::from_secs(5));
    assert_eq!(config.shutdown_timeout, Duration::from_millis(700));
    assert_eq!(config.parallelism, 3);
}

#[test]
fn each_restart_strategy_has_its_own_settings_and_flinks_defaults() {
    const SECOND: Duration = Duration::from_secs(1);
    let with = |strategy: &'static str, more: &[(&'static str, &'static str)]| {
        loaded(&[&[("RESTART_STRATEGY", strategy)], more].concat()).restart
    };
    let exponential = RestartStrategy::ExponentialDelay {
        initial: SECOND,
        max: 60 * SECOND,
        multiplier: 1.5,
        reset_threshold: 3600 * SECOND,
        jitter: 0.1,
        attempts: None,
    };
    assert_eq!((loaded(&[]).restart, with("Exponential-Delay", &[])), (exponential, exponential));
    let attempts = [("RESTART_EXPONENTIAL_DELAY_ATTEMPTS_BEFORE_RESET_BACKOFF", "7")];
    assert!(matches!(
        with("exponential-delay", &attempts),
        RestartStrategy::ExponentialDelay { attempts: Some(7), .. }
    ));
    // A longest wait below the first one is as long as that.
    let short = [("RESTART_EXPONENTIAL_DELAY_MAX_BACKOFF_MS", "10")];
    assert!(matches!(
        with("exponential-delay", &short),
        RestartStrategy::ExponentialDelay { max: SECOND, .. }
    ));
    let rate =
        RestartStrategy::FailureRate { max_failures: 1, interval: 60 * SECOND, delay: SECOND };
    assert_eq!(with("failure-rate", &[]), rate);
    let fixed = [("RESTART_FIXED_DELAY_ATTEMPTS", "3"), ("RESTART_FIXED_DELAY_DELAY_MS", "0")];
    let expected = RestartStrategy::FixedDelay { attempts: 3, delay: Duration::ZERO };
    assert_eq!(with("fixed-delay", &fixed), expected);
    assert_eq!(with("none", &[]), RestartStrategy::None);
    assert_eq!(loaded(&[]).checkpoint.tolerable_failed, 30);
}

#[test]
fn there_are_no_more_shards_than_the_memory_allows() {
    let many = [("PARALLELISM", "256")];
    assert_eq!(loaded(&[many[0], ("MEMORY_LIMIT_MB", "65536")]).parallelism, 256);
    let config = loaded(&[many[0], ("MEMORY_LIMIT_MB", "128")]);
    assert_eq!(config.parallelism, 3);
    let (value, source) = shown(&config, "PARALLELISM").unwrap();
    assert_eq!(value, "3 (MEMORY_LIMIT_MB allows no more)");
    assert_eq!(source, "the environment");
}

#[test]
fn texts_are_held_against_their_rules() {
    let bad = [
        ("KAFKA_BROKERS", ["", "host:", "host:0", "host:99999", "a:1,,b:2", "PLAINTEXT://h:1"]),
        ("KAFKA_TOPIC", ["a b", "a/b", ".", "..", "ü", "a:b"]),
        ("KAFKA_GROUP_ID", ["a b", "a/b", ".", "..", "ü", "a,b"]),
        ("ICEBERG_TABLE", ["t", ".t", "n.", "n..t", "n. t", "."]),
        ("HTTP_LISTEN", ["host:1", "127.0.0.1", "127.0.0.1:99999", "on", ":x", "9464"]),
        ("LOG_LEVEL", ["verbose", "info,verbose", "a=b=c", "x=loud", "info,", "5"]),
        (
            "ICEBERG_CATALOG_URI",
            ["sqlite://", "sqlite::memory:", "mysql://h/d", "db", "http://h", "postgres:"],
        ),
        (
            "ICEBERG_WAREHOUSE",
            ["s3://", "gs://b/p", "file://relative", "http://h", "s3:///p", "hdfs://h/p"],
        ),
        ("AWS_ENDPOINT_URL_S3", ["host:9000", "ftp://h", "http://", "x", "s3://b", "9000"]),
        ("ICEBERG_REST_OAUTH2_SERVER_URI", ["host", "ftp://h", "http://", "x", "s3://b", "1"]),
        ("ICEBERG_TABLE_PROPERTIES", ["a", "=b", "a=1,b", "a=1,a=2", "icestream.x=1", "a=1,,=2"]),
    ];
    for (name, values) in bad {
        for value in values {
            let problems = refused(&[(name, value)]);
            assert_eq!(problems.len(), 1, "{name}={value}: {problems:?}");
            assert!(problems[0].starts_with(name), "{problems:?}");
        }
    }
    let good = [
        ("KAFKA_BROKERS", "a, b:1,[::1]:9092,[::1]"),
        ("KAFKA_TOPIC", "a.b_c-D9"),
        ("ICEBERG_TABLE", "a.b.c"),
        ("LOG_LEVEL", "WARN"),
        ("LOG_LEVEL", "info,icestream::table=debug"),
        ("ICEBERG_CATALOG_URI", "sqlite:catalog.db"),
        ("ICEBERG_WAREHOUSE", "s3://bucket/prefix"),
        (
            "ICEBERG_TABLE_PROPERTIES",
            "write.parquet.compression-codec=zstd, note=a=b,icestream.maintained=false,",
        ),
    ];
    for (name, value) in good {
        load(None, None, environment(&[(name, value)])).unwrap();
    }
}

#[test]
fn http_listens_where_it_is_told_or_not_at_all() {
    let listen = |text| loaded(&[("HTTP_LISTEN", text)]).http_listen.map(|a| a.address.to_string());
    assert_eq!(listen("off"), None);
    assert_eq!(listen(":9000").as_deref(), Some("[::]:9000"));
    assert_eq!(listen("localhost:9000").as_deref(), Some("127.0.0.1:9000"));
    assert_eq!(listen("[::]:9000").as_deref(), Some("[::]:9000"));
    assert!(!loaded(&[("HTTP_LISTEN", "127.0.0.1:9464")]).http_listen.unwrap().any_port);
}

#[test]
fn an_unknown_key_of_a_toml_file_is_an_error_with_a_suggestion() {
    let cases = [
        ("[kafka]\ntopics = \"x\"\n", "`kafka.topics`", "did you mean `kafka.topic`?"),
        (
            "[checkpoint]\ninterval = 5\n",
            "`checkpoint.interval`",
            "did you mean `checkpoint.interval_ms`?",
        ),
        ("paralelism = 2\n", "`paralelism`", "did you mean `parallelism`?"),
        ("[kafak]\n", "`kafak`", ""),
        ("[iceberg.rest.deep]\nx = 1\n", "`iceberg.rest.deep.x`", ""),
    ];
    for (text, key, suggestion) in cases {
        let problems = problems(with_toml(text));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(key) && problems[0].contains(suggestion), "{problems:?}");
    }
}

#[test]
fn a_list_where_one_value_belongs_is_an_error_that_does_not_show_it() {
    let problems = problems(with_toml("[kafka]\nsasl_password = [\"hunter2\"]\n"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("`kafka.sasl_password`") && !problems[0].contains("hunter2"));
}

#[test]
fn an_unknown_name_of_an_env_file_is_an_error_if_it_looks_like_ours() {
    let ours = [
        ("KAFKA_ADVERTISED=x", None),
        ("KAFKA_BROKER=x", Some("KAFKA_BROKERS")),
        ("kafka_topic=x", Some("KAFKA_TOPIC")),
        ("AWS_PROFILE=x", None),
        ("PARALELISM=2", Some("PARALLELISM")),
        ("CHECKPOINT_INTERVAL=5", Some("CHECKPOINT_INTERVAL_MS")),
        ("MEMORY_LIMIT=5", Some("MEMORY_LIMIT_MB")),
    ];
    for (line, suggestion) in ours {
        let problems = problems(with_env_file(line));
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
        let (name, _) = line.split_once('=').unwrap();
        assert!(problems[0].contains(&format!("unknown setting `{name}`")), "{problems:?}");
        let proposes = problems[0].contains("did you mean");
        match suggestion {
            Some(meant) => assert!(problems[0].ends_with(&format!("`{meant}`?")), "{problems:?}"),
            None => assert!(!proposes, "{problems:?}"),
        }
    }
    with_env_file("POSTGRES_PASSWORD=x\nCOMPOSE_PROJECT_NAME=x\n").unwrap();
}

#[test]
fn in_the_environment_only_a_near_miss_of_a_setting_that_is_not_set_is_an_error() {
    let problems = refused(&[("CHECKPOINT_INTERVAL", "5000")]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("did you mean `CHECKPOINT_INTERVAL_MS`?"), "{problems:?}");
    loaded(&[
        ("KAFKA_TOPICS", "somebody else's: KAFKA_TOPIC is set"),
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("KAFKA_HEAP_OPTS", "-Xmx1g"),
        ("PATH", "/bin"),
    ]);
}

#[test]
fn a_file_that_cannot_be_read_or_parsed_is_the_only_thing_reported() {
    let missing = load(Some("/no/such.env".as_ref()), None, std::iter::empty());
    let missing = problems(missing);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].starts_with("/no/such.env cannot be read"), "{missing:?}");

    let bad = file("[kafka]\nsasl_password = hunter2 hunter3\n", ".toml");
    let problems = problems(load(None, Some(bad.path()), std::iter::empty()));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("line 2"), "{problems:?}");
    assert!(!problems[0].contains("hunter"), "{problems:?}");
}

#[test]
fn kafka_gets_security_settings_and_the_users_properties() {
    let toml = file(
        "[kafka.properties]\n\"queued.max.messages.kbytes\" = 131072\nfetch.queue.backoff.ms = 5\n\"socket.nagle.disable\" = true\n",
        ".toml",
    );
    let more = [
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ("KAFKA_SASL_MECHANISM", "scram-sha-512"),
        ("KAFKA_SASL_USERNAME", "ice"),
        ("KAFKA_SASL_PASSWORD", "hunter2"),
    ];
    let config = load(None, Some(toml.path()), environment(&more)).unwrap();
    let properties: Vec<_> = config.kafka.properties.iter().collect();
    let expected = [
        ("fetch.queue.backoff.ms", "5"),
        ("queued.max.messages.kbytes", "131072"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.password", "hunter2"),
        ("sasl.username", "ice"),
        ("security.protocol", "sasl_ssl"),
        ("socket.nagle.disable", "true"),
    ];
    assert_eq!(properties, expected);
}

#[test]
fn a_property_that_icestream_owns_is_refused_with_the_reason() {
    for (property, reason) in OWNED_PROPERTIES {
        let problems =
            problems(with_toml(&format!("[kafka.properties]\n\"{property}\" = \"x\"\n")));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(&format!("`{property}`")), "{problems:?}");
        assert!(problems[0].ends_with(reason), "{problems:?}");
    }
}

#[test]
fn a_login_is_complete_or_refused() {
    let protocol = ("KAFKA_SECURITY_PROTOCOL", "sasl_ssl");
    let missing = refused(&[protocol]);
    assert_eq!(missing.len(), 3, "{missing:?}");
    let ignored = refused(&[("KAFKA_SASL_PASSWORD", "hunter2")]);
    assert_eq!(ignored.len(), 1, "{ignored:?}");
    assert!(ignored[0].contains("`plaintext` does not log in"), "{ignored:?}");
    let half = refused(&[("AWS_ACCESS_KEY_ID", "AKIA")]);
    assert!(half[0].starts_with("AWS_SECRET_ACCESS_KEY is not set"), "{half:?}");
    let both = refused(&[("ICEBERG_REST_TOKEN", "hunter2"), ("ICEBERG_REST_CREDENTIAL", "a:b")]);
    assert!(both[0].contains("only one of them"), "{both:?}");
}

#[test]
fn the_defaults_of_sqlite_are_not_used_for_another_catalog() {
    let problems = refused(&[("ICEBERG_CATALOG_TYPE", "rest")]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("ICEBERG_CATALOG_URI is not set"), "{problems:?}");
    let rest = [("ICEBERG_CATALOG_TYPE", "rest"), ("ICEBERG_CATALOG_URI", "http://c:8181")];
    assert_eq!(loaded(&rest).iceberg.warehouse, None);
    let problems = refused(&[("ICEBERG_CATALOG_URI", "postgres://u:p@db/c")]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("ICEBERG_WAREHOUSE is not set"), "{problems:?}");
}

#[test]
fn a_warehouse_that_is_a_path_becomes_an_absolute_location() {
    let config = loaded(&[("ICEBERG_WAREHOUSE", "some/dir")]);
    let expected = std::env::current_dir().unwrap().join("some/dir");
    let expected = format!("file://{}", expected.display());
    assert_eq!(config.iceberg.warehouse.as_deref(), Some(expected.as_str()));
    assert_eq!(shown(&config, "ICEBERG_WAREHOUSE").unwrap().0, expected);
}

#[test]
fn s3_gets_the_usual_names_and_what_another_store_needs() {
    let config = loaded(&[
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_ENDPOINT_URL", "http://everything:1"),
        ("AWS_ENDPOINT_URL_S3", "http://s3:9000"),
    ]);
    let expected = [
        ("s3.access-key-id", "AKIA"),
        ("s3.endpoint", "http://s3:9000"),
        ("s3.path-style-access", "true"),
        ("s3.region", "us-east-1"),
        ("s3.secret-access-key", "hunter2"),
    ];
    assert_eq!(config.iceberg.io_properties.iter().collect::<Vec<_>>(), expected);
    let config = loaded(&[("AWS_DEFAULT_REGION", "eu-central-1")]);
    let properties: Vec<_> = config.iceberg.io_properties.iter().collect();
    assert_eq!(properties, [("s3.region", "eu-central-1")]);
}

#[test]
fn a_table_schema_that_is_not_json_is_refused() {
    let schema = file("{", ".json");
    let problems = refused(&[("ICEBERG_TABLE_SCHEMA", schema.path().to_str().unwrap())]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("EOF while parsing"), "{problems:?}");
}

/// Every secret set, in the ways that exist.
fn secrets() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> =
        SETTINGS.iter().filter(|doc| doc.secret).map(|doc| (doc.name, "hunter2")).collect();
    all.retain(|(name, _)| *name != "ICEBERG_REST_TOKEN");
    all.extend([
        ("KAFKA_SECURITY_PROTOCOL", "sasl_ssl"),
        ("KAFKA_SASL_MECHANISM", "PLAIN"),
        ("KAFKA_SASL_USERNAME", "ice"),
        ("S3_SSE_TYPE", "custom"),
        ("ICEBERG_CATALOG_URI", "postgres://ice:hunter2@db/c?sslpassword=hunter2"),
        ("ICEBERG_WAREHOUSE", "s3://b/p"),
        ("AWS_ENDPOINT_URL_S3", "http://ice:hunter2@s3:9000"),
    ]);
    all
}

#[test]
fn no_secret_is_in_the_debug_text_or_the_effective_settings() {
    let toml = file("[kafka.properties]\n\"ssl.keystore.password\" = \"hunter2\"\n", ".toml");
    let config = load(None, Some(toml.path()), environment(&secrets())).unwrap();
    let debug = format!("{config:?} {config:#?}");
    assert!(!debug.contains("hunter2"), "{debug}");
    assert!(debug.contains("postgres://ice:***@db/c?sslpassword=***"), "{debug}");
    let effective = format!("{:?}", config.effective());
    assert!(!effective.contains("hunter2"), "{effective}");
    for doc in SETTINGS.iter().filter(|doc| doc.secret && doc.name != "ICEBERG_REST_TOKEN") {
        assert_eq!(shown(&config, doc.name).unwrap().0, MASK, "{}", doc.name);
    }
    assert_eq!(config.kafka.properties.get("sasl.password"), Some("hunter2"));
    assert!(config.iceberg.catalog_uri.expose().contains("hunter2"));
}

#[test]
fn no_secret_is_in_an_error() {
    let mut more = secrets();
    more.extend([
        ("ICEBERG_REST_TOKEN", "hunter2"),
        ("KAFKA_SASL_PASWORD", "hunter2"),
        ("ICEBERG_CATALOG_URI", "mysql://ice:hunter2@db/c"),
        ("AWS_ENDPOINT_URL_S3", "ice:hunter2@s3"),
        ("ICEBERG_REST_OAUTH2_SERVER_URI", "ftp://ice:hunter2@o"),
        ("KAFKA_SECURITY_PROTOCOL", "plaintext"),
    ]);
    let error = load(None, None, environment(&more)).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(error.problems.len() >= 5, "{error}");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("mysql://ice:***@db/c"), "{text}");
}

#[test]
fn both_examples_load_and_name_what_they_show() {
    let local = load(Some("config/health-data.env".as_ref()), None, std::iter::empty()).unwrap();
    assert_eq!(local.kafka.topic, "health-data-raw");
    assert_eq!(local.iceberg.catalog_type, CatalogType::Sql);
    assert!(local.http_listen.is_some());
    let s3 = load(Some("config/health-data-s3.env".as_ref()), None, std::iter::empty()).unwrap();
    assert_eq!(s3.kafka.topic, "health-data-raw");
    assert_eq!(s3.iceberg.catalog_type, CatalogType::Rest);
    assert_eq!(s3.iceberg.io_properties.get("s3.path-style-access"), Some("true"));
    for config in [local, s3] {
        let schema = std::fs::read(config.iceberg.table_schema.unwrap()).unwrap();
        let schema: iceberg::spec::Schema = serde_json::from_slice(&schema).unwrap();
        assert!(schema.field_by_name("sample_id").unwrap().required);
        assert_eq!(config.iceberg.partition_spec.as_deref(), Some("day(measured_at)"));
        assert!(schema.field_by_name("measured_at").is_some());
    }
}

#[test]
fn the_settings_page_is_the_rendering_of_the_table() {
    let page = settings_page();
    for doc in SETTINGS {
        assert_eq!(page.matches(&format!("| `{}`", doc.name)).count(), 1, "{}", doc.name);
    }
    let path = "docs/settings.md";
    if std::fs::read_to_string(path).ok().as_deref() != Some(page.as_str()) {
        std::fs::write(path, page).unwrap();
        panic!("docs/settings.md was not up to date. It is now: look at it and commit it");
    }
}
