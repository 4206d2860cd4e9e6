//! Records out of the batches of one partition's part of an answer.

use super::batch::{self, Batch, BatchError, Codec};
use super::codec::{Unpacked, Unpacker};
use super::wire::Aborted;
use crate::protocol::Offset;
use crate::source::{Headers, PartitionId, Record};

/// What is read: one partition's part of an answer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: PartitionId,
    /// The offset that was asked for; records below it come along with the first batch.
    pub(super) from: Offset,
    /// Transactions to leave out, by their first offset.
    pub(super) aborted: Vec<Aborted>,
}

/// How far a reader came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more.
    More,
    /// All was handed over.
    End,
    /// The taker had enough.
    Stopped,
}

/// Reads one part after the other, in pieces.
#[derive(Default)]
pub(super) struct Reader {
    part: Option<Part>,
    /// Next byte of the part.
    at: usize,
    /// The next offset that a reader of the partition has to read.
    position: Offset,
    /// Behind the last batch that was begun: the next one begins there or later.
    behind: Offset,
    /// Behind the batch that was looked at last, as it says itself.
    said: Option<Offset>,
    /// Producers in the middle of an aborted transaction.
    aborting: Vec<i64>,
    open: Option<Open>,
    unpacker: Unpacker,
    unpacked: Unpacked,
}

/// The batch that is being read.
struct Open {
    /// Records that are left of it.
    left: u32,
    packed: bool,
    /// Next byte of its records.
    at: usize,
    end: usize,
    base: Offset,
    last: Offset,
    /// What the next record's offset is at least, by how much it is above `base`.
    next_delta: i32,
    timestamp: i64,
    append_time: Option<i64>,
}

impl Reader {
    /// One whose batches may unpack to fewer than so many bytes.
    pub(super) fn of_batches_below(bytes: usize) -> Self {
        Self { unpacked: Unpacked::of_at_most(bytes), ..Self::default() }
    }

    /// Begins a part. What was left of the one before is dropped.
    pub(super) fn begin(&mut self, mut part: Part) {
        part.aborted.sort_unstable_by_key(|each| std::cmp::Reverse(each.first));
        self.position = part.from;
        self.part = Some(part);
        self.at = 0;
        self.behind = 0;
        self.said = None;
        self.aborting.clear();
        self.open = None;
    }

    /// The next offset to read: everything below it was handed over, or is a transaction marker,
    /// or belongs to an aborted transaction, or was compacted away.
    pub(super) fn position(&self) -> Offset {
        self.position
    }

    /// Behind the batch that cannot be read, if its header tells.
    pub(super) fn end_of_batch(&self) -> Option<Offset> {
        self.said
    }

