//! Every type by every transform by every metrics mode by both versions: written by icestream, read with
//! and without filters by DuckDB, pyiceberg and Spark, row for row.
//!
//! A column for each of them is in one wide table by version, partitioned by all of its columns at once:
//! rows of one slot are a table partition. What Spark has no type for is in tables of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use self::values::{ALL, Cell, Kind, NOT_SPARK, PYICEBERG, Rank, SLOTS, kinds};
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::producing::Record;
use crate::support::spark::{Session, Spark};
use crate::support::table::{Lake, Table};
use crate::support::{foreign, new_dir, oracle, unique};

mod values;

const MODES: [(&str, &str); 4] =
    [("none", "none"), ("counts", "counts"), ("cut", "truncate(16)"), ("full", "full")];
/// Rows of a slot.
const EACH: usize = 3;

/// A column for each metrics mode of one type and transform.
struct Quartet {
    kind: Kind,
    transform: &'static str,
    columns: Vec<String>,
}

impl Quartet {
    /// The value in a row. Where it does not decide on the table partition, each file has several.
    fn cell(&self, row: usize) -> &Cell {
        let (slot, turn) = (row % SLOTS, row / SLOTS);
        let turn = if self.transform == "void" { 5 * turn } else { 0 };
        &self.kind.cells[(slot + turn) % SLOTS]
    }
}

impl Quartet {
    /// A filter on the quartet of this number, and the rows for which it should hold.
    fn filter(
        &self,
        number: usize,
        operator: &'static str,
        value: &Cell,
        holds: impl Fn(&Cell) -> bool,
    ) -> Filter {
        let rows = (0..rows()).filter(|row| holds(self.cell(*row))).collect();
        Filter { quartet: number, operator, value: value.clone(), rows }
    }

    /// A number that wraps around when it is truncated, by the specification: no range finds it.
    fn wraps(&self, row: usize) -> bool {
        let least = ["-2147483648", "-9223372036854775808"];
        let whole = ["int", "long"].contains(&self.kind.name);
        whole && self.transform.starts_with("truncate") && least.contains(&&*self.cell(row).text)
    }
}

/// Those of a table that some readers can read, or those of one transform.
fn quartets(version: u8, readers: &[&str], only: Option<&str>) -> Vec<Quartet> {
    let kinds = kinds().into_iter();
    let fitting = kinds.filter(|kind| kind.readers == readers && (version > 2 || !kind.needs_v3));
    let each = fitting.flat_map(|kind| kind.transforms.iter().map(move |t| (kind.clone(), *t)));
    let each = each.filter(|(_, transform)| only.is_none_or(|only| only == *transform));
    each.map(|(kind, transform)| {
        let stem = transform.split('[').next().unwrap();
        let columns =
            MODES.iter().map(|(mode, _)| format!("{}_{stem}_{mode}", kind.name)).collect();
        Quartet { kind, transform, columns }
    })
    .collect()
}

/// A table of these columns, as another engine would have made it.
fn metadata(location: &str, version: u8, quartets: &[Quartet]) -> Value {
    let columns: Vec<(&Quartet, &String, &str)> = quartets
        .iter()
        .flat_map(|q| q.columns.iter().zip(MODES).map(move |(name, (_, mode))| (q, name, mode)))
        .collect();
    let mut fields = vec![json!({ "id": 1, "name": "id", "required": true, "type": "long" })];
    let (mut spec, mut properties) = (Vec::new(), BTreeMap::new());
    for (id, (quartet, name, mode)) in (2..).zip(&columns) {
        fields.push(
            json!({ "id": id, "name": name, "required": false, "type": quartet.kind.iceberg }),
        );
        properties.insert(format!("write.metadata.metrics.column.{name}"), json!(mode));
        spec.push(json!({ "source-id": id, "field-id": 998 + id, "name": format!("p_{name}"), "transform": quartet.transform }));
    }
    properties.insert("commit.manifest.min-count-to-merge".into(), json!("2"));
    properties.insert("write.object-storage.enabled".into(), json!("true"));
    properties.insert("write.object-storage.partitioned-paths".into(), json!("false"));
    let mut table = json!({
        "format-version": version, "table-uuid": format!("9c12d441-03fe-4693-9a96-{:012x}", fastrand::u32(..)),
        "location": location, "last-sequence-number": 0, "last-updated-ms": 1_700_000_000_000_i64,
        "last-column-id": columns.len() + 1, "current-schema-id": 0,
        "schemas": [{ "type": "struct", "schema-id": 0, "fields": fields }],
        "default-spec-id": 0, "partition-specs": [{ "spec-id": 0, "fields": spec }],
        "last-partition-id": 1000 + columns.len(), "default-sort-order-id": 0,
        "sort-orders": [{ "order-id": 0, "fields": [] }], "properties": properties,
        "snapshots": [], "refs": {}, "snapshot-log": [], "metadata-log": [],
    });
    if version > 2 {
        table["next-row-id"] = json!(0);
    }
    table
}

