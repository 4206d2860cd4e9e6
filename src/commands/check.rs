//! `icestream check`

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iceberg::spec::TableMetadata;

use super::probe::{self, Seen};
use super::written;
use crate::base::location::{data_root, local_path};
use crate::base::masking::MASK;
use crate::base::one_line::one_line;
use crate::config::{CatalogType, Config, ConfigError};
use crate::connect::{connect_catalog, no_store, source_settings, table_name};
use crate::failure::{Failure, chain, exit};
use crate::protocol::{
    LocalState, LogRange, Offset, Refusal, ResetPolicy, SourceView, TableView, TopicPartition,
    check_last, positions, recognised,
};
use crate::source::{Source, SourceError, TopicInfo};
use crate::state::{StateError, StateStore};
use crate::table::{self, Catalog, LoadedTable, Understood};

/// How long Kafka may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reaches everything that `run` needs, one line each, whatever else fails. Makes no table and
/// changes no ledger; a REST catalog is sent commits that it must refuse; an SQL catalog without tables of its own gets them, empty.
///
/// Returns 0 if everything passed, 3 if settings are wrong, else 1.
///
/// # Errors
/// Only if the lines cannot be written.
pub(crate) async fn check(
    loaded: Result<Config, ConfigError>,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let mut lines = Lines { out, failed: 0 };
    match loaded {
        Ok(config) => {
            written(run(Arc::new(config), &mut lines).await)?;
            Ok(if lines.failed == 0 { exit::DONE } else { exit::FAILED })
        }
        Err(error) => {
            written(lines.write("settings", Duration::ZERO, &Err(error.to_string())))?;
            Ok(exit::CONFIG)
        }
    }
}

/// Writes the outcomes and counts the failed ones.
struct Lines<'a> {
    out: &'a mut dyn Write,
    failed: u32,
}

impl Lines<'_> {
    fn write(&mut self, what: &str, took: Duration, seen: &Seen) -> io::Result<()> {
        let (word, text) = match seen {
            Ok(text) => ("PASS", text),
            Err(text) => ("FAIL", text),
        };
        self.failed += u32::from(seen.is_err());
        // One problem of the settings a line; whatever servers say is on one line each.
        let text = text.trim_end().lines().map(one_line).collect::<Vec<_>>();
        let text = text.join("\n                            ");
        writeln!(self.out, "{word}  {what:<11} {:>6} ms  {text}", took.as_millis())?;
        self.out.flush()
    }

    /// A check that could not be made because of another one that failed.
    fn skip(&mut self, what: &str, why: &str) -> io::Result<()> {
        writeln!(self.out, "SKIP  {what:<11}            {why}")
    }

    async fn probe<T>(
        &mut self,
        what: &str,
        probe: impl Future<Output = Result<(T, String), String>>,
    ) -> io::Result<Option<T>> {
        let began = Instant::now();
        let (value, seen) = match probe.await {
            Ok((value, text)) => (Some(value), Ok(text)),
            Err(text) => (None, Err(text)),
        };
        self.write(what, began.elapsed(), &seen)?;
        Ok(value)
    }

    async fn look(&mut self, what: &str, probe: impl Future<Output = Seen>) -> io::Result<()> {
        self.probe(what, async { probe.await.map(|text| ((), text)) }).await.map(|_| ())
    }
}

async fn run(config: Arc<Config>, lines: &mut Lines<'_>) -> io::Result<()> {
    let count = config.effective().len();
    lines.write("settings", Duration::ZERO, &Ok(format!("{count} in effect, listed below")))?;
    for warning in config.warnings() {
        writeln!(lines.out, "WARN  {warning}")?;
    }
    let asked = config.clone();
    lines.look("checkpoints", blocking(move || probe::checkpoint_dir(&asked))).await?;
    lines.look("http", probe::http(&config)).await?;
    let topic = kafka(&config, lines).await?;
    let catalog = catalog(&config, lines).await?;
    table(&config, catalog, topic, lines).await?;
    writeln!(lines.out)?;
    write_settings(&config, lines.out)?;
    writeln!(lines.out)?;
    match lines.failed {
        0 => writeln!(lines.out, "everything passed"),
        failed => writeln!(lines.out, "{failed} failed"),
    }
}

/// What the cluster says about the topic.
struct Topic {
    info: TopicInfo,
    log: BTreeMap<TopicPartition, LogRange>,
    /// The tables that the pipeline wrote to, by what it told the group.
    written: Option<String>,
}

