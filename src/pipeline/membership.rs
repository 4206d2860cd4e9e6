//! The assignment: partitions come and go with the consumer group.
//!
//! A partition that comes is read from its ledger, as the table shows it after the group gave the
//! partition to us. A partition that goes is sealed into the open epoch and read no further; the
//! group hears that we let go of it when that epoch is settled, or a set time has passed. A lost
//! assignment (the group took us for dead) is somebody else's already: what is not prepared is
//! dropped. None of this is needed to be exact, since a commit that comes too late is fenced; it
//! keeps work from being done twice.
//!
//! A group can settle with partitions that nobody reads: a static member that is killed between the two
//! steps of a rebalance and is back within its session is answered with the assignment of the first,
//! and the second does not come. So each member looks now and then, and the one with the fewest
//! partitions joins again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::coordinator::{Coordinator, Owned, Run};
use super::end::{RunEnd, join_error};
use super::hearing::not_answered;
use super::messages::{Begin, Command};
use super::seams::Source;
use super::seams::now;
use super::starts::{Starts, starts};
use super::world::World;
use crate::broken::{self, Variant};
use crate::failure::{Failure, chain};
use crate::protocol::{Frontier, TopicPartition};
use crate::source::{LeftOut, Membership, Share};
use crate::telemetry::{Rebalance, Server, Unread};

/// How often leaders that did not answer are asked where logs begin and end.
const ABSENT_EVERY: Duration = Duration::from_secs(2);
/// How long a group may leave partitions to nobody at least, however soon members let go of them.
const LEFT_OUT_AT_LEAST: Duration = Duration::from_millis(500);
/// How many partitions a message names.
const LISTED: usize = 20;
/// How often that time is doubled at most.
const MOST_DOUBLINGS: u32 = 6;

/// Changes of the assignment that are not done yet.
#[derive(Default)]
pub(super) struct Members {
    changes: VecDeque<Membership>,
    reading: Option<JoinHandle<Result<Read, Failure>>>,
    assigning: Option<Assigning>,
    revoking: Option<Revoking>,
    /// Partitions that the group leaves to nobody, and since when.
    left_out: Option<(Vec<TopicPartition>, Instant)>,
    /// How often we joined again since each partition had a reader.
    rejoined: u32,
    /// Tables into which other members of the group carry.
    others: BTreeSet<String>,
    /// Partitions that are ours and not read, since no leader of theirs answers.
    absent: BTreeSet<TopicPartition>,
    /// When that was asked last.
    asked_absent: Option<Instant>,
    /// Is that what is being read? A change of the assignment does not wait for it.
    is_late: bool,
}

/// What was read beside the loop.
pub(super) enum Read {
    /// Where to begin in partitions, as far as leaders tell.
    Starts(Wanted, Starts),
    /// The ledgers by table.
    Ledgers(BTreeMap<String, Frontier>),
}

/// Partitions to begin.
#[derive(Clone)]
pub(super) struct Wanted {
    partitions: Vec<TopicPartition>,
    /// Were they assigned before, as absent?
    late: bool,
}

/// Shards are told of new partitions.
struct Assigning {
    wanted: Wanted,
    starts: Starts,
    shares: Vec<Share>,
    owned: BTreeMap<TopicPartition, Owned>,
    /// Shards that have not answered.
    waiting: usize,
}

struct Revoking {
    partitions: Arc<BTreeSet<TopicPartition>>,
    since: Instant,
    sealed: bool,
}

impl Members {
    pub(super) fn push(&mut self, change: Membership) {
        self.left_out = None;
        if std::mem::take(&mut self.is_late)
            && let Some(reading) = self.reading.take()
        {
            reading.abort();
        }
        self.changes.push_back(change);
    }

    /// Partitions that the next barrier is to let go, if it was not sent yet.
    pub(super) fn take_revoked(&mut self) -> Option<Arc<BTreeSet<TopicPartition>>> {
        let revoking = self.revoking.as_mut().filter(|revoking| !revoking.sealed)?;
        revoking.sealed = true;
        Some(revoking.partitions.clone())
    }

    /// What was read beside the loop, when it is there.
    pub(super) async fn read(&mut self) -> Result<Read, Failure> {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        (self.reading, self.is_late) = (None, false);
        read.map_err(join_error)?
    }

