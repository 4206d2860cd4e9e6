//! Tests of what needs no broker. Batches are written here, byte by byte, and held against those of
//! the kafka-protocol crate, which also is the other side of requests and answers.

mod batches;
mod codecs;
mod mutated;
mod transactions;
mod wire;

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::batch::BatchError;
use super::reader::{Progress, Reader};
use crate::source::{Header, HeadersError, PartitionId, Record, TopicIndex};

/// Of which all parts are that are read.
fn partition() -> PartitionId {
    PartitionId { topic: TopicIndex::default(), partition: 3 }
}

/// Bits of a batch's attributes.
const APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// How the records of a batch are packed.
#[derive(Clone, Debug)]
enum Packing {
    Plain,
    /// At this level; in one member or two.
    Gzip(u32, bool),
    Snappy,
    /// Java's frame, with blocks of so many bytes.
    Xerial(usize),
    Lz4 {
        size: usize,
        linked: bool,
        block_checksums: bool,
        content_checksum: bool,
        content_size: bool,
    },
    /// At this level; with a checksum; in one frame or two.
    Zstd(i32, bool, bool),
}

/// Block sizes of LZ4.
const SIZES: [BlockSize; 5] = [
    BlockSize::Auto,
    BlockSize::Max64KB,
    BlockSize::Max256KB,
    BlockSize::Max1MB,
    BlockSize::Max4MB,
];

impl Packing {
    /// Its number in a batch's attributes.
    fn codec(&self) -> i16 {
        match self {
            Self::Plain => 0,
            Self::Gzip(..) => 1,
            Self::Snappy | Self::Xerial(_) => 2,
            Self::Lz4 { .. } => 3,
            Self::Zstd(..) => 4,
        }
    }

    fn pack(&self, data: &[u8]) -> Vec<u8> {
        let halves = |two: bool| data.split_at(if two { data.len() / 2 } else { 0 });
        match self {
            Self::Plain => data.to_vec(),
            Self::Gzip(level, two) => {
                let (first, second) = halves(*two);
                let members = two.then_some(first).into_iter().chain([second]);
                members.flat_map(|member| gzip(member, *level)).collect()
            }
            Self::Snappy => snap::raw::Encoder::new().compress_vec(data).unwrap(),
            Self::Xerial(size) => {
                let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
                for block in data.chunks(*size) {
                    let block = Self::Snappy.pack(block);
                    out.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
                    out.extend(block);
                }
                out
            }
            Self::Lz4 { size, linked, block_checksums, content_checksum, content_size } => {
                let info = FrameInfo::new()
                    .block_size(SIZES[*size])
                    .block_mode(if *linked { BlockMode::Linked } else { BlockMode::Independent })
                    .block_checksums(*block_checksums)
                    .content_checksum(*content_checksum)
                    .content_size(content_size.then_some(data.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd(level, checksum, two) => {
                let (first, second) = halves(*two);
                let frames = two.then_some(first).into_iter().chain([second]);
                frames.flat_map(|frame| zstd(frame, *level, *checksum)).collect()
            }
        }
    }
}

fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8], level: i32, checksum: bool) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
    encoder.include_checksum(checksum).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn packings() -> impl Strategy<Value = Packing> {
    let lz4 = (0..SIZES.len(), any::<[bool; 4]>()).prop_map(|(size, flags)| {
        let [linked, block_checksums, content_checksum, content_size] = flags;
        Packing::Lz4 { size, linked, block_checksums, content_checksum, content_size }
    });
    prop_oneof![
        Just(Packing::Plain),
        (0..9u32, any::<bool>()).prop_map(|(level, two)| Packing::Gzip(level, two)),
        Just(Packing::Snappy),
        (1..40_000usize).prop_map(Packing::Xerial),
        lz4,
        (1..6i32, any::<bool>(), any::<bool>())
            .prop_map(|(level, sum, two)| Packing::Zstd(level, sum, two)),
    ]
}

/// A record in its batch.
#[derive(Clone, Debug, Default)]
pub(in crate::source) struct Entry {
    /// Its offset above the batch's first one.
    pub(in crate::source) offset: i32,
    /// Its time beside the batch's.
    pub(in crate::source) time: i64,
    pub(in crate::source) key: Option<Vec<u8>>,
    pub(in crate::source) value: Option<Vec<u8>>,
    pub(in crate::source) headers: Vec<NamedValue>,
}

/// A header.
pub(in crate::source) type NamedValue = (Vec<u8>, Option<Vec<u8>>);

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let mut body = vec![0];
        varint(&mut body, self.time);
        varint(&mut body, self.offset.into());
        field(&mut body, self.key.as_deref());
        field(&mut body, self.value.as_deref());
        varint(&mut body, i64::try_from(self.headers.len()).unwrap());
        for (name, value) in &self.headers {
            field(&mut body, Some(name));
            field(&mut body, value.as_deref());
        }
        varint(out, i64::try_from(body.len()).unwrap());
        out.extend(body);
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    varint(out, value.map_or(-1, |value| i64::try_from(value.len()).unwrap()));
    out.extend(value.unwrap_or_default());
}

