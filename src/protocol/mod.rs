//! The protocol: pure types and decisions. No I/O, no clock, no randomness.
//!
//! Everything that decides whether records enter a table lives here and is given the observed
//! facts as arguments; the rest of the program observes and executes.

mod admission;
mod commit_id;
mod edit;
mod edit_error;
mod flow;
mod invariants;
mod journal;
mod json;
mod ledger;
mod origin;
mod partition_values;
mod recovery;
mod refusal;
mod trigger;
mod types;
mod verdicts;

pub use admission::*;
pub use commit_id::*;
pub(crate) use edit::*;
pub(crate) use edit_error::*;
pub(crate) use flow::*;
pub(crate) use invariants::*;
pub use journal::*;
pub use ledger::*;
pub(crate) use origin::*;
pub(crate) use partition_values::*;
pub(crate) use recovery::*;
pub(crate) use refusal::*;
pub(crate) use trigger::*;
pub use types::*;
pub use verdicts::*;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod model;
