//! The rules of `docs/json.md` once more, slowly, on serde_json's parser, chrono and strings. Good
//! for numbers of up to 15 digits: serde_json hands out an f64.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{NaiveDate, NaiveTime};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::generated::{Datum, Field, Type};

/// A JSON value that keeps repeated keys.
#[derive(Debug)]
pub(super) enum Tree {
    Null,
    Boolean(bool),
    /// The number as text, with an exponent.
    Number(String),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Boolean(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(format!("{value}e0")))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(format!("{value}e0")))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        // serde_json may be off by the last bit: 15 digits are what is left of the text.
        Ok(Tree::Number(format!("{value:.14e}")))
    }
    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Tree::List(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Object(members))
    }
}

/// Is this one JSON text? And its value, unless a number in it is beyond serde_json's range or
/// precision.
pub(super) fn parse(payload: &[u8]) -> Result<Option<Tree>, String> {
    let text = std::str::from_utf8(payload).map_err(|e| e.to_string())?;
    match serde_json::from_str::<Tree>(text) {
        Ok(tree) => Ok((!beyond_f64(payload)).then_some(tree)),
        Err(error) if error.to_string().starts_with("number out of range") => {
            // Numbers are not evaluated where they are ignored; escapes are not either.
            serde_json::from_str::<IgnoredAny>(text).map(|_| None).map_err(|e| e.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Is there a number of more digits, or of a smaller exponent, than an f64 keeps? The seconds of a
/// time do not count.
fn beyond_f64(payload: &[u8]) -> bool {
    let tiny =
        |w: &[u8]| w[0] | 0x20 == b'e' && w[1] == b'-' && w[2..].iter().all(u8::is_ascii_digit);
    if payload.windows(5).any(tiny) {
        return true;
    }
    let digit = |b: &u8| b.is_ascii_digit() || *b == b'.';
    (0..payload.len()).any(|at| {
        let begins = digit(&payload[at]) && (at == 0 || !digit(&payload[at - 1]));
        let of_time = at > 1 && payload[at - 1] == b':' && payload[at - 2].is_ascii_digit();
        begins && !of_time && payload[at..].iter().take_while(|b| digit(b)).count() > 15
    })
}

/// The row that a record with these fields is, or none if it is a bad record.
pub(super) fn row(fields: &[Field], tree: &Tree) -> Option<Datum> {
    let Tree::Object(members) = tree else { return None };
    let values = fields.iter().map(|field| {
        let mut found = members.iter().filter(|(name, _)| *name == field.name);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => None,
            (Some((_, tree)), None) => optional(field, tree),
            (None, _) => (!field.required).then_some(Datum::Null),
        }
    });
    values.collect::<Option<Vec<_>>>().map(Datum::Struct)
}

fn optional(field: &Field, tree: &Tree) -> Option<Datum> {
    match tree {
        Tree::Null => (!field.required).then_some(Datum::Null),
        tree => value(&field.of, tree),
    }
}

fn value(of: &Type, tree: &Tree) -> Option<Datum> {
    match (of, tree) {
        (Type::Struct(fields), tree) => row(fields, tree),
        (Type::List(element), Tree::List(values)) => values
            .iter()
            .map(|tree| optional(element, tree))
            .collect::<Option<_>>()
            .map(Datum::List),
        (Type::Map(key, value), Tree::Object(members)) => unique(
            members
                .iter()
                .map(|(k, v)| Some((from_text(key, k)?, optional(value, v)?)))
                .collect::<Option<_>>()?,
        ),
        (Type::Map(key, value), Tree::List(entries)) => {
            let fields = [
                Field { name: "key".into(), required: true, of: (**key).clone() },
                (**value).clone(),
            ];
            let entries = entries.iter().map(|entry| match row(&fields, entry)? {
                Datum::Struct(pair) => <[Datum; 2]>::try_from(pair).ok().map(|[k, v]| (k, v)),
                _ => None,
            });
            unique(entries.collect::<Option<_>>()?)
        }
        (Type::Primitive("boolean"), Tree::Boolean(value)) => Some(Datum::Boolean(*value)),
        (Type::Primitive("boolean"), _) => None,
        (
            Type::Primitive("int" | "long" | "float" | "double") | Type::Decimal(..),
            Tree::Number(text),
        ) => from_text(of, text),
        (Type::Primitive("int" | "long"), _) => None,
        (Type::Primitive("float" | "double"), Tree::Text(text)) => {
            matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity")
                .then(|| from_text(of, text))
                .flatten()
        }
        (Type::Primitive("date"), Tree::Number(text)) => {
            let days = scaled(text, 0)?;
            (-719_162..=2_932_896).contains(&days).then_some(Datum::Number(days))
        }
        (Type::Primitive(name), Tree::Number(text)) if name.starts_with("timestamp") => {
            let millis = scaled(text, 0)?;
            let per_milli = if name.ends_with("ns") { 1_000_000 } else { 1_000 };
            in_calendar(millis.div_euclid(1000)).then_some(())?;
            i64::try_from(millis.checked_mul(per_milli)?).ok().map(|v| Datum::Number(v.into()))
        }
        (_, Tree::Text(text)) => from_text(of, text),
        _ => None,
    }
}

fn unique(entries: Vec<(Datum, Datum)>) -> Option<Datum> {
    let repeated = entries
        .iter()
        .enumerate()
        .any(|(at, (key, _))| entries[..at].iter().any(|(k, _)| k == key));
    (!repeated).then_some(Datum::Map(entries))
}

fn from_text(of: &Type, text: &str) -> Option<Datum> {
    let number = |value: i128| Some(Datum::Number(value));
    match of {
        Type::Decimal(precision, scale) => {
            let value = scaled(text, (*scale).into())?;
            (value.unsigned_abs().to_string().len() <= usize::from(*precision) || value == 0)
                .then_some(Datum::Number(value))
        }
        Type::Primitive(name) => match *name {
            "boolean" => Some(Datum::Boolean(text.parse().ok()?)),
            "int" => number(i32::try_from(scaled(text, 0)?).ok()?.into()),
            "long" => number(i64::try_from(scaled(text, 0)?).ok()?.into()),
            "float" => {
                let value: f32 = if is_number(text) { text.parse().ok()? } else { word(text)? };
                (value.is_finite() || !is_number(text)).then(|| Datum::Bits(value.to_bits().into()))
            }
            "double" => {
                let value: f64 =
                    if is_number(text) { text.parse().ok()? } else { word(text)?.into() };
                (value.is_finite() || !is_number(text)).then(|| Datum::Bits(value.to_bits()))
            }
            "date" => number(days(text)?.into()),
            "time" => {
                let (seconds, nanos) = time(text)?;
                (nanos % 1000 == 0).then(|| {
                    Datum::Number(i128::from(seconds) * 1_000_000 + i128::from(nanos / 1000))
                })
            }
            "string" => Some(Datum::Text(text.to_owned())),
            "uuid" if text.len() == 36 => {
                Some(Datum::Bytes(uuid::Uuid::parse_str(text).ok()?.as_bytes().to_vec()))
            }
            "uuid" => bytes(text, Some(16)),
            "fixed[5]" => bytes(text, Some(5)),
            "binary" => bytes(text, None),
            _ => timestamp(text, name),
        },
        _ => None,
    }
}

fn bytes(text: &str, length: Option<usize>) -> Option<Datum> {
    let bytes = STANDARD.decode(text).ok()?;
    length.is_none_or(|length| bytes.len() == length).then_some(Datum::Bytes(bytes))
}

fn word(text: &str) -> Option<f32> {
    match text {
        "NaN" => Some(f32::NAN),
        "Infinity" => Some(f32::INFINITY),
        "-Infinity" => Some(f32::NEG_INFINITY),
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The number times ten to `scale`, by moving the point in its text.
fn scaled(text: &str, scale: i64) -> Option<i128> {
    if !is_number(text) {
        return None;
    }
    let lower = text.to_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let zero = !digits.contains(|c: char| ('1'..='9').contains(&c));
    let shift = exponent
        .parse::<i64>()
        .ok()
        .filter(|e| e.abs() < 10_000)
        .map(|e| e + scale - fraction.len() as i64);
    match shift {
        _ if zero => Some(0),
        None => None,
        Some(shift) => {
            let places = usize::try_from(shift.unsigned_abs()).unwrap();
            if shift >= 0 {
                return format!("{digits}{}", "0".repeat(places)).parse().ok();
            }
            let sign = usize::from(digits.starts_with('-'));
            let (kept, lost) = digits.split_at(digits.len().saturating_sub(places).max(sign));
            let lost_all = kept.is_empty() || kept == "-";
            if lost.contains(|c| c != '0') || lost_all { None } else { kept.parse().ok() }
        }
    }
}

/// Does the text have this shape, `d` standing for a digit?
fn shaped(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(t, s)| if s == b'd' { t.is_ascii_digit() } else { t == s })
}

fn days(text: &str) -> Option<i32> {
    if !shaped(text, "dddd-dd-dd") || text.starts_with("0000") {
        return None;
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from((day - NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days()).ok()
}

/// Seconds and nanoseconds of the day.
fn time(text: &str) -> Option<(i64, i64)> {
    let (clock, fraction) = match text.split_once('.') {
        Some((clock, fraction)) if shaped(clock, "dd:dd:dd") => (clock, fraction),
        Some(_) => return None,
        None => (text, "0"),
    };
    if !(shaped(clock, "dd:dd:dd") || shaped(clock, "dd:dd"))
        || clock.ends_with(":60") && clock.len() == 8
    {
        return None;
    }
    let clock = if clock.len() == 5 { format!("{clock}:00") } else { clock.to_owned() };
    let midnight = NaiveTime::from_hms_opt(0, 0, 0)?;
    let seconds = (NaiveTime::parse_from_str(&clock, "%H:%M:%S").ok()? - midnight).num_seconds();
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padded = format!("{fraction:0<9}");
    if padded[9..].contains(|c| c != '0') {
        return None;
    }
    Some((seconds, padded[..9].parse().ok()?))
}

fn timestamp(text: &str, name: &str) -> Option<Datum> {
    let date = days(text.get(..10)?)?;
    let rest = text.get(10..)?.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = if name.contains("tz") {
        rest.split_at(rest.find(['Z', 'z', '+', '-'])?)
    } else {
        (rest, "Z")
    };
    let (seconds, nanos) = time(clock)?;
    let offset = match offset {
        "Z" | "z" => 0,
        _ if offset.starts_with(['+', '-'])
            && (shaped(&offset[1..], "dd:dd") || shaped(&offset[1..], "dddd")) =>
        {
            let hours: i64 = offset[1..3].parse().ok()?;
            let minutes: i64 = offset[offset.len() - 2..].parse().ok()?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if offset.starts_with('-') { -60 } else { 60 }
        }
        _ => return None,
    };
    let seconds = i64::from(date) * 86_400 + seconds - offset;
    in_calendar(seconds.into()).then_some(())?;
    let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let value =
        if name.ends_with("ns") { nanos } else { (nanos % 1000 == 0).then_some(nanos / 1000)? };
    i64::try_from(value).ok().map(|value| Datum::Number(value.into()))
}

fn in_calendar(seconds: i128) -> bool {
    (-719_162 * 86_400..2_932_897 * 86_400).contains(&seconds)
}
