//! The Iceberg REST protocol, as much of it as icestream needs: config, load, create, commit.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::lent_keys::{LentKeys, StorageCredential, for_location};
use super::rest_client::{Answer, RestClient, SendError, is_iceberg_error, lookup};
use super::s3_store::Access;
use super::snapshot::Proposal;
use super::{
    CatalogSettings, CommitOutcome, Creation, LoadedTable, NotSent, TableError, TableName,
    check_kept, io, unknown,
};
use crate::base::masking::mask_uri;
use crate::base::secret::Properties;

/// As a catalog lists it.
const KEYS_ENDPOINT: &str = "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}/credentials";

/// How a catalog says what stands between the levels of a namespace in an address, encoded as there.
const SEPARATOR: &str = "namespace-separator";

/// What a catalog says, but for names of our own: it has no say in those.
fn without_ours(mut told: BTreeMap<String, String>) -> BTreeMap<String, String> {
    told.retain(|name, _| !name.starts_with("icestream."));
    told
}

/// A REST catalog.
pub struct RestCatalog {
    client: Arc<RestClient>,
    /// Address of the catalog's resources: base, `/v1`, and the prefix that the catalog asks for.
    root: String,
    /// Between the levels of a namespace in an address, encoded.
    separator: String,
    /// Properties of the store: the catalog's defaults, ours, and what the catalog overrides.
    io_properties: Properties,
    /// Can keys to a store be asked for without the table?
    lends_keys_alone: bool,
    /// Keys that came with tables, each for the table's location or a prefix.
    lent: Mutex<BTreeMap<(TableName, String), LentKeys>>,
}

impl fmt::Debug for RestCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestCatalog").field("catalog", &self.client.label).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
struct ConfigAnswer {
    #[serde(default)]
    defaults: Option<BTreeMap<String, String>>,
    #[serde(default)]
    overrides: Option<BTreeMap<String, String>>,
    /// What it can, as method and path; older ones do not say.
    #[serde(default)]
    endpoints: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct TableAnswer {
    #[serde(default)]
    metadata_location: Option<String>,
    metadata: TableMetadata,
    #[serde(default)]
    config: Option<BTreeMap<String, String>>,
    #[serde(default)]
    storage_credentials: Option<Vec<StorageCredential>>,
}

impl RestCatalog {
    /// Signs in and asks for the catalog's configuration.
    pub(super) async fn connect(settings: &CatalogSettings) -> Result<Self, TableError> {
        let client = Arc::new(RestClient::new(settings)?);
        let base = settings.uri.expose().trim_end_matches('/');
        let warehouse = settings.warehouse.as_deref().map(encode_segment);
        let query = warehouse.map_or(String::new(), |name| format!("?warehouse={name}"));
        let doing = "read the configuration";
        let url = format!("{base}/v1/config{query}");
        let answer = lookup(&client, doing, Method::GET, &url, None).await?;
        if answer.status != 200 {
            return Err(client.refused(doing, answer.status, &answer.body));
        }
        let config: ConfigAnswer = parse(&client, doing, &answer)?;
        let mut properties = Properties::from_iter(config.defaults.unwrap_or_default());
        properties.extend(settings.io_properties.iter());
        properties.extend(without_ours(config.overrides.unwrap_or_default()));
        let separator = properties.remove(SEPARATOR).unwrap_or_else(|| String::from("%1F"));
        let base = properties.remove("uri").unwrap_or_else(|| base.to_string());
        let base = base.trim_end_matches('/');
        let root = match properties.remove("prefix").as_deref().map(|p| p.trim_matches('/')) {
            Some(prefix) if !prefix.is_empty() => format!("{base}/v1/{prefix}"),
            _ => format!("{base}/v1"),
        };
        let endpoints = config.endpoints.unwrap_or_default();
        let lends_keys_alone = endpoints.iter().any(|endpoint| endpoint == KEYS_ENDPOINT);
        Ok(Self {
            client,
            root,
            separator,
            io_properties: properties,
            lends_keys_alone,
            lent: Mutex::default(),
        })
    }

    /// As if the token had been asked for long ago.
    #[cfg(test)]
    pub(super) async fn age_token(&self) {
        self.client.age_token().await;
    }

    fn namespace_url(&self, levels: &[String]) -> String {
        let levels: Vec<String> = levels.iter().map(|level| encode_segment(level)).collect();
        format!("{}/namespaces/{}", self.root, levels.join(&self.separator))
    }

