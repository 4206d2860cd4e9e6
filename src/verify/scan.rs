//! Reads what a table shows: its metadata, and the positions of its rows as a stream.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::Runtime;
use iceberg::arrow::ArrowReaderBuilder;
use iceberg::scan::{ArrowRecordBatchStream, FileScanTask, TableScan};

use super::eras::{Eras, Since};
use super::evidence::{Evidence, History, history};
use super::files::Files;
use super::foreign::ForeignSnapshot;
use super::rows::{RowIndex, Rows};
use crate::base::kafka_columns::{KAFKA_OFFSET, KAFKA_PARTITION, KAFKA_TOPIC};
use crate::protocol::{FullView, decode_ledger, pipeline_of_key};
use crate::table::{self, BoxError, LiveFile, LoadedTable, TableError};

/// The columns that tell a row's position.
const POSITION: [&str; 3] = [KAFKA_TOPIC, KAFKA_PARTITION, KAFKA_OFFSET];
/// Rows of a batch: bounds the memory of the scan, with the files read at once.
const BATCH_ROWS: usize = 32 * 1024;

/// How much of a table is read to judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Its metadata, manifest list and manifests.
    Metadata,
    /// The position columns of all rows as well.
    Rows,
}

/// Reads everything that `pipeline`, which reads `topic` by its settings, is judged by. All of it
/// is from the one reading `loaded`, also the rows.
///
/// # Errors
/// `Ledger`, `Storage` or `Unreadable` if ledger, journal, manifests or data files cannot be read
/// or understood.
pub(crate) async fn gather(
    loaded: &LoadedTable,
    pipeline: &str,
    topic: &str,
    depth: Depth,
) -> Result<Evidence, TableError> {
    let view = table::full_view(loaded, pipeline)?;
    let history = history(&loaded.metadata, pipeline);
    let eras = Eras::of(&view, history.complete);
    let mut files = Files::default();
    let mut groups = Groups::new(&view, &history, &eras);
    table::live_files(loaded, |file| {
        files.insert(&file);
        groups.insert(file);
    })
    .await?;
    let rows = match depth {
        Depth::Metadata => Rows::NotRead,
        Depth::Rows => {
            let unreadable = |source| TableError::Unreadable {
                table: loaded.name.clone(),
                what: "its rows",
                location: loaded.metadata.location().to_owned(),
                source,
            };
            rows(loaded, groups).await.map_err(unreadable)?
        }
    };
    Ok(Evidence {
        table: loaded.name.to_string(),
        pipeline: pipeline.to_owned(),
        topic: topic.to_owned(),
        view,
        history,
        other_topics: other_topics(loaded, pipeline),
        files,
        rows,
    })
}

/// Topics in the ledgers of other pipelines. One that cannot be understood is not ours to judge.
fn other_topics(loaded: &LoadedTable, pipeline: &str) -> BTreeMap<String, String> {
    let mut topics = BTreeMap::new();
    for (key, value) in loaded.metadata.properties() {
        let Some(other) = pipeline_of_key(key).filter(|other| *other != pipeline) else { continue };
        let Ok(ledger) = decode_ledger(value) else { continue };
        for (tp, _) in ledger.frontier.iter() {
            topics.insert(tp.topic.clone(), other.to_owned());
        }
    }
    topics
}

/// Which data files hold rows of which time. Nothing is kept where there was no reset.
struct Groups<'a> {
    eras: &'a Eras,
    /// Snapshots that put in rows of their own and no others.
    pure: Vec<i64>,
    by_path: HashMap<String, Since>,
}

impl<'a> Groups<'a> {
    fn new(view: &FullView, history: &History, eras: &'a Eras) -> Self {
        let ours = view.journal.iter().filter(|entry| entry.in_ancestry);
        let appends = history.foreign.iter().filter(|foreign| !foreign.removes_files());
        let appends = appends.map(|foreign: &ForeignSnapshot| foreign.snapshot_id);
        let mut pure: Vec<i64> = ours.map(|entry| entry.snapshot_id).chain(appends).collect();
        pure.sort_unstable();
        Self { eras, pure, by_path: HashMap::new() }
    }

