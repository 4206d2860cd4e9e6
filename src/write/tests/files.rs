//! Files roll, stay within their bounds, and never stay behind.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use iceberg::spec::Struct;

use super::super::WriteError;
use super::super::file::{FileFormat, OpenFile};
use super::*;

fn ids_in(table: &Table, file: &PendingFile) -> Vec<i64> {
    table.read(file).column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// A codec that keeps nothing, so that rows are encoded at once where nothing is to be gathered.
const SNAPPY: [(&str, &str); 1] = [("write.parquet.compression-codec", "snappy")];

fn scrambled(id: i64) -> String {
    let bits = id.unsigned_abs().wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{bits:016x}{:016x}", bits.wrapping_mul(bits | 1))
}

fn all_ids(table: &Table, files: &[PendingFile]) -> Vec<i64> {
    let mut ids: Vec<i64> = files.iter().flat_map(|file| ids_in(table, file)).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_writer_without_rows_makes_no_files() {
    let table = Table::of_ids(&[], &[]);
    let mut writer = table.writer(WriteSettings::new("i-1-0"));
    writer.write(&table.ids([])).unwrap();
    assert!(writer.close().unwrap().wait().unwrap().is_empty());
    assert!(table.files_on_disk().is_empty());
}

#[test]
fn files_roll_at_the_target_size_and_hold_every_row_once() {
    let table = Table::of_ids(&[], &[]);
    let target_file_size = 400_000;
    let settings = WriteSettings { target_file_size, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    for batch in 0..50i64 {
        let ids: Vec<i64> = (batch * 1_000..(batch + 1) * 1_000).collect();
        // Text that does not compress, so that sizes are what was written.
        let notes: StringArray = ids.iter().map(|id| Some(scrambled(*id))).collect();
        writer.write(&table.batch(vec![Arc::new(Int64Array::from(ids)), Arc::new(notes)])).unwrap();
    }
    let files = writer.close().unwrap().wait().unwrap();
    assert!(files.len() > 3, "{} files", files.len());
    let (last, full) = files.split_last().unwrap();
    for file in full {
        let near = target_file_size / 2..target_file_size * 2;
        assert!(near.contains(&file.bytes), "{} bytes", file.bytes);
    }
    assert!(last.bytes < target_file_size * 2);
    assert_eq!(all_ids(&table, &files), (0..50_000).collect::<Vec<_>>());
    let names: BTreeSet<_> = files.iter().map(|file| &file.path).collect();
    assert_eq!(names.len(), files.len());
}

#[test]
fn the_target_size_of_the_table_wins() {
    let table = Table::of_ids(&[], &[("write.target-file-size-bytes", "1")]);
    let mut writer = table.writer(WriteSettings::new("i-1-0"));
    for id in 0..3 {
        writer.write(&table.ids([id])).unwrap();
    }
    assert_eq!(writer.close().unwrap().wait().unwrap().len(), 3);
}

#[test]
fn open_files_are_bounded_and_the_least_recently_written_goes_first() {
    let table = Table::of_ids(&[(1, "id", Transform::Identity)], &SNAPPY);
    let settings =
        WriteSettings { gathered_bytes: 0, max_open_files: 2, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    // 1 is closed when 3 comes; 2 stays open because it was used after 1.
    for id in [1, 2, 2, 3, 2, 1] {
        writer.write(&table.ids([id])).unwrap();
    }
    let files = writer.close().unwrap().wait().unwrap();
    let contents: Vec<_> = files.iter().map(|file| ids_in(&table, file)).collect();
    assert_eq!(contents, [vec![1], vec![3], vec![2, 2, 2], vec![1]]);
}

#[test]
fn more_partitions_than_open_files_lose_no_row() {
    let table = Table::of_ids(&[(1, "tens", Transform::Truncate(10))], &SNAPPY);
    let settings =
        WriteSettings { gathered_bytes: 0, max_open_files: 3, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    for turn in 0..4 {
        writer.write(&table.ids((0..100).map(|id| (id * 37 + turn) % 100))).unwrap();
    }
    let files = writer.close().unwrap().wait().unwrap();
    let wanted: Vec<i64> = (0..100).flat_map(|id| [id; 4]).collect();
    assert_eq!(all_ids(&table, &files), wanted);
    for file in &files {
        let tens: BTreeSet<_> = ids_in(&table, file).iter().map(|id| id / 10).collect();
        assert_eq!(tens.len(), 1, "{}", file.path);
    }
}

#[test]
fn buffered_memory_is_bounded_by_ending_row_groups() {
    let table = Table::of_ids(&[(1, "tens", Transform::Truncate(10_000))], &SNAPPY);
    let bound = 200_000;
    let settings = WriteSettings {
        max_buffered_bytes: bound,
        gathered_bytes: 0,
        ..WriteSettings::new("i-1-0")
    };
    let mut writer = table.writer(settings);
    for turn in 0..40 {
        let ids = (0..1_000).map(|n| (n % 4) * 10_000 + turn * 250 + n / 4);
        writer.write(&table.ids(ids)).unwrap();
        assert!(writer.buffered_bytes() <= bound, "{}", writer.buffered_bytes());
    }
    assert!(writer.written_bytes() > 0);
    let files = writer.close().unwrap().wait().unwrap();
    assert_eq!(files.len(), 4, "a file goes on after its row group was ended");
    assert!(files.iter().any(|file| table.data_file(file).split_offsets().unwrap().len() > 1));
    assert_eq!(all_ids(&table, &files), (0..40_000).collect::<Vec<_>>());
}

#[test]
fn buffered_and_written_bytes_are_those_of_the_files() {
    let table = Table::of_ids(&[(1, "id", Transform::Identity)], &SNAPPY);
    let settings =
        WriteSettings { gathered_bytes: 0, max_open_files: 1, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    writer.write(&table.ids([1])).unwrap();
    assert!(writer.buffered_bytes() > 0);
    // An open file has sent nothing but Parquet's magic, or nothing at all.
    assert!(writer.written_bytes() <= 4, "{}", writer.written_bytes());
    writer.write(&table.ids([2])).unwrap();
    let done: u64 =
        table.files_on_disk().iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert!(done > 4 && writer.written_bytes() == done);
    assert!(writer.abort().is_empty());
}

#[test]
fn abort_leaves_no_files_neither_open_nor_done() {
    let table = Table::of_ids(&[(1, "id", Transform::Identity)], &SNAPPY);
    let settings =
        WriteSettings { gathered_bytes: 0, max_open_files: 2, ..WriteSettings::new("i-1-0") };
    let mut writer = table.writer(settings);
    writer.write(&table.ids([1, 2, 3, 4])).unwrap();
    assert_eq!(table.files_on_disk().len(), 4);
    let errors = writer.abort();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(table.files_on_disk().is_empty());
}

#[test]
fn a_file_that_is_already_there_is_neither_overwritten_nor_deleted() {
    let table = Table::of_ids(&[], &[]);
    let before = table.write(&table.ids([1, 2]));
    let mut again = table.writer(WriteSettings::new("i-1-0"));
    let error = again.write(&table.ids([3])).unwrap_err();
    assert!(matches!(&error, WriteError::FileExists { path } if *path == before[0].path));
    assert!(again.abort().is_empty());
    assert_eq!(ids_in(&table, &before[0]), [1, 2]);
}

#[test]
fn a_store_that_fails_leaves_the_writer_to_be_aborted() {
    let table = Table::of_ids(&[], &[]);
    // A file where the table's directory should be: no permission or mount can do better.
    std::fs::write(table.directory.path().join("t"), b"in the way").unwrap();
    let mut writer = table.writer(WriteSettings::new("i-1-0"));
    let error = writer.write(&table.ids([1])).unwrap_err();
    assert!(matches!(&error, WriteError::Storage { path, .. } if path.contains("/data/")));
    assert!(!error.is_transient(), "{error:?}");
    assert!(matches!(writer.close().err().unwrap(), WriteError::Failed));
}

#[test]
fn a_full_disk_is_told_as_such() {
    // The kernel's own full device, reached through a link with the name of a data file.
    let table = Table::of_ids(&[], &[]);
    let path = table.directory.path().join("i-1-0-00000.parquet");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let schema = Arc::clone(table.metadata.current_schema());
    let format = Arc::new(FileFormat::new(schema, &HashMap::new(), 1).unwrap());
    let location = format!("file://{}", path.display());
    let (file_io, rows) = (FileIO::new_with_fs(), table.ids([1]));
    let (there, runtime) = (Struct::empty(), table.runtime.handle());
    let mut file =
        OpenFile::create(format, &file_io, location.clone(), there, &rows, runtime).unwrap();
    let sizes = file.codec().sizes(&rows);
    file.write(&rows, &sizes).unwrap();
    let error = file.close(0).and_then(|(closing, _)| closing.wait()).unwrap_err();
    assert!(matches!(&error, WriteError::StorageFull { path, .. } if *path == location));
    assert!(error.is_transient());
}

#[test]
fn files_that_are_gone_before_they_are_durable_are_an_error() {
    let table = Table::of_ids(&[], &[]);
    let mut writer = table.writer(WriteSettings::new("i-1-0"));
    writer.write(&table.ids([1])).unwrap();
    let closing = writer.close().unwrap();
    let [file] = table.files_on_disk().try_into().unwrap();
    let directory = file.parent().unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    let error = closing.wait().unwrap_err();
    let told = |path: &str| Path::new(path) == directory;
    assert!(matches!(&error, WriteError::SyncDirectory { path, .. } if told(path)), "{error}");
}

#[test]
fn the_schema_and_the_spec_of_the_table_are_named() {
    let table = Table::of_ids(&[(1, "bucket", Transform::Bucket(2))], &[]);
    let files = table.write(&table.ids([1]));
    assert_eq!(files[0].schema_id, table.metadata.current_schema_id());
    assert_eq!(files[0].spec_id, table.metadata.default_partition_spec_id());
    assert_eq!(table.data_file(&files[0]).file_path(), files[0].path);
}

#[test]
fn a_table_that_asks_for_another_format_is_refused() {
    let table = Table::of_ids(&[], &[("write.format.default", "avro")]);
    let metadata = Arc::clone(&table.metadata);
    let runtime = table.runtime.handle().clone();
    let settings = WriteSettings::new("i-1-0");
    let refused = TableWriter::new(metadata, FileIO::new_with_fs(), settings, runtime);
    assert!(matches!(refused.err(), Some(WriteError::Property { value, .. }) if value == "avro"));
}
