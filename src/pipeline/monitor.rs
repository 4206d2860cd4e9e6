//! A thread that serves the Kafka client's events and asks now and then whether it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use crate::failure::chain;
use crate::source::{Source, SourceError};

/// How long one call into the client may serve.
const SERVE: Duration = Duration::from_millis(100);
/// How long the cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a healthy cluster is asked for the topic's partitions.
const EVERY: Duration = Duration::from_secs(10);
/// How often one that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the monitor tells.
pub(super) enum Event {
    /// The cluster answered.
    Reachable,
    /// It did not.
    Unreachable(String),
    /// The topic has more partitions than this run reads.
    PartitionsAdded(usize),
    /// An error that waiting does not cure.
    Failed(SourceError),
}

/// Runs until `stop` is set or nobody listens.
pub(super) fn run(source: &Arc<Source>, known: usize, stop: &AtomicBool, out: &Sender<Event>) {
    let mut next = Instant::now() + EVERY;
    let mut told_added = false;
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = source.serve(SERVE) {
            let event = if error.is_transient() {
                Event::Unreachable(chain(&error))
            } else {
                Event::Failed(error)
            };
            if out.blocking_send(event).is_err() {
                return;
            }
        }
        let now = Instant::now();
        if now < next && !source.take_brokers_down() {
            continue;
        }
        let event = match source.partitions(PATIENCE) {
            Ok(partitions) if partitions.len() > known && !told_added => {
                told_added = true;
                Event::PartitionsAdded(partitions.len())
            }
            Ok(_) => Event::Reachable,
            Err(error) if error.is_transient() => Event::Unreachable(chain(&error)),
            Err(error) => Event::Failed(error),
        };
        let healthy = matches!(event, Event::Reachable | Event::PartitionsAdded(_));
        next = Instant::now() + if healthy { EVERY } else { AGAIN };
        if out.blocking_send(event).is_err() {
            return;
        }
    }
}
