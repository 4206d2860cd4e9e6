//! When to seal an epoch. Time is an argument.

use std::time::{Duration, Instant};

/// The settings that decide when an epoch is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trigger {
    /// An epoch lasts no longer than this.
    pub interval: Duration,
    /// From the end of one checkpoint to the next seal at least this passes, whatever is due.
    pub min_pause: Duration,
    /// An epoch that read this many bytes is sealed.
    pub max_bytes: u64,
    /// An epoch that read this many records is sealed.
    pub max_records: u64,
    /// An epoch whose files take this many bytes to describe is sealed: a checkpoint holds all of
    /// that in one record, and a commit in memory.
    pub max_described: u64,
}

/// How far the open epoch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenEpoch {
    /// When the last seal started; before the first one, when the instance did.
    pub last_seal: Instant,
    /// When the last checkpoint was finalized, if there was one. While one is in flight nothing
    /// may be sealed (I2): ask when it is finalized.
    pub last_finished: Option<Instant>,
    /// Bytes that the open epoch has read.
    pub bytes: u64,
    /// Records that the open epoch has read.
    pub records: u64,
    /// Bytes that would describe its files in a checkpoint.
    pub described: u64,
}

impl Trigger {
    /// Must the epoch be sealed at `now`?
    pub(crate) fn due(&self, now: Instant, open: &OpenEpoch) -> bool {
        self.next_deadline(open).is_some_and(|deadline| now >= deadline)
    }

    /// When the epoch must be sealed if it reads nothing more; `None` if never, the interval
    /// being longer than the clock can count.
    pub(crate) fn next_deadline(&self, open: &OpenEpoch) -> Option<Instant> {
        let full = open.bytes >= self.max_bytes
            || open.records >= self.max_records
            || open.described >= self.max_described;
        let interval = if full { Duration::ZERO } else { self.interval };
        let wanted = open.last_seal.checked_add(interval)?;
        match open.last_finished {
            Some(finished) => Some(wanted.max(finished.checked_add(self.min_pause)?)),
            None => Some(wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn trigger() -> Trigger {
        Trigger {
            interval: 10 * SECOND,
            min_pause: 3 * SECOND,
            max_bytes: 100,
            max_records: 10,
            max_described: 50,
        }
    }

    fn open(last_seal: Instant) -> OpenEpoch {
        OpenEpoch { last_seal, last_finished: None, bytes: 0, records: 0, described: 0 }
    }

    #[test]
    fn an_epoch_is_sealed_when_the_interval_has_passed_and_not_before() {
        let start = Instant::now();
        assert!(!trigger().due(start + 10 * SECOND - Duration::from_nanos(1), &open(start)));
        assert!(trigger().due(start + 10 * SECOND, &open(start)));
    }

    #[test]
    fn an_epoch_is_sealed_at_once_when_it_has_enough_bytes_records_or_files() {
        let start = Instant::now();
        let nearly = OpenEpoch { bytes: 99, records: 9, described: 49, ..open(start) };
        assert!(!trigger().due(start, &nearly));
        assert!(trigger().due(start, &OpenEpoch { described: 50, ..open(start) }));
        assert!(trigger().due(start, &OpenEpoch { bytes: 100, ..open(start) }));
        assert!(trigger().due(start, &OpenEpoch { records: 10, ..open(start) }));
    }

    #[test]
    fn the_pause_after_a_checkpoint_is_kept_even_if_the_epoch_is_full_and_late() {
        let start = Instant::now();
        let finished = start + 60 * SECOND;
        let full = OpenEpoch { last_finished: Some(finished), bytes: 100, ..open(start) };
        assert!(!trigger().due(finished + 2 * SECOND, &full));
        assert!(trigger().due(finished + 3 * SECOND, &full));
    }

    #[test]
    fn an_interval_longer_than_the_clock_never_ends_and_does_not_panic() {
        let endless = Trigger { interval: Duration::MAX, ..trigger() };
        assert_eq!(endless.next_deadline(&open(Instant::now())), None);
    }

    proptest! {
        #[test]
        fn an_epoch_is_due_exactly_from_its_deadline_on(
            seal in 0u64..50, finished in proptest::option::of(0u64..50), now in 0u64..100,
            bytes in 0u64..200, records in 0u64..20, described in 0u64..100,
        ) {
            let zero = Instant::now();
            let at = |seconds: u64| zero + Duration::from_secs(seconds);
            let open = OpenEpoch {
                last_seal: at(seal), last_finished: finished.map(at), bytes, records,
                described,
            };
            let deadline = trigger().next_deadline(&open).unwrap();
            prop_assert_eq!(trigger().due(at(now), &open), at(now) >= deadline);
            prop_assert!(finished.is_none_or(|finished| deadline >= at(finished + 3)));
            prop_assert!(deadline <= at(seal + 10).max(at(finished.unwrap_or(0) + 3)));
        }
    }
}
