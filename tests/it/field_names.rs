//! Partition fields with names that Avro does not take, by icestream and by others.

use serde_json::{Value, json};

use crate::landing::pipeline;
use crate::support::foreign;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::{Produced, Record};
use crate::support::spark::Spark;
use crate::support::table::Lake;

/// Columns by which a table is partitioned, each by its values and called as the column.
const NAMES: [&str; 5] = ["user-id", "größe", "a key", "1st", "a/b"];
/// The same, of which others write what every reader takes: PyIceberg and Java leave a letter beyond ASCII
/// as it is, and DuckDB does not read that.
const COMMON: [&str; 4] = ["user-id", "a key", "1st", "a/b"];

const MAKE: &str = "
from pyiceberg.schema import Schema
from pyiceberg.types import *
from pyiceberg.partitioning import PartitionSpec, PartitionField
from pyiceberg.transforms import IdentityTransform
kafka = [('_kafka_topic', StringType()), ('_kafka_partition', IntegerType()), ('_kafka_offset', LongType())]
columns = [('id', LongType())] + [(n, StringType()) for n in data] + kafka
fields = [NestedField(i, n, t, required=(n == 'id')) for i, (n, t) in enumerate(columns, 1)]
spec = PartitionSpec(*[PartitionField(i, 998 + i, IdentityTransform(), n) for i, n in enumerate(data, 2)])
catalog.create_namespace_if_not_exists(name.rsplit('.', 1)[0])
catalog.create_table(name, Schema(*fields), partition_spec=spec,
    properties={'commit.manifest.min-count-to-merge': '2'})
";

/// A commit of another engine, with the same values in its partitions.
const APPEND: &str = "
row = {'id': -1 - data['n'], '_kafka_topic': 'foreign', '_kafka_partition': 0, '_kafka_offset': data['n']}
row.update({n: 'v1' for n in data['names']})
schema = pa.schema([pa.field('id', pa.int64(), nullable=False)] + [pa.field(n, pa.string()) for n in data['names']]
    + [pa.field('_kafka_topic', pa.string()), pa.field('_kafka_partition', pa.int32()), pa.field('_kafka_offset', pa.int64())])
table.append(pa.Table.from_pylist([row], schema=schema))
";

/// What another reader finds in each partition, and in the values of all partitions.
const READ: &str = "
from pyiceberg.expressions import EqualTo
counts = [table.scan(row_filter=EqualTo(n, 'v1')).to_arrow().num_rows for n in data]
values = sorted({str(v) for p in table.inspect.partitions().to_pylist() for v in p['partition'].values()})
answer = {'counts': counts, 'values': values, 'manifests': len(table.inspect.manifests())}
";

#[test]
fn partition_fields_of_any_name_are_found_by_every_reader() {
    every_reader_finds(&NAMES, 0);
}

#[test]
fn partition_fields_of_any_name_are_found_after_manifests_of_others_were_merged() {
    every_reader_finds(&COMMON, 3);
}

/// Carries records into a table to which others have appended so many times.
fn every_reader_finds(names: &[&str], appended: i64) {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 1);
    let icestream = icestream.unset("ICEBERG_TABLE_SCHEMA");
    let table = lake.table(&format!("db.{topic}"));
    foreign::run(&table, MAKE, json!(names));
    for n in 0..appended {
        foreign::run(&table, APPEND, json!({ "n": n, "names": names }));
    }
    icestream.command(&["check"]).success();
    let mut produced = Vec::new();
    for round in 0..4_i64 {
        let records = (10 * round..10 * round + 10).map(|n| {
            let mut row = json!({ "id": n });
            names.iter().for_each(|name| row[*name] = json!(format!("v{}", n % 2)));
            Record::new(0, row.to_string())
        });
        produced.push(Kafka::shared().produce(&topic, records));
        icestream.run_until_caught_up();
    }
    // Every second record, and all of the others'.
    let expected = 20 + appended;
    let found = foreign::run(&table, READ, json!(names));
    assert_eq!(found["counts"], json!(vec![expected; names.len()]), "{found}");
    assert_eq!(found["values"], json!(["v0", "v1"]), "{found}");
    assert!(found["manifests"].as_i64().unwrap() < 4 + appended, "nothing was merged: {found}");
    let filters = names.iter().map(|name| format!("count(*) FILTER (\"{name}\" = 'v1')"));
    let sql = format!("SELECT {} FROM t", filters.collect::<Vec<_>>().join(", "));
    let rows = oracle::query(&table, Reader::DuckDb, &sql);
    assert_eq!(rows, [vec![Some(expected.to_string()); names.len()]]);
    let spark = Spark::session();
    let name = spark.know(&table);
    for field in names {
        let sql = format!("SELECT count(*) AS n FROM {name} WHERE `{field}` = 'v1'");
        assert_eq!(spark.sql(&sql), [json!({ "n": expected })], "{field}");
    }
    icestream.command(&["verify", "--rows"]).success();
    icestream.command(&["orphans"]).success();
    let by_others = Produced {
        topic: "foreign".into(),
        offsets: [(0, vec![0..appended])].into(),
        payloads: None,
    };
    let ours = produced.into_iter().reduce(|all, more| more.and(&all)).expect("four rounds");
    let all = if appended > 0 { vec![&ours, &by_others] } else { vec![&ours] };
    assert_eq!(assert_exactly_once(&table, &all), (40 + appended) as u64);
}

#[test]
fn what_cannot_be_written_into_a_manifest_is_refused_before_the_first_record() {
    let lake = Lake::sqlite();
    let make = |columns: &str, spec: &str| {
        let (icestream, topic) = pipeline(&lake, 1);
        let code = format!(
            "from pyiceberg.schema import Schema\nfrom pyiceberg.types import *\n\
             from pyiceberg.partitioning import PartitionSpec, PartitionField\n\
             from pyiceberg.transforms import *\n\
             catalog.create_namespace_if_not_exists(name.rsplit('.', 1)[0])\n\
             catalog.create_table(name, Schema({columns}), partition_spec=PartitionSpec({spec}))\n"
        );
        foreign::run(&lake.table(&format!("db.{topic}")), &code, Value::Null);
        Kafka::shared().produce(&topic, [Record::new(0, "{}")]);
        icestream.unset("ICEBERG_TABLE_SCHEMA")
    };
    let uuid = make(
        "NestedField(1, 'tenant', UUIDType(), required=False)",
        "PartitionField(1, 1000, IdentityTransform(), 'tenant')",
    );
    let twice = make(
        "NestedField(1, 'a-b', LongType(), required=False)",
        "PartitionField(1, 1000, BucketTransform(2), 'a.b'), PartitionField(1, 1001, BucketTransform(4), 'a_x2Eb')",
    );
    let fixed = make(
        "NestedField(1, 'code', FixedType(5), required=False)",
        "PartitionField(1, 1000, IdentityTransform(), 'code')",
    );
    for (icestream, word) in [
        (uuid, "\"tenant\" has values of uuid"),
        (fixed, "\"code\" has values of fixed[5]"),
        (twice, "a_x2Eb"),
    ] {
        let checked = icestream.command(&["check"]).with_code(1);
        assert!(checked.stdout.contains(word), "{}", checked.stdout);
        let exit = icestream.command(&["run", "--until-caught-up"]).with_code(3);
        assert!(exit.log.contains(word), "{}", exit.log);
    }
}
