//! Writing the store.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{WriteBatch, WriteOptions};
use serde::Serialize;

use super::record::{
    CheckpointEnd, CheckpointRecord, CheckpointStart, Member, Meta, Open, Outcome, StepSeconds,
};
use super::{StateError, StateReader, frame, keys};
use crate::protocol::{Checkpoint, Epoch, LastCheckpoint, LocalState};

/// The checkpoint store of one process, held alone.
#[derive(Debug)]
pub struct StateStore {
    reader: StateReader,
    write_failed: AtomicBool,
}

impl StateStore {
    /// Opens the store of `pipeline` in `dir`, and makes both if they are absent.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another process holds it, [`StateError::OtherPipeline`] if it
    /// belongs to another pipeline; otherwise as its classes tell.
    pub fn open(dir: &Path, pipeline: &str) -> Result<Self, StateError> {
        let reader = StateReader::open_for_writing(dir)?;
        let store = Self { reader, write_failed: AtomicBool::new(false) };
        match store.reader.pipeline()? {
            Some(found) if found == pipeline => Ok(store),
            Some(found) => Err(StateError::OtherPipeline {
                dir: dir.to_owned(),
                found,
                expected: pipeline.to_owned(),
            }),
            None => {
                let mut batch = WriteBatch::default();
                let meta = Meta { pipeline: pipeline.to_owned() };
                store.put(&mut batch, keys::META, &meta)?;
                store.write(batch, true)?;
                Ok(store)
            }
        }
    }

    /// Opens the store in `dir` to be read, also beside the process that holds it.
    ///
    /// # Errors
    /// As [`StateReader::open`].
    pub fn open_read_only(dir: &Path) -> Result<StateReader, StateError> {
        StateReader::open(dir)
    }

    /// The name under which the process is a member of its consumer group, made at the first call
    /// and kept: a process that comes back to this directory is the same member.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn member(&self) -> Result<String, StateError> {
        if let Some(Member { id }) = self.reader.get::<Member>(keys::MEMBER)? {
            return Ok(id);
        }
        let id = format!("icestream-{}", uuid::Uuid::new_v4().simple());
        let mut batch = WriteBatch::default();
        self.put(&mut batch, keys::MEMBER, &Member { id: id.clone() })?;
        self.write(batch, true)?;
        Ok(id)
    }

    /// What recovery needs.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load(&self) -> Result<LocalState, StateError> {
        self.reader.load()
    }

    /// The checkpoint that is prepared and not finalized, if there is one.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open_checkpoint(&self) -> Result<Option<Checkpoint>, StateError> {
        self.reader.open_checkpoint()
    }

    /// The retained checkpoints, newest last.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, StateError> {
        self.reader.checkpoints()
    }

    /// Step 2: when this returns, `checkpoint` is on disk, whatever happens to the process (I4).
    ///
    /// # Errors
    /// [`StateError::StillOpen`] if another one is prepared and not finalized (I2). After a failed
    /// write it is unknown whether it is on disk.
    pub fn prepare(
        &self,
        checkpoint: &Checkpoint,
        start: &CheckpointStart,
    ) -> Result<(), StateError> {
        if let Some(open) = self.open_checkpoint()? {
            return Err(StateError::StillOpen { open: open.epoch, next: checkpoint.epoch });
        }
        let last = self.reader.record_numbers()?.last().copied();
        let number = last.map_or(0, |number| number.saturating_add(1));
        let mut batch = WriteBatch::default();
        self.put(&mut batch, keys::OPEN, &Open { number, checkpoint: checkpoint.clone() })?;
        let record = CheckpointRecord::prepared(checkpoint, start);
        self.put(&mut batch, &keys::record(number), &record)?;
        self.write(batch, true)
    }

    /// Step 4: the prepared checkpoint of `epoch` is done. Its pending commits are removed, its
    /// record is completed, and the oldest records are removed, all at once.
    ///
    /// With [`Outcome::Committed`] the table must have shown its commits (I5).
    ///
    /// # Errors
    /// [`StateError::NotOpen`] if another epoch, or none, is prepared. After a failed write it is
    /// unknown whether the checkpoint is still open.
    pub fn finalize(
        &self,
        epoch: Epoch,
        outcome: Outcome,
        end: &CheckpointEnd,
    ) -> Result<(), StateError> {
        let open = self.reader.get::<Open>(keys::OPEN)?;
        let Some(Open { number, checkpoint }) =
            open.as_ref().filter(|open| open.checkpoint.epoch == epoch)
        else {
            let open = open.map(|open| open.checkpoint.epoch);
            return Err(StateError::NotOpen { epoch, open });
        };
        let mut batch = WriteBatch::default();
        batch.delete(keys::OPEN);
        if matches!(outcome, Outcome::Committed { .. }) {
            let generations = checkpoint.pending.iter().map(|pending| pending.generation);
            let last = LastCheckpoint {
                epoch,
                frontier: checkpoint.frontier.clone(),
                generation: generations.max().unwrap_or(0),
            };
            self.put(&mut batch, keys::LAST, &last)?;
        }
        let key = keys::record(*number);
        if let Some(mut record) = self.reader.get::<CheckpointRecord>(&key)? {
            record.ended_ms = Some(end.ended_ms);
            record.seconds.add(&end.seconds);
            record.outcome = outcome;
            self.put(&mut batch, &key, &record)?;
        }
        let numbers = self.reader.record_numbers()?;
        for old in &numbers[..numbers.len().saturating_sub(end.retained.max(1))] {
            batch.delete(keys::record(*old));
        }
        self.write(batch, true)
    }

    /// Gives up what is held: the prepared checkpoint, whose record says `reason` from then on, and
    /// what was last seen in the table. Its records are read again from the ledger.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn give_up(&self, reason: &str) -> Result<(), StateError> {
        let mut batch = WriteBatch::default();
        if let Some(open) = self.reader.get::<Open>(keys::OPEN)? {
            let key = keys::record(open.number);
            if let Some(mut record) = self.reader.get::<CheckpointRecord>(&key)? {
                record.outcome = Outcome::Failed { reason: reason.to_owned() };
                self.put(&mut batch, &key, &record)?;
            }
        }
        batch.delete(keys::OPEN);
        batch.delete(keys::LAST);
        self.write(batch, true)
    }

    /// Adds to the newest record how long steps took that ended after it was finalized. Not
    /// synced: what a crash takes away here is only told to people.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn add_seconds(&self, seconds: &StepSeconds) -> Result<(), StateError> {
        let Some(number) = self.reader.record_numbers()?.last().copied() else { return Ok(()) };
        let key = keys::record(number);
        let Some(mut record) = self.reader.get::<CheckpointRecord>(&key)? else { return Ok(()) };
        record.seconds.add(seconds);
        let mut batch = WriteBatch::default();
        self.put(&mut batch, &key, &record)?;
        self.write(batch, false)
    }

    fn put<T: Serialize>(
        &self,
        batch: &mut WriteBatch,
        key: &[u8],
        record: &T,
    ) -> Result<(), StateError> {
        let value = frame::encode(record).map_err(|source| StateError::Encode {
            key: keys::show(key),
            dir: self.reader.dir.clone(),
            source,
        })?;
        batch.put(key, value);
        Ok(())
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StateError> {
        let dir = &self.reader.dir;
        if self.write_failed.load(Ordering::Acquire) {
            return Err(StateError::WriteFailedBefore { dir: dir.clone() });
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.reader.db.write_opt(batch, &options).map_err(|error| {
            self.write_failed.store(true, Ordering::Release);
            StateError::classify("write", dir, error)
        })
    }
}
