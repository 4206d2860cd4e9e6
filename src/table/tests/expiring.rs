//! Snapshots expired with the commits, and what is deleted then.

use std::collections::BTreeSet;

use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, ManifestWriter, Operation, Snapshot, SnapshotReference,
    SnapshotRetention, Summary,
};

use super::*;
use crate::protocol::{Admission, admit, check_history};
use crate::table::cache::FileCache;
use crate::table::{Freed, Maintenance, io, list, manifest};

const CACHE: usize = 8 << 20;
/// Keep three snapshots whatever their age, and none for its age alone; merge at three of a tier.
const STRICT: [(&str, &str); 5] = [
    ("commit.manifest.min-count-to-merge", "3"),
    ("history.expire.max-snapshot-age-ms", "0"),
    ("history.expire.min-snapshots-to-keep", "3"),
    ("write.metadata.delete-after-commit.enabled", "true"),
    ("write.metadata.previous-versions-max", "2"),
];
/// An hour after all commits of a test, so that no answer to one of them is waited for any more.
const LATER_MS: i64 = 4_000_000_000_000;

async fn append_one(
    bench: &Bench,
    maintenance: &Arc<Maintenance>,
    id: i64,
) -> (LoadedTable, Option<Freed>) {
    let loaded = bench.load().await;
    let file = write_file(&loaded, &[(id, "x")], &[]).await;
    let commit = pending(&loaded, id, id + 1, vec![file]);
    // A clock that moves on by two hours a commit.
    let now = LATER_MS + id * 2 * 3_600_000;
    let appended = append_at(&bench.catalog, &loaded, &commit, now, maintenance).await.unwrap();
    (committed(Ok(appended.outcome)), appended.freed)
}

/// One commit for each id, each swept.
async fn append_and_sweep(
    bench: &Bench,
    maintenance: &Arc<Maintenance>,
    ids: std::ops::Range<i64>,
) -> LoadedTable {
    let mut loaded = bench.load().await;
    for id in ids {
        let (table, freed) = append_one(bench, maintenance, id).await;
        if let Some(freed) = freed {
            freed.sweep().await;
        }
        loaded = table;
    }
    loaded
}

/// One commit for each id by the clock of the machine, so that others can act after them by it.
async fn append_now(bench: &Bench, ids: std::ops::Range<i64>) -> LoadedTable {
    let mut loaded = bench.load().await;
    for id in ids {
        loaded = bench.append_rows(id, &[(id, "x")]).await;
    }
    loaded
}

/// Names of all files in the table's metadata directory that the table refers to.
async fn referenced(loaded: &LoadedTable) -> BTreeSet<String> {
    let mut paths = BTreeSet::from([loaded.metadata_location.clone()]);
    paths.extend(loaded.metadata.metadata_log().iter().map(|log| log.metadata_file.clone()));
    for snapshot in loaded.metadata.snapshots() {
        paths.insert(snapshot.manifest_list().to_owned());
        let bytes = loaded.io.new_input(snapshot.manifest_list()).unwrap().read().await.unwrap();
        let manifests = list::parse(loaded, snapshot, &bytes).unwrap();
        paths.extend(manifests.into_iter().map(|manifest| manifest.manifest_path));
    }
    paths.into_iter().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
}

fn data_files(bench: &Bench) -> usize {
    std::fs::read_dir(bench.table_dir().join("data")).unwrap().count()
}

fn present(bench: &Bench) -> BTreeSet<String> {
    bench.metadata_files().into_iter().collect()
}

