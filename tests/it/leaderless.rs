//! Partitions that nobody leads: the others are read as if nothing were the matter.

use serde_json::Value;

use crate::landing::{records, schema};
use crate::support::PATIENCE;
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::table::Lake;

const COMMITTED: &str = "icestream_committed_records_total";
const PARTITIONS: i32 = 6;

#[test]
fn partitions_without_a_leader_keep_the_others_neither_from_starting_nor_from_committing() {
    let mut cluster = Kafka::cluster(3);
    let (lake, topic) = (Lake::sqlite(), "leaderless");
    let nodes: Vec<i32> = cluster.iter().map(Kafka::node).collect();
    cluster[0].create_topic_spread(topic, PARTITIONS, &nodes);
    let produced = cluster[0].produce(topic, records(PARTITIONS, 0..600));
    // Every third partition has no leader until its broker is back.
    cluster[2].kill();
    let gone: Vec<i32> = (0..PARTITIONS).filter(|partition| partition % 3 == 2).collect();
    let mut runs = Vec::new();
    for fetcher in ["icestream", "librdkafka"] {
        for assignment in ["group", "all"] {
            let name = format!("db.{topic}_{fetcher}_{assignment}");
            let icestream = Icestream::new(&cluster[0], topic, &lake, &name)
                .schema(&schema())
                .set("KAFKA_FETCHER", fetcher)
                .set("KAFKA_ASSIGNMENT", assignment)
                .set("CHECKPOINT_INTERVAL_MS", "300");
            let mut running = icestream.run();
            running.wait_count(COMMITTED, &[], 400.0);
            let ready: Value = running.wait_ready(false, PATIENCE);
            let reason = ready.to_string();
            for partition in &gone {
                assert!(reason.contains(&format!("{topic}[{partition}]")), "{reason}");
            }
            runs.push((name, icestream, running));
        }
    }
    let rest = records(PARTITIONS, 600..1200).filter(|record| !gone.contains(&record.partition));
    let produced = produced.and(&cluster[0].produce(topic, rest));
    for (.., running) in &mut runs {
        running.wait_count(COMMITTED, &[], 800.0);
    }
    cluster[2].start();
    for (name, icestream, mut running) in runs {
        running.wait_count(COMMITTED, &[], 1000.0);
        running.wait_ready(true, PATIENCE);
        let restarts = running.metrics().unwrap().value("icestream_restarts_total", &[]);
        assert_eq!(restarts, Some(0.0), "{}", running.log());
        running.stop(PATIENCE).success();
        assert_eq!(assert_exactly_once(&lake.table(&name), &[&produced]), 1000);
        icestream.command(&["verify", "--rows"]).success();
    }
}

#[test]
fn a_broker_that_is_lost_for_good_is_told_and_the_rest_is_committed_within_seconds_of_a_start() {
    let mut cluster = Kafka::cluster(3);
    let (lake, topic) = (Lake::sqlite(), "lost");
    let nodes: Vec<i32> = cluster.iter().map(Kafka::node).collect();
    cluster[0].create_topic_spread(topic, PARTITIONS, &nodes);
    let gone: Vec<i32> = (0..PARTITIONS).filter(|partition| partition % 3 == 2).collect();
    let produced = cluster[0].produce(topic, records(PARTITIONS, 0..600));
    let mut runs = Vec::new();
    for fetcher in ["icestream", "librdkafka"] {
        let name = format!("db.{topic}_{fetcher}");
        let icestream = Icestream::new(&cluster[0], topic, &lake, &name)
            .schema(&schema())
            .set("KAFKA_FETCHER", fetcher)
            .set("CHECKPOINT_INTERVAL_MS", "300");
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], 600.0);
        running.wait_ready(true, PATIENCE);
        runs.push((name, icestream, running));
    }
    cluster[2].kill();
    for (name, _, running) in &mut runs {
        // It has nothing to fetch of them, and nothing was missing when they were lost.
        let unread = [("reason", "no_answer")];
        running.wait_count("icestream_unread_partitions", &unread, gone.len() as f64);
        let reason = running.wait_ready(false, PATIENCE).to_string();
        for partition in &gone {
            assert!(reason.contains(&format!("{topic}[{partition}]")), "{name}: {reason}");
        }
        let metrics = running.metrics().unwrap();
        assert_eq!(metrics.value("icestream_unread_partitions", &[]), Some(gone.len() as f64));
    }
    let rest = records(PARTITIONS, 600..1200).filter(|record| !gone.contains(&record.partition));
    let produced = produced.and(&cluster[0].produce(topic, rest));
    for (.., running) in &mut runs {
        running.wait_count(COMMITTED, &[], 1000.0);
        running.kill();
    }
    let rest = records(PARTITIONS, 1200..1800).filter(|record| !gone.contains(&record.partition));
    let produced = produced.and(&cluster[0].produce(topic, rest));
    for (name, icestream, _) in runs {
        let began = std::time::Instant::now();
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], 400.0);
        println!("{name}: the rest after {:?}", began.elapsed());
        let unread = [("reason", "no_leader")];
        running.wait_count("icestream_unread_partitions", &unread, gone.len() as f64);
        running.stop(PATIENCE).success();
        assert_eq!(assert_exactly_once(&lake.table(&name), &[&produced]), 1400);
    }
}