    /// Is it time to ask again for partitions that no leader told of? From now on it is not.
    fn asks_for_absent(&mut self, now: Instant) -> bool {
        let due = self.asked_absent.is_none_or(|asked| now.duration_since(asked) >= ABSENT_EVERY);
        let asks = due && !self.absent.is_empty();
        if asks {
            self.asked_absent = Some(now);
        }
        asks
    }

    /// Is every partition that is ours begun, and no change under way?
    pub(super) fn has_all_begun(&self) -> bool {
        self.is_idle() && self.absent.is_empty()
    }

    /// Is it ours, and not read for want of a leader?
    pub(super) fn is_absent(&self, tp: &TopicPartition) -> bool {
        self.absent.contains(tp)
    }

    /// Is nothing under way?
    fn is_idle(&self) -> bool {
        self.changes.is_empty()
            && self.reading.is_none()
            && self.assigning.is_none()
            && self.revoking.is_none()
    }

    /// Since when the group leaves the same partitions to nobody.
    fn left_out_since(&mut self, partitions: Vec<TopicPartition>, now: Instant) -> Instant {
        match &self.left_out {
            Some((known, since)) if *known == partitions => *since,
            _ => {
                self.left_out = Some((partitions, now));
                now
            }
        }
    }

    /// The run is over.
    pub(super) fn abandon(&mut self) {
        if let Some(reading) = self.reading.take() {
            reading.abort();
        }
    }
}

impl<W: World> Coordinator<W> {
    /// Does what is next to be done about the assignment, if it can be done now.
    pub(super) fn membership(
        &mut self,
        run: &mut Run<W>,
        now: Instant,
    ) -> Result<Option<RunEnd>, Failure> {
        if run.members.changes.iter().any(|change| matches!(change, Membership::Lost)) {
            self.metrics.add_rebalance(Rebalance::Lost);
            tracing::warn!("the group gave our partitions away; what is not committed is dropped");
            return Ok(Some(RunEnd::Dropped));
        }
        let settled = run.sealing.is_none() && run.commit.is_none();
        if let Some(revoking) = &run.members.revoking {
            if revoking.sealed && settled {
                let partitions = revoking.partitions.clone();
                run.members.revoking = None;
                run.members.absent.retain(|tp| !partitions.contains(tp));
                run.aside.forget(partitions.iter());
                self.revoked(run, &partitions)?;
                self.show_unread(run);
            } else if now.duration_since(revoking.since) > self.settings.revocation_timeout {
                tracing::warn!(
                    "revoked partitions are not committed in time; what is not committed is dropped"
                );
                return Ok(Some(RunEnd::Dropped));
            }
            return Ok(None);
        }
        // Leaving lets go of everything by itself.
        if run.members.assigning.is_some() || run.members.reading.is_some() || run.finish.is_some()
        {
            return Ok(None);
        }
        match run.members.changes.pop_front() {
            Some(Membership::Assigned(partitions)) if partitions.is_empty() => {
                self.source.assign(&[], &[])?;
                self.begun(run);
            }
            Some(Membership::Assigned(partitions)) => {
                run.aside.forget(&partitions);
                self.begin_taking(run, Wanted { partitions, late: false });
            }
            Some(Membership::Revoked(partitions)) => {
                tracing::info!(partitions = %list(&partitions), "revoked: sealing and committing");
                if broken::is(Variant::AcknowledgeBeforeFence) {
                    self.source.revoke(&partitions)?;
                }
                let partitions = Arc::new(partitions.into_iter().collect());
                run.members.revoking = Some(Revoking { partitions, since: now, sealed: false });
            }
            Some(Membership::Lost) | None => {
                let late = self.late(run, now);
                match late.is_empty() {
                    true => self.refresh(run, now),
                    false => self.begin_taking(run, Wanted { partitions: late, late: true }),
                }
            }
        }
        Ok(None)
    }

    /// Partitions of ours that are not read, and are to be tried now.
    fn late(&self, run: &mut Run<W>, now: Instant) -> Vec<TopicPartition> {
        let mut late = run.aside.due(now, |tp| self.is_settled(tp));
        if run.members.asks_for_absent(now) {
            late.extend(run.members.absent.iter().cloned());
        }
        late
    }

