//! `icestream checkpoints`

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{human_bytes, unwritable, write_json};
use crate::config::Config;
use crate::failure::{Failure, exit};
use crate::state::{CheckpointRecord, Outcome, StateStore};
use crate::verify::rfc3339;

#[derive(Serialize)]
struct Shown {
    id: String,
    started_at: String,
    ended_at: Option<String>,
    #[serde(flatten)]
    record: CheckpointRecord,
}

/// Shows the retained checkpoints, oldest first. Reads beside a running process.
///
/// # Errors
/// The checkpoint directory is not there or cannot be read.
pub async fn checkpoints(config: &Config, json: bool, out: &mut dyn Write) -> Result<u8, Failure> {
    let dir = config.checkpoint.dir.clone();
    let read = move || StateStore::open_read_only(&dir)?.checkpoints();
    let records = tokio::task::spawn_blocking(read).await.map_err(|error| {
        Failure::Internal(format!("reading checkpoints ended early: {error}"))
    })??;
    let shown: Vec<Shown> = records.into_iter().map(shown).collect();
    match json {
        true => write_json(out, &shown)?,
        false => write_text(&shown, config, out).map_err(unwritable)?,
    }
    Ok(exit::DONE)
}

fn shown(record: CheckpointRecord) -> Shown {
    Shown {
        id: format!("{}-{}", record.instance, record.epoch),
        started_at: rfc3339(record.started_ms),
        ended_at: record.ended_ms.map(rfc3339),
        record,
    }
}

fn write_text(shown: &[Shown], config: &Config, out: &mut dyn Write) -> io::Result<()> {
    if shown.is_empty() {
        return writeln!(out, "no checkpoints in {} yet", config.checkpoint.dir.display());
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "id", "started", "seal s", "prepare", "commit", "finalize", "report", "records", "files",
        "size", "offsets", "outcome",
    ]);
    for column in 2..10 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for checkpoint in shown {
        let record = &checkpoint.record;
        let seconds = record.seconds;
        table.add_row([
            short_id(record),
            checkpoint.started_at.clone(),
            step(seconds.seal),
            step(seconds.prepare),
            step(seconds.commit),
            step(seconds.finalize),
            step(seconds.report),
            record.records.to_string(),
            record.files.to_string(),
            human_bytes(record.bytes),
            offsets(record),
            outcome(&record.outcome),
        ]);
    }
    writeln!(out, "{table}")
}

/// Enough of the instance to tell it from others; JSON has all of it.
fn short_id(record: &CheckpointRecord) -> String {
    let instance: String = record.instance.chars().take(8).collect();
    format!("{instance}-{}", record.epoch)
}

fn step(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| String::from("-"), |seconds| format!("{seconds:.3}"))
}

fn offsets(record: &CheckpointRecord) -> String {
    let lines: Vec<_> =
        record.frontier.iter().map(|(tp, next)| format!("{}:{next}", tp.partition)).collect();
    lines.chunks(4).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Pending => String::from("pending"),
        Outcome::Committed { snapshot: Some(snapshot) } => format!("committed {snapshot}"),
        Outcome::Committed { snapshot: None } => String::from("committed"),
        Outcome::Superseded => String::from("superseded"),
        Outcome::Failed { reason } => format!("failed: {reason}"),
    }
}
