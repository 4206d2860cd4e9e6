//! Kafka records to Arrow batches of one table: the payload's columns from the decoder, the
//! `_kafka_*` columns from the record itself.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Builder, Int64Builder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use iceberg::spec::TableMetadata;

use crate::base::kafka_columns::KafkaColumn;
use crate::decode::{Decoder, Format, Pushed};
use crate::failure::Failure;
use crate::source::{Record, TopicIndex, Topics};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Topic,
    Partition,
    Offset,
    Timestamp,
    /// Index among the decoder's columns.
    Payload(usize),
}

/// Builds batches for one table schema.
pub(crate) struct RowBuilder {
    schema: SchemaRef,
    columns: Vec<Column>,
    decoder: Decoder,
    topics: Topics,
    /// Topics of the rows, and how many in a row have them.
    topic_runs: Vec<(TopicIndex, usize)>,
    partitions: Int32Builder,
    offsets: Int64Builder,
    timestamps: TimestampMicrosecondBuilder,
}

impl RowBuilder {
    /// For the table's current schema.
    pub(crate) fn new(
        metadata: &TableMetadata,
        table: &str,
        topics: &Topics,
        format: Format,
    ) -> Result<Self, Failure> {
        let unfit = |detail: String| Failure::Unfit { table: table.to_owned(), detail };
        let schema = iceberg::arrow::schema_to_arrow_schema(metadata.current_schema())
            .map_err(|e| unfit(format!("its schema cannot be written: {e}")))?;
        let mut payload = Vec::new();
        let mut columns = Vec::new();
        for field in schema.fields() {
            let column = match kafka_column(field.name()) {
                Some((column, wanted)) => {
                    if *field.data_type() != wanted {
                        return Err(unfit(format!(
                            "column {} must be {wanted} to be filled by icestream, and is {}; rename the column",
                            field.name(),
                            field.data_type()
                        )));
                    }
                    column
                }
                None => {
                    payload.push(field.clone());
                    Column::Payload(payload.len() - 1)
                }
            };
            columns.push(column);
        }
        let decoder = Decoder::new(format, &Schema::new(payload))?;
        Ok(Self {
            schema: Arc::new(schema),
            columns,
            decoder,
            topics: topics.clone(),
            topic_runs: Vec::new(),
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            timestamps: TimestampMicrosecondBuilder::new().with_timezone("+00:00"),
        })
    }

    /// Appends a record as one row, or nothing.
    pub(crate) fn push(&mut self, record: &Record<'_>, payload: &[u8]) -> Pushed {
        let pushed = self.decoder.push(payload);
        if !matches!(pushed, Pushed::Row) {
            return pushed;
        }
        match self.topic_runs.last_mut() {
            Some((topic, rows)) if *topic == record.topic => *rows += 1,
            _ => self.topic_runs.push((record.topic, 1)),
        }
        self.partitions.append_value(record.partition);
        self.offsets.append_value(record.offset);
        self.timestamps
            .append_option(record.timestamp_ms.and_then(|millis| millis.checked_mul(1000)));
        Pushed::Row
    }

    /// Can a payload of so many bytes be pushed before the rows have to be taken?
    pub(crate) fn has_room_for(&self, payload_bytes: usize) -> bool {
        self.decoder.has_room_for(payload_bytes)
    }

    /// Rows not yet taken.
    pub(crate) fn rows(&self) -> usize {
        self.decoder.rows()
    }

