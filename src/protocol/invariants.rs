//! The invariants as predicates, one place for tests and for the counter in production.
//!
//! Each is stated over what a caller has at hand at the moment at which it must hold. A violation
//! is a bug of this program: it is counted by id and the work it was found in is stopped. One of I1
//! is counted and told, and no more: what is wrong is in the table already.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use InvariantId::{I1, I2, I3, I5, I6, I7, I8, I9, I10};

use super::{
    CommitId, Edit, Epoch, Frontier, Ledger, Offset, PendingCommit, Ranges, RowCounts, TableView,
    TopicPartition, shows_commit,
};

/// An invariant, by the number by which it is cited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InvariantId {
    /// A table's rows are exactly the records below its ledger, less those its journal names.
    I1,
    /// At most one epoch is between prepare and finalize.
    I2,
    /// A pending commit begins at the frontier it continues.
    I3,
    /// No catalog request before the checkpoint is synced.
    I4,
    /// No finalize before the table shows the commit id.
    I5,
    /// A ledger never decreases.
    I6,
    /// Every record consumed advances its partition.
    I7,
    /// A file in a pending commit or a snapshot is never deleted.
    I8,
    /// A group offset is never above the ledger.
    I9,
    /// A record is data or dead letter or counted skip: never none, never two.
    I10,
}

impl InvariantId {
    /// Those that the running program looks at where they could break, and counts. I4 is not among
    /// them: only a [`Prepared`](super::Prepared) commit can be sent, and only the checkpoint store
    /// makes one.
    pub const COUNTED: [Self; 9] =
        [Self::I1, Self::I2, Self::I3, Self::I5, Self::I6, Self::I7, Self::I8, Self::I9, Self::I10];

    /// As it is cited.
    pub fn name(self) -> &'static str {
        match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::I8 => "I8",
            Self::I9 => "I9",
            Self::I10 => "I10",
        }
    }
}

impl fmt::Display for InvariantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invariant {id} is violated: {detail}")]
pub struct Violation {
    /// Which one.
    pub id: InvariantId,
    /// What was found.
    pub detail: String,
}

fn hold(id: InvariantId, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { id, detail: detail() }) }
}

/// I1, over a journal that is read entry by entry: its ranges neither repeat nor skip an offset, and
/// end at the ledger.
///
/// Only entries in the ancestry count. The journal may begin anywhere: expiry takes the oldest, and
/// what was reset begins anew.
#[derive(Debug, Default)]
pub(crate) struct Contiguity {
    reached: BTreeMap<TopicPartition, Offset>,
}

impl Contiguity {
    /// The next entry in the ancestry, from the oldest on.
    ///
    /// # Errors
    /// The first partition that it does not continue.
    pub(crate) fn add(
        &mut self,
        commit: &CommitId,
        ranges: &Ranges,
        edit: Option<&Edit>,
    ) -> Result<(), Violation> {
        if let Some(Edit::Reset { topic, from, .. }) = edit {
            self.reached.retain(|tp, _| tp.topic != *topic || !from.contains_key(&tp.partition));
        }
        for (tp, range) in ranges {
            let Some(end) = self.reached.get_mut(tp) else {
                self.reached.insert(tp.clone(), range.end);
                continue;
            };
            let before = std::mem::replace(end, range.end);
            hold(I1, before == range.start, || {
                format!("commit {commit} continues {tp} at {} after {before}", range.start)
            })?;
        }
        Ok(())
    }

    /// There are no more entries.
    ///
    /// # Errors
    /// The first partition whose ledger is elsewhere.
    pub(crate) fn end(self, ledger: Option<&Ledger>) -> Result<(), Violation> {
        for (tp, end) in self.reached {
            let next = ledger.and_then(|ledger| ledger.frontier.get(&tp));
            hold(I1, next == Some(end), || {
                format!("the journal of {tp} ends at {end}, the ledger has {next:?}")
            })?;
        }
        Ok(())
    }
}

/// I1 by [`Contiguity`].
#[cfg(test)]
pub(crate) fn journal_is_contiguous(view: &super::FullView) -> Result<(), Violation> {
    let mut journal = Contiguity::default();
    for entry in view.journal.iter().filter(|entry| entry.in_ancestry) {
        journal.add(&entry.commit_id, &entry.ranges, entry.edit.as_ref())?;
    }
    journal.end(view.ledger.as_ref())
}

/// I2: at most one epoch is between prepare and finalize. `open` is the one that is, if any.
///
/// # Errors
/// If `next` is to be prepared while `open` is not finalized.
pub(crate) fn one_epoch_is_open(open: Option<Epoch>, next: Epoch) -> Result<(), Violation> {
    open.map_or(Ok(()), |open| {
        hold(I2, false, || format!("epoch {next} is to be prepared while {open} is not finalized"))
    })
}

/// I3: a pending commit continues `from`, partition by partition, and runs forward.
///
/// # Errors
/// If it moves nothing, or if an offset or partition is negative, a range runs backward, or a
/// range does not start at `from`.
pub(crate) fn pending_is_contiguous(pending: &PendingCommit) -> Result<(), Violation> {
    hold(I3, !pending.ranges.is_empty(), || "it moves no partition".to_owned())?;
    for (tp, range) in &pending.ranges {
        let from = pending.from.get(tp);
        let forward = tp.partition >= 0 && 0 <= range.start && range.start <= range.end;
        hold(I3, forward && from.is_none_or(|from| from == range.start), || {
            format!("{tp} has the range [{}, {}) after {from:?}", range.start, range.end)
        })?;
    }
    Ok(())
}

