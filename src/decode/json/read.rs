//! JSON value -> column, by the column's type. On a fault, columns may be longer than they were:
//! the decoder rolls them back.

use std::collections::HashSet;
use std::fmt::{self, Display};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::keys::{self, Key as FieldKey, Keys};
use super::scan::{RawText, Scanner};
use crate::decode::columns::{self, Key, Values};
use crate::decode::datetime::{self, TimestampForm};
use crate::decode::error::{Reason, RecordError, Step};
use crate::decode::number::{DecimalForm, Number, short_float, short_integer};

type Column = columns::Column<FieldKey, Keys>;
type ListColumn = columns::ListColumn<FieldKey, Keys>;
type MapColumn = columns::MapColumn<FieldKey, Keys>;
/// The columns of an object.
pub(super) type StructColumn = columns::StructColumn<FieldKey, Keys>;

/// Keys of one map that are compared pairwise; more are hashed.
const FEW_KEYS: usize = 8;
/// Length of a UUID's canonical text: no base64 of 16 bytes is as long.
const UUID_TEXT: usize = 36;
const UUID_BYTES: usize = 16;

/// Reads one value, after whitespace, and appends it to `column`. Tells where it ended.
///
/// The most common forms are read here, inlined; what is left to `read_any` has its own frame.
#[inline(always)]
fn read_value(s: &mut Scanner<'_>, at: usize, column: &mut Column) -> Step<usize> {
    let (at, first) = s.token(at);
    match &mut column.values {
        Values::Text { offsets, bytes } if first == b'"' => {
            let before = bytes.len();
            let end = s.string_into(at, bytes)?;
            s.variable_bytes += bytes.len() - before;
            offsets.push(i32::try_from(bytes.len()).map_err(|_| full())?);
            return Ok(end);
        }
        Values::Int(values) => {
            if let Some((value, length)) = short_integer(s.window(at))
                && let Ok(value) = i32::try_from(value)
            {
                values.push(value);
                return Ok(at + length);
            }
        }
        Values::Long(values) => {
            if let Some((value, length)) = short_integer(s.window(at)) {
                values.push(value);
                return Ok(at + length);
            }
        }
        Values::Double(values) => {
            if let Some((value, length)) = short_float(s.window(at)) {
                values.push(value);
                return Ok(at + length);
            }
        }
        Values::Boolean(values) => {
            // Without a branch between the two: which one comes is often anyone's guess.
            let word = s.window::<5>(at);
            let yes = word.starts_with(b"true");
            if yes | (word == b"false") {
                values.push(yes);
                return Ok(at + 5 - usize::from(yes));
            }
        }
        Values::Timestamp { instants, form, .. } if first == b'"' => {
            if let Some((instant, length)) = form.parse_common(s.window(at + 1)) {
                instants.push(instant);
                return Ok(at + 1 + length);
            }
        }
        _ => {}
    }
    read_any(s, at, column)
}

/// Reads one value of any kind and form.
#[inline(never)]
fn read_any(s: &mut Scanner<'_>, at: usize, column: &mut Column) -> Step<usize> {
    let first = s.byte(at);
    if first == b'n' {
        let end = s.literal(at, b"null")?;
        column.append_null("null")?;
        return Ok(end);
    }
    match &mut column.values {
        Values::Boolean(values) => read_boolean(s, at, values),
        Values::Int(values) => read_number(s, at, "an int", Number::integer, values),
        Values::Long(values) => read_number(s, at, "a long", Number::integer, values),
        Values::Float(values) => read_float(s, at, "a float", Number::float32, values),
        Values::Double(values) => read_float(s, at, "a double", Number::float64, values),
        Values::Decimal { unscaled, form } => read_decimal(s, at, form, unscaled),
        Values::Date(days) => read_date(s, at, days),
        Values::Time(times) => {
            let (text, end) = read_text(s, at, TIME)?;
            times.push(convert(&text.text(), TIME, datetime::time)?);
            Ok(end)
        }
        Values::Timestamp { instants, form, .. } => read_timestamp(s, at, form, instants),
        // Strings were read before.
        Values::Text { .. } => Err(wrong_type(s, at, "a string")),
        Values::Binary { offsets, bytes } => {
            let (text, end) = read_text(s, at, BINARY)?;
            append_binary(s, &text.text(), offsets, bytes)?;
            Ok(end)
        }
        Values::Fixed { width, bytes } => {
            let (text, end) = read_text(s, at, FixedType(*width))?;
            append_fixed(&text.text(), *width, bytes)?;
            Ok(end)
        }
        Values::Struct(fields) => {
            if first != b'{' {
                return Err(wrong_type(s, at, "an object"));
            }
            read_struct(s, at, fields)
        }
        Values::List(list) => {
            if first != b'[' {
                return Err(wrong_type(s, at, "an array"));
            }
            read_list(s, at, list)
        }
        Values::Map(map) => read_map(s, at, first, map),
    }
}

