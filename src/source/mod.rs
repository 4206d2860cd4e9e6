//! Kafka: one consumer, its partitions forwarded to the queues of the shards.
//!
//! Nothing here decides what is read or kept: positions come in as arguments (they are the
//! table's ledger), offsets reported to the group are for lag tools only, and a position outside
//! the log is an error, never a silent reset.

mod admin;
mod asking;
#[cfg(test)]
mod asking_tests;
mod assignment;
mod client_queue;
mod error;
mod fetch;
mod group;
mod headers;
mod left_out;
mod marks;
mod queue;
mod ranges;
mod topics;
mod trying;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::base::secret::Properties;
use crate::protocol::{Offset, TopicPartition};

pub(crate) use error::SourceError;
pub(crate) use group::{Membership, SourceContext};
pub(crate) use headers::{Header, Headers, HeadersError};
pub(crate) use left_out::LeftOut;
pub(crate) use marks::{GroupOffsets, Reported, Reporter};
pub(crate) use queue::{Polled, Record, ShardQueue};
pub(crate) use ranges::{Ends, LogEnd};
pub(crate) use topics::{PartitionId, TopicIndex, Topics};
pub(crate) use trying::Fit;

use asking::Asking;
use client_queue::{ClientQueue, Forwarded, Target};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fetch::fuzzing;
use fetch::{Cluster, Fetcher, Security};

/// A cluster that just told its metadata tells topic ids at once, or does not know them and lets
/// the request time out (librdkafka's mock does).
const TOPIC_ID_WAIT: Duration = Duration::from_secs(2);
/// How long leaders may be asked for.
const LEADERS_PATIENCE: Duration = Duration::from_secs(1);
/// The operation that asks for partitions and leaders.
const READ_METADATA: &str = "read the topic's metadata";
/// How long the cluster may take to name the partitions that are all ours.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// What the cluster says about the topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicInfo {
    /// Id of the cluster, empty if it has none.
    pub cluster_id: String,
    /// Id of each topic, where the cluster tells it: a topic deleted and re-created has another.
    pub topic_ids: BTreeMap<String, String>,
    /// Their partitions, in order.
    pub partitions: Vec<TopicPartition>,
}

/// A partition of an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// The partition.
    pub tp: TopicPartition,
    /// The offset to read first.
    pub start: Offset,
    /// Leader epoch of the record before it, where it is known.
    pub epoch: Option<i32>,
    /// Index of the shard that reads it.
    pub shard: usize,
}

/// How to reach the topics.
#[derive(Clone, Debug)]
pub(crate) struct SourceSettings {
    /// Bootstrap servers.
    pub brokers: String,
    /// The topics.
    pub topics: Topics,
    /// The consumer group that offsets are reported to: the pipeline's name.
    pub group_id: String,
    /// Membership in that group; without it this process reads all partitions.
    pub group: Option<GroupMember>,
    /// librdkafka properties of the user: security and tuning.
    pub properties: Properties,
    /// Most bytes that one broker's answer may have.
    pub fetch_bytes: u64,
    /// Most bytes that the client may hold ready for each shard.
    pub queue_bytes: u64,
    /// A batch of records may unpack to fewer bytes than these.
    pub batch_bytes: u64,
    /// Most messages that the client may hold ready for each shard.
    pub queue_messages: u64,
    /// Who fetches the records.
    pub fetch_by: FetchBy,
    /// What the process knows of the group's offsets.
    pub offsets: Arc<GroupOffsets>,
}

/// Who fetches records from the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchBy {
    /// icestream itself: at about three quarters of the CPU. Of the properties it follows those of security
    /// that are settings of icestream's.
    Icestream,
    /// librdkafka, with all that it knows of security and tuning.
    Librdkafka,
}

impl SourceSettings {
    /// What the client calls itself: as a member of a group, into which tables it carries.
    fn client_id(&self) -> String {
        let member = self.group.as_ref();
        member.map_or_else(|| String::from("icestream"), |own| left_out::client_id(&own.tables))
    }
}

/// How a process is known to its group.
#[derive(Clone, Debug)]
pub(crate) struct GroupMember {
    /// The tables that it carries into.
    pub tables: String,
    /// `group.instance.id`: a member that comes back under the same one gets its partitions back.
    pub member: String,
    /// How long the group waits for a sign of life.
    pub session_timeout: Duration,
}

