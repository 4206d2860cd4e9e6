//! Uploads of several parts that were begun and neither ended nor taken back. A process that is killed
//! leaves them behind; no listing of objects shows them, and the store keeps and bills their parts.
//!
//! The crate that reaches the store lists objects only: these requests are made and signed here, with
//! the same keys.

use http::Request;
use iceberg::io::FileIO;
use opendal::Buffer;
use opendal::raw::HttpClient;
use reqsign_aws_v4::{
    AssumeRoleCredentialProvider, Credential, DefaultCredentialProvider, RequestSigner,
    StaticCredentialProvider,
};
use reqsign_core::time::Timestamp;
use reqsign_core::{Context, OsEnv, ProvideCredentialChain, Signer};
use reqsign_file_read_tokio::TokioFileRead;
use serde::Deserialize;

use super::s3_store::{Reached, reached};
use super::{BoxError, TableError};
use crate::base::location::{OnS3, on_s3};

/// An upload that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upload {
    /// Location of the object that it was to become.
    pub(super) path: String,
    pub(super) id: String,
    /// When it was begun, milliseconds since the Unix epoch, by the store's clock.
    pub(super) begun_ms: Option<i64>,
}

/// The open uploads of a bucket whose keys begin as a location does.
pub(super) struct Uploads {
    bucket: Bucket,
    prefix: String,
    /// Where the next page begins: key and upload.
    next: Option<(String, String)>,
    at_end: bool,
}

impl Uploads {
    /// `None` for a location that is not on S3.
    ///
    /// # Errors
    /// `Setting` if no region is known.
    pub(super) fn open(io: &FileIO, location: &str) -> Result<Option<Self>, TableError> {
        let Some(OnS3 { key, .. }) = on_s3(location) else { return Ok(None) };
        let prefix = format!("{}/", key.trim_end_matches('/'));
        let Some(bucket) = Bucket::of(io, location)? else { return Ok(None) };
        Ok(Some(Self { bucket, prefix, next: None, at_end: false }))
    }

    /// The next page; none at the end.
    ///
    /// # Errors
    /// `Storage`.
    pub(super) async fn page(&mut self) -> Result<Option<Vec<Upload>>, TableError> {
        if self.at_end {
            return Ok(None);
        }
        let mut query = format!("uploads=&prefix={}&max-uploads=1000", encoded(&self.prefix, true));
        if let Some((key, upload)) = &self.next {
            let (key, upload) = (encoded(key, true), encoded(upload, true));
            query.push_str(&format!("&key-marker={key}&upload-id-marker={upload}"));
        }
        let failed = |error: BoxError| {
            TableError::storage(
                "list open uploads under",
                &self.bucket.location(&self.prefix),
                error,
            )
        };
        let (status, body) = self.bucket.send("GET", "", &query).await.map_err(failed)?;
        if status != 200 {
            return Err(failed(said(status, &body).into()));
        }
        let page: Page = quick_xml::de::from_str(&body).map_err(|error| failed(error.into()))?;
        let marker = page.next_key_marker.unwrap_or_default();
        let next = Some((marker, page.next_upload_id_marker.unwrap_or_default()));
        // A store that says the same place again would be asked for ever.
        self.at_end = !page.is_truncated || next == self.next;
        self.next = next;
        let upload = |open: OpenUpload| Upload {
            path: self.bucket.location(&open.key),
            id: open.upload_id,
            begun_ms: open.initiated.parse().ok().and_then(millis),
        };
        // Not every store minds the prefix.
        let within = page.uploads.into_iter().filter(|open| open.key.starts_with(&self.prefix));
        Ok(Some(within.map(upload).collect()))
    }
}

/// Takes an upload back: the store drops its parts. One that is gone is no error.
///
/// # Errors
/// `Storage`.
pub(super) async fn abort(io: &FileIO, upload: &Upload) -> Result<(), TableError> {
    let failed = |error: BoxError| TableError::storage("abort the upload of", &upload.path, error);
    let elsewhere = || failed("it is not on S3".into());
    let OnS3 { key, .. } = on_s3(&upload.path).ok_or_else(elsewhere)?;
    let bucket = Bucket::of(io, &upload.path)?.ok_or_else(elsewhere)?;
    let query = format!("uploadId={}", encoded(&upload.id, true));
    let (status, body) = bucket.send("DELETE", key, &query).await.map_err(failed)?;
    match status {
        200 | 204 | 404 => Ok(()),
        _ => Err(failed(said(status, &body).into())),
    }
}

fn said(status: u16, body: &str) -> String {
    let answer: Result<Refusal, _> = quick_xml::de::from_str(body);
    match answer {
        Ok(Refusal { code, message }) => format!("HTTP {status}: {code} {message}"),
        Err(_) => format!("HTTP {status}"),
    }
}

