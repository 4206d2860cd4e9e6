//! A consumer group that does not answer, may not be used, or takes no metadata with its offsets.

use std::time::Duration;

use crate::landing::{records, schema};
use crate::support::icestream::{Icestream, RUN};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::table::Lake;
use crate::support::{PATIENCE, unique, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";
const PARTITIONS: i32 = 2;
/// What is said once of a group's offsets where the process goes on without them.
const WITHOUT: &str = "the group's offsets cannot be used";

fn pipeline(kafka: &Kafka, lake: &Lake) -> (Icestream, String) {
    let topic = unique("group");
    kafka.create_topic(&topic, PARTITIONS, &[]);
    let icestream = Icestream::new(kafka, &topic, lake, &format!("db.{topic}")).schema(&schema());
    (icestream, topic)
}

#[test]
fn a_group_that_gives_nothing_is_told_and_given_up_and_read_as_soon_as_it_answers() {
    // One broker cannot make the topic of the groups, and so nobody coordinates them.
    let kafka = Kafka::with_config(&[("offsets.topic.replication.factor", "3")]);
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&kafka, &lake);
    let table = format!("db.{topic}");
    let produced = kafka.produce(&topic, records(PARTITIONS, 0..100));
    // Without the group nothing of it is needed, also where the table is absent.
    let without = icestream.another().run_until_caught_up();
    assert_eq!(without.log.matches(WITHOUT).count(), 1, "{}", without.log);
    assert_exactly_once(&lake.table(&table), &[&produced]);

    let produced = produced.and(&kafka.produce(&topic, records(PARTITIONS, 100..200)));
    let ends = icestream.member().set("RETRY_GIVE_UP_MS", "15000");
    let mut ends = ends.start(&["run", "--until-caught-up"]);
    let mut running = icestream.run();
    let reason = format!("group {} has not answered", icestream.setting("KAFKA_GROUP_ID").unwrap());
    wait_for(&reason, PATIENCE, || {
        let reply = running.get("/readyz")?;
        assert_eq!(reply.status, 503, "it reads nothing: {}", reply.body);
        reply.body.contains(&reason).then_some(())
    });
    let exit = ends.wait(RUN).with_code(5);
    for words in [&reason, "RETRY_GIVE_UP_MS", "__consumer_offsets", "KAFKA_ASSIGNMENT=all"] {
        assert!(exit.log.contains(words), "{words:?} is not in {}", exit.log);
    }
    running.wait_log("WARN icestream::pipeline::hearing: no answer", Duration::from_secs(60));
    let ready = running.wait_ready(false, PATIENCE);
    let error = ready["servers"]["kafka"]["error"].as_str().unwrap_or_default();
    assert_eq!(error, reason, "{ready}");
    let of_kafka = [("server", "kafka")];
    let reachable = running.metrics().unwrap().value("icestream_server_reachable", &of_kafka);
    assert_eq!(reachable, Some(0.0));

    kafka.create_topic("__consumer_offsets", 1, &[("cleanup.policy", "compact")]);
    running.wait_count(COMMITTED, &[], 100.0);
    running.wait_ready(true, PATIENCE);
    let exit = running.stop(PATIENCE).success();
    assert_eq!(exit.log.matches("hearing: no answer").count(), 1, "{}", exit.log);
    assert_exactly_once(&lake.table(&table), &[&produced]);
}

#[test]
fn a_group_that_may_not_be_used_is_not_needed_to_read_all_and_an_error_for_a_member() {
    let kafka = Kafka::with_config(&[
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "true"),
    ]);
    let lake = Lake::sqlite();
    for operation in ["DESCRIBE", "READ"] {
        let (icestream, topic) = pipeline(&kafka, &lake);
        let group = icestream.setting("KAFKA_GROUP_ID").unwrap().to_owned();
        kafka.java_client("deny", &[&group, operation]);
        let table = format!("db.{topic}");
        let all = icestream.clone().set("KAFKA_ASSIGNMENT", "all");
        let refused = |icestream: &Icestream| {
            let exit = icestream.command(&["run"]).with_code(3);
            let words = format!("refused access to group {group}");
            assert!(exit.log.contains(&words), "{words:?} is not in {}", exit.log);
        };
        // Where the table is absent, and where it has a ledger.
        refused(&icestream.member());
        let produced = kafka.produce(&topic, records(PARTITIONS, 0..100));
        let exit = all.run_until_caught_up();
        assert_eq!(exit.log.matches(WITHOUT).count(), 1, "{}", exit.log);
        let mut running = all.run();
        let produced = produced.and(&kafka.produce(&topic, records(PARTITIONS, 100..200)));
        running.wait_count(COMMITTED, &[], 100.0);
        let produced = produced.and(&kafka.produce(&topic, records(PARTITIONS, 200..300)));
        running.wait_count(COMMITTED, &[], 200.0);
        running.wait_ready(true, PATIENCE);
        let exit = running.stop(PATIENCE).success();
        assert_eq!(exit.log.matches(" WARN ").count(), 1, "{}", exit.log);
        refused(&icestream.member());
        assert_exactly_once(&lake.table(&table), &[&produced]);
    }
}

#[test]
fn offsets_are_reported_without_metadata_where_the_cluster_takes_none_as_long() {
    let kafka = Kafka::with_config(&[("offset.metadata.max.bytes", "16")]);
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&kafka, &lake);
    let group = icestream.setting("KAFKA_GROUP_ID").unwrap().to_owned();
    let mut running = icestream.run();
    for turn in 0..2 {
        let from = turn * 100;
        kafka.produce(&topic, records(PARTITIONS, from..from + 100));
        running.wait_count(COMMITTED, &[], (from + 100) as f64);
    }
    let exit = running.stop(PATIENCE).success();
    assert_eq!(exit.log.matches("offset.metadata.max.bytes").count(), 1, "{}", exit.log);
    assert!(!exit.log.contains("group offsets not reported"), "{}", exit.log);
    let ends = kafka.watermarks(&topic).into_iter().map(|(partition, (_, end))| (partition, end));
    assert_eq!(kafka.committed(&group, &topic), ends.collect());
}
