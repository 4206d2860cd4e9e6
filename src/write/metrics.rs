//! What a manifest tells about a data file: sizes, counts and bounds by column.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type};
use iceberg::arrow::record_batch_projector::RecordBatchProjector;
use iceberg::spec::{
    Datum, NestedFieldRef, PrimitiveLiteral, PrimitiveType, Schema, SchemaRef, StructType, Type,
};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;

use super::WriteError;
use super::modes::Modes;

/// Metrics of one data file, by field id.
#[derive(Debug, Default)]
pub(super) struct FileMetrics {
    pub(super) column_sizes: HashMap<i32, u64>,
    pub(super) value_counts: HashMap<i32, u64>,
    pub(super) null_counts: HashMap<i32, u64>,
    pub(super) lower_bounds: HashMap<i32, Datum>,
    pub(super) upper_bounds: HashMap<i32, Datum>,
}

/// A bound so far: known, or given up because some row group has none.
type Bounds = HashMap<i32, Option<Datum>>;

impl FileMetrics {
    /// Reads the footer of a file just written. Bounds hold for every row of the file or are left
    /// out: a reader skips a file by them.
    pub(super) fn new(
        schema: &Schema,
        modes: &Modes,
        footer: &ParquetMetaData,
    ) -> Result<Self, iceberg::Error> {
        let mut metrics = Self::default();
        let (mut lower, mut upper) = (Bounds::new(), Bounds::new());
        for column in footer.row_groups().iter().flat_map(|group| group.columns()) {
            let info = column.column_descr().self_type().get_basic_info();
            if !info.has_id() {
                continue;
            }
            let id = info.id();
            add(&mut metrics.column_sizes, id, column.compressed_size());
            if !modes.of(id).counts() {
                continue;
            }
            add(&mut metrics.value_counts, id, column.num_values());
            let nulls = column.statistics().and_then(Statistics::null_count_opt);
            if let Some(nulls) = nulls {
                *metrics.null_counts.entry(id).or_default() += nulls;
            }
            let only_nulls = nulls == u64::try_from(column.num_values()).ok();
            if only_nulls || column.column_descr().max_rep_level() > 0 {
                // Nothing to bound, or elements of lists and maps, which have no bounds.
                continue;
            }
            if let Some(Type::Primitive(kind)) =
                schema.field_by_id(id).map(|field| field.field_type.as_ref())
            {
                let (low, high) = chunk_bounds(column, kind)?;
                merge(&mut lower, id, low, |new, old| new < old);
                merge(&mut upper, id, high, |new, old| new > old);
            }
        }
        drop_mixed_uuids(&mut lower, &mut upper);
        metrics.lower_bounds = known(lower, |id, bound| modes.of(id).lower(bound));
        metrics.upper_bounds = known(upper, |id, bound| modes.of(id).upper(bound));
        Ok(metrics)
    }
}

fn add(counts: &mut HashMap<i32, u64>, id: i32, count: i64) {
    *counts.entry(id).or_default() += u64::try_from(count).unwrap_or_default();
}

fn known(bounds: Bounds, shorten: impl Fn(i32, Datum) -> Option<Datum>) -> HashMap<i32, Datum> {
    bounds.into_iter().filter_map(|(id, bound)| Some((id, shorten(id, bound?)?))).collect()
}

fn merge(bounds: &mut Bounds, id: i32, new: Option<Datum>, better: fn(&Datum, &Datum) -> bool) {
    match bounds.entry(id) {
        Entry::Vacant(entry) => {
            entry.insert(new);
        }
        Entry::Occupied(mut entry) => match (entry.get(), &new) {
            (Some(old), Some(found)) if better(found, old) => {
                entry.insert(new);
            }
            (_, None) => {
                entry.insert(None);
            }
            _ => {}
        },
    }
}

/// Java engines compare UUIDs as pairs of signed numbers, and would skip a file whose bounds are in another
/// order for them. Those of UUIDs that begin with a time are in the same.
fn drop_mixed_uuids(lower: &mut Bounds, upper: &mut Bounds) {
    /// The first bit of either half.
    const SIGNS: u128 = 1 << 127 | 1 << 63;
    let signs = |bound: &Option<Datum>| match bound.as_ref().map(Datum::literal) {
        Some(PrimitiveLiteral::UInt128(uuid)) => Some(uuid & SIGNS),
        _ => None,
    };
    let mixed = |id: &i32, low: &Option<Datum>| {
        let high = upper.get(id).and_then(signs);
        // The second half has its first bit set in every UUID of the standard.
        signs(low).is_some_and(|low| high != Some(low) || low & (1 << 63) == 0)
    };
    let ids: Vec<i32> =
        lower.iter().filter(|(id, low)| mixed(id, low)).map(|(id, _)| *id).collect();
    for id in ids {
        lower.remove(&id);
        upper.remove(&id);
    }
}

