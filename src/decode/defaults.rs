//! Values of columns that a record does not name.

use std::collections::HashMap;

use arrow::datatypes::Field;

/// What a column has in a row whose record does not name it, by the id of its field.
pub(crate) type Defaults = HashMap<i32, DefaultValue>;

/// Such a value, as its column holds it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DefaultValue {
    Boolean(bool),
    /// Also of a date.
    Int(i32),
    /// Also of times and timestamps.
    Long(i64),
    Float(f32),
    Double(f64),
    Decimal(i128),
    /// Of a text, a binary or a fixed.
    Bytes(Vec<u8>),
    /// Of the defaults of its fields.
    Struct,
}

/// Where the Arrow form of a field has its id.
const FIELD_ID: &str = "PARQUET:field_id";

/// The default of a field.
pub(super) fn default_of(defaults: &Defaults, field: &Field) -> Option<DefaultValue> {
    let id = field.metadata().get(FIELD_ID)?.parse().ok()?;
    defaults.get(&id).cloned()
}
