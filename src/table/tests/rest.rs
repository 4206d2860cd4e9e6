//! The REST catalog against scripted answers: what each means.

mod lengths;
mod stores;
mod tokens;

use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, SnapshotReference, SnapshotRetention, SortOrder, TableMetadata,
    UnboundPartitionSpec,
};
use serde_json::json;

use super::server::{Reply, Server};
use super::*;

const CONFIG: &str = "GET /v1/config";
const TOKENS: &str = "POST /v1/oauth/tokens";
pub(super) const LOAD: &str = "GET /v1/namespaces/db/tables/readings";
pub(super) const COMMIT: &str = "POST /v1/namespaces/db/tables/readings";
pub(super) const CREATE: &str = "POST /v1/namespaces/db/tables";
const NO_TABLE: &str = r#"{"error":{"message":"no","type":"NoSuchTableException","code":404}}"#;

/// A server with a script, and a place for the files of its table.
pub(super) struct Scripted {
    pub(super) server: Server,
    dir: TempDir,
    pub(super) metadata: TableMetadata,
    name: TableName,
}

impl Scripted {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let metadata = TableMetadataBuilder::new(
            schema(),
            UnboundPartitionSpec::builder().build(),
            SortOrder::unsorted_order(),
            format!("file:{}/readings", dir.path().display()),
            FormatVersion::V2,
            HashMap::new(),
        )
        .unwrap()
        .build()
        .unwrap()
        .metadata;
        std::fs::create_dir_all(dir.path().join("readings/metadata")).unwrap();
        Self { server: Server::start().await, dir, metadata, name: "db.readings".parse().unwrap() }
    }

    fn settings(&self) -> CatalogSettings {
        CatalogSettings {
            kind: CatalogKind::Rest,
            uri: self.server.uri.as_str().into(),
            warehouse: None,
            ..settings(&self.dir)
        }
    }

    pub(super) async fn connect(&self) -> Catalog {
        self.connect_with(self.settings()).await
    }

    async fn connect_with(&self, settings: CatalogSettings) -> Catalog {
        self.server.text(CONFIG, 200, "{}");
        Catalog::connect(&settings).await.unwrap()
    }

    /// The answer to a load.
    pub(super) fn table(&self) -> serde_json::Value {
        json!({ "metadata-location": "file:/here", "metadata": self.metadata })
    }

    pub(super) fn applied(&self) -> Reply {
        Reply::Applied(Box::new(self.metadata.clone()))
    }

    pub(super) async fn load(&self, catalog: &Catalog) -> LoadedTable {
        self.server.text(LOAD, 200, self.table());
        catalog.load(&self.name).await.unwrap().unwrap()
    }

    /// The metadata after somebody else's commit, which brings no data files but one manifest list.
    pub(super) async fn moved(&self) -> TableMetadata {
        let server = Server::start().await;
        let settings = CatalogSettings { uri: server.uri.as_str().into(), ..self.settings() };
        server.text(CONFIG, 200, "{}").text(LOAD, 200, self.table()).reply(COMMIT, self.applied());
        let catalog = Catalog::connect(&settings).await.unwrap();
        let loaded = catalog.load(&self.name).await.unwrap().unwrap();
        let commit = pending(&loaded, 0, 1, vec![]);
        committed(catalog.commit_append(&loaded, &commit).await).metadata.as_ref().clone()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("readings/metadata")).unwrap().count()
    }

    /// Loads and commits while the server answers the commit with `reply`.
    async fn commit(&self, reply: Reply) -> Result<CommitOutcome, TableError> {
        self.commit_with(self.settings(), reply).await
    }

    async fn commit_with(
        &self,
        settings: CatalogSettings,
        reply: Reply,
    ) -> Result<CommitOutcome, TableError> {
        let catalog = self.connect_with(settings).await;
        let loaded = self.load(&catalog).await;
        self.server.reply(COMMIT, reply);
        catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await
    }
}

