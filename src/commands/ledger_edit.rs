//! `icestream ledger rewind`, `reset` and `skip`: a person's edits of the ledger.
//!
//! What an edit makes of the ledger is decided in `protocol`; here it is shown and, with the
//! person's word, committed: one request, pinned to the head that it was decided for. Processes of
//! the pipeline may run meanwhile: the edit begins a new generation, which fences them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{existing_table_of, write_json, written};
use crate::config::Config;
use crate::connect::{connect_catalog, source_settings};
use crate::failure::{Failure, chain, exit};
use crate::protocol::{
    CommitId, Edit, EditError, Frontier, Ledger, LedgerEdit, Offset, OffsetRange, SourceView,
    TopicPartition, shows_commit, snapshot_of,
};
use crate::retry::Backoff;
use crate::source::{Source, Topics};
use crate::table::{self, Catalog, CommitOutcome, LoadedTable};

/// How long Kafka may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which edit, with a person's words on it.
#[derive(Clone, Debug)]
pub(crate) enum EditRequest {
    /// What the table holds at its head.
    Rewind {
        /// The snapshot that it must be, if one is named.
        to_snapshot: Option<i64>,
        /// Positions that the journal does not tell, by partition.
        at: Vec<(i32, Offset)>,
        /// A ledger of a newer version counts as lost.
        discard_newer: bool,
    },
    /// A topic begins anew.
    Reset {
        /// The topic.
        topic: String,
        /// Where partitions begin that do not begin at their first record.
        at: Vec<(i32, Offset)>,
        /// Were the logs of these cut off, and have grown again?
        cut: bool,
    },
    /// Records are given up.
    Skip {
        /// Where to read on, where that is not the start of the log.
        at: Vec<(i32, Offset)>,
    },
}

#[derive(Serialize)]
struct Shown {
    edit: &'static str,
    pipeline: String,
    table: String,
    /// Head that the edit was decided for.
    head: Option<i64>,
    generation: u64,
    partitions: Vec<Row>,
    topics: Vec<TopicIds>,
    applied: bool,
    /// The snapshot of the edit, once it is applied.
    snapshot_id: Option<i64>,
    commit_id: Option<String>,
}

#[derive(Serialize)]
struct Row {
    topic: String,
    partition: i32,
    from: Option<Offset>,
    /// `null`: the partition begins anew at its first record.
    to: Option<Offset>,
    /// The records that are given up, `[start, end)`.
    lost: Option<OffsetRange>,
}

#[derive(Serialize)]
struct TopicIds {
    topic: String,
    old_id: String,
    new_id: String,
}

/// Shows what the edit would do; with `apply` does it. Returns 0 in both cases.
///
/// # Errors
/// The edit cannot be proven or is not needed; the table or Kafka cannot be reached.
pub(crate) async fn ledger_edit(
    config: &Config,
    request: &EditRequest,
    apply: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let editor = Editor {
        config,
        request,
        instance: uuid::Uuid::new_v4().simple().to_string(),
        catalog: connect_catalog(config).await?,
    };
    let (edit, snapshot_id) = match apply {
        false => (editor.decide(&editor.load().await?).await?, None),
        true => {
            let (edit, snapshot_id) = editor.apply().await?;
            (edit, Some(snapshot_id))
        }
    };
    let shown = shown(config, &edit, snapshot_id);
    match json {
        true => write_json(out, &shown)?,
        false => written(write_text(&shown, out))?,
    }
    Ok(exit::DONE)
}

struct Editor<'a> {
    config: &'a Config,
    request: &'a EditRequest,
    instance: String,
    catalog: Catalog,
}

enum Attempt {
    Done(Box<LedgerEdit>, Option<i64>),
    Again(String),
}

