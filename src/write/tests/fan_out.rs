//! A table in which each row is a partition of its own.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::*;

fn by_id() -> Table {
    Table::of_ids(&[(1, "p", Transform::Identity)], &[])
}

#[test]
fn a_partition_for_each_row_stays_within_the_memory_and_each_row_is_in_one_file() {
    let table = by_id();
    let bound = 512 << 10;
    let settings = WriteSettings { max_buffered_bytes: bound, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    let encoder = writer.buffered_bytes_bound() - bound;
    let mut early = 0;
    for batch in 0..10 {
        writer.write(&table.ids(batch * 150..(batch + 1) * 150)).unwrap();
        let buffered = writer.buffered_bytes();
        // What describes files cannot be shed.
        let most = (bound + encoder).max(2 * writer.described_bytes());
        assert!(buffered <= most, "{buffered} of {most} in batch {batch}");
        assert_eq!(writer.files(), 150 * (usize::try_from(batch).unwrap() + 1));
        early = table.files_on_disk().len();
    }
    assert!(early > 100, "only {early} files were begun before the end");
    let files = writer.close().unwrap().wait().unwrap();
    let mut ids = BTreeSet::new();
    for file in &files {
        let rows = table.read(file);
        assert_eq!(rows.num_rows(), 1);
        ids.insert(rows.column(0).as_primitive::<Int64Type>().value(0));
    }
    assert!(ids.len() == 1500 && files.len() == 1500, "{} {}", ids.len(), files.len());
}

#[test]
fn rows_of_a_partition_that_was_forgotten_go_into_another_file_of_it() {
    let table = by_id();
    let settings = WriteSettings {
        max_buffered_bytes: 64 << 10,
        max_open_files: 2,
        ..WriteSettings::new("i-1-0")
    };
    let mut writer = table.writer(settings);
    for turn in 0..3 {
        writer.write(&table.ids(0..600)).unwrap();
        assert!(writer.files() >= 600 * (turn + 1) - 50, "{}", writer.files());
    }
    let files = writer.close().unwrap().wait().unwrap();
    assert_eq!(files.iter().map(|file| file.records).sum::<u64>(), 1800);
    let paths: BTreeSet<_> = files.iter().map(|file| &file.path).collect();
    assert_eq!(paths.len(), files.len());
}

#[test]
fn what_describes_files_is_about_what_they_take_in_a_checkpoint() {
    let names = vec![("write.metadata.metrics.default", "full")];
    let wide: Vec<_> =
        (1..60).map(|id| required(id, &format!("n{id}"), PrimitiveType::Long)).collect();
    let text = || Table::of_ids(&[(2, "p", Transform::Identity)], &names);
    let one = |table: &Table, length: usize| {
        let notes =
            StringArray::from_iter_values((0..40).map(|n| format!("{n}{}", "x".repeat(length))));
        table.batch(vec![Arc::new(Int64Array::from_iter_values(0..40)), Arc::new(notes)])
    };
    let (few, short, long, wide) =
        (by_id(), text(), text(), Table::new(wide, &[(1, "p", Transform::Identity)], &[]));
    let columns =
        (0..59).map(|_| Arc::new(Int64Array::from_iter_values(0..40)) as ArrayRef).collect();
    let batches = [few.ids(0..40), one(&short, 3), one(&long, 9_000), wide.batch(columns)];
    for (table, batch) in [&few, &short, &long, &wide].into_iter().zip(batches) {
        let mut writer = table.writer(WriteSettings::new("i-1-0"));
        writer.write(&batch).unwrap();
        let before = writer.described_bytes();
        let closing = writer.close().unwrap();
        let told = closing.described_bytes() as f64;
        let files = closing.wait().unwrap();
        let written = serde_json::to_vec(&files).unwrap().len() as f64;
        println!("{before} before, {told} told, {written} written");
        assert!(told > 0.8 * written && told < 1.7 * written, "{told} told, {written} written");
    }
}