/// Reads the object here into the fields of a struct.
pub(super) fn read_struct(
    s: &mut Scanner<'_>,
    at: usize,
    column: &mut StructColumn,
) -> Step<usize> {
    let mut at = s.enter(at)?;
    let StructColumn { keys, fields, .. } = column;
    // Once: a vector would be asked for its slice at each key.
    let fields = fields.as_mut_slice();
    let (object, mut place) = keys.begin();
    let mut met = 0;
    let first;
    (at, first) = s.token(at);
    if first == b'}' {
        at = s.leave(at);
    } else {
        loop {
            let (field, value);
            (field, place, value) = keys.read_key(fields, s, at, place)?;
            if let Some(field) = field {
                if field.key.met_in == object {
                    return Err(keys::fault(fields, place.after, duplicate_field()));
                }
                field.key.met_in = object;
                at = match read_value(s, value, &mut field.column) {
                    Ok(end) => end,
                    Err(fault) => return Err(keys::fault(fields, place.after, fault)),
                };
                met += 1;
            } else {
                s.unknown_fields += 1;
                at = s.skip_value(value)?;
            }
            let (end, closed) = end_or_comma(s, at, b'}', "`,` or `}`")?;
            at = end;
            if closed {
                break;
            }
        }
    }
    column.length += 1;
    if met < column.fields.len() {
        append_absent(s, column, object)?
    }
    Ok(at)
}

#[inline(never)]
fn append_absent(s: &mut Scanner<'_>, column: &mut StructColumn, object: u64) -> Step<()> {
    let StructColumn { fields, defaults, .. } = column;
    for at in 0..fields.len() {
        let Some(field) = fields.get_mut(at).filter(|field| field.key.met_in != object) else {
            continue;
        };
        let default = defaults.get(at).and_then(Option::as_ref);
        let appended = field.column.append_absent(default);
        s.variable_bytes += appended.map_err(|fault| keys::fault(fields, at, fault))?;
    }
    Ok(())
}

#[cold]
fn duplicate_field() -> Box<RecordError> {
    RecordError::boxed(Reason::DuplicateKey, "the field occurs twice in one object")
}

/// Steps over the `close` here and tells true, or over the comma here and the whitespace after it
/// and tells false.
#[inline(always)]
fn end_or_comma(
    s: &mut Scanner<'_>,
    at: usize,
    close: u8,
    expected: &'static str,
) -> Step<(usize, bool)> {
    if s.window(at) == b",\"" {
        return Ok((at + 1, false));
    }
    let (at, token) = s.token(at);
    if token == b',' {
        return Ok((s.space(at + 1), false));
    }
    if token != close {
        return Err(s.syntax(at, expected));
    }
    Ok((s.leave(at), true))
}

