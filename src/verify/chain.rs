//! The ranges of one partition, one commit after the other.

use crate::protocol::{Offset, OffsetRange};

/// The commits of one partition in one era of its topic, oldest first.
#[derive(Default)]
pub(super) struct Chain {
    /// Each range and the snapshot that brought it in.
    pub(super) links: Vec<(OffsetRange, i64)>,
    /// Ranges whose records were lost, and given up by a person.
    pub(super) lost: Vec<OffsetRange>,
    /// The highest end so far.
    pub(super) reached: Offset,
}

impl Chain {
    /// The lowest offset.
    pub(super) fn from(&self) -> Offset {
        self.links.iter().map(|(range, _)| range.start).min().unwrap_or_default()
    }

    /// Where the last commit ended.
    pub(super) fn end(&self) -> Offset {
        self.links.last().map(|(range, _)| range.end).unwrap_or_default()
    }

    pub(super) fn last(&self) -> Option<i64> {
        self.links.last().map(|(_, snapshot)| *snapshot)
    }

    pub(super) fn push(&mut self, range: OffsetRange, snapshot: i64) {
        self.reached = self.reached.max(range.end);
        self.links.push((range, snapshot));
    }
}