impl Editor<'_> {
    async fn load(&self) -> Result<LoadedTable, Failure> {
        existing_table_of(&self.catalog, self.config).await
    }

    async fn decide(&self, loaded: &LoadedTable) -> Result<LedgerEdit, Failure> {
        let discard = matches!(self.request, EditRequest::Rewind { discard_newer: true, .. });
        let pipeline = &self.config.kafka.group_id;
        let basis = table::edit_basis(loaded, pipeline, &self.instance, discard)
            .map_err(Failure::of_reading)?;
        let asked = match self.request {
            EditRequest::Reset { topic, .. } => topic,
            EditRequest::Rewind { .. } | EditRequest::Skip { .. } => &self.config.kafka.topic,
        };
        let source = self.source(asked, basis.ledger.as_ref()).await?;
        let edit = match self.request {
            EditRequest::Rewind { to_snapshot, at, .. } => {
                let partitions: Vec<_> = source.log.into_keys().chain(source.untold).collect();
                basis.rewind(*to_snapshot, &frontier(asked, at), &partitions)
            }
            EditRequest::Reset { at, cut, .. } => {
                basis.reset(asked, &source, &frontier(asked, at), *cut)
            }
            EditRequest::Skip { at } => basis.skip(&source, &frontier(asked, at)),
        };
        edit.map_err(|error| match error {
            EditError::Refused(refusal) => Failure::Refused(*refusal),
            other => Failure::Edit(Box::new(other)),
        })
    }

    /// What Kafka shows of a topic. Partitions that nobody leads do not keep the others from their edit.
    async fn source(&self, topic: &str, ledger: Option<&Ledger>) -> Result<SourceView, Failure> {
        let mut settings = source_settings(self.config);
        settings.topics = Topics::new([topic]);
        let known = ledger.and_then(|ledger| ledger.topic_ids.get(topic)).cloned();
        let asked = tokio::task::spawn_blocking(move || {
            let source = Source::connect(settings)?;
            let info = source.describe(PATIENCE)?;
            // A topic made again and one whose log was cut look alike without it.
            if known.is_some_and(|id| !id.is_empty()) && info.topic_ids.is_empty() {
                return Err(source.silent().into());
            }
            let log = source.known_log_ranges(&info.partitions)?;
            Ok::<_, Failure>((info, log))
        });
        let (info, log) = asked
            .await
            .map_err(|error| Failure::Internal(format!("asking Kafka ended early: {error}")))??;
        let untold = info.partitions.into_iter().filter(|tp| !log.contains_key(tp)).collect();
        Ok(SourceView { cluster_id: info.cluster_id, topic_ids: info.topic_ids, log, untold })
    }

    /// Reads, decides and commits until the edit is in the table. Conflict and unknown both come
    /// back to the reading: it tells whether an earlier request has landed after all.
    async fn apply(&self) -> Result<(LedgerEdit, Option<i64>), Failure> {
        let mut sent = Vec::new();
        let mut backoff = Backoff::new(Instant::now(), self.config.retry_give_up);
        loop {
            let (reason, failure) = match self.attempt(&mut sent).await {
                Ok(Attempt::Done(edit, snapshot_id)) => return Ok((*edit, snapshot_id)),
                Ok(Attempt::Again(reason)) => (reason, None),
                Err(failure) if failure.is_transient() => (chain(&failure), Some(failure)),
                Err(failure) => return Err(failure),
            };
            let Some(wait) = backoff.next_wait(Instant::now()) else {
                let commit = sent.pop().map(|edit| edit.parts.commit_id);
                let commit = commit.unwrap_or_else(|| CommitId(String::from("of the edit")));
                let last = failure.unwrap_or(Failure::Unsettled { commit, reason });
                let after = backoff.spent(Instant::now());
                return Err(Failure::GaveUp { after, last: Box::new(last) });
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, sent: &mut Vec<LedgerEdit>) -> Result<Attempt, Failure> {
        let loaded = self.load().await?;
        if let Some(landed) = self.landed(&loaded, sent)? {
            return Ok(landed);
        }
        let edit = self.decide(&loaded).await?;
        sent.push(edit.clone());
        Ok(match table::append_edit(&self.catalog, &loaded, &edit).await? {
            CommitOutcome::Committed { snapshot_id, .. } => {
                Attempt::Done(Box::new(edit), Some(snapshot_id))
            }
            CommitOutcome::Conflict(reason) => {
                Attempt::Again(format!("another commit came first: {reason}"))
            }
            CommitOutcome::Unknown(reason) => {
                Attempt::Again(format!("the outcome of the commit is not known: {reason}"))
            }
            CommitOutcome::Rejected(detail) => {
                let table = self.config.iceberg.table.clone();
                let detail = format!("the catalog rejected the edit of the ledger: {detail}");
                return Err(Failure::Unfit { table, detail });
            }
            CommitOutcome::TurnedAway(error) => return Err(error.into()),
        })
    }

    /// An edit that was sent and is in the table.
    fn landed(
        &self,
        loaded: &LoadedTable,
        sent: &[LedgerEdit],
    ) -> Result<Option<Attempt>, Failure> {
        if sent.is_empty() {
            return Ok(None);
        }
        let pipeline = &self.config.kafka.group_id;
        let view = table::edit_basis(loaded, pipeline, &self.instance, true)?.view();
        let landed = sent.iter().find(|edit| shows_commit(&view, &edit.parts.commit_id));
        Ok(landed.map(|edit| {
            Attempt::Done(Box::new(edit.clone()), snapshot_of(&view, &edit.parts.commit_id))
        }))
    }
}

fn frontier(topic: &str, at: &[(i32, Offset)]) -> Frontier {
    at.iter().map(|(partition, at)| (TopicPartition::new(topic, *partition), *at)).collect()
}

fn shown(config: &Config, edit: &LedgerEdit, snapshot_id: Option<Option<i64>>) -> Shown {
    let what = edit.parts.edit.as_ref();
    let lost: BTreeMap<_, _> = match what {
        Some(Edit::Skip) => edit.parts.ranges.clone(),
        _ => BTreeMap::new(),
    };
    let row = |(tp, (from, to)): (TopicPartition, (Option<Offset>, Option<Offset>))| Row {
        lost: lost.get(&tp).copied(),
        topic: tp.topic,
        partition: tp.partition,
        from,
        to,
    };
    let topics = match what {
        Some(Edit::Reset { topic, old_id, new_id, .. }) => {
            vec![TopicIds { topic: topic.clone(), old_id: old_id.clone(), new_id: new_id.clone() }]
        }
        _ => Vec::new(),
    };
    Shown {
        edit: what.map_or("none", Edit::name),
        pipeline: config.kafka.group_id.clone(),
        table: config.iceberg.table.clone(),
        head: edit.head,
        generation: edit.after.generation,
        partitions: edit.moves().into_iter().map(row).collect(),
        topics,
        applied: snapshot_id.is_some(),
        snapshot_id: snapshot_id.flatten(),
        commit_id: snapshot_id.map(|_| edit.parts.commit_id.to_string()),
    }
}

fn write_text(shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
    let head = shown.head.map_or_else(|| String::from("no snapshot"), |id| id.to_string());
    writeln!(
        out,
        "{} of the ledger of pipeline {} in table {} (head {head}, generation {} from then on)",
        shown.edit, shown.pipeline, shown.table, shown.generation
    )?;
    for topic in &shown.topics {
        let id = |id: &str| if id.is_empty() { String::from("not known") } else { id.to_owned() };
        writeln!(
            out,
            "topic {}: id {} becomes {}",
            topic.topic,
            id(&topic.old_id),
            id(&topic.new_id)
        )?;
    }
    writeln!(out, "{}", partitions(&shown.partitions))?;
    match (shown.applied, shown.snapshot_id) {
        (false, _) => writeln!(
            out,
            "nothing was changed; the same command with --yes does it. Processes of the pipeline may \
             run: they begin anew at the edited ledger"
        ),
        (true, Some(id)) => writeln!(out, "done: snapshot {id}"),
        (true, None) => writeln!(out, "done"),
    }
}

fn partitions(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["partition", "from", "to", "what it means"]);
    for column in 1..3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let offset = |at: Option<Offset>| at.map_or_else(|| String::from("-"), |at| at.to_string());
    for row in rows {
        let partition = format!("{}[{}]", row.topic, row.partition);
        table.add_row([partition, offset(row.from), offset(row.to), meaning(row)]);
    }
    table
}

