//! A shard: one thread that owns some partitions from poll to Parquet.
//!
//! It shares nothing with other shards but a few counters. At a barrier it closes its files and
//! answers with what they hold; it never waits for a commit.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use iceberg::io::FileIO;
use iceberg::spec::TableMetadata;
use tokio::sync::mpsc::Sender;

use super::rows::RowBuilder;
use crate::config::BadRecords;
use crate::decode::{Reason, RecordError};
use crate::failure::{Failure, chain};
use crate::protocol::{Epoch, Offset, OffsetRange, PendingFile, Ranges, RowCounts, TopicPartition};
use crate::source::{Polled, Record, ShardQueue};
use crate::telemetry::{Metrics, PartitionMetrics};
use crate::write::{TableWriter, WriteSettings};

/// How long an idle shard waits for a record before it looks for a barrier.
const IDLE_WAIT: Duration = Duration::from_millis(20);

/// A record that could not be decoded, under `BAD_RECORDS=fail`.
#[derive(Debug)]
pub struct BadRecord {
    /// Its partition.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// Why.
    pub error: RecordError,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bad record at topic {} partition {} offset {}: {}",
            self.partition.topic, self.partition.partition, self.offset, self.error
        )
    }
}

/// The table as an epoch writes it.
pub struct TableContext {
    /// Table as `namespace.table`.
    pub name: String,
    /// Schema, spec, location and properties.
    pub metadata: Arc<TableMetadata>,
    /// The table's storage.
    pub io: FileIO,
}

impl TableContext {
    fn same_shape(&self, other: &Self) -> bool {
        self.metadata.current_schema_id() == other.metadata.current_schema_id()
            && self.metadata.default_partition_spec_id()
                == other.metadata.default_partition_spec_id()
    }
}

/// Counters that the coordinator reads while shards run.
#[derive(Default)]
pub struct Progress {
    /// Payload bytes read since the last barrier.
    pub epoch_bytes: AtomicU64,
    /// Records read since the last barrier.
    pub epoch_records: AtomicU64,
    /// Counts every change of a position, for ever.
    pub moves: AtomicU64,
    /// Set while the open epoch may not grow: the last one is still being committed.
    pub hold: AtomicBool,
    /// Next offset to read by partition.
    pub positions: BTreeMap<TopicPartition, AtomicI64>,
}

/// What a shard is told.
pub enum Command {
    /// End the epoch; `next` is the table for the one after it.
    Seal {
        /// The epoch that ends.
        epoch: Epoch,
        /// The table for the next epoch.
        next: Arc<TableContext>,
    },
}

/// What a shard did in an epoch.
#[derive(Debug, Default)]
pub struct Sealed {
    /// What was read, for each partition that moved.
    pub ranges: Ranges,
    /// Ledger value that each of them continues; absent where there is none.
    pub from: BTreeMap<TopicPartition, Offset>,
    /// Timestamp of the last record by partition, milliseconds since the Unix epoch.
    pub last_timestamps: BTreeMap<TopicPartition, i64>,
    /// Closed and durable files.
    pub files: Vec<PendingFile>,
    /// What became of the records.
    pub rows: RowCounts,
    /// Payload bytes read.
    pub bytes: u64,
}

/// What a shard reports.
pub enum Report {
    /// The answer to a barrier.
    Sealed(Epoch, Box<Sealed>),
    /// A bad record under `fail`: its partition goes no further; seal what precedes it.
    Bad(BadRecord),
    /// The shard ended.
    Failed(Failure),
}

/// How shards work, the same for all of a run.
#[derive(Clone)]
pub struct ShardSettings {
    /// Unique beginning of file names: instance and shard.
    pub file_prefix: String,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Bytes of a batch: a batch ends at rows or bytes, whichever first.
    pub batch_bytes: usize,
    /// Longest that rows wait in a batch.
    pub batch_timeout: Duration,
    /// Bytes at which a data file is closed and another begun.
    pub target_file_size: u64,
    /// Bytes of memory in row groups being encoded.
    pub max_buffered_bytes: u64,
    /// What to do with bad records.
    pub bad_records: BadRecords,
    /// Most payload bytes of an epoch that waits for the last one's commit.
    pub max_epoch_bytes: u64,
    /// Record the starting position in the ledger although nothing was read yet.
    pub record_start: bool,
    /// Drives file I/O.
    pub runtime: tokio::runtime::Handle,
}

