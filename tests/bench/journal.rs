//! What a commit's decision costs where the journal is long and wide: many snapshots of ours in the
//! metadata, each with the ranges of many partitions. No catalog and no store takes part, only a
//! table's metadata in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Instant;

use iceberg::TableCreation;
use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, Operation, Snapshot, Summary, TableMetadataBuilder,
};
use icestream::parts::table::{self, LoadedTable, Understood};
use icestream::parts::{
    Admission, CommitId, Epoch, Frontier, OffsetRange, PendingCommit, Prepared, Properties, Ranges,
    RowCounts, TopicPartition, admit, advance, encode_ledger, encode_summary, ledger_key,
};
use serde_json::json;

use crate::measure::{peak_memory, reset_peak_memory};

const PIPELINE: &str = "commits";
const TOPIC: &str = "readings";
/// Records of each partition in each commit.
const STEP: i64 = 1000;
/// A time to come: the table is made by the clock.
const FIRST_MS: i64 = 4_102_444_800_000;
/// Partitions and snapshots.
const SIZES: [(i32, u64); 3] = [(12, 100), (1_000, 500), (1_000, 5_000)];
/// Decisions of which the median counts.
const ROUNDS: usize = 9;

/// The figures as a table.
pub fn measure() -> String {
    let mut text = String::from(
        "| partitions | snapshots | ms of the first reading of a run | ms a commit, median | MiB of memory for either, most |\n\
         |---|---|---|---|---|\n",
    );
    for (partitions, snapshots) in SIZES {
        let loaded = table(partitions, snapshots);
        let understood = Understood::default();
        let uuid = loaded.metadata.uuid().to_string();
        let next = PendingCommit { table_uuid: uuid, ..pending(partitions, snapshots + 1) };
        let next = Prepared::on_disk(next);
        let before = reset_peak_memory();
        let began = Instant::now();
        decide(&loaded, &understood, &next);
        let first = began.elapsed().as_secs_f64() * 1000.0;
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let began = Instant::now();
                decide(&loaded, &understood, &next);
                began.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let peak = peak_memory(std::process::id()).expect("this process runs");
        let mib = peak.saturating_sub(before) as f64 / f64::from(1 << 20);
        let line = format!(
            "| {partitions} | {snapshots} | {first:.1} | {:.2} | {mib:.1} |",
            times[ROUNDS / 2]
        );
        println!("{line}");
        writeln!(text, "{line}").expect("a text takes everything");
    }
    text
}

/// What a committer does with the answer to a commit, up to the request for the next one.
fn decide(loaded: &LoadedTable, understood: &Understood, next: &Prepared) {
    let view = table::view(loaded, PIPELINE, understood).expect("a view");
    assert!(matches!(admit(next, &view), Admission::Commit(_)));
}

/// A table's metadata after so many commits, each of which moved every partition.
fn table(partitions: i32, snapshots: u64) -> LoadedTable {
    let fields = json!({ "id": 1, "name": "id", "required": false, "type": "long" });
    let schema = json!({ "type": "struct", "fields": [fields] }).to_string();
    let creation = TableCreation::builder()
        .name(String::from("journal"))
        .location(String::from("file:///journal"))
        .schema(table::parse_schema(&schema).expect("a schema"))
        .format_version(FormatVersion::V2)
        .build();
    let mut builder = TableMetadataBuilder::from_table_creation(creation).expect("a table");
    for number in 1..=snapshots {
        let id = i64::try_from(number).expect("a small number");
        let summary = encode_summary(&pending(partitions, number)).expect("a summary");
        let snapshot = Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id((id > 1).then_some(id - 1))
            .with_sequence_number(id)
            .with_timestamp_ms(FIRST_MS + id)
            .with_manifest_list(format!("file:///journal/metadata/{id}.avro"))
            .with_summary(Summary {
                operation: Operation::Append,
                additional_properties: summary.into_iter().collect(),
            })
            .with_schema_id(0)
            .build();
        builder = builder.set_branch_snapshot(snapshot, MAIN_BRANCH).expect("a snapshot");
    }
    let last = pending(partitions, snapshots);
    let ledger = encode_ledger(&advance(None, &last)).expect("a ledger");
    let properties = HashMap::from([(ledger_key(PIPELINE), ledger)]);
    let metadata = builder.set_properties(properties).expect("properties").build();
    LoadedTable {
        name: "bench.journal".parse().expect("a name"),
        metadata: metadata.expect("metadata").metadata.into(),
        metadata_location: String::from("file:///journal/metadata/1.metadata.json"),
        io: table::file_io("file:///journal", &Properties::default()).expect("a store"),
    }
}

fn pending(partitions: i32, number: u64) -> PendingCommit {
    let end = i64::try_from(number).expect("a small number") * STEP;
    let tp = |partition| TopicPartition::new(TOPIC, partition);
    let ranges: Ranges =
        (0..partitions).map(|p| (tp(p), OffsetRange { start: end - STEP, end })).collect();
    let begun = ranges.iter().filter(|(_, range)| range.start > 0);
    let from: Frontier = begun.map(|(tp, range)| (tp.clone(), range.start)).collect();
    PendingCommit {
        commit_id: CommitId(format!("{number:032x}")),
        pipeline: PIPELINE.into(),
        instance: "bench".into(),
        epoch: Epoch(number),
        table: "bench.journal".into(),
        table_uuid: String::new(),
        cluster_id: String::new(),
        topic_ids: BTreeMap::new(),
        generation: 0,
        from,
        ranges,
        files: Vec::new(),
        rows: RowCounts::default(),
    }
}
