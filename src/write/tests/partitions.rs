//! Every transform gives the partition that the specification names, in the path, in the
//! manifest and in the rows.

use std::collections::BTreeMap;

use arrow::array::{
    Array, AsArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array,
    Int32Array, LargeBinaryArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Int64Type};
use iceberg::spec::{Literal, StructType};

use super::*;

/// Partition path -> (partition value, ids of its rows).
type Found = BTreeMap<String, (Option<Literal>, Vec<i64>)>;

/// Writes ids 0, 1, 2.. beside `column` and tells where each went.
fn partitions(kind: Type, transform: Transform, column: ArrayRef) -> Found {
    let fields = vec![required(1, "id", PrimitiveType::Long), NestedField::optional(2, "c", kind)];
    let table = Table::new(fields, &[(2, "p", transform)], &[]);
    let ids: Vec<i64> = (0..).take(column.len()).collect();
    let files = table.write(&table.batch(vec![Arc::new(Int64Array::from(ids)), column]));
    files.iter().map(|file| located(&table, file)).collect()
}

fn located(table: &Table, file: &PendingFile) -> (String, (Option<Literal>, Vec<i64>)) {
    let root = format!("{}/data/", table.metadata.location());
    let below = file.path.strip_prefix(&root).unwrap();
    let (directory, name) = below.rsplit_once('/').unwrap();
    assert!(name.starts_with("i-1-0-") && name.ends_with(".parquet"), "{name}");
    let value = table.data_file(file).partition().fields()[0].clone();
    let ids = table.read(file).column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(usize::try_from(file.records).unwrap(), ids.len());
    (directory.to_owned(), (value, ids))
}

fn expected<const N: usize>(entries: [(&str, Option<Literal>, &[i64]); N]) -> Found {
    entries.into_iter().map(|(path, value, ids)| (path.to_owned(), (value, ids.to_vec()))).collect()
}

fn times(micros: Vec<Option<i64>>) -> (Type, ArrayRef) {
    let array = TimestampMicrosecondArray::from(micros).with_timezone("+00:00");
    (Type::Primitive(PrimitiveType::Timestamptz), Arc::new(array))
}

// 1969-12-30T23:59:59.5, 1969-12-31T23:59:59.999999, null, 1970-01-01, 2024-02-29T12:00.
fn moments() -> (Type, ArrayRef) {
    times(vec![Some(-86_400_500_000), Some(-1), None, Some(0), Some(1_709_208_000_000_000)])
}

#[test]
fn day_partitions_follow_the_calendar_before_1970_too() {
    let (kind, column) = moments();
    let days = expected([
        ("p=1969-12-30", Some(Literal::date(-2)), &[0]),
        ("p=1969-12-31", Some(Literal::date(-1)), &[1]),
        ("p=null", None, &[2]),
        ("p=1970-01-01", Some(Literal::date(0)), &[3]),
        ("p=2024-02-29", Some(Literal::date(19_782)), &[4]),
    ]);
    assert_eq!(partitions(kind, Transform::Day, column), days);

    let dates = Date32Array::from(vec![Some(-1), None, Some(-1)]);
    let days =
        expected([("p=1969-12-31", Some(Literal::date(-1)), &[0, 2]), ("p=null", None, &[1])]);
    let kind = Type::Primitive(PrimitiveType::Date);
    assert_eq!(partitions(kind, Transform::Day, Arc::new(dates)), days);
}

#[test]
fn hour_month_and_year_partitions_follow_the_calendar_before_1970_too() {
    let (kind, column) = moments();
    let hours = expected([
        ("p=1969-12-30-23", Some(Literal::int(-25)), &[0]),
        ("p=1969-12-31-23", Some(Literal::int(-1)), &[1]),
        ("p=null", None, &[2]),
        ("p=1970-01-01-00", Some(Literal::int(0)), &[3]),
        ("p=2024-02-29-12", Some(Literal::int(19_782 * 24 + 12)), &[4]),
    ]);
    assert_eq!(partitions(kind.clone(), Transform::Hour, column.clone()), hours);
    let months = expected([
        ("p=1969-12", Some(Literal::int(-1)), &[0, 1]),
        ("p=null", None, &[2]),
        ("p=1970-01", Some(Literal::int(0)), &[3]),
        ("p=2024-02", Some(Literal::int(54 * 12 + 1)), &[4]),
    ]);
    assert_eq!(partitions(kind.clone(), Transform::Month, column.clone()), months);
    let years = expected([
        ("p=1969", Some(Literal::int(-1)), &[0, 1]),
        ("p=null", None, &[2]),
        ("p=1970", Some(Literal::int(0)), &[3]),
        ("p=2024", Some(Literal::int(54)), &[4]),
    ]);
    assert_eq!(partitions(kind, Transform::Year, column), years);
}

