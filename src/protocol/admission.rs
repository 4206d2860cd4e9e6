//! Admission: whether a pending commit may enter a table, decided from what the table shows.
//!
//! The rows are tried in this order, and the first that applies decides:
//!
//! | # | seen | decision |
//! |---|---|---|
//! | 1 | the table has another uuid | Refused: a commit id means nothing in another table |
//! | 2 | our commit id is in the ledger or in the ancestry of the head | AlreadyCommitted |
//! | 3 | ledger and journal contradict each other ([`check_history`]) | Refused |
//! | 4 | a person edited the ledger since: its generation is higher | Superseded |
//! | 5 | its generation is lower: the ledger lost an edit | Refused |
//! | 6 | cluster id or topic id differs, where both sides know it | Refused |
//! | 7 | the pending commit contradicts itself (I3) | Refused |
//! | 8 | some partition's ledger < from, or gone | Refused, whatever the others show |
//! | 9 | some partition's ledger > from, or begun by another | Superseded |
//! | 10 | every partition's ledger == from, or both absent | Commit, once |
//!
//! Row 4 stands before row 6: after `icestream ledger reset` the ids differ on purpose, and what
//! was pending for the old topic is to be dropped, not to be refused for ever.
//!
//! Only the partitions that the commit moves are compared: instances that own different
//! partitions do not fence each other. Commit comes as a [`Permit`], which holds for the inspected
//! head alone: the request is pinned to it, and any answer but "committed" leads back to reading the
//! table.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{
    CommitId, Ledger, Offset, OffsetRange, PendingCommit, Permit, Prepared, Ranges, Refusal, Shown,
    ShownCommit, Superseded, TableView, TopicPartition, pending_is_contiguous,
};
use crate::broken::{self, Variant};

/// What may be done with a pending commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// Send one request.
    Commit(Permit<'a>),
    /// The commit is in the table: finalize it, never send it again.
    AlreadyCommitted(Shown),
    /// Another instance committed these records, or a person edited the ledger: drop the pending
    /// commit, resume at the ledger.
    Superseded(Superseded),
    /// Do nothing; a person must look.
    Refused(Refusal),
}

/// Decides whether `commit` may enter the table that shows `view`. Total and deterministic.
pub fn admit<'a>(commit: &'a Prepared, view: &'a TableView) -> Admission<'a> {
    match decide(commit, view) {
        Row::Commit => Admission::Commit(Permit::new(commit, view)),
        Row::AlreadyCommitted(shown) => Admission::AlreadyCommitted(shown),
        Row::Superseded => Admission::Superseded(Superseded::by(view, &commit.commit_id)),
        Row::Refused(refusal) => Admission::Refused(refusal),
    }
}

/// The row that applies.
enum Row {
    Commit,
    AlreadyCommitted(Shown),
    Superseded,
    Refused(Refusal),
}

fn decide(pending: &PendingCommit, view: &TableView) -> Row {
    if broken::is(Variant::MarkerOnlyInHead) {
        return first_row(pending, &only_head(view));
    }
    first_row(pending, view)
}

fn first_row(pending: &PendingCommit, view: &TableView) -> Row {
    let table = &pending.table;
    if pending.table_uuid != view.table_uuid {
        return Row::Refused(Refusal::TableReplaced {
            table: table.clone(),
            expected: pending.table_uuid.clone(),
            found: view.table_uuid.clone(),
        });
    }
    if let Ok(shown) = Shown::by(view, &pending.commit_id) {
        return Row::AlreadyCommitted(shown);
    }
    if let Err(refusal) = check_history(table, view) {
        return Row::Refused(refusal);
    }
    match pending.generation.cmp(&generation(view.ledger.as_ref())) {
        Ordering::Less => Row::Superseded,
        Ordering::Greater => Row::Refused(edit_lost(table, pending.generation, view)),
        Ordering::Equal => check_source(table, view, &pending.cluster_id, &pending.topic_ids)
            .and_then(|()| check_pending(pending))
            .map_or_else(Row::Refused, |()| compare(pending, view)),
    }
}

/// The generation of a ledger; 0 of one that is not there.
pub(crate) fn generation(ledger: Option<&Ledger>) -> u64 {
    ledger.map_or(0, |ledger| ledger.generation)
}

