//! Reads an env file with line numbers, and with every problem of it at once.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use super::error::Problem;
use super::lookup;
use crate::base::masking::mask;

/// The names and values of an env file.
#[derive(Default)]
pub(super) struct EnvFile {
    /// Name and value, in the order of the file.
    pub(super) values: Vec<(String, String)>,
    /// Names that stand on lines with a problem: they are set, though not to anything usable.
    pub(super) unusable: Vec<String>,
    /// What is wrong with the file.
    pub(super) problems: Vec<Problem>,
}

/// Parses the text of the env file at `path`. Quotes, escapes, comments, `export` and `${NAME}`
/// are understood as `docker compose` does.
pub(super) fn parse(path: &Path, text: &str) -> EnvFile {
    let mut text = text.trim_start_matches('\u{feff}').to_owned();
    // Where nothing follows a space, not even the end of its line, the parser reports an error.
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let lines: Vec<&str> = text.lines().collect();
    let taken = Rc::new(Cell::new(0));
    let reader = LineReader { rest: text.as_bytes(), taken: Rc::clone(&taken) };
    let mut entries = dotenvy::from_read_iter(reader);
    let mut file = EnvFile::default();
    let mut seen = BTreeMap::new();
    loop {
        let before = taken.get();
        let Some(entry) = entries.next() else { break };
        let taken_lines = lines.get(before..taken.get().min(lines.len())).unwrap_or_default();
        let skipped = taken_lines.iter().take_while(|line| is_blank(line)).count();
        let line = before + skipped + 1;
        let raw = taken_lines.get(skipped..).unwrap_or_default().join("\n");
        let Written { variables, cut } = written(&raw);
        // The parser drops a backslash that nothing follows: a password would be another one.
        let Some((name, value)) = entry.ok().filter(|_| !cut) else {
            file.unusable.extend(name_of(&raw));
            file.problems.push(Problem::MalformedLine { path: path.to_owned(), line });
            continue;
        };
        let (first, path) = (seen.get(&name).copied(), path.to_owned());
        if let Some(first) = first {
            file.problems.push(Problem::Twice { name, path, first, second: line });
            continue;
        }
        let unset = variables
            .into_iter()
            .find(|variable| !seen.contains_key(variable) && std::env::var_os(variable).is_none());
        seen.insert(name.clone(), line);
        match unset {
            Some(variable) => {
                file.unusable.push(name.clone());
                let variable = Some(variable).filter(|_| may_be_shown(&name, &raw));
                file.problems.push(Problem::UnsetVariable { name, variable, path, line });
            }
            None => file.values.push((name, value)),
        }
    }
    file
}

/// Gives out one line at a time, so that the lines taken so far tell where the parser is.
struct LineReader<'a> {
    rest: &'a [u8],
    taken: Rc<Cell<usize>>,
}

impl Read for LineReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let line =
            self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let count = line.min(buffer.len());
        let (given, rest) = self.rest.split_at(count);
        buffer[..count].copy_from_slice(given);
        self.rest = rest;
        // A line without an end is the last one; a line longer than the buffer ends later.
        if given.ends_with(b"\n") || (count > 0 && rest.is_empty()) {
            self.taken.set(self.taken.get() + 1);
        }
        Ok(count)
    }
}

