//! The judge: what is in a table, by DuckDB and by pyiceberg, against what was produced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::producing::Produced;
use super::table::Table;
use super::{new_dir, parts, process};

/// Who reads the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// DuckDB's Iceberg extension.
    DuckDb,
    /// pyiceberg; DuckDB only compares what it read.
    PyIceberg,
}

impl Reader {
    /// Both.
    pub const EACH: [Self; 2] = [Self::DuckDb, Self::PyIceberg];
}

/// What a table has of the records that belong in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// Records that belong in the table.
    pub expected: u64,
    /// Rows in the table.
    pub rows: u64,
    /// Records that are not in the table.
    pub missing: u64,
    /// Records that are in the table more than once.
    pub repeated: u64,
    /// (topic, partition, offset)s in the table that do not belong there.
    pub strange: u64,
    /// The first of the missing.
    pub missing_shown: Vec<String>,
    /// The first of the repeated.
    pub repeated_shown: Vec<String>,
    /// The first of the strange.
    pub strange_shown: Vec<String>,
}

impl Verdict {
    /// Each record once and nothing else.
    pub fn is_exact(&self) -> bool {
        self.missing == 0 && self.repeated == 0 && self.strange == 0 && self.rows == self.expected
    }
}

/// What two equal columns share, whatever the order of their rows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ColumnStats {
    /// Values that are not null.
    pub count: u64,
    /// Nulls.
    pub nulls: u64,
    /// Sum of the values: of numbers themselves, of times in microseconds, of texts by a hash.
    pub sum: Option<String>,
}

/// Each produced (topic, partition, offset) is in the table once and nothing else is, by both
/// readers. Gives the number of rows.
///
/// # Panics
/// With the first missing, repeated and strange ones otherwise.
pub fn assert_exactly_once(table: &Table<'_>, produced: &[&Produced]) -> u64 {
    let mut rows = 0;
    for reader in Reader::EACH {
        let verdict = judge(table, produced, reader);
        assert!(verdict.is_exact(), "{} by {reader:?}: {verdict:#?}", table.name());
        rows = verdict.rows;
    }
    rows
}

/// Compares a table with what was produced, and leaves it to the caller what to make of it.
pub fn judge(table: &Table<'_>, produced: &[&Produced], reader: Reader) -> Verdict {
    let produced: Vec<Value> = produced
        .iter()
        .map(|produced| {
            let offsets: BTreeMap<String, Vec<[i64; 2]>> = produced
                .offsets
                .iter()
                .map(|(partition, ranges)| {
                    let ranges = ranges.iter().map(|range| [range.start, range.end]).collect();
                    (partition.to_string(), ranges)
                })
                .collect();
            json!({ "topic": produced.topic, "offsets": offsets })
        })
        .collect();
    ask(table, reader, "exactly_once", json!({ "produced": produced }))
}

#[derive(Deserialize)]
struct Payloads {
    compared: u64,
    different: BTreeMap<String, Vec<String>>,
}

/// These top-level fields of every payload kept by [`super::kafka::Kafka::produce_kept`] equal the
/// columns of the row with the same offset, by both readers. Rows that are missing are not looked
/// at: [`assert_exactly_once`] finds those.
///
/// # Panics
/// With the first differences.
pub fn assert_payloads(table: &Table<'_>, produced: &Produced, columns: &[&str]) {
    let file = produced.payloads.as_ref().expect("payloads kept by produce_kept");
    for reader in Reader::EACH {
        let question = json!({ "topic": produced.topic, "file": file, "columns": columns });
        let answer: Payloads = ask(table, reader, "payloads", question);
        assert!(answer.compared > 0, "{}: {reader:?} found nothing to compare", table.name());
        assert!(
            answer.different.is_empty(),
            "{} by {reader:?}: {:#?}",
            table.name(),
            answer.different
        );
    }
}

/// How the rows that another engine read differ from those of the table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Differences {
    /// Rows that the engine read.
    pub rows: u64,
    /// Columns of another type. Rows are then not compared.
    pub types: Vec<String>,
    /// The first rows that it read too often.
    pub more: Vec<String>,
    /// The first rows that it read too seldom.
    pub less: Vec<String>,
}

/// Compares the rows in the Parquet files of `dir`, which another engine read from the table, with
/// what `reader` finds: whole rows, each as often, with columns of the same types.
pub fn compare_rows(table: &Table<'_>, dir: &Path, reader: Reader) -> Differences {
    let files = dir.join("*.parquet").display().to_string();
    ask(table, reader, "compare_rows", json!({ "files": files }))
}

/// Another engine read the same rows from the table as both readers. Gives their number.
///
/// # Panics
/// With the first differences otherwise.
pub fn assert_same_rows(table: &Table<'_>, dir: &Path) -> u64 {
    let mut rows = 0;
    for reader in Reader::EACH {
        let found = compare_rows(table, dir, reader);
        let different = [&found.types, &found.more, &found.less].iter().any(|d| !d.is_empty());
        assert!(!different, "{} by {reader:?}: {found:#?}", table.name());
        rows = found.rows;
    }
    rows
}

/// Statistics of every column that is neither nested nor one of icestream's `_kafka_` columns.
pub fn columns(table: &Table<'_>, reader: Reader) -> BTreeMap<String, ColumnStats> {
    ask(table, reader, "columns", json!({}))
}

/// The rows of a query in DuckDB's SQL on the table, there called `t`. Every value as text.
pub fn query(table: &Table<'_>, reader: Reader, sql: &str) -> Vec<Vec<Option<String>>> {
    ask(table, reader, "query", json!({ "sql": sql }))
}

/// Runs a Python program that makes something, such as a table by another writer. It is given
/// these arguments; its standard output is the result.
pub fn python(script: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(parts::python("python"));
    command.arg("-B").arg(script).args(arguments);
    process::output(&script.display().to_string(), command)
}

/// Where a program of the judge is.
pub fn script(name: &str) -> PathBuf {
    std::path::absolute("tests/it/oracle").unwrap().join(name)
}

fn ask<T: DeserializeOwned>(
    table: &Table<'_>,
    reader: Reader,
    question: &str,
    mut request: Value,
) -> T {
    let location = table.metadata_location();
    let location = location.unwrap_or_else(|| panic!("there is no table {}", table.name()));
    request["location"] = location.into();
    request["s3"] = table.reader_properties();
    request["question"] = question.into();
    request["reader"] = match reader {
        Reader::DuckDb => "duckdb",
        Reader::PyIceberg => "pyiceberg",
    }
    .into();
    let file = new_dir("judge").join("request.json");
    std::fs::write(&file, request.to_string()).expect("cannot write a question");
    let answer = python(&script("judge.py"), &[&file.display().to_string()]);
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"))
}
