//! Whether the process is alive and ready, as its parts say; read by the HTTP endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::Notify;

use super::labels::Server;
use crate::base::masking::mask_text;

/// How long a process that ends is kept for a last reading of its metrics, at least and at most.
const LAST_SCRAPE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(120));

/// Whether the process is alive and ready. Cheap to clone; all clones are the same state.
#[derive(Clone)]
pub(crate) struct Health(Arc<Shared>);

struct Shared {
    limit: Duration,
    state: Mutex<State>,
    scraped: Notify,
}

struct State {
    heartbeat: Instant,
    not_ready: Option<String>,
    late: Option<String>,
    unread: Option<String>,
    unreachable: BTreeMap<Server, Option<String>>,
    /// When the metrics were read last, and the time between then and before.
    scraped: Option<(Instant, Option<Duration>)>,
}

/// What `/readyz` answers.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    /// True if the pipeline runs, every server answered last and checkpoints complete.
    pub ready: bool,
    /// `running`, or why the pipeline does not run or commits nothing.
    pub state: String,
    /// The servers that were asked so far.
    pub servers: BTreeMap<String, Reachability>,
}

/// How a server answered last.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reachability {
    /// Did it answer?
    pub reachable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What `/healthz` answers.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Liveness {
    /// True while the last heartbeat is younger than the limit.
    pub alive: bool,
    /// Age of the last heartbeat.
    pub heartbeat_age_seconds: f64,
}

impl Health {
    /// Not ready, `starting`, and alive for `heartbeat_limit` from now on without a heartbeat.
    pub(crate) fn new(heartbeat_limit: Duration) -> Self {
        let state = State {
            heartbeat: Instant::now(),
            not_ready: Some("starting".to_owned()),
            late: None,
            unread: None,
            unreachable: BTreeMap::new(),
            scraped: None,
        };
        let (limit, state) = (heartbeat_limit, Mutex::new(state));
        Self(Arc::new(Shared { limit, state, scraped: Notify::new() }))
    }

    /// Somebody read the metrics.
    pub(crate) fn scraped(&self, now: Instant) {
        let mut state = self.state();
        let between = state.scraped.map(|(last, _)| now.saturating_duration_since(last));
        state.scraped = Some((now, between));
        drop(state);
        self.0.scraped.notify_waiters();
    }

    /// Waits until the metrics are read once more by whoever reads them regularly, for at most twice the time
    /// between two readings; not at all if nobody does.
    pub(crate) async fn last_scrape(&self) {
        let between = self.state().scraped.and_then(|(_, between)| between);
        if let Some(between) = between {
            let most = between.saturating_mul(2).clamp(LAST_SCRAPE.0, LAST_SCRAPE.1);
            // Nobody came: nobody will.
            tokio::time::timeout(most, self.0.scraped.notified()).await.ok();
        }
    }

    /// The pipeline runs.
    pub(crate) fn set_ready(&self) {
        self.state().not_ready = None;
    }

    /// The pipeline does not run, and why. Passwords inside addresses are not shown.
    pub(crate) fn set_not_ready(&self, reason: impl Into<String>) {
        self.state().not_ready = Some(mask_text(&reason.into()));
    }

    /// Checkpoints complete (`None`), or how long none did although there is something to commit.
    pub(crate) fn set_late(&self, reason: Option<String>) {
        self.state().late = reason;
    }

    /// Every partition is read (`None`), or which are not, and why.
    pub(crate) fn set_unread(&self, reason: Option<String>) {
        self.state().unread = reason;
    }

    /// A server answered.
    pub(crate) fn set_reachable(&self, server: Server) {
        self.state().unreachable.insert(server, None);
    }

    /// A server did not answer, and why. Passwords inside addresses are not shown.
    pub(crate) fn set_unreachable(&self, server: Server, error: impl Into<String>) {
        self.state().unreachable.insert(server, Some(mask_text(&error.into())));
    }

