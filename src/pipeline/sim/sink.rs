//! What a shard reads from and writes to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kafka::{Kind, index};
use super::lake::{Meta, is_bad};
use super::port::Port;
use crate::decode::{Pushed, Reason, RecordError};
use crate::failure::Failure;
use crate::pipeline::seams::{Closing, Omitted, Queue, Sink, now};
use crate::protocol::{Offset, PendingFile};
use crate::source::{Headers, PartitionId, Polled, Record, SourceError, TopicIndex};
use crate::table::TableError;

/// How long files may take to be durable.
const CLOSING: Duration = Duration::from_millis(60);
const GOOD: &[u8] = b"good";
const BAD: &[u8] = b"bad";

/// One message of a batch.
enum Message {
    Record(i32, Offset, Kind),
    Failed(i32),
}

/// A shard's share of the log.
pub(super) struct SimQueue {
    pub port: Port,
    pub shard: usize,
}

impl SimQueue {
    fn batch(&self) -> Vec<Message> {
        let mut guard = self.port.sim.lock();
        let state = &mut *guard;
        let mut batch = Vec::new();
        let most = state.rng.usize(1..=state.plan.batch);
        let fails = state.fault(state.plan.kafka_errors / 4);
        let Some(client) = state.clients.get_mut(&self.port.client) else { return batch };
        let shard = self.shard;
        let (mine, others) = client.stale.drain(..).partition(|stale| stale.0 == shard);
        client.stale = others;
        for (_, partition, offset) in mine {
            let log = &state.log.partitions[index(partition)];
            let kind = log.range(offset, offset + 1).first().map(|(_, kind)| *kind);
            batch.extend(kind.map(|kind| Message::Record(partition, offset, kind)));
        }
        let mut fails = fails;
        for (partition, fetch) in client.fetches.iter_mut().filter(|(_, f)| f.shard == shard) {
            if std::mem::take(&mut fails) {
                batch.push(Message::Failed(*partition));
                // As librdkafka does, the client goes on behind what it cannot read.
                let log = &state.log.partitions[index(*partition)];
                fetch.next = log.end.min(fetch.next + 3).max(fetch.next);
            }
            let log = &state.log.partitions[index(*partition)];
            let ready = log.range(fetch.next, log.end);
            for (offset, kind) in ready.iter().take(most) {
                batch.push(Message::Record(*partition, *offset, *kind));
                fetch.next = offset + 1;
            }
            if ready.len() <= most {
                // Holes at the end are passed as if their markers had been handed over.
                fetch.next = fetch.next.max(log.end);
            }
        }
        batch
    }
}

