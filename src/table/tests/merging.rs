//! Manifests merged in tiers, and commits that read nothing that is known.

use iceberg::spec::{
    FormatVersion, ManifestEntry, NestedField, PrimitiveType, Transform, Type, UnboundPartitionSpec,
};

use super::*;
use crate::table::cache::FileCache;
use crate::table::{Maintenance, list, manifest};

const CACHE: usize = 8 << 20;
/// Merge at three of a tier.
const THREE: (&str, &str) = ("commit.manifest.min-count-to-merge", "3");

/// Every live entry of the head with its snapshot id and sequence numbers, by path.
async fn entries(loaded: &LoadedTable) -> BTreeMap<String, (i64, i64, i64)> {
    let mut found = BTreeMap::new();
    for file in list::of_head(loaded, &FileCache::new(0)).await.unwrap() {
        // By the crate's own reading, not by ours.
        let read = file.load_manifest(&loaded.io).await.unwrap();
        let bytes = loaded.io.new_input(&file.manifest_path).unwrap().read().await.unwrap();
        let (ours, _) = manifest::live_entries(&bytes, &file).unwrap();
        let theirs: Vec<&ManifestEntry> =
            read.entries().iter().map(AsRef::as_ref).filter(|entry| entry.is_alive()).collect();
        assert_eq!(ours.iter().collect::<Vec<_>>(), theirs);
        for entry in theirs {
            let numbers = (
                entry.snapshot_id.unwrap(),
                entry.sequence_number.unwrap(),
                entry.file_sequence_number.unwrap(),
            );
            assert!(found.insert(entry.file_path().to_owned(), numbers).is_none());
        }
    }
    found
}

async fn manifests(loaded: &LoadedTable) -> usize {
    list::of_head(loaded, &FileCache::new(0)).await.unwrap().len()
}

/// Appends `count` files of a row each, one a commit, the first with the id and offset `from`.
async fn append_many(
    bench: &Bench,
    maintenance: &Arc<Maintenance>,
    from: i64,
    count: i64,
    partition: &[Literal],
) -> LoadedTable {
    let mut loaded = bench.load().await;
    for id in from..from + count {
        let file = write_file(&loaded, &[(id, "x")], partition).await;
        let commit = pending(&loaded, id, id + 1, vec![file]);
        let appended = append(&bench.catalog, &loaded, &commit, maintenance).await.unwrap();
        loaded = committed(Ok(appended.outcome));
    }
    loaded
}

#[tokio::test]
async fn merged_entries_keep_their_snapshot_and_both_sequence_numbers() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE]).await;
    let maintenance = Maintenance::new(CACHE, false);
    let mut expected = BTreeMap::new();
    for id in 0..40 {
        let loaded = append_many(&bench, &maintenance, id, 1, &[]).await;
        let head = loaded.metadata.current_snapshot().unwrap();
        let (snapshot, number) = (head.snapshot_id(), head.sequence_number());
        let now = entries(&loaded).await;
        for path in now.keys() {
            expected.entry(path.clone()).or_insert((snapshot, number, number));
        }
        assert_eq!(now, expected, "after {id}");
        // Up to three of each of the tiers 1, 3, 9 and 27, and one while a merge is due.
        assert!(manifests(&loaded).await <= 13, "after {id}");
    }
    assert_eq!(ids(&bench.load().await).await, (0..40).collect::<Vec<_>>());
    assert_eq!(expected.len(), 40);
    assert!(maintenance.totals().merged_manifests >= 36);
}

#[tokio::test]
async fn the_summary_tells_what_was_merged() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE]).await;
    let maintenance = Maintenance::new(CACHE, false);
    append_many(&bench, &maintenance, 0, 3, &[]).await;
    let before = bench.load().await;
    assert_eq!(head_summary(&before, "manifests-replaced"), "0");
    let after = append_many(&bench, &maintenance, 3, 1, &[]).await;
    for (key, value) in [
        ("manifests-created", "2"),
        ("manifests-replaced", "3"),
        ("manifests-kept", "0"),
        ("added-data-files", "1"),
        ("total-data-files", "4"),
        ("total-records", "4"),
    ] {
        assert_eq!(head_summary(&after, key), value, "{key}");
    }
}

#[tokio::test]
async fn a_table_may_forbid_merging() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE, ("commit.manifest-merge.enabled", "false")]).await;
    let loaded = append_many(&bench, &Maintenance::new(CACHE, false), 0, 8, &[]).await;
    assert_eq!(manifests(&loaded).await, 8);
}