/// Puts a table into the catalog that was made elsewhere.
const REGISTER: &str = "
catalog.create_namespace_if_not_exists(name.rsplit('.', 1)[0])
catalog.register_table(name, data)
";

fn rows() -> usize {
    SLOTS * EACH
}

fn records() -> Vec<Record> {
    let each = [ALL, NOT_SPARK, PYICEBERG].into_iter();
    let all: Vec<Quartet> = each.flat_map(|readers| quartets(3, readers, None)).collect();
    let record = |row: usize| {
        let mut payload = json!({ "id": row });
        for quartet in &all {
            for column in &quartet.columns {
                payload[column] = quartet.cell(row).json.clone();
            }
        }
        Record::new(0, payload.to_string())
    };
    (0..rows()).map(record).collect()
}

/// A condition on the columns of a quartet, all with the same values, and the rows that it holds for.
struct Filter {
    quartet: usize,
    operator: &'static str,
    value: Cell,
    rows: BTreeSet<usize>,
}

/// Equality with a value of each quartet in a table of version 2, or with every float; in one of version 3 a
/// range, where there is an order.
fn filters(version: u8, quartets: &[Quartet], every_float: bool) -> Vec<Filter> {
    let mut filters = Vec::new();
    for (number, quartet) in quartets.iter().enumerate() {
        let cells = &quartet.kind.cells;
        let from = |at: usize| cells.iter().cycle().skip(at % SLOTS).take(SLOTS);
        if let Some(bound) = from(5 * number).find(|cell| version > 2 && cell.rank.is_some()) {
            // No reader agrees with another on where NaN is.
            let above = number % 2 > 0 && !matches!(bound.rank, Some(Rank::Float(_)));
            let holds = |cell: &Cell| cell.rank.is_some() && (cell.rank < bound.rank) != above;
            filters.push(quartet.filter(number, if above { ">=" } else { "<" }, bound, holds));
            continue;
        }
        let floats = every_float && ["float", "double"].contains(&quartet.kind.name);
        let nan = |cell: &Cell| cell.shown.as_deref() == Some("nan");
        for value in from(7 * number).take(if floats { SLOTS } else { 1 }) {
            filters.push(match &value.rank {
                _ if nan(value) => quartet.filter(number, "nan", value, nan),
                _ if value.shown.is_none() => {
                    quartet.filter(number, "null", value, |cell| cell.shown.is_none())
                }
                // Zero and minus zero are equal.
                Some(Rank::Float(_)) => {
                    quartet.filter(number, "=", value, |cell| cell.rank == value.rank)
                }
                _ => quartet.filter(number, "=", value, |cell| cell.shown == value.shown),
            });
        }
    }
    filters
}

