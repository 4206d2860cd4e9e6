//! The verdict for people, and as JSON.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::evidence::{Evidence, rfc3339};
use super::finding::{Finding, Judgement, Kind, Verdict};
use super::judge;
use super::rows::Rows;

/// Findings of a kind shown to people; JSON has all.
const SHOWN: usize = 40;

/// A judged table.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Is nothing wrong?
    pub ok: bool,
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
    /// Rows in the table, whoever wrote them.
    pub rows: u64,
    /// Partitions and findings.
    #[serde(flatten)]
    pub judgement: Judgement,
}

impl Report {
    /// Judges `evidence`.
    pub fn new(evidence: &Evidence) -> Self {
        let judgement = judge(evidence);
        let view = &evidence.view;
        let mut commits = view.journal.iter().filter(|entry| entry.in_ancestry);
        Self {
            ok: judgement.is_clean(),
            table: evidence.table.clone(),
            table_uuid: view.table_uuid.clone(),
            pipeline: evidence.pipeline.clone(),
            snapshot_id: view.head,
            commit_id: view.ledger.as_ref().map(|ledger| ledger.commit_id.to_string()),
            commits: commits.clone().count(),
            last_commit_at: commits.next_back().map(|entry| rfc3339(entry.timestamp_ms)),
            rows: match &evidence.rows {
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
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "table     {}  ({})", self.table, self.table_uuid)?;
        writeln!(out, "pipeline  {}", self.pipeline)?;
        let snapshot = self.snapshot_id.map_or_else(|| String::from("none"), |id| id.to_string());
        let last = self.last_commit_at.as_ref().map(|at| format!(", the last at {at}"));
        let (commits, last) = (self.commits, last.unwrap_or_default());
        writeln!(out, "snapshot  {snapshot}  ({commits} commits of the pipeline{last})")?;
        writeln!(out, "rows      {}", self.rows)?;
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

    fn summary(&self) -> &'static str {
        let verdicts = || self.judgement.partitions.iter().map(|partition| partition.verdict);
        let deleted = |finding: &Finding| finding.kind == Kind::RowsDeletedByOthers;
        if self.judgement.partitions.is_empty() {
            "nothing is wrong, and there is nothing to prove"
        } else if !verdicts().all(|verdict| verdict == Verdict::Proved) {
            "nothing is wrong; what could not be proved is noted above"
        } else if self.judgement.findings.iter().any(deleted) {
            "every row that was written is in the table exactly once, but for those others deleted"
        } else {
            "every row that was written is in the table exactly once, and the ledger agrees"
        }
    }

    fn partitions(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "partition",
            "from",
            "ledger",
            "commits",
            "rows",
            "repeated",
            "missing",
            "extra",
            "verdict",
        ]);
        for column in 1..8 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let shown = |value: Option<i64>| value.map_or_else(|| String::from("-"), |v| v.to_string());
        for p in &self.judgement.partitions {
            let missing = match p.verdict {
                Verdict::InDoubt => String::from("?"),
                _ => p.missing.to_string(),
            };
            table.add_row([
                format!("{}[{}]", p.topic, p.partition),
                shown(p.from),
                shown(p.ledger),
                p.ranges.to_string(),
                p.rows.map_or_else(|| String::from("-"), |rows| rows.to_string()),
                p.repeated.to_string(),
                missing,
                p.extra.to_string(),
                String::from(words(p.verdict)),
            ]);
        }
        table
    }
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Proved => "exact",
        Verdict::ProvedInPart => "exact from there on",
        Verdict::Unproved => "not provable",
        Verdict::Counted => "counted only",
        Verdict::InDoubt => "IN DOUBT",
        Verdict::Violated => "VIOLATED",
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
