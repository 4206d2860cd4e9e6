//! Files that were closed before the table moved on to another schema or partition spec.

use iceberg::spec::{
    ManifestList, NestedField, PrimitiveType, Transform, Type, UnboundPartitionSpec,
};

use super::*;
use crate::protocol;

async fn spec_ids_of_manifests(loaded: &LoadedTable) -> Vec<(i32, u32)> {
    let head = loaded.metadata.current_snapshot().unwrap();
    let bytes = loaded.io.new_input(head.manifest_list()).unwrap().read().await.unwrap();
    let list = ManifestList::parse_with_version(&bytes, loaded.metadata.format_version()).unwrap();
    let mut found: Vec<_> = list
        .consume_entries()
        .into_iter()
        .map(|manifest| (manifest.partition_spec_id, manifest.added_files_count.unwrap()))
        .collect();
    found.sort_unstable();
    found
}

#[tokio::test]
async fn files_of_two_specs_are_committed_with_a_manifest_for_each() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("place", &[]).await;
    let old_a = write_file(&loaded, &[(1, "a")], &[Literal::string("a")]).await;
    let old_b = write_file(&loaded, &[(2, "b")], &[Literal::string("b")]).await;
    let source_id = loaded.metadata.current_schema().field_id_by_name("id").unwrap();
    bench
        .foreign(|builder| {
            builder.add_default_partition_spec(
                UnboundPartitionSpec::builder()
                    .add_partition_field(source_id, "id_bucket", Transform::Bucket(4))?
                    .build(),
            )
        })
        .await;
    let loaded = bench.load().await;
    assert_ne!(loaded.metadata.default_partition_spec_id(), old_a.spec_id);
    let new = write_file(&loaded, &[(3, "c")], &[Literal::int(1)]).await;
    let new_spec = new.spec_id;
    let commit = pending(&loaded, 0, 3, vec![old_a.clone(), new, old_b]);
    committed(bench.catalog.commit_append(&loaded, &commit).await);
    let loaded = bench.load().await;
    assert_eq!(ids(&loaded).await, [1, 2, 3]);
    assert_eq!(spec_ids_of_manifests(&loaded).await, [(old_a.spec_id, 2), (new_spec, 1)]);
    assert_eq!(head_summary(&loaded, "changed-partition-count"), "3");
}

#[tokio::test]
async fn a_file_of_an_older_schema_is_committed() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let old = write_file(&loaded, &[(1, "a")], &[]).await;
    let mut fields = loaded.metadata.current_schema().as_struct().fields().to_vec();
    fields.push(Arc::new(NestedField::optional(50, "x", Type::Primitive(PrimitiveType::Int))));
    let wider = Schema::builder().with_schema_id(1).with_fields(fields).build().unwrap();
    bench.foreign(|builder| builder.add_current_schema(wider)).await;
    let loaded = bench.load().await;
    assert_ne!(loaded.metadata.current_schema_id(), old.schema_id);
    committed(bench.catalog.commit_append(&loaded, &pending(&loaded, 0, 1, vec![old])).await);
    let loaded = bench.load().await;
    assert_eq!(ids(&loaded).await, [1]);
    let head = loaded.metadata.current_snapshot().unwrap();
    assert_eq!(head.schema_id(), Some(loaded.metadata.current_schema_id()));
}

/// A file with a value of its partition as the writer of data files describes it.
fn of_partition(file: PendingFile, field_id: i32, value: &str) -> PendingFile {
    let values = BTreeMap::from([(field_id, Some(value.as_bytes().to_vec()))]);
    let data_file = protocol::with_partition_values(&file.data_file, &values).unwrap();
    PendingFile { data_file, ..file }
}

#[tokio::test]
async fn a_file_whose_schema_another_engine_cleaned_away_is_committed() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("place", &[]).await;
    let old = write_file(&loaded, &[(1, "a")], &[Literal::string("a")]).await;
    let old = PendingFile { schema_id: 9, ..of_partition(old, 1000, "a") };
    committed(bench.catalog.commit_append(&loaded, &pending(&loaded, 0, 1, vec![old])).await);
    assert_eq!(ids(&bench.load().await).await, [1]);
}

#[tokio::test]
async fn a_file_whose_spec_was_cleaned_away_and_its_id_given_to_another_is_refused() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("place", &[]).await;
    let old = write_file(&loaded, &[(1, "a")], &[Literal::string("a")]).await;
    for (field_id, told) in [(1001, "is another one now"), (1000, "")] {
        let file = of_partition(old.clone(), field_id, "a");
        let commit = pending(&loaded, 0, 1, vec![file]);
        match bench.catalog.commit_append(&loaded, &commit).await {
            Err(error) => assert!(!told.is_empty() && error.to_string().contains(told), "{error}"),
            Ok(_) => assert!(told.is_empty()),
        }
    }
}

