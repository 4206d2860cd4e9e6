//! Every type comes back as it was, with its field id and with true metrics.

use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int32Array, LargeBinaryArray, ListArray, MapArray, StructArray,
    Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Int64Type};
use iceberg::spec::{Datum, ListType, MapType, StructType};
use parquet::basic::{LogicalType, Type as PhysicalType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::super::WriteError;
use super::*;

fn decimal(precision: u32, scale: u32) -> PrimitiveType {
    PrimitiveType::Decimal { precision, scale }
}

fn decimals(precision: u8, scale: i8, values: [Option<i128>; 3]) -> ArrayRef {
    let array = Decimal128Array::from(values.to_vec());
    Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
}

fn fixed(length: i32, values: [Option<Vec<u8>>; 3]) -> ArrayRef {
    let values = values.into_iter();
    Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, length).unwrap())
}

/// One column of every primitive type: low, null, high.
fn primitives() -> Vec<(PrimitiveType, ArrayRef)> {
    use PrimitiveType::*;
    let long = "x".repeat(200);
    vec![
        (Boolean, Arc::new(BooleanArray::from(vec![Some(false), None, Some(true)]))),
        (Int, Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)]))),
        (Long, Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        (Float, Arc::new(Float32Array::from(vec![Some(-1.5), None, Some(f32::INFINITY)]))),
        (Double, Arc::new(Float64Array::from(vec![Some(f64::NEG_INFINITY), None, Some(2.5)]))),
        (decimal(9, 2), decimals(9, 2, [Some(-123_456_789), None, Some(1)])),
        (decimal(18, 4), decimals(18, 4, [Some(-1), None, Some(123_456_789_012_345_678)])),
        (decimal(38, 10), decimals(38, 10, [Some(-(10i128.pow(37))), None, Some(10i128.pow(37))])),
        (Date, Arc::new(Date32Array::from(vec![Some(-719_162), None, Some(2_932_896)]))),
        (Time, Arc::new(Time64MicrosecondArray::from(vec![Some(0), None, Some(86_399_999_999)]))),
        (Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1)]))),
        (
            Timestamptz,
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(-62_135_596_800_000_000), None, Some(1)])
                    .with_timezone("+00:00"),
            ),
        ),
        (String, Arc::new(StringArray::from(vec![Some(""), None, Some(&long)]))),
        (Uuid, fixed(16, [Some(vec![1; 16]), None, Some(vec![255; 16])])),
        (Fixed(5), fixed(5, [Some(vec![0; 5]), None, Some(vec![128; 5])])),
        (Binary, Arc::new(LargeBinaryArray::from(vec![Some([].as_slice()), None, Some(&[255])]))),
    ]
}

fn table_of_primitives(properties: &[(&str, &str)]) -> (Table, RecordBatch) {
    let (types, columns): (Vec<_>, Vec<_>) = primitives().into_iter().unzip();
    let fields = types.into_iter().zip(1..).map(|(kind, id)| optional(id, &format!("c{id}"), kind));
    let table = Table::new(fields.collect(), &[], properties);
    let batch = table.batch(columns);
    (table, batch)
}

#[test]
fn every_primitive_type_comes_back_as_it_was() {
    // Both versions of pages, and every codec.
    let version = |version| ("write.parquet.page-version", version);
    let codec = |codec| ("write.parquet.compression-codec", codec);
    for properties in [
        [version("1"), codec("zstd")],
        [version("2"), codec("zstd")],
        [version("1"), codec("gzip")],
        [version("2"), codec("snappy")],
        [version("1"), codec("lz4")],
        [version("1"), codec("brotli")],
        [version("1"), codec("uncompressed")],
    ] {
        let (table, batch) = table_of_primitives(&properties);
        let files = table.write(&batch);
        assert_eq!(files.len(), 1);
        assert_eq!(table.read(&files[0]), batch, "{properties:?}");
        let length = std::fs::metadata(local(&files[0].path)).unwrap().len();
        assert_eq!((files[0].records, files[0].bytes), (3, length));
    }
}

