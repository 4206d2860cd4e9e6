//! docs/bench-peers.md.

use std::fmt::Write;

use super::{INTERVAL_MS, PARALLELISM, PARTITIONS, Peer, Row, SMALL_HEAP_MIB, connect, flink};
use crate::inputs::Preloaded;
use crate::measure::{Figures, least_median_most};
use crate::page::machine;
use crate::plot::{self, Bar};

/// The figures, and each peer's set against icestream's of the same round.
pub fn tables(rows: &[Row]) -> String {
    let mut text = String::from(
        "| | CPU s per million records | peak memory MiB | wall s | records/s | commits | files | MB written | broker's CPU s per million | cores idle |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        write_row(&mut text, row).expect("a String takes everything");
    }
    text.push_str("\n| | CPU per record, times icestream's | with pages of version 2 | memory, times icestream's | with MEMORY_LIMIT_MB=256 |\n\
         |---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| !row.peer.is_icestream()) {
        let against = |peer: Peer, of: &dyn Fn(&Figures) -> f64| {
            let Some(other) = rows.iter().find(|row| row.peer == peer) else {
                return String::new();
            };
            let pairs = row.runs.iter().zip(&other.runs);
            let (least, median, most) = least_median_most(pairs.map(|(a, b)| of(a) / of(b)));
            format!("**{median:.1}** ({least:.1}–{most:.1})")
        };
        let memory = |figures: &Figures| figures.memory as f64;
        writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.peer.name(),
            against(Peer::Icestream, &Figures::cpu_per_million),
            against(Peer::DeltaIcestream, &Figures::cpu_per_million),
            against(Peer::Icestream, &memory),
            against(Peer::SmallIcestream, &memory),
        )
        .expect("a String takes everything");
    }
    text
}

fn write_row(text: &mut String, row: &Row) -> std::fmt::Result {
    let spread = |of: &dyn Fn(&Figures) -> f64, digits: usize| {
        let (least, median, most) = least_median_most(row.runs.iter().map(of));
        format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
    };
    let median = |of: &dyn Fn(&Figures) -> f64| least_median_most(row.runs.iter().map(of)).1;
    writeln!(
        text,
        "| {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} % |",
        row.peer.name(),
        spread(&Figures::cpu_per_million, 2),
        spread(&|f| (f.memory >> 20) as f64, 0),
        spread(&|f| f.wall, 1),
        spread(&Figures::rate, 0),
        median(&|f| f.commits.map_or(0.0, |commits| commits as f64)),
        median(&|f| f.files as f64),
        median(&|f| f.file_bytes as f64 / 1e6),
        median(&|f| f.broker / f.records as f64 * 1e6),
        median(&|f| f.idle * 100.0),
    )
}

/// CPU of each contestant.
pub fn plot(rows: &[Row]) -> String {
    let bars = |of: &dyn Fn(&Figures) -> f64| -> Vec<Bar> {
        let bar = |row: &Row| Bar {
            label: row.peer.name().to_owned(),
            ours: row.peer.is_icestream(),
            values: least_median_most(row.runs.iter().map(of)),
        };
        rows.iter().map(bar).collect()
    };
    let groups = [("300-byte JSON, 12 partitions".to_owned(), bars(&Figures::cpu_per_million))];
    let unit = "CPU seconds of the whole system per million records";
    plot::bars("icestream, Flink and Kafka Connect", unit, 1, &groups)
}

