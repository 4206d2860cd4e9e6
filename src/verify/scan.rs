//! Reads what a table shows: its metadata, and the positions of its rows as a stream.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use futures::TryStreamExt;

use super::evidence::{Evidence, history};
use super::rows::{RowIndex, Rows};
use crate::protocol::{decode_ledger, pipeline_of_key};
use crate::table::{
    self, BoxError, KAFKA_OFFSET, KAFKA_PARTITION, KAFKA_TOPIC, LoadedTable, TableError,
};

/// The columns that tell a row's position.
const POSITION: [&str; 3] = [KAFKA_TOPIC, KAFKA_PARTITION, KAFKA_OFFSET];
/// Rows of a batch: bounds the memory of the scan, with the files read at once.
const BATCH_ROWS: usize = 32 * 1024;

/// Reads everything that `pipeline`, which reads `topic` by its settings, is judged by. All of it
/// is from the one reading `loaded`, also the rows.
///
/// # Errors
/// `Ledger` or `Unreadable` if ledger, journal, manifests or data files cannot be read or
/// understood.
pub async fn gather(
    loaded: &LoadedTable,
    pipeline: &str,
    topic: &str,
) -> Result<Evidence, TableError> {
    Ok(Evidence {
        table: loaded.name.to_string(),
        pipeline: pipeline.to_owned(),
        topic: topic.to_owned(),
        view: table::view(loaded, pipeline)?,
        history: history(&loaded.metadata, pipeline),
        other_topics: other_topics(loaded, pipeline),
        rows: rows(loaded).await.map_err(|source| TableError::Unreadable {
            table: loaded.name.clone(),
            what: "its rows",
            location: loaded.metadata.location().to_owned(),
            source,
        })?,
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

async fn rows(loaded: &LoadedTable) -> Result<Rows, BoxError> {
    let schema = loaded.metadata.current_schema();
    let lacking: Vec<String> = POSITION
        .iter()
        .filter(|name| schema.field_by_name(name).is_none())
        .map(|name| (*name).to_owned())
        .collect();
    let mut index = RowIndex::default();
    let mut total = 0;
    if loaded.metadata.current_snapshot_id().is_some() {
        let table = loaded.to_iceberg()?;
        let scan = table.scan().with_batch_size(Some(BATCH_ROWS));
        let scan = match lacking.is_empty() {
            true => scan.select(POSITION),
            false => scan.select_empty(),
        };
        let mut batches = scan.build()?.to_arrow().await?;
        while let Some(batch) = batches.try_next().await? {
            total += batch.num_rows() as u64;
            if lacking.is_empty() {
                add(&mut index, &batch)?;
            }
        }
    }
    Ok(match lacking.is_empty() {
        true => Rows::ByOffset(index),
        false => Rows::CountOnly { total, lacking },
    })
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
