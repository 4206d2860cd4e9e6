//! What goes wrong with Kafka.

use rdkafka::error::KafkaError;

use crate::base::masking::{MASK, is_secret_name};
use crate::protocol::{Offset, TopicPartition};

/// What went wrong with Kafka.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The client refused its settings.
    #[error(
        "the Kafka client refused its settings: {detail}; check KAFKA_* and [kafka.properties]"
    )]
    Settings {
        /// What librdkafka says, without values.
        detail: String,
    },
    /// What is to protect the connections of icestream's own fetcher cannot be used.
    #[error(
        "cannot fetch as the security settings say: {detail}; check KAFKA_SSL_* and KAFKA_SASL_*, \
         or set KAFKA_FETCHER=librdkafka"
    )]
    Security {
        /// What is wrong with which file or setting.
        detail: String,
    },
    /// A broker does not let icestream's own fetcher in, or they do not understand each other.
    #[error("cannot fetch from the broker at {broker}: {detail}")]
    Broker {
        /// Its address.
        broker: String,
        /// What is wrong, and what to do about it.
        detail: String,
    },
    /// No broker answered.
    #[error("Kafka at {brokers} did not answer while trying to {what}: {source}")]
    Unreachable {
        /// The operation.
        what: &'static str,
        /// Bootstrap servers.
        brokers: String,
        /// What librdkafka says.
        source: KafkaError,
    },
    /// The topic does not exist.
    #[error("topic {topic} does not exist on Kafka at {brokers}; create it or correct KAFKA_TOPIC")]
    TopicAbsent {
        /// The topic.
        topic: String,
        /// Bootstrap servers.
        brokers: String,
    },
    /// The cluster does not let us in.
    #[error(
        "Kafka at {brokers} refused access to {what}: {detail}; check the KAFKA_SASL_* and KAFKA_SSL_* settings and the ACLs of topic and group"
    )]
    Unauthorised {
        /// The operation or resource.
        what: String,
        /// Bootstrap servers.
        brokers: String,
        /// What the broker says.
        detail: String,
    },
    /// The position is no longer, or not yet, in the log.
    #[error("{partition}: offset {offset} is not in the log: {detail}")]
    OutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// What librdkafka says.
        detail: String,
    },
    /// The log is not the one that was read: it was cut off, and may have grown again.
    #[error(
        "{partition}: records that were read are no longer in the log, which was cut off, by an \
         unclean leader election, say: {detail}. They stay in the table; what was written since the cut \
         has offsets that are counted as read. Say where to read on: `icestream ledger reset --topic {} \
         --log-was-cut --at {}=OFFSET`; see docs/operations.md, section log-was-cut",
        partition.topic, partition.partition
    )]
    CutOff {
        /// The partition.
        partition: TopicPartition,
        /// Where it was cut off, and where it was read.
        detail: String,
    },
    /// A batch of records cannot be read.
    #[error(
        "{partition}: the batch at offset {offset} cannot be read: {detail}. It is tried again, since another \
         replica may have it whole. If none has, give its records up: `icestream ledger skip --at {}`; see \
         docs/operations.md, section unreadable-batch", skip_to(partition.partition, *next)
    )]
    Unreadable {
        /// The partition.
        partition: TopicPartition,
        /// The next offset to read.
        offset: Offset,
        /// Where the batch ends by its own header, which may be damaged as well.
        next: Option<Offset>,
        /// What is wrong with it.
        detail: String,
    },
    /// A partition reports an error.
    #[error("{partition}: reading failed: {detail}")]
    Partition {
        /// The partition.
        partition: TopicPartition,
        /// What librdkafka says.
        detail: String,
    },
    /// The group is another pipeline's.
    #[error(
        "group {group} has members that carry into table {table}: each pipeline would get a part of the partitions, \
         and lack the rest; give each a KAFKA_GROUP_ID of its own. A process that was stopped is a member \
         until KAFKA_SESSION_TIMEOUT_MS is over"
    )]
    OtherPipeline {
        /// The group.
        group: String,
        /// A table of the other one.
        table: String,
    },
    /// The group gives us nothing and does not tell of us.
    #[error(
        "Kafka at {brokers}: group {group} has not answered, so nothing is read. Look whether the topic \
         __consumer_offsets exists and each of its partitions has a leader (it cannot be made with more copies, \
         offsets.topic.replication.factor, than there are brokers), or set KAFKA_ASSIGNMENT=all to read \
         without the group"
    )]
    GroupSilent {
        /// The group.
        group: String,
        /// Bootstrap servers.
        brokers: String,
    },
    /// Another process took our place in the group.
    #[error(
        "another process is the member {member} of group {group} now; give each process its own \
         KAFKA_GROUP_INSTANCE_ID and CHECKPOINT_DIR, or start this one again if it was replaced by mistake"
    )]
    MemberReplaced {
        /// The group.
        group: String,
        /// `group.instance.id` of both.
        member: String,
    },
    /// An operation of the client failed.
    #[error("Kafka at {brokers}: cannot {what}: {detail}")]
    Operation {
        /// The operation.
        what: &'static str,
        /// Bootstrap servers.
        brokers: String,
        /// What librdkafka says.
        detail: String,
    },
}

