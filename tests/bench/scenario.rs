//! What is compared with what. Within a scenario every contestant runs once before any runs again,
//! and only figures of one such round are set against each other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use crate::by_hand;
use crate::inputs::{Kind, Preloaded, Topics};
use crate::measure::{Figures, Meter};
use crate::support::icestream::{Icestream, RUN};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader};
use crate::support::table::{Lake, local_path};
use crate::support::{new_dir, unique};

/// Partitions of a topic where their number is not what is measured.
const PARTITIONS: i32 = 12;
/// Longer than any run: the one checkpoint is that of the end.
const NEVER: &[(&str, &str)] = &[
    ("CHECKPOINT_INTERVAL_MS", "86400000"),
    ("CHECKPOINT_MAX_BYTES", "1125899906842624"),
    ("CHECKPOINT_MAX_RECORDS", "1125899906842624"),
];
const EACH_SECOND: &[(&str, &str)] = &[("CHECKPOINT_INTERVAL_MS", "1000")];
/// Records come by the loop's way.
const BY_LIBRDKAFKA: &[(&str, &str)] = &[("KAFKA_FETCHER", "librdkafka")];
/// The encodings that the loop has.
const PAGES_2: &[(&str, &str)] = &[("ICEBERG_TABLE_PROPERTIES", "write.parquet.page-version=2")];
const ONE_SHARD: &[(&str, &str)] = &[("PARALLELISM", "1")];
const EACH_10_SECONDS: &[(&str, &str)] = &[("CHECKPOINT_INTERVAL_MS", "10000")];

/// Settings of icestream by name.
type Settings = Vec<(&'static str, &'static str)>;

/// Who carries the records.
pub enum Who {
    /// icestream, with these settings besides its defaults.
    Icestream(Settings),
    /// Another binary of icestream.
    Other(PathBuf, Settings),
    /// Consume, decode, write Parquet; no table, no offsets kept, one thread.
    ByHand,
    /// Decode payloads in memory and write Parquet by so many threads that share nothing.
    InMemory(u64),
}

/// A contestant and all its runs, a run a round.
pub struct Entry {
    /// Name for people.
    pub label: String,
    /// What it carries.
    pub input: Rc<Preloaded>,
    who: Who,
    /// The runs, by round.
    pub runs: Vec<Figures>,
}

/// What of two contestants is set against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Records for each second of CPU.
    PerCpu,
    /// Records for each second of wall time.
    Rate,
    /// Peak memory.
    Memory,
}

/// One contestant's figure divided by another's of the same round.
pub struct Ratio {
    /// Index of the one.
    pub of: usize,
    /// Index of the other.
    pub to: usize,
    /// Which figure.
    pub measure: Measure,
}

impl Ratio {
    /// Its value in each round.
    pub fn values(&self, entries: &[Entry]) -> Vec<f64> {
        let figure = |figures: &Figures| match self.measure {
            Measure::PerCpu => 1.0 / figures.cpu_per_million(),
            Measure::Rate => figures.rate(),
            Measure::Memory => figures.memory as f64,
        };
        let pairs = entries[self.of].runs.iter().zip(&entries[self.to].runs);
        pairs.map(|(of, to)| figure(of) / figure(to)).collect()
    }
}

/// Contestants that are compared.
pub struct Scenario {
    /// Heading.
    pub title: &'static str,
    /// What is done and what is to be seen.
    pub text: &'static str,
    /// Who takes part.
    pub entries: Vec<Entry>,
    /// What is set against what.
    pub ratios: Vec<Ratio>,
}

impl Scenario {
    fn new(title: &'static str, text: &'static str) -> Self {
        Self { title, text, entries: Vec::new(), ratios: Vec::new() }
    }

    fn entry(mut self, label: &str, input: &Rc<Preloaded>, who: Who) -> Self {
        let (label, input) = (label.to_owned(), Rc::clone(input));
        self.entries.push(Entry { label, input, who, runs: Vec::new() });
        self
    }

    fn icestream(self, label: &str, input: &Rc<Preloaded>, settings: &[Pair]) -> Self {
        self.entry(&format!("icestream, {label}"), input, Who::Icestream(settings.to_vec()))
    }

