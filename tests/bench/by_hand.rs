//! What an expert would write by hand for one input: one thread that takes batches from librdkafka,
//! decodes them with icestream's decoder, and writes Parquet with encodings chosen for each column
//! of this very input. It keeps no offsets, makes no table and starts from the beginning every
//! time: what icestream needs more is the price of exactly-once, and of not knowing its input.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, Int32Builder, Int64Builder, RecordBatch, StringArray, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use clap::ValueEnum;
use iceberg::arrow::schema_to_arrow_schema;
use icestream::parts::{Decoder, Format, Pushed};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::batches::{Batches, Record};
use crate::inputs::Kind;
use crate::measure::cpu_seconds;

const PATIENCE: Duration = Duration::from_secs(30);
const BATCH_ROWS: usize = 8192;
const FILE_BYTES: usize = 128 << 20;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Carries a topic of a kind of records into Parquet files, from its beginning to its present ends.
pub fn run(brokers: &str, topic: &str, kind: &str, dir: &str) {
    let kind = Kind::from_str(kind, false).expect("a kind of records");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        // Small queues that are never waited for: large ones cost memory and give nothing.
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "20")
        .set("fetch.message.max.bytes", "8388608")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let (mut from, mut open) = (Vec::new(), BTreeMap::new());
    for partition in metadata.topics()[0].partitions() {
        let id = partition.id();
        let (start, end) = consumer.fetch_watermarks(topic, id, PATIENCE).expect("watermarks");
        from.push((id, start));
        if start < end {
            open.insert(id, end);
        }
    }
    let mut batches = Batches::new(consumer, topic, &from);
    let mut files = Files::new(kind, topic, dir);
    let mut last = Instant::now();
    while !open.is_empty() {
        let count = batches.poll(|record| {
            if open.get(&record.partition) == Some(&(record.offset + 1)) {
                open.remove(&record.partition);
            }
            files.push(&record);
        });
        if count > 0 {
            last = Instant::now();
        }
        assert!(last.elapsed() < PATIENCE, "Kafka gave neither a record nor the end");
    }
    files.flush();
    files.close();
}

/// The loop's work without Kafka, by so many threads that have nothing in common: decodes payloads
/// that lie in memory and writes them as Parquet. What the second thread adds is what this machine
/// has to give, whoever does such work. Prints wall time and CPU in seconds, the start left out.
pub fn in_memory(kind: &str, records: &str, threads: &str, dir: &str) {
    const PAYLOADS: u64 = 20_000;
    let kind = Kind::from_str(kind, false).expect("a kind of records");
    let (records, threads): (u64, u64) =
        (records.parse().expect("a number"), threads.parse().expect("a number"));
    let share = records / threads;
    let ready = Arc::new(std::sync::Barrier::new(usize::try_from(threads).unwrap_or(1) + 1));
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let (ready, dir) = (ready.clone(), format!("{dir}/{number}"));
            std::thread::spawn(move || {
                std::fs::create_dir(&dir).expect("a directory");
                let payloads: Vec<Vec<u8>> = kind.payloads(PAYLOADS).collect();
                let mut files = Files::new(kind, "in-memory", &dir);
                ready.wait();
                for (offset, payload) in (0..share).zip(payloads.iter().cycle()) {
                    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
                    files.push(&Record { partition: 0, offset, timestamp: offset, payload });
                }
                files.flush();
                files.close();
            })
        })
        .collect();
    ready.wait();
    let own = std::process::id();
    let (began, before) = (Instant::now(), cpu_seconds(own));
    for worker in workers {
        worker.join().expect("a thread of the work without Kafka");
    }
    println!("{} {}", began.elapsed().as_secs_f64(), cpu_seconds(own) - before);
}

/// Files, bytes and rows that a run left in its directory.
pub fn count(dir: &Path) -> (u64, u64, u64) {
    let (mut files, mut bytes, mut rows) = (0, 0, 0);
    for entry in std::fs::read_dir(dir).expect("the files of a run").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "parquet") {
            let file = File::open(entry.path()).expect("a file of a run");
            bytes += file.metadata().expect("a file of a run").len();
            let footer = SerializedFileReader::new(file).expect("a Parquet file");
            rows += u64::try_from(footer.metadata().file_metadata().num_rows()).unwrap_or(0);
            files += 1;
        }
    }
    (files, bytes, rows)
}

struct Files {
    dir: String,
    schema: Arc<Schema>,
    properties: WriterProperties,
    decoder: Decoder,
    /// The topic as often as a batch has rows.
    topics: StringArray,
    partitions: Int32Builder,
    offsets: Int64Builder,
    timestamps: TimestampMillisecondBuilder,
    writer: Option<ArrowWriter<File>>,
    made: usize,
}

