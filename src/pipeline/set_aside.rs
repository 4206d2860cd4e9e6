//! Partitions that cannot be read, set aside while the others are read.
//!
//! A partition stands still where a batch of it cannot be read, where its log does not hold the offset in
//! the ledger, or where its broker does not let us in. What was read before that goes into the table with
//! the epoch. Then it is tried again from the ledger, less and less often: the next leader may have whole
//! what the last one had not, and a person may edit the ledger meanwhile. Only where nothing is left to
//! read, the run ends, for the reason of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::coordinator::{Coordinator, Run};
use super::end::Finish;
use super::seams::{Source, now};
use super::starts::Starts;
use super::world::World;
use crate::failure::{Failure, chain};
use crate::protocol::{Offset, Refusal, TopicPartition};
use crate::source::SourceError;

/// From the first failure to the second try, doubled each time.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How long, and how often at least, something that may pass is tried before it counts as lasting.
const PASSING: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;

/// A partition that is set aside.
struct Aside {
    /// Why, as it was told last.
    why: Failure,
    /// Where it stands: the next offset to read; -1 if it was never begun.
    at: Offset,
    since: Instant,
    tries: u32,
    /// Not to be tried before this time; `None`: not by this run.
    again: Option<Instant>,
    /// It is being tried.
    trying: bool,
    /// It was told that waiting does not help.
    lasts: bool,
    /// Generations of the ledgers, added up, by which it was refused last; 0 if none refused it.
    generation: u64,
    /// It was told that its log has grown again.
    regrown: bool,
}

/// Partitions that are set aside.
#[derive(Default)]
pub(super) struct SetAside(BTreeMap<TopicPartition, Aside>);

impl SetAside {
    /// Sets one aside that stands at `at`, or leaves it there. True if that is news.
    fn add(&mut self, tp: TopicPartition, at: Offset, why: Failure, now: Instant) -> bool {
        let known = self.0.remove(&tp).filter(|aside| aside.at == at);
        let is_new = known.is_none();
        let (since, tries, lasts, generation) = known.map_or((now, 0, false, 0), |aside| {
            (aside.since, aside.tries, aside.lasts, aside.generation)
        });
        let wait = AGAIN.0.saturating_mul(1 << tries.min(16)).min(AGAIN.1);
        let again = may_be_tried(&why).then(|| now + wait);
        let (tries, trying, regrown) = (tries + 1, false, false);
        let aside = Aside { why, at, since, tries, again, trying, lasts, generation, regrown };
        self.0.insert(tp, aside);
        is_new
    }

    /// One was refused by ledgers of this generation.
    fn refused_by(&mut self, tp: &TopicPartition, generation: u64) {
        if let Some(aside) = self.0.get_mut(tp) {
            aside.generation = generation;
        }
    }

    /// Must one stay here that could be begun again by ledgers of this `generation`? A log that ended before
    /// the ledger and has grown since has other records at offsets that are counted as read. Only a person's
    /// word leads on, or that its leader is asked for the epoch of the last one.
    fn must_stay(&self, tp: &TopicPartition, generation: u64, has_epoch: bool) -> bool {
        self.0.get(tp).is_some_and(|aside| {
            let was_cut = matches!(aside.why, Failure::Refused(Refusal::LedgerBeyondLogEnd { .. }));
            was_cut && aside.lasts && !has_epoch && aside.generation == generation
        })
    }

    /// Those that are to be tried now, of which `is_settled` says that all that was read is committed.
    pub(super) fn due(
        &self,
        now: Instant,
        is_settled: impl Fn(&TopicPartition) -> bool,
    ) -> Vec<TopicPartition> {
        let due = |aside: &Aside| !aside.trying && aside.again.is_some_and(|again| again <= now);
        let due = self.0.iter().filter(|(tp, aside)| due(aside) && is_settled(tp));
        due.map(|(tp, _)| tp.clone()).collect()
    }

    /// One is read again, or looks like it.
    pub(super) fn begun(&mut self, tp: &TopicPartition) {
        if let Some(aside) = self.0.get_mut(tp) {
            aside.trying = true;
        }
    }