fn edit_lost(table: &str, known: u64, view: &TableView) -> Refusal {
    let ledger = generation(view.ledger.as_ref());
    Refusal::LedgerEditLost { table: table.to_owned(), ledger, known }
}

/// [`Variant::MarkerOnlyInHead`]: what is left of `view` if a ledger is only looked for in the
/// summary of the head.
fn only_head(view: &TableView) -> TableView {
    let mut seen = view.clone();
    seen.commits.retain(|commit| Some(commit.snapshot_id) == view.head);
    if seen.commits.is_empty() {
        seen.ledger = None;
    }
    seen
}

/// Is the commit named by the ledger, or made by an ancestor of the head?
pub(crate) fn shows_commit(view: &TableView, commit_id: &CommitId) -> bool {
    view.ledger.as_ref().is_some_and(|ledger| ledger.commit_id == *commit_id)
        || snapshot_of(view, commit_id).is_some()
}

/// The snapshot in the ancestry of the head that brought the commit in, if it is still shown.
pub(crate) fn snapshot_of(view: &TableView, commit_id: &CommitId) -> Option<i64> {
    let mut ancestors = view.commits.iter().filter(|shown| shown.in_ancestry);
    ancestors.find(|shown| shown.commit_id == *commit_id).map(|shown| shown.snapshot_id)
}

/// Checks the ledger property against the journal.
///
/// The property is truth unless the journal contradicts it. No contradiction: the commit that
/// wrote it is the newest of ours in the ancestry of the head, or all of ours are gone from there
/// (expired, or compacted and expired).
///
/// # Errors
/// * [`Refusal::TableRolledBack`]: that commit is shown outside the ancestry; or it is gone while
///   one of ours is still in the ancestry (expiry takes the oldest first); or the table has no
///   head at all (a ledger is only ever written together with a snapshot).
/// * [`Refusal::LedgerSetBack`]: a later commit of ours is in the ancestry.
/// * [`Refusal::LedgerMissing`]: there are snapshots of ours, but no ledger.
pub(crate) fn check_history(table: &str, view: &TableView) -> Result<(), Refusal> {
    let table = table.to_owned();
    let Some(ledger) = &view.ledger else {
        return match view.commits.last() {
            None => Ok(()),
            Some(newest) => Err(Refusal::LedgerMissing { table, snapshot_id: newest.snapshot_id }),
        };
    };
    let commit = ledger.commit_id.clone();
    let ancestors = || view.commits.iter().filter(|shown| shown.in_ancestry);
    let Some(writer) = ancestors().find(|shown| shown.commit_id == commit) else {
        let shown = view.commits.iter().any(|shown| shown.commit_id == commit);
        if shown || ancestors().next().is_some() || view.head.is_none() {
            return Err(Refusal::TableRolledBack { table, commit });
        }
        return Ok(());
    };
    // Format version 1 numbers every snapshot 0: there this finds nothing, and nothing falsely.
    match ancestors().find(|shown| shown.sequence_number > writer.sequence_number) {
        Some(later) => {
            Err(Refusal::LedgerSetBack { table, commit, later: later.commit_id.clone() })
        }
        None => Ok(()),
    }
}

/// Checks that the ledger of `view` is about the cluster and the topics that records come from
/// now. An id is compared only where both sides know it.
///
/// # Errors
/// [`Refusal::ClusterChanged`] or [`Refusal::TopicRecreated`].
pub(crate) fn check_source(
    table: &str,
    view: &TableView,
    cluster_id: &str,
    topic_ids: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    let Some(ledger) = &view.ledger else { return Ok(()) };
    if ids_differ(&ledger.cluster_id, cluster_id) {
        return Err(Refusal::ClusterChanged {
            table: table.to_owned(),
            ledger: ledger.cluster_id.clone(),
            found: cluster_id.to_owned(),
        });
    }
    if broken::is(Variant::LeaveOutTopicId) {
        return Ok(());
    }
    for (topic, found) in topic_ids {
        if let Some(id) = ledger.topic_ids.get(topic).filter(|id| ids_differ(id, found)) {
            return Err(Refusal::TopicRecreated {
                table: table.to_owned(),
                topic: topic.clone(),
                ledger: id.clone(),
                found: found.clone(),
            });
        }
    }
    Ok(())
}

