//! Answers that are lost, late, forged or no: the table holds every record once all the same.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use crate::landing::{pipeline, records};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::postgres::sql;
use crate::support::producing::Produced;
use crate::support::proxy::{Fault, LEDGER, Matching, Proxy, Rule};
use crate::support::table::{Lake, Table, snapshots};
use crate::support::{PATIENCE, block_on, wait_for};

const COMMITS: &str = "icestream_commits_total";
const ADMISSIONS: &str = "icestream_admissions_total";
const COMMITTED: &str = "icestream_committed_records_total";

/// Long enough for the processes' 30 s of patience with one request, and what comes after it.
const LONG: Duration = Duration::from_secs(120);

/// A REST catalog behind a proxy, with a pipeline into it.
struct Behind {
    lake: Lake,
    proxy: Proxy,
    icestream: Icestream,
    topic: String,
}

impl Behind {
    fn new() -> Self {
        let lake = Lake::rest();
        let proxy = Proxy::before(&lake.rest_catalog().address());
        let lake = lake.through(proxy.uri());
        let (icestream, topic) = pipeline(&lake, 2);
        Self { lake, proxy, icestream, topic }
    }

    fn produce(&self, numbers: std::ops::Range<i64>) -> Produced {
        Kafka::shared().produce(&self.topic, records(2, numbers))
    }

    fn table(&self) -> Table<'_> {
        self.lake.table(&format!("db.{}", self.topic))
    }

    /// Orders a fault for the first commit from here on.
    fn on_commit(&self, fault: Fault) -> Rule {
        self.proxy.on(Matching::ledger_of("db", &self.topic), fault)
    }

    /// What the server answered to each commit of records that was delivered to it, in that order.
    fn answers_to_commits(&self) -> Vec<u16> {
        let path = format!("/namespaces/db/tables/{}", self.topic);
        let commits = self.proxy.seen().into_iter();
        commits
            .filter(|seen| seen.method == "POST" && seen.path.contains(&path))
            .filter(|seen| seen.body.contains(LEDGER))
            .filter_map(|seen| seen.status)
            .collect()
    }
}

fn stop(mut running: Running) -> String {
    running.stop(PATIENCE).success().log
}

/// The snapshots of a table that carry records: each of them has one commit id, used once.
fn assert_commit_ids_are_unique(table: &Table<'_>) {
    let ids: Vec<Value> = table
        .snapshots()
        .iter()
        .map(|snapshot| snapshot["summary"]["icestream.commit-id"].clone())
        .collect();
    let unique: std::collections::BTreeSet<String> = ids.iter().map(Value::to_string).collect();
    assert!(ids.iter().all(Value::is_string), "{ids:?}");
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
}

#[test]
fn a_commit_whose_reply_was_lost_is_found_in_the_table_and_not_repeated() {
    let behind = Behind::new();
    let lost = behind.on_commit(Fault::DropReply);
    let produced = behind.produce(0..1000);
    let mut running = behind.icestream.run();
    lost.wait_done(1, PATIENCE);
    running.wait_count(COMMITTED, &[], 1000.0);
    running.wait_count(COMMITS, &[("outcome", "unknown")], 1.0);
    running.wait_count(ADMISSIONS, &[("decision", "already_committed")], 1.0);
    assert_eq!(running.metrics().unwrap().value("icestream_unknown_commits", &[]), Some(0.0));
    let more = behind.produce(1000..1500);
    running.wait_count(COMMITTED, &[], 1500.0);
    let log = stop(running);
    assert!(log.contains("the outcome of the commit is not known"), "{log}");
    assert!(log.contains("already_committed"), "{log}");
    assert_eq!(assert_exactly_once(&behind.table(), &[&produced, &more]), 1500);
    assert_commit_ids_are_unique(&behind.table());
}

#[test]
fn an_edit_of_the_ledger_whose_reply_was_lost_is_found_in_the_table_and_not_repeated() {
    let behind = Behind::new();
    let produced = behind.produce(0..1000);
    behind.icestream.run_until_caught_up();
    let lost = behind.on_commit(Fault::DropReply);
    let command = ["ledger", "rewind", "--yes", "--json"];
    let done = behind.icestream.command(&command).success().json();
    lost.wait_done(1, PATIENCE);
    let mut edits = behind.table().snapshots();
    edits.retain(|snapshot| snapshot["summary"]["icestream.edit"].is_string());
    assert_eq!(edits.len(), 1, "{edits:?}");
    assert_eq!((&done["snapshot_id"], &done["generation"]), (&edits[0]["snapshot-id"], &1.into()));
    let more = behind.produce(1000..1500);
    behind.icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&behind.table(), &[&produced, &more]), 1500);
    assert_commit_ids_are_unique(&behind.table());
}

