//! A PostgreSQL catalog that worked and then refuses for a while: a standby after a failover, a role or a
//! database that somebody changes.

use crate::broken_servers::{Loaded, wait_named, wait_progress};
use crate::support::icestream::Running;
use crate::support::kafka::Kafka;
use crate::support::postgres::{Postgres, sql};
use crate::support::table::Lake;
use crate::support::{PATIENCE, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";
const COMMITS: &str = "icestream_commits_total";

fn restarts(running: &Running) -> Option<f64> {
    running.metrics().and_then(|metrics| metrics.value("icestream_restarts_total", &[]))
}

/// As a server does that a failover made a standby: it answers, and takes no writes.
fn takes_writes(server: &Postgres, takes: bool) {
    let off = if takes { "off" } else { "on" };
    server.execute(&format!("ALTER SYSTEM SET default_transaction_read_only = {off}"));
    server.execute("SELECT pg_reload_conf()");
}

#[test]
fn a_server_that_takes_no_writes_for_a_while_is_waited_for() {
    let server = Postgres::own();
    let lake = Lake::on_postgres(&server);
    let loaded = Loaded::new(Kafka::shared(), &lake, 2, 1_000);
    let mut running = loaded.icestream.run();
    running.wait_count(COMMITTED, &[], 1.0);
    for _ in 0..2 {
        let turned_away = [("outcome", "turned_away")];
        let before = running.metrics().and_then(|metrics| metrics.value(COMMITS, &turned_away));
        takes_writes(&server, false);
        running.wait_count(COMMITS, &turned_away, before.unwrap_or_default() + 2.0);
        wait_named(&mut running, "catalog", PATIENCE);
        takes_writes(&server, true);
        wait_progress(&mut running);
    }
    assert_eq!(restarts(&running), Some(0.0));
    let log = loaded.finish(running, &lake);
    assert!(log.contains("read-only transaction"), "{log}");
}

#[test]
fn a_database_that_worked_and_refuses_us_for_a_while_is_waited_for_and_a_first_time_is_not() {
    let server = Postgres::own();
    let lake = Lake::on_postgres(&server);
    let (uri, database) = (lake.database(), lake.database().rsplit_once('/').unwrap().1);
    let loaded = Loaded::new(Kafka::shared(), &lake, 2, 1_000);
    // Makes the catalog's tables, for somebody who may not.
    loaded.icestream.command(&["check"]).success();
    let granted = "GRANT ALL ON ALL TABLES IN SCHEMA public TO writer";
    server.execute("CREATE ROLE writer LOGIN");
    sql::execute(uri, granted);
    let loaded = loaded.set("ICEBERG_CATALOG_URI", &uri.replace("icestream@", "writer@"));

    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'";
    let on_server = |statements: &[&str]| statements.iter().for_each(|said| server.execute(said));
    let away = format!("{database}_away");
    let closed = format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false");
    let opened = format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true");
    let renamed = format!("ALTER DATABASE {database} RENAME TO {away}");
    let back = format!("ALTER DATABASE {away} RENAME TO {database}");
    type Act<'a> = &'a dyn Fn();
    let refusals: [(&str, Act<'_>, Act<'_>); 4] = [
        ("is not permitted to log in", &|| on_server(&["ALTER ROLE writer NOLOGIN", end]), &|| {
            on_server(&["ALTER ROLE writer LOGIN"])
        }),
        (
            "permission denied",
            &|| sql::execute(uri, "REVOKE UPDATE ON iceberg_tables FROM writer"),
            &|| sql::execute(uri, granted),
        ),
        (
            "permission denied",
            &|| sql::execute(uri, "REVOKE ALL ON iceberg_tables FROM writer"),
            &|| sql::execute(uri, granted),
        ),
        ("does not exist", &|| on_server(&[&closed, end, &renamed]), &|| {
            on_server(&[&back, &opened])
        }),
    ];

    let mut running = loaded.icestream.run();
    running.wait_count(COMMITTED, &[], 1.0);
    for (words, refuse, allow) in refusals {
        refuse();
        wait_for(&format!("/readyz to say that it {words}"), PATIENCE, || {
            let reply = running.get("/readyz").filter(|reply| reply.status == 503)?;
            reply.json()["servers"]["catalog"].to_string().contains(words).then_some(())
        });
        // Who comes to it now has settings that do not fit.
        if words != "permission denied" {
            let other = loaded.icestream.another();
            let checked = other.command(&["check"]).with_code(1);
            assert!(checked.stdout.contains("FAIL  catalog"), "{}", checked.stdout);
            let exit = other.command(&["run"]).with_code(3);
            assert!(exit.log.contains(words), "{words}: {}", exit.log);
        }
        allow();
        wait_progress(&mut running);
    }
    loaded.finish(running, &lake);
}
