//! What a commit costs as a table gets older, through the product's own commit path on a real
//! catalog and local files: `make bench BENCH_ARGS=--commits`. No Kafka takes part.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use iceberg::arrow::schema_to_arrow_schema;
use icestream::parts::table::{
    self, Catalog, CatalogKind, CatalogSettings, CommitOutcome, LoadedTable, Maintenance, RestAuth,
    TableName,
};
use icestream::parts::{
    Admission, ClosingFiles, Epoch, Frontier, OffsetRange, PendingCommit, PendingFile, Prepared,
    Properties, Ranges, RowCounts, TableWriter, TopicPartition, WriteSettings, admit, commit_id,
};
use serde_json::{Value, json};

use crate::support::oracle::{self, Reader};
use crate::support::table::{Lake, NewLake, Table, local_path};
use crate::support::{block_on, foreign};
use crate::{journal, page};

const PIPELINE: &str = "commits";
/// Rows of each data file.
const ROWS: i64 = 100;
/// Commits that are measured at each age, in turn with those to the tables of the other ages, so that
/// whatever else the machine does meets all of them.
const WINDOW: u64 = 60;

/// A way to keep a table.
struct Keeping {
    name: &'static str,
    lake: NewLake,
    expire: bool,
    properties: &'static [(&'static str, &'static str)],
    /// Commits that the tables have when they are measured, one table each.
    ages: &'static [u64],
}

const SMALL: &[(&str, &str)] = &[
    ("commit.manifest.min-count-to-merge", "10"),
    ("history.expire.max-snapshot-age-ms", "1"),
    ("history.expire.min-snapshots-to-keep", "10"),
    ("write.metadata.previous-versions-max", "10"),
    ("write.metadata.delete-after-commit.enabled", "true"),
];

const KEEPINGS: [Keeping; 4] = [
    Keeping {
        name: "SQLite, nothing merged, nothing expired",
        lake: Lake::sqlite,
        expire: false,
        properties: &[("commit.manifest-merge.enabled", "false")],
        ages: &[10, 1_000],
    },
    Keeping {
        name: "SQLite, default properties: merged at 100, nothing expired",
        lake: Lake::sqlite,
        expire: false,
        properties: &[],
        ages: &[10, 1_000],
    },
    Keeping {
        name: "SQLite, housekeeping on",
        lake: Lake::sqlite,
        expire: true,
        properties: SMALL,
        ages: &[10, 1_000, 10_000],
    },
    Keeping {
        name: "REST, housekeeping on",
        lake: Lake::rest,
        expire: true,
        properties: SMALL,
        ages: &[10, 1_000],
    },
];

/// A table that only gets commits.
struct Subject {
    name: String,
    catalog: Catalog,
    loaded: LoadedTable,
    maintenance: Arc<Maintenance>,
    template: PendingFile,
    frontier: Frontier,
    commits: u64,
}

/// What one commit took.
struct Cost {
    commit: Duration,
    sweep: Duration,
    bytes: u64,
    reads: u64,
}

impl Subject {
    async fn new(lake: &Lake, keeping: &Keeping, name: String) -> Self {
        let catalog = Catalog::connect(&settings(lake)).await.expect("a catalog");
        let table: TableName = name.parse().expect("a name");
        let fields = [("id", "long"), ("place", "string"), ("reading", "double")];
        let fields: Vec<Value> = (1..)
            .zip(fields)
            .map(|(id, (name, kind))| {
                json!({ "id": id, "name": name, "required": false, "type": kind })
            })
            .collect();
        let schema = json!({ "type": "struct", "fields": fields }).to_string();
        let schema = table::parse_schema(&schema).expect("a schema");
        let spec = table::parse_spec("", &schema).expect("a spec");
        let properties: HashMap<String, String> =
            keeping.properties.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let loaded = catalog.create(&table, &schema, &spec, &properties).await.expect("a table");
        let template = write_template(&loaded).await;
        let maintenance = Maintenance::new(8 << 20, keeping.expire);
        let frontier = Frontier::default();
        Self { name, catalog, loaded, maintenance, template, frontier, commits: 0 }
    }

