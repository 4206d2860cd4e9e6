//! An exhaustive search over a small world that runs the protocol's own code.
//!
//! The world: one topic of two partitions with a few records each (one bad, one a tombstone, some
//! offsets that are no record), one table or two, each with its snapshots, ledger property and
//! files, and two instances of one pipeline, each with durable local state and a volatile run. What
//! they decide is decided by `admit`, `check_history`, `recover`, `check_last`, `positions`,
//! `advance`, `Flow::commit` and the codecs of ledger and journal; the model only carries their
//! decisions out, in every order, with everything that may go wrong in between, as often as a
//! [`Mix`] allows each.
//!
//! In every state the invariants hold, and a table that is not exact is refused. From every state,
//! each instance alone, with no more faults, brings all tables exactly to the end of the log.
//!
//! Steps that nothing can observe apart are one step, which loses no behaviour and shrinks the
//! search:
//! * An epoch's reading is part of its seal, in every length: nobody sees it before.
//! * Seal and prepare are one: a crash between them is a crash before both. The files it leaves
//!   are named by nothing.
//! * Reading the table, admitting and sending are one: what is sent depends on what was read, and
//!   only the arrival of the request, a step of its own at any later time, meets the table again.
//! * Finalize and report are one: group offsets decide nothing.
//! * A crash with a request under way is a lost answer and a crash.

mod choices;
mod facts;
mod lake;
mod quiet;
mod runs;
mod search;
mod state;
mod steps;
mod table;
mod tests;
mod walks_tests;

use std::fmt;

/// Something that must hold does not: an invariant, or what is promised beside them ([`LIVE`]).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Violation {
    id: &'static str,
    detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is violated: {}", self.id, self.detail)
    }
}

/// How a path ends before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Halt {
    /// Something that must hold does not.
    Broken(Violation),
    /// A table was rolled back to where it has no snapshot of ours, and the one that wrote the ledger
    /// is expired: it passes for one that was compacted. Outside of what the protocol promises.
    Blind,
}

impl From<super::Violation> for Halt {
    fn from(violation: super::Violation) -> Self {
        let super::Violation { id, detail } = violation;
        Self::Broken(Violation { id: id.name(), detail })
    }
}

/// The id of a violation of what is promised beside I1 to I10: without a foreign rollback nothing
/// is refused, and an instance without faults comes to the end.
const LIVE: &str = "live";

fn violated<T>(id: &'static str, detail: impl fmt::Display) -> Result<T, Halt> {
    Err(Halt::Broken(Violation { id, detail: detail.to_string() }))
}
