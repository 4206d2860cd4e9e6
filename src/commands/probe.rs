//! What `check` tries at each server and disk. Each probe leaves nothing behind.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iceberg::io::FileIO;
use iceberg::spec::{StructType, TableMetadata, Type};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaConfRes;

use crate::base::kafka_columns::KafkaColumn;
use crate::base::masking::mask_text;
use crate::config::{CatalogType, Config, Fetcher, HttpListen};
use crate::connect::{FORMAT, Plan, source_settings};
use crate::failure::chain;
use crate::pipeline::check_fit;
use crate::protocol::{LogRange, Offset, TopicPartition};
use crate::retry::Backoff;
use crate::source::{FetchBy, Fit, Source, SourceError, SourceSettings};
use crate::state::{StateError, StateStore};
use crate::table::TableName;
use crate::telemetry::{HttpServer, PIPELINE};

/// What a probe saw, or what is wrong and what to do.
pub(super) type Seen = Result<String, String>;

/// Is the directory there and usable, or can it be made?
pub(super) fn checkpoint_dir(config: &Config) -> Seen {
    let dir = &config.checkpoint.dir;
    if is_empty_or_absent(dir) {
        let parent = existing_ancestor(dir);
        return match writable(&parent) {
            Ok(()) => Ok(format!("{} is new and can be made", dir.display())),
            Err(error) => Err(format!(
                "{} cannot be made: {} is not writable: {error}; give this user write access or \
                 set CHECKPOINT_DIR",
                dir.display(),
                parent.display()
            )),
        };
    }
    let retained = match StateStore::open_existing(dir, config.pipeline()) {
        Ok(store) => store.checkpoints(config.flow()).map_err(|e| chain(&e))?.len(),
        Err(StateError::Missing { .. }) => 0,
        Err(held @ StateError::InUse { .. }) => return beside(config, held),
        Err(error) => return Err(chain(&error)),
    };
    // Opening the store locks it, and writes only what RocksDB keeps for itself.
    writable(dir).map_err(|error| {
        format!("{} is not writable: {error}; give this user write access", dir.display())
    })?;
    Ok(format!("{} is writable, {retained} checkpoints retained", dir.display()))
}

/// The directory that another process holds: fine if it is of this pipeline, which `check` must not disturb.
fn beside(config: &Config, held: StateError) -> Seen {
    let dir = &config.checkpoint.dir;
    let read = StateStore::open_read_only(dir).and_then(|store| {
        store.is_of(config.pipeline())?;
        Ok(store.checkpoints(config.flow())?.len())
    });
    match read {
        Ok(retained) => Ok(format!(
            "{} is in use by the process of this pipeline that runs, {retained} checkpoints retained; \
             a second one needs its own CHECKPOINT_DIR",
            dir.display()
        )),
        Err(error @ StateError::OtherPipeline { .. }) => Err(chain(&error)),
        Err(_) => Err(chain(&held)),
    }
}

/// Does the Kafka client know a property of this name? The value of another is not worth showing, and may
/// be a password under a name that was misspelt.
pub(super) fn is_known_to_client(property: &str) -> bool {
    // No value: it may be refused as one, and is not used for anything.
    let set = ClientConfig::new().set(property, "").create_native_config();
    !matches!(set.err(), Some(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)))
}

