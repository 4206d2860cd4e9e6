//! Rows of table partitions wait until they are worth an encoder, within the writer's memory.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::super::file::FileFormat;
use super::*;

/// Rows of (partition, number from `first` on), in 12 more columns of which no value repeats.
fn rows(table: &Table, partition: i64, first: i64, count: i64) -> RecordBatch {
    let spread = |n: i64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed());
    let numbers = || first..first + count;
    let mut columns = vec![
        Arc::new(Int64Array::from_iter_values(numbers().map(|_| partition))) as ArrayRef,
        Arc::new(Int64Array::from_iter_values(numbers())),
    ];
    columns.extend((3..15).map(|at| {
        Arc::new(Int64Array::from_iter_values(numbers().map(|n| spread(n + at)))) as ArrayRef
    }));
    table.batch(columns)
}

const ROW: u64 = 14 * 8;

fn table() -> Table {
    let column = |id: i32| required(id, &format!("n{id}"), PrimitiveType::Long);
    Table::new((1..15).map(column).collect(), &[(1, "p", Transform::Identity)], &[])
}

/// The numbers of each file with the rows of its row groups, by partition.
fn contents(table: &Table, files: &[PendingFile]) -> Vec<(i64, Vec<i64>, Vec<i64>)> {
    let mut found = Vec::new();
    for file in files {
        let rows = table.read(file);
        let column = |at| rows.column(at).as_primitive::<Int64Type>().values().to_vec();
        let opened = File::open(local(&file.path)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(opened).unwrap();
        let groups = reader.metadata().row_groups().iter().map(|group| group.num_rows());
        found.push((column(0)[0], column(1), groups.collect()));
    }
    found.sort();
    found
}

#[test]
fn rows_wait_until_there_are_enough_of_their_partition() {
    let table = table();
    let settings = WriteSettings { gathered_bytes: 4_000_000, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    let all = |from: i64, to: i64| (from..to).collect::<Vec<i64>>();
    writer.write(&rows(&table, 7, 0, 20_000)).unwrap();
    writer.write(&rows(&table, 8, 0, 20_000)).unwrap();
    assert!(table.files_on_disk().is_empty());
    assert!(writer.buffered_bytes() >= 40_000 * ROW && writer.written_bytes() == 0);
    writer.write(&rows(&table, 8, 20_000, 20_000)).unwrap();
    assert_eq!(table.files_on_disk().len(), 1, "4,480,000 bytes of partition 8 are enough");
    writer.write(&rows(&table, 7, 20_000, 10)).unwrap();
    let files = writer.close().unwrap().wait().unwrap();
    let wanted = [(7, all(0, 20_010), vec![20_010]), (8, all(0, 40_000), vec![40_000])];
    assert_eq!(contents(&table, &files), wanted);
}

#[test]
fn an_abandoned_writer_forgets_the_rows_that_wait() {
    let table = table();
    let mut writer = table.writer(WriteSettings::new("i-1-0"));
    writer.write(&rows(&table, 7, 0, 10)).unwrap();
    assert!(writer.abort().is_empty());
    assert!(table.files_on_disk().is_empty());
}

#[test]
fn many_partitions_share_the_memory_and_have_row_groups_as_large_as_it_allows() {
    let table = table();
    // Of each of 40 partitions an encoder with its row group would take 1.4 MiB and what it holds.
    let (bound, partitions, turns, count) = (16 << 20, 40, 60, 500);
    let settings = WriteSettings { max_buffered_bytes: bound, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    let schema = Arc::clone(table.metadata.current_schema());
    let encoder = FileFormat::new(schema, &HashMap::new(), 1).unwrap().encoder_bytes();
    assert!((1_200_000..1_700_000).contains(&encoder), "{encoder}");
    for turn in 0..turns {
        for partition in 0..partitions {
            writer.write(&rows(&table, partition, turn * count, count)).unwrap();
            let buffered = writer.buffered_bytes();
            assert!(buffered <= bound + encoder, "{buffered}");
        }
    }
    let files = writer.close().unwrap().wait().unwrap();
    let contents = contents(&table, &files);
    assert_eq!(contents.len(), 40, "a file goes on after its row group was ended");
    for (partition, (found, numbers, _)) in (0..).zip(&contents) {
        assert_eq!(*found, partition);
        assert!(numbers.iter().copied().eq(0..turns * count));
    }
    // 16 MiB are 3,700 rows of each partition.
    let groups: usize = contents.iter().map(|(_, _, groups)| groups.len()).sum();
    let rows = usize::try_from(partitions * turns * count).unwrap();
    assert!(rows / groups > 3_500, "{rows} rows in {groups} row groups");
}