    /// Bytes held by the rows not yet taken.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.decoder.buffered_bytes() + self.rows() * 20
    }

    /// Payload fields that the table lacks, since the last call.
    pub(crate) fn take_unknown_fields(&mut self) -> u64 {
        self.decoder.take_unknown_fields()
    }

    #[cfg(test)]
    pub(super) fn pretend_to_hold(&mut self, bytes: usize) {
        self.decoder.pretend_to_hold(bytes);
    }

    /// Takes the rows as one batch.
    pub(crate) fn take(&mut self) -> Result<RecordBatch, Failure> {
        let runs = std::mem::take(&mut self.topic_runs);
        let payload = self
            .decoder
            .finish()
            .map_err(|e| Failure::Internal(format!("decoded columns are malformed: {e}")))?;
        let partitions: ArrayRef = Arc::new(self.partitions.finish());
        let offsets: ArrayRef = Arc::new(self.offsets.finish());
        let timestamps: ArrayRef = Arc::new(self.timestamps.finish());
        let arrays = self
            .columns
            .iter()
            .map(|column| match column {
                Column::Topic => Arc::new(self.topics_of(&runs)) as ArrayRef,
                Column::Partition => partitions.clone(),
                Column::Offset => offsets.clone(),
                Column::Timestamp => timestamps.clone(),
                Column::Payload(index) => payload[*index].clone(),
            })
            .collect();
        RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|e| Failure::Internal(format!("decoded columns do not fit the schema: {e}")))
    }

    /// The names of topics, each so many times.
    fn topics_of(&self, runs: &[(TopicIndex, usize)]) -> StringArray {
        let named = || runs.iter().map(|(topic, rows)| (self.topics.name(*topic), *rows));
        let all = named().map(|(_, rows)| rows).sum();
        let bytes = named().map(|(name, rows)| name.len() * rows).sum();
        let mut names = StringBuilder::with_capacity(all, bytes);
        for (name, rows) in named() {
            std::iter::repeat_n(name, rows).for_each(|name| names.append_value(name));
        }
        names.finish()
    }
}

fn kafka_column(name: &str) -> Option<(Column, DataType)> {
    let found = match KafkaColumn::named(name)? {
        KafkaColumn::Topic => (Column::Topic, DataType::Utf8),
        KafkaColumn::Partition => (Column::Partition, DataType::Int32),
        KafkaColumn::Offset => (Column::Offset, DataType::Int64),
        KafkaColumn::Timestamp => {
            (Column::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())))
        }
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use iceberg::spec::{FormatVersion, SortOrder, TableMetadataBuilder, UnboundPartitionSpec};

    use super::*;
    use crate::source::Headers;

    fn builder(topics: &Topics) -> RowBuilder {
        let schema = crate::table::parse_schema(
            r#"{"type": "struct", "fields": [
                {"id": 1, "name": "id", "required": true, "type": "long"},
                {"id": 2, "name": "_kafka_topic", "required": true, "type": "string"},
                {"id": 3, "name": "_kafka_offset", "required": true, "type": "long"}]}"#,
        );
        let metadata = TableMetadataBuilder::new(
            schema.unwrap(),
            UnboundPartitionSpec::builder().build(),
            SortOrder::unsorted_order(),
            String::from("file:///t"),
            FormatVersion::V2,
            HashMap::new(),
        );
        let metadata = metadata.unwrap().build().unwrap().metadata;
        RowBuilder::new(&metadata, "db.t", topics, Format::Json).unwrap()
    }

    #[test]
    fn each_row_has_the_topic_of_its_record() {
        let topics = Topics::new(["orders", "payments"]);
        let mut rows = builder(&topics);
        for batch in [["orders", "payments", "payments", "orders"], ["payments"; 4]] {
            for (offset, topic) in (7..).zip(batch) {
                let (topic, payload) = (topics.index(topic).unwrap(), &b"{\"id\": 1}"[..]);
                let record = |payload| Record {
                    topic,
                    partition: 0,
                    offset,
                    timestamp_ms: None,
                    key: None,
                    value: Some(payload),
                    headers: Headers::NONE,
                };
                // One that is no row has no part in it.
                assert!(matches!(rows.push(&record(b"bad"), b"bad"), Pushed::Bad(_)));
                assert_eq!(rows.push(&record(payload), payload), Pushed::Row);
            }
            let taken = rows.take().unwrap();
            let names: Vec<&str> =
                taken["_kafka_topic"].as_string::<i32>().iter().flatten().collect();
            assert_eq!(names, batch);
            let offsets = taken["_kafka_offset"].as_primitive::<Int64Type>();
            assert_eq!(offsets.values()[..], [7, 8, 9, 10]);
        }
    }
}
