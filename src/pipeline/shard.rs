//! A shard: it owns some partitions from poll to Parquet, on a thread of its own.
//!
//! It shares nothing with other shards but a few counters. At a barrier it ends its files, and reads on
//! for the next epoch while they become durable; then it answers with what they hold. It never waits
//! for a commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::end::violated;
use super::messages::{Begin, Command, Fresh, Progress, Report, Sealed};
use super::partitions::{Partition, Partitions, Place};
use super::seams::{Closing, Omitted, Queue, Sink, now};
use crate::broken::{self, Variant};
use crate::config::BadRecords;
use crate::decode::{BadRecord, Pushed, RecordError};
use crate::failure::{Failure, chain};
use crate::protocol::{
    Epoch, Fate, Frontier, Offset, RowCounts, TableShare, TopicPartition, Trigger,
    consumed_is_covered, every_record_has_one_fate,
};
use crate::source::{PartitionId, Polled, Record, SourceError, Topics};
use crate::telemetry::Metrics;

/// How often a shard asks how far the client got where it has no records.
const POSITIONS: Duration = Duration::from_millis(100);

/// How shards work, the same for all of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardSettings {
    /// What to do with bad records.
    pub bad_records: BadRecords,
    /// Is what was found in one nobody's to read?
    pub hide_values: bool,
    /// When an epoch is full.
    pub trigger: Trigger,
    /// The checkpoint interval.
    pub interval: Duration,
    /// How old a reading of a table may be for which files are opened after a pause.
    pub fresh: Duration,
}

/// What became of one message.
enum Taken {
    Moved,
    Still,
    Bad(BadRecord),
    /// Nothing more of it can be read.
    Failed(TopicPartition, SourceError),
}

/// The state of a shard.
pub(crate) struct Shard<S: Sink> {
    index: usize,
    settings: ShardSettings,
    topics: Topics,
    /// One for each table of the flow, in their order.
    tables: Vec<ShardTable<S>>,
    partitions: Partitions,
    bytes: u64,
    records: u64,
    /// Bytes that describe the files of the open epoch, as far as others know.
    described: u64,
    shown_buffered: i64,
    asked_positions: Instant,
    /// When the oldest reading of the tables was asked for that the open epoch is written for.
    read_at: Instant,
    /// When the open epoch began.
    opened: Instant,
    /// The tables are to be read anew before anything is written of the open epoch.
    asked_tables: bool,
    /// The epoch that ended, while its files become durable.
    ending: Option<Ending<S::Closing>>,
    progress: Arc<Progress>,
    metrics: Metrics,
}

/// What a shard does for one table.
struct ShardTable<S> {
    sink: S,
    /// What became of the records of the open epoch.
    counts: RowCounts,
    /// Records that it was given, whatever became of them (I10).
    given: u64,
}

/// An epoch whose files are not known to be durable yet.
struct Ending<C> {
    epoch: Epoch,
    /// All but the files.
    sealed: Sealed,
    /// Those of each table.
    files: Vec<C>,
}

impl<S: Sink> Shard<S> {
    /// A shard without partitions; `sinks` are those of the tables of its flow, in their order, as they
    /// were read at `read_at`.
    pub(crate) fn new(
        index: usize,
        settings: ShardSettings,
        topics: Topics,
        sinks: Vec<S>,
        read_at: Instant,
        progress: Arc<Progress>,
        metrics: Metrics,
    ) -> Self {
        let table = |sink| ShardTable { sink, counts: RowCounts::default(), given: 0 };
        Self {
            index,
            settings,
            topics,
            tables: sinks.into_iter().map(table).collect(),
            partitions: Partitions::default(),
            bytes: 0,
            records: 0,
            described: 0,
            shown_buffered: 0,
            asked_positions: now(),
            read_at,
            opened: now(),
            asked_tables: false,
            ending: None,
            progress,
            metrics,
        }
    }

    /// May the open epoch not grow any more? Its files are bounded, its size is while the last one is
    /// sealed and committed, and so is the memory of both. It does not begin before its tables are read
    /// anew.
    pub(crate) fn must_hold(&self) -> bool {
        if self.asked_tables {
            return true;
        }
        self.progress.is_full(&self.settings.trigger)
            || self.ending.as_ref().is_some_and(|last| {
                let mut both = self.tables.iter().zip(&last.files);
                both.any(|(table, files)| table.sink.is_full(files.held_bytes()))
            })
    }

