//! The settings of the servers: Kafka, the Iceberg catalog and S3, with the rules between them.

use std::collections::HashMap;
use std::path::Path;

use url::Url;

use super::error::Problem;
use super::owned;
use super::sources;
use super::values::Values;
use super::{Assignment, CatalogType, Fetcher, Iceberg, Kafka, OffsetReset, Rest};
use crate::base::location::is_folded;
use crate::base::names;
use crate::base::secret::{Properties, Secret, Uri};

/// Stores that are not Amazon's ask for a region and ignore which.
const REGION_OF_AN_ENDPOINT: &str = "us-east-1";

pub(super) fn kafka(values: &mut Values) -> Kafka {
    let brokers = values.required_if("KAFKA_BROKERS", are_brokers);
    let topic = values.required_if("KAFKA_TOPIC", is_kafka_name);
    let group_id = values.required_if("KAFKA_GROUP_ID", is_kafka_name);
    let auto_offset_reset = match values.word("KAFKA_AUTO_OFFSET_RESET").as_deref() {
        Some("latest") => OffsetReset::Latest,
        _ => OffsetReset::Earliest,
    };
    let assignment = match values.word("KAFKA_ASSIGNMENT").as_deref() {
        Some("all") => Assignment::All,
        _ => Assignment::Group,
    };
    let group_instance_id = values.text("KAFKA_GROUP_INSTANCE_ID");
    if group_instance_id.as_deref().is_some_and(|id| !is_kafka_name(id)) {
        values.invalid("KAFKA_GROUP_INSTANCE_ID", None);
    }
    let session_timeout = values.millis("KAFKA_SESSION_TIMEOUT_MS");
    let revocation_timeout = values.millis("KAFKA_REVOCATION_TIMEOUT_MS");
    check_sasl(values);
    check_pair(values, "KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION");
    let mut properties = user_properties(values);
    let fetcher = fetcher(values, &properties);
    let words = [
        ("security.protocol", "KAFKA_SECURITY_PROTOCOL"),
        ("sasl.mechanism", "KAFKA_SASL_MECHANISM"),
    ];
    for (property, name) in words {
        if let Some(word) = values.word(name) {
            properties.set(property, word);
        }
    }
    let texts = [
        ("sasl.username", "KAFKA_SASL_USERNAME"),
        ("sasl.password", "KAFKA_SASL_PASSWORD"),
        ("ssl.ca.location", "KAFKA_SSL_CA_LOCATION"),
        ("ssl.certificate.location", "KAFKA_SSL_CERTIFICATE_LOCATION"),
        ("ssl.key.location", "KAFKA_SSL_KEY_LOCATION"),
        ("ssl.key.password", "KAFKA_SSL_KEY_PASSWORD"),
    ];
    set_all(values, &mut properties, &texts);
    Kafka {
        brokers,
        topic,
        group_id,
        assignment,
        group_instance_id,
        session_timeout,
        revocation_timeout,
        auto_offset_reset,
        fetcher,
        properties,
    }
}

/// Who fetches the records.
fn fetcher(values: &mut Values, properties: &Properties) -> Fetcher {
    let wish = values.word("KAFKA_FETCHER");
    if wish.as_deref() == Some("librdkafka") {
        return Fetcher::Librdkafka;
    }
    let tls = values.word("KAFKA_SECURITY_PROTOCOL").is_some_and(|word| word.ends_with("ssl"));
    let key_password = tls && values.source("KAFKA_SSL_KEY_PASSWORD").is_some();
    let reason = match properties.iter().find(|(name, _)| !owned::beside_fetching(name)) {
        Some((name, _)) => format!("[kafka.properties] sets `{name}`"),
        None if key_password => String::from("KAFKA_SSL_KEY_PASSWORD is set"),
        None if wish.as_deref() == Some("icestream") => return Fetcher::Icestream,
        None => return Fetcher::Auto,
    };
    if wish.as_deref() == Some("icestream") {
        values.report(Problem::Conflict {
            settings: "KAFKA_FETCHER",
            reason: format!("{reason}, which only librdkafka knows: set it to `auto`"),
        });
    }
    Fetcher::Librdkafka
}