    /// Those of `tried` that were not begun are tried later.
    pub(super) fn put_off(&mut self, tried: &[TopicPartition], now: Instant) {
        for tp in tried {
            if let Some(aside) = self.0.get_mut(tp) {
                aside.again = aside.again.map(|_| now + PASSING);
            }
        }
    }

    /// The log of one that must stay has grown past the ledger again.
    fn has_regrown(&mut self, tp: &TopicPartition) {
        if let Some(aside) = self.0.get_mut(tp)
            && !std::mem::replace(&mut aside.regrown, true)
        {
            tracing::error!(
                partition = %tp,
                "its log has grown past the ledger again: what was written meanwhile at offsets that are \
                 counted as read would be left out, so that it is not read until somebody says where: \
                 `icestream ledger reset --topic {} --log-was-cut --at {}=OFFSET`", tp.topic, tp.partition
            );
        }
    }

    /// Others have them now, or they are given to us anew.
    pub(super) fn forget<'a>(&mut self, gone: impl IntoIterator<Item = &'a TopicPartition>) {
        for tp in gone {
            self.0.remove(tp);
        }
    }

    /// Is nothing set aside?
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is it set aside?
    pub(super) fn contains(&self, tp: &TopicPartition) -> bool {
        self.0.contains_key(tp)
    }

    /// Does nothing come of waiting for it?
    pub(super) fn lasts(&self, tp: &TopicPartition) -> bool {
        self.0.get(tp).is_some_and(|aside| aside.lasts)
    }

    /// Those that are set aside.
    pub(super) fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.0.keys()
    }

    /// Why each is.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &Failure> {
        self.0.values().map(|aside| &aside.why)
    }

    /// Forgets those that are read again, of which `moved_on` tells whether one at this offset is.
    fn recover(
        &mut self,
        moved_on: impl Fn(&TopicPartition, Offset) -> bool,
    ) -> Vec<TopicPartition> {
        let read = |(tp, aside): &(&TopicPartition, &Aside)| aside.trying && moved_on(tp, aside.at);
        let read: Vec<_> = self.0.iter().filter(read).map(|(tp, _)| tp.clone()).collect();
        self.forget(&read);
        read
    }

    /// Those that last from now on.
    fn take_lasting(&mut self, now: Instant) -> Vec<(&TopicPartition, &Failure)> {
        let lasts = |aside: &Aside| {
            let often = aside.tries >= TRIES && now.duration_since(aside.since) >= PASSING;
            !aside.lasts && (often || !may_pass(&aside.why))
        };
        let mut new = Vec::new();
        for (tp, aside) in self.0.iter_mut().filter(|(_, aside)| lasts(aside)) {
            aside.lasts = true;
            new.push((tp, &aside.why));
        }
        new
    }

    /// Of the first of these why it is, as the reason of the run.
    fn take_why(&mut self, of: impl Fn(&TopicPartition) -> bool) -> Option<Failure> {
        let first = self.0.keys().find(|tp| of(tp)).cloned()?;
        self.0.remove(&first).map(|aside| aside.why)
    }
}

/// May it be read again without anybody's doing?
fn may_pass(why: &Failure) -> bool {
    match why {
        Failure::Source(error) => {
            matches!(error, SourceError::Unreadable { .. } | SourceError::OutOfRange { .. })
                || error.is_transient()
        }
        // A new leader may show an older end of the log for a moment.
        Failure::Refused(refusal) => matches!(refusal, Refusal::LedgerBeyondLogEnd { .. }),
        other => other.is_transient(),
    }
}

/// May it be tried again? From a log that was cut records would be read at offsets that are counted as
/// read, once it has grown.
fn may_be_tried(why: &Failure) -> bool {
    !matches!(why, Failure::Source(SourceError::CutOff { .. }))
}

impl<W: World> Coordinator<W> {
    /// Sets those aside that cannot begin, and leaves those there that may not.
    pub(super) fn sort_out(
        &mut self,
        run: &mut Run<W>,
        starts: &mut Starts,
    ) -> Result<(), Failure> {
        let generation = starts.generation();
        for (tp, refusal) in std::mem::take(&mut starts.refused) {
            self.set_aside(run, tp.clone(), Failure::Refused(refusal))?;
            run.aside.refused_by(&tp, generation);
        }
        let has_epoch = |tp: &TopicPartition| starts.epochs.contains_key(tp);
        let stay = |tp: &&TopicPartition| run.aside.must_stay(tp, generation, has_epoch(tp));
        let stay: Vec<TopicPartition> = starts.at.keys().filter(stay).cloned().collect();
        for tp in &stay {
            starts.at.remove(tp);
            run.aside.has_regrown(tp);
        }
        run.aside.put_off(&stay, now());
        Ok(())
    }

