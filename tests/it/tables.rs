//! Tables that other engines made and change while icestream writes them, and topics that grow.

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use serde_json::{Value, json};

use crate::landing::{pipeline, records, schema};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::postgres::sql;
use crate::support::producing::{Produced, Record};
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, block_on, foreign, unique};

const COMMITTED: &str = "icestream_committed_records_total";

/// A table with every kind of column, partitioned as `data` says.
pub const MAKE_TABLE: &str = "
from pyiceberg.schema import Schema
from pyiceberg.types import *
from pyiceberg.partitioning import PartitionSpec, PartitionField
from pyiceberg.transforms import parse_transform
place = StructType(NestedField(21, 'lat', DoubleType()), NestedField(22, 'names', ListType(23, StringType(), False)))
columns = [
    ('id', LongType()), ('flag', BooleanType()), ('small', IntegerType()), ('ratio', FloatType()),
    ('big', DoubleType()), ('price', DecimalType(18, 4)), ('day', DateType()), ('clock', TimeType()),
    ('local', TimestampType()), ('seen', TimestamptzType()), ('name', StringType()), ('uid', UUIDType()),
    ('place', place), ('numbers', ListType(24, LongType(), False)),
    ('attributes', MapType(25, StringType(), 26, DoubleType(), False)),
    ('_kafka_topic', StringType()), ('_kafka_partition', IntegerType()), ('_kafka_offset', LongType()),
]
fields = [NestedField(i, n, t, required=(n == 'id')) for i, (n, t) in enumerate(columns, 1)]
schema = Schema(*fields)
spec = PartitionSpec(*[
    PartitionField(schema.find_field(column).field_id, 1000 + i, parse_transform(transform), f'p{i}')
    for i, (transform, column) in enumerate(data)
])
catalog.create_namespace_if_not_exists(name.rsplit('.', 1)[0])
catalog.create_table(name, schema, partition_spec=spec)
";

/// Records for that table; some have nulls, and some leave columns out.
pub fn wide(numbers: std::ops::Range<i64>) -> impl Iterator<Item = Record> {
    numbers.zip((0..2).cycle()).map(|(n, partition)| {
        let (month, day, hour) = (1 + n % 3, 1 + n % 4, n % 5);
        let mut row = json!({
            "id": n, "flag": n % 2 == 0, "small": -n, "ratio": 0.5 * n as f64,
            "big": n as f64 / 3.0, "price": format!("{}.{:04}", n - 50, n),
            "day": format!("2026-0{month}-0{day}"), "clock": format!("0{hour}:30:00.25"),
            "local": format!("2026-01-0{day}T0{hour}:10:20.000123"),
            "seen": format!("202{}-0{month}-0{day}T23:59:59.999Z", n % 7),
            "name": format!("näme-{}", n % 6),
            "uid": format!("00000000-0000-4000-8000-{n:012}"),
            "place": { "lat": n as f64, "names": ["a", format!("b{n}")] },
            "numbers": [n, n + 1], "attributes": { "x": n as f64, "y": -1.5 },
        });
        match n % 10 {
            8 => row["name"] = Value::Null,
            9 => row = json!({ "id": n, "numbers": [], "attributes": {} }),
            _ => {}
        }
        Record::new(partition, row.to_string())
    })
}

/// Filters that find some rows of such a table.
pub const FILTERS: [&str; 8] = [
    "id = 17",
    "id >= 30 and id < 40",
    "name = 'näme-3'",
    "name is null",
    "day = '2026-02-02'",
    "local >= '2026-01-02T01:00:00' and local < '2026-01-02T03:00:00'",
    "seen < '2023-02-01T00:00:00+00:00'",
    "seen is null",
];

