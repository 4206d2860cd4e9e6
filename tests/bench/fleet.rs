//! What it costs that several processes of one pipeline commit to one table: they meet at its head,
//! and the one that comes second reads the ledger again. `make bench BENCH_ARGS=--fleet`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::icestream::{Icestream, Metrics, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader};
use crate::support::producing::Record;
use crate::support::table::Lake;
use crate::support::{PATIENCE, unique, wait_for};

const PARTITIONS: i32 = 32;
/// Records a second, however many processes share them.
const RATE: u64 = 10_000;
/// How long is measured.
const WINDOW: Duration = Duration::from_secs(30);

/// Sums over the processes of one size of fleet.
#[derive(Default)]
struct Sums {
    committed: f64,
    conflicts: f64,
    commit_seconds: f64,
    cpu_seconds: f64,
    records: f64,
}

impl Sums {
    fn of(processes: &[Running]) -> Self {
        let mut sums = Self::default();
        for metrics in processes.iter().map(|process| process.metrics().expect("metrics")) {
            let value = |name: &str, labels: &[(&str, &str)]| value(&metrics, name, labels);
            sums.committed += value("icestream_commits_total", &[("outcome", "committed")]);
            sums.conflicts += value("icestream_commits_total", &[("outcome", "conflict")]);
            sums.commit_seconds +=
                value("icestream_checkpoint_duration_seconds_sum", &[("step", "commit")]);
            sums.cpu_seconds += value("process_cpu_seconds_total", &[]);
            sums.records += value("icestream_committed_records_total", &[]);
        }
        sums
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            committed: self.committed - before.committed,
            conflicts: self.conflicts - before.conflicts,
            commit_seconds: self.commit_seconds - before.commit_seconds,
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            records: self.records - before.records,
        }
    }
}

fn value(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> f64 {
    metrics.value(name, labels).unwrap_or_default()
}

/// A table of the sizes of fleet that were measured.
pub fn measure(kafka: &Kafka, sizes: &[usize], interval_ms: u32) -> String {
    let mut text = String::from(
        "| processes | commits/s | conflicts a commit | seconds a commit, mean | CPU s a second, all processes | records/s |\n\
         |---|---|---|---|---|---|\n",
    );
    for size in sizes {
        let sums = one(kafka, *size, interval_ms);
        let seconds = WINDOW.as_secs_f64();
        writeln!(
            text,
            "| {size} | {:.1} | {:.2} | {:.3} | {:.2} | {:.0} |",
            sums.committed / seconds,
            sums.conflicts / sums.committed,
            sums.commit_seconds / sums.committed,
            sums.cpu_seconds / seconds,
            sums.records / seconds,
        )
        .expect("a text takes everything");
        println!("{}", text.lines().last().unwrap_or_default());
    }
    text
}

fn one(kafka: &Kafka, size: usize, interval_ms: u32) -> Sums {
    let topic = unique("fleet");
    kafka.create_topic(&topic, PARTITIONS, &[]);
    let lake = Lake::rest();
    let name = format!("bench.{topic}");
    let template = Icestream::new(kafka, &topic, &lake, &name)
        .schema(&json!({"type": "struct", "fields": [
            {"id": 1, "name": "id", "required": true, "type": "long"},
        ]}))
        .set("PARALLELISM", "1")
        .set("CHECKPOINT_INTERVAL_MS", interval_ms.to_string());
    let records = (0_i64..).zip((0..PARTITIONS).cycle());
    let records =
        records.map(|(id, partition)| Record::new(partition, json!({ "id": id }).to_string()));
    let steady = kafka.produce_steadily(&topic, RATE, records);
    let mut processes: Vec<Running> = (0..size).map(|_| template.member().run()).collect();
    wait_for("commits by every process", PATIENCE * 2, || {
        let busy = processes.iter_mut().all(|process| {
            assert!(process.runs(), "{}", process.log());
            process.metrics().is_some_and(|metrics| {
                value(&metrics, "icestream_commits_total", &[("outcome", "committed")]) > 0.0
            })
        });
        busy.then_some(())
    });
    let before = Sums::of(&processes);
    // Time is what is measured over: it is the condition.
    let start = Instant::now();
    wait_for("the window to be over", WINDOW + PATIENCE, || {
        (start.elapsed() >= WINDOW).then_some(())
    });
    let sums = Sums::of(&processes).since(&before);
    let produced = steady.stop();
    for process in &mut processes {
        process.stop(PATIENCE).success();
    }
    template.another().run_until_caught_up();
    let verdict = oracle::judge(&lake.table(&name), &[&produced], Reader::DuckDb);
    assert!(verdict.is_exact(), "{verdict:?}");
    sums
}

/// The page around the table.
pub fn page(table: &str, interval_ms: u32) -> String {
    format!(
        "\
# Several processes on one table

<!-- Written by `make bench BENCH_ARGS=--fleet`, which overwrites it: change tests/bench/fleet.rs. -->

Processes of one pipeline commit to the same table: each commit is a compare-and-swap on the head, and of two that meet
the second gets a conflict, reads the ledger again and commits on the new head. Measured over {seconds} s with {rate} records
a second on {PARTITIONS} partitions, a checkpoint every {interval_ms} ms in each process, a real REST catalog, one Kafka, everything on this
machine's cores. Every row was accounted for after each run.

{table}
At the default interval of 60 s the same fleet commits sixty times less often, and meets as much less.
",
        seconds = WINDOW.as_secs(),
        rate = RATE,
    )
}