fn is_empty_or_absent(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The nearest directory above `path`, or `path` itself, that exists.
pub(super) fn existing_ancestor(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|dir| dir.is_dir());
    match found {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes and removes a file.
pub(super) fn writable(dir: &Path) -> io::Result<()> {
    let file = dir.join(format!(".icestream-check-{}", uuid::Uuid::new_v4().simple()));
    std::fs::write(&file, b"icestream")?;
    std::fs::remove_file(&file)
}

/// Can metrics and health be served?
pub(super) async fn http(config: &Config) -> Seen {
    let Some(HttpListen { address, any_port }) = config.http_listen else {
        return Ok(String::from("switched off"));
    };
    match HttpServer::bind(address, false, config.pipeline()).await {
        Ok(_) => Ok(format!("{address} is free")),
        Err(_) if pipeline_at(address).await.as_deref() == Some(config.pipeline()) => {
            Ok(format!("{address} is served by the process of this pipeline that runs"))
        }
        Err(_) if any_port => Ok(format!(
            "{address}, the default, is taken by another process: any free port will be used"
        )),
        Err(error) => Err(chain(&error)),
    }
}

/// The pipeline whose process serves this address, if one does.
async fn pipeline_at(address: SocketAddr) -> Option<String> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build();
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let url = format!("http://{}/healthz", SocketAddr::new(ip, address.port()));
    let answer = client.ok()?.get(url).send().await.ok()?;
    Some(answer.headers().get(PIPELINE)?.to_str().ok()?.to_owned())
}

/// The source as `run` would have it, and who fetches for it, with the reason where that is another one
/// than the settings alone say.
pub(super) fn fetcher(
    config: &Config,
    source: Source,
    patience: Duration,
) -> Result<(Arc<Source>, String), SourceError> {
    let name = config.kafka.fetcher.name();
    let fit = match config.kafka.fetcher {
        Fetcher::Auto => source.fit(patience),
        Fetcher::Icestream | Fetcher::Librdkafka => Fit::Unknown,
    };
    let Fit::TooOld(reason) = fit else { return Ok((Arc::new(source), name.to_owned())) };
    let settings = SourceSettings { fetch_by: FetchBy::Librdkafka, ..source_settings(config) };
    Ok((Arc::new(Source::connect(settings)?), format!("librdkafka (since {reason})")))
}

/// Does the cluster let us read the topic and use the group? Whoever would fetch reads a little; nothing is
/// committed.
pub(super) fn access(
    config: &Config,
    source: &Source,
    logs: &[(TopicPartition, LogRange)],
    patience: Duration,
) -> Seen {
    let settings = source_settings(config);
    let consumer =
        consumer(&settings).map_err(|error| SourceError::settings(&error).to_string())?;
    let mut list = TopicPartitionList::new();
    for (tp, _) in logs {
        list.add_partition(&tp.topic, tp.partition);
    }
    let group =
        group_offsets(&consumer, &list, patience).map_err(|error| refused(&settings, &error))?;
    let reported = group.elements().iter().filter(|e| e.offset().to_raw() >= Some(0)).count();
    let first = logs.iter().find(|(_, log)| log.start < log.end);
    // A record of one partition, and of the others what comes next.
    let at = logs.iter().map(|(tp, log)| {
        let is_first = first.is_some_and(|(first, _)| first == tp);
        (tp.clone(), if is_first { log.start } else { log.end })
    });
    let fetched = source.try_fetching(at, patience).map_err(|error| chain(&error))?;
    if let Some(brokers) = fetched {
        return Ok(format!(
            "icestream can fetch from {brokers} brokers; group {} has offsets of {reported} partitions",
            settings.group_id
        ));
    }
    let Some((tp, log)) = first else {
        return Ok(format!(
            "group {} has offsets of {reported} partitions; the topic is empty, reading was not \
             tried",
            settings.group_id
        ));
    };
    first_record(&consumer, tp, log.start, patience).map_err(|error| refused(&settings, &error))?;
    Ok(format!(
        "{tp} can be read; group {} has offsets of {reported} partitions",
        settings.group_id
    ))
}

/// Is the group ours alone?
pub(super) fn group(config: &Config, patience: Duration) -> Seen {
    let settings = source_settings(config);
    let group = settings.group_id.clone();
    let source = Source::connect(settings).map_err(|error| chain(&error))?;
    match source.elsewhere("", &config.iceberg.table, patience) {
        None => Ok(format!("{group} does not tell its members")),
        Some(others) => match others.into_iter().next() {
            None => Ok(format!("{group} has no member that carries into another table")),
            Some(table) => Err(chain(&SourceError::OtherPipeline { group, table })),
        },
    }
}

fn consumer(settings: &SourceSettings) -> Result<BaseConsumer, KafkaError> {
    let mut config = ClientConfig::new();
    config.set("client.id", "icestream-check");
    for (name, value) in settings.properties.iter() {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("group.id", &settings.group_id)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        .create()
}

/// The offsets that the group reported. On a new cluster the first question about a group makes
/// the broker choose a coordinator, and until then it answers that there is none.
fn group_offsets(
    consumer: &BaseConsumer,
    partitions: &TopicPartitionList,
    patience: Duration,
) -> Result<TopicPartitionList, KafkaError> {
    let until = Instant::now() + patience;
    let mut backoff = Backoff::new(Instant::now(), patience);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let error = match consumer.committed_offsets(partitions.clone(), left) {
            Ok(group) => return Ok(group),
            Err(error) => error,
        };
        match backoff.next_wait(Instant::now()) {
            Some(wait) if is_coordinator_moving(&error) => std::thread::sleep(wait),
            _ => return Err(error),
        }
    }
}

fn is_coordinator_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
        )
    )
}

/// Waits for a record, or for the end of a log of nothing but markers and aborted records.
fn first_record(
    consumer: &BaseConsumer,
    tp: &TopicPartition,
    start: Offset,
    patience: Duration,
) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(start))?;
    consumer.assign(&list)?;
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match consumer.poll(left) {
            Some(Ok(message)) if message.partition() == tp.partition => return Ok(()),
            Some(Ok(_)) => {}
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) => return Err(error),
            None if left.is_zero() => {
                let code = RDKafkaErrorCode::OperationTimedOut;
                return Err(KafkaError::MessageConsumption(code));
            }
            None => {}
        }
    }
}

fn refused(settings: &SourceSettings, error: &KafkaError) -> String {
    let (topic, group) = (&settings.topics, &settings.group_id);
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ) => format!(
            "{error}; the user of icestream needs READ and DESCRIBE on topic {topic} and READ on \
             group {group}: check its ACLs"
        ),
        _ => format!("topic {topic} or group {group} cannot be used: {error}; try again"),
    }
}

