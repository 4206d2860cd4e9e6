//! Why a payload is a bad record, and why a schema cannot be decoded into.

use std::fmt::{self, Write as _};

/// Bytes of a refused value that an error shows at most.
const SHOWN_BYTES: usize = 64;

/// What stands before the value in a fault's words.
const FOUND: &str = ", found ";

/// A payload that is not a row of the table. Nothing of it was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad record ({reason}){at}: {detail}", at = At(path))]
pub struct RecordError {
    /// What kind of fault it is: a closed set, fit for a metric label.
    pub reason: Reason,
    /// Where, from the top of the record: `meta.ver`, `tags[3]`. Empty for the record as a whole.
    pub path: String,
    /// What was expected and what was found, with at most 64 bytes of the value, escaped.
    pub detail: String,
}

/// A fault, or what was read. Boxed: a fault is rare and a pointer is cheap to hand on.
pub(super) type Step<T> = Result<T, Box<RecordError>>;

impl RecordError {
    #[cold]
    pub(super) fn boxed(reason: Reason, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { reason, path: String::new(), detail: detail.into() })
    }

    /// `expected {what}, found {value}`.
    #[cold]
    pub(super) fn expected(reason: Reason, what: impl fmt::Display, value: &[u8]) -> Box<Self> {
        Self::boxed(reason, format!("expected {what}{FOUND}{}", Shown(value)))
    }

    /// The same fault without what was found, which may be nobody's to read.
    #[cold]
    pub(crate) fn without_value(mut self) -> Self {
        if let Some((expected, _)) = self.detail.split_once(FOUND) {
            self.detail = format!("{expected}{FOUND}a value that is not shown");
        }
        self
    }

    /// The same fault, seen from the struct that holds the field `name`.
    #[cold]
    pub(super) fn in_field(mut self: Box<Self>, name: &str) -> Box<Self> {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{separator}{}", self.path);
        self
    }

    /// The same fault, seen from the list or map that holds the element `index`.
    #[cold]
    pub(super) fn in_element(mut self: Box<Self>, index: usize) -> Box<Self> {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("[{index}]{separator}{}", self.path);
        self
    }
}

/// ` at {path}`, or nothing.
struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " at {}", self.0) }
    }
}

/// The beginning of a value, escaped, on one line.
pub(super) struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..SHOWN_BYTES).unwrap_or(self.0);
        f.write_char('`')?;
        // A multi-byte character cut at the limit, or bytes that are not UTF-8, show as U+FFFD.
        for c in String::from_utf8_lossy(shown).chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        f.write_char('`')?;
        if shown.len() < self.0.len() {
            write!(f, " and {} more bytes", self.0.len() - shown.len())
        } else {
            Ok(())
        }
    }
}

/// The kinds of faults a payload can have. `label` names them in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Not one JSON text by RFC 8259: blank, truncated, trailing bytes, bad syntax.
    NotJson,
    /// Bytes that are not UTF-8, anywhere in the payload.
    NotUtf8,
    /// A JSON text whose top is not an object.
    NotObject,
    /// Nested deeper than the limit, also inside fields that the table lacks.
    TooDeep,
    /// A JSON type that the column's type does not take: a string for an `int`.
    WrongType,
    /// The right JSON type with text that the column's type does not take: `"tomorrow"` for a `date`.
    BadText,
    /// A value that the column's type cannot hold: 3000000000 for an `int`.
    OutOfRange,
    /// A value that would have to be rounded: 1.5 for an `int`.
    Inexact,
    /// A required field is absent or null.
    MissingField,
    /// A field of the table, or a map's key, occurs twice in one object.
    DuplicateKey,
    /// One record, or what it becomes in the columns, is larger than a share of `MEMORY_LIMIT_MB`.
    TooLarge,
}

impl Reason {
    /// Every reason for which a record is bad, so that metrics can show a zero for each.
    pub const ALL: [Self; 11] = [
        Self::NotJson,
        Self::NotUtf8,
        Self::NotObject,
        Self::TooDeep,
        Self::WrongType,
        Self::BadText,
        Self::OutOfRange,
        Self::Inexact,
        Self::MissingField,
        Self::DuplicateKey,
        Self::TooLarge,
    ];

    /// The reason as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotUtf8 => "not_utf8",
            Self::NotObject => "not_object",
            Self::TooDeep => "too_deep",
            Self::WrongType => "wrong_type",
            Self::BadText => "bad_text",
            Self::OutOfRange => "out_of_range",
            Self::Inexact => "inexact",
            Self::MissingField => "missing_field",
            Self::DuplicateKey => "duplicate_key",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A column of the table that no JSON value can be decoded into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode JSON into column {path} of Arrow type {data_type}: {why}")]
pub struct UnsupportedSchema {
    /// The column, from the top of the schema.
    pub path: String,
    /// Its Arrow type.
    pub data_type: String,
    /// What the decoder takes instead.
    pub why: &'static str,
}
