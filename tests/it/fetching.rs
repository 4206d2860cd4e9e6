//! Who fetches: icestream's own code and librdkafka, each on clusters whose leaders change and on
//! record batches of every kind.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use crate::landing::{records, schema};
use crate::support::icestream::{Icestream, RUN, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::{Produced, Record};
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, new_dir, unique};

const COMMITTED: &str = "icestream_committed_records_total";
const FETCHERS: [&str; 2] = ["icestream", "librdkafka"];
const MIB: usize = 1 << 20;

/// All of this file that another one has for icestream's fetching, for librdkafka's.
mod by_librdkafka {
    use crate::{bad_input, groups, holes, kills, outages};

    const FETCHER: &str = "librdkafka";

    #[test]
    fn two_million_records_survive_twenty_kills() {
        kills::survive_kills(FETCHER);
    }

    #[test]
    fn transactions_land_exactly() {
        holes::land_transactions(FETCHER);
    }

    #[test]
    fn a_compacted_topic_lands_exactly() {
        holes::land_compacted(FETCHER);
    }

    #[test]
    fn processes_hand_partitions_over() {
        groups::hand_over(FETCHER);
    }

    #[test]
    fn a_broker_that_dies_and_comes_back_costs_nothing_but_time() {
        outages::outlive_broker(FETCHER);
    }

    #[test]
    fn a_topic_made_again_under_a_running_process_is_not_read_on() {
        bad_input::refuse_a_topic_made_again(FETCHER);
    }
}

fn pipeline(kafka: &Kafka, topic: &str, lake: &Lake, fetcher: &str) -> Icestream {
    let table = format!("db.{topic}_{fetcher}");
    let icestream = Icestream::new(kafka, topic, lake, &table).schema(&schema());
    icestream.set("KAFKA_FETCHER", fetcher)
}

fn table<'a>(lake: &'a Lake, topic: &str, fetcher: &str) -> Table<'a> {
    lake.table(&format!("db.{topic}_{fetcher}"))
}

/// Waits until of each partition a record is in the table that came into the log after its leader
/// was asked for the end. One that leads no more may still give it, as a replica; one that is dead
/// cannot.
fn wait_read_on(running: &mut Running, kafka: &Kafka, topic: &str) {
    for (partition, (_, end)) in kafka.watermarks(topic) {
        let partition = partition.to_string();
        let of = [("topic", topic), ("partition", partition.as_str())];
        running.wait_count("icestream_ledger_offset", &of, (end + 1) as f64);
    }
}

#[test]
fn leaders_that_are_killed_and_moved_are_followed_and_each_record_lands_once() {
    const PARTITIONS: i32 = 6;
    let mut cluster = Kafka::cluster(3);
    let (lake, topic) = (Lake::sqlite(), "moving");
    cluster[0].create_topic(topic, PARTITIONS, &[]);
    let icestream = pipeline(&cluster[0], topic, &lake, "icestream");
    let icestream = icestream.set("CHECKPOINT_INTERVAL_MS", "1000");
    let steady = cluster[0].produce_steadily(topic, 2000, records(PARTITIONS, 0..i64::MAX));
    let mut running = icestream.run();
    wait_read_on(&mut running, &cluster[0], topic);
    let began = std::time::Instant::now();
    let mut changes = 0;
    for broker in 0..cluster.len() {
        let led = |leaders: &BTreeMap<i32, i32>| leaders.len() == PARTITIONS as usize;
        let (dead, before) = (cluster[broker].node(), cluster[0].wait_leaders(topic, led));
        cluster[broker].kill();
        let after = cluster[0].wait_leaders(topic, |leaders| {
            leaders.len() == before.len() && leaders.values().all(|leader| *leader != dead)
        });
        changes += after.iter().filter(|(p, leader)| before.get(p) != Some(leader)).count();
        wait_read_on(&mut running, &cluster[0], topic);
        println!("{dead} killed, read on after {:?}", began.elapsed());

        cluster[broker].start();
        let before = cluster[0].wait_leaders(topic, led);
        cluster[0].java_client("move", &[topic]);
        let moved = |after: &BTreeMap<i32, i32>| {
            after.len() == before.len() && after.iter().all(|(p, leader)| before[p] != *leader)
        };
        let after = cluster[0].wait_leaders(topic, moved);
        changes += after.len();
        wait_read_on(&mut running, &cluster[0], topic);
        println!("moved {before:?} to {after:?}, read on after {:?}", began.elapsed());
    }
    let produced = steady.stop();
    running.wait_count(COMMITTED, &[], produced.count() as f64);
    let restarts = running.metrics().unwrap().value("icestream_restarts_total", &[]);
    let exit = running.stop(PATIENCE).success();
    let refused = exit.log.matches("the broker cannot serve it").count();
    let lost = exit.log.matches("cannot fetch; trying again").count();
    println!(
        "{} records, {changes} changes of leaders, {refused} series of refusals, {lost} lost \
         connections, {restarts:?} restarts, {:?}",
        produced.count(),
        began.elapsed()
    );
    // As an answer of an old leader after one of the new one would.
    assert!(!exit.log.contains("reading failed"), "a partition failed:\n{}", exit.log);
    assert!(changes > 3 * PARTITIONS as usize, "only {changes} changes of leaders");
    let rows = assert_exactly_once(&table(&lake, topic, "icestream"), &[&produced]);
    assert_eq!(rows, produced.count().unsigned_abs());
}