async fn kafka(config: &Arc<Config>, lines: &mut Lines<'_>) -> io::Result<Option<Topic>> {
    let settings = source_settings(config);
    let (names, asked) = (settings.topics.clone(), config.clone());
    let began = Instant::now();
    let described = ask(move || {
        let source = Source::connect(settings)?;
        match source.describe(PATIENCE) {
            Ok(info) => {
                let (source, words) = probe::fetcher(&asked, source, PATIENCE)?;
                Ok((source, Ok(info), words))
            }
            // The cluster answered, so that it is the topic that is wrong.
            Err(error @ SourceError::TopicAbsent { .. }) => {
                Ok((Arc::new(source), Err(error), asked.kafka.fetcher.name().to_owned()))
            }
            Err(error) => Err(error),
        }
    })
    .await;
    let took = began.elapsed();
    let (source, info, fetcher) = match described {
        Ok(answer) => answer,
        Err(error) => {
            lines.write("kafka", took, &Err(error))?;
            lines.skip("topic", "Kafka did not answer")?;
            lines.skip("access", "Kafka did not answer")?;
            lines.skip("group", "Kafka did not answer")?;
            return Ok(None);
        }
    };
    let cluster = match &info {
        Ok(info) if !info.cluster_id.is_empty() => format!("cluster {}", info.cluster_id),
        _ => String::from("it answers"),
    };
    let words = format!("{}: {cluster}, {fetcher} fetches", config.kafka.brokers);
    lines.write("kafka", took, &Ok(words))?;
    let log = async {
        let info = info.map_err(|error| chain(&error))?;
        let (partitions, asked) = (info.partitions.clone(), source.clone());
        let asked = move || {
            let log = asked.log_ranges(&partitions, PATIENCE)?;
            // Whether the group can be asked is told by `access`.
            let reported = asked.reported(&partitions).unwrap_or_default();
            let written = reported.into_values().next().map(|reported| reported.by.tables);
            Ok((log, asked.open_transactions(&partitions)?, written))
        };
        let (log, open, written) = ask(asked).await?;
        let offsets: Offset = log.values().map(|log| log.end - log.start).sum();
        let mut words = format!("{names}: {} partitions, {offsets} offsets", log.len());
        if !open.is_empty() {
            let (behind, of) = (open.values().sum::<Offset>(), open.len());
            words.push_str(&format!(
                "; {behind} more in {of} partitions cannot be read yet: transactions there are not ended"
            ));
        }
        Ok((Topic { info, log, written }, words))
    };
    let Some(topic) = lines.probe("topic", log).await? else {
        lines.skip("access", "the topic is not known")?;
        lines.skip("group", "the topic is not known")?;
        return Ok(None);
    };
    let (asked, log) = (config.clone(), topic.log.clone().into_iter().collect::<Vec<_>>());
    let access = blocking(move || probe::access(&asked, &source, &log, PATIENCE));
    lines.look("access", access).await?;
    let asked = config.clone();
    lines.look("group", blocking(move || probe::group(&asked, PATIENCE))).await?;
    Ok(Some(topic))
}

/// A catalog that answers, or that will be made.
enum Found {
    Catalog(Box<Catalog>),
    New,
}

async fn catalog(config: &Config, lines: &mut Lines<'_>) -> io::Result<Option<Found>> {
    let found = async {
        let uri = &config.iceberg.catalog_uri;
        if let Some(file) = probe::absent_sqlite_file(config) {
            let dir = probe::existing_ancestor(&file);
            return match probe::writable(&dir) {
                Ok(()) => Ok((Found::New, format!("{} is new and can be made", file.display()))),
                Err(error) => Err(format!(
                    "{} cannot be made: {} is not writable: {error}; correct ICEBERG_CATALOG_URI",
                    file.display(),
                    dir.display()
                )),
            };
        }
        let catalog = connect_catalog(config).await.map_err(|error| chain(&error))?;
        Ok((Found::Catalog(Box::new(catalog)), format!("{uri} answers")))
    };
    lines.probe("catalog", found).await
}

/// The table as it is, or as it would be made.
struct Target {
    metadata: TableMetadata,
    loaded: Option<LoadedTable>,
}

