//! What a running icestream tells: metrics, health, logs, and the offsets of its consumer group.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::landing::{pipeline, records, schema};
use crate::support::icestream::{Exit, Icestream, Metrics, RUN, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::{Produced, Record};
use crate::support::proxy::{Fault, Matching, Proxy};
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, unique};

/// The checkpoint's steps, the catalog's answers and the decisions of admission, as labels.
const STEPS: [&str; 5] = ["seal", "prepare", "commit", "finalize", "report"];

/// Rows 0 to 29,999 over three partitions, and after them in partition 1 what makes no row: two
/// tombstones, and bad records for three reasons.
struct Known {
    rows: Produced,
    /// Records by partition, of any kind.
    records: [u64; 3],
    /// Bytes of payloads by partition.
    bytes: [u64; 3],
}

const NO_ROWS: [Option<&str>; 8] = [
    None,
    Some("{"),
    Some("{\"id\": \"seven\"}"),
    Some("{\"text\": \"no id\"}"),
    Some("not JSON"),
    None,
    Some("{\"text\": \"no id either\"}"),
    Some("{\"text\": \"nor here\"}"),
];
const BAD: [(&str, f64); 3] = [("not_json", 2.0), ("wrong_type", 1.0), ("missing_field", 3.0)];

fn produce_known(kafka: &Kafka, topic: &str) -> Known {
    let (mut counts, mut bytes) = ([0; 3], [0; 3]);
    let mut count = |record: Record| {
        let partition = usize::try_from(record.partition).unwrap();
        counts[partition] += 1;
        bytes[partition] += record.payload.as_ref().map_or(0, Vec::len) as u64;
        record
    };
    let rows = kafka.produce(topic, records(3, 0..30_000).map(&mut count));
    let no_rows = NO_ROWS.map(|payload| match payload {
        Some(payload) => Record::new(1, payload),
        None => Record::tombstone(1, "key"),
    });
    kafka.produce(topic, no_rows.map(&mut count));
    // Fields that the table lacks: two in one row.
    let more = r#"{"id": 30000, "colour": "red", "size": {"height": 7}}"#;
    let rows = rows.and(&kafka.produce(topic, [count(Record::new(2, more))]));
    Known { rows, records: counts, bytes }
}

/// Waits until the ledger reached the ends of the log and the last checkpoint is through.
fn wait_caught_up(running: &mut Running, topic: &str) -> Metrics {
    let end: i64 = Kafka::shared().watermarks(topic).values().map(|(_, end)| end).sum();
    running.wait_metrics(&format!("ledger offsets that sum up to {end}"), PATIENCE, |metrics| {
        let ledger = metrics.value("icestream_ledger_offset", &[("topic", topic)])?;
        (ledger == end as f64).then(|| metrics.clone())
    })
}

/// The ledger in the table's property: next offset by partition.
fn ledger(table: &Table<'_>, icestream: &Icestream, topic: &str) -> BTreeMap<i32, i64> {
    let pipeline = icestream.setting("KAFKA_GROUP_ID").unwrap();
    let Some(text) = table.property(&format!("icestream.ledger.{pipeline}")) else {
        return BTreeMap::new();
    };
    let ledger: Value = serde_json::from_str(&text).unwrap();
    let next = ledger["topics"][topic]["next"].as_object().unwrap();
    next.iter().map(|(p, next)| (p.parse().unwrap(), next.as_i64().unwrap())).collect()
}

/// A metric's name without its prefix, labels, and the value that it should have.
type Wanted<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

