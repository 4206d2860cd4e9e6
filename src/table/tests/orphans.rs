//! Files that nothing refers to, on real local files.

use std::collections::{BTreeSet, HashSet};

use iceberg::spec::{
    MAIN_BRANCH, ManifestWriter, Operation, Snapshot, SnapshotReference, SnapshotRetention, Summary,
};

use super::*;
use crate::base::location::local_path;
use crate::protocol::{DataFileNames, Refusal};

const INSTANCE: &str = "0123456789abcdef0123456789abcdef";
/// Everything is older.
const LATER: i64 = i64::MAX;

/// The location of a data file of ours whose epoch began at `offset`.
fn own_path(loaded: &LoadedTable, offset: i64) -> String {
    let uuid = loaded.metadata.uuid().to_string();
    let names = DataFileNames::new(&uuid, PIPELINE, 0, INSTANCE, (1_700_000_000_000, 0));
    format!(
        "{}/data/{}-00000.parquet",
        loaded.metadata.location(),
        names.prefix("readings", 0, offset, 1)
    )
}

fn candidates(loaded: &LoadedTable, before_ms: i64) -> OrphanSearch {
    let root = format!("{}/data", loaded.metadata.location());
    OrphanSearch::new(loaded, root, before_ms)
}

/// Lists and judges everything.
async fn judge(bench: &Bench, held: &[&str]) -> Result<(Vec<String>, Vec<String>), OrphansError> {
    let loaded = bench.load().await;
    let held: HashSet<String> = held.iter().map(|name| (*name).to_owned()).collect();
    let mut search = candidates(&loaded, LATER);
    let (mut orphans, mut undecided) = (Vec::new(), Vec::new());
    while let Some(part) = search.candidates().await? {
        let judged = part.judge(&bench.catalog, &loaded, PIPELINE, &held).await?;
        orphans.extend(judged.orphans.into_iter().map(|file| file.path));
        undecided.extend(judged.undecided.into_iter().map(|file| file.path));
    }
    Ok((orphans, undecided))
}

/// Commits a file with a name of ours: the offsets `[from, from + 2)`.
async fn append_own(bench: &Bench, from: i64) -> String {
    let loaded = bench.load().await;
    let path = own_path(&loaded, from);
    let file = write_file_at(&loaded, &path, &[(from, "a"), (from + 1, "b")], &[]).await;
    let pending = pending(&loaded, from, from + 2, vec![file]);
    committed(bench.catalog.commit_append(&loaded, &pending).await);
    path
}

fn put(path: &str) {
    std::fs::write(local_path(path).unwrap(), b"not even a footer").unwrap();
}

#[tokio::test]
async fn a_file_committed_between_the_listing_and_the_reading_of_the_table_is_kept() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let path = own_path(&loaded, 0);
    let file = write_file_at(&loaded, &path, &[(0, "a"), (1, "b")], &[]).await;
    let mut search = candidates(&loaded, LATER);
    let listed = search.candidates().await.unwrap().unwrap();
    // The listing is over when the commit comes, and its ledger is above the file's first record.
    committed(bench.catalog.commit_append(&loaded, &pending(&loaded, 0, 2, vec![file])).await);
    let judged = listed.judge(&bench.catalog, &loaded, PIPELINE, &HashSet::new()).await.unwrap();
    assert_eq!((judged.orphans, judged.undecided), (Vec::new(), Vec::new()));
    assert_eq!(judged.referenced, 1);
}

#[tokio::test]
async fn a_file_is_kept_until_the_ledger_has_passed_its_first_record() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    append_own(&bench, 0).await;
    let open = own_path(&loaded, 2);
    put(&open);
    assert_eq!(judge(&bench, &[]).await.unwrap(), (vec![], vec![open.clone()]));
    // Another process brings these records in.
    bench.append_rows(2, &[(2, "c")]).await;
    assert_eq!(judge(&bench, &[]).await.unwrap(), (vec![open.clone()], vec![]));
    // One that a checkpoint names is left alone even so.
    let name = open.rsplit('/').next().unwrap();
    assert_eq!(judge(&bench, &[name]).await.unwrap(), (vec![], vec![open]));
}