    /// Is there a barrier that is not answered yet?
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Obeys a command. False: nobody listens any more, the run is over.
    ///
    /// # Errors
    /// If files cannot be written.
    pub(crate) fn obey(
        &mut self,
        command: Command<S::Table>,
        out: &UnboundedSender<Report>,
    ) -> Result<bool, Failure> {
        match command {
            Command::Take(begins) => {
                for begin in begins {
                    self.begin(begin)?;
                }
                Ok(out.send(Report::Ready).is_ok())
            }
            Command::Seal { epoch, next, revoked } => {
                if self.ending.is_some() {
                    return Err(Failure::Internal(String::from(
                        "a barrier before the last was answered",
                    )));
                }
                self.seal(epoch, next)?;
                self.partitions.retain(|p| !revoked.contains(&p.tp));
                self.answer(out)
            }
            Command::Renew(next) => {
                self.renew(&next)?;
                Ok(true)
            }
        }
    }

    /// Answers the last barrier if the files of its epoch are durable. False: nobody listens any
    /// more, the run is over.
    ///
    /// # Errors
    /// If the files could not be written.
    pub(crate) fn answer(&mut self, out: &UnboundedSender<Report>) -> Result<bool, Failure> {
        match self.ending.take_if(|last| last.files.iter().all(Closing::is_over)) {
            Some(last) => {
                self.show_buffered();
                last.report(out)
            }
            None => Ok(true),
        }
    }

    /// Reads a batch from the queue, waiting up to `wait` for it. Returns how many messages came.
    ///
    /// # Errors
    /// If reading or writing failed; the shard cannot go on.
    pub(crate) fn read(
        &mut self,
        queue: &mut impl Queue,
        wait: Duration,
        out: &UnboundedSender<Report>,
    ) -> Result<usize, Failure> {
        if self.is_stale() {
            if queue.has_some(wait) {
                self.asked_tables = true;
                // Nobody listening means the run is over already.
                out.send(Report::Stale(self.index)).ok();
            }
            // A position needs no table.
            let moved = self.pass_markers(queue);
            self.publish(moved, 0, 0);
            return Ok(0);
        }
        let (mut failed, mut bad, mut unread, mut moved) = (None, None, Vec::new(), 0);
        let (bytes, records) = (self.bytes, self.records);
        let polled = queue.poll(wait, |polled| match self.take(polled) {
            Ok(Taken::Moved) => {
                moved += 1;
                true
            }
            Ok(Taken::Still) => true,
            Ok(Taken::Bad(record)) => {
                bad = Some(record);
                true
            }
            Ok(Taken::Failed(tp, error)) => {
                unread.push((tp, error));
                true
            }
            Err(failure) => {
                failed = Some(failure);
                false
            }
        });
        if let Some(failure) = failed {
            return Err(failure);
        }
        moved += self.pass_markers(queue);
        self.publish(moved, self.bytes - bytes, self.records - records);
        if let Some(record) = bad {
            // Nobody listening means the run is over already.
            out.send(Report::Bad(record)).ok();
        }
        for (tp, error) in unread {
            out.send(Report::Unread(tp, error)).ok();
        }
        for table in &mut self.tables {
            table.sink.tick()?;
        }
        self.show_described();
        Ok(polled)
    }

    /// Deletes the files of the open epoch: they were never part of a checkpoint. Those of an epoch
    /// that ended are told, for somebody else to decide.
    pub(crate) fn abandon(&mut self, out: &UnboundedSender<Report>) {
        if let Some(Err(failure)) = self.ending.take().map(|last| last.report(out)) {
            tracing::warn!(error = %chain(&failure), "the files of the last epoch were not written");
        }
        self.metrics.buffered_bytes().sub(std::mem::take(&mut self.shown_buffered));
        for table in &mut self.tables {
            table.sink.abandon();
        }
    }

    /// Did no sink get anything of the open epoch? Tombstones do not go there.
    fn is_untouched(&self) -> bool {
        self.tables.iter().all(|table| table.given == table.counts.tombstones)
    }

    /// Is nothing written of the open epoch, for tables of which we know too little by now? Somebody may
    /// have added a column since, and what a store lets us in by may have ended.
    fn is_stale(&self) -> bool {
        if !self.is_untouched() {
            return false;
        }
        let now = now();
        let fresh = self.settings.fresh;
        let at_once = now.duration_since(self.opened) < fresh;
        let allowed = if at_once { self.settings.interval + fresh } else { fresh };
        now.duration_since(self.read_at) > allowed
    }

    /// Writes the open epoch, of which nothing is written, for these tables.
    fn renew(&mut self, next: &Fresh<S::Table>) -> Result<(), Failure> {
        if !self.is_untouched() {
            return Err(Failure::Internal(String::from("tables renewed amid an epoch")));
        }
        for (table, next) in self.tables.iter_mut().zip(&next.tables) {
            let files = table.sink.close(next)?.wait()?;
            if !files.is_empty() {
                return Err(Failure::Internal(String::from("files of an epoch without records")));
            }
        }
        // From now on, and not from when it was asked for: a catalog that is slow would never be fresh.
        self.read_at = now();
        self.asked_tables = false;
        Ok(())
    }

