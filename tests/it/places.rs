//! Where icestream runs and what it trusts: private authorities, a pooler before the catalog, a store that
//! demands encryption, other processes on the machine.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::landing::{pipeline, records};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::postgres::{Postgres, as_postgres};
use crate::support::process::Process;
use crate::support::producing::Record;
use crate::support::s3::S3;
use crate::support::table::Lake;
use crate::support::tls::{Terminator, make_authority, make_certificate};
use crate::support::{PATIENCE, free_port, new_dir, parts, unique};

/// Files of an authority that signed a server's certificate, and of a stranger.
fn authorities() -> PathBuf {
    let dir = new_dir("authorities");
    make_authority(&dir, "ca");
    make_authority(&dir, "stranger");
    make_certificate(&dir);
    dir
}

fn file(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn a_catalog_and_a_store_with_certificates_of_a_private_authority_are_trusted_by_its_file() {
    let dir = authorities();
    let lake = Lake::rest_on_s3();
    let catalog = Terminator::before(&lake.rest_catalog().address(), &dir);
    let endpoint = S3::shared().endpoint();
    let store = Terminator::before(endpoint.strip_prefix("http://").unwrap(), &dir);
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream = icestream
        .set("ICEBERG_CATALOG_URI", catalog.uri())
        .set("AWS_ENDPOINT_URL_S3", store.uri())
        .set("ICEBERG_REST_CA_FILE", file(&dir, "ca.pem"))
        .set("S3_CA_FILE", file(&dir, "ca.pem"));
    icestream.command(&["check"]).success();
    let produced = Kafka::shared().produce(&topic, records(2, 0..5_000));
    icestream.run_until_caught_up();
    icestream.command(&["check"]).success();
    for (setting, wrong) in [("ICEBERG_REST_CA_FILE", "catalog"), ("S3_CA_FILE", "store")] {
        for other in [
            icestream.clone().unset(setting),
            icestream.clone().set(setting, file(&dir, "stranger.pem")),
        ] {
            let checked = other.command(&["check"]).with_code(1);
            let failed = format!("FAIL  {wrong} ");
            assert!(checked.stdout.contains(&failed), "{setting}: {}", checked.stdout);
        }
    }
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 5_000);
}

#[test]
fn a_database_with_a_certificate_of_a_private_authority_is_trusted_by_its_file() {
    let dir = authorities();
    let server = Postgres::with_certificate(&dir.join("server.pem"), &dir.join("server.key"));
    let lake = Lake::on_postgres(&server);
    let (icestream, topic) = pipeline(&lake, 1);
    let verified = |ca: &str| {
        let uri = format!("{}?sslmode=verify-full&sslrootcert={}", lake.database(), file(&dir, ca));
        icestream.clone().set("ICEBERG_CATALOG_URI", uri)
    };
    let checked = verified("stranger.pem").command(&["check"]).with_code(1);
    assert!(checked.stdout.contains("FAIL  catalog "), "{}", checked.stdout);
    let produced = Kafka::shared().produce(&topic, records(1, 0..2_000));
    verified("ca.pem").run_until_caught_up();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 2_000);
    // Encryption alone, without a look at who it is; and none of it where the server has none.
    let required = format!("{}?sslmode=require", lake.database());
    icestream.clone().set("ICEBERG_CATALOG_URI", required).command(&["check"]).success();
    let plain = Lake::postgres();
    let required = format!("{}?sslmode=require", plain.database());
    icestream.set("ICEBERG_CATALOG_URI", required).command(&["check"]).with_code(1);
}

#[test]
fn a_pooler_that_lends_connections_for_a_transaction_is_no_obstacle() {
    let lake = Lake::postgres();
    let uri = lake.database();
    let (server, database) = uri.split_once('@').unwrap().1.split_once('/').unwrap();
    let (host, port) = server.split_once(':').unwrap();
    let dir = new_dir("pgbouncer");
    let listen = free_port();
    let settings = format!(
        "[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {listen}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
         default_pool_size = 3\nserver_reset_query =\n"
    );
    fs::write(dir.join("pgbouncer.ini"), settings.replace("* = ", "* = user=icestream ")).unwrap();
    let mut command = Command::new(parts::pgbouncer());
    command.arg(dir.join("pgbouncer.ini")).current_dir(&dir);
    let command = as_postgres(&dir, command);
    let mut pooler = Process::start("PgBouncer", command, &dir.join("pgbouncer.log"));
    pooler.wait_ready("listen", PATIENCE, |_| {
        std::net::TcpStream::connect(("127.0.0.1", listen)).ok().map(drop)
    });
    let (icestream, topic) = pipeline(&lake, 2);
    let through = format!("postgres://icestream@127.0.0.1:{listen}/{database}");
    let one = icestream.set("ICEBERG_CATALOG_URI", through).set("CHECKPOINT_INTERVAL_MS", "100");
    one.command(&["check"]).success();
    let mut beside = one.another().run();
    let mut all = Vec::new();
    for part in 0..10 {
        all.push(Kafka::shared().produce(&topic, records(2, part * 100..(part + 1) * 100)));
        let log = one.run_until_caught_up().log;
        assert!(!log.contains("prepared statement"), "{log}");
    }
    let log = beside.stop(PATIENCE).success().log;
    assert!(!log.contains("prepared statement"), "{log}");
    one.run_until_caught_up();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &all.iter().collect::<Vec<_>>()), 1_000);
}

