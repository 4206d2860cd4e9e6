//! JSON value -> column, by the column's type. On a fault, columns may be longer than they were:
//! the decoder rolls them back.

use std::collections::HashSet;
use std::fmt::{self, Display};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::column::{Column, Key, ListColumn, MapColumn, StructColumn, Values};
use super::datetime;
use super::error::{Reason, RecordError};
use super::number::Number;
use super::scan::{RawText, Scanner, Step};

/// Keys of one map that are compared pairwise; more are hashed.
const FEW_KEYS: usize = 8;
/// Length of a UUID's canonical text: no base64 of 16 bytes is as long.
const UUID_TEXT: usize = 36;
const UUID_BYTES: usize = 16;

/// Reads one value, after whitespace, and appends it to `column`.
pub(super) fn read_value(s: &mut Scanner<'_>, column: &mut Column) -> Step<()> {
    let first = s.next_token();
    if first == b'n' {
        s.literal("null")?;
        return column.append_null("null");
    }
    match &mut column.values {
        Values::Boolean(bits) => bits.append(read_boolean(s, first)?),
        Values::Int(values) => values.push(read_integer(s, first, "an int")?),
        Values::Long(values) => values.push(read_integer(s, first, "a long")?),
        Values::Float(values) => values.push(read_float(s, first, "a float", Number::float32)?),
        Values::Double(values) => values.push(read_float(s, first, "a double", Number::float64)?),
        Values::Decimal { unscaled, precision, scale } => {
            unscaled.push(read_decimal(s, first, *precision, *scale)?);
        }
        Values::Date(days) => days.push(read_date(s, first)?),
        Values::Time(times) => {
            let text = read_text(s, first, TIME)?;
            times.push(convert(&text.text(), TIME, datetime::time)?);
        }
        Values::Timestamp { instants, unit, zone } => {
            instants.push(read_timestamp(s, first, *unit, zone.is_some())?);
        }
        Values::Text { offsets, bytes } => {
            let text = read_text(s, first, "a string")?;
            append_text(s, text, offsets, bytes)?;
        }
        Values::Binary { offsets, bytes } => {
            let text = read_text(s, first, BINARY)?;
            append_binary(s, &text.text(), offsets, bytes)?;
        }
        Values::Fixed { width, bytes } => {
            let what = FixedType(*width);
            let text = read_text(s, first, what)?;
            append_fixed(&text.text(), *width, bytes)?;
        }
        Values::Struct(fields) => {
            if first != b'{' {
                return Err(wrong_type(s, "an object"));
            }
            read_struct(s, fields)?;
        }
        Values::List(list) => {
            if first != b'[' {
                return Err(wrong_type(s, "an array"));
            }
            read_list(s, list)?;
        }
        Values::Map(map) => read_map(s, first, map)?,
    }
    column.append_valid();
    Ok(())
}

/// Reads the object here into the fields of a struct.
pub(super) fn read_struct(s: &mut Scanner<'_>, column: &mut StructColumn) -> Step<()> {
    s.enter()?;
    column.object += 1;
    let object = column.object;
    let mut previous = column.names.start();
    let mut met = 0;
    if s.next_token() == b'}' {
        s.leave();
    } else {
        loop {
            match column.names.read_key(s, previous)? {
                Some(field) => {
                    read_field(s, column, field)?;
                    previous = field;
                    met += 1;
                }
                None => {
                    s.unknown_fields += 1;
                    s.skip_value()?;
                }
            }
            if end_or_comma(s, b'}', "`,` or `}`")? {
                break;
            }
        }
    }
    if met < column.fields.len() {
        for (index, field) in column.fields.iter_mut().enumerate() {
            if field.met_in != object {
                let fault = |fault| column.names.fault(index, fault);
                field.column.append_null("absent").map_err(fault)?;
            }
        }
    }
    Ok(())
}

#[inline]
fn read_field(s: &mut Scanner<'_>, column: &mut StructColumn, index: usize) -> Step<()> {
    let Some(field) = column.fields.get_mut(index) else { return s.skip_value() };
    if field.met_in == column.object {
        let detail = "the field occurs twice in one object";
        let fault = RecordError::boxed(Reason::DuplicateKey, detail);
        return Err(column.names.fault(index, fault));
    }
    field.met_in = column.object;
    read_value(s, &mut field.column).map_err(|fault| column.names.fault(index, fault))
}

/// Steps over the `close` here and tells true, or over the comma here and tells false.
#[inline]
fn end_or_comma(s: &mut Scanner<'_>, close: u8, expected: &'static str) -> Step<bool> {
    let token = s.next_token();
    if token == b',' {
        s.advance(1);
        s.next_token();
        return Ok(false);
    }
    if token != close {
        return Err(s.syntax(expected));
    }
    s.leave();
    Ok(true)
}

