//! The rows of a table by where they came from.

use std::collections::{BTreeMap, BTreeSet};

use super::offsets::OffsetSet;
use crate::protocol::{Offset, TopicPartition};

/// Repeated offsets that are remembered to be named, of each partition.
pub(super) const NAMED: usize = 5;

/// All rows of a table by topic, partition and offset, whoever wrote them.
#[derive(Clone, Debug, Default)]
pub struct RowIndex {
    partitions: Vec<(TopicPartition, PartitionRows)>,
    by_topic: BTreeMap<String, BTreeMap<i32, usize>>,
    /// The partition of the last row: the next one is nearly always of the same.
    last: usize,
    /// Rows in which topic, partition or offset is null.
    pub without_position: u64,
}

/// The rows of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionRows {
    pub offsets: OffsetSet,
    /// Rows beyond the first of their offset.
    pub repeated: u64,
    /// The lowest repeated offsets, at most [`NAMED`].
    pub repeated_offsets: BTreeSet<Offset>,
}

impl RowIndex {
    /// Counts one row.
    pub fn insert(&mut self, topic: &str, partition: i32, offset: Offset) {
        let known = self.partitions.get(self.last);
        if !known.is_some_and(|(tp, _)| tp.partition == partition && tp.topic == topic) {
            self.last = self.position(topic, partition);
        }
        let Some((_, rows)) = self.partitions.get_mut(self.last) else { return };
        if !rows.offsets.insert(offset) {
            rows.repeated += 1;
            rows.repeated_offsets.insert(offset);
            if rows.repeated_offsets.len() > NAMED {
                rows.repeated_offsets.pop_last();
            }
        }
    }

    fn position(&mut self, topic: &str, partition: i32) -> usize {
        let found = self.by_topic.get(topic).and_then(|numbers| numbers.get(&partition));
        found.copied().unwrap_or_else(|| {
            let next = self.partitions.len();
            let tp = TopicPartition::new(topic, partition);
            self.by_topic.entry(topic.to_owned()).or_default().insert(partition, next);
            self.partitions.push((tp, PartitionRows::default()));
            next
        })
    }

    /// The rows of `tp`, if there are any.
    pub(super) fn get(&self, tp: &TopicPartition) -> Option<&PartitionRows> {
        let at = *self.by_topic.get(&tp.topic)?.get(&tp.partition)?;
        self.partitions.get(at).map(|(_, rows)| rows)
    }

    /// The partitions that have rows, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &PartitionRows)> {
        let positions = self.by_topic.values().flat_map(|numbers| numbers.values());
        positions.filter_map(|at| self.partitions.get(*at)).map(|(tp, rows)| (tp, rows))
    }

    /// All rows.
    pub fn total(&self) -> u64 {
        let positioned: u64 =
            self.partitions.iter().map(|(_, rows)| rows.offsets.len() + rows.repeated).sum();
        positioned + self.without_position
    }
}

/// What is known of a table's rows.
#[derive(Clone, Debug)]
pub enum Rows {
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
