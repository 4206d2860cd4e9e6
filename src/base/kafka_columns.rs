//! The columns that say where in Kafka a row came from. icestream fills them where a table has
//! them; with them `verify` can tell each row from every other.

/// Column with the topic of a row.
pub(crate) const KAFKA_TOPIC: &str = "_kafka_topic";
/// Column with the Kafka partition of a row.
pub(crate) const KAFKA_PARTITION: &str = "_kafka_partition";
/// Column with the offset of a row.
pub(crate) const KAFKA_OFFSET: &str = "_kafka_offset";
/// Column with the timestamp that Kafka has for a row.
pub(crate) const KAFKA_TIMESTAMP: &str = "_kafka_timestamp";

/// What one of them holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KafkaColumn {
    /// The topic of the record.
    Topic,
    /// Its partition.
    Partition,
    /// Its offset.
    Offset,
    /// The timestamp that Kafka has for it.
    Timestamp,
}

impl KafkaColumn {
    /// All of them, in the order in which they are added to a table.
    pub(crate) const ALL: [Self; 4] = [Self::Topic, Self::Partition, Self::Offset, Self::Timestamp];

    /// Its name in a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Topic => KAFKA_TOPIC,
            Self::Partition => KAFKA_PARTITION,
            Self::Offset => KAFKA_OFFSET,
            Self::Timestamp => KAFKA_TIMESTAMP,
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}
