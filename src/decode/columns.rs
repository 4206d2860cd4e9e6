//! Columns planned from an Arrow schema: append, roll back to a number of rows, finish into arrays
//! of exactly the schema's types. They know no format: `F` is what one keeps beside each field
//! of a struct, and `S` beside all of them, to tell them apart.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray,
    LargeBinaryArray, ListArray, MapArray, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Fields, Float32Type, Float64Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use arrow::error::ArrowError;

use super::datetime::{TimestampForm, Unit};
use super::defaults::{DefaultValue, Defaults, default_of};
use super::error::{Reason, RecordError, Step, UnsupportedSchema};
use super::number::DecimalForm;

/// Structures within each other at most, in a schema and in a record, which is itself the first.
pub(super) const MAX_DEPTH: u32 = 128;

/// One column, at the top or nested.
#[derive(Debug)]
pub(super) struct Column<F, S> {
    pub values: Values<F, S>,
    /// None for a required column.
    nulls: Option<Nulls>,
}

/// Which values are not null, as far as the last null: a value that is not null costs nothing.
#[derive(Debug)]
struct Nulls(BooleanBufferBuilder);

impl Nulls {
    /// Notes that the value at `at`, after all that were noted, is null.
    fn push(&mut self, at: usize) {
        self.0.append_n(at.saturating_sub(self.0.len()), true);
        self.0.append(false);
    }

    /// The nulls among `length` values.
    fn finish(&mut self, length: usize) -> Option<NullBuffer> {
        if self.0.is_empty() {
            return None;
        }
        self.0.append_n(length.saturating_sub(self.0.len()), true);
        Some(NullBuffer::new(self.0.finish())).filter(|nulls| nulls.null_count() > 0)
    }
}

/// The values of a column, by its type. Not `repr(u8)`: that takes fewer instructions, and 3 % more
/// time for a record of 100 fields.
#[derive(Debug)]
pub(super) enum Values<F, S> {
    Boolean(Vec<bool>),
    Int(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Decimal { unscaled: Vec<i128>, form: DecimalForm },
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp { instants: Vec<i64>, form: TimestampForm, zone: Option<Arc<str>> },
    Text { offsets: Vec<i32>, bytes: Vec<u8> },
    Binary { offsets: Vec<i64>, bytes: Vec<u8> },
    Fixed { width: usize, bytes: Vec<u8> },
    // Boxed: a hundred columns should fit a processor's first cache.
    Struct(Box<StructColumn<F, S>>),
    List(ListColumn<F, S>),
    Map(Box<MapColumn<F, S>>),
}

/// The fields of a struct, or of the record itself.
#[derive(Debug)]
pub(super) struct StructColumn<F, S> {
    pub keys: S,
    pub fields: Vec<StructField<F, S>>,
    /// Structs appended.
    pub length: usize,
    /// What fields have that are absent; empty if none has anything but null.
    pub defaults: Vec<Option<DefaultValue>>,
    arrow: Fields,
}

/// A field of a struct, with what the format keeps of it: both are looked at together.
#[derive(Debug)]
pub(super) struct StructField<F, S> {
    pub key: F,
    pub column: Column<F, S>,
}

/// What a format keeps beside each of these fields, in their order, and beside all of them.
pub(super) type KeysOf<F, S> = fn(&Fields) -> (Vec<F>, S);

/// What columns are planned by, beside their types.
pub(super) struct Planning<'a, F, S> {
    pub keys: KeysOf<F, S>,
    pub defaults: &'a Defaults,
}

#[derive(Debug)]
pub(super) struct ListColumn<F, S> {
    pub offsets: Vec<i32>,
    pub items: Box<Column<F, S>>,
    /// Bytes of an item, see [`Column::width`].
    pub item_width: usize,
    arrow: FieldRef,
}

#[derive(Debug)]
pub(super) struct MapColumn<F, S> {
    pub offsets: Vec<i32>,
    /// Two fields: the key and the value.
    pub entries: StructColumn<F, S>,
    /// Bytes of an entry, see [`Column::width`].
    pub entry_width: usize,
    arrow: FieldRef,
}

