//! Brokers that are too old for icestream's own fetcher. Versions of Kafka like that are not to be had any
//! more, but what answers as Azure Event Hubs does is: librdkafka's broker in the test process, which is
//! told the versions that it speaks.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::RDKafkaApiKey;

use crate::landing::{records, schema};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{Reader, query};
use crate::support::table::Lake;
use crate::support::{PATIENCE, unique};

const COUNT: i64 = 300;

struct Old {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topic: String,
}

impl Old {
    /// With a topic that has [`COUNT`] records.
    fn start() -> Self {
        let (cluster, topic) = (MockCluster::new(2).unwrap(), unique("old"));
        cluster.apiversion(RDKafkaApiKey::Fetch, Some(4), Some(6)).unwrap();
        cluster.create_topic(&topic, 3, 1).unwrap();
        let mut config = rdkafka::config::ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: BaseProducer = config.create().unwrap();
        for record in records(3, 0..COUNT) {
            let payload = record.payload.unwrap();
            let record = BaseRecord::<(), _>::to(&topic).partition(record.partition);
            producer.send(record.payload(&payload)).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        Self { cluster, topic }
    }

    fn pipeline(&self, lake: &Lake) -> Icestream {
        let name = format!("db.{}", self.topic);
        Icestream::new(Kafka::shared(), &self.topic, lake, &name)
            .schema(&schema())
            .set("KAFKA_BROKERS", self.cluster.bootstrap_servers())
            .set("KAFKA_ASSIGNMENT", "all")
    }
}

#[test]
fn a_broker_that_is_too_old_is_read_by_librdkafka_unless_the_settings_say_otherwise() {
    let (old, lake) = (Old::start(), Lake::sqlite());
    let icestream = old.pipeline(&lake);
    let reason = "the broker does not speak versions 11 or 12 of Fetch";

    let checked = icestream.command(&["check"]).success().stdout;
    for said in ["librdkafka (since cannot fetch from the broker at ", reason, "PASS  access"] {
        assert!(checked.contains(said), "{said:?} is not in: {checked}");
    }
    let exit = icestream.run_until_caught_up();
    let told = exit.log.lines().filter(|line| line.contains("librdkafka fetches"));
    let told: Vec<&str> = told.collect();
    assert_eq!(told.len(), 1, "{}", exit.log);
    assert!(told[0].contains(" WARN ") && told[0].contains(reason), "{}", told[0]);
    let name = format!("db.{}", old.topic);
    let rows = query(&lake.table(&name), Reader::DuckDb, "SELECT count(*), sum(id) FROM t");
    let sum = (0..COUNT).sum::<i64>().to_string();
    assert_eq!(rows, [[Some(COUNT.to_string()), Some(sum)]]);

    let own = icestream.member().set("KAFKA_FETCHER", "icestream");
    let checked = own.command(&["check"]).with_code(1).stdout;
    let line = checked.lines().find(|line| line.starts_with("FAIL")).unwrap();
    for said in ["FAIL  access", reason, "KAFKA_FETCHER=librdkafka"] {
        assert!(line.contains(said), "{said:?} is not in: {line}");
    }
}
