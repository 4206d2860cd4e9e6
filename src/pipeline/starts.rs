//! Where to begin in partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::committer::Committer;
use super::flow_tables::reporter;
use super::reading::Readings;
use super::seams::{Checkpoints, Source, now};
use super::settings::RunSettings;
use super::world::World;
use crate::failure::{Failure, chain};
use crate::protocol::{
    Refusal, ResetPolicy, SourceView, StartAt, TopicPartition, generation, positions,
};
use crate::source::{Reporter, TopicInfo};

/// A new leader may show an older end of the log for a moment. Only one that stays is refused.
const LOG_END_PATIENCE: Duration = Duration::from_secs(10);
const LOG_END_AGAIN: Duration = Duration::from_millis(500);

/// Where to begin in partitions, and which cannot begin. One of which no leader tells where its log begins
/// and ends is among neither.
#[derive(Clone, Debug, Default)]
pub(super) struct Starts {
    /// Where each starts in each table of the flow, in their order.
    pub at: BTreeMap<TopicPartition, Vec<StartAt>>,
    /// Leader epochs of the records before these, as far as they are known.
    pub epochs: BTreeMap<TopicPartition, i32>,
    /// Why others cannot: their logs do not hold the offsets in a ledger.
    pub refused: BTreeMap<TopicPartition, Refusal>,
    /// Who would have told the group how far the tables were, as they are now.
    reporter: Reporter,
}

impl Starts {
    /// Generations of the ledgers, added up: an edit by a person makes another one.
    pub(super) fn generation(&self) -> u64 {
        self.reporter.generation
    }

    /// Is nothing known of any?
    pub(crate) fn is_empty(&self) -> bool {
        self.at.is_empty() && self.refused.is_empty()
    }
}

/// Where to begin in partitions that were given to us: the ledgers, read after they were. The others wait
/// neither for those of which no leader tells, nor for those that cannot begin.
///
/// # Errors
/// A refusal that concerns them all; tables or cluster that cannot be reached.
pub(super) async fn starts<W: World>(
    committer: &Committer<W>,
    settings: &RunSettings,
    info: &TopicInfo,
    partitions: &[TopicPartition],
) -> Result<Starts, Failure> {
    let until = now() + LOG_END_PATIENCE;
    let refuse = |refusal| committer.refuse(refusal);
    let (seen, mut starts) = loop {
        let readings = committer.readings().await?;
        let seen = SourceView {
            cluster_id: info.cluster_id.clone(),
            topic_ids: info.topic_ids.clone(),
            log: committer.source.known_log_ranges(partitions.to_vec()).await?,
            untold: BTreeSet::new(),
        };
        match of_all(&readings, &seen, settings.reset) {
            Ok(starts) => break (seen, starts),
            Err(Refusal::LedgerBeyondLogEnd { .. }) if now() < until => {
                tokio::time::sleep(LOG_END_AGAIN).await;
            }
            Err(refusal) => return Err(refuse(refusal)),
        }
    };
    let is_late = |refusal: &Refusal| matches!(refusal, Refusal::RetentionPassedLedger { .. });
    if starts.refused.values().any(is_late) {
        // Between the two readings another instance may have committed, and retention followed it. Only a
        // ledger that is behind a log start read before it is late.
        let after = committer.readings().await?;
        let still = of_all(&after, &seen, settings.reset).map_err(refuse)?;
        starts.refused.retain(|tp, refusal| !is_late(refusal) || still.refused.contains_key(tp));
        let again = still.at.into_iter().filter(|(tp, _)| !starts.refused.contains_key(tp));
        starts.at = again.collect();
    }
    starts.epochs = epochs(committer, &starts).await?;
    Ok(starts)
}

/// Under which leaders the records were written that precede what is read first, where local state or the
/// group's offsets say so: a log that was cut off since then, and has grown again, is found by it. Only of an
/// offset that was read for these tables as they are: one from before an edit may be of another log.
///
/// Local state is there after a kill between a commit and its report, and where the group is not for us to
/// use; the group's offsets where another process read on, or the directory is new.
async fn epochs<W: World>(
    committer: &Committer<W>,
    starts: &Starts,
) -> Result<BTreeMap<TopicPartition, i32>, Failure> {
    let continued = |at: &&Vec<StartAt>| at.iter().any(|at| at.ledger.is_some());
    let of_ledger = starts.at.iter().filter(|(_, at)| continued(at));
    let kept = committer.state.leaders().await?;
    let Reporter { tables, generation } = &starts.reporter;
    let is_of_these = (&kept.tables, &kept.generation) == (tables, generation);
    let (mut known, mut asked) = (BTreeMap::new(), Vec::new());
    for (tp, at) in of_ledger {
        let start = at.iter().map(|at| at.start).min();
        match start.and_then(|start| kept.epoch(tp, start)).filter(|_| is_of_these) {
            Some(epoch) => drop(known.insert(tp.clone(), epoch)),
            None => asked.push(tp.clone()),
        }
    }
    if asked.is_empty() {
        return Ok(known);
    }
    let reported = match committer.source.reported(asked).await {
        Ok(reported) => reported,
        Err(error) => {
            tracing::warn!(
                error = %chain(&error),
                "it is not known under which leaders the last records were written: a log that was cut off meanwhile and has grown again is not found"
            );
            return Ok(known);
        }
    };
    let told = reported.into_iter().filter_map(|(tp, reported)| {
        let start = starts.at.get(&tp)?.iter().map(|at| at.start).min()?;
        let is_of_this = reported.offset == start && reported.by == starts.reporter;
        is_of_this.then_some((tp, reported.epoch?))
    });
    known.extend(told);
    Ok(known)
}

/// The same where all have to begin, or to be left out for want of a leader.
///
/// # Errors
/// Also why one cannot begin.
pub(super) async fn all_start<W: World>(
    committer: &Committer<W>,
    settings: &RunSettings,
    info: &TopicInfo,
    partitions: &[TopicPartition],
) -> Result<(), Failure> {
    let until = now() + LOG_END_PATIENCE;
    loop {
        let starts = starts(committer, settings, info, partitions).await?;
        match starts.refused.into_values().next() {
            None => return Ok(()),
            Some(Refusal::LedgerBeyondLogEnd { .. }) if now() < until => {
                tokio::time::sleep(LOG_END_AGAIN).await;
            }
            Some(refusal) => return Err(committer.refuse(refusal)),
        }
    }
}

fn of_all<T>(
    readings: &Readings<T>,
    seen: &SourceView,
    reset: ResetPolicy,
) -> Result<Starts, Refusal> {
    let ledgers = readings
        .iter()
        .map(|(table, reading)| (table.as_str(), generation(reading.view().ledger.as_ref())));
    let mut all = Starts { reporter: reporter(ledgers), ..Starts::default() };
    for (table, reading) in readings {
        for (tp, at) in positions(table, reading.view(), seen, reset)? {
            match at {
                Ok(at) => all.at.entry(tp).or_default().push(at),
                Err(refusal) => drop(all.refused.entry(tp).or_insert(refusal)),
            }
        }
    }
    all.at.retain(|tp, _| !all.refused.contains_key(tp));
    Ok(all)
}
