//! SeaweedFS: an S3 store whose table buckets have a REST catalog, which signs in by OAuth2 and lends keys
//! for each table.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::http;
use super::process::Process;
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
        let (s3, catalog) = (free_port(), free_port());
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
            format!("-s3.externalUrl=http://127.0.0.1:{s3}"),
            format!("-s3.port={s3}"),
            format!("-s3.port.iceberg={catalog}"),
        ]);
        // Their ports for each other are ten thousand above these.
        for server in ["master", "volume", "filer", "admin"] {
            command.arg(format!("-{server}.port={}", free_port()));
        }
        let mut process = Process::start("SeaweedFS", command, &dir.join("seaweedfs.log"));
        let url = format!("http://127.0.0.1:{catalog}/v1/config?warehouse=s3%3A%2F%2Flake");
        process.wait_ready("answer", PATIENCE, |_| {
            http::get(&url).ok().filter(|reply| reply.status == 200).map(drop)
        });
        Self { catalog, _process: process }
    }

    /// For `ICEBERG_CATALOG_URI`.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.catalog)
    }

    /// For `ICEBERG_REST_CREDENTIAL`.
    pub fn credential() -> String {
        format!("{KEY}:{SECRET}")
    }
}
