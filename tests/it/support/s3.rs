//! An S3 store: moto's server, which honours `If-Match` and `If-None-Match`. It holds everything
//! in memory.

use std::process::Command;
use std::sync::OnceLock;

use reqwest::Method;

use super::http::{self, Reply};
use super::process::Process;
use super::{PATIENCE, new_dir, parts, unique};

/// An S3 server. Dropping it kills it.
pub struct S3 {
    port: u16,
    _process: Process,
}

impl S3 {
    /// Key id that the tests use. The server takes any.
    pub const ACCESS_KEY_ID: &str = "icestream";
    /// Secret that the tests use. The server takes any.
    pub const SECRET_ACCESS_KEY: &str = "icestream-secret";
    /// Region of all buckets.
    pub const REGION: &str = "us-east-1";

    /// The store that all tests share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<S3> = OnceLock::new();
        SHARED.get_or_init(Self::own)
    }

    /// A store of one's own, which may be dropped in the middle of a test.
    pub fn own() -> Self {
        let mut command = Command::new(parts::python("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1");
        let mut process = Process::start("the S3 store", command, &new_dir("s3").join("s3.log"));
        let port = process.wait_ready("listen", PATIENCE, |process| {
            let log = process.log();
            let (_, address) = log.split_once("http://127.0.0.1:")?;
            address.split_whitespace().next()?.parse().ok()
        });
        Self { port, _process: process }
    }

    /// For `AWS_ENDPOINT_URL_S3`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Creates a bucket and gives its name.
    pub fn create_bucket(&self) -> String {
        let bucket = unique("bucket").replace('_', "-");
        self.send(Method::PUT, &bucket, &[], "").success();
        bucket
    }

    /// `GET` of an object, `bucket/key`.
    pub fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "")
    }

    /// `PUT` of an object, `bucket/key`.
    pub fn put(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send(Method::PUT, path, headers, body)
    }

    /// `DELETE` of an object, `bucket/key`.
    pub fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], "")
    }

    /// Copies an object, `bucket/key`, within the store.
    pub fn copy(&self, from: &str, to: &str) {
        self.put(to, &[("x-amz-copy-source", from)], "").success();
    }

    /// Keys under a prefix of a bucket (at most 1000, one page).
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let path = format!("{bucket}?list-type=2&prefix={prefix}");
        let body = self.get(&path).success().body;
        body.split("<Key>")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
            .collect()
    }

    /// Begins an upload of several parts to `bucket/key`.
    pub fn begin_upload(&self, path: &str) {
        self.send(Method::POST, &format!("{path}?uploads"), &[], "").success();
    }

    /// Keys of uploads of several parts that were begun and not ended (at most 1000, one page).
    pub fn open_uploads(&self, bucket: &str) -> Vec<String> {
        let body = self.get(&format!("{bucket}?uploads")).success().body;
        let uploads = body.split("<Upload>").skip(1);
        let key = |upload: &str| {
            let (_, rest) = upload.split_once("<Key>")?;
            Some(rest.split_once("</Key>")?.0.to_owned())
        };
        uploads.filter_map(key).collect()
    }

    fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let url = format!("{}/{path}", self.endpoint());
        // Who asks without a signature is a stranger; the signature itself is not looked at.
        let signature = format!(
            "AWS4-HMAC-SHA256 Credential={}/20250101/{}/s3/aws4_request, SignedHeaders=host, \
             Signature=0",
            Self::ACCESS_KEY_ID,
            Self::REGION
        );
        let headers = [headers, &[("authorization", signature.as_str())]].concat();
        http::request(method, &url, &headers, body.to_owned()).expect("the S3 store did not answer")
    }
}
