//! Locks, missing and broken files: nothing may turn into a commit believed and not made.

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions};
use std::str::FromStr;

use super::*;
use crate::table::sql_pool::Pool;

async fn connection(bench: &Bench) -> SqliteConnection {
    SqliteConnection::connect(bench.settings.uri.expose()).await.unwrap()
}

/// Appends, and checks that the answer is the truth.
async fn append_and_compare(bench: &Bench, catalog: &Catalog) -> CommitOutcome {
    let loaded = catalog.load(&bench.name).await.unwrap().unwrap();
    let outcome = catalog.commit_append(&loaded, &pending(&loaded, 0, 5, vec![])).await.unwrap();
    let head = bench.load().await.metadata.current_snapshot_id();
    match &outcome {
        CommitOutcome::Committed { snapshot_id, .. } => assert_eq!(head, Some(*snapshot_id)),
        _ => assert_eq!(head, loaded.metadata.current_snapshot_id()),
    }
    outcome
}

#[tokio::test]
async fn a_reader_does_not_stop_a_commit_to_our_own_catalog() {
    let bench = Bench::new().await;
    bench.create().await;
    let mut reader = connection(&bench).await;
    sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
    sqlx::query("SELECT * FROM iceberg_tables").fetch_all(&mut reader).await.unwrap();
    let outcome = append_and_compare(&bench, &bench.catalog).await;
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_writer_that_holds_the_lock_makes_a_conflict_and_leaves_nothing() {
    let bench = Bench::new().await;
    bench.create().await;
    let files = bench.metadata_files();
    let impatient =
        CatalogSettings { request_timeout: Duration::from_millis(200), ..bench.settings.clone() };
    let catalog = Catalog::connect(&impatient).await.unwrap();
    let mut writer = connection(&bench).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut writer).await.unwrap();
    let outcome = append_and_compare(&bench, &catalog).await;
    assert!(
        matches!(&outcome, CommitOutcome::Conflict(why) if why.contains("locked")),
        "{outcome:?}"
    );
    assert_eq!(bench.metadata_files(), files);
    sqlx::query("ROLLBACK").execute(&mut writer).await.unwrap();
    let outcome = append_and_compare(&bench, &catalog).await;
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
}

/// Catalogs of other programs keep SQLite's rollback journal, where a reader's lock makes the
/// *commit* of a statement fail after the statement itself succeeded.
#[tokio::test]
async fn a_reader_of_a_rollback_journal_never_yields_a_commit_believed_and_not_made() {
    let bench = Bench::new().await;
    bench.create().await;
    let Catalog::Sql(_) = &bench.catalog else { panic!("an SQL catalog") };
    // A file of its own, because a catalog that is open stays in WAL mode.
    let copy = bench.dir.path().join("copy.db");
    sqlx::query("VACUUM INTO $1")
        .bind(copy.to_str().unwrap())
        .execute(&bench.database().await)
        .await
        .unwrap();
    let uri = format!("sqlite://{}", copy.display());
    let options = SqliteConnectOptions::from_str(&uri)
        .unwrap()
        .journal_mode(SqliteJournalMode::Delete)
        .busy_timeout(Duration::from_millis(100));
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let settings = CatalogSettings { uri: uri.as_str().into(), ..bench.settings.clone() };
    let catalog = Catalog::Sql(SqlCatalog::with_pool(Pool::Sqlite(pool), &settings).await.unwrap());

    let mut reader = SqliteConnection::connect(&uri).await.unwrap();
    sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
    let before: String = sqlx::query_scalar("SELECT metadata_location FROM iceberg_tables")
        .fetch_one(&mut reader)
        .await
        .unwrap();
    let loaded = catalog.load(&bench.name).await.unwrap().unwrap();
    let commit = pending(&loaded, 0, 5, vec![]);
    let why = conflict(catalog.commit_append(&loaded, &commit).await);
    assert!(why.contains("locked"), "{why}");
    sqlx::query("ROLLBACK").execute(&mut reader).await.unwrap();
    let after: String = sqlx::query_scalar("SELECT metadata_location FROM iceberg_tables")
        .fetch_one(&mut reader)
        .await
        .unwrap();
    assert_eq!(before, after, "the statement that met the lock was rolled back");

    let table = committed(catalog.commit_append(&loaded, &commit).await);
    let now = catalog.load(&bench.name).await.unwrap().unwrap();
    assert_eq!(now.metadata_location, table.metadata_location);
    assert_eq!(ledger_offset(&now, PIPELINE), Some(5));
}

