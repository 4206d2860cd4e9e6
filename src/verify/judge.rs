//! The verdict on a table. Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};

use super::counts;
use super::evidence::{Evidence, ForeignSnapshot};
use super::finding::{Finding, Judgement, Kind, PartitionVerdict, Verdict};
use super::rows::{PartitionRows, RowIndex, Rows};
use crate::protocol::{JournalEntry, Offset, OffsetRange, Refusal, TopicPartition, check_history};

/// Judges a table by its ledger, journal and rows: I1, and what I1 rests on.
pub fn judge(evidence: &Evidence) -> Judgement {
    let mut judge = Judge::new(evidence);
    judge.history();
    judge.journal();
    judge.ledger();
    match &evidence.rows {
        Rows::ByOffset(rows) => {
            let strangers = judge.positions(rows);
            counts::by_commit(&mut judge, rows, strangers);
        }
        Rows::CountOnly { total, lacking } => counts::in_total(&mut judge, *total, lacking),
    }
    judge.end()
}

/// The commits of one partition, as one.
struct Chain {
    /// The lowest start.
    from: Offset,
    /// The end of the last.
    end: Offset,
    ranges: u64,
}

pub(super) struct Judge<'a> {
    pub evidence: &'a Evidence,
    pub findings: Vec<Finding>,
    chains: BTreeMap<TopicPartition, Chain>,
    pub partitions: BTreeMap<TopicPartition, PartitionVerdict>,
    pub in_doubt: BTreeSet<TopicPartition>,
}

impl<'a> Judge<'a> {
    fn new(evidence: &'a Evidence) -> Self {
        Self {
            evidence,
            findings: Vec::new(),
            chains: BTreeMap::new(),
            partitions: BTreeMap::new(),
            in_doubt: BTreeSet::new(),
        }
    }

    pub fn find(&mut self, kind: Kind, partition: Option<&TopicPartition>, detail: String) {
        self.findings.push(Finding::new(kind, partition, detail));
    }

    /// The commits that made the table what it is, oldest first.
    pub fn commits(&self) -> impl DoubleEndedIterator<Item = &'a JournalEntry> + use<'a> {
        self.evidence.view.journal.iter().filter(|entry| entry.in_ancestry)
    }

    pub fn verdict(&mut self, tp: &TopicPartition) -> &mut PartitionVerdict {
        let evidence = self.evidence;
        self.partitions.entry(tp.clone()).or_insert_with(|| PartitionVerdict {
            topic: tp.topic.clone(),
            partition: tp.partition,
            from: None,
            ledger: evidence.view.ledger.as_ref().and_then(|ledger| ledger.frontier.get(tp)),
            ranges: 0,
            rows: matches!(evidence.rows, Rows::ByOffset(_)).then_some(0),
            repeated: 0,
            missing: 0,
            extra: 0,
            verdict: Verdict::Unproved,
        })
    }

    /// Words on the foreign snapshots that may explain a finding.
    pub fn suspects(&self, may: impl Fn(&ForeignSnapshot) -> bool) -> String {
        let mut suspects = self.evidence.history.foreign.iter().rev().filter(|s| may(s));
        let named: Vec<_> = suspects.by_ref().take(3).map(ForeignSnapshot::describe).collect();
        match (named.is_empty(), suspects.count()) {
            (true, _) => String::new(),
            (false, 0) => format!("; see {}", named.join(", ")),
            (false, more) => format!("; see {} and {more} older ones", named.join(", ")),
        }
    }

