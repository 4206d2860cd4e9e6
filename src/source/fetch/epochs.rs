//! Under which leaders the records of a partition were written, as far as they were read: one whose epoch is
//! not that of the log any more was cut off.

use std::collections::VecDeque;

use super::batch;
use crate::protocol::Offset;

/// Kafka's own "no epoch".
pub(super) const UNKNOWN: i32 = -1;
/// Changes that are kept. What is asked for is behind what was read by two checkpoints at most, and leaders
/// change less often than that.
const KEPT: usize = 16;

/// See the module.
pub(super) struct Epochs {
    /// Each epoch with the first offset that was read of it, in order.
    changes: VecDeque<(Offset, i32)>,
}

impl Epochs {
    /// `epoch` is that of the record before `start`, where it is known.
    pub(super) fn new(start: Offset, epoch: Option<i32>) -> Self {
        let known = epoch.map(|epoch| (start.saturating_sub(1), epoch));
        Self { changes: known.into_iter().collect() }
    }

    /// That of the last record.
    pub(super) fn last(&self) -> i32 {
        self.changes.back().map_or(UNKNOWN, |(_, epoch)| *epoch)
    }

    /// That of the record before `next`.
    pub(super) fn before(&self, next: Offset) -> Option<i32> {
        let change = self.changes.iter().rev().find(|(first, _)| *first < next);
        change.map(|(_, epoch)| *epoch).filter(|epoch| *epoch != UNKNOWN)
    }

    /// Goes on by whole batches, of which `last` is the last one's.
    pub(super) fn read(&mut self, batches: &[u8], last: i32) {
        let mut rest = batches;
        // Epochs only grow, so that nearly always one look is enough.
        while self.last() != last
            && let Ok(Some((batch, after))) = batch::split(rest)
        {
            if batch.leader_epoch != self.last() {
                self.changes.push_back((batch.base, batch.leader_epoch));
            }
            rest = after;
        }
        let many = self.changes.len().saturating_sub(KEPT);
        self.changes.drain(..many);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Written;
    use super::*;

    fn batch(base: Offset, epoch: i32) -> Vec<u8> {
        Written::of(base, &[0, 4]).under(epoch).bytes()
    }

    #[test]
    fn the_epoch_before_an_offset_is_that_of_the_batch_that_holds_the_one_before() {
        let mut epochs = Epochs::new(10, Some(3));
        assert_eq!((epochs.last(), epochs.before(10)), (3, Some(3)));
        assert_eq!(epochs.before(9), None);
        epochs.read(&[batch(10, 3), batch(15, 5), batch(20, 5), batch(25, 6)].concat(), 6);
        let told: Vec<_> = [10, 15, 16, 20, 25, 26, 30].map(|at| epochs.before(at)).into();
        assert_eq!(told, [3, 3, 5, 5, 5, 6, 6].map(Some));
        assert_eq!(epochs.last(), 6);
    }

    #[test]
    fn nothing_is_known_of_what_was_not_read_or_has_no_epoch() {
        let mut epochs = Epochs::new(10, None);
        assert_eq!((epochs.last(), epochs.before(10)), (UNKNOWN, None));
        epochs.read(&batch(10, UNKNOWN), UNKNOWN);
        assert_eq!(epochs.before(15), None);
        epochs.read(&batch(15, 0), 0);
        assert_eq!((epochs.before(15), epochs.before(16)), (None, Some(0)));
    }

    #[test]
    fn the_newest_changes_are_kept() {
        let mut epochs = Epochs::new(0, None);
        for epoch in 0..100 {
            epochs.read(&batch(i64::from(epoch) * 5, epoch), epoch);
        }
        assert_eq!(epochs.changes.len(), KEPT);
        assert_eq!((epochs.before(500), epochs.before(1)), (Some(99), None));
    }
}