    fn insert(&mut self, file: LiveFile) {
        if self.eras.is_one() || file.deletes {
            return;
        }
        let pure = file.snapshot_id.is_some_and(|id| self.pure.binary_search(&id).is_ok());
        let since = self.eras.since(file.sequence_number, !pure);
        self.by_path.insert(file.path, since);
    }
}

async fn rows(loaded: &LoadedTable, groups: Groups<'_>) -> Result<Rows, BoxError> {
    let schema = loaded.metadata.current_schema();
    let lacking: Vec<String> = POSITION
        .iter()
        .filter(|name| schema.field_by_name(name).is_none())
        .map(|name| (*name).to_owned())
        .collect();
    let mut index = RowIndex::new(groups.eras.clone());
    let mut total = 0;
    if loaded.metadata.current_snapshot_id().is_some() {
        let table = loaded.to_iceberg()?;
        let scan = table.scan().with_batch_size(Some(BATCH_ROWS));
        let scan = match lacking.is_empty() {
            true => scan.select(POSITION),
            false => scan.select_empty(),
        };
        let scan = scan.build()?;
        if !lacking.is_empty() {
            let mut batches = scan.to_arrow().await?;
            while let Some(batch) = batches.try_next().await? {
                total += batch.num_rows() as u64;
            }
        } else if groups.by_path.is_empty() {
            add_all(&mut index, scan.to_arrow().await?).await?;
        } else {
            add_groups(&mut index, loaded, &scan, &groups.by_path).await?;
        }
    }
    Ok(match lacking.is_empty() {
        true => Rows::ByOffset(index),
        false => Rows::CountOnly { total, lacking },
    })
}

/// Reads the files of one time after those of another.
async fn add_groups(
    index: &mut RowIndex,
    loaded: &LoadedTable,
    scan: &TableScan,
    by_path: &HashMap<String, Since>,
) -> Result<(), BoxError> {
    let mut groups = BTreeMap::<Since, Vec<FileScanTask>>::new();
    let mut tasks = scan.plan_files().await?;
    while let Some(task) = tasks.try_next().await? {
        let since = by_path.get(&task.data_file_path);
        let since = since.ok_or_else(|| format!("no manifest has {}", task.data_file_path))?;
        groups.entry(*since).or_default().push(task);
    }
    for (since, tasks) in groups {
        index.begin(since);
        let reader = ArrowReaderBuilder::new(loaded.io.clone(), Runtime::try_current()?)
            .with_batch_size(BATCH_ROWS)
            .build();
        let tasks = stream::iter(tasks.into_iter().map(Ok)).boxed();
        add_all(index, reader.read(tasks)?.stream()).await?;
    }
    Ok(())
}

async fn add_all(
    index: &mut RowIndex,
    mut batches: ArrowRecordBatchStream,
) -> Result<(), BoxError> {
    while let Some(batch) = batches.try_next().await? {
        add(index, &batch)?;
    }
    Ok(())
}

fn add(index: &mut RowIndex, batch: &RecordBatch) -> Result<(), ArrowError> {
    let topics = column(batch, KAFKA_TOPIC, &DataType::Utf8)?;
    let partitions = column(batch, KAFKA_PARTITION, &DataType::Int32)?;
    let offsets = column(batch, KAFKA_OFFSET, &DataType::Int64)?;
    let columns = (
        topics.as_any().downcast_ref::<StringArray>(),
        partitions.as_any().downcast_ref::<Int32Array>(),
        offsets.as_any().downcast_ref::<Int64Array>(),
    );
    let (Some(topics), Some(partitions), Some(offsets)) = columns else {
        return Err(ArrowError::CastError(String::from("a position column has another type")));
    };
    for row in 0..batch.num_rows() {
        if topics.is_null(row) || partitions.is_null(row) || offsets.is_null(row) {
            index.without_position += 1;
        } else {
            index.insert(topics.value(row), partitions.value(row), offsets.value(row));
        }
    }
    Ok(())
}

/// A column in the type we read: a scan may give a constant column in an encoding of its own.
fn column(batch: &RecordBatch, name: &str, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| ArrowError::SchemaError(format!("the scan did not bring column {name}")))?;
    match column.data_type() == wanted {
        true => Ok(column.clone()),
        false => cast(column, wanted),
    }
}