#[test]
fn bucket_partitions_follow_the_hash_of_the_specification() {
    // murmur3("iceberg") = 1210000089, murmur3(34) = 2017239379, modulo 16.
    let names = StringArray::from(vec![Some("iceberg"), None, Some("iceberg")]);
    let buckets = expected([("p=9", Some(Literal::int(9)), &[0, 2]), ("p=null", None, &[1])]);
    let kind = Type::Primitive(PrimitiveType::String);
    assert_eq!(partitions(kind, Transform::Bucket(16), Arc::new(names)), buckets);
    let numbers = Int32Array::from(vec![Some(34), None]);
    let buckets = expected([("p=3", Some(Literal::int(3)), &[0]), ("p=null", None, &[1])]);
    let kind = Type::Primitive(PrimitiveType::Int);
    assert_eq!(partitions(kind, Transform::Bucket(16), Arc::new(numbers)), buckets);
}

#[test]
fn truncate_partitions_cut_text_bytes_and_numbers() {
    let names = StringArray::from(vec![Some("a/bcd"), Some("a/bxy"), None]);
    let cut =
        expected([("p=a%2Fb", Some(Literal::string("a/b")), &[0, 1]), ("p=null", None, &[2])]);
    let kind = Type::Primitive(PrimitiveType::String);
    assert_eq!(partitions(kind, Transform::Truncate(3), Arc::new(names)), cut);

    let bytes = LargeBinaryArray::from(vec![Some([1u8, 2, 3, 4].as_slice()), None]);
    let cut =
        expected([("p=AQID", Some(Literal::binary(vec![1, 2, 3])), &[0]), ("p=null", None, &[1])]);
    let kind = Type::Primitive(PrimitiveType::Binary);
    assert_eq!(partitions(kind, Transform::Truncate(3), Arc::new(bytes)), cut);

    let numbers = Int64Array::from(vec![Some(-1), Some(-10), Some(9), None]);
    let cut = expected([
        ("p=-10", Some(Literal::long(-10)), &[0, 1]),
        ("p=0", Some(Literal::long(0)), &[2]),
        ("p=null", None, &[3]),
    ]);
    let kind = Type::Primitive(PrimitiveType::Long);
    assert_eq!(partitions(kind, Transform::Truncate(10), Arc::new(numbers)), cut);

    let prices = Decimal128Array::from(vec![Some(1_065), Some(-1), None]);
    let prices = prices.with_precision_and_scale(9, 2).unwrap();
    let cut = expected([
        ("p=10.50", Some(Literal::decimal(1_050)), &[0]),
        ("p=-0.50", Some(Literal::decimal(-50)), &[1]),
        ("p=null", None, &[2]),
    ]);
    let kind = Type::Primitive(PrimitiveType::Decimal { precision: 9, scale: 2 });
    assert_eq!(partitions(kind, Transform::Truncate(50), Arc::new(prices)), cut);
}

#[test]
fn identity_partitions_keep_the_value_of_any_type() {
    let id = Transform::Identity;
    let (kind, column) = times(vec![Some(-1), None]);
    let found = expected([
        ("p=1969-12-31T23%3A59%3A59.999999%2B00%3A00", Some(Literal::timestamptz(-1)), &[0]),
        ("p=null", None, &[1]),
    ]);
    assert_eq!(partitions(kind, id, column), found);

    let names = StringArray::from(vec![Some("../../x y"), Some(""), None, Some("null")]);
    let mut found = expected([
        ("p=..%2F..%2Fx+y", Some(Literal::string("../../x y")), &[0]),
        ("p=", Some(Literal::string("")), &[1]),
    ]);
    let mut all = partitions(Type::Primitive(PrimitiveType::String), id, Arc::new(names));
    // The null and the text "null" share a directory; the manifest keeps them apart.
    assert!(all.remove("p=null").is_some());
    assert_eq!(all, found);

    let flags = BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]);
    found = expected([
        ("p=true", Some(Literal::bool(true)), &[0, 3]),
        ("p=null", None, &[1]),
        ("p=false", Some(Literal::bool(false)), &[2]),
    ]);
    assert_eq!(partitions(Type::Primitive(PrimitiveType::Boolean), id, Arc::new(flags)), found);

    let numbers = Float64Array::from(vec![Some(-1.5), None]);
    found = expected([("p=-1.5", Some(Literal::double(-1.5)), &[0]), ("p=null", None, &[1])]);
    assert_eq!(partitions(Type::Primitive(PrimitiveType::Double), id, Arc::new(numbers)), found);

    let uuid = uuid::Uuid::from_u128(7);
    let values = [Some(uuid.as_bytes().to_vec()), None].into_iter();
    let uuids = FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16).unwrap();
    let path = format!("p={uuid}");
    found = expected([(path.as_str(), Some(Literal::uuid(uuid)), &[0]), ("p=null", None, &[1])]);
    assert_eq!(partitions(Type::Primitive(PrimitiveType::Uuid), id, Arc::new(uuids)), found);
}

