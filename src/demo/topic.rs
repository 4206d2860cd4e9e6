//! The embedded broker with one topic, and the producer of its records.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DefaultProducerContext, DeliveryResult, Producer, ProducerContext,
};

use super::error::DemoError;
use super::readings::Reading;
use super::signals::Stop;
use crate::protocol::Offset;

/// The topic's name.
pub(super) const TOPIC: &str = "sensor-readings";

const BROKERS: i32 = 3;
const ALL_BROKERS: i32 = -1;
/// To the child it answers as late as over a network, and a fetch yields one batch a partition: so
/// a child has some tenths of a second to do, and a kill comes in the midst of it.
const ROUND_TRIP: Duration = Duration::from_millis(3);
const BATCH_RECORDS: &str = "25";
/// How long the broker may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a wait looks for a signal.
const TICK: Duration = Duration::from_millis(20);

/// Counts what the broker acknowledges.
#[derive(Default)]
struct Deliveries {
    acknowledged: AtomicU64,
    failed: OnceLock<KafkaError>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.failed.get_or_init(|| error.clone());
            }
        }
    }
}

/// A topic on an embedded broker, both gone with this value.
pub(super) struct Topic {
    // Dropped first: its broker is the next field.
    producer: BaseProducer<Deliveries>,
    cluster: MockCluster<'static, DefaultProducerContext>,
    partitions: i32,
}

impl Topic {
    pub(crate) fn start(partitions: i32) -> Result<Self, DemoError> {
        let cluster = MockCluster::new(BROKERS).map_err(broker("start"))?;
        cluster.create_topic(TOPIC, partitions, BROKERS).map_err(broker("make the topic"))?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("client.id", "icestream-demo")
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("batch.num.messages", BATCH_RECORDS)
            // The broker's limit counts bytes as they are sent.
            .set("compression.type", "none")
            .create_with_context(Deliveries::default())
            .map_err(broker("make the producer"))?;
        Ok(Self { producer, cluster, partitions })
    }

    /// Bootstrap servers, on the loopback interface.
    pub(crate) fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Produces readings; returns when all are acknowledged.
    pub(crate) fn produce(
        &self,
        readings: impl Iterator<Item = Reading>,
        stop: &Stop,
    ) -> Result<(), DemoError> {
        self.round_trip(Duration::ZERO)?;
        self.send(readings, stop)?;
        self.round_trip(ROUND_TRIP)
    }

    fn round_trip(&self, time: Duration) -> Result<(), DemoError> {
        let set = self.cluster.broker_round_trip_time(ALL_BROKERS, time);
        set.map_err(broker("set its round-trip time"))
    }

    fn send(&self, readings: impl Iterator<Item = Reading>, stop: &Stop) -> Result<(), DemoError> {
        for reading in readings {
            let mut record = BaseRecord::to(TOPIC).key(&reading.sample_id).payload(&reading.json);
            loop {
                match self.producer.send(record) {
                    Ok(()) => break,
                    Err((error, unsent)) if is_full(&error) => record = unsent,
                    Err((error, _)) => return Err(broker("produce")(error)),
                }
                stop.check()?;
                self.producer.poll(TICK);
            }
        }
        while self.producer.in_flight_count() > 0 {
            stop.check()?;
            self.producer.poll(TICK);
        }
        match self.producer.context().failed.get() {
            Some(error) => Err(broker("deliver a record")(error.clone())),
            None => Ok(()),
        }
    }

    /// Ends of the log by partition, after a proof that the broker holds all that it acknowledged.
    pub(crate) fn ends(&self) -> Result<Vec<Offset>, DemoError> {
        let client = self.producer.client();
        let range = |partition| {
            let range = client.fetch_watermarks(TOPIC, partition, PATIENCE);
            range.map_err(broker("read the ends of the log"))
        };
        let ranges: Vec<_> = (0..self.partitions).map(range).collect::<Result<_, _>>()?;
        let acknowledged = self.producer.context().acknowledged.load(Ordering::Relaxed);
        let total = ranges.iter().map(|(_, high)| u64::try_from(*high).unwrap_or(0)).sum();
        for (partition, (low, high)) in (0..self.partitions).zip(&ranges) {
            if *low != 0 || total != acknowledged {
                let (low, high) = (*low, *high);
                return Err(DemoError::BrokerLost { partition, low, high, acknowledged, total });
            }
        }
        Ok(ranges.into_iter().map(|(_, high)| high).collect())
    }
}

fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

fn broker(what: &'static str) -> impl Fn(KafkaError) -> DemoError {
    move |source| DemoError::Broker { what, source }
}

#[cfg(test)]
mod tests {
    use super::super::readings::Readings;
    use super::*;

    #[test]
    fn the_broker_keeps_all_that_it_acknowledges_also_in_a_full_partition() {
        let plan = super::super::plan::Plan::new(60_000, 0).unwrap();
        let topic = Topic::start(plan.partitions).unwrap();
        topic.produce(Readings::new(1).take(60_000), &Stop::default()).unwrap();
        let ends = topic.ends().unwrap();
        assert_eq!(ends.len(), usize::try_from(plan.partitions).unwrap());
        assert_eq!(ends.iter().sum::<Offset>(), 60_000);
    }

    #[test]
    fn a_broker_that_dropped_records_is_found_out() {
        let topic = Topic::start(1).unwrap();
        topic.produce(Readings::new(1).take(60_000), &Stop::default()).unwrap();
        let error = topic.ends().unwrap_err();
        let DemoError::BrokerLost { low, high: 60_000, .. } = error else { panic!("{error}") };
        assert!(low > 0, "{low}");
    }
}