    /// A partition cannot be read on.
    pub(super) fn set_aside(
        &mut self,
        run: &mut Run<W>,
        tp: TopicPartition,
        why: Failure,
    ) -> Result<(), Failure> {
        let position = self.position(&tp).or_else(|| self.tables.ledger(&tp));
        if self.owned.contains_key(&tp) {
            self.source.set_aside(std::slice::from_ref(&tp))?;
        }
        let reason = chain(&why);
        match run.aside.add(tp.clone(), position.unwrap_or(-1), why, now()) {
            true => tracing::warn!(
                partition = %tp, error = %reason, "set aside: the other partitions are read on"
            ),
            false => tracing::debug!(partition = %tp, error = %reason, "set aside still"),
        }
        self.show_unread(run);
        Ok(())
    }

    /// Is all that was read of a partition committed, so that it may be begun anew?
    pub(super) fn is_settled(&self, tp: &TopicPartition) -> bool {
        let Some(owned) = self.owned.get(tp) else { return true };
        let position = self.position(tp).unwrap_or(owned.start);
        position <= owned.start
            || self.tables.iter().all(|t| t.ledger.get(tp).is_some_and(|next| next >= position))
    }

    /// Looks at the partitions that are set aside: which are read again, and for which waiting does not help.
    pub(super) fn look_aside(&mut self, run: &mut Run<W>, now: Instant) {
        if run.aside.is_empty() {
            return;
        }
        // An answer that has nothing for us is one, too.
        let moved_on = |tp: &TopicPartition, at: Offset| {
            self.owned.contains_key(tp)
                && (self.position(tp).is_some_and(|position| position > at)
                    || self.source.log_end(tp).is_some_and(|end| end <= at))
        };
        let read = run.aside.recover(moved_on);
        for tp in &read {
            tracing::info!(partition = %tp, "it is read again");
        }
        for (tp, why) in run.aside.take_lasting(now) {
            if let Some(refusal) = why.refusal() {
                self.metrics.add_refusal(refusal);
            }
            tracing::error!(
                partition = %tp, refusal = why.refusal(), error = %chain(why),
                "not read until somebody looks; the other partitions are"
            );
        }
        if !read.is_empty() {
            self.show_unread(run);
        }
    }

    /// Is nothing left to read for this instance?
    pub(super) fn nothing_is_left(&self, run: &Run<W>) -> bool {
        let lasts = |tp: &TopicPartition| run.aside.lasts(tp);
        !run.aside.is_empty()
            && run.members.has_all_begun()
            && run.aside.partitions().all(lasts)
            && self.owned.keys().all(lasts)
    }

