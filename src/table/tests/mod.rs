//! Tests on real SQLite files and real local files, and on an HTTP server that answers by script.

mod catalogs;
mod commits;
mod evolution;
mod expiring;
mod faults;
mod founding;
mod merging;
mod orphans;
mod rest;
mod server;
mod small_files;
mod views;
mod year;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use futures::TryStreamExt;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{
    DataContentType, Literal, Schema, Struct, TableMetadataBuilder, UnboundPartitionSpec,
    serialize_data_file_to_json,
};
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriterBuilder};
use parquet::file::properties::WriterProperties;
use sqlx::SqlitePool;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::base::secret::Properties;
use crate::protocol::{
    CommitId, Epoch, Frontier, LedgerEdit, OffsetRange, PendingCommit, PendingFile, Permit,
    Prepared, RowCounts, TableView, TopicPartition,
};
use crate::table::commit::Appended;

const PIPELINE: &str = "flights";

/// A catalog in a new SQLite file, with its tables in local files.
struct Bench {
    dir: TempDir,
    settings: CatalogSettings,
    catalog: Catalog,
    name: TableName,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir);
        let catalog = Catalog::connect(&settings).await.unwrap();
        Self { dir, settings, catalog, name: "db.readings".parse().unwrap() }
    }

    /// The same catalog through connections of its own, as another process has them.
    async fn another(&self) -> Catalog {
        Catalog::connect(&self.settings).await.unwrap()
    }

    async fn create(&self) -> LoadedTable {
        self.create_with("", &[]).await
    }

    async fn create_with(&self, spec: &str, properties: &[(&str, &str)]) -> LoadedTable {
        let properties = properties
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect::<HashMap<_, _>>();
        let spec = parse_spec(spec, &schema()).unwrap();
        self.catalog.create(&self.name, &schema(), &spec, &properties).await.unwrap()
    }

    async fn load(&self) -> LoadedTable {
        self.catalog.load(&self.name).await.unwrap().unwrap()
    }

    /// Loads the table and appends `rows`, which are the offsets `[from, from + rows.len())`.
    async fn append_rows(&self, from: i64, rows: &[(i64, &str)]) -> LoadedTable {
        let loaded = self.load().await;
        let file = write_file(&loaded, rows, &[]).await;
        let pending = pending(&loaded, from, from + rows.len() as i64, vec![file]);
        committed(self.catalog.commit_append(&loaded, &pending).await)
    }

    /// The catalog's database, past our own code.
    async fn database(&self) -> SqlitePool {
        SqlitePool::connect(self.settings.uri.expose()).await.unwrap()
    }

    async fn row(&self) -> (String, Option<String>) {
        sqlx::query_as("SELECT metadata_location, previous_metadata_location FROM iceberg_tables")
            .fetch_one(&self.database().await)
            .await
            .unwrap()
    }

    /// Takes the column that the table is partitioned by out of spec and schema.
    async fn drop_partition_column(&self, loaded: &LoadedTable) {
        let id = loaded.metadata.current_schema().as_struct().fields()[0].clone();
        let narrower = Schema::builder().with_schema_id(1).with_fields([id]).build().unwrap();
        let unpartitioned = UnboundPartitionSpec::builder().build();
        let change = |builder: TableMetadataBuilder| {
            builder.add_default_partition_spec(unpartitioned)?.add_current_schema(narrower)
        };
        self.foreign(change).await;
    }

    /// Changes the table as another writer does: a new metadata file and the row that names it.
    async fn foreign(
        &self,
        change: impl FnOnce(TableMetadataBuilder) -> iceberg::Result<TableMetadataBuilder>,
    ) {
        let loaded = self.load().await;
        let location = loaded.metadata_location.clone();
        let builder = loaded.metadata.as_ref().clone().into_builder(Some(location.clone()));
        let metadata = change(builder).unwrap().build().unwrap().metadata;
        let next = location.parse::<iceberg::MetadataLocation>().unwrap().with_next_version();
        metadata.write_to(&loaded.io, &next).await.unwrap();
        let done = sqlx::query(
            "UPDATE iceberg_tables SET metadata_location = $1 WHERE metadata_location = $2",
        )
        .bind(next.to_string())
        .bind(location)
        .execute(&self.database().await)
        .await
        .unwrap();
        assert_eq!(done.rows_affected(), 1);
    }

    fn metadata_files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.table_dir().join("metadata"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn table_dir(&self) -> PathBuf {
        self.dir.path().join("warehouse/db/readings")
    }
}

