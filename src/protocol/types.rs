//! The words of the protocol as types.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The next offset to read in a partition (Kafka's own convention). Never negative.
pub(crate) type Offset = i64;

/// A Kafka topic-partition. Iceberg's partitions are always called table partitions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: String,
    /// Partition number within the topic.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Half-open `[start, end)`. Offsets are not dense, so `end - start` is not a row count.
/// `start == end` is allowed: a first commit may record only where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset of the range.
    pub start: Offset,
    /// One past the last offset of the range: the next offset to read.
    pub end: Offset,
}

/// Offset ranges by partition.
pub type Ranges = BTreeMap<TopicPartition, OffsetRange>;

/// The next offset to read, by partition. A partition that is absent was never begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Frontier(#[serde(with = "pairs")] pub BTreeMap<TopicPartition, Offset>);

impl Frontier {
    /// The next offset to read in `tp`, if it was ever begun.
    pub fn get(&self, tp: &TopicPartition) -> Option<Offset> {
        self.0.get(tp).copied()
    }

    /// Sets the next offset to read in `tp`.
    pub fn set(&mut self, tp: TopicPartition, next: Offset) {
        self.0.insert(tp, next);
    }

    /// Number of partitions begun.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if no partition was begun.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The partitions and their next offsets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, Offset)> {
        self.0.iter().map(|(tp, next)| (tp, *next))
    }
}

/// Partitions of which a log line tells at most.
const SHOWN: usize = 50;

/// In one line of a log: `topic[0]=17 topic[1]=9`, the first fifty.
impl fmt::Display for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (tp, next)) in self.iter().take(SHOWN).enumerate() {
            let gap = if at == 0 { "" } else { " " };
            write!(f, "{gap}{tp}={next}")?;
        }
        match self.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl FromIterator<(TopicPartition, Offset)> for Frontier {
    fn from_iter<I: IntoIterator<Item = (TopicPartition, Offset)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// What an instance reads between two barriers, numbered per instance.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one pending commit for ever: a hash, in hexadecimal, of the pipeline, the instance, the
/// epoch, the table and the ranges. No clock, never re-made for a retry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitId(pub String);

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of a record that was consumed: one of these, once (I10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is a row in a data file.
    Row,
    /// It is bad, and was left out by the policy `skip`.
    Skipped,
    /// It is bad, and was sent to a dead letter queue.
    DeadLettered,
    /// It has no payload.
    Tombstone,
}

/// What became of the records of a commit. Every record is in exactly one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Rows in the data files.
    pub written: u64,
    /// Bad records left out by the policy `skip`.
    pub skipped: u64,
    /// Bad records sent to a dead letter queue.
    pub dead_lettered: u64,
    /// Records without a payload (tombstones).
    pub tombstones: u64,
}

impl RowCounts {
    /// Counts a record.
    #[inline]
    pub fn count(&mut self, fate: Fate) {
        *match fate {
            Fate::Row => &mut self.written,
            Fate::Skipped => &mut self.skipped,
            Fate::DeadLettered => &mut self.dead_lettered,
            Fate::Tombstone => &mut self.tombstones,
        } += 1;
    }

    /// Adds what became of other records.
    pub fn add(&mut self, other: &Self) {
        self.written += other.written;
        self.skipped += other.skipped;
        self.dead_lettered += other.dead_lettered;
        self.tombstones += other.tombstones;
    }

    /// All records that these are.
    pub fn records(&self) -> u64 {
        let all = [self.written, self.skipped, self.dead_lettered, self.tombstones];
        all.into_iter().fold(0, u64::saturating_add)
    }
}

/// A closed Parquet file, at its final path and visible to nobody until it is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingFile {
    /// Absolute location, as it will stand in the manifest.
    pub path: String,
    /// The Iceberg `DataFile` as JSON (`serialize_data_file_to_json`), with the values of its partition
    /// ([`super::with_partition_values`]).
    pub data_file: String,
    /// Schema that the file was written with.
    pub schema_id: i32,
    /// Partition spec that the file was written with.
    pub spec_id: i32,
    /// Rows in the file.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// One table's share of a checkpoint not yet known to be in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// Names this commit for ever.
    pub commit_id: CommitId,
    /// The pipeline whose ledger this commit moves.
    pub pipeline: String,
    /// The running process that sealed it.
    pub instance: String,
    /// The epoch it was sealed in.
    pub epoch: Epoch,
    /// Table as `namespace.table`.
    pub table: String,
    /// UUID of the table it was written for.
    pub table_uuid: String,
    /// Id of the Kafka cluster that the records came from; empty if the cluster has none.
    pub cluster_id: String,
    /// Id of each topic, where the cluster tells it.
    pub topic_ids: BTreeMap<String, String>,
    /// Generation of the ledger it continues.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// The ledger values it continues. A partition absent here must be absent from the ledger.
    pub from: Frontier,
    /// What it holds, for every partition that moved. Where `from` has the partition,
    /// `start` equals it (I3).
    #[serde(with = "pairs")]
    pub ranges: Ranges,
    /// Files, possibly none.
    pub files: Vec<PendingFile>,
    /// What became of the records in `ranges`.
    pub rows: RowCounts,
}

