//! Payload bytes -> rows of Arrow arrays. One payload is one row or one bad record, never both,
//! never neither; a bad record leaves no trace in the columns.
//!
//! ```text
//! simd      many bytes at once
//! number    number text -> integer, float, decimal, exactly
//! datetime  text -> date, time, timestamp
//! columns   columns planned from an Arrow schema; append, roll back, finish
//! defaults  values of columns that a record does not name
//! json      the decoder of JSON: one payload, one row
//! ```
//!
//! All but `json` know no format, and none of them uses it.
//!
//! `docs/json.md` has the table of conversions.

mod bad_record;
mod columns;
mod datetime;
mod defaults;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
mod number;
mod simd;
#[cfg(test)]
mod tests;

use std::fmt;

use arrow::array::ArrayRef;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;

pub(crate) use bad_record::BadRecord;
pub(crate) use defaults::{DefaultValue, Defaults};
pub(crate) use error::{Reason, RecordError, UnsupportedSchema};
pub(crate) use json::JsonDecoder;

/// What a decoder did with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// It is a row.
    Row,
    /// It is a bad record; no column is longer than before.
    Bad(RecordError),
    /// There is no room for it beside the rows that are there, and nothing was taken: finish them and
    /// push it again. Does not occur where [`Decoder::has_room_for`] said yes, but for a record that
    /// grows to gigabytes of nulls, and never where there are no rows.
    Full,
    /// Nothing was taken: it was written with a schema that the decoder does not have yet. The record
    /// is neither bad nor good until then.
    Needs(SchemaId),
}

/// Names a schema with which payloads were written, as a schema registry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How payloads are written: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a payload.
    Json,
}

impl Format {
    /// Payloads of this format, for people.
    pub fn payloads(self) -> &'static str {
        match self {
            Self::Json => "JSON objects",
        }
    }
}

/// A decoder by payload format.
#[derive(Debug)]
pub enum Decoder {
    /// One JSON object a payload.
    Json(JsonDecoder),
}

impl Decoder {
    /// A decoder of payloads into the columns of `schema`, which is what
    /// `iceberg::arrow::schema_to_arrow_schema` makes of a table's schema, less the columns that
    /// are not fed from the payload. A column that a payload does not name is null.
    ///
    /// # Errors
    /// A column's type is none that a table's schema leads to, or schemas nest too deeply.
    pub fn new(format: Format, schema: &Schema) -> Result<Self, UnsupportedSchema> {
        Self::with_defaults(format, schema, &Defaults::new())
    }

    /// The same, for columns of which some have a value where a payload does not name them.
    ///
    /// # Errors
    /// As [`Self::new`], and where a default is not of its column's type.
    pub(crate) fn with_defaults(
        format: Format,
        schema: &Schema,
        defaults: &Defaults,
    ) -> Result<Self, UnsupportedSchema> {
        match format {
            Format::Json => JsonDecoder::new(schema, defaults).map(Self::Json),
        }
    }

    /// Bounds what one record may take, as text and as columns; without it, 2 GiB.
    #[must_use]
    pub fn with_record_bytes(mut self, bytes: usize) -> Self {
        match &mut self {
            Self::Json(decoder) => decoder.set_record_bytes(bytes),
        }
        self
    }

    /// Appends one payload as one row, or tells why not.
    pub fn push(&mut self, payload: &[u8]) -> Pushed {
        match self {
            Self::Json(decoder) => decoder.push(payload),
        }
    }

    /// Can a payload of so many bytes be pushed before the batch has to be finished? Arrow arrays
    /// address 2 GiB; ask when payloads of many megabytes are possible.
    pub fn has_room_for(&self, payload_bytes: usize) -> bool {
        match self {
            Self::Json(decoder) => decoder.has_room_for(payload_bytes),
        }
    }

    /// Rows appended since the last [`Decoder::finish`].
    pub fn rows(&self) -> usize {
        match self {
            Self::Json(decoder) => decoder.rows(),
        }
    }

    /// Bytes that the columns hold, without spare capacity. Constant time.
    pub fn buffered_bytes(&self) -> usize {
        match self {
            Self::Json(decoder) => decoder.buffered_bytes(),
        }
    }

    /// The rows as arrays, in the order of the schema and of exactly its types. The decoder is
    /// empty afterwards, also on error, and ready for the next batch.
    ///
    /// # Errors
    /// Arrow refuses the arrays, which would be a fault of the decoder, not of the records.
    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        match self {
            Self::Json(decoder) => decoder.finish(),
        }
    }

    /// Lets the columns hold so many bytes, as far as anybody asks.
    #[cfg(test)]
    pub(crate) fn pretend_to_hold(&mut self, bytes: usize) {
        match self {
            Self::Json(decoder) => decoder.pretend_to_hold(bytes),
        }
    }

    /// Fields met in rows that the table lacks, since the last call. Bad records do not count.
    pub fn take_unknown_fields(&mut self) -> u64 {
        match self {
            Self::Json(decoder) => decoder.take_unknown_fields(),
        }
    }
}