fn read_list(s: &mut Scanner<'_>, list: &mut ListColumn) -> Step<()> {
    s.enter()?;
    let mut count = 0;
    if s.next_token() == b']' {
        s.leave();
    } else {
        loop {
            read_value(s, &mut list.items).map_err(|fault| fault.in_element(count))?;
            count += 1;
            if end_or_comma(s, b']', "`,` or `]`")? {
                break;
            }
        }
    }
    s.variable_bytes += count * list.item_width;
    advance_offsets(&mut list.offsets, count)
}

/// Reads an object of keys and values, or an array of `{"key": .., "value": ..}`.
fn read_map(s: &mut Scanner<'_>, first: u8, map: &mut MapColumn) -> Step<()> {
    let (close, expected) = match first {
        b'{' => (b'}', "`,` or `}`"),
        b'[' => (b']', "`,` or `]`"),
        _ => return Err(wrong_type(s, "an object, or an array of keys and values")),
    };
    s.enter()?;
    let mut count = 0;
    if s.next_token() == close {
        s.leave();
    } else {
        loop {
            let read = if first == b'{' { read_pair(s, map) } else { read_entry(s, map) };
            read.map_err(|fault| fault.in_element(count))?;
            count += 1;
            if end_or_comma(s, close, expected)? {
                break;
            }
        }
    }
    s.variable_bytes += count * map.entry_width;
    let start = map.offsets.last().map_or(0, |start| usize::try_from(*start).unwrap_or(0));
    check_unique(map, start, count)?;
    advance_offsets(&mut map.offsets, count)
}

/// Reads `"key": value`.
fn read_pair(s: &mut Scanner<'_>, map: &mut MapColumn) -> Step<()> {
    let text = s.key()?;
    // Planned with two fields.
    let [key, value] = map.entries.fields.as_mut_slice() else { return s.skip_value() };
    append_key(s, text, &mut key.column).map_err(|fault| fault.in_field("key"))?;
    read_value(s, &mut value.column).map_err(|fault| fault.in_field("value"))
}

/// Reads `{"key": .., "value": ..}`.
fn read_entry(s: &mut Scanner<'_>, map: &mut MapColumn) -> Step<()> {
    if s.next_token() != b'{' {
        return Err(wrong_type(s, "an object with `key` and `value`"));
    }
    read_struct(s, &mut map.entries)
}

/// Refuses two equal keys among the `count` entries from `start` on.
fn check_unique(map: &MapColumn, start: usize, count: usize) -> Step<()> {
    let Some(keys) = map.entries.fields.first() else { return Ok(()) };
    let keys = || (start..start + count).filter_map(|at| keys.column.values.key(at));
    let duplicate: Option<Key<'_>> = if count <= FEW_KEYS {
        keys().enumerate().find(|(at, key)| keys().take(*at).any(|k| k == *key)).map(|(_, key)| key)
    } else {
        // Hashed with random keys: a map of a million keys is no way to make this slow.
        let mut seen = HashSet::with_capacity(count);
        keys().find(|key| !seen.insert(*key))
    };
    match duplicate {
        None => Ok(()),
        Some(Key::Bytes(key)) => {
            Err(RecordError::expected(Reason::DuplicateKey, "each key of a map once", key))
        }
        Some(Key::Number(_)) => {
            Err(RecordError::boxed(Reason::DuplicateKey, "a key occurs twice in one map"))
        }
    }
}

/// Appends the key of an object to the keys of a map, by the rules for text of the key's type.
fn append_key(s: &mut Scanner<'_>, key: RawText<'_>, column: &mut Column) -> Step<()> {
    let text = key.text();
    match &mut column.values {
        Values::Boolean(bits) => bits.append(convert(&text, "true or false", |text| match text {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(Reason::BadText),
        })?),
        Values::Int(values) => values.push(convert(&text, "an int", |t| parse(t)?.integer())?),
        Values::Long(values) => values.push(convert(&text, "a long", |t| parse(t)?.integer())?),
        Values::Float(values) => {
            values.push(convert(&text, "a float", |t| float_text(t, Number::float32))?)
        }
        Values::Double(values) => {
            values.push(convert(&text, "a double", |t| float_text(t, Number::float64))?)
        }
        Values::Decimal { unscaled, precision, scale } => {
            let (precision, scale) = (*precision, *scale);
            let what = DecimalType(precision, scale);
            unscaled.push(convert(&text, what, |t| decimal(&parse(t)?, precision, scale))?);
        }
        Values::Date(days) => days.push(convert(&text, DATE, datetime::date)?),
        Values::Time(times) => times.push(convert(&text, TIME, datetime::time)?),
        Values::Timestamp { instants, unit, zone } => {
            let zoned = zone.is_some();
            let timestamp = |text: &[u8]| datetime::timestamp(text, *unit, zoned);
            instants.push(convert(&text, timestamp_type(zoned), timestamp)?);
        }
        Values::Text { offsets, bytes } => append_text(s, key, offsets, bytes)?,
        Values::Binary { offsets, bytes } => append_binary(s, &text, offsets, bytes)?,
        Values::Fixed { width, bytes } => append_fixed(&text, *width, bytes)?,
        // Never planned as keys.
        Values::Struct(_) | Values::List(_) | Values::Map(_) => {
            return Err(RecordError::expected(Reason::WrongType, "a primitive key", &text));
        }
    }
    column.append_valid();
    Ok(())
}

