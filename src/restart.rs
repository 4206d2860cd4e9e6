//! Whether and when a run that failed is followed by another one.
//!
//! No I/O: the moment and the chance are arguments. Three bounds stand beside each other, each on
//! a subject of its own, and the first one that is passed ends the process:
//!
//! | bound | on |
//! |---|---|
//! | `RESTART_STRATEGY` | how often, and how soon after another, runs may fail for any reason |
//! | `RETRY_GIVE_UP_MS` | how long failures may go on with no checkpoint completed between them |
//! | `CHECKPOINT_TOLERABLE_FAILED_CHECKPOINTS` | how many checkpoints may fail in a row |

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::RestartStrategy;

/// What is to be done after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Begin anew after this wait.
    Restart(Duration),
    /// End the process.
    GiveUp(Limit),
}

/// The bound that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The strategy has no restart left.
    Strategy,
    /// `RETRY_GIVE_UP_MS`: failures for so long, and no checkpoint completed.
    Patience(Duration),
    /// So many checkpoints failed in a row.
    FailedCheckpoints(u64),
}

/// Counts failures and decides what follows them.
#[derive(Clone, Debug)]
pub(crate) struct Restarts {
    strategy: Strategy,
    patience: Duration,
    tolerable_failed_checkpoints: u64,
    failed_checkpoints: u64,
    /// When the failures began of which none was followed by a completed checkpoint.
    failing_since: Option<Instant>,
}

impl Restarts {
    /// Nothing has failed yet. `patience` is `RETRY_GIVE_UP_MS`.
    pub(crate) fn new(
        strategy: RestartStrategy,
        patience: Duration,
        tolerable_failed_checkpoints: u64,
    ) -> Self {
        Self {
            strategy: Strategy::new(strategy),
            patience,
            tolerable_failed_checkpoints,
            failed_checkpoints: 0,
            failing_since: None,
        }
    }

    /// A checkpoint completed since the last call of [`Self::failed`]. The strategy goes on: work
    /// that fails after each checkpoint is no more healthy for it.
    pub(crate) fn completed(&mut self) {
        self.failed_checkpoints = 0;
        self.failing_since = None;
    }

    /// A run failed at `now`, by a failed checkpoint or otherwise. `chance` is from 0 to 1.
    pub(crate) fn failed(&mut self, now: Instant, of_checkpoint: bool, chance: f64) -> Decision {
        let wait = self.strategy.failed(now, chance);
        let since = *self.failing_since.get_or_insert(now);
        self.failed_checkpoints += u64::from(of_checkpoint);
        let failing = now.saturating_duration_since(since);
        if self.failed_checkpoints > self.tolerable_failed_checkpoints {
            return Decision::GiveUp(Limit::FailedCheckpoints(self.failed_checkpoints));
        }
        if failing >= self.patience {
            return Decision::GiveUp(Limit::Patience(failing));
        }
        wait.map_or(Decision::GiveUp(Limit::Strategy), Decision::Restart)
    }
}

/// The strategy, with what it remembers of the failures so far.
#[derive(Clone, Debug)]
enum Strategy {
    ExponentialDelay(Exponential),
    FailureRate { max: usize, interval: Duration, delay: Duration, failures: VecDeque<Instant> },
    FixedDelay { left: u64, delay: Duration },
    None,
}

#[derive(Clone, Debug)]
struct Exponential {
    initial: Duration,
    max: Duration,
    multiplier: f64,
    reset_threshold: Duration,
    jitter: f64,
    attempts: Option<u64>,
    /// When the run began that the last failure led to, and the wait before it.
    last: Option<(Instant, Duration)>,
    attempted: u64,
}

impl Strategy {
    fn new(strategy: RestartStrategy) -> Self {
        match strategy {
            RestartStrategy::ExponentialDelay {
                initial,
                max,
                multiplier,
                reset_threshold,
                jitter,
                attempts,
            } => Self::ExponentialDelay(Exponential {
                initial,
                max,
                multiplier,
                reset_threshold,
                jitter,
                attempts,
                last: None,
                attempted: 0,
            }),
            RestartStrategy::FailureRate { max_failures: max, interval, delay } => {
                Self::FailureRate { max, interval, delay, failures: VecDeque::new() }
            }
            RestartStrategy::FixedDelay { attempts: left, delay } => {
                Self::FixedDelay { left, delay }
            }
            RestartStrategy::None => Self::None,
        }
    }

    /// The wait before the next run, or `None` if there is to be none.
    fn failed(&mut self, now: Instant, chance: f64) -> Option<Duration> {
        match self {
            Self::ExponentialDelay(exponential) => exponential.failed(now, chance),
            Self::FailureRate { max, interval, delay, failures } => {
                failures.push_back(now);
                while failures
                    .front()
                    .is_some_and(|first| now.saturating_duration_since(*first) > *interval)
                {
                    failures.pop_front();
                }
                (failures.len() <= *max).then_some(*delay)
            }
            Self::FixedDelay { left, delay } => {
                *left = left.checked_sub(1)?;
                Some(*delay)
            }
            Self::None => None,
        }
    }
}

