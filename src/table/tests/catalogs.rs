//! SQL catalogs: what is created, found, and shared with other programs.

use std::io::Write;

use super::*;

#[tokio::test]
async fn a_table_is_created_and_found_again_by_another_process() {
    let bench = Bench::new().await;
    assert!(bench.catalog.load(&bench.name).await.unwrap().is_none());
    let created = bench.create_with("bucket[4](id)", &[("owner", "us")]).await;
    let found = bench.another().await.load(&bench.name).await.unwrap().unwrap();
    assert_eq!(found.metadata, created.metadata);
    assert_eq!(found.metadata_location, created.metadata_location);
    assert_eq!(found.metadata.location(), format!("file://{}", bench.table_dir().display()));
    assert_eq!(found.metadata.default_partition_spec().fields()[0].name, "id_bucket");
    assert_eq!(found.metadata.properties().get("owner").map(String::as_str), Some("us"));
    let view = view(&found, PIPELINE).unwrap();
    assert_eq!((view.head, view.ledger, view.commits), (None, None, vec![]));
}

#[tokio::test]
async fn the_catalog_is_a_durable_file_in_wal_mode() {
    let bench = Bench::new().await;
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&bench.database().await).await.unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn losing_the_race_to_create_a_table_gives_the_winner_s() {
    let bench = Bench::new().await;
    let (one, two) = (bench.another().await, bench.another().await);
    let (schema, spec, none) = (schema(), parse_spec("", &schema()).unwrap(), HashMap::new());
    let (a, b) = tokio::join!(
        one.create(&bench.name, &schema, &spec, &none),
        two.create(&bench.name, &schema, &spec, &none),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.metadata.uuid(), b.metadata.uuid());
    assert_eq!(bench.metadata_files().len(), 1);
    let again = bench.create().await;
    assert_eq!(again.metadata.uuid(), a.metadata.uuid());
}

#[tokio::test]
async fn a_catalog_of_an_older_program_works_without_the_type_column() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir);
    std::fs::create_dir_all(dir.path().join("deep")).unwrap();
    let database = SqlitePool::connect(&format!("{}?mode=rwc", settings.uri)).await.unwrap();
    sqlx::query(
        "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255) NOT NULL, \
         table_namespace VARCHAR(255) NOT NULL, table_name VARCHAR(255) NOT NULL, \
         metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), \
         PRIMARY KEY (catalog_name, table_namespace, table_name))",
    )
    .execute(&database)
    .await
    .unwrap();
    database.close().await;
    let catalog = Catalog::connect(&settings).await.unwrap();
    let bench = Bench { dir, settings, catalog, name: "db.readings".parse().unwrap() };
    bench.create().await;
    bench.append_rows(0, &[(1, "a")]).await;
    assert_eq!(ids(&bench.load().await).await, [1]);
}

#[tokio::test]
async fn a_row_is_written_as_other_programs_expect_it() {
    let bench = Bench::new().await;
    let created = bench.create().await;
    let after = bench.append_rows(0, &[(1, "a")]).await;
    type Row = (String, String, String, String, String, String);
    let row: Row = sqlx::query_as(
        "SELECT catalog_name, table_namespace, table_name, metadata_location, \
         previous_metadata_location, iceberg_type FROM iceberg_tables",
    )
    .fetch_one(&bench.database().await)
    .await
    .unwrap();
    let own = |text: &str| text.to_string();
    let locations = (after.metadata_location, created.metadata_location);
    assert_eq!(
        row,
        (own("icestream"), own("db"), own("readings"), locations.0, locations.1, own("TABLE"))
    );
    let exists: String = sqlx::query_scalar(
        "SELECT property_value FROM iceberg_namespace_properties \
         WHERE catalog_name = 'icestream' AND namespace = 'db' AND property_key = 'exists'",
    )
    .fetch_one(&bench.database().await)
    .await
    .unwrap();
    assert_eq!(exists, "true");
}

#[tokio::test]
async fn views_and_tables_of_other_catalogs_are_not_loaded() {
    let bench = Bench::new().await;
    bench.create().await;
    let database = bench.database().await;
    for change in ["iceberg_type = 'VIEW'", "iceberg_type = NULL, catalog_name = 'other'"] {
        sqlx::query(&format!("UPDATE iceberg_tables SET {change}"))
            .execute(&database)
            .await
            .unwrap();
        assert!(bench.catalog.load(&bench.name).await.unwrap().is_none(), "{change}");
    }
    sqlx::query("UPDATE iceberg_tables SET catalog_name = 'icestream'")
        .execute(&database)
        .await
        .unwrap();
    assert!(bench.catalog.load(&bench.name).await.unwrap().is_some());
}

#[tokio::test]
async fn a_namespace_with_a_location_of_its_own_holds_its_tables() {
    let bench = Bench::new().await;
    let elsewhere = format!("file://{}/elsewhere", bench.dir.path().display());
    sqlx::query(
        "INSERT INTO iceberg_namespace_properties VALUES ('icestream', 'a.b', 'location', $1)",
    )
    .bind(&elsewhere)
    .execute(&bench.database().await)
    .await
    .unwrap();
    let name: TableName = "a.b.t".parse().unwrap();
    let spec = parse_spec("", &schema()).unwrap();
    let created = bench.catalog.create(&name, &schema(), &spec, &HashMap::new()).await.unwrap();
    assert_eq!(created.metadata.location(), format!("{elsewhere}/t"));
}

