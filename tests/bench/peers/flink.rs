//! Apache Flink: one SQL statement from the topic into the table, which `scripts/flink/FlinkSql.java`
//! executes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{INTERVAL_MS, Job, LOG_SETTINGS, PARALLELISM, RUN, Span, name};
use crate::inputs::Preloaded;
use crate::measure::Figures;
use crate::support::process::{Process, output};
use crate::support::{PATIENCE, free_port, http, new_dir, parts};

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

/// JobManager and TaskManager in one JVM, which spares them the way between them.
pub fn in_one_jvm(job: &Job<'_>) -> Figures {
    let dir = new_dir("flink");
    let mut command = jvm(&dir);
    command.args([&format!("-Xms{HEAP_MIB}m"), &format!("-Xmx{HEAP_MIB}m")]);
    command.arg("FlinkSql").arg(properties(&dir, settings())).args(scripts(job, &dir));
    let mut process = Process::start("Flink", command, &dir.join("flink.log"));
    wait_warm(&mut process);
    let span = Span::start(job, &[&process]);
    span.end(&mut [&mut process], &job.measured)
}

/// As Flink's scripts start it on a machine, with the memory that its documentation advises for a
/// job whose state is on the heap: none of it managed by Flink.
pub fn advised(job: &Job<'_>) -> Figures {
    cluster(job, &[("taskmanager.memory.managed.size", "0")])
}

/// As Flink's scripts start it on a machine, with the memory of the configuration that it comes with.
pub fn with_default_memory(job: &Job<'_>) -> Figures {
    cluster(job, &[])
}

/// What Flink's own configuration gives JobManager and TaskManager.
pub const MEMORY: [(&str, &str); 2] =
    [("jobmanager.memory.process.size", "1600m"), ("taskmanager.memory.process.size", "1728m")];

/// A JobManager, a TaskManager, and a client that gives them the job.
fn cluster(job: &Job<'_>, memory: &[(&str, &str)]) -> Figures {
    let dir = new_dir("flink");
    let (rpc, rest) = (free_port().to_string(), free_port().to_string());
    let temporary = dir.join("tmp").display().to_string();
    let here = "127.0.0.1";
    let addresses = [
        ("jobmanager.rpc.address", here),
        ("jobmanager.rpc.port", &rpc),
        ("jobmanager.bind-host", here),
        ("rest.address", here),
        ("rest.port", &rest),
        ("rest.bind-address", here),
        ("taskmanager.host", here),
        ("taskmanager.bind-host", here),
        ("io.tmp.dirs", &temporary),
    ];
    let own = settings();
    let own = own.iter().map(|(name, value)| (*name, value.as_str()));
    let all = own.chain(addresses).chain(MEMORY).chain(memory.iter().copied());
    let state = format!("execution.checkpointing.dir: {}\n", state(&dir));
    let lines: String = all.map(|(name, value)| format!("{name}: {value}\n")).collect();
    fs::write(dir.join("config.yaml"), lines + &state).expect("cannot write Flink's settings");

    let start = |name: &str, class: &str, resources: &str| {
        let (options, arguments) = resource_parameters(&dir, resources);
        let mut command = jvm(&dir);
        command.args(options.split_whitespace()).arg(class);
        command.arg("--configDir").arg(&dir).args(arguments.split_whitespace());
        Process::start(name, command, &dir.join(format!("{name}.log")))
    };
    let mut manager = start("JobManager", JOB_MANAGER, "GET_JM_RESOURCE_PARAMS");
    let mut worker = start("TaskManager", TASK_MANAGER, "GET_TM_RESOURCE_PARAMS");
    let overview = format!("http://{here}:{rest}/overview");
    manager.wait_ready("have all slots", PATIENCE, |_| {
        let reply = http::get(&overview).ok().filter(|reply| reply.status == 200)?;
        (reply.json()["slots-available"] == PARALLELISM).then_some(())
    });

    let remote = [("execution.target", "remote"), ("rest.address", here), ("rest.port", &rest)];
    let remote = remote.map(|(name, value)| (name, value.to_owned()));
    let mut command = jvm(&dir);
    command.arg("FlinkSql").arg(properties(&dir, settings().into_iter().chain(remote)));
    command.args(scripts(job, &dir));
    let mut client = Process::start("Flink's client", command, &dir.join("client.log"));
    wait_warm(&mut client);
    // The client only hands over the job: what it takes is not counted.
    let span = Span::start(job, &[&manager, &worker]);
    span.end(&mut [&mut manager, &mut worker, &mut client], &job.measured)
}

const JOB_MANAGER: &str = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint";
const TASK_MANAGER: &str = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner";

/// Options of the JVM and arguments that follow from the memory in `config.yaml`: asked of what
/// Flink's scripts ask.
fn resource_parameters(dir: &Path, of: &str) -> (String, String) {
    let mut command = jvm(dir);
    command.args(["org.apache.flink.runtime.util.bash.BashJavaUtils", of]);
    command.arg("--configDir").arg(dir);
    let printed = output("Flink's BashJavaUtils", command);
    let mut results =
        printed.lines().filter_map(|line| line.strip_prefix("BASH_JAVA_UTILS_EXEC_RESULT:"));
    let mut next = || results.next().expect("a result of BashJavaUtils").to_owned();
    (next(), next())
}

/// A JVM as Flink's scripts start it, but for its memory.
fn jvm(dir: &Path) -> Command {
    let log_settings = dir.join("log4j2.properties");
    fs::write(&log_settings, LOG_SETTINGS).expect("cannot write Flink's log settings");
    let mut command = Command::new(parts::java());
    command.arg("-XX:+UseG1GC");
    for package in OPENED {
        command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    }
    command.arg(format!("-Dlog4j2.configurationFile={}", log_settings.display()));
    command.args(["-cp", &parts::flink_classpath()]);
    command
}

fn state(dir: &Path) -> String {
    format!("file://{}", dir.join("state").display())
}

/// The file with the settings of a job.
fn properties(dir: &Path, settings: impl IntoIterator<Item = (&'static str, String)>) -> PathBuf {
    let state = ("execution.checkpointing.dir", state(dir));
    let settings = settings.into_iter().chain([state]);
    let lines: String = settings.map(|(name, value)| format!("{name}={value}\n")).collect();
    let path = dir.join("flink.properties");
    fs::write(&path, lines).expect("cannot write Flink's settings");
    path
}

/// The files with the statements of the job that warms up, and of the measured one. The first job
/// ends with its topic. The second goes on, as such jobs do, until the process is killed: of a
/// bounded one the sink was seen to commit all but the file of a subtask that had ended before the
/// other.
fn scripts(job: &Job<'_>, dir: &Path) -> [PathBuf; 2] {
    [(&job.warm_up, BOUNDED), (&job.measured, "")].map(|((input, table), more)| {
        let path = dir.join(format!("{}.sql", table.name()));
        fs::write(&path, script(job, input, &table.name(), more)).expect("cannot write a script");
        path
    })
}

/// The second script begins as soon as the first has ended.
fn wait_warm(process: &mut Process) {
    process.wait_ready("carry what warms it up", RUN, |process| {
        process.log().contains("\nbegin 2\n").then_some(())
    });
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
