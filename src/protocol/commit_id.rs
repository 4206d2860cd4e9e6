//! The name of a commit.

use sha2::{Digest, Sha256};

use super::{CommitId, Epoch, Frontier, Ranges, TopicPartition};

/// Names this way of hashing. Another way needs another tag, so that two never meet.
const TAG: &str = "icestream commit id 1";
const BYTES: usize = 16;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The id of the commit that `instance` seals in `epoch`: 32 hexadecimal digits.
///
/// A SHA-256 over every argument, each with its length before it, so that no two different
/// commits are hashed from the same bytes. No clock and no chance: the same commit, after a crash
/// or a thousand retries, has the same id.
pub fn commit_id(
    pipeline: &str,
    instance: &str,
    epoch: Epoch,
    table_uuid: &str,
    from: &Frontier,
    ranges: &Ranges,
) -> CommitId {
    let mut hash = Sha256::new();
    for text in [TAG, pipeline, instance, table_uuid] {
        put_text(&mut hash, text);
    }
    hash.update(epoch.0.to_be_bytes());
    put_count(&mut hash, from.len());
    for (tp, offset) in from.iter() {
        put_partition(&mut hash, tp);
        hash.update(offset.to_be_bytes());
    }
    put_count(&mut hash, ranges.len());
    for (tp, range) in ranges {
        put_partition(&mut hash, tp);
        hash.update(range.start.to_be_bytes());
        hash.update(range.end.to_be_bytes());
    }
    let mut hex = String::with_capacity(2 * BYTES);
    for byte in hash.finalize().iter().take(BYTES) {
        hex.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
    CommitId(hex)
}

fn put_count(hash: &mut Sha256, count: usize) {
    hash.update((count as u64).to_be_bytes());
}

fn put_text(hash: &mut Sha256, text: &str) {
    put_count(hash, text.len());
    hash.update(text);
}

fn put_partition(hash: &mut Sha256, tp: &TopicPartition) {
    put_text(hash, &tp.topic);
    hash.update(tp.partition.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::OffsetRange;

    fn id(pipeline: &str, instance: &str, epoch: u64, from: i64, end: i64) -> CommitId {
        let tp = TopicPartition::new("t", 0);
        let frontier = Frontier::from_iter([(tp.clone(), from)]);
        let ranges = Ranges::from([(tp, OffsetRange { start: from, end })]);
        commit_id(pipeline, instance, Epoch(epoch), "uuid", &frontier, &ranges)
    }

    #[test]
    fn the_id_of_a_known_commit_never_changes() {
        assert_eq!(id("p", "i", 7, 3, 9).0, "f3854e7881932c88d9458edc0c706e7a");
    }

    #[test]
    fn every_argument_changes_the_id() {
        let base = id("p", "i", 7, 3, 9);
        for other in [
            id("q", "i", 7, 3, 9),
            id("p", "j", 7, 3, 9),
            id("p", "i", 8, 3, 9),
            id("p", "i", 7, 4, 9),
            id("p", "i", 7, 3, 10),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn characters_that_move_between_fields_change_the_id() {
        assert_ne!(id("ab", "c", 7, 3, 9), id("a", "bc", 7, 3, 9));
    }

    #[test]
    fn a_partition_that_moves_from_the_frontier_to_the_ranges_changes_the_id() {
        let tp = TopicPartition::new("t", 0);
        let ranges = Ranges::from([(tp.clone(), OffsetRange { start: 5, end: 5 })]);
        let began = Frontier::from_iter([(tp, 5)]);
        let none = Frontier::default();
        assert_ne!(
            commit_id("p", "i", Epoch(1), "u", &began, &ranges),
            commit_id("p", "i", Epoch(1), "u", &none, &ranges)
        );
    }
}
