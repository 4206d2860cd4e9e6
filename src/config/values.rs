//! The gathered values, each held against its [`Kind`].

use std::fs::File;
use std::time::Duration;

use super::EffectiveSetting;
use super::error::Problem;
use super::kind::Kind;
use super::lookup;
use super::setting::SettingDoc;
use super::settings::SETTINGS;
use super::sources::{self, Found, Gathered};
use crate::base::masking::{is_secret_name, mask};

/// The gathered values, and the problems found with them so far.
pub(super) struct Values {
    gathered: Gathered,
    warnings: Vec<String>,
}

impl Values {
    pub(super) fn new(gathered: Gathered) -> Self {
        Self { gathered, warnings: Vec::new() }
    }

    pub(super) fn check_kinds(&mut self) {
        for doc in SETTINGS {
            let wrong = self.raw(doc.name).and_then(|value| wrong(doc, value));
            if let Some(allowed) = wrong {
                self.invalid(doc.name, Some(allowed));
            }
        }
    }

    /// The text of a setting, if it is set and not known to be bad.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        let found = self.gathered.found.get(name)?;
        (!self.gathered.unusable.contains(name)).then_some(found.value.as_str())
    }

    /// The text of a setting that may stay unset.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.raw(name).map(str::to_owned)
    }

    /// The text of a setting, of which a missing one is a problem.
    pub(super) fn required(&mut self, name: &'static str) -> String {
        let text = self.text(name);
        if text.is_none() {
            self.missing(name);
        }
        text.unwrap_or_default()
    }

    /// Like [`Self::required`], and the text must satisfy `is_valid`.
    pub(super) fn required_if(
        &mut self,
        name: &'static str,
        is_valid: impl Fn(&str) -> bool,
    ) -> String {
        let text = self.required(name);
        if !text.is_empty() && !is_valid(&text) {
            self.invalid(name, None);
        }
        text
    }

    /// A word of a setting that takes one of several, in the case of the settings table.
    pub(super) fn word(&self, name: &'static str) -> Option<String> {
        let Some(Kind::OneOf(words)) = lookup::by_name(name).map(|doc| doc.kind) else {
            return None;
        };
        let text = self.raw(name)?;
        words.iter().find(|word| word.eq_ignore_ascii_case(text)).map(|word| (*word).to_owned())
    }

    /// `true` or `false`, if set.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.raw(name).and_then(parse_bool)
    }

    pub(super) fn integer(&mut self, name: &'static str) -> u64 {
        self.required(name).parse().unwrap_or_default()
    }

    pub(super) fn size(&mut self, name: &'static str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or_default()
    }

    pub(super) fn number(&mut self, name: &'static str) -> f64 {
        self.required(name).parse().unwrap_or_default()
    }

    pub(super) fn millis(&mut self, name: &'static str) -> Duration {
        Duration::from_millis(self.integer(name))
    }

    /// Where the value of a setting came from.
    pub(super) fn source(&self, name: &str) -> Option<&str> {
        self.gathered.found.get(name).map(|found| found.source.as_str())
    }

    /// The user's librdkafka properties.
    pub(super) fn properties(&self) -> Vec<(String, Found)> {
        let properties = self.gathered.properties.iter();
        properties.map(|(name, found)| (name.clone(), found.clone())).collect()
    }

    /// Shows `value` as the effective one of a setting that stood for something else.
    pub(super) fn resolve(&mut self, name: &'static str, value: String) {
        let default = Found { value: String::new(), source: sources::DEFAULT.to_owned() };
        self.gathered.found.entry(name).or_insert(default).value = value;
    }

    /// Takes a value away that does not apply.
    pub(super) fn unset(&mut self, name: &str) {
        self.gathered.found.remove(name);
    }

    /// Reports that a setting is missing, unless it is set to something already reported.
    pub(super) fn missing(&mut self, name: &'static str) {
        let Some(doc) = lookup::by_name(name) else { return };
        if !self.gathered.unusable.contains(name) {
            let allowed = doc.kind.to_string();
            self.report(Problem::Missing { setting: doc.name, key: doc.key, allowed });
        }
    }

    /// Reports the value of a setting; `allowed` says more than the settings table does.
    pub(super) fn invalid(&mut self, name: &'static str, allowed: Option<String>) {
        let (Some(doc), Some(found)) = (lookup::by_name(name), self.gathered.found.get(name))
        else {
            return;
        };
        let problem = Problem::Invalid {
            setting: doc.name,
            source_name: found.source.clone(),
            value: mask(doc.secret, &found.value),
            allowed: allowed.unwrap_or_else(|| doc.kind.to_string()),
        };
        self.gathered.unusable.insert(doc.name);
        self.report(problem);
    }

    /// Reports a problem.
    pub(super) fn report(&mut self, problem: Problem) {
        self.gathered.problems.push(problem);
    }

    /// Reports what is no mistake and should be known.
    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.gathered.problems
    }

    pub(super) fn effective(&self) -> Vec<EffectiveSetting> {
        let settings = SETTINGS.iter().filter_map(|doc| {
            let found = self.gathered.found.get(doc.name)?;
            Some((doc.name.to_owned(), doc.secret, found))
        });
        let properties =
            self.gathered.properties.iter().map(|(name, found)| {
                (format!("kafka.properties.{name}"), is_secret_name(name), found)
            });
        let shown = settings.chain(properties).map(|(name, secret, found)| EffectiveSetting {
            name,
            value: mask(secret, &found.value),
            source: found.source.clone(),
        });
        shown.collect()
    }
}

/// What `value` should be, if it is not that.
fn wrong(doc: &SettingDoc, value: &str) -> Option<String> {
    let fits = match doc.kind {
        Kind::Text(_) => true,
        Kind::Integer { min, max } => in_range(value, min, max),
        Kind::IntegerOr { word, min, max } => value == word || in_range(value, min, max),
        Kind::Number { min, max } => {
            value.parse::<f64>().is_ok_and(|number| (min..=max).contains(&number))
        }
        Kind::Bool => parse_bool(value).is_some(),
        Kind::OneOf(words) => words.iter().any(|word| word.eq_ignore_ascii_case(value)),
        Kind::ExistingPath => {
            return File::open(value).err().map(|error| format!("the {} ({error})", doc.kind));
        }
    };
    (!fits).then(|| doc.kind.to_string())
}

fn in_range(value: &str, min: u64, max: u64) -> bool {
    value.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
}

fn parse_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
