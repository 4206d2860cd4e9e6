//! Where rows are: each offset once, below the ledger, at or above where reading began.

use super::chain::Chain;
use super::eras::{Era, Place};
use super::finding::{Kind, Verdict};
use super::foreign::ForeignSnapshot;
use super::judge::{Judge, length, list};
use super::rows::{NAMED, PartitionRows, RowIndex};
use crate::protocol::{Offset, OffsetRange};

/// Judges where rows are. Returns the number of rows that are certainly not this pipeline's.
pub(super) fn each_once(judge: &mut Judge<'_>, rows: &RowIndex) -> u64 {
    judge.partitions.values_mut().for_each(|verdict| verdict.rows = Some(0));
    let mut strangers = rows.without_position;
    if strangers > 0 {
        let detail = format!(
            "{strangers} rows lack topic, partition or offset: no pipeline wrote them, or \
             before the table had these columns{}",
            judge.suspects(ForeignSnapshot::brings_rows)
        );
        judge.find(Kind::RowsWithoutPosition, None, detail);
    }
    for (place, rows) in rows.iter() {
        let limit = judge.ledger(place).or_else(|| judge.chains.get(place).map(Chain::end));
        match limit {
            _ if place.era == Era::Hidden => judge.hidden(place, rows),
            _ if place.era == Era::Unclear => judge.unclear(place, rows),
            Some(limit) => judge.begun(place, rows, limit),
            None if judge.is_ours(&place.tp.topic) => judge.never_begun(place, rows),
            None => strangers += judge.strangers(place, rows),
        }
    }
    strangers
}