struct Partition {
    tp: TopicPartition,
    ledger: Option<Offset>,
    start: Offset,
    next: Offset,
    last_timestamp: Option<i64>,
    /// Stopped before a bad record.
    stopped: bool,
    /// Records and bytes read since they were last counted.
    uncounted: (u64, u64),
    metrics: PartitionMetrics,
}

/// The state of a shard's thread.
pub struct Shard {
    settings: ShardSettings,
    table: Arc<TableContext>,
    rows: RowBuilder,
    writer: Option<TableWriter>,
    writers_made: u64,
    partitions: BTreeMap<i32, Partition>,
    counts: RowCounts,
    bytes: u64,
    records: u64,
    batch_since: Option<Instant>,
    shown_buffered: i64,
    progress: Arc<Progress>,
    metrics: Metrics,
}

impl Shard {
    /// `starts` gives, for each partition of the shard, its ledger and where reading begins.
    pub fn new(
        settings: ShardSettings,
        table: Arc<TableContext>,
        topic: &str,
        starts: impl IntoIterator<Item = (TopicPartition, Option<Offset>, Offset)>,
        progress: Arc<Progress>,
        metrics: Metrics,
    ) -> Result<Self, Failure> {
        let rows = RowBuilder::new(&table.metadata, &table.name, topic)?;
        let partitions = starts
            .into_iter()
            .map(|(tp, ledger, start)| {
                let partition = Partition {
                    ledger,
                    start,
                    next: start,
                    last_timestamp: None,
                    stopped: false,
                    uncounted: (0, 0),
                    metrics: metrics.partition(&tp),
                    tp,
                };
                (partition.tp.partition, partition)
            })
            .collect();
        Ok(Self {
            settings,
            table,
            rows,
            writer: None,
            writers_made: 0,
            partitions,
            counts: RowCounts::default(),
            bytes: 0,
            records: 0,
            batch_since: None,
            shown_buffered: 0,
            progress,
            metrics,
        })
    }

    /// Runs until the command channel closes, then deletes the files of the open epoch.
    pub fn run(
        mut self,
        mut queue: ShardQueue,
        commands: &Receiver<Command>,
        out: &Sender<Report>,
    ) {
        loop {
            match self.turn(&mut queue, commands, out) {
                Ok(true) => {}
                Ok(false) => break,
                Err(failure) => {
                    self.abandon();
                    // Nobody listening means the run is over already.
                    out.blocking_send(Report::Failed(failure)).ok();
                    return;
                }
            }
        }
        self.abandon();
    }

