//! HTTP to a REST catalog: signing in, renewing the token, and telling a request that was not sent
//! from one whose fate is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, redirect};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http::with_authorities;
use super::settings::RestAuth;
use super::{CatalogSettings, TableError};
use crate::base::masking::{MASK, mask_text, mask_uri};
use crate::base::one_line::one_line;
use crate::base::secret::{Secret, Uri};

/// Longest time to open a connection; the request timeout, if shorter, wins.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A token is renewed when this part of its life is over, so that none expires under way.
const RENEW_AFTER: f64 = 0.8;
/// A token this young has not ended, whatever an answer may mean.
const NEW_TOKEN: Duration = Duration::from_secs(2);
/// The scope that says that none is to be sent.
const NO_SCOPE: &str = "none";
/// Longest part of an answer that a message repeats.
const MAX_DETAIL: usize = 300;
/// Shortest secret that is looked for in an answer.
const SHORTEST_SECRET: usize = 4;

/// What a server answered. The status line is enough to know what it decided.
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// The body, or why it could not be read to its end.
    pub(super) body: Result<Bytes, String>,
}

/// A request that got no answer.
pub(super) enum SendError {
    /// It certainly never reached the server.
    NotSent(TableError),
    /// The server did not look at it, and it could not be sent again.
    TurnedAway(TableError),
    /// It was sent, or may have been.
    Lost(String),
}

/// A signed-in HTTP client for one catalog.
pub(super) struct RestClient {
    http: Client,
    /// Address of the catalog without secrets, for messages.
    pub(super) label: String,
    auth: RestAuth,
    token_uri: Uri,
    token: Mutex<Option<Token>>,
    /// Did it give us a table, and did it take a commit?
    has_read: AtomicBool,
    has_written: AtomicBool,
}

#[derive(Clone)]
struct Token {
    value: Secret,
    renew_at: Option<Instant>,
    /// When it was asked for; one that was set was not.
    fetched: Option<Instant>,
}

impl Token {
    fn secret(&self) -> Secret {
        self.value.clone()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    expires_in: Option<Seconds>,
}

/// Some services write a number as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

impl Seconds {
    /// None where it is no time.
    fn positive(&self) -> Option<f64> {
        let seconds = match self {
            Self::Number(seconds) => Some(*seconds),
            Self::Text(text) => text.trim().parse().ok(),
        };
        seconds.filter(|seconds| *seconds > 0.0)
    }
}

impl RestClient {
    pub(super) fn new(settings: &CatalogSettings) -> Result<Self, TableError> {
        let bad = |reason: String| TableError::Setting { setting: "catalog uri", reason };
        let base = settings.uri.expose().trim_end_matches('/');
        let label = mask_uri(base);
        match url::Url::parse(base) {
            Ok(uri) if matches!(uri.scheme(), "http" | "https") => {}
            _ => {
                return Err(bad(format!(
                    "{label} is not of the form http(s)://host[:port][/path]"
                )));
            }
        }
        let http = Client::builder()
            .user_agent(concat!("icestream/", env!("CARGO_PKG_VERSION")))
            .timeout(settings.request_timeout)
            .connect_timeout(settings.request_timeout.min(CONNECT_TIMEOUT))
            // A redirected POST becomes a GET, whose 200 would look like a commit.
            .redirect(redirect::Policy::none())
            .default_headers(headers(settings)?);
        let http = match &settings.rest.ca_file {
            Some(file) => with_authorities(http, file).map_err(|reason| TableError::Setting {
                setting: "ICEBERG_REST_CA_FILE",
                reason,
            })?,
            None => http,
        };
        let http =
            http.build().map_err(|error| bad(format!("no HTTP client can be made: {error}")))?;
        let auth = settings.rest.clone();
        let own = || Uri::new(format!("{base}/v1/oauth/tokens"));
        let token_uri = auth.oauth2_server_uri.clone().unwrap_or_else(own);
        let token = auth.token.clone().map(|value| Token { value, renew_at: None, fetched: None });
        let (has_read, has_written) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { http, label, auth, token_uri, token: Mutex::new(token), has_read, has_written })
    }