#[test]
fn a_process_killed_before_the_reply_came_does_not_repeat_its_commit() {
    let behind = Behind::new();
    let held = behind.on_commit(Fault::HoldReply);
    let produced = behind.produce(0..1000);
    let mut running = behind.icestream.run();
    behind.table().wait_for("a snapshot", PATIENCE, |metadata| {
        (snapshots(metadata).len() == 1).then_some(())
    });
    running.kill();
    held.release();
    let log = behind.icestream.run_until_caught_up().log;
    assert!(log.contains("recovered a pending commit"), "{log}");
    assert!(log.contains("already_committed"), "{log}");
    assert_eq!(assert_exactly_once(&behind.table(), &[&produced]), 1000);
    assert_eq!(behind.table().snapshots().len(), 1);
}

#[test]
fn a_request_that_arrives_after_another_process_committed_the_same_is_refused() {
    // The next process with the checkpoint of the first, and one that has nothing local.
    for keeps_checkpoint in [true, false] {
        let behind = Behind::new();
        let late = behind.on_commit(Fault::HoldRequest);
        let produced = behind.produce(0..1000);
        let mut first = behind.icestream.run();
        late.wait_hits(1, PATIENCE);
        first.kill();
        let next =
            if keeps_checkpoint { behind.icestream.clone() } else { behind.icestream.another() };
        let log = next.run_until_caught_up().log;
        assert_eq!(log.contains("recovered a pending commit"), keeps_checkpoint, "{log}");
        late.release();
        late.wait_done(1, PATIENCE);
        assert_eq!(behind.answers_to_commits().last(), Some(&409));
        assert_eq!(assert_exactly_once(&behind.table(), &[&produced]), 1000);
        // The first process's files are still named by its checkpoint: the lost race is settled.
        behind.icestream.run_until_caught_up();
        let more = behind.produce(1000..1100);
        next.run_until_caught_up();
        assert_eq!(assert_exactly_once(&behind.table(), &[&produced, &more]), 1100);
        assert_commit_ids_are_unique(&behind.table());
    }
}

#[test]
fn a_request_that_lands_between_load_and_commit_of_the_next_process_is_not_repeated() {
    for keeps_checkpoint in [true, false] {
        let behind = Behind::new();
        let late = behind.on_commit(Fault::HoldRequest);
        let produced = behind.produce(0..1000);
        let mut first = behind.icestream.run();
        late.wait_hits(1, PATIENCE);
        first.kill();

        let overtaken = behind.on_commit(Fault::HoldRequest);
        let next =
            if keeps_checkpoint { behind.icestream.clone() } else { behind.icestream.another() };
        let mut second = next.run();
        overtaken.wait_hits(1, PATIENCE);
        late.release();
        late.wait_done(1, PATIENCE);
        overtaken.release();
        overtaken.wait_done(1, PATIENCE);
        assert_eq!(behind.answers_to_commits(), [200, 409]);
        let decision = if keeps_checkpoint { "already_committed" } else { "superseded" };
        second.wait_count(ADMISSIONS, &[("decision", decision)], 1.0);
        let more = behind.produce(1000..1100);
        behind.table().wait_for("another snapshot", PATIENCE, |metadata| {
            (snapshots(metadata).len() == 2).then_some(())
        });
        stop(second);
        assert_eq!(assert_exactly_once(&behind.table(), &[&produced, &more]), 1100);
        assert_commit_ids_are_unique(&behind.table());
    }
}

#[test]
fn a_request_that_was_swallowed_is_sent_again_by_the_next_process() {
    let behind = Behind::new();
    let hung = behind.on_commit(Fault::Hang);
    let produced = behind.produce(0..1000);
    let mut running = behind.icestream.run();
    hung.wait_hits(1, PATIENCE);
    running.kill();
    let log = behind.icestream.run_until_caught_up().log;
    assert!(log.contains("recovered a pending commit"), "{log}");
    assert_eq!(assert_exactly_once(&behind.table(), &[&produced]), 1000);
    assert_eq!(behind.answers_to_commits(), [200]);
}

#[test]
fn a_request_without_an_answer_in_time_is_settled_by_the_table_and_may_still_arrive() {
    let behind = Behind::new();
    let late = behind.on_commit(Fault::HoldRequest);
    let produced = behind.produce(0..1000);
    let mut running = behind.icestream.run();
    late.wait_hits(1, PATIENCE);
    // The process waits its 30 s, then reads the ledger and commits anew.
    running.wait_metrics("a commit", LONG, |metrics| {
        metrics.value(COMMITTED, &[]).filter(|rows| *rows >= 1000.0)
    });
    running.wait_count(COMMITS, &[("outcome", "unknown")], 1.0);
    late.release();
    late.wait_done(1, PATIENCE);
    assert_eq!(behind.answers_to_commits(), [200, 409]);
    let more = behind.produce(1000..1100);
    running.wait_count(COMMITTED, &[], 1100.0);
    stop(running);
    assert_eq!(assert_exactly_once(&behind.table(), &[&produced, &more]), 1100);
}

