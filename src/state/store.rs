//! Writing the store.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rocksdb::{WriteBatch, WriteOptions};
use serde::Serialize;

use super::reader::prepared;
use super::record::{
    CheckpointEnd, CheckpointRecord, CheckpointStart, Leaders, Member, Meta, Open, Outcome,
    StepSeconds,
};
use super::{StateError, StateReader, format_1, frame, keys};
use crate::protocol::{
    Checkpoint, Epoch, LastCheckpoint, LocalState, Prepared, Settled, UNNAMED, one_epoch_is_open,
};

/// The checkpoint store of one process, held alone.
#[derive(Debug)]
pub struct StateStore {
    reader: StateReader,
    /// Did an older version of this program leave it, and nobody wrote a checkpoint since?
    is_format_1: AtomicBool,
    write_failed: AtomicBool,
    /// Held from reading to writing by whatever writes what it has read: the commits of a checkpoint
    /// are finalized side by side.
    changing: Mutex<()>,
}

impl StateStore {
    /// Opens the store of `pipeline` in `dir`, and makes both if they are absent. A store of format
    /// 1 stays one until its checkpoints change: until then an older program can go on.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another process holds it, [`StateError::OtherPipeline`] if it
    /// belongs to another pipeline; otherwise as its classes tell.
    pub fn open(dir: &Path, pipeline: &str) -> Result<Self, StateError> {
        let (store, is_new) = Self::of(StateReader::open_for_writing(dir)?, pipeline)?;
        if is_new {
            let mut batch = WriteBatch::default();
            store.put(&mut batch, keys::META, &Meta { pipeline: pipeline.to_owned() })?;
            store.write(batch, true)?;
        }
        Ok(store)
    }

    /// [`Self::open`], but what is absent is not made: to look at a store that nobody else may hold
    /// meanwhile.
    ///
    /// # Errors
    /// [`StateError::Missing`] if there is none; otherwise as [`Self::open`].
    pub(crate) fn open_existing(dir: &Path, pipeline: &str) -> Result<Self, StateError> {
        Ok(Self::of(StateReader::open_existing(dir)?, pipeline)?.0)
    }

    /// The store, if it is that of `pipeline`; and whether it is nobody's yet.
    fn of(reader: StateReader, pipeline: &str) -> Result<(Self, bool), StateError> {
        let is_new = !reader.is_of(pipeline)?;
        let is_format_1 = AtomicBool::new(reader.is_format_1()?);
        let write_failed = AtomicBool::new(false);
        let changing = Mutex::default();
        Ok((Self { reader, is_format_1, write_failed, changing }, is_new))
    }

    /// Opens the store in `dir` to be read, also beside the process that holds it.
    ///
    /// # Errors
    /// As [`StateReader::open`].
    pub fn open_read_only(dir: &Path) -> Result<StateReader, StateError> {
        StateReader::open(dir)
    }

    /// Everything of format 1 under the keys and in the form of today, all at once: a process that
    /// dies here leaves the one or the other. Its checkpoints become those of `flow`.
    fn upgrade(&self, flow: &str) -> Result<(), StateError> {
        let reader = &self.reader;
        if !self.is_format_1.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        if let Some(open) = format_1::open_checkpoint(reader)? {
            self.put(&mut batch, &keys::open(flow), &open)?;
        }
        let last = format_1::last(reader)?;
        if !last.is_empty() {
            self.put(&mut batch, &keys::last(flow), &last)?;
        }
        let records = keys::records(flow);
        for (number, record) in format_1::records(reader)? {
            self.put(&mut batch, &keys::record(&records, number), &record)?;
        }
        for number in reader.record_numbers(keys::records_1())? {
            batch.delete(keys::record(keys::records_1(), number));
        }
        batch.delete(keys::OPEN_1);
        batch.delete(keys::LAST_1);
        if let Some(member) = reader.get::<Member>(keys::MEMBER)? {
            self.put(&mut batch, keys::MEMBER, &member)?;
        }
        if let Some(meta) = reader.get::<Meta>(keys::META)? {
            self.put(&mut batch, keys::META, &meta)?;
        }
        self.write(batch, true)?;
        self.is_format_1.store(false, Ordering::Release);
        tracing::info!(dir = %reader.dir.display(), "upgraded the checkpoint store to format 2");
        Ok(())
    }