/// All rows in one new file, as another engine compacts.
async fn compact(bench: &Bench, rows: &[(i64, &str)]) {
    let loaded = bench.load().await;
    let metadata = &loaded.metadata;
    let written = write_file(&loaded, rows, &[]).await;
    let spec = metadata.default_partition_spec();
    let schema = metadata.current_schema().clone();
    let partition_type = spec.partition_type(&schema).unwrap();
    let new = iceberg::spec::deserialize_data_file_from_json(
        &written.data_file,
        0,
        &partition_type,
        &schema,
    )
    .unwrap();
    let mut old = Vec::new();
    for file in list::of_head(&loaded, &FileCache::new(0)).await.unwrap() {
        let bytes = loaded.io.new_input(&file.manifest_path).unwrap().read().await.unwrap();
        old.extend(manifest::live_entries(&bytes, &file).unwrap().0);
    }
    let fill = |writer: &mut ManifestWriter| {
        writer.add_file(new, -1)?;
        old.into_iter().try_for_each(|entry| {
            let (number, file_number) = (entry.sequence_number, entry.file_sequence_number);
            writer.add_delete_file(entry.data_file, number.unwrap(), file_number)
        })
    };
    let id = metadata.last_sequence_number() + 1_000;
    let path = manifest::new_path(metadata);
    let version = FormatVersion::V2;
    let (manifest, file) = manifest::encode(&path, version, id, schema, spec, fill).await.unwrap();
    let list = list::encode(&loaded, id, vec![manifest]).await.unwrap();
    let snapshot = Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(metadata.current_snapshot_id())
        .with_sequence_number(metadata.next_sequence_number())
        .with_timestamp_ms(metadata.last_updated_ms())
        .with_manifest_list(list.file.path.clone())
        .with_summary(Summary {
            operation: Operation::Replace,
            additional_properties: HashMap::new(),
        })
        .with_schema_id(metadata.current_schema_id())
        .build();
    io::write_all(&loaded.io, metadata.location(), &[file, list.file]).await.unwrap();
    bench.foreign(|builder| builder.set_branch_snapshot(snapshot, MAIN_BRANCH)).await;
}

#[tokio::test]
async fn a_table_stays_as_small_as_it_says_and_nothing_is_left_behind() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    let mut largest = 0;
    for id in 0..30 {
        let loaded = append_and_sweep(&bench, &maintenance, id..id + 1).await;
        largest = largest.max(loaded.metadata.snapshots().count());
        assert_eq!(present(&bench), referenced(&loaded).await, "after {id}");
        assert_eq!(ids(&loaded).await, (0..=id).collect::<Vec<_>>());
    }
    assert!(largest <= 5, "{largest} snapshots");
    assert_eq!(data_files(&bench), 30);
    let totals = maintenance.totals();
    assert!(totals.expired_snapshots >= 25, "{totals:?}");
    assert_eq!((totals.files_read, totals.failed_removals), (0, 0), "{totals:?}");
}

#[tokio::test]
async fn nothing_is_expired_unless_told_to_and_while_the_table_forbids_it() {
    for (expire, gc) in [(false, "true"), (true, "false")] {
        let bench = Bench::new().await;
        let mut properties = Vec::from(STRICT);
        properties.push(("gc.enabled", gc));
        bench.create_with("", &properties).await;
        let loaded = append_and_sweep(&bench, &Maintenance::new(CACHE, expire), 0..10).await;
        assert_eq!(loaded.metadata.snapshots().count(), 10);
    }
}

#[tokio::test]
async fn without_a_setting_the_table_says_whether_its_snapshots_are_expired() {
    for (told, says, expired) in [
        (None, None, false),
        (None, Some("true"), true),
        (None, Some("false"), false),
        (Some(false), Some("true"), false),
        (Some(true), Some("false"), true),
    ] {
        let bench = Bench::new().await;
        let mut properties = Vec::from(STRICT);
        properties.extend(says.map(|says| ("icestream.maintained", says)));
        bench.create_with("", &properties).await;
        let loaded = append_and_sweep(&bench, &Maintenance::new(CACHE, told), 0..10).await;
        let left = loaded.metadata.snapshots().count();
        assert_eq!(left < 10, expired, "{told:?} {says:?}: {left}");
    }
}

