//! Gathers the settings from their sources. Later ones win: the defaults built into the program,
//! the TOML file, the env file, the environment of the process. An empty value is no value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use config::{File, FileFormat, FileSourceString, Map, Source, Value, ValueKind};

use super::env_file;
use super::error::Problem;
use super::lookup;
use super::settings::SETTINGS;
use super::suggest;

/// `config/default.toml` as it is built into the program.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");
/// How the defaults are named as a source.
pub(super) const DEFAULT: &str = "default";
const ENVIRONMENT: &str = "the environment";
/// The section whose keys are librdkafka's.
const PROPERTIES: &str = "kafka.properties";

/// Prefixes that only icestream's settings have in its env file: a name that begins so and is not
/// a setting is a mistake. `AWS_` is here because a name like AWS_PROFILE has no effect in the file.
const ENV_FILE_PREFIXES: [&str; 9] = [
    "KAFKA_",
    "ICEBERG_",
    "CHECKPOINT_",
    "MAINTENANCE_",
    "RESTART_",
    "ICESTREAM_",
    "AWS_",
    "S3_",
    "BATCH_",
];
/// Prefixes under which a misspelt name is looked for in the environment of the process. Other
/// programs have names there too, so only a near miss of a setting is a mistake.
const ENVIRONMENT_PREFIXES: [&str; 3] = ["KAFKA_", "ICEBERG_", "CHECKPOINT_"];

/// A value as text, and where it came from.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) value: String,
    pub(super) source: String,
}

/// What the sources hold together.
#[derive(Default)]
pub(super) struct Gathered {
    /// The winning value of each setting, by name.
    pub(super) found: BTreeMap<&'static str, Found>,
    /// The user's librdkafka properties.
    pub(super) properties: BTreeMap<String, Found>,
    /// Settings that are set to something unusable, which is among the problems.
    pub(super) unusable: BTreeSet<&'static str>,
    /// What is wrong with the sources.
    pub(super) problems: Vec<Problem>,
}

/// Reads all sources. An `Err` holds what prevents any further look.
pub(super) fn gather(
    env_file: Option<&Path>,
    config_file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Gathered, Vec<Problem>> {
    let mut gathered = Gathered::default();
    let mut fatal = Vec::new();
    let defaults = from_toml("config/default.toml".as_ref(), DEFAULT, DEFAULTS, &mut gathered);
    let file = config_file.map(|path| {
        let text = read(path)?;
        from_toml(path, &path.display().to_string(), &text, &mut gathered)
    });
    let env_text = env_file.map(|path| read(path).map(|text| (path, text)));
    let mut layers: Vec<Layer> = Vec::new();
    for layer in [Some(defaults), file].into_iter().flatten() {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(problem) => fatal.push(problem),
        }
    }
    match env_text {
        Some(Ok((path, text))) => layers.push(from_env_file(path, &text, &mut gathered)),
        Some(Err(problem)) => fatal.push(problem),
        None => {}
    }
    if !fatal.is_empty() {
        fatal.append(&mut gathered.problems);
        return Err(fatal);
    }
    layers.push(from_environment(environment, &mut gathered));
    match merge(layers) {
        Ok(merged) => {
            pick(&merged, &mut gathered);
            Ok(gathered)
        }
        Err(problem) => Err(vec![problem]),
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path)
        .map_err(|source| Problem::Unreadable { path: path.to_owned(), source })
}

/// One source: values by TOML key.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl Layer {
    fn set(&mut self, key: &str, source: &str, value: impl Into<ValueKind>) {
        let value = Value::new(Some(&source.to_owned()), value);
        self.0.insert(key.to_owned(), value);
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn merge(layers: Vec<Layer>) -> Result<Value, Problem> {
    let builder =
        layers.into_iter().fold(config::Config::builder(), |b, layer| b.add_source(layer));
    builder.build().map(|merged| merged.cache).map_err(|error| Problem::MalformedFile {
        path: "the settings together".into(),
        reason: error.to_string(),
    })
}

/// Takes the winning values out of the merged tree.
fn pick(merged: &Value, gathered: &mut Gathered) {
    for doc in SETTINGS {
        if let Some(found) = look_up(merged, doc.key).and_then(one_value) {
            gathered.found.insert(doc.name, found);
        }
    }
}

fn look_up<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(tree, |value, part| match &value.kind {
        ValueKind::Table(table) => table.get(part),
        _ => None,
    })
}

fn one_value(value: &Value) -> Option<Found> {
    let text = value.clone().into_string().ok()?;
    let source = value.origin().unwrap_or(DEFAULT).to_owned();
    Some(Found { value: text.trim().to_owned(), source })
}

