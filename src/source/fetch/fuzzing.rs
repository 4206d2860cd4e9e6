//! What fuzzing does with what brokers send, see [`crate::fuzzing`].

use super::batch;
use super::partition_fetch::{Content, PartitionFetch};
use super::reader::{Part, Progress, Reader};
use super::sasl;
use super::wire::{self, Aborted, NEWEST_FETCH, OLDEST_FETCH, Wanted};
use crate::protocol::{Offset, TopicPartition};
use crate::source::{PartitionId, Record, Topics};

/// Fewest bytes of a partition in an answer to Fetch, and of an aborted transaction.
const PARTITION: usize = 37;
const ABORTED: usize = 16;
/// Bytes of a batch's header, and where its length, its checksum and what that covers begin.
const HEADER: usize = 61;
const LENGTH: usize = 8;
const SUM: usize = 17;
const COVERED: usize = 21;

/// A digit that says what was asked, and the answer. What was understood lies within the answer, in
/// its order, and takes no more memory than the answer itself.
pub(crate) fn wire(data: &[u8]) {
    let Some((kind, answer)) = data.split_first() else { return };
    let correlation = answer.first_chunk().map_or(0, |first| i32::from_be_bytes(*first));
    match kind % 8 {
        0 => fetched(answer, NEWEST_FETCH, correlation),
        1 => fetched(answer, OLDEST_FETCH, correlation),
        2 => {
            if let Ok(Some(version)) = wire::fetch_version(answer, correlation) {
                assert!((OLDEST_FETCH..=NEWEST_FETCH).contains(&version));
            }
        }
        3 => {
            if let Ok((_, mechanisms)) = sasl::handshake_answer(answer) {
                assert!(mechanisms.len() * 2 <= answer.len());
            }
        }
        kind => {
            let version = i16::from(kind - 4).min(sasl::AUTHENTICATE_VERSIONS.1);
            if let Ok(step) = sasl::step_answer(answer, version) {
                assert!(step.message.len() <= answer.len());
            }
        }
    }
}

fn fetched(bytes: &[u8], version: i16, correlation: i32) {
    let topics = Topics::new(["a", "b"]);
    let wanted: Vec<Wanted> = topics
        .iter()
        .map(|(topic, _)| PartitionId { topic, partition: 0 })
        .map(|partition| Wanted { partition, offset: 5, last_epoch: -1 })
        .collect();
    let Ok(answer) = wire::fetch_answer(bytes, version, correlation, &topics, &wanted) else {
        return;
    };
    let aborted: usize = answer.partitions.iter().map(|each| each.aborted.len()).sum();
    assert!(answer.partitions.len() * PARTITION + aborted * ABORTED <= bytes.len());
    let mut end = 0;
    for each in answer.partitions {
        let records = each.records.clone();
        assert!((end..=bytes.len()).contains(&records.start), "{records:?} of {}", bytes.len());
        assert!((records.start..=bytes.len()).contains(&records.end));
        end = records.end;
        let mut fetch = PartitionFetch::new(1, 5, None);
        let tp = TopicPartition::new("a", each.partition.partition);
        if let Some(Content::Records { bytes, .. }) = fetch.accept(&tp, each, bytes, 1) {
            assert!(bytes.start == records.start && bytes.end <= records.end);
            assert!(fetch.wanted(PartitionId::default()).offset > 5);
        }
    }
}

/// Flags, the offset that was asked for, how many records are handed over at once, aborted
/// transactions, and then batches, of which the checksums are made right. No record is handed over
/// that was not asked for, none twice, and a reader that was used reads as a new one does.
pub(crate) fn batches(data: &[u8]) {
    let Some((&[flags, from, most, aborted], rest)) = data.split_first_chunk() else { return };
    let (from, most) = (Offset::from(from), usize::from(most).max(1));
    let Some((aborted, rest)) = rest.split_at_checked(2 * usize::from(aborted % 4)) else { return };
    let (pairs, _) = aborted.as_chunks();
    let one = |[producer, first]: &[u8; 2]| Aborted {
        producer: i64::from(*producer),
        first: Offset::from(*first),
    };
    let part = || Part {
        partition: PartitionId::default(),
        from,
        aborted: pairs.iter().map(one).collect(),
    };
    let mut log = rest.to_vec();
    if flags & 1 == 0 {
        seal(&mut log, flags & 2 == 0);
    }
    let mut reader = Reader::default();
    let first = read(&mut reader, part(), &log, most);
    assert_eq!(read(&mut reader, part(), &log, most), first, "by a reader that was used");
}

/// Makes the checksums right, and the length of the first batch too if it is the only one.
fn seal(log: &mut [u8], only: bool) {
    let mut rest = log;
    if only
        && rest.len() >= HEADER
        && let Ok(length) = i32::try_from(rest.len() - LENGTH - 4)
    {
        rest[LENGTH..LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    }
    while let Some(length) = rest.get(LENGTH..).and_then(|bytes| bytes.first_chunk()) {
        let whole = usize::try_from(i32::from_be_bytes(*length)).ok().map(|l| LENGTH + 4 + l);
        let Some(whole) = whole.filter(|whole| (HEADER..=rest.len()).contains(whole)) else {
            return;
        };
        let (batch, after) = std::mem::take(&mut rest).split_at_mut(whole);
        let sum = crc32c::crc32c(&batch[COVERED..]);
        batch[SUM..SUM + 4].copy_from_slice(&sum.to_be_bytes());
        rest = after;
    }
}

/// A record by its offset, its time, and a checksum of all that it holds.
type Seen = (Offset, Option<i64>, u32);

fn read(reader: &mut Reader, part: Part, data: &[u8], most: usize) -> (Vec<Seen>, Offset, bool) {
    let from = part.from;
    let mut last = -1;
    let mut rest = data;
    while let Ok(Some((batch, after))) = batch::split(rest) {
        (last, rest) = (last.max(batch.last), after);
    }
    let mut seen: Vec<Seen> = Vec::new();
    reader.begin(part);
    let whole = loop {
        let (mut count, before, had) = (0, reader.position(), seen.len());
        let mut take = |record: Record<'_>| {
            seen.push((record.offset, record.timestamp_ms, sum(record)));
            true
        };
        let progress = reader.read(data, most, &mut count, &mut take);
        let (position, new) = (reader.position(), &seen[had..]);
        assert!(new.len() == count && count <= most);
        assert!(new.iter().all(|each| (before..position).contains(&each.0)), "{new:?}");
        assert!(position >= before, "from {before} back to {position}");
        match progress {
            Ok(Progress::More) => assert_eq!(count, most),
            Ok(Progress::End) => break true,
            Ok(Progress::Stopped) => unreachable!("nobody stopped it"),
            Err(_) => break false,
        }
    };
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0), "{seen:?}");
    assert!(seen.iter().all(|each| (from..=last).contains(&each.0)), "{seen:?}");
    assert!((from..=from.max(last + 1)).contains(&reader.position()));
    if whole && let Ok(Some(extent)) = batch::extent(data) {
        assert_eq!(reader.position(), extent.next.max(from));
    }
    (seen, reader.position(), whole)
}

fn sum(record: Record<'_>) -> u32 {
    let mut sum = 0;
    let mut add = |bytes: &[u8]| sum = crc32c::crc32c_append(sum, bytes);
    [record.key, record.value].into_iter().flatten().for_each(&mut add);
    for header in record.headers.iter().flatten() {
        add(header.0);
        add(header.1.unwrap_or_default());
    }
    sum
}
