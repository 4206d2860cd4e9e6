//! The running service: one run of the pipeline after another, signals, HTTP, exit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::{Config, HttpListen};
use crate::failure::{Failure, chain};
use crate::pipeline::{Pipeline, RunEnd};
use crate::restart::{Decision, Limit, Restarts};
use crate::telemetry::{Health, HttpServer, Metrics, Restart};
use crate::watch::{Pace, Watch};

/// `/healthz` fails after this long without a sign of life of the coordinator. Opening everything
/// may take several servers' patience, one after another.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(120);

/// A fenced instance waits up to this share of the checkpoint interval, so that two instances
/// on the same partitions do not meet at every commit.
const FENCED_SPREAD: f64 = 0.5;

/// How often it is looked at whether checkpoints complete.
const WATCH: Duration = Duration::from_secs(1);

/// Runs the pipeline until it is caught up (if asked), stopped, or cannot go on.
pub(crate) async fn run(
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
        Some(HttpListen { address, any_port }) => {
            let server = HttpServer::bind(address, any_port, config.pipeline()).await?;
            tracing::info!(address = %server.address(), "serving /metrics, /healthz and /readyz");
            let until = async move {
                // A sender that is gone means the same as a stop.
                http_stopped.wait_for(|stop| *stop).await.ok();
            };
            Some(tokio::spawn(server.serve(metrics.clone(), health.clone(), until)))
        }
        None => None,
    };
    let pipeline = Pipeline::new(config.clone(), until_caught_up, metrics, health.clone());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), pipeline = %config.kafka.group_id,
        instance = %pipeline.instance, topic = %config.kafka.topic, table = %config.iceberg.table,
        fetcher = %config.kafka.fetcher.name(), memory_limit_mib = config.memory_limit >> 20,
        shards = config.parallelism, "icestream starts"
    );
    let mut asked = stop.clone();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let ended = supervise(&pipeline, stop).await;
    match &ended {
        Ok(end) => tracing::info!(end = ?end, "icestream ends"),
        Err(failure) => tracing::error!(
            exit_code = failure.exit_code(), refusal = failure.refusal(), error = %chain(failure), "icestream cannot go on"
        ),
    }
    if let (Err(failure), Some(_)) = (&ended, &http) {
        health.set_not_ready(chain(failure));
        // What is counted last is counted for those who watch.
        tokio::select! {
            () = health.last_scrape() => {}
            _ = asked.wait_for(|stop| *stop) => {}
        }
    }
    http_stop.send_replace(true);
    if let Some(http) = http {
        http.await.map_err(|e| {
            Failure::Internal(format!("the HTTP server ended without a result: {e}"))
        })??;
    }
    ended.map(|_| ())
}

/// One run after another, until one ends the process: by its own end, or by a failure of which
/// [`Restarts`] says that it is to be the last.
async fn supervise(
    pipeline: &Pipeline,
    mut stop: watch::Receiver<bool>,
) -> Result<RunEnd, Failure> {
    let config = &pipeline.config;
    let tolerable = config.checkpoint.tolerable_failed;
    let mut restarts = Restarts::new(config.restart, config.retry_give_up, tolerable);
    let mut watch = Watch::new(&config.checkpoint, config.retry_give_up);
    // The table moves on when this process is fenced or loses partitions: no reason to end it.
    let mut fenced = 0;
    loop {
        let commits = pipeline.commits();
        let ended = tokio::select! {
            ended = pipeline.run(&mut stop) => ended,
            stalled = stalled(pipeline, &mut watch, fenced) => return Err(stalled),
        };
        pipeline.health.heartbeat();
        if pipeline.commits() != commits {
            restarts.completed();
        }
        let (reason, wait) = match ended {
            Ok(RunEnd::Fenced) => {
                fenced += 1;
                let spread = FENCED_SPREAD * fastrand::f64();
                (Restart::Fenced, config.checkpoint.interval.mul_f64(spread))
            }
            Ok(RunEnd::PartitionsAdded) => (Restart::PartitionsAdded, Duration::ZERO),
            Ok(RunEnd::Dropped) => {
                fenced += 1;
                (Restart::Dropped, Duration::ZERO)
            }
            Ok(end @ (RunEnd::CaughtUp | RunEnd::Stopped)) => return Ok(end),
            Err(failure) => (failure.restart_reason(), failed(pipeline, &mut restarts, failure)?),
        };
        pipeline.metrics.add_restart(reason);
        if wait_or_stop(pipeline, wait, &mut stop).await {
            return Ok(RunEnd::Stopped);
        }
    }
}

/// How long to wait before the next run, or the error that ends the process.
fn failed(
    pipeline: &Pipeline,
    restarts: &mut Restarts,
    failure: Failure,
) -> Result<Duration, Failure> {
    if !failure.is_transient() {
        return Err(failure);
    }
    pipeline.failed(&failure);
    let of_checkpoint = failure.is_failed_checkpoint();
    let limit = match restarts.failed(Instant::now(), of_checkpoint, fastrand::f64()) {
        Decision::Restart(wait) => {
            tracing::warn!(
                error = %chain(&failure), wait_seconds = wait.as_secs_f64(),
                "starting again from the ledger"
            );
            return Ok(wait);
        }
        Decision::GiveUp(limit) => limit,
    };
    let last = Box::new(failure);
    Err(match limit {
        Limit::Strategy => Failure::NoRestartLeft { last },
        Limit::Patience(after) => Failure::GaveUp { after, last },
        Limit::FailedCheckpoints(count) => Failure::FailedCheckpoints { count, last },
    })
}

/// Tells readiness while checkpoints do not complete, and returns when that has been so for too
/// long. It depends on nothing that can hang.
async fn stalled(pipeline: &Pipeline, watch: &mut Watch, fenced: u64) -> Failure {
    let mut look = tokio::time::interval(WATCH);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let completed = pipeline.commits() + fenced;
        match watch.look(Instant::now(), completed, pipeline.uncommitted()) {
            Pace::Good => pipeline.health.set_late(None),
            Pace::Late(since) => pipeline.health.set_late(Some(format!(
                "no checkpoint completed for {} s although there are records to commit",
                since.as_secs()
            ))),
            Pace::Stalled(after) => return Failure::Stalled { after },
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