impl Queue for SimQueue {
    fn poll(&mut self, _wait: Duration, mut take: impl FnMut(Polled<'_>) -> bool) -> usize {
        if self.port.life.is_dead() {
            return 0;
        }
        let batch = self.batch();
        let count = batch.len();
        for message in batch {
            let polled = match message {
                Message::Record(partition, offset, kind) => Polled::Record(Record {
                    topic: TopicIndex::default(),
                    partition,
                    offset,
                    timestamp_ms: Some(offset),
                    key: None,
                    headers: Headers::NONE,
                    value: match kind {
                        Kind::Good => Some(GOOD),
                        Kind::Bad => Some(BAD),
                        Kind::Tombstone => None,
                    },
                }),
                Message::Failed(partition) => Polled::Failed {
                    partition: PartitionId { topic: TopicIndex::default(), partition },
                    error: SourceError::Unreadable {
                        partition: super::state::tp(partition),
                        offset: 0,
                        next: None,
                        detail: String::from("simulated"),
                    },
                },
            };
            if !take(polled) {
                break;
            }
        }
        count
    }

    fn has_some(&mut self, _wait: Duration) -> bool {
        let state = self.port.sim.lock();
        let Some(client) = state.clients.get(&self.port.client) else { return false };
        let mut fetches = client.fetches.iter().filter(|(_, fetch)| fetch.shard == self.shard);
        client.stale.iter().any(|(shard, ..)| *shard == self.shard)
            // Holes at the end count, too: what no reader may see comes as well.
            || fetches.any(|(partition, fetch)| {
                fetch.next < state.log.partitions[index(*partition)].end
            })
    }

    fn positions(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Vec<(PartitionId, Offset)> {
        let state = self.port.sim.lock();
        let Some(client) = state.clients.get(&self.port.client) else { return Vec::new() };
        let moved = |id: PartitionId| {
            client.fetches.get(&id.partition).filter(|fetch| fetch.next > fetch.start)
        };
        partitions.filter_map(|id| Some((id, moved(id)?.next))).collect()
    }
}

/// Writes data files of a few rows.
pub(super) struct SimSink {
    port: Port,
    shard: usize,
    /// Which table it writes to, as it was read.
    meta: Arc<Meta>,
    /// Did it get anything of the open epoch?
    touched: bool,
    rows: Vec<(i32, Offset)>,
    files: Vec<PendingFile>,
}

impl SimSink {
    pub(crate) fn new(port: Port, shard: usize, meta: Arc<Meta>) -> Self {
        Self { port, shard, meta, touched: false, rows: Vec::new(), files: Vec::new() }
    }

    fn write(&mut self) -> Result<(), Failure> {
        if !self.port.life.step(&self.port.sim, "write a file") {
            return Err(Failure::Internal(String::from("dead")));
        }
        let mut state = self.port.sim.lock();
        let rate = state.plan.store_errors;
        if state.fault(rate) {
            return Err(Failure::Table(TableError::Storage {
                doing: "write",
                path: format!("of shard {}", self.shard),
                source: "simulated".into(),
            }));
        }
        let rows = std::mem::take(&mut self.rows);
        let records = rows.len() as u64;
        let path = state.write_file(self.meta.at, self.meta.version(), rows);
        self.files.push(PendingFile {
            path,
            data_file: String::new(),
            schema_id: 0,
            spec_id: 0,
            records,
            bytes: 10 * records,
        });
        Ok(())
    }
}

/// Files that are durable after a while.
pub(super) struct SimClosing {
    port: Port,
    files: Vec<PendingFile>,
    over: Instant,
}

impl Closing for SimClosing {
    fn is_over(&self) -> bool {
        now() >= self.over
    }

    fn held_bytes(&self) -> u64 {
        0
    }

    fn wait(self) -> Result<Vec<PendingFile>, Failure> {
        match self.port.life.step(&self.port.sim, "closed files") {
            true => Ok(self.files),
            false => Err(Failure::Internal(String::from("dead"))),
        }
    }
}

impl Sink for SimSink {
    type Table = Arc<Meta>;
    type Closing = SimClosing;

    fn push(&mut self, record: &Record<'_>, payload: &[u8]) -> Result<Pushed, Failure> {
        if !std::mem::replace(&mut self.touched, true) {
            self.port.sim.lock().check_reading(&self.meta);
        }
        let bad_here = is_bad(self.meta.at, Kind::Good, record.offset);
        if payload == BAD || bad_here {
            let (path, detail) = (String::new(), String::from("simulated"));
            return Ok(Pushed::Bad(RecordError { reason: Reason::NotJson, path, detail }));
        }
        self.rows.push((record.partition, record.offset));
        let roll = self.port.sim.lock().plan.roll;
        if self.rows.len() >= roll {
            self.write()?;
        }
        Ok(Pushed::Row)
    }

    fn tick(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn buffered_bytes(&self) -> u64 {
        self.rows.len() as u64
    }

    fn described_bytes(&self) -> u64 {
        (self.files.len() + usize::from(!self.rows.is_empty())) as u64
    }

    fn take_omitted(&mut self) -> Omitted {
        Omitted::default()
    }

    fn close(&mut self, next: &Arc<Arc<Meta>>) -> Result<SimClosing, Failure> {
        if !self.rows.is_empty() {
            self.write()?;
        }
        let full = self.described_bytes() >= self.port.sim.lock().most_files;
        self.port.sim.lock().met.full += usize::from(full);
        let renewed = !self.touched && self.meta.version() != next.version();
        self.port.sim.lock().met.renewals += usize::from(renewed);
        (self.meta, self.touched) = (next.as_ref().clone(), false);
        let over = now() + self.port.sim.lock().up_to(CLOSING);
        Ok(SimClosing { port: self.port.clone(), files: std::mem::take(&mut self.files), over })
    }

    fn is_full(&self, _beside: u64) -> bool {
        false
    }

    fn abandon(&mut self) {
        self.rows.clear();
        let paths: Vec<String> = self.files.drain(..).map(|file| file.path).collect();
        if self.port.life.step(&self.port.sim, "abandon") {
            self.port.sim.lock().delete_files(self.port.life.name(), &paths);
        }
    }
}