/// Does a reader give wrong answers to a filter, whoever wrote the table? See docs/decisions.md,
/// "Partition values".
fn is_known(reader: &str, quartet: &Quartet, filter: &Filter) -> bool {
    let (kind, transform) = (quartet.kind.name, quartet.transform);
    let below = |limit: i128| filter.value.rank < Some(Rank::Number(limit));
    let decimal = quartet.kind.iceberg.starts_with("decimal");
    let dated = ["year", "month", "day", "hour"].contains(&transform);
    let exact = |text: &str| text.parse::<f32>().is_ok_and(|v| text.parse() == Ok(f64::from(v)));
    match reader {
        // It truncates decimals below zero as if they had no sign, rounds times before 1970 towards it,
        // and takes another hash of UUIDs.
        "duckdb" => {
            decimal && transform.starts_with("truncate") && below(0)
                || dated && kind != "date" && below(0)
                || kind == "uuid" && transform.starts_with("bucket")
        }
        // It has no literals of nanoseconds, takes infinity for more than a float can be, and reads doubles
        // of a manifest as floats.
        "pyiceberg" => {
            let narrowed =
                filter.operator == "<" || filter.operator == "=" && !exact(&filter.value.text);
            quartet.kind.needs_v3
                || kind == "float" && filter.operator == "=" && filter.value.text.contains("Inf")
                || kind == "double" && transform == "identity" && narrowed
        }
        // It skips files with a zero of the other sign, and row groups by UUIDs as if they had one.
        "spark" => filter.value.rank == Some(Rank::Float(0.0)) || kind == "uuid",
        _ => false,
    }
}

/// A table, and what is asked of its readers.
struct Asked<'a> {
    table: Table<'a>,
    readers: &'static [&'static str],
    quartets: Vec<Quartet>,
    filters: Vec<Filter>,
}

/// What a reader found: the values of each row as it shows them, and the rows by filter.
struct Found {
    rows: BTreeMap<usize, Vec<Option<String>>>,
    filtered: Vec<Filtered>,
}

/// The rows, or why the reader refuses.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
#[allow(dead_code, reason = "why a reader refuses is for people")]
enum Filtered {
    Rows(BTreeSet<usize>),
    Refused(String),
}

fn compare(reader: &str, asked: &Asked<'_>, found: &Found) -> Vec<String> {
    let (table, Asked { quartets, filters, .. }) = (asked.table.name(), asked);
    let mut wrong = Vec::new();
    if found.rows.keys().copied().ne(0..rows()) {
        wrong.push(format!("{reader} finds other rows in {table}: {:?}", found.rows.keys()));
    }
    for (row, values) in &found.rows {
        let cells = quartets.iter().flat_map(|q| q.columns.iter().map(move |name| (q, name)));
        for ((quartet, name), value) in cells.zip(values) {
            let shown = value.as_deref().map(|text| uniform(&quartet.kind, text));
            let expected = &quartet.cell(*row).shown;
            if shown != *expected {
                wrong.push(format!(
                    "{reader}: {table} row {row} {name} is {shown:?}, not {expected:?}"
                ));
            }
        }
    }
    for (filter, rows) in filters.iter().zip(&found.filtered) {
        let quartet = &quartets[filter.quartet];
        let shown = |rows: &BTreeSet<usize>| -> BTreeSet<usize> {
            rows.iter().copied().filter(|row| !quartet.wraps(*row)).collect()
        };
        let right = matches!(rows, Filtered::Rows(rows) if shown(rows) == shown(&filter.rows));
        if !right && !is_known(reader, quartet, filter) {
            let Quartet { kind, transform, .. } = quartet;
            wrong.push(format!(
                "{reader}: {table} {transform}({}) {} {:?} finds {rows:?}, not {:?}",
                kind.iceberg, filter.operator, filter.value.text, filter.rows
            ));
        }
    }
    wrong
}

/// A value as readers show it, in one form.
fn uniform(kind: &Kind, text: &str) -> String {
    match kind.name {
        "float" => values::float_bits(text),
        "double" => values::double_bits(text),
        "small" => values::unscaled(text, 2),
        "middle" => values::unscaled(text, 4),
        "large" => values::unscaled(text, 10),
        "uuid" => text.replace('-', ""),
        "fixed" | "binary" => text.to_lowercase(),
        _ => text.to_owned(),
    }
}