    /// A data file of its own for the next commit: a link to the one that was written.
    fn next_file(&self) -> PendingFile {
        let path = self.template.path.replace(".parquet", &format!("-{:06}.parquet", self.commits));
        std::fs::hard_link(local_path(&self.template.path), local_path(&path)).expect("a link");
        let data_file = self.template.data_file.replace(&self.template.path, &path);
        PendingFile { path, data_file, ..self.template.clone() }
    }

    /// One commit as the committer makes it: decide on what is known, append.
    async fn commit(&mut self) -> Cost {
        let pending = Prepared::on_disk(self.pending());
        let before = self.maintenance.totals();
        let began = Instant::now();
        let understood = &self.maintenance.understood;
        let view = table::view(&self.loaded, PIPELINE, understood).expect("a view");
        let Admission::Commit(permit) = admit(&pending, &view) else { panic!("not admitted") };
        let appended = table::append(&self.catalog, &self.loaded, permit, &self.maintenance).await;
        let commit = began.elapsed();
        let appended = appended.expect("an answer");
        let CommitOutcome::Committed { table, .. } = appended.outcome else {
            panic!("{:?}", appended.outcome)
        };
        let after = self.maintenance.totals();
        let began = Instant::now();
        if let Some(freed) = appended.freed {
            freed.sweep().await;
        }
        let sweep = began.elapsed();
        let mut bytes = after.bytes_written - before.bytes_written;
        if matches!(self.catalog, Catalog::Rest(_)) {
            // The server writes it.
            let path = local_path(&table.metadata_location);
            bytes += std::fs::metadata(path).expect("table metadata").len();
        }
        self.loaded = table;
        self.frontier = pending.to();
        self.commits += 1;
        let reads = self.maintenance.totals().files_read - before.files_read;
        Cost { commit, sweep, bytes, reads }
    }

    fn pending(&self) -> PendingCommit {
        let tp = TopicPartition::new("readings", 0);
        let start = self.frontier.get(&tp).unwrap_or(0);
        let ranges = Ranges::from([(tp, OffsetRange { start, end: start + ROWS })]);
        let uuid = self.loaded.metadata.uuid().to_string();
        let epoch = Epoch(self.commits + 1);
        PendingCommit {
            commit_id: commit_id(PIPELINE, "bench", epoch, &uuid, &self.frontier, &ranges),
            pipeline: PIPELINE.into(),
            instance: "bench".into(),
            epoch,
            table: self.name.clone(),
            table_uuid: uuid,
            cluster_id: String::new(),
            topic_ids: BTreeMap::new(),
            generation: 0,
            from: self.frontier.clone(),
            ranges,
            rows: RowCounts { written: ROWS.cast_unsigned(), ..RowCounts::default() },
            files: vec![self.next_file()],
        }
    }
}

fn settings(lake: &Lake) -> CatalogSettings {
    let settings: BTreeMap<_, _> = lake.settings().into_iter().collect();
    let sql = settings["ICEBERG_CATALOG_TYPE"] == "sql";
    CatalogSettings {
        kind: if sql { CatalogKind::Sql } else { CatalogKind::Rest },
        name: "icestream".into(),
        uri: settings["ICEBERG_CATALOG_URI"].as_str().into(),
        warehouse: settings.get("ICEBERG_WAREHOUSE").cloned(),
        rest: RestAuth::default(),
        io_properties: Properties::default(),
        request_timeout: Duration::from_secs(30),
    }
}

