//! The beginning of a run: open everything, finish what an earlier process left, find the place.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::committer::{Committer, Settled};
use super::coordinator::show;
use super::{Pipeline, join_error, now_ms};
use crate::config::{CatalogType, Config, OffsetReset};
use crate::failure::Failure;
use crate::protocol::{
    Epoch, Frontier, Offset, Refusal, Reset, StartAt, TopicPartition, check_history, positions,
};
use crate::source::{Source, SourceSettings, TopicInfo};
use crate::state::{StateStore, StepSeconds};
use crate::table::{
    self, Catalog, CatalogKind, CatalogSettings, LoadedTable, RestAuth, TableName,
};

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
    pub log: BTreeMap<TopicPartition, (Offset, Offset)>,
    pub epoch: Epoch,
}

impl Started {
    pub async fn new(pipeline: &Pipeline) -> Result<Self, Failure> {
        let config = &pipeline.config;
        let (dir, name) = (config.checkpoint.dir.clone(), config.kafka.group_id.clone());
        let retained = config.checkpoint.retained;
        let state = tokio::task::spawn_blocking(move || StateStore::open(&dir, &name, retained))
            .await
            .map_err(join_error)??;
        let catalog = Arc::new(connect_catalog(config).await?);
        let name = table_name(config)?;
        let table = open_table(&catalog, &name, config).await?;
        let committer = Arc::new(Committer {
            catalog,
            table: name,
            pipeline: config.kafka.group_id.clone(),
            state: Arc::new(state),
            give_up: config.retry_give_up,
            metrics: pipeline.metrics.clone(),
            health: pipeline.health.clone(),
        });
        let (epoch, table) = recover(&committer, table).await?;

        let view = table::view(&table, &committer.pipeline)?;
        let refuse = |refusal: Refusal| {
            pipeline.metrics.refusal(refusal.name());
            Failure::Refused(refusal)
        };
        check_history(&view).map_err(refuse)?;
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
            OffsetReset::Earliest => Reset::Earliest,
            OffsetReset::Latest => Reset::Latest,
        };
        let topic = &config.kafka.topic;
        let topic_ids = info.topic_id.iter().map(|id| (topic.clone(), id.clone())).collect();
        let starts = positions(view.ledger.as_ref(), &log, &info.cluster_id, &topic_ids, reset)
            .map_err(refuse)?;
        let ledger = view.ledger.map(|ledger| ledger.frontier).unwrap_or_default();
        tracing::info!(
            instance = %pipeline.instance, table = %committer.table, %topic,
            partitions = info.partitions.len(), ledger = %show(&ledger), "reading from the ledger"
        );
        Ok(Self { committer, source, info, table, ledger, starts, log, epoch })
    }
}

/// Finishes every pending commit of an earlier process by the same admission as a fresh one.
/// Files already written are committed without reading Kafka again.
async fn recover(
    committer: &Committer,
    mut table: LoadedTable,
) -> Result<(Epoch, LoadedTable), Failure> {
    let state = committer.state.clone();
    let local =
        tokio::task::spawn_blocking(move || state.load()).await.map_err(join_error)??;
    for pending in &local.pending {
        let began = std::time::Instant::now();
        let (settled, loaded) = committer.settle(pending).await?;
        let steps =
            StepSeconds { commit: began.elapsed().as_secs_f64(), ..StepSeconds::default() };
        committer.finalize(pending, &settled, &loaded, steps, now_ms(), 0).await?;
        tracing::info!(
            epoch = %pending.epoch, commit_id = %pending.commit_id,
            outcome = match settled {
                Settled::Committed { .. } => "committed",
                Settled::AlreadyCommitted => "already committed",
                Settled::Superseded { .. } => "superseded",
            },
            "recovered a pending commit"
        );
        table = loaded;
    }
    Ok((local.epoch(), table))
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
        io_properties: iceberg.io_properties.clone(),
        request_timeout: CATALOG_TIMEOUT,
    };
    Ok(Catalog::connect(&settings).await?)
}

/// The configured table's name.
fn table_name(config: &Config) -> Result<TableName, Failure> {
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
    let (schema, spec) = table_plan(name, path, iceberg.partition_spec.as_deref(), iceberg.kafka_columns)?;
    let table = catalog.create(name, schema, spec, BTreeMap::new()).await?;
    tracing::info!(table = %name, location = table.metadata.location(), "made the table");
    Ok(table)
}

/// Schema and partition spec of a table to be made.
fn table_plan(
    name: &TableName,
    path: &Path,
    spec: Option<&str>,
    kafka_columns: bool,
) -> Result<(iceberg::spec::Schema, iceberg::spec::UnboundPartitionSpec), Failure> {
    let unfit = |detail: String| Failure::Unfit { table: name.to_string(), detail };
    let text = std::fs::read_to_string(path).map_err(|e| {
        unfit(format!("cannot read its schema file {} (ICEBERG_TABLE_SCHEMA): {e}", path.display()))
    })?;
    let schema = table::parse_schema(&text, kafka_columns)
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
            .map(|(name, value)| (name.clone(), value.expose().to_owned()))
            .collect(),
        // A quarter of the memory may wait in the client; the rest is batches and open files.
        queue_bytes: config.memory_limit / 4 / shards,
    }
}
