//! Writing to Kafka, and the exact account of what was written: the set that a table is judged by.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::DateTime;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use serde_json::{Value, json};

use super::kafka::Kafka;
use super::{PATIENCE, new_dir};

/// A record to produce.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Partition of the topic.
    pub partition: i32,
    /// Key, if any.
    pub key: Option<Vec<u8>>,
    /// Payload; none is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Milliseconds since 1970; none is the time when it is sent.
    pub timestamp: Option<i64>,
    /// A header's name, if it is to have one.
    pub header: Option<&'static str>,
}

impl Record {
    /// A record without a key.
    pub fn new(partition: i32, payload: impl Into<Vec<u8>>) -> Self {
        Self { partition, payload: Some(payload.into()), ..Self::default() }
    }

    /// A record with a key and no payload.
    pub fn tombstone(partition: i32, key: impl Into<Vec<u8>>) -> Self {
        Self { partition, key: Some(key.into()), ..Self::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn key(self, key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same with a time of its own.
    #[must_use]
    pub fn at(self, timestamp: i64) -> Self {
        Self { timestamp: Some(timestamp), ..self }
    }

    /// The same with a header of this name.
    #[must_use]
    pub fn header(self, name: &'static str) -> Self {
        Self { header: Some(name), ..self }
    }
}

/// What is in a topic and belongs in the table, by acknowledgement: offsets by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Produced {
    /// Topic.
    pub topic: String,
    /// Disjoint ascending ranges of offsets, by partition.
    pub offsets: BTreeMap<i32, Vec<Range<i64>>>,
    /// JSON lines of (partition, offset, payload), where the payloads were kept.
    pub payloads: Option<PathBuf>,
}

impl Produced {
    /// `[0, end)` of every partition: for topics that somebody else filled, without holes.
    pub fn up_to(topic: &str, ends: &BTreeMap<i32, i64>) -> Self {
        let offsets = ends.iter().map(|(partition, end)| (*partition, vec![0..*end])).collect();
        Self { topic: topic.into(), offsets, payloads: None }
    }

    /// These records, by partition and offset.
    pub fn of(topic: &str, records: impl IntoIterator<Item = (i32, i64)>) -> Self {
        let mut produced = Self { topic: topic.into(), ..Self::default() };
        for (partition, offset) in records {
            produced.add(partition, offset..offset + 1);
        }
        produced
    }

    /// Number of records.
    pub fn count(&self) -> i64 {
        self.offsets.values().flatten().map(|range| range.end - range.start).sum()
    }

    /// Both together. They must be disjoint; payloads are kept only if both have the same file.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (partition, ranges) in &other.offsets {
            for range in ranges {
                self.add(*partition, range.clone());
            }
        }
        if self.payloads != other.payloads {
            self.payloads = None;
        }
        self
    }

    /// Without one record, because it is to be skipped or deleted.
    ///
    /// # Panics
    /// If it is not in the set.
    #[must_use]
    pub fn without(mut self, partition: i32, offset: i64) -> Self {
        let ranges = self.offsets.get_mut(&partition).expect("a partition of this topic");
        let at =
            ranges.iter().position(|range| range.contains(&offset)).expect("a produced offset");
        let range = ranges.remove(at);
        let parts = [range.start..offset, offset + 1..range.end];
        ranges.splice(at..at, parts.into_iter().filter(|part| !part.is_empty()));
        self
    }

    fn add(&mut self, partition: i32, added: Range<i64>) {
        let ranges = self.offsets.entry(partition).or_default();
        match ranges.last_mut() {
            Some(last) if last.end == added.start => last.end = added.end,
            _ => {
                ranges.push(added);
                ranges.sort_by_key(|range| range.start);
            }
        }
    }
}

/// Whether a transaction's records count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// They do.
    Commit,
    /// They are in the log and read_committed readers never see them.
    Abort,
}