fn set_all(values: &Values, properties: &mut Properties, names: &[(&str, &str)]) {
    for (property, name) in names {
        if let Some(text) = values.raw(name) {
            properties.set(*property, text);
        }
    }
}

/// `host`, `host:port` or `[v6]:port`, several with commas.
fn are_brokers(text: &str) -> bool {
    text.split(',').all(|broker| {
        let broker = broker.trim();
        let (host, port) = match broker.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => {
                (host, port.strip_prefix(':').or(port.is_empty().then_some("9092")))
            }
            None => match broker.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (broker, Some("9092")),
            },
        };
        let port = port.and_then(|port| port.parse::<u16>().ok());
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@')
            && port.is_some_and(|port| port > 0)
    })
}

/// Kafka's own rule for topics; the name of a pipeline is part of a table property.
fn is_kafka_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&text.len()) && text.chars().all(legal) && text != "." && text != ".."
}

fn check_sasl(values: &mut Values) {
    let Some(protocol) = values.word("KAFKA_SECURITY_PROTOCOL") else { return };
    let names = ["KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"];
    if protocol.starts_with("sasl_") {
        for name in names {
            if values.source(name).is_none() {
                values.missing(name);
            }
        }
    } else if names.iter().any(|name| values.source(name).is_some()) {
        // Without this a password that was meant to protect the connection would be ignored.
        values.report(Problem::Conflict {
            settings: "KAFKA_SASL_* and KAFKA_SECURITY_PROTOCOL",
            reason: format!(
                "the protocol `{protocol}` does not log in: set it to `sasl_ssl` or \
                 `sasl_plaintext`, or remove the SASL settings"
            ),
        });
    }
}

/// Two settings of which one alone is of no use.
fn check_pair(values: &mut Values, first: &'static str, second: &'static str) {
    for (set, unset) in [(first, second), (second, first)] {
        if values.source(set).is_some() && values.source(unset).is_none() {
            values.missing(unset);
        }
    }
}

fn user_properties(values: &mut Values) -> Properties {
    let mut properties = Properties::default();
    for (property, found) in values.properties() {
        match owned::owned(&property) {
            Some(reason) => {
                values.report(Problem::Owned { property, source_name: found.source, reason });
            }
            None => properties.set(property, found.value),
        }
    }
    properties
}

pub(super) fn iceberg(values: &mut Values) -> Iceberg {
    let catalog_type = match values.word("ICEBERG_CATALOG_TYPE").as_deref() {
        Some("rest") => CatalogType::Rest,
        _ => CatalogType::Sql,
    };
    drop_defaults_that_do_not_apply(values, catalog_type);
    let is_uri: fn(&str) -> bool = match catalog_type {
        CatalogType::Rest => is_http,
        CatalogType::Sql => |text| is_sqlite(text) || is_postgres(text),
    };
    Iceberg {
        catalog_type,
        catalog_name: values.required_if("ICEBERG_CATALOG_NAME", |text| text.len() <= 255),
        catalog_uri: Uri::new(values.required_if("ICEBERG_CATALOG_URI", is_uri)),
        warehouse: warehouse(values, catalog_type),
        table: values.required_if("ICEBERG_TABLE", is_table),
        table_schema: table_schema(values),
        partition_spec: values.text("ICEBERG_PARTITION_SPEC"),
        table_properties: table_properties(values),
        kafka_columns: values.flag("ICEBERG_KAFKA_COLUMNS").unwrap_or(true),
        rest: rest(values),
        io_properties: io_properties(values),
    }
}

/// The ledger's own properties are not for people to set. Whether icestream keeps the table small is.
fn table_properties(values: &mut Values) -> HashMap<String, String> {
    const NAME: &str = "ICEBERG_TABLE_PROPERTIES";
    let text = values.text(NAME).unwrap_or_default();
    let mut properties = HashMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let parts = pair.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let fresh = match parts {
            Some((name, value)) if !name.is_empty() && !is_reserved(name) => {
                properties.insert(name.to_owned(), value.to_owned()).is_none()
            }
            _ => false,
        };
        if !fresh {
            values.invalid(NAME, None);
            break;
        }
    }
    properties
}

