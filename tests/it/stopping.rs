//! How long a process takes to stop when servers hang: `SHUTDOWN_TIMEOUT_MS`, whatever it is doing.

use std::thread;
use std::time::{Duration, Instant};

use crate::landing::{pipeline, records, schema};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::{Produced, Record};
use crate::support::proxy::{Fault, Matching, Proxy, Rule};
use crate::support::s3::S3;
use crate::support::table::Lake;
use crate::support::{PATIENCE, unique};

const COMMITTED: &str = "icestream_committed_records_total";
const TIMEOUT: Duration = Duration::from_secs(8);
/// What a busy machine may take beside that. Less than a second wait of as long.
const MORE: Duration = Duration::from_secs(6);
/// A process that can commit nothing waits this long for it.
const LEAST: Duration = Duration::from_secs(6);

/// A process that waits for something that does not come.
struct Waiting {
    what: &'static str,
    icestream: Icestream,
    topic: String,
    lake: Lake,
    produced: Produced,
    running: Running,
    proxy: Proxy,
    hung: Rule,
}

impl Waiting {
    /// With a REST catalog that takes no commit. The one that hangs is the last: nothing else ends an epoch.
    fn for_last_commit(what: &'static str, last: Option<Record>, arguments: &[&str]) -> Self {
        let lake = Lake::rest();
        let proxy = Proxy::before(&lake.rest_catalog().address());
        let lake = lake.through(proxy.uri());
        let (icestream, topic) = pipeline(&lake, 2);
        let icestream = patient(icestream).set("CHECKPOINT_INTERVAL_MS", "3600000");
        let produced = Kafka::shared().produce(&topic, records(2, 0..100));
        Kafka::shared().produce(&topic, last);
        let hung = proxy.on(Matching::ledger_of("db", &topic).times(100), Fault::Hang);
        let running = icestream.start(arguments);
        Self { what, icestream, topic, lake, produced, running, proxy, hung }
    }

    /// With a store that takes no file.
    fn for_the_store() -> Self {
        let lake = Lake::sqlite_on_s3();
        let endpoint = S3::shared().endpoint();
        let proxy = Proxy::before(endpoint.strip_prefix("http://").unwrap());
        let (icestream, topic) = pipeline(&lake, 2);
        let icestream = patient(icestream).set("AWS_ENDPOINT_URL_S3", proxy.uri());
        let produced = Kafka::shared().produce(&topic, records(2, 0..100));
        let hung = proxy.on(Matching::new("PUT", "/data/").times(100), Fault::Hang);
        let running = icestream.run();
        let what = "a store that hangs";
        Self { what, icestream, topic, lake, produced, running, proxy, hung }
    }

    /// With a catalog that does not tell of the table.
    fn at_its_start() -> Self {
        let lake = Lake::rest();
        let proxy = Proxy::before(&lake.rest_catalog().address());
        let lake = lake.through(proxy.uri());
        let (icestream, topic) = pipeline(&lake, 2);
        let icestream = patient(icestream);
        let produced = Kafka::shared().produce(&topic, records(2, 0..100));
        let hung = proxy.on(Matching::new("GET", "/tables/").times(100), Fault::Hang);
        let running = icestream.run();
        let what = "a catalog that hangs at the start";
        Self { what, icestream, topic, lake, produced, running, proxy, hung }
    }
}

fn patient(icestream: Icestream) -> Icestream {
    icestream.set("SHUTDOWN_TIMEOUT_MS", TIMEOUT.as_millis().to_string())
}

/// How long it takes from the signal on.
fn stop(running: &mut Running) -> Duration {
    running.signal("TERM");
    let begun = Instant::now();
    running.wait(PATIENCE).success();
    begun.elapsed()
}

#[test]
fn a_stop_takes_no_longer_than_it_may_whatever_hangs() {
    let bad = Some(Record::new(0, "{"));
    let mut all = [
        Waiting::for_last_commit("a last commit after a bad record", bad, &["run"]),
        Waiting::for_last_commit(
            "a last commit of a backfill",
            None,
            &["run", "--until-caught-up"],
        ),
        Waiting::for_the_store(),
        Waiting::at_its_start(),
    ];
    for each in &all {
        each.hung.wait_hits(1, PATIENCE);
    }
    // At once: each takes its time.
    let took: Vec<Duration> = thread::scope(|scope| {
        let stopped = all.iter_mut().map(|each| scope.spawn(|| stop(&mut each.running)));
        let stopped: Vec<_> = stopped.collect();
        stopped.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (each, took) in all.iter().zip(took) {
        println!("{}: {took:?}", each.what);
        assert!(took < TIMEOUT + MORE, "{}: {took:?}", each.what);
        let waits = !each.what.ends_with("start");
        assert!(!waits || took > LEAST, "{}: {took:?}", each.what);
    }
    for each in all {
        each.hung.withdraw();
        each.hung.release();
        let code = if each.what.ends_with("bad record") { 6 } else { 0 };
        each.icestream.command(&["run", "--until-caught-up"]).with_code(code);
        let table = each.lake.table(&format!("db.{}", each.topic));
        assert_eq!(assert_exactly_once(&table, &[&each.produced]), 100, "{}", each.what);
        drop(each.proxy);
    }
}

#[test]
fn a_stop_takes_no_longer_than_it_may_while_brokers_hang() {
    let (kafka, lake) = (Kafka::own(), Lake::sqlite());
    for fetcher in ["icestream", "librdkafka"] {
        let topic = unique("frozen");
        kafka.create_topic(&topic, 2, &[]);
        let icestream = Icestream::new(&kafka, &topic, &lake, &format!("db.{topic}"));
        let icestream = patient(icestream).schema(&schema()).set("KAFKA_FETCHER", fetcher);
        let produced = kafka.produce(&topic, records(2, 0..100));
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], 100.0);
        kafka.freeze();
        let took = stop(&mut running);
        kafka.thaw();
        println!("by {fetcher}: {took:?}");
        assert!(took < TIMEOUT + MORE, "by {fetcher}: {took:?}");
        assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 100);
    }
}