/// A log that a majority of nobody keeps: it is cut off when its last replica dies.
const UNCLEAN: [(&str, &str); 2] =
    [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];

#[test]
fn a_log_cut_off_by_an_unclean_election_is_named_and_nothing_of_the_new_one_lands() {
    let mut cluster = Kafka::cluster(3);
    // In one of them more comes than was cut off, so that the place to read on is in the log again.
    let topics = ["shorter", "longer"];
    let lake = Lake::sqlite();
    let nodes = [cluster[0].node(), cluster[1].node()];
    let mut runs = Vec::new();
    let mut produced = BTreeMap::new();
    for topic in topics {
        cluster[2].create_topic_on(topic, &nodes, &UNCLEAN);
        produced.insert(topic, cluster[2].produce(topic, records(1, 0..100)));
        for fetcher in FETCHERS {
            // Its place in the log is not to be forgotten by a rebalance.
            let icestream = pipeline(&cluster[2], topic, &lake, fetcher);
            let icestream = icestream.set("KAFKA_ASSIGNMENT", "all");
            runs.push((topic, fetcher, icestream.run(), icestream));
        }
    }
    // The second one has records that the first one has not.
    cluster[0].stop();
    for topic in topics {
        cluster[2].wait_leaders(topic, |leaders| leaders.get(&0) == Some(&nodes[1]));
        let more = cluster[2].produce(topic, records(1, 100..200));
        produced.insert(topic, produced[topic].clone().and(&more));
    }
    for (.., running, _) in &mut runs {
        running.wait_count(COMMITTED, &[], 200.0);
        running.freeze();
    }
    cluster[1].kill();
    cluster[0].start();
    for topic in topics {
        cluster[2].wait_leaders(topic, |leaders| leaders.get(&0) == Some(&nodes[0]));
        let end = cluster[2].watermarks(topic)[&0].1;
        assert_eq!(end, 100, "the log of {topic} was not cut off");
    }
    cluster[2].produce("longer", records(1, 1000..1500));
    for (topic, fetcher, mut running, icestream) in runs {
        running.thaw();
        let exit = running.wait(PATIENCE).with_code(4);
        let said = exit.log.lines().find(|line| line.starts_with("icestream: "));
        println!("{topic} by {fetcher}: {said:?}");
        let said = said.unwrap();
        for words in [&format!("{topic}[0]"), " 200", " 100", "unclean leader election"] {
            assert!(said.contains(words), "{words:?} of {topic} by {fetcher} is not in {said}");
        }
        let table = table(&lake, topic, fetcher);
        assert_eq!(assert_exactly_once(&table, &[&produced[topic]]), 200);
        assert_eq!(
            oracle::query(&table, Reader::DuckDb, "SELECT max(id) FROM t")[0][0].as_deref(),
            Some("199")
        );
        if topic == "shorter" {
            let again = icestream.command(&["run", "--until-caught-up"]).with_code(4);
            assert!(again.log.contains("ledger-beyond-log-end"), "{}", again.log);
        }
    }
}