async fn table(
    config: &Arc<Config>,
    catalog: Option<Found>,
    topic: Option<Topic>,
    lines: &mut Lines<'_>,
) -> io::Result<()> {
    let Some(catalog) = catalog else {
        for what in ["table", "fit", "ledger", "fencing", "store"] {
            lines.skip(what, "the catalog did not answer")?;
        }
        return Ok(());
    };
    let Some(target) = lines.probe("table", find(config, &catalog)).await? else {
        for what in ["fit", "ledger", "fencing"] {
            lines.skip(what, "there is no table to look at")?;
        }
        return store(config, None, lines).await;
    };
    let fits = async {
        let io = match &target.loaded {
            Some(loaded) => loaded.io.clone(),
            None => no_store().map_err(|error| chain(&error))?,
        };
        let name = table_name(config).map_err(|error| chain(&error))?;
        probe::fits(config, &name, &target.metadata, io)
    };
    lines.look("fit", fits).await?;
    match &target.loaded {
        Some(loaded) => lines.look("ledger", async { ledger(config, loaded, topic) }).await?,
        None => match is_known(config, None, topic.and_then(|topic| topic.written)) {
            Ok(()) => lines.skip("ledger", "the table does not exist yet")?,
            Err(refusal) => lines.write("ledger", Duration::ZERO, &Err(refused(&refusal)))?,
        },
    }
    match (&catalog, &target.loaded) {
        (Found::Catalog(catalog), Some(loaded)) => {
            lines.look("fencing", fencing(catalog, loaded)).await?;
        }
        _ => lines.skip("fencing", "the table does not exist yet")?,
    }
    store(config, target.loaded.as_ref(), lines).await
}

/// Does the catalog refuse commits that are pinned to another state of the table?
async fn fencing(catalog: &Catalog, loaded: &LoadedTable) -> Seen {
    table::check_fencing(catalog, loaded).await.map_err(|error| chain(&error))?;
    Ok(String::from(match (catalog, loaded.metadata.current_snapshot_id()) {
        (Catalog::Sql(_), _) => "a statement of icestream's own compares and swaps",
        (Catalog::Rest(_), Some(_)) => {
            "commits that are pinned to another state of the table are refused"
        }
        (Catalog::Rest(_), None) => {
            "commits that are pinned to another state of the table are refused; whether those pinned to no \
             snapshot are is asked when it has one"
        }
    }))
}

async fn find(config: &Config, catalog: &Found) -> Result<(Target, String), String> {
    let name = table_name(config).map_err(|error| chain(&error))?;
    let loaded = match catalog {
        Found::Catalog(catalog) => {
            catalog.load(&name).await.map_err(|error| chain(&Failure::Table(error)))?
        }
        Found::New => None,
    };
    match loaded {
        Some(loaded) => {
            let metadata = TableMetadata::clone(&loaded.metadata);
            let words = format!(
                "{name} exists: format v{}, {} snapshots, {}",
                metadata.format_version() as u8,
                metadata.snapshots().len(),
                metadata.location()
            );
            Ok((Target { metadata, loaded: Some(loaded) }, words))
        }
        None => {
            let place = match catalog {
                Found::Catalog(catalog) => catalog.place_of(&name).await,
                Found::New => Ok(None),
            };
            let place = place.map_err(|error| chain(&Failure::Table(error)))?;
            let (metadata, words) = probe::planned(config, &name, place)?;
            Ok((Target { metadata, loaded: None }, words))
        }
    }
}

/// Would `run` read on from the ledger, or refuse?
fn ledger(config: &Config, loaded: &LoadedTable, topic: Option<Topic>) -> Seen {
    let view = table::view(loaded, &config.kafka.group_id, &Understood::default())
        .map_err(|e| chain(&Failure::Table(e)))?;
    let begun = view.ledger.as_ref().map_or(0, |ledger| ledger.frontier.len());
    let mut source = SourceView::default();
    if let Some(Topic { info, log, .. }) = topic {
        (source.cluster_id, source.topic_ids) = (info.cluster_id, info.topic_ids);
        source.log = log;
    }
    let known = !source.log.is_empty();
    let starts = positions(&config.iceberg.table, &view, &source, ResetPolicy::Earliest)
        .and_then(|starts| is_known(config, Some(&view), None).map(|()| starts))
        .map_err(|refusal| refused(&refusal))?;
    let cannot: Vec<&Refusal> = starts.values().filter_map(|start| start.as_ref().err()).collect();
    if let Some(first) = cannot.first() {
        let (cannot, all) = (cannot.len(), starts.len());
        return Err(format!("run would not read {cannot} of {all} partitions: {first}"));
    }
    Ok(match (begun, known) {
        (0, _) => format!("pipeline {} has not begun", config.kafka.group_id),
        (_, true) => format!("{begun} partitions; the log still holds where they go on"),
        (_, false) => format!("{begun} partitions; not compared with the log"),
    })
}

fn refused(refusal: &Refusal) -> String {
    format!("run would refuse: {refusal}")
}

