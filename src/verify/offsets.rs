//! A set of offsets: about one bit for each, much less where they are dense.

use std::ops::Range;

use roaring::RoaringTreemap;

use crate::protocol::{Offset, OffsetRange};

/// Offsets that are looked at together where some are absent: those of one of the set's containers.
const CONTAINER: Offset = 1 << 16;
/// So many new offsets, and runs of them are put together.
const COMPACTED_EVERY: u32 = 1 << 22;

/// A set of offsets of one partition.
///
/// Memory: a few bytes for each run of offsets that are all there, 8 KiB for 65,536 with holes, 2
/// bytes an offset where they are sparse; one bit each until runs are put together. The distance
/// between offsets costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct OffsetSet {
    keys: RoaringTreemap,
    since_compacted: u32,
}

impl OffsetSet {
    /// Adds `offset`; false if it was there.
    pub(crate) fn insert(&mut self, offset: Offset) -> bool {
        let added = self.keys.insert(key(offset));
        self.since_compacted += u32::from(added);
        if self.since_compacted == COMPACTED_EVERY {
            self.keys.optimize();
            self.since_compacted = 0;
        }
        added
    }

    /// Number of offsets.
    pub(crate) fn len(&self) -> u64 {
        self.keys.len()
    }

    /// Number of offsets in `range`.
    pub(crate) fn count(&self, range: OffsetRange) -> u64 {
        self.keys.range_cardinality(keys(range.start, range.end))
    }

    /// The first `limit` offsets in `range`.
    pub(crate) fn present(&self, range: OffsetRange, limit: usize) -> Vec<Offset> {
        let mut present = self.keys.iter();
        present.advance_to(key(range.start));
        present.map(offset).take_while(|offset| *offset < range.end).take(limit).collect()
    }

    /// The first `limit` offsets of `range` that are not in the set.
    pub(crate) fn absent(&self, range: OffsetRange, limit: usize) -> Vec<Offset> {
        let mut absent = Vec::new();
        let mut next = range.start;
        while next < range.end && absent.len() < limit {
            let end = next.saturating_add(CONTAINER).min(range.end);
            if !self.keys.contains_range(keys(next, end)) {
                let missing = (next..end).filter(|offset| !self.keys.contains(key(*offset)));
                absent.extend(missing.take(limit - absent.len()));
            }
            next = end;
        }
        absent
    }
}

/// In the order of offsets, also of those below zero that a foreign writer may have left.
fn key(offset: Offset) -> u64 {
    offset.cast_unsigned() ^ (1 << 63)
}

fn offset(key: u64) -> Offset {
    (key ^ (1 << 63)).cast_signed()
}

fn keys(start: Offset, end: Offset) -> Range<u64> {
    key(start)..key(end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: Offset, end: Offset) -> OffsetRange {
        OffsetRange { start, end }
    }

    #[test]
    fn offsets_without_holes_cost_no_bits_once_runs_are_put_together() {
        let mut set = OffsetSet::default();
        let many = Offset::from(COMPACTED_EVERY);
        for offset in 0..many {
            assert!(set.insert(offset));
        }
        assert!(!set.insert(70_000));
        assert!(set.keys.serialized_size() < 2_000, "{}", set.keys.serialized_size());
        assert!(set.insert(many) && !set.insert(many));
        assert_eq!(set.len(), u64::from(COMPACTED_EVERY) + 1);
        assert_eq!(set.count(range(65_530, 131_080)), 65_550);
        assert_eq!(set.absent(range(0, many + 4), 9), [many + 1, many + 2, many + 3]);
    }

    #[test]
    fn offsets_far_apart_cost_little_each() {
        let mut set = OffsetSet::default();
        for offset in [-1, 0, 1 << 40, Offset::MAX] {
            assert!(set.insert(offset));
        }
        assert!(set.keys.serialized_size() < 200, "{}", set.keys.serialized_size());
        assert_eq!(set.count(range(0, Offset::MAX)), 2);
        assert_eq!(set.present(range(1, Offset::MAX), 9), [1 << 40]);
        assert_eq!(set.present(range(-5, 1), 9), [-1, 0]);
        assert_eq!(set.absent(range(-3, 2), 9), [-3, -2, 1]);
        assert_eq!(set.absent(range(Offset::MAX - 2, Offset::MAX), 1), [Offset::MAX - 2]);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_set(
            runs in prop::collection::vec((0_i64..200_000, 1_i64..30_000, 1_i64..4), 1..8),
            asked in (0_i64..240_000, 0_i64..240_000),
            compacted in any::<u8>(),
        ) {
            let (mut set, mut plain) = (OffsetSet::default(), BTreeSet::new());
            for (number, (start, len, step)) in runs.into_iter().enumerate() {
                if compacted >> number & 1 == 1 {
                    set.keys.optimize();
                }
                let step = usize::try_from(step).expect("small");
                for offset in (start..start + len).step_by(step) {
                    prop_assert_eq!(set.insert(offset), plain.insert(offset));
                }
            }
            let asked = range(asked.0, asked.1);
            let present: Vec<_> =
                plain.iter().copied().filter(|o| (asked.start..asked.end).contains(o)).collect();
            prop_assert_eq!(set.len(), plain.len() as u64);
            prop_assert_eq!(set.count(asked), present.len() as u64);
            prop_assert_eq!(set.present(asked, 50), present.into_iter().take(50).collect::<Vec<_>>());
            let absent: Vec<_> =
                (asked.start..asked.end).filter(|o| !plain.contains(o)).take(50).collect();
            prop_assert_eq!(set.absent(asked, 50), absent);
        }
    }
}