#[tokio::test]
async fn table_metadata_that_falls_out_of_the_log_is_deleted_if_the_table_says_so() {
    for (delete, left) in [("true", 3), ("false", 11)] {
        let bench = Bench::new().await;
        let properties = [
            ("write.metadata.delete-after-commit.enabled", delete),
            ("write.metadata.previous-versions-max", "2"),
        ];
        bench.create_with("", &properties).await;
        append_and_sweep(&bench, &Maintenance::new(CACHE, false), 0..10).await;
        let json = |name: &String| name.ends_with(".metadata.json");
        assert_eq!(bench.metadata_files().iter().filter(|name| json(name)).count(), left);
        assert_eq!(ids(&bench.load().await).await, (0..10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn files_that_a_compaction_replaced_go_with_the_last_snapshot_that_has_them() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    append_and_sweep(&bench, &maintenance, 0..5).await;
    let rows: Vec<(i64, &str)> = (0..5).map(|id| (id, "x")).collect();
    compact(&bench, &rows).await;
    assert_eq!(data_files(&bench), 6);
    let loaded = append_and_sweep(&bench, &maintenance, 5..6).await;
    assert_eq!(ids(&loaded).await, (0..6).collect::<Vec<_>>());
    let old = loaded.metadata.snapshots().min_by_key(|s| s.sequence_number()).unwrap();
    assert!(old.summary().operation == Operation::Append, "a snapshot of before is left");
    assert!(data_files(&bench) >= 7, "and with it the files of before");

    let loaded = append_and_sweep(&bench, &maintenance, 6..12).await;
    assert_eq!(ids(&loaded).await, (0..12).collect::<Vec<_>>());
    assert_eq!(data_files(&bench), 8, "the compacted one and seven new ones");
    assert_eq!(maintenance.totals().failed_removals, 0);
    assert_eq!(present(&bench), {
        let mut expected = referenced(&loaded).await;
        // The foreign commits' own table metadata fell out of a log that they kept.
        expected.extend(present(&bench).into_iter().filter(|name| name.ends_with(".json")));
        expected
    });
}

#[tokio::test]
async fn a_tag_keeps_its_snapshot_and_all_files_of_it() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    let tagged = append_now(&bench, 0..2).await;
    let head = tagged.metadata.current_snapshot_id().unwrap();
    let tag = SnapshotReference::new(head, SnapshotRetention::Tag { max_ref_age_ms: None });
    bench.foreign(|builder| builder.set_ref("audit", tag)).await;
    let loaded = append_and_sweep(&bench, &maintenance, 2..20).await;
    assert!(loaded.metadata.snapshots().count() <= 6);
    let table = loaded.to_iceberg().unwrap();
    let scan = table.scan().snapshot_id(head).select(["id"]).build().unwrap();
    let batches: Vec<RecordBatch> = scan.to_arrow().await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
}

#[tokio::test]
async fn ledger_and_journal_agree_after_every_expiry_and_admission_decides_as_before() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    // A pipeline that stopped long ago.
    let created = bench.load().await;
    let retired = PendingCommit { pipeline: "retired".into(), ..pending(&created, 0, 3, vec![]) };
    let appended = append(&bench.catalog, &created, &retired, &maintenance).await.unwrap();
    committed(Ok(appended.outcome));
    for id in 0..20 {
        let loaded = append_and_sweep(&bench, &maintenance, id..id + 1).await;
        for pipeline in [PIPELINE, "retired"] {
            let view = view(&loaded, pipeline).unwrap();
            assert_eq!(check_history("t", &view), Ok(()), "{pipeline} after {id}");
        }
        let view = view(&loaded, PIPELINE).unwrap();
        let last = pending(&loaded, id, id + 1, vec![]);
        assert!(matches!(admit(&Prepared::on_disk(last), &view), Admission::AlreadyCommitted(_)));
        let next = pending(&loaded, id + 1, id + 2, vec![]);
        assert!(matches!(admit(&Prepared::on_disk(next), &view), Admission::Commit(_)));
    }
    let loaded = bench.load().await;
    let of = |pipeline: &str| {
        let snapshots = loaded.metadata.snapshots();
        snapshots
            .filter(|snapshot| {
                let summary = &snapshot.summary().additional_properties;
                summary.get("icestream.pipeline").is_some_and(|name| name == pipeline)
            })
            .count()
    };
    assert_eq!(of("retired"), 1, "the newest of its journal");
    assert!(of(PIPELINE) <= 5);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_in_the_ancestry_within_the_hour() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    let loaded = bench.load().await;
    let lost = PendingCommit { instance: "other".into(), ..pending(&loaded, 0, 1, vec![]) };
    committed(bench.catalog.commit_append(&loaded, &lost).await);
    for id in 1..20 {
        let loaded = bench.load().await;
        let commit = pending(&loaded, id, id + 1, vec![]);
        let appended = append(&bench.catalog, &loaded, &commit, &maintenance).await.unwrap();
        committed(Ok(appended.outcome));
    }
    let view = view(&bench.load().await, PIPELINE).unwrap();
    assert!(matches!(admit(&Prepared::on_disk(lost), &view), Admission::AlreadyCommitted(_)));
    assert_eq!(maintenance.totals().expired_snapshots, 0);
}

#[tokio::test]
async fn nothing_is_expired_while_any_pipeline_s_table_was_rolled_back() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    let first = append_now(&bench, 0..1).await;
    append_now(&bench, 1..3).await;
    let old = first.metadata.current_snapshot_id().unwrap();
    let main = SnapshotReference::new(old, SnapshotRetention::branch(None, None, None));
    bench.foreign(|builder| builder.set_ref(MAIN_BRANCH, main)).await;
    let before = bench.load().await;
    let refused = check_history("t", &view(&before, PIPELINE).unwrap());
    assert!(refused.is_err());
    // Another pipeline goes on.
    for id in 0..15 {
        let loaded = bench.load().await;
        let commit = PendingCommit {
            pipeline: "others".into(),
            commit_id: CommitId(format!("others-{id}")),
            ..pending(&loaded, id, id + 1, vec![])
        };
        let now = LATER_MS + (100 + id) * 2 * 3_600_000;
        let appended =
            append_at(&bench.catalog, &loaded, &commit, now, &maintenance).await.unwrap();
        committed(Ok(appended.outcome));
    }
    let after = bench.load().await;
    assert_eq!(after.metadata.snapshots().count(), 18, "all are still there");
    assert_eq!(check_history("t", &view(&after, PIPELINE).unwrap()), refused);
}

