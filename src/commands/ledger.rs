//! `icestream ledger show`

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{existing_table, write_json, written};
use crate::config::Config;
use crate::connect::source_settings;
use crate::failure::{Failure, chain, exit};
use crate::protocol::{LogRange, Offset, TopicPartition, check_history};
use crate::source::{Source, SourceError};
use crate::table::{self, Understood};

/// How long Kafka may take to tell the ends of the log, which are only shown beside the ledger.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Shown {
    pipeline: String,
    table: String,
    table_uuid: String,
    snapshot_id: Option<i64>,
    commit_id: Option<String>,
    cluster_id: Option<String>,
    topic_ids: BTreeMap<String, String>,
    /// Why the table refuses commits, if it does.
    refusal: Option<String>,
    partitions: Vec<Row>,
    /// Why the ends of the log are not shown.
    kafka_error: Option<String>,
}

#[derive(Serialize)]
struct Row {
    topic: String,
    partition: i32,
    next: Option<Offset>,
    log_start: Option<Offset>,
    log_end: Option<Offset>,
    /// Offsets between the ledger and the end of the log: no fewer than the records there.
    lag: Option<Offset>,
}

/// Shows the ledger of the pipeline in its table, and how far the log goes on if Kafka answers.
/// Returns 0, also where there is no ledger yet.
///
/// # Errors
/// The table cannot be reached, or its ledger cannot be understood.
pub(crate) async fn ledger_show(
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let loaded = existing_table(config).await?;
    let view = table::view(&loaded, &config.kafka.group_id, &Understood::default());
    let view = view.map_err(Failure::of_reading)?;
    let (log, kafka_error) = match log_ranges(config).await? {
        Ok(log) => (log, None),
        Err(error) => (BTreeMap::new(), Some(chain(&error))),
    };
    let refusal = check_history(&config.iceberg.table, &view).err();
    let ledger = view.ledger;
    let frontier = ledger.as_ref().map(|ledger| ledger.frontier.clone()).unwrap_or_default();
    let mut partitions: Vec<TopicPartition> = log.keys().cloned().collect();
    partitions.extend(frontier.iter().map(|(tp, _)| tp.clone()));
    partitions.sort();
    partitions.dedup();
    let row = |tp: TopicPartition| {
        let next = frontier.get(&tp);
        let range = log.get(&tp).copied();
        let from = next.or(range.map(|log| log.start));
        Row {
            next,
            log_start: range.map(|log| log.start),
            log_end: range.map(|log| log.end),
            lag: range.zip(from).map(|(log, from)| (log.end - from).max(0)),
            topic: tp.topic,
            partition: tp.partition,
        }
    };
    let shown = Shown {
        pipeline: config.kafka.group_id.clone(),
        table: loaded.name.to_string(),
        table_uuid: view.table_uuid,
        snapshot_id: view.head,
        commit_id: ledger.as_ref().map(|ledger| ledger.commit_id.to_string()),
        cluster_id: ledger.as_ref().map(|ledger| ledger.cluster_id.clone()),
        topic_ids: ledger.map(|ledger| ledger.topic_ids).unwrap_or_default(),
        refusal: refusal.map(|refusal| refusal.to_string()),
        partitions: partitions.into_iter().map(row).collect(),
        kafka_error,
    };
    match json {
        true => write_json(out, &shown)?,
        false => written(write_text(&shown, out))?,
    }
    Ok(exit::DONE)
}

type LogRanges = BTreeMap<TopicPartition, LogRange>;

async fn log_ranges(config: &Config) -> Result<Result<LogRanges, SourceError>, Failure> {
    let settings = source_settings(config);
    let asked = tokio::task::spawn_blocking(move || {
        let source = Source::connect(settings)?;
        let partitions = source.partitions(PATIENCE)?;
        source.log_ranges(&partitions, PATIENCE)
    });
    asked.await.map_err(|error| Failure::Internal(format!("asking Kafka ended early: {error}")))
}

fn write_text(shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
    let text = |value: Option<String>| value.unwrap_or_else(|| String::from("none"));
    writeln!(out, "pipeline  {}", shown.pipeline)?;
    writeln!(out, "table     {}  ({})", shown.table, shown.table_uuid)?;
    writeln!(out, "snapshot  {}", text(shown.snapshot_id.map(|id| id.to_string())))?;
    writeln!(out, "commit    {}", text(shown.commit_id.clone()))?;
    let cluster = shown.cluster_id.clone().filter(|id| !id.is_empty());
    writeln!(out, "cluster   {}", text(cluster))?;
    for (topic, id) in &shown.topic_ids {
        writeln!(out, "topic     {topic}  ({id})")?;
    }
    if shown.commit_id.is_none() {
        writeln!(out, "no ledger: this pipeline has committed nothing to the table yet")?;
    }
    if !shown.partitions.is_empty() {
        writeln!(out, "{}", partitions(&shown.partitions))?;
    }
    if let Some(refusal) = &shown.refusal {
        writeln!(out, "REFUSED: {refusal}")?;
    }
    if let Some(error) = &shown.kafka_error {
        writeln!(out, "the ends of the log are unknown: {error}")?;
    }
    Ok(())
}

fn partitions(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["partition", "next offset", "log start", "log end", "lag"]);
    for column in 1..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let shown =
        |value: Option<Offset>| value.map_or_else(|| String::from("-"), |value| value.to_string());
    for row in rows {
        table.add_row([
            format!("{}[{}]", row.topic, row.partition),
            shown(row.next),
            shown(row.log_start),
            shown(row.log_end),
            shown(row.lag),
        ]);
    }
    table
}
