//! What is in the topics.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

use crate::payloads;
use crate::support::flights::Flights;
use crate::support::kafka::Kafka;
use crate::support::producing::{Produced, Record};
use crate::support::unique;

/// How often the flights are repeated, so that a run takes long enough to be measured.
const FLIGHTS_TIMES: u64 = 3;
/// Of the input with bad records, each so-manieth is cut short.
const BAD_EACH: u64 = 1000;

/// A kind of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Readings of sensors, flat JSON of about 300 bytes.
    Readings,
    /// Readings, their keys in another order in each record, a tenth of the values null.
    Shuffled,
    /// Readings, one in a thousand of which is cut short.
    Bad,
    /// 100 fields of mixed types, about 2.2 KB.
    Wide,
    /// Structs in structs, lists of structs, maps.
    Nested,
    /// The flights that left New York in 2013.
    Flights,
}

impl Kind {
    /// Its name on the command line of a child process.
    pub fn name(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Shuffled => "shuffled",
            Self::Bad => "bad",
            Self::Wide => "wide",
            Self::Nested => "nested",
            Self::Flights => "flights",
        }
    }

    /// How many records there are where there are so many readings: about as many bytes.
    pub fn count(self, readings: u64) -> u64 {
        match self {
            Self::Readings | Self::Shuffled | Self::Bad => readings,
            Self::Wide => readings / 8,
            Self::Nested => readings / 2,
            Self::Flights => Flights::COUNT as u64 * FLIGHTS_TIMES,
        }
    }

    /// The Iceberg schema of the table.
    pub fn schema(self) -> Value {
        match self {
            Self::Readings | Self::Shuffled | Self::Bad => payloads::readings_schema(),
            Self::Wide => payloads::wide_schema(),
            Self::Nested => payloads::nested_schema(),
            Self::Flights => Flights::schema(),
        }
    }

    /// Is record number `n` one that cannot be a row?
    fn is_bad(self, n: u64) -> bool {
        self == Self::Bad && n % BAD_EACH == BAD_EACH / 2
    }

    /// So many of its payloads.
    pub fn payloads(self, count: u64) -> Box<dyn Iterator<Item = Vec<u8>>> {
        match self {
            Self::Readings => Box::new((0..count).map(|n| payloads::reading(n).into_bytes())),
            Self::Shuffled => Box::new((0..count).map(|n| payloads::shuffled(n).into_bytes())),
            Self::Bad => Box::new((0..count).map(move |n| {
                let mut text = payloads::reading(n).into_bytes();
                if self.is_bad(n) {
                    text.truncate(text.len() / 2);
                }
                text
            })),
            Self::Wide => Box::new((0..count).map(|n| payloads::wide(n).into_bytes())),
            Self::Nested => Box::new((0..count).map(|n| payloads::nested(n).into_bytes())),
            Self::Flights => Box::new(
                (0..FLIGHTS_TIMES)
                    .flat_map(|_| Flights::get().lines())
                    .map(|l| l.as_bytes().into()),
            ),
        }
    }
}

/// A kind of records in a topic.
pub struct Preloaded {
    /// Its kind.
    pub kind: Kind,
    /// What is in the topic and belongs in the table.
    pub produced: Produced,
    /// Records in the topic, those that belong in no table included.
    pub records: u64,
    /// Bytes of all payloads.
    pub bytes: u64,
    /// Has the broker sent them once?
    pub sent: Cell<bool>,
}

impl Preloaded {
    /// Bytes of a payload, on average.
    pub fn mean(&self) -> f64 {
        self.bytes as f64 / self.records as f64
    }
}

/// How the batches in a topic are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Packing {
    /// As the producer packed them: by LZ4.
    Lz4,
    /// Unpacked by the broker when it took them.
    Plain,
}

/// The topics, each filled when it is first asked for.
pub struct Topics<'a> {
    kafka: &'a Kafka,
    readings: u64,
    made: BTreeMap<(Kind, i32, Packing, u64), Rc<Preloaded>>,
}

impl<'a> Topics<'a> {
    /// None yet; so many readings are to be in each.
    pub fn new(kafka: &'a Kafka, readings: u64) -> Self {
        Self { kafka, readings, made: BTreeMap::new() }
    }

    /// Records of a kind in a topic of so many partitions, packed by LZ4.
    pub fn get(&mut self, kind: Kind, partitions: i32) -> Rc<Preloaded> {
        self.packed(kind, partitions, Packing::Lz4, 1)
    }

    /// So many times as many.
    pub fn times(&mut self, times: u64, kind: Kind, partitions: i32) -> Rc<Preloaded> {
        self.packed(kind, partitions, Packing::Lz4, times)
    }

    /// As many, not compressed.
    pub fn plain(&mut self, kind: Kind, partitions: i32) -> Rc<Preloaded> {
        self.packed(kind, partitions, Packing::Plain, 1)
    }

    fn packed(
        &mut self,
        kind: Kind,
        partitions: i32,
        packing: Packing,
        times: u64,
    ) -> Rc<Preloaded> {
        let made = self.made.entry((kind, partitions, packing, times));
        let fill = || Rc::new(fill(self.kafka, kind, self.readings * times, partitions, packing));
        made.or_insert_with(fill).clone()
    }
}

/// Fills a new topic, record by record to one partition after the other.
fn fill(kafka: &Kafka, kind: Kind, readings: u64, partitions: i32, packing: Packing) -> Preloaded {
    let topic = unique(kind.name());
    println!("filling {topic}, {partitions} partitions, {packing:?}");
    let unpacked: &[_] = match packing {
        Packing::Lz4 => &[],
        Packing::Plain => &[("compression.type", "uncompressed")],
    };
    kafka.create_topic(&topic, partitions, unpacked);
    let records = kind.count(readings);
    let mut bytes = 0;
    let all = kind.payloads(records).zip((0..partitions).cycle()).map(|(payload, partition)| {
        bytes += payload.len() as u64;
        Record::new(partition, payload)
    });
    let mut produced = kafka.produce(&topic, all);
    let each = u64::try_from(partitions).expect("a number of partitions");
    for n in (0..records).filter(|n| kind.is_bad(*n)) {
        let partition = i32::try_from(n % each).expect("a partition");
        produced = produced.without(partition, i64::try_from(n / each).expect("an offset"));
    }
    Preloaded { kind, produced, records, bytes, sent: Cell::new(false) }
}
