//! Kafka: one consumer, its partitions forwarded to the queues of the shards.
//!
//! Nothing here decides what is read or kept: positions come in as arguments (they are the
//! table's ledger), offsets reported to the group are for lag tools only, and a position outside
//! the log is an error, never a silent reset.

mod admin;
mod queue;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use crate::protocol::{Frontier, Offset, TopicPartition};

pub use queue::{Polled, Record, ShardQueue};

/// A cluster that just told its metadata tells topic ids at once, or does not know them and lets
/// the request time out (librdkafka's mock does).
const TOPIC_ID_WAIT: Duration = Duration::from_secs(2);

/// What went wrong with Kafka.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The client refused its settings.
    #[error(
        "the Kafka client refused its settings: {source}; check KAFKA_* and [kafka.properties]"
    )]
    Settings {
        /// What librdkafka says.
        source: KafkaError,
    },
    /// No broker answered.
    #[error("Kafka at {brokers} did not answer while trying to {what}: {source}")]
    Unreachable {
        /// The operation.
        what: &'static str,
        /// Bootstrap servers.
        brokers: String,
        /// What librdkafka says.
        source: KafkaError,
    },
    /// The topic does not exist.
    #[error("topic {topic} does not exist on Kafka at {brokers}; create it or correct KAFKA_TOPIC")]
    TopicAbsent {
        /// The topic.
        topic: String,
        /// Bootstrap servers.
        brokers: String,
    },
    /// The cluster does not let us in.
    #[error(
        "Kafka at {brokers} refused access to {what}: {detail}; check the KAFKA_SASL_* and KAFKA_SSL_* settings and the ACLs of topic and group"
    )]
    Unauthorised {
        /// The operation or resource.
        what: String,
        /// Bootstrap servers.
        brokers: String,
        /// What the broker says.
        detail: String,
    },
    /// The position is no longer, or not yet, in the log.
    #[error("{partition}: offset {offset} is not in the log: {detail}")]
    OutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// What librdkafka says.
        detail: String,
    },
    /// A partition reports an error.
    #[error("{partition}: reading failed: {detail}")]
    Partition {
        /// The partition.
        partition: TopicPartition,
        /// What librdkafka says.
        detail: String,
    },
    /// An operation of the client failed.
    #[error("Kafka at {brokers}: cannot {what}: {detail}")]
    Operation {
        /// The operation.
        what: &'static str,
        /// Bootstrap servers.
        brokers: String,
        /// What librdkafka says.
        detail: String,
    },
}

impl SourceError {
    /// May the same call succeed later without anybody's doing?
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Partition { .. } | Self::Operation { .. } => true,
            Self::Settings { .. }
            | Self::TopicAbsent { .. }
            | Self::Unauthorised { .. }
            | Self::OutOfRange { .. } => false,
        }
    }
}

/// What the cluster says about the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Id of the cluster, empty if it has none.
    pub cluster_id: String,
    /// Id of the topic, where the cluster tells it: a topic deleted and re-created has another.
    pub topic_id: Option<String>,
    /// Its partitions, in order.
    pub partitions: Vec<TopicPartition>,
}

/// How to reach the topic.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// Bootstrap servers.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// The consumer group that offsets are reported to: the pipeline's name.
    pub group_id: String,
    /// librdkafka properties of the user: security and tuning. May hold secrets.
    pub properties: BTreeMap<String, String>,
    /// Most bytes that the client may hold ready for each shard.
    pub queue_bytes: u64,
}

/// Receives what librdkafka says on its own account.
pub struct SourceContext {
    brokers_down: AtomicBool,
}

impl ClientContext for SourceContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", fac, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", fac, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", fac, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.brokers_down.store(true, Ordering::Relaxed);
        }
        tracing::warn!(target: "librdkafka", %error, reason, "client error");
    }
}

impl ConsumerContext for SourceContext {}

/// The consumer of one run of a pipeline.
pub struct Source {
    consumer: Arc<BaseConsumer<SourceContext>>,
    settings: SourceSettings,
    /// A broker of the cluster, -1 while none is known.
    broker: AtomicI32,
}

