//! `icestream orphans`: files that killed processes left behind.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{existing_table_of, human_bytes, write_json, written};
use crate::base::clock::{now_ms, rfc3339};
use crate::base::location::data_root;
use crate::config::Config;
use crate::connect::connect_catalog;
use crate::failure::{Failure, chain, exit};
use crate::state::{StateError, StateStore};
use crate::table::{
    Catalog, Judged, LoadedTable, OrphanSearch, OrphansError, OwnFile, check_places, delete_orphans,
};

#[derive(Serialize)]
struct Shown {
    table: String,
    table_uuid: String,
    older_than_seconds: u64,
    /// Were they to be deleted?
    applied: bool,
    orphans: Vec<Row>,
    /// All that were found.
    found: Count,
    deleted: Count,
    /// Could not be deleted.
    failed: Count,
    /// Kept: no snapshot has them, and a commit may still bring them in.
    undecided: Count,
    /// Kept: files of ours, old enough, that snapshots have.
    referenced: u64,
    /// Why uploads that were begun and not ended were not looked for, if they were not.
    uploads_not_listed: Option<String>,
}

#[derive(Serialize)]
struct Row {
    path: String,
    kind: &'static str,
    bytes: u64,
    modified_at: String,
    age_seconds: u64,
    deleted: bool,
    error: Option<String>,
}