    /// Hands over up to `most` records of the part, whose bytes are `data`, and adds them to
    /// `count`. `take` returns false to stop. After an error, all further calls end in it.
    pub(super) fn read(
        &mut self,
        data: &[u8],
        most: usize,
        count: &mut usize,
        take: &mut impl FnMut(Record<'_>) -> bool,
    ) -> Result<Progress, BatchError> {
        loop {
            match self.records(data, most, count, take)? {
                Progress::End => {}
                other => return Ok(other),
            }
            let Some(part) = &mut self.part else { return Ok(Progress::End) };
            self.said = None;
            let Some((batch, rest)) = batch::split(&data[self.at..])? else {
                self.part = None;
                return Ok(Progress::End);
            };
            self.said = Some(batch.last + 1);
            batch.verify()?;
            if batch.base < self.behind {
                return Err(BatchError::Malformed("batches whose offsets do not rise"));
            }
            // Markers count also in batches that lie before what was asked for.
            let visible = visible(&batch, part, &mut self.aborting)?;
            let end = data.len() - rest.len();
            match visible && batch.last >= part.from {
                true => self.open(&batch, end)?,
                false => self.position = self.position.max(batch.last + 1),
            }
            self.at = end;
            self.behind = batch.last + 1;
        }
    }

    /// Makes ready to hand over a batch that ends at byte `end` of the part.
    fn open(&mut self, batch: &Batch<'_>, end: usize) -> Result<(), BatchError> {
        // One that compaction emptied has nothing to unpack.
        let packed = batch.codec != Codec::None && !batch.records.is_empty();
        let (at, end) = match packed {
            false => (end - batch.records.len(), end),
            true => {
                self.unpacker.unpack(batch.codec, batch.records, &mut self.unpacked)?;
                (0, self.unpacked.bytes().len())
            }
        };
        self.open = Some(Open {
            left: batch.count,
            packed,
            at,
            end,
            base: batch.base,
            last: batch.last,
            next_delta: 0,
            timestamp: batch.timestamp,
            append_time: batch.append_time,
        });
        Ok(())
    }

    /// Hands over records of the open batch, if there is one, and closes it at its end.
    fn records(
        &mut self,
        data: &[u8],
        most: usize,
        count: &mut usize,
        take: &mut impl FnMut(Record<'_>) -> bool,
    ) -> Result<Progress, BatchError> {
        let (Some(part), Some(open)) = (&self.part, &mut self.open) else {
            return Ok(Progress::End);
        };
        let bytes = match open.packed {
            true => self.unpacked.bytes(),
            false => &data[..open.end],
        };
        while open.left > 0 {
            if *count >= most {
                return Ok(Progress::More);
            }
            let mut at = open.at;
            let raw = batch::record(bytes, &mut at)?;
            if raw.offset_delta < open.next_delta {
                return Err(BatchError::Malformed("offsets that do not rise"));
            }
            // The difference is not above an i32: both come from it.
            if i64::from(raw.offset_delta) > open.last - open.base {
                return Err(BatchError::Malformed("a record outside of its batch's offsets"));
            }
            (open.at, open.left) = (at, open.left - 1);
            open.next_delta = raw.offset_delta.saturating_add(1);
            let offset = open.base + i64::from(raw.offset_delta);
            if offset < part.from {
                continue;
            }
            let time = open.append_time.unwrap_or(open.timestamp.wrapping_add(raw.timestamp_delta));
            let record = Record {
                topic: part.partition.topic,
                partition: part.partition.partition,
                offset,
                timestamp_ms: (time >= 0).then_some(time),
                key: raw.key,
                value: raw.value,
                headers: Headers::of_batch(raw.headers),
            };
            *count += 1;
            if !take(record) {
                return Ok(Progress::Stopped);
            }
            self.position = offset + 1;
        }
        if open.at != open.end {
            return Err(BatchError::Malformed("bytes behind its last record"));
        }
        self.position = open.last + 1;
        self.open = None;
        Ok(Progress::End)
    }
}

/// Does a committed reader see the records of this batch? Follows the transactions of `part`
/// in the way of Kafka's own consumer: a producer's aborted transaction begins at the first
/// offset that the broker told and ends with the marker.
fn visible(
    batch: &Batch<'_>,
    part: &mut Part,
    aborting: &mut Vec<i64>,
) -> Result<bool, BatchError> {
    while part.aborted.last().is_some_and(|next| next.first <= batch.last) {
        if let Some(begun) = part.aborted.pop() {
            aborting.push(begun.producer);
        }
    }
    if batch.control {
        if is_abort(batch)? {
            aborting.retain(|producer| *producer != batch.producer);
        }
        return Ok(false);
    }
    Ok(!(batch.transactional && aborting.contains(&batch.producer)))
}

/// Is a batch of a marker one of an aborted transaction? Its key is a version and a kind, two
/// bytes each; markers are never compressed. Compaction may have left the batch without it.
fn is_abort(batch: &Batch<'_>) -> Result<bool, BatchError> {
    if batch.count == 0 {
        return Ok(false);
    }
    if batch.codec != Codec::None {
        return Err(BatchError::Malformed("a transaction marker that is compressed"));
    }
    let marker = batch::record(batch.records, &mut 0)?;
    let key = marker.key.ok_or(BatchError::Malformed("a transaction marker without key"))?;
    match key {
        [_, _, 0, 0, ..] => Ok(true),
        [_, _, _, _, ..] => Ok(false),
        _ => Err(BatchError::Malformed("a transaction marker that is too short")),
    }
}
