//! Record batches, as they lie in the log and come in answers (format version 2, Kafka 0.11).
//!
//! Layout: Kafka's documentation, "Record Batch". A batch's header is plain, its records may be
//! compressed as a whole.

use crate::protocol::Offset;
use crate::source::{Header, HeadersError};

const LENGTH_END: usize = 12;
const HEADER: usize = 61;
const CRC_START: usize = 21;

/// Why a batch cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BatchError {
    /// Written before Kafka 0.11, or a version that is not known yet.
    #[error(
        "its records are in format version {0}, and version 2 (Kafka 0.11 and later) is read; have a client \
         of today copy the topic, and read the copy"
    )]
    Format(i8),
    /// The bytes are not those that were written.
    #[error("the checksum of its record batch does not fit: the log or the network damaged it")]
    Checksum,
    /// It does not have the shape of a batch.
    #[error("its record batch is malformed: {0}")]
    Malformed(&'static str),
    /// It is larger than memory allows.
    #[error(
        "its record batch unpacks to {most} bytes or more, and MEMORY_LIMIT_MB leaves less than that for one"
    )]
    Large {
        /// The bound.
        most: usize,
    },
    /// It cannot be unpacked.
    #[error("its record batch cannot be unpacked: {0}")]
    Packed(String),
}

/// How records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// A batch's header.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) base: Offset,
    /// Offset of the last record that it had when it was written: compaction may have removed it.
    pub(super) last: Offset,
    pub(super) leader_epoch: i32,
    pub(super) producer: i64,
    pub(super) transactional: bool,
    /// Its one record is a transaction marker.
    pub(super) control: bool,
    pub(super) codec: Codec,
    /// Milliseconds to which the records' own are relative.
    pub(super) timestamp: i64,
    /// The broker's time of its arrival, if the topic has that of all its records.
    pub(super) append_time: Option<i64>,
    pub(super) count: u32,
    /// Its records, packed as they are.
    pub(super) records: &'a [u8],
    whole: &'a [u8],
}

/// The first batch of `data` and what follows it; `None` if it is not there to its end.
pub(super) fn split(data: &[u8]) -> Result<Option<(Batch<'_>, &[u8])>, BatchError> {
    let Some(length) = data.get(8..LENGTH_END) else { return Ok(None) };
    let length =
        usize::try_from(i32_of(length)).map_err(|_| BatchError::Malformed("a negative length"))?;
    let Some((whole, rest)) = data.split_at_checked(LENGTH_END + length) else { return Ok(None) };
    let magic = whole.get(16).ok_or(BatchError::Malformed("it is shorter than its header"))?;
    if *magic != 2 {
        return Err(BatchError::Format(i8::from_be_bytes([*magic])));
    }
    let header =
        whole.get(..HEADER).ok_or(BatchError::Malformed("it is shorter than its header"))?;
    let base = i64_of(&header[..8]);
    let delta = i32_of(&header[23..27]);
    if base < 0 || delta < 0 {
        return Err(BatchError::Malformed("negative offsets"));
    }
    let attributes = i16::from_be_bytes([header[21], header[22]]);
    let batch = Batch {
        base,
        last: base
            .checked_add(i64::from(delta))
            // Its successor is an offset, too.
            .filter(|last| *last < Offset::MAX)
            .ok_or(BatchError::Malformed("offsets beyond the last one"))?,
        leader_epoch: i32_of(&header[12..16]),
        producer: i64_of(&header[43..51]),
        transactional: attributes & 0x10 != 0,
        control: attributes & 0x20 != 0,
        codec: codec(attributes)?,
        timestamp: i64_of(&header[27..35]),
        append_time: (attributes & 8 != 0).then(|| i64_of(&header[35..43])),
        count: u32::try_from(i32_of(&header[57..61]))
            .map_err(|_| BatchError::Malformed("a negative number of records"))?,
        records: &whole[HEADER..],
        whole,
    };
    Ok(Some((batch, rest)))
}

/// What a reader knows after all whole batches of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The offset to ask for next.
    pub(super) next: Offset,
    /// Leader epoch of the last batch.
    pub(super) epoch: i32,
    /// Bytes of the whole batches.
    pub(super) bytes: usize,
}

/// How far the whole batches of an answer go; `None` if there is none. One that cannot be read ends
/// them as one that is not whole: the next answer begins with it, and is an error.
pub(super) fn extent(data: &[u8]) -> Result<Option<Extent>, BatchError> {
    let (mut rest, mut extent) = (data, None);
    loop {
        let (batch, after) = match split(rest) {
            Ok(Some(split)) => split,
            Err(error) if extent.is_none() => return Err(error),
            Ok(None) | Err(_) => return Ok(extent),
        };
        rest = after;
        extent = Some(Extent {
            next: batch.last + 1,
            epoch: batch.leader_epoch,
            bytes: data.len() - rest.len(),
        });
    }
}