pub(super) fn status(status: u16) -> Reply {
    Reply::Text(status, r#"{"error":{"message":"said so","type":"E","code":0}}"#.into())
}

#[tokio::test]
async fn a_commit_is_one_post_with_requirements_and_updates() {
    let mut scripted = Scripted::new().await;
    scripted.metadata = scripted.moved().await;
    let head = scripted.metadata.current_snapshot_id().unwrap();
    let retention = SnapshotRetention::branch(Some(3), None, None);
    scripted.metadata = scripted
        .metadata
        .into_builder(None)
        .set_ref(MAIN_BRANCH, SnapshotReference::new(head, retention))
        .unwrap()
        .build()
        .unwrap()
        .metadata;
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, scripted.applied());
    let file = write_file(&loaded, &[(1, "a")], &[]).await;
    let commit = pending(&loaded, 1, 2, vec![file]);
    let table = committed(catalog.commit_append(&loaded, &commit).await);
    assert_eq!(ledger_offset(&table, PIPELINE), Some(2));
    assert_eq!(table.metadata_location, "file:/next");
    assert_eq!(ids(&table).await, [1]);

    let asked = scripted.server.asked();
    let posts: Vec<_> = asked.iter().filter(|asked| asked.line == COMMIT).collect();
    assert_eq!(posts.len(), 1);
    let body: serde_json::Value = serde_json::from_str(&posts[0].body).unwrap();
    assert_eq!(body["identifier"], json!({ "namespace": ["db"], "name": "readings" }));
    assert_eq!(
        body["requirements"],
        json!([
            { "type": "assert-table-uuid", "uuid": loaded.metadata.uuid() },
            { "type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": head },
        ])
    );
    let actions: Vec<_> =
        body["updates"].as_array().unwrap().iter().map(|update| &update["action"]).collect();
    assert_eq!(actions, ["add-snapshot", "set-snapshot-ref", "set-properties"]);
    assert_eq!(body["updates"][1]["min-snapshots-to-keep"], 3);
}

#[tokio::test]
async fn answers_that_prove_nothing_are_unknown_and_leave_the_files() {
    let answers = [
        status(500),
        status(502),
        status(503),
        status(504),
        status(408),
        status(302),
        status(202),
        status(418),
        Reply::Text(200, "garbage".into()),
        Reply::Text(200, "{}".into()),
        Reply::Text(200, String::new()),
    ];
    for answer in answers {
        let scripted = Scripted::new().await;
        let outcome = scripted.commit(answer.clone()).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Unknown(_)), "{answer:?}: {outcome:?}");
        assert_eq!(scripted.files(), 1, "{answer:?}: the manifest list may be the table's");
    }
}

#[tokio::test]
async fn a_200_whose_table_lacks_our_snapshot_is_unknown() {
    let scripted = Scripted::new().await;
    let outcome = scripted.commit(Reply::Text(200, scripted.table().to_string())).await.unwrap();
    assert!(
        matches!(&outcome, CommitOutcome::Unknown(why) if why.contains("lacks")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn an_answer_that_never_comes_is_unknown() {
    let scripted = Scripted::new().await;
    let settings =
        CatalogSettings { request_timeout: Duration::from_millis(300), ..scripted.settings() };
    let outcome = scripted.commit_with(settings, Reply::Hang).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Unknown(_)), "{outcome:?}");
    assert_eq!(scripted.files(), 1);
}

#[tokio::test]
async fn a_catalog_that_is_gone_got_no_request() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings =
        CatalogSettings { uri: format!("http://{nowhere}").into(), ..scripted.settings() };
    let error = Catalog::connect(&settings).await.unwrap_err();
    assert!(matches!(&error, TableError::Unreachable { .. }) && error.is_transient(), "{error}");

    // The configuration may name another address for all else.
    let config = json!({ "overrides": { "uri": format!("http://{nowhere}") } });
    scripted.server.text(CONFIG, 200, config);
    let catalog = Catalog::connect(&scripted.settings()).await.unwrap();
    let commit = pending(&loaded, 0, 1, vec![]);
    let error = catalog.commit_append(&loaded, &commit).await.unwrap_err();
    assert!(matches!(error, TableError::Unreachable { .. }), "{error}");
    assert_eq!(scripted.files(), 0, "nothing was sent, so nothing refers to the files");
}

