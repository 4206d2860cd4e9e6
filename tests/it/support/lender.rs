//! A catalog that lends keys to its store for a while, and a store that takes no others.
//!
//! Both are proxies: the catalog's answers get keys added (or those in them get a shorter life), and the
//! store's requests are looked at for the key that they are signed with.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::proxy::{Between, Proxy};
use super::s3::S3;
use super::seaweedfs::SeaweedFs;
use super::table::Lake;

/// Both proxies.
pub struct Lender {
    pub catalog: Proxy,
    store: Proxy,
    keys: Arc<Keys>,
}

struct Keys {
    life: Duration,
    /// How long the catalog says that they live; `None`: as long as it says by itself.
    told: Mutex<Option<Duration>>,
    /// Are they to be had without the table: does the catalog say so, and is it true?
    alone: Mutex<Option<bool>>,
    /// Paths at which the catalog was asked for something.
    asked: Mutex<Vec<String>>,
    /// Their ids, and since when.
    lent: Mutex<Vec<(String, Instant)>>,
    /// Of which these were used.
    used: Mutex<Vec<usize>>,
    refused: Mutex<Vec<String>>,
    /// Are they the catalog's own?
    own: bool,
}

struct OfCatalog(Arc<Keys>);
struct OfStore(Arc<Keys>);

const POISONED: &str = "a thread panicked within the lender";

impl Lender {
    /// In front of a REST catalog with its files on S3.
    pub fn before(lake: &Lake, life: Duration) -> Self {
        let keys = Keys::new(Some(life), false);
        let address = S3::shared().endpoint();
        let address = address.strip_prefix("http://").expect("an address");
        let store = Proxy::with(address, Arc::new(OfStore(keys.clone())));
        Self::of(&lake.rest_catalog().address(), store, keys)
    }

    /// Around a server that lends keys by itself: for so long, or as it likes.
    pub fn around_seaweedfs(life: Option<Duration>) -> (SeaweedFs, Self) {
        let keys = Keys::new(life, true);
        let of_store = Arc::new(OfStore(keys.clone()));
        let (server, store) = SeaweedFs::start_behind(|address| Proxy::with(address, of_store));
        let lender = Self::of(&server.address(), store, keys);
        (server, lender)
    }

    fn of(catalog: &str, store: Proxy, keys: Arc<Keys>) -> Self {
        let catalog = Proxy::with(catalog, Arc::new(OfCatalog(keys.clone())));
        Self { catalog, store, keys }
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
        *self.keys.told.lock().expect(POISONED) = Some(told);
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
    fn new(told: Option<Duration>, own: bool) -> Arc<Self> {
        let (lent, used, refused, alone, asked) = Default::default();
        let (life, told) = (told.unwrap_or(Duration::MAX), Mutex::new(told));
        Arc::new(Self { life, told, alone, asked, lent, used, refused, own })
    }

    fn lend(&self) -> Value {
        let mut lent = self.lent.lock().expect(POISONED);
        let id = format!("lent-{}", lent.len());
        lent.push((id.clone(), Instant::now()));
        json!([{ "prefix": "s3://", "config": {
            ID: id,
            "s3.secret-access-key": "secret",
            "s3.session-token": "token",
            EXPIRES_AT: self.end(),
        }}])
    }

    /// When a key ends that is lent now, if we say so.
    fn end(&self) -> Option<String> {
        let told = (*self.told.lock().expect(POISONED))?;
        let ends = (SystemTime::now() + told).duration_since(UNIX_EPOCH).expect("a clock");
        Some(ends.as_millis().to_string())
    }

    /// Makes the life shorter that all keys have in an answer.
    fn shorten(&self, answer: &mut Value) {
        match answer {
            Value::Object(fields) => {
                if let Some(id) = fields.get(ID).and_then(Value::as_str) {
                    let mut lent = self.lent.lock().expect(POISONED);
                    if !lent.iter().any(|(known, _)| known == id) {
                        lent.push((id.to_owned(), Instant::now()));
                    }
                    drop(lent);
                    if let Some(end) = self.end() {
                        fields.insert(EXPIRES_AT.to_owned(), end.into());
                    }
                }
                fields.values_mut().for_each(|field| self.shorten(field));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.shorten(item)),
            _ => {}
        }
    }
}

const ID: &str = "s3.access-key-id";
const EXPIRES_AT: &str = "s3.session-token-expires-at-ms";

/// As a catalog lists it.
const ALONE: &str = "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}/credentials";

impl Between for OfCatalog {
    fn request(&self, head: &str) -> Option<(u16, String)> {
        let path = head.split_whitespace().nth(1).unwrap_or_default();
        self.0.asked.lock().expect(POISONED).push(path.to_owned());
        if self.0.own || !path.ends_with("/credentials") {
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
        let is_chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
        let body = if is_chunked { joined(body) } else { body.to_owned() };
        let Ok(mut body) = serde_json::from_str::<Value>(&body) else { return reply };
        let says_alone = self.0.alone.lock().expect(POISONED).is_some();
        if self.0.own {
            self.0.shorten(&mut body);
        } else if path.starts_with("/v1/config") && says_alone {
            body["endpoints"] = json!([ALONE]);
        } else if body.get("metadata").is_some() {
            body["storage-credentials"] = self.0.lend();
        } else {
            return reply;
        }
        let body = body.to_string();
        let stays = |line: &&str| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("content-length") && !line.starts_with("transfer-encoding")
        };
        let head: Vec<&str> = head.split("\r\n").filter(stays).collect();
        let length = body.len();
        format!("{}\r\ncontent-length: {length}\r\n\r\n{body}", head.join("\r\n")).into_bytes()
    }
}

/// A body that came in chunks.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("the length of a chunk");
        if length == 0 {
            break;
        }
        body += &rest[..length];
        chunks = &rest[length + 2..];
    }
    body
}

impl Between for OfStore {
    /// Only who signs with a key that is lent is let in.
    fn request(&self, head: &str) -> Option<(u16, String)> {
        let key = head.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/'));
        let lent = self.0.lent.lock().expect(POISONED);
        let number = key.and_then(|(key, _)| lent.iter().position(|(id, _)| id == key));
        if let Some(number) = number
            && lent[number].1.elapsed() < self.0.life
        {
            self.0.used.lock().expect(POISONED).push(number);
            return None;
        }
        let first = head.lines().next().unwrap_or_default().to_owned();
        self.0.refused.lock().expect(POISONED).push(format!("{first} with {key:?}"));
        let code =
            "<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>";
        // Some say one, some the other.
        Some((if number.is_some() { 400 } else { 403 }, code.to_owned()))
    }
}