/// A batch as it lies in a log.
#[derive(Clone, Debug)]
pub(in crate::source) struct Written {
    base: i64,
    last_delta: i32,
    epoch: i32,
    /// Without the codec.
    attributes: i16,
    timestamp: i64,
    max_timestamp: i64,
    producer: i64,
    packing: Packing,
    pub(in crate::source) entries: Vec<Entry>,
}

impl Written {
    /// One of plain records that have these offsets.
    pub(in crate::source) fn of(base: i64, offsets: &[i32]) -> Self {
        let entry = |offset: &i32| Entry {
            offset: *offset,
            // Some are offsets that cannot be.
            value: Some(format!("{}", base.wrapping_add((*offset).into())).into_bytes()),
            ..Entry::default()
        };
        Self {
            base,
            last_delta: offsets.last().copied().unwrap_or_default(),
            epoch: 0,
            attributes: 0,
            timestamp: 1000,
            max_timestamp: 1000,
            producer: -1,
            packing: Packing::Plain,
            entries: offsets.iter().map(entry).collect(),
        }
    }

    /// The same under another leader.
    pub(in crate::source) fn under(self, epoch: i32) -> Self {
        Self { epoch, ..self }
    }

    fn last(&self) -> i64 {
        self.base + i64::from(self.last_delta)
    }

    /// All its records, as a reader is to have them.
    pub(in crate::source) fn records(&self) -> Vec<Got> {
        let time = |entry: &Entry| match self.attributes & APPEND_TIME {
            0 => self.timestamp + entry.time,
            _ => self.max_timestamp,
        };
        let records = self.entries.iter().map(|entry| Got {
            offset: self.base + i64::from(entry.offset),
            time: Some(time(entry)).filter(|time| *time >= 0),
            key: entry.key.clone(),
            value: entry.value.clone(),
            headers: Some(entry.headers.clone()),
        });
        records.collect()
    }

    pub(in crate::source) fn bytes(&self) -> Vec<u8> {
        let mut records = Vec::new();
        self.entries.iter().for_each(|entry| entry.write(&mut records));
        self.with(&self.packing.pack(&records), self.entries.len())
    }

    /// The batch with these bytes for its records.
    pub(in crate::source) fn with(&self, records: &[u8], count: usize) -> Vec<u8> {
        let mut out = self.base.to_be_bytes().to_vec();
        out.extend([0; 4]);
        out.extend(self.epoch.to_be_bytes());
        out.extend([2, 0, 0, 0, 0]);
        out.extend((self.attributes | self.packing.codec()).to_be_bytes());
        out.extend(self.last_delta.to_be_bytes());
        out.extend(self.timestamp.to_be_bytes());
        out.extend(self.max_timestamp.to_be_bytes());
        out.extend(self.producer.to_be_bytes());
        out.extend((-1i16).to_be_bytes());
        out.extend((-1i32).to_be_bytes());
        out.extend(i32::try_from(count).unwrap().to_be_bytes());
        out.extend(records);
        seal(&mut out);
        out
    }
}

/// Writes the length and the checksum that fit the bytes of a batch.
fn seal(batch: &mut [u8]) {
    let length = u32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
}

fn bytes_of(log: &[Written]) -> Vec<u8> {
    log.iter().flat_map(Written::bytes).collect()
}

/// What a broker answers: batches from the one that has `from` on, or the one before it, cut off
/// after so many bytes, but not in the first one that has `from`.
fn answer(log: &[Written], from: i64, bytes: usize, earlier: bool) -> Vec<u8> {
    let Some(first) = log.iter().position(|batch| batch.last() >= from) else {
        return Vec::new();
    };
    let start = first - usize::from(earlier && first > 0);
    let mut data = bytes_of(&log[start..]);
    data.truncate(bytes.max(bytes_of(&log[start..=first]).len()));
    data
}