#[tokio::test]
async fn refusals_are_rejected() {
    for code in [400, 404, 405, 406, 413, 422] {
        let outcome = Scripted::new().await.commit(status(code)).await.unwrap();
        assert!(
            matches!(&outcome, CommitOutcome::Rejected(why) if why.contains("said so")),
            "{code}: {outcome:?}"
        );
    }
}

/// As a gateway with nothing behind it answers.
fn stranger(status: u16) -> Reply {
    Reply::Text(status, "<html>nothing here</html>".into())
}

#[tokio::test]
async fn a_404_of_somebody_who_is_no_catalog_says_nothing_of_a_commit() {
    for code in [404, 405] {
        let outcome = Scripted::new().await.commit(stranger(code)).await.unwrap();
        assert!(matches!(&outcome, CommitOutcome::Unknown(_)), "{code}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_catalog_that_worked_and_does_not_know_us_any_more_passes() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    scripted.load(&catalog).await;
    for code in [401, 403, 404, 405, 419] {
        scripted.server.reply(LOAD, stranger(code));
        let error = catalog.load(&scripted.name).await.unwrap_err();
        assert!(error.is_transient(), "{code}: {error}");
        assert!(error.to_string().contains(&code.to_string()), "{error}");
    }
    scripted.server.text(LOAD, 404, NO_TABLE);
    assert!(catalog.load(&scripted.name).await.unwrap().is_none(), "that is an answer");

    // One that took a commit let us write: what it says now passes, too.
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, scripted.applied());
    let loaded = committed(catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await);
    scripted.server.reply(COMMIT, status(403));
    let outcome = catalog.commit_append(&loaded, &pending(&loaded, 3, 6, vec![])).await.unwrap();
    let CommitOutcome::TurnedAway(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.is_transient(), "{error}");
}

/// As catalogs answer when another branch took the sequence number of our snapshot.
#[tokio::test]
async fn a_rejection_by_a_table_that_got_a_snapshot_meanwhile_is_a_conflict() {
    let scripted = Scripted::new().await;
    let moved = json!({ "metadata-location": "file:/x", "metadata": scripted.moved().await });
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, status(400)).text(LOAD, 200, moved);
    conflict(catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await);

    // Another table in its place, which is for admission to refuse.
    let another = Scripted::new().await.table();
    scripted.server.reply(COMMIT, status(400)).text(LOAD, 200, another);
    conflict(catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await);

    scripted.server.reply(COMMIT, status(400)).text(LOAD, 200, scripted.table());
    let outcome = catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Rejected(_)), "{outcome:?}");
}

#[tokio::test]
async fn requests_turned_away_unread_are_told_from_those_that_were_not_sent() {
    // It gave us the table before: who we are was right.
    // And who may read need not be allowed to write.
    for (code, transient) in [(401, true), (403, false), (419, true), (429, true)] {
        let scripted = Scripted::new().await;
        let outcome = scripted.commit(status(code)).await.unwrap();
        let CommitOutcome::TurnedAway(error) = outcome else { panic!("{code}: {outcome:?}") };
        assert_eq!(error.is_transient(), transient, "{code}: {error}");
        assert_eq!(matches!(error, TableError::Unauthorised { .. }), !transient, "{code}: {error}");
        assert_eq!(scripted.files(), 1, "{code}: a first copy of the request may have landed");
    }
}

