//! Why an edit of a ledger is not made.

use super::{CommitId, LogRange, Offset, Refusal, TopicPartition};

/// Why an edit is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    /// Something else must be dealt with first.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The table is not at the snapshot that the ledger is to be rewound to.
    #[error(
        "snapshot {to} is not in the ancestry of the head of table {table} ({}): the ledger follows \
         the table, it does not move it; roll the table back to that snapshot first, or leave \
         --to-snapshot out", show_head(*head)
    )]
    NotTheHead {
        /// Table.
        table: String,
        /// The snapshot asked for.
        to: i64,
        /// The head.
        head: Option<i64>,
    },
    /// The table holds commits of this pipeline that are newer than that snapshot.
    #[error(
        "snapshot {to} is older than commit {commit} (snapshot {snapshot}), which is in table \
         {table}: its records would be read again while they are in the table; roll the table back \
         to {to} first, or leave --to-snapshot out"
    )]
    CommitsSince {
        /// Table.
        table: String,
        /// The snapshot asked for.
        to: i64,
        /// A newer commit.
        commit: CommitId,
        /// Its snapshot.
        snapshot: i64,
    },
    /// The journal does not tell where some partitions are.
    #[error(
        "the journal of table {table} does not tell the position of {}: the snapshots that would \
         are gone; say it with --at PARTITION=OFFSET, the offset to read next; where the table \
         has the _kafka columns its rows tell it: SELECT _kafka_partition, max(_kafka_offset) + 1 \
         ... GROUP BY 1",
        list(partitions)
    )]
    Unknown {
        /// Table.
        table: String,
        /// The partitions.
        partitions: Vec<TopicPartition>,
    },
    /// A person's word contradicts what is known.
    #[error("--at {}={given}: {partition} is known to {}; leave that out", partition.partition, stand(*known))]
    Contradicted {
        /// Partition.
        partition: TopicPartition,
        /// What was given.
        given: Offset,
        /// What is known.
        known: Option<Offset>,
    },
    /// There is nothing in the ledger about the topic.
    #[error("the ledger of table {table} knows no topic {topic}: there is nothing to reset")]
    NoSuchTopic {
        /// Table.
        table: String,
        /// The topic.
        topic: String,
    },
    /// The topic is the one that the ledger is about, and its log holds every offset.
    #[error(
        "topic {topic} is the one that the ledger of table {table} is about, and its log reaches \
         every offset in it: a reset would bring every record into the table once more; where a log was \
         cut off and has grown since, say so with --log-was-cut and --at PARTITION=OFFSET"
    )]
    NothingToReset {
        /// Table.
        table: String,
        /// The topic.
        topic: String,
    },
    /// The log of the very topic was cut.
    #[error(
        "the log of {partition} ends at {log_end}, below the ledger ({ledger}), and the topic is \
         still the same: it was cut, by an unclean leader election, say; what was written since the \
         cut is at offsets below {ledger}; say where to read on with --at {}=OFFSET: {log_end} if \
         nothing was, else the offset of the cut", partition.partition
    )]
    LogWasCut {
        /// Partition.
        partition: TopicPartition,
        /// The offset in the ledger.
        ledger: Offset,
        /// One past the last offset of the log.
        log_end: Offset,
    },
    /// Nobody tells what the log holds.
    #[error("no leader of {partition} tells what its log holds: wait until it has one")]
    Untold {
        /// Partition.
        partition: TopicPartition,
    },
    /// An offset to begin at is not in the log.
    #[error("--at {}={given}: the log of {partition} is [{}, {}]", partition.partition, log.start, log.end)]
    NotInLog {
        /// Partition.
        partition: TopicPartition,
        /// What was given.
        given: Offset,
        /// What the log holds.
        log: LogRange,
    },
    /// A partition would not move on.
    #[error(
        "--at {}={given}: {partition} is at {at} already, and a skip only goes on; to read records again: \
         `icestream ledger rewind`", partition.partition
    )]
    NotAhead {
        /// Partition.
        partition: TopicPartition,
        /// What was given.
        given: Offset,
        /// The next offset to read.
        at: Offset,
    },
    /// Every offset in the ledger is still in the log.
    #[error(
        "the log still has every offset in the ledger of table {table}: there is nothing to skip; where a \
         batch in it cannot be read, say with --at PARTITION=OFFSET where to read on"
    )]
    NothingToSkip {
        /// Table.
        table: String,
    },
}

impl From<Refusal> for EditError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

fn show_head(head: Option<i64>) -> String {
    head.map_or_else(|| "it has none".to_owned(), |id| id.to_string())
}

fn stand(known: Option<Offset>) -> String {
    known.map_or_else(|| "begin anew".to_owned(), |offset| format!("stand at {offset}"))
}

fn list(partitions: &[TopicPartition]) -> String {
    let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    names.join(", ")
}