#[test]
fn check_beside_the_running_process_of_the_pipeline_disturbs_and_fails_nothing() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 1);
    let mut running = icestream.run();
    let produced = Kafka::shared().produce(&topic, records(1, 0..100));
    running.wait_count("icestream_committed_records_total", &[], 100.0);
    let checked = icestream.command(&["check"]).success().stdout;
    for words in
        ["in use by the process of this pipeline", "is served by the process of this pipeline"]
    {
        assert!(checked.contains(words), "{words}: {checked}");
    }
    // Of another pipeline neither is.
    let other = icestream.clone().set("KAFKA_GROUP_ID", "another-pipeline");
    let checked = other.command(&["check"]).with_code(1).stdout;
    for words in ["FAIL  checkpoints", "FAIL  http"] {
        assert!(checked.contains(words), "{words}: {checked}");
    }
    running.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 100);
}

#[test]
fn a_second_process_on_a_machine_finds_a_port_if_none_was_asked_for() {
    // Where that fails somebody else has the port, which is the same.
    let _taken = TcpListener::bind("127.0.0.1:9464");
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 1);
    let produced = Kafka::shared().produce(&topic, records(1, 0..100));
    let exit = icestream.unset("HTTP_LISTEN").run_until_caught_up();
    assert!(exit.log.contains("the default address is taken by another process"), "{}", exit.log);
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 100);
}

#[test]
fn records_that_grow_beyond_memory_stop_no_other_and_take_no_memory() {
    const LIMIT: u64 = 256;
    let lake = Lake::sqlite();
    let topic = unique("bombs");
    let kafka = Kafka::shared();
    kafka.create_topic(&topic, 2, &[]);
    let longs: Vec<_> = (0..100)
        .map(|at| json!({"id": 100 + at, "name": format!("f{at}"), "required": false, "type": "long"}))
        .collect();
    let schema = json!({"type": "struct", "fields": [
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "text", "required": false, "type": "string"},
        {"id": 3, "name": "wide", "required": false, "type": {"type": "list", "element-id": 4,
            "element-required": false, "element": {"type": "struct", "fields": longs}}},
    ]});
    let icestream = Icestream::new(kafka, &topic, &lake, &format!("db.{topic}"))
        .schema(&schema)
        .set("MEMORY_LIMIT_MB", LIMIT.to_string())
        .set("PARALLELISM", "2")
        .set("BAD_RECORDS", "skip");
    let row = |id: i64| Record::new(1, json!({ "id": id, "text": "x" }).to_string());
    let mut produced = kafka.produce(&topic, (0..50).map(row));
    // Five bytes each, and eight hundred in the columns: 160 MB of nulls.
    let nulls = format!("{{\"id\":1,\"wide\":[{}null]}}", "null,".repeat(200_000));
    kafka.produce(&topic, [Record::new(1, nulls)]);
    produced = produced.and(&kafka.produce(&topic, (50..100).map(row)));
    let before = kafka.produce(&topic, (0..50).map(|id| Record { partition: 0, ..row(id) }));
    // Some 600 KB that unpack to 150 MB.
    let text = "x".repeat(150_000_000);
    kafka.produce(&topic, [Record::new(0, format!("{{\"id\":1,\"text\":\"{text}\"}}"))]);
    let mut running = icestream.run();
    running.wait_count("icestream_committed_records_total", &[], 150.0);
    let reason = running.wait_ready(false, PATIENCE).to_string();
    assert!(reason.contains(&format!("{topic}[0]")), "{reason}");
    let metrics = running.metrics().unwrap();
    let bad = metrics.value("icestream_bad_records_total", &[("reason", "too_large")]);
    assert_eq!(bad, Some(1.0));
    assert!(running.memory().peak < LIMIT << 20, "{:?}", running.memory());
    let log = running.stop(PATIENCE).log;
    assert!(log.contains("unpacks to 67108864 bytes or more"), "{log}");
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced.and(&before)]), 150);
}
