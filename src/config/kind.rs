//! What values settings take.

use std::fmt;

/// What values a setting takes. Bounds include both ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Any text, described in words.
    Text(&'static str),
    /// A whole number.
    Integer {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A whole number, or one word in its place.
    IntegerOr {
        /// The word.
        word: &'static str,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A number, with or without decimals.
    Number {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// `true` or `false`.
    Bool,
    /// One of these words, in any case.
    OneOf(&'static [&'static str]),
    /// Path of a file that exists. `[kafka]` paths may be a directory too.
    ExistingPath,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(words) => f.write_str(words),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::IntegerOr { word, min, max } => {
                write!(f, "`{word}`, or a whole number from {min} to {max}")
            }
            Self::Number { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Bool => f.write_str("`true` or `false`"),
            Self::OneOf(words) => {
                for (index, word) in words.iter().enumerate() {
                    let separator = match index {
                        0 => "",
                        _ if index + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{separator}`{word}`")?;
                }
                Ok(())
            }
            Self::ExistingPath => f.write_str("path of a file that exists and can be read"),
        }
    }
}
