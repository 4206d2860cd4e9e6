//! Why a command ends other than well, and the exit code that says so.

use std::time::Duration;

use crate::base::masking::mask_text;
use crate::base::one_line::one_line;
use crate::config::ConfigError;
use crate::decode::{BadRecord, UnsupportedSchema};
use crate::protocol::{CommitId, EditError, Epoch, Refusal};
use crate::source::SourceError;
use crate::state::StateError;
use crate::table::{NotSent, TableError};
use crate::telemetry::{HttpError, Restart, Server};
use crate::write::WriteError;

/// Exit codes, documented in README.md.
pub mod exit {
    /// Done, or stopped as asked.
    pub const DONE: u8 = 0;
    /// `verify` or `check` found something wrong, or an error of our own making.
    pub const FAILED: u8 = 1;
    /// The command line is wrong (clap's own code).
    pub const USAGE: u8 = 2;
    /// Settings, table schema or topic are not usable.
    pub const CONFIG: u8 = 3;
    /// Refused rather than guessed: a person must look.
    pub const REFUSED: u8 = 4;
    /// A server or a disk did not recover within `RETRY_GIVE_UP_MS`, or before `RESTART_STRATEGY`
    /// had no restart left; or it refuses a file for good.
    pub const GAVE_UP: u8 = 5;
    /// A bad record under `BAD_RECORDS=fail`.
    pub const BAD_RECORD: u8 = 6;
    /// The checkpoint directory cannot be used.
    pub const STATE: u8 = 7;
    /// No checkpoint completed: too many failed in a row, or none did in time.
    pub const CHECKPOINTS: u8 = 8;
    /// Ended at once by a second signal.
    pub const INTERRUPTED: u8 = 130;
}

/// Why a pipeline ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Refused rather than guessed.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// An edit of the ledger that is not made.
    #[error("refused: {0}")]
    Edit(Box<EditError>),
    /// Kafka.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Catalog or object store.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Local state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Data files.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The table has a type no record can be decoded into.
    #[error(transparent)]
    Schema(#[from] UnsupportedSchema),
    /// The table cannot be used as it is.
    #[error("table {table}: {detail}")]
    Unfit {
        /// The table.
        table: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// A bad record under `BAD_RECORDS=fail`. Everything before it is in the table.
    #[error(
        "{0}; everything before it is in the table. Correct the producer and set BAD_RECORDS=skip to leave it out, or change the table's schema"
    )]
    BadRecord(BadRecord),
    /// A checkpoint took longer than `CHECKPOINT_TIMEOUT_MS`.
    #[error(
        "checkpoint of epoch {epoch} did not finish within {timeout:?} (CHECKPOINT_TIMEOUT_MS); its records are read again"
    )]
    CheckpointTimeout {
        /// The epoch.
        epoch: u64,
        /// The limit.
        timeout: Duration,
    },
    /// A checkpoint failed before it was prepared. Its files are deleted.
    #[error("checkpoint of epoch {epoch} failed, its records are read again: {cause}")]
    CheckpointFailed {
        /// The epoch.
        epoch: Epoch,
        /// Why; an error that may pass.
        cause: Box<Failure>,
    },
    /// More checkpoints failed in a row than are tolerated.
    #[error(
        "gave up after {count} checkpoints failed in a row (CHECKPOINT_TOLERABLE_FAILED_CHECKPOINTS): {last}"
    )]
    FailedCheckpoints {
        /// How many.
        count: u64,
        /// The last one's error.
        last: Box<Failure>,
    },
    /// Records wait to be committed, no checkpoint completes, and no error says why.
    #[error(
        "no checkpoint completed for {after:?} although there are records to commit, and no server reported an error; start again: it reads on from the ledger"
    )]
    Stalled {
        /// Since the last one, or since there were records to commit.
        after: Duration,
    },
    /// The strategy allows no further restart.
    #[error("no restart is left (RESTART_STRATEGY): {last}")]
    NoRestartLeft {
        /// The error that would have been followed by one.
        last: Box<Failure>,
    },
    /// Conflicts or unknown outcomes to the end of the set time.
    #[error("commit {commit} is not settled: {reason}; it is kept in the checkpoint")]
    Unsettled {
        /// The commit.
        commit: CommitId,
        /// What came last.
        reason: String,
    },
    /// The HTTP endpoints.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A server or a disk did not recover in time.
    #[error(
        "gave up after {after:?} of failures with no checkpoint completed (RETRY_GIVE_UP_MS): {last}"
    )]
    GaveUp {
        /// How long it was tried.
        after: Duration,
        /// The last error.
        last: Box<Failure>,
    },
    /// A thread or task of ours ended without a word.
    #[error("internal error: {0}; this is a defect of icestream, nothing is lost")]
    Internal(String),
}

