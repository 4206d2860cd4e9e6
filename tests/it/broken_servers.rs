//! Servers that break while records keep coming. After each: exact by the oracle, progress resumed
//! by itself, `/readyz` said what was wrong.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::ops::RangeFrom;
use std::time::{Duration, Instant};

use crate::bad_input::SmallDisk;
use crate::landing::schema;
use crate::support::files;
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::{Produced, Record, Steady};
use crate::support::proxy::{Fault, Matching, Proxy};
use crate::support::s3::S3;
use crate::support::table::Lake;
use crate::support::{PATIENCE, free_port, unique, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";
const CHECKPOINTS: &str = "icestream_checkpoints_total";
const RESTARTS: &str = "icestream_restarts_total";
const MIB: u64 = 1 << 20;

/// Enough for 30 s of patience with a request, twice, and what comes after it.
const LONG: Duration = Duration::from_secs(180);

/// Records of some 300 bytes that pack to about a third.
fn load(partitions: i32, numbers: impl Iterator<Item = i64>) -> impl Iterator<Item = Record> {
    let mut random = fastrand::Rng::with_seed(11);
    numbers.zip((0..partitions).cycle()).map(move |(number, partition)| {
        let noise: String = (0..80).map(|_| random.alphanumeric()).collect();
        let (day, second) = (1 + number % 28, number % 60);
        let payload = format!(
            "{{\"id\": {number}, \"text\": \"{noise} and a text that is the same in each record, so \
             that it packs well, as texts of real records do, {number:>60}\", \
             \"ts\": \"2026-02-{day:02}T10:00:{second:02}.5Z\"}}"
        );
        Record::new(partition, payload)
    })
}

/// A pipeline under load: a topic that a producer keeps writing to, and a table.
pub struct Loaded {
    pub icestream: Icestream,
    topic: String,
    steady: Steady,
    backlog: Produced,
}

impl Loaded {
    const RATE: u64 = 2_000;

    pub fn new(kafka: &Kafka, lake: &Lake, partitions: i32, backlog: i64) -> Self {
        let topic = unique("broken");
        kafka.create_topic(&topic, partitions, &[]);
        let table = format!("db.{topic}");
        let icestream = Icestream::new(kafka, &topic, lake, &table).schema(&schema());
        let produced = kafka.produce(&topic, load(partitions, 0..backlog));
        let more: RangeFrom<i64> = backlog..;
        let steady = kafka.produce_steadily(&topic, Self::RATE, load(partitions, more));
        Self { icestream, topic, steady, backlog: produced }
    }

    pub fn set(self, name: &str, value: &str) -> Self {
        Self { icestream: self.icestream.set(name, value), ..self }
    }

    /// Ends the producer, waits until all is in the table, stops the process, asks the oracle.
    pub fn finish(self, mut running: Running, lake: &Lake) -> String {
        let produced = self.backlog.and(&self.steady.stop());
        let rows = produced.count();
        running.wait_metrics("all records as committed", LONG, |metrics| {
            metrics.value(COMMITTED, &[]).filter(|count| *count >= rows as f64)
        });
        running.wait_ready(true, PATIENCE);
        let log = running.stop(PATIENCE).success().log;
        let table = lake.table(&format!("db.{}", self.topic));
        assert_eq!(assert_exactly_once(&table, &[&produced]), rows.unsigned_abs());
        log
    }
}

fn committed(running: &Running) -> f64 {
    running.metrics().and_then(|metrics| metrics.value(COMMITTED, &[])).unwrap_or_default()
}

/// Waits until two seconds' worth of records more is in the table than now.
pub fn wait_progress(running: &mut Running) {
    let goal = committed(running) + 2.0 * Loaded::RATE as f64;
    running.wait_count(COMMITTED, &[], goal);
}

/// Waits until `/readyz` names a server as away.
pub fn wait_named(running: &mut Running, server: &str, within: Duration) {
    wait_for(&format!("/readyz to name {server}"), within, || {
        let reply = running.get("/readyz").filter(|reply| reply.status == 503)?;
        (reply.json()["servers"][server]["reachable"] == false).then_some(())
    });
}

fn catalog_behind_a_proxy() -> (Lake, Proxy) {
    let lake = Lake::rest();
    let proxy = Proxy::before(&lake.rest_catalog().address());
    (lake.through(proxy.uri()), proxy)
}

fn store_behind_a_proxy() -> (Lake, Proxy) {
    let endpoint = S3::shared().endpoint();
    (Lake::sqlite_on_s3(), Proxy::before(endpoint.strip_prefix("http://").unwrap()))
}

/// How long both are away and how much waits in the topic before: 10 s and 400,000 records, or as
/// `ICESTREAM_IT_OUTAGE_SECONDS` and `ICESTREAM_IT_BACKLOG` say (the long form: 120 and 3000000).
fn outage() -> (Duration, i64) {
    let set = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seconds: i64 = set("ICESTREAM_IT_OUTAGE_SECONDS").unwrap_or(10);
    let backlog = set("ICESTREAM_IT_BACKLOG").unwrap_or(400_000);
    (Duration::from_secs(seconds.unsigned_abs()), backlog)
}

#[test]
fn a_broker_and_a_catalog_that_are_both_away_under_load_cost_nothing_but_time() {
    const LIMIT_MB: u64 = 256;
    let (outage, backlog) = outage();
    let mut kafka = Kafka::own();
    let (lake, proxy) = catalog_behind_a_proxy();
    let loaded = Loaded::new(&kafka, &lake, 4, backlog);
    let loaded = loaded.set("MEMORY_LIMIT_MB", &LIMIT_MB.to_string());
    let mut running = loaded.icestream.run();
    running.wait_count(COMMITTED, &[], 1.0);
    proxy.cut();
    wait_named(&mut running, "catalog", PATIENCE);
    kafka.kill();
    let away = Instant::now();
    let (mut named, mut most) = (BTreeSet::new(), 0);
    wait_for("the end of the outage", outage + PATIENCE, || {
        most = most.max(running.memory().resident);
        let reply = running.get("/readyz")?;
        assert_eq!(reply.status, 503, "{reply:?}");
        for (server, state) in reply.json()["servers"].as_object().unwrap() {
            if state["reachable"] == false {
                named.insert(server.clone());
            }
        }
        assert_eq!(running.get("/healthz").unwrap().status, 200);
        (away.elapsed() >= outage && named.len() >= 2).then_some(())
    });
    assert_eq!(named, ["catalog", "kafka"].map(str::to_owned).into());
    let away = away.elapsed();
    kafka.start();
    proxy.mend();
    let back = Instant::now();
    let before = committed(&running);
    running.wait_count(COMMITTED, &[], before + 1.0);
    let resumed = back.elapsed();
    let produced = loaded.backlog.and(&loaded.steady.stop());
    running.wait_metrics("all records as committed", LONG, |metrics| {
        metrics.value(COMMITTED, &[]).filter(|count| *count >= produced.count() as f64)
    });
    let caught_up = back.elapsed();
    running.wait_ready(true, PATIENCE);
    let memory = running.memory();
    println!(
        "both away for {away:?}: {} records, {} MiB resident at most while they were away, {} MiB \
         at all, of {LIMIT_MB}; first commit {resumed:?} after both were back, all in the table \
         after {caught_up:?}",
        produced.count(),
        most / MIB,
        memory.peak / MIB
    );
    assert!(memory.peak < LIMIT_MB * MIB, "{memory:?}");
    running.stop(PATIENCE).success();
    let table = lake.table(&format!("db.{}", loaded.topic));
    assert_eq!(assert_exactly_once(&table, &[&produced]), produced.count().unsigned_abs());
}

#[test]
fn a_leader_that_dies_is_followed_by_another_and_nothing_is_lost() {
    let mut cluster = Kafka::cluster(3);
    let lake = Lake::sqlite();
    let loaded = Loaded::new(&cluster[0], &lake, 3, 1_000);
    let mut running = loaded.icestream.run();
    running.wait_count(COMMITTED, &[], 1_000.0);
    for _ in 0..2 {
        let leader = cluster[0].leader(&loaded.topic, 0);
        let dead = cluster.iter().position(|broker| broker.node() == leader).unwrap();
        cluster[dead].kill();
        wait_for("another leader", PATIENCE, || {
            (cluster[0].leader(&loaded.topic, 0) != leader).then_some(())
        });
        wait_progress(&mut running);
        cluster[dead].start();
        wait_progress(&mut running);
    }
    loaded.finish(running, &lake);
}

#[test]
fn a_broker_that_hangs_for_many_intervals_is_named_and_waited_for() {
    let kafka = Kafka::own();
    let lake = Lake::sqlite();
    let loaded = Loaded::new(&kafka, &lake, 2, 1_000);
    let mut running = loaded.icestream.run();
    wait_progress(&mut running);
    kafka.freeze();
    wait_named(&mut running, "kafka", PATIENCE);
    // What was read before is sealed, and dropped because nobody tells whose records it holds.
    running.wait_count(RESTARTS, &[("reason", "kafka")], 1.0);
    assert_eq!(running.get("/healthz").unwrap().status, 200);
    kafka.thaw();
    wait_progress(&mut running);
    loaded.finish(running, &lake);
}

#[test]
fn a_catalog_that_hangs_under_load_is_told_by_readiness_and_waited_for() {
    let (lake, proxy) = catalog_behind_a_proxy();
    let loaded = Loaded::new(Kafka::shared(), &lake, 2, 1_000);
    let mut running = loaded.icestream.run();
    wait_progress(&mut running);
    let hangs = ["GET", "POST"]
        .map(|method| proxy.on(Matching::new(method, "/").times(usize::MAX), Fault::Hang));
    // Nobody knows yet why: the request has 30 s. That nothing is committed is told before.
    let readiness = running.wait_ready(false, PATIENCE);
    let state = readiness["state"].as_str().unwrap();
    assert!(state.contains("no checkpoint completed for"), "{readiness}");
    wait_named(&mut running, "catalog", PATIENCE);
    hangs.iter().for_each(|rule| rule.withdraw());
    hangs.iter().for_each(|rule| rule.release());
    wait_progress(&mut running);
    loaded.finish(running, &lake);
}

#[test]
fn a_catalog_that_answers_every_kind_of_error_under_load_is_asked_again() {
    let (lake, proxy) = catalog_behind_a_proxy();
    let loaded = Loaded::new(Kafka::shared(), &lake, 2, 1_000);
    let mut running = loaded.icestream.run();
    wait_progress(&mut running);
    for status in [500, 502, 503, 504] {
        let body = || String::from("<html>oops</html>");
        let load = Matching::new("GET", "/namespaces/db/tables").times(2);
        let commit = || Matching::ledger_of("db", &loaded.topic);
        let rules = [
            (2, proxy.on(load, Fault::Answer(status, body()))),
            (1, proxy.on(commit(), Fault::Answer(status, body()))),
            (1, proxy.on(commit(), Fault::AnswerInstead(status, body()))),
            (1, proxy.on(commit(), Fault::DropReply)),
        ];
        rules.iter().for_each(|(times, rule)| rule.wait_done(*times, PATIENCE));
    }
    let late = proxy.on(Matching::ledger_of("db", &loaded.topic), Fault::HoldReply);
    late.wait_hits(1, PATIENCE);
    let held = committed(&running);
    late.release();
    running.wait_count(COMMITTED, &[], held + 1.0);
    wait_progress(&mut running);
    loaded.finish(running, &lake);
}

#[test]
fn a_token_that_expires_under_load_is_renewed() {
    let (lake, proxy) = catalog_behind_a_proxy();
    let token = r#"{"access_token":"hunter2","token_type":"bearer","expires_in":3600}"#;
    let asks = || Matching::new("POST", "/oauth/tokens");
    // The second and third time that a token is asked for, its server is away.
    let away = proxy.on(asks().after(1).times(2), Fault::Answer(503, "{}".into()));
    let tokens = proxy.on(asks().times(usize::MAX), Fault::Answer(200, token.into()));
    let loaded = Loaded::new(Kafka::shared(), &lake, 2, 1_000);
    let loaded = loaded.set("ICEBERG_REST_CREDENTIAL", "icestream:hunter3");
    let mut running = loaded.icestream.run();
    wait_progress(&mut running);
    for status in [401, 419] {
        let body = r#"{"error":{"message":"expired","type":"NotAuthorizedException","code":401}}"#;
        let commit = || Matching::ledger_of("db", &loaded.topic);
        proxy.on(commit(), Fault::Answer(status, body.into())).wait_done(1, PATIENCE);
        wait_progress(&mut running);
        // A process that is alone loads its table again only after a commit that failed.
        let load = Matching::new("GET", "/namespaces/db/tables");
        let load = proxy.on(load, Fault::Answer(status, body.into()));
        proxy.on(commit(), Fault::Answer(500, "{}".into())).wait_done(1, PATIENCE);
        load.wait_done(1, PATIENCE);
        wait_progress(&mut running);
    }
    away.wait_done(2, PATIENCE);
    tokens.wait_done(3, PATIENCE);
    let log = loaded.finish(running, &lake);
    assert!(log.contains("the catalog no longer takes the token"), "{log}");
    assert!(!log.contains("hunter"), "{log}");
}

#[test]
fn single_uploads_that_fail_or_take_long_under_load_are_made_again() {
    let (lake, proxy) = store_behind_a_proxy();
    let loaded = Loaded::new(Kafka::shared(), &lake, 2, 1_000);
    let loaded = loaded.set("AWS_ENDPOINT_URL_S3", &proxy.uri());
    let mut running = loaded.icestream.run();
    wait_progress(&mut running);
    let data = || Matching::new("PUT", ".parquet");
    let metadata = || Matching::new("PUT", "/metadata/");
    for matching in [data, metadata] {
        let faults = [
            Fault::Answer(500, String::new()),
            Fault::Answer(503, String::new()),
            Fault::AnswerInstead(500, String::new()),
            Fault::DropReply,
        ];
        let rules = faults.map(|fault| proxy.on(matching(), fault));
        rules.iter().for_each(|rule| rule.wait_done(1, PATIENCE));
        let slow = proxy.on(matching(), Fault::HoldRequest);
        slow.wait_hits(1, PATIENCE);
        slow.release();
        slow.wait_done(1, PATIENCE);
        wait_progress(&mut running);
    }
    loaded.finish(running, &lake);
}

#[test]
fn a_disk_that_fills_up_under_the_checkpoints_is_waited_for() {
    let disk = SmallDisk::new("8m");
    let lake = Lake::sqlite();
    let dir = disk.0.join("checkpoints").display().to_string();
    let loaded = Loaded::new(Kafka::shared(), &lake, 2, 1_000).set("CHECKPOINT_DIR", &dir);
    let mut running = loaded.icestream.run();
    wait_progress(&mut running);
    let filler = disk.0.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[7; 1024]).is_ok() {}
    drop(file);
    running.wait_count(RESTARTS, &[("reason", "local_state")], 1.0);
    let readiness = running.wait_ready(false, PATIENCE);
    assert!(readiness["state"].as_str().unwrap().contains("is full"), "{readiness}");
    fs::remove_file(&filler).unwrap();
    wait_progress(&mut running);
    loaded.finish(running, &lake);
}

