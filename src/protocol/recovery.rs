//! Recovery: what to do first after a start, decided from local state and table ledgers.
//!
//! The ledgers decide. Local state only carries what a table cannot: the pending commits whose
//! files are already written. Lost, or restored from last week, it is harmless, because each of
//! its pending commits is admitted as if it were new and the resume position is the ledger's.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::types::is_zero;
use super::{
    Epoch, Frontier, Offset, Prepared, Refusal, TableView, TopicPartition, check_history,
    check_source, generation,
};

/// What the local checkpoint store knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalState {
    /// Commits of the checkpoint that was prepared, as far as they are not finalized.
    pub pending: Vec<Prepared>,
    /// By table: the newest checkpoint that was seen to be in it.
    pub last: BTreeMap<String, LastCheckpoint>,
    /// It was of tables, until a person gave it up: one that is gone is to be made again.
    pub given_up: bool,
}

/// Under this name [`LocalState::last`] has what an earlier version of this program saw in its one
/// table, of which it did not keep the name. No table is called so.
pub(crate) const UNNAMED: &str = "";

impl LocalState {
    /// Did it see tables, and none of these?
    pub(crate) fn is_of_others<'a>(&self, tables: impl IntoIterator<Item = &'a String>) -> bool {
        !self.last.is_empty() && !tables.into_iter().any(|table| self.last.contains_key(table))
    }

    /// Did it see this table, or does a commit wait for it?
    pub(crate) fn knows(&self, table: &str) -> bool {
        self.last.contains_key(table) || self.pending.iter().any(|pending| pending.table == table)
    }
}

/// The newest checkpoint that was seen to be in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCheckpoint {
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// What the ledger of the table was known to be with it.
    pub frontier: Frontier,
    /// Generation of the ledger that it moved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// The table, also by another name. Empty where an older program wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table_uuid: String,
}

/// Local state for tables of which it knows none by name. One that [`is_known`] is a table that was seen,
/// by another name or by one that was not kept; what was seen then stands under the name of today.
/// `views` holds one reading of each table that is there.
///
/// A flow that gains a table is no such case: it is enough that one of its tables is known.
///
/// # Errors
/// [`Refusal::OtherTable`] if none is; the setting or the directory is wrong, and the table would be
/// filled with records that are in the other one. Where the name was not kept, the refusal of the
/// comparison, since the table may be the same.
pub(crate) fn recognised(
    mut local: LocalState,
    views: &BTreeMap<&str, Option<&TableView>>,
) -> Result<LocalState, Refusal> {
    let mut refused = None;
    for (known, last) in &local.last {
        for (table, view) in views {
            let Some(view) = view else { continue };
            match is_known(table, known, last, view) {
                Ok(true) => {
                    let (known, last) = (known.clone(), last.clone());
                    local.last.remove(&known);
                    local.last.insert((*table).to_owned(), last);
                    return Ok(local);
                }
                Ok(false) => {}
                Err(refusal) => refused = Some(refusal),
            }
        }
    }
    let names = |names: Vec<&str>| names.join(", ");
    let table = names(views.keys().copied().collect());
    let known = names(local.last.keys().map(String::as_str).collect());
    Err(match refused {
        Some(refusal) => refusal,
        None if known == UNNAMED => Refusal::TableMissing { table },
        None => Refusal::OtherTable { table, known },
    })
}

/// Is this the table that was seen as `known`? By its uuid where that was kept. Where it was not, the
/// table has to hold all that was seen, in a ledger that nobody edited since: an edit may leave anything.
///
/// # Errors
/// The refusal of the comparison, where the name was not kept: the table may be the same.
fn is_known(
    table: &str,
    known: &str,
    last: &LastCheckpoint,
    view: &TableView,
) -> Result<bool, Refusal> {
    if !last.table_uuid.is_empty() {
        return Ok(last.table_uuid == view.table_uuid);
    }
    let compared = has_what_was_seen(table, last, view);
    match known {
        UNNAMED => compared.map(|()| true),
        _ => Ok(compared.is_ok() && last.generation == generation(view.ledger.as_ref())),
    }
}

