//! What a REST catalog says of the store of a table's files, and of addresses.

use serde_json::json;

use super::*;

#[tokio::test]
async fn the_catalog_says_what_stands_between_the_levels_of_a_namespace() {
    let scripted = Scripted::new().await;
    for (told, address) in [("%2E", "a%2Eb"), (".", "a.b"), ("%1F", "a%1Fb")] {
        let config = json!({ "overrides": { "namespace-separator": told } });
        scripted.server.text(CONFIG, 200, config);
        let catalog = Catalog::connect(&scripted.settings()).await.unwrap();
        let line = format!("GET /v1/namespaces/{address}/tables/orders.v1");
        scripted.server.text(&line, 200, scripted.table());
        let name: TableName = "a.b.`orders.v1`".parse().unwrap();
        assert!(catalog.load(&name).await.unwrap().is_some(), "{told}");
    }
}

#[tokio::test]
async fn a_catalog_that_would_only_sign_requests_itself_is_named_when_the_store_refuses() {
    let scripted = Scripted::new().await;
    let store = Server::start().await;
    let properties = [
        ("s3.endpoint", store.uri.as_str()),
        ("s3.path-style-access", "true"),
        ("s3.disable-config-load", "true"),
        ("s3.disable-ec2-metadata", "true"),
        ("s3.allow-anonymous", "true"),
    ];
    let io_properties = Properties::from_iter(properties);
    let settings = CatalogSettings { io_properties, ..scripted.settings() };
    let catalog = scripted.connect_with(settings).await;
    let metadata =
        scripted.metadata.clone().into_builder(None).set_location("s3://bucket/t".into());
    let metadata = metadata.build().unwrap().metadata;
    for (config, named) in [
        (json!({ "s3.remote-signing-enabled": "true" }), true),
        (json!({ "s3.remote-signing-enabled": "false" }), false),
        (json!({}), false),
    ] {
        scripted.server.text(LOAD, 200, json!({ "metadata": metadata, "config": config }));
        let loaded = catalog.load(&scripted.name).await.unwrap().unwrap();
        store.reply("PUT /bucket/t/data/f", status(403));
        let file = loaded.io.new_output("s3://bucket/t/data/f").unwrap();
        let error = file.write(bytes::Bytes::from_static(b"x")).await.unwrap_err().to_string();
        assert_eq!(error.contains("switch credential vending on"), named, "{config}: {error}");
    }
}

#[tokio::test]
async fn what_is_listed_is_asked_for_with_the_keys_of_now() {
    let scripted = Scripted::new().await;
    let store = Server::start().await;
    let io_properties = Properties::from_iter([
        ("s3.endpoint", store.uri.as_str()),
        ("s3.path-style-access", "true"),
        ("s3.region", "here"),
    ]);
    let catalog =
        scripted.connect_with(CatalogSettings { io_properties, ..scripted.settings() }).await;
    let metadata =
        scripted.metadata.clone().into_builder(None).set_location("s3://bucket/t".into());
    let metadata = metadata.build().unwrap().metadata;
    let told = |id: &str| {
        json!({ "metadata": metadata, "storage-credentials": [{ "prefix": "s3://bucket/t", "config": {
            "s3.access-key-id": id, "s3.secret-access-key": "secret", "s3.session-token": "token" } }] })
    };
    scripted.server.text(LOAD, 200, told("first"));
    let loaded = catalog.load(&scripted.name).await.unwrap().unwrap();
    for id in ["first", "second", "third"] {
        if id != "first" {
            // As a renewal does: who has the table uses the new ones.
            scripted.server.text(LOAD, 200, told(id));
            catalog.load(&scripted.name).await.unwrap().unwrap();
        }
        let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        store.text("GET /bucket", 200, empty);
        let mut listing = listing::Listing::open(&loaded.io, "s3://bucket/t").await.unwrap();
        assert_eq!(listing.page().await.unwrap(), []);
        let asked = store.asked().pop().unwrap();
        let signed = asked.header("authorization").to_owned();
        assert!(signed.contains(&format!("Credential={id}/")), "{signed}");
    }
}

#[tokio::test]
async fn credentials_that_come_with_a_table_are_used_for_its_store() {
    let scripted = Scripted::new().await;
    let settings = CatalogSettings {
        io_properties: Properties::from_iter([("s3.region", "ours")]),
        ..scripted.settings()
    };
    let config = json!({ "defaults": { "s3.region": "theirs", "s3.endpoint": "http://127.0.0.1:1" },
        "overrides": { "s3.path-style-access": "true" } });
    scripted.server.text(CONFIG, 200, config);
    let catalog = Catalog::connect(&settings).await.unwrap();
    let metadata =
        scripted.metadata.clone().into_builder(None).set_location("s3://bucket/t".into());
    let answer = json!({
        "metadata": metadata.build().unwrap().metadata,
        "config": { "s3.access-key-id": "table" },
        "storage-credentials": [
            { "prefix": "s3://bucket", "config": { "s3.session-token": "wide" } },
            { "prefix": "s3://bucket/t", "config": { "s3.session-token": "narrow" } },
            { "prefix": "s3://other", "config": { "s3.session-token": "other" } },
        ],
    });
    scripted.server.text(LOAD, 200, answer);
    let loaded = catalog.load(&scripted.name).await.unwrap().unwrap();
    let of = |location: &str| s3_store::properties_for(&loaded.io, location).unwrap();
    for (location, token) in [
        ("s3://bucket/t/data/f", "narrow"),
        ("s3a://bucket/t/metadata/f", "narrow"),
        ("s3://bucket/elsewhere/f", "wide"),
        ("s3://other/data/f", "other"),
        // Under no prefix: as the table's own files.
        ("s3://unheard/of", "narrow"),
    ] {
        let properties = of(location);
        assert_eq!(properties.get("s3.region"), Some("ours"));
        assert_eq!(properties.get("s3.endpoint"), Some("http://127.0.0.1:1"));
        assert_eq!(properties.get("s3.path-style-access"), Some("true"));
        assert_eq!(properties.get("s3.access-key-id"), Some("table"));
        assert_eq!(properties.get("s3.session-token"), Some(token), "{location}");
    }
    assert!(!format!("{loaded:?}").contains("narrow"));
}
