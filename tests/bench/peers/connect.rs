//! Kafka Connect: a standalone worker with Apache Iceberg's sink.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use super::{INTERVAL_MS, Job, LOG_SETTINGS, PARALLELISM, Span, name, wait_rows};
use crate::inputs::Preloaded;
use crate::measure::Figures;
use crate::support::process::Process;
use crate::support::table::Table;
use crate::support::{PATIENCE, free_port, http, new_dir, parts};

/// The options of Kafka's own start scripts for a worker.
pub const JVM: [&str; 6] = [
    "-Xms256M",
    "-Xmx2G",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

/// How often the worker looks after its tasks. The sink answers its coordinator only when records
/// come or this time is over: at the default of a minute, the end of a topic is committed late.
pub const FLUSH_MS: u32 = 1000;

/// Properties of the worker's consumers: large answers, large polls.
pub const CONSUMER: [(&str, &str); 4] = [
    ("fetch.min.bytes", "1048576"),
    ("max.partition.fetch.bytes", "8388608"),
    ("max.poll.records", "10000"),
    ("receive.buffer.bytes", "1048576"),
];

/// Settings of the sink besides topic, table and addresses.
pub fn settings() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("connector.class", "org.apache.iceberg.connect.IcebergSinkConnector".into()),
        ("tasks.max", PARALLELISM.to_string()),
        ("key.converter", "org.apache.kafka.connect.converters.ByteArrayConverter".into()),
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter".into()),
        ("value.converter.schemas.enable", "false".into()),
        ("iceberg.catalog.type", "rest".into()),
        ("iceberg.control.commit.interval-ms", INTERVAL_MS.to_string()),
    ])
}

pub fn run(job: &Job<'_>) -> Figures {
    let dir = new_dir("connect");
    let port = free_port();
    let worker = dir.join("worker.properties");
    let consumer: String =
        CONSUMER.iter().map(|(name, value)| format!("consumer.{name}={value}\n")).collect();
    let text = format!(
        "bootstrap.servers={}\nlisteners=http://127.0.0.1:{port}\noffset.storage.file.filename={}\n\
         key.converter=org.apache.kafka.connect.converters.ByteArrayConverter\n\
         value.converter=org.apache.kafka.connect.converters.ByteArrayConverter\n\
         offset.flush.interval.ms={FLUSH_MS}\n{consumer}",
        job.kafka.brokers(),
        dir.join("offsets").display(),
    );
    fs::write(&worker, text).expect("cannot write the worker's settings");
    let log_settings = dir.join("log4j2.properties");
    fs::write(&log_settings, LOG_SETTINGS).expect("cannot write the worker's log settings");

    let mut command = Command::new(parts::java());
    command.args(JVM);
    // The last one counts.
    command.args(job.heap_mib.map(|heap| format!("-Xmx{heap}M")));
    command.arg(format!("-Dlog4j2.configurationFile={}", log_settings.display()));
    command.args(["-cp", &parts::connect_classpath()]);
    command.arg("org.apache.kafka.connect.cli.ConnectStandalone").arg(&worker);
    let mut process = Process::start("Kafka Connect", command, &dir.join("connect.log"));
    let connectors = format!("http://127.0.0.1:{port}/connectors");
    process.wait_ready("answer", PATIENCE, |_| {
        http::get(&connectors).ok().filter(|reply| reply.status == 200).map(drop)
    });

    let warm_up = create(job, &connectors, &job.warm_up);
    wait_rows(&mut [&mut process], &job.warm_up.1, job.warm_up.0.records);
    http::request(Method::DELETE, &format!("{connectors}/{warm_up}"), &[], "")
        .expect("Kafka Connect did not answer")
        .success();
    let span = Span::start(job, &[&process]);
    create(job, &connectors, &job.measured);
    span.end(&mut [&mut process], &job.measured)
}

/// Starts a connector from a topic into a table and gives its name.
fn create(job: &Job<'_>, connectors: &str, (input, table): &(&Preloaded, Table<'_>)) -> String {
    let name = name("connect");
    let control = format!("control-{name}");
    job.kafka.create_topic(&control, 1, &[]);
    let mut config = json!(settings());
    let own: [(&str, Value); 6] = [
        ("topics", input.produced.topic.clone().into()),
        ("iceberg.tables", table.name().into()),
        ("iceberg.catalog.uri", job.lake.rest_catalog().uri().into()),
        ("iceberg.kafka.bootstrap.servers", job.kafka.brokers().into()),
        ("iceberg.control.topic", control.into()),
        ("iceberg.control.group-id-prefix", format!("cg-{name}").into()),
    ];
    for (key, value) in own {
        config[key] = value;
    }
    let body = json!({ "name": name, "config": config });
    http::post(connectors, &body).expect("Kafka Connect did not answer").success();
    name
}
