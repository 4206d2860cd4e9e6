//! The two requests of Kafka's protocol that reading needs, encoded and decoded with bounds checked.
//!
//! Layouts are those of Kafka's message definitions (`ApiVersions*.json`, `Fetch*.json`). Fetch is
//! spoken in version 12, whose strings and lists are compact and which tells truncated logs, or in
//! version 11. Both name the topic, not its id.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use crate::protocol::Offset;
use crate::source::{PartitionId, TopicIndex, Topics};

/// First of the versions of Fetch that are spoken here: Kafka 2.3.
pub(super) const OLDEST_FETCH: i16 = 11;
/// Last of them: Kafka 2.7.
pub(super) const NEWEST_FETCH: i16 = 12;

const FETCH: i16 = 1;
const API_VERSIONS: i16 = 18;
const CLIENT: &str = "icestream";
/// Records of open and aborted transactions are told apart: `read_committed`.
const READ_COMMITTED: i8 = 1;

/// Why an answer cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer that is not Kafka's: {0}")]
pub(in crate::source) struct Malformed(&'static str);

/// A partition of a Fetch request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) partition: PartitionId,
    pub(super) offset: Offset,
    /// Leader epoch of the record before `offset`, -1 if none was read.
    pub(super) last_epoch: i32,
}

/// Bounds of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long the broker may wait for a first record.
    pub(super) wait_ms: i32,
    /// Bytes of an answer. It has at least one record batch, whatever its size.
    pub(super) bytes: i32,
    /// Bytes of one partition in it.
    pub(super) partition_bytes: i32,
}

/// One partition of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) partition: PartitionId,
    /// Kafka's error code, 0 for none.
    pub(super) error: i16,
    /// End of what a committed reader may see, -1 if it is not told.
    pub(super) end: Offset,
    /// The log was cut off since the last record that was read: it now ends here.
    pub(super) cut_off_at: Option<Offset>,
    /// Transactions that were aborted, of those that have records in the answer.
    pub(super) aborted: Vec<Aborted>,
    /// The broker names another replica to read from, and sends no records.
    pub(super) elsewhere: bool,
    /// Where in the answer its record batches are.
    pub(super) records: Range<usize>,
}

/// Records of this producer from this offset on belong to an aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aborted {
    pub(super) producer: i64,
    pub(super) first: Offset,
}

/// An answer to Fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The broker asks to be left alone for so long.
    pub(super) throttle_ms: i32,
    /// Kafka's error code for the whole, 0 for none.
    pub(super) error: i16,
    pub(super) partitions: Vec<Fetched>,
}

/// A request for the versions that a broker speaks.
pub(super) fn versions_request(correlation: i32) -> Vec<u8> {
    Encoder::request(API_VERSIONS, 0, correlation).finish()
}

/// The newest version of Fetch that a broker and this client speak; `None` if there is none.
pub(super) fn fetch_version(answer: &[u8], correlation: i32) -> Result<Option<i16>, Malformed> {
    version(answer, correlation, FETCH, OLDEST_FETCH..=NEWEST_FETCH)
}

/// The newest of the versions `ours` of a request that a broker speaks too; `None` if there is none.
pub(super) fn version(
    answer: &[u8],
    correlation: i32,
    api: i16,
    ours: RangeInclusive<i16>,
) -> Result<Option<i16>, Malformed> {
    let mut at = Decoder::new(answer, false);
    at.correlation(correlation)?;
    let error = at.i16()?;
    if error != 0 {
        return Err(Malformed("the broker does not tell the versions that it speaks"));
    }
    for _ in 0..at.count()? {
        let (key, least, most) = (at.i16()?, at.i16()?, at.i16()?);
        if key == api {
            let spoken = most.min(*ours.end());
            return Ok((spoken >= least.max(*ours.start())).then_some(spoken));
        }
    }
    Ok(None)
}

