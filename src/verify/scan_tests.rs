//! A real table on SQLite and local files, read back.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use iceberg::arrow::schema_to_arrow_schema;

use super::finding::Kind;
use super::{Depth, Report, gather};
use crate::base::secret::Properties;
use crate::protocol::{
    Admission, Epoch, Frontier, Offset, OffsetRange, PendingCommit, PendingFile, Prepared, Ranges,
    RowCounts, TopicPartition, admit, commit_id,
};
use crate::table::{
    self, Catalog, CatalogKind, CatalogSettings, CommitOutcome, LoadedTable, Maintenance, RestAuth,
    TableName,
};
use crate::write::{ClosingFiles, TableWriter, WriteSettings};

const PIPELINE: &str = "p";
const TOPIC: &str = "readings";

struct Fixture {
    catalog: Catalog,
    loaded: LoadedTable,
    commits: u64,
    frontier: Frontier,
    maintenance: Arc<Maintenance>,
}

impl Fixture {
    async fn new(dir: &Path, columns: &[(&str, &str)], spec: &str) -> Self {
        Self::with_properties(dir, columns, spec, &[]).await
    }

    async fn with_properties(
        dir: &Path,
        columns: &[(&str, &str)],
        spec: &str,
        properties: &[(&str, &str)],
    ) -> Self {
        let settings = CatalogSettings {
            kind: CatalogKind::Sql,
            name: "c".into(),
            uri: format!("sqlite://{}", dir.join("catalog.db").display()).into(),
            warehouse: Some(format!("file://{}", dir.join("warehouse").display())),
            rest: RestAuth::default(),
            io_properties: Properties::default(),
            request_timeout: Duration::from_secs(10),
        };
        let catalog = Catalog::connect(&settings).await.expect("a catalog");
        let name: TableName = "db.readings".parse().expect("a name");
        let fields: Vec<_> = (1..)
            .zip(columns)
            .map(|(id, (name, kind))| {
                serde_json::json!({"id": id, "name": name, "required": false, "type": kind})
            })
            .collect();
        let schema = serde_json::json!({"type": "struct", "fields": fields}).to_string();
        let schema = table::parse_schema(&schema).expect("a schema");
        let spec = table::parse_spec(spec, &schema).expect("a spec");
        let properties: HashMap<String, String> =
            properties.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let loaded = catalog.create(&name, &schema, &spec, &properties).await.expect("a table");
        // Expires only what a table's properties call old, which no default does here.
        let maintenance = Maintenance::new(1 << 20, true);
        Self { catalog, loaded, commits: 0, frontier: Frontier::default(), maintenance }
    }

    /// Writes one row for each offset of partitions 0 and 1.
    async fn write(&self, offsets: std::ops::Range<Offset>) -> Vec<PendingFile> {
        let (metadata, io) = (self.loaded.metadata.clone(), self.loaded.io.clone());
        let schema = Arc::new(schema_to_arrow_schema(metadata.current_schema()).expect("arrow"));
        let rows: Vec<(i32, Offset)> =
            offsets.flat_map(|offset| [(0, offset), (1, offset)]).collect();
        let column = |name: &str| -> ArrayRef {
            match name {
                "_kafka_topic" => {
                    Arc::new(StringArray::from_iter_values(rows.iter().map(|_| TOPIC)))
                }
                "_kafka_partition" => {
                    Arc::new(Int32Array::from_iter_values(rows.iter().map(|(p, _)| *p)))
                }
                _ => Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, o)| *o))),
            }
        };
        let columns = schema.fields().iter().map(|field| column(field.name())).collect();
        let batch = RecordBatch::try_new(schema, columns).expect("a batch");
        let runtime = tokio::runtime::Handle::current();
        let settings = WriteSettings::new(format!("f{}", self.commits));
        let write = move || {
            let mut writer = TableWriter::new(metadata, io, settings, runtime).expect("a writer");
            writer.write(&batch).expect("written");
            writer.close().and_then(ClosingFiles::wait).expect("closed")
        };
        tokio::task::spawn_blocking(write).await.expect("a thread")
    }

    /// Commits files as the offsets from the ledger to `end` of partitions 0 and 1.
    async fn commit(&mut self, files: Vec<PendingFile>, end: Offset) {
        self.commits += 1;
        let tps = [TopicPartition::new(TOPIC, 0), TopicPartition::new(TOPIC, 1)];
        let ranges: Ranges = tps
            .into_iter()
            .map(|tp| {
                let start = self.frontier.get(&tp).unwrap_or(0);
                (tp, OffsetRange { start, end })
            })
            .collect();
        let from = self.frontier.clone();
        let uuid = self.loaded.metadata.uuid().to_string();
        let epoch = Epoch(self.commits);
        let pending = PendingCommit {
            commit_id: commit_id(PIPELINE, "i", epoch, &uuid, &from, &ranges),
            pipeline: PIPELINE.into(),
            instance: "i".into(),
            epoch,
            table: "db.readings".into(),
            table_uuid: uuid,
            cluster_id: String::new(),
            topic_ids: BTreeMap::new(),
            generation: 0,
            from,
            rows: RowCounts {
                written: files.iter().map(|file| file.records).sum(),
                ..RowCounts::default()
            },
            ranges,
            files,
        };
        let view =
            table::view(&self.loaded, PIPELINE, &self.maintenance.understood).expect("a view");
        let prepared = Prepared::on_disk(pending);
        let Admission::Commit(permit) = admit(&prepared, &view) else { panic!("not admitted") };
        let appended = table::append(&self.catalog, &self.loaded, permit, &self.maintenance).await;
        let appended = appended.expect("an answer");
        let CommitOutcome::Committed { table, .. } = appended.outcome else { panic!("a commit") };
        if let Some(freed) = appended.freed {
            freed.sweep().await;
        }
        self.loaded = table;
        self.frontier = prepared.to();
    }

    async fn report(&self) -> Report {
        self.report_by(Depth::Rows).await
    }

    async fn report_by(&self, depth: Depth) -> Report {
        let evidence = gather(&self.loaded, PIPELINE, TOPIC, depth).await.expect("evidence");
        Report::new(&evidence)
    }
}

