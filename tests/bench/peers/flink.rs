//! Apache Flink: one SQL statement from the topic into the table, JobManager and TaskManager in one
//! JVM. `scripts/flink/FlinkSql.java` is its main class.

use std::fs;
use std::process::Command;

use super::{INTERVAL_MS, Job, LOG_SETTINGS, PARALLELISM, RUN, Span, name};
use crate::inputs::Preloaded;
use crate::measure::Figures;
use crate::support::process::Process;
use crate::support::{new_dir, parts};

/// As in the configuration that Flink comes with, for a JVM of version 17.
const OPENED: [&str; 12] = [
    "java.lang",
    "java.net",
    "java.io",
    "java.nio",
    "sun.nio.ch",
    "java.lang.reflect",
    "java.text",
    "java.time",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
];

/// What a JobManager (1 GiB) and a TaskManager (512 MiB) have as heap by default, together.
pub const HEAP_MIB: u32 = 1536;

/// Settings of Flink, and why.
pub fn settings() -> Vec<(&'static str, String)> {
    vec![
        ("parallelism.default", PARALLELISM.to_string()),
        ("taskmanager.numberOfTaskSlots", PARALLELISM.to_string()),
        ("execution.checkpointing.interval", format!("{INTERVAL_MS} ms")),
        ("state.backend.type", "hashmap".into()),
        // The documentation's first advice for SQL jobs that only pass rows on.
        ("pipeline.object-reuse", "true".into()),
    ]
}

/// Properties of the Kafka consumer within the source: large answers, large polls.
pub const CONSUMER: [(&str, &str); 4] = [
    ("fetch.min.bytes", "1048576"),
    ("max.partition.fetch.bytes", "8388608"),
    ("max.poll.records", "10000"),
    ("receive.buffer.bytes", "1048576"),
];

pub fn run(job: &Job<'_>) -> Figures {
    let dir = new_dir("flink");
    let state = ("execution.checkpointing.dir", format!("file://{}", dir.join("state").display()));
    let lines: String = settings()
        .into_iter()
        .chain([state])
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    let config = dir.join("flink.properties");
    fs::write(&config, lines).expect("cannot write Flink's settings");
    let log_settings = dir.join("log4j2.properties");
    fs::write(&log_settings, LOG_SETTINGS).expect("cannot write Flink's log settings");

    let mut command = Command::new(parts::java());
    let heap = job.heap_mib.unwrap_or(HEAP_MIB);
    command.args([&format!("-Xms{heap}m"), &format!("-Xmx{heap}m"), "-XX:+UseG1GC"]);
    for package in OPENED {
        command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    }
    command.arg(format!("-Dlog4j2.configurationFile={}", log_settings.display()));
    command.args(["-cp", &parts::flink_classpath(), "FlinkSql"]).arg(&config);
    // The first job ends with its topic. The second goes on, as such jobs do, until the process is
    // killed: of a bounded one the sink was seen to commit all but the file of a subtask that had
    // ended before the other.
    for ((input, table), more) in [(&job.warm_up, BOUNDED), (&job.measured, "")] {
        let path = dir.join(format!("{}.sql", table.name()));
        fs::write(&path, script(job, input, &table.name(), more)).expect("cannot write a script");
        command.arg(path);
    }
    let mut process = Process::start("Flink", command, &dir.join("flink.log"));
    // The second script begins as soon as the first has ended.
    process.wait_ready("carry what warms it up", RUN, |process| {
        process.log().contains("\nbegin 2\n").then_some(())
    });
    Span::start(job, &process).end(&mut process, &job.measured)
}

/// Property of a source that ends.
const BOUNDED: &str = "  'scan.bounded.mode' = 'latest-offset',\n";

/// Statements that carry a topic into a table; `more` are further properties of the source.
fn script(job: &Job<'_>, input: &Preloaded, table: &str, more: &str) -> String {
    let consumer: String = CONSUMER
        .iter()
        .map(|(name, value)| format!("  'properties.{name}' = '{value}',\n"))
        .collect();
    format!(
        "CREATE CATALOG lake WITH ('type' = 'iceberg', 'catalog-type' = 'rest', 'uri' = '{uri}');
CREATE TEMPORARY TABLE readings (
  id STRING NOT NULL, `user` STRING, type STRING, `value` DOUBLE, unit STRING,
  ts TIMESTAMP_LTZ(6), seq BIGINT, ok BOOLEAN, note STRING,
  meta ROW<device STRING, ver STRING, quality INT>
) WITH (
  'connector' = 'kafka',
  'topic' = '{topic}',
  'properties.bootstrap.servers' = '{brokers}',
  'properties.group.id' = '{group}',
{consumer}  'scan.startup.mode' = 'earliest-offset',
{more}  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601'
);
INSERT INTO lake.{table} SELECT * FROM readings;
",
        uri = job.lake.rest_catalog().uri(),
        topic = input.produced.topic,
        brokers = job.kafka.brokers(),
        group = name("flink"),
    )
}
