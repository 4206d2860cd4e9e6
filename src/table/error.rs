//! What can go wrong at a catalog or a store, told apart by what the caller should do.

use super::TableName;
use crate::base::os_error::{SKEWED, Verdict, is_skewed, verdict};
use crate::protocol::LedgerError;

/// Any error of a library below.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An operation on a table or its catalog failed. Of a commit only a [`NotSent`](super::NotSent)
/// with such an error says that it failed; what came behind the request is a `CommitOutcome`.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The catalog did not answer, or said that it cannot answer now. Try again later.
    #[error("the catalog at {catalog} cannot be reached to {doing}: {detail}; it is tried again")]
    Unreachable {
        /// Address of the catalog, without secrets.
        catalog: String,
        /// What was being done.
        doing: String,
        /// What was seen.
        detail: String,
        /// The cause, where a library reported one.
        #[source]
        source: Option<BoxError>,
    },
    /// The catalog does not accept our credentials, or they do not allow this.
    #[error(
        "the catalog at {catalog} refuses to {doing}: {detail}; check what it is signed in to with (user, token, credential, scope)"
    )]
    Unauthorised {
        /// Address of the catalog, without secrets.
        catalog: String,
        /// What was being done.
        doing: String,
        /// What the catalog said.
        detail: String,
    },
    /// The catalog understood the request and said no.
    #[error("the catalog at {catalog} rejected the request to {doing}: {detail}")]
    Rejected {
        /// Address of the catalog, without secrets.
        catalog: String,
        /// What was being done.
        doing: String,
        /// What the catalog said.
        detail: String,
    },
    /// The table is not in the catalog.
    #[error("table {table} is not in the catalog")]
    Missing {
        /// The table.
        table: TableName,
    },
    /// Metadata of the table is there but cannot be understood.
    #[error("table {table}: {what} at {location} cannot be understood")]
    Unreadable {
        /// The table.
        table: TableName,
        /// What it is: table metadata, a manifest list.
        what: &'static str,
        /// Where it is.
        location: String,
        /// Why it cannot be understood.
        #[source]
        source: BoxError,
    },
    /// Our ledger or journal in the table's metadata cannot be understood.
    #[error("table {table}: the ledger of pipeline {pipeline} cannot be understood")]
    Ledger {
        /// The table.
        table: TableName,
        /// The pipeline whose ledger it is.
        pipeline: String,
        /// Why it cannot be understood.
        #[source]
        source: LedgerError,
    },
    /// A file of a pending commit does not fit the table.
    #[error(
        "table {table}: data file {path} cannot be committed: {reason}; `icestream ledger adopt --yes` gives its commit up, and the records are read again from the ledger"
    )]
    BadFile {
        /// The table.
        table: TableName,
        /// The data file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing a file failed.
    #[error("cannot {doing} {path}; it is tried again")]
    Storage {
        /// What was being done: read, write, delete, sync.
        doing: &'static str,
        /// The file.
        path: String,
        /// What the store said.
        #[source]
        source: BoxError,
    },
    /// The file system is full, or its quota is used up.
    #[error("no space left to {doing} {path}: free some; it is tried again")]
    DiskFull {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: String,
        /// What the file system said.
        #[source]
        source: BoxError,
    },
    /// A file may not be written, and waiting does not change that: no permission, a read-only file
    /// system, a store that forbids it.
    #[error("cannot {doing} {path}: check that the store is reachable and writable")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: String,
        /// What the store said.
        #[source]
        source: BoxError,
    },
    /// The table uses something that icestream does not write.
    #[error("table {table} cannot be written: {what}")]
    Unsupported {
        /// The table.
        table: TableName,
        /// What it uses, and what to do.
        what: String,
    },
    /// A setting of the catalog or the store is wrong.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
}

impl TableError {
    /// May the same operation succeed later, with nobody changing the settings or the table?
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Storage { .. } | Self::DiskFull { .. } => true,
            Self::Unauthorised { .. }
            | Self::Rejected { .. }
            | Self::Missing { .. }
            | Self::Unreadable { .. }
            | Self::Ledger { .. }
            | Self::BadFile { .. }
            | Self::Denied { .. }
            | Self::Unsupported { .. }
            | Self::Setting { .. } => false,
        }
    }

    /// An error of the store while `doing` something to `path`. What cannot be read is tried again
    /// whatever the reason: another writer may have replaced it meanwhile.
    pub(super) fn storage(doing: &'static str, path: &str, source: impl Into<BoxError>) -> Self {
        let (path, source) = (path.to_string(), Skewed::named(source.into()));
        let writes = matches!(doing, "write" | "sync" | "create directory");
        match verdict(source.as_ref()) {
            Verdict::Full => Self::DiskFull { doing, path, source },
            Verdict::Refused if writes => Self::Denied { doing, path, source },
            Verdict::Refused | Verdict::Passing => Self::Storage { doing, path, source },
        }
    }
}

/// The clock is off: said before what the store said.
#[derive(Debug, thiserror::Error)]
#[error("{SKEWED}")]
struct Skewed(#[source] BoxError);

impl Skewed {
    fn named(source: BoxError) -> BoxError {
        match is_skewed(source.as_ref()) {
            true => Box::new(Self(source)),
            false => source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_storage_errors() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(matches!(TableError::storage("write", "p", full), TableError::DiskFull { .. }));
        let wrapped = iceberg::Error::new(
            iceberg::ErrorKind::Unexpected,
            format!("Failed: {}", std::io::Error::from_raw_os_error(libc::ENOSPC)),
        );
        assert!(matches!(TableError::storage("write", "p", wrapped), TableError::DiskFull { .. }));
        let passing = std::io::Error::from_raw_os_error(libc::EIO);
        assert!(matches!(TableError::storage("write", "p", passing), TableError::Storage { .. }));
    }

    #[test]
    fn a_clock_that_is_off_is_named_and_waited_for() {
        for doing in ["write", "read"] {
            let said = "PermissionDenied (persistent): S3Error { code: \"RequestTimeTooSkewed\" }";
            let source = iceberg::Error::new(iceberg::ErrorKind::Unexpected, said);
            let error = TableError::storage(doing, "p", source);
            assert!(error.is_transient(), "{error:?}");
            let text =
                std::error::Error::source(&error).map(|source| format!("{source} {source:?}"));
            let text = text.unwrap();
            assert!(text.contains("clock") && text.contains("RequestTimeTooSkewed"), "{text}");
        }
    }

    #[test]
    fn a_write_that_is_refused_is_not_tried_again_and_a_reading_is() {
        for code in [libc::EACCES, libc::EROFS] {
            let refused = || std::io::Error::from_raw_os_error(code);
            for doing in ["write", "sync", "create directory"] {
                let error = TableError::storage(doing, "p", refused());
                assert!(matches!(error, TableError::Denied { .. }), "{error:?}");
                assert!(!error.is_transient() && !error.to_string().contains("tried again"));
            }
            assert!(TableError::storage("read", "p", refused()).is_transient());
        }
    }
}
