//! What others make of schema and spec: defaults of columns, types that icestream does not know, a spec that
//! is cleaned away.

use serde_json::{Value, json};

use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::{Produced, Record};
use crate::support::spark::Spark;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, foreign, unique};

/// Gives the table a new schema, as another engine does: the columns of `data` in the place of those of the
/// same ids, or beside the others.
const EDIT: &str = "
import json, sqlite3
location = data['location']
with open(location.removeprefix('file://')) as file:
    metadata = json.load(file)
old = next(s for s in metadata['schemas'] if s['schema-id'] == metadata['current-schema-id'])
fields = {f['id']: f for f in old['fields']}
fields.update({f['id']: f for f in data['fields']})
for gone in data['without']:
    del fields[gone]
new = dict(old, fields=list(fields.values()))
if data['fields']:
    new['schema-id'] = max(s['schema-id'] for s in metadata['schemas']) + 1
    metadata['schemas'].append(new)
else:
    # As if it had never been.
    metadata['schemas'] = [s for s in metadata['schemas'] if s is not old]
    new = next(s for s in metadata['schemas'] if [f['id'] for f in s['fields']] == [f['id'] for f in new['fields']])
metadata['current-schema-id'] = new['schema-id']
metadata['format-version'] = 3
metadata.setdefault('next-row-id', 0)
metadata['last-column-id'] = max(metadata['last-column-id'], *fields)
path = location.rsplit('/', 1)[0] + '/' + data['name']
with open(path.removeprefix('file://'), 'w') as file:
    json.dump(metadata, file)
with sqlite3.connect(data['catalog']) as db:
    changed = db.execute('UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = ?'
        ' WHERE metadata_location = ?', (path, location, location)).rowcount
answer = changed
";

/// A table of another name, so that nobody looks at one that pyiceberg cannot read.
fn edit(lake: &Lake, table: &Table<'_>, number: i32, fields: Value, without: Value) {
    // A commit may come between.
    crate::support::wait_for("the schema to be changed", PATIENCE, || {
        let location = table.metadata_location()?;
        let data = json!({
            "location": location, "fields": fields, "without": without,
            "name": format!("9000{number}-{}.metadata.json", unique("edit")), "catalog": lake.sqlite_file(),
        });
        let changed = foreign::run(&lake.table("db.nothing"), EDIT, data);
        (changed == json!(1)).then_some(())
    });
}

fn record(id: i64, rest: &str) -> Record {
    Record::new(0, format!("{{\"id\": {id}{rest}}}"))
}

fn schema() -> Value {
    json!({ "type": "struct", "fields": [
        { "id": 1, "name": "id", "required": true, "type": "long" },
        { "id": 2, "name": "at", "required": false, "type": { "type": "struct", "fields": [
            { "id": 3, "name": "n", "required": false, "type": "int" }] } }] })
}