/// A primitive value in a form that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key<'a> {
    Number(i128),
    Bytes(&'a [u8]),
}

impl<F, S> Column<F, S> {
    /// Plans the column of `field`; `path` leads to it, `depth` structures are around it.
    fn plan(
        field: &Field,
        path: &str,
        depth: u32,
        planning: &Planning<'_, F, S>,
    ) -> Result<Self, UnsupportedSchema> {
        let path =
            if path.is_empty() { field.name().clone() } else { format!("{path}.{}", field.name()) };
        let values = Values::plan(field.data_type(), &path, depth, planning)?;
        let nulls = field.is_nullable().then(|| Nulls(BooleanBufferBuilder::new(0)));
        Ok(Self { values, nulls })
    }

    /// Appends a null.
    ///
    /// # Errors
    /// `MissingField` if the column is required; `found` is what was found instead of a value.
    pub(super) fn append_null(&mut self, found: &'static str) -> Step<()> {
        let Some(nulls) = &mut self.nulls else {
            let detail = format!("required, but {found}");
            return Err(RecordError::boxed(Reason::MissingField, detail));
        };
        nulls.push(self.values.len());
        self.values.append_filler();
        Ok(())
    }

    /// Appends what stands for a field that is absent, and tells how many bytes that takes beside
    /// [`Self::width`].
    ///
    /// # Errors
    /// `MissingField` if the column is required and has no default, `TooLarge` if there is no room.
    pub(super) fn append_absent(&mut self, default: Option<&DefaultValue>) -> Step<usize> {
        match default {
            Some(default) => self.values.append_default(default),
            None => self.append_null("absent").map(|()| 0),
        }
    }

    /// Appends what stands under the null of a struct around this column.
    fn append_masked(&mut self) {
        if let Some(nulls) = &mut self.nulls {
            nulls.push(self.values.len());
        }
        self.values.append_filler();
    }

    /// Forgets all but the first `length` values, also where nulls and values differ in length.
    pub(super) fn truncate(&mut self, length: usize) {
        if let Some(nulls) = &mut self.nulls {
            // Does nothing where fewer were noted.
            nulls.0.truncate(length);
        }
        self.values.truncate(length);
    }

    fn finish(&mut self, length: usize) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.as_mut().and_then(|nulls| nulls.finish(length));
        self.values.finish(length, nulls)
    }

    /// Bytes that each value takes, without what depends on the value.
    pub(super) fn width(&self) -> usize {
        match &self.values {
            Values::Boolean(_) => 1,
            Values::Int(_) | Values::Float(_) | Values::Date(_) | Values::Text { .. } => 4,
            Values::List(_) | Values::Map(_) => 4,
            Values::Long(_) | Values::Double(_) | Values::Time(_) => 8,
            Values::Timestamp { .. } | Values::Binary { .. } => 8,
            Values::Decimal { .. } => 16,
            Values::Fixed { width, .. } => *width,
            Values::Struct(fields) => fields.width(),
        }
    }
}

