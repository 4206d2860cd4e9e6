//! The properties of librdkafka that are icestream's own.

/// Properties of librdkafka that the user may not set in `[kafka.properties]`, and why.
pub(crate) const OWNED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "use KAFKA_BROKERS"),
    ("metadata.broker.list", "use KAFKA_BROKERS"),
    ("group.id", "use KAFKA_GROUP_ID"),
    ("group.instance.id", "use KAFKA_GROUP_INSTANCE_ID"),
    ("session.timeout.ms", "use KAFKA_SESSION_TIMEOUT_MS"),
    ("auto.offset.reset", "use KAFKA_AUTO_OFFSET_RESET"),
    ("security.protocol", "use KAFKA_SECURITY_PROTOCOL"),
    ("sasl.mechanism", "use KAFKA_SASL_MECHANISM"),
    ("sasl.mechanisms", "use KAFKA_SASL_MECHANISM"),
    ("sasl.username", "use KAFKA_SASL_USERNAME"),
    ("sasl.password", "use KAFKA_SASL_PASSWORD"),
    ("ssl.ca.location", "use KAFKA_SSL_CA_LOCATION"),
    ("ssl.certificate.location", "use KAFKA_SSL_CERTIFICATE_LOCATION"),
    ("ssl.key.location", "use KAFKA_SSL_KEY_LOCATION"),
    ("ssl.key.password", "use KAFKA_SSL_KEY_PASSWORD"),
    ("enable.auto.commit", "offsets are committed after the table's ledger, never by a timer"),
    ("auto.commit.enable", "offsets are committed after the table's ledger, never by a timer"),
    ("auto.commit.interval.ms", "offsets are committed after the table's ledger, never by a timer"),
    (
        "enable.auto.offset.store",
        "offsets are committed after the table's ledger, never by a timer",
    ),
    ("offset.store.method", "the table's ledger says where to read on"),
    ("offset.store.path", "the table's ledger says where to read on"),
    ("offset.store.sync.interval.ms", "the table's ledger says where to read on"),
    (
        "isolation.level",
        "always `read_committed`: records of aborted transactions never enter the table",
    ),
    ("enable.partition.eof", "these events would make the client skip a record after a rebalance"),
    ("partition.assignment.strategy", "icestream decides how partitions move between instances"),
    ("group.protocol", "icestream decides how partitions move between instances"),
    ("group.remote.assignor", "icestream decides how partitions move between instances"),
    ("allow.auto.create.topics", "a topic that is absent is an error and is not created"),
];

/// Why `property` may not be set by the user, if so.
pub(super) fn owned(property: &str) -> Option<&'static str> {
    OWNED_PROPERTIES.iter().find(|(name, _)| *name == property).map(|(_, reason)| *reason)
}

/// Properties that have nothing to do with how records are fetched: with others librdkafka fetches.
const BESIDE_FETCHING: &[&str] = &[
    "coordinator.query.interval.ms",
    "debug",
    "heartbeat.interval.ms",
    "log_level",
    "max.poll.interval.ms",
    "statistics.interval.ms",
    "topic.metadata.refresh.interval.ms",
];

/// Has a property of the user nothing to do with how records are fetched?
pub(super) fn beside_fetching(property: &str) -> bool {
    BESIDE_FETCHING.contains(&property)
}