#[test]
fn the_metrics_of_every_primitive_type_hold_and_survive_the_json() {
    let (table, batch) = table_of_primitives(&[]);
    let files = table.write(&batch);
    let file = table.data_file(&files[0]);
    assert_eq!(file.record_count(), 3);
    assert_eq!(file.file_size_in_bytes(), files[0].bytes);
    for id in 1..=16 {
        assert_eq!(file.value_counts()[&id], 3, "column {id}");
        assert_eq!(file.null_value_counts()[&id], 1, "column {id}");
        assert!(file.column_sizes()[&id] > 0, "column {id}");
    }
    let (low, high) = (file.lower_bounds(), file.upper_bounds());
    assert_eq!((&low[&1], &high[&1]), (&Datum::bool(false), &Datum::bool(true)));
    assert_eq!((&low[&2], &high[&2]), (&Datum::int(i32::MIN), &Datum::int(i32::MAX)));
    assert_eq!((&low[&3], &high[&3]), (&Datum::long(i64::MIN), &Datum::long(i64::MAX)));
    assert_eq!((&low[&4], &high[&4]), (&Datum::float(-1.5), &Datum::float(f32::INFINITY)));
    assert_eq!((&low[&5], &high[&5]), (&Datum::double(f64::NEG_INFINITY), &Datum::double(2.5)));
    assert_eq!((low[&6].to_string(), high[&6].to_string()), ("-1234567.89".into(), "0.01".into()));
    assert_eq!(low[&7].to_string(), "-0.0001");
    assert_eq!(high[&7].to_string(), "12345678901234.5678");
    assert_eq!(low[&8].to_string(), format!("-1{}.0000000000", "0".repeat(27)));
    assert_eq!((&low[&9], &high[&9]), (&Datum::date(-719_162), &Datum::date(2_932_896)));
    assert_eq!(high[&10], Datum::time_micros(86_399_999_999).unwrap());
    assert_eq!(low[&11], Datum::timestamp_micros(-1));
    assert_eq!(low[&12], Datum::timestamptz_micros(-62_135_596_800_000_000));
    assert_eq!((&low[&13], &high[&13]), (&Datum::string(""), &Datum::string("x".repeat(15) + "y")));
    // In another order for Java engines.
    assert!(!low.contains_key(&14) && !high.contains_key(&14));
    assert_eq!((&low[&15], &high[&15]), (&Datum::fixed([0; 5]), &Datum::fixed([128; 5])));
    assert_eq!((&low[&16], &high[&16]), (&Datum::binary([]), &Datum::binary([255])));
    assert_eq!(file.split_offsets(), Some([4].as_slice()));
}

#[test]
fn the_parquet_schema_carries_field_ids_and_the_types_of_the_specification() {
    let (table, batch) = table_of_primitives(&[]);
    let files = table.write(&batch);
    let reader = SerializedFileReader::new(File::open(local(&files[0].path)).unwrap()).unwrap();
    let footer = reader.metadata().file_metadata();
    let columns = footer.schema_descr().columns();
    let ids: Vec<i32> =
        columns.iter().map(|column| column.self_type().get_basic_info().id()).collect();
    assert_eq!(ids, (1..=16).collect::<Vec<_>>());
    assert_eq!(columns[5].physical_type(), PhysicalType::INT32);
    assert_eq!(columns[6].physical_type(), PhysicalType::INT64);
    assert_eq!(columns[7].physical_type(), PhysicalType::FIXED_LEN_BYTE_ARRAY);
    assert_eq!(columns[13].logical_type_ref(), Some(&LogicalType::Uuid));
    assert_eq!(columns[14].logical_type_ref(), None);
    let adjusted = |column: usize| match columns[column].logical_type_ref() {
        Some(LogicalType::Timestamp { is_adjusted_to_u_t_c, .. }) => *is_adjusted_to_u_t_c,
        other => panic!("no timestamp: {other:?}"),
    };
    assert!(!adjusted(10) && adjusted(11));
    assert!(footer.created_by().unwrap().starts_with("icestream version "));
}

fn nested_fields() -> Vec<NestedField> {
    let inner = StructType::new(vec![
        Arc::new(required(4, "x", PrimitiveType::Long)),
        Arc::new(optional(5, "y", PrimitiveType::Double)),
    ]);
    let element = required(6, "element", PrimitiveType::String);
    let value = optional(8, "value", PrimitiveType::Int);
    vec![
        NestedField::optional(1, "point", Type::Struct(inner)),
        NestedField::optional(2, "tags", Type::List(ListType { element_field: element.into() })),
        NestedField::optional(
            3,
            "counts",
            Type::Map(MapType {
                key_field: required(7, "key", PrimitiveType::String).into(),
                value_field: value.into(),
            }),
        ),
    ]
}

/// Rows: all present, all null, all empty.
fn nested_columns(table: &Table) -> Vec<ArrayRef> {
    let schema = schema_to_arrow_schema(table.metadata.current_schema()).unwrap();
    let present = || Some(NullBuffer::from(vec![true, false, true]));
    let DataType::Struct(fields) = schema.field(0).data_type() else { panic!("no struct") };
    let x = Int64Array::from(vec![1, 2, 3]);
    // The slot under the null struct holds a NaN that is not a value.
    let y = Float64Array::from(vec![Some(f64::NAN), Some(f64::NAN), None]);
    let point = StructArray::new(fields.clone(), vec![Arc::new(x), Arc::new(y)], present());
    let DataType::List(element) = schema.field(1).data_type() else { panic!("no list") };
    let tags = ListArray::new(
        Arc::clone(element),
        OffsetBuffer::from_lengths([2, 0, 0]),
        Arc::new(StringArray::from(vec!["a", "b"])),
        present(),
    );
    let DataType::Map(entries, _) = schema.field(2).data_type() else { panic!("no map") };
    let DataType::Struct(pair) = entries.data_type() else { panic!("no entries") };
    let keys = StringArray::from(vec!["k", "l"]);
    let values = Int32Array::from(vec![Some(7), None]);
    let pairs = StructArray::new(pair.clone(), vec![Arc::new(keys), Arc::new(values)], None);
    let lengths = OffsetBuffer::from_lengths([2, 0, 0]);
    let counts = MapArray::new(Arc::clone(entries), lengths, pairs, present(), false);
    vec![Arc::new(point), Arc::new(tags), Arc::new(counts)]
}