impl<F, S> Values<F, S> {
    fn plan(
        data_type: &DataType,
        path: &str,
        depth: u32,
        planning: &Planning<'_, F, S>,
    ) -> Result<Self, UnsupportedSchema> {
        let unsupported = |why| UnsupportedSchema {
            path: path.to_owned(),
            data_type: data_type.to_string(),
            why,
        };
        if depth >= MAX_DEPTH {
            return Err(unsupported("nested deeper than a record can be"));
        }
        Ok(match data_type {
            DataType::Boolean => Self::Boolean(Vec::new()),
            DataType::Int32 => Self::Int(Vec::new()),
            DataType::Int64 => Self::Long(Vec::new()),
            DataType::Float32 => Self::Float(Vec::new()),
            DataType::Float64 => Self::Double(Vec::new()),
            DataType::Decimal128(precision @ 1..=38, scale @ 0..) => {
                Self::Decimal { unscaled: Vec::new(), form: DecimalForm::new(*precision, *scale) }
            }
            DataType::Date32 => Self::Date(Vec::new()),
            DataType::Time64(TimeUnit::Microsecond) => Self::Time(Vec::new()),
            DataType::Timestamp(unit, zone) => {
                let unit = match unit {
                    TimeUnit::Microsecond => Unit::Microsecond,
                    TimeUnit::Nanosecond => Unit::Nanosecond,
                    _ => return Err(unsupported("timestamps count micro- or nanoseconds")),
                };
                if zone.as_deref().is_some_and(|zone| zone != "+00:00" && zone != "UTC") {
                    return Err(unsupported("timestamps with a zone are in UTC"));
                }
                let form = TimestampForm::new(unit, zone.is_some());
                Self::Timestamp { instants: Vec::new(), form, zone: zone.clone() }
            }
            DataType::Utf8 => Self::Text { offsets: vec![0], bytes: Vec::new() },
            DataType::LargeBinary => Self::Binary { offsets: vec![0], bytes: Vec::new() },
            DataType::FixedSizeBinary(width) => match usize::try_from(*width) {
                Ok(width) if width > 0 => Self::Fixed { width, bytes: Vec::new() },
                _ => return Err(unsupported("a fixed has at least one byte")),
            },
            DataType::Struct(fields) if !fields.is_empty() => {
                Self::Struct(Box::new(StructColumn::plan(fields, path, depth + 1, planning)?))
            }
            DataType::List(field) => {
                let items = Box::new(Column::plan(field, path, depth + 1, planning)?);
                let item_width = items.width();
                Self::List(ListColumn { offsets: vec![0], items, item_width, arrow: field.clone() })
            }
            DataType::Map(field, false) => {
                let map = MapColumn::plan(field, path, depth + 1, planning).ok_or_else(|| {
                    unsupported("a map has entries of a required primitive key and a value")
                });
                Self::Map(Box::new(map??))
            }
            _ => return Err(unsupported("no type of an Iceberg column")),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Boolean(values) => values.len(),
            Self::Int(values) | Self::Date(values) => values.len(),
            Self::Long(values) | Self::Time(values) => values.len(),
            Self::Timestamp { instants, .. } => instants.len(),
            Self::Float(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Decimal { unscaled, .. } => unscaled.len(),
            Self::Text { offsets, .. } => offsets.len() - 1,
            Self::Binary { offsets, .. } => offsets.len() - 1,
            Self::Fixed { width, bytes } => bytes.len() / width,
            Self::Struct(fields) => fields.length,
            Self::List(list) => list.offsets.len() - 1,
            Self::Map(map) => map.offsets.len() - 1,
        }
    }

    /// Appends the value that stands under a null.
    fn append_filler(&mut self) {
        match self {
            Self::Boolean(values) => values.push(false),
            Self::Int(values) | Self::Date(values) => values.push(0),
            Self::Long(values) | Self::Time(values) => values.push(0),
            Self::Timestamp { instants, .. } => instants.push(0),
            Self::Float(values) => values.push(0.0),
            Self::Double(values) => values.push(0.0),
            Self::Decimal { unscaled, .. } => unscaled.push(0),
            Self::Text { offsets, .. } => repeat_last(offsets),
            Self::Binary { offsets, .. } => repeat_last(offsets),
            Self::Fixed { width, bytes } => bytes.resize(bytes.len() + *width, 0),
            Self::Struct(fields) => {
                fields.length += 1;
                fields.fields.iter_mut().for_each(|field| field.column.append_masked());
            }
            Self::List(list) => repeat_last(&mut list.offsets),
            Self::Map(map) => repeat_last(&mut map.offsets),
        }
    }

    /// Appends a default that the column takes.
    fn append_default(&mut self, default: &DefaultValue) -> Step<usize> {
        match (self, default) {
            (Self::Boolean(values), DefaultValue::Boolean(value)) => values.push(*value),
            (Self::Int(values) | Self::Date(values), DefaultValue::Int(value)) => {
                values.push(*value);
            }
            (
                Self::Long(values) | Self::Time(values) | Self::Timestamp { instants: values, .. },
                DefaultValue::Long(value),
            ) => values.push(*value),
            (Self::Float(values), DefaultValue::Float(value)) => values.push(*value),
            (Self::Double(values), DefaultValue::Double(value)) => values.push(*value),
            (Self::Decimal { unscaled, .. }, DefaultValue::Decimal(value)) => unscaled.push(*value),
            (Self::Text { offsets, bytes }, DefaultValue::Bytes(value)) => {
                let end = i32::try_from(bytes.len() + value.len()).map_err(|_| full())?;
                bytes.extend_from_slice(value);
                offsets.push(end);
                return Ok(value.len());
            }
            (Self::Binary { offsets, bytes }, DefaultValue::Bytes(value)) => {
                let end = i64::try_from(bytes.len() + value.len()).map_err(|_| full())?;
                bytes.extend_from_slice(value);
                offsets.push(end);
                return Ok(value.len());
            }
            (Self::Fixed { bytes, .. }, DefaultValue::Bytes(value)) => {
                bytes.extend_from_slice(value);
            }
            (Self::Struct(fields), DefaultValue::Struct) => return fields.append_defaults(),
            // Never planned.
            (other, _) => other.append_filler(),
        }
        Ok(0)
    }

    fn truncate(&mut self, length: usize) {
        match self {
            Self::Boolean(values) => values.truncate(length),
            Self::Int(values) | Self::Date(values) => values.truncate(length),
            Self::Long(values) | Self::Time(values) => values.truncate(length),
            Self::Timestamp { instants, .. } => instants.truncate(length),
            Self::Float(values) => values.truncate(length),
            Self::Double(values) => values.truncate(length),
            Self::Decimal { unscaled, .. } => unscaled.truncate(length),
            Self::Text { offsets, bytes } => bytes.truncate(truncate_offsets(offsets, length)),
            Self::Binary { offsets, bytes } => bytes.truncate(truncate_offsets(offsets, length)),
            Self::Fixed { width, bytes } => bytes.truncate(length * *width),
            Self::Struct(fields) => fields.truncate(length),
            Self::List(list) => list.items.truncate(truncate_offsets(&mut list.offsets, length)),
            Self::Map(map) => map.entries.truncate(truncate_offsets(&mut map.offsets, length)),
        }
    }

    fn finish(&mut self, length: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Boolean(values) => {
                let bit = |at| values.get(at).is_some_and(|value| *value);
                let bits = BooleanBuffer::collect_bool(values.len(), bit);
                values.clear();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Self::Int(values) => Arc::new(primitive::<Int32Type>(values, nulls)?),
            Self::Long(values) => Arc::new(primitive::<Int64Type>(values, nulls)?),
            Self::Float(values) => Arc::new(primitive::<Float32Type>(values, nulls)?),
            Self::Double(values) => Arc::new(primitive::<Float64Type>(values, nulls)?),
            Self::Decimal { unscaled, form } => Arc::new(
                primitive::<Decimal128Type>(unscaled, nulls)?
                    .with_precision_and_scale(form.precision, form.scale)?,
            ),
            Self::Date(days) => Arc::new(primitive::<Date32Type>(days, nulls)?),
            Self::Time(times) => Arc::new(primitive::<Time64MicrosecondType>(times, nulls)?),
            Self::Timestamp { instants, form, zone } => match form.unit {
                Unit::Microsecond => Arc::new(
                    primitive::<TimestampMicrosecondType>(instants, nulls)?
                        .with_timezone_opt(zone.clone()),
                ),
                Unit::Nanosecond => Arc::new(
                    primitive::<TimestampNanosecondType>(instants, nulls)?
                        .with_timezone_opt(zone.clone()),
                ),
            },
            Self::Text { offsets, bytes } => Arc::new(StringArray::try_new(
                take_offsets(offsets),
                Buffer::from_vec(take(bytes)),
                nulls,
            )?),
            Self::Binary { offsets, bytes } => Arc::new(LargeBinaryArray::try_new(
                take_offsets(offsets),
                Buffer::from_vec(take(bytes)),
                nulls,
            )?),
            Self::Fixed { width, bytes } => {
                let width = i32::try_from(*width).unwrap_or(i32::MAX);
                let bytes = Buffer::from_vec(take(bytes));
                Arc::new(FixedSizeBinaryArray::try_new(width, bytes, nulls)?)
            }
            Self::Struct(fields) => Arc::new(fields.finish_struct(length, nulls)?),
            Self::List(list) => {
                let offsets = take_offsets(&mut list.offsets);
                let items = list.items.finish(offsets.last().map_or(0, |end| index(*end)))?;
                Arc::new(ListArray::try_new(list.arrow.clone(), offsets, items, nulls)?)
            }
            Self::Map(map) => {
                let offsets = take_offsets(&mut map.offsets);
                let length = offsets.last().map_or(0, |end| index(*end));
                let entries = map.entries.finish_struct(length, None)?;
                Arc::new(MapArray::try_new(map.arrow.clone(), offsets, entries, nulls, false)?)
            }
        })
    }

    /// The value at `at`, if the type is a primitive and the value exists.
    pub(super) fn key(&self, at: usize) -> Option<Key<'_>> {
        let number = |value: Option<i128>| value.map(Key::Number);
        match self {
            Self::Boolean(values) => number(values.get(at).map(|v| (*v).into())),
            Self::Int(values) | Self::Date(values) => number(values.get(at).map(|v| (*v).into())),
            Self::Long(values) | Self::Time(values) => number(values.get(at).map(|v| (*v).into())),
            Self::Timestamp { instants, .. } => number(instants.get(at).map(|v| (*v).into())),
            Self::Float(values) => number(values.get(at).map(|v| v.to_bits().into())),
            Self::Double(values) => number(values.get(at).map(|v| v.to_bits().into())),
            Self::Decimal { unscaled, .. } => number(unscaled.get(at).copied()),
            Self::Text { offsets, bytes } => {
                bytes.get(index(*offsets.get(at)?)..index(*offsets.get(at + 1)?)).map(Key::Bytes)
            }
            Self::Binary { offsets, bytes } => {
                bytes.get(index(*offsets.get(at)?)..index(*offsets.get(at + 1)?)).map(Key::Bytes)
            }
            Self::Fixed { width, bytes } => bytes.get(at * width..(at + 1) * width).map(Key::Bytes),
            Self::Struct(_) | Self::List(_) | Self::Map(_) => None,
        }
    }
}