#[tokio::test]
async fn an_expiry_asks_for_the_table_once_more_and_spares_what_was_tagged_meanwhile() {
    let mut scripted = Scripted::new().await;
    let rules = [("history.expire.max-snapshot-age-ms", "0")];
    let rules = rules.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let builder = scripted.metadata.clone().into_builder(None);
    scripted.metadata =
        builder.set_properties(HashMap::from(rules)).unwrap().build().unwrap().metadata;
    let catalog = scripted.connect().await;
    let mut snapshots = Vec::new();
    for offset in 0..3 {
        let loaded = scripted.load(&catalog).await;
        scripted.server.reply(COMMIT, scripted.applied());
        let commit = pending(&loaded, offset, offset + 1, vec![]);
        let table = committed(catalog.commit_append(&loaded, &commit).await);
        scripted.metadata = table.metadata.as_ref().clone();
        snapshots.push(table.metadata.current_snapshot_id().unwrap());
    }
    let loaded = scripted.load(&catalog).await;
    let tag = SnapshotReference::new(snapshots[0], SnapshotRetention::Tag { max_ref_age_ms: None });
    let builder = scripted.metadata.clone().into_builder(None);
    scripted.metadata = builder.set_ref("audit", tag).unwrap().build().unwrap().metadata;
    scripted.server.text(LOAD, 200, scripted.table()).reply(COMMIT, scripted.applied());
    let commit = pending(&loaded, 3, 4, vec![]);
    let maintenance = Maintenance::new(1 << 20, true);
    let hours_later = loaded.metadata.last_updated_ms() + 7_200_000;
    let before = scripted.server.lines().len();
    let appended = append_at(&catalog, &loaded, &commit, hours_later, &maintenance).await.unwrap();
    assert_eq!(scripted.server.lines()[before..], [LOAD, COMMIT]);
    let body = scripted.server.asked().pop().unwrap().body;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let last = body["updates"].as_array().unwrap().last().unwrap();
    assert_eq!(*last, json!({ "action": "remove-snapshots", "snapshot-ids": [snapshots[1]] }));
    let table = committed(Ok(appended.outcome));
    assert_eq!(table.metadata.snapshots().count(), 3);

    let list = loaded.metadata.snapshot_by_id(snapshots[1]).unwrap().manifest_list().to_owned();
    assert!(table.io.exists(&list).await.unwrap());
    appended.freed.unwrap().sweep().await;
    assert!(!table.io.exists(&list).await.unwrap());
    for snapshot in table.metadata.snapshots() {
        assert!(table.io.exists(snapshot.manifest_list()).await.unwrap());
    }
    assert_eq!(maintenance.totals().removed_files, 1);
}

#[tokio::test]
async fn a_conflict_deletes_its_files_once_the_head_has_moved() {
    let scripted = Scripted::new().await;
    let moved = json!({ "metadata-location": "file:/x", "metadata": scripted.moved().await });
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    let theirs = scripted.files();
    scripted.server.reply(COMMIT, status(409)).text(LOAD, 200, moved);
    conflict(catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await);
    assert_eq!(scripted.files(), theirs);
}

#[tokio::test]
async fn a_conflict_whose_head_has_not_moved_keeps_its_files() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, status(409)).text(LOAD, 200, scripted.table());
    conflict(catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await);
    assert_eq!(scripted.files(), 1, "a copy of the request may still land");

    scripted.server.reply(COMMIT, status(409)).reply(LOAD, status(503));
    conflict(catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await);
    assert_eq!(scripted.files(), 2, "the table could not be read");
}

