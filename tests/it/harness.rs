//! The tests of the tests: the servers are real and behave as the other tests rely on, the proxy
//! does what it is told, and the judge finds what is wrong with a table.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::flights::Flights;
use crate::support::icestream::Metrics;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader};
use crate::support::postgres::{Postgres, sql};
use crate::support::process::Process;
use crate::support::producing::{End, Produced, Record};
use crate::support::proxy::{Fault, Matching, Proxy};
use crate::support::rest::RestCatalog;
use crate::support::s3::S3;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, foreign, http, new_dir, unique};

fn numbered(partitions: i32, count: usize) -> impl Iterator<Item = Record> {
    (0..count).zip((0..partitions).cycle()).map(|(number, partition)| {
        Record::new(partition, json!({ "id": number, "text": format!("é{number}") }).to_string())
    })
}

#[test]
fn kafka_gives_back_what_was_produced() {
    let kafka = Kafka::shared();
    let topic = unique("plain");
    kafka.create_topic(&topic, 3, &[]);
    let produced = kafka.produce(&topic, numbered(3, 10_000));
    assert_eq!(produced.count(), 10_000);
    assert_eq!(kafka.watermarks(&topic), [(0, (0, 3334)), (1, (0, 3333)), (2, (0, 3333))].into());
    let read = kafka.read_all(&topic);
    assert_eq!(read.len(), 10_000);
    assert!(read.iter().any(|(_, _, payload)| {
        payload.as_deref() == Some(json!({ "id": 9999, "text": "é9999" }).to_string().as_bytes())
    }));
}

#[test]
fn transactions_leave_offsets_without_records() {
    let kafka = Kafka::shared();
    let topic = unique("transactions");
    kafka.create_topic(&topic, 1, &[]);
    let committed = kafka.produce_in_transaction(&topic, numbered(1, 10), End::Commit);
    let aborted = kafka.produce_in_transaction(&topic, numbered(1, 10), End::Abort);
    let plain = kafka.produce(&topic, numbered(1, 10));
    assert_eq!(aborted.count(), 0);
    // 10 records, a marker, 10 aborted, a marker, 10 records.
    assert_eq!(kafka.watermarks(&topic)[&0], (0, 32));
    let offsets: Vec<i64> = kafka.read_all(&topic).iter().map(|(_, offset, _)| *offset).collect();
    assert_eq!(offsets, (0..10).chain(22..32).collect::<Vec<_>>());
    assert_eq!(committed.and(&plain).offsets[&0], vec![0..10, 22..32]);
}

#[test]
fn deleted_records_move_the_start_of_the_log() {
    let kafka = Kafka::shared();
    let topic = unique("deleted");
    kafka.create_topic(&topic, 1, &[]);
    kafka.produce(&topic, numbered(1, 100));
    kafka.delete_records(&topic, 0, 40);
    assert_eq!(kafka.watermarks(&topic)[&0], (40, 100));
    assert!(kafka.committed("nobody", &topic).is_empty());
    kafka.delete_topic(&topic);
    kafka.create_topic(&topic, 1, &[]);
    assert_eq!(kafka.watermarks(&topic)[&0], (0, 0));
}

#[test]
fn a_killed_broker_comes_back_with_its_records() {
    let mut kafka = Kafka::own();
    let topic = unique("survivor");
    kafka.create_topic(&topic, 1, &[]);
    kafka.produce(&topic, numbered(1, 1000));
    kafka.kill();
    kafka.start();
    assert_eq!(kafka.read_all(&topic).len(), 1000);
    kafka.stop();
    kafka.start();
    assert_eq!(kafka.read_all(&topic).len(), 1000);
}

#[test]
fn the_rest_catalog_refuses_a_stale_snapshot_id() {
    let rest = RestCatalog::local();
    rest.create_namespace("sales");
    let created = rest.create_table("sales", "orders", &schema());
    let uuid = &created["metadata"]["table-uuid"];
    assert!(created["metadata-location"].as_str().unwrap().contains(&rest.warehouse()[8..]));

    let change = |snapshot: Value| {
        json!({
            "requirements": [
                { "type": "assert-table-uuid", "uuid": uuid },
                { "type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": snapshot },
            ],
            "updates": [{ "action": "set-properties", "updates": { "changed": "yes" } }],
        })
    };
    let stale = rest.commit("sales", "orders", &change(json!(5)));
    assert_eq!(stale.status, 409, "{}", stale.body);
    assert_eq!(stale.json()["error"]["type"], "CommitFailedException");
    let table = rest.get("namespaces/sales/tables/orders").success().json();
    assert_eq!(table["metadata"]["properties"]["changed"], Value::Null);

    rest.commit("sales", "orders", &change(Value::Null)).success();
    let table = rest.get("namespaces/sales/tables/orders").success().json();
    assert_eq!(table["metadata"]["properties"]["changed"], "yes");
}