fn read_list(s: &mut Scanner<'_>, at: usize, list: &mut ListColumn) -> Step<usize> {
    let at = s.enter(at)?;
    let mut at = s.space(at);
    let mut count = 0;
    if s.byte(at) == b']' {
        at = s.leave(at);
    } else {
        loop {
            s.grow(list.item_width)?;
            at = read_value(s, at, &mut list.items).map_err(|fault| fault.in_element(count))?;
            count += 1;
            let (end, closed) = end_or_comma(s, at, b']', "`,` or `]`")?;
            at = end;
            if closed {
                break;
            }
        }
    }
    advance_offsets(&mut list.offsets, count)?;
    Ok(at)
}

/// Reads an object of keys and values, or an array of `{"key": .., "value": ..}`.
fn read_map(s: &mut Scanner<'_>, at: usize, first: u8, map: &mut MapColumn) -> Step<usize> {
    let (close, expected) = match first {
        b'{' => (b'}', "`,` or `}`"),
        b'[' => (b']', "`,` or `]`"),
        _ => return Err(wrong_type(s, at, "an object, or an array of keys and values")),
    };
    let at = s.enter(at)?;
    let mut at = s.space(at);
    let mut count = 0;
    if s.byte(at) == close {
        at = s.leave(at);
    } else {
        loop {
            s.grow(map.entry_width)?;
            let read = if first == b'{' { read_pair(s, at, map) } else { read_entry(s, at, map) };
            at = read.map_err(|fault| fault.in_element(count))?;
            count += 1;
            let (end, closed) = end_or_comma(s, at, close, expected)?;
            at = end;
            if closed {
                break;
            }
        }
    }
    let start = map.offsets.last().map_or(0, |start| usize::try_from(*start).unwrap_or(0));
    check_unique(map, start, count)?;
    advance_offsets(&mut map.offsets, count)?;
    Ok(at)
}

/// Reads `"key": value`.
fn read_pair(s: &mut Scanner<'_>, at: usize, map: &mut MapColumn) -> Step<usize> {
    let (text, at) = s.key(at)?;
    // Planned with two fields.
    let [key, value] = map.entries.fields.as_mut_slice() else { return s.skip_value(at) };
    append_key(s, text, &mut key.column).map_err(|fault| fault.in_field("key"))?;
    read_value(s, at, &mut value.column).map_err(|fault| fault.in_field("value"))
}

/// Reads `{"key": .., "value": ..}`.
fn read_entry(s: &mut Scanner<'_>, at: usize, map: &mut MapColumn) -> Step<usize> {
    if s.byte(at) != b'{' {
        return Err(wrong_type(s, at, "an object with `key` and `value`"));
    }
    read_struct(s, at, &mut map.entries)
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
        Values::Boolean(values) => {
            values.push(convert(&text, "true or false", |text| match text {
                b"true" => Ok(true),
                b"false" => Ok(false),
                _ => Err(Reason::BadText),
            })?)
        }
        Values::Int(values) => values.push(convert(&text, "an int", |t| parse(t)?.integer())?),
        Values::Long(values) => values.push(convert(&text, "a long", |t| parse(t)?.integer())?),
        Values::Float(values) => {
            values.push(convert(&text, "a float", |t| float_text(t, Number::float32))?)
        }
        Values::Double(values) => {
            values.push(convert(&text, "a double", |t| float_text(t, Number::float64))?)
        }
        Values::Decimal { unscaled, form } => {
            unscaled.push(convert(&text, DecimalType(*form), |t| form.unscaled(&parse(t)?))?);
        }
        Values::Date(days) => days.push(convert(&text, DATE, datetime::date)?),
        Values::Time(times) => times.push(convert(&text, TIME, datetime::time)?),
        Values::Timestamp { instants, form, .. } => {
            instants.push(convert(&text, timestamp_type(form.zoned), |t| form.parse(t))?);
        }
        Values::Text { offsets, bytes } => append_text(s, key, offsets, bytes)?,
        Values::Binary { offsets, bytes } => append_binary(s, &text, offsets, bytes)?,
        Values::Fixed { width, bytes } => append_fixed(&text, *width, bytes)?,
        // Never planned as keys.
        Values::Struct(_) | Values::List(_) | Values::Map(_) => {
            return Err(RecordError::expected(Reason::WrongType, "a primitive key", &text));
        }
    }
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
struct DecimalType(DecimalForm);

