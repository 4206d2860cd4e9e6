//! The commit path on SQLite and local files.

use iceberg::spec::{FormatVersion, MAIN_BRANCH, SnapshotReference, SnapshotRetention, SortOrder};

use super::*;
use crate::protocol::{Admission, admit};

#[tokio::test]
async fn an_append_shows_rows_ledger_and_journal() {
    let bench = Bench::new().await;
    bench.create().await;
    bench.append_rows(0, &[(1, "a"), (2, "b"), (3, "c")]).await;
    let returned = bench.append_rows(3, &[(4, "d"), (5, "e")]).await;

    let loaded = bench.load().await;
    assert_eq!(loaded.metadata, returned.metadata);
    assert_eq!(loaded.metadata_location, returned.metadata_location);
    assert_eq!(ids(&loaded).await, [1, 2, 3, 4, 5]);
    let view = full_view(&loaded, PIPELINE).unwrap();
    let ledger = view.ledger.unwrap();
    assert_eq!(ledger.frontier.get(&partition()), Some(5));
    assert_eq!(ledger.commit_id.0, "commit-3-5");
    let entries: Vec<_> = view
        .journal
        .iter()
        .map(|e| (e.commit_id.0.as_str(), e.in_ancestry, e.rows.written))
        .collect();
    assert_eq!(entries, [("commit-0-3", true, 3), ("commit-3-5", true, 2)]);
    assert_eq!(view.head, loaded.metadata.current_snapshot_id());
    for (key, value) in [
        ("added-data-files", "1"),
        ("added-records", "2"),
        ("total-data-files", "2"),
        ("total-records", "5"),
        ("total-delete-files", "0"),
        ("manifests-created", "1"),
        ("manifests-kept", "1"),
    ] {
        assert_eq!(head_summary(&loaded, key), value, "{key}");
    }
    let log: Vec<_> = loaded.metadata.metadata_log().iter().map(|l| &l.metadata_file).collect();
    assert_eq!(log.len(), 2);
}

