//! Catalogs and warehouses for tables, and a look at a table that shares no code with icestream.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::postgres::{Postgres, sql};
use super::rest::RestCatalog;
use super::s3::S3;
use super::{new_dir, wait_for};

/// A catalog with a warehouse: where a test keeps its tables.
pub struct Lake {
    catalog: Catalog,
    warehouse: String,
    s3: Option<&'static S3>,
    /// The catalog's address as icestream is told: differs from its own if a proxy stands between.
    uri_for_icestream: Option<String>,
}

/// Makes a new, empty lake.
pub type NewLake = fn() -> Lake;

enum Catalog {
    /// A `sqlite://` or `postgres://` database.
    Sql(String),
    Rest(RestCatalog),
}

impl Lake {
    /// A new SQLite file and local files: the defaults of icestream.
    pub fn sqlite() -> Self {
        Self::sql(sqlite_url(), local_warehouse(), None)
    }

    /// A new SQLite file and a new bucket.
    pub fn sqlite_on_s3() -> Self {
        let s3 = S3::shared();
        Self::sql(sqlite_url(), format!("s3://{}/warehouse", s3.create_bucket()), Some(s3))
    }

    /// A new PostgreSQL database and local files.
    pub fn postgres() -> Self {
        Self::sql(Postgres::shared().create_database(), local_warehouse(), None)
    }

    /// A new database of that server and local files.
    pub fn on_postgres(server: &Postgres) -> Self {
        Self::sql(server.create_database(), local_warehouse(), None)
    }

    /// A new REST catalog and local files.
    pub fn rest() -> Self {
        Self::with_rest(RestCatalog::local(), None)
    }

    /// A new REST catalog and a new bucket.
    pub fn rest_on_s3() -> Self {
        let s3 = S3::shared();
        Self::with_rest(RestCatalog::on_s3(s3), Some(s3))
    }

    /// The kinds that every guarantee must hold on, by name.
    pub fn each() -> [(&'static str, NewLake); 5] {
        [
            ("SQLite, local files", Self::sqlite),
            ("SQLite, S3", Self::sqlite_on_s3),
            ("PostgreSQL, local files", Self::postgres),
            ("REST, local files", Self::rest),
            ("REST, S3", Self::rest_on_s3),
        ]
    }

    fn sql(url: String, warehouse: String, s3: Option<&'static S3>) -> Self {
        Self { catalog: Catalog::Sql(url), warehouse, s3, uri_for_icestream: None }
    }

    fn with_rest(rest: RestCatalog, s3: Option<&'static S3>) -> Self {
        let warehouse = rest.warehouse().to_owned();
        Self { catalog: Catalog::Rest(rest), warehouse, s3, uri_for_icestream: None }
    }

    /// The same with icestream's requests to the catalog going to `uri`, where a proxy is.
    #[must_use]
    pub fn through(self, uri: String) -> Self {
        Self { uri_for_icestream: Some(uri), ..self }
    }

    /// The REST catalog's server.
    ///
    /// # Panics
    /// If the catalog is another one.
    pub fn rest_catalog(&self) -> &RestCatalog {
        match &self.catalog {
            Catalog::Rest(rest) => rest,
            Catalog::Sql(url) => panic!("{url} is not a REST catalog"),
        }
    }

    /// The URL of the SQL catalog's database.
    ///
    /// # Panics
    /// If the catalog is another one.
    pub fn database(&self) -> &str {
        match &self.catalog {
            Catalog::Sql(url) => url,
            Catalog::Rest(_) => panic!("a REST catalog has no database of ours"),
        }
    }

    /// Where the tables' files are, as a location.
    pub fn warehouse(&self) -> &str {
        &self.warehouse
    }

    /// The settings by which icestream finds this place.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = match &self.catalog {
            Catalog::Sql(url) => vec![
                ("ICEBERG_CATALOG_TYPE", "sql".to_owned()),
                ("ICEBERG_CATALOG_URI", url.clone()),
                ("ICEBERG_WAREHOUSE", self.warehouse.clone()),
            ],
            Catalog::Rest(rest) => vec![
                ("ICEBERG_CATALOG_TYPE", "rest".to_owned()),
                ("ICEBERG_CATALOG_URI", self.uri_for_icestream.clone().unwrap_or(rest.uri())),
            ],
        };
        if let Some(s3) = self.s3 {
            settings.extend([
                ("AWS_ENDPOINT_URL_S3", s3.endpoint()),
                ("AWS_ACCESS_KEY_ID", S3::ACCESS_KEY_ID.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", S3::SECRET_ACCESS_KEY.to_owned()),
                ("AWS_REGION", S3::REGION.to_owned()),
                ("S3_PATH_STYLE_ACCESS", "true".to_owned()),
            ]);
        }
        settings
    }

    /// The file of an SQLite catalog.
    ///
    /// # Panics
    /// If it is another catalog.
    pub fn sqlite_file(&self) -> String {
        match &self.catalog {
            Catalog::Sql(url) => url.strip_prefix("sqlite://").expect("SQLite").to_owned(),
            Catalog::Rest(_) => panic!("a REST catalog has no file"),
        }
    }

    /// The table `namespace.table` of this catalog, whether it exists or not.
    pub fn table(&self, name: &str) -> Table<'_> {
        let (namespace, table) = name.rsplit_once('.').expect("a name like namespace.table");
        Table { lake: self, namespace: namespace.into(), table: table.into() }
    }
}

/// A table, looked at through its catalog and its metadata file.
pub struct Table<'a> {
    lake: &'a Lake,
    namespace: String,
    table: String,
}