#[tokio::test]
async fn a_crash_before_the_sweep_leaves_a_sound_table_and_only_orphans() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let mut loaded = bench.load().await;
    for id in 0..10 {
        // Each time a new process; what it freed is never swept.
        let (table, freed) = append_one(&bench, &Maintenance::new(CACHE, true), id).await;
        drop(freed);
        loaded = table;
    }
    assert_eq!(ids(&loaded).await, (0..10).collect::<Vec<_>>());
    assert!(loaded.metadata.snapshots().count() <= 5);
    assert!(present(&bench).is_superset(&referenced(&loaded).await));
    assert!(present(&bench).len() > referenced(&loaded).await.len());
}

#[tokio::test]
async fn what_cannot_be_deleted_is_counted_and_stops_nothing() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    let mut broken = false;
    for id in 0..12 {
        let (table, freed) = append_one(&bench, &maintenance, id).await;
        let Some(freed) = freed else { continue };
        if maintenance.totals().expired_snapshots > 0 && !broken {
            // A directory in the place of a file that is to go.
            let known = referenced(&table).await;
            let unknown = present(&bench).into_iter().find(|name| !known.contains(name)).unwrap();
            let path = bench.table_dir().join("metadata").join(unknown);
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            broken = true;
        }
        freed.sweep().await;
    }
    assert!(broken);
    let totals = maintenance.totals();
    assert_eq!(totals.failed_removals, 1, "{totals:?}");
    assert!(totals.removed_files > 10, "{totals:?}");
    assert_eq!(ids(&bench.load().await).await, (0..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn commits_go_on_while_a_sweep_is_under_way_and_expire_nothing_meanwhile() {
    let bench = Bench::new().await;
    bench.create_with("", &STRICT).await;
    let maintenance = Maintenance::new(CACHE, true);
    let mut held = None;
    for id in 0..20 {
        let (_, freed) = append_one(&bench, &maintenance, id).await;
        if held.is_none() && maintenance.totals().expired_snapshots > 0 {
            held = freed;
        } else if let Some(freed) = freed {
            freed.sweep().await;
        }
    }
    let loaded = bench.load().await;
    let snapshots = loaded.metadata.snapshots().count();
    assert!(snapshots > 10, "{snapshots}");
    held.unwrap().sweep().await;
    let loaded = append_and_sweep(&bench, &maintenance, 20..22).await;
    assert!(loaded.metadata.snapshots().count() <= 6);
    assert_eq!(present(&bench), referenced(&loaded).await, "what was left meanwhile is gone, too");
}