/// May a part of the value of `name` be shown? A password with a dollar sign in it looks like a variable,
/// so only if the name is that of a setting in which no password stands, not even inside a URI.
fn may_be_shown(name: &str, raw: &str) -> bool {
    let has_uri = name.contains("URI") || name.contains("URL") || raw.contains("://");
    let of_setting = lookup::by_name(name).is_some_and(|doc| !doc.secret);
    let value = raw.split_once('=').map_or(raw, |(_, value)| value);
    of_setting && !has_uri && mask(false, value) == value
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

fn name_of(raw: &str) -> Option<String> {
    let (name, _) = raw.split_once('=')?;
    let name = name.trim();
    Some(name.strip_prefix("export ").unwrap_or(name).trim().to_owned())
}

/// What is written for a value.
#[derive(Default)]
struct Written {
    /// The variables that it refers to: `$` outside single quotes and not escaped.
    variables: Vec<String>,
    /// Does it end in a backslash that escapes nothing?
    cut: bool,
}

fn written(raw: &str) -> Written {
    let mut found = Written::default();
    let Some((_, value)) = raw.split_once('=') else { return found };
    let (mut single, mut double) = (false, false);
    let mut chars = value.chars().peekable();
    let mut previous = ' ';
    while let Some(c) = chars.next() {
        match c {
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            '\\' if !single => found.cut = chars.next().is_none(),
            '#' if !single && !double && previous.is_whitespace() => break,
            '$' if !single => {
                let braced = chars.next_if_eq(&'{').is_some();
                let mut name = String::new();
                // The parser's own rule: without braces an underscore ends the name.
                while let Some(c) =
                    chars.next_if(|c| if braced { *c != '}' } else { c.is_alphanumeric() })
                {
                    name.push(c);
                }
                found.variables.push(name);
            }
            _ => {}
        }
        previous = c;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<(String, String)>, Vec<String>) {
        let file = parse(Path::new("my.env"), text);
        (file.values, file.problems.iter().map(ToString::to_string).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn quotes_comments_export_and_references_are_understood() {
        let text = "\u{feff}A=1\n# comment\n\nexport B='two words' # why\nC=\"x\\ny\"\nD=${A}5\r\nE=\nF='a$b'\nG=a\\$b";
        let (values, problems) = parsed(text);
        assert_eq!(problems, Vec::<String>::new());
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "x\ny"),
            ("D", "15"),
            ("E", ""),
            ("F", "a$b"),
            ("G", "a$b"),
        ];
        assert_eq!(values, pairs(&expected));
    }

    #[test]
    fn every_bad_line_is_named_by_its_number_and_never_shown() {
        let text = "A=1\n\n# c\nPASSWORD=hunter2 hunter3\nB=2\nno equals hunter2\nC=\"un\nclosed hunter2\n";
        let file = parse(Path::new("my.env"), text);
        let lines: Vec<usize> = file
            .problems
            .iter()
            .map(|problem| match problem {
                Problem::MalformedLine { line, .. } => *line,
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(lines, [4, 6, 7]);
        assert_eq!(file.unusable, ["PASSWORD", "C"]);
        assert_eq!(file.values, pairs(&[("A", "1"), ("B", "2")]));
        assert!(!format!("{:?}", file.problems).contains("hunter"));
    }

    #[test]
    fn spaces_before_the_end_of_the_file_are_no_mistake() {
        for space in [" ", "\t", "  ", " \r", "\n ", "\n\n \t"] {
            for line in ["A=1", "A='1'", "A=1 # why", "export A=\"1\""] {
                let (values, problems) = parsed(&format!("{line}{space}"));
                assert_eq!(values, pairs(&[("A", "1")]), "{line:?} {space:?}: {problems:?}");
                assert_eq!(problems, Vec::<String>::new());
            }
            assert_eq!(parsed(space), (pairs(&[]), Vec::new()));
        }
    }

    #[test]
    fn a_value_that_the_file_ends_in_is_a_problem_of_its_line() {
        for line in ["A=\"1", "A='1", "A=1\\", "A=\"1\\", "A=1 2"] {
            let (values, problems) = parsed(&format!("B=2\n{line}"));
            assert_eq!(values, pairs(&[("B", "2")]));
            assert!(problems.len() == 1 && problems[0].contains("ine 2 "), "{problems:?}");
        }
    }

    #[test]
    fn a_backslash_that_would_silently_vanish_is_a_problem() {
        for end in ["\n", "\r\n", "", "\nB=2\n"] {
            let (values, problems) = parsed(&format!("PASSWORD=hunter\\{end}"));
            assert!(values.iter().all(|(name, _)| name == "B"), "{values:?}");
            assert!(problems[0].contains("ine 1 "), "{problems:?}");
        }
        let (values, problems) = parsed("A=a\\\\\nB=b # c\\\nC='\\d'\n");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(values, pairs(&[("A", "a\\"), ("B", "b"), ("C", "\\d")]));
    }

    #[test]
    fn a_name_that_is_set_twice_is_named_with_both_lines() {
        let (values, problems) = parsed("A=1\nB=2\nA=3\n");
        assert_eq!(values, pairs(&[("A", "1"), ("B", "2")]));
        assert_eq!(problems, ["A is set twice in my.env, on lines 1 and 3: keep one"]);
    }

    #[test]
    fn a_dollar_sign_that_would_silently_vanish_is_a_problem() {
        let (values, problems) =
            parsed("P=pa$$w0rdUnset\nKAFKA_TOPIC=\"x${NOT_SET_AT_ALL}\" # $ignored\n");
        assert_eq!(values, pairs(&[]));
        assert_eq!(problems.len(), 2, "{problems:?}");
        let named =
            "KAFKA_TOPIC on line 2 of my.env refers to the variable `NOT_SET_AT_ALL`, which";
        assert!(problems[1].contains(named), "{problems:?}");
    }

    #[test]
    fn a_password_that_looks_like_a_variable_is_not_shown() {
        for line in [
            "KAFKA_SASL_PASSWORD=pa$hunter2",
            "URI=postgres://ice:pa${hunter2}@db/c",
            "ICEBERG_CATALOG_URI='host=db password=pa'${hunter2}",
            "ICEBERG_TABLE_PROPERTIES=x.token=pa${hunter2}",
            "SASL=pa${hunter2}",
            "KAFKA_SASL_PASWORD=pa$hunter2",
        ] {
            let (_, problems) = parsed(line);
            let told = "on line 1 of my.env refers to a variable that is not set: for";
            assert!(problems[0].contains(told), "{problems:?}");
            assert!(!problems[0].contains("hunter2"), "{problems:?}");
        }
    }

    #[test]
    fn a_value_longer_than_any_buffer_keeps_the_line_numbers_right() {
        let long = "x".repeat(100_000);
        let (values, problems) = parsed(&format!("A={long}\nB=two words\n"));
        assert_eq!(values, pairs(&[("A", &long)]));
        assert!(problems[0].contains("line 2"), "{problems:?}");
    }
}