    fn history(&mut self) {
        let Evidence { table, view, history, .. } = self.evidence;
        if let Err(refusal) = check_history(table, view) {
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

    fn journal(&mut self) {
        for entry in self.commits() {
            let commit = &entry.commit_id;
            for (tp, range) in &entry.ranges {
                let before = match self.chains.get_mut(tp) {
                    Some(chain) => {
                        chain.from = chain.from.min(range.start);
                        chain.ranges += 1;
                        std::mem::replace(&mut chain.end, range.end)
                    }
                    None => {
                        let chain = Chain { from: range.start, end: range.end, ranges: 1 };
                        self.chains.insert(tp.clone(), chain);
                        range.start
                    }
                };
                if range.start != before {
                    let (kind, between) = match range.start > before {
                        true => (Kind::JournalGap, "are in no commit"),
                        false => (Kind::JournalOverlap, "are in two commits"),
                    };
                    let (low, high) = (before.min(range.start), before.max(range.start));
                    let detail = format!(
                        "commit {commit} of {} begins at {} and the one before it ended at \
                         {before}: offsets {low} to {} {between}",
                        super::rfc3339(entry.timestamp_ms),
                        range.start,
                        high - 1
                    );
                    self.find(kind, Some(tp), detail);
                }
            }
        }
        let chains = std::mem::take(&mut self.chains);
        let complete = self.evidence.history.complete;
        for (tp, chain) in &chains {
            let verdict = self.verdict(tp);
            verdict.from = Some(chain.from);
            verdict.ranges = chain.ranges;
            verdict.verdict = match (verdict.rows, complete) {
                (None, _) => Verdict::Counted,
                (Some(_), true) => Verdict::Proved,
                (Some(_), false) => Verdict::ProvedInPart,
            };
            if !complete {
                let detail = format!(
                    "proved from offset {} on; older commits, if there were any, are no longer shown",
                    chain.from
                );
                self.find(Kind::Expired, Some(tp), detail);
            }
        }
        self.chains = chains;
    }

    fn ledger(&mut self) {
        let empty = crate::protocol::Frontier::default();
        let ledger = self.evidence.view.ledger.as_ref().map_or(&empty, |ledger| &ledger.frontier);
        let ends: BTreeMap<_, _> =
            self.chains.iter().map(|(tp, chain)| (tp.clone(), chain.end)).collect();
        for (tp, end) in &ends {
            let (kind, detail) = match ledger.get(tp) {
                Some(next) if next > *end => (
                    Kind::LedgerAhead,
                    format!("the ledger is at {next}, but the commits end at {end}"),
                ),
                Some(next) if next < *end => (
                    Kind::LedgerBehind,
                    format!("the ledger is at {next}, but the commits go on to {end}"),
                ),
                Some(_) => continue,
                None => (
                    Kind::LedgerBehind,
                    format!("the ledger does not have it, but commits brought it to {end}"),
                ),
            };
            self.find(kind, Some(tp), detail);
        }
        for (tp, next) in ledger.iter().filter(|(tp, _)| !ends.contains_key(tp)) {
            self.verdict(tp);
            let (kind, detail) = match self.evidence.history.complete {
                true => (
                    Kind::LedgerAhead,
                    format!("the ledger is at {next}, but no commit brought anything in"),
                ),
                false => (
                    Kind::Expired,
                    format!(
                        "the snapshots of all its commits were expired: its rows below {next} can \
                         only be checked for repeats"
                    ),
                ),
            };
            self.find(kind, Some(tp), detail);
        }
    }

    /// Judges where rows are. Returns the number of rows that are certainly not this pipeline's.
    fn positions(&mut self, rows: &RowIndex) -> u64 {
        let mut strangers = rows.without_position;
        if strangers > 0 {
            let detail = format!(
                "{strangers} rows lack topic, partition or offset: no pipeline wrote them, or \
                 before the table had these columns{}",
                self.suspects(ForeignSnapshot::brings_rows)
            );
            self.find(Kind::RowsWithoutPosition, None, detail);
        }
        let ledger = self.evidence.view.ledger.as_ref();
        for (tp, rows) in rows.iter() {
            let begun = ledger.and_then(|ledger| ledger.frontier.get(tp));
            let limit = begun.or_else(|| self.chains.get(tp).map(|chain| chain.end));
            match limit {
                Some(limit) => self.begun(tp, rows, limit),
                None if self.is_ours(&tp.topic) => self.never_begun(tp, rows),
                None => strangers += self.strangers(tp, rows),
            }
        }
        strangers
    }

    fn is_ours(&self, topic: &str) -> bool {
        let ledger = self.evidence.view.ledger.as_ref();
        topic == self.evidence.topic
            || ledger.is_some_and(|ledger| ledger.frontier.iter().any(|(tp, _)| tp.topic == topic))
    }

    fn begun(&mut self, tp: &TopicPartition, rows: &PartitionRows, limit: Offset) {
        let above = OffsetRange { start: limit, end: Offset::MAX };
        let count = rows.offsets.count(above);
        if count > 0 {
            let named = list(&rows.offsets.present(above, super::rows::NAMED), count);
            let detail = format!(
                "{count} rows at or above the ledger ({limit}): offsets {named}{}{}",
                self.other_reader(&tp.topic),
                self.suspects(ForeignSnapshot::brings_rows)
            );
            self.find(Kind::RowsAboveLedger, Some(tp), detail);
        }
        let verdict = self.verdict(tp);
        verdict.rows = Some(rows.offsets.len() + rows.repeated);
        verdict.extra += count;
        self.repeated(tp, rows);
        if let Some(from) = self.chains.get(tp).map(|chain| chain.from) {
            self.below(tp, rows, from);
        }
    }

    fn repeated(&mut self, tp: &TopicPartition, rows: &PartitionRows) {
        if rows.repeated == 0 {
            return;
        }
        self.verdict(tp).repeated = rows.repeated;
        let named: Vec<Offset> = rows.repeated_offsets.iter().copied().collect();
        let detail = format!(
            "{} rows repeat an offset: offsets {}{}{}",
            rows.repeated,
            list(&named, rows.repeated),
            self.other_reader(&tp.topic),
            self.suspects(ForeignSnapshot::brings_rows)
        );
        self.find(Kind::RowsRepeated, Some(tp), detail);
    }

    /// Rows below the first commit that is shown.
    fn below(&mut self, tp: &TopicPartition, rows: &PartitionRows, from: Offset) {
        let below = OffsetRange { start: Offset::MIN, end: from };
        let count = rows.offsets.count(below);
        if count == 0 {
            return;
        }
        let named = list(&rows.offsets.present(below, super::rows::NAMED), count);
        let suspects = self.suspects(ForeignSnapshot::brings_rows);
        if !self.evidence.history.complete {
            let detail = format!("{count} rows below {from} are only checked for repeats");
            self.find(Kind::RowsUnproved, Some(tp), detail);
        } else if suspects.is_empty() {
            self.verdict(tp).extra += count;
            let detail = format!("{count} rows below {from}, where reading began: offsets {named}");
            self.find(Kind::RowsBeforeBeginning, Some(tp), detail);
        } else {
            let detail = format!(
                "{count} rows below {from}, where reading began, are not this pipeline's{suspects}"
            );
            self.find(Kind::RowsUnproved, Some(tp), detail);
        }
    }

    fn never_begun(&mut self, tp: &TopicPartition, rows: &PartitionRows) {
        let count = rows.offsets.len() + rows.repeated;
        let detail = format!(
            "{count} rows, but pipeline {} never began this partition{}{}",
            self.evidence.pipeline,
            self.other_reader(&tp.topic),
            self.suspects(ForeignSnapshot::brings_rows)
        );
        self.find(Kind::RowsAboveLedger, Some(tp), detail);
        let verdict = self.verdict(tp);
        verdict.rows = Some(count);
        verdict.extra = count;
        self.repeated(tp, rows);
    }

    /// Rows of a topic that this pipeline does not read. Returns their number.
    fn strangers(&mut self, tp: &TopicPartition, rows: &PartitionRows) -> u64 {
        let count = rows.offsets.len() + rows.repeated;
        let suspects = self.suspects(ForeignSnapshot::brings_rows);
        let (kind, detail) = match self.evidence.other_topics.get(&tp.topic) {
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
        self.find(kind, Some(tp), detail);
        count
    }

    fn other_reader(&self, topic: &str) -> String {
        match self.evidence.other_topics.get(topic) {
            Some(other) => format!("; pipeline {other} reads the same topic into this table"),
            None => String::new(),
        }
    }

    fn end(mut self) -> Judgement {
        let violated: BTreeSet<TopicPartition> = self
            .findings
            .iter()
            .filter(|finding| finding.violation)
            .filter_map(|finding| finding.partition.clone())
            .collect();
        for (tp, verdict) in &mut self.partitions {
            if violated.contains(tp) {
                verdict.verdict = Verdict::Violated;
            } else if self.in_doubt.contains(tp) {
                verdict.verdict = Verdict::InDoubt;
            }
        }
        let mut findings = self.findings;
        findings.sort_by_key(|finding| !finding.violation);
        Judgement { partitions: self.partitions.into_values().collect(), findings }
    }
}

/// Offsets for people; `total` of which `named` are the first.
pub(super) fn list(named: &[Offset], total: u64) -> String {
    let mut text = named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if (named.len() as u64) < total {
        text.push_str(", ...");
    }
    text
}