/// The bounds of a column chunk. A truncated statistic is a bound too (Parquet rounds the
/// maximum up).
fn chunk_bounds(
    column: &ColumnChunkMetaData,
    kind: &PrimitiveType,
) -> Result<(Option<Datum>, Option<Datum>), iceberg::Error> {
    let Some(statistics) = column.statistics() else { return Ok((None, None)) };
    let bound = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => datum(bytes, kind, statistics),
        None => Ok(None),
    };
    Ok((bound(statistics.min_bytes_opt())?, bound(statistics.max_bytes_opt())?))
}

/// Parquet's plain encoding is Iceberg's single-value encoding, but for small decimals, which
/// Parquet holds as little-endian integers.
fn datum(
    bytes: &[u8],
    kind: &PrimitiveType,
    statistics: &Statistics,
) -> Result<Option<Datum>, iceberg::Error> {
    let small = matches!(statistics, Statistics::Int32(_) | Statistics::Int64(_));
    let decimal = matches!(kind, PrimitiveType::Decimal { .. });
    match kind {
        // Cut short, it would no longer be a value of this type.
        PrimitiveType::Fixed(length) if u64::try_from(bytes.len()).ok() != Some(*length) => {
            Ok(None)
        }
        _ if small && decimal => {
            let big_endian: Vec<u8> = bytes.iter().rev().copied().collect();
            Datum::try_from_bytes(&big_endian, kind.clone()).map(Some)
        }
        _ => Datum::try_from_bytes(bytes, kind.clone()).map(Some),
    }
}

/// Finds the floating-point columns of a schema and counts their NaN. Parquet's statistics do not
/// tell them. Elements of lists and maps are not counted.
#[derive(Debug)]
pub(super) struct NanColumns {
    ids: Vec<i32>,
    columns: RecordBatchProjector,
}

impl NanColumns {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self, WriteError> {
        let mut ids = Vec::new();
        collect_floats(schema.as_struct(), &mut ids);
        let columns = RecordBatchProjector::from_iceberg_schema(SchemaRef::clone(schema), &ids)
            .map_err(|source| WriteError::Metadata(Box::new(source)))?;
        Ok(Self { ids, columns })
    }

    /// Adds the NaN of `batch` to `counts`, which gets an entry for every floating-point column.
    pub(super) fn count(
        &self,
        batch: &RecordBatch,
        counts: &mut HashMap<i32, u64>,
    ) -> Result<(), WriteError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let columns = self
            .columns
            .project_column(batch.columns())
            .map_err(|source| WriteError::Metadata(Box::new(source)))?;
        for (id, column) in self.ids.iter().zip(&columns) {
            let nans = match column.data_type() {
                DataType::Float32 => count_nans::<Float32Type>(column, |v| v.is_nan()),
                DataType::Float64 => count_nans::<Float64Type>(column, |v| v.is_nan()),
                _ => 0,
            };
            *counts.entry(*id).or_default() += nans;
        }
        Ok(())
    }
}

fn collect_floats(fields: &StructType, ids: &mut Vec<i32>) {
    for field in fields.fields() {
        let field: &NestedFieldRef = field;
        match field.field_type.as_ref() {
            Type::Primitive(PrimitiveType::Float | PrimitiveType::Double) => ids.push(field.id),
            Type::Struct(inner) => collect_floats(inner, ids),
            _ => {}
        }
    }
}

fn count_nans<T: ArrowPrimitiveType>(column: &ArrayRef, is_nan: fn(T::Native) -> bool) -> u64 {
    let column = column.as_primitive::<T>();
    let mut count = column.values().iter().map(|value| u64::from(is_nan(*value))).sum();
    if count > 0 && column.null_count() > 0 {
        // Rare: a NaN may lie in the slot of a null.
        count = column.iter().flatten().map(|value| u64::from(is_nan(value))).sum();
    }
    count
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn bounds_of_uuids_are_left_out_where_java_engines_order_them_otherwise() {
        let kept = |low: &str, high: &str| {
            let bound = |text: &str| Some(Datum::uuid(Uuid::parse_str(text).unwrap()));
            let mut lower = Bounds::from([(1, bound(low)), (2, Some(Datum::long(-1)))]);
            let mut upper = Bounds::from([(1, bound(high)), (2, Some(Datum::long(1)))]);
            drop_mixed_uuids(&mut lower, &mut upper);
            assert!(lower.contains_key(&2) && upper.contains_key(&2));
            assert_eq!(lower.contains_key(&1), upper.contains_key(&1));
            lower.contains_key(&1)
        };
        // Those that begin with the time.
        let (first, last) =
            ("0190a5ac-0000-7000-8000-000000000000", "0199ffff-ffff-7fff-bfff-ffffffffffff");
        assert!(kept(first, last) && kept(first, first));
        assert!(!kept(first, "f199ffff-ffff-4fff-bfff-ffffffffffff"));
        assert!(kept(
            "e199ffff-ffff-4fff-bfff-ffffffffffff",
            "f199ffff-ffff-4fff-bfff-ffffffffffff"
        ));
        // No UUIDs of the standard.
        assert!(!kept("00000000-0000-0000-0000-000000000000", last));
        assert!(!kept(first, "0199ffff-ffff-7fff-7fff-ffffffffffff"));
    }
}
