//! Record batches through the reader.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record as Foreign, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType,
};
use proptest::sample::Index;

use super::*;
use crate::source::fetch::batch;
use crate::source::fetch::reader::Part;

fn part(from: i64) -> Part {
    Part { partition: partition(), from, aborted: Vec::new() }
}

fn wanted(log: &[Written], from: i64) -> Vec<Got> {
    let all = log.iter().flat_map(Written::records);
    all.filter(|record| record.offset >= from).collect()
}

/// Somewhere in a log, or right behind it.
fn somewhere(log: &[Written], at: Index) -> i64 {
    let end = log.last().map_or(0, |batch| batch.last() + 1);
    i64::try_from(at.index(usize::try_from(end).unwrap() + 1)).unwrap()
}

/// The records of a part, or why it has none.
fn read(data: &[u8], from: i64) -> Result<Vec<Got>, BatchError> {
    let (mut reader, mut got) = (Reader::default(), Vec::new());
    reader.begin(part(from));
    read_to_end(&mut reader, data, &[1000], &mut got).map(|()| got)
}

fn refused(data: &[u8]) -> String {
    read(data, 0).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn every_record_comes_once_and_in_order_however_the_log_is_fetched(
        log in logs(), at: Index, sizes in vec((0..1500usize, any::<bool>()), 1..5),
        most in vec(1..9usize, 1..5),
    ) {
        let start = somewhere(&log, at);
        let (mut reader, mut got, mut from) = (Reader::default(), Vec::new(), start);
        for (size, earlier) in sizes.iter().cycle() {
            let data = answer(&log, from, *size, *earlier);
            let Some(extent) = batch::extent(&data).unwrap() else { break };
            reader.begin(part(from));
            read_to_end(&mut reader, &data, &most, &mut got).unwrap();
            // What the fetcher asks for next is what the reader came to.
            prop_assert_eq!(reader.position(), extent.next);
            prop_assert!(extent.bytes <= data.len());
            let read = log.iter().find(|batch| batch.last() + 1 == extent.next);
            prop_assert_eq!(read.map(|batch| batch.epoch), Some(extent.epoch));
            // Only whole batches are read: cut off behind them, it is the same.
            prop_assert_eq!(batch::extent(&data[..extent.bytes]).unwrap(), Some(extent));
            from = extent.next;
        }
        prop_assert_eq!(from.max(start), log.last().map_or(start, |last| start.max(last.last() + 1)));
        prop_assert_eq!(got, wanted(&log, start));
    }

    #[test]
    fn a_part_that_is_given_up_goes_on_at_its_position(
        log in logs(), at: Index, pieces in vec(0..9usize, 0..9), most in 1..9usize,
    ) {
        let start = somewhere(&log, at);
        let (mut reader, mut got, mut from) = (Reader::default(), Vec::new(), start);
        for piece in pieces {
            let data = answer(&log, from, usize::MAX, false);
            reader.begin(part(from));
            let mut take = |record: Record<'_>| {
                got.push(Got::of(record));
                true
            };
            reader.read(&data, piece, &mut 0, &mut take).unwrap();
            from = reader.position();
        }
        let data = answer(&log, from, usize::MAX, false);
        reader.begin(part(from));
        read_to_end(&mut reader, &data, &[most], &mut got).unwrap();
        prop_assert_eq!(got, wanted(&log, start));
    }

    #[test]
    fn a_taker_that_has_enough_gets_no_more_and_its_last_record_is_not_behind_the_position(
        log in logs(), enough in 1..30usize, most in 1..40usize,
    ) {
        let data = bytes_of(&log);
        let (mut reader, mut got, mut count) = (Reader::default(), Vec::new(), 0);
        reader.begin(part(0));
        let mut take = |record: Record<'_>| {
            got.push(Got::of(record));
            got.len() < enough
        };
        let progress = reader.read(&data, most, &mut count, &mut take).unwrap();
        let all = wanted(&log, 0);
        let expected = all.len().min(enough).min(most);
        prop_assert_eq!(&got, &all[..expected]);
        prop_assert_eq!(count, expected);
        prop_assert_eq!(progress == Progress::Stopped, expected == enough);
        if progress == Progress::Stopped {
            prop_assert!(reader.position() <= got[enough - 1].offset);
            prop_assert!(enough == 1 || reader.position() > got[enough - 2].offset);
        }
    }

    #[test]
    fn batches_of_these_tests_are_read_alike_by_kafka_protocol(log in logs()) {
        for mut batch in log {
            batch.entries.iter_mut().for_each(name_headers);
            batch.packing = Packing::Plain;
            batch.attributes &= !APPEND_TIME;
            let mut bytes = Bytes::from(batch.bytes());
            let theirs = RecordBatchDecoder::decode_all(&mut bytes).unwrap();
            let theirs = theirs.into_iter().flat_map(|set| set.records).map(|record| Got {
                offset: record.offset,
                time: Some(record.timestamp).filter(|time| *time >= 0),
                key: record.key.map(|key| key.to_vec()),
                value: record.value.map(|value| value.to_vec()),
                headers: Some(named(&record.headers)),
            });
            prop_assert_eq!(theirs.collect::<Vec<_>>(), batch.records());
        }
    }

    #[test]
    fn batches_that_kafka_protocol_writes_are_read(
        base in 0..1_000_000i64, mut log in logs(), packing in packings(),
    ) {
        log.iter_mut().flat_map(|batch| &mut batch.entries).for_each(name_headers);
        let records: Vec<Foreign> = log.iter().flat_map(|batch| {
            let times = batch.records();
            let of = move |(entry, got): (&Entry, Got)| foreign(entry, base + got.offset, got.time);
            batch.entries.iter().zip(times).map(of).collect::<Vec<_>>()
        }).collect();
        let compression = [
            Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4,
            Compression::Zstd,
        ][usize::try_from(packing.codec()).unwrap()];
        let options = RecordEncodeOptions { version: 2, compression };
        let pack = |records: &mut BytesMut, out: &mut BytesMut, _: Compression| {
            out.extend_from_slice(&packing.pack(records));
            Ok(())
        };
        let mut data = BytesMut::new();
        RecordBatchEncoder::encode_with_custom_compression(
            &mut data, &records, &options, Some(pack),
        ).unwrap();
        let expected: Vec<Got> = records.iter().map(|record| Got {
            offset: record.offset,
            time: Some(record.timestamp).filter(|time| *time >= 0),
            key: record.key.as_ref().map(|key| key.to_vec()),
            value: record.value.as_ref().map(|value| value.to_vec()),
            headers: Some(named(&record.headers)),
        }).collect();
        prop_assert_eq!(read(&data, 0).unwrap(), expected);
    }
}

