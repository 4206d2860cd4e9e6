//! S3 as tables reach it: by which keys, trusting whom, encrypted how. The files of a table may lie under
//! prefixes for which a catalog lends different keys.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    CLIENT_REGION, FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile,
    S3_ACCESS_KEY_ID, S3_ALLOW_ANONYMOUS, S3_ASSUME_ROLE_ARN, S3_ASSUME_ROLE_EXTERNAL_ID,
    S3_ASSUME_ROLE_SESSION_NAME, S3_DISABLE_CONFIG_LOAD, S3_DISABLE_EC2_METADATA, S3_ENDPOINT,
    S3_PATH_STYLE_ACCESS, S3_REGION, S3_SECRET_ACCESS_KEY, S3_SESSION_TOKEN, S3_SSE_KEY,
    S3_SSE_MD5, S3_SSE_TYPE, Storage, StorageConfig, StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use opendal::layers::{HttpClientLayer, RetryLayer, TimeoutLayer};
use opendal::raw::HttpClient;
use opendal::services::S3Config;
use opendal::{Configurator, Operator};
use parking_lot::Mutex;
use reqsign_core::ProvideCredentialChain;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TableError;
use super::http::with_authorities;
use super::lent_keys::LentKeys;
use crate::base::location::on_s3;
use crate::base::secret::Properties;

/// Our own property of a store: a PEM file of authorities that are trusted beside the system's.
pub(crate) const CA_FILE: &str = "icestream.s3.ca-file";
/// Names a store among those of this process: what knows only a [`FileIO`] finds the store by it.
const NUMBER: &str = "icestream.store";
/// How a catalog says that it wants to sign each request to the store itself.
const REMOTE_SIGNING: &str = "s3.remote-signing-enabled";
/// Stores with an endpoint of their own have no regions, but signing needs one.
const REGION_OF_AN_ENDPOINT: &str = "us-east-1";

/// How what lies under a prefix is reached.
pub(super) struct Access {
    /// Locations begin with it; empty for all.
    pub(super) prefix: String,
    pub(super) properties: Properties,
    /// Keys that change while they are used; without them those of the properties, or of the machine.
    pub(super) keys: Option<LentKeys>,
}

/// Stores that are in use, by number.
static STORES: Mutex<BTreeMap<u64, Weak<Inner>>> = Mutex::new(BTreeMap::new());
/// HTTP clients by their file of authorities: connections outlive the reading of a table.
static CLIENTS: Mutex<BTreeMap<String, HttpClient>> = Mutex::new(BTreeMap::new());

/// A store on S3.
#[derive(Clone)]
struct S3Store(Arc<Inner>);

struct Inner {
    number: u64,
    /// Longest prefix first.
    accesses: Vec<Access>,
    http: HttpClient,
    /// By bucket and access.
    operators: Mutex<BTreeMap<(String, usize), Operator>>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        STORES.lock().remove(&self.number);
    }
}

/// Access to files on S3. There is an access for each location that is asked for, or its keys are
/// those of the machine.
///
/// # Errors
/// `Setting`: the authorities cannot be read.
pub(super) fn file_io(mut accesses: Vec<Access>) -> std::result::Result<FileIO, TableError> {
    let ca_file = accesses.iter().find_map(|access| access.properties.get(CA_FILE));
    let http = http_client(ca_file.unwrap_or_default())?;
    accesses.sort_by_key(|access| std::cmp::Reverse(access.prefix.len()));
    let mut stores = STORES.lock();
    let number = stores.last_key_value().map_or(0, |(number, _)| number + 1);
    let operators = Mutex::default();
    let inner = Arc::new(Inner { number, accesses, http, operators });
    stores.insert(number, Arc::downgrade(&inner));
    drop(stores);
    let builder = FileIOBuilder::new(Arc::new(S3Store(inner)));
    Ok(builder.with_prop(NUMBER, number.to_string()).build())
}

/// How a bucket is reached, for requests that no client makes.
pub(super) struct Reached {
    pub(super) config: S3Config,
    pub(super) keys: Option<LentKeys>,
    pub(super) http: HttpClient,
}

/// For what the crate's access to files cannot do: how `io` reaches the bucket of `location`.
pub(super) fn operator(io: &FileIO, location: &str) -> Result<Operator> {
    store(io)?.operator(location).map(|(operator, _)| operator)
}

