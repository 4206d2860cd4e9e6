//! Partition values as people read them in paths, in the forms that engines use.
//!
//! For paths only; nothing reads a value back from one. The crate's own display panics on times
//! before 1970 with a fraction and on years beyond 262000.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use iceberg::spec::{Literal, PrimitiveLiteral, PrimitiveType, Transform, Type};

use crate::base::calendar::{SECONDS_OF_DAY, civil_from_days};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// The value of a partition field of type `kind`, made by `transform`.
pub(super) fn readable(transform: Transform, kind: &Type, value: Option<&Literal>) -> String {
    let (Some(Literal::Primitive(value)), Type::Primitive(kind)) = (value, kind) else {
        return "null".to_owned();
    };
    match (transform, value) {
        (Transform::Year, PrimitiveLiteral::Int(years)) => year(1970 + i64::from(*years)),
        (Transform::Month, PrimitiveLiteral::Int(months)) => {
            let months = i64::from(*months);
            format!("{}-{:02}", year(1970 + months.div_euclid(12)), months.rem_euclid(12) + 1)
        }
        (Transform::Hour, PrimitiveLiteral::Int(hours)) => {
            let hours = i64::from(*hours);
            format!("{}-{:02}", date(hours.div_euclid(24)), hours.rem_euclid(24))
        }
        _ => plain(kind, value),
    }
}

fn plain(kind: &PrimitiveType, value: &PrimitiveLiteral) -> String {
    match (kind, value) {
        (_, PrimitiveLiteral::Boolean(value)) => value.to_string(),
        (PrimitiveType::Date, PrimitiveLiteral::Int(days)) => date(i64::from(*days)),
        (_, PrimitiveLiteral::Int(value)) => value.to_string(),
        (PrimitiveType::Time, PrimitiveLiteral::Long(micros)) => {
            clock(micros.div_euclid(MICROS_PER_SECOND), micros.rem_euclid(MICROS_PER_SECOND), 6)
        }
        (PrimitiveType::Timestamp, PrimitiveLiteral::Long(micros)) => moment(*micros, 6),
        (PrimitiveType::Timestamptz, PrimitiveLiteral::Long(micros)) => utc(moment(*micros, 6)),
        (PrimitiveType::TimestampNs, PrimitiveLiteral::Long(nanos)) => moment(*nanos, 9),
        (PrimitiveType::TimestamptzNs, PrimitiveLiteral::Long(nanos)) => utc(moment(*nanos, 9)),
        (_, PrimitiveLiteral::Long(value)) => value.to_string(),
        (_, PrimitiveLiteral::Float(value)) => float(f64::from(value.0), value.0),
        (_, PrimitiveLiteral::Double(value)) => float(value.0, value.0),
        (_, PrimitiveLiteral::String(value)) => value.clone(),
        (_, PrimitiveLiteral::Binary(bytes)) => STANDARD.encode(bytes),
        (PrimitiveType::Decimal { scale, .. }, PrimitiveLiteral::Int128(unscaled)) => {
            decimal(*unscaled, *scale)
        }
        (_, PrimitiveLiteral::Int128(value)) => value.to_string(),
        (_, PrimitiveLiteral::UInt128(value)) => uuid::Uuid::from_u128(*value).to_string(),
        (_, PrimitiveLiteral::AboveMax | PrimitiveLiteral::BelowMin) => "null".to_owned(),
    }
}

/// As engines spell what is not finite.
fn float(value: f64, shown: impl std::fmt::Display) -> String {
    match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => shown.to_string(),
    }
}

fn year(year: i64) -> String {
    format!("{year:04}")
}

fn date(days: i64) -> String {
    let (y, month, day) = civil_from_days(days);
    format!("{}-{month:02}-{day:02}", year(y))
}

/// A count of fractions since 1970, with `digits` of them to a second.
fn moment(count: i64, digits: u32) -> String {
    let per_second = 10i64.pow(digits);
    let seconds = count.div_euclid(per_second);
    let time = clock(seconds.rem_euclid(SECONDS_OF_DAY), count.rem_euclid(per_second), digits);
    format!("{}T{time}", date(seconds.div_euclid(SECONDS_OF_DAY)))
}

fn utc(moment: String) -> String {
    moment + "+00:00"
}

/// Seconds since midnight, and a fraction if there is one.
fn clock(seconds: i64, fraction: i64, digits: u32) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let whole = format!("{hours:02}:{minutes:02}:{seconds:02}");
    if fraction == 0 {
        return whole;
    }
    let width = usize::try_from(digits).unwrap_or_default();
    format!("{whole}.{fraction:0width$}").trim_end_matches('0').to_owned()
}

fn decimal(unscaled: i128, scale: u32) -> String {
    let scale = usize::try_from(scale).unwrap_or_default();
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    match fraction {
        "" => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(transform: Transform, kind: PrimitiveType, value: Literal) -> String {
        readable(transform, &Type::Primitive(kind), Some(&value))
    }

    #[test]
    fn periods_are_shown_as_dates_and_not_as_counts() {
        use PrimitiveType::{Date, Int};
        assert_eq!(shown(Transform::Year, Int, Literal::int(54)), "2024");
        assert_eq!(shown(Transform::Month, Int, Literal::int(-1)), "1969-12");
        assert_eq!(shown(Transform::Day, Date, Literal::date(-1)), "1969-12-31");
        assert_eq!(shown(Transform::Hour, Int, Literal::int(-1)), "1969-12-31-23");
        assert_eq!(shown(Transform::Bucket(9), Int, Literal::int(7)), "7");
    }

    #[test]
    fn times_before_1970_are_shown_and_do_not_panic() {
        let id = Transform::Identity;
        let shows = |kind, value| shown(id, kind, Literal::long(value));
        assert_eq!(shows(PrimitiveType::Timestamptz, -1), "1969-12-31T23:59:59.999999+00:00");
        assert_eq!(shows(PrimitiveType::Timestamp, 1_500_000), "1970-01-01T00:00:01.5");
        assert_eq!(shows(PrimitiveType::TimestampNs, -1), "1969-12-31T23:59:59.999999999");
        assert_eq!(shows(PrimitiveType::TimestamptzNs, 0), "1970-01-01T00:00:00+00:00");
        assert_eq!(shows(PrimitiveType::Time, 3_661_000_000), "01:01:01");
        assert!(shows(PrimitiveType::Timestamptz, i64::MIN).starts_with("-290308"));
        assert!(shows(PrimitiveType::Timestamptz, i64::MAX).starts_with("294247"));
    }

    #[test]
    fn other_values_are_shown_as_engines_do() {
        let id = Transform::Identity;
        let decimal = PrimitiveType::Decimal { precision: 9, scale: 2 };
        assert_eq!(shown(id, decimal.clone(), Literal::decimal(-5)), "-0.05");
        assert_eq!(shown(id, decimal, Literal::decimal(1_420)), "14.20");
        for (value, text) in
            [(f64::NAN, "NaN"), (f64::INFINITY, "Infinity"), (-0.0, "-0"), (1.5, "1.5")]
        {
            assert_eq!(shown(id, PrimitiveType::Double, Literal::double(value)), text);
        }
        assert_eq!(shown(id, PrimitiveType::Float, Literal::float(f32::NEG_INFINITY)), "-Infinity");
        assert_eq!(shown(id, PrimitiveType::String, Literal::string("a/b")), "a/b");
        assert_eq!(shown(id, PrimitiveType::Binary, Literal::binary(vec![1, 2, 3])), "AQID");
        assert_eq!(readable(id, &Type::Primitive(PrimitiveType::Int), None), "null");
    }
}
