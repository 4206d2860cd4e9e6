//! `/metrics`, `/healthz` and `/readyz`.

use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::health::Health;
use super::metrics::Metrics;

/// How long requests that have begun may take once the server is to stop: a client that sends
/// half a request must not hold up the shutdown.
const GRACE: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// Why the endpoints cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: is another process using it? Set HTTP_LISTEN to another \
         address, or to `off`"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Serving failed later.
    #[error("the HTTP server on {address} failed")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The endpoints, listening but not yet answering.
#[derive(Debug)]
pub(crate) struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Listens on `address`. Port 0 takes any free one: see [`Self::address`].
    ///
    /// # Errors
    /// [`HttpError::Bind`].
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        let fail = |source| HttpError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address })
    }

    /// The address that is listened on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is done, and then finishes requests that have begun, within a second.
    ///
    /// # Errors
    /// [`HttpError::Serve`].
    pub(crate) async fn serve(
        self,
        metrics: Metrics,
        health: Health,
        stop: impl Future<Output = ()>,
    ) -> Result<(), HttpError> {
        let address = self.address;
        let fail = |source| HttpError::Serve { address, source };
        let router = Router::new()
            .route("/metrics", get(show_metrics))
            .route("/healthz", get(show_health))
            .route("/readyz", get(show_readiness))
            .with_state((metrics, health));
        let (stopping, stopped) = oneshot::channel::<()>();
        // The sender is dropped to stop: that is the one answer there is.
        let graceful = async move { stopped.await.unwrap_or_default() };
        let server = axum::serve(self.listener, router).with_graceful_shutdown(graceful);
        let mut server = pin!(server.into_future());
        tokio::select! {
            result = &mut server => return result.map_err(fail),
            () = stop => drop(stopping),
        }
        match timeout(GRACE, server).await {
            Ok(result) => result.map_err(fail),
            Err(_) => {
                tracing::debug!(%address, "left HTTP requests unanswered at shutdown");
                Ok(())
            }
        }
    }
}

async fn show_metrics(State((metrics, health)): State<(Metrics, Health)>) -> Response {
    match metrics.encode(SystemTime::now()) {
        Ok(text) => {
            health.scraped(Instant::now());
            answer(StatusCode::OK, TEXT, text)
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
        }
    }
}

async fn show_health(State((_, health)): State<(Metrics, Health)>) -> Response {
    let liveness = health.liveness(Instant::now());
    json(liveness.alive, &liveness)
}

async fn show_readiness(State((_, health)): State<(Metrics, Health)>) -> Response {
    let readiness = health.readiness();
    json(readiness.ready, &readiness)
}

fn json(good: bool, body: &impl Serialize) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(body) {
        Ok(text) => answer(status, JSON, text + "\n"),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], text).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::super::labels::Server;
    use super::*;

    struct Running {
        address: SocketAddr,
        health: Health,
        metrics: Metrics,
        stop: oneshot::Sender<()>,
        server: JoinHandle<Result<(), HttpError>>,
    }

    async fn running(heartbeat_limit: Duration) -> Running {
        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, health) = (server.address(), Health::new(heartbeat_limit));
        let metrics = Metrics::new().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = server.serve(metrics.clone(), health.clone(), async {
            stopped.await.unwrap();
        });
        Running { address, health, metrics, stop, server: tokio::spawn(serving) }
    }

    async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
        let response = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        (status, content_type, response.text().await.unwrap())
    }

    #[tokio::test]
    async fn metrics_are_served_as_prometheus_expects_them() {
        let running = running(Duration::from_secs(60)).await;
        running.metrics.add_tombstones(7);
        let (status, content_type, text) = get(running.address, "/metrics").await;
        assert_eq!((status, content_type.as_str()), (200, TEXT));
        assert!(text.contains("icestream_tombstones_total 7\n"), "{text}");
    }

    #[tokio::test]
    async fn readiness_names_the_server_that_does_not_answer() {
        let running = running(Duration::from_secs(60)).await;
        let (status, content_type, text) = get(running.address, "/readyz").await;
        assert_eq!((status, content_type.as_str()), (503, JSON));
        assert_eq!(text, "{\"ready\":false,\"state\":\"starting\",\"servers\":{}}\n");
        running.health.set_ready();
        running.health.set_reachable(Server::Kafka);
        running.health.set_unreachable(Server::Catalog, "connection refused");
        let (status, _, text) = get(running.address, "/readyz").await;
        assert_eq!(status, 503);
        let expected = "{\"ready\":false,\"state\":\"running\",\"servers\":{\"catalog\":\
            {\"reachable\":false,\"error\":\"connection refused\"},\"kafka\":{\"reachable\":true}}}\n";
        assert_eq!(text, expected);
        running.health.set_reachable(Server::Catalog);
        assert_eq!(get(running.address, "/readyz").await.0, 200);
    }

    #[tokio::test]
    async fn health_is_bad_when_the_heartbeat_is_old() {
        assert_eq!(get(running(Duration::from_secs(60)).await.address, "/healthz").await.0, 200);
        let (status, _, text) = get(running(Duration::ZERO).await.address, "/healthz").await;
        assert_eq!(status, 503);
        assert!(text.starts_with("{\"alive\":false,"), "{text}");
    }

    #[tokio::test]
    async fn a_stop_ends_the_server_although_a_client_sends_half_a_request() {
        let running = running(Duration::from_secs(60)).await;
        let mut half = TcpStream::connect(running.address).await.unwrap();
        half.write_all(b"GET /metrics HTTP/1.1\r\nHost: x").await.unwrap();
        // Answered after the half request was accepted, so the server knows of both.
        assert_eq!(get(running.address, "/healthz").await.0, 200);
        running.stop.send(()).unwrap();
        timeout(Duration::from_secs(30), running.server).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(running.address).await.is_err());
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_what_to_do() {
        let first = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = HttpServer::bind(first.address()).await.unwrap_err().to_string();
        assert!(error.contains(&first.address().to_string()), "{error}");
        assert!(error.contains("HTTP_LISTEN"), "{error}");
    }
}