fn is_reserved(property: &str) -> bool {
    property.starts_with("icestream.") && property != "icestream.maintained"
}

/// The defaults of catalog and warehouse are for SQLite: with another catalog they would be a
/// wrong place, silently.
fn drop_defaults_that_do_not_apply(values: &mut Values, catalog_type: CatalogType) {
    let is_default = |values: &Values, name| values.source(name) == Some(sources::DEFAULT);
    if catalog_type == CatalogType::Rest && is_default(values, "ICEBERG_CATALOG_URI") {
        values.unset("ICEBERG_CATALOG_URI");
    }
    let on_sqlite = values.raw("ICEBERG_CATALOG_URI").is_some_and(is_sqlite);
    if !on_sqlite && is_default(values, "ICEBERG_WAREHOUSE") {
        values.unset("ICEBERG_WAREHOUSE");
    }
}

fn is_http(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// A file, because a catalog in memory would be gone with the process.
fn is_sqlite(text: &str) -> bool {
    let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"));
    path.is_some_and(|path| {
        let path = path.split('?').next().unwrap_or_default();
        !path.is_empty() && !text.contains(":memory:") && !text.contains("mode=memory")
    })
}

fn is_postgres(text: &str) -> bool {
    Url::parse(text)
        .is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql") && url.has_host())
}

fn is_table(text: &str) -> bool {
    names::parts(text).is_some_and(|parts| parts.len() > 1)
}

fn warehouse(values: &mut Values, catalog_type: CatalogType) -> Option<String> {
    const NAME: &str = "ICEBERG_WAREHOUSE";
    if catalog_type == CatalogType::Rest {
        return values.text(NAME);
    }
    // Whether it is needed is known only with a good catalog URI.
    let text = match values.text(NAME) {
        Some(text) => text,
        None if values.raw("ICEBERG_CATALOG_URI").is_some_and(is_postgres) => {
            values.missing(NAME);
            return None;
        }
        None => return None,
    };
    if is_folded(&text) {
        let allowed = "`s3://BUCKET/PREFIX` without two slashes in a row and without a blank at an end, \
                       which not all programs take for a part of the key";
        values.invalid(NAME, Some(allowed.to_owned()));
        return None;
    }
    let location = location(&text);
    match &location {
        Some(location) => values.resolve(NAME, location.clone()),
        None => values.invalid(NAME, None),
    }
    location
}

/// The location with its scheme; a path is made absolute, because it is written into metadata
/// that others read from elsewhere.
fn location(text: &str) -> Option<String> {
    match text.split_once("://") {
        Some(("file", path)) => path.starts_with('/').then(|| text.to_owned()),
        Some(("s3" | "s3a", rest)) => {
            let bucket = rest.split('/').next().unwrap_or_default();
            (!bucket.is_empty()).then(|| text.to_owned())
        }
        Some(_) => None,
        None => {
            let path = std::path::absolute(Path::new(text)).ok()?;
            path.to_str().map(|path| format!("file://{path}"))
        }
    }
}

fn table_schema(values: &mut Values) -> Option<std::path::PathBuf> {
    const NAME: &str = "ICEBERG_TABLE_SCHEMA";
    let path = values.text(NAME)?;
    let parsed = std::fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    let reason = match parsed {
        Ok(serde_json::Value::Object(_)) => return Some(path.into()),
        Ok(_) => "not an object".to_owned(),
        Err(reason) => reason,
    };
    values
        .invalid(NAME, Some(format!("the path of a JSON file with an Iceberg schema ({reason})")));
    None
}

fn rest(values: &mut Values) -> Rest {
    const ENDPOINT: &str = "ICEBERG_REST_OAUTH2_SERVER_URI";
    let secret = |name| values.raw(name).map(Secret::new);
    let (credential, token) = (secret("ICEBERG_REST_CREDENTIAL"), secret("ICEBERG_REST_TOKEN"));
    if credential.is_some() && token.is_some() {
        values.report(Problem::Conflict {
            settings: "ICEBERG_REST_CREDENTIAL and ICEBERG_REST_TOKEN",
            reason: "only one of them can log in: remove the other".to_owned(),
        });
    }
    if values.raw(ENDPOINT).is_some_and(|text| !is_http(text)) {
        values.invalid(ENDPOINT, None);
    }
    Rest {
        credential,
        token,
        scope: values.text("ICEBERG_REST_SCOPE"),
        audience: values.text("ICEBERG_REST_AUDIENCE"),
        resource: values.text("ICEBERG_REST_RESOURCE"),
        ca_file: values.text("ICEBERG_REST_CA_FILE"),
        oauth2_server_uri: values.text(ENDPOINT).map(Uri::new),
    }
}

/// What each kind of encryption needs beside its name.
fn encryption(values: &mut Values, properties: &mut Properties) {
    let kind = values.word("S3_SSE_TYPE");
    match kind.as_deref() {
        Some("custom") => ["S3_SSE_KEY", "S3_SSE_KEY_MD5"].into_iter().for_each(|name| {
            if values.source(name).is_none() {
                values.missing(name);
            }
        }),
        Some("kms") => {}
        _ if values.source("S3_SSE_KEY").is_some() => values.report(Problem::Conflict {
            settings: "S3_SSE_KEY and S3_SSE_TYPE",
            reason: String::from("only `kms` and `custom` have a key: set the type to one of them"),
        }),
        _ => {}
    }
    if let Some(kind) = kind {
        properties.set("s3.sse.type", kind);
    }
}

fn io_properties(values: &mut Values) -> Properties {
    const ENDPOINT: &str = "AWS_ENDPOINT_URL_S3";
    check_pair(values, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    match values.raw(ENDPOINT) {
        Some(endpoint) if is_http(endpoint) => {
            for (name, value) in
                [("AWS_REGION", REGION_OF_AN_ENDPOINT), ("S3_PATH_STYLE_ACCESS", "true")]
            {
                if values.source(name).is_none() {
                    values.resolve(name, value.to_owned());
                }
            }
        }
        Some(_) => values.invalid(ENDPOINT, None),
        None => {}
    }
    let mut properties = Properties::default();
    let texts = [
        ("s3.endpoint", ENDPOINT),
        ("s3.access-key-id", "AWS_ACCESS_KEY_ID"),
        ("s3.secret-access-key", "AWS_SECRET_ACCESS_KEY"),
        ("s3.session-token", "AWS_SESSION_TOKEN"),
        ("s3.region", "AWS_REGION"),
        ("s3.sse.key", "S3_SSE_KEY"),
        ("s3.sse.md5", "S3_SSE_KEY_MD5"),
        // Ours: the store reads it.
        ("icestream.s3.ca-file", "S3_CA_FILE"),
    ];
    set_all(values, &mut properties, &texts);
    encryption(values, &mut properties);
    if let Some(path_style) = values.flag("S3_PATH_STYLE_ACCESS") {
        properties.set("s3.path-style-access", path_style.to_string());
    }
    properties
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{environment, file, problems};
    use crate::config::{ConfigError, Fetcher, load};

    fn fetcher(property: &str, more: &[(&str, &str)]) -> Result<Fetcher, ConfigError> {
        let toml = file(&format!("[kafka.properties]\n\"{property}\" = 5\n"), ".toml");
        load(None, Some(toml.path()), environment(more)).map(|config| config.kafka.fetcher)
    }

    const BESIDE: &str = "statistics.interval.ms";
    const TUNED: &str = "fetch.wait.max.ms";
    const TLS: (&str, &str) = ("KAFKA_SECURITY_PROTOCOL", "ssl");
    const KEY: (&str, &str) = ("KAFKA_SSL_KEY_PASSWORD", "hunter2");

    #[test]
    fn librdkafka_fetches_where_icestream_cannot() {
        for (wish, expected) in [("auto", Fetcher::Auto), ("icestream", Fetcher::Icestream)] {
            assert_eq!(fetcher(BESIDE, &[("KAFKA_FETCHER", wish)]).unwrap(), expected);
        }
        let wish = ("KAFKA_FETCHER", "librdkafka");
        assert_eq!(fetcher(BESIDE, &[]).unwrap(), Fetcher::Auto);
        assert_eq!(fetcher(BESIDE, &[wish]).unwrap(), Fetcher::Librdkafka);
        assert_eq!(fetcher(BESIDE, &[KEY]).unwrap(), Fetcher::Auto);
        assert_eq!(fetcher(BESIDE, &[TLS, KEY]).unwrap(), Fetcher::Librdkafka);
        let name = "ssl.endpoint.identification.algorithm";
        assert_eq!(fetcher(name, &[TLS]).unwrap(), Fetcher::Librdkafka);
        assert_eq!(fetcher(TUNED, &[]).unwrap(), Fetcher::Librdkafka);
    }

    #[test]
    fn icestream_fetches_over_every_protocol() {
        let login = ["MECHANISM", "USERNAME", "PASSWORD"].map(|name| format!("KAFKA_SASL_{name}"));
        for protocol in ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] {
            let mut set = vec![("KAFKA_SECURITY_PROTOCOL", protocol)];
            if protocol.starts_with("sasl") {
                set.extend(login.iter().map(|name| (name.as_str(), "PLAIN")));
            }
            assert_eq!(fetcher(BESIDE, &set).unwrap(), Fetcher::Auto, "{protocol}");
        }
    }

    #[test]
    fn icestream_is_refused_once_where_only_librdkafka_can_fetch() {
        let wish = ("KAFKA_FETCHER", "icestream");
        let wrong = problems(fetcher(TUNED, &[wish]));
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("KAFKA_FETCHER: [kafka.properties] sets `fetch.wait.max.ms`"));
        let more = [wish, TLS, KEY, ("BATCH_SIZE", "many")];
        let wrong = problems(fetcher(BESIDE, &more));
        assert_eq!(wrong.len(), 2, "along with what else is wrong: {wrong:?}");
        let words = ["KAFKA_FETCHER", "KAFKA_SSL_KEY_PASSWORD is set", "librdkafka", "`auto`"];
        assert!(wrong.iter().any(|problem| words.iter().all(|word| problem.contains(word))));
    }

    #[test]
    fn a_warehouse_that_some_programs_would_find_elsewhere_is_refused() {
        let sql = |warehouse| load(None, None, environment(&[("ICEBERG_WAREHOUSE", warehouse)]));
        for folded in ["s3://lake//wh", "s3a://lake/a//b", "s3://lake/wh//"] {
            let wrong = problems(sql(folded));
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            let words = ["ICEBERG_WAREHOUSE", folded, "two slashes in a row"];
            assert!(words.iter().all(|word| wrong[0].contains(word)), "{wrong:?}");
        }
        for good in ["s3://lake/wh/", "s3://lake", "s3://lake/", "file:///a//b"] {
            assert!(sql(good).is_ok(), "{good}");
        }
        // With a REST catalog it is a name.
        let rest = [
            ("ICEBERG_CATALOG_TYPE", "rest"),
            ("ICEBERG_CATALOG_URI", "http://localhost:1"),
            ("ICEBERG_WAREHOUSE", "s3://lake//wh"),
        ];
        assert!(load(None, None, environment(&rest)).is_ok());
    }

    #[test]
    fn encryption_at_the_store_is_asked_for_with_what_it_needs() {
        let io = |set: &[(&str, &str)]| {
            let config = load(None, None, environment(set)).unwrap();
            let all = config.iceberg.io_properties.iter();
            all.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let refused = |set: &[(&str, &str)]| problems(load(None, None, environment(set)));
        assert_eq!(io(&[("S3_SSE_TYPE", "S3")]), "s3.sse.type=s3");
        assert_eq!(io(&[("S3_SSE_TYPE", "kms")]), "s3.sse.type=kms");
        let kms = [("S3_SSE_TYPE", "kms"), ("S3_SSE_KEY", "k")];
        assert_eq!(io(&kms), "s3.sse.key=k s3.sse.type=kms");
        assert_eq!(refused(&[("S3_SSE_TYPE", "custom")]).len(), 2);
        for kind in [&[][..], &[("S3_SSE_TYPE", "s3")], &[("S3_SSE_TYPE", "none")]] {
            let problems = refused(&[kind, &[("S3_SSE_KEY", "hunter2")]].concat());
            assert!(problems[0].starts_with("S3_SSE_KEY and S3_SSE_TYPE: only"), "{problems:?}");
        }
    }
}
