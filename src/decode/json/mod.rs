//! One JSON payload -> one row.
//!
//! ```text
//! scan  JSON text: whitespace, strings, numbers, skipping what the table lacks
//! keys  the key of an object -> the field of a struct
//! read  JSON value -> column, by the column's type
//! ```

mod keys;
mod read;
mod scan;

use arrow::array::ArrayRef;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;

use keys::Keys;
use read::{StructColumn, read_struct};
use scan::{Padded, Scanner};

use super::Pushed;
use super::columns::Planning;
use super::defaults::Defaults;
use super::error::{Reason, RecordError, Step, UnsupportedSchema};
use super::simd::is_ascii;

/// Bytes that the offsets of Arrow's strings, lists and fixed-size values can address.
const ADDRESSABLE: usize = i32::MAX as usize;
/// Bytes of a payload up to which the memory of its copy is kept for the next one.
const COMMON_PAYLOAD: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Decodes JSON payloads into columns; see [`super::Decoder`].
#[derive(Debug)]
pub struct JsonDecoder {
    record: StructColumn,
    /// The payload being read.
    text: Padded,
    rows: usize,
    /// Bytes of the payloads of the rows: no column's text and no list can be longer.
    payload_bytes: usize,
    /// Bytes of each row, without what depends on the values.
    row_width: usize,
    /// Bytes of what depends on the values.
    variable_bytes: usize,
    unknown_fields: u64,
    /// Bytes that one record may take.
    record_bytes: usize,
}

impl JsonDecoder {
    pub(super) fn new(schema: &Schema, defaults: &Defaults) -> Result<Self, UnsupportedSchema> {
        let planning = Planning { keys: Keys::of, defaults };
        let record = StructColumn::plan(schema.fields(), "", 1, &planning)?;
        let row_width = record.width();
        Ok(Self {
            record,
            text: Padded::default(),
            rows: 0,
            payload_bytes: 0,
            row_width,
            variable_bytes: 0,
            unknown_fields: 0,
            record_bytes: ADDRESSABLE,
        })
    }

    pub(super) fn set_record_bytes(&mut self, bytes: usize) {
        self.record_bytes = bytes.min(ADDRESSABLE);
    }

    pub(super) fn push(&mut self, payload: &[u8]) -> Pushed {
        if payload.len() > self.record_bytes {
            return self.too_large();
        }
        if !self.has_room_for(payload.len()) {
            return self.no_room();
        }
        self.text.fill(payload);
        let mut s = Scanner::new(&self.text, self.record_bytes);
        let read = read(payload, &mut s, &mut self.record);
        let Scanner { variable_bytes, unknown_fields, .. } = s;
        self.text.shrink_to(COMMON_PAYLOAD);
        let bytes = self.buffered_bytes() + self.row_width + variable_bytes;
        let pushed = match read {
            Err(_) if variable_bytes > self.record_bytes => self.too_large(),
            Err(fault) if fault.reason == Reason::TooLarge => self.no_room(),
            Err(fault) => Pushed::Bad(*fault),
            Ok(()) if bytes > ADDRESSABLE => self.no_room(),
            Ok(()) => {
                self.rows += 1;
                self.payload_bytes += payload.len();
                self.variable_bytes += variable_bytes;
                self.unknown_fields += unknown_fields;
                return Pushed::Row;
            }
        };
        self.record.truncate(self.rows);
        pushed
    }

    #[cold]
    fn too_large(&self) -> Pushed {
        let detail = format!(
            "the record, or what it becomes in the columns, has more than {} bytes, its share of the memory",
            self.record_bytes
        );
        Pushed::Bad(*RecordError::boxed(Reason::TooLarge, detail))
    }

    /// The columns could not address the record: together with other rows, or by itself.
    #[cold]
    fn no_room(&self) -> Pushed {
        if self.rows > 0 {
            return Pushed::Full;
        }
        let detail = "one record needs more than 2 GiB in the columns";
        Pushed::Bad(*RecordError::boxed(Reason::TooLarge, detail))
    }

    pub(super) fn has_room_for(&self, payload_bytes: usize) -> bool {
        let held = self.payload_bytes.max(self.buffered_bytes());
        held.checked_add(payload_bytes).is_some_and(|bytes| bytes <= ADDRESSABLE)
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.rows * self.row_width + self.variable_bytes
    }

    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let finished = self.record.finish(self.rows);
        if finished.is_err() {
            // The columns after the one that failed still hold their rows.
            self.record.truncate(0);
        }
        self.rows = 0;
        self.payload_bytes = 0;
        self.variable_bytes = 0;
        finished
    }

    #[cfg(test)]
    pub(super) fn pretend_to_hold(&mut self, bytes: usize) {
        self.variable_bytes = bytes.saturating_sub(self.rows * self.row_width);
    }

    pub(super) fn take_unknown_fields(&mut self) -> u64 {
        std::mem::take(&mut self.unknown_fields)
    }
}

/// Reads the payload, which `s` is at the beginning of.
fn read(payload: &[u8], s: &mut Scanner<'_>, record: &mut StructColumn) -> Step<()> {
    // Most payloads are ASCII, which is found out faster.
    if !is_ascii(payload) {
        check_utf8(payload)?;
    }
    let start = s.space(0);
    let is_object = s.byte(start) == b'{';
    let end = if is_object { read_struct(s, start, record)? } else { s.skip_value(start)? };
    let after = s.space(end);
    if after != payload.len() {
        return Err(s.syntax(after, "nothing after the record"));
    }
    if !is_object {
        let value = s.since(start, end);
        return Err(RecordError::expected(Reason::NotObject, "an object", value));
    }
    Ok(())
}

fn check_utf8(payload: &[u8]) -> Step<()> {
    if let Err(error) = std::str::from_utf8(payload) {
        let at = error.valid_up_to();
        let what = format!("UTF-8 at byte {at}");
        let found = payload.get(at..).unwrap_or(&[]);
        return Err(RecordError::expected(Reason::NotUtf8, what, found));
    }
    if payload.starts_with(BYTE_ORDER_MARK) {
        let detail = "a byte order mark is no part of a JSON text";
        return Err(RecordError::boxed(Reason::NotJson, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn decoder() -> JsonDecoder {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
        JsonDecoder::new(&schema, &Defaults::new()).unwrap()
    }

    #[test]
    fn a_batch_without_room_is_full_and_takes_the_record_when_it_was_finished() {
        let mut decoder = decoder();
        assert_eq!(decoder.push(b"{\"id\":1}"), Pushed::Row);
        decoder.pretend_to_hold(ADDRESSABLE - 7);
        // Too long beside what is there, and too large.
        for payload in [&b"{\"id\":2222222}"[..], b"{}"] {
            assert_eq!(decoder.push(payload), Pushed::Full);
            assert_eq!((decoder.rows(), decoder.record.length), (1, 1));
        }
        assert_eq!(decoder.finish().unwrap()[0].len(), 1);
        assert_eq!(decoder.push(b"{}"), Pushed::Row);
        assert_eq!(decoder.finish().unwrap()[0].null_count(), 1);
    }

    #[test]
    fn a_record_that_no_batch_has_room_for_is_bad() {
        let mut decoder = decoder();
        decoder.row_width = ADDRESSABLE + 1;
        let Pushed::Bad(error) = decoder.push(b"{}") else { panic!("it was taken") };
        assert_eq!(error.reason, Reason::TooLarge);
        assert_eq!((decoder.rows(), decoder.record.length), (0, 0));
    }
}