#[test]
fn a_table_of_another_engine_gets_every_type_in_the_right_partition() {
    let specs = [
        vec![("identity", "name"), ("bucket[4]", "id"), ("day", "seen")],
        vec![("truncate[2]", "name"), ("hour", "local"), ("month", "day"), ("year", "seen")],
        vec![
            ("bucket[3]", "uid"),
            ("bucket[5]", "name"),
            ("truncate[10]", "small"),
            ("month", "seen"),
        ],
        vec![
            ("truncate[100]", "price"),
            ("bucket[2]", "price"),
            ("identity", "day"),
            ("bucket[3]", "local"),
        ],
    ];
    let lake = Lake::sqlite();
    for spec in specs {
        let (icestream, topic) = pipeline(&lake, 2);
        let table = lake.table(&format!("db.{topic}"));
        foreign::run(&table, MAKE_TABLE, json!(spec));
        let produced = Kafka::shared().produce_kept(&topic, wide(0..200));
        icestream.unset("ICEBERG_TABLE_SCHEMA").run_until_caught_up();
        assert_eq!(assert_exactly_once(&table, &[&produced]), 200);
        let columns = [
            "id",
            "flag",
            "small",
            "ratio",
            "big",
            "price",
            "day",
            "clock",
            "local",
            "seen",
            "name",
            "uid",
            "place",
            "numbers",
            "attributes",
        ];
        oracle::assert_payloads(&table, &produced, &columns);
        // What a reader that skips partitions finds is what a whole scan finds.
        let code = "whole = table.scan().to_arrow().num_rows\n\
                    answer = [whole] + [table.scan(row_filter=f).to_arrow().num_rows for f in data]";
        let found = foreign::run(&table, code, json!(FILTERS));
        let counts: Vec<String> =
            FILTERS.iter().map(|f| format!("count(*) FILTER ({f})")).collect();
        let sql = format!("SELECT count(*), {} FROM t", counts.join(", "));
        let whole = &oracle::query(&table, Reader::DuckDb, &sql)[0];
        let found: Vec<Option<String>> =
            found.as_array().unwrap().iter().map(|n| Some(n.to_string())).collect();
        assert_eq!(*whole, found, "{spec:?}");
        assert!(whole.iter().skip(1).all(|n| n.as_deref() != Some("0")), "{whole:?}");
    }
}

#[test]
fn a_column_and_a_partition_field_added_by_another_engine_are_taken_up() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let batch = |numbers: std::ops::Range<i64>| {
        let records = numbers.map(|n| {
            let row = json!({ "id": n, "text": format!("t{n}"), "extra": { "n": n } });
            Record::new((n % 2) as i32, row.to_string())
        });
        Kafka::shared().produce(&topic, records)
    };
    let mut produced = batch(0..100);
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);
    running.wait_count("icestream_unknown_fields_total", &[], 100.0);
    let change = "from pyiceberg.types import *\n\
                  from pyiceberg.transforms import *\n\
                  with table.update_schema() as update:\n\
                  \x20   update.add_column('extra', StructType(NestedField(1, 'n', LongType())))\n\
                  with table.update_spec() as update:\n\
                  \x20   update.add_field('id', BucketTransform(4), 'id_bucket')\n";
    foreign::run(&table, change, Value::Null);
    // The commit of the first batch sees the change; the epoch begun before it still has the old
    // schema; the third has the new one.
    for round in 1..=3i64 {
        produced = produced.and(&batch(100 * round..100 * (round + 1)));
        running.wait_count(COMMITTED, &[], 100.0 * (round + 1) as f64);
    }
    running.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 400);
    for reader in Reader::EACH {
        let sql = "SELECT count(extra.n), sum(extra.n) FROM t WHERE id >= 300";
        let found = oracle::query(&table, reader, sql);
        assert_eq!(found, [["100", "34950"].map(|n| Some(n.to_owned()))], "{reader:?}");
    }
    let files = foreign::run(
        &table,
        "answer = sorted({file.file.spec_id for file in table.scan().plan_files()})",
        Value::Null,
    );
    assert_eq!(files, json!([0, 1]));
}

/// Appends rows of another writer, as offsets of a topic that nobody has.
pub fn append_foreign(table: &Table<'_>, offsets: std::ops::Range<i64>) -> Produced {
    let code = "
schema = pa.schema([
    pa.field('id', pa.int64(), nullable=False), pa.field('_kafka_topic', pa.string()),
    pa.field('_kafka_partition', pa.int32()), pa.field('_kafka_offset', pa.int64()),
])
rows = [{'id': n, '_kafka_topic': 'foreign', '_kafka_partition': 0, '_kafka_offset': n} for n in range(*data)]
table.append(pa.Table.from_pylist(rows, schema=schema))
";
    foreign::run(table, code, json!([offsets.start, offsets.end]));
    Produced { topic: "foreign".into(), offsets: [(0, vec![offsets])].into(), payloads: None }
}

/// Expires every snapshot but the head.
pub fn expire(table: &Table<'_>) {
    let code = "
head = table.current_snapshot().snapshot_id
old = [s.snapshot_id for s in table.snapshots() if s.snapshot_id != head]
expire = table.maintenance.expire_snapshots()
for id in old:
    expire = expire.by_id(id)
expire.commit()
answer = len(old)
";
    let expired = foreign::run(table, code, Value::Null);
    assert!(expired.as_i64().unwrap() > 0);
    assert_eq!(table.snapshots().len(), 1);
}