fn kinds(report: &Report) -> Vec<Kind> {
    report.judgement.findings.iter().map(|finding| finding.kind).collect()
}

const POSITION: [(&str, &str); 4] = [
    ("n", "long"),
    ("_kafka_topic", "string"),
    ("_kafka_partition", "int"),
    ("_kafka_offset", "long"),
];

#[tokio::test]
async fn a_real_table_is_proved_and_a_file_appended_twice_is_found() {
    for spec in ["", "_kafka_topic, _kafka_partition", "bucket[3](n)"] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut fixture = Fixture::new(dir.path(), &POSITION, spec).await;
        assert_eq!(kinds(&fixture.report().await), [Kind::NotBegun], "{spec}");
        for end in [1000, 2000] {
            let files = fixture.write(end - 1000..end).await;
            fixture.commit(files, end).await;
        }
        let report = fixture.report().await;
        assert_eq!((kinds(&report), report.rows, report.ok), (vec![], 4000, true), "{spec}");
        let mut text = Vec::new();
        report.write_text(&mut text).expect("text");
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(text.contains("readings[1]") && text.contains("exactly once"), "{text}");
        let report = fixture.report_by(Depth::Metadata).await;
        assert_eq!((kinds(&report), report.rows, report.ok), (vec![], 4000, true), "{spec}");

        let again = fixture.write(1500..1600).await;
        fixture.commit(again, 2000).await;
        let report = fixture.report().await;
        assert!(!report.ok, "{spec}");
        assert_eq!(report.judgement.partitions[0].repeated, 100, "{spec}");
        assert!(kinds(&report).contains(&Kind::RowsRepeated), "{spec}");
    }
}

#[tokio::test]
async fn a_table_without_offset_columns_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = Fixture::new(dir.path(), &[("n", "long")], "").await;
    let files = fixture.write(0..1000).await;
    fixture.commit(files, 1000).await;
    let report = fixture.report().await;
    assert_eq!((kinds(&report), report.rows, report.ok), (vec![Kind::CountOnly], 2000, true));
    let text = serde_json::to_value(&report).expect("JSON");
    assert_eq!(text["partitions"][0]["verdict"], "counted");
}

#[tokio::test]
async fn expired_snapshots_are_noticed_whether_or_not_their_child_still_names_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = Fixture::new(dir.path(), &POSITION, "").await;
    for end in [1000, 2000] {
        let files = fixture.write(end - 1000..end).await;
        fixture.commit(files, end).await;
    }
    let head = fixture.loaded.metadata.current_snapshot_id().expect("a head");
    let whole = serde_json::to_value(&*fixture.loaded.metadata).expect("JSON");
    for parent_is_named in [true, false] {
        let mut metadata = whole.clone();
        for list in ["snapshots", "snapshot-log"] {
            let list = metadata[list].as_array_mut().expect("a list");
            list.retain(|snapshot| snapshot["snapshot-id"] == head);
        }
        if !parent_is_named {
            let snapshot = metadata["snapshots"][0].as_object_mut().expect("the head");
            assert!(snapshot.remove("parent-snapshot-id").is_some());
        }
        let metadata: iceberg::spec::TableMetadata =
            serde_json::from_value(metadata).expect("metadata");
        fixture.loaded.metadata = metadata.into();
        let report = fixture.report().await;
        let below = [Kind::Expired, Kind::Expired, Kind::ProvedByRows, Kind::ProvedByRows];
        assert_eq!((kinds(&report), report.ok), (below.to_vec(), true));
        let first = &report.judgement.partitions[0];
        assert_eq!((first.from, first.ledger, first.rows), (Some(0), Some(2000), Some(2000)));
        let report = fixture.report_by(Depth::Metadata).await;
        assert_eq!((kinds(&report), report.ok), ([Kind::Expired; 2].to_vec(), true));
        let first = &report.judgement.partitions[0];
        assert_eq!((first.from, first.ledger, first.rows), (Some(1000), Some(2000), None));
    }
}

#[tokio::test]
async fn a_table_that_merges_and_expires_as_it_grows_is_proved() {
    let small = [
        ("commit.manifest.min-count-to-merge", "3"),
        ("history.expire.max-snapshot-age-ms", "0"),
        ("history.expire.min-snapshots-to-keep", "3"),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = Fixture::with_properties(dir.path(), &POSITION, "", &small).await;
    for end in (10..=200).step_by(10) {
        let files = fixture.write(end - 10..end).await;
        fixture.commit(files, end).await;
    }
    assert!(fixture.loaded.metadata.snapshots().count() <= 5);
    assert!(fixture.maintenance.totals().merged_manifests >= 18);
    let report = fixture.report().await;
    let below = [Kind::Expired, Kind::Expired, Kind::ProvedByRows, Kind::ProvedByRows];
    assert_eq!((kinds(&report), report.rows, report.ok), (below.to_vec(), 400, true));
    let report = fixture.report_by(Depth::Metadata).await;
    assert_eq!((kinds(&report), report.ok), ([Kind::Expired; 2].to_vec(), true));
}
