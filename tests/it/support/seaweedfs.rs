//! SeaweedFS: an S3 store whose table buckets have a REST catalog, which signs in by OAuth2 and lends keys
//! for each table.

use std::fs;
use std::process::Command;

use reqwest::Method;
use serde_json::json;

use super::http;
use super::process::Process;
use super::proxy::Proxy;
use super::{PATIENCE, free_port, new_dir, parts};

const KEY: &str = "icestream";
const SECRET: &str = "icestream-secret";

/// A server with an empty table bucket. Dropping it kills it.
pub struct SeaweedFs {
    catalog: u16,
    _process: Process,
}

impl SeaweedFs {
    /// Of `ICEBERG_WAREHOUSE`.
    pub const WAREHOUSE: &str = "s3://lake";

    /// A new server.
    pub fn start() -> Self {
        let s3 = free_port();
        Self::reached_at(s3, &format!("http://127.0.0.1:{s3}"))
    }

    /// A new server, of which the catalog says that its store is reached through the proxy that is made
    /// before the store's address.
    pub fn start_behind(proxy: impl FnOnce(&str) -> Proxy) -> (Self, Proxy) {
        let s3 = free_port();
        let proxy = proxy(&format!("127.0.0.1:{s3}"));
        (Self::reached_at(s3, &proxy.uri()), proxy)
    }

    fn reached_at(s3: u16, external: &str) -> Self {
        let dir = new_dir("seaweedfs");
        let identities = json!({ "identities": [{
            "name": "admin",
            "credentials": [{ "accessKey": KEY, "secretKey": SECRET }],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }]});
        let allow = |action: &str, more: serde_json::Value| {
            let mut statement = json!({ "Effect": "Allow", "Action": [action] });
            statement.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "Version": "2012-10-17", "Statement": [statement] })
        };
        let catalog = json!({ "Principal": { "Federated": "iceberg-catalog" } });
        let iam = json!({
            "sts": { "tokenDuration": "1h", "maxSessionLength": "12h", "issuer": "icestream",
                "signingKey": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" },
            "policy": { "defaultEffect": "Deny" },
            "roles": [{ "roleName": "Lake", "roleArn": "arn:aws:iam::role/Lake",
                "trustPolicy": allow("sts:AssumeRoleWithCredentials", catalog),
                "attachedPolicies": ["All"] }],
            "policies": [{ "name": "All", "document": allow("s3:*", json!({ "Resource": ["*"] })) }],
        });
        fs::write(dir.join("s3.json"), identities.to_string()).unwrap();
        fs::write(dir.join("iam.json"), iam.to_string()).unwrap();
        let catalog = free_port();
        let mut command = Command::new(parts::seaweedfs());
        command.arg("mini").current_dir(&dir).args([
            "-dir=.",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3.config=s3.json",
            "-s3.iam.config=iam.json",
            "-s3.iceberg.credentialRole=arn:aws:iam::role/Lake",
            "-s3.iceberg.credentialDurationSeconds=900",
            "-tableBucket=lake",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-s3.port.lance=0",
        ]);
        command.args([
            format!("-s3.externalUrl={external}"),
            format!("-s3.port={s3}"),
            format!("-s3.port.iceberg={catalog}"),
        ]);
        // Their ports for each other are ten thousand above these.
        for server in ["master", "volume", "filer", "admin"] {
            command.arg(format!("-{server}.port={}", free_port()));
        }
        let mut process = Process::start("SeaweedFS", command, &dir.join("seaweedfs.log"));
        // The bucket is made after its catalog answers.
        process.wait_ready("show its bucket", PATIENCE, |_| is_there(catalog).then_some(()));
        Self { catalog, _process: process }
    }

    /// For `ICEBERG_CATALOG_URI`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Host and port of the catalog.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.catalog)
    }

    /// For `ICEBERG_REST_CREDENTIAL`.
    pub fn credential() -> String {
        format!("{KEY}:{SECRET}")
    }
}

/// Does the catalog, signed in to, know its bucket?
fn is_there(catalog: u16) -> bool {
    let url = |path: &str| format!("http://127.0.0.1:{catalog}/v1/{path}");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let sign_in = format!(
        "grant_type=client_credentials&scope=catalog&client_id={KEY}&client_secret={SECRET}"
    );
    let Ok(reply) = http::request(Method::POST, &url("oauth/tokens"), &form, sign_in) else {
        return false;
    };
    let Some(token) = reply.status.eq(&200).then(|| reply.json()["access_token"].to_string())
    else {
        return false;
    };
    let bearer = format!("Bearer {}", token.trim_matches('"'));
    let headers = [("authorization", bearer.as_str())];
    let namespaces = http::request(Method::GET, &url("lake/namespaces"), &headers, "");
    namespaces.is_ok_and(|reply| reply.status == 200)
}