    fn by_hand(self, input: &Rc<Preloaded>) -> Self {
        self.entry("loop by hand", input, Who::ByHand)
    }

    fn in_memory(self, label: &str, input: &Rc<Preloaded>, threads: u64) -> Self {
        self.entry(&format!("no Kafka, {label}"), input, Who::InMemory(threads))
    }

    fn ratio(mut self, of: usize, to: usize, measure: Measure) -> Self {
        self.ratios.push(Ratio { of, to, measure });
        self
    }

    /// The first contestant only, beside another binary that does the same.
    pub fn against(mut self, binary: &Path) -> Self {
        self.entries.truncate(1);
        let Some(Entry { input, who: Who::Icestream(settings), .. }) = self.entries.first() else {
            panic!("no icestream in {}", self.title);
        };
        let (input, who) = (Rc::clone(input), Who::Other(binary.to_owned(), settings.clone()));
        self.ratios.clear();
        self.entry("the other binary", &input, who)
            .ratio(0, 1, Measure::PerCpu)
            .ratio(0, 1, Measure::Memory)
            .ratio(0, 1, Measure::Rate)
    }

    /// Carries each topic once, uncounted: a broker that never sent it, and whose code the JVM has
    /// still to compile, takes several times the CPU.
    pub fn warm_up(&self, kafka: &Kafka) {
        for Entry { input, .. } in &self.entries {
            if !input.sent.replace(true) {
                let settings = [EACH_10_SECONDS, &[("BAD_RECORDS", "skip")]].concat();
                icestream(kafka, &Lake::sqlite(), input, &settings, None);
            }
        }
    }

    /// Runs everybody once, in an order that differs from round to round, so that none always
    /// meets what another left behind.
    pub fn round(&mut self, kafka: &Kafka, number: usize) {
        let count = self.entries.len();
        for turn in 0..count {
            let entry = &mut self.entries[(turn + number) % count];
            let figures = match &entry.who {
                Who::Icestream(settings) => {
                    icestream(kafka, &Lake::sqlite(), &entry.input, settings, None)
                }
                Who::Other(binary, settings) => {
                    icestream(kafka, &Lake::sqlite(), &entry.input, settings, Some(binary))
                }
                Who::ByHand => loop_by_hand(kafka, &entry.input),
                Who::InMemory(threads) => in_memory(&entry.input, *threads),
            };
            println!("  {}: {figures}", entry.label);
            entry.runs.push(figures);
        }
    }
}

type Pair = (&'static str, &'static str);

