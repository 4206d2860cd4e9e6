//! Variants of the protocol that are broken on purpose, to test the tests.
//!
//! Each takes away one of the measures that exactly once stands on. With the feature `faults` the
//! environment variable `ICESTREAM_BROKEN_VARIANT`, or `with` in a unit test, chooses one; docs/proof.md
//! says which of the model, the simulation and the soak must catch it. Without the feature [`is`] is
//! always false and costs nothing. Never part of a release build.

/// One measure taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Admission only asks whether the ledger differs from where the commit would bring it, not
    /// whether it is where the commit begins.
    NotEqualOnly,
    /// A commit that was refused as a conflict, or whose answer was lost, is pinned to the new
    /// head and sent again without reading the ledger.
    RetryWithoutReading,
    /// The ledger is looked for in the summary of the head alone.
    MarkerOnlyInHead,
    /// The checkpoint is finalized before the commit is sent.
    FinalizeBeforeCommit,
    /// The files of a superseded commit are deleted although the journal does not prove that they are
    /// not in the table.
    DeleteWithoutProof,
    /// A revocation is acknowledged before what was read of the partitions is committed or dropped.
    AcknowledgeBeforeFence,
    /// Ids of topics are not compared: one that was made again goes for the one it was.
    LeaveOutTopicId,
    /// What the last commit left decides about the next one, whatever the verdict.
    DecideOnMemory,
    /// Nobody joins a group again that leaves partitions to nobody.
    LeavePartitionsOut,
    /// A partition is read on behind what could not be read of it.
    ReadPastHoles,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NotEqualOnly,
        Self::RetryWithoutReading,
        Self::MarkerOnlyInHead,
        Self::FinalizeBeforeCommit,
        Self::DeleteWithoutProof,
        Self::AcknowledgeBeforeFence,
        Self::LeaveOutTopicId,
        Self::DecideOnMemory,
        Self::LeavePartitionsOut,
        Self::ReadPastHoles,
    ];

    /// Its name in `ICESTREAM_BROKEN_VARIANT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotEqualOnly => "not-equal-only",
            Self::RetryWithoutReading => "retry-without-reading",
            Self::MarkerOnlyInHead => "marker-only-in-head",
            Self::FinalizeBeforeCommit => "finalize-before-commit",
            Self::DeleteWithoutProof => "delete-without-proof",
            Self::AcknowledgeBeforeFence => "acknowledge-before-fence",
            Self::LeaveOutTopicId => "leave-out-topic-id",
            Self::DecideOnMemory => "decide-on-memory",
            Self::LeavePartitionsOut => "leave-partitions-out",
            Self::ReadPastHoles => "read-past-holes",
        }
    }
}

/// Is this process (or, in a unit test, this thread) to behave as `variant`?
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) const fn is(_variant: Variant) -> bool {
    false
}

#[cfg(feature = "faults")]
pub(crate) use chosen::is;
#[cfg(all(test, feature = "faults"))]
pub(crate) use chosen::with;

#[cfg(feature = "faults")]
mod chosen {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Variant;

    thread_local! {
        static HERE: Cell<Option<Variant>> = const { Cell::new(None) };
    }

    /// Is this process (or, in a unit test, this thread) to behave as `variant`?
    pub(crate) fn is(variant: Variant) -> bool {
        static OF_PROCESS: OnceLock<Option<Variant>> = OnceLock::new();
        let process = OF_PROCESS.get_or_init(|| {
            let name = std::env::var("ICESTREAM_BROKEN_VARIANT").ok()?;
            Variant::ALL.into_iter().find(|variant| variant.name() == name)
        });
        HERE.get().or(*process) == Some(variant)
    }

    /// Runs `run` with this thread behaving as `variant`, or as it should for `None`.
    #[cfg(test)]
    pub(crate) fn with<T>(variant: Option<Variant>, run: impl FnOnce() -> T) -> T {
        struct Restore(Option<Variant>);
        impl Drop for Restore {
            fn drop(&mut self) {
                HERE.set(self.0);
            }
        }
        let _restore = Restore(HERE.replace(variant));
        run()
    }
}
