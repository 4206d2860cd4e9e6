//! Which columns of a file get a dictionary: chosen from its first rows.
//!
//! A dictionary pays for its hashing only while values repeat. The encoder gives one up when it
//! outgrows its limit, but only after hashing every value until then, in every row group again. So
//! a column whose first rows already show that it will have more values than fit gets none.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::schema::types::{ColumnPath, SchemaDescriptor};

/// Values of a column that are looked at.
const SAMPLE: usize = 8192;
/// Fewer values tell nothing.
const LEAST: usize = 256;

/// The columns of a file that begins with `rows` which have too many values for a dictionary of
/// `limit` bytes.
pub(super) fn without_dictionary(
    rows: &RecordBatch,
    schema: &SchemaDescriptor,
    limit: usize,
) -> Vec<ColumnPath> {
    let paths = schema.columns().iter().map(|column| column.path());
    leaves(rows)
        .iter()
        .zip(paths)
        .filter(|(leaf, _)| outgrows(leaf, limit))
        .map(|(_, path)| path.clone())
        .collect()
}

/// The arrays without children of `rows`, in the order of the Parquet columns.
pub(super) fn leaves(rows: &RecordBatch) -> Vec<ArrayRef> {
    let mut leaves = Vec::with_capacity(rows.num_columns());
    rows.columns().iter().for_each(|column| collect_leaves(column, &mut leaves));
    leaves
}

fn collect_leaves(array: &ArrayRef, leaves: &mut Vec<ArrayRef>) {
    match array.data_type() {
        DataType::Struct(_) => {
            let columns = array.as_struct().columns();
            columns.iter().for_each(|column| collect_leaves(column, leaves));
        }
        DataType::List(_) => collect_leaves(array.as_list::<i32>().values(), leaves),
        DataType::Map(_, _) => {
            let entries = array.as_map().entries().columns();
            entries.iter().for_each(|column| collect_leaves(column, leaves));
        }
        _ => leaves.push(array.clone()),
    }
}

/// Does a column that begins like this have more values than a dictionary of `limit` bytes?
fn outgrows(leaf: &ArrayRef, limit: usize) -> bool {
    let mut sketch = Sketch::new();
    sketch.add_all(&leaf.slice(0, leaf.len().min(SAMPLE)));
    if sketch.count < LEAST {
        return false;
    }
    let (count, bytes) = (sketch.count as f64, sketch.bytes as f64);
    let fitting = limit as f64 / (bytes / count).max(1.0);
    sketch.distinct() > expected_distinct(fitting, count)
}

/// How many different values `drawn` values show if there are `values`, all as frequent. Skewed
/// values show fewer, so that a column is rarely taken for one with more values than it has.
fn expected_distinct(values: f64, drawn: f64) -> f64 {
    values * (1.0 - (-drawn / values).exp())
}

/// Counts different values by the bits that their hashes set: linear counting (Whang et al., 1990).
struct Sketch {
    bits: Vec<u64>,
    /// Values that are not null.
    count: usize,
    /// Bytes of a dictionary that had each of them.
    bytes: usize,
}

impl Sketch {
    /// Eight times as many bits as values: the estimate is within a few in a hundred.
    const WORDS: usize = SAMPLE / 8;

    fn new() -> Self {
        Self { bits: vec![0; Self::WORDS], count: 0, bytes: 0 }
    }

    fn distinct(&self) -> f64 {
        let all = Self::WORDS as f64 * 64.0;
        let set: u32 = self.bits.iter().map(|word| word.count_ones()).sum();
        -all * (1.0 - f64::from(set) / all).ln()
    }