#[tokio::test]
async fn young_files_and_files_of_other_programs_are_not_even_looked_at() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    append_own(&bench, 0).await;
    let directory = format!("{}/data", loaded.metadata.location());
    put(&format!("{directory}/00000-0-0c5a2f1e-7c0f-4c1f-9e57-1a3f6f0d9f11.parquet"));
    put(&format!("{directory}/notes.txt"));
    let metadata = format!("{}/metadata", loaded.metadata.location());
    put(&format!("{metadata}/0c5a2f1e-7c0f-4c1f-9e57-1a3f6f0d9f11-m0.avro"));
    assert_eq!(judge(&bench, &[]).await.unwrap(), (vec![], vec![]));
    put(&own_path(&loaded, 1));
    assert_eq!(judge(&bench, &[]).await.unwrap().0.len(), 1);
    for young in [1_700_000_000_000, 0] {
        assert!(candidates(&loaded, young).candidates().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn what_a_foreign_expiry_leaves_is_found_and_what_any_snapshot_has_is_not() {
    let bench = Bench::new().await;
    bench.create_with("", &[("commit.manifest.min-count-to-merge", "2")]).await;
    let mut data = BTreeSet::new();
    for from in [0, 2, 4, 6] {
        data.insert(append_own(&bench, from).await);
    }
    assert_eq!(judge(&bench, &[]).await.unwrap(), (vec![], vec![]), "all snapshots are there");

    let before: BTreeSet<String> = metadata_avro(&bench);
    let loaded = bench.load().await;
    let head = loaded.metadata.current_snapshot_id().unwrap();
    let old: Vec<i64> =
        loaded.metadata.snapshots().map(|s| s.snapshot_id()).filter(|id| *id != head).collect();
    bench.foreign(|builder| Ok(builder.remove_snapshots(&old))).await;
    let (orphans, undecided) = judge(&bench, &[]).await.unwrap();
    assert!(undecided.is_empty(), "{undecided:?}");
    assert!(orphans.iter().all(|path| !data.contains(path)), "{orphans:?}");
    // Three lists, and the manifests that were merged away.
    assert!(orphans.len() >= 5, "{orphans:?}");
    let loaded = bench.load().await;
    let files: Vec<_> = {
        let mut search = candidates(&loaded, LATER);
        let part = search.candidates().await.unwrap().unwrap();
        part.judge(&bench.catalog, &loaded, PIPELINE, &HashSet::new()).await.unwrap().orphans
    };
    let outcomes = delete_orphans(&loaded, files).await;
    assert!(outcomes.iter().all(|(_, error)| error.is_none()));
    assert_eq!(metadata_avro(&bench).len(), before.len() - orphans.len());
    assert_eq!(ids(&bench.load().await).await, (0..8).collect::<Vec<_>>());
    bench.append_rows(8, &[(8, "x")]).await;
    assert_eq!(judge(&bench, &[]).await.unwrap(), (vec![], vec![]));
}

fn metadata_avro(bench: &Bench) -> BTreeSet<String> {
    bench.metadata_files().into_iter().filter(|name| name.ends_with(".avro")).collect()
}

#[tokio::test]
async fn a_file_of_a_branch_alone_is_kept() {
    let bench = Bench::new().await;
    bench.create().await;
    append_own(&bench, 0).await;
    let loaded = bench.load().await;
    let path = own_path(&loaded, 0).replace("-00001-", "-00002-");
    let written = write_file_at(&loaded, &path, &[(7, "x")], &[]).await;
    assert_eq!(judge(&bench, &[]).await.unwrap(), (vec![path], vec![]), "before the branch has it");

    let metadata = &loaded.metadata;
    let schema = metadata.current_schema().clone();
    let spec = metadata.default_partition_spec();
    let partition_type = spec.partition_type(&schema).unwrap();
    let (json, kind) = (&written.data_file, &partition_type);
    let file = iceberg::spec::deserialize_data_file_from_json(json, 0, kind, &schema).unwrap();
    let (id, manifest_path) = (4711, manifest::new_path(metadata));
    let version = metadata.format_version();
    let fill = |writer: &mut ManifestWriter| writer.add_file(file, -1);
    let encoded = manifest::encode(&manifest_path, version, id, schema, spec, fill).await;
    let (manifest, encoded) = encoded.unwrap();
    let list = list::encode(&loaded, id, vec![manifest]).await.unwrap();
    let snapshot = Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(None)
        .with_sequence_number(metadata.next_sequence_number())
        .with_timestamp_ms(metadata.last_updated_ms())
        .with_manifest_list(list.file.path.clone())
        .with_summary(Summary {
            operation: Operation::Append,
            additional_properties: HashMap::new(),
        })
        .with_schema_id(metadata.current_schema_id())
        .build();
    io::write_all(&loaded.io, metadata.location(), &[encoded, list.file]).await.unwrap();
    bench.foreign(|builder| builder.set_branch_snapshot(snapshot, "audit")).await;
    assert_eq!(judge(&bench, &[]).await.unwrap(), (vec![], vec![]));
}

#[tokio::test]
async fn nothing_is_judged_while_ledger_and_journal_contradict_each_other() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    append_own(&bench, 0).await;
    let first = bench.load().await.metadata.current_snapshot_id().unwrap();
    append_own(&bench, 2).await;
    put(&own_path(&loaded, 1));
    let back = SnapshotReference {
        snapshot_id: first,
        retention: SnapshotRetention::branch(None, None, None),
    };
    bench.foreign(|builder| builder.set_ref(MAIN_BRANCH, back)).await;
    match judge(&bench, &[]).await {
        Err(OrphansError::Refused(refusal)) => assert_eq!(refusal.name(), "table-rolled-back"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_table_that_shares_its_files_and_one_that_was_replaced_are_refused() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("", &[("gc.enabled", "false")]).await;
    append_own(&bench, 0).await;
    put(&own_path(&loaded, 1));
    assert!(matches!(judge(&bench, &[]).await, Err(OrphansError::Shared)));

    let part = candidates(&loaded, LATER).candidates().await.unwrap().unwrap();
    let database = bench.database().await;
    sqlx::query("DELETE FROM iceberg_tables").execute(&database).await.unwrap();
    let found = part.judge(&bench.catalog, &loaded, PIPELINE, &HashSet::new()).await;
    assert!(matches!(found.err(), Some(OrphansError::Refused(Refusal::TableMissing { .. }))));
    let part = candidates(&loaded, LATER).candidates().await.unwrap().unwrap();
    bench.create().await;
    let found = part.judge(&bench.catalog, &loaded, PIPELINE, &HashSet::new()).await;
    assert!(matches!(found.err(), Some(OrphansError::Refused(Refusal::TableReplaced { .. }))));
    // A new table in the place of the old one takes none of its files for its own.
    bench.append_rows(0, &[(0, "a"), (1, "b"), (2, "c")]).await;
    let (orphans, undecided) = judge(&bench, &[]).await.unwrap();
    assert!(orphans.is_empty(), "{orphans:?}");
    assert!(undecided.len() >= 4, "data, manifest and list of the old table: {undecided:?}");
}

#[tokio::test]
async fn a_file_that_cannot_be_deleted_is_told_with_its_error() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    append_own(&bench, 0).await;
    let (stuck, gone) = (own_path(&loaded, 0).replace("-00001-", "-00002-"), own_path(&loaded, 1));
    put(&stuck);
    put(&gone);
    let part = candidates(&loaded, LATER).candidates().await.unwrap().unwrap();
    let judged = part.judge(&bench.catalog, &loaded, PIPELINE, &HashSet::new()).await.unwrap();
    assert_eq!(judged.orphans.len(), 2);
    for path in [&stuck, &gone] {
        std::fs::remove_file(local_path(path).unwrap()).unwrap();
    }
    std::fs::create_dir(local_path(&stuck).unwrap()).unwrap();
    let outcomes = delete_orphans(&judged.table, judged.orphans).await;
    for (file, error) in outcomes {
        assert_eq!(error.is_some(), file.path == stuck, "{}: {error:?}", file.path);
        assert!(error.is_none_or(|error| error.to_string().contains(&stuck)));
    }
}