fn columns(table: &Table<'_>, reader: Reader) -> Vec<Vec<Option<String>>> {
    oracle::query(table, reader, r#"SELECT id, c, t, "at".s FROM t ORDER BY id"#)
}

#[test]
fn a_field_that_a_record_does_not_name_has_the_write_default_of_its_column() {
    let (lake, kafka) = (Lake::sqlite(), Kafka::shared());
    let topic = unique("defaults");
    kafka.create_topic(&topic, 1, &[]);
    let table = lake.table(&format!("db.{topic}"));
    let icestream = Icestream::new(kafka, &topic, &lake, &table.name())
        .schema(&schema())
        .set("ICEBERG_TABLE_PROPERTIES", "format-version=3");
    let before = kafka.produce(&topic, [record(0, ""), record(1, r#", "at": {"n": 1}"#)]);
    icestream.run_until_caught_up();
    let default = |id: i32, name: &str, kind: &str, required: bool, first: Value, next: Value| {
        json!({ "id": id, "name": name, "required": required, "type": kind,
                "initial-default": first, "write-default": next })
    };
    // Ids are given anew where a table is made.
    let n = table.metadata().unwrap()["schemas"][0]["fields"][1]["type"]["fields"][0].clone();
    assert_eq!(n["name"], "n");
    let at = json!({ "id": 2, "name": "at", "required": false, "type": { "type": "struct", "fields": [
        n,
        default(30, "s", "string", false, json!("old"), json!("new"))] } });
    let added = [
        at,
        default(10, "c", "int", true, json!(4), json!(5)),
        json!({ "id": 11, "name": "t", "required": false, "type": "timestamptz",
                "write-default": "2024-02-29T12:00:00+00:00" }),
    ];
    edit(&lake, &table, 1, json!(added), json!([]));
    let after = kafka.produce(
        &topic,
        [
            record(2, ""),
            record(3, r#", "c": 6, "t": null, "at": {"n": 3}"#),
            record(4, r#", "at": null"#),
            record(5, r#", "at": {"s": null}, "t": "2026-01-01T00:00:00Z""#),
        ],
    );
    icestream.command(&["check"]).success();
    icestream.run_until_caught_up();
    // Required: what is said to be null is none of its values.
    kafka.produce(&topic, [record(6, r#", "c": null"#)]);
    let refused = icestream.command(&["run", "--until-caught-up"]).with_code(6);
    assert!(refused.log.contains("at c: required, but null"), "{}", refused.log);
    let row = |id: &str, c: &str, t: Option<&str>, s: Option<&str>| {
        vec![Some(id.into()), Some(c.into()), t.map(Into::into), s.map(Into::into)]
    };
    let noon = Some("2024-02-29 12:00:00+00:00");
    let expected = [
        row("0", "4", None, None),
        row("1", "4", None, Some("old")),
        row("2", "5", noon, None),
        row("3", "6", None, Some("new")),
        row("4", "5", noon, None),
        row("5", "5", Some("2026-01-01 00:00:00+00:00"), None),
    ];
    assert_eq!(columns(&table, Reader::PyIceberg), expected);
    // DuckDB takes no initial default within a struct.
    let by_duckdb = columns(&table, Reader::DuckDb);
    assert_eq!(by_duckdb[2..], expected[2..]);
    let spark = Spark::session();
    let name = spark.know(&table);
    let rows = spark.sql(&format!("SELECT id, c, `at`.s AS s FROM {name} ORDER BY id"));
    let by_spark = rows.iter().map(|row| [row["id"].to_string(), row["c"].to_string()]);
    assert!(
        by_spark.eq(expected.iter().map(|row| [0, 1].map(|at| row[at].clone().unwrap()))),
        "{rows:?}"
    );
    let kept = table.metadata().unwrap();
    let current = kept["schemas"].as_array().unwrap().iter();
    let current = current.max_by_key(|schema| schema["schema-id"].as_i64()).unwrap();
    assert!(
        added.iter().all(|column| current["fields"].as_array().unwrap().contains(column)),
        "{current}"
    );
    assert_eq!(assert_exactly_once(&table, &[&before, &after]), 6);
}

#[test]
fn a_column_of_an_unknown_type_is_refused_by_name_and_nothing_is_lost() {
    let (lake, kafka) = (Lake::sqlite(), Kafka::shared());
    let topic = unique("variant");
    kafka.create_topic(&topic, 1, &[]);
    let table = lake.table(&format!("db.{topic}"));
    let icestream = Icestream::new(kafka, &topic, &lake, &table.name()).schema(&schema());
    let mut produced: Vec<Produced> = vec![kafka.produce(&topic, [record(0, "")])];
    let mut running = icestream.run();
    table.wait_for("a row", PATIENCE, |metadata| {
        (!crate::support::table::snapshots(metadata).is_empty()).then_some(())
    });
    let variant = json!([{ "id": 9, "name": "v", "required": false, "type": "variant" }]);
    edit(&lake, &table, 1, variant, json!([]));
    produced.push(kafka.produce(&topic, [record(1, "")]));
    let exit = running.wait(PATIENCE);
    let exit = exit.with_code(3);
    assert!(exit.log.contains("v is of type variant"), "{}", exit.log);
    let checked = icestream.command(&["check"]).with_code(1);
    assert!(checked.stdout.contains("v is of type variant"), "{}", checked.stdout);
    edit(&lake, &table, 2, json!([]), json!([9]));
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &produced.iter().collect::<Vec<_>>()), 2);
}

/// Takes the partition spec out of the table, and its id goes to no other.
const UNPARTITION: &str = "
import json, sqlite3
location = data['location']
with open(location.removeprefix('file://')) as file:
    metadata = json.load(file)
metadata['partition-specs'] = [{'spec-id': 7, 'fields': []}]
metadata['default-spec-id'] = 7
path = location.rsplit('/', 1)[0] + '/90001-unpartitioned.metadata.json'
with open(path.removeprefix('file://'), 'w') as file:
    json.dump(metadata, file)
with sqlite3.connect(data['catalog']) as db:
    answer = db.execute('UPDATE iceberg_tables SET metadata_location = ? WHERE metadata_location = ?',
        (path, location)).rowcount
";

#[test]
fn a_pending_commit_whose_spec_was_cleaned_away_has_a_way_out_that_loses_nothing() {
    let (lake, kafka) = (Lake::sqlite(), Kafka::shared());
    let topic = unique("cleaned");
    kafka.create_topic(&topic, 1, &[]);
    let table = lake.table(&format!("db.{topic}"));
    let icestream = Icestream::new(kafka, &topic, &lake, &table.name())
        .schema(&schema())
        .set("ICEBERG_PARTITION_SPEC", "bucket[2](id)");
    let produced = kafka.produce(&topic, (0..10).map(|id| record(id, "")));
    let crashed = icestream.clone().crash_at("prepare.after").run().wait(PATIENCE);
    assert_eq!(crashed.signal, Some(6), "{}", crashed.log);
    let data = json!({ "location": table.metadata_location(), "catalog": lake.sqlite_file() });
    assert_eq!(foreign::run(&lake.table("db.nothing"), UNPARTITION, data), json!(1));
    let refused = icestream.command(&["run", "--until-caught-up"]).with_code(4);
    for told in ["no longer has its partition spec 0", "icestream ledger adopt --yes"] {
        assert!(refused.log.contains(told), "{}", refused.log);
    }
    icestream.command(&["ledger", "adopt", "--yes"]).success();
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 10);
}