impl From<NotSent> for Failure {
    fn from(not_sent: NotSent) -> Self {
        Self::Table(not_sent.into_error())
    }
}

impl Failure {
    /// Of reading a table: a ledger or a journal that cannot be understood is for a person to look at.
    pub(crate) fn of_reading(error: TableError) -> Self {
        match error {
            TableError::Ledger { table, source, .. } => {
                Self::Refused(source.refusal(&table.to_string()))
            }
            other => other.into(),
        }
    }

    /// This error as the reason why the checkpoint of `epoch` was not prepared. One that waiting
    /// does not cure ends the process in its own name.
    pub(crate) fn of_checkpoint(self, epoch: Epoch) -> Self {
        match self.is_transient() {
            true => Self::CheckpointFailed { epoch, cause: Box::new(self) },
            false => self,
        }
    }

    /// Did a checkpoint fail before it was prepared?
    pub(crate) fn is_failed_checkpoint(&self) -> bool {
        matches!(self, Self::CheckpointTimeout { .. } | Self::CheckpointFailed { .. })
    }

    /// The reason by which a restart after this error is counted.
    pub(crate) fn restart_reason(&self) -> Restart {
        match (self, self.server()) {
            (Self::CheckpointTimeout { .. }, _) => Restart::CheckpointTimeout,
            (_, Some(Server::Kafka)) => Restart::Kafka,
            (_, Some(Server::Catalog)) => Restart::Catalog,
            (_, Some(Server::Store)) => Restart::Store,
            (_, None) => Restart::LocalState,
        }
    }

