//! From settings to the servers that they name.

use std::path::Path;
use std::time::Duration;

use crate::config::{CatalogType, Config, Fetcher};
use crate::decode::Format;
use crate::failure::Failure;
use crate::source::{FetchBy, SourceSettings, Topics};
use crate::table::{self, Catalog, CatalogKind, CatalogSettings, LoadedTable, RestAuth, TableName};

/// How long a catalog may take to answer one request.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(30);

/// How the payloads of all topics are written: there is no setting for another.
pub(crate) const FORMAT: Format = Format::Json;

/// Connects to the configured catalog.
pub(crate) async fn connect_catalog(config: &Config) -> Result<Catalog, Failure> {
    let iceberg = &config.iceberg;
    let settings = CatalogSettings {
        kind: match iceberg.catalog_type {
            CatalogType::Sql => CatalogKind::Sql,
            CatalogType::Rest => CatalogKind::Rest,
        },
        name: iceberg.catalog_name.clone(),
        uri: iceberg.catalog_uri.clone(),
        warehouse: iceberg.warehouse.clone(),
        rest: RestAuth {
            token: iceberg.rest.token.clone(),
            credential: iceberg.rest.credential.clone(),
            scope: iceberg.rest.scope.clone(),
            audience: iceberg.rest.audience.clone(),
            resource: iceberg.rest.resource.clone(),
            ca_file: iceberg.rest.ca_file.clone(),
            oauth2_server_uri: iceberg.rest.oauth2_server_uri.clone(),
            ..RestAuth::default()
        },
        io_properties: iceberg.io_properties.clone(),
        request_timeout: CATALOG_TIMEOUT,
    };
    Ok(Catalog::connect(&settings).await?)
}

/// The configured table's name.
pub(crate) fn table_name(config: &Config) -> Result<TableName, Failure> {
    Ok(config.iceberg.table.parse::<TableName>()?)
}

/// Loads the table; makes it from `ICEBERG_TABLE_SCHEMA` if it is absent.
pub(crate) async fn open_table(
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
    let properties = table::of_made_table(&iceberg.table_properties);
    let table = catalog.create(name, &schema, &spec, &properties).await?;
    tracing::info!(table = %name, location = table.metadata.location(), "made the table");
    Ok(table)
}

/// Schema and partition spec of a table to be made.
pub(crate) fn table_plan(
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

/// The topics to read.
pub(crate) fn topics(config: &Config) -> Topics {
    Topics::new([config.kafka.topic.as_str()])
}

/// How to reach the topics, as one who is no member of the group.
pub(crate) fn source_settings(config: &Config) -> SourceSettings {
    let shares = config.shares();
    SourceSettings {
        brokers: config.kafka.brokers.clone(),
        topics: topics(config),
        group_id: config.kafka.group_id.clone(),
        group: None,
        properties: config.kafka.properties.clone(),
        fetch_bytes: shares.fetch,
        queue_bytes: shares.queue,
        batch_bytes: shares.unpacked,
        queue_messages: shares.queue_messages,
        fetch_by: match config.kafka.fetcher {
            Fetcher::Icestream => FetchBy::Icestream,
            Fetcher::Librdkafka => FetchBy::Librdkafka,
        },
    }
}
