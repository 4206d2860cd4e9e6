//! What is secret in the settings reaches no log, no standard output and no page, at level `trace`, when
//! all is well and when servers are away or say no.

use serde_json::json;

use crate::landing::{pipeline, records};
use crate::support::icestream::{Exit, RUN};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::postgres::Postgres;
use crate::support::producing::Produced;
use crate::support::proxy::{Fault, Matching, Proxy};
use crate::support::s3::S3;
use crate::support::table::Lake;
use crate::support::{PATIENCE, free_port, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";

const SECRET: &str = "s3cr3t-Hx7";

fn produce(topic: &str, numbers: std::ops::Range<i64>) -> Produced {
    Kafka::shared().produce(topic, records(2, numbers))
}

fn assert_kept_secret(exit: &Exit, secret: &str) {
    for text in [&exit.log, &exit.stdout] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret is shown");
    }
}

#[test]
fn a_password_for_kafka_is_never_shown() {
    let (icestream, _) = pipeline(&Lake::sqlite(), 1);
    let icestream = icestream
        .set("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext")
        .set("KAFKA_SASL_MECHANISM", "PLAIN")
        .set("KAFKA_SASL_USERNAME", "reader")
        .set("KAFKA_SASL_PASSWORD", SECRET)
        .set("RETRY_GIVE_UP_MS", "1000")
        .set("LOG_LEVEL", "trace");
    // The broker wants none: it hangs up. Then settings that are wrong beside the secret.
    let exit = icestream.command(&["run"]).with_code(5);
    assert_kept_secret(&exit, SECRET);
    let exit = icestream.set("KAFKA_SASL_MECHANISM", SECRET).command(&["run"]).with_code(3);
    assert!(exit.log.contains("KAFKA_SASL_MECHANISM"), "{}", exit.log);
    let shown = exit.log.matches(SECRET).count();
    assert_eq!(shown, 1, "the mechanism and not the password: {}", exit.log);
}

#[test]
fn a_password_of_postgresql_is_never_shown() {
    let (icestream, _) = pipeline(&Lake::sqlite(), 1);
    let (right, closed) = (Postgres::shared().create_database(), free_port());
    let right = right.replace("icestream@", &format!("icestream:{SECRET}@"));
    let away = format!("postgres://icestream:{SECRET}@127.0.0.1:{closed}/catalog");
    let icestream = icestream.set("LOG_LEVEL", "trace").set("RETRY_GIVE_UP_MS", "1000");
    let exit = icestream.clone().set("ICEBERG_CATALOG_URI", &right).run_until_caught_up();
    assert_kept_secret(&exit, SECRET);
    let exit = icestream.set("ICEBERG_CATALOG_URI", &away).command(&["run"]).with_code(5);
    assert!(exit.log.contains(&format!("127.0.0.1:{closed}")), "{}", exit.log);
    assert_kept_secret(&exit, SECRET);
}

/// The driver takes user and password from parameters, too, and the name of a parameter by any
/// escape. Nothing of it may reach the log, the open pages or standard output, least of all when the
/// server is away.
#[test]
fn a_password_of_postgresql_in_a_parameter_is_never_shown() {
    let server = Postgres::own();
    let database = server.create_database();
    let (_, name) = database.rsplit_once('/').unwrap();
    let address = server.address();
    let uri = |parameters: &str| format!("postgres://{address}/{name}?user=icestream&{parameters}");
    let plain = uri(&format!("password={SECRET}"));
    let odd = uri(&format!("p%61ssword=a@{SECRET}&sslpassword={SECRET}&PASSWORD={SECRET}"));
    let (icestream, topic) = pipeline(&Lake::sqlite(), 2);
    produce(&topic, 0..100);
    let icestream = icestream.set("LOG_LEVEL", "trace");
    let mut running = icestream.clone().set("ICEBERG_CATALOG_URI", &plain).run();
    running.wait_count(COMMITTED, &[], 100.0);
    drop(server);
    produce(&topic, 100..200);
    let readiness = wait_for("/readyz to say that the catalog is away", PATIENCE, || {
        let page = running.get("/readyz")?;
        (page.json()["servers"]["catalog"]["reachable"] == false).then_some(page.body)
    });
    assert!(readiness.contains(&format!("{address}/{name}?user=icestream")), "{readiness}");
    let metrics = running.metrics().expect("metrics").text;
    for page in [readiness, metrics] {
        assert!(!page.contains(SECRET), "{page}");
    }
    assert_kept_secret(&running.kill(), SECRET);

    let brief = icestream.member().set("RETRY_GIVE_UP_MS", "1000");
    // At once: each takes its time to give up.
    let mut all = Vec::new();
    for uri in [plain, odd] {
        for (command, code) in [("run", 5), ("check", 1)] {
            let away = brief.member().set("ICEBERG_CATALOG_URI", &uri);
            all.push((code, away.start(&[command])));
        }
    }
    for (code, mut running) in all {
        let exit = running.wait(RUN).with_code(code);
        assert!(format!("{}{}", exit.log, exit.stdout).contains(&address), "{}", exit.log);
        assert_kept_secret(&exit, SECRET);
    }
}

#[test]
fn a_credential_of_the_rest_catalog_is_never_shown() {
    let lake = Lake::rest();
    let proxy = Proxy::before(&lake.rest_catalog().address());
    let lake = lake.through(proxy.uri());
    let (icestream, _) = pipeline(&lake, 1);
    let icestream = icestream
        .set("ICEBERG_REST_CREDENTIAL", format!("reader:{SECRET}"))
        .set("LOG_LEVEL", "trace");
    let says_no = String::from(r#"{"error":{"message":"bad client","type":"No","code":401}}"#);
    let tokens = Matching::new("POST", "/oauth/tokens");
    proxy.on(tokens.clone(), Fault::Answer(401, says_no));
    let exit = icestream.command(&["run"]).with_code(3);
    assert!(exit.log.contains("bad client"), "{}", exit.log);
    assert_kept_secret(&exit, SECRET);
    let token = json!({ "access_token": format!("token-{SECRET}"), "token_type": "bearer" });
    proxy.on(tokens, Fault::Answer(200, token.to_string()));
    assert_kept_secret(&icestream.run_until_caught_up(), SECRET);
    let exit = icestream.unset("ICEBERG_REST_CREDENTIAL").set("ICEBERG_REST_TOKEN", SECRET);
    assert_kept_secret(&exit.run_until_caught_up(), SECRET);
}

#[test]
fn a_key_of_s3_is_never_shown() {
    let lake = Lake::sqlite_on_s3();
    let (icestream, topic) = pipeline(&lake, 2);
    let produced = produce(&topic, 0..10);
    let exit = icestream.set("LOG_LEVEL", "trace").run_until_caught_up();
    assert_kept_secret(&exit, S3::SECRET_ACCESS_KEY);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 10);
}