fn meaning(row: &Row) -> String {
    match (row.from, row.to, row.lost) {
        (_, _, Some(lost)) => {
            format!("the records in [{}, {}) are given up: they are lost", lost.start, lost.end)
        }
        (_, None, _) => String::from("read from its first record"),
        (Some(from), Some(to), _) if from == to => String::from("as it is"),
        (Some(from), Some(to), _) if to < from => {
            format!("the records in [{to}, {from}) are read again")
        }
        (Some(from), Some(to), _) => format!("the records in [{from}, {to}) are in the table"),
        (None, Some(to), _) => format!("read from {to} on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(from: Option<Offset>, to: Option<Offset>, lost: Option<OffsetRange>) -> Row {
        Row { topic: String::from("t"), partition: 0, from, to, lost }
    }

    #[test]
    fn each_row_says_what_becomes_of_the_records() {
        let lost = Some(OffsetRange { start: 3, end: 9 });
        let cases = [
            (row(Some(9), Some(3), None), "the records in [3, 9) are read again"),
            (row(Some(3), Some(9), None), "the records in [3, 9) are in the table"),
            (row(Some(3), Some(9), lost), "the records in [3, 9) are given up: they are lost"),
            (row(Some(3), Some(3), None), "as it is"),
            (row(Some(3), None, None), "read from its first record"),
            (row(None, Some(3), None), "read from 3 on"),
        ];
        for (row, expected) in cases {
            assert_eq!(meaning(&row), expected);
        }
    }
}