#[tokio::test]
async fn credentials_that_are_refused_are_told_without_showing_them() {
    let scripted = Scripted::new().await;
    let auth = RestAuth { credential: Some("me:hunter2".into()), ..RestAuth::default() };
    let settings = CatalogSettings { rest: auth, ..scripted.settings() };
    for (code, unauthorised) in [(401, true), (503, false)] {
        scripted.server.reply(TOKENS, status(code));
        let error = Catalog::connect(&settings).await.unwrap_err();
        assert_eq!(matches!(error, TableError::Unauthorised { .. }), unauthorised, "{error}");
        assert_eq!(error.is_transient(), !unauthorised);
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn what_a_server_repeats_of_what_it_was_sent_is_not_shown() {
    let scripted = Scripted::new().await;
    let token = json!({ "access_token": "t0ken-of-ours", "expires_in": 3600 });
    let echo = json!({ "error": { "type": "Bad", "code": 400, "message":
        "Bearer t0ken-of-ours, id:hunter2, hunter2, h3ader at http://me:passw0rd@proxy/?sig=x" } });
    let rest = RestAuth {
        credential: Some("id:hunter2".into()),
        headers: BTreeMap::from([("X-Key".into(), "h3ader".into())]),
        ..RestAuth::default()
    };
    scripted.server.text(TOKENS, 400, &echo).text(TOKENS, 200, token).text(CONFIG, 400, echo);
    let settings = CatalogSettings { rest, ..scripted.settings() };
    for shows in [vec!["t0ken-of-ours"], vec![]] {
        let error = Catalog::connect(&settings).await.unwrap_err();
        let told = format!("{error} {error:?}");
        for secret in ["t0ken-of-ours", "hunter2", "h3ader", "passw0rd", "sig=x"] {
            // Before it is a token of ours it is a word like any other.
            assert_eq!(told.contains(secret), shows.contains(&secret), "{secret}: {told}");
        }
        assert!(told.contains("Bad: Bearer") && told.contains("http://***@proxy"), "{told}");
    }
}

#[tokio::test]
async fn an_address_with_a_password_in_it_is_not_shown() {
    let scripted = Scripted::new().await;
    let host = scripted.server.uri.strip_prefix("http://").unwrap();
    let uri = format!("http://me:hunter2@{host}");
    scripted.server.text(CONFIG, 500, "").text(CONFIG, 200, "{}");
    scripted.server.text(LOAD, 200, "[]").text(LOAD, 503, "");
    let settings = CatalogSettings { uri: uri.as_str().into(), ..scripted.settings() };
    let mut told = vec![Catalog::connect(&settings).await.unwrap_err()];
    let catalog = Catalog::connect(&settings).await.unwrap();
    told.push(catalog.load(&scripted.name).await.unwrap_err());
    told.push(catalog.load(&scripted.name).await.unwrap_err());
    for error in told {
        let shown = format!("{error} {error:?} {catalog:?} {settings:?}");
        assert!(!shown.contains("hunter2") && shown.contains(&format!("***@{host}")), "{shown}");
    }
}

#[tokio::test]
async fn a_static_token_and_own_headers_go_with_every_request() {
    let scripted = Scripted::new().await;
    let rest = RestAuth {
        token: Some("fixed".into()),
        headers: BTreeMap::from([("X-Tenant".into(), "t1".into())]),
        ..RestAuth::default()
    };
    let catalog = scripted.connect_with(CatalogSettings { rest, ..scripted.settings() }).await;
    scripted.load(&catalog).await;
    for asked in scripted.server.asked() {
        assert_eq!(asked.header("authorization"), "Bearer fixed");
        assert_eq!(asked.header("x-tenant"), "t1");
        assert_eq!(asked.header("x-iceberg-access-delegation"), "vended-credentials");
    }
}

#[tokio::test]
async fn the_prefix_and_levels_of_a_namespace_are_in_the_address() {
    let scripted = Scripted::new().await;
    scripted.server.text(CONFIG, 200, json!({ "overrides": { "prefix": "main%7Cwh" } }));
    let settings = CatalogSettings { warehouse: Some("my wh".into()), ..scripted.settings() };
    let catalog = Catalog::connect(&settings).await.unwrap();
    let line = "GET /v1/main%7Cwh/namespaces/a%1Fb%20c/tables/t%2F1";
    scripted.server.text(line, 200, scripted.table());
    let name = TableName { namespace: vec!["a".into(), "b c".into()], name: "t/1".into() };
    assert!(catalog.load(&name).await.unwrap().is_some());
    assert_eq!(scripted.server.lines(), ["GET /v1/config?warehouse=my%20wh", line]);
}

#[tokio::test]
async fn what_a_catalog_says_is_on_one_line_of_a_message_and_cut() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    let long = "x".repeat(100_000);
    let said = format!("no\r\n2026-01-01T00:00:00Z ERROR forged\u{1b}[0m {long}");
    for body in [
        said.clone(),
        json!({ "error": { "message": said, "type": "T", "code": 400 } }).to_string(),
    ] {
        scripted.server.text(LOAD, 400, body);
        let error = catalog.load(&scripted.name).await.unwrap_err().to_string();
        assert!(!error.contains(['\r', '\n', '\u{1b}']), "{error}");
        assert!(error.contains("no\\r\\n2026") && error.len() < 1000, "{error}");
    }
}

#[tokio::test]
async fn a_table_that_is_absent_is_told_from_an_address_that_is_wrong() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    scripted.server.text(LOAD, 404, NO_TABLE);
    assert!(catalog.load(&scripted.name).await.unwrap().is_none());
    scripted.server.text(LOAD, 404, "<html>nothing here</html>");
    let error = catalog.load(&scripted.name).await.unwrap_err();
    assert!(matches!(error, TableError::Rejected { .. }), "{error}");
    for (code, transient) in [(500, true), (503, true), (429, true), (403, false), (400, false)] {
        scripted.server.reply(LOAD, status(code));
        let error = catalog.load(&scripted.name).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{code}: {error}");
    }
    scripted.server.text(LOAD, 200, "{}");
    let error = catalog.load(&scripted.name).await.unwrap_err();
    assert!(matches!(error, TableError::Unreadable { .. }), "{error}");
}