/// For what [`operator`] cannot do, either.
pub(super) fn reached(io: &FileIO, location: &str) -> Result<Reached> {
    let S3Store(inner) = store(io)?;
    let access = inner.accesses.iter().find(|access| is_under(location, &access.prefix));
    Ok(Reached {
        config: config(access.map(|access| &access.properties))?,
        keys: access.and_then(|access| access.keys.clone()),
        http: inner.http.clone(),
    })
}

fn store(io: &FileIO) -> Result<S3Store> {
    let number = io.config().props().get(NUMBER).and_then(|number| number.parse().ok());
    let store = number.and_then(|number: u64| STORES.lock().get(&number)?.upgrade());
    let elsewhere = || Error::new(ErrorKind::Unexpected, "this access to files is not to S3");
    store.map(S3Store).ok_or_else(elsewhere)
}

/// The properties by which a location is reached.
#[cfg(test)]
pub(super) fn properties_for(io: &FileIO, location: &str) -> Option<Properties> {
    let number = io.config().props().get(NUMBER)?.parse().ok()?;
    let store = STORES.lock().get(&number)?.upgrade()?;
    let access = store.accesses.iter().find(|access| is_under(location, &access.prefix))?;
    Some(access.properties.clone())
}

fn http_client(ca_file: &str) -> std::result::Result<HttpClient, TableError> {
    if ca_file.is_empty() {
        return Ok(HttpClient::default());
    }
    if let Some(client) = CLIENTS.lock().get(ca_file) {
        return Ok(client.clone());
    }
    let bad = |reason: String| TableError::Setting { setting: "S3_CA_FILE", reason };
    let client = with_authorities(reqwest::Client::builder(), ca_file)
        .and_then(|builder| builder.build().map_err(|error| error.to_string()))
        .map_err(bad)?;
    let client = HttpClient::with(client);
    CLIENTS.lock().insert(ca_file.to_owned(), client.clone());
    Ok(client)
}

impl S3Store {
    /// The operator for a location, and its key in the bucket.
    fn operator<'a>(&self, location: &'a str) -> Result<(Operator, &'a str)> {
        let parts = on_s3(location).ok_or_else(|| {
            Error::new(ErrorKind::DataInvalid, format!("{location} is not on S3 (s3://bucket/...)"))
        })?;
        let at = self.0.accesses.iter().position(|access| is_under(location, &access.prefix));
        let key = (parts.bucket.to_owned(), at.unwrap_or(usize::MAX));
        let mut operators = self.0.operators.lock();
        if let Some(operator) = operators.get(&key) {
            return Ok((operator.clone(), parts.key));
        }
        let access = at.and_then(|at| self.0.accesses.get(at));
        let mut config = config(access.map(|access| &access.properties))?;
        config.bucket = parts.bucket.to_owned();
        let mut builder = config.into_builder();
        if let Some(keys) = access.and_then(|access| access.keys.clone()) {
            builder = builder.credential_provider_chain(ProvideCredentialChain::new().push(keys));
        }
        let operator = Operator::new(builder)
            .map_err(|error| self.failed(location, error))?
            .layer(HttpClientLayer::new(self.0.http.clone()))
            .finish()
            // The time of each attempt is bounded, so that a connection that hangs is tried again.
            .layer(TimeoutLayer::new())
            .layer(RetryLayer::new());
        operators.insert(key, operator.clone());
        Ok((operator, parts.key))
    }

    fn failed(&self, location: &str, error: opendal::Error) -> Error {
        let access = self.0.accesses.iter().find(|access| is_under(location, &access.prefix));
        let is_about_keys = matches!(
            error.kind(),
            opendal::ErrorKind::PermissionDenied | opendal::ErrorKind::ConfigInvalid
        );
        let signs_only = is_about_keys && access.is_some_and(Access::is_signed_remotely);
        let message = match signs_only {
            true => {
                "the catalog offers to sign requests to the store itself (s3.remote-signing-enabled) and \
                 gives no keys, and icestream does not let others sign: switch credential vending on in the \
                 catalog, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            false => "Failure in doing io operation",
        };
        Error::new(ErrorKind::Unexpected, message).with_source(error)
    }
}

impl Access {
    fn is_signed_remotely(&self) -> bool {
        let signs = self.properties.get(REMOTE_SIGNING).is_some_and(is_true);
        signs && self.keys.is_none() && !self.properties.contains(S3_ACCESS_KEY_ID)
    }
}

