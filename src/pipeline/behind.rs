//! Since when tables are known to lack records, by what was seen of the logs' ends.
//!
//! Timestamps of records are their producers': in another unit, by a clock that is ahead, or not there at
//! all. By them alone a table would not be late where it is most.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::coordinator::{Coordinator, Run};
use super::seams::{Source, now};
use super::world::World;
use crate::protocol::{Offset, TopicPartition};
use crate::telemetry::Standing;

/// How many ends of a log are remembered. Beyond that every second one is forgotten, which makes a table
/// seem late by less than it is, and never by nothing.
const ENDS: usize = 64;

/// Logs that went on behind their ledgers. Kept from one run of a process to the next: what was seen
/// does not get younger by a restart.
#[derive(Default)]
pub(super) struct Behind(BTreeMap<TopicPartition, VecDeque<(Offset, Instant)>>);

impl Behind {
    /// The log ends at `end` now. When it was first seen to end behind `ledger`, if it does.
    pub(super) fn since(
        &mut self,
        tp: &TopicPartition,
        ledger: Offset,
        end: Offset,
        now: Instant,
    ) -> Option<Instant> {
        if !self.0.contains_key(tp) {
            self.0.insert(tp.clone(), VecDeque::new());
        }
        let seen = self.0.get_mut(tp)?;
        if seen.back().is_some_and(|(last, _)| *last > end) {
            // Another log, or one that was cut.
            seen.clear();
        }
        while seen.front().is_some_and(|(end, _)| *end <= ledger) {
            seen.pop_front();
        }
        if end > ledger && seen.back().is_none_or(|(last, _)| *last < end) {
            seen.push_back((end, now));
        }
        if seen.len() > ENDS {
            let mut keep = false;
            seen.retain(|_| {
                keep = !keep;
                keep
            });
        }
        seen.front().map(|(_, since)| *since)
    }
}

impl<W: World> Coordinator<W> {
    /// Shows where tables and logs stand.
    pub(super) fn gauges(&self, run: &Run<W>) {
        let assigned = self.owned.len();
        self.metrics.set_partitions(assigned, if self.is_held() { assigned } else { 0 });
        let (now, clock, mut behind) = (now(), SystemTime::now(), self.behind.lock());
        for (tp, owned) in &self.owned {
            let read = owned.position.load(Ordering::Relaxed);
            let told = run.ends.end(tp);
            // Of two answers that which was given later; nothing leads back but a log that was cut.
            let end = [self.source.log_end(tp), told.map(|told| told.end)];
            let end = end.into_iter().flatten().max().map(|end| end.max(read));
            let ledger = self.tables.ledger(tp).unwrap_or(0);
            let since = end.and_then(|end| behind.since(tp, ledger, end, now));
            // The oldest missing record came after the last one that the table has.
            let last = self.timestamps.get(tp).copied();
            let oldest_missing = since.map(|since| oldest_missing(last, now - since, clock));
            let open = told.map(|told| told.open);
            self.metrics.set_position(tp, Standing { ledger, log_end: end, open, oldest_missing });
        }
    }
}

/// The time of the oldest record that a table lacks, or a time before it: of the last record that it has,
/// in milliseconds, if that tells more than since when it is known to lack some.
pub(super) fn oldest_missing(
    last: Option<i64>,
    missing_for: Duration,
    clock: SystemTime,
) -> SystemTime {
    let seen = clock.checked_sub(missing_for).unwrap_or(UNIX_EPOCH);
    let last = last.and_then(|millis| u64::try_from(millis).ok());
    let last = last.and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
    last.map_or(seen, |last| last.min(seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    #[test]
    fn a_table_is_late_since_the_end_of_the_log_was_seen_behind_its_ledger() {
        let (mut behind, began) = (Behind::default(), Instant::now());
        let mut at = |seconds: u32, ledger, end| {
            let since = behind.since(&tp(0), ledger, end, began + seconds * SECOND);
            since.map(|since| (since - began).as_secs())
        };
        assert_eq!(at(0, 10, 10), None, "at rest");
        assert_eq!(at(5, 10, 20), Some(5));
        assert_eq!(at(6, 10, 30), Some(5));
        // It has all that there was after five seconds, not what came after six.
        assert_eq!(at(8, 20, 40), Some(6));
        assert_eq!(at(9, 40, 40), None);
        // Nothing is missing before it is seen, whatever was missing before.
        assert_eq!(at(60, 40, 41), Some(60));
        // A log that was cut.
        assert_eq!(at(70, 15, 20), Some(70));
        assert_eq!(behind.since(&tp(1), 0, 0, began), None);
    }

    #[test]
    fn a_backlog_of_any_length_is_remembered_within_a_bound_and_a_table_that_lacks_some_is_late() {
        let (mut behind, began) = (Behind::default(), Instant::now());
        for second in 1..10_000 {
            let since = behind.since(&tp(0), 0, second.into(), began + second * SECOND);
            assert_eq!(since, Some(began + SECOND));
            assert!(behind.0[&tp(0)].len() <= ENDS);
        }
        for ledger in 1..9_999 {
            let now = began + 10_000 * SECOND;
            let since = behind.since(&tp(0), ledger.into(), 9_999, now).unwrap();
            assert!(since > began + ledger * SECOND && since < now, "{ledger}");
        }
    }

    #[test]
    fn a_timestamp_that_cannot_be_is_no_reason_to_be_on_time() {
        let clock = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let late = |last| clock.duration_since(oldest_missing(last, 7 * SECOND, clock)).unwrap();
        assert_eq!(late(Some(1_800_000_000_000 - 60_000)), 60 * SECOND);
        // In microseconds and nanoseconds, an hour ahead, none at all, before 1970, and beyond any year.
        let of_no_use = [1_800_000_000_000_000, 1_800_000_000_000_000_000, 1_800_003_600_000];
        for last in of_no_use.into_iter().chain([-1, i64::MIN, i64::MAX]).map(Some).chain([None]) {
            assert_eq!(late(last), 7 * SECOND, "{last:?}");
        }
    }
}
