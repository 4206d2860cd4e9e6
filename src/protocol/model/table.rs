//! The table: what its metadata says, and what it really holds.

use std::collections::BTreeSet;

use super::facts::{CommitNo, LedgerNo};
use super::state::{Expiry, Request};

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Snapshot {
    /// Also its sequence number.
    pub id: u8,
    pub parent: Option<u8>,
    /// The commit of ours that made it.
    pub by: Option<CommitNo>,
    /// The commits whose rows it shows; twice if it shows them twice.
    pub rows: Vec<CommitNo>,
    /// The commits whose own files it refers to.
    pub files: BTreeSet<CommitNo>,
}

/// One version of the table's metadata, and what became of files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Table {
    /// As the metadata shows them, oldest first.
    pub snapshots: Vec<Snapshot>,
    pub head: Option<u8>,
    /// The newest id ever given.
    pub last: u8,
    pub ledger: Option<LedgerNo>,
    /// Commits that were proven absent, so that their files were deleted.
    pub deleted: BTreeSet<CommitNo>,
    /// Somebody moved the head to another snapshot.
    pub rolled_back: bool,
}

/// What may happen to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Change {
    /// A request lands; the caller has compared its pin.
    Land(Request),
    /// The files of a commit are deleted.
    Delete(CommitNo),
    Append,
    Compact,
    Expire(Expiry),
    Rollback(u8),
}

impl Table {
    pub fn snapshot(&self, id: Option<u8>) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| Some(snapshot.id) == id)
    }

    /// The table after `change`.
    pub fn after(&self, change: Change) -> Self {
        let mut table = self.clone();
        match change {
            Change::Land(request) => {
                let commit = Some(request.commit);
                table.append(commit);
                table.ledger = Some(request.ledger);
            }
            Change::Delete(commit) => {
                table.deleted.insert(commit);
            }
            Change::Append => table.append(None),
            Change::Compact => {
                table.append(None);
                if let Some(head) = table.snapshots.last_mut() {
                    head.files.clear();
                }
            }
            Change::Expire(expiry) => table.expire(expiry),
            Change::Rollback(to) => {
                table.head = Some(to);
                table.rolled_back = true;
            }
        }
        table
    }

    fn append(&mut self, by: Option<CommitNo>) {
        let head = self.snapshot(self.head);
        let mut rows = head.map(|head| head.rows.clone()).unwrap_or_default();
        let mut files = head.map(|head| head.files.clone()).unwrap_or_default();
        rows.extend(by);
        rows.sort_unstable();
        files.extend(by);
        self.last += 1;
        self.snapshots.push(Snapshot { id: self.last, parent: self.head, by, rows, files });
        self.head = Some(self.last);
    }

    fn expire(&mut self, expiry: Expiry) {
        let head = self.head;
        match expiry {
            Expiry::One(id) => self.snapshots.retain(|snapshot| snapshot.id != id),
            Expiry::AllButHead | Expiry::AllButHeadWithoutParent => {
                self.snapshots.retain(|snapshot| Some(snapshot.id) == head);
            }
        }
        if expiry == Expiry::AllButHeadWithoutParent {
            self.snapshots.iter_mut().for_each(|snapshot| snapshot.parent = None);
        }
    }
}
