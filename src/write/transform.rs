//! Partition transforms over whole Arrow columns.
//!
//! The crate's transforms are used where they are right (bucket). Its day transform puts the last
//! second before a midnight earlier than 1970 into the day after it, its hour transform refuses
//! nanoseconds, and its truncate transform refuses the Arrow type it gives to `binary`.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Date32Array, Int32Array, LargeBinaryArray,
    PrimitiveArray, StringArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use iceberg::spec::Transform;
use iceberg::transform::create_transform_function;

use crate::base::calendar::civil_from_days;

const MICROS_PER_HOUR: i64 = 3_600_000_000;
const NANOS_PER_HOUR: i64 = 1_000 * MICROS_PER_HOUR;

/// Applies `transform` to `source`; a null gives a null. `None` stands for the void transform,
/// whose value is null for every row. Errors are texts: the caller knows the field.
pub(super) fn apply(transform: Transform, source: &ArrayRef) -> Result<Option<ArrayRef>, String> {
    let column: ArrayRef = match transform {
        Transform::Identity => Arc::clone(source),
        Transform::Void => return Ok(None),
        Transform::Year => Arc::new(days(source)?.unary::<_, Int32Type>(year)),
        Transform::Month => Arc::new(days(source)?.unary::<_, Int32Type>(month)),
        Transform::Day => Arc::new(days(source)?),
        Transform::Hour => Arc::new(hours(source)?),
        Transform::Truncate(width) => truncate(source, width)?,
        Transform::Bucket(_) => {
            let function = create_transform_function(&transform).map_err(text)?;
            function.transform(with_micros(source)).map_err(text)?
        }
        Transform::Unknown => return Err("its transform is unknown to icestream".to_owned()),
    };
    Ok(Some(column))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Days since 1970-01-01 of a date or a timestamp, rounded towards the past.
fn days(source: &ArrayRef) -> Result<Date32Array, String> {
    match source.data_type() {
        DataType::Date32 => Ok(source.as_primitive::<Date32Type>().clone()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            floor::<TimestampMicrosecondType, _>(source, 24 * MICROS_PER_HOUR)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            floor::<TimestampNanosecondType, _>(source, 24 * NANOS_PER_HOUR)
        }
        other => Err(format!("a column of type {other} has no date")),
    }
}

/// Hours since 1970-01-01T00:00 of a timestamp, rounded towards the past.
fn hours(source: &ArrayRef) -> Result<Int32Array, String> {
    match source.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            floor::<TimestampMicrosecondType, _>(source, MICROS_PER_HOUR)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            floor::<TimestampNanosecondType, _>(source, NANOS_PER_HOUR)
        }
        other => Err(format!("a column of type {other} has no hour")),
    }
}

/// Divides every value by `unit`, rounding towards the past.
fn floor<S, T>(source: &ArrayRef, unit: i64) -> Result<PrimitiveArray<T>, String>
where
    S: ArrowPrimitiveType<Native = i64>,
    T: ArrowPrimitiveType<Native = i32>,
{
    source.as_primitive::<S>().try_unary(|value| {
        i32::try_from(value.div_euclid(unit))
            .map_err(|_| format!("the time {value} is too far from 1970"))
    })
}

fn year(days: i32) -> i32 {
    let (year, _, _) = civil_from_days(i64::from(days));
    clamped(year - 1970)
}

fn month(days: i32) -> i32 {
    let (year, month, _) = civil_from_days(i64::from(days));
    clamped((year - 1970) * 12 + month - 1)
}