/// The first row id of each live file of the head, by path, as format version 3 says what is inherited.
async fn row_ids(loaded: &LoadedTable) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for file in list::of_head(loaded, &FileCache::new(0)).await.unwrap() {
        let mut next = i64::try_from(file.first_row_id.unwrap()).unwrap();
        for entry in file.load_manifest(&loaded.io).await.unwrap().entries() {
            let of_its_own = entry.data_file.first_row_id();
            found.insert(entry.file_path().to_owned(), of_its_own.unwrap_or(next));
            if of_its_own.is_none() {
                next += i64::try_from(entry.record_count()).unwrap();
            }
        }
    }
    found
}

#[tokio::test]
async fn merged_manifests_of_format_version_3_keep_all_row_ids_as_they_were() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE, ("format-version", "3")]).await;
    let maintenance = Maintenance::new(CACHE, false);
    let mut expected = BTreeMap::new();
    let mut next = 0;
    for id in 0..40 {
        let loaded = bench.load().await;
        // Two files of different size a commit, so that places in a manifest matter.
        let (rows, from) = ([(id, "x"), (id + 1_000, "y"), (id + 2_000, "z")], 3 * id);
        let files = vec![
            write_file(&loaded, &rows[..1], &[]).await,
            write_file(&loaded, &rows[1..], &[]).await,
        ];
        for file in &files {
            expected.insert(file.path.clone(), next);
            next += i64::try_from(file.records).unwrap();
        }
        let commit = pending(&loaded, from, from + 3, files);
        let appended = append(&bench.catalog, &loaded, &commit, &maintenance).await.unwrap();
        let loaded = committed(Ok(appended.outcome));
        assert_eq!(loaded.metadata.format_version(), FormatVersion::V3);
        assert_eq!(row_ids(&loaded).await, expected, "after {id}");
        assert_eq!(loaded.metadata.next_row_id(), u64::try_from(next).unwrap());
        let head = loaded.metadata.current_snapshot().unwrap();
        assert_eq!(head.added_rows_count(), Some(3), "a merge brings no rows");
        assert_eq!(entries(&loaded).await.len(), expected.len());
        assert!(manifests(&loaded).await <= 16, "after {id}");
    }
    assert!(maintenance.totals().merged_manifests >= 36);
    assert_eq!(ids(&bench.load().await).await.len(), 120);
}

#[tokio::test]
async fn a_table_that_was_upgraded_to_format_version_3_merges_once_its_rows_have_ids() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE]).await;
    let maintenance = Maintenance::new(CACHE, false);
    append_many(&bench, &Maintenance::none(), 0, 3, &[]).await;
    bench.foreign(|builder| builder.upgrade_format_version(FormatVersion::V3)).await;
    let first = append_many(&bench, &maintenance, 3, 1, &[]).await;
    assert_eq!(maintenance.totals().merged_manifests, 0);
    let given = row_ids(&first).await;
    assert_eq!(
        given.values().copied().collect::<std::collections::BTreeSet<_>>(),
        (0..4).collect()
    );
    let merged = append_many(&bench, &maintenance, 4, 1, &[]).await;
    assert!(maintenance.totals().merged_manifests >= 3);
    let after = row_ids(&merged).await;
    assert!(given.iter().all(|(path, id)| after[path] == *id), "{given:?} {after:?}");
    assert_eq!(ids(&bench.load().await).await, (0..5).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_commit_reads_nothing_that_an_earlier_one_wrote() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE]).await;
    let maintenance = Maintenance::new(CACHE, false);
    append_many(&bench, &maintenance, 0, 30, &[]).await;
    assert_eq!(maintenance.totals().files_read, 0);
    // Another process knows nothing yet: the list, and what it merges.
    let another = Maintenance::new(CACHE, false);
    append_many(&bench, &another, 30, 1, &[]).await;
    let first = another.totals().files_read;
    assert!((1..=4).contains(&first), "{first}");
    append_many(&bench, &another, 31, 2, &[]).await;
    assert!(another.totals().files_read <= first + 6, "{:?}", another.totals());
}

#[tokio::test]
async fn a_commit_of_another_is_read_and_then_known() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE]).await;
    let (ours, theirs) = (Maintenance::new(CACHE, false), Maintenance::new(CACHE, false));
    append_many(&bench, &ours, 0, 2, &[]).await;
    append_many(&bench, &theirs, 2, 1, &[]).await;
    let loaded = append_many(&bench, &ours, 3, 2, &[]).await;
    // Their list, and their manifest when it was merged.
    assert_eq!(ours.totals().files_read, 2);
    assert_eq!(ids(&loaded).await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_conflict_deletes_the_merged_manifest_and_keeps_those_it_stands_for() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE]).await;
    let maintenance = Maintenance::new(CACHE, false);
    let stale = append_many(&bench, &maintenance, 0, 3, &[]).await;
    bench.foreign(|b| b.set_properties(HashMap::from([("owner".into(), "them".into())]))).await;
    let files = bench.metadata_files();
    let commit = pending(&stale, 3, 4, vec![write_file(&stale, &[(3, "x")], &[]).await]);
    let appended = append(&bench.catalog, &stale, &commit, &maintenance).await.unwrap();
    conflict(Ok(appended.outcome));
    assert!(appended.freed.is_none());
    assert_eq!(bench.metadata_files(), files);
    let loaded = bench.load().await;
    let appended = append(&bench.catalog, &loaded, &commit, &maintenance).await.unwrap();
    let loaded = committed(Ok(appended.outcome));
    assert_eq!(ids(&loaded).await, [0, 1, 2, 3]);
    assert_eq!(manifests(&loaded).await, 2);
    assert_eq!(maintenance.totals().files_read, 0);
}