impl Judge<'_> {
    fn is_ours(&self, topic: &str) -> bool {
        let ledger = self.evidence.view.ledger.as_ref();
        topic == self.evidence.topic
            || self.chains.keys().any(|place| place.tp.topic == topic)
            || ledger.is_some_and(|ledger| ledger.frontier.iter().any(|(tp, _)| tp.topic == topic))
    }

    fn begun(&mut self, place: &Place, rows: &PartitionRows, limit: Offset) {
        let above = OffsetRange { start: limit, end: Offset::MAX };
        let count = rows.offsets.count(above);
        if count > 0 {
            let named = list(&rows.offsets.present(above, NAMED), count);
            let detail = format!(
                "{count} rows at or above the ledger ({limit}): offsets {named}{}{}",
                self.other_reader(&place.tp.topic),
                self.suspects(ForeignSnapshot::brings_rows)
            );
            self.find(Kind::RowsAboveLedger, Some(place), detail);
        }
        let verdict = self.verdict(place);
        verdict.rows = Some(rows.total());
        verdict.extra += count;
        self.repeated(place, rows);
        let from = self.chains.get(place).map_or(limit, Chain::from);
        match self.evidence.history.complete {
            true => self.before_beginning(place, rows, from),
            false => self.expired(place, rows, from),
        }
    }

    fn repeated(&mut self, place: &Place, rows: &PartitionRows) {
        if rows.repeated == 0 {
            return;
        }
        self.verdict(place).repeated = rows.repeated;
        let named: Vec<Offset> = rows.repeated_offsets.iter().copied().collect();
        let detail = format!(
            "{} rows repeat an offset: offsets {}{}{}",
            rows.repeated,
            list(&named, rows.repeated),
            self.other_reader(&place.tp.topic),
            self.suspects(ForeignSnapshot::brings_rows)
        );
        self.find(Kind::RowsRepeated, Some(place), detail);
    }

    /// Rows below the first commit of all.
    fn before_beginning(&mut self, place: &Place, rows: &PartitionRows, from: Offset) {
        let below = OffsetRange { start: Offset::MIN, end: from };
        let count = rows.offsets.count(below);
        if count == 0 {
            return;
        }
        let named = list(&rows.offsets.present(below, NAMED), count);
        let suspects = self.suspects(ForeignSnapshot::brings_rows);
        if suspects.is_empty() {
            self.verdict(place).extra += count;
            let detail = format!("{count} rows below {from}, where reading began: offsets {named}");
            self.find(Kind::RowsBeforeBeginning, Some(place), detail);
        } else {
            let detail = format!(
                "{count} rows below {from}, where reading began, are not this pipeline's{suspects}"
            );
            self.find(Kind::RowsUnproved, Some(place), detail);
        }
    }

    /// Rows below the first commit that is still shown. Where each offset has its row, the rows
    /// prove what the journal no longer can.
    fn expired(&mut self, place: &Place, rows: &PartitionRows, from: Offset) {
        let below = OffsetRange { start: 0, end: from };
        let count = rows.offsets.count(below);
        let Some(first) = rows.offsets.present(below, 1).first().copied() else {
            if from > 0 {
                let detail = format!("there is no row below {from}: nothing can be told of it");
                self.find(Kind::RowsUnproved, Some(place), detail);
            }
            return;
        };
        let holes = length(first, from) - count;
        if holes > 0 {
            let present = OffsetRange { start: first, end: from };
            let named = list(&rows.offsets.absent(present, NAMED), holes);
            let detail = format!(
                "{count} rows from {first} to {from} are there once each; {holes} offsets between \
                 them have none ({named}): holes in the log, skipped records or missing rows, \
                 which only the expired journal could tell"
            );
            self.find(Kind::RowsUnproved, Some(place), detail);
            return;
        }
        let detail = format!("the rows hold every offset from {first} to {from} once");
        self.find(Kind::ProvedByRows, Some(place), detail);
        let verdict = self.verdict(place);
        verdict.from = Some(first);
        verdict.verdict = match first {
            0 => Verdict::Proved,
            _ => Verdict::ProvedInPart,
        };
    }

    fn never_begun(&mut self, place: &Place, rows: &PartitionRows) {
        let count = rows.total();
        let detail = format!(
            "{count} rows, but pipeline {} never began this partition{}{}",
            self.evidence.pipeline,
            self.other_reader(&place.tp.topic),
            self.suspects(ForeignSnapshot::brings_rows)
        );
        self.find(Kind::RowsAboveLedger, Some(place), detail);
        let verdict = self.verdict(place);
        verdict.rows = Some(count);
        verdict.extra = count;
        self.repeated(place, rows);
    }

    /// Rows from before the oldest snapshot that is shown, where a reset may have been expired.
    fn hidden(&mut self, place: &Place, rows: &PartitionRows) {
        let count = rows.total();
        let detail = format!(
            "{count} rows are from before the oldest snapshot that is shown, and an edit of the \
             ledger before it was expired: if it was a reset, their offsets mean other records"
        );
        self.find(Kind::RowsUnproved, Some(place), detail);
        self.verdict(place).rows = Some(count);
    }

    /// Rows of which it cannot be told on which side of a reset they were read.
    fn unclear(&mut self, place: &Place, rows: &PartitionRows) {
        let count = rows.total();
        let detail = format!(
            "{count} rows are in files that were rewritten since a reset, so that it cannot be \
             told which of them are from before it{}",
            self.suspects(ForeignSnapshot::removes_files)
        );
        self.find(Kind::RowsUnproved, Some(place), detail);
        let eras = self.eras.all(&place.tp);
        let places: Vec<Place> = eras.map(|era| Place::new(&place.tp, era)).collect();
        let limit = places.iter().filter_map(|place| self.ledger(place)).max();
        let limit = limit.filter(|_| self.eras.are_shown()).unwrap_or(Offset::MAX);
        let above = OffsetRange { start: limit, end: Offset::MAX };
        let strange = rows.offsets.count(above);
        if strange > 0 {
            let named = list(&rows.offsets.present(above, NAMED), strange);
            let detail =
                format!("{strange} rows at or above the ledger ({limit}): offsets {named}");
            self.find(Kind::RowsAboveLedger, Some(place), detail);
        }
        self.verdict(place).rows = Some(count);
        self.verdict(place).extra = strange;
        for place in places.iter().filter(|place| self.chains.contains_key(place)) {
            self.partitions.entry(place.clone()).and_modify(|p| p.verdict = Verdict::Unproved);
        }
    }

    /// Rows of a topic that this pipeline does not read. Returns their number.
    fn strangers(&mut self, place: &Place, rows: &PartitionRows) -> u64 {
        let count = rows.total();
        let suspects = self.suspects(ForeignSnapshot::brings_rows);
        let (kind, detail) = match self.evidence.other_topics.get(&place.tp.topic) {
            Some(other) => (
                Kind::RowsOfOtherPipeline,
                format!("{count} rows are pipeline {other}'s: verify them with its settings"),
            ),
            None if suspects.is_empty() && self.evidence.history.complete => (
                Kind::RowsUnaccounted,
                format!("{count} rows of a topic that no ledger of the table knows"),
            ),
            None => (
                Kind::RowsUnproved,
                format!("{count} rows of a topic that no ledger of the table knows{suspects}"),
            ),
        };
        self.find(kind, Some(place), detail);
        count
    }

    fn other_reader(&self, topic: &str) -> String {
        match self.evidence.other_topics.get(topic) {
            Some(other) => format!("; pipeline {other} reads the same topic into this table"),
            None => String::new(),
        }
    }
}