    /// New partitions: read the table and the log, beside the loop.
    fn begin_taking(&mut self, run: &mut Run<W>, wanted: Wanted) {
        let (committer, settings) = (self.committer.clone(), self.settings.clone());
        let (info, late) = (self.info.clone(), wanted.late);
        run.members.reading = Some(tokio::spawn(async move {
            // Not the table first: it would be read for as long as they are away.
            let told = match wanted.late {
                true => committer.source.known_log_ranges(wanted.partitions.clone()).await,
                false => Ok(BTreeMap::new()),
            };
            let starts = match told {
                Ok(told) if wanted.late && told.is_empty() => Ok(Starts::default()),
                Ok(_) => starts(&committer, &settings, &info, &wanted.partitions).await,
                Err(failure) => Err(failure),
            };
            match starts {
                Ok(starts) => Ok(Read::Starts(wanted, starts)),
                // The others go on meanwhile.
                Err(failure) if wanted.late && failure.is_transient() => {
                    tracing::debug!(error = %chain(&failure), "absent partitions");
                    Ok(Read::Starts(wanted, Starts::default()))
                }
                Err(failure) => Err(failure),
            }
        }));
        run.members.is_late = late;
    }

    /// With `--until-caught-up` the last to do may be another instance's.
    fn refresh(&self, run: &mut Run<W>, now: Instant) {
        let waits = self.targets.is_some()
            && now.duration_since(run.refreshed) >= self.settings.trigger.interval;
        if waits && run.commit.is_none() {
            run.refreshed = now;
            let committer = self.committer.clone();
            run.members.reading = Some(tokio::spawn(async move {
                let readings = committer.readings().await?.into_iter();
                let ledgers = readings.map(|(name, reading)| {
                    let ledger = reading.view().ledger.as_ref();
                    (name, ledger.map(|ledger| ledger.frontier.clone()).unwrap_or_default())
                });
                Ok(Read::Ledgers(ledgers.collect()))
            }));
        }
    }

    /// Something was read beside the loop: go on with it.
    pub(super) fn was_read(&mut self, run: &mut Run<W>, read: Read) -> Result<(), Failure> {
        match read {
            Read::Starts(wanted, starts) => self.tell_shards(run, wanted, starts),
            Read::Ledgers(ledgers) => {
                for (table, ledger) in ledgers {
                    self.others(&table, &ledger);
                }
                Ok(())
            }
        }
    }

    /// Tells each shard of its new partitions, the least busy first.
    fn tell_shards(
        &mut self,
        run: &mut Run<W>,
        wanted: Wanted,
        mut starts: Starts,
    ) -> Result<(), Failure> {
        let not_begun = |tp: &&TopicPartition| !starts.at.contains_key(*tp);
        let not_begun: Vec<_> = wanted.partitions.iter().filter(not_begun).cloned().collect();
        run.aside.put_off(&not_begun, now());
        run.members.absent.retain(|tp| !starts.refused.contains_key(tp));
        self.sort_out(run, &mut starts)?;
        if wanted.late && starts.is_empty() {
            return Ok(());
        }
        let mut load = vec![0_usize; self.commands.len()];
        for owned in self.owned.values() {
            load[owned.shard] += 1;
        }
        let mut begins: Vec<Vec<Begin>> = load.iter().map(|_| Vec::new()).collect();
        let (mut shares, mut owned) = (Vec::new(), BTreeMap::new());
        for (tp, tables) in &starts.at {
            let start = tables.iter().map(|at| at.start).min().unwrap_or(0);
            let least = load.iter().enumerate().min_by_key(|(_, partitions)| **partitions);
            let least = least.map_or(0, |(index, _)| index);
            // One that was set aside takes its own place there.
            let shard = self.owned.get(tp).map_or(least, |owned| owned.shard);
            load[shard] += 1;
            let position = Arc::new(AtomicI64::new(start));
            begins[shard].push(Begin {
                tp: tp.clone(),
                tables: tables.clone(),
                start,
                position: position.clone(),
            });
            let epoch = starts.epochs.get(tp).copied();
            shares.push(Share { tp: tp.clone(), start, epoch, shard });
            owned.insert(tp.clone(), Owned { position, start, shard });
        }
        // All of them, also those without new ones: one that answers holds no record any more of
        // an earlier assignment.
        let waiting = self.commands.len();
        for (shard, begins) in begins.into_iter().enumerate() {
            self.tell(run, shard, Command::Take(begins))?;
        }
        run.members.assigning = Some(Assigning { wanted, starts, shares, owned, waiting });
        Ok(())
    }