#[test]
fn appends_and_expiry_by_another_engine_between_commits_disturb_nothing() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);
    let mut others = Produced { topic: "foreign".into(), ..Produced::default() };
    for round in 1..=3i64 {
        others = others.and(&append_foreign(&table, 10 * round..10 * (round + 1)));
        if round > 1 {
            expire(&table);
        }
        let more = records(2, 100 * round..100 * (round + 1));
        produced = produced.and(&Kafka::shared().produce(&topic, more));
        running.wait_count(COMMITTED, &[], 100.0 * (round + 1) as f64);
    }
    running.kill();
    // Nothing of the pipeline's own is left in the list of snapshots, nor on its disk.
    others = others.and(&append_foreign(&table, 40..50));
    expire(&table);
    produced = produced.and(&Kafka::shared().produce(&topic, records(2, 400..500)));
    icestream.another().run_until_caught_up();
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced, &others]), 540);
}

#[test]
fn a_commit_whose_snapshot_was_expired_before_the_restart_keeps_its_files() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let produced = Kafka::shared().produce(&topic, records(2, 0..100));
    let exit = icestream.clone().crash_at("commit.after-request").run().wait(PATIENCE);
    assert_eq!(exit.signal, Some(6), "{}", exit.log);
    let others = append_foreign(&table, 0..10);
    expire(&table);
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced, &others]), 110);
}

#[test]
fn a_table_without_kafka_columns_is_written_just_as_exactly() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream = icestream.set("ICEBERG_KAFKA_COLUMNS", "false");
    let mut rows = 0;
    for point in ["prepare.after", "commit.after-request", "finalize.after"] {
        Kafka::shared().produce(&topic, records(2, rows..rows + 500));
        rows += 500;
        let exit = icestream.clone().crash_at(point).run().wait(PATIENCE);
        assert_eq!(exit.signal, Some(6), "{}", exit.log);
    }
    icestream.another().run_until_caught_up();
    let table = lake.table(&format!("db.{topic}"));
    let sql = "SELECT count(*), count(DISTINCT id), max(id) FROM t";
    for reader in Reader::EACH {
        let found = oracle::query(&table, reader, sql);
        assert_eq!(found, [["1500", "1500", "1499"].map(|n| Some(n.to_owned()))]);
    }
    let fields = table.metadata().unwrap()["schemas"][0]["fields"].as_array().unwrap().len();
    assert_eq!(fields, 3);
}

fn add_partitions(kafka: &Kafka, topic: &str, count: usize) {
    let admin: AdminClient<DefaultClientContext> = kafka.client_config().create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let wanted = [NewPartitions::new(topic, count)];
    for result in block_on(admin.create_partitions(&wanted, &options)).unwrap() {
        result.unwrap();
    }
}

#[test]
fn under_latest_the_place_where_it_began_is_in_the_ledger_before_any_record() {
    let lake = Lake::sqlite();
    let topic = unique("latest");
    let kafka = Kafka::shared();
    kafka.create_topic(&topic, 2, &[]);
    let table = lake.table(&format!("db.{topic}"));
    let icestream = Icestream::new(kafka, &topic, &lake, &table.name())
        .schema(&schema())
        .set("KAFKA_AUTO_OFFSET_RESET", "latest");
    kafka.produce(&topic, records(2, 0..100));
    let mut running = icestream.run();
    let ledger = format!("icestream.ledger.{}", icestream.setting("KAFKA_GROUP_ID").unwrap());
    let place = table.wait_for("a ledger", PATIENCE, |metadata| {
        metadata["properties"][&ledger].as_str().map(str::to_owned)
    });
    assert!(place.contains("50"), "{place}");
    running.kill();
    let mut produced = kafka.produce(&topic, records(2, 100..200));
    // A new partition of a topic that the ledger knows has nothing before its start.
    add_partitions(kafka, &topic, 3);
    let third = records(1, 200..250).map(|record| Record { partition: 2, ..record });
    produced = produced.and(&kafka.produce(&topic, third));
    icestream.another().run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 150);
}

#[test]
fn partitions_added_to_a_topic_that_is_being_read_are_read_from_their_start() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let kafka = Kafka::shared();
    let mut produced = kafka.produce(&topic, records(2, 0..100));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);
    add_partitions(kafka, &topic, 5);
    produced = produced.and(&kafka.produce(&topic, records(5, 100..600)));
    running.wait_count(COMMITTED, &[], 600.0);
    produced = produced.and(&kafka.produce(&topic, records(5, 600..700)));
    running.wait_count(COMMITTED, &[], 700.0);
    running.stop(PATIENCE).success();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 700);
    let lines = table.snapshots().len();
    icestream.run_until_caught_up();
    assert_eq!(table.snapshots().len(), lines);
}