#[test]
fn an_error_of_the_server_says_nothing_and_the_table_is_asked() {
    let behind = Behind::new();
    let mut produced = behind.produce(0..100);
    let mut running = behind.icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);
    let mut rows = 100;
    for (round, status) in (1i64..).zip([500, 502, 503, 504]) {
        let body = || String::from("<html>oops</html>");
        let not_made = behind.on_commit(Fault::Answer(status, body()));
        let made = behind.on_commit(Fault::AnswerInstead(status, body()));
        produced = produced.and(&behind.produce(rows..rows + 100));
        rows += 100;
        not_made.wait_done(1, PATIENCE);
        made.wait_done(1, PATIENCE);
        running.wait_count(COMMITTED, &[], rows as f64);
        running.wait_count(COMMITS, &[("outcome", "unknown")], 2.0 * round as f64);
        running.wait_count(ADMISSIONS, &[("decision", "already_committed")], round as f64);
    }
    stop(running);
    assert_eq!(assert_exactly_once(&behind.table(), &[&produced]), 500);
    assert_commit_ids_are_unique(&behind.table());
}

#[test]
fn a_conflict_is_believed_only_after_a_look_at_the_table() {
    let behind = Behind::new();
    // Not true: nobody else committed. Then true, but for the second copy of a request that landed.
    let forged = behind.on_commit(Fault::Answer(409, "{}".into()));
    let repeated = behind.on_commit(Fault::AnswerInstead(409, "{}".into()));
    let produced = behind.produce(0..1000);
    let mut running = behind.icestream.run();
    forged.wait_done(1, PATIENCE);
    repeated.wait_done(1, PATIENCE);
    running.wait_count(COMMITTED, &[], 1000.0);
    let more = behind.produce(1000..1100);
    running.wait_count(COMMITTED, &[], 1100.0);
    stop(running);
    assert_eq!(assert_exactly_once(&behind.table(), &[&produced, &more]), 1100);
    assert_commit_ids_are_unique(&behind.table());
}

#[test]
fn a_catalog_that_says_no_ends_the_process_and_loses_nothing() {
    for (status, message) in [(403, "refuses to commit to table"), (400, "rejected the commit")] {
        // An honest no, and one from something in between after the commit was made. Of a 400 the
        // table itself tells which it was, see the test after this one.
        for made in [false, true] {
            if made && status == 400 {
                continue;
            }
            let behind = Behind::new();
            // The process that is told no has never been told yes.
            behind.icestream.run_until_caught_up();
            let body = r#"{"error":{"message":"no such right","type":"No","code":1}}"#.into();
            let fault =
                if made { Fault::AnswerInstead(status, body) } else { Fault::Answer(status, body) };
            behind.on_commit(fault);
            let produced = behind.produce(0..1000);
            let exit = behind.icestream.run().wait(PATIENCE).with_code(3);
            assert!(exit.log.contains(message), "{}", exit.log);
            assert!(exit.log.contains("no such right"), "{}", exit.log);
            assert!(!exit.log.contains("checkpoint complete"), "{}", exit.log);
            assert_eq!(behind.table().snapshots().len(), usize::from(made));
            behind.icestream.run_until_caught_up();
            let rows = assert_exactly_once(&behind.table(), &[&produced]);
            assert_eq!((rows, behind.table().snapshots().len()), (1000, 1), "{status} {made}");
        }
    }
}

#[test]
fn a_commit_that_was_made_and_is_called_a_bad_request_is_found_in_the_table() {
    let behind = Behind::new();
    let body = r#"{"error":{"message":"bad snapshot","type":"No","code":1}}"#.into();
    behind.on_commit(Fault::AnswerInstead(400, body));
    let produced = behind.produce(0..1000);
    let mut running = behind.icestream.run();
    running.wait_count(ADMISSIONS, &[("decision", "already_committed")], 1.0);
    running.wait_count(COMMITTED, &[], 1000.0);
    running.stop(PATIENCE).success();
    let rows = assert_exactly_once(&behind.table(), &[&produced]);
    assert_eq!((rows, behind.table().snapshots().len()), (1000, 1));
}

/// A connection of somebody else to a SQL catalog.
enum Other {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Other {
    /// Connects and begins a transaction with these statements.
    fn transaction(url: &str, statements: &[&str]) -> Self {
        let mut other = block_on(async {
            if url.starts_with("postgres") {
                PgConnection::connect(url).await.map(Self::Postgres)
            } else {
                SqliteConnection::connect(url).await.map(Self::Sqlite)
            }
        })
        .expect("a connection to the catalog's database");
        statements.iter().for_each(|statement| other.execute(statement));
        other
    }