/// The consumer of one run of a pipeline.
pub(crate) struct Source {
    consumer: Arc<BaseConsumer<SourceContext>>,
    settings: SourceSettings,
    /// A broker of the cluster, -1 while none is known.
    broker: AtomicI32,
    /// Are the client's own events taken by [`Source::serve`]?
    is_served: AtomicBool,
    flows: Mutex<Flows>,
    /// What fetches records, where librdkafka does not.
    fetcher: Option<Fetcher>,
    asking: Mutex<Asking>,
}

/// Partitions, in order, by the broker that leads each, if one does.
type Led = BTreeMap<TopicPartition, Option<i32>>;

/// What flows where. Dropped before the consumer.
#[derive(Default)]
struct Flows {
    forwarded: BTreeMap<TopicPartition, Forwarded>,
    targets: Vec<Arc<Target>>,
    /// A change of the assignment that the client waits for: is it an assignment, and of what.
    unanswered: Option<(bool, TopicPartitionList)>,
}

impl Source {
    /// Makes the client. Nothing is sent yet: an unreachable broker shows in the first call.
    pub(crate) fn connect(settings: SourceSettings) -> Result<Self, SourceError> {
        let mut config = ClientConfig::new();
        // Short waits and small queues: stalls cost throughput, deep queues cost memory.
        config
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", settings.queue_messages.to_string())
            .set("fetch.max.bytes", settings.fetch_bytes.to_string())
            .set("fetch.wait.max.ms", "100")
            .set("check.crcs", "true")
            // How soon a group hears of partitions that were added to the topic.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("client.id", settings.client_id());
        if settings.fetch_by == FetchBy::Icestream {
            // Its partitions are paused at once. What it asked for before that is thrown away.
            config.set("queued.min.messages", "1").set("fetch.message.max.bytes", "1024");
        }
        for (name, value) in settings.properties.iter() {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &settings.brokers)
            .set("group.id", &settings.group_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            // An end-of-partition event taken from a batch moves the client's position past the
            // end, where it reads on after a rebalance: the next record would be skipped.
            .set("enable.partition.eof", "false")
            .set("allow.auto.create.topics", "false");
        if !settings.properties.contains("queued.max.messages.kbytes") {
            let kbytes = (settings.queue_bytes / 1024).clamp(1024, 2_097_151);
            config.set("queued.max.messages.kbytes", kbytes.to_string());
        }
        if let Some(group) = &settings.group {
            config.set("partition.assignment.strategy", "cooperative-sticky");
            config.set("group.instance.id", &group.member);
            let session = group.session_timeout.as_millis();
            config.set("session.timeout.ms", session.to_string());
            if !settings.properties.contains("heartbeat.interval.ms") {
                config.set("heartbeat.interval.ms", (session / 3).clamp(1, 3000).to_string());
            }
        }
        let context = SourceContext::default();
        let consumer: BaseConsumer<SourceContext> =
            config.create_with_context(context).map_err(|error| SourceError::settings(&error))?;
        let fetcher = (settings.fetch_by == FetchBy::Icestream).then(|| {
            Security::new(&settings.properties)
                .map(|security| Fetcher::new(&settings.topics, settings.queue_bytes, security))
                .map(|fetcher| fetcher.with_batches_below(settings.batch_bytes))
                .map_err(|detail| SourceError::Security { detail })
        });
        let fetcher = fetcher.transpose()?;
        Ok(Self {
            consumer: Arc::new(consumer),
            settings,
            broker: AtomicI32::new(-1),
            is_served: AtomicBool::new(false),
            flows: Mutex::default(),
            fetcher,
            asking: Mutex::default(),
        })
    }

    /// The topics that are read.
    pub(crate) fn topics(&self) -> &Topics {
        &self.settings.topics
    }

    /// Asks the cluster about the topics. Blocks for at most about twice `timeout`.
    pub(crate) fn describe(&self, timeout: Duration) -> Result<TopicInfo, SourceError> {
        let (partitions, broker) = self.metadata(timeout)?;
        let partitions = partitions.into_keys().collect();
        self.broker.store(broker, Ordering::Relaxed);
        let cluster_id = self.consumer.client().fetch_cluster_id(timeout).unwrap_or_default();
        let topic_ids = self.topic_ids(timeout.min(TOPIC_ID_WAIT));
        Ok(TopicInfo { cluster_id, topic_ids, partitions })
    }

    /// The id of each topic now, where the cluster tells it. Blocks for at most about twice `timeout`.
    pub(crate) fn topic_ids(&self, timeout: Duration) -> BTreeMap<String, String> {
        let client = self.consumer.client();
        let names = || self.settings.topics.iter().map(|(_, name)| name);
        // Any broker knows. The client's own choice is the controller, which may be away while all
        // else works; it is asked second.
        let broker = self.broker.load(Ordering::Relaxed);
        let mut ids = match broker {
            0.. => admin::topic_ids(client, names(), Some(broker), timeout),
            _ => BTreeMap::new(),
        };
        if names().any(|name| !ids.contains_key(name)) {
            let others = names().filter(|name| !ids.contains_key(*name));
            let others = admin::topic_ids(client, others, None, timeout);
            ids.extend(others);
        }
        ids
    }

    /// The topics' partitions now.
    pub(crate) fn partitions(&self, timeout: Duration) -> Result<Vec<TopicPartition>, SourceError> {
        Ok(self.metadata(timeout)?.0.into_keys().collect())
    }

    /// The topics' partitions by who leads them, if anybody does, and the id of a broker of their cluster,
    /// -1 if it names none. What fetches hears it, too.
    fn metadata(&self, timeout: Duration) -> Result<(Led, i32), SourceError> {
        let until = Instant::now() + timeout;
        let (mut partitions, mut broker, mut cluster) = (Led::new(), -1, Cluster::default());
        for (topic, name) in self.settings.topics.iter() {
            // The client answers for one topic at a time, or for all that the cluster has.
            let metadata = self
                .consumer
                .fetch_metadata(Some(name), until.saturating_duration_since(Instant::now()))
                .map_err(|source| self.failed_with(name, READ_METADATA, source))?;
            let found = self.found(name, &metadata)?;
            let leader = |leader: i32| (leader >= 0).then_some(leader);
            let led = found.partitions().iter();
            partitions.extend(led.map(|p| (TopicPartition::new(name, p.id()), leader(p.leader()))));
            cluster.learn(topic, found, metadata.brokers());
            broker = metadata.brokers().first().map_or(broker, |broker| broker.id());
        }
        if let Some(fetcher) = &self.fetcher {
            fetcher.set_cluster(cluster).map_err(|e| self.operation("fetch", e.to_string()))?;
        }
        Ok((partitions, broker))
    }

    /// What metadata says of a topic, if it exists.
    fn found<'a>(
        &self,
        topic: &str,
        metadata: &'a Metadata,
    ) -> Result<&'a MetadataTopic, SourceError> {
        let absent = || SourceError::TopicAbsent {
            topic: topic.to_owned(),
            brokers: self.settings.brokers.clone(),
        };
        let found = metadata.topics().iter().find(|each| each.name() == topic);
        let found = found.ok_or_else(absent)?;
        if let Some(error) = found.error() {
            let code = RDKafkaErrorCode::from(error);
            return Err(match code {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                    absent()
                }
                other => self.failed_with(topic, READ_METADATA, KafkaError::MetadataFetch(other)),
            });
        }
        if found.partitions().is_empty() {
            return Err(absent());
        }
        Ok(found)
    }

    /// A queue for each of `shards`. Nothing flows into them yet.
    pub(crate) fn queues(&self, shards: usize) -> Vec<ShardQueue> {
        let mut flows = self.flows();
        let queues: Vec<ClientQueue> =
            (0..shards).map(|_| ClientQueue::new(&self.consumer, &self.settings.topics)).collect();
        flows.targets = queues.iter().map(ClientQueue::target).collect();
        match &self.fetcher {
            // The client's are read by nobody.
            Some(fetcher) => fetcher
                .queues(shards)
                .into_iter()
                .map(|queue| ShardQueue::Fetched(Box::new(queue)))
                .collect(),
            None => queues.into_iter().map(ShardQueue::Client).collect(),
        }
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock()
    }

    /// Serves the client's own events for up to `timeout`; to be called all the time.
    pub(crate) fn serve(&self, timeout: Duration) -> Result<(), SourceError> {
        self.is_served.store(true, Ordering::Relaxed);
        self.ask_for_leaders();
        match self.consumer.poll(timeout) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code) if is_connection(code) => Ok(()),
                Some(RDKafkaErrorCode::GroupAuthorizationFailed) => match self.settings.group {
                    Some(_) => Err(self.denied(error.to_string())),
                    // It is for lag tools alone.
                    None => Ok(()),
                },
                Some(RDKafkaErrorCode::FencedInstanceId) => Err(SourceError::MemberReplaced {
                    group: self.settings.group_id.clone(),
                    member: self.settings.group.as_ref().map_or("", |own| &own.member).to_owned(),
                }),
                _ => Err(self.failed("read", error)),
            },
        }
    }

    /// Asks who leads, if what fetches needs to know it.
    fn ask_for_leaders(&self) {
        let Some(fetcher) = &self.fetcher else { return };
        let mut asking = self.asking.lock();
        if fetcher.take_news() {
            asking.news();
        }
        if !asking.is_due(Instant::now()) || !fetcher.take_leaders_wanted() {
            return;
        }
        asking.asked(Instant::now());
        if let Err(error) = self.partitions(LEADERS_PATIENCE) {
            tracing::debug!(%error, "cannot ask who leads");
            fetcher.want_leaders();
        }
    }

    /// End of the log of a partition as the last fetch saw it, if there was one. No I/O. librdkafka tells
    /// only the end for a reader of all records, which is not ours while a transaction is open.
    pub(crate) fn cached_log_end(&self, tp: &TopicPartition) -> Option<Offset> {
        self.fetcher.as_ref()?.log_end(tp)
    }

    /// Partitions that are read now. No I/O.
    pub(crate) fn read_partitions(&self) -> Vec<TopicPartition> {
        self.flows().forwarded.keys().cloned().collect()
    }

    /// Did the client lose every broker since the last call?
    pub(crate) fn take_brokers_down(&self) -> bool {
        self.consumer.context().take_brokers_down()
    }

    /// The error of a cluster that told a topic's id before and does not tell it now.
    pub(crate) fn silent(&self) -> SourceError {
        let detail = String::from("no answer, or the topic is gone");
        self.operation("ask for the id of the topic", detail)
    }

    /// The error of a group that does not answer.
    pub(crate) fn no_group(&self) -> SourceError {
        let group = self.settings.group_id.clone();
        SourceError::GroupSilent { group, brokers: self.settings.brokers.clone() }
    }

    /// The error of a group that we may not use.
    fn denied(&self, detail: String) -> SourceError {
        let what = format!("group {}", self.settings.group_id);
        SourceError::Unauthorised { what, brokers: self.settings.brokers.clone(), detail }
    }

    /// The error of a cluster that stays away.
    pub(crate) fn unreachable(&self) -> SourceError {
        self.failed("read", KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown))
    }

    fn operation(&self, what: &'static str, detail: String) -> SourceError {
        SourceError::Operation { what, brokers: self.settings.brokers.clone(), detail }
    }

    fn failed(&self, what: &'static str, source: KafkaError) -> SourceError {
        self.failed_with(&self.settings.topics, what, source)
    }

    /// Something with some or all of the topics failed.
    fn failed_with(
        &self,
        topics: impl Display,
        what: &'static str,
        source: KafkaError,
    ) -> SourceError {
        let brokers = self.settings.brokers.clone();
        match source.rdkafka_error_code() {
            Some(code) if is_refusal(code) => SourceError::Unauthorised {
                what: format!("{topics} ({what})"),
                brokers,
                detail: source.to_string(),
            },
            _ => SourceError::Unreachable { what, brokers, source },
        }
    }
}

impl Drop for Source {
    /// Leaves the group, unless the membership is static. The client waits for an answer to the
    /// last change before it closes, and nobody is left to give it.
    fn drop(&mut self) {
        self.consumer.context().close();
        self.take_changes();
        if let Some((assigned, partitions)) = self.flows().unanswered.take() {
            group::answer(&self.consumer, assigned, &partitions);
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
