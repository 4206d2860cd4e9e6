//! Log lines on standard error, for people or as JSON.

use std::io::{self, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::base::masking::mask_text;
use crate::config::{Log, LogFormat};

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The level is neither a level nor a filter.
    #[error("LOG_LEVEL `{level}` is neither a level nor filter directives")]
    Filter {
        /// The level as it was set.
        level: String,
        /// What the filter says.
        source: ParseError,
    },
    /// Somebody else set up logging before.
    #[error("logging is set up already")]
    Twice(#[source] TryInitError),
}

/// Writes the log lines of the whole process to standard error from now on.
///
/// # Errors
/// A level that does not parse, or logging that is set up already.
pub(crate) fn init(log: &Log) -> Result<(), LogError> {
    subscriber(log, io::stderr)?.try_init().map_err(LogError::Twice)
}

fn subscriber<W>(log: &Log, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&log.level)
        .map_err(|source| LogError::Filter { level: log.level.clone(), source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Masked(writer))
        .with_ansi(false)
        // Complaining about a closed standard error on standard error would panic.
        .log_internal_errors(false);
    Ok(match log.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

/// Takes the passwords out of the addresses in each line, whoever logs it: libraries log too.
struct Masked<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Masked<W> {
    type Writer = MaskedLines<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        MaskedLines(self.0.make_writer())
    }
}

/// Is given whole lines.
struct MaskedLines<W>(W);

impl<W: Write> Write for MaskedLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match str::from_utf8(line) {
            Ok(text) if text.contains("://") => self.0.write_all(mask_text(text).as_bytes())?,
            _ => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::log_lines::LogLines;

    fn logged(level: &str, format: LogFormat) -> String {
        let lines = LogLines::default();
        let writer = lines.clone();
        let log = Log { level: level.to_owned(), format };
        let subscriber = subscriber(&log, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(epoch = 7, "sealed");
            tracing::debug!("detail");
            tracing::trace!(
                at = "https://me:hunter2@lake",
                "asks postgres://db/c?password=hunter2"
            );
        });
        lines.text()
    }

    #[test]
    fn text_is_one_line_with_level_words_and_fields() {
        let text = logged("info", LogFormat::Text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("INFO") && text.trim_end().ends_with("sealed epoch=7"), "{text}");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_beside_the_message() {
        let text = logged("info", LogFormat::Json);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["message"], "sealed");
        assert_eq!(object["epoch"], 7);
        assert_eq!(object["level"], "INFO");
    }

    #[test]
    fn no_line_shows_the_password_of_an_address() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged("trace", format);
            assert!(!text.contains("hunter2"), "{text}");
            for shown in ["https://***@lake\"", "postgres://db/c?password=***"] {
                assert!(text.contains(shown), "{text}");
            }
        }
    }

    #[test]
    fn a_level_or_directives_decide_which_lines_are_written() {
        assert_eq!(logged("debug", LogFormat::Text).lines().count(), 2);
        assert_eq!(logged("off", LogFormat::Text), "");
        assert_eq!(logged("warn,icestream::telemetry=info", LogFormat::Text).lines().count(), 1);
        assert_eq!(logged("info,icestream::telemetry=error", LogFormat::Text), "");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let log = Log { level: "a=b=c".to_owned(), format: LogFormat::Text };
        let error = subscriber(&log, io::stderr).map(drop).unwrap_err();
        assert!(error.to_string().contains("`a=b=c`"), "{error}");
    }
}