/// Logs as compaction leaves them: `(hole before, entries, hole at the end, ...)` of each batch,
/// one behind the other.
fn logs() -> impl Strategy<Value = Vec<Written>> {
    let bytes = || option::of(vec(any::<u8>(), 0..20));
    let long = vec(any::<u8>(), 0..300).prop_map(|part| Some(part.repeat(7)));
    let value = prop_oneof![4 => bytes(), 1 => long];
    // Some names occur more than once in a record, and some are no text.
    let name = prop_oneof!["[ab]{0,1}".prop_map(String::into_bytes), vec(any::<u8>(), 0..5)];
    let headers = vec((name, bytes()), 0..4);
    let time = prop_oneof![Just(0), -5..5i64, -100_000..100_000_000i64];
    let entry = (0..4i32, time, bytes(), value, headers);
    let timestamp = prop_oneof![Just(-1i64), Just(0), 0..2_000_000_000_000i64];
    let flags = prop_oneof![2 => Just(0), 1 => Just(APPEND_TIME), 1 => Just(DELETE_HORIZON)];
    let times = (timestamp, -1..2_000_000_000_000i64, flags);
    let batch = (0..4i64, vec(entry, 0..8), 0..4i32, times, packings(), 0..3i32);
    vec(batch, 0..7).prop_map(|shapes| {
        let (mut log, mut next, mut epoch) = (Vec::new(), 0, 0);
        for (hole, shapes, tail, (timestamp, max_timestamp, attributes), packing, newer) in shapes {
            let mut offset = -1;
            let entry = |(hole, time, key, value, headers)| {
                offset += 1 + hole;
                Entry { offset, time, key, value, headers }
            };
            let entries: Vec<Entry> = shapes.into_iter().map(entry).collect();
            let last_delta = offset.max(0) + tail;
            epoch += newer;
            let (base, producer) = (next + hole, -1);
            next = base + i64::from(last_delta) + 1;
            log.push(Written {
                base,
                last_delta,
                epoch,
                attributes,
                timestamp,
                max_timestamp,
                producer,
                packing,
                entries,
            });
        }
        log
    })
}

/// What was handed over of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) struct Got {
    offset: i64,
    time: Option<i64>,
    pub(in crate::source) key: Option<Vec<u8>>,
    pub(in crate::source) value: Option<Vec<u8>>,
    /// `None` if they cannot be read.
    pub(in crate::source) headers: Option<Vec<NamedValue>>,
}

impl Got {
    pub(in crate::source) fn of(record: Record<'_>) -> Self {
        let Record { offset, timestamp_ms: time, key, value, headers, .. } = record;
        let owned = |(name, value): Header<'_>| (name.to_vec(), value.map(<[u8]>::to_vec));
        let headers: Result<Vec<NamedValue>, HeadersError> =
            headers.iter().map(|each| each.map(owned)).collect();
        let [key, value] = [key, value].map(|bytes| bytes.map(<[u8]>::to_vec));
        Self { offset, time, key, value, headers: headers.ok() }
    }
}

/// Reads a part to its end, in pieces of `most` records in turn. After each of them the position
/// is not ahead of what was handed over: nothing below it comes later.
fn read_to_end(
    reader: &mut Reader,
    data: &[u8],
    most: &[usize],
    got: &mut Vec<Got>,
) -> Result<(), BatchError> {
    for most in most.iter().cycle() {
        let (before, handed, mut count) = (reader.position(), got.len(), 0);
        let mut take = |record: Record<'_>| {
            got.push(Got::of(record));
            true
        };
        let progress = reader.read(data, *most, &mut count, &mut take);
        let new = &got[handed..];
        assert_eq!(new.len(), count);
        assert!(count <= *most);
        assert!(new.iter().all(|each| each.offset >= before), "handed over late: {new:?}");
        let position = reader.position();
        assert!(position >= before, "position back from {before} to {position}");
        assert!(new.last().is_none_or(|each| each.offset < position));
        match progress? {
            Progress::End => return Ok(()),
            Progress::More => assert_eq!(count, *most),
            Progress::Stopped => panic!("nobody stopped it"),
        }
    }
    Ok(())
}