/// The batches in the log of a partition: number of the codec, and bytes.
fn batches(kafka: &Kafka, topic: &str, partition: i32) -> Vec<(u8, usize)> {
    let log = format!("{topic}-{partition}/00000000000000000000.log");
    let log = fs::read(kafka.log_dir().join(log)).expect("the first segment of a log");
    let (mut batches, mut rest) = (Vec::new(), &log[..]);
    // Offset and length, and behind other things two bytes of attributes.
    while let Some(head) = rest.get(..23).filter(|head| head[16] == 2) {
        let length = 12 + u32::from_be_bytes(head[8..12].try_into().unwrap()) as usize;
        batches.push((head[22] & 7, length));
        rest = &rest[length..];
    }
    batches
}

/// Both fetchers land what Kafka's own reader sees, each record with its payload and time. Gives
/// what it sees, and the most memory that a process took, by fetcher.
fn land(kafka: &Kafka, topic: &str, settings: &[(&str, &str)]) -> (Produced, Vec<usize>) {
    let kept = kafka.kept(topic);
    let peaks = FETCHERS.map(|fetcher| {
        let lake = Lake::sqlite();
        let icestream = pipeline(kafka, topic, &lake, fetcher);
        let set = |icestream: Icestream, (name, value): &(&str, &str)| icestream.set(name, *value);
        let icestream = settings.iter().fold(icestream, set);
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], kept.count() as f64);
        let peak = usize::try_from(running.memory().peak).unwrap() / MIB;
        running.stop(PATIENCE).success();
        let table = table(&lake, topic, fetcher);
        assert_eq!(assert_exactly_once(&table, &[&kept]), kept.count().unsigned_abs());
        oracle::assert_payloads(&table, &kept, &["id", "text", "_kafka_timestamp"]);
        println!("{} records of {topic} by {fetcher}: {peak} MiB", kept.count());
        peak
    });
    (kept, peaks.into())
}

/// Rows of which some pack well and some not at all.
fn rows(numbers: std::ops::Range<i64>, noise: usize) -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(7);
    numbers.map(move |id| {
        let noise = if id % 4 == 0 { noise } else { 0 };
        let text: String = (0..noise).map(|_| random.alphanumeric()).collect();
        json!({ "id": id, "text": format!("é{id} {text}") }).to_string()
    })
}

#[test]
fn batches_of_each_codec_of_librdkafka_and_of_java_land_by_both_fetchers() {
    const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
    let kafka = Kafka::shared();
    let topic = unique("codecs");
    kafka.create_topic(&topic, 1, &[]);
    let rows: Vec<String> = rows(0..5000, 1000).collect();
    for codec in CODECS {
        let records = rows.iter().map(|row| Record::new(0, row.as_str()));
        kafka.produce_with(&topic, &[("compression.type", codec)], records);
    }
    let of_librdkafka = batches(kafka, &topic, 0);
    let file = new_dir("values").join("values");
    fs::write(&file, rows.join("\n")).unwrap();
    let file = file.display().to_string();
    kafka.java_client("produce", &[&[topic.as_str(), "1", &file], &CODECS[..]].concat());
    let all = batches(kafka, &topic, 0);
    let of_java = &all[of_librdkafka.len()..];
    for of_client in [&of_librdkafka[..], of_java] {
        for codec in 0..5 {
            let large = of_client.iter().filter(|(of, bytes)| *of == codec && *bytes > 65_536);
            assert!(large.count() > 0, "no batch of several blocks by {codec}: {of_client:?}");
        }
    }
    let (landed, _) = land(kafka, &topic, &[]);
    assert_eq!(landed.count(), 2 * 5 * 5000);
}

