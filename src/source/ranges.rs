//! Where logs begin and end, asked for all partitions of a broker at once.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::{SourceContext, is_connection, is_refusal};
use crate::protocol::{Offset, TopicPartition};

/// First offset kept and end of what a committed reader may see, by partition. Partitions of which
/// a broker did not tell both are left out. Blocks for at most about twice `timeout`.
pub(super) fn of_all(
    consumer: &BaseConsumer<SourceContext>,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, (Offset, Offset)>> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    // In this order, so that what retention takes in between leaves no log that ends before it begins.
    let starts = ask(consumer, partitions, KafkaOffset::Beginning, timeout)?;
    let ends = ask(consumer, partitions, KafkaOffset::End, timeout)?;
    let both = |(partition, start)| Some((partition, (start, *ends.get(&partition)?)));
    Ok(starts.into_iter().filter_map(both).collect())
}

/// Kafka's ListOffsets, one request to each leader. It takes one of two special timestamps for the
/// log's ends, which are librdkafka's numbers for these offsets.
fn ask(
    consumer: &BaseConsumer<SourceContext>,
    partitions: &[TopicPartition],
    end: KafkaOffset,
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, Offset>> {
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
    Ok(known.filter_map(|each| Some((each.partition(), offset(each.offset())?))).collect())
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::{FetchBy, Source, SourceError, SourceSettings};
    use super::*;

    const TOPIC: &str = "orders";
    const PARTITIONS: i32 = 60;
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Three brokers that lead twenty partitions each; a partition has as many records as its number.
    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(3).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
        for partition in 0..PARTITIONS {
            cluster.partition_leader(TOPIC, partition, Some(1 + partition % 3)).unwrap();
        }
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        for partition in 0..PARTITIONS {
            for _ in 0..partition {
                let record = BaseRecord::<(), _>::to(TOPIC).partition(partition).payload("{}");
                producer.send(record).unwrap();
            }
        }
        producer.flush(PATIENCE).unwrap();
        cluster
    }

    fn partitions() -> Vec<TopicPartition> {
        (0..PARTITIONS).map(|partition| TopicPartition::new(TOPIC, partition)).collect()
    }

    fn source(brokers: String) -> Source {
        Source::connect(SourceSettings {
            brokers,
            topic: TOPIC.to_owned(),
            group_id: String::from("ranges"),
            group: None,
            properties: BTreeMap::new(),
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
        let expected: BTreeMap<i32, (Offset, Offset)> =
            (0..PARTITIONS).map(|partition| (partition, (0, Offset::from(partition)))).collect();
        assert_eq!(told, expected);
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
        let expected = partitions().into_iter().map(|tp| (tp.clone(), (0, tp.partition.into())));
        assert_eq!(told, expected.collect());
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