/// `check` and `run` say why, and the catalog is not asked to make it.
fn is_not_made(icestream: &Icestream, table: &Table<'_>, words: &str) {
    let checked = icestream.command(&["check"]).with_code(1);
    assert!(checked.stdout.contains(words), "{words}: {}", checked.stdout);
    let exit = icestream.command(&["run", "--until-caught-up"]).with_code(3);
    assert!(exit.log.contains(words), "{words}: {}", exit.log);
    assert_eq!(table.metadata_location(), None);
}

#[test]
fn a_table_that_could_not_be_written_is_not_made() {
    const PROPERTIES: &str = "ICEBERG_TABLE_PROPERTIES";
    for lake in [Lake::sqlite(), Lake::rest()] {
        let (icestream, topic) = pipeline(&lake, 1);
        let table = lake.table(&format!("db.{topic}"));
        for (properties, words) in [
            ("write.data.path=s3://bucket/data//d", "write.data.path is s3://bucket/data//d"),
            ("write.data.path=s3://bucket/d,write.metadata.path=/m", "write."),
            ("write.parquet.compression-codec=nonsense", "write.parquet.compression-codec"),
            ("format-version=1", "format-version 1"),
            ("encryption.key-id=k", "encrypted"),
        ] {
            is_not_made(&icestream.clone().set(PROPERTIES, properties), &table, words);
        }
        let mut with = schema();
        for (id, name, kind) in
            [(4, "a-b", "string"), (5, "a_x2Db", "string"), (6, "_kafka_offset", "string")]
        {
            let column = json!({ "id": id, "name": name, "required": false, "type": kind });
            with["fields"].as_array_mut().unwrap().push(column);
        }
        // The last one is another kind of column than icestream fills.
        let offsets = with["fields"].as_array_mut().unwrap().pop().unwrap();
        let twice = icestream.clone().schema(&with).set("ICEBERG_PARTITION_SPEC", "a-b, a_x2Db");
        is_not_made(&twice, &table, "have one name in a manifest");
        with["fields"].as_array_mut().unwrap().push(offsets);
        let other = icestream.clone().schema(&with).set("ICEBERG_KAFKA_COLUMNS", "false");
        is_not_made(&other, &table, "_kafka_offset must be");
        let icestream = icestream.schema(&schema()).set(PROPERTIES, "format-version=3");
        icestream.command(&["check"]).success();
        let produced = Kafka::shared().produce(&topic, records(1, 0..10));
        icestream.run_until_caught_up();
        assert_eq!(table.metadata().unwrap()["format-version"], 3);
        assert_eq!(assert_exactly_once(&table, &[&produced]), 10);
    }
}

#[test]
fn a_place_that_some_programs_would_find_elsewhere_is_refused_before_and_after_a_table_is_there() {
    const FOLDED: &str = "two slashes in a row";
    let lake = Lake::sqlite_on_s3();
    let (icestream, topic) = pipeline(&lake, 1);
    let table = lake.table(&format!("db.{topic}"));
    let folded = lake.warehouse().replace("/warehouse", "//warehouse");
    let odd = icestream.clone().set("ICEBERG_WAREHOUSE", folded.as_str());
    let checked = odd.command(&["check"]).with_code(3);
    assert!(checked.stdout.contains(FOLDED), "{}", checked.stdout);
    let exit = odd.command(&["run"]).with_code(3);
    assert!(exit.log.contains(FOLDED), "{}", exit.log);

    // The namespace says where its tables go.
    let produced = Kafka::shared().produce(&topic, records(1, 0..10));
    let beside = icestream.member().set("ICEBERG_TABLE", "db.beside");
    beside.set("KAFKA_GROUP_ID", unique("beside")).run_until_caught_up();
    let set = format!(
        "INSERT INTO iceberg_namespace_properties VALUES ('icestream', 'db', 'location', '{folded}')"
    );
    sql::execute(lake.database(), &set);
    let own = icestream.member();
    is_not_made(&own, &table, FOLDED);

    // One that is there is named at once: nothing that waiting would change.
    sql::execute(
        lake.database(),
        "DELETE FROM iceberg_namespace_properties WHERE property_key = 'location'",
    );
    own.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 10);
    let location = table.metadata_location().unwrap();
    let elsewhere = location.replace("/warehouse/", "//warehouse/");
    let set = |to: &str| {
        let change = format!("UPDATE iceberg_tables SET metadata_location = '{to}'");
        sql::execute(lake.database(), &format!("{change} WHERE table_name = '{topic}'"));
    };
    set(&elsewhere);
    for told in [
        own.command(&["check"]).with_code(1).stdout,
        own.run().wait(PATIENCE).with_code(3).log,
        own.member().run().wait(PATIENCE).with_code(3).log,
    ] {
        assert!(told.contains(FOLDED) && told.contains(&elsewhere), "{told}");
    }
}
