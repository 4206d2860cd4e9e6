//! Records out of the batches of one partition's part of an answer.

use super::batch::{self, Batch, BatchError, Codec};
use super::codec::{Unpacked, Unpacker};
use super::wire::Aborted;
use crate::protocol::Offset;
use crate::source::Record;

/// What is read: one partition's part of an answer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: i32,
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
    /// Producers in the middle of an aborted transaction.
    aborting: Vec<i64>,
    open: Open,
    unpacker: Unpacker,
    unpacked: Unpacked,
}

/// The batch that is being read.
#[derive(Default)]
struct Open {
    /// Records that are left of it.
    left: u32,
    packed: bool,
    /// Next byte of its records.
    at: usize,
    end: usize,
    base: Offset,
    last: Offset,
    timestamp: i64,
    append_time: Option<i64>,
}

impl Reader {
    /// Begins a part. What was left of the one before is dropped.
    pub(super) fn begin(&mut self, mut part: Part) {
        part.aborted.sort_unstable_by_key(|each| std::cmp::Reverse(each.first));
        self.position = part.from;
        self.part = Some(part);
        self.at = 0;
        self.aborting.clear();
        self.open = Open::default();
    }

    /// The next offset to read: everything below it was handed over, or is a transaction marker,
    /// or belongs to an aborted transaction, or was compacted away.
    pub(super) fn position(&self) -> Offset {
        self.position
    }

    /// Hands over up to `most` records of the part, whose bytes are `data`, and adds them to
    /// `count`. `take` returns false to stop.
    pub(super) fn read(
        &mut self,
        data: &[u8],
        most: usize,
        count: &mut usize,
        take: &mut impl FnMut(Record<'_>) -> bool,
    ) -> Result<Progress, BatchError> {
        loop {
            if self.open.left > 0 {
                match self.records(data, most, count, take)? {
                    Progress::End => self.position = self.open.last + 1,
                    other => return Ok(other),
                }
            }
            let Some(part) = &mut self.part else { return Ok(Progress::End) };
            let Some((batch, rest)) = batch::split(&data[self.at..])? else {
                self.part = None;
                return Ok(Progress::End);
            };
            let start = data.len() - rest.len() - batch.records.len();
            self.at = data.len() - rest.len();
            batch.verify()?;
            if batch.last < part.from || !visible(&batch, part, &mut self.aborting)? {
                self.position = self.position.max(batch.last + 1);
                continue;
            }
            self.open(&batch, start)?;
            if self.open.left == 0 {
                self.position = self.position.max(batch.last + 1);
            }
        }
    }

    fn open(&mut self, batch: &Batch<'_>, start: usize) -> Result<(), BatchError> {
        let packed = batch.codec != Codec::None;
        let (at, end) = match packed {
            false => (start, start + batch.records.len()),
            true => {
                self.unpacker.unpack(batch.codec, batch.records, &mut self.unpacked)?;
                (0, self.unpacked.bytes().len())
            }
        };
        self.open = Open {
            left: batch.count,
            packed,
            at,
            end,
            base: batch.base,
            last: batch.last,
            timestamp: batch.timestamp,
            append_time: batch.append_time,
        };
        Ok(())
    }

    /// Hands over records of the open batch.
    fn records(
        &mut self,
        data: &[u8],
        most: usize,
        count: &mut usize,
        take: &mut impl FnMut(Record<'_>) -> bool,
    ) -> Result<Progress, BatchError> {
        let Some(part) = &self.part else { return Ok(Progress::End) };
        let open = &mut self.open;
        let bytes = match open.packed {
            true => self.unpacked.bytes(),
            false => &data[..open.end],
        };
        while open.left > 0 {
            if *count >= most {
                return Ok(Progress::More);
            }
            let raw = batch::record(bytes, &mut open.at)?;
            open.left -= 1;
            let offset = open.base + i64::from(raw.offset_delta);
            if raw.offset_delta < 0 || offset > open.last {
                return Err(BatchError::Malformed("a record outside of its batch's offsets"));
            }
            if offset < part.from {
                continue;
            }
            if offset < self.position {
                return Err(BatchError::Malformed("offsets that do not rise"));
            }
            let time = open.append_time.unwrap_or(open.timestamp.wrapping_add(raw.timestamp_delta));
            let record = Record {
                partition: part.partition,
                offset,
                timestamp_ms: (time >= 0).then_some(time),
                payload: raw.value,
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
    let marker = batch::record(batch.records, &mut 0)?;
    let key = marker.key.ok_or(BatchError::Malformed("a transaction marker without key"))?;
    match key {
        [_, _, 0, 0, ..] => Ok(true),
        [_, _, _, _, ..] => Ok(false),
        _ => Err(BatchError::Malformed("a transaction marker that is too short")),
    }
}
