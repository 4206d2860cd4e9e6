//! `/metrics`, `/healthz` and `/readyz`.

use std::future::{Future, IntoFuture};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connections::Bounded;
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
         address, to port 0 for any that is free, or to `off`"
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
    pipeline: HeaderValue,
}

/// The header of all answers that names the pipeline: whose port is it?
pub(crate) const PIPELINE: HeaderName = HeaderName::from_static("icestream-pipeline");

impl HttpServer {
    /// Listens on `address` for `pipeline`. Port 0 takes any free one, and so does `any_port` where
    /// the port is taken: see [`Self::address`].
    ///
    /// # Errors
    /// [`HttpError::Bind`].
    pub(crate) async fn bind(
        address: SocketAddr,
        any_port: bool,
        pipeline: &str,
    ) -> Result<Self, HttpError> {
        let fail = |source| HttpError::Bind { address, source };
        let listener = match TcpListener::bind(address).await {
            Err(error) if any_port && error.kind() == ErrorKind::AddrInUse => {
                let other = TcpListener::bind((address.ip(), 0)).await.map_err(fail)?;
                tracing::warn!(
                    %address,
                    "the default address is taken by another process, so any free port is used; set \
                     HTTP_LISTEN to choose one"
                );
                other
            }
            // All addresses, of a machine without IPv6.
            Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await.map_err(fail)?
            }
            bound => bound.map_err(fail)?,
        };
        let address = listener.local_addr().map_err(fail)?;
        // Its name is of letters that a header may have.
        let pipeline = HeaderValue::from_str(pipeline).unwrap_or(HeaderValue::from_static(""));
        Ok(Self { listener, address, pipeline })
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
        let Self { listener, address, pipeline } = self;
        let fail = |source| HttpError::Serve { address, source };
        let router = Router::new()
            .route("/metrics", get(show_metrics))
            .route("/healthz", get(show_health))
            .route("/readyz", get(show_readiness))
            .layer(map_response(move |mut response: Response| {
                response.headers_mut().insert(PIPELINE, pipeline.clone());
                std::future::ready(response)
            }))
            .with_state((metrics, health));
        let (stopping, stopped) = oneshot::channel::<()>();
        // The sender is dropped to stop: that is the one answer there is.
        let graceful = async move { stopped.await.unwrap_or_default() };
        let server = axum::serve(Bounded::new(listener), router).with_graceful_shutdown(graceful);
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::super::connections::{MOST, PATIENCE};
    use super::super::labels::Server;
    use super::*;

    async fn bound(address: &str) -> HttpServer {
        HttpServer::bind(address.parse().unwrap(), false, "lake").await.unwrap()
    }

    struct Running {
        address: SocketAddr,
        health: Health,
        metrics: Metrics,
        stop: oneshot::Sender<()>,
        server: JoinHandle<Result<(), HttpError>>,
    }

    async fn running(heartbeat_limit: Duration) -> Running {
        let server = bound("127.0.0.1:0").await;
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
        let taken = bound("127.0.0.1:0").await;
        let address = taken.address();
        let error = HttpServer::bind(address, false, "lake").await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("HTTP_LISTEN") && error.contains("port 0"), "{error}");
        let second = HttpServer::bind(address, true, "lake").await.unwrap();
        assert_eq!(second.address().ip(), address.ip());
        assert_ne!(second.address().port(), address.port());
    }

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let server = bound("[::]:0").await;
        let port = server.address().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if server.address().is_ipv6() {
            TcpStream::connect(("::1", port)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn every_answer_names_the_pipeline() {
        let running = running(Duration::from_secs(60)).await;
        for path in ["/metrics", "/healthz", "/readyz", "/none"] {
            let answer = reqwest::get(format!("http://{}{path}", running.address)).await.unwrap();
            assert_eq!(answer.headers()[PIPELINE.as_str()], "lake", "{path}");
        }
    }

    /// Reads until the server ends the connection.
    async fn ended(mut client: TcpStream) -> bool {
        let mut rest = Vec::new();
        let end = timeout(Duration::from_secs(600), client.read_to_end(&mut rest)).await;
        end.is_ok_and(|read| read.is_err() || rest.is_empty())
    }

    #[tokio::test]
    async fn more_clients_than_there_is_room_for_end_the_oldest_and_the_next_is_answered() {
        let running = running(Duration::from_secs(60)).await;
        let mut idle = Vec::new();
        for _ in 0..MOST + 20 {
            let mut client = TcpStream::connect(running.address).await.unwrap();
            client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x").await.unwrap();
            idle.push(client);
        }
        assert_eq!(get(running.address, "/healthz").await.0, 200);
        for client in idle.drain(..20) {
            assert!(ended(client).await);
        }
        assert_eq!(get(running.address, "/healthz").await.0, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_or_asks_slowly_is_let_go() {
        let running = running(Duration::from_secs(60)).await;
        let silent = TcpStream::connect(running.address).await.unwrap();
        let mut slow = TcpStream::connect(running.address).await.unwrap();
        slow.write_all(b"GET /metrics HTTP/1.1\r\nX: ").await.unwrap();
        let begun = tokio::time::Instant::now();
        assert!(ended(silent).await);
        let drip = async {
            // The clock of the test moves on by itself while nothing else can.
            while slow.write_all(b"x").await.is_ok() && begun.elapsed() < 4 * PATIENCE {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        drip.await;
        assert!(begun.elapsed() < 3 * PATIENCE, "{:?}", begun.elapsed());
    }
}