#[tokio::test]
async fn a_file_partitioned_by_a_column_that_was_dropped_is_committed() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("place", &[]).await;
    let old = write_file(&loaded, &[(1, "a")], &[Literal::string("a")]).await;
    bench.drop_partition_column(&loaded).await;
    let loaded = bench.load().await;
    let new = write_file(&loaded, &[(2, "b")], &[]).await;
    let commit = pending(&loaded, 0, 2, vec![old.clone(), new]);
    committed(bench.catalog.commit_append(&loaded, &commit).await);
    let loaded = bench.load().await;
    assert_eq!(loaded.metadata.snapshots().count(), 1);
    assert_eq!(head_summary(&loaded, "total-records"), "2");
    assert_eq!(spec_ids_of_manifests(&loaded).await.len(), 2);
}

/// The table becomes one partitioned by a new column of UUIDs, as another engine may alter it any time.
async fn alter_to_identity_of_uuid(bench: &Bench) {
    let loaded = bench.load().await;
    let mut fields = loaded.metadata.current_schema().as_struct().fields().to_vec();
    fields.push(Arc::new(NestedField::optional(50, "u", Type::Primitive(PrimitiveType::Uuid))));
    let wider = Schema::builder().with_schema_id(1).with_fields(fields).build().unwrap();
    let change = |builder: TableMetadataBuilder| {
        let builder = builder.add_current_schema(wider)?;
        let spec = UnboundPartitionSpec::builder();
        let spec = spec.add_partition_field(50, "u", Transform::Identity)?.build();
        builder.add_default_partition_spec(spec)
    };
    bench.foreign(change).await;
}

#[tokio::test]
async fn a_file_of_before_the_table_became_one_that_cannot_be_written_is_committed() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("place", &[]).await;
    let old = write_file(&loaded, &[(1, "a")], &[Literal::string("a")]).await;
    alter_to_identity_of_uuid(&bench).await;
    let loaded = bench.load().await;
    let refused = check_writable(&loaded.name, &loaded.metadata).unwrap_err().to_string();
    assert!(refused.contains("\"u\" has values of uuid"), "{refused}");
    committed(bench.catalog.commit_append(&loaded, &pending(&loaded, 0, 1, vec![old])).await);
    assert_eq!(ids(&bench.load().await).await, [1]);
}

#[tokio::test]
async fn a_file_of_a_spec_that_cannot_be_written_is_refused_with_the_way_out() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let file = write_file(&loaded, &[(1, "a")], &[]).await;
    alter_to_identity_of_uuid(&bench).await;
    let loaded = bench.load().await;
    let spec_id = loaded.metadata.default_partition_spec_id();
    let field_id = loaded.metadata.default_partition_spec().fields()[0].field_id;
    let values = BTreeMap::from([(field_id, Some(vec![7; 16]))]);
    let data_file = protocol::with_partition_values(&file.data_file, &values).unwrap();
    let file = PendingFile { spec_id, data_file, ..file };
    let before = bench.metadata_files();
    let commit = pending(&loaded, 0, 1, vec![file]);
    let error = bench.catalog.commit_append(&loaded, &commit).await.unwrap_err();
    assert!(matches!(error, TableError::BadFile { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("values of uuid") && told.contains("ledger adopt --yes"), "{told}");
    assert_eq!(bench.metadata_files(), before);
}

#[tokio::test]
async fn files_that_do_not_fit_are_refused_by_path_before_anything_is_written() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let good = write_file(&loaded, &[(1, "a")], &[]).await;
    let before = bench.metadata_files();
    let bad = [
        (vec![PendingFile { spec_id: 9, ..good.clone() }], "partition spec 9"),
        (vec![PendingFile { records: 2, ..good.clone() }], "2 rows"),
        (vec![PendingFile { path: "file:///x".into(), ..good.clone() }], "another file"),
        (vec![PendingFile { data_file: "{}".into(), ..good.clone() }], "cannot be read"),
        (vec![good.clone(), good.clone()], "twice"),
    ];
    for (files, reason) in bad {
        let path = files[0].path.clone();
        let commit = pending(&loaded, 0, 1, files);
        let error = bench.catalog.commit_append(&loaded, &commit).await.unwrap_err();
        assert!(matches!(error, TableError::BadFile { .. }), "{error}");
        let told = error.to_string();
        assert!(told.contains(reason) && told.contains(&path), "{reason} is not in {told}");
        assert!(told.contains("icestream ledger adopt --yes"), "{told}");
        assert!(!error.is_transient());
    }
    assert_eq!(bench.metadata_files(), before);
}
