//! Writing the store.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rocksdb::{WriteBatch, WriteOptions};
use serde::Serialize;

use super::reader::prepared;
use super::record::{
    CheckpointEnd, CheckpointRecord, CheckpointStart, Member, Meta, Open, Outcome, StepSeconds,
};
use super::{StateError, StateReader, format_1, frame, keys};
use crate::protocol::{
    Checkpoint, Epoch, LastCheckpoint, LocalState, Prepared, Settled, one_epoch_is_open,
};

/// The checkpoint store of one process, held alone.
#[derive(Debug)]
pub struct StateStore {
    reader: StateReader,
    write_failed: AtomicBool,
    /// Held from reading to writing by whatever writes what it has read: the commits of a checkpoint
    /// are finalized side by side.
    changing: Mutex<()>,
}

impl StateStore {
    /// Opens the store of `pipeline` in `dir`, and makes both if they are absent. A store of format
    /// 1 is upgraded: its checkpoints become those of `flow`, and what it last saw was in `table`.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another process holds it, [`StateError::OtherPipeline`] if it
    /// belongs to another pipeline; otherwise as its classes tell.
    pub fn open(
        dir: &Path,
        pipeline: &str,
        (flow, table): (&str, &str),
    ) -> Result<Self, StateError> {
        let reader = StateReader::open_for_writing(dir)?;
        let write_failed = AtomicBool::new(false);
        let store = Self { reader, write_failed, changing: Mutex::default() };
        match store.reader.pipeline()? {
            Some(found) if found == pipeline => {
                if store.reader.is_format_1()? {
                    store.upgrade(pipeline, flow, table)?;
                }
                Ok(store)
            }
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

    /// Everything of format 1 under the keys and in the form of today, all at once: a process that
    /// dies here leaves the one or the other.
    fn upgrade(&self, pipeline: &str, flow: &str, table: &str) -> Result<(), StateError> {
        let reader = &self.reader;
        let mut batch = WriteBatch::default();
        if let Some(open) = format_1::open_checkpoint(reader)? {
            self.put(&mut batch, &keys::open(flow), &open)?;
        }
        let last = format_1::last(reader, table)?;
        if !last.is_empty() {
            self.put(&mut batch, &keys::last(flow), &last)?;
        }
        let records = keys::records(flow);
        for (number, record) in format_1::records(reader)? {
            self.put(&mut batch, &keys::record(&records, number), &record)?;
            batch.delete(keys::record(keys::records_1(), number));
        }
        batch.delete(keys::OPEN_1);
        batch.delete(keys::LAST_1);
        if let Some(member) = reader.get::<Member>(keys::MEMBER)? {
            self.put(&mut batch, keys::MEMBER, &member)?;
        }
        self.put(&mut batch, keys::META, &Meta { pipeline: pipeline.to_owned() })?;
        self.write(batch, true)?;
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
        let mut batch = WriteBatch::default();
        self.put(&mut batch, keys::MEMBER, &Member { id: id.clone() })?;
        self.write(batch, true)?;
        Ok(id)
    }

    /// What recovery of `flow` needs.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load(&self, flow: &str) -> Result<LocalState, StateError> {
        let open = self.open_checkpoint(flow)?;
        Ok(LocalState { pending: prepared(open), last: self.reader.last(flow)? })
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
        let open = self.open_checkpoint(flow)?.map(|open| open.epoch);
        one_epoch_is_open(open, checkpoint.epoch)?;
        let records = keys::records(flow);
        let last = self.reader.record_numbers(&records)?.last().copied();
        let number = last.map_or(0, |number| number.saturating_add(1));
        let mut batch = WriteBatch::default();
        self.put(&mut batch, &keys::open(flow), &Open { number, checkpoint: checkpoint.clone() })?;
        let record = CheckpointRecord::prepared(checkpoint, start);
        self.put(&mut batch, &keys::record(&records, number), &record)?;
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
            let seen = LastCheckpoint { epoch: *epoch, frontier, generation: done.generation };
            last.insert(done.table, seen);
            self.put(&mut batch, &keys::last(flow), &last)?;
        }
        let is_complete = pending.is_empty();
        let records = keys::records(flow);
        let key = keys::record(&records, open.number);
        if let Some(mut record) = self.reader.get::<CheckpointRecord>(&key)? {
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
        let mut batch = WriteBatch::default();
        if let Some(open) = self.reader.get::<Open>(&keys::open(flow))? {
            let key = keys::record(&keys::records(flow), open.number);
            if let Some(mut record) = self.reader.get::<CheckpointRecord>(&key)? {
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
        let records = keys::records(flow);
        let Some(number) = self.reader.record_numbers(&records)?.last().copied() else {
            return Ok(());
        };
        let key = keys::record(&records, number);
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