async fn write_template(loaded: &LoadedTable) -> PendingFile {
    let (metadata, io) = (loaded.metadata.clone(), loaded.io.clone());
    let schema = Arc::new(schema_to_arrow_schema(metadata.current_schema()).expect("Arrow"));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..ROWS)),
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|n| format!("place {n}")))),
        Arc::new(Float64Array::from_iter_values((0..100_i32).map(f64::from))),
    ];
    let batch = RecordBatch::try_new(schema, columns).expect("a batch");
    let runtime = tokio::runtime::Handle::current();
    let write = move || {
        let settings = WriteSettings::new("template");
        let mut writer = TableWriter::new(metadata, io, settings, runtime).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().and_then(ClosingFiles::wait).expect("closed")
    };
    let files = tokio::task::spawn_blocking(write).await.expect("a thread");
    files.into_iter().next().expect("a file")
}

/// What a window showed.
struct Figures {
    median_ms: f64,
    most_ms: f64,
    sweep_ms: f64,
    /// Median of the window, and mean of all commits that there ever were to the table: merges
    /// are rare and large.
    kib: f64,
    all_kib: f64,
    reads: f64,
}

impl Figures {
    /// The window is the last of all commits.
    fn of(all: &[Cost]) -> Self {
        let window = &all[all.len() - usize::try_from(WINDOW).expect("a small number")..];
        let sorted = |of: &dyn Fn(&Cost) -> f64| {
            let mut values: Vec<f64> = window.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let mean = |costs: &[Cost], of: &dyn Fn(&Cost) -> f64| {
            costs.iter().map(of).sum::<f64>() / costs.len() as f64
        };
        let times = sorted(&|cost| cost.commit.as_secs_f64() * 1000.0);
        let kib = |cost: &Cost| cost.bytes as f64 / 1024.0;
        Self {
            median_ms: times[times.len() / 2],
            most_ms: times[times.len() - 1],
            sweep_ms: mean(window, &|cost| cost.sweep.as_secs_f64() * 1000.0),
            kib: sorted(&kib)[times.len() / 2],
            all_kib: mean(all, &kib),
            reads: mean(window, &|cost| cost.reads as f64),
        }
    }
}

/// Measures, prints, and writes docs/bench-commits.md unless `dry` or told to do a part `only`.
pub fn run(only: &str, dry: bool) {
    let load = page::load();
    let journal = journal::measure();
    println!("{journal}");
    if only == "journal" {
        return;
    }
    let mut text = String::from(
        "| table | commits before | ms a commit, median | most | ms a sweep, mean | KiB of metadata a commit, median | the same, mean of all commits ever | reads of the store a commit |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let mut flat = String::new();
    for keeping in &KEEPINGS {
        let figures = measure(keeping);
        for (age, figures) in keeping.ages.iter().zip(&figures) {
            writeln!(
                text,
                "| {} | {age} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} |",
                keeping.name,
                figures.median_ms,
                figures.most_ms,
                figures.sweep_ms,
                figures.kib,
                figures.all_kib,
                figures.reads,
            )
            .expect("a text takes everything");
            println!("{}", text.lines().last().unwrap_or_default());
        }
        let ratio = |of: &dyn Fn(&Figures) -> f64| {
            let values = figures.iter().map(of);
            values.clone().fold(0.0, f64::max) / values.fold(f64::INFINITY, f64::min)
        };
        let (time, bytes) = (ratio(&|f| f.median_ms), ratio(&|f| f.kib));
        let all = ratio(&|f| f.all_kib);
        writeln!(
            flat,
            "- {}: time {time:.2}, bytes {bytes:.2} (mean of all commits {all:.2})",
            keeping.name
        )
        .expect("a text takes everything");
        println!("{}", flat.lines().last().unwrap_or_default());
        if keeping.expire {
            assert!(bytes <= 1.5 && all <= 1.5, "{}: bytes grow with age", keeping.name);
        }
    }
    if !dry {
        std::fs::write("docs/bench-commits.md", page(&text, &flat, &journal, &load))
            .expect("cannot write the page");
    }
}

fn measure(keeping: &Keeping) -> Vec<Figures> {
    let lake = (keeping.lake)();
    let grown = block_on(async {
        let mut grown = Vec::new();
        for age in keeping.ages {
            let mut subject =
                Subject::new(&lake, keeping, format!("bench.after_{age}_commits")).await;
            let mut costs = Vec::new();
            while subject.commits < *age {
                costs.push(subject.commit().await);
            }
            grown.push((subject, costs));
        }
        for round in 0..WINDOW {
            // Each goes first in turn.
            let first = usize::try_from(round).expect("a small number") % grown.len();
            for number in 0..grown.len() {
                let place = (first + number) % grown.len();
                let (subject, costs) = &mut grown[place];
                costs.push(subject.commit().await);
            }
        }
        grown
    });
    for (subject, _) in &grown {
        check(&lake.table(&subject.name), subject.commits);
    }
    let warehouse = lake.warehouse().trim_start_matches("file://").to_owned();
    std::fs::remove_dir_all(warehouse).expect("cannot remove a table");
    grown.iter().map(|(_, costs)| Figures::of(costs)).collect()
}

/// DuckDB and pyiceberg count the rows, and pyiceberg finds each file with the sequence numbers of
/// the commit that brought it.
fn check(table: &Table<'_>, commits: u64) {
    let rows = (commits * ROWS.cast_unsigned()).to_string();
    for reader in Reader::EACH {
        let counted = oracle::query(table, reader, "SELECT count(*) FROM t");
        assert_eq!(counted, [[Some(rows.clone())]], "{reader:?}");
    }
    let code = "
import re
answer = []
entries = table.inspect.entries()
for row in entries.to_pylist():
    number = int(re.search(r'-(\\d{6})\\.parquet$', row['data_file']['file_path']).group(1))
    numbers = (row['sequence_number'], row['file_sequence_number'])
    if numbers != (number + 1, number + 1) or row['status'] == 2:
        answer.append([number, numbers, row['status']])
answer = {'entries': len(entries), 'wrong': answer[:5]}
";
    let answer = foreign::run(table, code, Value::Null);
    assert_eq!(answer, json!({ "entries": commits, "wrong": [] }));
}

fn page(table: &str, flat: &str, journal: &str, load: &str) -> String {
    let properties: Vec<String> =
        SMALL.iter().map(|(key, value)| format!("`{key}` = {value}")).collect();
    format!(
        "\
# What a commit costs as a table gets older

<!-- Written by `make bench BENCH_ARGS=--commits`, which overwrites it: change tests/bench/commits.rs. -->

Tables with one file of {ROWS} rows a commit, through icestream's own commit path: the ledger is read from what the last commit
left, the commit is admitted, and everything up to the catalog's answer counts, with every sync of a file; writing the data file
does not. One table is grown to each age, then {WINDOW} commits to each are measured, in turn with the others. A sweep deletes what expired snapshots leave, after the commit and beside the
next epoch. Bytes are those of manifests, manifest list and table metadata. After the last commit DuckDB and pyiceberg
count the rows, and pyiceberg finds each file once, with both sequence numbers of the commit that brought it.

*Housekeeping on* is `MAINTENANCE_EXPIRE_SNAPSHOTS=true` and a table with {properties}.

{table}
Largest figure over smallest, by age:

{flat}
Merges are rare and large: hence the mean of all commits ever made to the table beside the median. What grows with nothing expired is the table metadata, which lists every snapshot, and it grows for every writer. A
snapshot takes about 0.7 KiB of it, so bytes follow the number of snapshots that a table keeps and not its age: at a commit a minute and
Iceberg's default of five days it would be 7200 snapshots and some 5 MB a commit.

What grows with the partitions is what each snapshot says of its ranges. From it nothing is decided: a commit is admitted by the ids of
the snapshots' commits and by the ledger, and what a snapshot says is decoded once in a run, to see that it can be:

{journal}
Load averages before the start: {load}.
",
        properties = properties.join(", "),
    )
}