impl Kafka {
    /// Produces with an idempotent producer and waits until all is acknowledged.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) -> Produced {
        self.produce_with(topic, &[], records)
    }

    /// [`Kafka::produce`] with settings of the producer on top of the ones made for tests.
    pub fn produce_with(
        &self,
        topic: &str,
        settings: &[(&str, &str)],
        records: impl IntoIterator<Item = Record>,
    ) -> Produced {
        run(topic, records, self.producer(settings, Receipts::new(topic, None)))
    }

    /// [`Kafka::produce`], and keeps the payloads, which must be JSON, for
    /// [`super::oracle::assert_payloads`].
    pub fn produce_kept(&self, topic: &str, records: impl IntoIterator<Item = Record>) -> Produced {
        let path = new_dir("produced").join("payloads.jsonl");
        run(topic, records, self.producer(&[], Receipts::new(topic, Some(path))))
    }

    /// Produces in one transaction, which leaves a marker (an offset without a record) in every
    /// partition it wrote to. Aborted records are not in the result.
    pub fn produce_in_transaction(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
        end: End,
    ) -> Produced {
        let transaction = self.begin_transaction(topic);
        transaction.send(records);
        transaction.end(end)
    }

    /// Begins a transaction of a producer of its own, so that several may be open at once.
    pub fn begin_transaction(&self, topic: &str) -> Transaction {
        let producer: BaseProducer<Receipts> = self
            .client_config()
            .set("transactional.id", format!("it-{}", uuid::Uuid::new_v4()))
            .create_with_context(Receipts::new(topic, None))
            .expect("a transactional producer");
        producer.init_transactions(PATIENCE).expect("a transactional producer's start");
        producer.begin_transaction().expect("a transaction's start");
        Transaction { topic: topic.into(), producer }
    }

    /// All that is in a topic, whoever wrote it, as librdkafka's consumer reads it. The kept
    /// payloads, which must be JSON objects, have the records' times in `_kafka_timestamp`.
    pub fn kept(&self, topic: &str) -> Produced {
        let path = new_dir("produced").join("payloads.jsonl");
        let mut file = BufWriter::new(File::create(&path).expect("cannot keep payloads"));
        let mut produced =
            Produced { topic: topic.into(), payloads: Some(path), ..Produced::default() };
        self.read_each(topic, |message| {
            let (partition, offset) = (message.partition(), message.offset());
            let Some(payload) = message.payload() else { return };
            let mut payload: Value = serde_json::from_slice(payload).expect("a payload of JSON");
            let time = message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis);
            payload["_kafka_timestamp"] = time.map(|time| time.to_rfc3339()).into();
            let line = json!({ "partition": partition, "offset": offset, "payload": payload });
            writeln!(file, "{line}").expect("cannot keep a payload");
            produced.add(partition, offset..offset + 1);
        });
        file.flush().expect("cannot keep payloads");
        produced
    }

    fn producer(&self, settings: &[(&str, &str)], receipts: Receipts) -> BaseProducer<Receipts> {
        let mut config = self.client_config();
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "500000")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "200000000");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create_with_context(receipts).expect("a producer")
    }

    /// Produces record after record, so many a second, until [`Steady::stop`]; also while the
    /// broker is away, as far as the client's queue reaches.
    pub fn produce_steadily(
        &self,
        topic: &str,
        per_second: u64,
        records: impl Iterator<Item = Record> + Send + 'static,
    ) -> Steady {
        let producer = self.producer(&[], Receipts::new(topic, None));
        let over = Arc::new(AtomicBool::new(false));
        let (topic, until) = (topic.to_owned(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let (start, mut records, mut sent) = (Instant::now(), records, 0);
            while !until.load(Ordering::Relaxed) {
                let elapsed = u64::try_from(start.elapsed().as_millis()).expect("a short time");
                let due = elapsed * per_second / 1000;
                let now = usize::try_from(due.saturating_sub(sent)).expect("a count of records");
                send_all(&producer, &topic, records.by_ref().take(now));
                sent = due;
                producer.poll(Duration::from_millis(10));
            }
            producer.flush(PATIENCE).expect("an acknowledgement of all records");
            producer.context().finish()
        });
        Steady { over, thread }
    }
}

