//! Log lines on standard error, for people or as JSON.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::base::masking::mask_text;
use crate::base::one_line::{MOST_CHARS, one_line};
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
        .with_ansi(false)
        // Complaining about a closed standard error on standard error would panic.
        .log_internal_errors(false);
    Ok(match log.format {
        LogFormat::Text => Box::new(builder.fmt_fields(MaskedFields).with_writer(writer).finish()),
        LogFormat::Json => {
            Box::new(builder.json().flatten_event(true).with_writer(MaskedJson(writer)).finish())
        }
    })
}

/// Writes the fields of events and spans as text, each without the passwords of the addresses in it,
/// whoever logs it: libraries log too. Masking comes before the formatter's escapes, which a password
/// may otherwise be taken to end at.
struct MaskedFields;

impl<'w> FormatFields<'w> for MaskedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut masked = MaskedVisitor(DefaultVisitor::new(writer, true));
        fields.record(&mut masked);
        masked.0.finish()
    }
}

struct MaskedVisitor<'w>(DefaultVisitor<'w>);

impl Visit for MaskedVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.record_str(field, &shown(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.0.record_error(field, &MaskedError::new(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let masked = shown(&format!("{value:?}"));
        self.0.record_debug(field, &format_args!("{masked}"));
    }
}

/// A value of a field: without passwords, on one line, cut.
fn shown(value: &str) -> String {
    one_line(&mask_text(value))
}

/// The words of an error and of its causes.
#[derive(Debug)]
struct MaskedError {
    words: String,
    cause: Option<Box<Self>>,
}

impl MaskedError {
    fn new(error: &(dyn Error + 'static)) -> Self {
        let cause = error.source().map(|cause| Box::new(Self::new(cause)));
        Self { words: shown(&error.to_string()), cause }
    }
}

impl fmt::Display for MaskedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl Error for MaskedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// Does to lines of JSON what [`MaskedFields`] does to text. The formatter for JSON gives nobody a look at
/// the values of an event before it encodes them.
struct MaskedJson<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for MaskedJson<W> {
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
            Ok(text) if text.contains("://") || text.len() > MOST_CHARS => {
                self.0.write_all(mask_json(text).as_bytes())?
            }
            _ => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// JSON escapes by itself what ends lines.
fn cut(text: String) -> String {
    if text.len() > MOST_CHARS { one_line(&text) } else { text }
}

/// A line of JSON with each of its strings decoded, masked and encoded again: of what stands between the
/// quotes an escape could be taken for a part of an address, and JSON without it is none.
fn mask_json(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(begin) = rest.find('"') {
        let (before, from) = rest.split_at(begin);
        let mut strings = serde_json::Deserializer::from_str(from).into_iter::<String>();
        let Some(Ok(string)) = strings.next() else { break };
        let (encoded, after) = from.split_at(strings.byte_offset());
        masked.push_str(before);
        match cut(mask_text(&string)) {
            same if same == string => masked.push_str(encoded),
            other => masked.push_str(&serde_json::Value::String(other).to_string()),
        }
        rest = after;
    }
    // No string is left, or this is no JSON.
    masked + &mask_text(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::log_lines::LogLines;

    /// What is written when `log` runs.
    fn written(level: &str, format: LogFormat, log: impl FnOnce()) -> String {
        let lines = LogLines::default();
        let writer = lines.clone();
        let settings = Log { level: level.to_owned(), format };
        let subscriber = subscriber(&settings, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        lines.text()
    }

    fn logged(level: &str, format: LogFormat) -> String {
        written(level, format, || {
            tracing::info!(epoch = 7, "sealed");
            tracing::debug!("detail");
            tracing::trace!(
                at = "https://me:hunter2@lake",
                "asks postgres://db/c?password=hunter2"
            );
        })
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

    /// A message and its fields in every way in which a value can be logged.
    fn log_everywhere(text: &str) {
        let error = io::Error::other(MaskedError { words: text.to_owned(), cause: None });
        let error: &(dyn Error + 'static) = &error;
        let span = tracing::info_span!("doing", of = text, shown = %text, quoted = ?text);
        let _entered = span.enter();
        tracing::info!(of = text, shown = %text, quoted = ?text, error, "{text}");
        tracing::info!(message = text);
    }

    fn objects(lines: &str) -> Vec<serde_json::Value> {
        lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    #[test]
    fn what_a_server_quotes_is_logged_as_it_is() {
        let text = "cannot reach \"http://minio:9000\" (http://minio:9000), \\\"s3://b/token=1\\\"";
        for object in objects(&written("info", LogFormat::Json, || log_everywhere(text))) {
            assert_eq!(object["message"], text);
        }
        let shown = written("info", LogFormat::Text, || log_everywhere(text));
        assert_eq!(shown.matches(text).count(), 6, "{shown}");
        assert!(!shown.contains("***"), "{shown}");
    }

    /// Words, quotes, escapes and brackets, and addresses among them.
    const PIECES: &str = "([\"'`\\\\\n\t\r\u{7f}\u{e9}()\\[\\]{}<>,.:;= a-z]|\\\\n|[a-z]{2,4}|\
        [ (\\[{\"'`=<](http://minio:9000|http://\\[::1\\]:9000/b|s3://b/token_x/k=0/f|file:///secrets/f=1)\
        [)\\]}\"'`>,.:;]{0,2}[ \n]){0,12}";

    proptest::proptest! {
        #[test]
        fn without_a_secret_each_line_of_json_has_its_message_as_it_was(text in PIECES) {
            let lines = written("info", LogFormat::Json, || log_everywhere(&text));
            let objects = objects(&lines);
            proptest::prop_assert_eq!(objects.len(), 2);
            for object in &objects {
                proptest::prop_assert_eq!(object["message"].as_str(), Some(text.as_str()));
                proptest::prop_assert_eq!(object["span"]["of"].as_str(), Some(text.as_str()));
            }
            proptest::prop_assert_eq!(objects[0]["shown"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn a_secret_is_in_no_line_of_either_format(
            before in PIECES,
            uri in "(postgres://ice:hunter2@db/c|http://hunter2@lake/x|s3://AKIA:hunter2@b/k\
                |http://lake/b\\?x=1&token=hunter2|postgres://db/c\\?password=hunter2&x=1\
                |postgres://ice:hunter2|jdbc:postgresql://ice:hun\\)ter2-hunter2@db)",
            after in PIECES,
        ) {
            for space in ["", " ", "(", "\"", "\n", "'", "\\"] {
                let text = format!("{before}{space}{uri}{space}{after}");
                for format in [LogFormat::Text, LogFormat::Json] {
                    let lines = written("info", format, || log_everywhere(&text));
                    proptest::prop_assert!(!lines.contains("hunter2"), "{}", lines);
                    if format == LogFormat::Json {
                        proptest::prop_assert_eq!(objects(&lines).len(), 2);
                    }
                }
            }
        }
    }

    #[test]
    fn what_others_say_is_no_line_of_its_own_and_is_cut() {
        let forged = "no\n2026-01-01T00:00:00Z  INFO icestream: all is well\r\u{1b}[2K";
        let long = "x".repeat(3 * MOST_CHARS);
        for text in [forged, &long] {
            let shown = written("info", LogFormat::Text, || log_everywhere(text));
            assert_eq!(shown.lines().count(), 2, "{shown}");
            assert!(!shown.contains(['\r', '\u{1b}']), "{shown}");
            // Two lines of eleven and seven values; those of JSON are as many.
            assert!(shown.len() < 20 * (MOST_CHARS + 100), "{}", shown.len());
            let json = written("info", LogFormat::Json, || log_everywhere(text));
            assert!(json.len() < 20 * (MOST_CHARS + 100), "{}", json.len());
            for object in objects(&json) {
                let message = object["message"].as_str().unwrap();
                assert!(text.starts_with(message.split("... (").next().unwrap()), "{message}");
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