/// Names headers as kafka-protocol knows them: by texts of which none occurs twice.
fn name_headers(entry: &mut Entry) {
    for (index, (name, _)) in entry.headers.iter_mut().enumerate() {
        *name = format!("{index}{}", String::from_utf8_lossy(name)).into_bytes();
    }
}

fn named(headers: &IndexMap<StrBytes, Option<Bytes>>) -> Vec<NamedValue> {
    let one = |(name, value): (&StrBytes, &Option<Bytes>)| {
        (name.as_bytes().to_vec(), value.as_ref().map(|value| value.to_vec()))
    };
    headers.iter().map(one).collect()
}

fn foreign(entry: &Entry, offset: i64, time: Option<i64>) -> Foreign {
    let bytes = |value: &Option<Vec<u8>>| value.clone().map(Bytes::from);
    let header = |(name, value): &NamedValue| {
        (StrBytes::from_utf8(name.clone().into()).unwrap(), bytes(value))
    };
    Foreign {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: i32::try_from(offset).unwrap(),
        timestamp: time.unwrap_or(-1),
        key: bytes(&entry.key),
        value: bytes(&entry.value),
        headers: entry.headers.iter().map(header).collect::<IndexMap<_, _>>(),
    }
}

#[test]
fn batches_of_formats_before_kafka_0_11_are_refused_by_their_version() {
    for magic in [0, 1, 3, -1i8] {
        let mut data = Written::of(0, &[0]).bytes();
        data[16] = magic.to_be_bytes()[0];
        assert_eq!(read(&data, 0), Err(BatchError::Format(magic)));
        assert_eq!(batch::extent(&data), Err(BatchError::Format(magic)));
    }
    // A message of version 0 is shorter than the header of a batch.
    let mut data = vec![0; 26];
    data[11] = 14;
    assert_eq!(read(&data, 0), Err(BatchError::Format(0)));
}

#[test]
fn bytes_that_were_not_written_are_refused_by_the_checksum_whatever_they_say() {
    let good = Written::of(7, &[0, 1, 2]).bytes();
    for at in 17..good.len() {
        let mut data = good.clone();
        data[at] ^= 0x40;
        let error = read(&data, 0).unwrap_err();
        // Attributes, offsets and counts are looked at before.
        let shape = matches!(error, BatchError::Malformed(_)) && at < 61;
        assert!(error == BatchError::Checksum || shape, "byte {at}: {error}");
    }
}