    /// Ends the run for the reason of a partition that is set aside.
    pub(super) fn finish_aside(&self, run: &mut Run<W>, of: impl Fn(&TopicPartition) -> bool) {
        let lasting: BTreeSet<TopicPartition> =
            run.aside.partitions().filter(|tp| of(tp) && run.aside.lasts(tp)).cloned().collect();
        if let Some(why) = run.aside.take_why(|tp| lasting.contains(tp)) {
            self.finish(run, Finish::Aside(Box::new(why)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tp() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn unreadable() -> Failure {
        let (partition, detail) = (tp(), String::from("damaged"));
        SourceError::Unreadable { partition, offset: 7, next: None, detail }.into()
    }

    fn beyond() -> Failure {
        let (table, partition) = (String::from("db.t"), tp());
        Failure::Refused(Refusal::LedgerBeyondLogEnd { table, partition, ledger: 7, log_end: 3 })
    }

    fn cut_off() -> Failure {
        SourceError::CutOff { partition: tp(), detail: String::from("at 3") }.into()
    }

    #[test]
    fn a_partition_is_tried_less_and_less_often_and_only_when_all_is_committed() {
        let (mut aside, mut now) = (SetAside::default(), Instant::now());
        let mut waits = Vec::new();
        for tries in 0..12 {
            assert_eq!(aside.add(tp(), 7, unreadable(), now), tries == 0);
            let began = now;
            while aside.due(now, |_| true).is_empty() {
                now += Duration::from_millis(100);
            }
            assert!(aside.due(now, |_| false).is_empty(), "not committed yet");
            aside.begun(&tp());
            assert!(aside.due(now + 100 * SECOND, |_| true).is_empty(), "it is being tried");
            waits.push((now - began).as_millis());
        }
        assert_eq!(waits[..4], [200, 400, 800, 1600]);
        assert_eq!(waits[10..], [60_000, 60_000]);
    }

    #[test]
    fn it_lasts_after_a_while_of_tries_at_the_same_offset() {
        let (mut aside, now) = (SetAside::default(), Instant::now());
        aside.add(tp(), 7, unreadable(), now);
        aside.add(tp(), 7, unreadable(), now + SECOND);
        assert!(aside.take_lasting(now + 20 * SECOND).is_empty(), "tried too seldom");
        aside.add(tp(), 7, unreadable(), now + 2 * SECOND);
        assert!(aside.take_lasting(now + 9 * SECOND).is_empty(), "too soon");
        assert_eq!(aside.take_lasting(now + 10 * SECOND).len(), 1);
        assert!(aside.take_lasting(now + 11 * SECOND).is_empty(), "told once");
        assert!(aside.lasts(&tp()));
        // Further on it is another matter.
        aside.add(tp(), 8, unreadable(), now + 12 * SECOND);
        assert!(!aside.lasts(&tp()));
    }

    #[test]
    fn a_log_that_was_cut_is_not_read_on_by_the_same_run() {
        let (mut aside, now) = (SetAside::default(), Instant::now());
        aside.add(tp(), 7, cut_off(), now);
        assert_eq!(aside.take_lasting(now).len(), 1, "no waiting helps");
        assert!(aside.due(now + 10_000 * SECOND, |_| true).is_empty());
        aside.put_off(&[tp()], now);
        assert!(aside.due(now + 10_000 * SECOND, |_| true).is_empty());
    }

    #[test]
    fn one_that_is_tried_is_forgotten_when_it_moves_on() {
        let (mut aside, now) = (SetAside::default(), Instant::now());
        aside.add(tp(), 7, unreadable(), now);
        assert!(aside.recover(|_, _| true).is_empty(), "not tried yet");
        aside.begun(&tp());
        assert!(aside.recover(|_, at| at > 7).is_empty());
        assert_eq!(aside.recover(|_, at| at == 7), [tp()]);
        assert!(aside.is_empty());
    }

    #[test]
    fn one_whose_leader_does_not_answer_is_tried_later() {
        let (mut aside, now) = (SetAside::default(), Instant::now());
        aside.add(tp(), 7, unreadable(), now);
        assert_eq!(aside.due(now + SECOND, |_| true), [tp()]);
        aside.put_off(&[tp()], now + SECOND);
        assert!(aside.due(now + 2 * SECOND, |_| true).is_empty());
        assert_eq!(aside.due(now + 12 * SECOND, |_| true), [tp()]);
    }

    #[test]
    fn a_log_that_ended_before_the_ledger_for_long_is_not_read_on_by_itself_when_it_has_grown() {
        let (mut aside, now) = (SetAside::default(), Instant::now());
        for tries in 0..4 {
            aside.add(tp(), 7, beyond(), now + tries * SECOND);
            aside.refused_by(&tp(), 5);
            assert!(!aside.must_stay(&tp(), 5, false), "a new leader may be behind for a moment");
        }
        assert_eq!(aside.take_lasting(now + 10 * SECOND).len(), 1);
        assert!(aside.must_stay(&tp(), 5, false));
        assert!(!aside.must_stay(&tp(), 5, true), "its leader finds out");
        assert!(!aside.must_stay(&tp(), 6, false), "somebody edited the ledger");
        aside.put_off(&[tp()], now);
        assert!(!aside.due(now + 100 * SECOND, |_| true).is_empty(), "the ledger is looked at");
        // Whatever else is the matter with it then.
        aside.add(tp(), 7, unreadable(), now);
        assert!(!aside.must_stay(&tp(), 5, false));
    }
}