    /// May the same succeed later without anybody's doing?
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Source(e) => e.is_transient(),
            Self::Table(e) => e.is_transient(),
            Self::Write(e) => e.is_transient(),
            Self::State(e) => {
                matches!(e, StateError::DiskFull { .. } | StateError::WriteFailedBefore { .. })
            }
            Self::CheckpointTimeout { .. }
            | Self::CheckpointFailed { .. }
            | Self::Unsettled { .. } => true,
            Self::Config(_)
            | Self::Refused(_)
            | Self::Edit(_)
            | Self::Schema(_)
            | Self::Unfit { .. }
            | Self::Http(_)
            | Self::BadRecord(_)
            | Self::GaveUp { .. }
            | Self::FailedCheckpoints { .. }
            | Self::Stalled { .. }
            | Self::NoRestartLeft { .. }
            | Self::Internal(_) => false,
        }
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Schema(_) | Self::Unfit { .. } | Self::Http(_) => exit::CONFIG,
            Self::Refused(_) | Self::Edit(_) => exit::REFUSED,
            Self::Source(
                SourceError::Unreadable { .. }
                | SourceError::OutOfRange { .. }
                | SourceError::CutOff { .. },
            ) => exit::REFUSED,
            Self::Source(e) if !e.is_transient() => exit::CONFIG,
            Self::Table(TableError::Ledger { .. } | TableError::BadFile { .. }) => exit::REFUSED,
            Self::Table(TableError::Denied { .. }) => exit::GAVE_UP,
            Self::Table(e) if !e.is_transient() => exit::CONFIG,
            Self::Write(WriteError::Property { .. } | WriteError::Unsupported { .. }) => {
                exit::CONFIG
            }
            Self::GaveUp { last, .. } => match **last {
                Self::State(_) => exit::STATE,
                Self::Source(SourceError::OtherPipeline { .. }) => exit::CONFIG,
                _ => exit::GAVE_UP,
            },
            Self::Source(_) | Self::Table(_) | Self::Write(_) => exit::GAVE_UP,
            Self::Unsettled { .. } => exit::GAVE_UP,
            Self::CheckpointFailed { cause: last, .. } | Self::NoRestartLeft { last } => {
                last.exit_code()
            }
            Self::CheckpointTimeout { .. }
            | Self::FailedCheckpoints { .. }
            | Self::Stalled { .. } => exit::CHECKPOINTS,
            Self::BadRecord(_) => exit::BAD_RECORD,
            Self::State(_) => exit::STATE,
            Self::Internal(_) => exit::FAILED,
        }
    }

    /// Name of the refusal, if it is one: its metric label and section of docs/operations.md.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.name()),
            Self::Source(SourceError::Unreadable { .. }) => Some("unreadable-batch"),
            Self::Source(SourceError::CutOff { .. }) => Some("log-was-cut"),
            _ => None,
        }
    }

    /// The server it is about, if it is about one.
    pub(crate) fn server(&self) -> Option<Server> {
        match self {
            Self::Source(_) => Some(Server::Kafka),
            Self::Table(
                TableError::Storage { .. }
                | TableError::DiskFull { .. }
                | TableError::Denied { .. },
            ) => Some(Server::Store),
            Self::Table(_) | Self::Unsettled { .. } => Some(Server::Catalog),
            Self::Write(_) => Some(Server::Store),
            Self::GaveUp { last, .. }
            | Self::NoRestartLeft { last }
            | Self::FailedCheckpoints { last, .. }
            | Self::CheckpointFailed { cause: last, .. } => last.server(),
            Self::Config(_)
            | Self::Refused(_)
            | Self::Edit(_)
            | Self::State(_)
            | Self::Schema(_)
            | Self::Unfit { .. }
            | Self::BadRecord(_)
            | Self::CheckpointTimeout { .. }
            | Self::Stalled { .. }
            | Self::Http(_)
            | Self::Internal(_) => None,
        }
    }
}

/// An error and all its causes in one line, without the passwords of the addresses that they name. What
/// servers say is in there: each is cut, and nothing in it can look like a line of its own. Only the
/// problems of settings have lines.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    if matches!(error.downcast_ref(), Some(Failure::Config(_))) {
        return mask_text(&error.to_string());
    }
    let mut text = one_line(&mask_text(&error.to_string()));
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = one_line(&mask_text(&inner.to_string()));
        // Transparent wrappers repeat their inner error's words.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    mask_text(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_on_one_line_and_cut() {
        let long = "x".repeat(100_000);
        let said = format!("denied\nicestream: all is well\u{1b}[2K {long}");
        let cause = iceberg::Error::new(iceberg::ErrorKind::Unexpected, said);
        let path = String::from("s3://b/t/data/f.parquet");
        let error = WriteError::Storage { action: "write", path, source: Box::new(cause) };
        let shown = chain(&Failure::from(error));
        assert!(!shown.contains(['\n', '\u{1b}']), "{shown}");
        assert!(shown.contains("denied\\nicestream") && shown.len() < 10_000, "{}", shown.len());
        // The problems of settings are ours, one a line.
        let none = crate::config::load(None, None, std::iter::empty()).unwrap_err();
        assert!(chain(&Failure::Config(none)).lines().count() > 3);
    }

    #[test]
    fn what_a_library_says_of_an_address_is_shown_without_its_password() {
        let cause = iceberg::Error::new(iceberg::ErrorKind::Unexpected, "no answer")
            .with_context("url", "http://me:hunter2@lake/b?X-Amz-Signature=hunter2");
        let source = Box::new(cause);
        let path = String::from("s3://b/t/data/f.parquet");
        let error = Failure::from(WriteError::Storage { action: "write", path, source });
        let shown = chain(&error);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("http://***@lake/b?X-Amz-Signature=***"), "{shown}");
        assert!(shown.contains("s3://b/t/data/f.parquet"), "{shown}");
    }
}
