//! Keys to a store that a catalog lends with a table, for a while.
//!
//! Data files stay open longer than such keys may live, and a table is written to long after it was loaded.
//! So nobody keeps the keys that came with a reading: each request to the store asks here for those of
//! now, which are renewed when half of their life is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use iceberg::io::{S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_SESSION_TOKEN};
use iceberg_storage_opendal::{AwsCredential, ProvideCredential};
use parking_lot::Mutex;
use reqsign_core::time::Timestamp;
use reqwest::Method;
use serde::Deserialize;

use super::TableName;
use super::rest_client::{RestClient, lookup};

/// Milliseconds since the Unix epoch at which the keys end, as Iceberg's own S3 client names it.
const EXPIRES_AT: &str = "s3.session-token-expires-at-ms";
/// When keys are renewed that come with a session token and do not say when they end: no service gives them
/// for less than 15 minutes.
const UNTOLD: Duration = Duration::from_secs(300);
/// Keys are renewed this long before their end at the latest, and not more often than this.
const AT_LEAST: Duration = Duration::from_millis(500);
/// How long the catalog may take while the keys are still good.
const PATIENCE: Duration = Duration::from_secs(3);
/// For so long the signer is told that a key is good: long enough for one request, and too short for it to
/// be kept for the next.
const ONE_REQUEST: Duration = Duration::from_secs(100);

/// A set of keys for a prefix of locations.
#[derive(Clone, Deserialize)]
pub(super) struct StorageCredential {
    /// Locations that begin with it.
    pub prefix: String,
    /// Properties of the store.
    pub config: BTreeMap<String, String>,
}

/// Properties that came for the longest prefix of a location.
pub(super) fn for_location(
    credentials: Vec<StorageCredential>,
    location: &str,
) -> BTreeMap<String, String> {
    let fitting = credentials.into_iter().filter(|c| location.starts_with(&c.prefix));
    fitting.max_by_key(|c| c.prefix.len()).map_or_else(BTreeMap::new, |c| c.config)
}

/// What a catalog says of keys, when it is asked for a table or for them alone.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct KeysAnswer {
    config: Option<BTreeMap<String, String>>,
    storage_credentials: Option<Vec<StorageCredential>>,
}

/// The keys to a table's files, shared by all who have the table loaded.
#[derive(Clone)]
pub(super) struct LentKeys(Arc<Inner>);

struct Inner {
    client: Arc<RestClient>,
    /// Where to ask for new ones, one after the other.
    urls: Vec<String>,
    table: TableName,
    /// The table's, or the prefix for which they were lent.
    location: String,
    keys: Mutex<Keys>,
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Keys {
    credential: AwsCredential,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
}

impl fmt::Debug for LentKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentKeys").field("table", &self.0.table).finish_non_exhaustive()
    }
}

impl Keys {
    /// From the properties of a store, if they have keys.
    fn new(properties: &BTreeMap<String, String>) -> Option<Self> {
        let get = |name: &str| properties.get(name).filter(|value| !value.is_empty()).cloned();
        let credential = AwsCredential {
            access_key_id: get(S3_ACCESS_KEY_ID)?,
            secret_access_key: get(S3_SECRET_ACCESS_KEY)?,
            session_token: get(S3_SESSION_TOKEN),
            expires_in: None,
        };
        let life = get(EXPIRES_AT).and_then(|millis| millis.parse().ok()).map(|millis: u64| {
            let end = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            end.duration_since(SystemTime::now()).unwrap_or_default()
        });
        let now = Instant::now();
        let renew_in = match life {
            Some(life) => Some((life / 2).max(AT_LEAST)),
            // Keys without a session are not of those that end.
            None => credential.session_token.is_some().then_some(UNTOLD),
        };
        Some(Self {
            credential,
            renew_at: renew_in.map(|wait| now + wait),
            ends_at: life.map(|life| now + life),
        })
    }

    fn are_fresh(&self) -> bool {
        self.renew_at.is_none_or(|at| Instant::now() < at)
    }

    /// How long they are good for, as far as is known.
    fn left(&self) -> Duration {
        let left = self.ends_at.map(|at| at.saturating_duration_since(Instant::now()));
        left.unwrap_or(UNTOLD).max(AT_LEAST)
    }

    fn have_ended(&self) -> bool {
        self.ends_at.is_some_and(|at| Instant::now() >= at)
    }
}

impl LentKeys {
    /// Those that came with a table, if any did; new ones are asked for at `urls`.
    pub(super) fn new(
        client: Arc<RestClient>,
        urls: Vec<String>,
        table: TableName,
        location: String,
        properties: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let keys = Mutex::new(Keys::new(properties)?);
        let renewing = tokio::sync::Mutex::default();
        Some(Self(Arc::new(Inner { client, urls, table, location, keys, renewing })))
    }

    /// Takes newer ones, for all who have them, if they are for the same place.
    pub(super) fn take(&self, location: &str, properties: &BTreeMap<String, String>) -> bool {
        match Keys::new(properties).filter(|_| self.0.location == location) {
            Some(keys) => {
                *self.0.keys.lock() = keys;
                true
            }
            None => false,
        }
    }