impl<F, S> StructColumn<F, S> {
    /// Plans the columns of `fields`, in their order, and what the format keeps of their names.
    pub(super) fn plan(
        fields: &Fields,
        path: &str,
        depth: u32,
        planning: &Planning<'_, F, S>,
    ) -> Result<Self, UnsupportedSchema> {
        let (each, keys_of_all) = (planning.keys)(fields);
        let field = |(key, field): (F, &FieldRef)| {
            Ok(StructField { key, column: Column::plan(field, path, depth, planning)? })
        };
        let columns: Result<Vec<_>, _> = each.into_iter().zip(fields).map(field).collect();
        let (columns, arrow) = (columns?, fields.clone());
        let mut defaults: Vec<_> =
            fields.iter().map(|field| default_of(planning.defaults, field)).collect();
        let mut each = columns.iter().zip(&defaults).zip(fields);
        let unfit = each.find(|((field, default), _)| {
            default.as_ref().is_some_and(|default| !fits(&field.column.values, default))
        });
        if let Some((_, field)) = unfit {
            return Err(UnsupportedSchema {
                path: field.name().clone(),
                data_type: field.data_type().to_string(),
                why: "its default is of another type",
            });
        }
        if defaults.iter().all(Option::is_none) {
            defaults = Vec::new();
        }
        Ok(Self { keys: keys_of_all, fields: columns, length: 0, defaults, arrow })
    }

