//! Where logs begin and end, asked for all partitions of a broker at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{
    Offset as KafkaOffset, TopicPartitionList, TopicPartitionListElem,
};

use super::{Source, SourceContext, SourceError, admin, is_connection, is_refusal};
use crate::protocol::{LogRange, Offset, TopicPartition};

/// What is done here, for messages.
const DOING: &str = "read the ends of the log";
/// How long a broker may take where others are not to wait for it.
const ANSWER: Duration = Duration::from_secs(4);
/// How long a leader that is being elected is waited for there.
const ELECTION: Duration = Duration::from_secs(1);
/// How soon leaders are asked for again.
const AGAIN: Duration = Duration::from_millis(200);

/// What leaders tell of their partitions.
type Told<T> = BTreeMap<TopicPartition, T>;
type Ranges = Told<LogRange>;
/// A question to one leader about its partitions, and how long it may take.
type Ask<T> = fn(&BaseConsumer<SourceContext>, &[TopicPartition], Duration) -> KafkaResult<Told<T>>;

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// One past the last offset that a committed reader may see.
    pub end: Offset,
    /// Offsets from there on, behind the beginning of a transaction that is not ended.
    pub open: Offset,
}

/// Where logs end.
pub(crate) type Ends = Told<LogEnd>;

impl Source {
    /// First offset kept and end of what a committed reader may see, for each partition.
    pub(crate) fn log_ranges(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Ranges, SourceError> {
        let known = self.told(partitions, timeout, timeout)?;
        match partitions.iter().find(|tp| !known.contains_key(tp)) {
            None => Ok(known),
            Some(absent) => Err(self.no_leader(absent)),
        }
    }

    /// The same of those partitions whose leaders tell it; the others are left out.
    pub(crate) fn known_log_ranges(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Ranges, SourceError> {
        self.told(partitions, ANSWER, ELECTION)
    }

    fn no_leader(&self, tp: &TopicPartition) -> SourceError {
        self.operation(DOING, format!("no leader of {tp} answers"))
    }

    /// Where logs end, of those partitions whose leaders tell it.
    pub(crate) fn log_ends(&self, partitions: &[TopicPartition]) -> Result<Ends, SourceError> {
        self.ask_leaders(partitions, (ANSWER, Duration::ZERO), ends_of_leader)
    }

    /// Offsets behind the beginning of a transaction that is not ended, of those partitions that have some.
    pub(crate) fn open_transactions(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Told<Offset>, SourceError> {
        let ends = self.log_ends(partitions)?.into_iter();
        Ok(ends.filter(|(_, end)| end.open > 0).map(|(tp, end)| (tp, end.open)).collect())
    }

    fn told(
        &self,
        partitions: &[TopicPartition],
        answer: Duration,
        election: Duration,
    ) -> Result<Ranges, SourceError> {
        self.ask_leaders(partitions, (answer, election), of_leader)
    }

    /// Asks leaders side by side, so that one that does not answer holds up nobody else, each for
    /// `answer`; those that are elected meanwhile are waited for up to `election`.
    fn ask_leaders<T: Send>(
        &self,
        partitions: &[TopicPartition],
        (answer, election): (Duration, Duration),
        ask: Ask<T>,
    ) -> Result<Told<T>, SourceError> {
        let until = Instant::now() + election;
        let mut known = Told::new();
        loop {
            let (led, _) = self.metadata(answer)?;
            let mut by_leader = BTreeMap::<i32, Vec<TopicPartition>>::new();
            for tp in partitions.iter().filter(|tp| !known.contains_key(tp)) {
                if let Some(Some(leader)) = led.get(tp) {
                    by_leader.entry(*leader).or_default().push(tp.clone());
                }
            }
            let panicked = |_| Err(KafkaError::MetadataFetch(RDKafkaErrorCode::Fail));
            let told: Vec<KafkaResult<Told<T>>> = std::thread::scope(|scope| {
                let ask = |led: Vec<TopicPartition>| {
                    let consumer = &self.consumer;
                    scope.spawn(move || ask(consumer, &led, answer))
                };
                let asked: Vec<_> = by_leader.into_values().map(ask).collect();
                asked.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
            });
            for told in told {
                match told {
                    Ok(told) => known.extend(told),
                    Err(error) if error.rdkafka_error_code().is_some_and(is_refusal) => {
                        return Err(self.failed(DOING, error));
                    }
                    Err(error) => tracing::debug!(%error, "a leader does not tell its logs"),
                }
            }
            if known.len() == partitions.len() || Instant::now() >= until {
                return Ok(known);
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// Where logs of one leader end.
fn ends_of_leader(
    consumer: &BaseConsumer<SourceContext>,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> KafkaResult<Ends> {
    // In this order, so that a transaction that ends in between is not one that is open.
    let high = admin::high_watermarks(consumer.client(), partitions, timeout);
    let ends = ask(consumer, partitions, KafkaOffset::End, timeout)?;
    let both = |(tp, end): (TopicPartition, Offset)| {
        let open = high.get(&tp).map_or(0, |high| (high - end).max(0));
        (tp, LogEnd { end, open })
    };
    Ok(ends.into_iter().map(both).collect())
}

/// What one leader tells of its partitions: of each by itself where it does not tell all at once.
fn of_leader(
    consumer: &BaseConsumer<SourceContext>,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> KafkaResult<Ranges> {
    let until = Instant::now() + timeout;
    let mut told = of_all(consumer, partitions, timeout)?;
    for tp in partitions {
        if told.contains_key(tp) {
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match consumer.fetch_watermarks(&tp.topic, tp.partition, left) {
            Ok((start, end)) => drop(told.insert(tp.clone(), LogRange { start, end })),
            Err(error) if error.rdkafka_error_code().is_some_and(is_refusal) => return Err(error),
            Err(error) => tracing::debug!(%tp, %error, "its log is not told"),
        }
    }
    Ok(told)
}

/// First offset kept and end of what a committed reader may see, by partition. Partitions of which
/// a broker did not tell both are left out. Blocks for at most about twice `timeout`.
fn of_all(
    consumer: &BaseConsumer<SourceContext>,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> KafkaResult<BTreeMap<TopicPartition, LogRange>> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    // In this order, so that what retention takes in between leaves no log that ends before it begins.
    let starts = ask(consumer, partitions, KafkaOffset::Beginning, timeout)?;
    let ends = ask(consumer, partitions, KafkaOffset::End, timeout)?;
    let both = |(tp, start)| {
        let end = *ends.get(&tp)?;
        Some((tp, LogRange { start, end }))
    };
    Ok(starts.into_iter().filter_map(both).collect())
}

/// Kafka's ListOffsets, one request to each leader. It takes one of two special timestamps for the
/// log's ends, which are librdkafka's numbers for these offsets.
fn ask(
    consumer: &BaseConsumer<SourceContext>,
    partitions: &[TopicPartition],
    end: KafkaOffset,
    timeout: Duration,
) -> KafkaResult<BTreeMap<TopicPartition, Offset>> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for tp in partitions {
        list.add_partition_offset(&tp.topic, tp.partition, end)?;
    }
    let told = match consumer.offsets_for_times(list, timeout) {
        Ok(told) => told,
        Err(error) => {
            let code = error.rdkafka_error_code();
            if code.is_some_and(|code| is_connection(code) || is_refusal(code)) {
                return Err(error);
            }
            // One partition's error is all that is told of all of them.
            tracing::debug!(%error, "asking for each partition's log by itself");
            return Ok(BTreeMap::new());
        }
    };
    let elements = told.elements();
    let known = elements.iter().filter(|element| element.error().is_ok());
    let offset = |offset| match offset {
        KafkaOffset::Offset(offset) => Some(offset),
        _ => None,
    };
    let each = |element: &TopicPartitionListElem<'_>| {
        let tp = TopicPartition::new(element.topic(), element.partition());
        Some((tp, offset(element.offset())?))
    };
    Ok(known.filter_map(each).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::{FetchBy, SourceSettings, Topics};
    use super::*;
    use crate::base::secret::Properties;

    /// Two topics and how many partitions they have.
    const TOPICS: [(&str, i32); 2] = [("orders", 60), ("payments", 6)];
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Three brokers that lead a third of the partitions each.
    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(3).unwrap();
        for (topic, partitions) in TOPICS {
            cluster.create_topic(topic, partitions, 1).unwrap();
            for partition in 0..partitions {
                cluster.partition_leader(topic, partition, Some(1 + partition % 3)).unwrap();
            }
        }
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        for tp in partitions() {
            for _ in 0..records(&tp) {
                let record =
                    BaseRecord::<(), _>::to(&tp.topic).partition(tp.partition).payload("{}");
                producer.send(record).unwrap();
            }
        }
        producer.flush(PATIENCE).unwrap();
        cluster
    }

    fn partitions() -> Vec<TopicPartition> {
        let of = |(topic, partitions)| (0..partitions).map(move |n| TopicPartition::new(topic, n));
        TOPICS.into_iter().flat_map(of).collect()
    }

    /// A partition has as many records as its number, and one more for the second topic.
    fn records(tp: &TopicPartition) -> i32 {
        tp.partition + i32::from(tp.topic == TOPICS[1].0)
    }

    fn logs() -> BTreeMap<TopicPartition, LogRange> {
        let log = |tp: TopicPartition| {
            let end = records(&tp).into();
            (tp, LogRange { start: 0, end })
        };
        partitions().into_iter().map(log).collect()
    }

    fn source(brokers: String) -> Source {
        source_of(brokers, TOPICS.map(|(topic, _)| topic))
    }

    fn source_of(brokers: String, topics: [&str; 2]) -> Source {
        Source::connect(SourceSettings {
            brokers,
            topics: Topics::new(topics),
            group_id: String::from("ranges"),
            group: None,
            properties: Properties::default(),
            fetch_bytes: 1 << 20,
            queue_bytes: 1 << 20,
            batch_bytes: 1 << 30,
            queue_messages: 1000,
            fetch_by: FetchBy::Librdkafka,
            offsets: Arc::default(),
        })
        .unwrap()
    }

    #[test]
    fn all_partitions_are_told_without_asking_for_one() {
        let cluster = cluster();
        let source = source(cluster.bootstrap_servers());
        let told = of_all(&source.consumer, &partitions(), PATIENCE).unwrap();
        assert_eq!(told, logs());
        assert!(of_all(&source.consumer, &[], PATIENCE).unwrap().is_empty());
    }

    #[test]
    fn partitions_whose_leader_moves_are_asked_for_by_themselves() {
        let cluster = cluster();
        let source = source(cluster.bootstrap_servers());
        let moved = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION];
        cluster.request_errors(RDKafkaApiKey::ListOffsets, &moved);
        assert!(of_all(&source.consumer, &partitions(), PATIENCE).unwrap().is_empty());
        cluster.request_errors(RDKafkaApiKey::ListOffsets, &moved);
        let told = source.log_ranges(&partitions(), PATIENCE).unwrap();
        assert_eq!(told, logs());
    }

    #[test]
    fn the_partitions_of_all_topics_are_told_topic_by_topic() {
        let cluster = cluster();
        let source = source(cluster.bootstrap_servers());
        assert_eq!(source.partitions(PATIENCE).unwrap(), partitions());
        let absent = source_of(cluster.bootstrap_servers(), ["absent", "orders"]);
        let error = absent.partitions(PATIENCE).unwrap_err();
        assert!(matches!(&error, SourceError::TopicAbsent { topic, .. } if topic == "absent"));
    }

    #[test]
    fn a_refusal_is_told_as_such() {
        let cluster = cluster();
        let source = source(cluster.bootstrap_servers());
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3];
        cluster.request_errors(RDKafkaApiKey::ListOffsets, &refused);
        let error = source.log_ranges(&partitions(), PATIENCE).unwrap_err();
        assert!(matches!(error, SourceError::Unauthorised { .. }), "{error}");
    }
}