    /// One turn: a command if there is one, else a batch of records. False: the run is over.
    fn turn(
        &mut self,
        queue: &mut ShardQueue,
        commands: &Receiver<Command>,
        out: &Sender<Report>,
    ) -> Result<bool, Failure> {
        match commands.try_recv() {
            Ok(command) => return self.obey(command, out),
            Err(TryRecvError::Disconnected) => return Ok(false),
            Err(TryRecvError::Empty) => {}
        }
        if self.must_hold() {
            return match commands.recv_timeout(IDLE_WAIT) {
                Ok(command) => self.obey(command, out),
                Err(RecvTimeoutError::Timeout) => Ok(true),
                Err(RecvTimeoutError::Disconnected) => Ok(false),
            };
        }
        let mut failed = None;
        let mut bad = None;
        let mut moved = 0;
        let (bytes, records) = (self.bytes, self.records);
        queue.poll(IDLE_WAIT, |polled| match self.take(polled) {
            Ok(None) => {
                moved += 1;
                true
            }
            Ok(Some(record)) => {
                bad = Some(record);
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
        self.publish(moved, self.bytes - bytes, self.records - records);
        if let Some(record) = bad {
            out.blocking_send(Report::Bad(record)).ok();
        }
        if self.batch_since.is_some_and(|since| since.elapsed() >= self.settings.batch_timeout) {
            self.flush()?;
        }
        Ok(true)
    }

    /// May the open epoch not grow any more? Its size is bounded while the last one is committed.
    fn must_hold(&self) -> bool {
        self.progress.hold.load(Ordering::Relaxed)
            && self.progress.epoch_bytes.load(Ordering::Relaxed) >= self.settings.max_epoch_bytes
    }

    fn obey(&mut self, command: Command, out: &Sender<Report>) -> Result<bool, Failure> {
        let Command::Seal { epoch, next } = command;
        let sealed = self.seal()?;
        crate::crash::point("seal.files-closed");
        if !self.table.same_shape(&next) {
            let topic = self.partitions.values().next().map(|p| p.tp.topic.clone());
            self.rows =
                RowBuilder::new(&next.metadata, &next.name, topic.as_deref().unwrap_or_default())?;
        }
        self.table = next;
        Ok(out.blocking_send(Report::Sealed(epoch, Box::new(sealed))).is_ok())
    }

    /// Takes one message. I7: whatever becomes of a record, its partition moves on, except at a
    /// bad record under `fail`, where it stops.
    fn take(&mut self, polled: Polled<'_>) -> Result<Option<BadRecord>, Failure> {
        match polled {
            Polled::Record(record) => self.record(&record),
            Polled::End { partition, offset } => {
                if let Some(p) = self.partitions.get_mut(&partition)
                    && !p.stopped
                    && offset > p.next
                {
                    p.next = offset;
                }
                Ok(None)
            }
            Polled::Failed(error) => Err(error.into()),
        }
    }

    fn record(&mut self, record: &Record<'_>) -> Result<Option<BadRecord>, Failure> {
        let Some(p) = self.partitions.get(&record.partition) else {
            return Err(Failure::Internal(format!(
                "a record of partition {} reached a shard that does not own it",
                record.partition
            )));
        };
        // Below the position: cannot happen after a start at the ledger, and would be a repeat.
        if p.stopped || record.offset < p.next {
            return Ok(None);
        }
        match record.payload {
            None => {
                self.counts.tombstones += 1;
                self.metrics.add_tombstones(1);
            }
            Some(payload) => {
                self.bytes += payload.len() as u64;
                if let Err(error) = self.append(record, payload)? {
                    if let Some(bad) = self.bad(record, error) {
                        return Ok(Some(bad));
                    }
                } else {
                    self.counts.written += 1;
                    self.batch_since.get_or_insert_with(Instant::now);
                }
            }
        }
        self.advance(record);
        if self.rows.rows() >= self.settings.batch_rows
            || self.rows.buffered_bytes() >= self.settings.batch_bytes
        {
            self.flush()?;
        }
        Ok(None)
    }

    /// Appends a payload as a row. A batch that is full is not the record's fault: it is flushed,
    /// and the record begins the next one.
    fn append(
        &mut self,
        record: &Record<'_>,
        payload: &[u8],
    ) -> Result<Result<(), RecordError>, Failure> {
        if !self.rows.has_room_for(payload.len()) {
            self.flush()?;
        }
        match self.rows.push(record, payload) {
            Err(error) if error.reason == Reason::BatchFull && self.rows.rows() > 0 => {
                self.flush()?;
                Ok(self.rows.push(record, payload))
            }
            pushed => Ok(pushed),
        }
    }

    /// Counts a bad record as skipped, or stops its partition before it.
    fn bad(&mut self, record: &Record<'_>, error: RecordError) -> Option<BadRecord> {
        self.metrics.add_bad_records(error.reason.label(), 1);
        let p = self.partitions.get_mut(&record.partition)?;
        match self.settings.bad_records {
            BadRecords::Fail => {
                p.stopped = true;
                Some(BadRecord { partition: p.tp.clone(), offset: record.offset, error })
            }
            BadRecords::Skip => {
                self.counts.skipped += 1;
                tracing::debug!(partition = %p.tp, offset = record.offset, %error, "skipped");
                None
            }
        }
    }

    /// I7: the record is dealt with, its partition moves on.
    fn advance(&mut self, record: &Record<'_>) {
        self.records += 1;
        let Some(p) = self.partitions.get_mut(&record.partition) else { return };
        p.next = record.offset + 1;
        p.last_timestamp = record.timestamp_ms.or(p.last_timestamp);
        p.uncounted.0 += 1;
        p.uncounted.1 += record.payload.map_or(0, |payload| payload.len() as u64);
    }

    /// Makes the work of one batch visible to the coordinator.
    fn publish(&mut self, moved: u64, bytes: u64, records: u64) {
        if moved == 0 && bytes == 0 {
            return;
        }
        self.progress.epoch_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.epoch_records.fetch_add(records, Ordering::Relaxed);
        for p in self.partitions.values_mut() {
            if p.uncounted.0 > 0 {
                let (records, bytes) = std::mem::take(&mut p.uncounted);
                p.metrics.add_consumed(records, bytes);
            }
            if let Some(position) = self.progress.positions.get(&p.tp) {
                position.store(p.next, Ordering::Relaxed);
            }
        }
        self.progress.moves.fetch_add(moved, Ordering::Release);
        let unknown = self.rows.take_unknown_fields();
        if unknown > 0 {
            self.metrics.add_unknown_fields(unknown);
        }
        self.show_buffered();
    }

    /// Adds what this shard holds in memory to the gauge, and takes back what it added before.
    fn show_buffered(&mut self) {
        let written = self.writer.as_ref().map_or(0, TableWriter::buffered_bytes);
        let held = self.rows.buffered_bytes() as u64 + written;
        let held = i64::try_from(held).unwrap_or(i64::MAX);
        self.metrics.buffered_bytes().add(held - self.shown_buffered);
        self.shown_buffered = held;
    }

    /// Hands the open batch to the writer.
    fn flush(&mut self) -> Result<(), Failure> {
        self.batch_since = None;
        if self.rows.rows() == 0 {
            return Ok(());
        }
        let batch = self.rows.take()?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => {
                self.writers_made += 1;
                let prefix = format!("{}-{:05}", self.settings.file_prefix, self.writers_made);
                let settings = WriteSettings {
                    target_file_size: self.settings.target_file_size,
                    max_buffered_bytes: self.settings.max_buffered_bytes,
                    ..WriteSettings::new(prefix)
                };
                empty.insert(TableWriter::new(
                    self.table.metadata.clone(),
                    self.table.io.clone(),
                    settings,
                    self.settings.runtime.clone(),
                )?)
            }
        };
        writer.write(&batch)?;
        Ok(())
    }

    /// Ends the epoch: files closed and durable, visible to nobody.
    fn seal(&mut self) -> Result<Sealed, Failure> {
        self.flush()?;
        let files = match self.writer.take() {
            Some(writer) => writer.close()?,
            None => Vec::new(),
        };
        let mut sealed = Sealed {
            files,
            rows: std::mem::take(&mut self.counts),
            bytes: std::mem::take(&mut self.bytes),
            ..Sealed::default()
        };
        let records = std::mem::take(&mut self.records);
        self.progress.epoch_bytes.fetch_sub(sealed.bytes, Ordering::Relaxed);
        self.progress.epoch_records.fetch_sub(records, Ordering::Relaxed);
        for p in self.partitions.values_mut() {
            let begins = p.ledger.is_none() && self.settings.record_start;
            if p.next == p.start && !begins {
                continue;
            }
            if let Some(ledger) = p.ledger {
                sealed.from.insert(p.tp.clone(), ledger);
            }
            sealed.ranges.insert(p.tp.clone(), OffsetRange { start: p.start, end: p.next });
            if let Some(timestamp) = p.last_timestamp {
                sealed.last_timestamps.insert(p.tp.clone(), timestamp);
            }
            p.ledger = Some(p.next);
            p.start = p.next;
        }
        self.show_buffered();
        Ok(sealed)
    }

    /// Deletes the files of the open epoch: they were never part of a checkpoint.
    fn abandon(&mut self) {
        self.metrics.buffered_bytes().sub(std::mem::take(&mut self.shown_buffered));
        let Some(writer) = self.writer.take() else { return };
        for error in writer.abort() {
            tracing::warn!(error = %chain(&error), "a file of an abandoned epoch stays behind as an orphan");
        }
    }
}
