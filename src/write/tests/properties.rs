//! Whatever is written in whatever pieces: every row is in one file once, and every bound holds.

use std::collections::HashMap;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use iceberg::spec::Datum;
use proptest::prelude::*;

use super::*;

/// Texts of any length, often alike in their first bytes, up to characters that have no successor.
fn notes() -> impl Strategy<Value = Option<String>> {
    let text = prop_oneof![
        "[a-c]{0,3}",
        "x{28,36}[a-c]{0,3}",
        "\u{10ffff}{6,12}",
        "(é|\u{10ffff}|z){0,20}",
    ];
    proptest::option::weighted(0.8, text)
}

/// Batches of (id, note): what the shard hands over, one after the other.
fn batches() -> impl Strategy<Value = Vec<Vec<(i64, Option<String>)>>> {
    let row = (-40i64..40, notes());
    proptest::collection::vec(proptest::collection::vec(row, 0..30), 1..8)
}

fn settings() -> impl Strategy<Value = WriteSettings> {
    (1u64..20_000, 1usize..5, 1u64..40_000, 0u64..10_000).prop_map(
        |(target, open, buffered, gathered)| WriteSettings {
            target_file_size: target,
            max_open_files: open,
            max_buffered_bytes: buffered,
            gathered_bytes: gathered,
            ..WriteSettings::new("i-1-0")
        },
    )
}

fn within(file: &DataFile, id: i32, value: &Datum) -> bool {
    file.lower_bounds().get(&id).is_none_or(|low| low <= value)
        && file.upper_bounds().get(&id).is_none_or(|high| high >= value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_is_in_one_file_once_and_within_its_bounds(
        batches in batches(),
        settings in settings(),
        partitioned in any::<bool>(),
        // Such pages are soon full, and a context of zstd then passes most of the bounds.
        page_bytes in prop_oneof![Just("196608"), Just("20")],
    ) {
        let spec = [(1, "tens", Transform::Truncate(10))];
        let properties = [("write.parquet.page-size-bytes", page_bytes)];
        let table = Table::of_ids(if partitioned { &spec } else { &[] }, &properties);
        let mut writer = table.writer(settings);
        for batch in &batches {
            let (ids, notes): (Vec<i64>, Vec<Option<String>>) = batch.iter().cloned().unzip();
            let columns: Vec<ArrayRef> =
                vec![Arc::new(Int64Array::from(ids)), Arc::new(StringArray::from(notes))];
            writer.write(&table.batch(columns)).unwrap();
        }
        let files = writer.close().unwrap().wait().unwrap();
        prop_assert_eq!(table.files_on_disk().len(), files.len());

        let mut counts: HashMap<(i64, Option<String>), i64> = HashMap::new();
        for row in batches.into_iter().flatten() {
            *counts.entry(row).or_default() += 1;
        }
        for file in &files {
            let (rows, data_file) = (table.read(file), table.data_file(file));
            prop_assert_eq!(rows.num_rows() as u64, data_file.record_count());
            let ids = rows.column(0).as_primitive::<Int64Type>();
            let notes = rows.column(1).as_string::<i32>();
            let mut nulls = 0;
            for (id, note) in ids.values().iter().zip(notes.iter()) {
                prop_assert!(within(&data_file, 1, &Datum::long(*id)));
                match note {
                    Some(note) => prop_assert!(within(&data_file, 2, &Datum::string(note)), "{}", note),
                    None => nulls += 1,
                }
                *counts.entry((*id, note.map(str::to_owned))).or_default() -= 1;
            }
            prop_assert_eq!(data_file.null_value_counts()[&2], nulls);
        }
        prop_assert!(counts.values().all(|count| *count == 0));
    }
}
