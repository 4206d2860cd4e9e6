//! How many partitions the next request to a broker asks for.
//!
//! A broker looks into the log of each partition that a request names, some 12 µs each, also when
//! the first few of them fill the answer. With a thousand partitions behind, that would cost it more
//! than all the rest. So while answers are full, only a few partitions take their turns at a time;
//! the others are asked for again soon, because they may have records of which nobody told us.

use std::time::{Duration, Instant};

/// How long partitions that are not known to have more records go without being asked for, while the
/// others have more than the shard can take.
const ALL_WITHIN: Duration = Duration::from_secs(1);

/// The partitions of one broker take turns.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// How many are enough; none if the last answer had room left.
    few: Option<usize>,
    /// When all were asked for.
    all: Option<Instant>,
}

impl RoundRobin {
    /// How many of the partitions that are known to have `more` to ask for; none means all there
    /// are.
    pub(super) fn next(&mut self, now: Instant, more: usize) -> Option<usize> {
        let lately = self.all.is_some_and(|all| now.duration_since(all) < ALL_WITHIN);
        let few = self.few.filter(|_| lately && more > 0);
        if few.is_none() {
            self.all = Some(now);
        }
        few
    }

    /// Learns from an answer to the last request: so many partitions had so many bytes, and at most
    /// `most` were asked for. Twice as many are asked for next, so that room is left to see when
    /// they have less.
    pub(super) fn answered(&mut self, partitions: usize, bytes: usize, most: usize) {
        self.few = (bytes >= most / 2).then_some(2 * partitions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_answers_make_requests_small_and_answers_with_room_make_them_whole_again() {
        let (mut round, now) = (RoundRobin::default(), Instant::now());
        assert_eq!(round.next(now, 1000), None);
        round.answered(4, 1000, 1000);
        assert_eq!(round.next(now, 1000), Some(8));
        round.answered(8, 500, 1000);
        assert_eq!(round.next(now, 1000), Some(16));
        round.answered(16, 499, 1000);
        assert_eq!(round.next(now, 1000), None);
    }

    #[test]
    fn all_are_asked_for_where_none_is_known_to_have_more() {
        let (mut round, now) = (RoundRobin::default(), Instant::now());
        assert_eq!(round.next(now, 0), None);
        round.answered(4, 1000, 1000);
        assert_eq!(round.next(now, 0), None);
    }

    #[test]
    fn all_are_asked_for_again_and_again() {
        let (mut round, start) = (RoundRobin::default(), Instant::now());
        let all = (0..1000).filter(|step| {
            let now = start + ALL_WITHIN / 10 * *step;
            let all = round.next(now, 1000).is_none();
            round.answered(1, 1000, 1000);
            all
        });
        assert_eq!(all.count(), 100);
    }
}
