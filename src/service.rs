//! The running service: one run of the pipeline after another, signals, HTTP, exit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Config;
use crate::failure::{Failure, chain};
use crate::pipeline::{Pipeline, RunEnd};
use crate::retry::Backoff;
use crate::telemetry::{self, Health, Metrics};

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
    let metrics = Metrics::new();
    let health = Health::new();
    for part in ["kafka", "catalog", "store", "state"] {
        health.set_not_ready(part, "starting");
    }
    let (http_stop, http_stopped) = watch::channel(false);
    let http = match config.http_listen {
        Some(address) => {
            let server = telemetry::serve(address, metrics.clone(), health.clone(), http_stopped);
            Some(tokio::spawn(server.await?))
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
            exit_code = failure.exit_code(), error = %chain(failure), "icestream cannot go on"
        ),
    }
    http_stop.send_replace(true);
    if let Some(http) = http {
        http.await
            .map_err(|e| Failure::Internal(format!("the HTTP server ended without a result: {e}")))?;
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
    let mut progress = pipeline.metrics.progress();
    loop {
        let ended = pipeline.run(&mut stop).await;
        pipeline.health.heartbeat();
        if pipeline.metrics.progress() != progress {
            progress = pipeline.metrics.progress();
            backoff.reset(Instant::now());
        }
        let wait = match ended {
            Ok(RunEnd::Fenced) => {
                pipeline.config.checkpoint.interval.mul_f64(FENCED_SPREAD * fastrand::f64())
            }
            Ok(RunEnd::PartitionsAdded) => Duration::ZERO,
            Ok(end @ (RunEnd::CaughtUp | RunEnd::Stopped)) => return Ok(end),
            Err(failure) if failure.is_transient() => {
                pipeline.metrics.retry(failure.part());
                pipeline.health.set_not_ready(failure.part(), &chain(&failure));
                let now = Instant::now();
                let Some(wait) = backoff.next_wait(now) else {
                    return Err(Failure::GaveUp {
                        after: backoff.spent(now),
                        last: Box::new(failure),
                    });
                };
                tracing::warn!(
                    error = %chain(&failure), wait_ms = wait.as_millis() as u64,
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
        _ = tokio::time::sleep(wait) => *stop.borrow(),
        _ = stop.wait_for(|stop| *stop) => true,
    }
}
