//! Opening and reading the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, LogLevel, Options,
};
use serde::de::DeserializeOwned;

use super::StateError;
use super::format_1;
use super::frame::{self, FrameError};
use super::keys;
use super::record::{CheckpointRecord, Leaders, Meta, Open};
use crate::protocol::{Checkpoint, LastCheckpoint, LocalState, Prepared};

/// The file that a store has from its beginning to its end.
const CURRENT: &str = "CURRENT";

const MIB: usize = 1024 * 1024;

/// A store opened to be read, also beside a process that writes it.
#[derive(Debug)]
pub struct StateReader {
    pub(super) db: DB,
    pub(super) dir: PathBuf,
}

/// The commits of a checkpoint that is on disk.
pub(super) fn prepared(open: Option<Checkpoint>) -> Vec<Prepared> {
    open.into_iter().flat_map(|open| open.pending).map(Prepared::on_disk).collect()
}

impl StateReader {
    /// Opens the store in `dir` as it is now; what is written afterwards is not seen.
    ///
    /// # Errors
    /// [`StateError::Missing`] if there is none; otherwise as its classes tell.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        if !dir.is_dir() {
            return Err(StateError::Missing { dir: dir.to_owned() });
        }
        let db = DB::open_for_read_only(&options(), dir, false)
            .map_err(|error| StateError::classify("open", dir, error))?;
        Ok(Self { db, dir: dir.to_owned() })
    }

    /// [`Self::open_for_writing`], if there is a store.
    pub(super) fn open_existing(dir: &Path) -> Result<Self, StateError> {
        if !dir.join(CURRENT).exists() {
            let dir = dir.to_owned();
            return Err(match holds_remains(&dir) {
                false => StateError::Missing { dir },
                true => StateError::Corrupt {
                    key: format!("file {CURRENT}"),
                    dir,
                    detail: "it is gone".to_owned(),
                },
            });
        }
        Self::open_for_writing(dir)
    }

    pub(super) fn open_for_writing(dir: &Path) -> Result<Self, StateError> {
        std::fs::create_dir_all(dir)
            .map_err(|source| StateError::Directory { dir: dir.to_owned(), source })?;
        let mut options = options();
        options.create_if_missing(true);
        let db =
            DB::open(&options, dir).map_err(|error| StateError::classify("open", dir, error))?;
        Ok(Self { db, dir: dir.to_owned() })
    }

    /// The pipeline that the store belongs to; `None` if its process died while making it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn pipeline(&self) -> Result<Option<String>, StateError> {
        Ok(self.get::<Meta>(keys::META)?.map(|meta| meta.pipeline))
    }

    /// Is it that of `pipeline`? If not, it is nobody's: its process died while making it.
    ///
    /// # Errors
    /// [`StateError::OtherPipeline`] if it is another's; if it cannot be read.
    pub fn is_of(&self, pipeline: &str) -> Result<bool, StateError> {
        let (dir, expected) = (self.dir.clone(), pipeline.to_owned());
        match self.pipeline()? {
            Some(found) if found != pipeline => {
                Err(StateError::OtherPipeline { dir, found, expected })
            }
            found => Ok(found.is_some()),
        }
    }

    /// What recovery of `flow` needs.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load(&self, flow: &str) -> Result<LocalState, StateError> {
        let pending = prepared(self.open_checkpoint(flow)?);
        let last = match self.is_format_1()? {
            true => format_1::last(self)?,
            false => self.last(flow)?,
        };
        let none = pending.is_empty() && last.is_empty();
        let given_up = none && !self.record_numbers(&keys::records(flow))?.is_empty();
        Ok(LocalState { pending, last, given_up })
    }

    pub(super) fn last(&self, flow: &str) -> Result<BTreeMap<String, LastCheckpoint>, StateError> {
        Ok(self.get(&keys::last(flow))?.unwrap_or_default())
    }

    /// Under which leaders the records were written that the checkpoints of `flow` read last.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn leaders(&self, flow: &str) -> Result<Leaders, StateError> {
        Ok(self.lenient(&keys::leaders(flow))?.unwrap_or_default())
    }

    /// The checkpoint of `flow` that is prepared and not finalized for all of its tables, if there
    /// is one, with the pending commits that are left.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open_checkpoint(&self, flow: &str) -> Result<Option<Checkpoint>, StateError> {
        let open = match self.is_format_1()? {
            true => format_1::open_checkpoint(self)?,
            false => self.get::<Open>(&keys::open(flow))?,
        };
        Ok(open.map(|open| open.checkpoint))
    }

    /// The open checkpoints of all flows.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open_checkpoints(&self) -> Result<Vec<Checkpoint>, StateError> {
        if self.is_format_1()? {
            let open = format_1::open_checkpoint(self)?;
            return Ok(open.map(|open| open.checkpoint).into_iter().collect());
        }
        let mut open = Vec::new();
        for key in self.keys(keys::opens())? {
            open.extend(self.get::<Open>(&key)?.map(|open| open.checkpoint));
        }
        Ok(open)
    }

    /// The retained checkpoints of `flow`, newest last, as far as they can be read.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn checkpoints(&self, flow: &str) -> Result<Vec<CheckpointRecord>, StateError> {
        if self.is_format_1()? {
            return Ok(format_1::records(self)?.into_iter().map(|(_, record)| record).collect());
        }
        let (prefix, mut records) = (keys::records(flow), Vec::new());
        for number in self.record_numbers(&prefix)? {
            records.extend(self.record(&keys::record(&prefix, number))?);
        }
        Ok(records)
    }

    /// Is this a store that an older version of this program left, and that nobody upgraded yet?
    pub(super) fn is_format_1(&self) -> Result<bool, StateError> {
        Ok(self.value(keys::META, frame::version)?.is_some_and(|version| version == 1))
    }

    /// The numbers of the retained checkpoints whose keys begin with `records`, in order.
    pub(super) fn record_numbers(&self, records: &[u8]) -> Result<Vec<u64>, StateError> {
        let keys = self.keys(records)?;
        Ok(keys.iter().filter_map(|key| keys::record_number(records, key)).collect())
    }

    /// The keys that begin with `prefix`, in order.
    fn keys(&self, prefix: &[u8]) -> Result<Vec<Box<[u8]>>, StateError> {
        let mut keys = Vec::new();
        for item in self.db.iterator(IteratorMode::From(prefix, Direction::Forward)) {
            let (key, _) = item.map_err(|error| self.failed_read(error))?;
            if !key.starts_with(prefix) {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// A retained checkpoint.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<CheckpointRecord>, StateError> {
        self.lenient(key)
    }

    /// A record on which no row depends, in the form of some version: one that is damaged is told and left
    /// out, and keeps nobody from the rest.
    pub(super) fn lenient<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StateError> {
        match self.get(key) {
            Err(StateError::Corrupt { key, dir, detail }) => {
                tracing::warn!(
                    dir = %dir.display(), key, detail,
                    "a record of the checkpoint store cannot be read and is left out; no row depends on it"
                );
                Ok(None)
            }
            read => read,
        }
    }

    pub(super) fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StateError> {
        self.value(key, frame::decode)
    }

    fn value<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, FrameError>,
    ) -> Result<Option<T>, StateError> {
        let bytes = self.db.get_pinned(key).map_err(|error| self.failed_read(error))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (key, dir) = (keys::show(key), self.dir.clone());
        read(&bytes).map(Some).map_err(|error| match error {
            FrameError::Newer(found) => StateError::NewerVersion { key, dir, found },
            FrameError::Damaged(detail) => StateError::Corrupt { key, dir, detail },
        })
    }

    fn failed_read(&self, error: rocksdb::Error) -> StateError {
        StateError::classify("read", &self.dir, error)
    }
}

/// Does a directory have files of a store, whatever became of the rest?
fn holds_remains(dir: &Path) -> bool {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.any(|name| {
        name.starts_with("MANIFEST-") || name.ends_with(".sst") || name.ends_with(".log")
    })
}

/// RocksDB is made for far more than a few records a second: everything is kept small, so that
/// the store costs a few megabytes of memory and disk. Recovery of the write-ahead log stays at
/// the default: to the last whole batch before any damage.
fn options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(MIB));
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(MIB);
    options.set_max_write_buffer_number(2);
    options.set_target_file_size_base(2 * MIB as u64);
    options.set_max_total_wal_size(4 * MIB as u64);
    options.set_max_manifest_file_size(MIB);
    options.set_max_open_files(32);
    options.set_max_file_opening_threads(1);
    options.set_max_background_jobs(2);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(MIB);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options
}