const DATE: &str = "a date like 2024-01-31, or days since 1970-01-01";
const TIME: &str = "a time like 23:59:59.999999";
const BINARY: &str = "base64 with padding";

/// What a timestamp column takes, in words.
fn timestamp_type(zoned: bool) -> &'static str {
    if zoned {
        "a timestamp like 2024-01-31T23:59:59.999999Z, or milliseconds since 1970-01-01"
    } else {
        "a timestamp without zone like 2024-01-31T23:59:59.999999, or milliseconds since 1970-01-01"
    }
}

/// A decimal type, in words.
#[derive(Clone, Copy)]
struct DecimalType(u8, i8);

impl Display for DecimalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a decimal({}, {})", self.0, self.1)
    }
}

/// A fixed type, in words.
#[derive(Clone, Copy)]
struct FixedType(usize);

impl Display for FixedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            UUID_BYTES => f.write_str("a UUID, or base64 with padding of 16 bytes"),
            width => write!(f, "base64 with padding of {width} bytes"),
        }
    }
}

/// The value here is of a JSON type that the column does not take, or not JSON at all.
#[cold]
fn wrong_type(s: &mut Scanner<'_>, what: impl Display) -> Box<RecordError> {
    let start = s.pos();
    match s.skip_value() {
        Ok(()) => RecordError::expected(Reason::WrongType, what, s.since(start)),
        Err(fault) => fault,
    }
}

/// Applies a conversion and words its fault.
#[inline]
fn convert<T>(
    text: &[u8],
    what: impl Display,
    conversion: impl FnOnce(&[u8]) -> Result<T, Reason>,
) -> Step<T> {
    conversion(text).map_err(|reason| RecordError::expected(reason, what, text))
}

#[inline]
fn is_number(first: u8) -> bool {
    first == b'-' || first.is_ascii_digit()
}

#[inline(always)]
fn read_text<'a>(s: &mut Scanner<'a>, first: u8, what: impl Display) -> Step<RawText<'a>> {
    if first == b'"' { s.string() } else { Err(wrong_type(s, what)) }
}

#[inline(always)]
fn read_number<'a>(s: &mut Scanner<'a>, first: u8, what: impl Display) -> Step<Number<'a>> {
    if is_number(first) { s.number() } else { Err(wrong_type(s, what)) }
}

fn read_boolean(s: &mut Scanner<'_>, first: u8) -> Step<bool> {
    match first {
        b't' => s.literal("true").map(|()| true),
        b'f' => s.literal("false").map(|()| false),
        _ => Err(wrong_type(s, "true or false")),
    }
}

#[inline]
fn read_integer<T>(s: &mut Scanner<'_>, first: u8, what: &'static str) -> Step<T>
where
    T: TryFrom<i128> + TryFrom<u64>,
{
    let number = read_number(s, first, what)?;
    number.integer().map_err(|reason| RecordError::expected(reason, what, number.raw))
}

/// The floats that JSON has no numbers for.
fn not_finite(text: &[u8]) -> Option<f32> {
    match text {
        b"NaN" => Some(f32::NAN),
        b"Infinity" => Some(f32::INFINITY),
        b"-Infinity" => Some(f32::NEG_INFINITY),
        _ => None,
    }
}

#[inline]
fn read_float<'a, T: From<f32>>(
    s: &mut Scanner<'a>,
    first: u8,
    what: &'static str,
    conversion: impl FnOnce(&Number<'a>) -> Result<T, Reason>,
) -> Step<T> {
    if first == b'"' {
        let text = s.string()?.text();
        let value = not_finite(&text).map(T::from);
        return value.ok_or_else(|| RecordError::expected(Reason::WrongType, what, &text));
    }
    let number = read_number(s, first, what)?;
    conversion(&number).map_err(|reason| RecordError::expected(reason, what, number.raw))
}

/// A number's text, or one of the words for what is not finite.
fn float_text<'a, T: From<f32>>(
    text: &'a [u8],
    conversion: impl FnOnce(&Number<'a>) -> Result<T, Reason>,
) -> Result<T, Reason> {
    match not_finite(text) {
        Some(value) => Ok(T::from(value)),
        None => conversion(&parse(text)?),
    }
}

