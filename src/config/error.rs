//! What can be wrong with settings. All problems are reported at once.

use std::fmt;
use std::path::PathBuf;

/// All that is wrong with the settings; `Display` lists every problem on a line of its own.
#[derive(Debug)]
pub(crate) struct ConfigError {
    /// The problems, in the order of the settings table.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{count} problem{} with the settings:", if count == 1 { "" } else { "s" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

/// One thing that is wrong with the settings. Values are kept masked if they are secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// A setting that must be set is not.
    #[error("{setting} is not set: set it to {allowed} (in a TOML file: `{key}`)")]
    Missing {
        /// Name of the setting.
        setting: &'static str,
        /// Its TOML key.
        key: &'static str,
        /// What it may be.
        allowed: String,
    },
    /// A value that the setting does not take.
    #[error("{setting} is `{value}` (from {source_name}): it must be {allowed}")]
    Invalid {
        /// Name of the setting.
        setting: &'static str,
        /// Where the value came from.
        source_name: String,
        /// The value, masked if it is secret.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// Settings that do not go together.
    #[error("{settings}: {reason}")]
    Conflict {
        /// Names of the settings.
        settings: &'static str,
        /// Why they do not go together and what to do.
        reason: String,
    },
    /// A value of the environment with what only a reader of an env file takes away. It is not
    /// shown: it may be a secret.
    #[error(
        "{name} in the environment has {what} in its value: `docker run --env-file` passes on what \
         stands in the file as it is. Take it out there, or let icestream read that file (`--env-file`)"
    )]
    Undressed {
        /// The name that is set.
        name: String,
        /// What should not be there.
        what: &'static str,
    },
    /// A name that is not a setting.
    #[error("unknown setting `{name}` in {source_name}{}", did_you_mean(*.suggestion))]
    Unknown {
        /// The name as it was written.
        name: String,
        /// Where it stands.
        source_name: String,
        /// The setting that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// A librdkafka property that the user may not set.
    #[error("`{property}` in [kafka.properties] of {source_name} may not be set: {reason}")]
    Owned {
        /// The property.
        property: String,
        /// Where it stands.
        source_name: String,
        /// Why not, or which setting to use.
        reason: &'static str,
    },
    /// A key of a TOML file that holds a table or list where one value is expected.
    #[error("`{key}` in {source_name} must be one text, number, `true` or `false`")]
    NotOneValue {
        /// The key.
        key: String,
        /// Where it stands.
        source_name: String,
    },
    /// The same name twice in one file.
    #[error("{name} is set twice in {path}, on lines {first} and {second}: keep one")]
    Twice {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Line of the first.
        first: usize,
        /// Line of the second.
        second: usize,
    },
    /// A line of an env file that cannot be read. Its text is not shown: it may hold a secret.
    #[error(
        "line {line} of {path} cannot be read: expected NAME=value, with a value that has spaces \
         or `#` in single quotes"
    )]
    MalformedLine {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
    },
    /// A value in an env file that refers to a variable that is not set.
    #[error(
        "{name} on line {line} of {path} refers to {}: for a dollar sign itself put the value in \
         single quotes",
        unset(variable.as_deref())
    )]
    UnsetVariable {
        /// The name that is set.
        name: String,
        /// The variable that it refers to, unless it may be a part of a secret.
        variable: Option<String>,
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
    },
    /// A TOML file that cannot be parsed. Its text is not shown: it may hold a secret.
    #[error("{path} is not a TOML file: {reason}")]
    MalformedFile {
        /// The file.
        path: PathBuf,
        /// What the parser says, without the text of the file.
        reason: String,
    },
    /// A file that cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

fn unset(variable: Option<&str>) -> String {
    let named = variable.map(|name| format!("the variable `{name}`, which is not set"));
    named.unwrap_or_else(|| String::from("a variable that is not set"))
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}
