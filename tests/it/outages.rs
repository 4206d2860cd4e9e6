//! Servers that go away and come back, or never were there.

use crate::landing::{pipeline, records};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::proxy::{Fault, Matching, Proxy};
use crate::support::s3::S3;
use crate::support::table::Lake;
use crate::support::{PATIENCE, free_port};

const COMMITTED: &str = "icestream_committed_records_total";

#[test]
fn a_broker_that_dies_and_comes_back_costs_nothing_but_time() {
    outlive_broker("auto");
}

/// The test, with records fetched by one or the other.
pub fn outlive_broker(fetcher: &str) {
    let mut kafka = Kafka::own();
    let lake = Lake::sqlite();
    let topic = "outage";
    kafka.create_topic(topic, 2, &[]);
    let table = lake.table("db.outage");
    let icestream =
        Icestream::new(&kafka, topic, &lake, "db.outage").schema(&crate::landing::schema());
    let icestream = icestream.set("KAFKA_FETCHER", fetcher);
    let mut produced = kafka.produce(topic, records(2, 0..500));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 500.0);
    for round in 1..=2i64 {
        // Once without a word, once in order.
        if round == 1 {
            kafka.kill()
        } else {
            kafka.stop()
        }
        let readiness = running.wait_ready(false, PATIENCE);
        assert_eq!(readiness["servers"]["kafka"]["reachable"], false, "{readiness}");
        assert_eq!(running.get("/healthz").unwrap().status, 200);
        kafka.start();
        running.wait_ready(true, PATIENCE);
        produced = produced.and(&kafka.produce(topic, records(2, 500 * round..500 * (round + 1))));
        running.wait_count(COMMITTED, &[], 500.0 * (round + 1) as f64);
    }
    running.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 1500);
}

/// Gives up soon, with one message that has these words.
fn assert_gives_up(icestream: &Icestream, words: &[&str]) {
    let brief = icestream.clone().set("RETRY_GIVE_UP_MS", "1000");
    let exit = brief.run().wait(PATIENCE).with_code(5);
    let messages: Vec<&str> =
        exit.log.lines().filter(|line| line.starts_with("icestream: ")).collect();
    assert_eq!(messages.len(), 1, "{}", exit.log);
    for word in [words, &["gave up", "RETRY_GIVE_UP_MS"]].concat() {
        assert!(messages[0].contains(word), "{word:?} is not in: {}", messages[0]);
    }
}

#[test]
fn a_broker_that_is_not_there_is_given_up_after_the_set_time() {
    let (icestream, _) = pipeline(&Lake::sqlite(), 1);
    let address = format!("127.0.0.1:{}", free_port());
    assert_gives_up(&icestream.set("KAFKA_BROKERS", &address), &[&address, "Kafka"]);
}

#[test]
fn a_catalog_that_is_not_there_is_given_up_after_the_set_time() {
    let lake = Lake::rest();
    let (icestream, topic) = pipeline(&lake, 2);
    let produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let address = format!("http://127.0.0.1:{}", free_port());
    let away = icestream.clone().set("ICEBERG_CATALOG_URI", &address);
    assert_gives_up(&away, &[&address, "catalog"]);
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 100);
}

#[test]
fn a_catalog_that_is_away_for_a_while_is_waited_for() {
    let lake = Lake::rest();
    let proxy = Proxy::before(&lake.rest_catalog().address());
    let lake = lake.through(proxy.uri());
    let (icestream, topic) = pipeline(&lake, 2);
    let mut produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);

    let loads = proxy.on(Matching::new("GET", "/").times(5), Fault::Answer(503, "{}".into()));
    let commits = proxy
        .on(Matching::new("POST", "/").with_ledger().times(2), Fault::Answer(503, "{}".into()));
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 100..200)));
    let readiness = running.wait_ready(false, PATIENCE);
    assert_eq!(readiness["servers"]["catalog"]["reachable"], false, "{readiness}");
    loads.wait_done(5, PATIENCE);
    commits.wait_done(2, PATIENCE);
    running.wait_count(COMMITTED, &[], 200.0);
    running.wait_ready(true, PATIENCE);
    running.wait_count("icestream_retries_total", &[("server", "catalog")], 5.0);

    // From here on nobody is there at all, until the process gives up.
    drop(running);
    drop(proxy);
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 200..300)));
    assert_gives_up(&icestream, &["catalog"]);
    let direct = icestream.set("ICEBERG_CATALOG_URI", lake.rest_catalog().uri());
    direct.run_until_caught_up();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 300);
}

#[test]
fn a_store_that_is_away_for_a_while_is_waited_for() {
    let lake = Lake::sqlite_on_s3();
    let endpoint = S3::shared().endpoint();
    let proxy = Proxy::before(endpoint.strip_prefix("http://").unwrap());
    let (icestream, topic) = pipeline(&lake, 2);
    let behind = icestream.set("AWS_ENDPOINT_URL_S3", proxy.uri());
    let mut produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let mut running = behind.run();
    running.wait_count(COMMITTED, &[], 100.0);

    let writes = proxy.on(Matching::new("PUT", "/").times(30), Fault::Answer(503, String::new()));
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 100..200)));
    let readiness = running.wait_ready(false, PATIENCE);
    assert_eq!(readiness["servers"]["store"]["reachable"], false, "{readiness}");
    writes.wait_done(30, PATIENCE);
    running.wait_count(COMMITTED, &[], 200.0);
    running.wait_ready(true, PATIENCE);

    drop(running);
    drop(proxy);
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 200..300)));
    assert_gives_up(&behind, &[]);
    behind.set("AWS_ENDPOINT_URL_S3", endpoint).run_until_caught_up();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 300);
}

/// Data files get there, and what a commit writes of its own does not: the catalog is asked for nothing that
/// it does not answer.
#[test]
fn a_store_that_takes_no_metadata_is_named_and_the_catalog_is_not() {
    let lake = Lake::sqlite_on_s3();
    let endpoint = S3::shared().endpoint();
    let proxy = Proxy::before(endpoint.strip_prefix("http://").unwrap());
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream = icestream.set("AWS_ENDPOINT_URL_S3", proxy.uri());
    let mut produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);

    let writes =
        proxy.on(Matching::new("PUT", "/metadata/").times(30), Fault::Answer(503, String::new()));
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 100..200)));
    let servers = &running.wait_ready(false, PATIENCE)["servers"];
    assert_eq!(servers["store"]["reachable"], false, "{servers}");
    assert_eq!(servers["catalog"]["reachable"], true, "{servers}");
    writes.wait_done(30, PATIENCE);
    running.wait_count(COMMITTED, &[], 200.0);
    running.wait_ready(true, PATIENCE);
    let metrics = running.metrics().unwrap();
    let retries = |server| metrics.value("icestream_retries_total", &[("server", server)]);
    assert!(retries("store") > Some(0.0), "{}", metrics.text);
    assert_eq!(retries("catalog"), Some(0.0), "{}", metrics.text);
    running.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 200);
}