fn settings(dir: &TempDir) -> CatalogSettings {
    CatalogSettings {
        kind: CatalogKind::Sql,
        name: "icestream".into(),
        uri: format!("sqlite://{}/deep/catalog.db", dir.path().display()).into(),
        warehouse: Some(format!("file://{}/warehouse", dir.path().display())),
        rest: RestAuth::default(),
        io_properties: Properties::default(),
        request_timeout: Duration::from_secs(20),
    }
}

fn schema() -> Schema {
    parse_schema(
        r#"{"type": "struct", "fields": [
            {"id": 7, "name": "id", "required": true, "type": "long"},
            {"id": 9, "name": "place", "required": false, "type": "string"}]}"#,
    )
    .unwrap()
}

/// A closed Parquet file with `rows`, described as the writer of data files does.
async fn write_file(
    loaded: &LoadedTable,
    rows: &[(i64, &str)],
    partition: &[Literal],
) -> PendingFile {
    let path = format!("{}/data/{}.parquet", loaded.metadata.location(), Uuid::new_v4());
    write_file_at(loaded, &path, rows, partition).await
}

/// [`write_file`] at a location of one's own.
async fn write_file_at(
    loaded: &LoadedTable,
    path: &str,
    rows: &[(i64, &str)],
    partition: &[Literal],
) -> PendingFile {
    let metadata = &loaded.metadata;
    let (schema, spec) = (metadata.current_schema(), metadata.default_partition_spec());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    columns.truncate(schema.as_struct().fields().len());
    let arrow = Arc::new(schema_to_arrow_schema(schema).unwrap());
    let batch = RecordBatch::try_new(arrow, columns).unwrap();
    let output = loaded.io.new_output(path).unwrap();
    let builder = ParquetWriterBuilder::new(WriterProperties::builder().build(), schema.clone());
    let mut writer = builder.build(output).await.unwrap();
    writer.write(&batch).await.unwrap();
    let mut files = writer.close().await.unwrap();
    assert_eq!(files.len(), 1);
    let file = files
        .remove(0)
        .content(DataContentType::Data)
        .partition(Struct::from_iter(partition.iter().cloned().map(Some)))
        .partition_spec_id(spec.spec_id())
        .build()
        .unwrap();
    let bytes = file.file_size_in_bytes();
    let partition_type = spec.partition_type(schema).unwrap();
    let json = serialize_data_file_to_json(file, &partition_type, metadata.format_version());
    PendingFile {
        path: path.to_owned(),
        data_file: json.unwrap(),
        schema_id: schema.schema_id(),
        spec_id: spec.spec_id(),
        records: rows.len() as u64,
        bytes,
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new("readings", 0)
}

/// The pending commit of the offsets `[from, to)`.
fn pending(loaded: &LoadedTable, from: i64, to: i64, files: Vec<PendingFile>) -> PendingCommit {
    let from_frontier =
        if from == 0 { Frontier::default() } else { Frontier::from_iter([(partition(), from)]) };
    PendingCommit {
        commit_id: CommitId(format!("commit-{from}-{to}")),
        pipeline: PIPELINE.into(),
        instance: "instance-1".into(),
        epoch: Epoch(1),
        table: loaded.name.to_string(),
        table_uuid: loaded.metadata.uuid().to_string(),
        cluster_id: "cluster".into(),
        topic_ids: BTreeMap::new(),
        generation: 0,
        from: from_frontier,
        ranges: BTreeMap::from([(partition(), OffsetRange { start: from, end: to })]),
        rows: RowCounts {
            written: files.iter().map(|file| file.records).sum(),
            ..RowCounts::default()
        },
        files,
    }
}

#[track_caller]
fn committed(outcome: Result<CommitOutcome, TableError>) -> LoadedTable {
    match outcome {
        Ok(CommitOutcome::Committed { snapshot_id, table }) => {
            assert_eq!(table.metadata.current_snapshot_id(), Some(snapshot_id));
            table
        }
        other => panic!("not committed: {other:?}"),
    }
}

#[track_caller]
fn conflict(outcome: Result<CommitOutcome, TableError>) -> String {
    match outcome {
        Ok(CommitOutcome::Conflict(reason)) => reason,
        other => panic!("no conflict: {other:?}"),
    }
}

/// The ids in the table, by the crate's own scan, in order.
async fn ids(loaded: &LoadedTable) -> Vec<i64> {
    let table = loaded.to_iceberg().unwrap();
    let stream = table.scan().select(["id"]).build().unwrap().to_arrow().await.unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    let mut ids: Vec<i64> = batches
        .iter()
        .flat_map(|batch| {
            let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
            column.values().to_vec()
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// Appends by a permit that nobody gave: what catalogs do with requests is tested here, not who may
/// send them.
async fn append_at(
    catalog: &Catalog,
    loaded: &LoadedTable,
    pending: &PendingCommit,
    now_ms: i64,
    maintenance: &Arc<Maintenance>,
) -> Result<Appended, TableError> {
    let (prepared, view) = (Prepared::on_disk(pending.clone()), forged_view(loaded, pending));
    let permit = Permit::forged(&prepared, &view);
    let appended = super::commit::append_at(catalog, loaded, permit, now_ms, maintenance).await;
    appended.map_err(NotSent::into_error)
}

async fn append(
    catalog: &Catalog,
    loaded: &LoadedTable,
    pending: &PendingCommit,
    maintenance: &Arc<Maintenance>,
) -> Result<Appended, TableError> {
    let (prepared, view) = (Prepared::on_disk(pending.clone()), forged_view(loaded, pending));
    let permit = Permit::forged(&prepared, &view);
    super::append(catalog, loaded, permit, maintenance).await.map_err(NotSent::into_error)
}

async fn append_edit(
    catalog: &Catalog,
    loaded: &LoadedTable,
    edit: &LedgerEdit,
) -> Result<CommitOutcome, TableError> {
    super::append_edit(catalog, loaded, edit).await.map_err(NotSent::into_error)
}

fn forged_view(loaded: &LoadedTable, pending: &PendingCommit) -> TableView {
    view(loaded, &pending.pipeline).unwrap()
}

impl Catalog {
    /// [`append`] without maintenance.
    async fn commit_append(
        &self,
        loaded: &LoadedTable,
        pending: &PendingCommit,
    ) -> Result<CommitOutcome, TableError> {
        Ok(append(self, loaded, pending, &Maintenance::none()).await?.outcome)
    }
}

/// What admission sees, by one who sees the table for the first time.
fn view(loaded: &LoadedTable, pipeline: &str) -> Result<TableView, TableError> {
    super::view(loaded, pipeline, &Understood::default())
}

/// The next offset that the table's ledger tells.
fn ledger_offset(loaded: &LoadedTable, pipeline: &str) -> Option<i64> {
    view(loaded, pipeline).unwrap().ledger.and_then(|ledger| ledger.frontier.get(&partition()))
}

fn head_summary(loaded: &LoadedTable, key: &str) -> String {
    let head = loaded.metadata.current_snapshot().unwrap();
    head.summary().additional_properties.get(key).cloned().unwrap_or_default()
}
