//! Uploads to stores that are stricter than S3.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::landing::pipeline;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::Record;
use crate::support::proxy::{Between, Proxy};
use crate::support::s3::S3;
use crate::support::table::Lake;

/// A store that refuses an upload of parts that are not of one size, but for the last, as Cloudflare R2
/// does. Sizes by upload and number of the part.
#[derive(Default)]
struct OneSize(Mutex<BTreeMap<String, BTreeMap<u32, u64>>>);

/// The value of a parameter in the first line of a request.
fn parameter<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let path = line.split_whitespace().nth(1)?;
    let query = path.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Between for OneSize {
    fn request(&self, head: &str) -> Option<(u16, String)> {
        let line = head.lines().next()?;
        let upload = parameter(line, "uploadId")?.to_owned();
        let mut uploads = self.0.lock().unwrap();
        let parts = uploads.entry(upload).or_default();
        if let Some(number) = parameter(line, "partNumber") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
            });
            parts.insert(number.parse().unwrap(), length.expect("a length"));
            return None;
        }
        let sizes: Vec<u64> = parts.values().copied().collect();
        let (last, others) = sizes.split_last()?;
        let fits = others.windows(2).all(|pair| pair[0] == pair[1])
            && others.first().is_none_or(|first| last <= first);
        let refusal = "<Error><Code>InvalidPart</Code><Message>All non-trailing parts must have \
                       the same length.</Message></Error>";
        (line.starts_with("POST") && !fits).then(|| (400, refusal.to_owned()))
    }
}

#[test]
fn a_store_that_wants_parts_of_one_size_gets_them() {
    let lake = Lake::sqlite_on_s3();
    let store = Arc::new(OneSize::default());
    let endpoint = S3::shared().endpoint();
    let proxy = Proxy::with(endpoint.strip_prefix("http://").unwrap(), store.clone());
    let (icestream, topic) = pipeline(&lake, 1);
    let icestream = icestream.set("AWS_ENDPOINT_URL_S3", proxy.uri()).set("PARALLELISM", "1");
    // One file, however slow the machine.
    let icestream = icestream.set("CHECKPOINT_INTERVAL_MS", "600000");
    // Of texts that no codec packs well: some 24 MiB in one file.
    let mut random = fastrand::Rng::with_seed(1);
    let records = (0..24_000).map(|id| {
        let text: String = (0..1_000).map(|_| random.alphanumeric()).collect();
        Record::new(0, json!({ "id": id, "text": text }).to_string())
    });
    let produced = Kafka::shared().produce(&topic, records);
    icestream.run_until_caught_up();
    let most = store.0.lock().unwrap().values().map(BTreeMap::len).max();
    assert!(most >= Some(3), "{most:?} parts");
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 24_000);
}

/// A bucket whose policy denies what is put into it without encryption by a certain key.
struct Encrypted;

impl Between for Encrypted {
    fn request(&self, head: &str) -> Option<(u16, String)> {
        let line = head.lines().next()?;
        let is_part = parameter(line, "partNumber").is_some();
        let begins =
            line.starts_with("PUT ") || line.starts_with("POST ") && line.contains("?uploads");
        let has = |name: &str, value: &str| {
            head.lines()
                .filter_map(|line| line.split_once(':'))
                .any(|(found, told)| found.eq_ignore_ascii_case(name) && told.trim() == value)
        };
        let encrypted = has("x-amz-server-side-encryption", "aws:kms")
            && has("x-amz-server-side-encryption-aws-kms-key-id", "key-7");
        let denied = "<Error><Code>AccessDenied</Code><Message>explicit deny</Message></Error>";
        (begins && !is_part && !encrypted).then(|| (403, denied.to_owned()))
    }
}

#[test]
fn a_bucket_that_demands_encryption_is_asked_for_it() {
    let lake = Lake::sqlite_on_s3();
    let endpoint = S3::shared().endpoint();
    let proxy = Proxy::with(endpoint.strip_prefix("http://").unwrap(), Arc::new(Encrypted));
    let (icestream, topic) = pipeline(&lake, 1);
    let icestream = icestream.set("AWS_ENDPOINT_URL_S3", proxy.uri()).set("PARALLELISM", "1");
    let checked = icestream.command(&["check"]).with_code(1).stdout;
    assert!(checked.contains("FAIL  store "), "{checked}");
    let icestream = icestream.set("S3_SSE_TYPE", "kms").set("S3_SSE_KEY", "key-7");
    icestream.command(&["check"]).success();
    // Some 12 MiB in one file: an upload of parts.
    let mut random = fastrand::Rng::with_seed(2);
    let records = (0..12_000).map(|id| {
        let text: String = (0..1_000).map(|_| random.alphanumeric()).collect();
        Record::new(0, json!({ "id": id, "text": text }).to_string())
    });
    let produced = Kafka::shared().produce(&topic, records);
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]), 12_000);
}
