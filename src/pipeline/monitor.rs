//! A thread that serves the Kafka client's events and asks now and then whether it is there.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use super::messages::Event;
use crate::failure::chain;
use crate::source::{Ends, Source, SourceError};

/// How long one call into the client may serve.
const SERVE: Duration = Duration::from_millis(100);
/// How long the cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a healthy cluster is asked for the topic's partitions.
const EVERY: Duration = Duration::from_secs(10);
/// How often one that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon after a change of the assignment, and how often then, to look whether the group leaves
/// partitions to nobody. All brokers are asked.
const LOOK_SOON: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Runs until nobody listens. `known` is the number of partitions of which this process reads all;
/// `None` if a group shares them out, and tells of new ones itself.
pub(super) fn run(source: &Source, known: Option<usize>, out: &Sender<Event>) {
    let mut next = Instant::now() + EVERY;
    let mut next_look = Instant::now() + LOOK_SOON;
    let mut told_added = false;
    let mut all = Vec::new();
    while !out.is_closed() {
        if let Err(error) = source.serve(SERVE)
            && out.blocking_send(event_of(error)).is_err()
        {
            return;
        }
        for change in source.take_changes() {
            next_look = Instant::now() + LOOK_SOON;
            if out.blocking_send(Event::Membership(change)).is_err() {
                return;
            }
        }
        if known.is_none() && !all.is_empty() && Instant::now() >= next_look {
            let left_out = source.left_out(&all, PATIENCE);
            next_look = Instant::now()
                + match &left_out {
                    None => LOOK_SOON,
                    Some(left_out) if left_out.partitions.is_empty() => LOOK_EVERY,
                    Some(_) => AGAIN,
                };
            if out.blocking_send(Event::LeftOut(left_out)).is_err() {
                return;
            }
        }
        if Instant::now() < next && !source.take_brokers_down() {
            continue;
        }
        let event = match source.partitions(PATIENCE) {
            Ok(partitions)
                if known.is_some_and(|known| partitions.len() > known) && !told_added =>
            {
                told_added = true;
                Event::PartitionsAdded(partitions.len())
            }
            Ok(partitions) => {
                all = partitions;
                Event::Reachable
            }
            Err(error) => event_of(error),
        };
        let healthy = matches!(event, Event::Reachable | Event::PartitionsAdded(_));
        next = Instant::now() + if healthy { EVERY } else { AGAIN };
        if out.blocking_send(event).is_err() {
            return;
        }
    }
}

/// Asks where the logs end of what is read, until nobody listens. On a thread of its own: leaders that do
/// not answer take their time, and the group's events do not wait for it.
pub(super) fn ask_ends(source: &Source, out: &Sender<Event>) {
    let mut next = Instant::now();
    while !out.is_closed() {
        std::thread::sleep(SERVE);
        let partitions = source.read_partitions();
        if Instant::now() < next || partitions.is_empty() {
            continue;
        }
        next = Instant::now() + EVERY;
        // That the cluster does not answer is told by the other thread.
        let ends = source.log_ends(&partitions).unwrap_or_else(|error| {
            tracing::debug!(%error, "the ends of the logs are not told");
            Ends::new()
        });
        if out.blocking_send(Event::Ends(ends)).is_err() {
            return;
        }
    }
}

fn event_of(error: SourceError) -> Event {
    match error.is_transient() {
        true => Event::Unreachable(chain(&error)),
        false => Event::Failed(error),
    }
}