impl Source {
    /// Makes the client. Nothing is sent yet: an unreachable broker shows in the first call.
    pub fn connect(settings: SourceSettings) -> Result<Self, SourceError> {
        let mut config = ClientConfig::new();
        // Short waits and small queues: stalls cost throughput, deep queues cost memory.
        config
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "20000")
            .set("fetch.wait.max.ms", "100")
            .set("check.crcs", "true")
            .set("client.id", "icestream");
        for (name, value) in &settings.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &settings.brokers)
            .set("group.id", &settings.group_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false");
        if !settings.properties.contains_key("queued.max.messages.kbytes") {
            let kbytes = (settings.queue_bytes / 1024).clamp(1024, 2_097_151);
            config.set("queued.max.messages.kbytes", kbytes.to_string());
        }
        let context = SourceContext { brokers_down: AtomicBool::new(false) };
        let consumer: BaseConsumer<SourceContext> = config
            .create_with_context(context)
            .map_err(|source| SourceError::Settings { source })?;
        Ok(Self { consumer: Arc::new(consumer), settings, broker: AtomicI32::new(-1) })
    }

    /// Asks the cluster about the topic. Blocks for at most about twice `timeout`.
    pub fn describe(&self, timeout: Duration) -> Result<TopicInfo, SourceError> {
        let (partitions, broker) = self.topic(timeout)?;
        self.broker.store(broker, Ordering::Relaxed);
        let cluster_id = self.consumer.client().fetch_cluster_id(timeout).unwrap_or_default();
        let topic_id = self.topic_id(timeout.min(TOPIC_ID_WAIT));
        Ok(TopicInfo { cluster_id, topic_id, partitions })
    }

    /// The topic's id now, where the cluster tells it. Blocks for at most about `timeout`.
    pub fn topic_id(&self, timeout: Duration) -> Option<String> {
        let (client, topic) = (self.consumer.client(), &self.settings.topic);
        // Any broker knows. The client's own choice is the controller, which may be away while all
        // else works; it is asked second.
        let broker = self.broker.load(Ordering::Relaxed);
        let asked = (broker >= 0).then(|| admin::topic_id(client, topic, Some(broker), timeout));
        asked.flatten().or_else(|| admin::topic_id(client, topic, None, timeout))
    }

    /// The topic's partitions now.
    pub fn partitions(&self, timeout: Duration) -> Result<Vec<TopicPartition>, SourceError> {
        Ok(self.topic(timeout)?.0)
    }

    /// The topic's partitions, and the id of a broker of its cluster, -1 if it names none.
    fn topic(&self, timeout: Duration) -> Result<(Vec<TopicPartition>, i32), SourceError> {
        let topic = &self.settings.topic;
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), timeout)
            .map_err(|source| self.failed("read the topic's metadata", source))?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        let absent = || SourceError::TopicAbsent {
            topic: topic.clone(),
            brokers: self.settings.brokers.clone(),
        };
        let found = found.ok_or_else(absent)?;
        if let Some(error) = found.error() {
            let code = RDKafkaErrorCode::from(error);
            return Err(match code {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                    absent()
                }
                other => self.failed("read the topic's metadata", KafkaError::MetadataFetch(other)),
            });
        }
        if found.partitions().is_empty() {
            return Err(absent());
        }
        let mut numbers: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
        numbers.sort_unstable();
        let partitions = numbers.into_iter().map(|n| TopicPartition::new(topic.clone(), n));
        let broker = metadata.brokers().first().map_or(-1, |broker| broker.id());
        Ok((partitions.collect(), broker))
    }

    /// First offset kept and end of what a committed reader may see, for each partition.
    pub fn log_ranges(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, (Offset, Offset)>, SourceError> {
        partitions
            .iter()
            .map(|tp| {
                let range = self
                    .consumer
                    .fetch_watermarks(&tp.topic, tp.partition, timeout)
                    .map_err(|source| self.failed("read the ends of the log", source))?;
                Ok((tp.clone(), range))
            })
            .collect()
    }

    /// Starts reading each partition at its offset, spread over `shards` queues.
    pub fn assign(&self, starts: &Frontier, shards: usize) -> Result<Vec<ShardQueue>, SourceError> {
        let shards = shards.clamp(1, starts.len().max(1));
        let mut queues = Vec::with_capacity(shards);
        for _ in 0..shards {
            queues.push(ShardQueue::new(&self.consumer, &self.settings.topic));
        }
        let mut list = TopicPartitionList::with_capacity(starts.len());
        for (index, (tp, offset)) in starts.iter().enumerate() {
            // Forwarded before it is assigned: no record can reach the consumer's own queue.
            queues[index % shards].take(tp).map_err(|detail| self.operation("assign", detail))?;
            list.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(offset))
                .map_err(|e| self.operation("assign", e.to_string()))?;
        }
        self.consumer.assign(&list).map_err(|e| self.operation("assign", e.to_string()))?;
        Ok(queues)
    }

    /// Stops reading.
    pub fn unassign(&self) -> Result<(), SourceError> {
        self.consumer.unassign().map_err(|e| self.operation("unassign", e.to_string()))
    }

    /// Reports offsets to the consumer group, for lag tools. Blocks until the broker answers.
    pub fn report(&self, frontier: &Frontier) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::with_capacity(frontier.len());
        for (tp, next) in frontier.iter() {
            list.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(next))
                .map_err(|e| self.operation("report offsets", e.to_string()))?;
        }
        self.consumer
            .commit(&list, CommitMode::Sync)
            .map_err(|e| self.operation("report offsets", e.to_string()))
    }

    /// Serves the client's own events for up to `timeout`; to be called all the time.
    pub fn serve(&self, timeout: Duration) -> Result<(), SourceError> {
        match self.consumer.poll(timeout) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code) if is_connection(code) => Ok(()),
                _ => Err(self.failed("read", error)),
            },
        }
    }

    /// End of the log of a partition as the last fetch saw it, if there was one. No I/O.
    pub fn cached_log_end(&self, tp: &TopicPartition) -> Option<Offset> {
        admin::cached_log_end(self.consumer.client(), tp)
    }

    /// Did the client lose every broker since the last call?
    pub fn take_brokers_down(&self) -> bool {
        self.consumer.context().brokers_down.swap(false, Ordering::Relaxed)
    }

    /// The error of a cluster that told the topic's id before and does not tell it now.
    pub fn silent(&self) -> SourceError {
        let detail = String::from("no answer, or the topic is gone");
        self.operation("ask for the id of the topic", detail)
    }

    /// The error of a cluster that stays away.
    pub fn unreachable(&self) -> SourceError {
        self.failed("read", KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown))
    }

    fn operation(&self, what: &'static str, detail: String) -> SourceError {
        SourceError::Operation { what, brokers: self.settings.brokers.clone(), detail }
    }

    fn failed(&self, what: &'static str, source: KafkaError) -> SourceError {
        let brokers = self.settings.brokers.clone();
        match source.rdkafka_error_code() {
            Some(code) if is_refusal(code) => SourceError::Unauthorised {
                what: format!("{} ({what})", self.settings.topic),
                brokers,
                detail: source.to_string(),
            },
            _ => SourceError::Unreachable { what, brokers, source },
        }
    }
}

fn is_connection(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::MessageTimedOut
    )
}

fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::Authentication
    )
}
