//! A set of offsets: about one bit for each, much less where they are dense.

use std::collections::BTreeMap;

use crate::protocol::{Offset, OffsetRange};

/// Offsets in one chunk: 2^16.
const CHUNK: u32 = 1 << 16;
/// Beyond so many offsets a bit for each costs less than a list.
const FEW: usize = 4096;

/// A set of offsets of one partition.
///
/// Memory: nothing but a map entry for each 65,536 offsets that are all there, 8 KiB for as many
/// with holes, 2 bytes an offset where they are sparse. The distance between offsets costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct OffsetSet {
    chunks: BTreeMap<i64, Chunk>,
    len: u64,
}

#[derive(Clone, Debug)]
enum Chunk {
    /// In order.
    Few(Vec<u16>),
    Bits {
        words: Vec<u64>,
        set: u32,
    },
    Full,
}

impl OffsetSet {
    /// Adds `offset`; false if it was there.
    pub(crate) fn insert(&mut self, offset: Offset) -> bool {
        let chunk = self.chunks.entry(offset >> 16).or_insert_with(|| Chunk::Few(Vec::new()));
        let added = chunk.insert(low_bits(offset));
        self.len += u64::from(added);
        added
    }

    /// Number of offsets.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Number of offsets in `range`.
    pub(crate) fn count(&self, range: OffsetRange) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let chunks = self.chunks.range(range.start >> 16..=(range.end - 1) >> 16);
        chunks.map(|(&high, chunk)| u64::from(chunk.count(within(high, range)))).sum()
    }

    /// The first `limit` offsets in `range`.
    pub(crate) fn present(&self, range: OffsetRange, limit: usize) -> Vec<Offset> {
        if range.start >= range.end {
            return Vec::new();
        }
        let chunks = self.chunks.range(range.start >> 16..=(range.end - 1) >> 16);
        let present = chunks.flat_map(|(&high, chunk)| {
            let (from, to) = within(high, range);
            let lows = (from..to).filter(|low| chunk.contains(*low));
            lows.map(move |low| (high << 16) + i64::from(low))
        });
        present.take(limit).collect()
    }

    /// The first `limit` offsets of `range` that are not in the set.
    pub(crate) fn absent(&self, range: OffsetRange, limit: usize) -> Vec<Offset> {
        let mut absent = Vec::new();
        let mut next = range.start;
        while next < range.end && absent.len() < limit {
            let high = next >> 16;
            match self.chunks.get(&high) {
                Some(Chunk::Full) => {
                    next = (high << 16).saturating_add(i64::from(CHUNK));
                }
                Some(chunk) if chunk.contains(u32::from(low_bits(next))) => next += 1,
                _ => {
                    absent.push(next);
                    next += 1;
                }
            }
        }
        absent
    }
}

impl Chunk {
    fn insert(&mut self, low: u16) -> bool {
        match self {
            Self::Few(lows) => {
                let Err(at) = position(lows, low) else { return false };
                lows.insert(at, low);
                if lows.len() > FEW {
                    *self = bits(lows);
                }
                true
            }
            Self::Bits { words, set } => {
                let (word, bit) = (usize::from(low >> 6), 1_u64 << (low & 63));
                if words[word] & bit != 0 {
                    return false;
                }
                words[word] |= bit;
                *set += 1;
                if *set == CHUNK {
                    *self = Self::Full;
                }
                true
            }
            Self::Full => false,
        }
    }

    fn contains(&self, low: u32) -> bool {
        let Ok(low) = u16::try_from(low) else { return false };
        match self {
            Self::Few(lows) => lows.binary_search(&low).is_ok(),
            Self::Bits { words, .. } => words[usize::from(low >> 6)] >> (low & 63) & 1 == 1,
            Self::Full => true,
        }
    }

    /// Number of offsets from `from` up to but not including `to`.
    fn count(&self, (from, to): (u32, u32)) -> u32 {
        match self {
            Self::Full => to - from,
            Self::Few(lows) => {
                let below = |limit: u32| lows.partition_point(|low| u32::from(*low) < limit);
                u32::try_from(below(to) - below(from)).unwrap_or(CHUNK)
            }
            Self::Bits { set, .. } if (from, to) == (0, CHUNK) => *set,
            Self::Bits { words, .. } => below(words, to) - below(words, from),
        }
    }
}

/// Records come in order nearly always: the end is looked at first.
fn position(lows: &[u16], low: u16) -> Result<usize, usize> {
    match lows.last() {
        Some(last) if *last < low => Err(lows.len()),
        _ => lows.binary_search(&low),
    }
}

fn bits(lows: &[u16]) -> Chunk {
    let mut words = vec![0_u64; (CHUNK / 64) as usize];
    for low in lows {
        words[usize::from(low >> 6)] |= 1 << (low & 63);
    }
    Chunk::Bits { words, set: u32::try_from(lows.len()).unwrap_or(CHUNK) }
}

/// Number of bits set below `limit`.
fn below(words: &[u64], limit: u32) -> u32 {
    let (whole, rest) = ((limit / 64) as usize, limit % 64);
    let full: u32 = words.iter().take(whole).map(|word| word.count_ones()).sum();
    let part = words.get(whole).map_or(0, |word| (word & ((1_u64 << rest) - 1)).count_ones());
    full + part
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "masked to 16 bits")]
fn low_bits(offset: Offset) -> u16 {
    (offset & 0xffff) as u16
}

/// The part of the chunk `high` that `range` covers.
fn within(high: i64, range: OffsetRange) -> (u32, u32) {
    let base = high << 16;
    let clip = |offset: Offset| {
        u32::try_from(offset.saturating_sub(base).clamp(0, i64::from(CHUNK))).unwrap_or(CHUNK)
    };
    (clip(range.start), clip(range.end))
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
    fn a_full_chunk_costs_no_bits_and_still_knows_its_offsets() {
        let mut set = OffsetSet::default();
        for offset in 0..200_000 {
            assert!(set.insert(offset));
        }
        assert!(!set.insert(70_000));
        let full = set.chunks.values().filter(|chunk| matches!(chunk, Chunk::Full)).count();
        assert_eq!((set.len(), full), (200_000, 3));
        assert_eq!(set.count(range(65_530, 131_080)), 65_550);
        assert_eq!(set.absent(range(0, 200_003), 9), [200_000, 200_001, 200_002]);
    }

    #[test]
    fn offsets_far_apart_cost_an_entry_each() {
        let mut set = OffsetSet::default();
        for offset in [0, 1 << 40, Offset::MAX] {
            assert!(set.insert(offset));
        }
        assert_eq!(set.chunks.len(), 3);
        assert_eq!(set.count(range(0, Offset::MAX)), 2);
        assert_eq!(set.present(range(1, Offset::MAX), 9), [1 << 40]);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_set(
            runs in prop::collection::vec((0_i64..200_000, 1_i64..30_000, 1_i64..4), 1..8),
            asked in (0_i64..240_000, 0_i64..240_000),
        ) {
            let (mut set, mut plain) = (OffsetSet::default(), BTreeSet::new());
            for (start, len, step) in runs {
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
