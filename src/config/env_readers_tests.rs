//! The env files that are shown to users mean the same to everything that reads them.

use super::tests::problems;
use super::*;

/// The env files by name: the examples, and the one of the README.
fn shown() -> Vec<(&'static str, String)> {
    let read = |path| std::fs::read_to_string(path).unwrap();
    let readme = read("README.md");
    let (_, rest) = readme.split_once("```sh\nKAFKA_BROKERS=").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    vec![
        ("README.md", format!("KAFKA_BROKERS={block}")),
        ("config/health-data.env", read("config/health-data.env")),
        ("config/health-data-s3.env", read("config/health-data-s3.env")),
    ]
}

/// What `docker run --env-file` makes of a file: comments are lines that begin with `#`, all else is taken
/// as it stands.
fn as_docker_run(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty());
    let pairs = lines.filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.split_once('=').unwrap();
        assert!(!name.contains(char::is_whitespace), "docker refuses {name:?}");
        (name.to_owned(), value.to_owned())
    });
    pairs.collect()
}

/// What docker compose makes of one: it takes quotes and comments away and puts values in for `$`.
fn as_compose(text: &str) -> Vec<(String, String)> {
    let undressed = |value: &str| {
        let value = value.split(" #").next().unwrap_or_default().trim();
        assert!(!value.contains('$'), "{value}");
        let inner = ['\'', '"'].into_iter().find_map(|quote| {
            value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote))
        });
        inner.unwrap_or(value).to_owned()
    };
    as_docker_run(text).into_iter().map(|(name, value)| (name, undressed(&value))).collect()
}

fn values(config: &Config) -> Vec<(String, String)> {
    config.effective().iter().map(|each| (each.name.clone(), each.value.clone())).collect()
}

#[test]
fn an_env_file_that_is_shown_means_the_same_to_docker_run_compose_and_icestream() {
    for (name, text) in shown() {
        let file = super::tests::file(&text, ".env");
        let own = load(Some(file.path()), None, std::iter::empty()).unwrap();
        let docker = load(None, None, as_docker_run(&text).into_iter()).unwrap();
        let compose = load(None, None, as_compose(&text).into_iter()).unwrap();
        assert!(own.effective().iter().any(|each| each.source != "default"), "{name}");
        assert_eq!(values(&docker), values(&own), "{name}");
        assert_eq!(values(&compose), values(&own), "{name}");
        assert_eq!(docker.kafka.properties, own.kafka.properties, "{name}");
        assert_eq!(docker.iceberg.io_properties, own.iceberg.io_properties, "{name}");
    }
}

#[test]
fn quotes_and_comments_that_docker_passes_on_are_refused_all_at_once() {
    let set = [
        ("KAFKA_BROKERS", "127.0.0.1:9092"),
        ("KAFKA_TOPIC", "readings"),
        ("KAFKA_GROUP_ID", "health-data            # names the pipeline, for ever"),
        ("ICEBERG_TABLE", "\"health.readings\""),
        ("CHECKPOINT_DIR", " \"/var/lib/x\" "),
        ("ICEBERG_WAREHOUSE", "'file:///w'"),
        ("KAFKA_SASL_PASSWORD", "'hunter2 hunter3'"),
        ("ICEBERG_PARTITION_SPEC", "'day(measured_at)' # by day"),
        ("AWS_DEFAULT_REGION", "\"eu-west-1\""),
        ("ICEBERG_REST_SCOPE", " # none"),
    ];
    let owned = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let found = problems(load(None, None, owned.into_iter()));
    let told: Vec<&String> = found.iter().filter(|each| each.contains("docker run")).collect();
    for (name, value) in &set[2..] {
        let of_it: Vec<_> = told.iter().filter(|each| each.starts_with(name)).collect();
        assert_eq!(of_it.len(), 1, "{name}: {found:?}");
        let what = if value.contains('#') { "a comment" } else { "quotes" };
        assert!(of_it[0].contains(what), "{of_it:?}");
    }
    assert_eq!(told.len(), set.len() - 2, "{found:?}");
    assert!(!format!("{found:?}").contains("hunter"), "{found:?}");
}

#[test]
fn what_only_looks_like_quotes_or_a_comment_is_taken_as_it_stands() {
    for value in ["it's", "a#b", "#a", "\"", "'a", "a'b'", "x=\"1\""] {
        let more = [("ICEBERG_REST_SCOPE", value)];
        let config = load(None, None, super::tests::environment(&more)).unwrap();
        assert_eq!(config.iceberg.rest.scope.as_deref(), Some(value));
    }
}

#[test]
fn other_programs_may_have_quotes_in_their_variables() {
    let more = [("PS1", "'x' # y"), ("KAFKA_HEAP_OPTS", "\"-Xmx1g\"")];
    load(None, None, super::tests::environment(&more)).unwrap();
}
