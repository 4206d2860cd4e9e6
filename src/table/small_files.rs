//! What to tell of commits that bring many files of few rows.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use iceberg::spec::{Literal, TableMetadata};
use parking_lot::Mutex;

use super::LoadedTable;
use super::manifest::NewFiles;

/// Fewer files than these are no burden to a commit, however few rows they have.
const MANY: u64 = 500;
/// Fewer rows than these are few for a file of a commit of many.
const FEW_ROWS: u64 = 100;
/// How long what was told once is not told again: each commit is like the last one.
const AGAIN: Duration = Duration::from_secs(3_600);

/// Tells of them, now and then.
#[derive(Default)]
pub(super) struct SmallFiles {
    told: Mutex<Option<Instant>>,
}

impl SmallFiles {
    /// A commit of these files and rows is in the table.
    pub(super) fn committed(&self, loaded: &LoadedTable, advice: Option<&Advice>) {
        let Some(advice) = advice else { return };
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() >= AGAIN) {
            *told = Some(Instant::now());
            tracing::warn!(table = %loaded.name, files = advice.files, rows = advice.rows, "{}", advice.text);
        }
    }
}

/// What to tell of a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    files: u64,
    rows: u64,
    text: String,
}

impl Advice {
    /// Of a commit of these files with so many rows, if there is something to tell.
    pub(super) fn of(metadata: &TableMetadata, new: &NewFiles, rows: u64) -> Option<Self> {
        let files = new.values().map(|files| files.len() as u64).sum();
        if files < MANY || rows >= files * FEW_ROWS {
            return None;
        }
        let each = rows as f64 / files as f64;
        let mut text = format!("the commit brought {files} data files with {each:.1} rows each");
        match widest_field(metadata, new) {
            Some((name, transform, values)) => {
                text += &format!(
                    ": partition field {name} ({transform}) had {values} values in it. Such files are slow \
                 to write and to read, and epochs end early for them; give the table a coarser field in \
                 its place (ALTER TABLE .. REPLACE PARTITION FIELD {name} WITH bucket(16, ..), day(..) or \
                 truncate(.., ..)), and compact what is there. See docs/operations.md, \"Many small files\""
                )
            }
            None => text += ": see docs/operations.md, \"Many small files\"",
        }
        Some(Self { files, rows, text })
    }
}

/// The partition field with most values among the files, with its transform and their number.
fn widest_field(metadata: &TableMetadata, new: &NewFiles) -> Option<(String, String, usize)> {
    let mut values: BTreeMap<(i32, usize), HashSet<Option<&Literal>>> = BTreeMap::new();
    for (spec, files) in new {
        for file in files {
            for (at, value) in file.partition().iter().enumerate() {
                values.entry((*spec, at)).or_default().insert(value);
            }
        }
    }
    let most = values.into_iter().max_by_key(|(_, values)| values.len());
    let ((spec, at), values) = most.filter(|(_, values)| values.len() > 1)?;
    let spec = metadata.partition_spec_by_id(spec)?;
    let field = spec.fields().get(at)?;
    Some((field.name.clone(), field.transform.to_string(), values.len()))
}