    /// A shard knows its new partitions. When all do, records may come.
    pub(super) fn ready(&mut self, run: &mut Run<W>) -> Result<(), Failure> {
        let Some(assigning) = &mut run.members.assigning else {
            return Err(Failure::Internal(String::from("a shard was ready unasked")));
        };
        assigning.waiting -= 1;
        if assigning.waiting > 0 {
            return Ok(());
        }
        let Some(assigning) = run.members.assigning.take() else { return Ok(()) };
        for (tp, tables) in assigning.starts.at {
            run.aside.begun(&tp);
            for (table, at) in self.tables.0.iter_mut().zip(tables) {
                match at.ledger {
                    Some(next) => table.ledger.set(tp.clone(), next),
                    None => {
                        table.ledger.0.remove(&tp);
                    }
                }
            }
        }
        let assigned = |tp: &TopicPartition| Some((tp.clone(), self.tables.ledger(tp)?));
        let ledger: Frontier = assigning.owned.keys().filter_map(assigned).collect();
        tracing::info!(
            partitions = assigning.shares.len(), %ledger, "assigned: reading from the ledger"
        );
        let Wanted { mut partitions, late } = assigning.wanted;
        partitions.retain(|tp| !assigning.owned.contains_key(tp));
        match late {
            true => self.source.begin(&assigning.shares)?,
            false => self.source.assign(&assigning.shares, &partitions)?,
        }
        partitions.retain(|tp| !run.aside.contains(tp));
        run.members.absent.retain(|tp| !assigning.owned.contains_key(tp));
        if !partitions.is_empty() && !late {
            tracing::warn!(
                partitions = %list(&partitions),
                "no leader of these partitions answers: they are not read yet, the others are"
            );
            run.members.absent.extend(partitions);
            run.members.asked_absent = Some(now());
        }
        self.owned.extend(assigning.owned);
        if !run.is_unreachable() {
            self.show_unread(run);
        }
        self.begun(run);
        self.metrics.add_rebalance(Rebalance::Assigned);
        self.gauges(run);
        Ok(())
    }

    /// Partitions that are not read are a reason not to be ready.
    pub(super) fn show_unread(&self, run: &Run<W>) {
        let absent: Vec<TopicPartition> = run.members.absent.iter().cloned().collect();
        if !run.is_unreachable() {
            let silent = run.hearing.is_silent().then(|| not_answered(&self.settings.pipeline));
            let missing = silent.or_else(|| {
                let is_whole = absent.is_empty();
                (!is_whole).then(|| format!("no leader of {} answers", list(&absent)))
            });
            self.metrics.set_reachable(Server::Kafka, missing.is_none());
            match missing {
                None => self.health.set_reachable(Server::Kafka),
                Some(reason) => self.health.set_unreachable(Server::Kafka, reason),
            }
        }
        let aside: Vec<TopicPartition> = run.aside.partitions().cloned().collect();
        self.metrics.set_unread(Unread::NoLeader, absent.len());
        self.metrics.set_unread(Unread::SetAside, aside.len());
        let silent: Vec<TopicPartition> = run.ends.silent().iter().cloned().collect();
        self.metrics.set_unread(Unread::NoAnswer, silent.len());
        let first = run.aside.reasons().next().map(|why| chain(why));
        let reason = first.map(|first| format!("not read: {}: {first}", list(&aside)));
        let other = run.members.others.first();
        let shared =
            other.map(|table| format!("the group is shared with the pipeline into {table}"));
        self.health.set_unread(reason.or(shared).or_else(|| {
            let is_silent = !silent.is_empty();
            is_silent
                .then(|| format!("not read: {}: nothing comes from their leaders", list(&silent)))
        }));
    }

