//! Opening and reading the store.

use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, LogLevel, Options,
};
use serde::de::DeserializeOwned;

use super::StateError;
use super::frame::{self, FrameError};
use super::keys;
use super::record::{CheckpointRecord, Meta, Open};
use crate::protocol::{Checkpoint, LocalState};

const MIB: usize = 1024 * 1024;

/// A store opened to be read, also beside a process that writes it.
#[derive(Debug)]
pub struct StateReader {
    pub(super) db: DB,
    pub(super) dir: PathBuf,
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

    /// What recovery needs.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load(&self) -> Result<LocalState, StateError> {
        let open = self.open_checkpoint()?;
        Ok(LocalState {
            pending: open.map(|checkpoint| checkpoint.pending).unwrap_or_default(),
            last: self.get(keys::LAST)?,
        })
    }

    /// The checkpoint that is prepared and not finalized, if there is one.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open_checkpoint(&self) -> Result<Option<Checkpoint>, StateError> {
        Ok(self.get::<Open>(keys::OPEN)?.map(|open| open.checkpoint))
    }

    /// The retained checkpoints, newest last.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, StateError> {
        let mut records = Vec::new();
        for number in self.record_numbers()? {
            records.extend(self.get::<CheckpointRecord>(&keys::record(number))?);
        }
        Ok(records)
    }

    /// The numbers of the retained checkpoints, in order.
    pub(super) fn record_numbers(&self) -> Result<Vec<u64>, StateError> {
        let first = keys::record(0);
        let mut numbers = Vec::new();
        for item in self.db.iterator(IteratorMode::From(&first, Direction::Forward)) {
            let (key, _) = item.map_err(|error| self.failed_read(error))?;
            match keys::record_number(&key) {
                Some(number) => numbers.push(number),
                None => break,
            }
        }
        Ok(numbers)
    }

    pub(super) fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StateError> {
        let bytes = self.db.get_pinned(key).map_err(|error| self.failed_read(error))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (key, dir) = (keys::show(key), self.dir.clone());
        frame::decode(&bytes).map(Some).map_err(|error| match error {
            FrameError::Newer(found) => StateError::NewerVersion { key, dir, found },
            FrameError::Damaged(detail) => StateError::Corrupt { key, dir, detail },
        })
    }

    fn failed_read(&self, error: rocksdb::Error) -> StateError {
        StateError::classify("read", &self.dir, error)
    }
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
