//! How old a record is when it can be read: from the moment it is handed to the producer to the
//! moment the table, loaded anew from its catalog, has it below its ledger.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::inputs::Kind;
use crate::measure::{Around, cpu_seconds};
use crate::payloads;
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader};
use crate::support::producing::Record;
use crate::support::table::{Lake, NewLake, Table, local_path};
use crate::support::{PATIENCE, poll, unique};

/// Records a second.
pub const RATE: u64 = 50_000;
/// A checkpoint every so often.
pub const INTERVAL_MS: u32 = 1000;
const PARTITIONS: u16 = 12;
/// How often the catalog is asked. What happens in between counts as later.
const LOOK: Duration = Duration::from_millis(20);
/// Not measured: the process starts, and the first records wait for it.
const BEFORE: Duration = Duration::from_secs(10);

/// A steady stream into a table of one catalog.
pub struct Freshness {
    /// Which catalog.
    pub catalog: &'static str,
    /// Age of each record when it became visible, seconds, in ascending order.
    pub ages: Vec<f64>,
    /// Commits in which they did.
    pub commits: usize,
    /// CPU seconds of icestream for a million records.
    pub cpu_per_million: f64,
    /// Share of all cores that nobody used.
    pub idle: f64,
}

/// Measures on each kind of catalog, for so long each.
pub fn measure(kafka: &Kafka, window: Duration) -> Vec<Freshness> {
    let lakes: [(&'static str, NewLake); 2] =
        [("SQLite catalog", Lake::sqlite), ("REST catalog", Lake::rest)];
    lakes.map(|(catalog, lake)| one(kafka, catalog, &lake(), window)).into()
}

/// When each record was made, in seconds since a start, by partition and offset.
type Made = Arc<Vec<Mutex<Vec<f64>>>>;

fn one(kafka: &Kafka, catalog: &'static str, lake: &Lake, window: Duration) -> Freshness {
    let topic = unique("fresh");
    kafka.create_topic(&topic, i32::from(PARTITIONS), &[]);
    let name = format!("bench.{topic}");
    let mut running = Icestream::new(kafka, &topic, lake, &name)
        .schema(&Kind::Readings.schema())
        .unset("CHECKPOINT_MIN_PAUSE_MS")
        .set("CHECKPOINT_INTERVAL_MS", INTERVAL_MS.to_string())
        .run();
    running.wait_ready(true, PATIENCE);

    let start = Instant::now();
    let made: Made = Arc::new((0..PARTITIONS).map(|_| Mutex::new(Vec::new())).collect());
    let noted = Arc::clone(&made);
    let records = (0..).zip((0..PARTITIONS).cycle()).map(move |(n, partition)| {
        let mut made = noted[usize::from(partition)].lock().expect("the other thread panicked");
        made.push(start.elapsed().as_secs_f64());
        Record::new(i32::from(partition), payloads::reading(n))
    });
    let steady = kafka.produce_steadily(&topic, RATE, records);
    let table = lake.table(&name);
    let mut watch =
        Watch { start, within: window + PATIENCE, topic: &topic, last: None, seen: Vec::new() };
    watch.until("the start to be over", &table, |_| start.elapsed() >= BEFORE);
    let (around, cpu) = (Around::start(kafka.pid()), cpu_seconds(running.pid()));
    watch.until("the window to be over", &table, |_| start.elapsed() >= BEFORE + window);
    let (cpu, (_, idle)) = (cpu_seconds(running.pid()) - cpu, around.end());
    let produced = steady.stop();
    watch.until("all records in the table", &table, |ledger| {
        ledger.values().sum::<i64>() == produced.count()
    });
    running.stop(PATIENCE).success();
    let verdict = oracle::judge(&table, &[&produced], Reader::DuckDb);
    assert!(verdict.is_exact(), "{verdict:?}");

    let span = BEFORE.as_secs_f64()..(BEFORE + window).as_secs_f64();
    let commits = watch.seen.iter().filter(|(at, _)| span.contains(at)).count();
    let ages = ages(&made, &watch.seen, &span);
    let cpu_per_million = cpu / ages.len() as f64 * 1e6;
    println!(
        "{catalog}: {} records, {commits} commits, {cpu_per_million:.2} CPU s a million",
        ages.len()
    );
    std::fs::remove_dir_all(local_path(lake.warehouse())).expect("cannot remove a table");
    Freshness { catalog, ages, commits, cpu_per_million, idle }
}

/// The ledger of the table as the catalog shows it, time after time.
struct Watch<'a> {
    start: Instant,
    /// How long it may look for one thing.
    within: Duration,
    topic: &'a str,
    last: Option<String>,
    /// Each ledger that was new, and when it was there, seconds since the start.
    seen: Vec<(f64, BTreeMap<usize, i64>)>,
}

impl Watch<'_> {
    /// Looks until `over` says so of the newest ledger.
    fn until(
        &mut self,
        what: &str,
        table: &Table<'_>,
        mut over: impl FnMut(&BTreeMap<usize, i64>) -> bool,
    ) {
        let none = BTreeMap::new();
        poll(LOOK, what, self.within, || {
            if over(self.seen.last().map_or(&none, |(_, ledger)| ledger)) {
                return Some(());
            }
            let location = table.metadata_location();
            if location.is_some() && location != self.last {
                if let Some(ledger) = location.as_deref().and_then(|at| self.ledger(at)) {
                    self.seen.push((self.start.elapsed().as_secs_f64(), ledger));
                }
                self.last = location;
            }
            None
        });
    }

    /// The next offset of each partition.
    fn ledger(&self, location: &str) -> Option<BTreeMap<usize, i64>> {
        let metadata = std::fs::read_to_string(local_path(location)).expect("metadata of a table");
        let metadata: Value = serde_json::from_str(&metadata).expect("metadata of a table");
        let properties = metadata["properties"].as_object()?;
        let (_, text) =
            properties.iter().find(|(name, _)| name.starts_with("icestream.ledger."))?;
        let ledger: Value = serde_json::from_str(text.as_str()?).expect("a ledger");
        let next = ledger["topics"][self.topic]["next"].as_object()?;
        Some(next.iter().filter_map(|(p, o)| Some((p.parse().ok()?, o.as_i64()?))).collect())
    }
}

/// Ages of the records made within a span, in ascending order.
fn ages(
    made: &Made,
    seen: &[(f64, BTreeMap<usize, i64>)],
    span: &std::ops::Range<f64>,
) -> Vec<f64> {
    let mut ages = Vec::new();
    for (partition, made) in made.iter().enumerate() {
        let made = made.lock().expect("the other thread panicked");
        let mut offset = 0;
        for (at, ledger) in seen {
            let next = ledger.get(&partition).copied().unwrap_or(0);
            let next = usize::try_from(next).expect("an offset");
            while offset < next {
                if span.contains(&made[offset]) {
                    ages.push(at - made[offset]);
                }
                offset += 1;
            }
        }
    }
    ages.sort_by(f64::total_cmp);
    ages
}
