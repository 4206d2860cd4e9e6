//! How to reach a catalog and the store behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The kinds of catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogKind {
    /// SQLite or PostgreSQL, in the tables that Java's JdbcCatalog and pyiceberg's SqlCatalog use.
    Sql,
    /// The Iceberg REST protocol.
    Rest,
}

/// How to reach a catalog and the store behind it. `Debug` masks every secret.
#[derive(Clone)]
pub struct CatalogSettings {
    /// Kind of catalog.
    pub kind: CatalogKind,
    /// SQL: the value of the column `catalog_name`, one for each catalog in a database. REST: unused.
    pub name: String,
    /// SQL: `sqlite:///absolute/path.db`, `sqlite://relative.db`, `sqlite:path` or `postgresql://...`.
    /// REST: base address, without `/v1`.
    pub uri: String,
    /// SQL: the directory or prefix under which tables are created. REST: the warehouse to ask for.
    pub warehouse: Option<String>,
    /// REST only.
    pub rest: RestAuth,
    /// Properties of the store, named as everywhere in Iceberg: `s3.endpoint`, `s3.region`,
    /// `s3.access-key-id`, `s3.secret-access-key`, `s3.session-token`, `s3.path-style-access`.
    pub io_properties: BTreeMap<String, String>,
    /// Longest time for one request to the catalog, connecting included.
    pub request_timeout: Duration,
}

/// How to sign in to a REST catalog. `Debug` masks every value.
#[derive(Clone, Default)]
pub struct RestAuth {
    /// A bearer token, used as it is.
    pub token: Option<String>,
    /// `id:secret` for OAuth2 client credentials; a token is fetched and renewed with it.
    pub credential: Option<String>,
    /// Scope of the token to fetch; `catalog` if absent.
    pub scope: Option<String>,
    /// Where to fetch a token; `{uri}/v1/oauth/tokens` if absent.
    pub oauth2_server_uri: Option<String>,
    /// Headers to send with every request.
    pub headers: BTreeMap<String, String>,
}

const MASK: &str = "***";

/// True if a property of this name may hold a secret.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["secret", "token", "password", "credential", "sse.key"].iter().any(|word| key.contains(word))
}

/// `uri` without its password. A uri that cannot be parsed has its part before `@` masked.
pub(super) fn mask_uri(uri: &str) -> String {
    match url::Url::parse(uri) {
        Ok(mut parsed) if parsed.password().is_some() => match parsed.set_password(Some(MASK)) {
            Ok(()) => parsed.to_string(),
            Err(()) => MASK.to_string(),
        },
        Ok(_) => uri.to_string(),
        Err(_) => match uri.rsplit_once('@') {
            Some((_, rest)) => format!("{MASK}@{rest}"),
            None => uri.to_string(),
        },
    }
}

impl fmt::Debug for CatalogSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: BTreeMap<&str, &str> = self
            .io_properties
            .iter()
            .map(|(key, value)| (key.as_str(), if is_secret(key) { MASK } else { value }))
            .collect();
        f.debug_struct("CatalogSettings")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .field("uri", &mask_uri(&self.uri))
            .field("warehouse", &self.warehouse)
            .field("rest", &self.rest)
            .field("io_properties", &properties)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

impl fmt::Debug for RestAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestAuth")
            .field("token", &self.token.as_ref().map(|_| MASK))
            .field("credential", &self.credential.as_ref().map(|_| MASK))
            .field("scope", &self.scope)
            .field("oauth2_server_uri", &self.oauth2_server_uri.as_deref().map(mask_uri))
            .field("headers", &self.headers.keys().map(|k| (k, MASK)).collect::<BTreeMap<_, _>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_secret() {
        let settings = CatalogSettings {
            kind: CatalogKind::Rest,
            name: "icestream".into(),
            uri: "postgresql://user:hunter2@localhost/db".into(),
            warehouse: None,
            rest: RestAuth {
                token: Some("hunter2".into()),
                credential: Some("id:hunter2".into()),
                scope: None,
                oauth2_server_uri: Some("http://a:hunter2@localhost/token".into()),
                headers: BTreeMap::from([("Authorization".into(), "hunter2".into())]),
            },
            io_properties: BTreeMap::from([
                ("s3.secret-access-key".into(), "hunter2".into()),
                ("s3.session-token".into(), "hunter2".into()),
                ("s3.region".into(), "eu-west-1".into()),
            ]),
            request_timeout: Duration::from_secs(1),
        };
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("eu-west-1"));
    }
}
