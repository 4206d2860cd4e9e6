//! What a manifest is to tell of each column: Iceberg's metrics modes.

use std::collections::{HashMap, HashSet};

use iceberg::spec::{Datum, PrimitiveLiteral, PrimitiveType, Schema, StructType, Type};

use super::WriteError;

const DEFAULT: &str = "write.metadata.metrics.default";
const INFERRED: &str = "write.metadata.metrics.max-inferred-column-defaults";
const OF_COLUMN: &str = "write.metadata.metrics.column.";
/// Columns with metrics, where the table does not name a default: metadata of tables with
/// thousands of columns would outgrow their data. Iceberg's own number.
const MOST_INFERRED: usize = 100;
/// Characters of a text, bytes of a binary value, that a bound has. Iceberg's own number.
const BOUND: usize = 16;
/// The most of them that a bound has, whatever is asked for: it is in a checkpoint, in a manifest that
/// every reader reads and in each merge of manifests, and a value may have as many bytes as a record.
const LONGEST: usize = 16 << 10;

/// What a manifest tells of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only its size.
    None,
    /// Counts of values, nulls and NaN.
    Counts,
    /// Also bounds, of so many characters of a text or bytes of a binary value.
    Truncate(usize),
}

/// The mode of each column of a table, by field id.
#[derive(Debug)]
pub(super) struct Modes {
    default: Mode,
    columns: HashMap<i32, Mode>,
}

impl Modes {
    /// As the table's properties say. A property for a column that the table does not have says
    /// nothing: the column may have been dropped.
    pub(super) fn new(
        schema: &Schema,
        properties: &HashMap<String, String>,
    ) -> Result<Self, WriteError> {
        let mut columns = HashMap::new();
        let default = match properties.get(DEFAULT) {
            Some(text) => parse(DEFAULT, text)?,
            None => {
                let most = match properties.get(INFERRED) {
                    Some(text) => text.trim().parse().map_err(|_| {
                        refused(INFERRED, text, "a whole number of columns is wanted")
                    })?,
                    None => MOST_INFERRED,
                };
                let first = first_columns(schema, most);
                columns.extend(first.into_iter().map(|id| (id, Mode::Truncate(BOUND))));
                Mode::None
            }
        };
        for (key, text) in properties {
            if let Some(name) = key.strip_prefix(OF_COLUMN) {
                let mode = parse(key, text)?;
                if let Some(field) = schema.field_by_name(name) {
                    columns.insert(field.id, mode);
                }
            }
        }
        Ok(Self { default, columns })
    }

    /// The mode of a column.
    pub(super) fn of(&self, field_id: i32) -> Mode {
        self.columns.get(&field_id).copied().unwrap_or(self.default)
    }

    /// Bytes that the statistics of a Parquet file need for all bounds to be as long as asked.
    pub(super) fn statistics_bytes(&self) -> usize {
        /// Of a character in UTF-8.
        const WIDEST: usize = 4;
        let modes = self.columns.values().chain([&self.default]);
        let lengths = modes.map(|mode| match mode {
            Mode::None | Mode::Counts => 1,
            Mode::Truncate(length) => length.saturating_mul(WIDEST),
        });
        lengths.fold(1, usize::max)
    }
}

impl Mode {
    pub(super) fn counts(self) -> bool {
        self != Self::None
    }

    /// A lower bound as long as the mode allows; none if it allows none.
    pub(super) fn lower(self, bound: Datum) -> Option<Datum> {
        match self {
            Self::None | Self::Counts => None,
            Self::Truncate(length) => Some(match bound.literal() {
                PrimitiveLiteral::String(text) => match text.char_indices().nth(length) {
                    Some((end, _)) => Datum::string(text.get(..end).unwrap_or_default()),
                    None => bound,
                },
                PrimitiveLiteral::Binary(bytes) if is_binary(&bound) && bytes.len() > length => {
                    Datum::binary(bytes.iter().take(length).copied())
                }
                _ => bound,
            }),
        }
    }

