//! The data files of a table on local disk, as the file system and as the table's head count them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::foreign;
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

/// Names of the files that the table's snapshots consist of, by pyiceberg: manifest lists, manifests
/// and their files; and of its table metadata.
pub fn referenced(table: &Table<'_>) -> BTreeSet<String> {
    let code = "
table = catalog.load_table(name)
known = {table.metadata_location} | {entry.metadata_file for entry in table.metadata.metadata_log}
for snapshot in table.snapshots():
    known.add(snapshot.manifest_list)
    for manifest in snapshot.manifests(table.io):
        known.add(manifest.manifest_path)
        known.update(e.data_file.file_path for e in manifest.fetch_manifest_entry(table.io, discard_deleted=True))
answer = sorted(path.rsplit('/', 1)[1] for path in known)
";
    let answer = foreign::run(table, code, Value::Null);
    serde_json::from_value(answer).expect("names")
}

/// Every file under the table's location, as a path below it, on local disk or on S3.
pub fn in_store(table: &Table<'_>) -> BTreeSet<String> {
    let location = location(table);
    if let Some((bucket, prefix)) = on_s3(&location) {
        let keys = table.s3().keys(bucket, &format!("{prefix}/"));
        assert!(keys.len() < 1000, "more than one page");
        let below = keys.iter().filter_map(|key| key.strip_prefix(prefix)?.strip_prefix('/'));
        return below.map(str::to_owned).collect();
    }
    let root = local_path(&location);
    let mut found = BTreeSet::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_none_or(|extension| extension != "crc") {
                let below = path.strip_prefix(&root).expect("a path below the table");
                found.insert(below.display().to_string());
            }
        }
    }
    found
}

/// Puts a file beside those of the table, at a path below its location.
pub fn put(table: &Table<'_>, path: &str, content: &str) {
    let location = location(table);
    match on_s3(&location) {
        Some((bucket, prefix)) => {
            table.s3().put(&format!("{bucket}/{prefix}/{path}"), &[], content).success();
        }
        None => fs::write(local_path(&location).join(path), content).expect("cannot write a file"),
    }
}

fn location(table: &Table<'_>) -> String {
    let metadata = table.metadata().expect("a table");
    metadata["location"].as_str().expect("a location").to_owned()
}

fn on_s3(location: &str) -> Option<(&str, &str)> {
    location.strip_prefix("s3://")?.split_once('/')
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