/// A producer at work.
pub struct Steady {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Produced>,
}

impl Steady {
    /// Ends it when all is acknowledged, and gives what was. The broker must be there.
    pub fn stop(self) -> Produced {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producer panicked")
    }
}

/// A transaction that is open.
pub struct Transaction {
    topic: String,
    producer: BaseProducer<Receipts>,
}

impl Transaction {
    /// Sends records and waits until they are in the log, where readers may not see them yet.
    pub fn send(&self, records: impl IntoIterator<Item = Record>) {
        send_all(&self.producer, &self.topic, records);
        self.producer.flush(PATIENCE).expect("an acknowledgement of all records");
    }

    /// Ends it. Aborted records are not in the result.
    pub fn end(self, end: End) -> Produced {
        match end {
            End::Commit => self.producer.commit_transaction(PATIENCE).expect("a commit"),
            End::Abort => self.producer.abort_transaction(PATIENCE).expect("an abort"),
        }
        match end {
            End::Commit => self.producer.context().finish(),
            End::Abort => Produced { topic: self.topic, ..Produced::default() },
        }
    }
}

fn run(
    topic: &str,
    records: impl IntoIterator<Item = Record>,
    producer: BaseProducer<Receipts>,
) -> Produced {
    send_all(&producer, topic, records);
    producer.flush(PATIENCE).expect("an acknowledgement of all records");
    producer.context().finish()
}

fn send_all(
    producer: &BaseProducer<Receipts>,
    topic: &str,
    records: impl IntoIterator<Item = Record>,
) {
    for (number, record) in records.into_iter().enumerate() {
        let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
        message.key = record.key.as_deref();
        message.payload = record.payload.as_deref();
        message.timestamp = record.timestamp;
        message.headers = record
            .header
            .map(|key| OwnedHeaders::new().insert(Header { key, value: Some("a header's value") }));
        while let Err((error, back)) = producer.send(message) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            assert_eq!(error, full, "cannot produce to {topic}");
            producer.poll(Duration::from_millis(50));
            message = back;
        }
        if number % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
}

/// Collects acknowledgements.
struct Receipts {
    state: Mutex<State>,
}

struct State {
    produced: Produced,
    file: Option<BufWriter<File>>,
    error: Option<String>,
}

impl Receipts {
    fn new(topic: &str, payloads: Option<PathBuf>) -> Self {
        let file = payloads
            .as_ref()
            .map(|path| BufWriter::new(File::create(path).expect("cannot keep payloads")));
        let produced = Produced { topic: topic.into(), payloads, ..Produced::default() };
        Self { state: Mutex::new(State { produced, file, error: None }) }
    }

    fn finish(&self) -> Produced {
        let mut state = self.state.lock().expect("an acknowledgement panicked");
        if let Some(error) = &state.error {
            panic!("Kafka refused a record: {error}");
        }
        if let Some(mut file) = state.file.take() {
            file.flush().expect("cannot keep payloads");
        }
        state.produced.clone()
    }
}

impl ClientContext for Receipts {}

impl ProducerContext for Receipts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut state = self.state.lock().expect("an acknowledgement panicked");
        match result {
            Ok(message) => {
                let (partition, offset) = (message.partition(), message.offset());
                state.produced.add(partition, offset..offset + 1);
                if let Some(file) = &mut state.file {
                    let payload = message.payload().unwrap_or(b"null");
                    write!(file, "{{\"partition\":{partition},\"offset\":{offset},\"payload\":")
                        .and_then(|()| file.write_all(payload))
                        .and_then(|()| file.write_all(b"}\n"))
                        .expect("cannot keep a payload");
                }
            }
            Err((error, _)) => state.error = Some(error.to_string()),
        }
    }
}
