//! What one would write by hand in an afternoon: one loop that consumes, decodes and writes
//! Parquet, with the same client settings, the same decoder and the same Parquet settings as
//! icestream. It keeps no offsets, makes no table and starts from the beginning every time: what
//! icestream needs more is the price of exactly-once.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Int32Builder, Int64Builder, RecordBatch, StringArray, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use iceberg::arrow::schema_to_arrow_schema;
use icestream::decode::Decoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(30);
const BATCH_ROWS: usize = 8192;
const FILE_BYTES: usize = 128 << 20;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Carries a topic into Parquet files, from its beginning to its present ends.
pub fn run(brokers: &str, topic: &str, schema: &str, dir: &str) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "100")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let mut open = BTreeSet::new();
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let id = partition.id();
        let (start, _) = consumer.fetch_watermarks(topic, id, PATIENCE).expect("watermarks");
        open.insert(id);
        assignment.add_partition_offset(topic, id, Offset::Offset(start)).expect("an offset");
    }
    consumer.assign(&assignment).expect("an assignment");

    let mut files = Files::new(topic, schema, dir);
    while !open.is_empty() {
        match consumer.poll(PATIENCE).expect("Kafka gave neither a record nor the end") {
            Ok(message) => files.push(&message),
            Err(KafkaError::PartitionEOF(partition)) => {
                open.remove(&partition);
            }
            Err(error) => panic!("cannot read {topic}: {error}"),
        }
    }
    files.flush();
    files.close();
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
    topic: String,
    schema: Arc<Schema>,
    decoder: Decoder,
    partitions: Int32Builder,
    offsets: Int64Builder,
    timestamps: TimestampMillisecondBuilder,
    writer: Option<ArrowWriter<File>>,
    made: usize,
}

impl Files {
    fn new(topic: &str, schema: &str, dir: &str) -> Self {
        let text = std::fs::read_to_string(schema).expect("a schema file");
        let schema: iceberg::spec::Schema = serde_json::from_str(&text).expect("a schema");
        let payload = schema_to_arrow_schema(&schema).expect("an Arrow schema");
        let decoder = Decoder::json(&payload).expect("a decoder");
        let time = DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()));
        let kafka = [
            ("_kafka_topic", DataType::Utf8),
            ("_kafka_partition", DataType::Int32),
            ("_kafka_offset", DataType::Int64),
            ("_kafka_timestamp", time),
        ];
        let kafka = kafka.map(|(name, kind)| Arc::new(Field::new(name, kind, true)));
        let fields = payload.fields().iter().cloned().chain(kafka).collect::<Vec<_>>();
        Self {
            dir: dir.into(),
            topic: topic.into(),
            schema: Arc::new(Schema::new(fields)),
            decoder,
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            timestamps: TimestampMillisecondBuilder::new().with_timezone("+00:00"),
            writer: None,
            made: 0,
        }
    }

    fn push(&mut self, message: &BorrowedMessage<'_>) {
        self.decoder.push(message.payload().expect("a payload")).expect("a good record");
        self.partitions.append_value(message.partition());
        self.offsets.append_value(message.offset());
        self.timestamps.append_option(message.timestamp().to_millis());
        if self.decoder.rows() >= BATCH_ROWS {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let rows = self.decoder.rows();
        let topics = StringArray::from_iter_values(std::iter::repeat_n(&self.topic, rows));
        let mut columns = self.decoder.finish().expect("columns");
        columns.extend([
            Arc::new(topics) as ArrayRef,
            Arc::new(self.partitions.finish()),
            Arc::new(self.offsets.finish()),
            Arc::new(self.timestamps.finish()),
        ]);
        let batch = RecordBatch::try_new(self.schema.clone(), columns).expect("a batch");
        let writer = self.writer.get_or_insert_with(|| {
            self.made += 1;
            let file = File::create(format!("{}/{:05}.parquet", self.dir, self.made));
            let file = file.expect("a file");
            ArrowWriter::try_new(file, self.schema.clone(), Some(properties())).expect("a writer")
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

/// As in icestream's `write::properties`.
fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("a level of zstd")))
        .set_data_page_size_limit(256 << 10)
        .set_data_page_row_count_limit(100_000)
        .set_dictionary_page_size_limit(128 << 10)
        .set_statistics_truncate_length(Some(32))
        .set_max_row_group_row_count(Some(1 << 20))
        .build()
}