/// A Fetch request of full sessions: each names all its partitions. Those of a topic that follow each
/// other are named under it, as Kafka's own client has it: their order is what the broker goes by.
pub(super) fn fetch_request(
    version: i16,
    correlation: i32,
    topics: &Topics,
    wanted: &[Wanted],
    limits: Limits,
) -> Vec<u8> {
    let mut out = Encoder::request(FETCH, version, correlation);
    out.flexible = version >= 12;
    out.tags();
    out.i32(-1);
    out.i32(limits.wait_ms);
    out.i32(1);
    out.i32(limits.bytes);
    out.i8(READ_COMMITTED);
    // No session: an id of 0 with an epoch of -1.
    out.i32(0);
    out.i32(-1);
    out.count(by_topic(wanted).count());
    for (topic, partitions) in by_topic(wanted) {
        out.string(topics.name(topic));
        out.count(partitions.len());
        for each in partitions {
            out.i32(each.partition.partition);
            // The leader's epoch is not checked: what it may serve is committed in any case.
            out.i32(-1);
            out.i64(each.offset);
            if out.flexible {
                out.i32(each.last_epoch);
            }
            out.i64(-1);
            out.i32(limits.partition_bytes);
            out.tags();
        }
        out.tags();
    }
    out.count(0);
    out.string("");
    out.tags();
    out.finish()
}

/// Those that follow each other and are of one topic, with it.
fn by_topic(wanted: &[Wanted]) -> impl Iterator<Item = (TopicIndex, &[Wanted])> {
    let same = |one: &Wanted, next: &Wanted| one.partition.topic == next.partition.topic;
    let topic = |chunk: &[Wanted]| chunk.first().map(|first| first.partition.topic);
    wanted.chunk_by(same).filter_map(move |chunk| Some((topic(chunk)?, chunk)))
}

/// Reads the answer to a Fetch request of `version` for what is `wanted`. Topics may come in any order,
/// and more than once.
pub(super) fn fetch_answer(
    answer: &[u8],
    version: i16,
    correlation: i32,
    topics: &Topics,
    wanted: &[Wanted],
) -> Result<Answer, Malformed> {
    let asked: BTreeSet<TopicIndex> = by_topic(wanted).map(|(topic, _)| topic).collect();
    let mut at = Decoder::new(answer, version >= 12);
    at.correlation(correlation)?;
    at.tags()?;
    let throttle_ms = at.i32()?;
    let error = at.i16()?;
    at.i32()?;
    let mut partitions = Vec::new();
    for _ in 0..at.count()? {
        let topic = str::from_utf8(at.string()?).ok().and_then(|name| topics.index(name));
        let topic = topic.filter(|topic| asked.contains(topic));
        let topic = topic.ok_or(Malformed("a topic that was not asked for"))?;
        for _ in 0..at.count()? {
            partitions.push(fetched(&mut at, topic)?);
        }
        at.tags()?;
    }
    at.tags()?;
    if at.at != answer.len() {
        return Err(Malformed("it goes on behind its end"));
    }
    Ok(Answer { throttle_ms, error, partitions })
}

fn fetched(at: &mut Decoder<'_>, topic: TopicIndex) -> Result<Fetched, Malformed> {
    let partition = PartitionId { topic, partition: at.i32()? };
    let error = at.i16()?;
    let (high, stable) = (at.i64()?, at.i64()?);
    // Start of the log.
    at.i64()?;
    let mut aborted = Vec::new();
    for _ in 0..at.count()? {
        aborted.push(Aborted { producer: at.i64()?, first: at.i64()? });
        at.tags()?;
    }
    let elsewhere = at.i32()? >= 0;
    let records = at.bytes()?;
    let cut_off_at = at.diverging_epoch()?;
    let end = if stable >= 0 { stable } else { high };
    Ok(Fetched { partition, error, end, cut_off_at, aborted, elsewhere, records })
}

/// Writes requests.
pub(super) struct Encoder {
    out: Vec<u8>,
    /// Are strings and lists compact, and is there room for tagged fields?
    pub(super) flexible: bool,
}

