//! What can go wrong with the checkpoint store, told by what a person can do about it.

use std::path::{Path, PathBuf};

use crate::protocol::{CommitId, Epoch, Violation};

/// An error of the checkpoint store.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process holds the directory.
    #[error(
        "the checkpoint directory {} is in use by another process: stop it, or give each process \
         its own CHECKPOINT_DIR", dir.display()
    )]
    InUse {
        /// Checkpoint directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: rocksdb::Error,
    },
    /// There is no store to read.
    #[error("there is no checkpoint store in {}: check CHECKPOINT_DIR", dir.display())]
    Missing {
        /// Checkpoint directory.
        dir: PathBuf,
    },
    /// The directory cannot be made.
    #[error("the checkpoint directory {} cannot be made: check CHECKPOINT_DIR", dir.display())]
    Directory {
        /// Checkpoint directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The directory or a file in it cannot be read or written by this user.
    #[error(
        "no permission to {operation} the checkpoint store in {}: give this user read and write \
         access to the directory and its files", dir.display()
    )]
    Permission {
        /// What was tried.
        operation: &'static str,
        /// Checkpoint directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: rocksdb::Error,
    },
    /// The disk under the directory is full.
    #[error(
        "the disk under the checkpoint directory {} is full: could not {operation} the store; \
         free some space and start again", dir.display()
    )]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// Checkpoint directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: rocksdb::Error,
    },
    /// Files of the store are damaged.
    #[error(
        "the checkpoint store in {} is damaged: could not {operation} it; have the directory \
         moved away and start again, the table's ledger tells where to resume: `icestream ledger \
         adopt`", dir.display()
    )]
    Damaged {
        /// What was tried.
        operation: &'static str,
        /// Checkpoint directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: rocksdb::Error,
    },
    /// One record is damaged.
    #[error(
        "the {key} in the checkpoint store {} is damaged: {detail}; have the directory moved \
         away and start again, the table's ledger tells where to resume: `icestream ledger adopt`", dir.display()
    )]
    Corrupt {
        /// Which record.
        key: String,
        /// Checkpoint directory.
        dir: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// One record was written by a newer version of this program.
    #[error(
        "the {key} in the checkpoint store {} has format version {found}, this program knows \
         version {}; run the newer program, or have the directory moved away and start again, \
         the table's ledger tells where to resume: `icestream ledger adopt`", dir.display(), super::frame::FORMAT_VERSION
    )]
    NewerVersion {
        /// Which record.
        key: String,
        /// Checkpoint directory.
        dir: PathBuf,
        /// Its version.
        found: u16,
    },
    /// The directory belongs to another pipeline.
    #[error(
        "the checkpoint directory {} belongs to the pipeline {found}, not to {expected}: give each \
         pipeline its own CHECKPOINT_DIR", dir.display()
    )]
    OtherPipeline {
        /// Checkpoint directory.
        dir: PathBuf,
        /// The pipeline that made it.
        found: String,
        /// The pipeline that opens it.
        expected: String,
    },
    /// An epoch was to be prepared while the last one is not finalized (I2).
    #[error(transparent)]
    StillOpen(#[from] Violation),
    /// A commit was to be finalized that is not in the prepared checkpoint.
    #[error("commit {commit} cannot be finalized: {}", match open {
        Some(open) => format!("it is not in the checkpoint of epoch {open}, the prepared one"),
        None => "none is prepared".to_owned(),
    })]
    NotOpen {
        /// The commit to be finalized.
        commit: CommitId,
        /// The epoch that is prepared, if any.
        open: Option<Epoch>,
    },
    /// An earlier write failed, and with it the knowledge of what is on disk.
    #[error(
        "the checkpoint store in {} takes no more writes since one failed: start again, so that \
         what is on disk is read", dir.display()
    )]
    WriteFailedBefore {
        /// Checkpoint directory.
        dir: PathBuf,
    },
    /// A record could not be made.
    #[error("the {key} for the checkpoint store {} could not be encoded", dir.display())]
    Encode {
        /// Which record.
        key: String,
        /// Checkpoint directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// RocksDB failed in another way.
    #[error("could not {operation} the checkpoint store in {}", dir.display())]
    RocksDb {
        /// What was tried.
        operation: &'static str,
        /// Checkpoint directory.
        dir: PathBuf,
        /// Cause.
        #[source]
        source: rocksdb::Error,
    },
}

impl StateError {
    /// The error that RocksDB's `source` means for a person.
    pub(super) fn classify(operation: &'static str, dir: &Path, source: rocksdb::Error) -> Self {
        let dir = dir.to_owned();
        match cause(source.as_ref()) {
            Cause::InUse => Self::InUse { dir, source },
            Cause::Missing => Self::Missing { dir },
            Cause::Permission => Self::Permission { operation, dir, source },
            Cause::DiskFull => Self::DiskFull { operation, dir, source },
            Cause::Damage => Self::Damaged { operation, dir, source },
            Cause::Other => Self::RocksDb { operation, dir, source },
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Cause {
    InUse,
    Missing,
    Permission,
    DiskFull,
    Damage,
    Other,
}

/// RocksDB gives its errors as text only: the status first, the system's own words last.
fn cause(text: &str) -> Cause {
    let has = |part: &str| text.contains(part);
    if has("No space left on device") || has("Disk quota exceeded") {
        Cause::DiskFull
    } else if has("lock hold by current process") || has("While lock file") {
        if has("Permission denied") { Cause::Permission } else { Cause::InUse }
    } else if has("Permission denied") || has("Read-only file system") {
        Cause::Permission
    } else if has("CURRENT") && (has("does not exist") || has("No such file or directory")) {
        Cause::Missing
    } else if text.starts_with("Corruption") || has("No such file or directory") {
        Cause::Damage
    } else {
        Cause::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rocksdb_says_is_told_by_what_a_person_can_do() {
        let cases = [
            (
                "IO error: No space left on device: While appending to file: /d/000004.log: No space left on device",
                Cause::DiskFull,
            ),
            (
                "IO error: While appending to file: /d/000004.log: Disk quota exceeded",
                Cause::DiskFull,
            ),
            (
                "IO error: lock hold by current process, acquire time 1 acquiring thread 2: /d/LOCK: No locks available",
                Cause::InUse,
            ),
            ("IO error: While lock file: /d/LOCK: Resource temporarily unavailable", Cause::InUse),
            (
                "IO error: While open a file for appending: /d/LOCK: Permission denied",
                Cause::Permission,
            ),
            (
                "IO error: While open a file for appending: /d/1.log: Read-only file system",
                Cause::Permission,
            ),
            ("Corruption: block checksum mismatch", Cause::Damage),
            ("Invalid argument: /d/CURRENT: does not exist (open for read only)", Cause::Missing),
            (
                "IO error: No such file or directory: While opening a file for sequentially reading: /d/CURRENT: No such file or directory",
                Cause::Missing,
            ),
            (
                "IO error: No such file or directory: While opening a file for sequentially reading: /d/MANIFEST-000005: No such file or directory",
                Cause::Damage,
            ),
            ("IO error: While fsync: /d/1.log: Input/output error", Cause::Other),
        ];
        for (text, expected) in cases {
            assert_eq!(cause(text), expected, "{text}");
        }
    }
}