    /// An upper bound as long as the mode allows; none if it allows none, or if what is left of a
    /// longer value cannot be rounded up.
    pub(super) fn upper(self, bound: Datum) -> Option<Datum> {
        match self {
            Self::None | Self::Counts => None,
            Self::Truncate(length) => match bound.literal() {
                PrimitiveLiteral::String(text) => match text.char_indices().nth(length) {
                    Some((end, _)) => next_text(text.get(..end)?).map(Datum::string),
                    None => Some(bound),
                },
                PrimitiveLiteral::Binary(bytes) if is_binary(&bound) && bytes.len() > length => {
                    next_bytes(bytes.get(..length)?).map(Datum::binary)
                }
                _ => Some(bound),
            },
        }
    }
}

/// Values of fixed length are held as bytes too, and are never cut.
fn is_binary(bound: &Datum) -> bool {
    matches!(bound.data_type(), PrimitiveType::Binary)
}

/// The least text of at most as many characters that is above all that begin with `text`.
fn next_text(text: &str) -> Option<String> {
    text.char_indices().rev().find_map(|(at, last)| {
        let next = ((last as u32 + 1)..=(char::MAX as u32)).find_map(char::from_u32)?;
        Some(format!("{}{next}", text.get(..at)?))
    })
}

/// The least value of at most as many bytes that is above all that begin with `bytes`.
fn next_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
    let at = bytes.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut next = bytes.get(..=at)?.to_vec();
    *next.last_mut()? += 1;
    Some(next)
}

fn parse(key: &str, text: &str) -> Result<Mode, WriteError> {
    let mode = text.trim().to_ascii_lowercase();
    let length = || mode.strip_prefix("truncate(")?.strip_suffix(')')?.trim().parse().ok();
    match mode.as_str() {
        "none" => Ok(Mode::None),
        "counts" => Ok(Mode::Counts),
        "full" => Ok(Mode::Truncate(LONGEST)),
        _ => match length() {
            Some(length @ 1..) => Ok(Mode::Truncate(length.min(LONGEST))),
            _ => Err(refused(key, text, "none, counts, full or truncate(length) is wanted")),
        },
    }
}

fn refused(key: &str, value: &str, reason: &str) -> WriteError {
    WriteError::Property { key: key.into(), value: value.into(), reason: reason.into() }
}

/// The first columns with values of their own: those of the table before those within them.
fn first_columns(schema: &Schema, most: usize) -> HashSet<i32> {
    let (mut ids, mut level) = (Vec::new(), vec![schema.as_struct()]);
    while !level.is_empty() && ids.len() < most {
        let mut below: Vec<&StructType> = Vec::new();
        for field in level.iter().flat_map(|fields| fields.fields()) {
            match field.field_type.as_ref() {
                Type::Primitive(_) => ids.push(field.id),
                nested => collect(nested, &mut ids, &mut below),
            }
        }
        level = below;
    }
    ids.into_iter().take(most).collect()
}

fn collect<'a>(kind: &'a Type, ids: &mut Vec<i32>, below: &mut Vec<&'a StructType>) {
    let mut each = |id: i32, kind: &'a Type| match kind {
        Type::Primitive(_) => ids.push(id),
        nested => collect(nested, ids, below),
    };
    match kind {
        Type::Primitive(_) => {}
        Type::Struct(fields) => below.push(fields),
        Type::List(list) => {
            each(list.element_field.id, &list.element_field.field_type);
        }
        Type::Map(map) => {
            each(map.key_field.id, &map.key_field.field_type);
            each(map.value_field.id, &map.value_field.field_type);
        }
    }
}

#[cfg(test)]
mod tests {
    use iceberg::spec::NestedField;

    use super::*;

    fn schema(columns: i32) -> Schema {
        let fields = (1..=columns).map(|id| {
            NestedField::optional(id, format!("c{id}"), Type::Primitive(PrimitiveType::String))
                .into()
        });
        Schema::builder().with_fields(fields).build().unwrap()
    }

