//! The partitions of a shard, by topic and number: found for every record, so without a search.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::protocol::{Offset, OffsetRange, StartAt, TopicPartition};
use crate::source::{PartitionId, Record};
use crate::telemetry::PartitionMetrics;

/// A partition that a shard reads.
pub(super) struct Partition {
    pub(super) id: PartitionId,
    pub(super) tp: TopicPartition,
    /// How far each table of the flow is, in their order.
    pub(super) places: Vec<Place>,
    /// The next offset to read.
    pub(super) next: Offset,
    /// One past what was handed over of it. At a barrier that is `next` (I7).
    pub(super) consumed: Offset,
    pub(super) last_timestamp: Option<i64>,
    /// Stopped before a bad record, or before what cannot be read.
    pub(super) stopped: bool,
    /// Records and bytes read since they were last counted.
    pub(super) uncounted: (u64, u64),
    /// `next`, for others to see.
    pub(super) position: Arc<AtomicI64>,
    pub(super) metrics: PartitionMetrics,
}

impl Partition {
    /// Stops before the record at `offset`, which is bad for the table at `at`: the tables before that
    /// have it.
    pub(super) fn stop(&mut self, offset: Offset, at: usize) {
        self.stopped = true;
        self.consumed = self.next;
        for before in self.places.iter_mut().take(at).filter(|place| place.wants(offset)) {
            before.ahead = Some(offset + 1);
        }
    }
}

/// How far a table is in a partition.
pub(super) struct Place {
    /// What its next range continues.
    ledger: Option<Offset>,
    /// Where its next range begins. Records below are in the table already.
    start: Offset,
    /// One past the record at which the partition stopped, if this table took it and another could
    /// not. That is beyond the partition's position, by more than one where offsets have holes.
    ahead: Option<Offset>,
}

impl Place {
    pub(super) fn new(at: StartAt) -> Self {
        Self { ledger: at.ledger, start: at.start, ahead: None }
    }

    /// Does the table lack the record at `offset`?
    pub(super) fn wants(&self, offset: Offset) -> bool {
        offset >= self.start
    }

    /// One past what the table took or dropped of a partition of which so much was consumed; `None`
    /// if nothing moved for it.
    pub(super) fn reached(&self, consumed: Offset) -> Option<Offset> {
        let end = self.ahead.unwrap_or(consumed);
        (end > self.start).then_some(end)
    }

    /// Ends the epoch at `next`, the partition's position: the ledger value that the range continues,
    /// and the range; `None` if nothing moved for this table.
    pub(super) fn seal(&mut self, next: Offset) -> Option<(Option<Offset>, OffsetRange)> {
        let end = self.ahead.take().unwrap_or(next);
        if end <= self.start {
            return None;
        }
        let range = OffsetRange { start: self.start, end };
        self.start = end;
        Some((self.ledger.replace(end), range))
    }
}

/// The partitions of a shard.
#[derive(Default)]
pub(super) struct Partitions {
    /// By the index of the topic and by number.
    topics: Vec<Vec<Option<Partition>>>,
    /// Those that moved since it was last shown, some more than once.
    moved: Vec<PartitionId>,
}

impl Partitions {
    pub(super) fn insert(&mut self, partition: Partition) {
        let topic = partition.id.topic.at();
        let Some(at) = index(partition.id) else { return };
        if self.topics.len() <= topic {
            self.topics.resize_with(topic + 1, Vec::new);
        }
        let Some(slots) = self.topics.get_mut(topic) else { return };
        if slots.len() <= at {
            slots.resize_with(at + 1, || None);
        }
        if let Some(slot) = slots.get_mut(at) {
            *slot = Some(partition);
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: PartitionId) -> Option<&mut Partition> {
        self.topics.get_mut(id.topic.at())?.get_mut(index(id)?)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.topics.iter().flatten().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.topics.iter_mut().flatten().flatten()
    }

    /// Forgets those of which `keep` says no.
    pub(super) fn retain(&mut self, keep: impl Fn(&Partition) -> bool) {
        for slot in self.topics.iter_mut().flatten() {
            if slot.as_ref().is_some_and(|partition| !keep(partition)) {
                *slot = None;
            }
        }
    }

    /// I7: the record is dealt with, its partition moves on.
    #[inline]
    pub(super) fn advance(&mut self, record: &Record<'_>) {
        let Some(p) = self.get_mut(record.id()) else { return };
        p.next = record.offset + 1;
        p.last_timestamp = record.timestamp_ms.or(p.last_timestamp);
        let first = p.uncounted.0 == 0;
        p.uncounted.0 += 1;
        p.uncounted.1 += record.value.map_or(0, |value| value.len() as u64);
        if first {
            self.moved.push(record.id());
        }
    }

    /// Moves a partition past what no reader may see. False if it is there already, or stopped.
    pub(super) fn pass(&mut self, id: PartitionId, position: Offset) -> bool {
        match self.get_mut(id) {
            Some(p) if !p.stopped && position > p.next => {
                p.next = position;
                p.consumed = position;
                self.moved.push(id);
                true
            }
            _ => false,
        }
    }

    /// Shows others how far those got that moved, and counts what they read.
    pub(super) fn show(&mut self) {
        let mut moved = std::mem::take(&mut self.moved);
        for id in moved.drain(..) {
            let Some(p) = self.get_mut(id) else { continue };
            if p.uncounted.0 > 0 {
                let (records, bytes) = std::mem::take(&mut p.uncounted);
                p.metrics.add_consumed(records, bytes);
            }
            p.position.store(p.next, Ordering::Release);
        }
        self.moved = moved;
    }
}

fn index(id: PartitionId) -> Option<usize> {
    usize::try_from(id.partition).ok()
}
