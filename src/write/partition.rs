//! Rows sorted out by table partition.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::row::{RowConverter, SortField};
use iceberg::arrow::arrow_primitive_to_literal;
use iceberg::arrow::record_batch_projector::RecordBatchProjector;
use iceberg::spec::{Literal, PartitionSpecRef, PrimitiveLiteral, SchemaRef, Struct, StructType};

use super::WriteError;
use super::transform::apply;

/// Names a table partition within one writer: its values in a comparable encoding.
pub(super) type PartitionKey = Arc<[u8]>;

/// Computes table partitions and sorts rows out by them.
#[derive(Debug)]
pub(super) struct Partitioner {
    spec: PartitionSpecRef,
    types: StructType,
    sources: RecordBatchProjector,
}

/// The rows of one batch that belong to one table partition.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: PartitionKey,
    /// The rows, in the order of the batch.
    pub(super) rows: RecordBatch,
    /// One row of each partition column; `None` is the void transform.
    sample: Vec<Option<ArrayRef>>,
}

impl Partitioner {
    pub(super) fn new(
        spec: PartitionSpecRef,
        types: StructType,
        schema: &SchemaRef,
    ) -> Result<Self, WriteError> {
        let ids: Vec<i32> = spec.fields().iter().map(|field| field.source_id).collect();
        let sources = RecordBatchProjector::from_iceberg_schema(SchemaRef::clone(schema), &ids)
            .map_err(|source| WriteError::Metadata(Box::new(source)))?;
        Ok(Self { spec, types, sources })
    }

    /// The groups of `batch`, in the order in which they first occur.
    pub(super) fn split(&self, batch: &RecordBatch) -> Result<Vec<Group>, WriteError> {
        let columns = self.columns(batch)?;
        let (keys, members) = group(&columns, batch.num_rows())?;
        if let [key] = keys.as_slice() {
            let sample = sample(&columns, 0);
            return Ok(vec![Group { key: key.clone(), rows: batch.clone(), sample }]);
        }
        let groups = keys.into_iter().zip(members).map(|(key, members)| {
            let first = members.first().copied().unwrap_or_default();
            let sample = sample(&columns, usize::try_from(first).unwrap_or_default());
            let rows =
                take_record_batch(batch, &UInt32Array::from(members)).map_err(WriteError::Split)?;
            Ok(Group { key, rows, sample })
        });
        groups.collect()
    }

    /// The partition values of `group`, as they stand in the manifest.
    pub(super) fn values(&self, group: &Group) -> Result<Struct, WriteError> {
        let mut values = Vec::with_capacity(group.sample.len());
        for (field, column) in self.types.fields().iter().zip(&group.sample) {
            values.push(match column {
                None => None,
                Some(column) => literal(column, &field.field_type)
                    .map_err(|error| self.failed(&field.name, error.to_string()))?,
            });
        }
        Ok(Struct::from_iter(values))
    }

    /// The partition columns of `batch`, in the order of the spec.
    fn columns(&self, batch: &RecordBatch) -> Result<Vec<Option<ArrayRef>>, WriteError> {
        let sources = self
            .sources
            .project_column(batch.columns())
            .map_err(|source| WriteError::Metadata(Box::new(source)))?;
        let pairs = self.spec.fields().iter().zip(&sources);
        pairs
            .map(|(field, source)| {
                apply(field.transform, source).map_err(|reason| self.failed(&field.name, reason))
            })
            .collect()
    }

    fn failed(&self, field: &str, reason: String) -> WriteError {
        WriteError::Partition { field: field.to_owned(), reason }
    }
}

fn literal(
    column: &ArrayRef,
    wanted: &iceberg::spec::Type,
) -> Result<Option<Literal>, iceberg::Error> {
    Ok(arrow_primitive_to_literal(column, wanted)?.into_iter().next().flatten())
}

/// A partition value in Iceberg's single-value encoding; a decimal in all 16 bytes.
pub(super) fn single_value(value: &Literal) -> Option<Vec<u8>> {
    Some(match value.as_primitive_literal()? {
        PrimitiveLiteral::Boolean(value) => vec![u8::from(value)],
        PrimitiveLiteral::Int(value) => value.to_le_bytes().into(),
        PrimitiveLiteral::Long(value) => value.to_le_bytes().into(),
        PrimitiveLiteral::Float(value) => value.0.to_le_bytes().into(),
        PrimitiveLiteral::Double(value) => value.0.to_le_bytes().into(),
        PrimitiveLiteral::String(value) => value.into_bytes(),
        PrimitiveLiteral::Binary(value) => value,
        PrimitiveLiteral::Int128(value) => value.to_be_bytes().into(),
        PrimitiveLiteral::UInt128(value) => value.to_be_bytes().into(),
        PrimitiveLiteral::AboveMax | PrimitiveLiteral::BelowMin => return None,
    })
}

fn sample(columns: &[Option<ArrayRef>], row: usize) -> Vec<Option<ArrayRef>> {
    columns.iter().map(|column| column.as_ref().map(|column| column.slice(row, 1))).collect()
}

/// The distinct keys of `rows` rows in the order of their first row, and the rows of each.
fn group(
    columns: &[Option<ArrayRef>],
    rows: usize,
) -> Result<(Vec<PartitionKey>, Vec<Vec<u32>>), WriteError> {
    let columns: Vec<ArrayRef> = columns.iter().flatten().cloned().collect();
    if rows == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    if columns.is_empty() {
        // Only void transforms: one partition, and nobody looks at the members.
        return Ok((vec![PartitionKey::default()], vec![Vec::new()]));
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).map_err(WriteError::Split)?;
    let encoded = converter.convert_columns(&columns).map_err(WriteError::Split)?;

    let mut known: HashMap<&[u8], usize> = HashMap::new();
    let mut keys: Vec<PartitionKey> = Vec::new();
    let mut members: Vec<Vec<u32>> = Vec::new();
    let mut last: Option<(&[u8], usize)> = None;
    for (row, index) in (0..rows).zip(0u32..) {
        let key = encoded.row(row).data();
        let group = match last {
            // Rows often come in runs of one partition: no hashing then.
            Some((run, group)) if run == key => group,
            _ => *known.entry(key).or_insert_with(|| {
                keys.push(key.into());
                members.push(Vec::new());
                keys.len() - 1
            }),
        };
        last = Some((key, group));
        members[group].push(index);
    }
    Ok((keys, members))
}