impl Batch<'_> {
    /// Are the bytes those that were written?
    pub(super) fn verify(&self) -> Result<(), BatchError> {
        let stored =
            u32::from_be_bytes([self.whole[17], self.whole[18], self.whole[19], self.whole[20]]);
        match crc32c::crc32c(&self.whole[CRC_START..]) == stored {
            true => Ok(()),
            false => Err(BatchError::Checksum),
        }
    }
}

fn codec(attributes: i16) -> Result<Codec, BatchError> {
    match attributes & 7 {
        0 => Ok(Codec::None),
        1 => Ok(Codec::Gzip),
        2 => Ok(Codec::Snappy),
        3 => Ok(Codec::Lz4),
        4 => Ok(Codec::Zstd),
        _ => Err(BatchError::Malformed("a compression that is not known")),
    }
}

/// A record of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    /// Its headers, from their number on, see [`BatchHeaders`].
    pub(super) headers: &'a [u8],
}

/// The record of unpacked `data` at `at`, which is moved behind it. Headers are not looked at.
// Always: left to itself, the compiler does so in one build and not in the next.
#[inline(always)]
pub(super) fn record<'a>(data: &'a [u8], at: &mut usize) -> Result<Raw<'a>, BatchError> {
    const SHORT: BatchError = BatchError::Malformed("a record beyond its end");
    let length = usize::try_from(varint(data, at)?).map_err(|_| SHORT)?;
    let end = at.checked_add(length).ok_or(SHORT)?;
    let body = data.get(..end).ok_or(SHORT)?;
    // Attributes: none are in use.
    *at += 1;
    let timestamp_delta = varlong(body, at)?;
    let offset_delta = varint(body, at)?;
    let key = bytes(body, at)?;
    let value = bytes(body, at)?;
    let headers = body.get(*at..).ok_or(SHORT)?;
    *at = end;
    Ok(Raw { timestamp_delta, offset_delta, key, value, headers })
}

/// The headers of a record, one after the other. After an error there are no more.
pub(in crate::source) struct BatchHeaders<'a> {
    /// Empty when there are no more.
    data: &'a [u8],
    at: usize,
    /// How many are left; none before their number was read.
    left: Option<u32>,
}

impl<'a> BatchHeaders<'a> {
    pub(in crate::source) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, left: None }
    }

    fn read(&mut self) -> Result<Option<Header<'a>>, BatchError> {
        if self.data.is_empty() {
            return Ok(None);
        }
        let left = match self.left {
            Some(left) => left,
            None => u32::try_from(varint(self.data, &mut self.at)?)
                .map_err(|_| BatchError::Malformed("a negative number of headers"))?,
        };
        let Some(left) = left.checked_sub(1) else {
            return match self.at == self.data.len() {
                true => Ok(None),
                false => Err(BatchError::Malformed("bytes behind the last header of a record")),
            };
        };
        self.left = Some(left);
        let name = bytes(self.data, &mut self.at)?;
        let name = name.ok_or(BatchError::Malformed("a header without a name"))?;
        Ok(Some((name, bytes(self.data, &mut self.at)?)))
    }
}

impl<'a> Iterator for BatchHeaders<'a> {
    type Item = Result<Header<'a>, HeadersError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if !matches!(read, Ok(Some(_))) {
            self.data = &[];
        }
        read.map_err(|error| HeadersError(error.to_string())).transpose()
    }
}

#[inline(always)]
fn bytes<'a>(data: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, BatchError> {
    let Ok(length) = usize::try_from(varint(data, at)?) else { return Ok(None) };
    let end = at.checked_add(length);
    let slice = end.and_then(|end| data.get(*at..end));
    let slice = slice.ok_or(BatchError::Malformed("a field beyond the end of its record"))?;
    *at += length;
    Ok(Some(slice))
}

#[inline]
fn varint(data: &[u8], at: &mut usize) -> Result<i32, BatchError> {
    // Most are of one byte, those of values of two.
    let wide = varlong(data, at)?;
    i32::try_from(wide).map_err(|_| BatchError::Malformed("a number out of range"))
}

#[inline]
fn varlong(data: &[u8], at: &mut usize) -> Result<i64, BatchError> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = *data.get(*at).ok_or(BatchError::Malformed("a number beyond its end"))?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
        shift += 7;
        if shift > 63 {
            return Err(BatchError::Malformed("a number without end"));
        }
    }
}

fn i32_of(bytes: &[u8]) -> i32 {
    bytes.iter().fold(0, |value, byte| value << 8 | i32::from(*byte))
}

fn i64_of(bytes: &[u8]) -> i64 {
    bytes.iter().fold(0, |value, byte| value << 8 | i64::from(*byte))
}
