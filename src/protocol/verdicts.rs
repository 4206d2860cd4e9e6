//! Permission and proof as values: what makes each of them is the only way to have it.
//!
//! | value | says | made by | needed by |
//! |---|---|---|---|
//! | [`Prepared`] | the commit is in a synced checkpoint (I4) | the checkpoint store | admission |
//! | [`Permit`] | it may enter the table as one reading shows it, once | admission | the append |
//! | [`Shown`] | a reading shows the commit (I5) | a reading | finalize |
//! | [`Superseded`] | another commit, or an edit, took its place | admission | finalize |

use std::ops::Deref;

use super::{
    CommitId, Frontier, Ledger, PendingCommit, TableView, Violation, finalized_is_shown,
    snapshot_of,
};

/// A pending commit that is in a synced checkpoint. No request may bring in any other (I4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared(PendingCommit);

impl Prepared {
    /// For the checkpoint store alone: `pending` is on disk, synced.
    pub fn on_disk(pending: PendingCommit) -> Self {
        Self(pending)
    }
}

impl Deref for Prepared {
    type Target = PendingCommit;

    fn deref(&self) -> &PendingCommit {
        &self.0
    }
}

/// Leave to send one request for a commit, with all that it was decided on. It is used up by that,
/// and holds for no other reading of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit<'a> {
    commit: &'a Prepared,
    view: &'a TableView,
}

impl<'a> Permit<'a> {
    pub(super) fn new(commit: &'a Prepared, view: &'a TableView) -> Self {
        Self { commit, view }
    }

    /// A permit that nobody gave: for protocols that are broken on purpose, and for tests of what
    /// catalogs do with requests that should never be sent.
    #[cfg(any(test, feature = "faults"))]
    pub fn forged(commit: &'a Prepared, view: &'a TableView) -> Self {
        Self::new(commit, view)
    }

    /// What may enter.
    pub fn commit(&self) -> &'a PendingCommit {
        self.commit
    }

    /// UUID of the table that it may enter.
    pub fn table_uuid(&self) -> &'a str {
        &self.view.table_uuid
    }

    /// Snapshot that must still be the head when the request lands.
    pub fn head(&self) -> Option<i64> {
        self.view.head
    }

    /// The ledger that it continues.
    pub fn ledger(&self) -> Option<&'a Ledger> {
        self.view.ledger.as_ref()
    }
}

/// The proof that a table shows a commit, without which none is finalized as committed (I5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    commit_id: CommitId,
    snapshot_id: Option<i64>,
}

impl Shown {
    /// Looks for a commit in the ledger and in the ancestry of the head.
    ///
    /// # Errors
    /// I5, if neither has it.
    pub fn by(view: &TableView, commit_id: &CommitId) -> Result<Self, Violation> {
        finalized_is_shown(view, commit_id)?;
        Ok(Self { commit_id: commit_id.clone(), snapshot_id: snapshot_of(view, commit_id) })
    }

    /// A proof of nothing: for protocols that are broken on purpose, and for tests of the store.
    #[cfg(any(test, feature = "faults"))]
    pub fn forged(commit_id: CommitId, snapshot_id: Option<i64>) -> Self {
        Self { commit_id, snapshot_id }
    }

    /// The snapshot that brought it in, if that is still shown.
    pub fn snapshot_id(&self) -> Option<i64> {
        self.snapshot_id
    }
}

/// The verdict that a commit's place was taken: by another instance, or by a person's edit. It is
/// dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    commit_id: CommitId,
    ledger: Frontier,
}

impl Superseded {
    pub(super) fn by(view: &TableView, commit_id: &CommitId) -> Self {
        let ledger = view.ledger.as_ref().map(|ledger| ledger.frontier.clone());
        Self { commit_id: commit_id.clone(), ledger: ledger.unwrap_or_default() }
    }

    /// A verdict that nobody gave, for tests of the store.
    #[cfg(test)]
    pub fn forged(commit_id: CommitId) -> Self {
        Self { commit_id, ledger: Frontier::default() }
    }

    /// The whole frontier of the table.
    pub fn ledger(&self) -> &Frontier {
        &self.ledger
    }
}

/// How a pending commit ended, with the proof of it: what finalizing it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Our request made its snapshot.
    Committed(Shown),
    /// An earlier request had made it already.
    AlreadyCommitted(Shown),
    /// Another instance was faster; the pending commit is dropped.
    Superseded(Superseded),
}

impl Settled {
    /// The commit.
    pub fn commit_id(&self) -> &CommitId {
        match self {
            Self::Committed(shown) | Self::AlreadyCommitted(shown) => &shown.commit_id,
            Self::Superseded(superseded) => &superseded.commit_id,
        }
    }

    /// Is it dropped?
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded(_))
    }

    /// For logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Committed(_) => "committed",
            Self::AlreadyCommitted(_) => "already_committed",
            Self::Superseded(_) => "superseded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{entry, frontier, ledger, pending, view};
    use super::*;

    fn at_seven() -> TableView {
        view(Some(ledger("b", &[(0, 20)])), vec![entry(7, "a", &[(0, 0, 10)])])
    }

    fn id(commit: &str) -> CommitId {
        CommitId(commit.into())
    }

    #[test]
    fn a_commit_is_shown_with_its_snapshot_while_the_table_has_that() {
        assert_eq!(Shown::by(&at_seven(), &id("a")).unwrap().snapshot_id(), Some(7));
        assert_eq!(Shown::by(&at_seven(), &id("b")).unwrap().snapshot_id(), None);
        assert!(Shown::by(&at_seven(), &id("c")).is_err());
    }

    #[test]
    fn a_permit_tells_the_reading_that_it_holds_for() {
        let commit = Prepared::on_disk(pending("x", &[(0, 20)], &[(0, 20, 30)]));
        let view = at_seven();
        let permit = Permit::new(&commit, &view);
        assert_eq!((permit.commit(), permit.table_uuid()), (&*commit, view.table_uuid.as_str()));
        assert_eq!((permit.head(), permit.ledger()), (Some(7), view.ledger.as_ref()));
        let bare = TableView { head: None, ledger: None, ..at_seven() };
        let permit = Permit::new(&commit, &bare);
        assert_eq!((permit.head(), permit.ledger()), (None, None));
    }

    #[test]
    fn a_commit_that_ended_is_named_with_how_it_did() {
        let shown = |commit| Shown::by(&at_seven(), &id(commit)).unwrap();
        let superseded = Superseded::by(&at_seven(), &id("x"));
        assert_eq!(*superseded.ledger(), frontier(&[(0, 20)]));
        let ends = [
            (Settled::Committed(shown("a")), "a", "committed", false),
            (Settled::AlreadyCommitted(shown("b")), "b", "already_committed", false),
            (Settled::Superseded(superseded), "x", "superseded", true),
        ];
        for (settled, commit, name, dropped) in ends {
            assert_eq!(*settled.commit_id(), id(commit));
            assert_eq!((settled.name(), settled.is_superseded()), (name, dropped));
        }
    }
}
