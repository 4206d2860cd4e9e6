//! A table that an earlier version of icestream wrote is read, verified, swept and continued.
//!
//! `tests/data/table_v1` is such a table, as it lay on a disk: two partitions, some commits, and a
//! data file of a process that died before its epoch was sealed. Its location is written in its
//! metadata and manifests, so it comes back in a directory whose name is as long. The ids of the
//! cluster and the topic are those of the test's own Kafka.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::landing::{records, schema};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::postgres::sql;
use crate::support::table::{Lake, Table};

const SAMPLE: &str = "tests/data/table_v1";
/// The directory of the warehouse as it is written in the sample.
const PLACE: &str = "/tmp/icestream-earlier-00000000";
/// The ids that are written in the sample.
const CLUSTER: &str = "the-cluster-of-before.";
const TOPIC_ID: &str = "the-topic-id-of-before";
const TOPIC: &str = "earlier";
const PIPELINE: &str = "earlier";
const PARTITIONS: i32 = 2;
/// Records in the sample.
const WRITTEN: i64 = 200;

#[test]
fn a_table_that_an_earlier_version_wrote_is_read_verified_swept_and_continued() {
    let kafka = Kafka::shared();
    kafka.create_topic(TOPIC, PARTITIONS, &[]);
    let first = kafka.produce(TOPIC, records(PARTITIONS, 0..WRITTEN));
    let lake = Lake::sqlite();
    // Another pipeline of the topic makes the catalog, and its ledger tells the ids.
    let beside = Icestream::new(kafka, TOPIC, &lake, "db.beside").schema(&schema());
    beside.run_until_caught_up();
    let ids = ids(&lake.table("db.beside"), beside.setting("KAFKA_GROUP_ID").unwrap());
    let place = tempfile::Builder::new()
        .prefix("icestream-earlier-")
        .rand_bytes(8)
        .tempdir_in("/tmp")
        .unwrap();
    let metadata = unpack(place.path(), &ids);
    register(&lake, &metadata);

    let earlier = Icestream::new(kafka, TOPIC, &lake, "db.earlier").set("KAFKA_GROUP_ID", PIPELINE);
    let table = lake.table("db.earlier");
    assert_eq!(assert_exactly_once(&table, &[&first]), WRITTEN.unsigned_abs());
    earlier.command(&["verify"]).success();
    earlier.command(&["verify", "--rows"]).success();
    let shown = earlier.command(&["ledger", "show", "--json"]).success().json();
    assert!(shown.to_string().contains(&format!("{}", WRITTEN / i64::from(PARTITIONS))), "{shown}");

    // It is continued where the ledger is, and not from the beginning.
    let more = kafka.produce(TOPIC, records(PARTITIONS, WRITTEN..WRITTEN + 100));
    earlier.run_until_caught_up();
    let rows = assert_exactly_once(&table, &[&first, &more]);
    assert_eq!(rows, (WRITTEN + 100).unsigned_abs());
    let read = oracle::judge(&table, &[&first.clone().and(&more)], Reader::PyIceberg);
    assert!(read.is_exact(), "{read:?}");
    earlier.command(&["verify", "--rows"]).success();

    let swept = ["orphans", "--older-than", "0s", "--json", "--delete"];
    let swept = earlier.command(&swept).success().json();
    assert_eq!(swept["orphans"].as_array().map(Vec::len), Some(1), "{swept}");
    assert_eq!(assert_exactly_once(&table, &[&first, &more]), rows);
}

/// Cluster and topic as the ledger of a table that was just made names them.
fn ids(table: &Table<'_>, pipeline: &str) -> [String; 2] {
    let ledger = table.property(&format!("icestream.ledger.{pipeline}")).expect("a ledger");
    let ledger: Value = serde_json::from_str(&ledger).expect("a ledger of JSON");
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    [text(&ledger["cluster"]), text(&ledger["topics"][TOPIC]["id"])]
}

/// Puts the sample's files below `place`; the metadata file of the table.
fn unpack(place: &Path, [cluster, topic]: &[String; 2]) -> PathBuf {
    let new = place.to_str().unwrap();
    assert_eq!(new.len(), PLACE.len(), "manifests hold the length of a path");
    let mut metadata = None;
    for dir in ["data", "metadata"] {
        fs::create_dir_all(place.join("db/earlier").join(dir)).unwrap();
        for entry in fs::read_dir(format!("{SAMPLE}/{dir}")).unwrap() {
            let path = entry.unwrap().path();
            let to = place.join("db/earlier").join(dir).join(path.file_name().unwrap());
            let bytes = replaced(&fs::read(&path).unwrap(), PLACE, new);
            let bytes = match path.extension().is_some_and(|extension| extension == "json") {
                true => {
                    metadata = Some(to.clone());
                    replaced(&replaced(&bytes, CLUSTER, cluster), TOPIC_ID, topic)
                }
                false => bytes,
            };
            fs::write(to, bytes).unwrap();
        }
    }
    metadata.expect("a metadata file")
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some(at) = rest.windows(from.len()).position(|window| window == from.as_bytes()) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to.as_bytes());
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Puts the table into the catalog, beside the one that is there.
fn register(lake: &Lake, metadata: &Path) {
    let location = format!("file://{}", metadata.display());
    let statement = format!(
        "INSERT INTO iceberg_tables \
         (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) \
         SELECT catalog_name, table_namespace, 'earlier', '{location}', iceberg_type \
         FROM iceberg_tables \
         WHERE table_name = 'beside'"
    );
    sql::execute(lake.database(), &statement);
}