impl PendingCommit {
    /// The frontier of its partitions once it is in the table.
    pub fn to(&self) -> Frontier {
        self.ranges.iter().map(|(tp, range)| (tp.clone(), range.end)).collect()
    }
}

/// The synced record of an epoch: everything needed to finish it without reading Kafka again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The epoch it ends.
    pub epoch: Epoch,
    /// By table: what its ledger is known to be once its commit is in it.
    pub frontiers: BTreeMap<String, Frontier>,
    /// One for each table that moved and is not finalized yet.
    pub pending: Vec<PendingCommit>,
}

/// The frontier that a table records about itself for one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Id of the Kafka cluster; empty if the cluster has none.
    pub cluster_id: String,
    /// The commit that wrote this ledger.
    pub commit_id: CommitId,
    /// Counts the edits by a person, who may take it back or have it skip. Within one generation it
    /// only grows (I6); a pending commit of an older one never enters the table.
    pub generation: u64,
    /// Id of each topic that it knows; empty where the cluster does not tell ids.
    pub topic_ids: BTreeMap<String, String>,
    /// Next offsets to read.
    pub frontier: Frontier,
}

impl Ledger {
    /// Was the topic ever begun?
    pub fn knows(&self, topic: &str) -> bool {
        self.topic_ids.contains_key(topic)
            || self.frontier.iter().any(|(known, _)| known.topic == topic)
    }
}

/// What a person did to a ledger, as the journal records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Edit {
    /// The table had been rolled back: the ledger became what the journal of the head's ancestry
    /// says. Its only ranges are empty ones, of partitions of which the table holds no commit.
    Rewind {
        /// The head it was rebuilt for; -1, Iceberg's own way to say it, for a table without one.
        to_snapshot: i64,
    },
    /// A topic or its cluster was made again, or its log cut: the partitions in `from` left the
    /// ledger and begin anew. Its only ranges are empty ones, where a person said where to begin.
    Reset {
        /// The topic.
        topic: String,
        /// Its id until then; empty if it was not known.
        old_id: String,
        /// Its id from then on; empty if the cluster does not tell.
        new_id: String,
        /// Where the ledger was, by partition.
        from: BTreeMap<i32, Offset>,
    },
    /// Kafka had deleted records before they were read: the ranges are the lost ones.
    Skip,
}

impl Edit {
    /// The command that makes it; for logs and tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rewind { .. } => "rewind",
            Self::Reset { .. } => "reset",
            Self::Skip => "skip",
        }
    }
}

/// One of our snapshots as the table's metadata still shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalEntry {
    /// Snapshot that carries it.
    pub snapshot_id: i64,
    /// When the snapshot was made, milliseconds since the Unix epoch, by the writer's clock.
    pub timestamp_ms: i64,
    /// Is the snapshot the head or one of its ancestors?
    pub in_ancestry: bool,
    /// Data sequence number of the snapshot: orders the entries.
    pub sequence_number: i64,
    /// The commit that made it.
    pub commit_id: CommitId,
    /// The process that made it.
    pub instance: String,
    /// The epoch of that process.
    pub epoch: Epoch,
    /// What it brought in.
    pub ranges: Ranges,
    /// What became of the records in `ranges`.
    pub rows: RowCounts,
    /// What a person did, if this is the edit of a ledger and not the commit of an epoch.
    pub edit: Option<Edit>,
}

/// One of our snapshots, as far as admission needs it: what it brought in stays undecoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCommit {
    /// The snapshot.
    pub snapshot_id: i64,
    /// Is the snapshot the head or one of its ancestors?
    pub in_ancestry: bool,
    /// Data sequence number of the snapshot: orders the commits.
    pub sequence_number: i64,
    /// The commit that made it.
    pub commit_id: CommitId,
}

/// All that admission looks at: one consistent reading of a table's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableView {
    /// UUID of the table.
    pub table_uuid: String,
    /// Snapshot at the head of `main`; a commit is pinned to it.
    pub head: Option<i64>,
    /// The ledger property of this pipeline.
    pub ledger: Option<Ledger>,
    /// This pipeline's snapshots, oldest first (by sequence number).
    pub commits: Vec<ShownCommit>,
}

/// A [`TableView`] with the whole journal: what people's questions are answered from. It grows with
/// the snapshots times the partitions, so nothing that happens with every commit makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FullView {
    /// UUID of the table.
    pub table_uuid: String,
    /// Snapshot at the head of `main`.
    pub head: Option<i64>,
    /// The ledger property of this pipeline.
    pub ledger: Option<Ledger>,
    /// This pipeline's snapshots, oldest first (by sequence number).
    pub journal: Vec<JournalEntry>,
}

impl FullView {
    /// As admission sees it.
    pub(crate) fn brief(&self) -> TableView {
        let commit = |entry: &JournalEntry| ShownCommit {
            snapshot_id: entry.snapshot_id,
            in_ancestry: entry.in_ancestry,
            sequence_number: entry.sequence_number,
            commit_id: entry.commit_id.clone(),
        };
        TableView {
            table_uuid: self.table_uuid.clone(),
            head: self.head,
            ledger: self.ledger.clone(),
            commits: self.journal.iter().map(commit).collect(),
        }
    }
}