#[tokio::test]
async fn a_table_that_was_dropped_conflicts_and_is_then_gone() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    sqlx::query("DELETE FROM iceberg_tables").execute(&bench.database().await).await.unwrap();
    conflict(bench.catalog.commit_append(&loaded, &pending(&loaded, 0, 1, vec![])).await);
    assert!(bench.catalog.load(&bench.name).await.unwrap().is_none());
}

#[tokio::test]
async fn a_catalog_that_lost_its_tables_rejects() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    sqlx::query("DROP TABLE iceberg_tables").execute(&bench.database().await).await.unwrap();
    let commit = pending(&loaded, 0, 1, vec![]);
    let outcome = bench.catalog.commit_append(&loaded, &commit).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Rejected(_)), "{outcome:?}");
    let error = bench.catalog.load(&bench.name).await.unwrap_err();
    assert!(matches!(error, TableError::Rejected { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_list_that_cannot_be_read_fails_the_commit_before_any_request() {
    let bench = Bench::new().await;
    bench.create().await;
    let loaded = bench.append_rows(0, &[(1, "a")]).await;
    let list = loaded.metadata.current_snapshot().unwrap().manifest_list().to_string();
    loaded.io.delete(&list).await.unwrap();
    let (row, files) = (bench.row().await, bench.metadata_files());
    let commit = pending(&loaded, 1, 2, vec![]);
    let error = bench.catalog.commit_append(&loaded, &commit).await.unwrap_err();
    assert!(matches!(&error, TableError::Storage { path, .. } if *path == list), "{error}");
    assert!(error.is_transient());

    loaded.io.new_output(&list).unwrap().write("garbage".into()).await.unwrap();
    let error = bench.catalog.commit_append(&loaded, &commit).await.unwrap_err();
    assert!(matches!(&error, TableError::Unreadable { location, .. } if *location == list));
    assert!(!error.is_transient());
    loaded.io.delete(&list).await.unwrap();
    assert_eq!((bench.row().await, bench.metadata_files()), (row, files));
}

#[tokio::test]
async fn a_commit_whose_files_cannot_be_written_was_not_made() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let row = bench.row().await;
    let directory = bench.table_dir().join("metadata");
    let aside = bench.table_dir().join("aside");
    std::fs::rename(&directory, &aside).unwrap();
    std::fs::write(&directory, b"not a directory").unwrap();
    let commit = pending(&loaded, 0, 1, vec![]);
    let error = bench.catalog.commit_append(&loaded, &commit).await.unwrap_err();
    assert!(matches!(&error, TableError::Storage { doing: "write", .. }), "{error}");
    std::fs::remove_file(&directory).unwrap();
    std::fs::rename(&aside, &directory).unwrap();
    assert_eq!(bench.row().await, row);
    committed(bench.catalog.commit_append(&loaded, &commit).await);
}

#[tokio::test]
async fn broken_table_metadata_is_told_from_missing_metadata() {
    let bench = Bench::new().await;
    let loaded = bench.create().await;
    let location = &loaded.metadata_location;
    for (content, gone) in [("{", false), ("{\"format-version\": 2}", false), ("", true)] {
        if gone {
            loaded.io.delete(location).await.unwrap();
        } else {
            loaded.io.new_output(location).unwrap().write(content.into()).await.unwrap();
        }
        let error = bench.catalog.load(&bench.name).await.unwrap_err();
        assert!(error.to_string().contains(location.as_str()), "{error}");
        match error {
            TableError::Storage { .. } => assert!(gone),
            TableError::Unreadable { .. } => assert!(!gone),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_stops_its_pipeline_and_no_other() {
    let bench = Bench::new().await;
    bench.create().await;
    let key = crate::protocol::ledger_key(PIPELINE);
    bench.foreign(|b| b.set_properties(HashMap::from([(key, "{\"v\": 99}".into())]))).await;
    let loaded = bench.load().await;
    assert!(matches!(view(&loaded, PIPELINE), Err(TableError::Ledger { .. })));
    assert!(view(&loaded, "another").is_ok());
}