/// Writes the table's metadata anew, as `edit` leaves it and gzip packs it.
async fn pack(loaded: &LoadedTable, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::to_value(loaded.metadata.as_ref()).unwrap();
    edit(&mut json);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(json.to_string().as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    loaded.io.new_output(&loaded.metadata_location).unwrap().write(packed.into()).await.unwrap();
}

#[tokio::test]
async fn packed_metadata_is_read_as_other_metadata_is() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("", &[("format-version", "3")]).await;
    pack(&loaded, |_| {}).await;
    assert_eq!(bench.load().await.metadata, loaded.metadata);
    let column = |kind: &str, default: serde_json::Value| {
        serde_json::json!({ "id": 9, "name": "c", "required": false, "type": kind,
            "write-default": default })
    };
    for (column, told) in [
        (column("variant", serde_json::Value::Null), "c is of type variant"),
        (column("double", "NaN".into()), "write-default of its column c"),
    ] {
        pack(&loaded, |json| {
            json["schemas"][0]["fields"].as_array_mut().unwrap().push(column);
        })
        .await;
        let error = bench.catalog.load(&bench.name).await.unwrap_err();
        assert!(matches!(error, TableError::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains(told), "{error}");
    }
    let cut = loaded.io.new_output(&loaded.metadata_location).unwrap();
    cut.write(bytes::Bytes::from_static(&[0x1f, 0x8b, 8])).await.unwrap();
    let error = bench.catalog.load(&bench.name).await.unwrap_err();
    assert!(matches!(error, TableError::Unreadable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_table_that_some_programs_would_find_elsewhere_is_refused_at_once_and_not_made() {
    let bench = Bench::new().await;
    bench.create().await;
    let database = bench.database().await;
    let set = "UPDATE iceberg_tables SET metadata_location = 's3://lake//t/metadata/0.json'";
    sqlx::query(set).execute(&database).await.unwrap();
    let error = bench.catalog.load(&bench.name).await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    let told = error.to_string();
    let words = ["db.readings", "s3://lake//t/metadata/0.json", "two slashes"];
    assert!(words.iter().all(|word| told.contains(word)), "{told}");
    // Nor is one made where the namespace says so, or the table itself would.
    let set = "INSERT INTO iceberg_namespace_properties VALUES \
               ('icestream', 'odd', 'location', 's3://lake//odd'), \
               ('icestream', 'even', 'location', 's3://lake/even')";
    sqlx::query(set).execute(&database).await.unwrap();
    let spec = parse_spec("", &schema()).unwrap();
    let data = |place: &str| HashMap::from([("write.data.path".to_owned(), place.to_owned())]);
    for (name, properties, told) in [
        ("odd.t", HashMap::new(), "location of the namespace"),
        ("even.t", data("s3://lake/even//d"), "its write.data.path is"),
        ("even.t", data("/d"), "store of the table's own location"),
    ] {
        let name: TableName = name.parse().unwrap();
        let made = bench.catalog.create(&name, &schema(), &spec, &properties).await;
        let error = made.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains(told), "{error}");
    }
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM iceberg_tables")
        .fetch_one(&database)
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_without_showing_a_password() {
    let dir = tempfile::tempdir().unwrap();
    for uri in ["sqlite::memory:", "sqlite://x.db?mode=memory", "mysql://u:hunter2@h/d", "x"] {
        let settings = CatalogSettings { uri: uri.into(), ..settings(&dir) };
        let error = Catalog::connect(&settings).await.unwrap_err();
        assert!(matches!(error, TableError::Setting { .. }), "{uri}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let bench = Bench::new().await;
    let without = CatalogSettings { warehouse: None, ..bench.settings.clone() };
    let catalog = Catalog::connect(&without).await.unwrap();
    let spec = parse_spec("", &schema()).unwrap();
    let error = catalog.create(&bench.name, &schema(), &spec, &HashMap::new()).await.unwrap_err();
    assert!(error.to_string().contains("warehouse"), "{error}");
}

#[tokio::test]
async fn a_database_server_that_is_not_there_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let dir = tempfile::tempdir().unwrap();
    for uri in [
        format!("postgresql://user:hunter2@127.0.0.1:{port}/db"),
        format!("postgresql://127.0.0.1:{port}/db?user=me&password=hunter2"),
        format!("postgresql://127.0.0.1:{port}/db?user=me&p%61ssword=x@hunter2&nonsense=1"),
    ] {
        let settings = CatalogSettings {
            uri: uri.as_str().into(),
            request_timeout: Duration::from_millis(500),
            ..settings(&dir)
        };
        let error = Catalog::connect(&settings).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(&format!("127.0.0.1:{port}/db")), "{shown}");
    }
}

#[test]
fn table_names_have_a_namespace_of_any_depth() {
    let name: TableName = "a.b.table".parse().unwrap();
    assert_eq!(
        (name.namespace.as_slice(), name.name.as_str()),
        (&["a".into(), "b".into()][..], "table")
    );
    assert_eq!(name.to_string(), "a.b.table");
    for bad in ["table", "", ".", "a.", ".t", "a..t"] {
        assert!(bad.parse::<TableName>().is_err(), "{bad}");
    }
}
