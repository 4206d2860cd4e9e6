//! The rows of a table by where they came from.

use std::collections::{BTreeMap, BTreeSet};

use super::eras::{Era, Eras, Place, Since};
use super::offsets::OffsetSet;
use crate::protocol::{Offset, TopicPartition};

/// Repeated offsets that are remembered to be named, of each partition.
pub(super) const NAMED: usize = 5;

/// All rows of a table by topic, partition, era and offset, whoever wrote them.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowIndex {
    eras: Eras,
    since: Option<Since>,
    partitions: Vec<(Place, PartitionRows)>,
    by_topic: BTreeMap<String, BTreeMap<i32, ByEra>>,
    /// The place of the last row: the next one is nearly always of the same.
    last: Option<usize>,
    /// Rows in which topic, partition or offset is null.
    pub without_position: u64,
}

/// Positions in the list of places, by era.
type ByEra = BTreeMap<Era, usize>;

/// The rows of one partition in one era of its topic.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionRows {
    pub offsets: OffsetSet,
    /// Rows beyond the first of their offset.
    pub repeated: u64,
    /// The lowest repeated offsets, at most [`NAMED`].
    pub repeated_offsets: BTreeSet<Offset>,
}

impl PartitionRows {
    /// All rows.
    pub(crate) fn total(&self) -> u64 {
        self.offsets.len() + self.repeated
    }
}

impl RowIndex {
    /// No rows yet.
    pub(super) fn new(eras: Eras) -> Self {
        Self { eras, ..Self::default() }
    }

    /// What is inserted from here on was committed then.
    pub(super) fn begin(&mut self, since: Since) {
        self.since = Some(since);
        self.last = None;
    }

    /// Counts one row.
    pub(crate) fn insert(&mut self, topic: &str, partition: i32, offset: Offset) {
        let known = self.last.and_then(|at| self.partitions.get(at));
        let known =
            known.is_some_and(|(at, _)| at.tp.partition == partition && at.tp.topic == topic);
        if !known {
            self.last = Some(self.position(topic, partition));
        }
        let rows = self.last.and_then(|at| self.partitions.get_mut(at));
        let Some((_, rows)) = rows else { return };
        if !rows.offsets.insert(offset) {
            rows.repeated += 1;
            rows.repeated_offsets.insert(offset);
            if rows.repeated_offsets.len() > NAMED {
                rows.repeated_offsets.pop_last();
            }
        }
    }

    fn position(&mut self, topic: &str, partition: i32) -> usize {
        let tp = TopicPartition::new(topic, partition);
        let era = self.eras.of_rows(&tp, self.since.unwrap_or(Since::Passed(0)));
        let places = self.by_topic.entry(topic.to_owned()).or_default();
        let next = self.partitions.len();
        let at = *places.entry(partition).or_default().entry(era).or_insert(next);
        if at == next {
            self.partitions.push((Place::new(&tp, era), PartitionRows::default()));
        }
        at
    }

    /// The rows of a place, if there are any.
    pub(super) fn get(&self, place: &Place) -> Option<&PartitionRows> {
        let at = *self.by_topic.get(&place.tp.topic)?.get(&place.tp.partition)?.get(&place.era)?;
        self.partitions.get(at).map(|(_, rows)| rows)
    }

    /// The rows of a partition whose era cannot be told, if there are any.
    pub(super) fn unclear(&self, tp: &TopicPartition) -> Option<&PartitionRows> {
        let at = *self.by_topic.get(&tp.topic)?.get(&tp.partition)?.get(&Era::Unclear)?;
        self.partitions.get(at).map(|(_, rows)| rows)
    }

    /// Number of rows whose era cannot be told.
    pub(super) fn all_unclear(&self) -> u64 {
        let unclear = self.partitions.iter().filter(|(place, _)| place.era == Era::Unclear);
        unclear.map(|(_, rows)| rows.total()).sum()
    }

    /// The places that have rows, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Place, &PartitionRows)> {
        let positions = self.by_topic.values().flat_map(BTreeMap::values).flat_map(ByEra::values);
        positions.filter_map(|at| self.partitions.get(*at)).map(|(place, rows)| (place, rows))
    }

    /// All rows.
    pub(crate) fn total(&self) -> u64 {
        let positioned: u64 = self.partitions.iter().map(|(_, rows)| rows.total()).sum();
        positioned + self.without_position
    }
}

/// What is known of a table's rows.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    /// They were not read.
    NotRead,
    /// Each row's position is known.
    ByOffset(RowIndex),
    /// The table lacks columns that tell a row's position.
    CountOnly {
        /// Rows in the table.
        total: u64,
        /// The columns it lacks.
        lacking: Vec<String>,
    },
}