#[test]
fn an_error_stays_and_nothing_behind_it_is_handed_over() {
    let mut data = bytes_of(&[Written::of(0, &[0, 1])]);
    let damaged = data.len() + 70;
    data.extend(bytes_of(&[Written::of(2, &[0, 1]), Written::of(4, &[0])]));
    data[damaged] ^= 1;
    let (mut reader, mut got) = (Reader::default(), Vec::new());
    reader.begin(part(0));
    for _ in 0..3 {
        let read = read_to_end(&mut reader, &data, &[1], &mut got);
        assert_eq!(read, Err(BatchError::Checksum));
        assert_eq!(reader.position(), 2);
    }
    assert_eq!(got, Written::of(0, &[0, 1]).records());

    // Also one in the middle of a batch, behind its first record.
    let data = Written { last_delta: 9, ..Written::of(0, &[4, 4, 5]) }.bytes();
    let mut got = Vec::new();
    reader.begin(part(0));
    for _ in 0..3 {
        assert!(read_to_end(&mut reader, &data, &[1], &mut got).is_err());
        assert_eq!((reader.position(), got.len()), (5, 1));
    }
}

#[test]
fn a_record_outside_of_its_batch_or_not_above_the_one_before_it_is_refused() {
    let outside = "outside of its batch";
    let falling = "do not rise";
    let with = |last_delta, offsets: &[i32]| {
        refused(&Written { last_delta, ..Written::of(5, offsets) }.bytes())
    };
    assert!(with(2, &[0, 3]).contains(outside));
    assert!(with(2, &[0, i32::MAX]).contains(outside));
    assert!(with(2, &[-1, 1]).contains(falling));
    assert!(with(2, &[i32::MIN, 1]).contains(falling));
    assert!(with(2, &[1, 1]).contains(falling));
    assert!(with(2, &[2, 1]).contains(falling));
    // Also when the record would be below what was asked for.
    let data = Written { last_delta: 9, ..Written::of(0, &[5, 3, 6]) }.bytes();
    assert!(read(&data, 4).unwrap_err().to_string().contains(falling));
    // The last offset of all that fits.
    assert_eq!(read(&Written::of(5, &[0, i32::MAX]).bytes(), 0).unwrap().len(), 2);
}

#[test]
fn batches_that_overlap_are_refused_and_do_not_count_as_read() {
    for second in [Written::of(2, &[0, 5]), Written::of(0, &[0]), Written::of(0, &[0, 2])] {
        let data = bytes_of(&[Written::of(0, &[0, 2]), second]);
        assert!(refused(&data).contains("do not rise"));
        assert!(read(&data, 1).unwrap_err().to_string().contains("do not rise"));
    }
}

#[test]
fn offsets_at_the_end_of_their_range_are_read_or_refused_but_never_wrap() {
    let last = Written::of(i64::MAX - 1, &[0]);
    assert_eq!(read(&last.bytes(), 0).unwrap(), last.records());
    let extent = batch::extent(&last.bytes()).unwrap().unwrap();
    assert_eq!(extent.next, i64::MAX);
    for (base, last_delta) in [(i64::MAX, 0), (i64::MAX - 1, 1), (i64::MAX - 5, i32::MAX)] {
        let data = Written { last_delta, ..Written::of(base, &[]) }.bytes();
        assert!(refused(&data).contains("offsets beyond the last one"));
        assert!(batch::extent(&data).is_err());
    }
    for (base, last_delta) in [(-1, 0), (0, -1), (i64::MIN, i32::MIN), (5, i32::MIN)] {
        let data = Written { last_delta, ..Written::of(base, &[]) }.bytes();
        assert!(refused(&data).contains("negative offsets"));
    }
    // A record that would be beyond the range is not taken for one below what was asked for.
    let data = Written { last_delta: 3, ..Written::of(i64::MAX - 5, &[0, i32::MAX]) }.bytes();
    assert!(refused(&data).contains("outside of its batch"));
}

#[test]
fn a_batch_has_exactly_the_records_that_it_counts() {
    let batch = Written::of(0, &[0, 1, 2]);
    let mut records = Vec::new();
    batch.entries.iter().for_each(|entry| entry.write(&mut records));
    assert_eq!(read(&batch.with(&records, 3), 0).unwrap(), batch.records());
    for fewer in 0..3 {
        assert!(refused(&batch.with(&records, fewer)).contains("bytes behind its last record"));
    }
    assert!(refused(&batch.with(&records, 4)).contains("beyond its end"));
    assert!(refused(&batch.with(&records, i32::MAX as usize)).contains("beyond its end"));
    for end in 0..records.len() {
        assert!(refused(&batch.with(&records[..end], 3)).contains("beyond"));
    }
}

