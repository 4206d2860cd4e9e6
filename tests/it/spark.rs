//! Tables read by Apache Spark: what Java makes of our metadata, manifests and files.

use serde_json::{Value, json};

use crate::housekeeping::{grow_across_changes, merges};
use crate::landing::pipeline;
use crate::support::foreign;
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once, assert_same_rows};
use crate::support::producing::Record;
use crate::support::spark::{Session, Spark};
use crate::support::table::{Lake, Table, local_path};
use crate::support::unique;
use crate::tables::{FILTERS, MAKE_TABLE, wide};

/// How many rows the checks of `scripts/duplicate_check.sql` have too many, by check.
fn repeats(spark: &Session, name: &str) -> Value {
    let view = "CREATE OR REPLACE TEMPORARY VIEW icestream_check AS \
                SELECT _kafka_topic, _kafka_partition, _kafka_offset, id AS business_key FROM";
    spark.sql(&format!("{view} {name}"));
    let script = std::fs::read_to_string("scripts/duplicate_check.sql").unwrap();
    let rows = spark.sql(&script);
    rows.iter().map(|row| (row["check_name"].clone(), row["repeat_count"].clone())).fold(
        json!({}),
        |mut all, (check, count)| {
            all[check.as_str().unwrap()] = count;
            all
        },
    )
}

/// Counts and extremes, which Spark takes from the manifests, are those of the rows that DuckDB
/// reads. Not for texts, whose bounds are cut.
fn assert_same_extremes(spark: &Session, name: &str, table: &Table<'_>, columns: &[&str]) {
    let each = |column: &&str| format!("min({column}), max({column}), count({column})");
    let wanted: Vec<String> = columns.iter().map(each).collect();
    let sql = format!("SELECT concat_ws('|', count(*), {}) AS found FROM", wanted.join(", "));
    let plan = spark.sql(&format!("EXPLAIN {sql} {name}"));
    assert!(plan[0].to_string().contains("LocalTableScan"), "rows are read: {plan:?}");
    let by_spark = spark.sql(&format!("{sql} {name}"));
    let by_duckdb = oracle::query(table, Reader::DuckDb, &format!("{sql} t"));
    assert_eq!(by_spark[0]["found"].as_str(), by_duckdb[0][0].as_deref(), "{name}");
}

#[test]
fn spark_reads_manifests_that_were_merged_across_changes_of_schema_and_spec() {
    let lake = Lake::rest();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let (_, produced) = grow_across_changes(&icestream, &table, &topic);
    assert!(merges(&table) >= 4);
    let rows = assert_exactly_once(&table, &[&produced[0], &produced[1]]);

    let spark = Spark::session();
    let name = spark.know(&table);
    let read = spark.read(&name);
    assert_eq!(assert_same_rows(&table, &read), rows);
    let columns = ["id", "_kafka_partition", "_kafka_offset"];
    assert_same_extremes(&spark, &name, &table, &columns);
    // In the second spec, rows are in the table partition that Java computes for them.
    for id in [431, 432, 433, 434] {
        assert_eq!(
            spark.sql(&format!("SELECT id FROM {name} WHERE id = {id}")),
            [json!({"id": id})]
        );
    }
    // The rows of others have the ids 0 to 9, too, but no position of ours.
    let once = json!({ "all rows": 0, "kafka position": 0, "business key": 10 });
    assert_eq!(repeats(&spark, &name), once);

    let again = "
file = next(iter(table.scan(row_filter='id = 430').plan_files())).file
with table.transaction() as transaction:
    with transaction.update_snapshot().fast_append() as append:
        append.append_data_file(file)
answer = file.record_count
";
    let repeated = foreign::run(&table, again, Value::Null).as_i64().unwrap();
    assert!(repeated > 0);
    let twice = json!({ "all rows": 0, "kafka position": repeated, "business key": 10 + repeated });
    assert_eq!(repeats(&spark, &name), twice);
    // And the comparison would notice: what Spark read before lacks the rows that are there twice.
    let found = oracle::compare_rows(&table, &read, Reader::DuckDb);
    assert_eq!((found.more.len(), found.less.len() as i64), (0, repeated), "{found:?}");
}

/// Every type for which both Iceberg and Spark have vectors, and the encoding of its values under
/// pages of version 2.
const FLAT: [(&str, &str, &str); 13] = [
    ("number", "int", "DELTA_BINARY_PACKED"),
    ("big", "long", "DELTA_BINARY_PACKED"),
    ("day", "date", "DELTA_BINARY_PACKED"),
    ("local", "timestamp", "DELTA_BINARY_PACKED"),
    ("seen", "timestamptz", "DELTA_BINARY_PACKED"),
    ("price", "decimal(9, 2)", "DELTA_BINARY_PACKED"),
    ("sum", "decimal(18, 4)", "DELTA_BINARY_PACKED"),
    ("total", "decimal(38, 10)", "PLAIN"),
    ("name", "string", "DELTA_LENGTH_BYTE_ARRAY"),
    ("bytes", "binary", "DELTA_LENGTH_BYTE_ARRAY"),
    ("uid", "uuid", "PLAIN"),
    ("ratio", "double", "PLAIN"),
    ("flag", "boolean", "PLAIN"),
];

