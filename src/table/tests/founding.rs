//! The first snapshot, and catalogs that do not mind what a commit is pinned to.

use super::rest::{COMMIT, CREATE, LOAD, Scripted, status};
use super::server::Reply;
use super::*;
use crate::table::{check_fencing, found};

#[tokio::test]
async fn a_table_without_a_snapshot_gets_an_empty_one_and_one_only() {
    let (lake, none) = (Bench::new().await, Maintenance::none());
    let made = lake.create().await;
    assert_eq!(made.metadata.current_snapshot_id(), None);
    // Two at once: the one that is second takes the snapshot of the first.
    let (one, two) =
        tokio::join!(found(&lake.catalog, made.clone(), &none), found(&lake.catalog, made, &none));
    let (one, two) = (one.unwrap(), two.unwrap());
    let head = one.metadata.current_snapshot().unwrap();
    assert_eq!(two.metadata.current_snapshot_id(), Some(head.snapshot_id()));
    assert_eq!((one.metadata.snapshots().len(), head.parent_snapshot_id()), (1, None));
    let summary = &head.summary().additional_properties;
    assert_eq!(summary.get("total-records").map(String::as_str), Some("0"), "{summary:?}");
    let ours: Vec<&String> = summary.keys().filter(|key| key.starts_with("icestream")).collect();
    assert_eq!(ours, ["icestream.founding"]);
    let again = found(&lake.catalog, one.clone(), &none).await.unwrap();
    assert_eq!(again.metadata_location, one.metadata_location);
    let table = lake.append_rows(0, &[(1, "a")]).await;
    assert_eq!(ids(&table).await, [1]);
    check_fencing(&lake.catalog, &table).await.unwrap();
}

#[tokio::test]
async fn a_first_snapshot_that_the_catalog_does_not_show_is_waited_for() {
    let (mut scripted, none) = (Scripted::new().await, Maintenance::none());
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, status(503)).text(LOAD, 200, scripted.table());
    let error = found(&catalog, loaded.clone(), &none).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("503"), "{error}");
    scripted.server.reply(COMMIT, status(400)).text(LOAD, 200, scripted.table());
    let error = found(&catalog, loaded.clone(), &none).await.unwrap_err();
    assert!(matches!(error, TableError::Rejected { .. }), "{error}");
    // Somebody changed the table meanwhile, which is no outage: the table as it is then.
    scripted.server.reply(COMMIT, status(409));
    scripted.server.text(LOAD, 200, scripted.table()).text(LOAD, 200, scripted.table());
    scripted.server.reply(COMMIT, scripted.applied());
    scripted.metadata = scripted.moved().await;
    scripted.server.text(LOAD, 200, scripted.table());
    let founded = found(&catalog, loaded, &none).await.unwrap();
    assert_eq!(founded.metadata.current_snapshot_id(), scripted.metadata.current_snapshot_id());
}

/// Two processes make a table, and the catalog tells each that it did.
#[tokio::test]
async fn of_two_tables_that_were_made_at_once_the_one_that_the_catalog_shows_counts() {
    let none = Maintenance::none();
    // A catalog may call what is pinned to the UUID of the other one a conflict, or a bad request.
    for code in [409, 400] {
        for has_snapshot in [true, false] {
            let (scripted, mut other) = (Scripted::new().await, Scripted::new().await);
            let catalog = scripted.connect().await;
            scripted.server.text(CREATE, 200, scripted.table());
            let spec = parse_spec("", &schema()).unwrap();
            let name: TableName = "db.readings".parse().unwrap();
            let made = catalog.create(&name, &schema(), &spec, &HashMap::new()).await.unwrap();
            let founded = other.moved().await;
            if has_snapshot {
                other.metadata = founded.clone();
            }
            scripted.server.reply(COMMIT, status(code));
            // To know what the answer means, and as the table to go on with.
            scripted.server.text(LOAD, 200, other.table()).text(LOAD, 200, other.table());
            if !has_snapshot {
                scripted.server.reply(COMMIT, other.applied());
                other.metadata = founded.clone();
                scripted.server.text(LOAD, 200, other.table());
            }
            let table = found(&catalog, made.clone(), &none).await.unwrap();
            assert_ne!(table.metadata.uuid(), made.metadata.uuid());
            assert_eq!(table.metadata.uuid(), founded.uuid(), "{code}");
            assert_eq!(table.metadata.current_snapshot_id(), founded.current_snapshot_id());
        }
    }
}