fn millis(time: Timestamp) -> Option<i64> {
    time.as_second().checked_mul(1000)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(rename = "Upload", default)]
    uploads: Vec<OpenUpload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OpenUpload {
    key: String,
    upload_id: String,
    #[serde(default)]
    initiated: String,
}

/// A bucket, and how to sign requests to it.
struct Bucket {
    /// `scheme://bucket/`
    place: String,
    /// Its address, without a slash at the end.
    address: String,
    client: HttpClient,
    /// `None`: requests are not signed.
    signer: Option<Signer<Credential>>,
}

impl Bucket {
    /// The bucket that holds a location, reached as all that lies there.
    fn of(io: &FileIO, location: &str) -> Result<Option<Self>, TableError> {
        let Some(OnS3 { scheme, bucket, .. }) = on_s3(location) else { return Ok(None) };
        let mut reached = reached(io, location)
            .map_err(|error| TableError::storage("list open uploads under", location, error))?;
        let region = reached.config.region.take().or_else(|| {
            let names = ["AWS_REGION", "AWS_DEFAULT_REGION"];
            names.into_iter().find_map(|name| std::env::var(name).ok())
        });
        let region = region.ok_or_else(|| TableError::Setting {
            setting: "s3.region",
            reason: String::from("open uploads cannot be looked for without it"),
        })?;
        let endpoint = reached.config.endpoint.take();
        let endpoint = endpoint.unwrap_or_else(|| format!("s3.{region}.amazonaws.com"));
        let endpoint = match endpoint.contains("://") {
            true => endpoint,
            false => format!("https://{endpoint}"),
        };
        let endpoint = endpoint.trim_end_matches('/');
        let address = match reached.config.enable_virtual_host_style {
            true => endpoint.replacen("//", &format!("//{bucket}."), 1),
            false => format!("{endpoint}/{bucket}"),
        };
        let client = reached.http.clone();
        let signer = (!reached.config.skip_signature).then(|| signer(reached, &region));
        Ok(Some(Self { place: format!("{scheme}://{bucket}/"), address, client, signer }))
    }

    fn location(&self, key: &str) -> String {
        format!("{}{key}", self.place)
    }

    /// Status and text of the answer.
    async fn send(&self, method: &str, key: &str, query: &str) -> Result<(u16, String), BoxError> {
        let uri = format!("{}/{}?{query}", self.address, encoded(key, false));
        let (mut parts, ()) = Request::builder().method(method).uri(uri).body(())?.into_parts();
        if let Some(signer) = &self.signer {
            signer.sign(&mut parts, None).await?;
        }
        let answer = self.client.send(Request::from_parts(parts, Buffer::new())).await?;
        let (parts, body) = answer.into_parts();
        Ok((parts.status.as_u16(), String::from_utf8(body.to_vec())?))
    }
}

/// With lent keys, or those of the settings, or those that the machine has.
fn signer(Reached { config, keys, http }: Reached, region: &str) -> Signer<Credential> {
    let context = Context::new().with_file_read(TokioFileRead).with_http_send(http).with_env(OsEnv);
    let request_signer = RequestSigner::new("s3", region);
    if let Some(keys) = keys {
        return Signer::new(context, ProvideCredentialChain::new().push(keys), request_signer);
    }
    let mut found = DefaultCredentialProvider::builder();
    if config.disable_config_load {
        found = found.no_env().no_profile();
    }
    if config.disable_ec2_metadata {
        found = found.no_imds();
    }
    let mut provider = ProvideCredentialChain::new().push(found.build());
    if let (Some(id), Some(secret)) = (config.access_key_id, config.secret_access_key) {
        let told = StaticCredentialProvider::new(&id, &secret);
        provider = provider.push_front(match config.session_token {
            Some(token) => told.with_session_token(&token),
            None => told,
        });
    }
    if let Some(role) = config.role_arn {
        let sts = Signer::new(context.clone(), provider, RequestSigner::new("sts", region));
        let mut assumed = AssumeRoleCredentialProvider::new(role, sts)
            .with_region(region.to_owned())
            .with_regional_sts_endpoint();
        if let Some(id) = config.external_id {
            assumed = assumed.with_external_id(id);
        }
        if let Some(name) = config.role_session_name {
            assumed = assumed.with_role_session_name(name);
        }
        provider = ProvideCredentialChain::new().push(assumed);
    }
    Signer::new(context, provider, request_signer)
}

/// Percent-encodes all but unreserved characters, and slashes unless told to.
fn encoded(text: &str, slashes: bool) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            b'/' if !slashes => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}
