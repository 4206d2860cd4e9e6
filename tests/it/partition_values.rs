//! Partition values that are no names of directories, on each kind of store.

use std::cmp::Reverse;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::Record;
use crate::support::table::{Lake, local_path};
use crate::support::{foreign, unique};

/// What pyiceberg finds by each value, as a filter.
const FIND: &str = "
from pyiceberg.expressions import EqualTo
answer = [table.scan(row_filter=EqualTo('k', value), selected_fields=('id',)).to_arrow()['id'].to_pylist() for value in data]
";

/// Texts that mean something in paths and addresses, and some that are too long for a name; two of those
/// differ only where they are cut.
fn values() -> Vec<String> {
    let odd = [
        "a/b", "a+b", "a=b", " ", "%2F", "é", ".", "..", "", "null", "a b", "#?&", "'", "\\", "\n",
    ];
    let long = ["x".repeat(300), format!("{}y", "x".repeat(299)), "ü".repeat(150)];
    odd.iter().map(|text| (*text).to_owned()).chain(long).collect()
}

#[test]
fn partition_values_of_any_text_are_found_on_every_kind_of_store() {
    let values = values();
    // As long as a record may be here; with whole bounds each is in a manifest twice.
    let large = "é".repeat(200_000);
    let columns = [("id", "long"), ("k", "string"), ("large", "string")];
    let fields = (1..).zip(columns).map(
        |(id, (name, kind))| json!({ "id": id, "name": name, "required": false, "type": kind }),
    );
    let schema = json!({ "type": "struct", "fields": fields.collect::<Vec<_>>() });
    for (name, lake) in [("local files", Lake::sqlite()), ("S3", Lake::sqlite_on_s3())] {
        println!("on {name}");
        let kafka = Kafka::shared();
        let topic = unique("values");
        kafka.create_topic(&topic, 1, &[]);
        let records = values.iter().enumerate().map(|(id, k)| {
            let large = if id < 3 { format!("{large}{id}") } else { String::from("small") };
            Record::new(0, json!({ "id": id, "k": k, "large": large }).to_string())
        });
        let produced = kafka.produce(&topic, records);
        let table = lake.table(&format!("db.{topic}"));
        let icestream = Icestream::new(kafka, &topic, &lake, &table.name())
            .schema(&schema)
            .set("ICEBERG_PARTITION_SPEC", "k")
            .set("ICEBERG_TABLE_PROPERTIES", "write.metadata.metrics.default=full");
        icestream.run_until_caught_up();
        let rows = values.len() as u64;
        assert_eq!(assert_exactly_once(&table, &[&produced]), rows);
        let whole: Vec<Value> = (0..values.len()).map(|id| json!([id])).collect();
        assert_eq!(foreign::run(&table, FIND, json!(values)), json!(whole));
        let quoted = |value: &String| format!("'{}'", value.replace('\'', "''"));
        let each =
            values.iter().map(|value| format!("SELECT id FROM t WHERE k = {}", quoted(value)));
        let found =
            oracle::query(&table, Reader::DuckDb, &each.collect::<Vec<_>>().join(" UNION ALL "));
        let mut found: Vec<usize> =
            found.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, (0..values.len()).collect::<Vec<_>>());
        let by_length = "SELECT count(*) FROM t WHERE length(large) = 200001";
        for reader in Reader::EACH {
            assert_eq!(
                oracle::query(&table, reader, by_length),
                [[Some("3".to_owned())]],
                "{reader:?}"
            );
        }
        icestream.command(&["verify", "--rows"]).success();
        icestream.command(&["orphans"]).success();
    }
}

/// Bytes of the files below a local directory, largest first.
fn sizes_below(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let mut sizes: Vec<u64> = entries.map(|entry| entry.len()).collect();
    sizes.sort_by_key(|size| Reverse(*size));
    sizes
}

#[test]
fn values_of_many_megabytes_are_kept_whole_and_do_not_swell_the_metadata() {
    let (kafka, lake, topic) = (Kafka::shared(), Lake::sqlite(), unique("large"));
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "45000000")]);
    let field = |id: i32, name: &str, kind: &str| json!({ "id": id, "name": name, "required": false, "type": kind });
    let fields = [field(1, "id", "long"), field(2, "k", "string"), field(3, "large", "string")];
    let schema = json!({ "type": "struct", "fields": fields });
    // In letters of two bytes, so that a cut may fall within one.
    let lengths = [4_000_000, 6_000_000, 10_000_000];
    let records = lengths.iter().enumerate().flat_map(|(at, length)| {
        (0..3).map(move |n| {
            let large = format!("{}{at}{n}", "é".repeat(*length));
            Record::new(
                0,
                json!({ "id": 3 * at + n, "k": format!("k{n}"), "large": large }).to_string(),
            )
        })
    });
    let produced = kafka.produce(&topic, records);
    let table = lake.table(&format!("db.{topic}"));
    let icestream = Icestream::new(kafka, &topic, &lake, &table.name())
        .schema(&schema)
        .set("ICEBERG_PARTITION_SPEC", "k")
        .set("ICEBERG_TABLE_PROPERTIES", "write.metadata.metrics.default=full");
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 9);
    for length in lengths {
        let of_length = format!("SELECT count(*) FROM t WHERE length(large) = {}", length + 2);
        let found = oracle::query(&table, Reader::DuckDb, &of_length);
        assert_eq!(found, [[Some("3".to_owned())]], "{length}");
    }
    // Readers that prune files by bounds find what is in them, at either end.
    let by_bound = "
from pyiceberg.expressions import GreaterThan, LessThan
answer = [table.scan(row_filter=one, selected_fields=('id',)).to_arrow().num_rows for one in
          [GreaterThan('large', 'é' * 20000), LessThan('large', 'ê'), GreaterThan('large', 'ê')]]
";
    assert_eq!(foreign::run(&table, by_bound, Value::Null), json!([9, 9, 0]));
    let location = table.metadata_location().expect("a table");
    let sizes = sizes_below(local_path(&location).parent().unwrap());
    println!("files of metadata: {sizes:?}");
    assert!(sizes.iter().sum::<u64>() < 2 << 20, "{sizes:?}");
    icestream.command(&["verify", "--rows"]).success();
}

#[test]
fn columns_that_differ_only_in_case_are_warned_of_and_filled() {
    let lake = Lake::sqlite();
    let kafka = Kafka::shared();
    let topic = unique("case");
    kafka.create_topic(&topic, 1, &[]);
    kafka.produce(&topic, [Record::new(0, r#"{"id": 1, "ID": 2}"#)]);
    let field =
        |id: i32, name: &str| json!({ "id": id, "name": name, "required": false, "type": "long" });
    let schema = json!({ "type": "struct", "fields": [field(1, "id"), field(2, "ID")] });
    let table = lake.table(&format!("db.{topic}"));
    let icestream = Icestream::new(kafka, &topic, &lake, &table.name()).schema(&schema);
    let checked = icestream.command(&["check"]).success();
    assert!(checked.stdout.contains("id and ID differ only in case"), "{}", checked.stdout);
    icestream.run_until_caught_up();
    let both = foreign::run(
        &table,
        "answer = table.scan().to_arrow().select(['id', 'ID']).to_pylist()",
        Value::Null,
    );
    assert_eq!(both, json!([{ "id": 1, "ID": 2 }]));
}
