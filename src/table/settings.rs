//! How to reach a catalog and the store behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::secret::{Properties, Secret, Uri};

/// The kinds of catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogKind {
    /// SQLite or PostgreSQL, in the tables that Java's JdbcCatalog and pyiceberg's SqlCatalog use.
    Sql,
    /// The Iceberg REST protocol.
    Rest,
}

/// How to reach a catalog and the store behind it.
#[derive(Clone, Debug)]
pub struct CatalogSettings {
    /// Kind of catalog.
    pub kind: CatalogKind,
    /// SQL: the value of the column `catalog_name`, one for each catalog in a database. REST: unused.
    pub name: String,
    /// SQL: `sqlite:///absolute/path.db`, `sqlite://relative.db`, `sqlite:path` or `postgresql://...`.
    /// REST: base address, without `/v1`.
    pub uri: Uri,
    /// SQL: the directory or prefix under which tables are created. REST: the warehouse to ask for.
    pub warehouse: Option<String>,
    /// REST only.
    pub rest: RestAuth,
    /// Properties of the store, named as everywhere in Iceberg: `s3.endpoint`, `s3.region`,
    /// `s3.access-key-id`, `s3.secret-access-key`, `s3.session-token`, `s3.path-style-access`.
    pub io_properties: Properties,
    /// Longest time for one request to the catalog, connecting included.
    pub request_timeout: Duration,
}

/// How to sign in to a REST catalog.
#[derive(Clone, Debug, Default)]
pub struct RestAuth {
    /// A bearer token, used as it is.
    pub token: Option<Secret>,
    /// `id:secret` for OAuth2 client credentials; a token is fetched and renewed with it.
    pub credential: Option<Secret>,
    /// Scope of the token to fetch; `catalog` if absent, and none is sent if `none`.
    pub scope: Option<String>,
    /// Audience of the token to fetch.
    pub audience: Option<String>,
    /// Resource (RFC 8707) of the token to fetch.
    pub resource: Option<String>,
    /// Where to fetch a token; `{uri}/v1/oauth/tokens` if absent.
    pub oauth2_server_uri: Option<Uri>,
    /// PEM file of authorities to trust beside those of the system.
    pub ca_file: Option<String>,
    /// Headers to send with every request.
    pub headers: BTreeMap<String, Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_secret() {
        let settings = CatalogSettings {
            kind: CatalogKind::Rest,
            name: "icestream".into(),
            uri: "postgresql://localhost/db?user=ice&password=hunter2".into(),
            warehouse: None,
            rest: RestAuth {
                token: Some("hunter2".into()),
                credential: Some("id:hunter2".into()),
                scope: None,
                audience: None,
                resource: None,
                oauth2_server_uri: Some("http://a:hunter2@localhost/token".into()),
                ca_file: None,
                headers: BTreeMap::from([("Authorization".into(), "hunter2".into())]),
            },
            io_properties: Properties::from_iter([
                ("s3.secret-access-key", "hunter2"),
                ("s3.session-token", "hunter2"),
                ("s3.endpoint", "http://me:hunter2@lake"),
                ("s3.region", "eu-west-1"),
            ]),
            request_timeout: Duration::from_secs(1),
        };
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("eu-west-1"));
    }
}