/// Has DuckDB or pyiceberg read the tables.
fn by_python(reader: &str, tables: &[&Asked<'_>]) -> Vec<Found> {
    let tables: Vec<Value> = tables
        .iter()
        .map(|Asked { table, quartets, filters, .. }| {
            let columns: Vec<Value> = quartets
                .iter()
                .flat_map(|q| q.columns.iter().map(move |name| json!([name, q.kind.iceberg])))
                .collect();
            let filter = |filter: &Filter| {
                let quartet = &quartets[filter.quartet];
                json!({ "columns": quartet.columns, "type": quartet.kind.iceberg,
                        "operator": filter.operator, "text": filter.value.text })
            };
            let filters: Vec<Value> = filters.iter().map(filter).collect();
            json!({ "location": table.metadata_location(), "columns": columns, "filters": filters })
        })
        .collect();
    let file = new_dir("matrix").join("request.json");
    std::fs::write(&file, json!({ "reader": reader, "tables": tables }).to_string()).unwrap();
    let answer = oracle::python(&oracle::script("matrix.py"), &[&file.display().to_string()]);
    let answer: Vec<Value> = serde_json::from_str(&answer).unwrap();
    let found = |table: &Value| {
        let rows = table["rows"].as_array().unwrap().iter().map(|row| {
            let values: Vec<Option<String>> =
                serde_json::from_value(row["values"].clone()).unwrap();
            (usize::try_from(row["id"].as_u64().unwrap()).unwrap(), values)
        });
        let filtered = serde_json::from_value(table["filtered"].clone()).unwrap();
        Found { rows: rows.collect(), filtered }
    };
    answer.iter().map(found).collect()
}

fn by_spark(tables: &[&Asked<'_>]) -> Vec<Found> {
    let spark = Spark::session();
    spark.sql("SET spark.sql.session.timeZone=UTC");
    tables.iter().map(|asked| asked_of_spark(&spark, asked)).collect()
}

/// Has Spark read a table.
fn asked_of_spark(spark: &Session, asked: &Asked<'_>) -> Found {
    let Asked { table, quartets, filters, .. } = asked;
    let name = spark.know(table);
    let shown = |kind: &str, column: &str| match kind {
        "date" => format!("datediff({column}, DATE'1970-01-01')"),
        "timestamptz" => format!("unix_micros({column})"),
        "timestamp" => format!("unix_micros(CAST({column} AS TIMESTAMP))"),
        "fixed[5]" | "binary" => format!("hex({column})"),
        _ => column.to_owned(),
    };
    let columns =
        quartets.iter().flat_map(|q| q.columns.iter().map(move |name| (name, q.kind.iceberg)));
    let shown: Vec<String> =
        columns.map(|(name, kind)| format!("CAST({} AS STRING)", shown(kind, name))).collect();
    let sql = format!("SELECT id, array({}) AS shown FROM {name}", shown.join(", "));
    let rows = spark.sql(&sql).into_iter().map(|row| {
        let values: Vec<Option<String>> = serde_json::from_value(row["shown"].clone()).unwrap();
        (usize::try_from(row["id"].as_u64().unwrap()).unwrap(), values)
    });
    let rows = rows.collect();
    let mut filtered = vec![BTreeSet::new(); filters.len()];
    let numbered: Vec<(usize, &Filter)> = filters.iter().enumerate().collect();
    for some in numbered.chunks(40) {
        let selects = some.iter().map(|(number, filter)| {
            let quartet = &quartets[filter.quartet];
            let of = |column: &String| spark_condition(quartet.kind.iceberg, column, filter);
            let conditions: Vec<String> = quartet.columns.iter().map(of).collect();
            format!("SELECT {number} AS n, id FROM {name} WHERE {}", conditions.join(" AND "))
        });
        for row in spark.sql(&selects.collect::<Vec<_>>().join(" UNION ALL ")) {
            let number = |key: &str| usize::try_from(row[key].as_u64().unwrap()).unwrap();
            filtered[number("n")].insert(number("id"));
        }
    }
    Found { rows, filtered: filtered.into_iter().map(Filtered::Rows).collect() }
}

fn spark_condition(kind: &str, column: &str, filter: &Filter) -> String {
    let text = filter.value.text.replace('\\', "\\\\").replace('\'', "\\'");
    let literal = match kind {
        "boolean" => text,
        "date" => format!("DATE'{text}'"),
        "timestamptz" => format!("TIMESTAMP'{text}'"),
        "timestamp" => format!("TIMESTAMP_NTZ'{text}'"),
        "string" | "uuid" => format!("'{text}'"),
        "fixed[5]" | "binary" => format!("X'{text}'"),
        "long" => format!("CAST('{text}' AS BIGINT)"),
        other => format!("CAST('{text}' AS {})", other.to_uppercase()),
    };
    match filter.operator {
        "null" => format!("{column} IS NULL"),
        "nan" => format!("isnan({column})"),
        operator => format!("{column} {operator} {literal}"),
    }
}

#[test]
fn every_type_transform_and_metrics_mode_is_read_row_for_row_by_every_reader() {
    let begun = Instant::now();
    let kafka = Kafka::shared();
    let lake = Lake::sqlite();
    let topic = unique("matrix");
    kafka.create_topic(&topic, 1, &[]);
    let mut records = records().into_iter();
    kafka.produce(&topic, records.by_ref().take(SLOTS));
    let mut tables = Vec::new();
    let mut cells = 0;
    for (version, readers, only) in [
        (2, ALL, Some("identity")),
        (2, ALL, None),
        (3, ALL, None),
        (2, NOT_SPARK, None),
        (3, NOT_SPARK, None),
        (3, PYICEBERG, None),
    ] {
        let quartets = quartets(version, readers, only);
        cells += if only.is_none() { quartets.len() * MODES.len() } else { 0 };
        let name = format!("db.{}", unique("matrix"));
        let table = lake.table(&name);
        let dir = new_dir("matrix_table");
        std::fs::create_dir(dir.join("metadata")).unwrap();
        let file = dir.join("metadata/00000-a.metadata.json");
        let location = format!("file://{}", dir.display());
        std::fs::write(&file, metadata(&location, version, &quartets).to_string()).unwrap();
        foreign::run(&table, REGISTER, json!(format!("file://{}", file.display())));
        let icestream = Icestream::new(kafka, &topic, &lake, &name);
        icestream.command(&["check"]).success();
        icestream.run_until_caught_up();
        // The first one in several commits, so that its manifests are merged.
        while records.len() > 0 {
            kafka.produce(&topic, records.by_ref().take(SLOTS));
            icestream.run_until_caught_up();
        }
        icestream.command(&["verify", "--rows"]).success();
        let filters = filters(version, &quartets, only.is_some());
        tables.push(Asked { table, readers, quartets, filters });
    }
    let merged = |snapshot: &Value| snapshot["summary"]["manifests-replaced"] == "2";
    assert!(tables[0].table.snapshots().iter().any(merged), "no manifests were merged");
    println!("{} written after {:?}", tables.len(), begun.elapsed());
    let mut wrong = Vec::new();
    for reader in ALL {
        let asked: Vec<&Asked<'_>> =
            tables.iter().filter(|table| table.readers.contains(reader)).collect();
        let found = match *reader {
            "spark" => by_spark(&asked),
            reader => by_python(reader, &asked),
        };
        for (table, found) in asked.iter().zip(&found) {
            wrong.extend(compare(reader, table, found));
        }
        println!("read by {reader} after {:?}", begun.elapsed());
    }
    println!("{cells} cells, {} readers, {:?}", ALL.len(), begun.elapsed());
    assert!(wrong.is_empty(), "{} differences: {:#?}", wrong.len(), &wrong[..wrong.len().min(100)]);
}