/// Years and months of any 32-bit day count fit; the clamp only spares a cast.
fn clamped(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

fn truncate(source: &ArrayRef, width: u32) -> Result<ArrayRef, String> {
    let wide = i64::from(width);
    let column: ArrayRef = match source.data_type() {
        // Wrapping, as in the specification's reference implementation, at the type's very end.
        DataType::Int32 => {
            let width = i32::try_from(width).map_err(|_| "its width is too large".to_owned())?;
            Arc::new(
                source
                    .as_primitive::<Int32Type>()
                    .unary::<_, Int32Type>(|v| v.wrapping_sub(v.rem_euclid(width))),
            )
        }
        DataType::Int64 => Arc::new(
            source
                .as_primitive::<Int64Type>()
                .unary::<_, Int64Type>(|v| v.wrapping_sub(v.rem_euclid(wide))),
        ),
        DataType::Decimal128(precision, scale) => Arc::new(
            source
                .as_primitive::<Decimal128Type>()
                .unary::<_, Decimal128Type>(|v| v.wrapping_sub(v.rem_euclid(i128::from(width))))
                .with_precision_and_scale(*precision, *scale)
                .map_err(text)?,
        ),
        DataType::Utf8 => {
            let values = source.as_string::<i32>().iter();
            Arc::new(values.map(|v| v.map(|v| first_chars(v, width))).collect::<StringArray>())
        }
        DataType::LargeBinary => {
            let length = usize::try_from(width).unwrap_or(usize::MAX);
            let values = source.as_binary::<i64>().iter();
            Arc::new(
                values
                    .map(|v| v.map(|v| v.get(..length).unwrap_or(v)))
                    .collect::<LargeBinaryArray>(),
            )
        }
        other => return Err(format!("a column of type {other} cannot be truncated")),
    };
    Ok(column)
}

fn first_chars(value: &str, count: u32) -> &str {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    value.char_indices().nth(count).map_or(value, |(end, _)| &value[..end])
}

/// Nanoseconds as microseconds, rounded towards the past: the form in which they are hashed.
fn with_micros(source: &ArrayRef) -> ArrayRef {
    match source.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Arc::new(
            source
                .as_primitive::<TimestampNanosecondType>()
                .unary::<_, TimestampMicrosecondType>(|v| v.div_euclid(1_000)),
        ),
        _ => Arc::clone(source),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal128Array, FixedSizeBinaryArray, Int64Array, TimestampMicrosecondArray,
        TimestampNanosecondArray,
    };
    use chrono::{DateTime, Datelike, NaiveDate};
    use proptest::prelude::*;

    use super::*;

    fn ints(transform: Transform, source: impl Array + 'static) -> Vec<Option<i32>> {
        let source: ArrayRef = Arc::new(source);
        let column = apply(transform, &source).unwrap().unwrap();
        let column = arrow::compute::cast(&column, &DataType::Int32).unwrap();
        column.as_primitive::<Int32Type>().iter().collect()
    }

    #[test]
    fn times_before_1970_belong_to_the_period_they_lie_in() {
        // 1969-12-30T23:59:59.5, 1969-12-31T00:00, 1969-12-31T23:59:59.999999, the epoch.
        let micros = vec![Some(-86_400_500_000), Some(-86_400_000_000), Some(-1), Some(0), None];
        let times = TimestampMicrosecondArray::from(micros);
        let expect =
            |values: [i32; 4]| values.into_iter().map(Some).chain([None]).collect::<Vec<_>>();
        assert_eq!(ints(Transform::Day, times.clone()), expect([-2, -1, -1, 0]));
        assert_eq!(ints(Transform::Hour, times.clone()), expect([-25, -24, -1, 0]));
        assert_eq!(ints(Transform::Month, times.clone()), expect([-1, -1, -1, 0]));
        assert_eq!(ints(Transform::Year, times), expect([-1, -1, -1, 0]));
    }

    #[test]
    fn nanoseconds_are_transformed_like_microseconds() {
        let micros = vec![-86_400_500_000, -1, 0, 1_700_000_000_123_456];
        let nanos: Vec<i64> = micros.iter().map(|v| v * 1_000 + 999).collect();
        let transforms = [
            Transform::Year,
            Transform::Month,
            Transform::Day,
            Transform::Hour,
            Transform::Bucket(97),
        ];
        for transform in transforms {
            assert_eq!(
                ints(transform, TimestampMicrosecondArray::from(micros.clone())),
                ints(transform, TimestampNanosecondArray::from(nanos.clone())),
                "{transform}"
            );
        }
    }

    /// The hashes of appendix B of the Iceberg specification.
    #[test]
    fn bucket_follows_the_hashes_of_the_specification() {
        let bucket = |hash: i64| Some(i32::try_from((hash & 0x7fff_ffff) % 1_000).unwrap());
        let transform = Transform::Bucket(1_000);
        assert_eq!(ints(transform, Int32Array::from(vec![34])), [bucket(2_017_239_379)]);
        assert_eq!(ints(transform, Int64Array::from(vec![34])), [bucket(2_017_239_379)]);
        assert_eq!(ints(transform, Date32Array::from(vec![17_486])), [bucket(-653_330_422)]);
        // 2017-11-16T22:31:08
        let time = TimestampMicrosecondArray::from(vec![1_510_871_468_000_000]);
        assert_eq!(ints(transform, time), [bucket(-2_047_944_441)]);
        assert_eq!(ints(transform, StringArray::from(vec!["iceberg"])), [bucket(1_210_000_089)]);
        let bytes = LargeBinaryArray::from(vec![[0u8, 1, 2, 3].as_slice()]);
        assert_eq!(ints(transform, bytes), [bucket(-188_683_207)]);
        let decimal = Decimal128Array::from(vec![1_420]).with_precision_and_scale(9, 2).unwrap();
        assert_eq!(ints(transform, decimal), [bucket(-500_754_589)]);
        let uuid = uuid::Uuid::parse_str("f79c3e09-677c-4bbd-a479-3f349cb785e7").unwrap();
        let uuids =
            FixedSizeBinaryArray::try_from_iter([uuid.as_bytes().to_vec()].into_iter()).unwrap();
        assert_eq!(ints(transform, uuids), [bucket(1_488_055_340)]);
    }

    #[test]
    fn truncate_cuts_numbers_downwards_and_text_by_characters() {
        let ten = Transform::Truncate(10);
        assert_eq!(ints(ten, Int32Array::from(vec![1, -1, 10])), [Some(0), Some(-10), Some(10)]);
        assert_eq!(ints(ten, Int64Array::from(vec![Some(-11), None])), [Some(-20), None]);
        let decimal: ArrayRef =
            Arc::new(Decimal128Array::from(vec![1_065]).with_precision_and_scale(9, 2).unwrap());
        let cut = apply(Transform::Truncate(50), &decimal).unwrap().unwrap();
        assert_eq!(cut.as_primitive::<Decimal128Type>().value(0), 1_050);
        assert_eq!(cut.data_type(), decimal.data_type());

        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("zürich"), Some("z"), None]));
        let cut = apply(Transform::Truncate(3), &names).unwrap().unwrap();
        let cut: Vec<_> = cut.as_string::<i32>().iter().collect();
        assert_eq!(cut, [Some("zür"), Some("z"), None]);

        let bytes: ArrayRef = Arc::new(LargeBinaryArray::from(vec![[1u8, 2, 3, 4].as_slice()]));
        let cut = apply(Transform::Truncate(3), &bytes).unwrap().unwrap();
        assert_eq!(cut.as_binary::<i64>().value(0), [1, 2, 3]);
    }

    #[test]
    fn a_time_whose_hour_does_not_fit_is_refused_not_wrapped() {
        let far: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX]));
        assert!(apply(Transform::Hour, &far).unwrap_err().contains("too far"));
        assert!(apply(Transform::Day, &far).is_ok());
    }

    proptest! {
        #[test]
        fn every_date_part_agrees_with_chrono(seconds in -60_000_000_000i64..60_000_000_000, micro in 0i64..1_000_000) {
            let time = TimestampMicrosecondArray::from(vec![seconds * 1_000_000 + micro]);
            let date = DateTime::from_timestamp(seconds, 0).unwrap().date_naive();
            let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
            let days = i32::try_from((date - epoch).num_days()).unwrap();
            prop_assert_eq!(ints(Transform::Day, time.clone()), [Some(days)]);
            prop_assert_eq!(ints(Transform::Year, time.clone()), [Some(date.year() - 1970)]);
            let months = (date.year() - 1970) * 12 + i32::try_from(date.month0()).unwrap();
            prop_assert_eq!(ints(Transform::Month, time), [Some(months)]);
        }
    }
}