    fn table_url(&self, table: &TableName) -> String {
        format!("{}/tables/{}", self.namespace_url(&table.namespace), encode_segment(&table.name))
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<LoadedTable>, TableError> {
        let doing = format!("load table {table}");
        let answer =
            lookup(&self.client, &doing, Method::GET, &self.table_url(table), None).await?;
        match answer.status {
            200 => self.loaded(table, &doing, &answer).map(Some),
            // Any web server says 404 to an address it does not know.
            404 if is_iceberg_error(&answer.body) => Ok(None),
            status => Err(self.client.refused(&doing, status, &answer.body)),
        }
    }

    fn loaded(
        &self,
        table: &TableName,
        doing: &str,
        answer: &Answer,
    ) -> Result<LoadedTable, TableError> {
        let body = answer.body.as_ref().map_err(|error| {
            self.client.unreachable(doing, format!("the answer broke off: {error}"), None)
        })?;
        let parsed: TableAnswer = serde_json::from_slice(body)
            .map_err(|error| unknown(table, &mask_uri(&self.table_url(table)), body, error))?;
        check_kept(table, body, &parsed.metadata)?;
        self.client.has_read();
        let location = parsed.metadata.location().to_string();
        let told = without_ours(parsed.config.unwrap_or_default());
        let credentials = parsed.storage_credentials.unwrap_or_default();
        Ok(LoadedTable {
            name: table.clone(),
            metadata: parsed.metadata.into(),
            metadata_location: parsed.metadata_location.unwrap_or_default(),
            io: io::file_io_by(&location, self.accesses(table, &location, told, credentials))?,
        })
    }

    /// How the files of a table are reached: each by what came for the longest prefix of its location,
    /// and what lies under none as the table's own location.
    fn accesses(
        &self,
        table: &TableName,
        location: &str,
        told: BTreeMap<String, String>,
        credentials: Vec<StorageCredential>,
    ) -> Vec<Access> {
        let mut of_table = told.clone();
        of_table.extend(without_ours(for_location(credentials.clone(), location)));
        let mut all = vec![self.access(table, String::new(), location, of_table)];
        for StorageCredential { prefix, config } in credentials {
            if prefix.is_empty() {
                continue;
            }
            let mut properties = told.clone();
            properties.extend(without_ours(config));
            all.push(self.access(table, prefix.clone(), &prefix, properties));
        }
        all
    }

    fn access(
        &self,
        table: &TableName,
        prefix: String,
        location: &str,
        told: BTreeMap<String, String>,
    ) -> Access {
        let keys = self.keys(table, location, &told);
        let mut properties = self.io_properties.clone();
        properties.extend(told);
        Access { prefix, properties, keys }
    }

    /// The keys that came with a table for a location, if any did. Who has the table loaded already uses
    /// them, too.
    fn keys(
        &self,
        table: &TableName,
        location: &str,
        told: &BTreeMap<String, String>,
    ) -> Option<LentKeys> {
        let mut lent = self.lent.lock();
        let of = (table.clone(), location.to_owned());
        if let Some(keys) = lent.get(&of)
            && keys.take(location, told)
        {
            return Some(keys.clone());
        }
        let url = self.table_url(table);
        let alone = self.lends_keys_alone.then(|| format!("{url}/credentials"));
        let urls = alone.into_iter().chain([format!("{url}?snapshots=refs")]).collect();
        let keys =
            LentKeys::new(self.client.clone(), urls, table.clone(), location.to_owned(), told);
        match &keys {
            Some(keys) => lent.insert(of, keys.clone()),
            None => lent.remove(&of),
        };
        keys
    }

    pub(super) async fn create(&self, creation: &Creation<'_>) -> Result<LoadedTable, TableError> {
        let table = creation.table;
        let mut answer = self.post_table(creation).await?;
        if answer.status == 404 && is_iceberg_error(&answer.body) {
            self.create_namespaces(table).await?;
            answer = self.post_table(creation).await?;
        }
        match answer.status {
            200 => self.loaded(table, &format!("create table {table}"), &answer),
            // Another process was first: its table it is.
            409 => {
                self.load(table).await?.ok_or_else(|| TableError::Missing { table: table.clone() })
            }
            status => {
                let doing = format!("create table {table}");
                Err(self.client.refused(&doing, status, &answer.body))
            }
        }
    }

    async fn post_table(&self, creation: &Creation<'_>) -> Result<Answer, TableError> {
        let table = creation.table;
        let doing = format!("create table {table}");
        let mut properties = creation.properties.clone();
        properties.entry("format-version".to_string()).or_insert_with(|| "2".to_string());
        let body = json!({
            "name": table.name,
            "schema": creation.schema,
            "partition-spec": creation.spec.clone().with_spec_id(0),
            "stage-create": false,
            "properties": properties,
        });
        let url = format!("{}/tables", self.namespace_url(&table.namespace));
        lookup(&self.client, &doing, Method::POST, &url, Some(to_bytes(&body))).await
    }

    /// Outermost level first: some catalogs want the parents to exist.
    async fn create_namespaces(&self, table: &TableName) -> Result<(), TableError> {
        let url = format!("{}/namespaces", self.root);
        for depth in 1..=table.namespace.len() {
            let levels = &table.namespace[..depth];
            let doing = format!("create namespace {}", levels.join("."));
            let body = to_bytes(&json!({ "namespace": levels, "properties": {} }));
            let answer = lookup(&self.client, &doing, Method::POST, &url, Some(body)).await?;
            // 409: it is there already.
            if !matches!(answer.status, 200 | 409) {
                return Err(self.client.refused(&doing, answer.status, &answer.body));
            }
        }
        Ok(())
    }

    /// The compare-and-swap: one POST with what must hold and what to change.
    ///
    /// # Errors
    /// The request never reached the catalog.
    pub(super) async fn commit(
        &self,
        loaded: &LoadedTable,
        proposal: &Proposal,
    ) -> Result<CommitOutcome, NotSent> {
        let table = &loaded.name;
        let doing = format!("commit to table {table}");
        let body = to_bytes(&json!({
            "identifier": { "namespace": table.namespace, "name": table.name },
            "requirements": proposal.requirements,
            "updates": proposal.updates,
        }));
        let url = self.table_url(table);
        let answer = match self.client.send(&doing, Method::POST, &url, Some(body)).await {
            Ok(answer) => answer,
            Err(SendError::NotSent(error)) => return Err(NotSent::because(error)),
            Err(SendError::TurnedAway(error)) => return Ok(CommitOutcome::TurnedAway(error)),
            Err(SendError::Lost(reason)) => return Ok(CommitOutcome::Unknown(reason)),
        };
        let said = format!("HTTP {}{}", answer.status, self.client.told(&answer.body));
        match answer.status {
            200 => {
                self.client.has_written();
                Ok(committed(loaded, proposal, &answer))
            }
            409 => Ok(CommitOutcome::Conflict(said)),
            401 | 403 | 419 | 429 => {
                let error = self.client.turned_away(&doing, answer.status, &answer.body);
                Ok(CommitOutcome::TurnedAway(error))
            }
            // By somebody who is no catalog: what became of it there nobody knows.
            404 | 405 if !is_iceberg_error(&answer.body) => Ok(CommitOutcome::Unknown(said)),
            400 | 404 | 405 | 406 | 410 | 411 | 413 | 414 | 415 | 422 => {
                Ok(CommitOutcome::Rejected(said))
            }
            // 500, 502 and 504 by the protocol; all others because they prove nothing.
            _ => Ok(CommitOutcome::Unknown(said)),
        }
    }
}

impl RestCatalog {
    pub(super) fn label(&self) -> &str {
        self.client.label()
    }

