//! How many rows foreign snapshots may have taken.

use super::foreign::ForeignSnapshot;

/// How many rows the foreign snapshots may have deleted, given out to commits from the newest to
/// the oldest: only a snapshot made after a commit can have deleted its rows.
pub(super) struct Deletions<'a> {
    /// Oldest first; those at the end are not yet counted in.
    foreign: &'a [ForeignSnapshot],
    left: u64,
    /// Rows in the table that others put in, not yet counted against a snapshot.
    strangers: u64,
    /// Is it asked for rows that are in no file of their commit any more, whether gone or rewritten?
    of_files: bool,
}

impl<'a> Deletions<'a> {
    /// Rows that are not in the table any more.
    pub(crate) fn of_rows(foreign: &'a [ForeignSnapshot], strangers: u64) -> Self {
        // Rows that plain appends put in say nothing about what an overwrite took.
        let appended = foreign
            .iter()
            .filter(|s| s.operation == "append")
            .fold(0_u64, |sum, s| sum.saturating_add(s.added));
        let strangers = strangers.saturating_sub(appended);
        Self { foreign, left: 0, strangers, of_files: false }
    }

    /// Rows in files that are not in the table any more.
    pub(crate) fn of_files(foreign: &'a [ForeignSnapshot]) -> Self {
        Self { foreign, left: 0, strangers: 0, of_files: true }
    }

    /// How many of `missing` rows of the commit with this number others may have taken. Commits are
    /// asked for from the newest to the oldest.
    pub(crate) fn take(&mut self, sequence_number: i64, missing: u64) -> u64 {
        while let Some((last, older)) = self.foreign.split_last()
            && last.sequence_number >= sequence_number
        {
            self.foreign = older;
            let most = self.most(last);
            self.left = self.left.saturating_add(most);
        }
        let taken = missing.min(self.left);
        self.left -= taken;
        taken
    }

    /// The most rows that a snapshot can have deleted. One that rewrites files adds again what it
    /// keeps, so only the difference is gone, and as many more as it put in of its own.
    fn most(&mut self, snapshot: &ForeignSnapshot) -> u64 {
        if self.of_files {
            return snapshot.removed;
        }
        if !snapshot.takes_rows() {
            return 0;
        }
        if snapshot.deleted_by_value {
            return u64::MAX;
        }
        let own = self.strangers.min(snapshot.added).min(snapshot.removed);
        self.strangers -= own;
        let gone = snapshot.removed.saturating_sub(snapshot.added).saturating_add(own);
        gone.saturating_add(snapshot.deleted)
    }
}