    /// Sends a request once. If the server says that the token is not (any more) good, and a new one
    /// can be fetched, sends it once more with that: a request answered so was not looked at. Some
    /// servers say it as 403 or 501; a token that is new is not what they mean.
    pub(super) async fn send(
        &self,
        doing: &str,
        method: Method,
        url: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, SendError> {
        let token = self.token(doing, None).await.map_err(SendError::NotSent)?;
        let answer = self.send_with(doing, &method, url, body.clone(), token.as_ref()).await?;
        let is_new = || {
            let fetched = token.as_ref().and_then(|token| token.fetched);
            fetched.is_some_and(|fetched| fetched.elapsed() < NEW_TOKEN)
        };
        let wants_token = match answer.status {
            401 | 419 => true,
            403 | 501 => !is_new(),
            _ => false,
        };
        if !wants_token || self.auth.credential.is_none() {
            return Ok(answer);
        }
        tracing::info!(catalog = %self.label, "the catalog no longer takes the token, fetching a new one");
        let again = async {
            let fresh = self.token(doing, token.as_ref()).await.map_err(SendError::NotSent)?;
            self.send_with(doing, &method, url, body, fresh.as_ref()).await
        };
        // The first copy went out.
        again.await.map_err(|error| match error {
            SendError::NotSent(error) => SendError::TurnedAway(error),
            other => other,
        })
    }

    async fn send_with(
        &self,
        doing: &str,
        method: &Method,
        url: &str,
        body: Option<Vec<u8>>,
        token: Option<&Token>,
    ) -> Result<Answer, SendError> {
        let mut request = self.http.request(method.clone(), url);
        if let Some(token) = token {
            request = request.bearer_auth(token.value.expose());
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = response.bytes().await.map_err(|error| describe(&error));
                Ok(Answer { status, body })
            }
            // No connection, no request.
            Err(error) if error.is_connect() || error.is_builder() => {
                Err(SendError::NotSent(self.unreachable(doing, describe(&error), Some(error))))
            }
            Err(error) => Err(SendError::Lost(describe(&error))),
        }
    }

    /// The token to send, fetched anew if its time is over or if it equals `refused`.
    async fn token(
        &self,
        doing: &str,
        refused: Option<&Token>,
    ) -> Result<Option<Token>, TableError> {
        let mut current = self.token.lock().await;
        let good = current.as_ref().is_some_and(|token| {
            token.renew_at.is_none_or(|at| Instant::now() < at)
                && refused.is_none_or(|refused| refused.value != token.value)
        });
        if !good && let Some(credential) = &self.auth.credential {
            *current = Some(self.fetch_token(doing, credential.expose()).await?);
        }
        Ok(current.clone())
    }

    /// The form that asks for a token. Not part of [`Self::fetch_token`]: a form being written
    /// cannot move between threads, and a request can.
    fn token_form(&self, credential: &str) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        match credential.split_once(':') {
            Some((id, secret)) => {
                form.append_pair("client_id", id).append_pair("client_secret", secret);
            }
            None => {
                form.append_pair("client_secret", credential);
            }
        }
        let scope = self.auth.scope.as_deref().unwrap_or("catalog");
        // Some services refuse every scope.
        let scope = Some(scope).filter(|scope| *scope != NO_SCOPE);
        let (audience, resource) = (self.auth.audience.as_deref(), self.auth.resource.as_deref());
        for (name, value) in [("scope", scope), ("audience", audience), ("resource", resource)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        form.finish()
    }