#[test]
fn the_s3_store_honours_if_none_match() {
    let s3 = S3::shared();
    let path = format!("{}/some/object", s3.create_bucket());
    let absent = [("if-none-match", "*")];
    s3.put(&path, &absent, "first").success();
    assert_eq!(s3.put(&path, &absent, "second").status, 412);
    assert_eq!(s3.get(&path).success().body, "first");
    let bucket = path.split_once('/').unwrap().0;
    assert_eq!(s3.keys(bucket, "some/"), ["some/object"]);
}

#[test]
fn postgresql_keeps_what_it_is_told() {
    let url = Postgres::shared().create_database();
    let query = "SELECT value FROM pairs WHERE name = $1 AND value <> $2";
    assert_eq!(sql::text(&url, query, "a", "x"), None);
    sql::execute(&url, "CREATE TABLE pairs (name TEXT, value TEXT)");
    sql::execute(&url, "INSERT INTO pairs VALUES ('a', 'b')");
    assert_eq!(sql::text(&url, query, "a", "x"), Some("b".into()));
}

/// Changes a property of the table `sales.orders` through a proxy.
fn set(proxy: &Proxy, value: &str) -> Result<http::Reply, reqwest::Error> {
    let url = format!("{}/v1/namespaces/sales/tables/orders", proxy.uri());
    let updates = json!([{ "action": "set-properties", "updates": { "value": value } }]);
    http::post(&url, &json!({ "requirements": [], "updates": updates }))
}

#[test]
fn the_proxy_loses_holds_and_forges_replies() {
    let lake = Lake::rest();
    let rest = lake.rest_catalog();
    rest.create_namespace("sales");
    rest.create_table("sales", "orders", &schema());
    let table = lake.table("sales.orders");
    let value = || table.property("value");
    let proxy = Proxy::before(&rest.address());
    let commit = Matching::commit_of("sales", "orders");

    // Without a rule it only passes on.
    assert_eq!(set(&proxy, "plain").unwrap().status, 200);
    assert_eq!(value().as_deref(), Some("plain"));

    // The second commit from here on: the change is made, the client does not hear of it.
    let dropped = proxy.on(commit.clone().after(1), Fault::DropReply);
    assert_eq!(set(&proxy, "heard").unwrap().status, 200);
    assert!(set(&proxy, "unheard").is_err());
    dropped.wait_done(1, PATIENCE);
    assert_eq!(value().as_deref(), Some("unheard"));

    proxy.on(commit.clone(), Fault::Answer(503, "{}".into()));
    assert_eq!(set(&proxy, "refused").unwrap().status, 503);
    assert_eq!(value().as_deref(), Some("unheard"));

    let held = proxy.on(commit.clone(), Fault::HoldReply);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| set(&proxy, "held reply"));
        table.wait_for("the held change", PATIENCE, |metadata| {
            (metadata["properties"]["value"] == "held reply").then_some(())
        });
        assert!(!waiting.is_finished());
        held.release();
        assert_eq!(waiting.join().unwrap().unwrap().status, 200);
    });

    let hung = proxy.on(commit, Fault::Hang);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| set(&proxy, "hung"));
        hung.wait_hits(1, PATIENCE);
        hung.release();
        assert!(waiting.join().unwrap().is_err());
    });
    assert_eq!(value().as_deref(), Some("held reply"));
    let seen: Vec<Option<u16>> = proxy.seen().iter().map(|seen| seen.status).collect();
    assert_eq!(seen, [Some(200), Some(200), Some(200), None, Some(200), None]);
}

#[test]
fn the_proxy_delivers_a_held_request_after_its_client_has_gone() {
    let lake = Lake::rest();
    let rest = lake.rest_catalog();
    rest.create_namespace("sales");
    rest.create_table("sales", "orders", &schema());
    let proxy = Proxy::before(&rest.address());
    let late = proxy.on(Matching::commit_of("sales", "orders"), Fault::HoldRequest);

    let address = proxy.uri();
    let body = json!({
        "requirements": [],
        "updates": [{ "action": "set-properties", "updates": { "value": "late" } }],
    })
    .to_string();
    let request = format!(
        "POST /v1/namespaces/sales/tables/orders HTTP/1.1\r\nhost: catalog\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let address = address.strip_prefix("http://").unwrap();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut client, request.as_bytes()).unwrap();
    late.wait_hits(1, PATIENCE);
    drop(client);
    assert_eq!(lake.table("sales.orders").property("value"), None);

    late.release();
    late.wait_done(1, PATIENCE);
    assert_eq!(lake.table("sales.orders").property("value").as_deref(), Some("late"));
}

/// What the tables below are to hold: offsets 0 to 4 of one partition and 7 of another.
fn expected() -> Produced {
    let offsets = [(0, vec![0..5]), (3, vec![7..8])].into();
    Produced { topic: "t".into(), offsets, payloads: None }
}

fn rows(records: &[(i32, i64)]) -> Vec<Value> {
    records.iter().map(|(partition, offset)| json!(["t", partition, offset])).collect()
}

const RIGHT: [(i32, i64); 6] = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (3, 7)];

