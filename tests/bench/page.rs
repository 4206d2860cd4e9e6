//! The figures as text, and docs/bench.md around them.

use std::fmt::Write;
use std::fs;

use crate::Row;
use crate::inputs::Preloaded;
use crate::measure::Figures;

/// The page.
pub fn page(tables: &str, runs: usize, load: &str) -> String {
    format!(
        "\
# Benchmark

<!-- Written by `make bench`, which overwrites it: change tests/bench/page.rs. -->

`make bench` starts an Apache Kafka, fills topics, and then runs in turn, {runs} times each, as processes of their own:

- **icestream**: `run --until-caught-up` with default settings but for the checkpoint's interval; SQLite catalog, local
  files. Counted from the start of the process to its end: connecting, making the table and every commit are included.
- **loop by hand**: one thread that polls, decodes with icestream's decoder and writes Parquet with the same settings of
  client and encoder. No table, no offsets, nothing that survives a crash. The difference in CPU is what exactly-once
  into a table costs; in wall time it also shows that icestream reads several partitions on several cores.

After each run of icestream DuckDB reads the table: every offset of the topic once, nothing else. The rows of the loop are
counted by the footers of its files. Figures are medians, in brackets the least and the most.

{tables}
## Machine

{machine}.
Load averages before the start: {load}. Above zero means that others took part of the cores.

Kafka runs on the same machine and takes its share of the cores during every run, so records/s are lower than with a
broker elsewhere. CPU seconds are those of the process alone, and the figure to compare.

## Repeat it

```sh
make bench                                              # all of the above, and writes this page
make bench BENCH_ARGS=\"--dry\"                           # only prints
make bench BENCH_ARGS=\"--dry --only flights --runs 5\"   # --records N for the made input
```

## Not measured

Stores and catalogs over a network, TLS, compression other than the producer's lz4, wide or deeply nested schemas, memory
near its limit, the time from a record's arrival to its row in a steady stream, restart after a crash, and what a query of
the files costs.
",
        machine = machine(),
    )
}

/// A table of figures for each input.
pub fn tables(results: &[(Preloaded, Vec<Row>)]) -> String {
    let mut text = String::new();
    for (input, rows) in results {
        let count = input.produced.count().unsigned_abs();
        let mean = input.bytes as f64 / count as f64;
        write!(
            text,
            "## {}\n\n{count} records, {mean:.0} bytes each on average.\n\n\
             | | wall s | records/s | MB/s of JSON | CPU s per million records | of it in the kernel \
             | peak memory MiB | commits | files | MB written |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
            input.name,
        )
        .expect("a String takes everything");
        for row in rows {
            let spread = |of: &dyn Fn(&Figures) -> f64, digits: usize| {
                let (least, median, most) = least_median_most(&row.runs, of);
                format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
            };
            let median = |of: &dyn Fn(&Figures) -> f64| least_median_most(&row.runs, of).1;
            let commits = row.runs[0].commits.map_or_else(String::new, |_| {
                spread(&|f| f.commits.map_or(0.0, |commits| commits as f64), 0)
            });
            writeln!(
                text,
                "| {} | {} | {} | {:.0} | {} | {:.2} | {} | {commits} | {:.0} | {:.0} |",
                row.contestant,
                spread(&|f| f.wall, 2),
                spread(&Figures::rate, 0),
                median(&Figures::rate) * mean / 1e6,
                spread(&Figures::cpu_per_million, 2),
                median(&|f| f.system / f.records as f64 * 1e6),
                spread(&|f| (f.memory >> 20) as f64, 0),
                median(&|f| f.files as f64),
                median(&|f| f.file_bytes as f64 / 1e6),
            )
            .expect("a String takes everything");
        }
        text.push('\n');
    }
    text
}

fn least_median_most(runs: &[Figures], of: &dyn Fn(&Figures) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// The load averages of the machine: who else was there.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn machine() -> String {
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