    /// Joins the group again if it leaves partitions to nobody for longer than a member may take to let go
    /// of them. Members take turns, so that one that cannot do it does not hold up the others.
    pub(super) fn left_out(
        &mut self,
        run: &mut Run<W>,
        left_out: LeftOut,
        now: Instant,
    ) -> Result<(), Failure> {
        // A group that is about to share out anew, or does not answer, may not tell of all.
        let is_told = left_out.is_settled || !left_out.others.is_empty();
        if is_told && left_out.others != run.members.others {
            run.members.others = left_out.others;
            for table in &run.members.others {
                tracing::error!(
                    %table, "the group has members that carry into another table: each pipeline lacks what \
                    the other reads; give each a KAFKA_GROUP_ID of its own"
                );
            }
            self.show_unread(run);
        }
        if left_out.partitions.is_empty() {
            run.members.left_out = None;
            if left_out.is_settled {
                run.members.rejoined = 0;
            }
            return Ok(());
        }
        let listed = list(&left_out.partitions);
        let since = run.members.left_out_since(left_out.partitions, now);
        let longest = self.settings.revocation_timeout;
        if now.duration_since(since) <= patience(longest, left_out.before, run.members.rejoined)
            || !run.members.is_idle()
            || run.finish.is_some()
            || broken::is(Variant::LeavePartitionsOut)
        {
            return Ok(());
        }
        tracing::warn!(partitions = %listed, "the group leaves partitions to nobody: joining it again");
        run.members.left_out = None;
        run.members.rejoined = run.members.rejoined.saturating_add(1);
        self.source.rejoin()?;
        self.metrics.add_rebalance(Rebalance::Rejoined);
        Ok(())
    }

    fn revoked(
        &mut self,
        run: &Run<W>,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<(), Failure> {
        let gone: Vec<TopicPartition> = partitions.iter().cloned().collect();
        if !broken::is(Variant::AcknowledgeBeforeFence) {
            self.source.revoke(&gone)?;
        }
        for tp in partitions {
            self.owned.remove(tp);
            self.timestamps.remove(tp);
            self.metrics.forget_position(tp);
        }
        self.metrics.add_rebalance(Rebalance::Revoked);
        self.gauges(run);
        tracing::info!(partitions = %list(&gone), "revoked");
        Ok(())
    }
}

/// How long partitions may be left to nobody before we join again, with so many members before us, and
/// having done it so often: a group that it does not help is not to be disturbed for ever.
fn patience(revocation: Duration, before: u32, rejoined: u32) -> Duration {
    let turn = revocation.max(LEFT_OUT_AT_LEAST).saturating_mul(before.saturating_add(1));
    turn.saturating_mul(1 << rejoined.min(MOST_DOUBLINGS))
}

/// Partitions by name, for messages: not all of thousands.
pub(super) fn list(partitions: &[TopicPartition]) -> String {
    let mut names: Vec<String> = partitions.iter().take(LISTED).map(ToString::to_string).collect();
    if partitions.len() > LISTED {
        names.push(format!("and {} more", partitions.len() - LISTED));
    }
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::seams::now;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn members_take_turns_and_wait_longer_each_time_that_joining_again_did_not_help() {
        let waits = |before, rejoined| patience(30 * SECOND, before, rejoined).as_secs();
        assert_eq!([waits(0, 0), waits(1, 0), waits(2, 0)], [30, 60, 90]);
        assert_eq!([waits(0, 1), waits(0, 2), waits(1, 2)], [60, 120, 240]);
        assert_eq!(waits(0, 100), waits(0, MOST_DOUBLINGS));
        assert!(patience(Duration::ZERO, 1, 0) > patience(Duration::ZERO, 0, 0), "no turns");
        assert!(patience(Duration::MAX, u32::MAX, u32::MAX) == Duration::MAX);
    }

    #[test]
    fn the_time_begins_anew_with_other_partitions_and_with_every_change_of_the_assignment() {
        let tps = |number| vec![TopicPartition::new("t", number)];
        let (mut members, begun) = (Members::default(), now());
        assert_eq!(members.left_out_since(tps(0), begun), begun);
        assert_eq!(members.left_out_since(tps(0), begun + SECOND), begun);
        assert_eq!(members.left_out_since(tps(1), begun + 2 * SECOND), begun + 2 * SECOND);
        members.push(Membership::Assigned(Vec::new()));
        assert_eq!(members.left_out_since(tps(1), begun + 3 * SECOND), begun + 3 * SECOND);
    }
}
