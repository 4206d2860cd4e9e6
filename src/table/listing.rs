//! What lies under a location, page by page: the crate's own access to files cannot list.

use std::fs::{self, ReadDir};
use std::io::ErrorKind;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use iceberg::io::FileIO;
use opendal::{Entry, Lister};

use super::TableError;
use super::s3_store::operator;
use crate::base::location::{OnS3, local_path, on_s3};

/// Files of a page: as many as S3 names in one answer.
const PAGE: usize = 1000;

/// A file in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) path: String,
    pub(super) bytes: u64,
    /// When it was written, milliseconds since the Unix epoch, by the store's clock. `None` if the
    /// store does not tell.
    pub(super) modified_ms: Option<i64>,
}

/// The files under a location, at any depth, in any order. A file that comes or goes meanwhile is
/// in it or not. Holds one page.
pub(super) enum Listing {
    Local(Walk),
    S3 {
        /// `scheme://bucket/`
        bucket: String,
        lister: Lister,
    },
}

impl Listing {
    /// Begins a listing. A location where there is nothing has no files.
    ///
    /// # Errors
    /// `Storage`, or `Setting` for a location that is neither local nor on S3.
    pub(super) async fn open(io: &FileIO, location: &str) -> Result<Self, TableError> {
        let location = location.trim_end_matches('/');
        if local_path(location).is_some() {
            return Ok(Self::Local(Walk::new(location)));
        }
        let OnS3 { scheme, bucket, key } = on_s3(location).ok_or_else(|| TableError::Setting {
            setting: "table location",
            reason: format!("{location} is neither a local path nor on S3: it cannot be listed"),
        })?;
        let failed = |error: opendal::Error| TableError::storage("list", location, error);
        let operator =
            operator(io, location).map_err(|error| TableError::storage("list", location, error))?;
        let lister = operator.lister_with(&format!("{key}/")).recursive(true).await;
        Ok(Self::S3 { bucket: format!("{scheme}://{bucket}/"), lister: lister.map_err(failed)? })
    }

    /// The next files; none at the end.
    ///
    /// # Errors
    /// `Storage`.
    pub(super) async fn page(&mut self) -> Result<Vec<Listed>, TableError> {
        match self {
            Self::Local(walk) => {
                let mut taken = std::mem::take(walk);
                let read = move || {
                    let page = taken.page();
                    (taken, page)
                };
                let (back, page) = tokio::task::spawn_blocking(read)
                    .await
                    .map_err(|error| TableError::storage("list", "files", error))?;
                *walk = back;
                page
            }
            Self::S3 { bucket, lister } => {
                let mut page = Vec::new();
                while page.len() < PAGE
                    && let Some(entry) = lister.next().await
                {
                    let entry =
                        entry.map_err(|error| TableError::storage("list", bucket, error))?;
                    page.extend(listed(bucket, &entry));
                }
                Ok(page)
            }
        }
    }
}

/// A file of an S3 listing; none for the place holder of a directory.
fn listed(bucket: &str, entry: &Entry) -> Option<Listed> {
    let metadata = entry.metadata();
    metadata.is_file().then(|| Listed {
        path: format!("{bucket}{}", entry.path()),
        bytes: metadata.content_length(),
        modified_ms: metadata.last_modified().map(|time| time.into_inner().as_millisecond()),
    })
}

/// Walks local directories. Follows no symbolic links.
#[derive(Default)]
pub(super) struct Walk {
    /// Where to begin.
    root: Option<String>,
    /// Directories being read, each with its location.
    open: Vec<(String, ReadDir)>,
}

impl Walk {
    fn new(location: &str) -> Self {
        Self { root: Some(location.to_owned()), open: Vec::new() }
    }

    fn page(&mut self) -> Result<Vec<Listed>, TableError> {
        if let Some(root) = self.root.take() {
            self.enter(root)?;
        }
        let mut page = Vec::new();
        while page.len() < PAGE
            && let Some((location, entries)) = self.open.last_mut()
        {
            let Some(entry) = entries.next() else {
                self.open.pop();
                continue;
            };
            let failed = |error| TableError::storage("list", location, error);
            let entry = entry.map_err(failed)?;
            // A name that is no text is not one of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{location}/{name}");
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                self.enter(path)?;
            } else if kind.is_file() {
                match entry.metadata() {
                    Ok(metadata) => page.push(Listed {
                        path,
                        bytes: metadata.len(),
                        modified_ms: metadata.modified().ok().and_then(millis),
                    }),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(TableError::storage("list", &path, error)),
                }
            }
        }
        Ok(page)
    }

    /// One that is gone has no files.
    fn enter(&mut self, location: String) -> Result<(), TableError> {
        let Some(path) = local_path(&location) else { return Ok(()) };
        match fs::read_dir(path) {
            Ok(entries) => self.open.push((location, entries)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(TableError::storage("list", &location, error)),
        }
        Ok(())
    }
}

fn millis(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(location: &str) -> Vec<Listed> {
        let mut listing = Listing::open(&FileIO::new_with_fs(), location).await.unwrap();
        let mut all = Vec::new();
        loop {
            let page = listing.page().await.unwrap();
            assert!(page.len() <= PAGE);
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    #[tokio::test]
    async fn every_file_at_any_depth_is_listed_once_across_pages() {
        let dir = tempfile::tempdir().unwrap();
        let root = format!("file://{}", dir.path().display());
        let deep = dir.path().join("data/a=1/b=2");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(dir.path().join("data/empty")).unwrap();
        for number in 0..PAGE + 7 {
            fs::write(deep.join(format!("{number}.parquet")), b"xy").unwrap();
        }
        fs::write(dir.path().join("data/top"), b"x").unwrap();
        std::os::unix::fs::symlink(&deep, dir.path().join("data/link")).unwrap();

        let found = all(&format!("{root}/data/")).await;
        assert_eq!(found.len(), PAGE + 8);
        let paths: std::collections::BTreeSet<_> = found.iter().map(|file| &file.path).collect();
        assert_eq!(paths.len(), found.len());
        assert!(paths.contains(&format!("{root}/data/a=1/b=2/17.parquet")), "the spelling is kept");
        assert!(found.iter().all(|file| file.modified_ms.is_some_and(|at| at > 0)));
        assert_eq!(found.iter().map(|file| file.bytes).sum::<u64>(), 2 * (PAGE as u64 + 7) + 1);
    }

    #[tokio::test]
    async fn a_location_where_nothing_is_has_no_files() {
        assert!(all("/nowhere/at/all").await.is_empty());
    }

    #[tokio::test]
    async fn a_location_that_cannot_be_listed_is_refused_by_name() {
        let error = Listing::open(&FileIO::new_with_fs(), "gs://b/t").await.err().unwrap();
        assert!(error.to_string().contains("gs://b/t"), "{error}");
    }
}
