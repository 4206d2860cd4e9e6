//! What a client library logs while it reads secrets, without the values: sqlx repeats a parameter
//! that it does not know, and a line of a password file that it cannot read.

use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Runs `read`, whose warnings are then logged without their values. It must not wait.
pub(super) fn without_values<T>(read: impl FnOnce() -> T) -> T {
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let result = tracing::subscriber::with_default(Listener(heard.clone()), read);
    for words in heard.lock().drain(..) {
        tracing::warn!("ICEBERG_CATALOG_URI: {words}");
    }
    result
}

struct Listener(Arc<Mutex<Vec<String>>>);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        self.0.lock().push(words.shown());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, and of its values those that tell what it is about.
#[derive(Default)]
struct Words {
    message: String,
    /// A file, or the name of a parameter.
    about: Option<String>,
    /// A name without a value is a part of a password that has `&` in it.
    has_value: bool,
}

impl Words {
    fn shown(self) -> String {
        match self.about.filter(|_| self.has_value) {
            Some(about) => format!("{}: {about}", self.message),
            None => self.message,
        }
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            "key" => self.about = Some(text),
            "path" => (self.about, self.has_value) = (Some(text), true),
            "value" => self.has_value = !text.is_empty(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::*;
    use crate::base::log_lines::LogLines;

    /// What is logged while `read` runs.
    fn logged(read: impl FnOnce()) -> String {
        let lines = LogLines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, read);
        lines.text()
    }

    const URI: &str = "postgres://h/d?user=ice&password=hun&hunter2&sslpassword=hunter2&sslmod=off";

    #[test]
    fn a_parameter_that_sqlx_does_not_know_is_named_without_its_value() {
        let shown = logged(|| {
            without_values(|| URI.parse::<PgConnectOptions>()).unwrap();
        });
        assert!(!shown.contains("hunter2"), "{shown}");
        for name in ["sslpassword", "sslmod"] {
            assert!(shown.contains(&format!("unrecognized connect parameter: {name}")), "{shown}");
        }
        assert_eq!(shown.lines().count(), 3, "{shown}");
    }

    #[test]
    fn sqlx_itself_shows_the_value() {
        let shown = logged(|| drop(URI.parse::<PgConnectOptions>().unwrap()));
        assert!(shown.contains("hunter2"), "nothing to hide any more: {shown}");
    }
}