    /// Bytes that each struct takes, see [`Column::width`].
    pub(super) fn width(&self) -> usize {
        self.fields.iter().map(|field| field.column.width()).sum()
    }

    /// Appends a struct of which no field is named; tells as [`Column::append_absent`].
    fn append_defaults(&mut self) -> Step<usize> {
        let mut taken = 0;
        for (at, field) in self.fields.iter_mut().enumerate() {
            let default = self.defaults.get(at).and_then(Option::as_ref);
            let absent = field.column.append_absent(default);
            taken += absent.map_err(|fault| fault.in_field(self.arrow[at].name()))?;
        }
        self.length += 1;
        Ok(taken)
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.length = length;
        self.fields.iter_mut().for_each(|field| field.column.truncate(length));
    }

    /// The fields as arrays of `length` values.
    pub(super) fn finish(&mut self, length: usize) -> Result<Vec<ArrayRef>, ArrowError> {
        self.length = 0;
        self.fields.iter_mut().map(|field| field.column.finish(length)).collect()
    }

    fn finish_struct(
        &mut self,
        length: usize,
        nulls: Option<NullBuffer>,
    ) -> Result<StructArray, ArrowError> {
        let arrays = self.finish(length)?;
        StructArray::try_new_with_length(self.arrow.clone(), arrays, nulls, length)
    }
}