    /// Sends a commit that nothing depends on, and tells whether the catalog took it. An error of the
    /// catalog itself counts as no, the table tells: some answer a requirement that fails so.
    ///
    /// # Errors
    /// We are turned away, or the catalog was not reached, so that it did not answer at all.
    pub(super) async fn takes(
        &self,
        loaded: &LoadedTable,
        requirements: &[TableRequirement],
        updates: &[TableUpdate],
    ) -> Result<bool, TableError> {
        let table = &loaded.name;
        let doing = format!("ask how commits to table {table} are checked");
        let body = to_bytes(&json!({
            "identifier": { "namespace": table.namespace, "name": table.name },
            "requirements": requirements,
            "updates": updates,
        }));
        let answer =
            lookup(&self.client, &doing, Method::POST, &self.table_url(table), Some(body)).await?;
        match answer.status {
            200 => Ok(true),
            401 | 403 | 419 | 429 => {
                Err(self.client.turned_away(&doing, answer.status, &answer.body))
            }
            404 | 405 if is_iceberg_error(&answer.body) => Ok(false),
            404 | 405 | 408 | 502..=504 => {
                let said = format!("HTTP {}{}", answer.status, self.client.told(&answer.body));
                Err(self.client.unreachable(&doing, said, None))
            }
            _ => Ok(false),
        }
    }
}

/// A 200 is believed only if the table it shows has our snapshot.
fn committed(loaded: &LoadedTable, proposal: &Proposal, answer: &Answer) -> CommitOutcome {
    let unknown = |why: String| CommitOutcome::Unknown(format!("HTTP 200, but {why}"));
    let body = match &answer.body {
        Ok(body) => body,
        Err(error) => return unknown(format!("the answer broke off: {error}")),
    };
    let parsed: TableAnswer = match serde_json::from_slice(body) {
        Ok(parsed) => parsed,
        Err(error) => return unknown(format!("the answer cannot be understood: {error}")),
    };
    let ours = parsed.metadata.uuid() == loaded.metadata.uuid()
        && parsed.metadata.snapshot_by_id(proposal.snapshot_id).is_some();
    if !ours {
        return unknown(format!("the answer lacks snapshot {}", proposal.snapshot_id));
    }
    CommitOutcome::Committed {
        snapshot_id: proposal.snapshot_id,
        table: LoadedTable {
            name: loaded.name.clone(),
            metadata: parsed.metadata.into(),
            metadata_location: parsed.metadata_location.unwrap_or_default(),
            io: loaded.io.clone(),
        },
    }
}

fn parse<T: for<'a> Deserialize<'a>>(
    client: &RestClient,
    doing: &str,
    answer: &Answer,
) -> Result<T, TableError> {
    let body = answer.body.as_ref().map_err(|error| {
        client.unreachable(doing, format!("the answer broke off: {error}"), None)
    })?;
    serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the answer is not that of an Iceberg REST catalog: {error}");
        client.rejected(doing, detail)
    })
}

fn to_bytes(body: &serde_json::Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

/// Percent-encodes all but unreserved characters.
fn encode_segment(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}