/// Rows of those columns: all different, with nulls here and there, and a stretch that has nothing
/// but nulls and fills whole pages.
fn flat(partitions: i32, rows: i64) -> impl Iterator<Item = Record> {
    (0..rows).zip((0..partitions).cycle()).map(move |(n, partition)| {
        // In no order, negative as often as not.
        let mixed = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64)) >> 8;
        let part = |of: i64| mixed.rem_euclid(of);
        let day = format!("{}-{:02}-{:02}", 1950 + part(100), 1 + part(12), 1 + part(28));
        let time = format!("{:02}:{:02}:{:02}.{:06}", part(24), part(60), part(59), part(999_983));
        let row = json!({
            "number": mixed % 2_147_483_648, "big": mixed,
            "day": day, "local": format!("{day}T{time}"), "seen": format!("{day}T{time}Z"),
            "price": format!("{}.{:02}", mixed % 10_000_000, n % 100),
            "sum": format!("{}.{:04}", mixed % 100_000_000_000_000, n % 10_000),
            "total": format!("{}{n:08}.{n:010}", mixed | 1),
            "name": format!("näme-{}-{n}", (0..part(30)).map(|_| 'x').collect::<String>()),
            "bytes": format!("{n:012}"), "uid": format!("00000000-0000-4000-8000-{n:012}"),
            "ratio": mixed as f64 / 7.0, "flag": mixed % 2 == 0,
        });
        let empty = rows / 4..rows / 2;
        let payload = match n % 7 {
            _ if empty.contains(&n) => json!({}),
            3 => json!({ "number": n, "name": "" }),
            _ => row,
        };
        Record::new(partition, payload.to_string())
    })
}

/// The columns of the table's data files with each encoding that they have somewhere.
fn encodings(table: &Table<'_>) -> Vec<(String, String)> {
    let location = table.metadata().unwrap()["location"].as_str().unwrap().to_owned();
    let files = local_path(&location).join("data/**/*.parquet");
    let sql = format!(
        "SELECT DISTINCT path_in_schema, unnest(string_split(encodings, ', ')) \
         FROM parquet_metadata('{}') ORDER BY ALL",
        files.display()
    );
    let rows = oracle::query(table, Reader::DuckDb, &sql);
    rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
}

#[test]
fn spark_reads_pages_of_version_2_with_vectors_and_without() {
    let lake = Lake::sqlite();
    let topic = unique("pages");
    let kafka = Kafka::shared();
    kafka.create_topic(&topic, 2, &[]);
    let fields: Vec<Value> = FLAT
        .iter()
        .zip(1..)
        .map(|((name, kind, _), id)| json!({ "id": id, "name": name, "required": false, "type": kind }))
        .collect();
    let table = lake.table(&format!("db.{topic}"));
    let produced = kafka.produce_kept(&topic, flat(2, 20_000));
    Icestream::new(kafka, &topic, &lake, &table.name())
        .schema(&json!({ "type": "struct", "fields": fields }))
        .set(
            "ICEBERG_TABLE_PROPERTIES",
            "write.parquet.page-version=2,write.parquet.dict-size-bytes=1024,\
             write.parquet.page-row-limit=500",
        )
        .run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 20_000);
    let names = FLAT.map(|(name, ..)| name);
    // DuckDB does not take base64 for bytes.
    let comparable: Vec<&str> = names.into_iter().filter(|name| *name != "bytes").collect();
    oracle::assert_payloads(&table, &produced, &comparable);
    let used = encodings(&table);
    for (name, _, encoding) in FLAT {
        assert!(used.contains(&(name.to_owned(), encoding.to_owned())), "{name}: {used:#?}");
    }

    let spark = Spark::session();
    let name = spark.know(&table);
    for vectorised in [true, false] {
        spark.sql(&format!("SET spark.sql.iceberg.vectorization.enabled={vectorised}"));
        assert_eq!(assert_same_rows(&table, &spark.read(&name)), 20_000, "{vectorised}");
    }
    let numbers = ["number", "big", "day", "local", "price", "sum", "total"];
    assert_same_extremes(&spark, &name, &table, &numbers);
}

#[test]
fn spark_finds_every_type_by_every_filter_in_the_right_table_partition() {
    let lake = Lake::sqlite();
    let spark = Spark::session();
    let specs = [
        json!([
            ["identity", "name"],
            ["bucket[4]", "id"],
            ["day", "seen"],
            ["truncate[10]", "small"]
        ]),
        json!([["truncate[2]", "name"], ["bucket[3]", "uid"], ["hour", "local"], ["month", "day"]]),
    ];
    for spec in specs {
        let (icestream, topic) = pipeline(&lake, 2);
        let table = lake.table(&format!("db.{topic}"));
        foreign::run(&table, MAKE_TABLE, spec.clone());
        let name = spark.know(&table);
        // Spark has no type for times of the day.
        let refused = spark.refusal(&format!("SELECT * FROM {name}"));
        assert!(refused.contains("does not support time fields"), "{refused}");
        let without = "with table.update_schema() as update:\n    update.delete_column('clock')";
        foreign::run(&table, without, Value::Null);
        let produced = Kafka::shared().produce(&topic, wide(0..200));
        icestream.unset("ICEBERG_TABLE_SCHEMA").run_until_caught_up();
        assert_eq!(assert_exactly_once(&table, &[&produced]), 200);

        let counts: Vec<String> =
            FILTERS.iter().map(|filter| format!("count(*) FILTER ({filter})")).collect();
        let sql = format!("SELECT {} FROM t", counts.join(", "));
        let whole = &oracle::query(&table, Reader::DuckDb, &sql)[0];
        for (filter, wanted) in FILTERS.iter().zip(whole) {
            // Spark skips table partitions, files and pages that cannot have such a row.
            let found = spark.sql(&format!("SELECT count(*) AS n FROM {name} WHERE {filter}"));
            assert_eq!(Some(found[0]["n"].to_string()), *wanted, "{filter} {spec}");
        }
        assert_eq!(assert_same_rows(&table, &spark.read(&name)), 200, "{spec}");
    }
}
