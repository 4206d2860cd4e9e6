//! Whether the consumer group answers: whether it gave this run something, and tells of us when it is asked.
//!
//! A member that was given nothing yet reads nothing, and looks as healthy as one that has nothing to read.
//! So a run is ready when it was told what is its own, were it nothing; and a group that stays silent is a
//! server that does not answer. Not every cluster tells of a group's members to one of them, so silence
//! after an assignment counts only where the group told before.

use std::time::{Duration, Instant};

use super::coordinator::{Coordinator, Run};
use super::seams::{Source, now};
use super::world::World;
use crate::failure::{Failure, chain};
use crate::source::{LeftOut, Membership};

/// How long a group may say nothing before that is told.
const SILENT: Duration = Duration::from_secs(30);

/// What the group was heard to say.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// It gave an assignment, an empty one perhaps.
    assigned: bool,
    /// That is begun.
    begun: bool,
    /// It told of us when it was asked.
    tells: bool,
    /// Since when an answer is missing.
    missing: Option<Instant>,
    /// That was told.
    silent: bool,
}

impl Hearing {
    /// The group is asked from now on.
    pub(super) fn new(now: Instant) -> Self {
        Self { missing: Some(now), ..Self::default() }
    }

    /// The group changed what is ours.
    fn changed(&mut self) {
        self.assigned = true;
        self.missing = None;
    }

    /// The group was asked, and told of us or not.
    fn asked(&mut self, told: bool, now: Instant) {
        match told {
            true => (self.tells, self.missing) = (true, None),
            false if !self.assigned || self.tells => {
                self.missing.get_or_insert(now);
            }
            false => {}
        }
    }

    /// The cluster answers. While it was away, if it was, nobody could tell of the group.
    pub(super) fn reachable(&mut self, away: Option<Instant>, now: Instant) {
        if away.is_some() {
            self.missing = self.missing.map(|_| now);
        }
    }

    /// Did the group say nothing for long?
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// True if it is silent from now on, or is not any more.
    fn turns(&mut self, now: Instant) -> bool {
        let silent = self.missing.is_some_and(|since| now.duration_since(since) >= SILENT);
        std::mem::replace(&mut self.silent, silent) != silent
    }

    /// Is it to be waited for no longer, by a process that reads nothing? One that has its answer already
    /// and nothing to do is not ended for a question that was lost.
    fn is_over(&self, now: Instant, give_up: Duration) -> bool {
        let give_up = if self.assigned { give_up.max(SILENT) } else { give_up };
        self.missing.is_some_and(|since| now.duration_since(since) > give_up)
    }

    /// Why a run that was given nothing yet is not ready.
    fn why(&self, group: &str) -> String {
        match (self.assigned, self.tells) {
            (true, _) => format!("beginning to read what group {group} gave"),
            (false, true) => format!("group {group} is sharing out its partitions"),
            (false, false) => not_answered(group),
        }
    }
}

/// A group that says nothing, as a reason.
pub(super) fn not_answered(group: &str) -> String {
    format!("group {group} has not answered")
}

impl<W: World> Coordinator<W> {
    /// The group changed what is ours.
    pub(super) fn group_changed(&self, run: &mut Run<W>, change: Membership) {
        run.hearing.changed();
        run.members.push(change);
    }

    /// The group was asked what it leaves to nobody.
    pub(super) fn group_asked(
        &mut self,
        run: &mut Run<W>,
        told: Option<LeftOut>,
    ) -> Result<(), Failure> {
        let now = now();
        run.hearing.asked(told.as_ref().is_some_and(|told| told.is_member), now);
        // Without an answer the group may have changed meanwhile.
        self.left_out(run, told.unwrap_or_default(), now)
    }

    /// What is ours is begun, or it is known that nothing is.
    pub(super) fn begun(&self, run: &mut Run<W>) {
        run.hearing.begun = true;
        self.health.set_ready();
    }

    /// Tells a group that does not answer, and waits for it no longer than for other servers.
    pub(super) fn look_at_group(&self, run: &mut Run<W>, now: Instant) -> Result<(), Failure> {
        if self.settings.group && !run.hearing.begun {
            self.health.set_not_ready(run.hearing.why(&self.settings.pipeline));
        }
        if run.hearing.turns(now) {
            match run.hearing.is_silent() {
                true => tracing::warn!(error = %chain(&self.source.no_group()), "no answer"),
                false => tracing::info!(group = %self.settings.pipeline, "the group answers"),
            }
            self.show_unread(run);
        }
        let give_up = self.settings.retry_give_up;
        let waits = self.owned.is_empty() && run.finish.is_none() && !run.is_unreachable();
        if waits && run.hearing.is_over(now, give_up) {
            let last = Box::new(self.source.no_group());
            return Err(Failure::GaveUp { after: give_up, last });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_group_that_gives_nothing_and_tells_nothing_is_silent_and_then_given_up() {
        let began = Instant::now();
        let mut group = Hearing::new(began);
        assert_eq!(group.why("g"), "group g has not answered");
        group.asked(false, began + 20 * SECOND);
        assert!(!group.turns(began + 29 * SECOND) && !group.is_silent());
        assert!(group.turns(began + 30 * SECOND) && group.is_silent());
        assert!(!group.turns(began + 31 * SECOND), "told once");
        assert!(!group.is_over(began + 60 * SECOND, 60 * SECOND));
        assert!(group.is_over(began + 61 * SECOND, 60 * SECOND));
        group.changed();
        assert!(group.turns(began + 62 * SECOND) && !group.is_silent());
        assert!(!group.is_over(began + 1000 * SECOND, 60 * SECOND));
    }

    #[test]
    fn a_rebalance_may_take_its_time_as_long_as_the_group_tells_of_us() {
        let began = Instant::now();
        let mut group = Hearing::new(began);
        for asked in 1..100 {
            group.asked(true, began + asked * 30 * SECOND);
            assert!(!group.turns(began + asked * 30 * SECOND + 29 * SECOND));
            assert!(!group.is_over(began + asked * 30 * SECOND, SECOND));
        }
        assert_eq!(group.why("g"), "group g is sharing out its partitions");
        // The time begins with the first answer that is missing.
        let now = began + 4000 * SECOND;
        group.asked(false, now);
        assert!(!group.is_over(now + 60 * SECOND, 60 * SECOND));
        assert!(group.is_over(now + 61 * SECOND, 60 * SECOND));
        group.reachable(None, now + 61 * SECOND);
        assert!(group.is_over(now + 61 * SECOND, 60 * SECOND));
        group.reachable(Some(now), now + 61 * SECOND);
        assert!(!group.is_over(now + 61 * SECOND, 60 * SECOND), "the cluster was away");
    }

    #[test]
    fn after_an_assignment_only_a_group_that_told_of_us_before_can_be_silent() {
        let began = Instant::now();
        let mut group = Hearing::new(began);
        group.changed();
        group.asked(false, began);
        assert!(!group.turns(began + 1000 * SECOND), "it tells nobody of its members");
        group.asked(true, began + 1000 * SECOND);
        let now = began + 1030 * SECOND;
        group.asked(false, now);
        assert!(!group.is_over(now + 20 * SECOND, SECOND), "one question may be lost");
        assert!(group.turns(now + 30 * SECOND) && group.is_over(now + 31 * SECOND, SECOND));
        group.asked(true, now + 32 * SECOND);
        assert!(group.turns(now + 32 * SECOND) && !group.is_silent());
    }
}
