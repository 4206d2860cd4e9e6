//! Where logs begin and end, asked for all partitions of a broker at once.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{
    Offset as KafkaOffset, TopicPartitionList, TopicPartitionListElem,
};

use super::{SourceContext, is_connection, is_refusal};
use crate::protocol::{LogRange, Offset, TopicPartition};

/// First offset kept and end of what a committed reader may see, by partition. Partitions of which
/// a broker did not tell both are left out. Blocks for at most about twice `timeout`.
pub(super) fn of_all(
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
    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::{FetchBy, Source, SourceError, SourceSettings, Topics};
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
            queue_messages: 1000,
            fetch_by: FetchBy::Librdkafka,
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
