//! The benchmark: `icestream run --until-caught-up` on preloaded topics of a real Apache Kafka,
//! beside a loop written by hand that only consumes, decodes and writes Parquet. All run in turn
//! on the same topics, as processes of their own, and every run's rows are counted before its
//! figures count. `make bench` runs it; docs/bench.md has what it measured last.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has nothing to report"
)]
#![allow(clippy::single_range_in_vec_init, reason = "ranges of offsets are meant, often one")]

mod batches;
mod by_hand;
mod commits;
mod fleet;
mod freshness;
mod inputs;
mod journal;
mod measure;
mod page;
mod payloads;
mod peers;
mod plot;
mod scenario;
#[allow(dead_code, reason = "the helpers of the tests, of which this uses a part")]
#[path = "../it/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use inputs::Topics;
use support::kafka::Kafka;

/// Measures icestream on a real Kafka.
#[derive(Parser)]
struct Args {
    /// Records of the made inputs of 300 bytes; of larger ones fewer.
    #[arg(long, default_value_t = 6_000_000)]
    records: u64,
    /// Runs of each contestant.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Measure this binary, such as that of an earlier version, beside the one of today instead, and
    /// only print the figures.
    #[arg(long, value_name = "BINARY")]
    against: Option<PathBuf>,
    /// How long a steady stream is watched for its freshness, in seconds.
    #[arg(long, default_value_t = 60)]
    watch: u64,
    /// Measure fleets of processes on one table instead, and write docs/bench-fleet.md.
    #[arg(long)]
    fleet: bool,
    /// Measure commits to tables of different ages instead, and write docs/bench-commits.md.
    #[arg(long)]
    commits: bool,
    /// Measure Flink and Kafka Connect beside icestream instead, and write docs/bench-peers.md.
    #[arg(long)]
    peers: bool,
    /// Print the figures and leave the pages as they are.
    #[arg(long)]
    dry: bool,
    /// Be the loop written by hand: brokers, topic, kind of records, directory for files.
    #[arg(long, num_args = 4, hide = true)]
    by_hand: Option<Vec<String>>,
    /// Be its work without Kafka: kind of records, how many, threads, directory for files.
    #[arg(long, num_args = 4, hide = true)]
    in_memory: Option<Vec<String>>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    if let Some(words) = &args.by_hand {
        let [brokers, topic, kind, dir] = &words[..] else { panic!("four words: {words:?}") };
        return by_hand::run(brokers, topic, kind, dir);
    }
    if let Some(words) = &args.in_memory {
        let [kind, records, threads, dir] = &words[..] else { panic!("four words: {words:?}") };
        return by_hand::in_memory(kind, records, threads, dir);
    }
    if args.commits {
        return commits::run(&args.only, args.dry);
    }
    let load = page::load();
    println!("load of the machine before: {load}");
    if args.fleet {
        return fleets(&args);
    }
    if args.peers {
        return peers(&args, &load);
    }
    let kafka = Kafka::own();
    let mut topics = Topics::new(&kafka, args.records);
    let mut scenarios = Vec::new();
    let each = if args.against.is_some() { scenario::OF_TWO_BINARIES } else { scenario::EACH };
    for (name, make) in each.iter().filter(|(name, _)| name.contains(&args.only)) {
        let mut scenario = make(&mut topics);
        if let Some(binary) = &args.against {
            scenario = scenario.against(binary);
        }
        println!("\n{name}: {}", scenario.title);
        scenario.warm_up(&kafka);
        (0..args.runs).for_each(|round| scenario.round(&kafka, round));
        scenarios.push(scenario);
    }
    if args.against.is_some() {
        return println!("\n{}", page::tables(&scenarios));
    }
    let fresh = match "freshness".contains(&args.only) {
        true => freshness::measure(&kafka, Duration::from_secs(args.watch)),
        false => Vec::new(),
    };
    println!("\n{}{}", page::tables(&scenarios), page::freshness_table(&fresh));
    if !args.dry {
        page::write(&scenarios, &fresh, args.runs, &load);
    }
}

fn fleets(args: &Args) {
    const INTERVAL_MS: u32 = 1000;
    let table = fleet::measure(&Kafka::own(), &[1, 4, 16, 32], INTERVAL_MS);
    if !args.dry {
        std::fs::write("docs/bench-fleet.md", fleet::page(&table, INTERVAL_MS))
            .expect("cannot write the page");
    }
}

fn peers(args: &Args, load: &str) {
    let (page, plot) = peers::measure(args.records, args.runs, &args.only, load);
    if !args.dry {
        for (name, text) in [("bench-peers.md", page), ("bench-peers.svg", plot)] {
            std::fs::write(format!("docs/{name}"), text).expect("cannot write the page");
        }
    }
}