    fn execute(&mut self, statement: &str) {
        let done = block_on(async {
            match self {
                Self::Sqlite(connection) => connection.execute(statement).await.map(drop),
                Self::Postgres(connection) => connection.execute(statement).await.map(drop),
            }
        });
        done.unwrap_or_else(|error| panic!("{statement} failed: {error}"));
    }
}

#[test]
fn a_reader_that_keeps_sqlite_open_holds_up_nothing() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let mut produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);
    let mut reader =
        Other::transaction(lake.database(), &["BEGIN", "SELECT * FROM iceberg_tables"]);
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 100..200)));
    running.wait_count(COMMITTED, &[], 200.0);
    reader.execute("COMMIT");
    stop(running);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 200);
}

#[test]
fn a_writer_that_keeps_sqlite_locked_is_waited_for() {
    for lock in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let lake = Lake::sqlite();
        let (icestream, topic) = pipeline(&lake, 2);
        let mut produced = Kafka::shared().produce(&topic, records(2, 0..100));
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], 100.0);
        let mut writer = Other::transaction(lake.database(), &[lock]);
        produced = produced.and(&Kafka::shared().produce(&topic, records(2, 100..200)));
        // SQLite says that it is busy after the patience of a connection, which is 15 s.
        running.wait_count(COMMITS, &[("outcome", "conflict")], 1.0);
        assert_eq!(running.metrics().unwrap().value(COMMITTED, &[]), Some(100.0));
        writer.execute("COMMIT");
        running.wait_count(COMMITTED, &[], 200.0);
        let log = stop(running);
        assert!(log.contains("the catalog is busy"), "{log}");
        let table = lake.table(&format!("db.{topic}"));
        assert_eq!(assert_exactly_once(&table, &[&produced]), 200, "{lock}");
        assert_commit_ids_are_unique(&table);
    }
}

/// Ids of the sessions of a database that wait for a lock.
fn waiting_session(url: &str, other_than: &str) -> String {
    wait_for("a session that waits for the row", PATIENCE, || {
        let query = "SELECT pid::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                     AND application_name = $1 AND pid::text <> $2 \
                     AND datname = current_database()";
        sql::text(url, query, "icestream", other_than)
    })
}

/// A table in PostgreSQL with 100 rows, and its row in the catalog locked by somebody.
fn locked_row() -> (Lake, Icestream, String, Produced, Running, Other) {
    let lake = Lake::postgres();
    let (icestream, topic) = pipeline(&lake, 2);
    let produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);
    let lock = ["BEGIN", "SELECT * FROM iceberg_tables FOR UPDATE"];
    let other = Other::transaction(lake.database(), &lock);
    let produced = produced.and(&Kafka::shared().produce(&topic, records(2, 100..200)));
    (lake, icestream, topic, produced, running, other)
}

#[test]
fn a_row_locked_in_postgresql_is_waited_for_beyond_the_patience_of_a_request() {
    let (lake, _, topic, produced, mut running, mut other) = locked_row();
    waiting_session(lake.database(), "");
    // The process gives its request up after 30 s. PostgreSQL does not: it runs when the lock is
    // released, before or after the request that the process sent since.
    running.wait_metrics("an unknown outcome", LONG, |metrics| {
        metrics.value(COMMITS, &[("outcome", "unknown")]).filter(|count| *count >= 1.0)
    });
    assert_eq!(running.metrics().unwrap().value(COMMITTED, &[]), Some(100.0));
    other.execute("COMMIT");
    running.wait_count(COMMITTED, &[], 200.0);
    stop(running);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 200);
    assert_commit_ids_are_unique(&table);
}

#[test]
fn a_statement_that_outlives_its_process_in_postgresql_is_not_repeated() {
    let (lake, icestream, topic, produced, mut running, mut other) = locked_row();
    let dead = waiting_session(lake.database(), "");
    running.kill();
    let mut next = icestream.run();
    waiting_session(lake.database(), &dead);
    other.execute("COMMIT");
    next.wait_log("recovered a pending commit", PATIENCE);
    let more = Kafka::shared().produce(&topic, records(2, 200..300));
    next.wait_count(COMMITTED, &[], 200.0);
    stop(next);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced, &more]), 300);
    assert_commit_ids_are_unique(&table);
}

#[test]
fn a_connection_cut_by_postgresql_in_the_middle_of_a_commit_leaves_it_unknown() {
    let (lake, _, topic, produced, mut running, mut other) = locked_row();
    let session = waiting_session(lake.database(), "");
    sql::execute(lake.database(), &format!("SELECT pg_terminate_backend({session})"));
    running.wait_count(COMMITS, &[("outcome", "unknown")], 1.0);
    other.execute("COMMIT");
    running.wait_count(COMMITTED, &[], 200.0);
    stop(running);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 200);
    assert_commit_ids_are_unique(&table);
}