/// Data files in the bucket of a lake on S3.
fn data_files(lake: &Lake) -> usize {
    let bucket = lake.warehouse().strip_prefix("s3://").unwrap().split('/').next().unwrap();
    let keys = S3::shared().keys(bucket, "warehouse");
    keys.iter().filter(|key| key.ends_with(".parquet")).count()
}

#[test]
fn a_checkpoint_that_times_out_is_dropped_and_too_many_in_a_row_end_the_process() {
    let (lake, proxy) = store_behind_a_proxy();
    let topic = unique("late");
    let kafka = Kafka::shared();
    kafka.create_topic(&topic, 2, &[]);
    let produced = kafka.produce(&topic, load(2, 0..1_000));
    let icestream = Icestream::new(kafka, &topic, &lake, &format!("db.{topic}")).schema(&schema());
    let late = icestream
        .clone()
        .set("AWS_ENDPOINT_URL_S3", proxy.uri())
        .set("CHECKPOINT_TIMEOUT_MS", "1000")
        .set("CHECKPOINT_TOLERABLE_FAILED_CHECKPOINTS", "1");
    let hold = || proxy.on(Matching::new("PUT", ".parquet"), Fault::HoldRequest);
    let first = hold();
    let mut running = late.run();
    running.wait_count(CHECKPOINTS, &[("outcome", "timed_out")], 1.0);
    let second = hold();
    first.release();
    running.wait_count(RESTARTS, &[("reason", "checkpoint_timeout")], 1.0);
    running.wait_count(CHECKPOINTS, &[("outcome", "timed_out")], 2.0);
    second.release();
    let log = running.wait(PATIENCE).with_code(8).log;
    assert!(log.contains("CHECKPOINT_TOLERABLE_FAILED_CHECKPOINTS"), "{log}");
    assert_eq!(data_files(&lake), 0, "files of dropped epochs stayed behind");
    icestream.run_until_caught_up();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 1_000);
}