#[tokio::test]
async fn an_edit_of_a_ledger_is_a_snapshot_pinned_to_the_head_that_it_was_decided_for() {
    let bench = Bench::new().await;
    bench.create().await;
    let decided_on = bench.append_rows(0, &[(1, "a"), (2, "b")]).await;
    let basis = edit_basis(&decided_on, PIPELINE, "person", false).unwrap();
    let edit = basis.rewind(None, &Frontier::default(), &[]).unwrap();
    let moved_on = bench.append_rows(2, &[(3, "c")]).await;
    conflict(append_edit(&bench.catalog, &moved_on, &edit).await);
    conflict(append_edit(&bench.catalog, &decided_on, &edit).await);
    assert_eq!(bench.load().await.metadata, moved_on.metadata);

    let basis = edit_basis(&moved_on, PIPELINE, "person", false).unwrap();
    let edit = basis.rewind(None, &Frontier::default(), &[]).unwrap();
    let edited = committed(append_edit(&bench.catalog, &moved_on, &edit).await);
    let view = full_view(&bench.load().await, PIPELINE).unwrap();
    assert_eq!(view.ledger, Some(edit.after.clone()));
    assert_eq!((edit.after.generation, edit.after.frontier.get(&partition())), (1, Some(3)));
    let newest = view.journal.last().unwrap();
    assert_eq!(newest.edit, edit.parts.edit);
    assert_eq!(newest.commit_id, edit.parts.commit_id);
    assert_eq!(ids(&edited).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_snapshot_says_whether_it_was_made_on_files_of_an_older_one() {
    let bench = Bench::new().await;
    bench.create().await;
    let first = bench.append_rows(0, &[(1, "a")]).await;
    let second = bench.append_rows(1, &[(2, "b")]).await;
    let inherited = |loaded: &LoadedTable| {
        let head = loaded.metadata.current_snapshot().unwrap();
        crate::protocol::inherited(&head.summary().additional_properties)
    };
    assert_eq!((inherited(&first), inherited(&second)), (Some(false), Some(true)));
}

#[tokio::test]
async fn an_append_of_no_files_moves_the_ledger_with_a_snapshot() {
    let bench = Bench::new().await;
    let created = bench.create().await;
    let first = pending(&created, 0, 10, vec![]);
    let table = committed(bench.catalog.commit_append(&created, &first).await);
    assert_eq!(ledger_offset(&table, PIPELINE), Some(10));
    assert_eq!(ids(&bench.load().await).await, Vec::<i64>::new());

    bench.append_rows(10, &[(1, "a")]).await;
    let loaded = bench.load().await;
    let last = pending(&loaded, 11, 20, vec![]);
    committed(bench.catalog.commit_append(&loaded, &last).await);
    let loaded = bench.load().await;
    assert_eq!(ids(&loaded).await, [1]);
    assert_eq!(ledger_offset(&loaded, PIPELINE), Some(20));
    assert_eq!(loaded.metadata.snapshots().count(), 3);
    assert_eq!(head_summary(&loaded, "total-records"), "1");
    assert_eq!(head_summary(&loaded, "manifests-created"), "0");
}

#[tokio::test]
async fn one_of_two_committers_wins_each_round() {
    const ROUNDS: i64 = 20;
    let bench = Bench::new().await;
    bench.create().await;
    let rivals = [bench.another().await, bench.another().await];
    for round in 0..ROUNDS {
        let mut loaded = Vec::new();
        let mut commits = Vec::new();
        for (rival, catalog) in rivals.iter().enumerate() {
            let table = catalog.load(&bench.name).await.unwrap().unwrap();
            let id = round * 2 + rival as i64;
            let file = write_file(&table, &[(id, "x")], &[]).await;
            commits.push(pending(&table, round, round + 1, vec![file]));
            loaded.push(table);
        }
        let (first, second) = tokio::join!(
            rivals[0].commit_append(&loaded[0], &commits[0]),
            rivals[1].commit_append(&loaded[1], &commits[1]),
        );
        let outcomes = [first.unwrap(), second.unwrap()];
        let won = outcomes.iter().filter(|o| matches!(o, CommitOutcome::Committed { .. })).count();
        let lost = outcomes.iter().filter(|o| matches!(o, CommitOutcome::Conflict(_))).count();
        assert_eq!((won, lost), (1, 1), "round {round}: {outcomes:?}");
    }
    let loaded = bench.load().await;
    assert_eq!(loaded.metadata.snapshots().count() as i64, ROUNDS);
    assert_eq!(ids(&loaded).await.len() as i64, ROUNDS);
    assert_eq!(ledger_offset(&loaded, PIPELINE), Some(ROUNDS));
    // A manifest, a list and table metadata for each winner, the first metadata, nothing of a loser.
    assert_eq!(bench.metadata_files().len() as i64, ROUNDS * 3 + 1);
}

#[tokio::test]
async fn a_stale_table_conflicts_and_changes_nothing() {
    let bench = Bench::new().await;
    let stale = bench.create().await;
    bench.append_rows(0, &[(1, "a")]).await;
    let (row, files) = (bench.row().await, bench.metadata_files());
    let file = write_file(&stale, &[(2, "b")], &[]).await;
    let late = pending(&stale, 0, 1, vec![file.clone()]);
    conflict(bench.catalog.commit_append(&stale, &late).await);
    assert_eq!(bench.row().await, row);
    assert_eq!(bench.metadata_files(), files);
    assert!(stale.io.exists(&file.path).await.unwrap(), "data files are never deleted here");
}

#[tokio::test]
async fn a_permit_for_one_reading_of_a_table_is_used_for_no_other() {
    let bench = Bench::new().await;
    let first = bench.create().await;
    let seen = view(&first, PIPELINE).unwrap();
    let commit = Prepared::on_disk(pending(&first, 0, 1, vec![]));
    let now = bench.append_rows(0, &[(1, "a")]).await;
    let (row, files) = (bench.row().await, bench.metadata_files());

    let permit = || match admit(&commit, &seen) {
        Admission::Commit(permit) => permit,
        other => panic!("{other:?}"),
    };
    let maintenance = Maintenance::none();
    let appended =
        super::super::append(&bench.catalog, &now, permit(), &maintenance).await.unwrap();
    assert!(matches!(appended.outcome, CommitOutcome::Conflict(_)), "{:?}", appended.outcome);

    let other = Bench::new().await;
    let other = other.create().await;
    let appended =
        super::super::append(&bench.catalog, &other, permit(), &maintenance).await.unwrap();
    assert!(matches!(appended.outcome, CommitOutcome::Rejected(_)), "{:?}", appended.outcome);
    assert_eq!((bench.row().await, bench.metadata_files()), (row, files), "nothing was sent");
}

#[tokio::test]
async fn a_foreign_property_change_conflicts_and_both_are_kept_after_a_reload() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    bench.foreign(|b| b.set_properties(HashMap::from([("owner".into(), "them".into())]))).await;
    let file = write_file(&loaded, &[(1, "a")], &[]).await;
    let commit = pending(&loaded, 0, 1, vec![file]);
    conflict(bench.catalog.commit_append(&loaded, &commit).await);

    let loaded = bench.load().await;
    committed(bench.catalog.commit_append(&loaded, &commit).await);
    let loaded = bench.load().await;
    assert_eq!(loaded.metadata.properties().get("owner").map(String::as_str), Some("them"));
    assert_eq!(ids(&loaded).await, [1]);
}

#[tokio::test]
async fn a_foreign_append_conflicts_and_both_are_kept_after_a_reload() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let theirs = PendingCommit {
        pipeline: "others".into(),
        ..pending(&loaded, 0, 7, vec![write_file(&loaded, &[(100, "z")], &[]).await])
    };
    committed(bench.another().await.commit_append(&loaded, &theirs).await);
    let ours = pending(&loaded, 0, 1, vec![write_file(&loaded, &[(1, "a")], &[]).await]);
    conflict(bench.catalog.commit_append(&loaded, &ours).await);

    let loaded = bench.load().await;
    committed(bench.catalog.commit_append(&loaded, &ours).await);
    let loaded = bench.load().await;
    assert_eq!(ids(&loaded).await, [1, 100]);
    assert_eq!(ledger_offset(&loaded, "others"), Some(7));
    assert_eq!(ledger_offset(&loaded, PIPELINE), Some(1));
    assert_eq!(view(&loaded, PIPELINE).unwrap().commits.len(), 1);
}