/// Can a column have this default?
fn fits<F, S>(values: &Values<F, S>, default: &DefaultValue) -> bool {
    match (values, default) {
        (Values::Boolean(_), DefaultValue::Boolean(_))
        | (Values::Int(_) | Values::Date(_), DefaultValue::Int(_))
        | (Values::Long(_) | Values::Time(_) | Values::Timestamp { .. }, DefaultValue::Long(_))
        | (Values::Float(_), DefaultValue::Float(_))
        | (Values::Double(_), DefaultValue::Double(_))
        | (Values::Decimal { .. }, DefaultValue::Decimal(_))
        | (Values::Text { .. } | Values::Binary { .. }, DefaultValue::Bytes(_))
        | (Values::Struct(_), DefaultValue::Struct) => true,
        (Values::Fixed { width, .. }, DefaultValue::Bytes(bytes)) => bytes.len() == *width,
        _ => false,
    }
}

impl<F, S> MapColumn<F, S> {
    /// None if `field` is not what the entries of a map are.
    fn plan(
        field: &FieldRef,
        path: &str,
        depth: u32,
        planning: &Planning<'_, F, S>,
    ) -> Option<Result<Self, UnsupportedSchema>> {
        let DataType::Struct(fields) = field.data_type() else { return None };
        let [key, _] = fields.as_ref() else { return None };
        if key.is_nullable() || key.data_type().is_nested() || field.is_nullable() {
            return None;
        }
        Some(StructColumn::plan(fields, path, depth, planning).map(|entries| {
            let entry_width = entries.width();
            Self { offsets: vec![0], entries, entry_width, arrow: field.clone() }
        }))
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> Result<PrimitiveArray<T>, ArrowError> {
    PrimitiveArray::try_new(ScalarBuffer::from(take(values)), nulls)
}

#[cold]
fn full() -> Box<RecordError> {
    RecordError::boxed(Reason::TooLarge, "a column of the batch has no room left")
}

/// Leaves room for as much as was there and a bit: the next batch is often about as long, and its
/// last rows should not double the memory.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(values.len() + values.len() / 16);
    std::mem::replace(values, next)
}

fn take_offsets<O: arrow::array::OffsetSizeTrait>(offsets: &mut Vec<O>) -> OffsetBuffer<O> {
    let taken = take(offsets);
    offsets.push(O::zero());
    OffsetBuffer::new(ScalarBuffer::from(taken))
}

/// Appends an empty value.
fn repeat_last<O: Copy>(offsets: &mut Vec<O>) {
    offsets.extend(offsets.last().copied());
}

/// Keeps the offsets of `length` values; tells where the last one ends.
fn truncate_offsets<O: arrow::array::OffsetSizeTrait>(
    offsets: &mut Vec<O>,
    length: usize,
) -> usize {
    offsets.truncate(length + 1);
    offsets.last().map_or(0, |end| end.as_usize())
}

/// An offset, which is never negative, as an index.
fn index<O: arrow::array::OffsetSizeTrait>(offset: O) -> usize {
    offset.as_usize()
}
