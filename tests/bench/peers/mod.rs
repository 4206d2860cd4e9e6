//! The same work by Apache Flink and by Kafka Connect, each with Apache Iceberg's own sink, beside
//! icestream: same broker, topic, catalog, codec, target file size and commit interval.
//! `make bench-peers`.

mod connect;
mod flink;
mod page;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::inputs::{Kind, Preloaded, Topics};
use crate::measure::{Around, Figures, cpu_seconds, peak_memory};
use crate::scenario;
use crate::support::kafka::{Kafka, LOG_SETTINGS};
use crate::support::oracle::{self, Reader};
use crate::support::process::Process;
use crate::support::table::{Lake, Table};
use crate::support::{poll, unique};

/// A commit every so often, by everybody.
const INTERVAL_MS: u32 = 10_000;
const PARTITIONS: i32 = 12;
/// Tasks, slots, shards: as many as the machine for which the page is written has cores.
const PARALLELISM: u32 = 2;
const TARGET_FILE_BYTES: u64 = 128 << 20;
/// Of a peer that is to show how little memory it can do with.
const SMALL_HEAP_MIB: u32 = 512;
/// How long one run of a peer may take.
const RUN: Duration = Duration::from_secs(600);
/// How often the catalog is asked whether all rows are there.
const LOOK: Duration = Duration::from_millis(100);

/// Who carries the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Icestream,
    /// With `MEMORY_LIMIT_MB=256`.
    SmallIcestream,
    /// With pages of version 2.
    DeltaIcestream,
    /// As its scripts start it, with the memory that its documentation advises.
    Flink,
    /// With the memory that it comes with.
    DefaultFlink,
    /// All of it in one JVM.
    OneFlink,
    Connect,
    /// With a heap of [`SMALL_HEAP_MIB`].
    SmallConnect,
}

impl Peer {
    const EACH: [Self; 8] = [
        Self::Icestream,
        Self::SmallIcestream,
        Self::DeltaIcestream,
        Self::Flink,
        Self::DefaultFlink,
        Self::OneFlink,
        Self::Connect,
        Self::SmallConnect,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Icestream => "icestream",
            Self::SmallIcestream => "icestream, MEMORY_LIMIT_MB=256",
            Self::DeltaIcestream => "icestream, pages of version 2",
            Self::Flink => "Flink",
            Self::DefaultFlink => "Flink, default memory",
            Self::OneFlink => "Flink in one JVM",
            Self::Connect => "Kafka Connect",
            Self::SmallConnect => "Kafka Connect, 512 MiB of heap",
        }
    }

    fn is_icestream(self) -> bool {
        matches!(self, Self::Icestream | Self::SmallIcestream | Self::DeltaIcestream)
    }
}

/// All runs of a contestant, a run a round.
struct Row {
    peer: Peer,
    runs: Vec<Figures>,
}

/// What a peer is given to do.
struct Job<'a> {
    kafka: &'a Kafka,
    lake: &'a Lake,
    /// MiB of heap, if not what the peer comes with.
    heap_mib: Option<u32>,
    /// Carried first, so that the measured one meets code that is compiled.
    warm_up: (&'a Preloaded, Table<'a>),
    measured: (&'a Preloaded, Table<'a>),
}

/// A broker with Kafka's own wait for further members of a new group: without it each task of Kafka
/// Connect that starts takes partitions from the ones before, and its sink stands still meanwhile.
pub fn broker() -> Kafka {
    Kafka::with_config(&[("group.initial.rebalance.delay.ms", "3000")])
}

/// Measures each contestant whose name contains `only` so many times and gives the page, and a
/// plot for it.
pub fn measure(records: u64, runs: usize, only: &str, load: &str) -> (String, String) {
    let kafka = &broker();
    let input = Topics::new(kafka, records).get(Kind::Readings, PARTITIONS);
    let warm_up = Topics::new(kafka, records / 2).get(Kind::Readings, PARTITIONS);
    let peers = Peer::EACH.into_iter().filter(|peer| peer.name().contains(only));
    let mut rows: Vec<Row> = peers.map(|peer| Row { peer, runs: Vec::new() }).collect();
    for round in 0..runs {
        for turn in 0..rows.len() {
            let index = (turn + round) % rows.len();
            let row = &mut rows[index];
            let lake = Lake::rest();
            let run = |heap_mib, run: fn(&Job<'_>) -> Figures| {
                peer(kafka, &lake, (&warm_up, &input), heap_mib, run)
            };
            let own = |more| icestream(kafka, &lake, (&warm_up, &input), more);
            let figures = match row.peer {
                Peer::Icestream => own(&[]),
                Peer::SmallIcestream => own(&[("MEMORY_LIMIT_MB", "256")]),
                Peer::DeltaIcestream => {
                    own(&[("ICEBERG_TABLE_PROPERTIES", "write.parquet.page-version=2")])
                }
                Peer::Flink => run(None, flink::advised),
                Peer::DefaultFlink => run(None, flink::with_default_memory),
                Peer::OneFlink => run(None, flink::in_one_jvm),
                Peer::Connect => run(None, connect::run),
                Peer::SmallConnect => run(Some(SMALL_HEAP_MIB), connect::run),
            };
            println!("  {}: {figures}", row.peer.name());
            row.runs.push(figures);
        }
    }
    let tables = page::tables(&rows);
    println!("\n{tables}");
    (page::page(&tables, &input, &warm_up, runs, load), page::plot(&rows))
}

