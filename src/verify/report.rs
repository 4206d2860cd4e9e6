//! The verdict for people, and as JSON.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::evidence::Evidence;
use super::finding::{Finding, Judgement, Kind, PartitionVerdict, Verdict};
use super::foreign::ForeignSnapshot;
use super::judge::span;
use super::rows::Rows;
use super::verdict::judge;
use crate::base::clock::rfc3339;

/// Findings of a kind shown to people; JSON has all.
const SHOWN: usize = 40;
/// Foreign snapshots shown to people; JSON has all.
const FOREIGN_SHOWN: usize = 10;

/// What a verdict was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Proof {
    /// Metadata and manifests.
    Metadata,
    /// These and the rows.
    Rows,
}

/// A judged table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Is nothing wrong?
    pub ok: bool,
    /// What the verdict was made from.
    pub proof: Proof,
    /// Table as `namespace.table`.
    pub table: String,
    /// UUID of the table.
    pub table_uuid: String,
    /// The pipeline that was judged.
    pub pipeline: String,
    /// The snapshot that was judged.
    pub snapshot_id: Option<i64>,
    /// The commit that wrote the ledger.
    pub commit_id: Option<String>,
    /// Commits of the pipeline that the ancestry of the head still shows.
    pub commits: usize,
    /// When the newest of them was made, RFC 3339.
    pub last_commit_at: Option<String>,
    /// Does the journal surely reach back to the table's first snapshot?
    pub complete: bool,
    /// Rows in the table, whoever wrote them. Without reading them: rows in data files, those that
    /// delete files delete among them.
    pub rows: u64,
    /// Delete files.
    pub delete_files: u64,
    /// Snapshots by others among those that made the table what it is, oldest first.
    pub foreign: Vec<ForeignSnapshot>,
    /// Partitions and findings.
    #[serde(flatten)]
    pub judgement: Judgement,
}

impl Report {
    /// Judges `evidence`.
    pub(crate) fn new(evidence: &Evidence) -> Self {
        let judgement = judge(evidence);
        let view = &evidence.view;
        let mut commits = view.journal.iter().filter(|entry| entry.in_ancestry);
        Self {
            ok: judgement.is_clean(),
            proof: match evidence.rows {
                Rows::NotRead => Proof::Metadata,
                Rows::ByOffset(_) | Rows::CountOnly { .. } => Proof::Rows,
            },
            table: evidence.table.clone(),
            table_uuid: view.table_uuid.clone(),
            pipeline: evidence.pipeline.clone(),
            snapshot_id: view.head,
            commit_id: view.ledger.as_ref().map(|ledger| ledger.commit_id.to_string()),
            commits: commits.clone().count(),
            last_commit_at: commits.next_back().map(|entry| rfc3339(entry.timestamp_ms)),
            complete: evidence.history.complete,
            delete_files: evidence.files.deletes,
            foreign: evidence.history.foreign.clone(),
            rows: match &evidence.rows {
                Rows::NotRead => evidence.files.rows,
                Rows::ByOffset(rows) => rows.total(),
                Rows::CountOnly { total, .. } => *total,
            },
            judgement,
        }
    }

