//! A bucket of tables, whose catalog lends keys for each: SeaweedFS.

use std::fs;
use std::time::{Duration, Instant};

use crate::landing::{pipeline, records};
use crate::support::icestream::{Icestream, RUN};
use crate::support::kafka::Kafka;
use crate::support::lender::Lender;
use crate::support::seaweedfs::SeaweedFs;
use crate::support::table::Lake;
use crate::support::{PATIENCE, new_dir, oracle, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";

/// Counts rows and distinct positions by pyiceberg, with the keys that the catalog lends it.
const COUNT: &str = r#"
import sys
from pyiceberg.catalog import load_catalog

uri, warehouse, credential, name = sys.argv[1:]
catalog = load_catalog("c", type="rest", uri=uri, warehouse=warehouse, credential=credential, scope="catalog")
rows = catalog.load_table(name).scan(selected_fields=("_kafka_partition", "_kafka_offset")).to_arrow()
positions = set(zip(rows["_kafka_partition"].to_pylist(), rows["_kafka_offset"].to_pylist()))
print(rows.num_rows, len(positions))
"#;

fn on(server: &SeaweedFs, icestream: Icestream) -> Icestream {
    icestream
        .set("ICEBERG_CATALOG_TYPE", "rest")
        .set("ICEBERG_CATALOG_URI", server.uri())
        .set("ICEBERG_WAREHOUSE", SeaweedFs::WAREHOUSE)
        .set("ICEBERG_REST_CREDENTIAL", SeaweedFs::credential())
}

#[test]
fn a_table_of_a_bucket_of_tables_is_checked_written_and_read_with_keys_that_come_with_it() {
    let server = SeaweedFs::start();
    let (icestream, topic) = pipeline(&Lake::sqlite(), 2);
    let name = format!("db.{topic}");
    let icestream = on(&server, icestream);
    let checked = icestream.command(&["check"]).success().stdout;
    assert!(checked.contains("cannot be checked before the table exists"), "{checked}");
    let first = Kafka::shared().produce(&topic, records(2, 0..3_000));
    icestream.run_until_caught_up();
    // The catalog refuses what it must, and only what lies below the table's data may be written.
    let checked = icestream.command(&["check"]).success().stdout;
    for line in ["PASS  fencing", "PASS  store"] {
        assert!(checked.contains(line), "{line}: {checked}");
    }
    let second = Kafka::shared().produce(&topic, records(2, 3_000..5_000));
    icestream.lose_checkpoints();
    icestream.run_until_caught_up();
    icestream.command(&["verify", "--rows"]).success();
    icestream.command(&["orphans"]).success();
    let produced = first.count() + second.count();
    assert_eq!(counted(&server.uri(), &name), format!("{produced} {produced}"));
}

fn counted(uri: &str, table: &str) -> String {
    let script = new_dir("count").join("count.py");
    fs::write(&script, COUNT).unwrap();
    let credential = SeaweedFs::credential();
    let told = oracle::python(&script, &[uri, SeaweedFs::WAREHOUSE, &credential, table]);
    told.trim().to_owned()
}

/// Its own keys, which live for a quarter of an hour at least: here the store takes none that is older than
/// ten seconds, and the catalog says so. `ICESTREAM_IDLE_SECONDS=1000` lets the server itself end them.
#[test]
fn keys_of_a_bucket_of_tables_are_renewed_after_a_pause_and_within_an_interval() {
    let idle = std::env::var("ICESTREAM_IDLE_SECONDS").ok().map(|n| n.parse().unwrap());
    let life = idle.is_none().then_some(Duration::from_secs(10));
    let idle = Duration::from_secs(idle.unwrap_or(30));
    let (server, lender) = Lender::around_seaweedfs(life);
    let (icestream, topic) = pipeline(&Lake::sqlite(), 2);
    let name = format!("db.{topic}");
    let icestream = on(&server, icestream)
        .set("ICEBERG_CATALOG_URI", lender.catalog.uri())
        .set("CHECKPOINT_INTERVAL_MS", "15000")
        .set("CHECKPOINT_MAX_RECORDS", "10000");
    let mut running = icestream.run();
    let mut count = Kafka::shared().produce(&topic, records(2, 0..10_000)).count();
    running.wait_count(COMMITTED, &[], count as f64);
    let pause = Instant::now();
    wait_for("the keys to end", idle + PATIENCE, || (pause.elapsed() > idle).then_some(()));
    count += Kafka::shared().produce(&topic, records(2, 10_000..20_000)).count();
    running.wait_count(COMMITTED, &[], count as f64);
    // Too few for a commit before the interval is over, which is longer than the keys live.
    let steady = Kafka::shared().produce_steadily(&topic, 300, records(2, 20_000..i64::MAX));
    running.wait_metrics("two commits by the interval", 2 * PATIENCE, |metrics| {
        let committed = [("outcome", "committed")];
        (metrics.value("icestream_commits_total", &committed) >= Some(4.0)).then_some(())
    });
    count += steady.stop().count();
    running.wait_count(COMMITTED, &[], count as f64);
    let restarts = running.metrics().unwrap().value("icestream_restarts_total", &[]);
    assert_eq!(restarts, Some(0.0), "{}", running.log());
    running.stop(PATIENCE).success();
    let (keys, refused) = lender.used();
    assert_eq!(refused, [] as [&str; 0], "{keys} keys were used");
    assert!(keys > if life.is_some() { 3 } else { 1 }, "{keys} keys were used");
    assert_eq!(counted(&lender.catalog.uri(), &name), format!("{count} {count}"));
}

/// Its catalog may tell each of them that the table is its own.
#[test]
fn of_processes_that_make_a_table_at_once_none_is_refused_and_one_table_is_filled() {
    let server = SeaweedFs::start();
    for _ in 0..3 {
        let (icestream, topic) = pipeline(&Lake::sqlite(), 2);
        let icestream = on(&server, icestream);
        Kafka::shared().produce(&topic, records(2, 0..1_000));
        let mut all: Vec<_> =
            (0..3).map(|_| icestream.another().start(&["run", "--until-caught-up"])).collect();
        for running in &mut all {
            running.wait(RUN).success();
        }
        assert_eq!(counted(&server.uri(), &format!("db.{topic}")), "1000 1000");
    }
}