    /// The name under which the process is a member of its consumer group, made at the first call
    /// and kept: a process that comes back to this directory is the same member.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn member(&self) -> Result<String, StateError> {
        let _changing = self.changing.lock();
        if let Some(Member { id }) = self.reader.get::<Member>(keys::MEMBER)? {
            return Ok(id);
        }
        let id = format!("icestream-{}", uuid::Uuid::new_v4().simple());
        let member = Member { id: id.clone() };
        // Asked before the tables were looked at: an older program must still be able to read it.
        let version = match self.is_format_1.load(Ordering::Acquire) {
            true => frame::OLDEST_VERSION,
            false => frame::FORMAT_VERSION,
        };
        let mut batch = WriteBatch::default();
        self.put_as(&mut batch, keys::MEMBER, &member, version)?;
        self.write(batch, true)?;
        Ok(id)
    }

    /// What recovery of `flow` needs.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load(&self, flow: &str) -> Result<LocalState, StateError> {
        self.reader.load(flow)
    }

    /// As [`StateReader::leaders`].
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn leaders(&self, flow: &str) -> Result<Leaders, StateError> {
        self.reader.leaders(flow)
    }

    /// As [`StateReader::open_checkpoint`].
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open_checkpoint(&self, flow: &str) -> Result<Option<Checkpoint>, StateError> {
        self.reader.open_checkpoint(flow)
    }

    /// As [`StateReader::checkpoints`].
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn checkpoints(&self, flow: &str) -> Result<Vec<CheckpointRecord>, StateError> {
        self.reader.checkpoints(flow)
    }

    /// Step 2: when this returns, `checkpoint` is on disk, whatever happens to the process (I4). What
    /// it returns are its commits: only these may be admitted.
    ///
    /// # Errors
    /// [`StateError::StillOpen`] if another one of `flow` is prepared and not finalized for all of
    /// its tables (I2). After a failed write it is unknown whether it is on disk.
    pub fn prepare(
        &self,
        flow: &str,
        checkpoint: &Checkpoint,
        start: &CheckpointStart,
    ) -> Result<Vec<Prepared>, StateError> {
        let _changing = self.changing.lock();
        self.upgrade(flow)?;
        let open = self.open_checkpoint(flow)?.map(|open| open.epoch);
        one_epoch_is_open(open, checkpoint.epoch)?;
        let records = keys::records(flow);
        let last = self.reader.record_numbers(&records)?.last().copied();
        let number = last.map_or(0, |number| number.saturating_add(1));
        let mut batch = WriteBatch::default();
        self.put(&mut batch, &keys::open(flow), &Open { number, checkpoint: checkpoint.clone() })?;
        let record = CheckpointRecord::prepared(checkpoint, start);
        self.put(&mut batch, &keys::record(&records, number), &record)?;
        if !start.leaders.before.is_empty() {
            let mut leaders = self.reader.leaders(flow)?;
            leaders.extend(&start.leaders);
            self.put(&mut batch, &keys::leaders(flow), &leaders)?;
        }
        self.write(batch, true)?;
        Ok(prepared(Some(checkpoint.clone())))
    }

    /// Step 4: one commit of the prepared checkpoint of `flow` is done, as `settled` proves (I5). It is
    /// pending no more and its record says what became of it; with the last of them the checkpoint is
    /// complete, and the oldest records are removed; all at once.
    ///
    /// # Errors
    /// [`StateError::NotOpen`] if no prepared checkpoint holds it. After a failed write it is
    /// unknown whether it is still pending.
    pub fn finalize(
        &self,
        flow: &str,
        settled: &Settled,
        end: &CheckpointEnd,
    ) -> Result<(), StateError> {
        let _changing = self.changing.lock();
        let (commit_id, outcome) = (settled.commit_id(), Outcome::of(settled));
        let not_open =
            |open: Option<Epoch>| StateError::NotOpen { commit: commit_id.clone(), open };
        self.upgrade(flow)?;
        let open_key = keys::open(flow);
        let Some(mut open) = self.reader.get::<Open>(&open_key)? else {
            return Err(not_open(None));
        };
        let Checkpoint { epoch, frontiers, pending } = &mut open.checkpoint;
        let Some(at) = pending.iter().position(|pending| pending.commit_id == *commit_id) else {
            return Err(not_open(Some(*epoch)));
        };
        let done = pending.remove(at);
        let mut batch = WriteBatch::default();
        if matches!(outcome, Outcome::Committed { .. }) {
            let mut last = self.reader.last(flow)?;
            let frontier = frontiers.get(&done.table).cloned().unwrap_or_default();
            let seen = LastCheckpoint {
                epoch: *epoch,
                frontier,
                generation: done.generation,
                table_uuid: done.table_uuid.clone(),
            };
            last.insert(done.table, seen);
            // What format 1 saw was in the one table that it had: this one.
            last.remove(UNNAMED);
            self.put(&mut batch, &keys::last(flow), &last)?;
        }
        let is_complete = pending.is_empty();
        let records = keys::records(flow);
        let key = keys::record(&records, open.number);
        if let Some(mut record) = self.reader.record(&key)? {
            record.settle(commit_id, outcome);
            record.seconds.add(&end.seconds);
            if is_complete {
                record.ended_ms = Some(end.ended_ms);
            }
            self.put(&mut batch, &key, &record)?;
        }
        if is_complete {
            batch.delete(&open_key);
            let numbers = self.reader.record_numbers(&records)?;
            for old in &numbers[..numbers.len().saturating_sub(end.retained.max(1))] {
                batch.delete(keys::record(&records, *old));
            }
        } else {
            self.put(&mut batch, &open_key, &open)?;
        }
        self.write(batch, true)
    }

    /// Gives up what is held of `flow`: the prepared checkpoint, whose record says `reason` from
    /// then on, and what was last seen in the tables. Its records are read again from the ledgers.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn give_up(&self, flow: &str, reason: &str) -> Result<(), StateError> {
        let _changing = self.changing.lock();
        self.upgrade(flow)?;
        let mut batch = WriteBatch::default();
        if let Some(open) = self.reader.get::<Open>(&keys::open(flow))? {
            let key = keys::record(&keys::records(flow), open.number);
            if let Some(mut record) = self.reader.record(&key)? {
                for pending in &open.checkpoint.pending {
                    let outcome = Outcome::Failed { reason: reason.to_owned() };
                    record.settle(&pending.commit_id, outcome);
                }
                self.put(&mut batch, &key, &record)?;
            }
        }
        batch.delete(keys::open(flow));
        batch.delete(keys::last(flow));
        self.write(batch, true)
    }

    /// Adds to the newest record of `flow` how long steps took that ended after it was finalized.
    /// Not synced: what a crash takes away here is only told to people.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn add_seconds(&self, flow: &str, seconds: &StepSeconds) -> Result<(), StateError> {
        let _changing = self.changing.lock();
        self.upgrade(flow)?;
        let records = keys::records(flow);
        let Some(number) = self.reader.record_numbers(&records)?.last().copied() else {
            return Ok(());
        };
        let key = keys::record(&records, number);
        let Some(mut record) = self.reader.record(&key)? else { return Ok(()) };
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
        self.put_as(batch, key, record, frame::FORMAT_VERSION)
    }

    fn put_as<T: Serialize>(
        &self,
        batch: &mut WriteBatch,
        key: &[u8],
        record: &T,
        version: u16,
    ) -> Result<(), StateError> {
        let value = frame::encode_as(version, record).map_err(|source| StateError::Encode {
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
