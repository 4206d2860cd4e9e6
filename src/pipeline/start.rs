//! The beginning of a run: open everything, finish what an earlier process left, find the place.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::committer::Committer;
use super::coordinator::show;
use super::{Pipeline, join_error};
use crate::config::{CatalogType, Config, OffsetReset};
use crate::failure::Failure;
use crate::protocol::{
    Epoch, Frontier, LogRange, Refusal, ResetPolicy, SourceView, StartAt, TopicPartition,
    check_history, check_last, positions, recover,
};
use crate::source::{Source, SourceSettings, TopicInfo};
use crate::state::StateStore;
use crate::table::{self, Catalog, CatalogKind, CatalogSettings, LoadedTable, RestAuth, TableName};

/// How long Kafka may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a catalog may take to answer one request.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything a run needs.
pub(super) struct Started {
    pub committer: Arc<Committer>,
    pub source: Arc<Source>,
    pub info: TopicInfo,
    pub table: LoadedTable,
    pub ledger: Frontier,
    pub starts: BTreeMap<TopicPartition, StartAt>,
    pub log: BTreeMap<TopicPartition, LogRange>,
    pub epoch: Epoch,
}

impl Started {
    pub async fn new(pipeline: &Pipeline) -> Result<Self, Failure> {
        let config = &pipeline.config;
        let (dir, name) = (config.checkpoint.dir.clone(), config.kafka.group_id.clone());
        let state = tokio::task::spawn_blocking(move || StateStore::open(&dir, &name))
            .await
            .map_err(join_error)??;
        let catalog = Arc::new(connect_catalog(config).await?);
        let name = table_name(config)?;
        let committer = Arc::new(Committer {
            catalog: catalog.clone(),
            table: name.clone(),
            pipeline: config.kafka.group_id.clone(),
            instance: pipeline.instance.clone(),
            state: Arc::new(state),
            retained: config.checkpoint.retained,
            give_up: config.retry_give_up,
            metrics: pipeline.metrics.clone(),
            health: pipeline.health.clone(),
        });
        let table = match has_pending(&committer).await? {
            // A new table in the place of the one that a commit is pending for would only be in
            // the way of bringing that one back.
            true => committer.load().await?.0,
            false => open_table(&catalog, &name, config).await?,
        };
        let (epoch, table) = settle_pending(&committer, table).await?;

        let view = committer.view(&table)?;
        let refuse = |refusal: Refusal| committer.refuse(refusal);
        check_history(&config.iceberg.table, &view).map_err(refuse)?;
        let source = Arc::new(Source::connect(source_settings(config))?);
        let asked = source.clone();
        let (info, log) = tokio::task::spawn_blocking(move || {
            let info = asked.describe(PATIENCE)?;
            let log = asked.log_ranges(&info.partitions, PATIENCE)?;
            Ok::<_, Failure>((info, log))
        })
        .await
        .map_err(join_error)??;
        let reset = match config.kafka.auto_offset_reset {
            OffsetReset::Earliest => ResetPolicy::Earliest,
            OffsetReset::Latest => ResetPolicy::Latest,
        };
        let topic = &config.kafka.topic;
        let seen = SourceView {
            cluster_id: info.cluster_id.clone(),
            topic_ids: info.topic_id.iter().map(|id| (topic.clone(), id.clone())).collect(),
            log: log.into_iter().map(|(tp, (start, end))| (tp, LogRange { start, end })).collect(),
        };
        let starts = positions(&config.iceberg.table, &view, &seen, reset).map_err(refuse)?;
        let ledger = view.ledger.map(|ledger| ledger.frontier).unwrap_or_default();
        tracing::info!(
            instance = %pipeline.instance, table = %committer.table, %topic,
            partitions = info.partitions.len(), ledger = %show(&ledger), "reading from the ledger"
        );
        Ok(Self { committer, source, info, table, ledger, starts, log: seen.log, epoch })
    }
}

async fn has_pending(committer: &Committer) -> Result<bool, Failure> {
    let state = committer.state.clone();
    let open = tokio::task::spawn_blocking(move || state.open_checkpoint());
    Ok(open.await.map_err(join_error)??.is_some_and(|open| !open.pending.is_empty()))
}

