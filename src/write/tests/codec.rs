//! What zstd keeps for each column counts as memory of the writer.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::*;

const COLUMNS: i32 = 20;
const MIB: u64 = 1 << 20;

/// A table of 20 numbers, at a level of zstd.
fn wide(level: &str) -> Table {
    let fields = (1..=COLUMNS).map(|id| required(id, &format!("n{id}"), PrimitiveType::Long));
    Table::new(fields.collect(), &[], &[("write.parquet.compression-level", level)])
}

/// Rows from the number `first` on: no value repeats, so that no column has a dictionary.
fn rows(table: &Table, first: i64, count: i64) -> RecordBatch {
    let column = |at: i32| {
        let spread = |n: i64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed());
        let number = |n| if at == 1 { n } else { spread(n + i64::from(at)) };
        Arc::new(Int64Array::from_iter_values((first..first + count).map(number))) as ArrayRef
    };
    table.batch((1..=COLUMNS).map(column).collect())
}

fn writer(table: &Table, bound: u64) -> TableWriter {
    table.writer(WriteSettings { max_buffered_bytes: bound, ..WriteSettings::new("i-1-0") })
}

/// The rows of each row group, once all rows were found in their order.
fn row_groups(table: &Table, writer: TableWriter, wanted: i64) -> Vec<i64> {
    let files = writer.close().unwrap().wait().unwrap();
    assert_eq!(files.len(), 1);
    let numbers = table.read(&files[0]);
    let numbers = numbers.column(0).as_primitive::<Int64Type>();
    assert!(numbers.values().iter().copied().eq(0..wanted));
    let opened = File::open(local(&files[0].path)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(opened).unwrap();
    reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect()
}

#[test]
fn a_row_group_ends_before_its_columns_need_contexts_that_pass_the_bound() {
    // 24,576 numbers are a page; then each column gets a context, of some 10 MiB at level 9.
    let written = |level: &str| {
        let (table, bound) = (wide(level), 64 * MIB);
        let mut writer = writer(&table, bound);
        let mut most = 0;
        for first in (0..80_000).step_by(4_000) {
            writer.write(&rows(&table, first, 4_000)).unwrap();
            most = most.max(writer.buffered_bytes());
        }
        assert!(most <= bound, "{most}");
        (row_groups(&table, writer, 80_000), most)
    };
    assert_eq!(written("9").0, [24_000, 24_000, 24_000, 8_000]);
    // At level 1 all together are some 11 MiB.
    let (groups, most) = written("1");
    assert_eq!(groups, [80_000]);
    assert!(most > 11 * MIB + 80_000 * 20, "{most}");
}

#[test]
fn rows_that_alone_need_too_many_contexts_are_written_in_pieces() {
    let table = wide("9");
    let mut writer = writer(&table, 64 * MIB);
    writer.write(&rows(&table, 0, 40_000)).unwrap();
    assert_eq!(row_groups(&table, writer, 40_000), [20_000, 20_000]);
}

#[test]
fn columns_with_a_dictionary_get_theirs_by_rows() {
    let table = wide("9");
    let alike = |count: usize| {
        let column = Arc::new(Int64Array::from(vec![7; count])) as ArrayRef;
        table.batch(vec![column; 20])
    };
    let mut writer = writer(&table, 1 << 30);
    writer.write(&alike(99_999)).unwrap();
    let before = writer.buffered_bytes();
    writer.write(&alike(1)).unwrap();
    let contexts = writer.buffered_bytes() - before;
    assert!((200 * MIB..400 * MIB).contains(&contexts), "{contexts}");
    assert!(writer.abort().is_empty());
}

#[test]
fn a_row_group_that_has_all_the_rows_it_may_have_keeps_no_contexts() {
    let field = required(1, "n1", PrimitiveType::Long);
    let table = Table::new(vec![field], &[], &[("write.parquet.compression-level", "9")]);
    let column = |range| table.batch(vec![Arc::new(Int64Array::from_iter_values(range))]);
    let mut writer = writer(&table, 1 << 30);
    writer.write(&column(0..1_040_000)).unwrap();
    assert!(writer.buffered_bytes() > 10 * MIB, "{}", writer.buffered_bytes());
    // The encoder ends it by itself at 1,048,576 rows.
    writer.write(&column(1_040_000..1_050_000)).unwrap();
    assert!(writer.buffered_bytes() < MIB, "{}", writer.buffered_bytes());
    assert_eq!(row_groups(&table, writer, 1_050_000), [1 << 20, 1_050_000 - (1 << 20)]);
}