fn written_by_another(lake: &Lake, commits: &[&[(i32, i64)]]) {
    for commit in commits {
        foreign::append(&lake.table("ns.judged"), &foreign::RECORD, &rows(commit));
    }
}

#[test]
fn the_judge_passes_a_right_table_in_every_lake() {
    for (name, lake) in Lake::each() {
        let lake = lake();
        written_by_another(&lake, &[&RIGHT[..4], &RIGHT[4..]]);
        let table = lake.table("ns.judged");
        assert_eq!(oracle::assert_exactly_once(&table, &[&expected()]), 6, "{name}");
        assert_eq!(table.snapshots().len(), 2, "{name}");
    }
}

#[test]
fn the_judge_finds_a_repeated_row_a_missing_one_and_a_stranger() {
    let verdicts = |commits: &[&[(i32, i64)]]| {
        let lake = Lake::sqlite();
        written_by_another(&lake, commits);
        let table: Table<'_> = lake.table("ns.judged");
        Reader::EACH.map(|reader| oracle::judge(&table, &[&expected()], reader))
    };
    for verdict in verdicts(&[&RIGHT, &RIGHT[1..2]]) {
        assert!(!verdict.is_exact());
        assert_eq!((verdict.missing, verdict.repeated, verdict.strange), (0, 1, 0));
        assert_eq!(verdict.repeated_shown, ["t[0] offset 1 x2"]);
    }
    for verdict in verdicts(&[&RIGHT[1..]]) {
        assert!(!verdict.is_exact());
        assert_eq!((verdict.missing, verdict.repeated, verdict.strange), (1, 0, 0));
        assert_eq!(verdict.missing_shown, ["t[0] offset 0 x0"]);
    }
    for verdict in verdicts(&[&RIGHT, &[(0, 5)]]) {
        assert!(!verdict.is_exact());
        assert_eq!((verdict.missing, verdict.repeated, verdict.strange), (0, 0, 1));
        assert_eq!(verdict.strange_shown, ["t[0] offset 5 x1"]);
    }
}

#[test]
#[should_panic(expected = "t[0] offset 1 x2")]
fn a_repeated_row_fails_a_test() {
    let lake = Lake::sqlite();
    written_by_another(&lake, &[&RIGHT, &RIGHT[1..2]]);
    oracle::assert_exactly_once(&lake.table("ns.judged"), &[&expected()]);
}

#[test]
fn a_set_of_offsets_can_lose_one() {
    let without = expected().without(0, 2).without(3, 7);
    assert_eq!(without.offsets, [(0, vec![0..2, 3..5]), (3, vec![])].into());
    assert_eq!(without.count(), 4);
}

/// Rows with the fields of [`numbered`], with offsets as if in one partition.
fn texts(changed: Option<usize>) -> Vec<Value> {
    (0..100)
        .map(|number| {
            let text = if Some(number) == changed { "wrong" } else { &format!("é{number}") };
            json!(["t", 0, number, number, text])
        })
        .collect()
}

fn payloads_of(rows: &[Value]) -> (Lake, Produced) {
    let kafka = Kafka::shared();
    let topic = unique("payloads");
    kafka.create_topic(&topic, 1, &[]);
    let produced = kafka.produce_kept(&topic, numbered(1, 100));
    let lake = Lake::sqlite();
    let [topic_column, partition, offset] = foreign::RECORD;
    let types = [topic_column, partition, offset, ("id", "int64"), ("text", "string")];
    foreign::append(&lake.table("ns.payloads"), &types, rows);
    // The rows above have a topic's name that no other test changes.
    (lake, Produced { topic: "t".into(), ..produced })
}