    /// The keys of now.
    async fn current(&self) -> Result<AwsCredential, String> {
        let fresh = || Some(self.0.keys.lock().clone()).filter(Keys::are_fresh);
        if let Some(keys) = fresh() {
            return Ok(keys.credential);
        }
        let _one = self.0.renewing.lock().await;
        // Somebody else was first.
        if let Some(keys) = fresh() {
            return Ok(keys.credential);
        }
        // Within a request to the store, which waits only so long.
        let have_ended = self.0.keys.lock().have_ended();
        let renewed = match have_ended {
            true => self.renewed().await,
            false => tokio::time::timeout(PATIENCE, self.renewed())
                .await
                .unwrap_or_else(|_| Err(String::from("the catalog does not answer in time"))),
        };
        match renewed {
            Ok(keys) => {
                tracing::debug!(table = %self.0.table, "new keys to the store");
                *self.0.keys.lock() = keys.clone();
                Ok(keys.credential)
            }
            Err(error) => {
                let mut keys = self.0.keys.lock();
                if keys.have_ended() {
                    tracing::warn!(table = %self.0.table, error, "no new keys to the store");
                    return Err(error);
                }
                tracing::warn!(
                    table = %self.0.table, error,
                    "no new keys to the store; those that it has are good for a while yet"
                );
                keys.renew_at = Some(Instant::now() + keys.left() / 4);
                Ok(keys.credential.clone())
            }
        }
    }

    async fn renewed(&self) -> Result<Keys, String> {
        let mut last = Err(String::from("there is nowhere to ask for keys"));
        for url in &self.0.urls {
            last = self.ask(url).await;
            if last.is_ok() {
                break;
            }
        }
        last
    }

    async fn ask(&self, url: &str) -> Result<Keys, String> {
        let doing = format!("ask for keys to the files of table {}", self.0.table);
        let answer = lookup(&self.0.client, &doing, Method::GET, url, None).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(self.0.client.refused(&doing, answer.status, &answer.body).to_string());
        }
        // What is wrong with it may repeat a key.
        let parsed = answer.body.ok().and_then(|body| serde_json::from_slice(&body).ok());
        let told: KeysAnswer =
            parsed.ok_or_else(|| format!("{doing}: the answer cannot be understood"))?;
        let mut properties = told.config.unwrap_or_default();
        let credentials = told.storage_credentials.unwrap_or_default();
        properties.extend(for_location(credentials, &self.0.location));
        Keys::new(&properties).ok_or_else(|| format!("{doing}: the catalog gives none any more"))
    }
}

impl ProvideCredential for LentKeys {
    type Credential = AwsCredential;

    async fn provide_credential(
        &self,
        _: &reqsign_core::Context,
    ) -> reqsign_core::Result<Option<AwsCredential>> {
        let credential = self.current().await.map_err(reqsign_core::Error::unexpected)?;
        let expires_in = Some(Timestamp::now() + ONE_REQUEST);
        Ok(Some(AwsCredential { expires_in, ..credential }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn lent(expires_in: i64) -> BTreeMap<String, String> {
        let now = crate::base::clock::now_ms();
        properties(&[
            (S3_ACCESS_KEY_ID, "id"),
            (S3_SECRET_ACCESS_KEY, "secret"),
            (S3_SESSION_TOKEN, "token"),
            (EXPIRES_AT, &(now + expires_in).to_string()),
        ])
    }

    #[test]
    fn keys_are_renewed_at_half_of_their_life_and_those_without_an_end_never() {
        let in_seconds =
            |keys: &Keys| keys.renew_at.map(|at| at.duration_since(Instant::now()).as_secs_f64());
        let keys = Keys::new(&lent(600_000)).unwrap();
        assert!(keys.are_fresh() && !keys.have_ended());
        assert!(in_seconds(&keys).is_some_and(|wait| (295.0..=300.0).contains(&wait)));
        let ended = Keys::new(&lent(-1)).unwrap();
        assert!(ended.have_ended());
        let mut untold = lent(0);
        untold.remove(EXPIRES_AT);
        let keys = Keys::new(&untold).unwrap();
        assert!(in_seconds(&keys).is_some_and(|wait| (295.0..=300.0).contains(&wait)));
        untold.remove(S3_SESSION_TOKEN);
        assert_eq!(in_seconds(&Keys::new(&untold).unwrap()), None);
        untold.remove(S3_SECRET_ACCESS_KEY);
        assert!(Keys::new(&untold).is_none());
    }

    #[test]
    fn the_longest_prefix_counts() {
        let credential = |prefix: &str| StorageCredential {
            prefix: prefix.to_owned(),
            config: properties(&[("is", prefix)]),
        };
        let all = || ["s3://b", "s3://b/t", "s3://other"].map(credential).into();
        assert_eq!(for_location(all(), "s3://b/t/data"), properties(&[("is", "s3://b/t")]));
        assert_eq!(for_location(all(), "s3://b/u"), properties(&[("is", "s3://b")]));
        assert!(for_location(all(), "gs://b").is_empty());
    }
}