/// How local state stands to the ledgers; for the log. See [`check_last`] for what is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalStanding {
    /// There is none: a first start, or it was lost.
    Absent,
    /// Its last checkpoint is what the ledger shows.
    Same,
    /// The ledger is ahead: other instances went on, or local state is an old copy.
    Older,
    /// The ledger is behind: the table was restored from an old copy of its metadata.
    Newer,
}

/// What a start takes from local state, beside the pending commits. These are admitted one by one,
/// as if they were new, each on a fresh reading of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// The first epoch that local state does not know.
    pub next_epoch: Epoch,
    /// How local state stands to the ledgers.
    pub standing: LocalStanding,
}

/// Total, deterministic and idempotent. `views` holds one reading of each table, by
/// `namespace.table`.
pub(crate) fn recover(local: &LocalState, views: &BTreeMap<&str, &TableView>) -> Recovery {
    let pending = local.pending.iter().map(|pending| pending.epoch);
    let known = pending.chain(local.last.values().map(|last| last.epoch));
    Recovery {
        next_epoch: Epoch(known.max().map_or(1, |epoch| epoch.0.saturating_add(1))),
        standing: standing(local, views),
    }
}

/// Checks that the table still has what local state saw in it: a ledger never decreases (I6), but
/// by a person's edit. Local state that is lost or older, or of an older generation, says nothing; nor
/// does what it saw in other tables, so that the tables must be its own: [`recognised`].
///
/// # Errors
/// [`Refusal::TableReplaced`] if a pending commit is for another table of that name,
/// [`Refusal::LedgerBehind`] for the first partition that went back or is gone,
/// [`Refusal::LedgerEditLost`] if the ledger is of an older generation.
pub(crate) fn check_last(table: &str, local: &LocalState, view: &TableView) -> Result<(), Refusal> {
    let mut pending = local.pending.iter().filter(|pending| pending.table == table);
    if let Some(other) = pending.find(|pending| pending.table_uuid != view.table_uuid) {
        return Err(Refusal::TableReplaced {
            table: table.to_owned(),
            expected: other.table_uuid.clone(),
            found: view.table_uuid.clone(),
        });
    }
    local.last.get(table).map_or(Ok(()), |last| has_what_was_seen(table, last, view))
}

/// Does the table have all that was seen in it, or an edit since?
fn has_what_was_seen(table: &str, last: &LastCheckpoint, view: &TableView) -> Result<(), Refusal> {
    let ledger = view.ledger.as_ref();
    match last.generation.cmp(&generation(ledger)) {
        Ordering::Less => return Ok(()),
        // A ledger that is gone lost more than an edit; its partitions say so better.
        Ordering::Greater if ledger.is_some() || last.frontier.is_empty() => {
            let (table, ledger) = (table.to_owned(), generation(ledger));
            return Err(Refusal::LedgerEditLost { table, ledger, known: last.generation });
        }
        Ordering::Greater | Ordering::Equal => {}
    }
    for (tp, from) in last.frontier.iter() {
        let ledger = ledger.and_then(|ledger| ledger.frontier.get(tp));
        if ledger.is_none_or(|ledger| ledger < from) {
            let (table, partition) = (table.to_owned(), tp.clone());
            return Err(Refusal::LedgerBehind { table, partition, ledger, from });
        }
    }
    Ok(())
}

/// A table that is ahead of local state or behind it says more than one that is the same. What was
/// seen in a table that is not there to compare says nothing.
fn standing(local: &LocalState, views: &BTreeMap<&str, &TableView>) -> LocalStanding {
    let mut standing = LocalStanding::Absent;
    for (table, last) in &local.last {
        let Some(view) = views.get(table.as_str()) else { continue };
        if standing == LocalStanding::Absent {
            standing = LocalStanding::Same;
        }
        let ledger = view.ledger.as_ref();
        for (tp, offset) in last.frontier.iter() {
            match Some(offset).cmp(&ledger.and_then(|ledger| ledger.frontier.get(tp))) {
                Ordering::Greater => return LocalStanding::Newer,
                Ordering::Less => standing = LocalStanding::Older,
                Ordering::Equal => {}
            }
        }
    }
    standing
}