    /// Moves positions past what no reader may see: transaction markers and aborted records.
    /// Returns how many moved.
    fn pass_markers(&mut self, queue: &impl Queue) -> u64 {
        let now = now();
        if now.duration_since(self.asked_positions) < POSITIONS {
            return 0;
        }
        self.asked_positions = now;
        let positions = queue.positions(self.partitions.iter().map(|p| p.id));
        let moved = positions.into_iter().filter(|(id, at)| self.partitions.pass(*id, *at));
        moved.count() as u64
    }

    fn begin(&mut self, begin: Begin) -> Result<(), Failure> {
        let id = self.topics.id(&begin.tp).ok_or_else(|| {
            Failure::Internal(format!("{} is of no topic that is read", begin.tp))
        })?;
        let partition = Partition {
            id,
            places: begin.tables.into_iter().map(Place::new).collect(),
            next: begin.start,
            consumed: begin.start,
            last_timestamp: None,
            stopped: false,
            uncounted: (0, 0),
            position: begin.position,
            metrics: self.metrics.partition(&begin.tp),
            tp: begin.tp,
        };
        self.partitions.insert(partition);
        Ok(())
    }

    /// Takes one message. I7: whatever becomes of a record, its partition moves on, except at a
    /// bad record under `fail`, where it stops. What still comes of a partition that was revoked
    /// is not ours any more.
    fn take(&mut self, polled: Polled<'_>) -> Result<Taken, Failure> {
        match polled {
            Polled::Record(record) => self.record(&record),
            Polled::Failed { partition, error } => Ok(self.failed(partition, error)),
        }
    }

    /// Stops a partition that cannot be read on: what comes of it later is behind a hole.
    fn failed(&mut self, partition: PartitionId, error: SourceError) -> Taken {
        match self.partitions.get_mut(partition) {
            Some(p) if !p.stopped => {
                p.stopped = !broken::is(Variant::ReadPastHoles);
                Taken::Failed(p.tp.clone(), error.standing_at(p.next))
            }
            _ => Taken::Still,
        }
    }

    fn record(&mut self, record: &Record<'_>) -> Result<Taken, Failure> {
        let Some(p) = self.partitions.get_mut(record.id()) else { return Ok(Taken::Still) };
        // Below the position: cannot happen after a start at the ledger, and would be a repeat.
        if p.stopped || record.offset < p.next {
            return Ok(Taken::Still);
        }
        p.consumed = record.offset + 1;
        match record.value {
            None => self.metrics.add_tombstones(1),
            Some(value) => self.bytes += value.len() as u64,
        }
        for (at, table) in self.tables.iter_mut().enumerate() {
            if !p.places.get(at).is_some_and(|place| place.wants(record.offset)) {
                continue;
            }
            table.given += 1;
            let fate = match record.value {
                None => Fate::Tombstone,
                Some(value) => match table.sink.push(record, value)? {
                    Pushed::Row => Fate::Row,
                    Pushed::Bad(error) => {
                        self.metrics.add_bad_records(error.reason.label(), 1);
                        let error = match self.settings.hide_values {
                            true => error.without_value(),
                            false => error,
                        };
                        match self.settings.bad_records {
                            BadRecords::Fail => {
                                table.given -= 1;
                                p.stop(record.offset, at);
                                let (partition, offset) = (p.tp.clone(), record.offset);
                                return Ok(Taken::Bad(BadRecord { partition, offset, error }));
                            }
                            BadRecords::Skip => skipped(&p.tp, record.offset, &error),
                        }
                    }
                    Pushed::Full => return Err(stuck(p, record, "no batch has room for it")),
                    // Nothing of today fetches schemas, and no decoder of today asks for one.
                    Pushed::Needs(schema) => {
                        let why = format!("it was written with schema {schema}, which is not here");
                        return Err(stuck(p, record, &why));
                    }
                },
            };
            // I10: nowhere else.
            table.counts.count(fate);
        }
        self.records += 1;
        self.partitions.advance(record);
        Ok(Taken::Moved)
    }

    /// Makes the work of one batch visible to the coordinator.
    fn publish(&mut self, moved: u64, bytes: u64, records: u64) {
        if moved == 0 && bytes == 0 {
            return;
        }
        self.progress.epoch_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.epoch_records.fetch_add(records, Ordering::Relaxed);
        self.partitions.show();
        self.progress.moves.fetch_add(moved, Ordering::Release);
        for table in &mut self.tables {
            let Omitted { unknown_fields, timestamps } = table.sink.take_omitted();
            if unknown_fields > 0 {
                self.metrics.add_unknown_fields(unknown_fields);
            }
            if timestamps > 0 {
                self.metrics.add_timestamps_left_out(timestamps);
            }
        }
        self.show_buffered();
    }