/// Catalogs name prefixes by one scheme of S3, and tables files by another.
fn is_under(location: &str, prefix: &str) -> bool {
    let bare = |text: &'_ str| text.split_once("://").map_or(text.len(), |(_, rest)| rest.len());
    let (location_bare, prefix_bare) = (bare(location), bare(prefix));
    location[location.len() - location_bare..].starts_with(&prefix[prefix.len() - prefix_bare..])
}

fn is_true(value: &str) -> bool {
    ["true", "t", "1", "on"].contains(&value.to_lowercase().as_str())
}

/// What the properties of a store, as everywhere in Iceberg, mean to its client.
fn config(properties: Option<&Properties>) -> Result<S3Config> {
    let get = |name: &str| properties?.get(name).map(str::to_owned);
    let is_set = |name: &str| get(name).is_some_and(|value| is_true(&value));
    let mut config = S3Config::default();
    config.endpoint = get(S3_ENDPOINT);
    config.access_key_id = get(S3_ACCESS_KEY_ID);
    config.secret_access_key = get(S3_SECRET_ACCESS_KEY);
    config.session_token = get(S3_SESSION_TOKEN);
    config.region = get(CLIENT_REGION).or(get(S3_REGION));
    if config.region.is_none() && config.endpoint.is_some() {
        config.region = Some(String::from(REGION_OF_AN_ENDPOINT));
    }
    config.role_arn = get(S3_ASSUME_ROLE_ARN);
    config.external_id = get(S3_ASSUME_ROLE_EXTERNAL_ID);
    config.role_session_name = get(S3_ASSUME_ROLE_SESSION_NAME);
    config.enable_virtual_host_style = !is_set(S3_PATH_STYLE_ACCESS);
    config.skip_signature = is_set(S3_ALLOW_ANONYMOUS);
    config.disable_ec2_metadata = is_set(S3_DISABLE_EC2_METADATA);
    config.disable_config_load = is_set(S3_DISABLE_CONFIG_LOAD);
    let aes = || Some(String::from("AES256"));
    match get(S3_SSE_TYPE).map(|kind| kind.to_lowercase()).as_deref() {
        None | Some("none") => {}
        Some("s3") => config.server_side_encryption = aes(),
        Some("kms") => {
            config.server_side_encryption = Some(String::from("aws:kms"));
            config.server_side_encryption_aws_kms_key_id = get(S3_SSE_KEY);
        }
        Some("custom") => {
            config.server_side_encryption_customer_algorithm = aes();
            config.server_side_encryption_customer_key = get(S3_SSE_KEY);
            config.server_side_encryption_customer_key_md5 = get(S3_SSE_MD5);
        }
        Some(other) => {
            let message = format!("{S3_SSE_TYPE} is {other}: it must be none, s3, kms or custom");
            return Err(Error::new(ErrorKind::DataInvalid, message));
        }
    }
    Ok(config)
}

/// The crate wants stores that can be sent to other processes; this one never leaves its own.
const STAYS: &str = "a store with its keys stays in its process";

impl Serialize for S3Store {
    fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(STAYS))
    }
}

impl<'de> Deserialize<'de> for S3Store {
    fn deserialize<D: Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        Err(serde::de::Error::custom(STAYS))
    }
}

