//! Do checkpoints complete while there is something to commit?
//!
//! A failure is told by whoever meets it. This sees what nobody tells: a process that runs, reports
//! no error, and brings nothing into the table. No I/O: the moment is an argument.

use std::time::{Duration, Instant};

use crate::config::Checkpointing;

/// Not ready after this many intervals, and [`LATE_MORE`].
const LATE_INTERVALS: u32 = 3;
/// What a commit may take where the interval is shorter than that.
const LATE_MORE: Duration = Duration::from_secs(10);
/// On top of all that may rightly take its time one after another: room for the last requests.
const STALLED_MORE: Duration = Duration::from_secs(120);

/// How checkpoints go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// One completed not long ago, or there is nothing to commit.
    Good,
    /// None for so long although there is something to commit: whoever watches should know.
    Late(Duration),
    /// None for longer than an interval, a seal, and the retries of a commit may take together.
    Stalled(Duration),
}

/// Remembers when a checkpoint last completed or there was nothing to commit.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    late: Duration,
    stalled: Duration,
    completed: u64,
    since: Option<Instant>,
}

impl Watch {
    /// `patience` is `RETRY_GIVE_UP_MS`, the time that a commit may be retried.
    pub(crate) fn new(checkpoints: &Checkpointing, patience: Duration) -> Self {
        let Checkpointing { interval, timeout, min_pause, .. } = *checkpoints;
        let stalled = [min_pause, timeout, patience, STALLED_MORE]
            .into_iter()
            .fold(interval, Duration::saturating_add);
        let late = interval.saturating_mul(LATE_INTERVALS).saturating_add(LATE_MORE).min(stalled);
        Self { late, stalled, completed: 0, since: None }
    }

    /// `completed` counts the checkpoints of the process.
    pub(crate) fn look(&mut self, now: Instant, completed: u64, uncommitted: bool) -> Pace {
        if completed != self.completed || !uncommitted {
            self.completed = completed;
            self.since = uncommitted.then_some(now);
            return Pace::Good;
        }
        let waited = now.saturating_duration_since(*self.since.get_or_insert(now));
        if waited >= self.stalled {
            Pace::Stalled(waited)
        } else if waited >= self.late {
            Pace::Late(waited)
        } else {
            Pace::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn checkpoints(interval: Duration, timeout: Duration) -> Checkpointing {
        Checkpointing {
            interval,
            timeout,
            min_pause: Duration::ZERO,
            max_bytes: 1,
            max_records: 1,
            tolerable_failed: 0,
            retained: 1,
            dir: std::path::PathBuf::new(),
        }
    }

    /// Late after 40 s, stalled after 10 + 60 + 300 + 120 s.
    fn watch() -> Watch {
        Watch::new(&checkpoints(10 * SECOND, 60 * SECOND), 300 * SECOND)
    }

    #[test]
    fn without_a_checkpoint_it_is_late_and_then_stalled() {
        let (mut watch, start) = (watch(), Instant::now());
        let mut at = |seconds: u32| watch.look(start + seconds * SECOND, 0, true);
        assert_eq!([at(0), at(39)], [Pace::Good; 2]);
        assert_eq!(at(40), Pace::Late(40 * SECOND));
        assert_eq!(at(489), Pace::Late(489 * SECOND));
        assert_eq!(at(490), Pace::Stalled(490 * SECOND));
    }

    #[test]
    fn an_idle_topic_and_a_completed_checkpoint_begin_the_time_anew() {
        let (mut watch, start) = (watch(), Instant::now());
        let mut at = |seconds: u32, completed: u64, uncommitted: bool| {
            watch.look(start + seconds * SECOND, completed, uncommitted)
        };
        assert_eq!(at(0, 0, true), Pace::Good);
        assert_eq!(at(39, 1, true), Pace::Good);
        assert_eq!(at(78, 1, true), Pace::Good);
        assert_eq!(at(79, 1, true), Pace::Late(40 * SECOND));
        assert_eq!(at(80, 1, false), Pace::Good);
        assert_eq!(at(100_000, 1, false), Pace::Good);
        assert_eq!(at(100_001, 1, true), Pace::Good);
        assert_eq!(at(100_041, 1, true), Pace::Late(40 * SECOND));
    }

    #[test]
    fn bounds_longer_than_the_clock_can_count_are_no_bounds() {
        let mut endless = Watch::new(&checkpoints(Duration::MAX, Duration::MAX), Duration::MAX);
        let start = Instant::now();
        assert_eq!(endless.look(start, 0, true), Pace::Good);
        assert_eq!(endless.look(start + 1_000_000 * SECOND, 0, true), Pace::Good);
    }

    proptest! {
        #[test]
        fn it_is_late_exactly_when_nothing_completed_for_the_bound_with_something_to_commit(
            looks in prop::collection::vec((0u32..30, any::<bool>(), 0u8..10), 1..100),
        ) {
            let (mut watch, mut now) = (watch(), Instant::now());
            let (mut completed, mut since) = (0, None);
            for (after, completes, idle) in looks {
                now += after * SECOND;
                completed += u64::from(completes);
                let uncommitted = idle > 0;
                since = match since {
                    _ if !uncommitted => None,
                    _ if completes => Some(now),
                    since => since.or(Some(now)),
                };
                let waited = since.map_or(Duration::ZERO, |since| now.duration_since(since));
                let expected = match waited {
                    waited if waited >= 490 * SECOND => Pace::Stalled(waited),
                    waited if waited >= 40 * SECOND => Pace::Late(waited),
                    _ => Pace::Good,
                };
                prop_assert_eq!(watch.look(now, completed, uncommitted), expected);
            }
        }
    }
}