impl Table<'_> {
    /// `namespace.table`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.namespace, self.table)
    }

    /// Where the current metadata file is; none if there is no such table.
    pub fn metadata_location(&self) -> Option<String> {
        match &self.lake.catalog {
            Catalog::Sql(url) => sql::text(
                url,
                "SELECT metadata_location FROM iceberg_tables \
                 WHERE table_namespace = $1 AND table_name = $2",
                &self.namespace,
                &self.table,
            ),
            Catalog::Rest(rest) => {
                let reply =
                    rest.get(&format!("namespaces/{}/tables/{}", self.namespace, self.table));
                if reply.status == 404 {
                    return None;
                }
                Some(text(&reply.success().json()["metadata-location"]))
            }
        }
    }

    /// The current metadata as JSON; none if there is no such table.
    pub fn metadata(&self) -> Option<Value> {
        let location = self.metadata_location()?;
        let text = if let Some(path) = location.strip_prefix("s3://") {
            let s3 = self.lake.s3.expect("a table in S3 without a store");
            s3.get(path).success().body
        } else {
            let path = local_path(&location);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{location}: {error}"))
        };
        Some(serde_json::from_str(&text).expect("metadata that is JSON"))
    }

    /// The snapshots that the metadata lists, oldest first, but for the empty one that a table begins
    /// with.
    pub fn snapshots(&self) -> Vec<Value> {
        snapshots(&self.metadata().unwrap_or_default())
    }

    /// A table property.
    pub fn property(&self, name: &str) -> Option<String> {
        Some(self.metadata()?["properties"][name].as_str()?.to_owned())
    }

    /// Polls the metadata until `probe` gives a value.
    pub fn wait_for<T>(
        &self,
        what: &str,
        within: Duration,
        mut probe: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        wait_for(&format!("{} to have {what}", self.name()), within, || probe(&self.metadata()?))
    }

    /// The catalog as pyiceberg is told of it.
    pub(super) fn pyiceberg_catalog(&self) -> Value {
        let mut catalog = match &self.lake.catalog {
            Catalog::Sql(url) => serde_json::json!({
                "type": "sql",
                // SQLAlchemy's spelling of an absolute path and of the driver.
                "uri": url
                    .replacen("sqlite://", "sqlite:///", 1)
                    .replacen("postgres://", "postgresql+psycopg2://", 1),
                "warehouse": self.lake.warehouse,
            }),
            Catalog::Rest(rest) => serde_json::json!({ "type": "rest", "uri": rest.uri() }),
        };
        if let Some(s3) = self.lake.s3 {
            catalog["s3.endpoint"] = s3.endpoint().into();
            catalog["s3.access-key-id"] = S3::ACCESS_KEY_ID.into();
            catalog["s3.secret-access-key"] = S3::SECRET_ACCESS_KEY.into();
            catalog["s3.region"] = S3::REGION.into();
        }
        catalog
    }

    /// The store of a table on S3.
    pub(super) fn s3(&self) -> &'static S3 {
        self.lake.s3.expect("a table on S3")
    }

    /// The catalog as Spark is told of it, by settings below `spark.sql.catalog.`. A JDBC catalog
    /// shows the tables that were made under its own name only.
    ///
    /// # Panics
    /// If the catalog or the store is one for which Spark has no driver here.
    pub(super) fn spark_catalog(&self) -> Vec<(&'static str, String)> {
        assert!(self.lake.s3.is_none(), "Spark has no client for S3 here");
        let class = ("icestream", "org.apache.iceberg.spark.SparkCatalog".to_owned());
        let [kind, uri] = match &self.lake.catalog {
            Catalog::Sql(url) => {
                let path = url.strip_prefix("sqlite://").expect("Spark has SQLite's driver only");
                ["jdbc".to_owned(), format!("jdbc:sqlite:{path}")]
            }
            Catalog::Rest(rest) => ["rest".to_owned(), rest.uri()],
        };
        vec![
            class,
            ("icestream.type", kind),
            ("icestream.uri", uri),
            ("icestream.warehouse", self.lake.warehouse.clone()),
            // Each statement is to see the newest table.
            ("icestream.cache-enabled", "false".to_owned()),
        ]
    }

    /// How an independent reader reaches the table's files.
    pub(super) fn reader_properties(&self) -> Value {
        match self.lake.s3 {
            None => Value::Null,
            Some(s3) => serde_json::json!({
                "endpoint": s3.endpoint(),
                "access_key_id": S3::ACCESS_KEY_ID,
                "secret_access_key": S3::SECRET_ACCESS_KEY,
                "region": S3::REGION,
            }),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text in a catalog's answer").to_owned()
}

/// The path in a `file:` location, however many slashes it has, or the path that it is.
pub fn local_path(location: &str) -> PathBuf {
    let path = location.strip_prefix("file:").unwrap_or(location);
    PathBuf::from(format!("/{}", path.trim_start_matches('/')))
}

fn sqlite_url() -> String {
    format!("sqlite://{}", new_dir("sqlite").join("catalog.db").display())
}

fn local_warehouse() -> String {
    format!("file://{}", new_dir("warehouse").display())
}

/// See [`Table::snapshots`].
pub fn snapshots(metadata: &Value) -> Vec<Value> {
    let mut snapshots = metadata["snapshots"].as_array().cloned().unwrap_or_default();
    snapshots.retain(|snapshot| !is_founding(snapshot));
    // Not every writer lists them in order.
    snapshots.sort_by_key(|snapshot| snapshot["sequence-number"].as_i64());
    snapshots
}

fn is_founding(snapshot: &Value) -> bool {
    snapshot["summary"]["icestream.founding"].is_string()
}