impl Display for DecimalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a decimal({}, {})", self.0.precision, self.0.scale)
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
fn wrong_type(s: &mut Scanner<'_>, at: usize, what: impl Display) -> Box<RecordError> {
    match s.skip_value(at) {
        Ok(end) => RecordError::expected(Reason::WrongType, what, s.since(at, end)),
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

fn read_text<'a>(s: &mut Scanner<'a>, at: usize, what: impl Display) -> Step<(RawText<'a>, usize)> {
    if s.byte(at) == b'"' { s.string(at) } else { Err(wrong_type(s, at, what)) }
}

/// Reads the number here and converts it.
#[inline(never)]
fn read_number<'a, T>(
    s: &mut Scanner<'a>,
    at: usize,
    what: impl Display,
    conversion: impl FnOnce(&Number<'a>) -> Result<T, Reason>,
    values: &mut Vec<T>,
) -> Step<usize> {
    if !matches!(s.byte(at), b'-' | b'0'..=b'9') {
        return Err(wrong_type(s, at, what));
    }
    let (number, end) = s.number(at)?;
    let value = conversion(&number);
    values.push(value.map_err(|reason| RecordError::expected(reason, what, number.raw))?);
    Ok(end)
}

#[inline(always)]
fn read_boolean(s: &mut Scanner<'_>, at: usize, values: &mut Vec<bool>) -> Step<usize> {
    let (value, end) = match s.byte(at) {
        b't' => (true, s.literal(at, b"true")?),
        b'f' => (false, s.literal(at, b"false")?),
        _ => return Err(wrong_type(s, at, "true or false")),
    };
    values.push(value);
    Ok(end)
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

#[inline(never)]
fn read_float<'a, T: From<f32>>(
    s: &mut Scanner<'a>,
    at: usize,
    what: &'static str,
    conversion: impl FnOnce(&Number<'a>) -> Result<T, Reason>,
    values: &mut Vec<T>,
) -> Step<usize> {
    if s.byte(at) != b'"' {
        return read_number(s, at, what, conversion, values);
    }
    let (text, end) = s.string(at)?;
    let text = text.text();
    let value = not_finite(&text).map(T::from);
    values.push(value.ok_or_else(|| RecordError::expected(Reason::WrongType, what, &text))?);
    Ok(end)
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

fn read_decimal(
    s: &mut Scanner<'_>,
    at: usize,
    form: &DecimalForm,
    values: &mut Vec<i128>,
) -> Step<usize> {
    let what = DecimalType(*form);
    if s.byte(at) != b'"' {
        return read_number(s, at, what, |number| form.unscaled(number), values);
    }
    let (text, end) = s.string(at)?;
    values.push(convert(&text.text(), what, |text| form.unscaled(&parse(text)?))?);
    Ok(end)
}

fn read_date(s: &mut Scanner<'_>, at: usize, values: &mut Vec<i32>) -> Step<usize> {
    if s.byte(at) != b'"' {
        let days = |number: &Number<'_>| number.integer().and_then(datetime::date_from_days);
        return read_number(s, at, DATE, days, values);
    }
    let (text, end) = s.string(at)?;
    values.push(convert(&text.text(), DATE, datetime::date)?);
    Ok(end)
}

#[inline(never)]
fn read_timestamp(
    s: &mut Scanner<'_>,
    at: usize,
    form: &TimestampForm,
    values: &mut Vec<i64>,
) -> Step<usize> {
    let what = timestamp_type(form.zoned);
    if s.byte(at) != b'"' {
        let instant = |number: &Number<'_>| {
            number.integer().and_then(|ms| datetime::timestamp_from_millis(ms, form.unit))
        };
        return read_number(s, at, what, instant, values);
    }
    let (text, end) = s.string(at)?;
    values.push(convert(&text.text(), what, |text| form.parse(text))?);
    Ok(end)
}

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
    RecordError::boxed(Reason::TooLarge, "a column of the batch has no room left")
}