fn from_toml(
    path: &Path,
    source: &str,
    text: &str,
    gathered: &mut Gathered,
) -> Result<Layer, Problem> {
    let parsed = File::<FileSourceString, FileFormat>::from_str(text, FileFormat::Toml).collect();
    let table = parsed.map_err(|error| Problem::MalformedFile {
        path: path.to_owned(),
        reason: without_excerpt(&error.to_string()),
    })?;
    let mut leaves = Vec::new();
    flatten("", table, &mut leaves);
    leaves.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut layer = Layer::default();
    for (key, value) in leaves {
        let property = key.strip_prefix(PROPERTIES).and_then(|rest| rest.strip_prefix('.'));
        let known = lookup::by_key(&key);
        if property.is_none() && known.is_none() {
            let suggestion = suggest::suggestion(&key, lookup::keys());
            let source_name = source.to_owned();
            gathered.problems.push(Problem::Unknown { name: key, source_name, suggestion });
            continue;
        }
        let Ok(text) = value.into_string() else {
            gathered.unusable.extend(known.map(|doc| doc.name));
            gathered.problems.push(Problem::NotOneValue { key, source_name: source.to_owned() });
            continue;
        };
        if let Some(property) = property {
            let found = Found { value: text, source: source.to_owned() };
            gathered.properties.insert(property.to_owned(), found);
        } else if !text.trim().is_empty() {
            layer.set(&key, source, text);
        }
    }
    Ok(layer)
}

/// Every leaf by its dotted key. An empty list is a leaf, an empty table is nothing.
fn flatten(prefix: &str, table: Map<String, Value>, leaves: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value.kind {
            ValueKind::Table(table) => {
                // `[kafka.broker]` with nothing in it, or `[kafak]`, is still a mistake.
                let is_section = lookup::keys().any(|known| known.starts_with(&format!("{key}.")));
                if table.is_empty() && !is_section && key != PROPERTIES {
                    leaves.push((key, Value::new(None, ValueKind::Nil)));
                } else {
                    flatten(&key, table, leaves);
                }
            }
            _ => leaves.push((key, value)),
        }
    }
}

/// A TOML parser's message without the excerpt of the file, which may hold a secret.
fn without_excerpt(message: &str) -> String {
    let lines = message.lines().filter(|line| {
        !line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start()
            .starts_with('|')
    });
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ")
}

fn from_env_file(path: &Path, text: &str, gathered: &mut Gathered) -> Layer {
    let file = env_file::parse(path, text);
    let source = path.display().to_string();
    gathered.problems.extend(file.problems);
    let unusable = file.unusable.iter().filter_map(|name| lookup::by_name(name));
    gathered.unusable.extend(unusable.map(|doc| doc.name));
    for (name, _) in &file.values {
        let near = suggest::near_miss(name, lookup::names());
        let ours = ENV_FILE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if lookup::by_name(name).is_none() && (ours || near.is_some()) {
            let suggestion = suggest::suggestion(name, lookup::names());
            let (name, source_name) = (name.clone(), source.clone());
            gathered.problems.push(Problem::Unknown { name, source_name, suggestion });
        }
    }
    layer_of(&source, &file.values)
}

fn from_environment(
    environment: impl Iterator<Item = (String, String)>,
    gathered: &mut Gathered,
) -> Layer {
    let values: Vec<(String, String)> = environment.collect();
    let is_set = |name: &str| values.iter().any(|(set, _)| set == name);
    for (name, value) in &values {
        if let Some((doc, what)) = lookup::by_name(name).zip(undressed(value)) {
            gathered.unusable.insert(doc.name);
            gathered.problems.push(Problem::Undressed { name: name.clone(), what });
        }
        let ours = ENVIRONMENT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !ours || lookup::by_name(name).is_some() {
            continue;
        }
        // Where the setting itself stands beside it, the near miss belongs to somebody else.
        let meant = suggest::near_miss(name, lookup::names()).filter(|meant| !is_set(meant));
        if meant.is_some() {
            let (name, source_name) = (name.clone(), ENVIRONMENT.to_owned());
            gathered.problems.push(Problem::Unknown { name, source_name, suggestion: meant });
        }
    }
    layer_of(ENVIRONMENT, &values)
}

/// What `docker run --env-file` leaves in a value, where docker compose and icestream take it away.
fn undressed(value: &str) -> Option<&'static str> {
    let bare = value.trim();
    let quoted = |quote| bare.len() > 1 && bare.starts_with(quote) && bare.ends_with(quote);
    let mut before = '=';
    let comment =
        value.chars().any(|c| std::mem::replace(&mut before, c).is_whitespace() && c == '#');
    match () {
        () if comment => Some("a comment (` #`)"),
        () if quoted('\'') || quoted('"') => Some("quotes around it"),
        () => None,
    }
}

/// The settings among names and values. Of a setting and its alias the setting counts.
fn layer_of(source: &str, values: &[(String, String)]) -> Layer {
    let mut layer = Layer::default();
    let set = values.iter().filter(|(_, value)| !value.trim().is_empty());
    for (name, value) in set {
        let Some(doc) = lookup::by_name(name) else { continue };
        if doc.name == name || !layer.0.contains_key(doc.key) {
            layer.set(doc.key, source, value.clone());
        }
    }
    layer
}