    /// Writes the report as a table and sentences.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "table     {}  ({})", self.table, self.table_uuid)?;
        writeln!(out, "pipeline  {}", self.pipeline)?;
        let snapshot = self.snapshot_id.map_or_else(|| String::from("none"), |id| id.to_string());
        let last = self.last_commit_at.as_ref().map(|at| format!(", the last at {at}"));
        let (commits, last) = (self.commits, last.unwrap_or_default());
        writeln!(out, "snapshot  {snapshot}  ({commits} commits of the pipeline{last})")?;
        match (self.proof, self.delete_files) {
            (Proof::Rows, _) => writeln!(out, "rows      {}", self.rows)?,
            (Proof::Metadata, 0) => writeln!(out, "rows      {}  (not read)", self.rows)?,
            (Proof::Metadata, deletes) => writeln!(
                out,
                "rows      {}  (not read; less what {deletes} delete files delete)",
                self.rows
            )?,
        }
        self.write_foreign(out)?;
        if !self.judgement.partitions.is_empty() {
            writeln!(out, "{}", self.partitions())?;
        }
        let (wrong, notes): (Vec<_>, Vec<_>) =
            self.judgement.findings.iter().partition(|finding| finding.violation);
        write_findings(out, "WRONG", &wrong)?;
        write_findings(out, "note ", &notes)?;
        match self.ok {
            true => writeln!(out, "OK: {}", self.summary()),
            false => writeln!(out, "VIOLATED: {} findings; nothing was changed", wrong.len()),
        }
    }

    /// Names the snapshots by others, the newest first.
    fn write_foreign(&self, out: &mut dyn Write) -> io::Result<()> {
        let count = self.foreign.len();
        if count == 0 {
            return Ok(());
        }
        writeln!(out, "others    {count} snapshots were not made by this pipeline:")?;
        for snapshot in self.foreign.iter().rev().take(FOREIGN_SHOWN) {
            writeln!(out, "          {}", snapshot.describe())?;
        }
        match count.saturating_sub(FOREIGN_SHOWN) {
            0 => Ok(()),
            more => writeln!(out, "          and {more} older ones; --json shows all"),
        }
    }

    fn summary(&self) -> &'static str {
        let verdicts = || self.judgement.partitions.iter().map(|partition| partition.verdict);
        let found = |kind| self.judgement.findings.iter().any(|finding| finding.kind == kind);
        if self.judgement.partitions.is_empty() {
            "nothing is wrong, and there is nothing to prove"
        } else if !verdicts().all(|verdict| verdict == Verdict::Proved) {
            "nothing is wrong; what could not be proved is noted above"
        } else if self.proof == Proof::Metadata {
            "the commits brought in every offset up to the ledger once; --rows reads the rows too"
        } else if found(Kind::RowsDeletedByOthers) {
            "every row that was written is in the table exactly once, but for those others deleted"
        } else {
            "every row that was written is in the table exactly once, and the ledger agrees"
        }
    }

    fn partitions(&self) -> Table {
        let rows = self.proof == Proof::Rows;
        let lost = self.judgement.partitions.iter().any(|partition| !partition.lost.is_empty());
        let mut header = vec!["partition", "from", "ledger", "commits"];
        if lost {
            header.push("lost");
        }
        if rows {
            header.extend(["rows", "repeated", "missing", "extra"]);
        }
        let numbers = 1..header.len();
        header.push("verdict");
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(header);
        for column in numbers {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let eras = self.judgement.partitions.iter().any(|partition| partition.era != Some(0));
        for partition in &self.judgement.partitions {
            table.add_row(self.cells(partition, lost, eras));
        }
        table
    }

    fn cells(&self, p: &PartitionVerdict, lost: bool, eras: bool) -> Vec<String> {
        let shown = |value: Option<i64>| value.map_or_else(|| String::from("-"), |v| v.to_string());
        let name = match (eras, p.era) {
            (false, _) => format!("{}[{}]", p.topic, p.partition),
            (true, Some(era)) => format!("{}[{}] era {era}", p.topic, p.partition),
            (true, None) => format!("{}[{}] era ?", p.topic, p.partition),
        };
        let mut cells = vec![name, shown(p.from), shown(p.ledger), p.ranges.to_string()];
        if lost {
            let ranges: Vec<String> = p.lost.iter().map(|range| span(*range)).collect();
            cells.push(if ranges.is_empty() { String::from("-") } else { ranges.join(" ") });
        }
        if self.proof == Proof::Rows {
            cells.push(p.rows.map_or_else(|| String::from("-"), |rows| rows.to_string()));
            cells.push(p.repeated.to_string());
            cells.push(match p.verdict {
                Verdict::InDoubt => String::from("?"),
                _ => p.missing.to_string(),
            });
            cells.push(p.extra.to_string());
        }
        cells.push(String::from(self.words(p.verdict)));
        cells
    }

    fn words(&self, verdict: Verdict) -> &'static str {
        match (verdict, self.proof) {
            (Verdict::Proved, Proof::Rows) => "exact",
            (Verdict::ProvedInPart, Proof::Rows) => "exact from there on",
            (Verdict::Proved, Proof::Metadata) => "contiguous",
            (Verdict::ProvedInPart, Proof::Metadata) => "contiguous from there on",
            (Verdict::Unproved, _) => "not provable",
            (Verdict::Counted, _) => "counted only",
            (Verdict::InDoubt, _) => "IN DOUBT",
            (Verdict::Violated, _) => "VIOLATED",
        }
    }
}

fn write_findings(out: &mut dyn Write, title: &str, findings: &[&Finding]) -> io::Result<()> {
    for finding in findings.iter().take(SHOWN) {
        let place = finding.partition.as_ref().map(|tp| format!("{tp}: ")).unwrap_or_default();
        writeln!(out, "{title}  {}  {place}{}", finding.invariant, finding.detail)?;
    }
    match findings.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "{title}  and {more} more; --json shows all"),
    }
}
