//! A bucket of tables, whose catalog lends keys for each: SeaweedFS.

use std::fs;

use crate::landing::{pipeline, records};
use crate::support::icestream::{Icestream, RUN};
use crate::support::kafka::Kafka;
use crate::support::seaweedfs::SeaweedFs;
use crate::support::table::Lake;
use crate::support::{new_dir, oracle};

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
    assert_eq!(counted(&server, &name), format!("{produced} {produced}"));
}

fn counted(server: &SeaweedFs, table: &str) -> String {
    let script = new_dir("count").join("count.py");
    fs::write(&script, COUNT).unwrap();
    let (uri, credential) = (server.uri(), SeaweedFs::credential());
    let told = oracle::python(&script, &[&uri, SeaweedFs::WAREHOUSE, &credential, table]);
    told.trim().to_owned()
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
        assert_eq!(counted(&server, &format!("db.{topic}")), "1000 1000");
    }
}
