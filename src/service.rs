//! The running service: one run of the pipeline after another, signals, HTTP, exit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Config;
use crate::failure::{Failure, chain};
use crate::pipeline::{Pipeline, RunEnd};
use crate::retry::Backoff;
use crate::telemetry::{Health, HttpServer, Metrics};

/// `/healthz` fails after this long without a sign of life of the coordinator. Opening everything
/// may take several servers' patience, one after another.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(120);

/// A fenced instance waits up to this share of the checkpoint interval, so that two instances
/// on the same partitions do not meet at every commit.
const FENCED_SPREAD: f64 = 0.5;

/// Runs the pipeline until it is caught up (if asked), stopped, or cannot go on.
pub async fn run(
    config: Config,
    until_caught_up: bool,
    stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let config = Arc::new(config);
    let metrics = Metrics::new()
        .map_err(|e| Failure::Internal(format!("metrics are not well formed: {e}")))?;
    metrics.set_memory_limit(config.memory_limit);
    let health = Health::new(HEARTBEAT_LIMIT);
    let (http_stop, mut http_stopped) = watch::channel(false);
    let http = match config.http_listen {
        Some(address) => {
            let server = HttpServer::bind(address).await?;
            tracing::info!(address = %server.address(), "serving /metrics, /healthz and /readyz");
            let until = async move {
                // A sender that is gone means the same as a stop.
                http_stopped.wait_for(|stop| *stop).await.ok();
            };
            Some(tokio::spawn(server.serve(metrics.clone(), health.clone(), until)))
        }
        None => None,
    };
    let pipeline = Pipeline::new(config.clone(), until_caught_up, metrics, health);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), pipeline = %config.kafka.group_id,
        instance = %pipeline.instance, topic = %config.kafka.topic, table = %config.iceberg.table,
        "icestream starts"
    );
    let ended = supervise(&pipeline, stop).await;
    match &ended {
        Ok(end) => tracing::info!(end = ?end, "icestream ends"),
        Err(failure) => tracing::error!(
            exit_code = failure.exit_code(), refusal = failure.refusal(), error = %chain(failure), "icestream cannot go on"
        ),
    }
    http_stop.send_replace(true);
    if let Some(http) = http {
        http.await.map_err(|e| {
            Failure::Internal(format!("the HTTP server ended without a result: {e}"))
        })??;
    }
    ended.map(|_| ())
}

/// One run after another. An error that may pass is tried again until no run made progress for
/// the set time.
async fn supervise(
    pipeline: &Pipeline,
    mut stop: watch::Receiver<bool>,
) -> Result<RunEnd, Failure> {
    let give_up = pipeline.config.retry_give_up;
    let mut backoff = Backoff::new(Instant::now(), give_up);
    loop {
        let commits = pipeline.commits();
        let ended = pipeline.run(&mut stop).await;
        pipeline.health.heartbeat();
        if pipeline.commits() != commits {
            backoff.reset(Instant::now());
        }
        let wait = match ended {
            Ok(RunEnd::Fenced) => {
                pipeline.config.checkpoint.interval.mul_f64(FENCED_SPREAD * fastrand::f64())
            }
            Ok(RunEnd::PartitionsAdded | RunEnd::Dropped) => Duration::ZERO,
            Ok(end @ (RunEnd::CaughtUp | RunEnd::Stopped)) => return Ok(end),
            Err(failure) if failure.is_transient() => {
                pipeline.failed(&failure);
                let now = Instant::now();
                let Some(wait) = backoff.next_wait(now) else {
                    return Err(Failure::GaveUp {
                        after: backoff.spent(now),
                        last: Box::new(failure),
                    });
                };
                tracing::warn!(
                    error = %chain(&failure), wait_seconds = wait.as_secs_f64(),
                    "starting again from the ledger"
                );
                wait
            }
            Err(failure) => return Err(failure),
        };
        if wait_or_stop(pipeline, wait, &mut stop).await {
            return Ok(RunEnd::Stopped);
        }
    }
}

/// True if a stop came first.
async fn wait_or_stop(
    pipeline: &Pipeline,
    wait: Duration,
    stop: &mut watch::Receiver<bool>,
) -> bool {
    pipeline.health.heartbeat();
    tokio::select! {
        _ = tokio::time::sleep(wait) => false,
        _ = stop.wait_for(|stop| *stop) => true,
    }
}