#[test]
fn the_void_transform_has_no_value_and_makes_no_partition() {
    let table = Table::of_ids(&[(1, "p", Transform::Void)], &[]);
    let files = table.write(&table.ids([5, 6]));
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].path, format!("{}/data/i-1-0-00000.parquet", table.metadata.location()));
    assert_eq!(table.data_file(&files[0]).partition().fields(), [None]);

    let spec = [(2, "void", Transform::Void), (1, "p", Transform::Truncate(10))];
    let table = Table::of_ids(&spec, &[]);
    let files = table.write(&table.ids([5, 15]));
    let values: Vec<_> =
        files.iter().map(|file| table.data_file(file).partition().fields().to_vec()).collect();
    assert_eq!(values, [[None, Some(Literal::long(0))], [None, Some(Literal::long(10))]]);
}

#[test]
fn a_source_column_inside_a_struct_is_found_and_its_null_parent_is_null() {
    let inner = StructType::new(vec![Arc::new(optional(3, "x", PrimitiveType::Int))]);
    let fields = vec![
        required(1, "id", PrimitiveType::Long),
        NestedField::optional(2, "c", Type::Struct(inner)),
    ];
    let table = Table::new(fields, &[(3, "p", Transform::Identity)], &[]);
    let schema = schema_to_arrow_schema(table.metadata.current_schema()).unwrap();
    let DataType::Struct(inner) = schema.field(1).data_type() else { panic!("no struct") };
    let x: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), Some(8), None, Some(7)]));
    let present = NullBuffer::from(vec![true, false, true, true]);
    let column: ArrayRef = Arc::new(StructArray::new(inner.clone(), vec![x], Some(present)));
    // A slice, so that offsets into the arrays are not zero.
    let batch = table.batch(vec![Arc::new(Int64Array::from(vec![0, 1, 2, 3])), column]).slice(1, 3);
    let found: Found = table.write(&batch).iter().map(|file| located(&table, file)).collect();
    let wanted = expected([("p=null", None, &[1, 2]), ("p=7", Some(Literal::int(7)), &[3])]);
    assert_eq!(found, wanted);
}

#[test]
fn several_partition_fields_combine() {
    let spec = [(1, "b", Transform::Truncate(10)), (2, "note", Transform::Identity)];
    let table = Table::of_ids(&spec, &[]);
    let ids = Int64Array::from(vec![1, 11, 2, 12]);
    let notes = StringArray::from(vec![Some("x"), Some("x"), None, Some("x")]);
    let files = table.write(&table.batch(vec![Arc::new(ids), Arc::new(notes)]));
    let found: BTreeMap<_, _> = files.iter().map(|file| located(&table, file)).collect();
    let paths: Vec<_> =
        found.iter().map(|(path, (_, ids))| (path.as_str(), ids.as_slice())).collect();
    let wanted: [(&str, &[i64]); 3] =
        [("b=0/note=null", &[2]), ("b=0/note=x", &[1]), ("b=10/note=x", &[11, 12])];
    assert_eq!(paths, wanted);
    let files: Vec<_> = files.iter().map(|file| table.data_file(file)).collect();
    let x = files.iter().find(|file| file.file_path().contains("b=10")).unwrap();
    let values = [Some(Literal::long(10)), Some(Literal::string("x"))];
    assert_eq!(x.partition().fields(), values);
}
