//! A catalog that lends keys to its store for a while, and a store that takes no others.
//!
//! Both are proxies: the catalog's answers get keys added, and the store's requests are looked at for the
//! key that they are signed with.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::proxy::{Between, Proxy};
use super::s3::S3;
use super::table::Lake;

/// Both proxies.
pub struct Lender {
    pub catalog: Proxy,
    store: Proxy,
    keys: Arc<Keys>,
}

struct Keys {
    life: Duration,
    /// How long the catalog says that they live.
    told: Mutex<Duration>,
    /// Are they to be had without the table: does the catalog say so, and is it true?
    alone: Mutex<Option<bool>>,
    /// Paths at which the catalog was asked for something.
    asked: Mutex<Vec<String>>,
    /// By number.
    lent: Mutex<Vec<Instant>>,
    used: Mutex<Vec<usize>>,
    refused: Mutex<Vec<String>>,
}

struct OfCatalog(Arc<Keys>);
struct OfStore(Arc<Keys>);

const POISONED: &str = "a thread panicked within the lender";

impl Lender {
    /// In front of a REST catalog with its files on S3.
    pub fn before(lake: &Lake, life: Duration) -> Self {
        let (lent, used, refused, alone, asked) = Default::default();
        let told = Mutex::new(life);
        let keys = Arc::new(Keys { life, told, alone, asked, lent, used, refused });
        let catalog = Arc::new(OfCatalog(keys.clone()));
        let address = S3::shared().endpoint();
        let address = address.strip_prefix("http://").expect("an address");
        Self {
            catalog: Proxy::with(&lake.rest_catalog().address(), catalog),
            store: Proxy::with(address, Arc::new(OfStore(keys.clone()))),
            keys,
        }
    }

    /// The catalog says that keys are to be had alone, which is true or not.
    #[must_use]
    pub fn alone(self, there: bool) -> Self {
        *self.keys.alone.lock().expect(POISONED) = Some(there);
        self
    }

    /// The catalog says that keys live longer than they do.
    #[must_use]
    pub fn that_promises(self, told: Duration) -> Self {
        *self.keys.told.lock().expect(POISONED) = told;
        self
    }

    /// Paths at which the catalog was asked.
    pub fn asked(&self) -> Vec<String> {
        self.keys.asked.lock().expect(POISONED).clone()
    }

    /// `AWS_ENDPOINT_URL_S3` for who has no keys of their own.
    pub fn endpoint(&self) -> String {
        self.store.uri()
    }

    /// How many keys were used, and requests without a good one.
    pub fn used(&self) -> (usize, Vec<String>) {
        let mut used = self.keys.used.lock().expect(POISONED).clone();
        used.sort_unstable();
        used.dedup();
        (used.len(), self.keys.refused.lock().expect(POISONED).clone())
    }
}

impl Keys {
    fn lend(&self) -> Value {
        let mut lent = self.lent.lock().expect(POISONED);
        lent.push(Instant::now());
        let told = *self.told.lock().expect(POISONED);
        let ends = (SystemTime::now() + told).duration_since(UNIX_EPOCH).expect("a clock");
        json!([{ "prefix": "s3://", "config": {
            "s3.access-key-id": format!("lent-{}", lent.len() - 1),
            "s3.secret-access-key": "secret",
            "s3.session-token": "token",
            "s3.session-token-expires-at-ms": ends.as_millis().to_string(),
        }}])
    }
}

/// As a catalog lists it.
const ALONE: &str = "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}/credentials";

impl Between for OfCatalog {
    fn request(&self, head: &str) -> Option<(u16, String)> {
        let path = head.split_whitespace().nth(1).unwrap_or_default();
        self.0.asked.lock().expect(POISONED).push(path.to_owned());
        if !path.ends_with("/credentials") {
            return None;
        }
        Some(match *self.0.alone.lock().expect(POISONED) {
            Some(true) => (200, json!({ "storage-credentials": self.0.lend() }).to_string()),
            _ => {
                let error = json!({ "message": "no", "type": "NoSuchTableException", "code": 404 });
                (404, json!({ "error": error }).to_string())
            }
        })
    }

    /// Tables come with keys.
    fn reply(&self, path: &str, reply: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8_lossy(&reply);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return reply };
        let Ok(mut body) = serde_json::from_str::<Value>(body) else { return reply };
        let says_alone = self.0.alone.lock().expect(POISONED).is_some();
        if path.starts_with("/v1/config") && says_alone {
            body["endpoints"] = json!([ALONE]);
        } else if body.get("metadata").is_some() {
            body["storage-credentials"] = self.0.lend();
        } else {
            return reply;
        }
        let body = body.to_string();
        let is_length = |line: &&str| !line.to_ascii_lowercase().starts_with("content-length");
        let head: Vec<&str> = head.split("\r\n").filter(is_length).collect();
        let length = body.len();
        format!("{}\r\ncontent-length: {length}\r\n\r\n{body}", head.join("\r\n")).into_bytes()
    }
}

impl Between for OfStore {
    /// Only who signs with a key that is lent is let in.
    fn request(&self, head: &str) -> Option<(u16, String)> {
        let key = head.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/'));
        let number = key.and_then(|(key, _)| key.strip_prefix("lent-")?.parse::<usize>().ok());
        let lent = self.0.lent.lock().expect(POISONED);
        let since = number.and_then(|number| lent.get(number));
        if let (Some(number), Some(since)) = (number, since)
            && since.elapsed() < self.0.life
        {
            self.0.used.lock().expect(POISONED).push(number);
            return None;
        }
        let first = head.lines().next().unwrap_or_default().to_owned();
        self.0.refused.lock().expect(POISONED).push(format!("{first} with {key:?}"));
        let code =
            "<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>";
        // Some say one, some the other.
        Some((if since.is_some() { 400 } else { 403 }, code.to_owned()))
    }
}