#[test]
fn batches_and_records_of_many_mib_land_within_the_memory_limit() {
    let kafka = Kafka::shared();
    let topic = unique("huge");
    kafka.create_topic(&topic, 2, &[("max.message.bytes", "20000000")]);
    for codec in ["none", "zstd"] {
        let settings =
            [("compression.type", codec), ("batch.size", "6000000"), ("linger.ms", "1000")];
        let small = rows(0..30_000, 3000).map(|row| Record::new(0, row));
        kafka.produce_with(&topic, &settings, small);
        let sizes = [1, 3, 5, 8, 8, 2].into_iter().zip(0..);
        let large = sizes.flat_map(|(size, at)| rows(4 * at..4 * at + 2, size * MIB - 100));
        let large = large.map(|row| Record::new(1, row));
        kafka.produce_with(&topic, &settings, large);
    }
    for partition in 0..2 {
        let batches = batches(kafka, &topic, partition);
        let large = batches.iter().filter(|(_, bytes)| *bytes > 3 * MIB).count();
        assert!(large >= 4, "no batches of several MiB: {batches:?}");
    }
    for (limit, settings) in [(1024, &[][..]), (256, &[("MEMORY_LIMIT_MB", "256")])] {
        let (_, peaks) = land(kafka, &topic, settings);
        assert!(peaks.iter().all(|peak| *peak < limit), "{peaks:?} MiB of {limit}");
    }
}

#[test]
fn times_keys_headers_and_tombstones_are_read_alike() {
    const SENT: i64 = 1_600_000_000_000;
    let kafka = Kafka::shared();
    for kind in ["CreateTime", "LogAppendTime"] {
        let topic = unique("times");
        // Old records are not to be deleted.
        let settings = [("message.timestamp.type", kind), ("retention.ms", "-1")];
        kafka.create_topic(&topic, 2, &settings);
        let records = records(2, 0..3000).zip(0..).map(|(record, number)| {
            // Times that go back within a batch.
            let record = record.at(SENT + [0, 7000, -5000][number % 3]);
            let record = if number % 2 == 0 { record.key(format!("key {number}")) } else { record };
            let record = if number % 5 == 0 { record.header("trace") } else { record };
            // With a key: librdkafka cannot tell one without anything from a record in an old format.
            let gone = |record| Record { payload: None, ..record };
            if number % 10 == 9 { gone(record.key("gone")) } else { record }
        });
        kafka.produce(&topic, records);
        let (landed, _) = land(kafka, &topic, &[]);
        assert_eq!(landed.count(), 2700);
        let file = fs::read_to_string(landed.payloads.unwrap()).unwrap();
        let as_sent = file.lines().filter(|line| line.contains(":\"2020-09-13T12:26:")).count();
        assert_eq!(as_sent, if kind == "CreateTime" { 2700 } else { 0 }, "{kind}");
    }
}

#[test]
fn an_empty_topic_is_caught_up_with_by_both_fetchers() {
    let (kafka, lake, topic) = (Kafka::shared(), Lake::sqlite(), unique("empty"));
    kafka.create_topic(&topic, 3, &[]);
    for fetcher in FETCHERS {
        pipeline(kafka, &topic, &lake, fetcher).run_until_caught_up();
        assert!(table(&lake, &topic, fetcher).snapshots().is_empty());
    }
}

#[test]
fn check_and_the_log_say_who_fetches_and_a_wish_that_cannot_be_had_is_refused() {
    let (kafka, lake, topic) = (Kafka::shared(), Lake::sqlite(), unique("who"));
    kafka.create_topic(&topic, 1, &[]);
    for (wish, fetcher) in
        FETCHERS.map(|each| (each, each)).into_iter().chain([("auto", "icestream")])
    {
        let icestream = pipeline(kafka, &topic, &lake, wish);
        let check = icestream.command(&["check"]).success();
        let line = check.stdout.lines().find(|line| line.contains("PASS  kafka ")).unwrap();
        assert!(line.ends_with(&format!(", {fetcher} fetches")), "{line}");
        let log = icestream.start(&["run", "--until-caught-up"]).wait(RUN).success().log;
        let start = log.lines().find(|line| line.contains("icestream starts")).unwrap();
        assert!(start.contains(&format!("fetcher={fetcher}")), "{start}");
    }
    let wrong = pipeline(kafka, &topic, &lake, "icestream")
        .set("KAFKA_SECURITY_PROTOCOL", "ssl")
        .set("KAFKA_SSL_KEY_PASSWORD", "hunter2")
        .set("BATCH_SIZE", "many");
    let log = wrong.run().wait(RUN).with_code(3).log;
    for words in ["KAFKA_FETCHER", "KAFKA_SSL_KEY_PASSWORD is set", "BATCH_SIZE"] {
        assert_eq!(log.matches(words).count(), 1, "{words} in {log}");
    }
    assert!(!log.contains("hunter2"), "{log}");
}