#[tokio::test]
async fn partition_and_schema_evolution_survive_merges() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("place", &[THREE]).await;
    let maintenance = Maintenance::new(CACHE, false);
    append_many(&bench, &maintenance, 0, 5, &[Literal::string("a")]).await;
    let id = loaded.metadata.current_schema().field_id_by_name("id").unwrap();
    let spec = UnboundPartitionSpec::builder()
        .add_partition_field(id, "id_bucket", Transform::Bucket(4))
        .unwrap()
        .build();
    bench.foreign(|builder| builder.add_default_partition_spec(spec)).await;
    append_many(&bench, &maintenance, 5, 5, &[Literal::int(1)]).await;
    let mut fields = loaded.metadata.current_schema().as_struct().fields().to_vec();
    fields.push(Arc::new(NestedField::optional(50, "more", Type::Primitive(PrimitiveType::Int))));
    let wider = Schema::builder().with_schema_id(1).with_fields(fields).build().unwrap();
    bench.foreign(|builder| builder.add_current_schema(wider)).await;

    // Files of either spec, with the schema of before.
    let older = loaded;
    let mut now = bench.load().await;
    for id in 10..16 {
        let file = write_file(&older, &[(id, "b")], &[Literal::string("b")]).await;
        let commit = pending(&now, id, id + 1, vec![file]);
        let appended = append(&bench.catalog, &now, &commit, &maintenance).await.unwrap();
        now = committed(Ok(appended.outcome));
    }
    assert_eq!(ids(&now).await, (0..16).collect::<Vec<_>>());
    assert_eq!(entries(&now).await.len(), 16);
    let specs: Vec<i32> = list::of_head(&now, &FileCache::new(0))
        .await
        .unwrap()
        .iter()
        .map(|manifest| manifest.partition_spec_id)
        .collect();
    assert!(specs.len() <= 10, "{specs:?}");
    assert!(specs.contains(&0) && specs.contains(&1), "{specs:?}");
    let table = now.to_iceberg().unwrap();
    let place = iceberg::expr::Reference::new("place").equal_to(iceberg::spec::Datum::string("b"));
    let scan = table.scan().with_filter(place).select(["id"]).build().unwrap();
    let batches: Vec<RecordBatch> = scan.to_arrow().await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 6);
}

#[tokio::test]
async fn manifests_whose_partition_column_was_dropped_are_left_alone() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("place", &[THREE]).await;
    let maintenance = Maintenance::new(CACHE, false);
    append_many(&bench, &maintenance, 0, 3, &[Literal::string("a")]).await;
    bench.drop_partition_column(&loaded).await;
    let loaded = append_many(&bench, &maintenance, 3, 4, &[]).await;
    let mut specs: Vec<i32> = list::of_head(&loaded, &FileCache::new(0))
        .await
        .unwrap()
        .iter()
        .map(|manifest| manifest.partition_spec_id)
        .collect();
    specs.sort_unstable();
    assert_eq!(specs, [0, 0, 0, 1, 1]);
    assert_eq!(head_summary(&loaded, "total-records"), "7");
}

#[tokio::test]
async fn a_manifest_that_cannot_be_understood_is_left_alone_and_not_tried_again() {
    let bench = Bench::new().await;
    bench.create_with("", &[THREE]).await;
    let loaded = append_many(&bench, &Maintenance::new(CACHE, false), 0, 3, &[]).await;
    let list = list::of_head(&loaded, &FileCache::new(0)).await.unwrap();
    let broken = &list[1].manifest_path;
    let output = loaded.io.new_output(broken).unwrap();
    output.write("garbage".into()).await.unwrap();
    let maintenance = Maintenance::new(CACHE, false);
    let loaded = append_many(&bench, &maintenance, 3, 3, &[]).await;
    let paths: Vec<String> = list::of_head(&loaded, &FileCache::new(0))
        .await
        .unwrap()
        .into_iter()
        .map(|manifest| manifest.manifest_path)
        .collect();
    assert!(paths.contains(broken), "the table still says what it says");
    assert!(maintenance.cache.is_unfit(broken));
    assert!(paths.len() < 6, "the others were merged: {paths:?}");
}
