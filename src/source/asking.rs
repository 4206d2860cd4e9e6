//! How often to ask who leads.

use std::time::{Duration, Instant};

/// Time between two questions: at first, and at most. It doubles while nothing changes: an election
/// mostly takes less than a second, but a partition may be without a leader for a day.
const EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// See the module.
pub(super) struct Asking {
    last: Option<Instant>,
    /// Time from the last question to the next one, and to the one after that.
    wait: (Duration, Duration),
}

impl Default for Asking {
    fn default() -> Self {
        Self { last: None, wait: (EVERY.0, EVERY.0) }
    }
}

impl Asking {
    /// Something changed, or more is missing than before.
    pub(super) fn news(&mut self) {
        self.wait = (EVERY.0, EVERY.0);
    }

    /// May it be asked again?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.wait.0)
    }

    /// It is asked.
    pub(super) fn asked(&mut self, now: Instant) {
        self.last = Some(now);
        self.wait = (self.wait.1, (self.wait.1 * 2).min(EVERY.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When it is asked, in milliseconds, by one who looks every ten; `news` come at these times.
    fn asked(until: u64, news: &[u64]) -> Vec<u64> {
        let (mut asking, begun, mut times) = (Asking::default(), Instant::now(), Vec::new());
        for at in (0..until).step_by(10) {
            if news.contains(&at) {
                asking.news();
            }
            let now = begun + Duration::from_millis(at);
            if asking.is_due(now) {
                asking.asked(now);
                times.push(at);
            }
        }
        times
    }

    #[test]
    fn leaders_are_asked_for_less_and_less_often_until_there_are_news() {
        let alone = [0, 100, 300, 700, 1500, 3100, 5100, 7100, 9100];
        assert_eq!(asked(10_000, &[]), alone);
        // In the middle of a wait it is asked at once, and often again.
        let news = asked(10_000, &[6000]);
        assert_eq!(news[..7], alone[..7]);
        assert_eq!(news[7..], [6000, 6100, 6300, 6700, 7500, 9100]);
        // Never more often than that, however many there are.
        let always: Vec<u64> = (0..1000).step_by(10).collect();
        assert_eq!(asked(1000, &always), [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
    }
}
