//! What fuzzing does with env files, see [`crate::fuzzing`].

use std::collections::BTreeSet;
use std::path::Path;

use super::env_file::parse;
use super::error::Problem;

/// The text of an env file. Each name has one value, each problem stands on a line that is there,
/// and what was read is read again from a file that quotes it.
pub(crate) fn env_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("my.env");
    let file = parse(path, text);
    let names: BTreeSet<&String> = file.values.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), file.values.len(), "a name with two values");
    let lines = text.lines().count();
    let on_a_line = |line: usize| assert!((1..=lines).contains(&line), "line {line} of {lines}");
    for problem in &file.problems {
        match problem {
            Problem::MalformedLine { line, .. } | Problem::UnsetVariable { line, .. } => {
                on_a_line(*line);
            }
            Problem::Twice { first, second, .. } => {
                on_a_line(*second);
                assert!(first < second, "{first} and {second}");
            }
            other => unreachable!("{other}"),
        }
    }
    // The parser takes a backslash before a closing quote for the escape of it, and reports that.
    let quotable = |value: &str| !value.contains(['\'', '\n', '\r']) && !value.ends_with('\\');
    let values = || file.values.iter().filter(|(_, value)| quotable(value));
    let quoted: String = values().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    let again = parse(path, &quoted);
    assert!(again.problems.is_empty(), "{:?} of {quoted}", again.problems);
    assert!(again.values.iter().eq(values()), "{:?} of {quoted}", again.values);
}