#[derive(Default, Serialize)]
struct Count {
    files: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// Shows the files of ours that nothing refers to and nothing will, if they are older than
/// `older_than`; with `delete` deletes them. Returns 0, or 1 if one could not be deleted.
///
/// # Errors
/// The table or its store cannot be read, its ledgers cannot be relied upon, or its files may be
/// another table's as well.
pub(crate) async fn orphans(
    config: &Config,
    older_than: Duration,
    delete: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let now_ms = now_ms();
    let catalog = connect_catalog(config).await?;
    let table = existing_table_of(&catalog, config).await?;
    check_places(&table.name, &table.metadata)?;
    let mut shown = Shown {
        table: table.name.to_string(),
        table_uuid: table.metadata.uuid().to_string(),
        older_than_seconds: older_than.as_secs(),
        applied: delete,
        orphans: Vec::new(),
        found: Count::default(),
        deleted: Count::default(),
        failed: Count::default(),
        undecided: Count::default(),
        referenced: 0,
        uploads_not_listed: None,
    };
    let searched = search_all(config, &catalog, &table, now_ms, &mut shown).await;
    // What was deleted before a failure is told as well.
    if searched.is_ok() || shown.found.files > 0 {
        match json {
            true => write_json(out, &shown)?,
            false => written(write_text(&shown, out))?,
        }
    }
    searched?;
    Ok(if shown.failed.files == 0 { exit::DONE } else { exit::FAILED })
}

async fn search_all(
    config: &Config,
    catalog: &Catalog,
    table: &LoadedTable,
    now_ms: i64,
    shown: &mut Shown,
) -> Result<(), Failure> {
    let held = held(&config.checkpoint.dir)?;
    let root = data_root(table.metadata.location(), table.metadata.properties());
    let before_ms = now_ms.saturating_sub(millis(Duration::from_secs(shown.older_than_seconds)));
    let mut search = OrphanSearch::new(table, root, before_ms);
    while let Some(candidates) = search.candidates().await? {
        let judged = candidates.judge(catalog, table, &config.kafka.group_id, &held).await;
        shown.take(judged.map_err(|error| failure(error, &shown.table))?, now_ms).await;
    }
    shown.uploads_not_listed = search.unlisted.as_ref().map(|error| chain(error));
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn failure(error: OrphansError, table: &str) -> Failure {
    match error {
        OrphansError::Table(error) => Failure::of_reading(error),
        OrphansError::Refused(refusal) => Failure::Refused(refusal),
        OrphansError::Shared => Failure::Unfit {
            table: table.to_owned(),
            detail: format!("{error}; none is deleted here"),
        },
    }
}

/// Names of the files of the pending commits in this directory. The proof does without them; a
/// commit whose files are known is left alone all the same.
fn held(dir: &Path) -> Result<HashSet<String>, StateError> {
    // What RocksDB makes first: without it nothing was ever kept there.
    if !dir.join("CURRENT").exists() {
        return Ok(HashSet::new());
    }
    let open = StateStore::open_read_only(dir)?.open_checkpoints()?;
    let pending = open.into_iter().flat_map(|checkpoint| checkpoint.pending);
    let paths = pending.flat_map(|pending| pending.files).map(|file| file.path);
    Ok(paths.map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect())
}

impl Shown {
    async fn take(&mut self, judged: Judged, now_ms: i64) {
        self.referenced += judged.referenced;
        for file in &judged.undecided {
            self.undecided.add(file.bytes);
        }
        let outcomes = match self.applied {
            true => delete_orphans(&judged.table, judged.orphans).await,
            false => judged.orphans.into_iter().map(|file| (file, None)).collect(),
        };
        for (file, error) in outcomes {
            self.found.add(file.bytes);
            match (self.applied, &error) {
                (true, None) => self.deleted.add(file.bytes),
                (true, Some(_)) => self.failed.add(file.bytes),
                (false, _) => {}
            }
            let error = error.map(|error| chain(&error));
            self.orphans.push(row(file, self.applied && error.is_none(), error, now_ms));
        }
    }
}

fn row(file: OwnFile, deleted: bool, error: Option<String>, now_ms: i64) -> Row {
    let age_ms = now_ms.saturating_sub(file.modified_ms).max(0);
    Row {
        path: file.path,
        kind: file.kind.name(),
        bytes: file.bytes,
        modified_at: rfc3339(file.modified_ms),
        age_seconds: age_ms.unsigned_abs() / 1000,
        deleted,
        error,
    }
}

fn write_text(shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
    if !shown.orphans.is_empty() {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(["file", "size", "age"]);
        for column in 1..3 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in &shown.orphans {
            let size = match row.kind {
                "upload" => String::from("open upload"),
                _ => human_bytes(row.bytes),
            };
            table.add_row([row.path.clone(), size, human_age(row.age_seconds)]);
        }
        writeln!(out, "{table}")?;
    }
    let age = human_age(shown.older_than_seconds);
    let total = |count: &Count| format!("{} files, {}", count.files, human_bytes(count.bytes));
    writeln!(
        out,
        "{}: {} that nothing refers to, older than {age}",
        shown.table,
        total(&shown.found)
    )?;
    if shown.undecided.files > 0 {
        writeln!(
            out,
            "{} kept: no snapshot has them, and the table has not passed what they were written for",
            total(&shown.undecided)
        )?;
    }
    if let Some(reason) = &shown.uploads_not_listed {
        writeln!(out, "uploads that were begun and not ended were not looked for: {reason}")?;
    }
    for row in &shown.orphans {
        if let Some(error) = &row.error {
            writeln!(out, "FAIL {}: {error}", row.path)?;
        }
    }
    match (shown.applied, shown.found.files) {
        (true, 1..) => {
            let (deleted, failed) = (total(&shown.deleted), shown.failed.files);
            writeln!(out, "deleted: {deleted}; could not be deleted: {failed}")
        }
        (false, 1..) => {
            writeln!(out, "nothing was changed; the same command with --delete does it")
        }
        (_, 0) => Ok(()),
    }
}

/// A time span in its largest whole unit.
fn human_age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(applied: bool, rows: &[(&str, Option<&str>)]) -> Shown {
        let mut shown = Shown {
            table: "lake.readings".into(),
            table_uuid: "u".into(),
            older_than_seconds: 259_200,
            applied,
            orphans: Vec::new(),
            found: Count::default(),
            deleted: Count::default(),
            failed: Count::default(),
            undecided: Count { files: 2, bytes: 2048 },
            referenced: 5,
            uploads_not_listed: Some("HTTP 501: NotImplemented".into()),
        };
        for (path, error) in rows {
            shown.found.add(1536);
            match error {
                Some(_) => shown.failed.add(1536),
                None => shown.deleted.add(1536),
            }
            shown.orphans.push(Row {
                path: (*path).into(),
                kind: "data",
                bytes: 1536,
                modified_at: rfc3339(0),
                age_seconds: 400_000,
                deleted: applied && error.is_none(),
                error: error.map(Into::into),
            });
        }
        shown
    }

    fn text(shown: &Shown) -> String {
        let mut out = Vec::new();
        write_text(shown, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_look_names_each_file_and_the_flag_that_deletes_them() {
        let text = text(&shown(false, &[("s3://b/t/data/a", None)]));
        for part in [
            "s3://b/t/data/a",
            "1.5 KiB",
            "4 d",
            "1 files, 1.5 KiB",
            "--delete",
            "2 files, 2.0 KiB kept",
            "not looked for: HTTP 501",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_could_not_be_deleted_is_named_with_its_reason() {
        let text = text(&shown(true, &[("a", None), ("b", Some("access denied"))]));
        assert!(text.contains("FAIL b: access denied"), "{text}");
        assert!(text.contains("deleted: 1 files, 1.5 KiB; could not be deleted: 1"), "{text}");
    }

    #[test]
    fn spans_are_shown_in_their_largest_whole_unit() {
        let spans = [0, 59, 60, 3599, 3600, 86_399, 86_400, 259_200].map(human_age);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "3 d"]);
    }

    #[test]
    fn a_directory_without_checkpoints_holds_no_files() {
        let dir = tempfile::tempdir().unwrap();
        assert!(held(dir.path()).unwrap().is_empty());
        assert!(held(&dir.path().join("none")).unwrap().is_empty());
    }
}