#[test]
fn a_checkpoint_that_fails_because_the_broker_hangs_is_dropped_and_counted() {
    let kafka = Kafka::own();
    let lake = Lake::sqlite();
    kafka.create_topic("hung", 2, &[]);
    let produced = kafka.produce("hung", load(2, 0..1_000));
    let icestream = Icestream::new(&kafka, "hung", &lake, "db.hung").schema(&schema());
    let strict = icestream
        .clone()
        .set("CHECKPOINT_INTERVAL_MS", "5000")
        .set("CHECKPOINT_TOLERABLE_FAILED_CHECKPOINTS", "0");
    let mut running = strict.run();
    running.wait_count("icestream_consumed_records_total", &[], 1_000.0);
    kafka.freeze();
    let log = running.wait(LONG).with_code(8).log;
    assert!(log.contains("checkpoint of epoch 1 failed"), "{log}");
    assert!(log.contains("ask for the id of the topic"), "{log}");
    let table = lake.table("db.hung");
    assert_eq!(files::on_disk(&table).len(), 0, "files of a dropped epoch stayed behind");
    kafka.thaw();
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 1_000);
}

#[test]
fn the_restart_strategy_says_how_often_a_run_may_fail() {
    let topic = unique("strategy");
    Kafka::shared().create_topic(&topic, 1, &[]);
    let lake = Lake::rest();
    let away = format!("http://127.0.0.1:{}", free_port());
    let icestream = Icestream::new(Kafka::shared(), &topic, &lake, &format!("db.{topic}"))
        .schema(&schema())
        .set("ICEBERG_CATALOG_URI", &away);
    let cases: [(&[(&str, &str)], usize); 4] = [
        (&[("RESTART_STRATEGY", "none")], 0),
        (
            &[
                ("RESTART_STRATEGY", "fixed-delay"),
                ("RESTART_FIXED_DELAY_ATTEMPTS", "3"),
                ("RESTART_FIXED_DELAY_DELAY_MS", "10"),
            ],
            3,
        ),
        (
            &[
                ("RESTART_STRATEGY", "failure-rate"),
                ("RESTART_FAILURE_RATE_MAX_FAILURES_PER_INTERVAL", "2"),
                ("RESTART_FAILURE_RATE_DELAY_MS", "10"),
            ],
            2,
        ),
        (
            &[
                ("RESTART_EXPONENTIAL_DELAY_INITIAL_BACKOFF_MS", "10"),
                ("RESTART_EXPONENTIAL_DELAY_ATTEMPTS_BEFORE_RESET_BACKOFF", "4"),
            ],
            4,
        ),
    ];
    for (settings, restarts) in cases {
        let set = |icestream: Icestream, (name, value): &(&str, &str)| icestream.set(name, *value);
        let exit = settings.iter().fold(icestream.clone(), set).run().wait(PATIENCE).with_code(5);
        assert!(exit.log.contains("no restart is left (RESTART_STRATEGY)"), "{}", exit.log);
        assert!(exit.log.contains(&away), "{}", exit.log);
        let begun = exit.log.matches("starting again from the ledger").count();
        assert_eq!(begun, restarts, "{settings:?}: {}", exit.log);
    }
}