/// The page.
pub fn page(
    tables: &str,
    input: &Preloaded,
    warm_up: &Preloaded,
    runs: usize,
    load: &str,
) -> String {
    let pairs = |pairs: &mut dyn Iterator<Item = (String, String)>| {
        pairs.map(|(name, value)| format!("`{name}={value}`")).collect::<Vec<_>>().join(", ")
    };
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    format!(
        "\
# Beside Flink and Kafka Connect

<!-- Written by `make bench-peers`, which overwrites it: change tests/bench/peers/page.rs. -->

`make bench-peers` carries {records} JSON records of {mean:.0} bytes from {PARTITIONS} partitions of one Apache Kafka 4.1.1 into Apache
Iceberg tables, {runs} times by each in turn, on one machine. The same for all: broker, topic (lz4), REST catalog, local files,
zstd level 1, target file size 128 MiB, a commit every {seconds} s.

![CPU seconds per million records](bench-peers.svg)

{tables}
Medians, in brackets the least and the most; the lower table divides figures of the same round.

## How it is measured

- CPU and peak resident memory are those of the whole system under test: all its JVMs, and nothing of broker and catalog.
- The peers are measured warm: in the same JVMs {warm} other records were carried into another table first, and neither
  that nor the start of the JVM is counted. icestream is counted from the start of its process to its end; another process
  of it carried the same other records before, uncounted, so that broker and catalog are as warm for it.
- A peer's time ends when the table has all rows, which the catalog is asked every 100 ms. That is up to {seconds} s
  after the last row was read, when its next commit is due: look at the CPU rather than at its records/s.
- After each run DuckDB reads the table: each record once, nothing else.
- The peers write the payload's ten columns. icestream also writes topic, partition, offset and timestamp of each record,
  without which exactly-once cannot be checked; the peers would need more CPU for them.

## Settings

**icestream**: defaults but for `CHECKPOINT_INTERVAL_MS={INTERVAL_MS}` and `KAFKA_ASSIGNMENT=all` (as Flink, it does not wait for other members
of a group), in the second line `MEMORY_LIMIT_MB=256`, in the third `ICEBERG_TABLE_PROPERTIES=write.parquet.page-version=2`: DELTA
encodings, which Iceberg's readers know since 1.12 ([who reads them](table-properties.md#who-reads-pages-of-version-2)) and which the peers' sinks do not write by default.

**Flink** 2.1.1, flink-connector-kafka 4.0.1-2.0, iceberg-flink-runtime-2.1 1.11.0. One SQL statement, `INSERT INTO ... SELECT`;
a JobManager and a TaskManager, each a JVM with G1 and the memory that Flink's own scripts reckon from {memory},
which are those of the configuration it comes with. *Flink* has `taskmanager.memory.managed.size=0` beside them, which Flink's documentation
advises for jobs with their state on the heap and which doubles the heap of the TaskManager to 1 GiB; *default memory* has not. The client
that hands over the job is not counted. *In one JVM* spares JobManager and TaskManager the way between them and is no way to run
Flink; heap {heap} MiB, as both have by default together. {flink}. Exactly-once checkpoints to local files. Of the table: `write.distribution-mode=none`.
Its consumer: {flink_consumer}. The job has no end: with `scan.bounded.mode` we saw the sink commit half of two million rows and the
job end as finished, the other half in a file of a subtask that had ended before the other, which no snapshot has.

**Kafka Connect** 4.1.1, iceberg-kafka-connect 1.11.0, a standalone worker without transforms. JVM as Kafka's scripts start it:
{jvm}. {connect}. Its consumers: {connect_consumer}.
`offset.flush.interval.ms={flush}`, because the sink answers its coordinator only when records come or this time is over. The
broker waits 3 s for further members of a new group, which is Kafka's default: tasks that join one after the other take
partitions from each other, and the sink then stands still for the length of a session.

The last line of the first table shows how little memory Kafka Connect can do with: the same with a heap of {SMALL_HEAP_MIB} MiB.

{PARALLELISM} slots and tasks for two cores: more tasks only take turns. The consumers' settings are the ones that the projects' pages
on tuning name for throughput: answers of at least 1 MiB, polls of 10,000 records.

## Machine

{machine}. Load averages before the start: {load}. Above zero means that others took part of the cores.

## Repeat it

```sh
make bench-peers                               # fetches the peers from Maven Central, measures, writes this page
make bench-peers BENCH_ARGS=\"--dry --runs 1\" # only prints; --records N, --only Flink
```

## Not measured

Larger clusters, other formats than JSON, S3, state in Flink, and Kafka Connect's way of running distributed.
",
        records = input.records,
        warm = warm_up.records,
        mean = input.mean(),
        seconds = INTERVAL_MS / 1000,
        heap = flink::HEAP_MIB,
        memory = pairs(&mut flink::MEMORY.iter().map(own)),
        flink = pairs(&mut flink::settings().into_iter().map(|(n, v)| (n.to_owned(), v))),
        flink_consumer = pairs(&mut flink::CONSUMER.iter().map(own)),
        jvm = connect::JVM.map(|option| format!("`{option}`")).join(" "),
        flush = connect::FLUSH_MS,
        connect = pairs(&mut connect::settings().into_iter().map(|(n, v)| (n.to_owned(), v))),
        connect_consumer = pairs(&mut connect::CONSUMER.iter().map(own)),
        machine = machine(),
    )
}
