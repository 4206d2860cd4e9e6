//! The figures as text and plots: docs/bench.md and what it shows.

use std::fmt::Write;
use std::fs;

use crate::freshness::{self, Freshness};
use crate::measure::{Figures, least_median_most};
use crate::plot::{self, Bar, percentile};
use crate::scenario::{self, Entry, Measure, Scenario};

/// Writes the page and its plots.
pub fn write(scenarios: &[Scenario], fresh: &[Freshness], runs: usize, load: &str) {
    let save = |name: &str, text: &str| {
        fs::write(format!("docs/{name}"), text).expect("cannot write the page");
        println!("wrote docs/{name}");
    };
    save("bench.md", &page(scenarios, fresh, runs, load));
    if !scenarios.is_empty() {
        let cpu = plot::bars(
            "CPU of the process",
            "CPU seconds per million records; the line is from the least to the most",
            2,
            &groups(scenarios, &Figures::cpu_per_million),
        );
        save("bench-cpu.svg", &cpu);
        let memory = plot::bars(
            "Peak memory of the process",
            "MiB resident; the line is from the least to the most",
            0,
            &groups(scenarios, &|figures| (figures.memory >> 20) as f64),
        );
        save("bench-memory.svg", &memory);
    }
    if !fresh.is_empty() {
        let series: Vec<(String, &[f64])> =
            fresh.iter().map(|each| (each.catalog.to_owned(), &each.ages[..])).collect();
        let title = "Age of records when they can be read";
        let unit = "share of records that are visible after so many seconds";
        save("bench-freshness.svg", &plot::shares(title, unit, &series));
    }
}

fn groups(scenarios: &[Scenario], of: &dyn Fn(&Figures) -> f64) -> Vec<(String, Vec<Bar>)> {
    let bar = |entry: &Entry| Bar {
        label: entry.label.clone(),
        ours: entry.label.starts_with("icestream"),
        values: least_median_most(entry.runs.iter().map(of)),
    };
    let group = |scenario: &Scenario| {
        (scenario.title.to_owned(), scenario.entries.iter().map(bar).collect())
    };
    scenarios.iter().map(group).collect()
}

fn page(scenarios: &[Scenario], fresh: &[Freshness], runs: usize, load: &str) -> String {
    let names: Vec<&str> = scenario::EACH.iter().map(|(name, _)| *name).collect();
    format!(
        "\
# Benchmark

<!-- Written by `make bench`, which overwrites it: change tests/bench/page.rs. -->

`make bench` starts an Apache Kafka, fills topics, and then runs in turn, {runs} times each, as processes of their own:

- **icestream**: `run --until-caught-up` with default settings but for those named; SQLite catalog, local files. Counted from
  the start of the process to its end: connecting, making the table and every commit are included.
- **loop by hand**: the best known parts for one input. One thread takes batches from librdkafka by
  `rd_kafka_consume_batch_queue` with small queues (CRCs checked, as icestream does), decodes with icestream's decoder and
  writes zstd-1 Parquet with the encoding of each column chosen by hand for this very input (no dictionary where values
  seldom repeat, DELTA encodings, 256 KiB pages, statistics of chunks only). No table, no offsets, nothing that survives a
  crash, no other input.

Each topic is carried once before, uncounted: a broker takes several times the CPU to send what it never sent before, by code
that the JVM has still to compile. After each run of icestream DuckDB reads the table: every offset of the topic once, nothing else. The rows of the loop are
counted by the footers of its files. Figures are medians, in brackets the least and the most; ratios are made of two runs
of the same round and then sorted. Bytes of JSON, not of the topic, which the producer packed with lz4 but where the section
says otherwise.

![CPU seconds per million records](bench-cpu.svg)

{tables}
![Peak memory](bench-memory.svg)

{fresh}
## Machine

{machine}.
Load averages before the start: {load}. Above zero means that others took part of the cores.

Kafka runs on the same machine and takes its share of the cores during every run, so records/s are lower than with a
broker elsewhere. CPU seconds are those of the process alone, and the figure to compare; two busy cores that share caches and
memory make them some percent dearer than one.

## Repeat it

```sh
make bench                                              # all of the above, and writes this page
make bench BENCH_ARGS=\"--dry\"                           # only prints
make bench BENCH_ARGS=\"--dry --only flights --runs 5\"   # --records N for the made inputs
make bench BENCH_ARGS=\"--dry --only freshness\"
make bench BENCH_ARGS=\"--against path/to/icestream --runs 7\"  # an earlier binary beside that of today
```

Names for `--only` (a part is enough): {names}, freshness.

## Not measured

Stores and catalogs over a network, TLS, topics packed by gzip, snappy or zstd, restart after a crash, and what a query of
the files costs.
",
        tables = tables(scenarios),
        fresh = freshness_table(fresh),
        machine = machine(),
        names = names.join(", "),
    )
}