#[test]
fn structs_lists_and_maps_come_back_as_they_were() {
    let table = Table::new(nested_fields(), &[], &[]);
    let batch = table.batch(nested_columns(&table));
    let files = table.write(&batch);
    let back = table.read(&files[0]);
    assert_eq!(back.column(1), batch.column(1));
    assert_eq!(back.column(2), batch.column(2));
    let point = back.column(0).as_struct();
    assert_eq!(point.nulls(), batch.column(0).nulls());
    let x: Vec<_> = point.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!((x[0], x[2]), (1, 3));
}

#[test]
fn metrics_of_nested_columns_count_leaves_and_bound_only_what_is_not_repeated() {
    let table = Table::new(nested_fields(), &[], &[]);
    let files = table.write(&table.batch(nested_columns(&table)));
    let file = table.data_file(&files[0]);
    assert_eq!(file.lower_bounds()[&4], Datum::long(1));
    assert_eq!(file.upper_bounds()[&4], Datum::long(3));
    assert_eq!(file.null_value_counts()[&4], 1);
    assert_eq!(file.nan_value_counts(), &HashMap::from([(5, 1)]));
    for repeated in [6, 7, 8] {
        assert!(file.value_counts().contains_key(&repeated));
        assert!(!file.lower_bounds().contains_key(&repeated));
        assert!(!file.upper_bounds().contains_key(&repeated));
    }
}

#[test]
fn bounds_cover_row_groups_whose_statistics_are_cut_short() {
    // Two row groups: short texts, then a long one that sorts behind them.
    let table = Table::of_ids(&[], &[("write.parquet.row-group-size-bytes", "1")]);
    let long = "z".repeat(100);
    let mut writer = table.writer(WriteSettings::new("i-1-0"));
    for note in ["b", long.as_str(), "a"] {
        let ids = Int64Array::from(vec![1]);
        let notes = StringArray::from(vec![note]);
        writer.write(&table.batch(vec![Arc::new(ids), Arc::new(notes)])).unwrap();
    }
    let files = writer.close().unwrap().wait().unwrap();
    let file = table.data_file(&files[0]);
    assert_eq!(file.split_offsets().unwrap().len(), 3);
    assert_eq!(file.lower_bounds()[&2], Datum::string("a"));
    let Some(upper) = file.upper_bounds().get(&2) else { panic!("no bound") };
    assert!(*upper >= Datum::string(&long), "{upper}");
    assert_eq!(table.read(&files[0]).num_rows(), 3);
}

#[test]
fn a_column_of_nulls_has_counts_and_no_bounds() {
    let table = Table::of_ids(&[], &[]);
    let notes: StringArray = vec![None::<&str>; 2].into_iter().collect();
    let batch = table.batch(vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(notes)]);
    let files = table.write(&batch);
    let file = table.data_file(&files[0]);
    assert_eq!(file.null_value_counts()[&2], 2);
    assert!(!file.lower_bounds().contains_key(&2) && !file.upper_bounds().contains_key(&2));
}

#[test]
fn a_batch_that_does_not_fit_the_schema_is_refused_with_the_column() {
    let table = Table::of_ids(&[], &[]);
    let refusal = |columns: Vec<(&str, ArrayRef)>| {
        let mut writer = table.writer(WriteSettings::new("i-1-0"));
        let error = writer.write(&RecordBatch::try_from_iter(columns).unwrap()).unwrap_err();
        assert!(matches!(error, WriteError::SchemaMismatch { .. }), "{error:?}");
        assert!(!error.is_transient());
        assert!(matches!(writer.write(&table.ids([1])).unwrap_err(), WriteError::Failed));
        assert!(writer.abort().is_empty());
        error.to_string()
    };
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let notes: ArrayRef = Arc::new(StringArray::from(vec!["n"]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![b"n".as_slice()]));
    let no_id: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    assert!(refusal(vec![("id", ids.clone())]).contains("1 columns"));
    assert!(refusal(vec![("id", ids.clone()), ("text", notes.clone())]).contains("note"));
    assert!(refusal(vec![("id", ids), ("note", bytes)]).contains("Binary"));
    assert!(refusal(vec![("id", no_id), ("note", notes)]).contains("id"));
    assert!(table.files_on_disk().is_empty());
}