impl SourceError {
    /// The client refused its settings. The crate repeats the value, which may be a password under
    /// a name that was misspelt; librdkafka says as much without it.
    pub(crate) fn settings(error: &KafkaError) -> Self {
        let detail = match error {
            KafkaError::ClientConfig(_, said, name, value) => {
                let hide = is_secret_name(name) && !value.is_empty();
                let said = if hide { said.replace(value, MASK) } else { said.clone() };
                format!("{name}: {said}")
            }
            other => other.to_string(),
        };
        Self::Settings { detail }
    }

    /// This error of a partition of which `at` was the next offset to read. A client that goes astray
    /// behind what it cannot read tells of offsets that nobody asked for.
    pub(crate) fn standing_at(self, at: Offset) -> Self {
        match self {
            Self::OutOfRange { partition, offset, detail } if offset != at => {
                let detail = format!("the client went on at offset {offset} instead: {detail}");
                Self::Unreadable { partition, offset: at, next: None, detail }
            }
            Self::Unreadable { partition, next, detail, .. } => {
                Self::Unreadable { partition, offset: at, next, detail }
            }
            other => other,
        }
    }

    /// May the same call succeed later without anybody's doing?
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Partition { .. }
            | Self::Operation { .. }
            | Self::GroupSilent { .. }
            | Self::OtherPipeline { .. } => true,
            Self::Settings { .. }
            | Self::Security { .. }
            | Self::Broker { .. }
            | Self::TopicAbsent { .. }
            | Self::Unauthorised { .. }
            | Self::MemberReplaced { .. }
            | Self::Unreadable { .. }
            | Self::OutOfRange { .. }
            | Self::CutOff { .. } => false,
        }
    }
}

/// How a person says where to read on.
fn skip_to(partition: i32, next: Option<Offset>) -> String {
    match next {
        Some(next) => {
            format!("{partition}={next}` where it ends, as it says, or `--at {partition}=OFFSET")
        }
        None => format!("{partition}=OFFSET"),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    #[test]
    fn an_offset_that_nobody_asked_for_is_a_sign_of_a_batch_that_cannot_be_read() {
        let of = |offset| {
            let partition = TopicPartition::new("t", 3);
            SourceError::OutOfRange { partition, offset, detail: String::from("gone") }
        };
        assert!(matches!(of(7).standing_at(7), SourceError::OutOfRange { offset: 7, .. }));
        let astray = of(i64::MAX).standing_at(7);
        assert!(matches!(astray, SourceError::Unreadable { offset: 7, .. }), "{astray}");
    }

    #[test]
    fn a_setting_that_the_client_refuses_is_named_without_its_value() {
        for (name, value) in [("sasl.pasword", "hunter2"), ("sasl.jaas.config", "password=hunter2")]
        {
            let made: Result<BaseConsumer, _> = ClientConfig::new().set(name, value).create();
            let error = SourceError::settings(&made.err().unwrap());
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains(name), "{shown}");
        }
        let mut wrong = ClientConfig::new();
        let made: Result<BaseConsumer, _> = wrong.set("security.protocol", "tls").create();
        let shown = SourceError::settings(&made.err().unwrap()).to_string();
        assert!(shown.contains("security.protocol") && shown.contains("tls"), "{shown}");
    }
}