    fn modes(columns: i32, pairs: &[(&str, &str)]) -> Result<Modes, WriteError> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Modes::new(&schema(columns), &pairs.collect())
    }

    #[test]
    fn a_table_that_says_nothing_has_bounds_of_16_on_its_first_hundred_columns() {
        let modes = modes(120, &[]).unwrap();
        assert_eq!(modes.of(1), Mode::Truncate(16));
        assert_eq!(modes.of(100), Mode::Truncate(16));
        assert_eq!(modes.of(101), Mode::None);
        assert_eq!(modes.statistics_bytes(), 64);
    }

    #[test]
    fn the_tables_words_win_and_a_columns_before_the_default() {
        let properties = [
            (DEFAULT, "counts"),
            ("write.metadata.metrics.column.c2", "Full"),
            ("write.metadata.metrics.column.c3", "truncate(4)"),
            ("write.metadata.metrics.column.gone", "none"),
        ];
        let modes = modes(3, &properties).unwrap();
        let full = Mode::Truncate(LONGEST);
        assert_eq!([1, 2, 3].map(|id| modes.of(id)), [Mode::Counts, full, Mode::Truncate(4)]);
        assert_eq!(modes.statistics_bytes(), 4 * LONGEST);
    }

    #[test]
    fn no_bound_is_longer_than_what_many_may_have_to_read() {
        for asked in ["full", "truncate(900000000)"] {
            let mode = modes(1, &[(DEFAULT, asked)]).unwrap().of(1);
            let (value, cut) = ("é".repeat(LONGEST + 1), "é".repeat(LONGEST - 1));
            assert_eq!(mode.lower(Datum::string(&value)), Some(Datum::string(cut.clone() + "é")));
            assert_eq!(mode.upper(Datum::string(&value)), Some(Datum::string(cut + "ê")));
        }
    }

    #[test]
    fn more_inferred_columns_can_be_asked_for() {
        let modes = modes(120, &[(INFERRED, "110")]).unwrap();
        assert_eq!((modes.of(110), modes.of(111)), (Mode::Truncate(16), Mode::None));
    }

    #[test]
    fn a_mode_that_is_none_is_named_with_its_property() {
        for text in ["truncate(0)", "truncate()", "some", "truncate(-1)"] {
            let error = modes(1, &[("write.metadata.metrics.column.c1", text)]).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("metrics.column.c1") && error.contains(text), "{error}");
        }
        assert!(modes(1, &[(INFERRED, "all")]).unwrap_err().to_string().contains("all"));
    }

    #[test]
    fn bounds_are_cut_by_characters_and_the_upper_one_is_rounded_up() {
        let mode = Mode::Truncate(2);
        let text = |text: &str| Datum::string(text);
        assert_eq!(mode.lower(text("äöü")), Some(text("äö")));
        assert_eq!(mode.upper(text("äöü")), Some(text("ä÷")));
        assert_eq!(mode.upper(text("äö")), Some(text("äö")));
        assert_eq!(mode.upper(text("a\u{D7FF}x")), Some(text("a\u{E000}")));
        assert_eq!(mode.upper(text("a\u{10FFFF}x")), Some(text("b")));
        assert_eq!(mode.upper(text("\u{10FFFF}\u{10FFFF}x")), None);
        assert_eq!(mode.lower(Datum::binary([1, 2, 3])), Some(Datum::binary([1, 2])));
        assert_eq!(mode.upper(Datum::binary([1, 255, 3])), Some(Datum::binary([2])));
        assert_eq!(mode.upper(Datum::binary([255, 255, 3])), None);
    }

    #[test]
    fn values_of_fixed_length_are_never_cut() {
        let mode = Mode::Truncate(1);
        for whole in [Datum::fixed([1, 2, 3]), Datum::long(7), Datum::uuid(uuid::Uuid::nil())] {
            assert_eq!(mode.lower(whole.clone()), Some(whole.clone()));
            assert_eq!(mode.upper(whole.clone()), Some(whole.clone()));
            assert_eq!(Mode::Counts.upper(whole), None);
        }
    }
}