fn assert_values(metrics: &Metrics, wanted: &[Wanted<'_>]) {
    for (name, labels, value) in wanted {
        let found = metrics.value(&format!("icestream_{name}"), labels);
        assert_eq!(found, Some(*value), "{name}{labels:?} in\n{}", metrics.text);
    }
}

#[test]
fn the_counters_are_right_after_known_records() {
    let (kafka, lake) = (Kafka::shared(), Lake::sqlite());
    let (icestream, topic) = pipeline(&lake, 3);
    let known = produce_known(kafka, &topic);
    let mut running = icestream.set("BAD_RECORDS", "skip").run();
    let metrics = wait_caught_up(&mut running, &topic);

    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&known.rows]), 30_001);
    assert_values(
        &metrics,
        &[
            ("committed_records_total", &[], 30_001.0),
            ("written_records_total", &[], 30_001.0),
            ("tombstones_total", &[], 2.0),
            ("unknown_fields_total", &[], 2.0),
            ("assigned_partitions", &[], 3.0),
            ("paused_partitions", &[], 0.0),
            ("buffered_bytes", &[], 0.0),
            ("unknown_commits", &[], 0.0),
            ("invariant_violations_total", &[], 0.0),
            ("server_reachable", &[("server", "kafka")], 1.0),
            ("server_reachable", &[("server", "catalog")], 1.0),
            ("server_reachable", &[("server", "store")], 1.0),
        ],
    );
    for (reason, count) in BAD {
        assert_values(&metrics, &[("bad_records_total", &[("reason", reason)], count)]);
    }
    let bad: f64 = BAD.iter().map(|(_, count)| count).sum();
    assert_values(&metrics, &[("bad_records_total", &[], bad)]);

    let ends = kafka.watermarks(&topic);
    for partition in 0..3 {
        let index = usize::try_from(partition).unwrap();
        let label = partition.to_string();
        let labels = [("topic", topic.as_str()), ("partition", label.as_str())];
        let end = ends[&partition].1 as f64;
        assert_values(
            &metrics,
            &[
                ("consumed_records_total", &labels, known.records[index] as f64),
                ("consumed_bytes_total", &labels, known.bytes[index] as f64),
                ("ledger_offset", &labels, end),
                ("log_end_offset", &labels, end),
                ("table_lag_records", &labels, 0.0),
                ("table_lag_seconds", &labels, 0.0),
            ],
        );
    }

    // The table's snapshots are the commits; each went through every step once.
    let commits = table.snapshots().len() as f64;
    assert!(commits >= 1.0);
    assert_values(
        &metrics,
        &[
            ("checkpoints_total", &[("outcome", "complete")], commits),
            ("checkpoints_total", &[], commits),
            ("commits_total", &[("outcome", "committed")], commits),
            ("commits_total", &[], commits),
            ("admissions_total", &[("decision", "commit")], commits),
            ("admissions_total", &[], commits),
        ],
    );
    for step in STEPS {
        let labels = [("step", step)];
        assert_values(&metrics, &[("checkpoint_duration_seconds_count", &labels, commits)]);
    }
    let files = |key: &str| -> f64 {
        let added = table.snapshots();
        added.iter().map(|s| s["summary"][key].as_str().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_values(
        &metrics,
        &[
            ("written_files_total", &[], files("added-data-files")),
            ("written_bytes_total", &[], files("added-files-size")),
        ],
    );
    assert!(metrics.value("icestream_checkpoint_age_seconds", &[]).unwrap() < 60.0);
    let last = metrics.value("icestream_checkpoint_last_success_timestamp_seconds", &[]).unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(last > now - 60.0 && last <= now, "{last} at {now}");

    // And they go on from there.
    let more = kafka.produce(&topic, records(3, 40_000..43_000));
    let metrics = wait_caught_up(&mut running, &topic);
    assert_eq!(assert_exactly_once(&table, &[&known.rows, &more]), 33_001);
    assert_values(
        &metrics,
        &[
            ("committed_records_total", &[], 33_001.0),
            ("consumed_records_total", &[], 33_001.0 + bad + 2.0),
            ("checkpoints_total", &[], table.snapshots().len() as f64),
            ("bad_records_total", &[], bad),
        ],
    );
    running.stop(RUN).success();
}

#[test]
fn a_scrape_of_a_running_icestream_is_clean() {
    let (kafka, lake) = (Kafka::shared(), Lake::sqlite());
    let (icestream, topic) = pipeline(&lake, 3);
    produce_known(kafka, &topic);
    let mut running = icestream.set("BAD_RECORDS", "skip").run();
    let metrics = wait_caught_up(&mut running, &topic);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which scripts/setup installs");
    // Small enough for a pipe or read at once: promtool reads to the end before it writes.
    promtool.stdin.take().unwrap().write_all(metrics.text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}\n{}", metrics.text);

    // What is served is what the page tells of, and nothing else.
    let page = include_str!("../../docs/metrics.md");
    let mut names = 0;
    for line in metrics.text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').unwrap();
        if !name.starts_with("process_") {
            names += 1;
            let row = page.lines().find(|row| row.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
            assert!(row.contains(help), "{row} does not say: {help}");
        }
    }
    assert!(names > 25, "{}", metrics.text);
    assert!(metrics.value("process_resident_memory_bytes", &[]).unwrap() > 1e6);
}

#[test]
fn a_running_icestream_is_alive_and_ready() {
    let lake = Lake::sqlite();
    let (icestream, _) = pipeline(&lake, 1);
    let mut running = icestream.run();
    running.wait_log("reading from the ledger", PATIENCE);
    running.wait_metrics("Kafka as reachable", PATIENCE, |metrics| {
        let reachable = metrics.value("icestream_server_reachable", &[("server", "kafka")])?;
        (reachable == 1.0).then_some(())
    });
    let health = running.get("/healthz").unwrap();
    assert_eq!((health.status, &health.json()["alive"]), (200, &json!(true)));
    let ready = crate::support::wait_for("readiness", PATIENCE, || {
        running.get("/readyz").filter(|reply| reply.status == 200)
    });
    let servers = json!({
        "catalog": { "reachable": true },
        "kafka": { "reachable": true },
        "store": { "reachable": true },
    });
    assert_eq!(ready.json(), json!({ "ready": true, "state": "running", "servers": servers }));
    assert_eq!(running.get("/").unwrap().status, 404);

    let listen = icestream.setting("HTTP_LISTEN").unwrap();
    let asked = ask_health(&format!("http://{listen}/readyz"));
    assert_eq!(asked.0, Some(0), "{}", asked.1);
    running.stop(RUN).success();
    let (code, said) = ask_health(&format!("http://{listen}/readyz"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("did not answer"), "{said}");
}

/// `icestream health`: exit code and standard output.
fn ask_health(url: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_icestream"))
        .args(["health", "--url", url])
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn readiness_names_a_catalog_that_is_away_and_comes_back_with_it() {
    let kafka = Kafka::shared();
    let lake = Lake::rest();
    let proxy = Proxy::before(&lake.rest_catalog().address());
    let lake = lake.through(proxy.uri());
    let topic = unique("away");
    kafka.create_topic(&topic, 1, &[]);
    let icestream = Icestream::new(kafka, &topic, &lake, &format!("db.{topic}")).schema(&schema());
    let mut running = icestream.run();
    crate::support::wait_for("readiness", PATIENCE, || {
        running.get("/readyz").filter(|reply| reply.status == 200)
    });

    // No commit without the ledger, and nobody tells it.
    let away = Fault::Answer(503, "{}".into());
    let unread =
        proxy.on(Matching::new("GET", &format!("/tables/{topic}")).times(usize::MAX), away);
    let produced = kafka.produce(&topic, records(1, 0..100));
    unread.wait_hits(1, PATIENCE);
    let reply = crate::support::wait_for("a catalog that is away", PATIENCE, || {
        running.get("/readyz").filter(|reply| reply.status == 503)
    });
    let readiness = reply.json();
    assert_eq!(readiness["ready"], false);
    assert_eq!(readiness["servers"]["catalog"]["reachable"], false);
    assert_eq!(readiness["servers"]["kafka"], json!({ "reachable": true }));
    assert_eq!(running.get("/healthz").unwrap().status, 200);
    let url = format!("http://{}/readyz", icestream.setting("HTTP_LISTEN").unwrap());
    let (code, said) = ask_health(&url);
    assert!(code == Some(1) && said.contains("catalog"), "{code:?} {said}");
    running.wait_metrics("the catalog as away", PATIENCE, |metrics| {
        let catalog = [("server", "catalog")];
        let reachable = metrics.value("icestream_server_reachable", &catalog)?;
        let retries = metrics.value("icestream_retries_total", &catalog)?;
        (reachable == 0.0 && retries >= 1.0).then_some(())
    });

    unread.withdraw();
    wait_caught_up(&mut running, &topic);
    crate::support::wait_for("readiness again", PATIENCE, || {
        running.get("/readyz").filter(|reply| reply.status == 200)
    });
    running.stop(RUN).success();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
}

#[test]
fn json_logs_are_one_object_a_line_that_tells_the_checkpoints() {
    let (kafka, lake) = (Kafka::shared(), Lake::sqlite());
    let (icestream, topic) = pipeline(&lake, 3);
    produce_known(kafka, &topic);
    let icestream = icestream.set("LOG_FORMAT", "json").set("BAD_RECORDS", "skip");
    let exit = icestream.set("LOG_LEVEL", "info,icestream=debug").run_until_caught_up();
    let lines = json_lines(&exit);
    let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
    for line in &lines {
        assert!(levels.contains(&line["level"].as_str().unwrap_or_default()), "{line}");
        let texts = ["timestamp", "target", "message"].map(|field| line[field].is_string());
        assert_eq!(texts, [true; 3], "{line}");
    }
    let start = only(&lines, "icestream starts");
    assert_eq!(start["topic"], topic);
    assert_eq!(start["table"], format!("db.{topic}"));
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["fetcher"], "icestream");
    assert_eq!(start["pipeline"].as_str(), icestream_pipeline(&lines));
    assert_eq!(only(&lines, "assigned: reading from the ledger")["partitions"], 3);

    let done: Vec<&Value> = with_message(&lines, "checkpoint complete").collect();
    assert_eq!(done.len(), lake.table(&format!("db.{topic}")).snapshots().len());
    let sum = |field: &str| -> u64 { done.iter().map(|line| line[field].as_u64().unwrap()).sum() };
    assert_eq!((sum("rows"), sum("skipped"), sum("tombstones")), (30_001, 6, 2));
    for line in &done {
        assert_eq!(line["outcome"], "committed");
        assert!(line["commit_id"].is_string() && !line["epoch"].is_null(), "{line}");
        assert!(line["seal_seconds"].is_f64() && line["commit_seconds"].is_f64(), "{line}");
    }
    // At this level each record that is left out is named with its place.
    let skipped: Vec<&Value> = with_message(&lines, "skipped").collect();
    assert_eq!(skipped.len(), 6);
    assert!(
        skipped.iter().all(|line| line["partition"] == format!("{topic}[1]")
            && line["offset"].is_i64()
            && line["error"].is_string()),
        "{skipped:#?}"
    );
}

fn icestream_pipeline(lines: &[Value]) -> Option<&str> {
    only(lines, "icestream starts")["pipeline"].as_str().filter(|name| !name.is_empty())
}

fn json_lines(exit: &Exit) -> Vec<Value> {
    let parse = |line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in a log line: {line}"))
    };
    exit.log.lines().map(parse).collect()
}

fn with_message<'a>(lines: &'a [Value], message: &str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["message"] == message)
}