#[tokio::test]
async fn a_table_that_is_shown_in_the_place_of_the_one_that_was_made_is_looked_at_too() {
    let (scripted, mut other) = (Scripted::new().await, Scripted::new().await);
    let catalog = scripted.connect().await;
    let made = scripted.load(&catalog).await;
    let encrypted = HashMap::from([("encryption.key-id".to_owned(), "k".to_owned())]);
    let builder = other.moved().await.into_builder(None).set_properties(encrypted).unwrap();
    other.metadata = builder.build().unwrap().metadata;
    scripted.server.reply(COMMIT, status(409));
    scripted.server.text(LOAD, 200, other.table()).text(LOAD, 200, other.table());
    let error = found(&catalog, made, &Maintenance::none()).await.unwrap_err();
    assert!(error.to_string().contains("it is encrypted"), "{error}");
}

/// What the catalog is asked, and what becomes of the answers to it.
#[tokio::test]
async fn a_catalog_that_takes_a_stale_commit_is_named_and_one_that_refuses_them_is_not() {
    let mut scripted = Scripted::new().await;
    scripted.metadata = scripted.moved().await;
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    // Any no will do, and an answer that is neither if the table shows nothing of it.
    scripted.server.reply(COMMIT, status(409)).text(LOAD, 200, scripted.table());
    scripted.server.reply(COMMIT, status(400)).text(LOAD, 200, scripted.table());
    scripted.server.reply(COMMIT, status(500)).text(LOAD, 200, scripted.table());
    check_fencing(&catalog, &loaded).await.unwrap();
    let asked = scripted.server.asked();
    let commits: Vec<serde_json::Value> = asked
        .iter()
        .filter(|asked| asked.line == COMMIT)
        .map(|asked| serde_json::from_str(&asked.body).unwrap())
        .collect();
    let kinds: Vec<&str> =
        commits.iter().map(|body| body["requirements"][0]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["assert-table-uuid", "assert-ref-snapshot-id", "assert-ref-snapshot-id"]);
    assert!(commits[2]["requirements"][0]["snapshot-id"].is_null(), "{commits:?}");
    for (refused, words) in
        ["another table's UUID", "a snapshot that is not", "no snapshot"].iter().enumerate()
    {
        for _ in 0..refused {
            scripted.server.reply(COMMIT, status(409)).text(LOAD, 200, scripted.table());
        }
        scripted.server.reply(COMMIT, scripted.applied()).reply(COMMIT, scripted.applied());
        let error = check_fencing(&catalog, &loaded).await.unwrap_err();
        assert!(error.to_string().contains(words) && !error.is_transient(), "{error}");
        let last = scripted.server.asked().pop().unwrap();
        assert!(last.body.contains("remove-properties"), "{}", last.body);
    }
    // By something in between, or too slow: nothing is known.
    for code in [404, 408, 502, 503, 504] {
        scripted.server.text(COMMIT, code, "a gateway");
        let error = check_fencing(&catalog, &loaded).await.unwrap_err();
        assert!(error.is_transient(), "{code}: {error}");
    }
    // Turned away: the same.
    scripted.server.reply(COMMIT, status(401));
    let error = check_fencing(&catalog, &loaded).await.unwrap_err();
    assert!(!matches!(error, TableError::Unsupported { .. }), "{error}");
}

/// An answer got lost on its way, and the commit was made.
#[tokio::test]
async fn a_stale_commit_that_is_in_the_table_was_taken_whatever_the_answer_was() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    scripted
        .server
        .reply(COMMIT, status(500))
        .reply(LOAD, Reply::Marked(Box::new(scripted.metadata.clone())));
    scripted.server.reply(COMMIT, scripted.applied());
    let error = check_fencing(&catalog, &loaded).await.unwrap_err();
    assert!(matches!(error, TableError::Unsupported { .. }), "{error}");
}