/// Where to begin in a topic of which the table has no ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetPolicy {
    /// At the first offset that the log has.
    Earliest,
    /// At the end of the log.
    Latest,
}

/// Offsets that a partition's log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRange {
    /// First offset (low watermark).
    pub start: Offset,
    /// One past the last offset (high watermark).
    pub end: Offset,
}

/// All that resuming looks at on Kafka's side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceView {
    /// Id of the Kafka cluster; empty if it has none.
    pub cluster_id: String,
    /// Id of each topic, where the cluster tells it.
    pub topic_ids: BTreeMap<String, String>,
    /// The partitions to start, with what their logs hold.
    pub log: BTreeMap<TopicPartition, LogRange>,
    /// Partitions that there are, of which nobody tells what their logs hold.
    pub untold: BTreeSet<TopicPartition>,
}

/// Where a partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartAt {
    /// The offset in the ledger: what the first commit continues.
    pub ledger: Option<Offset>,
    /// The offset to read first.
    pub start: Offset,
}

/// Where each partition starts, or why it cannot.
pub(crate) type Positions = BTreeMap<TopicPartition, Result<StartAt, Refusal>>;

/// Where to start each partition of `source.log`.
///
/// A partition in the ledger starts there. `reset` holds only for a topic that the ledger does not
/// know at all; a partition added to a known topic starts at its first offset, since its records
/// came after the pipeline did, and so do all partitions of a topic that was reset.
///
/// A partition whose log does not hold the offset in the ledger cannot start:
/// [`Refusal::RetentionPassedLedger`] or [`Refusal::LedgerBeyondLogEnd`]. Either end of the log is within
/// it. That says nothing of the others, unless the topic may be another one than the ledger's: without
/// ids, a log that ends below the ledger is how that shows.
///
/// # Errors
/// The refusals of [`check_source`] and [`check_history`], and [`Refusal::LedgerBeyondLogEnd`] of a topic
/// whose id is not known on both sides.
pub(crate) fn positions(
    table: &str,
    view: &TableView,
    source: &SourceView,
    reset: ResetPolicy,
) -> Result<Positions, Refusal> {
    check_source(table, view, &source.cluster_id, &source.topic_ids)?;
    check_history(table, view)?;
    let empty = Frontier::default();
    let frontier = view.ledger.as_ref().map_or(&empty, |ledger| &ledger.frontier);
    let start = |(tp, log): (&TopicPartition, &LogRange)| {
        let ledger = frontier.get(tp);
        let start = match ledger {
            Some(ledger) => match within(table, tp, ledger, *log) {
                Err(refusal @ Refusal::LedgerBeyondLogEnd { .. })
                    if !is_surely_the_same(view, source, &tp.topic) =>
                {
                    return Err(refusal);
                }
                start => start,
            },
            None if view.ledger.as_ref().is_some_and(|ledger| ledger.knows(&tp.topic)) => {
                Ok(log.start)
            }
            None if reset == ResetPolicy::Earliest => Ok(log.start),
            None => Ok(log.end),
        };
        Ok((tp.clone(), start.map(|start| StartAt { ledger, start })))
    };
    source.log.iter().map(start).collect()
}

/// Do both sides tell the id of a topic, which [`check_source`] compared?
fn is_surely_the_same(view: &TableView, source: &SourceView, topic: &str) -> bool {
    let known = |ids: &BTreeMap<String, String>| ids.get(topic).is_some_and(|id| !id.is_empty());
    view.ledger.as_ref().is_some_and(|ledger| known(&ledger.topic_ids)) && known(&source.topic_ids)
}

fn within(
    table: &str,
    partition: &TopicPartition,
    ledger: Offset,
    log: LogRange,
) -> Result<Offset, Refusal> {
    let (table, partition) = (table.to_owned(), partition.clone());
    if ledger > log.end {
        Err(Refusal::LedgerBeyondLogEnd { table, partition, ledger, log_end: log.end })
    } else if ledger < log.start {
        Err(Refusal::RetentionPassedLedger { table, partition, ledger, log_start: log.start })
    } else {
        Ok(ledger)
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
