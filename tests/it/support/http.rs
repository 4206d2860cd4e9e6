//! One HTTP request, for servers on this machine.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;

use super::block_on;

/// A reply that arrived whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("a reply that is not JSON ({error}): {}", self.body))
    }

    /// The reply, if its status is one of success.
    ///
    /// # Panics
    /// With status and body otherwise.
    pub fn success(self) -> Self {
        assert!((200..300).contains(&self.status), "status {}: {}", self.status, self.body);
        self
    }
}

/// Sends a request. An error means that no whole reply came: refused, closed, or 30 s over.
pub fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Result<Reply, reqwest::Error> {
    request_within(Duration::from_secs(30), method, url, headers, body)
}

/// [`request`], for a server that may take longer.
pub fn request_within(
    within: Duration,
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Result<Reply, reqwest::Error> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        Client::builder()
            .no_proxy()
            // A connection of a server that was stopped since must not be met again.
            .pool_max_idle_per_host(0)
            .build()
            .expect("an HTTP client")
    });
    let mut request = client.request(method, url).timeout(within).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    block_on(async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok(Reply { status, body: response.text().await? })
    })
}

/// `GET url`.
pub fn get(url: &str) -> Result<Reply, reqwest::Error> {
    request(Method::GET, url, &[], "")
}

/// `POST url` with a JSON body.
pub fn post(url: &str, body: &Value) -> Result<Reply, reqwest::Error> {
    request(Method::POST, url, &[("content-type", "application/json")], body.to_string())
}