/// Finishes every pending commit of an earlier process by the same admission as a fresh one.
/// Files already written are committed without reading Kafka again.
async fn settle_pending(
    committer: &Committer,
    mut table: LoadedTable,
) -> Result<(Epoch, LoadedTable), Failure> {
    let state = committer.state.clone();
    let local = tokio::task::spawn_blocking(move || state.load()).await.map_err(join_error)??;
    let view = committer.view(&table)?;
    let ledger = view.ledger.as_ref().map(|ledger| &ledger.frontier);
    check_last(&committer.table.to_string(), &local, ledger)
        .map_err(|refusal| committer.refuse(refusal))?;
    let views = BTreeMap::from([(committer.table.to_string(), view)]);
    let recovery = recover(Some(&local), &views);
    tracing::info!(
        local = ?recovery.standing, pending = recovery.steps.len(), next_epoch = %recovery.next_epoch,
        "recovering"
    );
    for step in &recovery.steps {
        let pending = &step.pending;
        let began = Instant::now();
        // The decision is made again on a fresh reading: what was read above may be old by now.
        let (settled, loaded) = committer.settle(pending).await?;
        committer.finalize(pending, &settled, &loaded, began.elapsed()).await?;
        tracing::info!(
            epoch = %pending.epoch, commit_id = %pending.commit_id, outcome = settled.name(),
            "recovered a pending commit"
        );
        table = loaded;
    }
    let last = Epoch(recovery.next_epoch.0.saturating_sub(1));
    Ok((last, table))
}

/// Connects to the configured catalog.
pub async fn connect_catalog(config: &Config) -> Result<Catalog, Failure> {
    let iceberg = &config.iceberg;
    let settings = CatalogSettings {
        kind: match iceberg.catalog_type {
            CatalogType::Sql => CatalogKind::Sql,
            CatalogType::Rest => CatalogKind::Rest,
        },
        name: iceberg.catalog_name.clone(),
        uri: iceberg.catalog_uri.expose().to_owned(),
        warehouse: iceberg.warehouse.clone(),
        rest: RestAuth {
            token: iceberg.rest.token.as_ref().map(|s| s.expose().to_owned()),
            credential: iceberg.rest.credential.as_ref().map(|s| s.expose().to_owned()),
            scope: iceberg.rest.scope.clone(),
            oauth2_server_uri: iceberg.rest.oauth2_server_uri.clone(),
            ..RestAuth::default()
        },
        io_properties: iceberg
            .io_properties
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        request_timeout: CATALOG_TIMEOUT,
    };
    Ok(Catalog::connect(&settings).await?)
}

/// The configured table's name.
pub fn table_name(config: &Config) -> Result<TableName, Failure> {
    Ok(config.iceberg.table.parse::<TableName>()?)
}

/// Loads the table; makes it from `ICEBERG_TABLE_SCHEMA` if it is absent.
pub async fn open_table(
    catalog: &Catalog,
    name: &TableName,
    config: &Config,
) -> Result<LoadedTable, Failure> {
    if let Some(table) = catalog.load(name).await? {
        return Ok(table);
    }
    let iceberg = &config.iceberg;
    let Some(path) = &iceberg.table_schema else {
        return Err(Failure::Unfit {
            table: name.to_string(),
            detail: String::from(
                "does not exist, and ICEBERG_TABLE_SCHEMA names no schema file to make it from",
            ),
        });
    };
    let (schema, spec) =
        table_plan(name, path, iceberg.partition_spec.as_deref(), iceberg.kafka_columns)?;
    let table = catalog.create(name, &schema, &spec, &HashMap::new()).await?;
    tracing::info!(table = %name, location = table.metadata.location(), "made the table");
    Ok(table)
}

/// Schema and partition spec of a table to be made.
pub fn table_plan(
    name: &TableName,
    path: &Path,
    spec: Option<&str>,
    kafka_columns: bool,
) -> Result<(iceberg::spec::Schema, iceberg::spec::UnboundPartitionSpec), Failure> {
    let unfit = |detail: String| Failure::Unfit { table: name.to_string(), detail };
    let text = std::fs::read_to_string(path).map_err(|e| {
        unfit(format!("cannot read its schema file {} (ICEBERG_TABLE_SCHEMA): {e}", path.display()))
    })?;
    let schema = table::parse_schema(&text)
        .and_then(|schema| match kafka_columns {
            true => table::with_kafka_columns(&schema),
            false => Ok(schema),
        })
        .map_err(|e| unfit(format!("schema file {}: {e}", path.display())))?;
    let spec = table::parse_spec(spec.unwrap_or_default(), &schema)
        .map_err(|e| unfit(format!("ICEBERG_PARTITION_SPEC: {e}")))?;
    Ok((schema, spec))
}

/// How to reach the topic.
pub fn source_settings(config: &Config) -> SourceSettings {
    let shards = config.parallelism.max(1) as u64;
    SourceSettings {
        brokers: config.kafka.brokers.clone(),
        topic: config.kafka.topic.clone(),
        group_id: config.kafka.group_id.clone(),
        properties: config
            .kafka
            .properties
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        // A quarter of the memory may wait in the client; the rest is batches and open files.
        queue_bytes: config.memory_limit / 4 / shards,
    }
}
