//! `icestream checkpoints`

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{human_bytes, write_json, written};
use crate::base::clock::rfc3339;
use crate::config::Config;
use crate::failure::{Failure, exit};
use crate::protocol::{Epoch, Offset};
use crate::state::{CheckpointRecord, Outcome, StateStore, StepSeconds};

#[derive(Serialize)]
struct Shown {
    id: String,
    instance: String,
    epoch: Epoch,
    started_at: String,
    ended_at: Option<String>,
    seconds: StepSeconds,
    records: u64,
    files: u64,
    bytes: u64,
    offsets: Vec<Next>,
    outcome: Outcome,
}

#[derive(Serialize)]
struct Next {
    topic: String,
    partition: i32,
    next: Offset,
}

/// Shows the retained checkpoints, oldest first. Reads beside a running process.
///
/// # Errors
/// The checkpoint directory is not there, belongs to another pipeline, or cannot be read.
pub(crate) async fn checkpoints(
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let dir = config.checkpoint.dir.clone();
    let (pipeline, flow) = (config.pipeline().to_owned(), config.flow().to_owned());
    let read = move || {
        let store = StateStore::open_read_only(&dir)?;
        store.is_of(&pipeline)?;
        store.checkpoints(&flow)
    };
    let records = tokio::task::spawn_blocking(read).await.map_err(|error| {
        Failure::Internal(format!("reading checkpoints ended early: {error}"))
    })??;
    let shown: Vec<Shown> = records.into_iter().map(shown).collect();
    match json {
        true => write_json(out, &shown)?,
        false => written(write_text(&shown, config, out))?,
    }
    Ok(exit::DONE)
}

fn shown(record: CheckpointRecord) -> Shown {
    let outcome = record.outcome();
    let frontiers = record.commits.iter().flat_map(|commit| commit.frontier.iter());
    let offsets =
        frontiers.map(|(tp, next)| Next { topic: tp.topic.clone(), partition: tp.partition, next });
    Shown {
        id: format!("{}-{}", record.instance, record.epoch),
        started_at: rfc3339(record.started_ms),
        ended_at: record.ended_ms.map(rfc3339),
        offsets: offsets.collect(),
        instance: record.instance,
        epoch: record.epoch,
        seconds: record.seconds,
        records: record.records,
        files: record.files,
        bytes: record.bytes,
        outcome,
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
        let seconds = checkpoint.seconds;
        table.add_row([
            short_id(checkpoint),
            checkpoint.started_at.clone(),
            step(seconds.seal),
            step(seconds.prepare),
            step(seconds.commit),
            step(seconds.finalize),
            step(seconds.report),
            checkpoint.records.to_string(),
            checkpoint.files.to_string(),
            human_bytes(checkpoint.bytes),
            offsets(checkpoint),
            outcome(&checkpoint.outcome),
        ]);
    }
    writeln!(out, "{table}")
}

/// Enough of the instance to tell it from others; JSON has all of it.
fn short_id(checkpoint: &Shown) -> String {
    let instance: String = checkpoint.instance.chars().take(8).collect();
    format!("{instance}-{}", checkpoint.epoch)
}

fn step(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| String::from("-"), |seconds| format!("{seconds:.3}"))
}

fn offsets(checkpoint: &Shown) -> String {
    let all: Vec<_> =
        checkpoint.offsets.iter().map(|at| format!("{}:{}", at.partition, at.next)).collect();
    all.chunks(4).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{CommitId, Frontier, TopicPartition};
    use crate::state::CommitRecord;

    fn record() -> CheckpointRecord {
        let frontier: Frontier =
            (0..6).map(|p| (TopicPartition::new("readings", p), 100 + i64::from(p))).collect();
        CheckpointRecord {
            epoch: Epoch(7),
            instance: "0123456789abcdef".into(),
            started_ms: 1_700_000_000_000,
            ended_ms: None,
            seconds: StepSeconds { seal: Some(0.25), ..StepSeconds::default() },
            bytes: 1536,
            records: 42,
            files: 2,
            commits: vec![CommitRecord {
                table: "lake.readings".into(),
                commit_id: CommitId("commit-7".into()),
                frontier,
                outcome: Outcome::Failed { reason: "gone".into() },
            }],
        }
    }

    #[test]
    fn json_tells_times_in_utc_and_each_partition_s_next_offset() {
        let json = serde_json::to_value(shown(record())).expect("JSON");
        assert_eq!(json["id"], "0123456789abcdef-7");
        assert_eq!(json["started_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!(json["ended_at"], serde_json::Value::Null);
        let next = serde_json::json!({"topic": "readings", "partition": 5, "next": 105});
        assert_eq!(json["offsets"][5], next);
        assert_eq!(json["outcome"]["failed"]["reason"], "gone");
    }

    #[test]
    fn a_row_for_people_is_short_and_steps_not_known_are_dashes() {
        let shown = shown(record());
        assert_eq!(short_id(&shown), "01234567-7");
        assert_eq!(offsets(&shown), "0:100 1:101 2:102 3:103\n4:104 5:105");
        assert_eq!(
            (step(shown.seconds.seal), step(shown.seconds.commit)),
            ("0.250".into(), "-".into())
        );
        assert_eq!(outcome(&shown.outcome), "failed: gone");
    }
}
