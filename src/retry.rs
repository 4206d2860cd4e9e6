//! Waiting between tries: exponential with full jitter, so that instances do not march in step.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// Against another instance that was faster: about as long as its commit takes.
const FIRST_QUICK: Duration = Duration::from_millis(20);
const LONGEST_QUICK: Duration = Duration::from_secs(1);

/// The waits of one undertaking that is tried until it succeeds or its time is up.
#[derive(Debug)]
pub(crate) struct Backoff {
    since: Instant,
    give_up: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Tries may go on for `give_up` from `now`.
    pub(crate) fn new(now: Instant, give_up: Duration) -> Self {
        Self { since: now, give_up, longest: LONGEST, next: FIRST }
    }

    /// For tries that fail because somebody else was faster: shorter waits.
    pub(crate) fn quick(now: Instant, give_up: Duration) -> Self {
        Self { since: now, give_up, longest: LONGEST_QUICK, next: FIRST_QUICK }
    }

    /// How long to wait before the next try, or `None` if the time is up.
    pub(crate) fn next_wait(&mut self, now: Instant) -> Option<Duration> {
        if self.spent(now) >= self.give_up {
            return None;
        }
        let longest = self.next;
        self.next = (self.next * 2).min(self.longest);
        Some(longest.mul_f64(0.5 + fastrand::f64() / 2.0))
    }

    /// How long it has been tried.
    pub(crate) fn spent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_end_with_the_time() {
        let start = Instant::now();
        let mut backoff = Backoff::new(start, Duration::from_secs(60));
        let mut last_limit = FIRST;
        for _ in 0..20 {
            let wait = backoff.next_wait(start).expect("time is left");
            assert!(wait >= last_limit / 2 && wait <= last_limit, "{wait:?} for {last_limit:?}");
            last_limit = (last_limit * 2).min(LONGEST);
        }
        assert_eq!(backoff.next_wait(start + Duration::from_secs(60)), None);
    }
}