/// A scenario that can be made, by its name.
pub type Make = fn(&mut Topics<'_>) -> Scenario;

/// All of them.
pub const EACH: &[(&str, Make)] = &[
    ("readings", readings),
    ("one-partition", one_partition),
    ("uncompressed", uncompressed),
    ("shuffled", shuffled),
    ("bad-records", bad_records),
    ("wide", wide),
    ("nested", nested),
    ("flights", flights),
    ("partitions", partitions),
    ("table-partitions", table_partitions),
    ("shards", shards),
];

/// Those in which two binaries are compared; see [`Scenario::against`].
pub const OF_TWO_BINARIES: &[(&str, Make)] = &[
    ("readings", readings),
    ("wide", wide),
    ("many-readings", |topics| thousand("300-byte JSON, 1,000 partitions", topics, Kind::Readings)),
    ("many-wide", |topics| thousand("100 fields, 1,000 partitions", topics, Kind::Wide)),
];

fn thousand(title: &'static str, topics: &mut Topics<'_>, kind: Kind) -> Scenario {
    let input = topics.get(kind, 1000);
    Scenario::new(title, "").icestream("checkpoint 10 s", &input, EACH_10_SECONDS)
}

fn readings(topics: &mut Topics<'_>) -> Scenario {
    let input = topics.get(Kind::Readings, PARTITIONS);
    let small = [EACH_10_SECONDS, &[("MEMORY_LIMIT_MB", "256")]].concat();
    Scenario::new(
        "300-byte JSON, 12 partitions",
        "Flat readings of sensors: an id, texts of few and of many values, numbers, an instant, a struct of three fields.\n\
         *One checkpoint* has intervals longer than the run, so that what makes it exactly-once happens once, at the end; \
         set against\n*checkpoint 1 s* it shows what checkpoints cost. The last line of icestream has a quarter of the \
         memory that it is given by default.",
    )
    .icestream("checkpoint 10 s", &input, EACH_10_SECONDS)
    .icestream("checkpoint 1 s", &input, EACH_SECOND)
    .icestream("one checkpoint", &input, NEVER)
    .icestream("MEMORY_LIMIT_MB=256", &input, &small)
    .by_hand(&input)
    .ratio(0, 4, Measure::PerCpu)
    .ratio(0, 2, Measure::PerCpu)
    .ratio(1, 2, Measure::PerCpu)
    .ratio(1, 2, Measure::Rate)
    .ratio(3, 0, Measure::PerCpu)
    .ratio(3, 0, Measure::Rate)
}

fn one_partition(topics: &mut Topics<'_>) -> Scenario {
    let input = topics.get(Kind::Readings, 1);
    Scenario::new(
        "300-byte JSON, 1 partition",
        "The same from one partition: one shard has all the work, as the loop has. The loop's files have DELTA encodings, which\n\
         icestream writes only where the table asks for them (`write.parquet.page-version=2`): with these the files are alike. With\n\
         `KAFKA_FETCHER=librdkafka` records come by the same library as the loop's.",
    )
    .icestream("checkpoint 10 s", &input, EACH_10_SECONDS)
    .icestream("pages of version 2", &input, &[EACH_10_SECONDS, PAGES_2].concat())
    .icestream("KAFKA_FETCHER=librdkafka", &input, &[EACH_10_SECONDS, BY_LIBRDKAFKA].concat())
    .by_hand(&input)
    .ratio(0, 3, Measure::PerCpu)
    .ratio(1, 3, Measure::PerCpu)
    .ratio(1, 3, Measure::Rate)
    .ratio(2, 3, Measure::PerCpu)
    .ratio(0, 2, Measure::PerCpu)
}

fn uncompressed(topics: &mut Topics<'_>) -> Scenario {
    let readings = topics.plain(Kind::Readings, PARTITIONS);
    let wide = topics.plain(Kind::Wide, PARTITIONS);
    Scenario::new(
        "Topics that are not compressed",
        "The readings and the records of 100 fields once more, without the producer's LZ4 that the client has to undo.",
    )
    .icestream("readings", &readings, EACH_10_SECONDS)
    .by_hand(&readings)
    .icestream("100 fields", &wide, EACH_10_SECONDS)
    .icestream("100 fields, pages of version 2", &wide, &[EACH_10_SECONDS, PAGES_2].concat())
    .by_hand(&wide)
    .ratio(0, 1, Measure::PerCpu)
    .ratio(2, 4, Measure::PerCpu)
    .ratio(3, 4, Measure::PerCpu)
}

fn shuffled(topics: &mut Topics<'_>) -> Scenario {
    let plain = topics.get(Kind::Readings, PARTITIONS);
    let input = topics.get(Kind::Shuffled, PARTITIONS);
    Scenario::new(
        "Random key order and 10 % nulls",
        "The same readings, the keys of each in an order of its own, a tenth of the values null.",
    )
    .icestream("keys in order", &plain, EACH_10_SECONDS)
    .icestream("random order, nulls", &input, EACH_10_SECONDS)
    .by_hand(&input)
    .ratio(1, 2, Measure::PerCpu)
    .ratio(1, 0, Measure::PerCpu)
}

fn bad_records(topics: &mut Topics<'_>) -> Scenario {
    let plain = topics.get(Kind::Readings, PARTITIONS);
    let input = topics.get(Kind::Bad, PARTITIONS);
    let skip = [EACH_10_SECONDS, &[("BAD_RECORDS", "skip")]].concat();
    Scenario::new(
        "0.1 % bad records",
        "The same readings, each thousandth cut in half; `BAD_RECORDS=skip`.",
    )
    .icestream("good records", &plain, EACH_10_SECONDS)
    .icestream("0.1 % bad", &input, &skip)
    .by_hand(&input)
    .ratio(1, 0, Measure::PerCpu)
    .ratio(1, 0, Measure::Rate)
    .ratio(1, 2, Measure::PerCpu)
}

fn wide(topics: &mut Topics<'_>) -> Scenario {
    let input = topics.get(Kind::Wide, PARTITIONS);
    Scenario::new(
        "100 fields, 2.2 KB",
        "40 texts of four sorts, 25 doubles, 20 longs, 5 instants, 10 flags. *1 shard* does its work on one core, as the loop; two\n\
         that share caches and memory with each other and with the broker take more of each.",
    )
    .icestream("checkpoint 10 s", &input, EACH_10_SECONDS)
    .icestream("checkpoint 1 s", &input, EACH_SECOND)
    .icestream("1 shard", &input, &[EACH_10_SECONDS, ONE_SHARD].concat())
    .icestream("1 shard, pages of version 2", &input, &[EACH_10_SECONDS, ONE_SHARD, PAGES_2].concat())
    .by_hand(&input)
    .ratio(0, 4, Measure::PerCpu)
    .ratio(2, 4, Measure::PerCpu)
    .ratio(3, 4, Measure::PerCpu)
}

fn nested(topics: &mut Topics<'_>) -> Scenario {
    let input = topics.get(Kind::Nested, PARTITIONS);
    Scenario::new(
        "Nested JSON",
        "Structs in structs, a list of texts, a list of structs, two maps.",
    )
    .icestream("checkpoint 10 s", &input, EACH_10_SECONDS)
    .by_hand(&input)
    .ratio(0, 1, Measure::PerCpu)
}

fn flights(topics: &mut Topics<'_>) -> Scenario {
    let input = topics.get(Kind::Flights, PARTITIONS);
    let by_month = [EACH_10_SECONDS, &[("ICEBERG_PARTITION_SPEC", "month(time_hour)")]].concat();
    Scenario::new(
        "Flights",
        "Real data: the 336,776 flights that left New York in 2013, 19 columns, three times over. *By month* writes 13 table\n\
         partitions; the loop and the other one write none.",
    )
    .icestream("not partitioned", &input, EACH_10_SECONDS)
    .icestream("by month", &input, &by_month)
    .by_hand(&input)
    .ratio(0, 2, Measure::PerCpu)
}

fn partitions(topics: &mut Topics<'_>) -> Scenario {
    let few = topics.times(3, Kind::Readings, PARTITIONS);
    let many = topics.times(3, Kind::Readings, 1000);
    Scenario::new(
        "1,000 partitions against 12",
        "As many readings, spread over more partitions. Three times as many as above, so that start and end, which are counted\n\
         here, too, take a small share of both.",
    )
        .icestream("12 partitions", &few, EACH_10_SECONDS)
        .icestream("1,000 partitions", &many, EACH_10_SECONDS)
        .by_hand(&many)
        .ratio(1, 0, Measure::PerCpu)
        .ratio(1, 0, Measure::Rate)
}

fn table_partitions(topics: &mut Topics<'_>) -> Scenario {
    let input = topics.get(Kind::Readings, PARTITIONS);
    let twenty = [EACH_10_SECONDS, &[("ICEBERG_PARTITION_SPEC", "bucket[20](user)")]].concat();
    let small = [&twenty[..], &[("MEMORY_LIMIT_MB", "256")]].concat();
    let hundreds = [EACH_10_SECONDS, &[("ICEBERG_PARTITION_SPEC", "bucket[200](user)")]].concat();
    Scenario::new(
        "Table partitions written at once",
        "Every batch has rows of all 20, or 200, buckets of `user`.",
    )
    .icestream("not partitioned", &input, EACH_10_SECONDS)
    .icestream("20 table partitions", &input, &twenty)
    .icestream("20 table partitions, MEMORY_LIMIT_MB=256", &input, &small)
    .icestream("200 table partitions", &input, &hundreds)
    .ratio(1, 0, Measure::PerCpu)
    .ratio(1, 0, Measure::Rate)
    .ratio(3, 0, Measure::PerCpu)
}

fn shards(topics: &mut Topics<'_>) -> Scenario {
    let readings = topics.times(3, Kind::Readings, PARTITIONS);
    let nested = topics.times(3, Kind::Nested, PARTITIONS);
    let one = [EACH_10_SECONDS, ONE_SHARD].concat();
    let two = [EACH_10_SECONDS, &[("PARALLELISM", "2")]].concat();
    Scenario::new(
        "Two shards against one",
        "So that the broker is not the limit, its topics were written just before and lie in the page cache, packed by lz4 as the\n\
         producer left them, which the broker hands on without unpacking; its CPU is counted beside, and the share of the cores\n\
         that nobody used. Of nested records the broker has the least to do, set against the work that they are. *No Kafka*\n\
         is the loop's work on payloads in memory, by one thread and by two that share nothing: what a second thread can add\n\
         on this machine, whoever it works for. Three times as many records as above: start and end are the same for both.",
    )
    .icestream("1 shard, readings", &readings, &one)
    .icestream("2 shards, readings", &readings, &two)
    .icestream("1 shard, nested", &nested, &one)
    .icestream("2 shards, nested", &nested, &two)
    .in_memory("1 thread, readings", &readings, 1)
    .in_memory("2 threads, readings", &readings, 2)
    .in_memory("1 thread, nested", &nested, 1)
    .in_memory("2 threads, nested", &nested, 2)
    .ratio(1, 0, Measure::Rate)
    .ratio(5, 4, Measure::Rate)
    .ratio(3, 2, Measure::Rate)
    .ratio(7, 6, Measure::Rate)
}

/// One run of icestream into a new table, each record of which is then accounted for.
pub fn icestream(
    kafka: &Kafka,
    lake: &Lake,
    input: &Preloaded,
    settings: &[Pair],
    binary: Option<&PathBuf>,
) -> Figures {
    let name = format!("bench.{}", unique("table"));
    let mut icestream = Icestream::new(kafka, &input.produced.topic, lake, &name)
        .schema(&input.kind.schema())
        .unset("CHECKPOINT_MIN_PAUSE_MS");
    if let Some(binary) = binary {
        icestream = icestream.binary(binary);
    }
    for (name, value) in settings {
        icestream = icestream.set(name, *value);
    }
    let meter = Meter::start(kafka.pid());
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
    let files = (sum("added-data-files"), sum("added-files-size"));
    std::fs::remove_dir_all(local_path(lake.warehouse())).expect("cannot remove a table");
    Figures {
        records: input.records,
        commits: Some(snapshots.len()),
        files: files.0,
        file_bytes: files.1,
        ..figures
    }
}

/// One run of the loop, whose rows are then counted by the footers of its files.
fn loop_by_hand(kafka: &Kafka, input: &Preloaded) -> Figures {
    let dir = new_dir("by_hand");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--by-hand", &kafka.brokers(), &input.produced.topic, input.kind.name()]);
    command.arg(&dir);
    let meter = Meter::start(kafka.pid());
    let mut child = command.spawn().expect("this program again");
    let figures = meter.follow(child.id(), || child.try_wait().expect("a child").is_some());
    assert!(child.wait().expect("a child").success(), "the loop by hand failed");
    let (files, file_bytes, rows) = by_hand::count(&dir);
    assert_eq!(i64::try_from(rows), Ok(input.produced.count()), "rows of the loop by hand");
    std::fs::remove_dir_all(dir).expect("cannot remove the files of the loop");
    Figures { records: input.records, files, file_bytes, ..figures }
}

/// One run of the loop's work without Kafka.
fn in_memory(input: &Preloaded, threads: u64) -> Figures {
    let dir = new_dir("in_memory");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--in-memory", input.kind.name(), &input.records.to_string()]);
    command.arg(threads.to_string()).arg(&dir);
    let output = command.output().expect("this program again");
    assert!(output.status.success(), "the work without Kafka failed: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<f64> =
        text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [wall, user] = words[..] else { panic!("two numbers: {text}") };
    std::fs::remove_dir_all(dir).expect("cannot remove the files of the work without Kafka");
    Figures { records: input.records, wall, user, ..Figures::default() }
}