#[cfg(test)]
impl FullView {
    /// What a commit brought in.
    pub(super) fn ranges_of(&self, shown: &ShownCommit) -> Option<Ranges> {
        let mut entries = self.journal.iter();
        entries.find(|e| e.snapshot_id == shown.snapshot_id).map(|entry| entry.ranges.clone())
    }
}

/// A ledger that nobody edited keeps the form that it had before there were edits.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A map with structured keys, as a list of pairs: JSON has no such keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: DeserializeOwned + Ord,
        V: DeserializeOwned,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{frontier, ledger, pending, tp};
    use super::*;

    #[test]
    fn each_fate_has_a_count_of_its_own() {
        let fates = [Fate::Row, Fate::Skipped, Fate::DeadLettered, Fate::Tombstone];
        let mut rows = RowCounts::default();
        for (times, fate) in (1..).zip(fates) {
            (0..times).for_each(|_| rows.count(fate));
        }
        let expected = RowCounts { written: 1, skipped: 2, dead_lettered: 3, tombstones: 4 };
        assert_eq!((rows, rows.records()), (expected, 10));
    }

    #[test]
    fn counts_are_added_each_to_its_like() {
        let mut rows = RowCounts { written: 1, skipped: 2, dead_lettered: 3, tombstones: 4 };
        rows.add(&RowCounts { written: 10, skipped: 20, dead_lettered: 30, tombstones: 40 });
        let sum = RowCounts { written: 11, skipped: 22, dead_lettered: 33, tombstones: 44 };
        assert_eq!(rows, sum);
    }

    #[test]
    fn a_frontier_holds_the_last_offset_that_was_set_for_each_partition() {
        let mut frontier = Frontier::default();
        assert!(frontier.is_empty());
        assert_eq!(frontier.to_string(), "");
        frontier.set(tp(1), 9);
        frontier.set(tp(0), 16);
        frontier.set(tp(0), 17);
        assert_eq!((frontier.get(&tp(0)), frontier.get(&tp(2))), (Some(17), None));
        assert_eq!((frontier.len(), frontier.is_empty()), (2, false));
        assert_eq!(frontier.to_string(), "readings[0]=17 readings[1]=9");
    }

    #[test]
    fn a_log_line_tells_of_few_of_many_partitions_and_how_many_more_there_are() {
        let all: Frontier = (0..10_000).map(|partition| (tp(partition), 1)).collect();
        let line = all.to_string();
        assert!(line.starts_with("readings[0]=1 ") && line.len() < 1000, "{line}");
        assert!(line.ends_with(" and 9950 more"), "{line}");
    }

    #[test]
    fn a_commit_leads_its_partitions_to_the_ends_of_its_ranges_and_no_others() {
        let commit = pending("x", &[(0, 3), (2, 1)], &[(0, 3, 9), (1, 5, 5)]);
        assert_eq!(commit.to(), frontier(&[(0, 9), (1, 5)]));
    }

    #[test]
    fn a_ledger_knows_a_topic_by_its_id_or_by_a_partition() {
        let known = |ledger: &Ledger| ["readings", "other"].map(|topic| ledger.knows(topic));
        let mut both = ledger("a", &[(0, 1)]);
        assert_eq!(known(&both), [true, false]);
        both.topic_ids.clear();
        assert_eq!(known(&both), [true, false], "by its partition");
        assert_eq!(known(&ledger("a", &[])), [true, false], "by its id");
        both.frontier = Frontier::default();
        assert_eq!(known(&both), [false, false]);
    }

    #[test]
    fn numbers_and_names_are_shown_as_they_are() {
        assert_eq!((Epoch(7).next(), Epoch(7).to_string()), (Epoch(8), "7".to_owned()));
        assert_eq!(CommitId("c1".into()).to_string(), "c1");
        let reset = Edit::Reset {
            topic: "t".into(),
            old_id: String::new(),
            new_id: String::new(),
            from: BTreeMap::new(),
        };
        let edits = [Edit::Rewind { to_snapshot: 1 }, reset, Edit::Skip];
        assert_eq!(edits.map(|edit| edit.name()), ["rewind", "reset", "skip"]);
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        for generation in [0, 3] {
            let mut commit = pending("x", &[(0, 3)], &[(0, 3, 9), (1, 5, 5)]);
            commit.generation = generation;
            let checkpoint = Checkpoint {
                epoch: Epoch(4),
                frontiers: BTreeMap::from([("lake.readings".into(), frontier(&[(0, 9), (1, 5)]))]),
                pending: vec![commit],
            };
            let text = serde_json::to_string(&checkpoint).unwrap();
            assert_eq!(text.contains("generation"), generation != 0, "{text}");
            assert_eq!(serde_json::from_str::<Checkpoint>(&text).unwrap(), checkpoint);
        }
    }
}
