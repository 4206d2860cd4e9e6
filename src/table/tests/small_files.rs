//! What is told of commits that bring many files of few rows.

use super::*;
use crate::table::manifest;
use crate::table::small_files::Advice;

/// A commit of so many files with a row each, partitioned by id and note, with as many ids as files and
/// ten notes.
async fn commit_of(loaded: &LoadedTable, files: u64) -> PendingCommit {
    let values = [Literal::long(7_000_000), Literal::string("note-")];
    let template = write_file(loaded, &[(7_000_000, "note-")], &values).await;
    let files = (0..files).map(|number| {
        let path = template.path.replace(".parquet", &format!("-{number}.parquet"));
        let id = (7_000_000 + number).to_string();
        let data_file = template.data_file.replace(&template.path, &path);
        let data_file = data_file.replace("7000000", &id);
        let data_file = data_file.replace("\"note-\"", &format!("\"note-{}\"", number % 10));
        PendingFile { path, data_file, ..template.clone() }
    });
    pending(loaded, 0, 1, files.collect())
}

#[tokio::test]
async fn a_commit_of_many_small_files_is_told_of_with_the_field_that_has_most_values() {
    let bench = Bench::new().await;
    let loaded = bench.create_with("id, place", &[]).await;
    let pending = commit_of(&loaded, 600).await;
    let new = manifest::data_files(&loaded, &pending).unwrap();
    let told = format!("{:?}", Advice::of(&loaded.metadata, &new, 1_200).unwrap());
    for words in [
        "600 data files with 2.0 rows each",
        "partition field id (identity) had 600 values in it",
        "REPLACE PARTITION FIELD id WITH bucket(16, ..)",
    ] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    assert_eq!(Advice::of(&loaded.metadata, &new, 60_000), None, "a hundred rows each");
    let few = manifest::data_files(&loaded, &commit_of(&loaded, 499).await).unwrap();
    assert_eq!(Advice::of(&loaded.metadata, &few, 499), None);
}
