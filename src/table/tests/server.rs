//! An HTTP server that gives the answers of a script and keeps what it was asked. It knows nothing
//! of catalogs: a table it "loads" is a text that the test put into the script.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use iceberg::TableUpdate;
use iceberg::spec::TableMetadata;
use tokio::task::JoinHandle;

/// What to answer to one request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// A status and a body.
    Text(u16, String),
    /// The metadata with the updates of the request applied, as a catalog answers a commit.
    Applied(Box<TableMetadata>),
    /// The metadata with the updates of the last commit applied, as a catalog answers a load after it.
    Marked(Box<TableMetadata>),
    /// Never answers.
    Hang,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// `POST /v1/...`, with its query.
    pub(super) line: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[derive(Default)]
struct Script {
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    asked: Mutex<Vec<Asked>>,
}

/// A server on a free port of the loopback, gone with this value.
pub(super) struct Server {
    pub(super) uri: String,
    script: Arc<Script>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        let script = Arc::new(Script::default());
        let router = Router::new().fallback(answer).with_state(script.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { uri, script, task }
    }

    /// Answers the next request of `line` (`GET /v1/config`, without its query) that is not yet
    /// provided for.
    pub(super) fn reply(&self, line: &str, reply: Reply) -> &Self {
        let mut replies = self.script.replies.lock().unwrap();
        replies.entry(line.to_string()).or_default().push_back(reply);
        self
    }

    pub(super) fn text(&self, line: &str, status: u16, body: impl ToString) -> &Self {
        self.reply(line, Reply::Text(status, body.to_string()))
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

async fn answer(State(script): State<Arc<Script>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let key = format!("{} {}", parts.method, parts.uri.path());
    let line = format!("{} {}", parts.method, parts.uri);
    script.asked.lock().unwrap().push(Asked { line, headers: parts.headers, body: body.clone() });
    let next = script.replies.lock().unwrap().get_mut(&key).and_then(VecDeque::pop_front);
    match next {
        Some(Reply::Text(status, text)) => response(status, text),
        Some(Reply::Applied(metadata)) => response(200, applied(*metadata, &body)),
        Some(Reply::Marked(metadata)) => {
            let asked = script.asked.lock().unwrap();
            let commit = asked.iter().rev().find(|asked| asked.line.starts_with("POST"));
            response(200, applied(*metadata, &commit.unwrap().body))
        }
        Some(Reply::Hang) => std::future::pending().await,
        None => response(418, format!("the script has no answer to {key}")),
    }
}

fn response(status: u16, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn applied(metadata: TableMetadata, request: &str) -> String {
    let mut request: serde_json::Value = serde_json::from_str(request).unwrap();
    let updates: Vec<TableUpdate> = serde_json::from_value(request["updates"].take()).unwrap();
    let mut builder = metadata.into_builder(None);
    for update in updates {
        builder = update.apply(builder).unwrap();
    }
    let metadata = builder.build().unwrap().metadata;
    serde_json::json!({ "metadata-location": "file:/next", "metadata": metadata }).to_string()
}