/// I3: a pending commit continues the frontier that its instance holds.
///
/// # Errors
/// If `from` differs from `frontier` in a partition that the commit moves.
pub(crate) fn pending_continues(
    pending: &PendingCommit,
    frontier: &Frontier,
) -> Result<(), Violation> {
    for tp in pending.ranges.keys() {
        let (from, held) = (pending.from.get(tp), frontier.get(tp));
        hold(I3, from == held, || format!("{tp} is continued at {from:?}, held at {held:?}"))?;
    }
    Ok(())
}

/// I4: no catalog request before the checkpoint is synced. `synced` is the newest that is. The
/// product cannot ask this: it has nothing to send that is not [`Prepared`](super::Prepared).
///
/// # Errors
/// If it does not hold `commit_id`.
#[cfg(test)]
pub(crate) fn request_is_prepared(
    synced: Option<&super::Checkpoint>,
    commit_id: &CommitId,
) -> Result<(), Violation> {
    let mut pending = synced.iter().flat_map(|checkpoint| &checkpoint.pending);
    hold(InvariantId::I4, pending.any(|pending| pending.commit_id == *commit_id), || {
        format!("commit {commit_id} is requested and not in the synced checkpoint")
    })
}

/// I5: no commit is finalized as committed before the table shows its id.
///
/// # Errors
/// If neither the ledger nor the ancestry of the head in `view` has it.
pub(crate) fn finalized_is_shown(view: &TableView, commit_id: &CommitId) -> Result<(), Violation> {
    hold(I5, shows_commit(view, commit_id), || {
        format!("commit {commit_id} is finalized and not in table {}", view.table_uuid)
    })
}

/// I6: a ledger never decreases, and never forgets a partition, but by a person's edit, which
/// begins a new generation.
///
/// # Errors
/// The generation, or the first partition, that went back.
pub(crate) fn ledger_does_not_decrease(
    before: Option<&Ledger>,
    after: Option<&Ledger>,
) -> Result<(), Violation> {
    let Some(before) = before else { return Ok(()) };
    let (was, is) = (before.generation, after.map_or(0, |ledger| ledger.generation));
    hold(I6, is >= was, || format!("the generation went from {was} to {is}"))?;
    if is > was {
        return Ok(());
    }
    for (tp, old) in before.frontier.iter() {
        let new = after.and_then(|ledger| ledger.frontier.get(tp));
        hold(I6, new.is_some_and(|new| new >= old), || format!("{tp} went from {old} to {new:?}"))?;
    }
    Ok(())
}

/// I7: every consumed record advances its partition. `consumed` is the position of the consumer
/// when the epoch was sealed, of each partition from which it consumed anything.
///
/// # Errors
/// The first partition whose range does not end at that position.
pub(crate) fn consumed_is_covered(consumed: &Frontier, ranges: &Ranges) -> Result<(), Violation> {
    for (tp, position) in consumed.iter() {
        let end = ranges.get(tp).map(|range| range.end);
        hold(I7, end == Some(position), || {
            format!("{tp} is consumed to {position}, its range ends at {end:?}")
        })?;
    }
    Ok(())
}

/// I8: a file in a pending commit or a snapshot is never deleted. `in_use` are their paths.
///
/// # Errors
/// The first path in `doomed` that is in use.
pub(crate) fn doomed_files_are_unused<'a>(
    doomed: impl IntoIterator<Item = &'a str>,
    in_use: &BTreeSet<&str>,
) -> Result<(), Violation> {
    let used = doomed.into_iter().find(|path| in_use.contains(path));
    hold(I8, used.is_none(), || format!("the file {used:?} is in use and to be deleted"))
}

/// I9: the offsets reported to the consumer group are not beyond the ledger.
///
/// # Errors
/// The first partition whose group offset is.
pub(crate) fn group_is_behind_ledger(group: &Frontier, ledger: &Frontier) -> Result<(), Violation> {
    for (tp, offset) in group.iter() {
        let next = ledger.get(tp);
        hold(I9, next.is_some_and(|next| offset <= next), || {
            format!("the group offset of {tp} is {offset}, the ledger has {next:?}")
        })?;
    }
    Ok(())
}

/// I10: every consumed record became a row, or was skipped, dead-lettered or a tombstone: one of
/// these, once.
///
/// # Errors
/// If the counts do not add up to `consumed` records.
pub(crate) fn every_record_has_one_fate(consumed: u64, rows: &RowCounts) -> Result<(), Violation> {
    let fates = [rows.written, rows.skipped, rows.dead_lettered, rows.tombstones];
    let sum = fates.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
    hold(I10, sum == Some(consumed), || format!("{consumed} records were consumed: {rows:?}"))
}

/// I10: the rows counted as written are those in the files.
///
/// # Errors
/// If the files of `pending` hold another number of rows.
pub(crate) fn written_rows_are_in_files(pending: &PendingCommit) -> Result<(), Violation> {
    let files = pending.files.iter();
    let in_files = files.map(|file| file.records).try_fold(0u64, u64::checked_add);
    let written = pending.rows.written;
    hold(I10, in_files == Some(written), || {
        format!("{written} rows were written, the files hold {in_files:?}")
    })
}

#[cfg(test)]
#[path = "invariants_tests.rs"]
mod tests;