#[tokio::test]
async fn the_retention_that_a_user_set_on_main_is_kept() {
    let bench = Bench::new().await;
    bench.create().await;
    let loaded = bench.append_rows(0, &[(1, "a")]).await;
    let head = loaded.metadata.current_snapshot_id().unwrap();
    let retention = SnapshotRetention::branch(Some(7), Some(86_400_000), None);
    bench.foreign(|b| b.set_ref(MAIN_BRANCH, SnapshotReference::new(head, retention))).await;
    let loaded = bench.append_rows(1, &[(2, "b")]).await;
    let json = serde_json::to_value(loaded.metadata.as_ref()).unwrap();
    let main = &json["refs"]["main"];
    assert_eq!(main["snapshot-id"], loaded.metadata.current_snapshot_id().unwrap());
    assert_eq!(main["min-snapshots-to-keep"], 7);
    assert_eq!(main["max-snapshot-age-ms"], 86_400_000);
}

#[tokio::test]
async fn a_clock_behind_the_table_does_not_stop_commits() {
    let bench = Bench::new().await;
    bench.create().await;
    let loaded = bench.append_rows(0, &[(1, "a")]).await;
    let last = loaded.metadata.last_updated_ms();
    let commit = pending(&loaded, 1, 2, vec![]);
    let table = committed(
        append_at(&bench.catalog, &loaded, &commit, 1_000, &Maintenance::none())
            .await
            .map(|done| done.outcome),
    );
    assert_eq!(table.metadata.current_snapshot().unwrap().timestamp_ms(), last);
    let commit = pending(&table, 2, 3, vec![]);
    let table = committed(
        append_at(&bench.catalog, &table, &commit, last + 5, &Maintenance::none())
            .await
            .map(|done| done.outcome),
    );
    assert_eq!(table.metadata.current_snapshot().unwrap().timestamp_ms(), last + 5);
}

#[tokio::test]
async fn a_table_of_format_version_3_gets_row_ids() {
    let bench = Bench::new().await;
    let created = bench.create_with("", &[("format-version", "3")]).await;
    assert_eq!(created.metadata.format_version(), FormatVersion::V3);
    bench.append_rows(0, &[(1, "a"), (2, "b")]).await;
    bench.append_rows(2, &[(3, "c")]).await;
    let loaded = bench.load().await;
    assert_eq!(loaded.metadata.next_row_id(), 3);
    let range = loaded.metadata.current_snapshot().unwrap().row_range();
    assert_eq!(range, Some((2, 1)));
    assert_eq!(ids(&loaded).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_table_of_format_version_1_is_refused() {
    let bench = Bench::new().await;
    let created = bench.create().await;
    let metadata = TableMetadataBuilder::new(
        schema(),
        created.metadata.default_partition_spec().as_ref().clone(),
        SortOrder::unsorted_order(),
        created.metadata.location().to_string(),
        FormatVersion::V1,
        HashMap::new(),
    )
    .unwrap()
    .build()
    .unwrap()
    .metadata;
    let old = LoadedTable { metadata: Arc::new(metadata), ..created };
    let error = bench.catalog.commit_append(&old, &pending(&old, 0, 1, vec![])).await.unwrap_err();
    assert!(matches!(error, TableError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("format version 1"), "{error}");
}

#[tokio::test]
async fn a_table_whose_metadata_goes_to_another_store_is_refused() {
    let bench = Bench::new().await;
    let created = bench.create().await;
    for place in ["s3://bucket/metadata", "metadata", "file:metadata"] {
        let set = HashMap::from([(String::from("write.metadata.path"), place.to_owned())]);
        let builder = created.metadata.as_ref().clone().into_builder(None);
        let metadata = builder.set_properties(set).unwrap().build().unwrap().metadata;
        let loaded = LoadedTable { metadata: Arc::new(metadata), ..created.clone() };
        let commit = pending(&loaded, 0, 1, vec![]);
        let error = bench.catalog.commit_append(&loaded, &commit).await.unwrap_err();
        assert!(matches!(error, TableError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(place), "{error}");
    }
}

#[tokio::test]
async fn a_table_that_was_replaced_is_rejected() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let files = bench.metadata_files();
    let commit =
        PendingCommit { table_uuid: Uuid::new_v4().to_string(), ..pending(&loaded, 0, 1, vec![]) };
    let outcome = bench.catalog.commit_append(&loaded, &commit).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Rejected(_)), "{outcome:?}");
    assert_eq!(bench.metadata_files(), files);
}
