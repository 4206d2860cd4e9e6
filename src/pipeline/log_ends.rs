//! What leaders tell of the ends of the logs that are read: what is behind, and whether anything comes.
//!
//! What a fetch told last says nothing while none is answered. So leaders are asked beside that, and a
//! partition without a good answer for a while, or with records that do not come, is not read, whatever else
//! looks well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::coordinator::{Coordinator, Run};
use super::seams::now;
use super::world::World;
use crate::protocol::{Offset, TopicPartition};
use crate::source::{Ends, LogEnd};

/// How long a leader may not tell where a log ends: three questions.
const SILENT: Duration = Duration::from_secs(30);
/// How long nothing may come of a log that goes on. Others of many partitions may have their turn first.
const NOTHING_CAME: Duration = Duration::from_secs(120);

/// What is known of one log.
#[derive(Clone, Copy)]
struct Heard {
    end: Option<LogEnd>,
    /// When its leader last told it, or it began to be read.
    told: Instant,
    /// Where we were when that changed last, and when it did.
    at: Offset,
    moved: Instant,
}

/// What leaders told of the logs that are read.
#[derive(Default)]
pub(super) struct LogEnds {
    heard: BTreeMap<TopicPartition, Heard>,
    /// Those of which nothing comes.
    silent: BTreeSet<TopicPartition>,
}

impl LogEnds {
    /// Where a log ends, if that was told since it is read.
    pub(super) fn end(&self, tp: &TopicPartition) -> Option<LogEnd> {
        self.heard.get(tp)?.end
    }

    /// Those of which nothing comes.
    pub(super) fn silent(&self) -> &BTreeSet<TopicPartition> {
        &self.silent
    }

    /// Leaders were asked about the logs that are `read`, each up to its offset, and told `ends`. `is_held`
    /// if we take nothing at present. Those that are silent from now on.
    fn told(
        &mut self,
        ends: &Ends,
        read: impl Iterator<Item = (TopicPartition, Offset)>,
        is_held: bool,
        now: Instant,
    ) -> Vec<TopicPartition> {
        let mut heard = BTreeMap::new();
        for (tp, at) in read {
            let begun = Heard { end: None, told: now, at, moved: now };
            let mut each = self.heard.get(&tp).copied().unwrap_or(begun);
            if let Some(end) = ends.get(&tp) {
                (each.end, each.told) = (Some(*end), now);
            }
            if at != each.at || is_held {
                (each.at, each.moved) = (at, now);
            }
            heard.insert(tp, each);
        }
        self.heard = heard;
        let is_silent = |each: &Heard| {
            let has_more = each.end.is_some_and(|end| end.end > each.at);
            now.duration_since(each.told) >= SILENT
                || (has_more && now.duration_since(each.moved) >= NOTHING_CAME)
        };
        let silent = self.heard.iter().filter(|(_, each)| is_silent(each));
        let silent: BTreeSet<_> = silent.map(|(tp, _)| tp.clone()).collect();
        let before = std::mem::replace(&mut self.silent, silent);
        self.silent.difference(&before).cloned().collect()
    }
}

impl<W: World> Coordinator<W> {
    /// Leaders told where the logs end.
    pub(super) fn ends_told(&self, run: &mut Run<W>, ends: &Ends) {
        let is_held = self.is_held() || run.renewing.is_waiting() || run.finish.is_some();
        let read = self.owned.keys().filter(|tp| !run.aside.contains(tp));
        let read = read.filter_map(|tp| Some((tp.clone(), self.position(tp)?)));
        let silent = run.ends.told(ends, read, is_held, now());
        if !silent.is_empty() {
            tracing::warn!(
                partitions = %super::membership::list(&silent),
                "nothing comes of these partitions: their leaders do not tell where the logs end, or \
                 tell of records that do not come"
            );
        }
        self.show_unread(run);
        self.gauges(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tp(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    fn ends(of: &[(i32, Offset)]) -> Ends {
        of.iter().map(|(number, end)| (tp(*number), LogEnd { end: *end, open: 0 })).collect()
    }

    fn read(at: [Offset; 2]) -> impl Iterator<Item = (TopicPartition, Offset)> {
        [(tp(0), at[0]), (tp(1), at[1])].into_iter()
    }

    #[test]
    fn a_partition_whose_leader_does_not_answer_is_silent_until_it_does() {
        let (mut known, began) = (LogEnds::default(), Instant::now());
        let both = ends(&[(0, 5), (1, 5)]);
        assert!(known.told(&both, read([5, 5]), false, began).is_empty());
        let one = ends(&[(0, 5)]);
        assert!(known.told(&one, read([5, 5]), false, began + 29 * SECOND).is_empty());
        assert_eq!(known.told(&one, read([5, 5]), false, began + 30 * SECOND), [tp(1)]);
        assert!(known.told(&one, read([5, 5]), false, began + 31 * SECOND).is_empty(), "told once");
        assert_eq!(known.silent().len(), 1);
        assert_eq!(known.end(&tp(1)), Some(LogEnd { end: 5, open: 0 }), "as told last");
        known.told(&both, read([5, 5]), false, began + 40 * SECOND);
        assert!(known.silent().is_empty());
    }

    #[test]
    fn a_partition_that_was_never_answered_is_silent_after_the_same_time() {
        let (mut known, began) = (LogEnds::default(), Instant::now());
        known.told(&ends(&[]), read([0, 0]), false, began);
        assert_eq!(known.end(&tp(0)), None);
        assert_eq!(known.told(&ends(&[]), read([0, 0]), false, began + SILENT).len(), 2);
    }

    #[test]
    fn records_that_do_not_come_are_no_silence_while_we_take_none_or_others_have_their_turn() {
        let (mut known, began) = (LogEnds::default(), Instant::now());
        let both = ends(&[(0, 9), (1, 5)]);
        let mut at = |seconds: u32, is_held| {
            known.told(&both, read([5, 5]), is_held, began + seconds * SECOND)
        };
        assert!(at(0, false).is_empty());
        assert!(at(119, false).is_empty());
        assert!(at(120, true).is_empty());
        assert!(at(239, false).is_empty());
        assert_eq!(at(240, false), [tp(0)]);
        known.told(&both, read([6, 5]), false, began + 241 * SECOND);
        assert!(known.silent().is_empty(), "it moved");
    }

    #[test]
    fn what_is_not_read_any_more_is_forgotten() {
        let (mut known, began) = (LogEnds::default(), Instant::now());
        known.told(&ends(&[]), read([0, 0]), false, began);
        known.told(&ends(&[]), read([0, 0]), false, began + SILENT);
        known.told(&ends(&[]), read([0, 0]).take(1), false, began + SILENT);
        assert_eq!(known.silent().len(), 1);
        known.told(&ends(&[]), read([0, 0]).take(0), false, began + SILENT);
        assert!(known.silent().is_empty());
    }
}
