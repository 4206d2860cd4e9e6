//! `icestream ledger adopt`: this process takes the table's ledger as it is, and gives up what its
//! own checkpoint directory holds against it.
//!
//! Always exact: the ledger alone says what is in the table, and what was given up is read again
//! from there. It costs the work that is in the files of the pending commit.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{write_json, written};
use crate::config::Config;
use crate::failure::{Failure, exit};
use crate::protocol::{LocalState, Offset};
use crate::state::{StateError, StateStore};

/// Why a record of the store says that its commit was given up.
const REASON: &str = "given up by icestream ledger adopt";

#[derive(Serialize)]
struct Shown {
    pipeline: String,
    checkpoint_dir: PathBuf,
    /// Commits that were prepared and whose fate is not known.
    pending: Vec<Pending>,
    /// What the last checkpoint saw in the table.
    last: Vec<Next>,
    /// Why the store cannot be read, if so: then the whole directory is moved away.
    unreadable: Option<String>,
    moved_to: Option<PathBuf>,
    applied: bool,
}

#[derive(Serialize)]
struct Pending {
    commit_id: String,
    table: String,
    table_uuid: String,
    rows: u64,
    files: usize,
}

#[derive(Serialize)]
struct Next {
    topic: String,
    partition: i32,
    next: Offset,
}

/// Shows what local state would be given up; with `apply` gives it up. Returns 0 in both cases.
///
/// # Errors
/// The directory is in use, belongs to another pipeline, or cannot be written.
pub(crate) async fn adopt(
    config: &Config,
    apply: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let (dir, pipeline) = (config.checkpoint.dir.clone(), config.pipeline().to_owned());
    let flow = config.flow().to_owned();
    let give_up = tokio::task::spawn_blocking(move || give_up(&dir, &pipeline, &flow, apply));
    let shown = give_up.await.map_err(|error| {
        Failure::Internal(format!("looking at the checkpoints ended early: {error}"))
    })??;
    match json {
        true => write_json(out, &shown)?,
        false => written(write_text(&shown, out))?,
    }
    Ok(exit::DONE)
}

fn give_up(dir: &Path, pipeline: &str, flow: &str, apply: bool) -> Result<Shown, StateError> {
    let mut shown = Shown {
        pipeline: pipeline.to_owned(),
        checkpoint_dir: dir.to_owned(),
        pending: Vec::new(),
        last: Vec::new(),
        unreadable: None,
        moved_to: None,
        applied: apply,
    };
    // Not made, and not of another format afterwards, just to be looked at.
    let held = StateStore::open_existing(dir, pipeline).and_then(|store| {
        let held = store.load(flow)?;
        if apply {
            store.give_up(flow, REASON)?;
        }
        Ok(held)
    });
    match held {
        Ok(held) => shown.take(held),
        Err(StateError::Missing { .. }) => {}
        Err(
            error @ (StateError::NewerVersion { .. }
            | StateError::Corrupt { .. }
            | StateError::Damaged { .. }),
        ) => {
            shown.unreadable = Some(error.to_string());
            let away = away(dir);
            if apply {
                std::fs::rename(dir, &away)
                    .map_err(|source| StateError::Directory { dir: dir.to_owned(), source })?;
            }
            shown.moved_to = Some(away);
        }
        Err(error) => return Err(error),
    }
    Ok(shown)
}

/// A name beside the directory that nothing has.
fn away(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let away = |number: u32| dir.with_file_name(format!("{name}.given-up-{number}"));
    (1..).map(away).find(|path| !path.exists()).unwrap_or_else(|| away(0))
}

impl Shown {
    fn take(&mut self, held: LocalState) {
        self.pending = held
            .pending
            .iter()
            .map(|pending| Pending {
                commit_id: pending.commit_id.to_string(),
                table: pending.table.clone(),
                table_uuid: pending.table_uuid.clone(),
                rows: pending.rows.written,
                files: pending.files.len(),
            })
            .collect();
        let last = held.last.values().flat_map(|last| last.frontier.iter());
        let next = |(tp, next): (&crate::protocol::TopicPartition, Offset)| Next {
            topic: tp.topic.clone(),
            partition: tp.partition,
            next,
        };
        self.last = last.map(next).collect();
    }
}

fn write_text(shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
    let dir = shown.checkpoint_dir.display();
    writeln!(out, "the checkpoints of pipeline {} in {dir}", shown.pipeline)?;
    for pending in &shown.pending {
        writeln!(
            out,
            "  commit {} of {} rows in {} files for table {} ({}) is given up; if it is not in the \
             table its records are read again, and its files stay behind as orphans",
            pending.commit_id, pending.rows, pending.files, pending.table, pending.table_uuid
        )?;
    }
    for next in &shown.last {
        let Next { topic, partition, next } = next;
        writeln!(out, "  that {topic}[{partition}] was at {next} is forgotten")?;
    }
    if let (Some(why), Some(to)) = (&shown.unreadable, &shown.moved_to) {
        writeln!(out, "  {why}\n  the directory is moved to {}", to.display())?;
    } else if shown.pending.is_empty() && shown.last.is_empty() {
        writeln!(out, "  nothing is held there")?;
    }
    match shown.applied {
        true => writeln!(out, "done: the next start begins at the ledger that the table has"),
        false => writeln!(out, "nothing was changed; the same command with --yes does it"),
    }
}