#[tokio::test]
async fn a_table_is_created_with_the_namespaces_it_needs() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    let name: TableName = "a.b.t".parse().unwrap();
    let (tables, spaces) = ("POST /v1/namespaces/a%1Fb/tables", "POST /v1/namespaces");
    scripted.server.text(tables, 404, NO_TABLE).text(tables, 200, scripted.table());
    scripted.server.text(spaces, 409, "").text(spaces, 200, "{}");
    let spec = parse_spec("bucket[4](id)", &schema()).unwrap();
    let created = catalog.create(&name, &schema(), &spec, &HashMap::new()).await.unwrap();
    assert_eq!(created.metadata.uuid(), scripted.metadata.uuid());
    assert_eq!(scripted.server.lines(), [CONFIG, tables, spaces, spaces, tables]);
    let asked = scripted.server.asked();
    assert_eq!(asked[2].body, r#"{"namespace":["a"],"properties":{}}"#);
    assert_eq!(asked[3].body, r#"{"namespace":["a","b"],"properties":{}}"#);
    let body: serde_json::Value = serde_json::from_str(&asked[4].body).unwrap();
    assert_eq!(body["partition-spec"]["fields"][0]["transform"], "bucket[4]");
    assert_eq!(body["properties"]["format-version"], "2");
    assert_eq!(body["schema"]["fields"][0]["name"], "id");
}

#[tokio::test]
async fn losing_the_race_to_create_a_table_loads_the_winner_s() {
    let scripted = Scripted::new().await;
    let catalog = scripted.connect().await;
    scripted.server.reply(CREATE, status(409)).text(LOAD, 200, scripted.table());
    let spec = parse_spec("", &schema()).unwrap();
    let none = HashMap::new();
    let created = catalog.create(&scripted.name, &schema(), &spec, &none).await.unwrap();
    assert_eq!(created.metadata.uuid(), scripted.metadata.uuid());
}
