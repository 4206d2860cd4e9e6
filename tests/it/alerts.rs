//! The alert rules, in a real Prometheus that scrapes real processes: each rule fires for what it names,
//! and none for a topic at rest.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::landing::{records, schema};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::process::Process;
use crate::support::producing::{End, Record};
use crate::support::table::Lake;
use crate::support::{PATIENCE, foreign, free_port, http, new_dir, unique, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";

struct Prometheus {
    process: Process,
    url: String,
}

impl Prometheus {
    /// Scrapes these processes twice a second, with the rules of `deploy/`: as they are, but for how long
    /// a state has to last.
    fn start(targets: &[String]) -> Self {
        let (dir, port) = (new_dir("prometheus"), free_port());
        let rules = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/alerts.yml"));
        let mut soon = String::new();
        for line in rules.unwrap().lines() {
            let line = match line.trim_start().starts_with("for: ") {
                true => String::from("        for: 0s"),
                false => line.replace("> 600", "> 3").replace("> 900", "> 3"),
            };
            soon.push_str(&line);
            soon.push('\n');
        }
        fs::write(dir.join("alerts.yml"), soon).unwrap();
        let targets = serde_json::to_string(targets).unwrap();
        let config = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [alerts.yml]\n\
             scrape_configs: [{{job_name: icestream, static_configs: [{{targets: {targets}}}]}}]\n"
        );
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start("Prometheus", command, &dir.join("prometheus.log"));
        Self { process, url: format!("http://127.0.0.1:{port}/api/v1/alerts") }
    }

    /// The alerts that fire, each with the process that it is about, if it names one.
    fn firing(&mut self) -> BTreeSet<(String, String)> {
        let url = self.url.clone();
        let reply = self.process.wait_ready("answer", PATIENCE, |_| {
            http::get(&url).ok().filter(|reply| reply.status == 200)
        });
        let alerts = reply.json()["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let text = |alert: &Value, label: &str| {
            alert["labels"][label].as_str().unwrap_or_default().to_owned()
        };
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| (text(alert, "alertname"), text(alert, "instance"))).collect()
    }
}

/// A pipeline of a topic of its own, of which a hundred records in two partitions are in its table.
struct Case<'a> {
    icestream: Icestream,
    topic: String,
    name: String,
    lake: &'a Lake,
}

impl<'a> Case<'a> {
    fn new(lake: &'a Lake, settings: &[(&str, &str)]) -> Self {
        let (kafka, topic) = (Kafka::shared(), unique("alert"));
        kafka.create_topic(&topic, 2, &[]);
        kafka.produce(&topic, records(2, 0..100));
        let name = format!("db.{topic}");
        let icestream = Icestream::new(kafka, &topic, lake, &name)
            .schema(&schema())
            .set("KAFKA_ASSIGNMENT", "all")
            .set("CHECKPOINT_INTERVAL_MS", "300");
        icestream.run_until_caught_up();
        let set = |icestream: Icestream, (name, value): &(&str, &str)| icestream.set(name, *value);
        let icestream = settings.iter().fold(icestream, set);
        Self { icestream, topic, name, lake }
    }

    fn address(&self) -> String {
        self.icestream.setting("HTTP_LISTEN").unwrap().to_owned()
    }

    fn produce(&self, numbers: std::ops::Range<i64>) {
        Kafka::shared().produce(&self.topic, records(2, numbers));
    }

    fn start(&self) -> Running {
        let mut running = self.icestream.run();
        running.wait_metrics("be scraped", PATIENCE, |_| Some(()));
        running
    }
}

#[test]
fn each_rule_fires_for_what_it_names_and_none_for_a_topic_at_rest() {
    let (kafka, lake) = (Kafka::shared(), Lake::sqlite());
    let never = [("CHECKPOINT_INTERVAL_MS", "3600000")];
    let idle = Case::new(&lake, &[]);
    let lagging = Case::new(&lake, &never);
    let refused = Case::new(&lake, &[]);
    let unread = Case::new(&lake, &[]);
    let bad = Case::new(&lake, &[("BAD_RECORDS", "skip")]);
    let open = Case::new(&lake, &[]);
    let killed = Case::new(&lake, &[]);
    let cases = [&idle, &lagging, &refused, &unread, &bad, &open, &killed];

    lagging.produce(100..200);
    unread.produce(100..200);
    kafka.delete_records(&unread.topic, 0, 70);
    let transaction = kafka.begin_transaction(&open.topic);
    transaction.send(records(2, 100..200));
    let mut running: Vec<Running> = cases.iter().map(|case| case.start()).collect();
    let mut prometheus = Prometheus::start(&cases.map(Case::address));
    kafka.produce(&bad.topic, [Record::new(0, "{")]);
    running[6].kill();
    // Prometheus has seen this one before it ends, and sees why it did.
    wait_for("a scrape by Prometheus", PATIENCE, || {
        // It says 503 and no more until it is ready.
        let reply = http::get(&prometheus.url.replace("alerts", "targets")).ok()?;
        let told = (reply.status == 200).then(|| reply.json())?;
        let all = told["data"]["activeTargets"].as_array()?.clone();
        let address = refused.address();
        let scraped = |target: &&Value| {
            target["scrapeUrl"].as_str().is_some_and(|url| url.contains(&address))
                && target["health"] == "up"
        };
        all.iter().find(scraped).map(|_| ())
    });
    foreign::run(&refused.lake.table(&refused.name), "catalog.drop_table(name)", Value::Null);
    refused.produce(100..200);
    running[2].wait(PATIENCE).with_code(4);

    let expected = [
        ("IcestreamCheckpointsStalled", lagging.address()),
        ("IcestreamTableLagging", String::new()),
        ("IcestreamRefused", refused.address()),
        ("IcestreamDown", refused.address()),
        ("IcestreamPartitionsUnread", unread.address()),
        ("IcestreamBadRecords", bad.address()),
        ("IcestreamOpenTransaction", open.address()),
        ("IcestreamDown", killed.address()),
    ];
    for (name, instance) in expected {
        wait_for(&format!("{name} of {instance}"), PATIENCE, || {
            prometheus.firing().contains(&(name.to_owned(), instance.clone())).then_some(())
        });
    }
    let firing = prometheus.firing();
    let of_idle: Vec<_> = firing.iter().filter(|(_, of)| *of == idle.address()).collect();
    assert!(of_idle.is_empty(), "{of_idle:?}");
    // What is refused, or not read, is nothing that a checkpoint brings.
    let stalled = firing.iter().filter(|(name, _)| name == "IcestreamCheckpointsStalled");
    let stalled: Vec<_> = stalled.map(|(_, of)| of.clone()).collect();
    assert!(!stalled.contains(&open.address()) && !stalled.contains(&bad.address()), "{stalled:?}");
    let metrics = running[0].metrics().unwrap();
    assert_eq!(metrics.value(COMMITTED, &[]), Some(0.0), "it was at rest");
    transaction.end(End::Abort);
    for at in [0, 1, 3, 4, 5] {
        running[at].stop(PATIENCE).success();
    }
}
