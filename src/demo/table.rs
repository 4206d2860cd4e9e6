//! The demo's own look at the table: how far its ledger is, and every row of it at the end.

use arrow::array::{Array, Int32Array, Int64Array, RecordBatch};
use futures::TryStreamExt;
use tokio::runtime::Runtime;

use super::error::DemoError;
use super::signals::Stop;
use super::tally::Tally;
use super::workspace::{PIPELINE, TABLE, Workspace};
use crate::base::kafka_columns::{KAFKA_OFFSET, KAFKA_PARTITION};
use crate::connect::connect_catalog;
use crate::protocol::{Frontier, Offset};
use crate::table::{self, Catalog, LoadedTable, TableName, Understood};

/// The table of the demo, which may not exist yet.
pub(super) struct Table<'a> {
    runtime: &'a Runtime,
    catalog: Catalog,
    name: TableName,
    last: u64,
}

impl<'a> Table<'a> {
    pub(crate) fn open(runtime: &'a Runtime, workspace: &Workspace) -> Result<Self, DemoError> {
        // The environment does not count, as for the child.
        let config = crate::config::load(Some(&workspace.env_file()), None, std::iter::empty())?;
        let catalog = runtime.block_on(connect_catalog(&config))?;
        Ok(Self { runtime, catalog, name: TABLE.parse()?, last: 0 })
    }

    /// Records below the ledger; as last seen, if the catalog is busy with the child.
    pub(crate) fn in_ledger(&mut self) -> Result<u64, DemoError> {
        match self.runtime.block_on(self.catalog.load(&self.name)) {
            Ok(None) => {}
            Ok(Some(loaded)) => {
                let ledger = table::view(&loaded, PIPELINE, &Understood::default())?.ledger;
                self.last = ledger.map(|ledger| records_below(&ledger.frontier)).unwrap_or(0);
            }
            // One that stays this way shows as a child that moves nothing, and in the end.
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "the table cannot be looked at now");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.last)
    }

    /// Reads where every row comes from; also tells where the table's metadata is.
    pub(crate) fn read_back(
        &self,
        ends: &[Offset],
        stop: &Stop,
    ) -> Result<(Tally, String), DemoError> {
        self.runtime.block_on(async {
            let Some(loaded) = self.catalog.load(&self.name).await? else {
                return Err(DemoError::TableAbsent { table: self.name.to_string() });
            };
            let tally = read_rows(&loaded, ends, stop).await?;
            Ok((tally, loaded.metadata_location))
        })
    }
}

/// Every log of the demo begins at 0 and has no holes.
fn records_below(frontier: &Frontier) -> u64 {
    frontier.iter().map(|(_, next)| u64::try_from(next).unwrap_or(0)).sum()
}

async fn read_rows(loaded: &LoadedTable, ends: &[Offset], stop: &Stop) -> Result<Tally, DemoError> {
    let mut tally = Tally::new(ends);
    let scan = loaded.to_iceberg()?.scan().select([KAFKA_PARTITION, KAFKA_OFFSET]).build();
    let mut batches = scan.map_err(scan_error)?.to_arrow().await.map_err(scan_error)?;
    while let Some(batch) = batches.try_next().await.map_err(scan_error)? {
        stop.check()?;
        count(&batch, &mut tally)?;
    }
    Ok(tally)
}

fn scan_error(error: iceberg::Error) -> DemoError {
    DemoError::Scan(Box::new(error))
}

fn count(batch: &RecordBatch, tally: &mut Tally) -> Result<(), DemoError> {
    let partitions: &Int32Array = column(batch, KAFKA_PARTITION, "int")?;
    let offsets: &Int64Array = column(batch, KAFKA_OFFSET, "long")?;
    for (partition, offset) in partitions.iter().zip(offsets) {
        tally.row(partition.zip(offset));
    }
    Ok(())
}

fn column<'a, A: Array + 'static>(
    batch: &'a RecordBatch,
    column: &'static str,
    wanted: &'static str,
) -> Result<&'a A, DemoError> {
    let found = batch.column_by_name(column).and_then(|array| array.as_any().downcast_ref());
    found.ok_or(DemoError::Column { column, wanted })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn rows_are_counted_by_partition_and_offset_and_nulls_as_unknown() {
        let partitions = Int32Array::from(vec![Some(0), Some(0), Some(1), None]);
        let offsets = Int64Array::from(vec![Some(0), Some(0), Some(1), Some(1)]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            (KAFKA_OFFSET, Arc::new(offsets) as _, true),
            (KAFKA_PARTITION, Arc::new(partitions) as _, true),
        ]);
        let mut tally = Tally::new(&[1, 2]);
        count(&batch.unwrap(), &mut tally).unwrap();
        assert_eq!((tally.rows, tally.repeated, tally.unknown, tally.missing()), (4, 1, 1, 1));
    }

    #[test]
    fn a_table_without_the_columns_is_an_error() {
        let batch = RecordBatch::try_from_iter([(
            KAFKA_PARTITION,
            Arc::new(Int64Array::from(vec![1])) as _,
        )]);
        let error = count(&batch.unwrap(), &mut Tally::new(&[])).unwrap_err();
        assert!(matches!(error, DemoError::Column { column: KAFKA_PARTITION, .. }), "{error}");
    }
}
