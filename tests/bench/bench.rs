//! The benchmark: `icestream run --until-caught-up` on a preloaded topic of a real Apache Kafka,
//! beside a loop written by hand that only consumes, decodes and writes Parquet. Both run in turn
//! on the same topic, as processes of their own, and every run's rows are counted before its
//! figures count. `make bench` runs it; docs/bench.md has what it measured last.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has nothing to report"
)]
#![allow(clippy::single_range_in_vec_init, reason = "ranges of offsets are meant, often one")]

mod by_hand;
mod fleet;
mod inputs;
mod measure;
mod page;
#[allow(dead_code, reason = "the helpers of the tests, of which this uses a part")]
#[path = "../it/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::Command;

use clap::Parser;

use inputs::Input;
use measure::{Figures, Meter};
use support::icestream::{Icestream, RUN};
use support::kafka::Kafka;
use support::oracle::{self, Reader};
use support::table::Lake;
use support::{new_dir, unique};

/// Measures icestream on a real Kafka.
#[derive(Parser)]
struct Args {
    /// Records of the made input.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Runs of each contestant on each input.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only inputs whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Measure fleets of processes on one table instead, and write docs/bench-fleet.md.
    #[arg(long)]
    fleet: bool,
    /// Print the figures and leave docs/bench.md as it is.
    #[arg(long)]
    dry: bool,
    /// Be the loop written by hand: brokers, topic, schema file, directory for files.
    #[arg(long, num_args = 4, hide = true)]
    by_hand: Option<Vec<String>>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Who carries the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// icestream with a checkpoint every so many milliseconds.
    Icestream(u32),
    /// Consume, decode, write Parquet; no table, no offsets kept, one thread.
    ByHand,
}

impl Contestant {
    const EACH: [Self; 3] = [Self::Icestream(10_000), Self::Icestream(1_000), Self::ByHand];
}

impl std::fmt::Display for Contestant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Icestream(millis) => write!(f, "icestream, checkpoint {} s", millis / 1000),
            Self::ByHand => f.write_str("loop by hand"),
        }
    }
}

/// All runs of one contestant on one input.
pub struct Row {
    contestant: Contestant,
    runs: Vec<Figures>,
}

fn main() {
    let args = Args::parse();
    if let Some(words) = &args.by_hand {
        let [brokers, topic, schema, dir] = &words[..] else { panic!("four words: {words:?}") };
        return by_hand::run(brokers, topic, schema, dir);
    }
    let load = page::load();
    println!("load of the machine before: {load}");
    let kafka = Kafka::own();
    if args.fleet {
        const INTERVAL_MS: u32 = 1000;
        let table = fleet::measure(&kafka, &[1, 4, 16, 32], INTERVAL_MS);
        if !args.dry {
            std::fs::write("docs/bench-fleet.md", fleet::page(&table, INTERVAL_MS))
                .expect("cannot write the page");
        }
        return;
    }
    let mut results = Vec::new();
    for input in Input::each(args.records) {
        if !input.name().contains(&args.only) {
            continue;
        }
        let input = input.produce(&kafka);
        println!("\n{}", input.name);
        let mut rows = Contestant::EACH.map(|contestant| Row { contestant, runs: Vec::new() });
        for run in 0..args.runs {
            // Each goes first in turn, so that none always meets what another left behind.
            rows.rotate_left(usize::from(run > 0));
            for row in &mut rows {
                let figures = match row.contestant {
                    Contestant::Icestream(millis) => icestream(&kafka, &input, millis),
                    Contestant::ByHand => by_hand(&kafka, &input),
                };
                println!("  {}: {figures}", row.contestant);
                row.runs.push(figures);
            }
        }
        rows.sort_by_key(|row| Contestant::EACH.iter().position(|each| *each == row.contestant));
        results.push((input, Vec::from(rows)));
    }
    let tables = page::tables(&results);
    println!("\n{tables}");
    if !args.dry {
        let path = PathBuf::from("docs/bench.md");
        std::fs::write(&path, page::page(&tables, args.runs, &load))
            .expect("cannot write the page");
        println!("wrote docs/bench.md");
    }
}

/// One run of icestream into a new table, each record of which is then accounted for.
fn icestream(kafka: &Kafka, input: &inputs::Preloaded, millis: u32) -> Figures {
    let lake = Lake::sqlite();
    let name = format!("bench.{}", unique("table"));
    let mut icestream = Icestream::new(kafka, &input.produced.topic, &lake, &name)
        .schema(&input.schema)
        .unset("CHECKPOINT_MIN_PAUSE_MS")
        .set("CHECKPOINT_INTERVAL_MS", millis.to_string());
    if let Some(spec) = input.spec {
        icestream = icestream.set("ICEBERG_PARTITION_SPEC", spec);
    }
    let meter = Meter::start();
    let mut running = icestream.start(&["run", "--until-caught-up"]);
    let figures = meter.follow(running.pid(), || !running.runs());
    running.wait(RUN).success();

    let table = lake.table(&name);
    let verdict = oracle::judge(&table, &[&input.produced], Reader::DuckDb);
    assert!(verdict.is_exact(), "{verdict:?}");
    let snapshots = table.snapshots();
    let sum = |key: &str| -> u64 {
        let values =
            snapshots.iter().filter_map(|s| s["summary"][key].as_str()?.parse::<u64>().ok());
        values.sum()
    };
    let warehouse = lake.warehouse().trim_start_matches("file://").to_owned();
    std::fs::remove_dir_all(warehouse).expect("cannot remove a table");
    Figures {
        records: verdict.rows,
        commits: Some(snapshots.len()),
        files: sum("added-data-files"),
        file_bytes: sum("added-files-size"),
        ..figures
    }
}

/// One run of the loop, whose rows are then counted by the footers of its files.
fn by_hand(kafka: &Kafka, input: &inputs::Preloaded) -> Figures {
    let dir = new_dir("by_hand");
    let schema = dir.join("schema.json");
    std::fs::write(&schema, input.schema.to_string()).expect("cannot write a schema");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--by-hand", &kafka.brokers(), &input.produced.topic]).args([&schema, &dir]);
    let meter = Meter::start();
    let mut child = command.spawn().expect("this program again");
    let figures = meter.follow(child.id(), || child.try_wait().expect("a child").is_some());
    assert!(child.wait().expect("a child").success(), "the loop by hand failed");
    let (files, file_bytes, records) = by_hand::count(&dir);
    assert_eq!(i64::try_from(records), Ok(input.produced.count()), "rows of the loop by hand");
    std::fs::remove_dir_all(dir).expect("cannot remove the files of the loop");
    Figures { records, commits: None, files, file_bytes, ..figures }
}