/// Does `view` prove that no file of `pending` is in the table, and that none can get there any
/// more? Only then may the files be deleted (I8).
///
/// That a commit was superseded is not enough: it may have landed with its reply lost, and its
/// snapshot may have been expired since. Proof is a ledger past `from` in some partition, so that
/// every request pinned to an older head is void (also if the head is moved back to it later: the
/// request's sequence number is taken by then, and no catalog adds an older one), together with one
/// partition that this commit moves and of which it is known who moved it: nobody, or commits that
/// the journal still shows.
/// Across an edit by a person nothing is proven: the ledger may have been taken back.
///
/// `ranges_of` tells what a commit brought in; it is asked only where the answer depends on it, and
/// where it cannot tell nothing is proven.
pub(crate) fn is_provably_absent(
    pending: &PendingCommit,
    view: &TableView,
    ranges_of: impl Fn(&ShownCommit) -> Option<Ranges>,
) -> bool {
    if view.commits.iter().any(|shown| shown.commit_id == pending.commit_id)
        || !matches!(decide(pending, view), Row::Superseded)
    {
        return false;
    }
    let Some(ledger) = &view.ledger else { return false };
    if ledger.generation != pending.generation {
        return false;
    }
    if broken::is(Variant::DeleteWithoutProof) {
        return true;
    }
    let mut moved = pending.ranges.iter().filter(|(_, range)| range.start < range.end);
    moved.any(|(tp, _)| ledger.frontier.get(tp) == pending.from.get(tp))
        || moved_by_others(pending, view, ledger, ranges_of)
}

/// Do the ranges that the journal shows in the ancestry lead, in some partition, from where the
/// commit's range starts to the ledger?
fn moved_by_others(
    pending: &PendingCommit,
    view: &TableView,
    ledger: &Ledger,
    ranges_of: impl Fn(&ShownCommit) -> Option<Ranges>,
) -> bool {
    let moved = pending.ranges.iter().filter(|(_, range)| range.start < range.end);
    // How far each partition is led; those that are not led without a gap drop out.
    let mut reached: BTreeMap<&TopicPartition, (OffsetRange, Offset)> =
        moved.map(|(tp, range)| (tp, (*range, range.start))).collect();
    for shown in view.commits.iter().filter(|shown| shown.in_ancestry) {
        let Some(others) = ranges_of(shown) else { return false };
        reached.retain(|tp, (range, reached)| match others.get(tp) {
            Some(other) if other.end > range.start => {
                let led = other.start == *reached;
                *reached = other.end;
                led
            }
            _ => true,
        });
        if reached.is_empty() {
            return false;
        }
    }
    reached.iter().any(|(tp, (range, reached))| {
        *reached > range.start && ledger.frontier.get(tp) == Some(*reached)
    })
}

/// Do two ids of the same thing differ? An id that one side does not know says nothing.
pub(crate) fn ids_differ(one: &str, other: &str) -> bool {
    !one.is_empty() && !other.is_empty() && one != other
}

fn check_pending(pending: &PendingCommit) -> Result<(), Refusal> {
    pending_is_contiguous(pending).map_err(|violation| Refusal::PendingMalformed {
        table: pending.table.clone(),
        commit: pending.commit_id.clone(),
        detail: violation.to_string(),
    })
}

fn compare(pending: &PendingCommit, view: &TableView) -> Row {
    let ledger = view.ledger.as_ref().map(|ledger| &ledger.frontier);
    let end_of = |tp| ledger.and_then(|frontier| frontier.get(tp));
    if broken::is(Variant::NotEqualOnly)
        && pending.ranges.iter().any(|(tp, range)| end_of(tp) != Some(range.end))
    {
        return Row::Commit;
    }
    let mut ahead = false;
    for tp in pending.ranges.keys() {
        let seen = ledger.and_then(|frontier| frontier.get(tp));
        let from = pending.from.get(tp);
        // A partition that was never begun (None) comes before every offset.
        match (seen.cmp(&from), from) {
            (Ordering::Less, Some(from)) => {
                return Row::Refused(Refusal::LedgerBehind {
                    table: pending.table.clone(),
                    partition: tp.clone(),
                    ledger: seen,
                    from,
                });
            }
            (Ordering::Greater, _) => ahead = true,
            _ => {}
        }
    }
    if ahead { Row::Superseded } else { Row::Commit }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
