//! The verdict on a table. Pure: no I/O, no clock.

use super::evidence::Evidence;
use super::finding::Judgement;
use super::judge::Judge;
use super::rows::Rows;
use super::{counts, journal, positions, written};

/// Judges a table by its ledger, journal and rows: I1, and what I1 rests on.
pub(crate) fn judge(evidence: &Evidence) -> Judgement {
    let mut judge = Judge::new(evidence);
    judge.history();
    judge.edits();
    journal::contiguous(&mut judge);
    journal::up_to_ledger(&mut judge);
    written::by_snapshot(&mut judge);
    match &evidence.rows {
        Rows::NotRead => {}
        Rows::ByOffset(rows) => {
            let strangers = positions::each_once(&mut judge, rows);
            counts::by_commit(&mut judge, rows, strangers);
        }
        Rows::CountOnly { total, lacking } => counts::in_total(&mut judge, *total, lacking),
    }
    judge.end()
}
