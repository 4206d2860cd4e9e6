//! The client's own account: what it logs, and the group's changes of the assignment.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use crate::protocol::TopicPartition;

/// A change of the assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// These partitions are ours, too: to be taken ([`super::Source::assign`]).
    Assigned(Vec<TopicPartition>),
    /// These are to go: to be let go ([`super::Source::revoke`]) within the time that the
    /// group waits.
    Revoked(Vec<TopicPartition>),
    /// The group gave all of ours to others already.
    Lost,
}

/// Receives what librdkafka says on its own account.
///
/// A change of the assignment is not answered in the callback, as the crate would do: it waits
/// here for its owner, who reads ledgers and commits before it answers. Meanwhile the client goes
/// on with heartbeats.
#[derive(Default)]
pub(crate) struct SourceContext {
    brokers_down: AtomicBool,
    /// We may not use the group.
    denied: AtomicBool,
    /// Set when the client is closed: then there is nobody left to answer.
    closing: AtomicBool,
    changes: Mutex<VecDeque<Membership>>,
}

impl SourceContext {
    /// Did the client lose every broker since the last call?
    pub(super) fn take_brokers_down(&self) -> bool {
        self.brokers_down.swap(false, Ordering::Relaxed)
    }

    /// Did the cluster say that we may not use the group?
    pub(super) fn is_denied(&self) -> bool {
        self.denied.load(Ordering::Relaxed)
    }

    /// From now on the callback answers by itself.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn push(&self, change: Membership) {
        self.changes.lock().push_back(change);
    }

    pub(super) fn take_changes(&self) -> Vec<Membership> {
        self.changes.lock().drain(..).collect()
    }
}

impl ClientContext for SourceContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", fac, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", fac, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", fac, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.brokers_down.store(true, Ordering::Relaxed);
            }
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                // Who needs the group says so.
                self.denied.store(true, Ordering::Relaxed);
                tracing::debug!(target: "librdkafka", %error, reason, "client error");
                return;
            }
            _ => {}
        }
        tracing::warn!(target: "librdkafka", %error, reason, "client error");
    }
}

impl ConsumerContext for SourceContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            answer(consumer, assigned, partitions);
            return;
        }
        let listed: Vec<TopicPartition> = partitions
            .elements()
            .iter()
            .map(|element| TopicPartition::new(element.topic(), element.partition()))
            .collect();
        tracing::debug!(assigned, lost = consumer.assignment_lost(), ?listed, "rebalance");
        self.push(match assigned {
            true => Membership::Assigned(listed),
            false if consumer.assignment_lost() => Membership::Lost,
            false => Membership::Revoked(listed),
        });
    }
}

/// Tells the client that a change is done.
pub(super) fn answer(
    consumer: &BaseConsumer<SourceContext>,
    assigned: bool,
    partitions: &TopicPartitionList,
) {
    let answered = match assigned {
        true => consumer.incremental_assign(partitions),
        false => consumer.incremental_unassign(partitions),
    };
    if let Err(error) = answered {
        tracing::warn!(%error, assigned, "the client did not take the answer to a rebalance");
    }
}