fn parse(text: &[u8]) -> Result<Number<'_>, Reason> {
    Number::parse(text).ok_or(Reason::BadText)
}

fn read_decimal(s: &mut Scanner<'_>, first: u8, precision: u8, scale: i8) -> Step<i128> {
    let what = DecimalType(precision, scale);
    if first == b'"' {
        let text = s.string()?.text();
        return convert(&text, what, |text| decimal(&parse(text)?, precision, scale));
    }
    let number = read_number(s, first, what)?;
    decimal(&number, precision, scale)
        .map_err(|reason| RecordError::expected(reason, what, number.raw))
}

/// The value times ten to the scale, if it has at most `precision` digits.
fn decimal(number: &Number<'_>, precision: u8, scale: i8) -> Result<i128, Reason> {
    let unscaled = number.scaled(i64::from(scale))?;
    // Precision is 38 at most, for which the power exists.
    let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    if unscaled.abs() < limit { Ok(unscaled) } else { Err(Reason::OutOfRange) }
}

fn read_date(s: &mut Scanner<'_>, first: u8) -> Step<i32> {
    if first == b'"' {
        return convert(&s.string()?.text(), DATE, datetime::date);
    }
    let number = read_number(s, first, DATE)?;
    let days = number.integer().and_then(datetime::date_from_days);
    days.map_err(|reason| RecordError::expected(reason, DATE, number.raw))
}

#[inline]
fn read_timestamp(s: &mut Scanner<'_>, first: u8, unit: datetime::Unit, zoned: bool) -> Step<i64> {
    let what = timestamp_type(zoned);
    if first == b'"' {
        let text = s.string()?.text();
        return convert(&text, what, |text| datetime::timestamp(text, unit, zoned));
    }
    let number = read_number(s, first, what)?;
    let millis = number.integer();
    let instant = millis.and_then(|millis| datetime::timestamp_from_millis(millis, unit));
    instant.map_err(|reason| RecordError::expected(reason, what, number.raw))
}

#[inline(always)]
fn append_text(
    s: &mut Scanner<'_>,
    text: RawText<'_>,
    offsets: &mut Vec<i32>,
    bytes: &mut Vec<u8>,
) -> Step<()> {
    let before = bytes.len();
    text.append_to(bytes);
    s.variable_bytes += bytes.len() - before;
    offsets.push(i32::try_from(bytes.len()).map_err(|_| full())?);
    Ok(())
}

fn append_binary(
    s: &mut Scanner<'_>,
    text: &[u8],
    offsets: &mut Vec<i64>,
    bytes: &mut Vec<u8>,
) -> Step<()> {
    let before = bytes.len();
    convert(text, BINARY, |text| STANDARD.decode_vec(text, bytes).map_err(|_| Reason::BadText))?;
    s.variable_bytes += bytes.len() - before;
    offsets.push(i64::try_from(bytes.len()).map_err(|_| full())?);
    Ok(())
}

/// A column of 16 bytes may be a `uuid` or a `fixed[16]`: their Arrow types are the same, and so
/// both their texts are taken; they differ in length.
fn append_fixed(text: &[u8], width: usize, bytes: &mut Vec<u8>) -> Step<()> {
    let what = FixedType(width);
    let before = bytes.len();
    if width == UUID_BYTES && text.len() == UUID_TEXT {
        bytes.extend_from_slice(&convert(text, what, uuid)?);
        return Ok(());
    }
    convert(text, what, |text| STANDARD.decode_vec(text, bytes).map_err(|_| Reason::BadText))?;
    if bytes.len() - before != width {
        return Err(RecordError::expected(Reason::OutOfRange, what, text));
    }
    Ok(())
}

/// The canonical text of a UUID, in either case of letters.
fn uuid(text: &[u8]) -> Result<[u8; UUID_BYTES], Reason> {
    // The crate takes other forms too, but only this one has 36 bytes.
    uuid::Uuid::try_parse_ascii(text).map(uuid::Uuid::into_bytes).map_err(|_| Reason::BadText)
}

/// Appends the end of a value that has `count` items.
fn advance_offsets(offsets: &mut Vec<i32>, count: usize) -> Step<()> {
    let start = offsets.last().copied().unwrap_or(0);
    let end = i32::try_from(count).ok().and_then(|count| start.checked_add(count));
    offsets.push(end.ok_or_else(full)?);
    Ok(())
}

/// Not reached: the decoder refuses payloads beforehand that could overflow an offset.
#[cold]
fn full() -> Box<RecordError> {
    RecordError::boxed(Reason::BatchFull, "a column of the batch has no room left")
}