#[test]
fn a_batch_that_compaction_emptied_moves_the_position_also_if_it_was_packed() {
    for packing in [Packing::Plain, Packing::Snappy, Packing::Gzip(6, false)] {
        let empty = Written { last_delta: 6, packing, ..Written::of(3, &[]) };
        let (mut reader, mut got) = (Reader::default(), Vec::new());
        reader.begin(part(0));
        read_to_end(&mut reader, &empty.with(&[], 0), &[1], &mut got).unwrap();
        assert_eq!((reader.position(), got.len()), (10, 0));
    }
}

#[test]
fn a_codec_that_is_not_known_is_refused() {
    for codec in 5..8 {
        let data = Written { attributes: codec, ..Written::of(0, &[0]) }.bytes();
        assert!(refused(&data).contains("a compression that is not known"));
    }
}

/// A batch of one record with these bytes where its headers are.
fn with_headers(headers: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    varint(&mut body, 0);
    varint(&mut body, 0);
    field(&mut body, None);
    field(&mut body, Some(b"value"));
    body.extend(headers);
    let mut record = Vec::new();
    varint(&mut record, i64::try_from(body.len()).unwrap());
    record.extend(body);
    Written::of(0, &[0]).with(&record, 1)
}

/// The headers that are read of these bytes, and the error behind them.
fn headers_of(bytes: &[u8]) -> (Vec<NamedValue>, Option<String>) {
    let (mut reader, mut good, mut bad) = (Reader::default(), Vec::new(), None);
    reader.begin(part(0));
    let mut take = |record: Record<'_>| {
        assert_eq!((record.key, record.value), (None, Some(&b"value"[..])));
        for header in record.headers.iter() {
            assert_eq!(bad, None, "an error is the last");
            match header {
                Ok((name, value)) => good.push((name.to_vec(), value.map(<[u8]>::to_vec))),
                Err(error) => bad = Some(error.to_string()),
            }
        }
        true
    };
    let data = with_headers(bytes);
    assert_eq!(reader.read(&data, 9, &mut 0, &mut take), Ok(Progress::End));
    (good, bad)
}

#[test]
fn headers_come_in_their_order_whatever_their_names_and_values() {
    let many = (0..1000_u16).map(|n| (n.to_be_bytes().to_vec(), Some(vec![7; usize::from(n)])));
    let twice = |value: &[u8]| (b"twice".to_vec(), Some(value.to_vec()));
    for headers in [
        vec![],
        vec![(b"null".to_vec(), None), (b"empty".to_vec(), Some(vec![]))],
        vec![twice(b"1"), (vec![], Some(vec![0])), twice(b"2"), twice(b"1")],
        vec![(vec![0xff, 0xfe, 0], Some(vec![0xff]))],
        many.collect(),
    ] {
        let entry = |key: Option<&[u8]>| Entry {
            key: key.map(<[u8]>::to_vec),
            headers: headers.clone(),
            ..Entry::default()
        };
        let (null, empty) = (entry(None), Entry { offset: 1, ..entry(Some(b"")) });
        let batch = Written { entries: vec![null, empty], ..Written::of(0, &[0, 1]) };
        let read = read(&batch.bytes(), 0).unwrap();
        assert_eq!(read, batch.records());
        assert_eq!((&read[0].key, &read[1].key), (&None, &Some(vec![])));
    }
}

#[test]
fn malformed_headers_are_an_error_for_who_asks_for_them_and_the_record_comes() {
    let good = (b"a".to_vec(), Some(b"b".to_vec()));
    for (bytes, before, why) in [
        (&[0x01][..], 0, "a negative number of headers"),
        (&[0x80], 0, "a number beyond its end"),
        (&[0xff; 11], 0, "a number without end"),
        (&[0x02], 0, "a number beyond its end"),
        (&[0x02, 0x01, 0x00], 0, "a header without a name"),
        (&[0x02, 0x06, b'a'], 0, "a field beyond the end"),
        (&[0x02, 0x02, b'a'], 0, "a number beyond its end"),
        (&[0x02, 0x02, b'a', 0x06, b'b'], 0, "a field beyond the end"),
        (&[0x04, 0x02, b'a', 0x02, b'b'], 1, "a number beyond its end"),
        (&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0x02, b'a', 0x02, b'b'], 1, "a number beyond its end"),
        (&[0x02, 0x02, b'a', 0x02, b'b', 0x00], 1, "bytes behind the last header"),
        (&[0x00, 0x00], 0, "bytes behind the last header"),
    ] {
        let (read, error) = headers_of(bytes);
        assert_eq!(read, vec![good.clone(); before], "{bytes:?}");
        assert!(error.as_ref().is_some_and(|error| error.contains(why)), "{bytes:?}: {error:?}");
    }
    // No bytes at all are what other clients take for no headers.
    assert_eq!(headers_of(&[]), (vec![], None));
    assert_eq!(headers_of(&[0]), (vec![], None));
}
