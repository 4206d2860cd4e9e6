//! Catalogs that take commits which they must refuse are found out before a record is read.

use std::sync::Arc;

use serde_json::Value;

use crate::landing::{pipeline, records};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::proxy::{Between, Proxy};
use crate::support::table::Lake;

/// A catalog that forgets what commits are pinned to: all of it, or that there is no snapshot, as Nessie
/// did before 0.101.1.
enum Forgets {
    All,
    NoSnapshot,
}

impl Between for Forgets {
    fn body(&self, _path: &str, body: &str) -> Option<String> {
        let mut body: Value = serde_json::from_str(body).ok()?;
        let requirements = body.get_mut("requirements")?.as_array_mut()?;
        requirements.retain(|requirement| {
            let of_none = requirement.get("snapshot-id").is_some_and(Value::is_null);
            matches!(self, Self::NoSnapshot) && !of_none
        });
        Some(body.to_string())
    }
}

#[test]
fn a_catalog_that_does_not_fence_is_refused_by_run_and_by_check_and_gets_no_row() {
    // The first is found out before the table gets its empty snapshot, the other one by it.
    for (forgets, words, snapshots) in [
        (Forgets::All, "another table's UUID", 0),
        (Forgets::NoSnapshot, "pinned to no snapshot", 1),
    ] {
        let lake = Lake::rest();
        let (icestream, topic) = pipeline(&lake, 1);
        let proxy = Proxy::with(&lake.rest_catalog().address(), Arc::new(forgets));
        let icestream = icestream.set("ICEBERG_CATALOG_URI", proxy.uri());
        Kafka::shared().produce(&topic, records(1, 0..10));
        let exit = icestream.command(&["run", "--until-caught-up"]).with_code(3);
        assert!(exit.log.contains(words), "{}", exit.log);
        let checked = icestream.command(&["check"]).with_code(1);
        assert!(checked.stdout.contains(words), "{}", checked.stdout);
        let table = lake.table(&format!("db.{topic}"));
        let metadata = table.metadata().expect("a table");
        assert!(metadata["properties"].get("icestream.probe").is_none(), "{metadata}");
        assert_eq!(metadata["snapshots"].as_array().map(Vec::len), Some(snapshots), "{metadata}");
        assert_eq!(table.snapshots(), Vec::<Value>::new(), "rows came in");
    }
}

#[test]
fn catalogs_that_fence_pass_and_are_asked_once() {
    for (lake, is_rest) in [(Lake::rest(), true), (Lake::sqlite(), false)] {
        let (icestream, topic) = pipeline(&lake, 1);
        let produced = Kafka::shared().produce(&topic, records(1, 0..10));
        icestream.run_until_caught_up();
        if is_rest {
            // Once the table is not empty any more nobody asks, until `check` does.
            let proxy = Proxy::before(&lake.rest_catalog().address());
            let through = icestream.clone().set("ICEBERG_CATALOG_URI", proxy.uri());
            through.run_until_caught_up();
            let probes = || {
                let seen = proxy.seen().into_iter();
                seen.filter(|seen| seen.body.contains("icestream.probe")).count()
            };
            assert_eq!(probes(), 0);
            through.command(&["check"]).success();
            assert_eq!(probes(), 3);
        }
        let checked = icestream.command(&["check"]).success();
        assert!(checked.stdout.contains("PASS  fencing"), "{}", checked.stdout);
        icestream.run_until_caught_up();
        let table = lake.table(&format!("db.{topic}"));
        // The founding one, and one commit.
        let metadata = table.metadata().expect("a table");
        assert_eq!(metadata["snapshots"].as_array().map(Vec::len), Some(2), "{metadata}");
        assert!(metadata["properties"].get("icestream.probe").is_none(), "{metadata}");
        assert_eq!(assert_exactly_once(&table, &[&produced]), 10);
    }
}
