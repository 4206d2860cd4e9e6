//! Why a batch could not be written.

use std::io;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::base::os_error::{SKEWED, Verdict, is_skewed, verdict};

/// Why a batch could not be written. After any of these the writer can only be aborted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The store refused or failed.
    #[error("cannot {action} data file {path}: check that the store is reachable and writable")]
    Storage {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The data file.
        path: String,
        /// The store's own words.
        #[source]
        source: Box<iceberg::Error>,
    },
    /// The disk or the quota under the data files is exhausted.
    #[error("no space left for data file {path}: free space or enlarge the volume")]
    StorageFull {
        /// The data file.
        path: String,
        /// The store's own words.
        #[source]
        source: Box<iceberg::Error>,
    },
    /// A directory that holds data files could not be made durable.
    #[error("cannot sync directory {path} to disk")]
    SyncDirectory {
        /// The directory.
        path: String,
        /// The operating system's own words.
        #[source]
        source: io::Error,
    },
    /// A file with the name of a new data file is already there. It may belong to a commit, so it
    /// is left as it is.
    #[error("data file {path} exists already: the file prefix was used before")]
    FileExists {
        /// The data file.
        path: String,
    },
    /// A batch does not have the columns of the table's current schema.
    #[error("batch does not fit schema {schema_id} of the table: {reason}")]
    SchemaMismatch {
        /// The table schema that the writer was made for.
        schema_id: i32,
        /// Which column differs, and how.
        reason: String,
    },
    /// The table uses something that cannot be written.
    #[error("cannot write this table: {reason}")]
    Unsupported {
        /// What it is.
        reason: String,
    },
    /// The table's metadata contradicts itself.
    #[error("cannot use the table's schema or partition spec")]
    Metadata(#[source] Box<iceberg::Error>),
    /// A table property has a value that we cannot follow.
    #[error("table property {key} = {value:?}: {reason}")]
    Property {
        /// Name of the property.
        key: String,
        /// Its value in the table.
        value: String,
        /// What would be accepted.
        reason: String,
    },
    /// The table partition of a row cannot be computed.
    #[error("cannot compute partition field {field}: {reason}")]
    Partition {
        /// Name of the partition field.
        field: String,
        /// What is wrong with the value.
        reason: String,
    },
    /// Rows could not be rearranged by table partition.
    #[error("cannot split a batch by table partition")]
    Split(#[source] ArrowError),
    /// Rows could not be encoded.
    #[error("cannot encode data file {path}")]
    Encode {
        /// The data file.
        path: String,
        /// The encoder's own words.
        #[source]
        source: Box<ParquetError>,
    },
    /// The description of a finished file could not be made.
    #[error("cannot describe data file {path}: {reason}")]
    Describe {
        /// The data file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The writer failed before; what it holds is incomplete.
    #[error("the writer failed before and can only be aborted")]
    Failed,
}

impl WriteError {
    /// Sorts a store's error: full, or anything else.
    pub(super) fn storage(action: &'static str, path: &str, source: iceberg::Error) -> Self {
        let path = path.to_owned();
        let source = match is_skewed(&source) {
            true => iceberg::Error::new(source.kind(), SKEWED).with_source(source),
            false => source,
        };
        match verdict(&source) {
            Verdict::Full => Self::StorageFull { path, source: Box::new(source) },
            Verdict::Refused | Verdict::Passing => {
                Self::Storage { action, path, source: Box::new(source) }
            }
        }
    }

    pub(super) fn encode(path: &str, source: ParquetError) -> Self {
        Self::Encode { path: path.to_owned(), source: Box::new(source) }
    }

    /// May the same rows be written if they are tried again later? True for a store that is away
    /// or full, false for what only a change of settings, table or data can cure.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::StorageFull { .. } => true,
            Self::Storage { source, .. } => verdict(source.as_ref()) != Verdict::Refused,
            Self::SyncDirectory { source, .. } => verdict(source) != Verdict::Refused,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn storage_error(words: &str) -> WriteError {
        let source = iceberg::Error::new(iceberg::ErrorKind::Unexpected, words.to_owned());
        WriteError::storage("write", "/t/data/f.parquet", source)
    }

    #[test]
    fn a_full_disk_is_recognised_and_transient() {
        let text = io::Error::from_raw_os_error(libc::ENOSPC).to_string();
        let error = storage_error(&format!("Failed to write to file: {text}"));
        assert!(matches!(error, WriteError::StorageFull { .. }), "{error:?}");
        assert!(error.is_transient());
    }

    #[test]
    fn a_full_disk_is_recognised_in_the_cause() {
        let cause = io::Error::from_raw_os_error(libc::EDQUOT);
        let source = iceberg::Error::new(iceberg::ErrorKind::Unexpected, "Failure in doing io")
            .with_source(cause);
        let error = WriteError::storage("close", "/t/data/f.parquet", source);
        assert!(matches!(error, WriteError::StorageFull { .. }), "{error:?}");
    }

    #[test]
    fn a_clock_that_is_off_is_named_and_waited_for() {
        let error = storage_error("PermissionDenied (persistent): RequestTimeTooSkewed");
        assert!(error.is_transient(), "{error:?}");
        let text = error.source().map(|source| format!("{source} {source:?}")).unwrap();
        assert!(text.contains("clock") && text.contains("RequestTimeTooSkewed"), "{text}");
    }

    #[test]
    fn a_store_that_is_away_is_transient_and_one_that_forbids_is_not() {
        assert!(storage_error("connection refused (os error 111)").is_transient());
        let denied = io::Error::from_raw_os_error(libc::EACCES).to_string();
        assert!(!storage_error(&denied).is_transient());
        assert!(!storage_error("PermissionDenied (permanent) at write").is_transient());
    }
}
