//! From settings to the servers that they name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use iceberg::io::FileIO;
use iceberg::spec::{Schema, TableMetadata, UnboundPartitionSpec};

use crate::base::location::{is_place, on_s3};
use crate::base::secret::Properties;
use crate::config::{CatalogType, Config, Fetcher};
use crate::decode::Format;
use crate::failure::Failure;
use crate::source::{FetchBy, SourceSettings, Topics};
use crate::table::{
    self, Catalog, CatalogKind, CatalogSettings, Creation, LoadedTable, RestAuth, TableName,
};

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

/// A table to be made from `ICEBERG_TABLE_SCHEMA`.
pub(crate) struct Plan {
    schema: Schema,
    spec: UnboundPartitionSpec,
    properties: HashMap<String, String>,
}

impl Plan {
    /// What the settings say of the table.
    ///
    /// # Errors
    /// `Unfit` if they say nothing, or what cannot be.
    pub(crate) fn new(name: &TableName, config: &Config) -> Result<Self, Failure> {
        let iceberg = &config.iceberg;
        let Some(path) = &iceberg.table_schema else {
            return Err(Failure::Unfit {
                table: name.to_string(),
                detail: String::from(
                    "does not exist; set ICEBERG_TABLE_SCHEMA to a schema file to have it made, or \
                     correct ICEBERG_TABLE",
                ),
            });
        };
        let spec = iceberg.partition_spec.as_deref();
        let (schema, spec) = schema_and_spec(name, path, spec, iceberg.kafka_columns)?;
        let properties = table::of_made_table(&iceberg.table_properties);
        Ok(Self { schema, spec, properties })
    }

    /// The table's first metadata, at the place that the catalog would give it if that is known: to look at,
    /// before a catalog is asked to make what could then not be written.
    ///
    /// # Errors
    /// If there can be no such table, or none that is written to.
    pub(crate) fn metadata(
        &self,
        name: &TableName,
        config: &Config,
        place: Option<String>,
    ) -> Result<TableMetadata, Failure> {
        let is_on_s3 = |(key, place): (&String, &String)| is_place(key) && on_s3(place).is_some();
        let location = match (&place, &config.iceberg.warehouse) {
            (Some(place), _) => place,
            (None, Some(warehouse)) if warehouse.contains("://") => warehouse,
            // It has to be the store of the places that are set.
            _ if self.properties.iter().any(is_on_s3) => "s3://bucket/table",
            _ => "file:///table",
        };
        let Self { schema, spec, properties } = self;
        let creation = Creation { table: name, schema, spec, properties };
        Ok(creation.metadata(location.to_owned())?)
    }

    /// Has the catalog make the table. If another process is first it is that one's.
    pub(crate) async fn make(
        &self,
        catalog: &Catalog,
        name: &TableName,
    ) -> Result<LoadedTable, Failure> {
        let table = catalog.create(name, &self.schema, &self.spec, &self.properties).await?;
        tracing::info!(table = %name, location = table.metadata.location(), "made the table");
        Ok(table)
    }

    /// How many columns it has, and partition fields.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.schema.as_struct().fields().len(), self.spec.fields().len())
    }
}

fn schema_and_spec(
    name: &TableName,
    path: &Path,
    spec: Option<&str>,
    kafka_columns: bool,
) -> Result<(Schema, UnboundPartitionSpec), Failure> {
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

/// A store for a table that does not exist: nothing is written to it.
pub(crate) fn no_store() -> Result<FileIO, Failure> {
    Ok(table::file_io("file:///", &Properties::default())?)
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
            Fetcher::Icestream | Fetcher::Auto => FetchBy::Icestream,
            Fetcher::Librdkafka => FetchBy::Librdkafka,
        },
        offsets: Arc::default(),
    }
}