    /// Adds what describes the files of the open epoch to what the coordinator sees.
    fn show_described(&mut self) {
        let described = self.tables.iter().map(|table| table.sink.described_bytes()).sum();
        let before = std::mem::replace(&mut self.described, described);
        match described.checked_sub(before) {
            Some(0) => 0,
            Some(more) => self.progress.epoch_described.fetch_add(more, Ordering::Relaxed),
            None => self.progress.epoch_described.fetch_sub(before - described, Ordering::Relaxed),
        };
    }

    /// Adds what this shard holds in memory to the gauge, and takes back what it added before.
    fn show_buffered(&mut self) {
        let ending: u64 = self.ending.iter().flat_map(|e| &e.files).map(Closing::held_bytes).sum();
        let open: u64 = self.tables.iter().map(|table| table.sink.buffered_bytes()).sum();
        let held = i64::try_from(open + ending).unwrap_or(i64::MAX);
        self.metrics.buffered_bytes().add(held - self.shown_buffered);
        self.shown_buffered = held;
    }

    /// Ends the epoch: what it read, and its files, which nobody sees.
    fn seal(&mut self, epoch: Epoch, next: Fresh<S::Table>) -> Result<(), Failure> {
        let sealed = Sealed {
            shares: Vec::with_capacity(self.tables.len()),
            last_timestamps: BTreeMap::new(),
            bytes: std::mem::take(&mut self.bytes),
        };
        let files = Vec::with_capacity(self.tables.len());
        // From here on, so that files that are closed are told also if those of another table fail.
        let ending = self.ending.insert(Ending { epoch, sealed, files });
        (self.read_at, self.opened) = (next.at, now());
        for (table, next) in self.tables.iter_mut().zip(&next.tables) {
            ending.files.push(table.sink.close(next)?);
            let rows = std::mem::take(&mut table.counts);
            every_record_has_one_fate(std::mem::take(&mut table.given), &rows)
                .map_err(|violation| violated(&self.metrics, &violation))?;
            ending.sealed.shares.push(TableShare { rows, ..TableShare::default() });
        }
        let records = std::mem::take(&mut self.records);
        self.progress.epoch_bytes.fetch_sub(ending.sealed.bytes, Ordering::Relaxed);
        self.progress.epoch_records.fetch_sub(records, Ordering::Relaxed);
        let mut consumed = vec![Frontier::default(); ending.sealed.shares.len()];
        for p in self.partitions.iter_mut() {
            let mut moved = false;
            let shares = ending.sealed.shares.iter_mut().zip(&mut consumed);
            for (place, (share, consumed)) in p.places.iter_mut().zip(shares) {
                if let Some(reached) = place.reached(p.consumed) {
                    consumed.set(p.tp.clone(), reached);
                }
                let Some((ledger, range)) = place.seal(p.next) else { continue };
                share.from.extend(ledger.map(|ledger| (p.tp.clone(), ledger)));
                share.ranges.insert(p.tp.clone(), range);
                moved = true;
            }
            if let Some(timestamp) = p.last_timestamp.filter(|_| moved) {
                ending.sealed.last_timestamps.insert(p.tp.clone(), timestamp);
            }
        }
        for (consumed, share) in consumed.iter().zip(&ending.sealed.shares) {
            consumed_is_covered(consumed, &share.ranges)
                .map_err(|violation| violated(&self.metrics, &violation))?;
        }
        self.show_described();
        self.show_buffered();
        Ok(())
    }
}

/// A bad record is left out.
#[cold]
fn skipped(partition: &TopicPartition, offset: Offset, error: &RecordError) -> Fate {
    tracing::debug!(%partition, offset, %error, "skipped");
    Fate::Skipped
}

/// A record that can neither be taken nor passed over.
#[cold]
fn stuck(partition: &Partition, record: &Record<'_>, why: &str) -> Failure {
    let (tp, offset) = (&partition.tp, record.offset);
    Failure::Internal(format!("{tp}: the record at offset {offset} cannot be taken: {why}"))
}

impl<C: Closing> Ending<C> {
    /// Waits for the files and tells that the epoch is sealed. False: nobody listens any more.
    fn report(mut self, out: &UnboundedSender<Report>) -> Result<bool, Failure> {
        let mut failed = None;
        // All of them: what is durable while others are not has to be told.
        for (files, share) in self.files.into_iter().zip(&mut self.sealed.shares) {
            match files.wait() {
                Ok(files) => share.files = files,
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        if let Some(failure) = failed {
            if self.sealed.shares.iter().any(|share| !share.files.is_empty()) {
                // Nobody listening means the run is over already.
                out.send(Report::Left(Box::new(self.sealed))).ok();
            }
            return Err(failure);
        }
        crate::crash::point("seal.files-closed");
        Ok(out.send(Report::Sealed(self.epoch, Box::new(self.sealed))).is_ok())
    }
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