/// Is the table, or that there is none, what the checkpoint directory last saw? One that cannot be
/// read is told where the directory itself is looked at. `written` are the tables that the group's offsets
/// tell of.
fn is_known(
    config: &Config,
    view: Option<&TableView>,
    written: Option<String>,
) -> Result<(), Refusal> {
    let table = &config.iceberg.table;
    let local = StateStore::open_read_only(&config.checkpoint.dir).and_then(|store| {
        match store.is_of(config.pipeline())? {
            true => store.load(config.flow()),
            false => Ok(LocalState::default()),
        }
    });
    let mut local = match local {
        Ok(local) => local,
        Err(StateError::Missing { .. }) => LocalState::default(),
        Err(_) => return Ok(()),
    };
    if local.is_of_others([table]) {
        local = recognised(local, &BTreeMap::from([(table.as_str(), view)]))?;
    }
    match view {
        Some(view) => check_last(table, &local, view),
        None if local.knows(table) => Err(Refusal::TableMissing { table: table.clone() }),
        None => match written.filter(|_| !local.given_up) {
            Some(written) => Err(Refusal::TableGone { table: table.clone(), written }),
            None => Ok(()),
        },
    }
}

async fn store(
    config: &Config,
    loaded: Option<&LoadedTable>,
    lines: &mut Lines<'_>,
) -> io::Result<()> {
    let place = match (loaded, &config.iceberg.warehouse) {
        // Where data files go: a bucket of tables takes nothing beside them.
        (Some(loaded), _) => {
            let metadata = &loaded.metadata;
            Ok((loaded.io.clone(), data_root(metadata.location(), metadata.properties())))
        }
        (None, Some(warehouse)) if warehouse.contains("://") => {
            table::file_io(warehouse, &config.iceberg.io_properties)
                .map(|io| (io, warehouse.clone()))
                .map_err(|error| chain(&error))
        }
        (None, _) => {
            return lines.skip("store", "only the catalog knows where, once the table exists");
        }
    };
    let tried = async {
        let (io, location) = place?;
        if loaded.is_none()
            && let Some(path) = local_path(&location)
        {
            return local_warehouse(&path);
        }
        probe::store(&io, &location).await
    };
    // Without keys of its own it asks the catalog for some, which come with a table.
    let may_get_keys = loaded.is_none()
        && config.iceberg.catalog_type == CatalogType::Rest
        && config.iceberg.io_properties.get("s3.access-key-id").is_none();
    if !may_get_keys {
        return lines.look("store", tried).await;
    }
    let began = Instant::now();
    match tried.await {
        Ok(seen) => lines.write("store", began.elapsed(), &Ok(seen)),
        Err(error) => lines.skip(
            "store",
            &format!(
                "cannot be checked before the table exists: keys may come with it from the catalog, since \
                 AWS_ACCESS_KEY_ID is not set ({})",
                one_line(&error)
            ),
        ),
    }
}

/// A local warehouse may not exist yet, and checking must not make it.
fn local_warehouse(path: &Path) -> Seen {
    let dir = probe::existing_ancestor(path);
    match probe::writable(&dir) {
        Ok(()) if dir == path => Ok(format!("wrote and deleted a file in {}", path.display())),
        Ok(()) => Ok(format!("{} is new and can be made", path.display())),
        Err(error) => Err(format!(
            "{} is not writable: {error}; give this user write access or correct \
             ICEBERG_WAREHOUSE",
            dir.display()
        )),
    }
}

fn write_settings(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let settings = config.effective();
    let width = settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    for setting in settings {
        let property = setting.name.strip_prefix("kafka.properties.");
        let is_unknown = property.is_some_and(|name| !probe::is_known_to_client(name));
        let value = if is_unknown { MASK } else { &setting.value };
        writeln!(out, "{:<width$}  {value}  ({})", setting.name, setting.source)?;
    }
    Ok(())
}

/// A question to Kafka, which blocks.
async fn ask<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, String> {
    blocking(move || question().map_err(|error| chain(&error))).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(format!("it ended without a result: {error}")))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::write_settings;

    #[test]
    fn the_value_of_a_property_that_nobody_knows_is_not_shown() {
        let mut toml = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        let text =
            "[kafka.properties]\n\"sasl.pasword\" = \"hunter2\"\n\"client.id\" = \"lake-1\"\n";
        toml.write_all(text.as_bytes()).unwrap();
        let names = ["KAFKA_BROKERS", "KAFKA_TOPIC", "KAFKA_GROUP_ID", "ICEBERG_TABLE"];
        let environment = names.map(|name| (name.to_owned(), String::from("a.b")));
        let config = crate::config::load(None, Some(toml.path()), environment.into_iter()).unwrap();
        let mut out = Vec::new();
        write_settings(&config, &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("sasl.pasword") && shown.contains("lake-1"), "{shown}");
    }
}