fn only<'a>(lines: &'a [Value], message: &str) -> &'a Value {
    let found: Vec<&Value> = with_message(lines, message).collect();
    assert_eq!(found.len(), 1, "lines that say {message}: {found:#?}");
    found[0]
}

#[test]
fn group_offsets_follow_the_ledger_and_are_never_above_it() {
    let (kafka, lake) = (Kafka::shared(), Lake::sqlite());
    let (icestream, topic) = pipeline(&lake, 3);
    let table = lake.table(&format!("db.{topic}"));
    let group = icestream.setting("KAFKA_GROUP_ID").unwrap().to_owned();
    let icestream = icestream.set("CHECKPOINT_INTERVAL_MS", "100");
    // The group is read first and the ledger only grows, so what is above it now was above it then.
    let look = |tally: &mut (u32, u32)| {
        let reported = kafka.committed(&group, &topic);
        let ledger = ledger(&table, &icestream, &topic);
        for (partition, next) in &reported {
            assert!(ledger.get(partition).is_some_and(|l| next <= l), "{reported:?} {ledger:?}");
        }
        tally.0 += 1;
        tally.1 += u32::from(!reported.is_empty() && reported != ledger);
    };

    let mut running = icestream.run();
    let mut tally = (0, 0);
    let mut produced = kafka.produce(&topic, records(3, 0..1000));
    for part in 1..30 {
        produced = produced.and(&kafka.produce(&topic, records(3, part * 1000..(part + 1) * 1000)));
        look(&mut tally);
    }
    wait_caught_up(&mut running, &topic);
    println!("looked {} times, {} of them between ledger and report", tally.0, tally.1);
    let ends: BTreeMap<i32, i64> =
        kafka.watermarks(&topic).into_iter().map(|(p, (_, end))| (p, end)).collect();
    assert_eq!(ledger(&table, &icestream, &topic), ends);
    assert_eq!(kafka.committed(&group, &topic), ends);
    running.stop(RUN).success();

    // Aborted after the commit and before the report: the group stays behind, and nothing is
    // decided from it.
    let more = kafka.produce(&topic, records(3, 30_000..31_000));
    let crashed = icestream.clone().crash_at("report.before").run().wait(RUN);
    assert_eq!(crashed.signal, Some(6), "{}", crashed.log);
    assert_eq!(kafka.committed(&group, &topic), ends);
    assert!(ledger(&table, &icestream, &topic).values().sum::<i64>() > ends.values().sum());
    let rest = kafka.produce(&topic, records(3, 31_000..32_000));
    icestream.run_until_caught_up();
    assert_eq!(kafka.committed(&group, &topic), ledger(&table, &icestream, &topic));
    assert_eq!(assert_exactly_once(&table, &[&produced, &more, &rest]), 32_000);
}