impl Files {
    fn new(kind: Kind, topic: &str, dir: &str) -> Self {
        let schema: iceberg::spec::Schema =
            serde_json::from_value(kind.schema()).expect("a schema");
        let payload = schema_to_arrow_schema(&schema).expect("an Arrow schema");
        let decoder = Decoder::new(Format::Json, &payload).expect("a decoder");
        let time = DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()));
        let kafka = [
            ("_kafka_topic", DataType::Utf8),
            ("_kafka_partition", DataType::Int32),
            ("_kafka_offset", DataType::Int64),
            ("_kafka_timestamp", time),
        ];
        let kafka = kafka.map(|(name, kind)| Arc::new(Field::new(name, kind, true)));
        let fields = payload.fields().iter().cloned().chain(kafka).collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(fields));
        Self {
            dir: dir.into(),
            properties: properties(kind, &schema),
            schema,
            decoder,
            topics: StringArray::from_iter_values(std::iter::repeat_n(topic, BATCH_ROWS)),
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            timestamps: TimestampMillisecondBuilder::new().with_timezone("+00:00"),
            writer: None,
            made: 0,
        }
    }

    fn push(&mut self, record: &Record<'_>) {
        // A bad record leaves no trace in the columns; whether one was expected is seen when the
        // rows are counted.
        if self.decoder.push(record.payload) != Pushed::Row {
            return;
        }
        self.partitions.append_value(record.partition);
        self.offsets.append_value(record.offset);
        self.timestamps.append_value(record.timestamp);
        if self.decoder.rows() >= BATCH_ROWS {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let rows = self.decoder.rows();
        let mut columns = self.decoder.finish().expect("columns");
        columns.extend([
            Arc::new(self.topics.slice(0, rows)) as ArrayRef,
            Arc::new(self.partitions.finish()),
            Arc::new(self.offsets.finish()),
            Arc::new(self.timestamps.finish()),
        ]);
        let batch = RecordBatch::try_new(self.schema.clone(), columns).expect("a batch");
        let writer = self.writer.get_or_insert_with(|| {
            self.made += 1;
            let file = File::create(format!("{}/{:05}.parquet", self.dir, self.made));
            let file = file.expect("a file");
            let properties = self.properties.clone();
            ArrowWriter::try_new(file, self.schema.clone(), Some(properties)).expect("a writer")
        });
        writer.write(&batch).expect("rows in a file");
        if writer.memory_size() >= ROW_GROUP_BYTES {
            writer.flush().expect("a row group");
        }
        if writer.bytes_written() + writer.in_progress_size() >= FILE_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(writer) = self.writer.take() {
            let file = writer.into_inner().expect("the end of a file");
            file.sync_all().expect("a durable file");
        }
    }
}

/// How a column is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    /// By a dictionary: few values.
    Dictionary,
    /// Plain: values that seldom repeat.
    Plain,
    /// Lengths apart from the bytes: long texts.
    Lengths,
    /// Differences: numbers that grow.
    Differences,
}

/// What measures best for each column of each input.
fn choose(kind: Kind, column: &str, of: Type) -> As {
    match (kind, column, of) {
        (_, "_kafka_topic" | "_kafka_partition", _) => As::Dictionary,
        (_, "_kafka_offset" | "_kafka_timestamp", _) => As::Differences,
        (Kind::Readings | Kind::Shuffled | Kind::Bad, _, _) => match column {
            "id" | "note" => As::Lengths,
            "user" | "value" => As::Plain,
            "ts" | "seq" => As::Differences,
            _ => As::Dictionary,
        },
        (Kind::Wide, _, Type::BYTE_ARRAY) if !column.starts_with("word") => As::Lengths,
        (Kind::Nested, _, Type::BYTE_ARRAY) => As::Dictionary,
        (Kind::Wide | Kind::Nested, _, Type::INT64) => As::Differences,
        (Kind::Wide | Kind::Nested, _, Type::DOUBLE) => As::Plain,
        _ => As::Dictionary,
    }
}

fn properties(kind: Kind, schema: &Schema) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("a level of zstd")))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(32))
        .set_data_page_size_limit(256 << 10)
        .set_data_page_row_count_limit(100_000)
        .set_max_row_group_row_count(Some(1 << 20));
    let columns = ArrowSchemaConverter::new().convert(schema).expect("a Parquet schema");
    for column in columns.columns() {
        let path = column.path().clone();
        let encoding = match choose(kind, &path.string(), column.physical_type()) {
            As::Dictionary => continue,
            As::Plain => Encoding::PLAIN,
            As::Lengths => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            As::Differences => Encoding::DELTA_BINARY_PACKED,
        };
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, encoding);
    }
    properties.build()
}