#[typetag::serde]
impl StorageFactory for S3Store {
    fn build(&self, _: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde]
impl Storage for S3Store {
    async fn exists(&self, path: &str) -> Result<bool> {
        let (operator, key) = self.operator(path)?;
        operator.exists(key).await.map_err(|error| self.failed(path, error))
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let (operator, key) = self.operator(path)?;
        let told = operator.stat(key).await.map_err(|error| self.failed(path, error))?;
        Ok(FileMetadata { size: told.content_length() })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        let (operator, key) = self.operator(path)?;
        let read = operator.read(key).await.map_err(|error| self.failed(path, error))?;
        Ok(read.to_bytes())
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        let (operator, key) = self.operator(path)?;
        let reader = operator.reader(key).await.map_err(|error| self.failed(path, error))?;
        Ok(Box::new(Open { store: self.clone(), path: path.to_owned(), file: reader }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let (operator, key) = self.operator(path)?;
        operator.write(key, bytes).await.map_err(|error| self.failed(path, error))?;
        Ok(())
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let (operator, key) = self.operator(path)?;
        let writer = operator.writer(key).await.map_err(|error| self.failed(path, error))?;
        Ok(Box::new(Open { store: self.clone(), path: path.to_owned(), file: writer }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let (operator, key) = self.operator(path)?;
        operator.delete(key).await.map_err(|error| self.failed(path, error))
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        let (operator, key) = self.operator(path)?;
        let key = format!("{}/", key.trim_end_matches('/'));
        let deleted = operator.delete_with(&key).recursive(true).await;
        deleted.map_err(|error| self.failed(path, error))
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        while let Some(path) = paths.next().await {
            self.delete(&path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

/// A file that is read or written.
struct Open<F> {
    store: S3Store,
    path: String,
    file: F,
}

#[async_trait]
impl FileRead for Open<opendal::Reader> {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let read = self.file.read(range).await;
        read.map(|bytes| bytes.to_bytes()).map_err(|error| self.store.failed(&self.path, error))
    }
}

#[async_trait]
impl FileWrite for Open<opendal::Writer> {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let written = self.file.write(bytes).await;
        written.map_err(|error| self.store.failed(&self.path, error))
    }

    async fn close(&mut self) -> Result<()> {
        let closed = self.file.close().await;
        closed.map(drop).map_err(|error| self.store.failed(&self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(of: &[(&str, &str)]) -> Properties {
        of.iter().copied().collect()
    }

    #[test]
    fn each_kind_of_encryption_is_asked_for_in_its_own_way() {
        let of = |all: &[(&str, &str)]| config(Some(&properties(all))).unwrap();
        let plain = of(&[(S3_SSE_TYPE, "none"), (S3_SSE_KEY, "k")]);
        assert_eq!(plain.server_side_encryption, None);
        let s3 = of(&[(S3_SSE_TYPE, "S3")]);
        assert_eq!(s3.server_side_encryption.as_deref(), Some("AES256"));
        let kms = of(&[(S3_SSE_TYPE, "kms"), (S3_SSE_KEY, "k")]);
        assert_eq!(kms.server_side_encryption.as_deref(), Some("aws:kms"));
        assert_eq!(kms.server_side_encryption_aws_kms_key_id.as_deref(), Some("k"));
        let own = of(&[(S3_SSE_TYPE, "custom"), (S3_SSE_KEY, "k"), (S3_SSE_MD5, "m")]);
        assert_eq!(own.server_side_encryption_customer_algorithm.as_deref(), Some("AES256"));
        assert_eq!(own.server_side_encryption_customer_key.as_deref(), Some("k"));
        assert_eq!(own.server_side_encryption_customer_key_md5.as_deref(), Some("m"));
        let error = config(Some(&properties(&[(S3_SSE_TYPE, "rot13")]))).unwrap_err();
        assert!(error.to_string().contains("s3.sse.type is rot13"), "{error}");
    }

    #[test]
    fn a_location_is_under_a_prefix_whatever_the_scheme_of_s3() {
        assert!(is_under("s3a://b/t/data/f", "s3://b/t"));
        assert!(is_under("s3://b/t", "s3://b/t"));
        assert!(is_under("s3://b/t", "") && is_under("s3://b/t", "s3://"));
        assert!(!is_under("s3://b/u", "s3://b/t"));
    }

    #[test]
    fn a_store_is_found_by_its_access_to_files_as_long_as_that_is_there() {
        let access = |prefix: &str, endpoint: &str| Access {
            prefix: prefix.to_owned(),
            properties: properties(&[(S3_ENDPOINT, endpoint)]),
            keys: None,
        };
        let io = file_io(vec![access("", "http://a"), access("s3://b/t", "http://b")]).unwrap();
        let other = file_io(vec![access("", "http://c")]).unwrap();
        for location in ["s3://b/t/x", "s3://b/u", "s3a://other/t"] {
            assert!(operator(&io, location).is_ok());
        }
        assert!(operator(&io, "gs://b/t").is_err());
        assert!(operator(&FileIO::new_with_fs(), "s3://b/t").is_err());
        let number: u64 = other.config().props()[NUMBER].parse().unwrap();
        assert!(STORES.lock().contains_key(&number));
        drop(other);
        assert!(!STORES.lock().contains_key(&number));
    }

    #[test]
    fn a_file_of_authorities_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        for text in [None, Some("no certificate")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let properties = properties(&[(CA_FILE, path.to_str().unwrap())]);
            let access = Access { prefix: String::new(), properties, keys: None };
            let error = file_io(vec![access]).unwrap_err().to_string();
            assert!(error.contains("S3_CA_FILE") && error.contains("ca.pem"), "{error}");
        }
    }
}
