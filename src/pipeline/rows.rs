//! Kafka records to Arrow batches of one table: the payload's columns from the decoder, the
//! `_kafka_*` columns from the record itself.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Builder, Int64Builder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use iceberg::spec::{Literal, PrimitiveLiteral, StructType, TableMetadata, Type};

use super::seams::Omitted;
use crate::base::calendar::{FIRST_DAY, LAST_DAY, SECONDS_OF_DAY};
use crate::base::kafka_columns::{KAFKA_TIMESTAMP, KafkaColumn};
use crate::decode::{Decoder, DefaultValue, Defaults, Format, Pushed, Reason, RecordError};
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
    /// Timestamps that were left out, see [`Omitted`].
    timestamps_left_out: u64,
    /// Does the table want a timestamp in each row?
    needs_timestamp: bool,
}

/// Milliseconds of the first and the last instant that a timestamp of a table can be: of the years 1
/// to 9999. Producers that count in microseconds are beyond.
const INSTANTS: RangeInclusive<i64> =
    FIRST_DAY * SECONDS_OF_DAY * 1000..=(LAST_DAY + 1) * SECONDS_OF_DAY * 1000 - 1;

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
        let needs = |(column, field): (&Column, &FieldRef)| {
            *column == Column::Timestamp && !field.is_nullable()
        };
        let needs_timestamp = columns.iter().zip(schema.fields()).any(needs);
        let defaults = defaults(metadata.current_schema().as_struct()).map_err(|column| {
            unfit(format!("the default of its column {column} cannot be written"))
        })?;
        let decoder = Decoder::with_defaults(format, &Schema::new(payload), &defaults)?;
        Ok(Self {
            schema: Arc::new(schema),
            columns,
            decoder,
            topics: topics.clone(),
            topic_runs: Vec::new(),
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            timestamps: TimestampMicrosecondBuilder::new().with_timezone("+00:00"),
            timestamps_left_out: 0,
            needs_timestamp,
        })
    }

    /// Bounds what one record may take.
    pub(crate) fn with_record_bytes(self, bytes: usize) -> Self {
        Self { decoder: self.decoder.with_record_bytes(bytes), ..self }
    }

    /// Appends a record as one row, or nothing.
    pub(crate) fn push(&mut self, record: &Record<'_>, payload: &[u8]) -> Pushed {
        let instant = record.timestamp_ms.filter(|millis| INSTANTS.contains(millis));
        if instant.is_none() && self.needs_timestamp {
            return Pushed::Bad(no_timestamp(record.timestamp_ms));
        }
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
        self.timestamps_left_out += u64::from(instant != record.timestamp_ms);
        self.timestamps.append_option(instant.map(|millis| millis * 1000));
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

    /// What the rows lack, since the last call.
    pub(crate) fn take_omitted(&mut self) -> Omitted {
        Omitted {
            unknown_fields: self.decoder.take_unknown_fields(),
            timestamps: std::mem::take(&mut self.timestamps_left_out),
        }
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

/// What columns have where a record does not name them: the `write-default` of format version 3.
///
/// # Errors
/// The name of a column with a default that has no form here.
fn defaults(fields: &StructType) -> Result<Defaults, String> {
    let mut found = Defaults::new();
    for field in fields.fields() {
        if let Type::Struct(inner) = field.field_type.as_ref() {
            found.extend(defaults(inner).map_err(|name| format!("{}.{name}", field.name))?);
        }
        if let Some(value) = &field.write_default {
            let value = default_value(value).ok_or_else(|| field.name.clone())?;
            found.insert(field.id, value);
        }
    }
    Ok(found)
}

fn default_value(value: &Literal) -> Option<DefaultValue> {
    let Literal::Primitive(value) = value else {
        return matches!(value, Literal::Struct(_)).then_some(DefaultValue::Struct);
    };
    Some(match value {
        PrimitiveLiteral::Boolean(value) => DefaultValue::Boolean(*value),
        PrimitiveLiteral::Int(value) => DefaultValue::Int(*value),
        PrimitiveLiteral::Long(value) => DefaultValue::Long(*value),
        PrimitiveLiteral::Float(value) => DefaultValue::Float(value.0),
        PrimitiveLiteral::Double(value) => DefaultValue::Double(value.0),
        PrimitiveLiteral::Int128(value) => DefaultValue::Decimal(*value),
        PrimitiveLiteral::UInt128(value) => DefaultValue::Bytes(value.to_be_bytes().into()),
        PrimitiveLiteral::String(value) => DefaultValue::Bytes(value.clone().into_bytes()),
        PrimitiveLiteral::Binary(value) => DefaultValue::Bytes(value.clone()),
        PrimitiveLiteral::AboveMax | PrimitiveLiteral::BelowMin => return None,
    })
}

/// The table wants a timestamp, and the record has none that it can hold.
#[cold]
fn no_timestamp(timestamp_ms: Option<i64>) -> RecordError {
    let found = match timestamp_ms {
        Some(millis) => format!("its timestamp is {millis} ms, not of the years 1 to 9999"),
        None => String::from("it has no timestamp"),
    };
    let detail = format!("required, but {found}");
    RecordError { reason: Reason::MissingField, path: KAFKA_TIMESTAMP.to_owned(), detail }
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
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use iceberg::spec::{FormatVersion, SortOrder, TableMetadataBuilder, UnboundPartitionSpec};

    use super::*;
    use crate::source::Headers;

    fn builder(topics: &Topics) -> RowBuilder {
        builder_of(topics, false)
    }

    /// Of a table that requires a timestamp, or not.
    fn builder_of(topics: &Topics, required: bool) -> RowBuilder {
        let schema = r#"{"type": "struct", "fields": [
                {"id": 1, "name": "id", "required": true, "type": "long"},
                {"id": 2, "name": "_kafka_topic", "required": true, "type": "string"},
                {"id": 3, "name": "_kafka_offset", "required": true, "type": "long"},
                {"id": 4, "name": "_kafka_timestamp", "required": SO, "type": "timestamptz"}]}"#;
        let schema = crate::table::parse_schema(&schema.replace("SO", &required.to_string()));
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

    const PAYLOAD: &[u8] = b"{\"id\": 1}";

    /// A record of the first topic with this timestamp.
    fn stamped(offset: i64, timestamp_ms: Option<i64>) -> Record<'static> {
        let (topic, value) = (Topics::new(["orders"]).index("orders").unwrap(), Some(PAYLOAD));
        Record {
            topic,
            partition: 0,
            offset,
            timestamp_ms,
            key: None,
            value,
            headers: Headers::NONE,
        }
    }

    /// A timestamp in microseconds or nanoseconds would be a year that no engine shows, and some then
    /// show nothing of the file.
    #[test]
    fn timestamps_of_records_beyond_the_calendar_are_null_and_counted() {
        let topics = Topics::new(["orders"]);
        let mut rows = builder(&topics);
        let first = -62_135_596_800_000;
        let last = 253_402_300_799_999;
        let cases = [
            (Some(0), Some(0)),
            (None, None),
            (Some(first), Some(first * 1000)),
            (Some(first - 1), None),
            (Some(last), Some(last * 1000)),
            (Some(last + 1), None),
            (Some(1_767_323_045_000_000), None),
            (Some(i64::MIN), None),
            (Some(i64::MAX), None),
        ];
        for (offset, (timestamp_ms, _)) in (0..).zip(cases) {
            assert_eq!(rows.push(&stamped(offset, timestamp_ms), PAYLOAD), Pushed::Row);
        }
        let left_out = Omitted { unknown_fields: 0, timestamps: 5 };
        assert_eq!((rows.take_omitted(), rows.take_omitted()), (left_out, Omitted::default()));
        let taken = rows.take().unwrap();
        let found: Vec<Option<i64>> =
            taken["_kafka_timestamp"].as_primitive::<TimestampMicrosecondType>().iter().collect();
        assert_eq!(found, cases.map(|(_, expected)| expected));
    }

    #[test]
    fn a_record_without_a_timestamp_that_the_table_requires_is_a_bad_record() {
        let topics = Topics::new(["orders"]);
        let mut rows = builder_of(&topics, true);
        for (offset, timestamp_ms) in (0..).zip([None, Some(i64::MAX), Some(5)]) {
            match rows.push(&stamped(offset, timestamp_ms), PAYLOAD) {
                Pushed::Bad(error) => {
                    assert_eq!(error.reason, Reason::MissingField);
                    assert!(timestamp_ms != Some(5) && error.path == "_kafka_timestamp");
                }
                pushed => assert_eq!((pushed, timestamp_ms), (Pushed::Row, Some(5))),
            }
        }
        assert_eq!((rows.take_omitted(), rows.take().unwrap().num_rows()), (Omitted::default(), 1));
    }

    /// Of a table of version 3 with these columns beside `id`.
    fn builder_of_columns(columns: &str) -> Result<RowBuilder, Failure> {
        let schema = format!(
            r#"{{"type": "struct", "fields": [
                {{"id": 1, "name": "id", "required": true, "type": "long"}}, {columns}]}}"#
        );
        let metadata = TableMetadataBuilder::new(
            serde_json::from_str(&schema).unwrap(),
            UnboundPartitionSpec::builder().build(),
            SortOrder::unsorted_order(),
            String::from("file:///t"),
            FormatVersion::V3,
            HashMap::new(),
        );
        let metadata = metadata.unwrap().build().unwrap().metadata;
        RowBuilder::new(&metadata, "db.t", &Topics::new(["orders"]), Format::Json)
    }

    #[test]
    fn an_absent_field_has_its_default_and_a_null_is_null_in_every_type() {
        let cases = [
            ("boolean", "true", "true"),
            ("int", "5", "5"),
            ("long", "-5", "-5"),
            ("float", "1.5", "1.5"),
            ("double", "-2.5", "-2.5"),
            ("decimal(9, 2)", r#""14.20""#, "14.20"),
            ("date", r#""2024-02-29""#, "2024-02-29"),
            ("time", r#""12:00:00.000001""#, "12:00:00.000001"),
            ("timestamp", r#""1969-12-31T23:59:59.5""#, "1969-12-31T23:59:59.500"),
            ("timestamptz", r#""2024-02-29T12:00:00+00:00""#, "2024-02-29T12:00:00Z"),
            ("string", r#""né""#, "né"),
            (
                "uuid",
                r#""00000000-0000-0000-0000-00000000000a""#,
                "0000000000000000000000000000000a",
            ),
            ("fixed[2]", r#""61ff""#, "61ff"),
            ("binary", r#""00""#, "00"),
        ];
        for (kind, default, shown) in cases {
            for required in [false, true] {
                let columns = format!(
                    r#"{{"id": 2, "name": "c", "required": {required}, "type": "{kind}", "write-default": {default}}}"#
                );
                let mut rows = builder_of_columns(&columns).unwrap();
                assert_eq!(rows.push(&stamped(0, None), b"{\"id\": 1}"), Pushed::Row);
                let null = rows.push(&stamped(1, None), b"{\"id\": 2, \"c\": null}");
                assert_eq!(null == Pushed::Row, !required, "{kind}: {null:?}");
                let taken = rows.take().unwrap();
                let column = taken.column_by_name("c").unwrap();
                let text = arrow::util::display::array_value_to_string(column, 0).unwrap();
                assert_eq!(
                    (text.as_str(), column.null_count()),
                    (shown, usize::from(!required)),
                    "{kind}"
                );
            }
        }
    }

    #[test]
    fn fields_of_a_struct_have_their_defaults_where_the_struct_is_or_has_one() {
        let columns = |of_struct: &str| {
            format!(
                r#"{{"id": 2, "name": "at", "required": false{of_struct}, "type": {{"type": "struct", "fields": [
                    {{"id": 3, "name": "n", "required": true, "type": "int", "write-default": 7}},
                    {{"id": 4, "name": "s", "required": false, "type": "string"}}]}}}}"#
            )
        };
        for (of_struct, absent) in [("", ""), (r#", "write-default": {}"#, "{n: 7, s: }")] {
            let mut rows = builder_of_columns(&columns(of_struct)).unwrap();
            for payload in
                [r#"{"id": 1}"#, r#"{"id": 2, "at": {"s": "x"}}"#, r#"{"id": 3, "at": null}"#]
            {
                assert_eq!(rows.push(&stamped(0, None), payload.as_bytes()), Pushed::Row);
            }
            let taken = rows.take().unwrap();
            let column = taken.column_by_name("at").unwrap();
            let shown = |row| arrow::util::display::array_value_to_string(column, row).unwrap();
            assert_eq!([shown(0), shown(1), shown(2)], [absent, "{n: 7, s: x}", ""]);
        }
    }

    #[test]
    fn a_default_of_a_list_is_refused_by_the_name_of_its_column() {
        let columns = r#"{"id": 2, "name": "tags", "required": false, "write-default": [1], "type":
            {"type": "list", "element-id": 3, "element": "int", "element-required": false}}"#;
        let Err(refused) = builder_of_columns(columns) else { panic!("it was taken") };
        assert!(refused.to_string().contains("default of its column tags"), "{refused}");
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