impl Exponential {
    fn failed(&mut self, now: Instant, chance: f64) -> Option<Duration> {
        let backoff = match self.last {
            Some((begun, last)) if now.saturating_duration_since(begun) < self.reset_threshold => {
                let next = last.as_secs_f64() * self.multiplier;
                // A number too large for a duration is longer than the longest wait.
                Duration::try_from_secs_f64(next).unwrap_or(self.max).clamp(self.initial, self.max)
            }
            _ => {
                self.attempted = 0;
                self.initial
            }
        };
        self.attempted += 1;
        if self.attempts.is_some_and(|attempts| self.attempted > attempts) {
            return None;
        }
        let offset = 1.0 + self.jitter * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
        let wait = backoff.mul_f64(offset).min(self.max);
        self.last = Some((now + wait, backoff));
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    /// No jitter.
    const EVEN: f64 = 0.5;

    fn exponential(attempts: Option<u64>) -> RestartStrategy {
        RestartStrategy::ExponentialDelay {
            initial: SECOND,
            max: 60 * SECOND,
            multiplier: 1.5,
            reset_threshold: HOUR,
            jitter: 0.1,
            attempts,
        }
    }

    fn patient(strategy: RestartStrategy) -> Restarts {
        Restarts::new(strategy, Duration::MAX, u64::MAX)
    }

    fn seconds(decision: Decision) -> Option<f64> {
        match decision {
            Decision::Restart(wait) => Some(wait.as_secs_f64()),
            Decision::GiveUp(_) => None,
        }
    }

    #[test]
    fn exponential_waits_grow_by_the_multiplier_up_to_the_longest() {
        let (mut restarts, mut now) = (patient(exponential(None)), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..20 {
            let wait = seconds(restarts.failed(now, false, EVEN)).unwrap();
            waits.push(wait);
            now += Duration::from_secs_f64(wait) + SECOND;
        }
        assert_eq!(waits[..4], [1.0, 1.5, 2.25, 3.375]);
        assert_eq!(waits[15..], [60.0; 5]);
    }

    #[test]
    fn exponential_waits_begin_anew_after_the_threshold_and_not_because_a_checkpoint_completed() {
        let (mut restarts, start) = (patient(exponential(None)), Instant::now());
        assert_eq!(seconds(restarts.failed(start, false, EVEN)), Some(1.0));
        restarts.completed();
        // The run that follows begins a second later, and the threshold with it.
        let early = start + SECOND + HOUR - Duration::from_millis(1);
        assert_eq!(seconds(restarts.clone().failed(early, false, EVEN)), Some(1.5));
        assert_eq!(seconds(restarts.failed(start + SECOND + HOUR, false, EVEN)), Some(1.0));
    }

    #[test]
    fn exponential_attempts_are_counted_until_the_waits_begin_anew() {
        let (mut restarts, start) = (patient(exponential(Some(2))), Instant::now());
        let mut at = |after: Duration| restarts.failed(start + after, false, EVEN);
        assert!(seconds(at(SECOND)).is_some() && seconds(at(10 * SECOND)).is_some());
        assert!(seconds(at(HOUR * 2)).is_some() && seconds(at(HOUR * 2 + SECOND)).is_some());
        assert_eq!(at(HOUR * 2 + 9 * SECOND), Decision::GiveUp(Limit::Strategy));
    }

    #[test]
    fn rare_failures_are_restarted_for_ever_and_frequent_ones_are_not() {
        let strategy =
            RestartStrategy::FailureRate { max_failures: 2, interval: HOUR, delay: SECOND };
        let (mut restarts, start) = (patient(strategy), Instant::now());
        for hours in 0..10 {
            let now = start + hours * (HOUR / 2 + SECOND);
            assert_eq!(restarts.failed(now, false, EVEN), Decision::Restart(SECOND), "{hours}");
        }
        let now = start + 9 * (HOUR / 2 + SECOND) + SECOND;
        assert_eq!(restarts.failed(now, false, EVEN), Decision::GiveUp(Limit::Strategy));
    }

    #[test]
    fn a_fixed_number_of_restarts_is_not_renewed_and_none_is_none() {
        let (mut fixed, now) =
            (patient(RestartStrategy::FixedDelay { attempts: 2, delay: SECOND }), Instant::now());
        assert_eq!(fixed.failed(now, false, EVEN), Decision::Restart(SECOND));
        fixed.completed();
        assert_eq!(fixed.failed(now + HOUR, false, EVEN), Decision::Restart(SECOND));
        assert_eq!(fixed.failed(now + 2 * HOUR, false, EVEN), Decision::GiveUp(Limit::Strategy));
        let mut none = patient(RestartStrategy::None);
        assert_eq!(none.failed(now, false, EVEN), Decision::GiveUp(Limit::Strategy));
    }

    #[test]
    fn failures_are_given_up_when_they_go_on_for_too_long_with_nothing_completed() {
        let (mut restarts, start) =
            (Restarts::new(exponential(None), 10 * SECOND, 99), Instant::now());
        // An hour of quiet before the first failure is no failure.
        let first = start + HOUR;
        assert!(seconds(restarts.failed(first, false, EVEN)).is_some());
        assert!(seconds(restarts.failed(first + 9 * SECOND, false, EVEN)).is_some());
        let mut other = restarts.clone();
        other.completed();
        assert!(seconds(other.failed(first + 11 * SECOND, false, EVEN)).is_some());
        let limit = Limit::Patience(10 * SECOND);
        assert_eq!(restarts.failed(first + 10 * SECOND, false, EVEN), Decision::GiveUp(limit));
    }

    #[test]
    fn failed_checkpoints_are_counted_in_a_row_and_other_failures_neither_count_nor_part_them() {
        let (mut restarts, now) =
            (Restarts::new(exponential(None), Duration::MAX, 2), Instant::now());
        for _ in 0..2 {
            assert!(seconds(restarts.failed(now, true, EVEN)).is_some());
            assert!(seconds(restarts.failed(now, false, EVEN)).is_some());
        }
        let mut other = restarts.clone();
        let limit = Limit::FailedCheckpoints(3);
        assert_eq!(restarts.failed(now, true, EVEN), Decision::GiveUp(limit));
        other.completed();
        assert!(seconds(other.failed(now, true, EVEN)).is_some());
    }

    proptest! {
        #[test]
        fn exponential_waits_stay_within_their_bounds_whatever_happens(
            initial in 1u64..10_000, more in 0u64..100_000, multiplier in 1.0f64..50.0,
            threshold in 1u64..1_000_000, jitter in 0.0f64..=1.0,
            failures in prop::collection::vec((0u64..2_000_000, 0.0f64..=1.0), 1..60),
        ) {
            let (initial, max) = (Duration::from_millis(initial), Duration::from_millis(initial + more));
            let mut restarts = patient(RestartStrategy::ExponentialDelay {
                initial, max, multiplier, jitter, attempts: None,
                reset_threshold: Duration::from_millis(threshold),
            });
            let (mut now, mut last) = (Instant::now(), None);
            for (after, chance) in failures {
                now += Duration::from_millis(after);
                let Decision::Restart(wait) = restarts.failed(now, false, chance) else {
                    return Err(TestCaseError::fail("gave up"));
                };
                prop_assert!(wait <= max);
                prop_assert!(wait >= initial.mul_f64((1.0 - jitter).max(0.0)).saturating_sub(Duration::from_micros(1)));
                // Soon after another, the wait is no shorter but by chance.
                if let Some(last) = last && after < threshold {
                    let least = Duration::mul_f64(last, (1.0 - jitter) / (1.0 + jitter));
                    prop_assert!(wait + Duration::from_micros(1) >= least, "{wait:?} after {last:?}");
                }
                last = Some(wait);
            }
        }

        #[test]
        fn in_no_interval_are_there_more_restarts_than_the_rate_allows(
            max in 1usize..6, interval in 1u64..1000,
            failures in prop::collection::vec(0u64..400, 1..80),
        ) {
            let interval = Duration::from_millis(interval);
            let strategy = RestartStrategy::FailureRate { max_failures: max, interval, delay: SECOND };
            let (mut restarts, mut now) = (patient(strategy), Instant::now());
            let mut times: Vec<Instant> = Vec::new();
            for after in failures {
                now += Duration::from_millis(after);
                times.push(now);
                let recent = times.iter().filter(|at| now.duration_since(**at) <= interval).count();
                let restarted = matches!(restarts.failed(now, false, EVEN), Decision::Restart(_));
                prop_assert_eq!(restarted, recent <= max);
            }
        }

        #[test]
        fn the_process_ends_exactly_when_a_bound_is_passed(
            patience in 1u64..5_000, tolerable in 0u64..5,
            events in prop::collection::vec((0u64..1_000, 0u8..3), 1..60),
        ) {
            let strategy = RestartStrategy::FixedDelay { attempts: u64::MAX, delay: SECOND };
            let patience = Duration::from_millis(patience);
            let (mut restarts, mut now) = (Restarts::new(strategy, patience, tolerable), Instant::now());
            let (mut since, mut failed) = (None, 0);
            for (after, event) in events {
                now += Duration::from_millis(after);
                if event == 2 {
                    restarts.completed();
                    (since, failed) = (None, 0);
                    continue;
                }
                let began = *since.get_or_insert(now);
                failed += u64::from(event == 1);
                let over = failed > tolerable || now.duration_since(began) >= patience;
                let decision = restarts.failed(now, event == 1, EVEN);
                prop_assert_eq!(matches!(decision, Decision::GiveUp(_)), over, "{:?}", decision);
                if over {
                    break;
                }
            }
        }
    }
}