    /// Adds a value, which takes `overhead` bytes beside its own in a dictionary.
    fn add(&mut self, value: &[u8], overhead: usize) {
        let hash = value.chunks(8).fold(value.len() as u64, |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let mixed = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed ^ (mixed >> 29)
        });
        let bit = hash.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32;
        let word = usize::try_from(bit >> 6).unwrap_or_default() % Self::WORDS;
        if let Some(word) = self.bits.get_mut(word) {
            *word |= 1 << (bit & 63);
        }
        self.count += 1;
        self.bytes += value.len() + overhead;
    }

    /// Adds what is not null. Nothing of types that never get a dictionary.
    fn add_all(&mut self, array: &ArrayRef) {
        const LENGTH: usize = 4;
        let rows = (0..array.len()).filter(|at| array.is_valid(*at));
        match array.data_type() {
            DataType::Utf8 => {
                let texts = array.as_string::<i32>();
                rows.for_each(|at| self.add(texts.value(at).as_bytes(), LENGTH));
            }
            DataType::LargeBinary => {
                let values = array.as_binary::<i64>();
                rows.for_each(|at| self.add(values.value(at), LENGTH));
            }
            DataType::FixedSizeBinary(_) => {
                let values = array.as_fixed_size_binary();
                rows.for_each(|at| self.add(values.value(at), 0));
            }
            other => {
                let data = array.to_data();
                if let (Some(width), [values, ..]) = (other.primitive_width(), data.buffers()) {
                    let value = |at: usize| {
                        let start = (data.offset() + at) * width;
                        values.as_slice().get(start..start + width)
                    };
                    rows.filter_map(value).for_each(|value| self.add(value, 0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Int64Array, ListBuilder, StringArray, StringBuilder, StructArray,
    };
    use arrow::datatypes::{Field, Schema};
    use parquet::arrow::ArrowSchemaConverter;

    use super::*;

    const LIMIT: usize = 128 << 10;

    fn long(values: impl Iterator<Item = i64>) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values))
    }

    /// Random, and the same each time.
    fn spread(values: i64) -> impl Iterator<Item = i64> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..9000).map(move |_| random.i64(0..values))
    }

    #[test]
    fn only_columns_that_would_outgrow_a_dictionary_go_without() {
        assert!(outgrows(&long(0..5000), LIMIT));
        assert!(outgrows(&long(spread(1_000_000)), LIMIT));
        // 16,384 values of 8 bytes fit.
        assert!(!outgrows(&long(spread(8_000)), LIMIT));
        assert!(!outgrows(&long(spread(3)), LIMIT));
        // Each of 5,000 devices in turn: nothing repeats for long, and yet they are few.
        assert!(!outgrows(&long((0..9000).map(|n| n % 5000)), LIMIT));
        // The same values as text of 30 bytes do not.
        let texts = spread(8_000).map(|v| format!("{v:030}"));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        assert!(outgrows(&texts, LIMIT));
    }

    #[test]
    fn few_rows_or_only_nulls_tell_nothing() {
        assert!(!outgrows(&long(0..200), LIMIT));
        let nulls: ArrayRef =
            Arc::new(Int64Array::from_iter((0..5000).map(|n: i64| (n < 100).then_some(n))));
        assert!(!outgrows(&nulls, LIMIT));
        let bits: ArrayRef = Arc::new(BooleanArray::from_iter((0..5000).map(|n| Some(n % 2 == 0))));
        assert!(!outgrows(&bits, LIMIT));
    }

    #[test]
    fn a_slice_is_judged_by_its_own_values() {
        let all = long((0..3000).chain(std::iter::repeat_n(7, 3000)));
        assert!(outgrows(&all.slice(0, 3000), LIMIT));
        assert!(!outgrows(&all.slice(3000, 3000), LIMIT));
    }

    #[test]
    fn nested_columns_are_named_by_their_own_paths() {
        let mut tags = ListBuilder::new(StringBuilder::new());
        for row in 0..3000 {
            tags.values().append_value(["a", "b"][row % 2]);
            tags.append(true);
        }
        let tags: ArrayRef = Arc::new(tags.finish());
        let id = Arc::new(Field::new("id", DataType::Int64, false));
        let kind = Arc::new(Field::new("kind", DataType::Int64, false));
        let meta: ArrayRef = Arc::new(StructArray::from(vec![
            (kind, long(spread(4).take(3000))),
            (id, long(0..3000)),
        ]));
        let fields = [("tags", &tags), ("meta", &meta)]
            .map(|(name, array)| Field::new(name, array.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let rows = RecordBatch::try_new(schema.clone(), vec![tags, meta]).unwrap();
        let parquet = ArrowSchemaConverter::new().convert(&schema).unwrap();
        let paths = without_dictionary(&rows, &parquet, LIMIT);
        let paths: Vec<String> = paths.iter().map(ColumnPath::string).collect();
        assert_eq!(paths, ["meta.id"]);
    }
}
