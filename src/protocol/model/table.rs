//! The table: what its metadata says, and what it really holds.

use std::collections::BTreeSet;

use super::facts::{CommitNo, EditNo, LedgerNo, Maker};
use super::state::{Expiry, Request};

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Snapshot {
    /// Also its sequence number.
    pub id: u8,
    pub parent: Option<u8>,
    /// What of ours made it.
    pub by: Option<Maker>,
    /// Was it made on files of its parent?
    pub inherited: bool,
    /// Has it files?
    pub filled: bool,
    /// The commits whose rows it shows; twice if it shows them twice.
    pub rows: Vec<CommitNo>,
    /// The commits whose own files it refers to.
    pub files: BTreeSet<CommitNo>,
}

/// One version of the table's metadata, and what became of files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Table {
    /// Which table of the flow it is.
    pub number: usize,
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
    Expire {
        what: Expiry,
        orphans: bool,
    },
    Rollback(u8),
    /// A person's edit is committed.
    Edit(EditNo, LedgerNo),
}

impl Table {
    /// The table of that number, to which nobody wrote.
    pub(crate) fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    pub(crate) fn snapshot(&self, id: Option<u8>) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| Some(snapshot.id) == id)
    }

    /// The table after `change`.
    pub(crate) fn after(&self, change: Change) -> Self {
        let mut table = self.clone();
        match change {
            Change::Land(request) => {
                table.append(Some(Maker::Commit(request.commit)));
                table.ledger = Some(request.ledger);
            }
            Change::Delete(commit) => {
                table.deleted.insert(commit);
            }
            Change::Append => {
                table.append(None);
                table.made().filled = true;
            }
            Change::Compact => {
                table.append(None);
                table.made().files.clear();
            }
            Change::Expire { what, orphans } => table.expire(what, orphans),
            Change::Rollback(to) => {
                table.head = Some(to);
                table.rolled_back = true;
            }
            Change::Edit(edit, ledger) => {
                table.append(Some(Maker::Edit(edit)));
                table.ledger = Some(ledger);
                table.rolled_back = false;
            }
        }
        table
    }

    /// A new snapshot on the head, with its rows and files, and those of a commit.
    fn append(&mut self, by: Option<Maker>) {
        let head = self.snapshot(self.head);
        let mut rows = head.map(|head| head.rows.clone()).unwrap_or_default();
        let mut files = head.map(|head| head.files.clone()).unwrap_or_default();
        let inherited = head.is_some_and(|head| head.filled);
        let mut filled = inherited;
        if let Some(Maker::Commit(commit)) = by {
            rows.push(commit);
            rows.sort_unstable();
            files.insert(commit);
            filled = true;
        }
        self.last += 1;
        let (id, parent) = (self.last, self.head);
        self.snapshots.push(Snapshot { id, parent, by, inherited, filled, rows, files });
        self.head = Some(id);
    }

    fn made(&mut self) -> &mut Snapshot {
        self.snapshots.last_mut().expect("a snapshot was made")
    }

    fn expire(&mut self, what: Expiry, orphans: bool) {
        let head = self.head;
        self.snapshots.retain(|snapshot| match what {
            Expiry::One(id) => snapshot.id != id,
            Expiry::AllButHead => Some(snapshot.id) == head,
        });
        if orphans {
            let left: Vec<u8> = self.snapshots.iter().map(|snapshot| snapshot.id).collect();
            for snapshot in &mut self.snapshots {
                snapshot.parent = snapshot.parent.filter(|parent| left.contains(parent));
            }
        }
    }
}