/// A section for each scenario.
pub fn tables(scenarios: &[Scenario]) -> String {
    let mut text = String::new();
    for scenario in scenarios {
        section(&mut text, scenario).expect("a String takes everything");
    }
    text
}

fn section(text: &mut String, scenario: &Scenario) -> std::fmt::Result {
    writeln!(text, "## {}\n\n{}\n", scenario.title, scenario.text)?;
    let mut inputs: Vec<String> = scenario
        .entries
        .iter()
        .map(|entry| {
            let partitions = entry.input.produced.offsets.len();
            let (records, mean) = (entry.input.records, entry.input.mean());
            format!("{records} records of {mean:.0} bytes in {partitions} partitions")
        })
        .collect();
    inputs.dedup();
    writeln!(
        text,
        "Input: {}.\n\n\
         | | wall s | records/s | MB/s of JSON | CPU s per million records | of it in the kernel | peak memory MiB \
         | commits | files | MB written | broker's CPU s per million | cores idle |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|",
        inputs.join("; "),
    )?;
    for entry in &scenario.entries {
        let spread = |of: &dyn Fn(&Figures) -> f64, digits: usize| {
            let (least, median, most) = least_median_most(entry.runs.iter().map(of));
            format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
        };
        let median = |of: &dyn Fn(&Figures) -> f64| least_median_most(entry.runs.iter().map(of)).1;
        let commits = entry.runs[0].commits.map_or_else(String::new, |_| {
            spread(&|f| f.commits.map_or(0.0, |commits| commits as f64), 0)
        });
        writeln!(
            text,
            "| {} | {} | {} | {:.0} | {} | {:.2} | {} | {commits} | {:.0} | {:.1} | {:.2} | {:.0} % |",
            entry.label,
            spread(&|f| f.wall, 2),
            spread(&Figures::rate, 0),
            median(&Figures::rate) * entry.input.mean() / 1e6,
            spread(&Figures::cpu_per_million, 2),
            median(&|f| f.system / f.records as f64 * 1e6),
            spread(&|f| (f.memory >> 20) as f64, 0),
            median(&|f| f.files as f64),
            median(&|f| f.file_bytes as f64 / 1e6),
            median(&|f| f.broker / f.records as f64 * 1e6),
            median(&|f| f.idle * 100.0),
        )?;
    }
    writeln!(text)?;
    for ratio in &scenario.ratios {
        let (least, median, most) = least_median_most(ratio.values(&scenario.entries));
        let label = |index: usize| &scenario.entries[index].label;
        let what = match ratio.measure {
            Measure::PerCpu => "Records per CPU second",
            Measure::Rate => "Records per second",
            Measure::Memory => "Peak memory",
        };
        writeln!(
            text,
            "- {what}, *{}* to *{}*: **{median:.2}** ({least:.2}–{most:.2})",
            label(ratio.of),
            label(ratio.to),
        )?;
    }
    writeln!(text)
}

/// The section on freshness, if it was measured.
pub fn freshness_table(fresh: &[Freshness]) -> String {
    if fresh.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "## Freshness\n\n\
         {} records a second into 12 partitions, steadily; `CHECKPOINT_INTERVAL_MS={}`. Age of a record: from the moment it \
         is handed to the\nproducer (which waits 5 ms to fill a batch) to the moment the table, loaded from its catalog, has \
         it below its ledger; the\ncatalog is asked every 20 ms. Producer, broker, catalog and icestream share the cores. \
         Afterwards every record was in the table once.\n\n\
         | | records | p50 s | p99 s | most s | commits | CPU s per million records | cores idle |\n\
         |---|---|---|---|---|---|---|---|\n",
        freshness::RATE,
        freshness::INTERVAL_MS,
    );
    for each in fresh {
        let at = |share: f64| percentile(&each.ages, share);
        writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {} | {:.2} | {:.0} % |",
            each.catalog,
            each.ages.len(),
            at(0.5),
            at(0.99),
            at(1.0),
            each.commits,
            each.cpu_per_million,
            each.idle * 100.0,
        )
        .expect("a String takes everything");
    }
    text.push_str("\n![Freshness](bench-freshness.svg)\n");
    text
}

/// The load averages of the machine: who else was there.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// What the figures were measured on.
pub fn machine() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal");
    let memory = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 20;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    let model = field("/proc/cpuinfo", "model name");
    format!("{cores} cores ({model}), {memory} GiB of memory, Linux {kernel}, local disk")
}