    /// The coordinator is alive.
    pub(crate) fn heartbeat(&self) {
        // The clock that tokio sleeps by: a test sets that one.
        self.state().heartbeat = tokio::time::Instant::now().into_std();
    }

    /// Is the process ready, and what is missing?
    pub(crate) fn readiness(&self) -> Readiness {
        let state = self.state();
        let servers = state.unreachable.iter().map(|(server, error)| {
            let reachability = Reachability { reachable: error.is_none(), error: error.clone() };
            (server.to_string(), reachability)
        });
        let reasons = [&state.not_ready, &state.unread, &state.late];
        let reason = reasons.into_iter().flatten().next().cloned();
        Readiness {
            ready: reason.is_none() && state.unreachable.values().all(Option::is_none),
            state: reason.unwrap_or_else(|| "running".to_owned()),
            servers: servers.collect(),
        }
    }

    /// Is the process alive at `now`?
    pub(crate) fn liveness(&self, now: Instant) -> Liveness {
        let age = now.saturating_duration_since(self.state().heartbeat);
        Liveness { alive: age < self.0.limit, heartbeat_age_seconds: age.as_secs_f64() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_it_runs_and_every_server_answers() {
        let health = Health::new(Duration::from_secs(10));
        assert_eq!(health.readiness().state, "starting");
        assert!(!health.readiness().ready);
        health.set_ready();
        assert!(health.readiness().ready);
        health.set_unreachable(Server::Catalog, "connection refused");
        let address = "postgres://db?user=ice&password=hunter2";
        health.set_unreachable(Server::Kafka, format!("no answer from {address}"));
        let error = health.readiness().servers["kafka"].error.clone();
        assert_eq!(error.unwrap(), "no answer from postgres://db?user=ice&password=***");
        health.set_reachable(Server::Kafka);
        let readiness = health.clone().readiness();
        assert!(!readiness.ready);
        assert_eq!(readiness.servers["catalog"].error.as_deref(), Some("connection refused"));
        health.set_reachable(Server::Catalog);
        assert!(health.readiness().ready && health.readiness().servers["catalog"].reachable);
        health.set_late(Some("no checkpoint".to_owned()));
        assert_eq!(health.readiness().state, "no checkpoint");
        assert!(!health.readiness().ready);
        health.set_late(None);
        assert!(health.readiness().ready);
        health.set_unread(Some("not read: t[3]".to_owned()));
        assert_eq!(health.readiness().state, "not read: t[3]");
        assert!(!health.readiness().ready);
        health.set_unread(None);
        health.set_not_ready("stopping");
        assert!(!health.readiness().ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_scrape_is_waited_for_if_somebody_scrapes() {
        let waited = async |health: &Health| {
            let began = tokio::time::Instant::now();
            health.last_scrape().await;
            began.elapsed()
        };
        let health = Health::new(Duration::from_secs(10));
        assert_eq!(waited(&health).await, Duration::ZERO);
        let start = Instant::now();
        health.scraped(start);
        assert_eq!(waited(&health).await, Duration::ZERO, "a person looked once");
        health.scraped(start + Duration::from_secs(15));
        // A timer counts whole milliseconds.
        assert_eq!(waited(&health).await.as_secs(), 30);
        let (scraper, later) = (health.clone(), start + Duration::from_secs(30));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(7)).await;
            scraper.scraped(later);
        });
        assert_eq!(waited(&health).await.as_secs(), 7);
    }

    #[test]
    fn a_process_is_alive_as_long_as_its_heartbeat_is_fresh() {
        let health = Health::new(Duration::from_secs(10));
        let start = Instant::now();
        assert!(health.liveness(start + Duration::from_secs(9)).alive);
        assert!(!health.liveness(start + Duration::from_secs(11)).alive);
        health.heartbeat();
        assert!(health.liveness(Instant::now()).alive);
    }
}