fn icestream(
    kafka: &Kafka,
    lake: &Lake,
    (warm_up, input): (&Preloaded, &Preloaded),
    more: &[(&'static str, &'static str)],
) -> Figures {
    // It assigns itself all partitions, as Flink does, and does not wait for other members.
    let own = [("CHECKPOINT_INTERVAL_MS", "10000"), ("KAFKA_ASSIGNMENT", "all")];
    let settings = [&own, more].concat();
    // For broker and catalog, which the peers' own warm-up warms, too.
    scenario::icestream(kafka, lake, warm_up, &settings, None);
    scenario::icestream(kafka, lake, input, &settings, None)
}

fn peer(
    kafka: &Kafka,
    lake: &Lake,
    (warm_up, input): (&Preloaded, &Preloaded),
    heap_mib: Option<u32>,
    run: fn(&Job<'_>) -> Figures,
) -> Figures {
    let rest = lake.rest_catalog();
    rest.create_namespace("bench");
    let tables = ["warm_up", "measured"].map(|name| {
        let body = json!({
            "name": name,
            "schema": input.kind.schema(),
            "properties": {
                "write.parquet.compression-codec": "zstd",
                "write.parquet.compression-level": "1",
                "write.target-file-size-bytes": TARGET_FILE_BYTES.to_string(),
                // No shuffle by table partition before the writers: there are none.
                "write.distribution-mode": "none",
            },
        });
        rest.post("namespaces/bench/tables", &body).success();
        lake.table(&format!("bench.{name}"))
    });
    let [warm_table, table] = tables;
    let job =
        Job { kafka, lake, heap_mib, warm_up: (warm_up, warm_table), measured: (input, table) };
    let figures = run(&job);

    let table = &job.measured.1;
    let sql = "SELECT count(*), count(DISTINCT seq), count(DISTINCT id), min(seq), max(seq) FROM t";
    let found = oracle::query(table, Reader::DuckDb, sql);
    let wanted = [input.records, input.records, input.records, 0, input.records - 1];
    let wanted = wanted.map(|number| Some(number.to_string()));
    assert_eq!(found, [wanted], "rows, different ones, their first and last numbers");
    let snapshots = table.snapshots();
    let sum = |key: &str| -> u64 {
        let values =
            snapshots.iter().filter_map(|s| s["summary"][key].as_str()?.parse::<u64>().ok());
        values.sum()
    };
    Figures {
        records: input.records,
        commits: Some(snapshots.len()),
        files: sum("added-data-files"),
        file_bytes: sum("added-files-size"),
        ..figures
    }
}

/// Measures JVMs that are warm, from now until the table has all records of its topic.
struct Span {
    around: Around,
    processes: Vec<u32>,
    cpu: f64,
    began: Instant,
}

impl Span {
    fn start(job: &Job<'_>, processes: &[&Process]) -> Self {
        let processes: Vec<u32> = processes.iter().map(|process| process.pid()).collect();
        let around = Around::start(job.kafka.pid());
        let cpu = processes.iter().copied().map(cpu_seconds).sum();
        Self { around, processes, cpu, began: Instant::now() }
    }

    /// `all` are the processes without which the work is not done.
    fn end(self, all: &mut [&mut Process], (input, table): &(&Preloaded, Table<'_>)) -> Figures {
        wait_rows(all, table, input.records);
        let wall = self.began.elapsed().as_secs_f64();
        let processes = || self.processes.iter().copied();
        let cpu = processes().map(cpu_seconds).sum::<f64>() - self.cpu;
        let memory = processes().map(|id| peak_memory(id).expect("a running process")).sum();
        let (broker, idle) = self.around.end();
        // Not told apart here.
        Figures { wall, user: cpu, memory, broker, idle, ..Figures::default() }
    }
}

/// Waits until a table has so many rows.
fn wait_rows(processes: &mut [&mut Process], table: &Table<'_>, rows: u64) {
    poll(LOOK, "the table to have all rows", RUN, || {
        let snapshots = table.snapshots();
        let total = snapshots.last().and_then(|s| s["summary"]["total-records"].as_str());
        if total.and_then(|total| total.parse().ok()) == Some(rows) {
            return Some(());
        }
        for process in processes.iter_mut() {
            let ended = process.ended();
            let end = process.log_end();
            // A worker of Kafka Connect outlives its tasks.
            let failed = ended.is_some() || process.log().contains("unrecoverable exception");
            assert!(!failed, "failed ({ended:?}) with {total:?} rows of {rows}:\n{end}");
        }
        None
    });
}

/// A word that no other run uses.
fn name(prefix: &str) -> String {
    unique(&format!("{prefix}-{}", std::process::id()))
}