#[test]
fn retention_that_overtakes_a_running_reader_is_refused() {
    let kafka = Kafka::shared();
    let lake = Lake::sqlite();
    let topic = unique("overtaken");
    kafka.create_topic(&topic, 1, &[]);
    let produced = kafka.produce(&topic, load(1, 0..1_000));
    let icestream = Icestream::new(kafka, &topic, &lake, &format!("db.{topic}")).schema(&schema());
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 1_000.0);
    running.freeze();
    // More than the answer to a request that may be under way can hold.
    kafka.produce(&topic, load(1, 1_000..41_000));
    kafka.delete_records(&topic, 0, 40_999);
    running.thaw();
    let log = running.wait(PATIENCE).with_code(4).log;
    assert!(log.contains(&format!("{topic}[0]")) && log.contains("is not in the log"), "{log}");
    // What was read before is in the table, once; the loss is refused at the next start as well.
    let table = lake.table(&format!("db.{topic}"));
    let verdict =
        crate::support::oracle::judge(&table, &[&produced], crate::support::oracle::Reader::DuckDb);
    assert_eq!((verdict.missing, verdict.repeated), (0, 0), "{verdict:?}");
    let log = icestream.run().wait(PATIENCE).with_code(4).log;
    assert!(log.contains("retention"), "{log}");
}

#[test]
fn an_object_that_is_missing_in_the_store_is_named_and_nothing_is_lost_when_it_is_back() {
    let lake = Lake::sqlite_on_s3();
    let topic = unique("missing");
    let kafka = Kafka::shared();
    kafka.create_topic(&topic, 2, &[]);
    let mut produced = kafka.produce(&topic, load(2, 0..1_000));
    let icestream = Icestream::new(kafka, &topic, &lake, &format!("db.{topic}")).schema(&schema());
    icestream.run_until_caught_up();
    let table = lake.table(&format!("db.{topic}"));
    let list = table.snapshots().last().unwrap()["manifest-list"].as_str().unwrap().to_owned();
    let object = list.strip_prefix("s3://").unwrap();
    let (s3, kept) = (S3::shared(), format!("{object}.kept"));
    s3.copy(object, &kept);
    s3.delete(object).success();
    produced = produced.and(&kafka.produce(&topic, load(2, 1_000..2_000)));
    let brief = icestream.clone().set("RETRY_GIVE_UP_MS", "1000");
    let log = brief.run().wait(PATIENCE).with_code(5).log;
    assert!(log.contains(object.rsplit('/').next().unwrap()), "{log}");
    s3.copy(&kept, object);
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 2_000);
}