impl Encoder {
    /// A frame up to and with its header.
    pub(super) fn request(api: i16, version: i16, correlation: i32) -> Self {
        let mut out = Self { out: vec![0; 4], flexible: false };
        out.i16(api);
        out.i16(version);
        out.i32(correlation);
        out.string(CLIENT);
        out
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.out.len() - 4).unwrap_or(u32::MAX);
        self.out[..4].copy_from_slice(&length.to_be_bytes());
        self.out
    }

    fn i8(&mut self, value: i8) {
        self.out.extend(value.to_be_bytes());
    }

    fn i16(&mut self, value: i16) {
        self.out.extend(value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.out.extend(value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.out.extend(value.to_be_bytes());
    }

    /// No tagged fields, where there may be some.
    pub(super) fn tags(&mut self) {
        if self.flexible {
            self.out.push(0);
        }
    }

    fn count(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX - 1);
        match self.flexible {
            true => self.unsigned(count + 1),
            false => self.out.extend(count.to_be_bytes()),
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.out.extend(bytes);
    }

    pub(super) fn string(&mut self, text: &str) {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        match self.flexible {
            true => self.unsigned(u32::from(length) + 1),
            false => self.out.extend(length.to_be_bytes()),
        }
        self.out.extend(&text.as_bytes()[..usize::from(length)]);
    }

    fn unsigned(&mut self, mut value: u32) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                return self.out.push(low & 0x7f);
            }
            self.out.push(low | 0x80);
        }
    }
}

/// Reads answers.
pub(in crate::source) struct Decoder<'a> {
    all: &'a [u8],
    at: usize,
    flexible: bool,
}

impl<'a> Decoder<'a> {
    pub(in crate::source) fn new(all: &'a [u8], flexible: bool) -> Self {
        Self { all, at: 0, flexible }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed("a length beyond its end"))?;
        let taken = self.all.get(self.at..end).ok_or(Malformed("it ends too early"))?;
        self.at = end;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| Malformed("it ends too early"))
    }

    pub(in crate::source) fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.fixed()?))
    }

    pub(in crate::source) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }

    pub(super) fn correlation(&mut self, expected: i32) -> Result<(), Malformed> {
        match self.i32()? == expected {
            true => Ok(()),
            false => Err(Malformed("it answers another request")),
        }
    }

    fn unsigned(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number without end"))
    }

    /// Elements of a list; none for a null one. Memory is taken as they come, not by this number.
    pub(in crate::source) fn count(&mut self) -> Result<u32, Malformed> {
        match self.flexible {
            true => Ok(self.unsigned()?.saturating_sub(1)),
            false => Ok(u32::try_from(self.i32()?).unwrap_or(0)),
        }
    }

    pub(in crate::source) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = match self.flexible {
            true => self.unsigned()?.saturating_sub(1) as usize,
            false => usize::try_from(self.i16()?).unwrap_or(0),
        };
        self.take(length)
    }

    pub(super) fn bytes(&mut self) -> Result<Range<usize>, Malformed> {
        let length = self.count()? as usize;
        let start = self.at;
        self.take(length)?;
        Ok(start..self.at)
    }

    pub(super) fn tags(&mut self) -> Result<(), Malformed> {
        self.diverging_epoch().map(|_| ())
    }

    /// Tagged fields; of those of a partition the first one is an epoch (4 bytes) and its end
    /// offset (8), told when the log is not what it was.
    fn diverging_epoch(&mut self) -> Result<Option<Offset>, Malformed> {
        if !self.flexible {
            return Ok(None);
        }
        let mut end = None;
        for _ in 0..self.unsigned()? {
            let (tag, size) = (self.unsigned()?, self.unsigned()?);
            let value = self.take(size as usize)?;
            if tag == 0
                && let Some(offset) = value.get(4..12)
                && let Ok(offset) = offset.try_into()
            {
                end = Some(i64::from_be_bytes(offset)).filter(|offset| *offset >= 0);
            }
        }
        Ok(end)
    }
}