    async fn fetch_token(&self, doing: &str, credential: &str) -> Result<Token, TableError> {
        let asked = Instant::now();
        let form = self.token_form(credential);
        let request = self
            .http
            .post(self.token_uri.expose())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let at = format!("{doing} (fetching a token from {})", self.token_uri);
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&at, describe(&error), Some(error)))?;
        let status = response.status().as_u16();
        let body = response
            .bytes()
            .await
            .map_err(|error| self.unreachable(&at, describe(&error), Some(error)))?;
        if status != 200 {
            return Err(self.refused(&at, status, &Ok(body)));
        }
        // The text of a parse error could repeat the token: it is not passed on.
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| self.rejected(&at, "the answer holds no access_token".to_string()))?;
        let life = answer.expires_in.and_then(|seconds| seconds.positive());
        let renew_at = life
            .and_then(|seconds| Duration::try_from_secs_f64(seconds * RENEW_AFTER).ok())
            .and_then(|after| asked.checked_add(after));
        Ok(Token { value: answer.access_token.into(), renew_at, fetched: Some(asked) })
    }

    #[cfg(test)]
    pub(super) async fn age_token(&self) {
        if let Some(token) = self.token.lock().await.as_mut() {
            token.fetched = None;
        }
    }

    /// The catalog gave us a table: who we are and where it is are right.
    pub(super) fn has_read(&self) {
        self.has_read.store(true, Ordering::Relaxed);
    }

    /// It took a commit: we may do that, too.
    pub(super) fn has_written(&self) {
        self.has_written.store(true, Ordering::Relaxed);
    }

    /// The error for a commit that was not looked at. Who may read need not be allowed to write.
    pub(super) fn turned_away(
        &self,
        doing: &str,
        status: u16,
        body: &Result<Bytes, String>,
    ) -> TableError {
        let says_so = status == 403 && is_iceberg_error(body);
        match says_so && !self.has_written.load(Ordering::Relaxed) {
            true => TableError::Unauthorised {
                catalog: self.label.clone(),
                doing: doing.to_string(),
                detail: format!("HTTP {status}{}", self.told(body)),
            },
            false => self.refused(doing, status, body),
        }
    }

    /// The error for an answer that is neither success nor expected. A catalog that worked before and now
    /// does not know us, or is not one, passes: its identity provider is away, or a gateway has nothing
    /// behind it.
    pub(super) fn refused(
        &self,
        doing: &str,
        status: u16,
        body: &Result<Bytes, String>,
    ) -> TableError {
        let detail = format!("HTTP {status}{}", self.told(body));
        let has_worked = self.has_read.load(Ordering::Relaxed);
        match status {
            401 | 403 | 419 if has_worked => self.unreachable(doing, detail, None),
            404 | 405 if has_worked && !is_iceberg_error(body) => {
                self.unreachable(doing, detail, None)
            }
            401 | 403 | 419 => TableError::Unauthorised {
                catalog: self.label.clone(),
                doing: doing.to_string(),
                detail,
            },
            408 | 425 | 429 | 500..=599 => self.unreachable(doing, detail, None),
            _ => self.rejected(doing, detail),
        }
    }

    /// What the body of an error says, to follow the status in a message. Servers, and proxies more so,
    /// repeat what they were sent: what is secret of that is masked.
    pub(super) fn told(&self, body: &Result<Bytes, String>) -> String {
        let text = one_line(&self.without_secrets(mask_text(&words(body))));
        let text = text.trim();
        if text.is_empty() {
            return String::new();
        }
        let shown: String = text.chars().take(MAX_DETAIL).collect();
        let more = if shown.len() < text.len() { "..." } else { "" };
        format!(", {shown}{more}")
    }

    fn without_secrets(&self, text: String) -> String {
        // Whoever holds the lock fetches a token that was sent nowhere yet.
        let current =
            self.token.try_lock().ok().and_then(|token| token.as_ref().map(Token::secret));
        let auth = &self.auth;
        let known = current.iter().chain(&auth.token).chain(&auth.credential);
        let known = known.chain(auth.headers.values()).map(Secret::expose);
        let parts = known.flat_map(|secret| {
            secret.split_once(':').map_or([secret; 2], |(_, part)| [secret, part])
        });
        // Shorter ones are part of many a word.
        let parts = parts.filter(|part| part.len() >= SHORTEST_SECRET);
        parts.fold(text, |text, part| text.replace(part, MASK))
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn rejected(&self, doing: &str, detail: String) -> TableError {
        TableError::Rejected { catalog: self.label.clone(), doing: doing.to_string(), detail }
    }

    pub(super) fn unreachable(
        &self,
        doing: &str,
        detail: String,
        source: Option<reqwest::Error>,
    ) -> TableError {
        TableError::Unreachable {
            catalog: self.label.clone(),
            doing: doing.to_string(),
            detail,
            source: source.map(|error| error.without_url().into()),
        }
    }
}

/// Sends a request that may be repeated at will, so that only an answer matters.
pub(super) async fn lookup(
    client: &RestClient,
    doing: &str,
    method: Method,
    url: &str,
    body: Option<Vec<u8>>,
) -> Result<Answer, TableError> {
    client.send(doing, method, url, body).await.map_err(|error| match error {
        SendError::NotSent(error) | SendError::TurnedAway(error) => error,
        SendError::Lost(reason) => client.unreachable(doing, reason, None),
    })
}

/// Headers of every request, marked so that they are never shown.
fn headers(settings: &CatalogSettings) -> Result<HeaderMap, TableError> {
    let mut headers = HeaderMap::new();
    if !settings.io_properties.contains("s3.access-key-id") {
        // Ask for the credentials of the table's store, unless we have our own.
        headers.insert(
            HeaderName::from_static("x-iceberg-access-delegation"),
            HeaderValue::from_static("vended-credentials"),
        );
    }
    for (name, value) in &settings.rest.headers {
        let bad = || TableError::Setting {
            setting: "catalog headers",
            reason: format!("{name:?} or its value cannot be an HTTP header"),
        };
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value);
    }
    Ok(headers)
}

/// An error of the client with its causes, without the address, which the message has already.
fn describe(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() { "no answer in time" } else { "no answer" };
    let mut text = kind.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorModel,
}

#[derive(Deserialize)]
struct ErrorModel {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    r#type: Option<String>,
}

/// True if the body is an error as Iceberg's REST protocol has it.
pub(super) fn is_iceberg_error(body: &Result<Bytes, String>) -> bool {
    body.as_ref().is_ok_and(|body| serde_json::from_slice::<ErrorAnswer>(body).is_ok())
}

/// What the body of an error says.
fn words(body: &Result<Bytes, String>) -> String {
    match body {
        Err(error) => format!("body cannot be read: {error}"),
        Ok(body) => match serde_json::from_slice::<ErrorAnswer>(body) {
            Ok(ErrorAnswer { error }) => {
                let parts = [error.r#type, error.message];
                parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
            }
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        },
    }
}