#[test]
fn the_judge_compares_payloads_with_columns() {
    let (lake, produced) = payloads_of(&texts(None));
    let table = lake.table("ns.payloads");
    oracle::assert_exactly_once(&table, &[&produced]);
    oracle::assert_payloads(&table, &produced, &["id", "text"]);
    let sql = "SELECT count(*), sum(id), max(text) FROM t WHERE id < 10";
    for reader in Reader::EACH {
        let answer = oracle::query(&table, reader, sql);
        assert_eq!(answer, [["10", "45", "é9"].map(|text| Some(text.to_owned()))]);
    }
}

#[test]
#[should_panic(expected = "[0] offset 42: sent é42, in the table wrong")]
fn a_changed_payload_fails_a_test() {
    let (lake, produced) = payloads_of(&texts(Some(42)));
    oracle::assert_payloads(&lake.table("ns.payloads"), &produced, &["id", "text"]);
}

#[test]
fn the_flights_are_all_there() {
    let flights = Flights::get();
    assert_eq!(flights.lines().count(), Flights::COUNT);
    assert_eq!(flights.columns().len(), 19);
    assert_eq!(flights.columns()["dep_delay"].nulls, 8255);
    let first: Value = serde_json::from_str(flights.lines().next().unwrap()).unwrap();
    assert_eq!(first["tailnum"], "N14228");
    let names = Flights::schema()["fields"].as_array().unwrap().clone();
    assert!(names.iter().all(|field| first.get(field["name"].as_str().unwrap()).is_some()));
}

#[test]
fn columns_of_equal_content_have_equal_statistics() {
    let lake = Lake::sqlite();
    let (forth, back) = (lake.table("ns.forth"), lake.table("ns.back"));
    let types = [("number", "float64"), ("text", "string"), ("time", "timestamp[us]")];
    let mut rows: Vec<Value> = (0..1000)
        .map(|number| json!([f64::from(number) / 3.0, format!("t{number}"), null]))
        .collect();
    foreign::append(&forth, &types, &rows);
    rows.reverse();
    foreign::append(&back, &types, &rows);
    for reader in Reader::EACH {
        let stats = oracle::columns(&forth, reader);
        assert_eq!(stats, oracle::columns(&back, reader));
        assert_eq!((stats["time"].count, stats["time"].nulls), (0, 1000));
        assert_eq!(stats["text"].count, 1000);
    }
    rows[0][1] = json!("other");
    foreign::append(&lake.table("ns.other"), &types, &rows);
    let other = oracle::columns(&lake.table("ns.other"), Reader::DuckDb);
    assert_ne!(oracle::columns(&forth, Reader::DuckDb)["text"], other["text"]);
}

#[test]
fn the_proxy_ends_what_it_holds_when_it_is_dropped() {
    let rest = RestCatalog::local();
    let proxy = Proxy::before(&rest.address());
    let hung = proxy.on(Matching::new("GET", "/v1/config"), Fault::Hang);
    let url = format!("{}/v1/config", proxy.uri());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| http::get(&url));
        hung.wait_hits(1, PATIENCE);
        drop(proxy);
        assert!(waiting.join().unwrap().is_err());
    });
    hung.wait_done(1, PATIENCE);
}

#[test]
fn a_process_is_waited_for_signalled_and_read() {
    let log = new_dir("process").join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"]);
    let mut process = Process::start("a loop", command, &log);
    process
        .wait_ready("say ready", PATIENCE, |process| process.log().contains("ready").then_some(()));
    assert!(process.ended().is_none());
    process.signal("TERM");
    assert_eq!(process.wait(PATIENCE).code(), Some(7));
}

#[test]
#[should_panic(expected = "ended (exit status: 3) before it could say ready:\nsorry")]
fn a_process_that_ends_too_early_fails_a_test_with_its_log() {
    let log = new_dir("process").join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "echo sorry; exit 3"]);
    let mut process = Process::start("a server", command, &log);
    process
        .wait_ready("say ready", PATIENCE, |process| process.log().contains("ready").then_some(()));
}

#[test]
fn metrics_are_summed_over_the_labels_that_are_not_named() {
    let text = "# HELP a_total Some.\na_total{kind=\"x\",by=\"1\"} 2\n\
                a_total{kind=\"y\",by=\"1\"} 3.5\na_total_more 7\nplain 1e3\n";
    let metrics = Metrics { text: text.into() };
    assert_eq!(metrics.value("a_total", &[]), Some(5.5));
    assert_eq!(metrics.value("a_total", &[("kind", "y"), ("by", "1")]), Some(3.5));
    assert_eq!(metrics.value("a_total", &[("kind", "z")]), None);
    assert_eq!(metrics.value("plain", &[]), Some(1000.0));
}

fn schema() -> Value {
    json!({
        "type": "struct",
        "fields": [{ "id": 1, "name": "id", "required": false, "type": "long" }],
    })
}
