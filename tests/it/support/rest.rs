//! Apache Iceberg's own REST catalog handlers, over its JDBC catalog on SQLite.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::http::{self, Reply};
use super::process::Process;
use super::s3::S3;
use super::{PATIENCE, new_dir, parts};

/// A REST catalog server. Dropping it kills it.
pub struct RestCatalog {
    port: u16,
    warehouse: String,
    _process: Process,
}

impl RestCatalog {
    /// A new, empty catalog with its warehouse in local files.
    pub fn local() -> Self {
        let warehouse = format!("file://{}", new_dir("warehouse").display());
        Self::start(warehouse, "")
    }

    /// A new, empty catalog with its warehouse in a new bucket.
    pub fn on_s3(s3: &S3) -> Self {
        let settings = format!(
            "io-impl=org.apache.iceberg.aws.s3.S3FileIO\ns3.endpoint={}\n\
             s3.path-style-access=true\ns3.access-key-id={}\ns3.secret-access-key={}\n\
             client.region={}\n",
            s3.endpoint(),
            S3::ACCESS_KEY_ID,
            S3::SECRET_ACCESS_KEY,
            S3::REGION
        );
        Self::start(format!("s3://{}/warehouse", s3.create_bucket()), &settings)
    }

    fn start(warehouse: String, settings: &str) -> Self {
        let dir = new_dir("rest");
        let file = dir.join("catalog.properties");
        let database = dir.join("catalog.db");
        let text =
            format!("uri=jdbc:sqlite:{}\nwarehouse={warehouse}\n{settings}", database.display());
        fs::write(&file, text).expect("cannot write the catalog's settings");

        let mut command = Command::new(parts::java());
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
        command.args([&parts::rest_catalog_classpath(), "RestCatalog", "0"]).arg(&file);
        let mut process = Process::start("the REST catalog", command, &dir.join("rest.log"));
        let port = process.wait_ready("listen", PATIENCE, |process| {
            let log = process.log();
            let line = log.lines().find_map(|line| line.strip_prefix("listening "))?;
            line.trim().parse().ok()
        });
        Self { port, warehouse, _process: process }
    }

    /// `HOST:PORT`, for a proxy in front of it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// For `ICEBERG_CATALOG_URI`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where the server puts tables.
    pub fn warehouse(&self) -> &str {
        &self.warehouse
    }

    /// `GET /v1/path`.
    pub fn get(&self, path: &str) -> Reply {
        http::get(&self.url(path)).expect("the REST catalog did not answer")
    }

    /// `POST /v1/path`.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        http::post(&self.url(path), body).expect("the REST catalog did not answer")
    }

    /// Creates a namespace of one level.
    pub fn create_namespace(&self, namespace: &str) {
        self.post("namespaces", &json!({ "namespace": [namespace] })).success();
    }

    /// Creates a table from an Iceberg schema and gives the catalog's answer.
    pub fn create_table(&self, namespace: &str, table: &str, schema: &Value) -> Value {
        let body = json!({ "name": table, "schema": schema });
        self.post(&format!("namespaces/{namespace}/tables"), &body).success().json()
    }

    /// Asks for a change of a table: `requirements` and `updates` as in the REST specification.
    pub fn commit(&self, namespace: &str, table: &str, change: &Value) -> Reply {
        self.post(&format!("namespaces/{namespace}/tables/{table}"), change)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.uri())
    }
}
