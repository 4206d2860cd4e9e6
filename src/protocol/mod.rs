//! The protocol: pure types and decisions. No I/O, no clock, no randomness.
//!
//! Everything that decides whether records enter a table lives here and is given the observed
//! facts as arguments; the rest of the program observes and executes.

mod types;

pub use types::*;
