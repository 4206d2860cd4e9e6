//! Other engines at work on the table all the time, while icestream commits to it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::landing::{pipeline, records};
use crate::support::icestream::Running;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::Produced;
use crate::support::proxy::Proxy;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, foreign, wait_for};

/// What the others do, over and over; expiry follows whatever makes a snapshot.
const ACTIONS: [&str; 8] =
    ["rewrite", "expire", "append", "replace", "expire", "add_column", "properties", "rewrite"];
/// Rounds of them in the suite.
const ROUNDS: usize = 2;
/// Seconds of actions instead of rounds: `ICESTREAM_FOREIGN_SECONDS=300` is the long run.
const SECONDS: &str = "ICESTREAM_FOREIGN_SECONDS";
/// Records a second: the topic grows all the time, and its files are rewritten as often.
const RATE: u64 = 60;

const COMMITTED: &str = "icestream_committed_records_total";

/// What was done and met.
#[derive(Default)]
struct Tally {
    actions: BTreeMap<&'static str, u64>,
    /// Attempts of the others that met a commit of icestream.
    conflicts: u64,
    appended: i64,
    expired: i64,
}

impl Tally {
    fn act(&mut self, table: &Table<'_>, proxy: &Proxy, action: &'static str) {
        let number: u64 = self.actions.values().sum();
        let number = if action == "append" { self.appended / 10 } else { number.cast_signed() };
        let (answer, conflicts) = foreign::maintain_beside(table, proxy, action, number);
        self.conflicts += conflicts;
        match action {
            "append" => self.appended += answer,
            "expire" => self.expired += answer,
            _ => {}
        }
        *self.actions.entry(action).or_default() += 1;
    }
}

#[test]
fn expiry_compaction_appends_and_schema_changes_beside_commits_disturb_nothing() {
    let seconds: Option<u64> = std::env::var(SECONDS).ok().map(|text| text.parse().unwrap());
    let lake = Lake::rest();
    let proxy = Proxy::before(&lake.rest_catalog().address());
    let lake = lake.through(proxy.uri());
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream = icestream.set("CHECKPOINT_INTERVAL_MS", "1000");
    let table = lake.table(&format!("db.{topic}"));
    let mut running = icestream.run();
    let mut tally = Tally::default();
    let began = Instant::now();
    let produced = {
        let steady = Kafka::shared().produce_steadily(&topic, RATE, records(2, 0..i64::MAX));
        running.wait_count(COMMITTED, &[], 1.0);
        // pyiceberg would rebase an attempt by itself; a conflict is to be seen and counted.
        let no_retries = "with table.transaction() as transaction:\n\
                          \x20   transaction.set_properties({'commit.retry.num-retries': '0'})";
        foreign::run(&table, no_retries, Value::Null);
        for (number, action) in ACTIONS.iter().cycle().enumerate() {
            let enough = match seconds {
                Some(seconds) => began.elapsed().as_secs() >= seconds,
                None => number >= ROUNDS * ACTIONS.len(),
            };
            if enough {
                break;
            }
            tally.act(&table, &proxy, action);
            advances(&mut running);
        }
        steady.stop()
    };
    running.wait_count(COMMITTED, &[], produced.count() as f64);
    let metrics = running.metrics().expect("the metrics");
    let commits = |outcome| {
        metrics.value("icestream_commits_total", &[("outcome", outcome)]).unwrap_or_default()
    };
    println!(
        "{:?}: others did {:?}, {} attempts of theirs met our commits, {} snapshots expired, {} rows \
         appended; we made {} commits, {} conflicts, {} unknown, {} rows",
        began.elapsed(),
        tally.actions,
        tally.conflicts,
        tally.expired,
        tally.appended,
        commits("committed"),
        commits("conflict"),
        commits("unknown"),
        produced.count(),
    );
    running.stop(PATIENCE).success();
    let kinds: std::collections::BTreeSet<_> = ACTIONS.into_iter().collect();
    assert!(kinds.iter().all(|kind| tally.actions.get(kind).is_some_and(|count| *count > 0)));
    let others = Produced {
        topic: "foreign".into(),
        offsets: [(0, vec![0..tally.appended])].into(),
        payloads: None,
    };
    let rows = assert_exactly_once(&table, &[&produced, &others]);
    assert_eq!(rows.cast_signed(), produced.count() + tally.appended);
    for arguments in [["verify", "--json"].as_slice(), &["verify", "--rows", "--json"]] {
        let report = icestream.command(arguments).success().json();
        assert_eq!(report["complete"], false, "snapshots were expired");
        for partition in report["partitions"].as_array().unwrap() {
            assert_ne!(partition["verdict"], "violated", "{partition}");
        }
    }
}

/// The ledger goes on after whatever was done just now.
fn advances(running: &mut Running) {
    let committed = |running: &Running| running.metrics()?.value(COMMITTED, &[]);
    let before = wait_for("the metrics", PATIENCE, || committed(running));
    running.wait_count(COMMITTED, &[], before + 1.0);
}
