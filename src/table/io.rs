//! Files of a table: where they are, how to reach them, how to make them durable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use iceberg::io::{FileIO, FileIOBuilder, LocalFsStorageFactory};

use super::TableError;
use super::s3_store::{self, Access};
use crate::base::durable::{leading_directories, sync};
use crate::base::location::{Store, local_path, store_of};
use crate::base::secret::Properties;

/// The store that holds `location`: local files (`file:` and bare absolute paths) or S3
/// (`s3://`, `s3a://`, `s3n://`) with the Iceberg properties of `properties`.
///
/// # Errors
/// `Setting` if the location is of another kind.
pub fn file_io(location: &str, properties: &Properties) -> Result<FileIO, TableError> {
    let properties = properties.clone();
    file_io_by(location, vec![Access { prefix: String::new(), properties, keys: None }])
}

/// The same, with keys for S3 that differ by prefix and change while they are used.
pub(super) fn file_io_by(location: &str, accesses: Vec<Access>) -> Result<FileIO, TableError> {
    match store_of(location) {
        Some(Store::Local) => Ok(FileIOBuilder::new(Arc::new(LocalFsStorageFactory)).build()),
        Some(Store::S3) => s3_store::file_io(accesses),
        None => Err(TableError::Setting {
            setting: "table location",
            reason: format!(
                "{location} is neither an absolute local path (file:///...) nor on S3 (s3://...)"
            ),
        }),
    }
}

/// A file that is complete in memory and not yet in the store.
pub(super) struct Encoded {
    pub(super) path: String,
    pub(super) bytes: Bytes,
}

/// Writes files side by side and makes them durable, content and name. After an error any of them
/// may be in the store.
///
/// # Errors
/// The first failure, after all were tried.
pub(super) async fn write_all(
    io: &FileIO,
    table_location: &str,
    files: &[Encoded],
) -> Result<(), TableError> {
    let write = |file: &Encoded| {
        let output = io.new_output(&file.path);
        let (path, bytes) = (file.path.clone(), file.bytes.clone());
        async move {
            let failed = |error| TableError::storage("write", &path, error);
            output.map_err(failed)?.write(bytes).await.map_err(failed)
        }
    };
    let written = join_all(files.iter().map(write)).await;
    written.into_iter().collect::<Result<(), _>>()?;
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let mut sync = parent_dirs(table_location, &paths);
    sync.extend(paths.iter().filter_map(|path| local_path(path)));
    sync_all(sync).await
}

/// The directories that lead to local files, up to `table_location`. None for stores that are not
/// local.
fn parent_dirs(table_location: &str, paths: &[String]) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let Some(root) = local_path(table_location) else { return directories };
    for path in paths.iter().filter_map(|path| local_path(path)) {
        for directory in leading_directories(&path, &root) {
            // Those above one that is known are known.
            if !directories.insert(directory.to_path_buf()) {
                break;
            }
        }
    }
    directories
}

/// Syncs files and directories side by side: a file system that keeps a journal then writes it once
/// for several of them.
async fn sync_all(paths: BTreeSet<PathBuf>) -> Result<(), TableError> {
    if paths.is_empty() {
        return Ok(());
    }
    let side_by_side = move || {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                paths.iter().map(|path| scope.spawn(move || sync_one(path))).collect();
            let panicked = |_| Err(TableError::storage("sync", "files", "a thread panicked"));
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
        })
    };
    tokio::task::spawn_blocking(side_by_side)
        .await
        .map_err(|error| TableError::storage("sync", "files", error))?
}

fn sync_one(path: &Path) -> Result<(), TableError> {
    sync(path).map_err(|error| TableError::storage("sync", &path.display().to_string(), error))
}

/// Files that are deleted at once.
const DELETIONS_AT_ONCE: usize = 8;

/// Deletes files; one that is already gone is no error. Goes on after a failure.
///
/// # Errors
/// The first failure, after all were tried.
pub(crate) async fn delete_files(io: &FileIO, paths: &[String]) -> Result<(), TableError> {
    let (_, first) = delete_counted(io, paths).await;
    first.map_or(Ok(()), Err)
}

/// Deletes files as [`delete_files`] does. How many could not be deleted, and the first failure.
pub(super) async fn delete_counted(io: &FileIO, paths: &[String]) -> (u64, Option<TableError>) {
    let delete = |path: &String| {
        let (io, path) = (io.clone(), path.clone());
        async move {
            io.delete(&path).await.map_err(|error| TableError::storage("delete", &path, error))
        }
    };
    let mut deletions = stream::iter(paths.iter().map(delete)).buffer_unordered(DELETIONS_AT_ONCE);
    let (mut failed, mut first) = (0, None);
    while let Some(deleted) = deletions.next().await {
        if let Err(error) = deleted {
            failed += 1;
            first = first.or(Some(error));
        }
    }
    (failed, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_of_store_is_refused_by_name() {
        let error = file_io("gs://bucket/t", &Properties::default()).unwrap_err();
        assert!(error.to_string().contains("gs://bucket/t"), "{error}");
        assert!(file_io("s3a://bucket/t", &Properties::default()).is_ok());
    }

    #[tokio::test]
    async fn syncing_names_the_directory_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let root = format!("file://{}", dir.path().display());
        std::fs::create_dir_all(dir.path().join("data/day=1")).unwrap();
        let sync_parents = |path: &str| sync_all(parent_dirs(&root, &[format!("{root}/{path}")]));
        sync_parents("data/day=1/a").await.unwrap();
        let error = sync_parents("none/a").await.unwrap_err();
        assert!(error.to_string().contains("/none"), "{error}");
        assert!(parent_dirs("s3://b/t", &["s3://b/t/data/a".to_string()]).is_empty());
    }

    #[tokio::test]
    async fn deleting_goes_on_after_a_failure_and_reports_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("file://{}/{name}", dir.path().display());
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        let paths = [path("gone"), path("directory"), path("a")];
        let error = delete_files(&FileIO::new_with_fs(), &paths).await.unwrap_err();
        assert!(error.to_string().contains("directory"), "{error}");
        assert!(!dir.path().join("a").exists());
    }
}