/// Where a SQLite catalog is that has no file yet: connecting would make it.
pub(super) fn absent_sqlite_file(config: &Config) -> Option<PathBuf> {
    if config.iceberg.catalog_type != CatalogType::Sql {
        return None;
    }
    let uri = config.iceberg.catalog_uri.expose();
    let path = uri.strip_prefix("sqlite://").or_else(|| uri.strip_prefix("sqlite:"))?;
    let path = PathBuf::from(path.split('?').next().unwrap_or(path));
    let in_memory = path.as_os_str().is_empty() || path.as_os_str() == ":memory:";
    (!in_memory && !path.exists()).then_some(path)
}

/// The table that would be made from `ICEBERG_TABLE_SCHEMA`, as metadata that nobody stores.
pub(super) fn planned(
    config: &Config,
    name: &TableName,
    place: Option<String>,
) -> Result<(TableMetadata, String), String> {
    let plan = Plan::new(name, config).map_err(|error| chain(&error))?;
    let metadata = plan.metadata(name, config, place).map_err(|error| chain(&error))?;
    let (columns, fields) = plan.counts();
    let schema_file = config.iceberg.table_schema.as_deref().unwrap_or(Path::new(""));
    let words = format!(
        "{name} does not exist yet; {} can make it: {columns} columns, {fields} partition fields",
        schema_file.display()
    );
    Ok((metadata, words))
}

/// Can records be decoded into the table's columns, and its files be written?
pub(super) fn fits(
    config: &Config,
    name: &TableName,
    metadata: &TableMetadata,
    io: FileIO,
) -> Seen {
    check_fit(config, name, metadata, io).map_err(|error| chain(&error))?;
    let schema = metadata.current_schema();
    let lacking: Vec<_> = KafkaColumn::ALL
        .into_iter()
        .map(KafkaColumn::name)
        .filter(|name| schema.field_by_name(name).is_none())
        .collect();
    let (payloads, columns) = (FORMAT.payloads(), schema.as_struct().fields().len());
    let mut seen = format!("{payloads} fit its {columns} columns");
    if !lacking.is_empty() {
        let lacking = lacking.join(", ");
        seen += &format!("; it lacks {lacking}, so that verify can only count its rows");
    }
    for (one, other) in look_alikes(schema.as_struct()) {
        seen += &format!(
            "; {one} and {other} differ only in case, and engines that do not tell them apart (Trino, \
             Spark) cannot read the table"
        );
    }
    Ok(seen)
}

/// Columns of which the names differ only in case, within the same struct.
fn look_alikes(fields: &StructType) -> Vec<(String, String)> {
    let (mut found, mut known) = (Vec::new(), HashMap::new());
    for field in fields.fields() {
        if let Some(other) = known.insert(field.name.to_lowercase(), &field.name) {
            found.push((other.clone(), field.name.clone()));
        }
        if let Type::Struct(inner) = field.field_type.as_ref() {
            let within = |name: String| format!("{}.{name}", field.name);
            let inner = look_alikes(inner).into_iter();
            found.extend(inner.map(|(one, other)| (within(one), within(other))));
        }
    }
    found
}

/// Writes, reads and deletes a small object.
pub(super) async fn store(io: &FileIO, location: &str) -> Seen {
    let name = format!("icestream-check-{}", uuid::Uuid::new_v4().simple());
    let path = format!("{}/{name}", location.trim_end_matches('/'));
    let failed = |doing: &'static str| {
        let path = path.clone();
        move |error: iceberg::Error| {
            format!(
                "cannot {doing} {path}: {}; check ICEBERG_WAREHOUSE, the S3 or AWS settings and \
                 the rights of this user",
                mask_text(&error.to_string())
            )
        }
    };
    let content = bytes::Bytes::from_static(b"icestream");
    let file = io.new_output(&path).map_err(failed("write"))?;
    file.write(content.clone()).await.map_err(failed("write"))?;
    let read = async { io.new_input(&path)?.read().await };
    let read = read.await.map_err(failed("read"));
    io.delete(&path).await.map_err(failed("delete"))?;
    match read? == content {
        true => Ok(format!("wrote, read and deleted an object in {location}")),
        false => Err(format!("{path} was read back with another content: the store is unreliable")),
    }
}

#[cfg(test)]
mod tests {
    use super::is_known_to_client;

    #[test]
    fn the_client_knows_its_properties_and_those_of_topics_and_no_others() {
        for known in ["client.id", "queued.max.messages.kbytes", "request.required.acks", "debug"] {
            assert!(is_known_to_client(known), "{known}");
        }
        for unknown in ["sasl.pasword", "ssl.key.pasword", "", "x"] {
            assert!(!is_known_to_client(unknown), "{unknown}");
        }
    }
}
