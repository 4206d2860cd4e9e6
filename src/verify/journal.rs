//! The ranges of the commits: no gap, no overlap, from the first commit shown up to the ledger.

use std::collections::BTreeMap;

use super::chain::Chain;
use super::eras::Place;
use super::finding::{Kind, Verdict};
use super::judge::{Judge, named, span};
use super::rows::Rows;
use crate::base::clock::rfc3339;
use crate::protocol::{Edit, JournalEntry, Offset, OffsetRange};

impl Judge<'_> {
    /// Names what people did to the ledger.
    pub(crate) fn edits(&mut self) {
        for entry in self.commits() {
            let by = format!("snapshot {} of {}", entry.snapshot_id, rfc3339(entry.timestamp_ms));
            match &entry.edit {
                Some(Edit::Rewind { to_snapshot }) => {
                    let detail = format!(
                        "the table was rolled back, and the ledger rewound to snapshot \
                         {to_snapshot}, by {by}: what had come after it was read again"
                    );
                    self.find(Kind::Rewound, None, detail);
                }
                Some(Edit::Reset { topic, old_id, new_id, .. }) => {
                    let detail = format!(
                        "topic {topic} was reset by {by}: its id was {old_id} and is {new_id}, its \
                         offsets mean other records from there on"
                    );
                    self.find(Kind::Reset, None, detail);
                }
                Some(Edit::Skip) => {
                    for (place, range) in self.ranges(entry) {
                        let detail = format!(
                            "{} was lost before it was read, and given up by {by}",
                            span(range)
                        );
                        let snapshots = [entry.snapshot_id];
                        self.find_range(Kind::Skipped, &place, range, &snapshots, detail);
                    }
                }
                None => {}
            }
        }
    }
}

/// The commits of each partition continue each other.
pub(super) fn contiguous(judge: &mut Judge<'_>) {
    let mut chains = BTreeMap::<Place, Chain>::new();
    for entry in judge.commits() {
        for (place, range) in judge.ranges(entry) {
            let chain = chains.entry(place.clone()).or_default();
            if let Some(last) = chain.last() {
                continues(judge, &place, chain, (range, entry), last);
            }
            chain.push(range, entry.snapshot_id);
            if entry.edit == Some(Edit::Skip) {
                chain.lost.push(range);
            }
        }
    }
    let complete = judge.evidence.history.complete;
    let counted = matches!(judge.evidence.rows, Rows::CountOnly { .. });
    for (place, chain) in &chains {
        let verdict = judge.verdict(place);
        verdict.from = Some(chain.from());
        verdict.ranges = chain.links.len() as u64;
        verdict.lost.clone_from(&chain.lost);
        verdict.verdict = match (counted, complete) {
            (true, _) => Verdict::Counted,
            (false, true) => Verdict::Proved,
            (false, false) => Verdict::ProvedInPart,
        };
        if !complete {
            let from = chain.from();
            let detail = match judge.rows_are_read() {
                true => {
                    format!("proven from {from} on; what is below was expired from the journal")
                }
                false => format!(
                    "proven from {from} on; what is below was expired from the journal; --rows \
                     proves it from the rows, if its offsets have no holes"
                ),
            };
            judge.find(Kind::Expired, Some(place), detail);
        }
    }
    judge.chains = chains;
}

/// A range begins where the one before it in the journal ended.
fn continues(
    judge: &mut Judge<'_>,
    place: &Place,
    chain: &Chain,
    (range, entry): (OffsetRange, &JournalEntry),
    last: i64,
) {
    let (this, end) = (entry.snapshot_id, chain.end());
    if range.start > chain.reached {
        let gap = OffsetRange { start: chain.reached, end: range.start };
        let detail =
            format!("{} is missing between snapshot {last} and snapshot {this}", span(gap));
        judge.find_range(Kind::JournalGap, place, gap, &[last, this], detail);
        return;
    }
    if range.start == end {
        return;
    }
    let mut found = false;
    for (earlier, snapshot) in &chain.links {
        let (start, end) = (earlier.start.max(range.start), earlier.end.min(range.end));
        if start < end {
            found = true;
            let both = OffsetRange { start, end };
            let detail =
                format!("{} is in both snapshot {snapshot} and snapshot {this}", span(both));
            judge.find_range(Kind::JournalOverlap, place, both, &[*snapshot, this], detail);
        }
    }
    if !found {
        let detail = format!(
            "{} of {} does not continue snapshot {last}, which ended at {end}",
            span(range),
            named(entry)
        );
        judge.find_range(Kind::JournalOverlap, place, range, &[last, this], detail);
    }
}

/// The commits of each partition end where the ledger is, or where a reset found it.
pub(super) fn up_to_ledger(judge: &mut Judge<'_>) {
    let ends: Vec<(Place, Offset, Option<i64>)> = judge
        .chains
        .iter()
        .map(|(place, chain)| (place.clone(), chain.end(), chain.last()))
        .collect();
    for (place, end, last) in &ends {
        let snapshots: Vec<i64> = last.iter().copied().collect();
        let last = last.unwrap_or_default();
        match judge.ledger(place) {
            Some(next) if next == *end => {}
            Some(next) if next > *end => {
                let range = OffsetRange { start: *end, end: next };
                let detail = format!(
                    "{} is counted by the ledger and is missing after snapshot {last}, the last \
                     that moved it",
                    span(range)
                );
                judge.find_range(Kind::LedgerAhead, place, range, &snapshots, detail);
            }
            Some(next) => {
                let range = OffsetRange { start: next, end: *end };
                let detail = format!(
                    "{} is in the commits up to snapshot {last} and not counted by the ledger, \
                     which is at {next}",
                    span(range)
                );
                judge.find_range(Kind::LedgerBehind, place, range, &snapshots, detail);
            }
            None => {
                let detail = format!(
                    "the ledger does not have it, but commits up to snapshot {last} brought it to \
                     {end}"
                );
                judge.find(Kind::LedgerBehind, Some(place), detail);
            }
        }
    }
    for (place, next) in without_commit(judge) {
        judge.verdict(&place);
        let (kind, detail) = if judge.evidence.history.complete {
            let detail = format!("the ledger is at {next}, but no commit brought anything in");
            (Kind::LedgerAhead, detail)
        } else if judge.rows_are_read() {
            let detail = format!("all its commits below {next} were expired from the journal");
            (Kind::Expired, detail)
        } else {
            let detail = format!(
                "all its commits below {next} were expired from the journal; --rows proves them \
                 from the rows, if their offsets have no holes"
            );
            (Kind::Expired, detail)
        };
        judge.find(kind, Some(&place), detail);
    }
}

/// Partitions that a ledger counts and no commit that is shown moved.
fn without_commit(judge: &Judge<'_>) -> Vec<(Place, Offset)> {
    let ledger = judge.evidence.view.ledger.iter();
    let today = ledger
        .flat_map(|ledger| ledger.frontier.iter())
        .map(|(tp, next)| (Place::new(tp, judge.eras.last(tp)), next));
    today.chain(judge.eras.ends()).filter(|(place, _)| !judge.chains.contains_key(place)).collect()
}
