//! The data files of a table on local disk, as the file system and as the table's head count them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::table::{Table, local_path};

/// Every data file under the table's location, whether the table knows it or not.
pub fn on_disk(table: &Table<'_>) -> BTreeSet<PathBuf> {
    let metadata = table.metadata().expect("a table");
    let location = local_path(metadata["location"].as_str().expect("a location"));
    let mut found = BTreeSet::new();
    collect(&location, &mut found);
    found
}

fn collect(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.insert(path);
        }
    }
}

/// Data files on disk that are not in the table. The table must never have lost one.
pub fn orphans(table: &Table<'_>) -> usize {
    let live = usize::try_from(head_total(table, "total-data-files")).expect("a count");
    let on_disk = on_disk(table).len();
    assert!(on_disk >= live, "{} lost files: {on_disk} of {live}", table.name());
    on_disk - live
}

/// A running total in the summary of the table's head; 0 before the first snapshot.
pub fn head_total(table: &Table<'_>, name: &str) -> i64 {
    let Some(metadata) = table.metadata() else { return 0 };
    let head = &metadata["current-snapshot-id"];
    let snapshots = metadata["snapshots"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(head) = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == *head) else {
        return 0;
    };
    number(&head["summary"][name])
}

/// How many snapshots the table shows that this process of icestream made.
pub fn snapshots_by(table: &Table<'_>, instance: &str) -> usize {
    let by = |snapshot: &&Value| snapshot["summary"]["icestream.instance"] == instance;
    table.snapshots().iter().filter(by).count()
}

fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).expect("a number in a summary")
}
