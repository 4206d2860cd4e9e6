//! What is found of a table, partition by partition, while it is judged. Pure, as `verdict.rs` is.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Chain;
use super::eras::{Era, Eras, Place};
use super::evidence::Evidence;
use super::finding::{Finding, Judgement, Kind, PartitionVerdict, Verdict};
use super::foreign::ForeignSnapshot;
use super::rows::Rows;
use crate::base::clock::rfc3339;
use crate::protocol::{JournalEntry, Offset, OffsetRange, Refusal, check_history};

/// What was found so far.
pub(super) struct Judge<'a> {
    pub evidence: &'a Evidence,
    pub eras: Eras,
    pub findings: Vec<Finding>,
    pub chains: BTreeMap<Place, Chain>,
    pub partitions: BTreeMap<Place, PartitionVerdict>,
    pub in_doubt: BTreeSet<Place>,
    /// Places with a violation: the findings name only their partitions.
    violated: BTreeSet<Place>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(evidence: &'a Evidence) -> Self {
        Self {
            evidence,
            eras: Eras::of(&evidence.view, evidence.history.complete),
            findings: Vec::new(),
            chains: BTreeMap::new(),
            partitions: BTreeMap::new(),
            in_doubt: BTreeSet::new(),
            violated: BTreeSet::new(),
        }
    }

    pub(crate) fn find(&mut self, kind: Kind, place: Option<&Place>, detail: String) {
        self.push(place, Finding::new(kind, place.map(|place| &place.tp), detail));
    }

    /// A finding about a range of offsets and the snapshots around it.
    pub(crate) fn find_range(
        &mut self,
        kind: Kind,
        place: &Place,
        range: OffsetRange,
        snapshots: &[i64],
        detail: String,
    ) {
        let finding = Finding::new(kind, Some(&place.tp), detail).about(range, snapshots);
        self.push(Some(place), finding);
    }

    fn push(&mut self, place: Option<&Place>, mut finding: Finding) {
        if let Some(place) = place {
            if finding.violation {
                self.violated.insert(place.clone());
            }
            if let Some(era) = self.eras.words(place) {
                finding.detail.push_str(&format!(" ({era})"));
            }
        }
        self.findings.push(finding);
    }

    /// The commits that made the table what it is, oldest first.
    pub(crate) fn commits(&self) -> impl DoubleEndedIterator<Item = &'a JournalEntry> + use<'a> {
        self.evidence.view.journal.iter().filter(|entry| entry.in_ancestry)
    }

    /// The partitions that a commit moved, each in its era.
    pub(crate) fn ranges(&self, entry: &JournalEntry) -> Vec<(Place, OffsetRange)> {
        let place = |tp| Place::new(tp, self.eras.at(tp, entry.sequence_number));
        entry.ranges.iter().map(|(tp, range)| (place(tp), *range)).collect()
    }

    pub(crate) fn verdict(&mut self, place: &Place) -> &mut PartitionVerdict {
        let ledger = self.ledger(place);
        let entry = self.partitions.entry(place.clone());
        entry.or_insert_with(|| PartitionVerdict::new(place, ledger))
    }

    /// The ledger of a partition: today's, or for an earlier era the one that the reset ended.
    pub(crate) fn ledger(&self, place: &Place) -> Option<Offset> {
        if !matches!(place.era, Era::At(_)) {
            return None;
        }
        let frontier = match self.eras.end_of(place) {
            Some(reset) => &reset.from,
            None => &self.evidence.view.ledger.as_ref()?.frontier,
        };
        frontier.get(&place.tp)
    }

    pub(crate) fn rows_are_read(&self) -> bool {
        !matches!(self.evidence.rows, Rows::NotRead)
    }

    /// Words on the foreign snapshots that may explain a finding.
    pub(crate) fn suspects(&self, may: impl Fn(&ForeignSnapshot) -> bool) -> String {
        let mut suspects = self.evidence.history.foreign.iter().rev().filter(|s| may(s));
        let named: Vec<_> = suspects.by_ref().take(3).map(ForeignSnapshot::describe).collect();
        match (named.is_empty(), suspects.count()) {
            (true, _) => String::new(),
            (false, 0) => format!("; see {}", named.join(", ")),
            (false, more) => format!("; see {} and {more} older ones", named.join(", ")),
        }
    }

    pub(super) fn history(&mut self) {
        let Evidence { table, view, history, .. } = self.evidence;
        if let Err(refusal) = check_history(table, &view.brief()) {
            let lost = matches!(refusal, Refusal::LedgerSetBack { .. });
            let kind = if lost { Kind::LedgerBehind } else { Kind::History };
            self.find(kind, None, refusal.to_string());
            return;
        }
        let Some(ledger) = &view.ledger else {
            let detail = format!(
                "pipeline {} has no ledger in table {table}: nothing was committed yet",
                self.evidence.pipeline
            );
            self.find(Kind::NotBegun, None, detail);
            return;
        };
        let shown = self.commits().any(|entry| entry.commit_id == ledger.commit_id);
        if !shown && history.complete {
            let detail = format!(
                "the ledger was written by commit {}, which no snapshot shows although none was \
                 expired",
                ledger.commit_id
            );
            self.find(Kind::History, None, detail);
        }
    }

    pub(super) fn end(mut self) -> Judgement {
        for (place, verdict) in &mut self.partitions {
            if self.violated.contains(place) {
                verdict.verdict = Verdict::Violated;
            } else if self.in_doubt.contains(place) {
                verdict.verdict = Verdict::InDoubt;
            }
        }
        let mut findings = self.findings;
        findings.sort_by_key(|finding| !finding.violation);
        Judgement { partitions: self.partitions.into_values().collect(), findings }
    }
}

/// A commit, for people.
pub(super) fn named(entry: &JournalEntry) -> String {
    format!(
        "commit {} of {} (snapshot {})",
        entry.commit_id,
        rfc3339(entry.timestamp_ms),
        entry.snapshot_id
    )
}

/// Offsets for people; `total` of which `named` are the first.
pub(super) fn list(named: &[Offset], total: u64) -> String {
    let mut text = named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if (named.len() as u64) < total {
        text.push_str(", ...");
    }
    text
}

/// A range for people.
pub(super) fn span(range: OffsetRange) -> String {
    format!("[{}, {})", range.start, range.end)
}

/// Number of offsets from `start` up to but not including `end`.
pub(super) fn length(start: Offset, end: Offset) -> u64 {
    u64::try_from(end.saturating_sub(start)).unwrap_or(0)
}