/// Milliseconds since the Unix epoch that are no such, or are not there yet: in microseconds, in
/// nanoseconds, an hour ahead.
fn impossible_times() -> [i64; 3] {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let [millis, micros, nanos] =
        [now.as_millis(), now.as_micros(), now.as_nanos()].map(|time| i64::try_from(time).unwrap());
    [micros, nanos, millis + 3_600_000]
}

#[test]
fn a_table_that_nothing_gets_into_is_late_whatever_producers_take_for_the_time() {
    let (kafka, lake) = (Kafka::shared(), Lake::rest());
    let proxy = Proxy::before(&lake.rest_catalog().address());
    let lake = lake.through(proxy.uri());
    let topic = unique("late");
    let any_time = [("message.timestamp.after.max.ms", "9223372036854775807")];
    kafka.create_topic(&topic, 3, &any_time);
    let name = format!("db.{topic}");
    let icestream = Icestream::new(kafka, &topic, &lake, &name).schema(&schema());
    let produce = |numbers| {
        let at = |record: Record| {
            let time = impossible_times()[usize::try_from(record.partition).unwrap()];
            record.at(time)
        };
        kafka.produce(&topic, records(3, numbers).map(at))
    };
    let first = produce(0..30);
    let mut running = icestream.run();
    wait_caught_up(&mut running, &topic);
    let refused =
        proxy.on(Matching::ledger_of("db", &topic).times(10_000), Fault::Answer(503, "{}".into()));
    let second = produce(30..60);
    running.wait_metrics("partitions that are late", PATIENCE, |metrics| {
        let late = |partition: i32| {
            let labels = [("topic", topic.as_str()), ("partition", &partition.to_string())];
            let late = metrics.value("icestream_table_lag_seconds", &labels);
            assert!(late < Some(PATIENCE.as_secs_f64() + 60.0), "{late:?} in {}", metrics.text);
            late > Some(3.0)
        };
        (0..3).all(late).then_some(())
    });
    refused.withdraw();
    let metrics = wait_caught_up(&mut running, &topic);
    assert_values(&metrics, &[("table_lag_seconds", &[("topic", &topic)], 0.0)]);
    running.stop(RUN).success();
    assert_eq!(assert_exactly_once(&lake.table(&name), &[&first, &second]), 60);
}
