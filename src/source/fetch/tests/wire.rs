//! Requests and answers, with kafka-protocol at the other end.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse, ProducerId,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use proptest::collection::btree_set;
use proptest::sample::{Index, select};

use super::*;
use crate::source::Topics;
use crate::source::fetch::wire::{
    Aborted, Answer, Fetched, Limits, Malformed, NEWEST_FETCH, OLDEST_FETCH, Wanted, fetch_answer,
    fetch_request, fetch_version, versions_request,
};

/// What is asked for.
const TOPIC: &str = "partitions";
/// What is read as well.
const OTHER: &str = "alarms";

fn topics() -> Topics {
    Topics::new([TOPIC, OTHER])
}

/// A partition of these, as it is asked for.
fn wanted(topic: &str, partition: i32) -> Wanted {
    let topic = topics().index(topic).unwrap();
    Wanted { partition: PartitionId { topic, partition }, offset: 5, last_epoch: -1 }
}

/// Reads an answer to a request for both topics.
fn answered(answer: &[u8], version: i16, correlation: i32) -> Result<Answer, Malformed> {
    let wanted = [wanted(TOPIC, 0), wanted(OTHER, 0)];
    fetch_answer(answer, version, correlation, &topics(), &wanted)
}

/// The header and the body of a request that is framed as it should be.
fn asked<T: Request>(request: &[u8], version: i16) -> (RequestHeader, T) {
    let (length, body) = request.split_first_chunk().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
    let mut body = Bytes::copy_from_slice(body);
    let header = RequestHeader::decode(&mut body, T::header_version(version)).unwrap();
    assert_eq!((header.request_api_key, header.request_api_version), (T::KEY, version));
    assert_eq!(header.client_id.as_deref(), Some("icestream"));
    let decoded = T::decode(&mut body, version).unwrap();
    assert!(body.is_empty(), "{} bytes behind the request", body.len());
    (header, decoded)
}

fn encoded<T: Encodable + HeaderVersion>(answer: &T, version: i16, correlation: i32) -> Vec<u8> {
    let mut out = BytesMut::new();
    let header = ResponseHeader::default().with_correlation_id(correlation);
    header.encode(&mut out, T::header_version(version)).unwrap();
    answer.encode(&mut out, version).unwrap();
    out.to_vec()
}

fn versions() -> impl Strategy<Value = i16> {
    OLDEST_FETCH..=NEWEST_FETCH
}

/// A partition of an answer of that version.
fn partition(version: i16) -> impl Strategy<Value = PartitionData> {
    let aborted = option::of(vec((any::<i64>(), any::<i64>()), 0..4));
    let records = option::of(vec(any::<u8>(), 0..300));
    let offset = || prop_oneof![Just(-1i64), 0..1000i64, any::<i64>()];
    let head = (any::<i32>(), any::<i16>(), offset(), offset(), any::<i64>(), any::<i32>());
    // What only version 12 has: tagged fields.
    let tagged =
        (option::of((any::<i32>(), offset())), option::of(any::<(i32, i32)>()), any::<bool>());
    (head, aborted, records, tagged).prop_map(move |(head, aborted, records, tagged)| {
        let (partition, error, high, stable, start, replica) = head;
        let aborted = aborted.map(|all| {
            let one = |(producer, first)| {
                AbortedTransaction::default()
                    .with_producer_id(ProducerId(producer))
                    .with_first_offset(first)
            };
            all.into_iter().map(one).collect()
        });
        let mut data = PartitionData::default()
            .with_partition_index(partition)
            .with_error_code(error)
            .with_high_watermark(high)
            .with_last_stable_offset(stable)
            .with_log_start_offset(start)
            .with_aborted_transactions(aborted)
            .with_preferred_read_replica(BrokerId(replica))
            .with_records(records.map(Bytes::from));
        let (diverging, leader, unknown) = tagged;
        if version < 12 {
            return data;
        }
        if let Some((epoch, end)) = diverging {
            data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
        }
        if let Some((id, epoch)) = leader {
            data.current_leader =
                LeaderIdAndEpoch::default().with_leader_id(BrokerId(id)).with_leader_epoch(epoch);
        }
        if unknown {
            data.unknown_tagged_fields.insert(300, Bytes::from_static(b"from later"));
        }
        data
    })
}

/// Of the topics in any order, and more than once each.
fn answers() -> impl Strategy<Value = (i16, FetchResponse)> {
    let body = |version| {
        let topic = (select(vec![TOPIC, OTHER]), vec(partition(version), 0..4));
        (any::<i32>(), any::<i16>(), vec(topic, 0..4)).prop_map(move |(throttle, error, topics)| {
            let topic = |(name, partitions)| {
                FetchableTopicResponse::default()
                    .with_topic(TopicName(StrBytes::from_static_str(name)))
                    .with_partitions(partitions)
            };
            let answer = FetchResponse::default()
                .with_throttle_time_ms(throttle)
                .with_error_code(error)
                .with_responses(topics.into_iter().map(topic).collect());
            (version, answer)
        })
    };
    versions().prop_flat_map(body)
}

/// Holds an answer against what was encoded.
fn compare(decoded: &Answer, bytes: &[u8], answer: &FetchResponse) {
    assert_eq!(decoded.throttle_ms, answer.throttle_time_ms);
    assert_eq!(decoded.error, answer.error_code);
    let of = |topic: &FetchableTopicResponse| {
        let index = topics().index(&topic.topic).unwrap();
        topic.partitions.iter().map(|each| (index, each.clone())).collect::<Vec<_>>()
    };
    let partitions: Vec<_> = answer.responses.iter().flat_map(of).collect();
    assert_eq!(decoded.partitions.len(), partitions.len());
    for (fetched, (topic, encoded)) in decoded.partitions.iter().zip(partitions) {
        let Fetched { partition, error, end, cut_off_at, aborted, elsewhere, records } = fetched;
        let id = PartitionId { topic, partition: encoded.partition_index };
        assert_eq!((*partition, *error), (id, encoded.error_code));
        let stable = encoded.last_stable_offset;
        assert_eq!(*end, if stable < 0 { encoded.high_watermark } else { stable });
        let diverging = encoded.diverging_epoch.end_offset;
        assert_eq!(*cut_off_at, Some(diverging).filter(|offset| *offset >= 0));
        let theirs = encoded.aborted_transactions.iter().flatten();
        let theirs =
            theirs.map(|each| Aborted { producer: each.producer_id.0, first: each.first_offset });
        assert_eq!(*aborted, theirs.collect::<Vec<_>>());
        assert_eq!(*elsewhere, encoded.preferred_read_replica.0 >= 0);
        assert_eq!(&bytes[records.clone()], encoded.records.as_deref().unwrap_or_default());
    }
}

/// Whatever came of changed bytes: nothing is more than the bytes can hold.
fn bounded(answer: &Result<Answer, Malformed>, bytes: usize) {
    let Ok(answer) = answer else { return };
    assert!(answer.partitions.len() <= bytes / 30);
    for fetched in &answer.partitions {
        assert!(fetched.aborted.len() <= bytes / 16);
        assert!(fetched.records.end <= bytes);
    }
}

proptest! {
    #[test]
    fn a_request_asks_for_what_is_wanted(
        version in versions(), correlation: i32, names in btree_set("[a-zA-Z0-9._-]{1,249}", 1..5),
        wanted in vec((any::<Index>(), any::<i32>(), any::<i64>(), any::<i32>()), 0..200),
        (wait_ms, bytes, partition_bytes) in any::<(i32, i32, i32)>(),
    ) {
        let topics = Topics::new(names.iter().map(String::as_str));
        let indexes: Vec<TopicIndex> = topics.iter().map(|(topic, _)| topic).collect();
        let wanted: Vec<Wanted> = wanted.into_iter().map(|(topic, partition, offset, last_epoch)| {
            let partition = PartitionId { topic: *topic.get(&indexes), partition };
            Wanted { partition, offset, last_epoch }
        }).collect();
        let limits = Limits { wait_ms, bytes, partition_bytes };
        let request = fetch_request(version, correlation, &topics, &wanted, limits);
        let (header, fetch) = asked::<FetchRequest>(&request, version);
        prop_assert_eq!(header.correlation_id, correlation);
        prop_assert_eq!((fetch.max_wait_ms, fetch.max_bytes), (wait_ms, bytes));
        prop_assert_eq!((fetch.min_bytes, fetch.isolation_level), (1, 1));
        // A consumer, without session, that forgets nothing and is in no rack.
        prop_assert_eq!(fetch.replica_id.0, -1);
        prop_assert_eq!((fetch.session_id, fetch.session_epoch), (0, -1));
        prop_assert!(fetch.forgotten_topics_data.is_empty() && fetch.rack_id.is_empty());
        // In the order in which they are wanted, and no topic twice in a row.
        prop_assert!(fetch.topics.windows(2).all(|two| two[0].topic != two[1].topic));
        prop_assert!(fetch.topics.iter().all(|topic| !topic.partitions.is_empty()));
        let partitions = fetch.topics.iter().flat_map(|topic| {
            let index = topics.index(&topic.topic).unwrap();
            topic.partitions.iter().map(move |partition| (index, partition))
        });
        let partitions: Vec<_> = partitions.collect();
        let asked: Vec<Wanted> = partitions.iter().zip(&wanted).map(|((topic, asked), wanted)| Wanted {
            partition: PartitionId { topic: *topic, partition: asked.partition },
            offset: asked.fetch_offset,
            // Version 11 does not ask for it.
            last_epoch: if version < 12 { wanted.last_epoch } else { asked.last_fetched_epoch },
        }).collect();
        prop_assert_eq!(partitions.len(), wanted.len());
        prop_assert_eq!(asked, wanted);
        for (_, asked) in partitions {
            prop_assert_eq!((asked.current_leader_epoch, asked.log_start_offset), (-1, -1));
            prop_assert_eq!(asked.partition_max_bytes, partition_bytes);
        }
    }

    #[test]
    fn an_answer_says_what_the_broker_said((version, answer) in answers(), correlation: i32) {
        let bytes = encoded(&answer, version, correlation);
        let decoded = answered(&bytes, version, correlation).unwrap();
        compare(&decoded, &bytes, &answer);
    }

    #[test]
    fn no_beginning_of_an_answer_and_nothing_longer_is_one(
        (version, answer) in answers(), more in vec(any::<u8>(), 1..9),
    ) {
        let bytes = encoded(&answer, version, 7);
        for end in 0..bytes.len() {
            prop_assert!(answered(&bytes[..end], version, 7).is_err());
        }
        let longer = [bytes, more].concat();
        prop_assert!(answered(&longer, version, 7).is_err());
    }

    #[test]
    fn changed_answers_never_panic_and_hold_no_more_than_their_bytes(
        (version, answer) in answers(), changes in vec((any::<Index>(), any::<u8>(), 0..3u8), 1..5),
        as_version in versions(),
    ) {
        let mut bytes = encoded(&answer, version, 7);
        for (at, byte, kind) in changes {
            match kind {
                0 => bytes.insert(at.index(bytes.len() + 1), byte),
                1 => { bytes.remove(at.index(bytes.len())); }
                _ => { let at = at.index(bytes.len()); bytes[at] = byte; }
            }
        }
        bounded(&answered(&bytes, as_version, 7), bytes.len());
        bounded(&answered(&bytes, version, 7), bytes.len());
    }

    #[test]
    fn numbers_that_are_too_large_at_any_place_take_no_memory(
        (version, answer) in answers(),
        lie in select(vec![
            &[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0xff, 0xff, 0xff, 0xff, 0x7f], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x80, 0, 0, 0],
        ]),
    ) {
        let bytes = encoded(&answer, version, 7);
        for at in 0..bytes.len() {
            let mut lied = bytes.clone();
            let end = (at + lie.len()).min(lied.len());
            lied.splice(at..end, lie.iter().copied());
            bounded(&answered(&lied, version, 7), lied.len());
        }
    }

    #[test]
    fn the_newest_version_that_both_speak_is_chosen(
        others in vec((2..80i16, any::<i16>(), any::<i16>()), 0..20), at: Index, correlation: i32,
        least in 0..20i16, span in 0..20i16,
    ) {
        let most = least + span;
        let mut all = others;
        all.insert(at.index(all.len() + 1), (1, least, most));
        let bytes = versions_answer(&all, correlation, 0);
        let both = (OLDEST_FETCH..=NEWEST_FETCH).rfind(|version| (least..=most).contains(version));
        prop_assert_eq!(fetch_version(&bytes, correlation), Ok(both));
    }

    #[test]
    fn changed_answers_about_versions_never_panic(
        all in vec((0..4i16, any::<i16>(), any::<i16>()), 0..5), at: Index, byte: u8, end: Index,
    ) {
        let mut bytes = versions_answer(&all, 0, 0);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(end.index(bytes.len() + 1));
        if let Ok(Some(version)) = fetch_version(&bytes, 0) {
            prop_assert!((OLDEST_FETCH..=NEWEST_FETCH).contains(&version));
        }
    }
}

fn versions_answer(all: &[(i16, i16, i16)], correlation: i32, error: i16) -> Vec<u8> {
    let one = |(key, least, most): &(i16, i16, i16)| {
        ApiVersion::default().with_api_key(*key).with_min_version(*least).with_max_version(*most)
    };
    let answer = ApiVersionsResponse::default()
        .with_error_code(error)
        .with_api_keys(all.iter().map(one).collect());
    encoded(&answer, 0, correlation)
}

#[test]
fn the_request_for_versions_is_one_that_all_brokers_understand() {
    let (header, _) = asked::<ApiVersionsRequest>(&versions_request(-5), 0);
    assert_eq!(header.correlation_id, -5);
}

#[test]
fn a_broker_that_is_too_old_too_new_or_does_not_fetch_is_told_apart() {
    let version = |all: &[_]| fetch_version(&versions_answer(all, 3, 0), 3);
    // Kafka 2.2, 2.3, 2.7, 3.9 and 4.1, and one that may come.
    for (fetch, expected) in [
        ((1, 0, 10), None),
        ((1, 0, 11), Some(11)),
        ((1, 0, 12), Some(12)),
        ((1, 0, 17), Some(12)),
        ((1, 4, 18), Some(12)),
        ((1, 13, 20), None),
    ] {
        assert_eq!(version(&[(0, 0, 9), fetch, (18, 0, 4)]), Ok(expected), "{fetch:?}");
    }
    assert_eq!(version(&[(0, 0, 9), (18, 0, 4)]), Ok(None));
    assert_eq!(version(&[]), Ok(None));
    let refused = fetch_version(&versions_answer(&[(1, 0, 12)], 3, 35), 3).unwrap_err();
    assert!(refused.to_string().contains("does not tell the versions"), "{refused}");
    let other = fetch_version(&versions_answer(&[(1, 0, 12)], 3, 0), 4).unwrap_err();
    assert!(other.to_string().contains("answers another request"), "{other}");
}

#[test]
fn an_answer_to_another_request_or_of_another_topic_is_refused() {
    for version in OLDEST_FETCH..=NEWEST_FETCH {
        let topic = |name: &'static str| {
            FetchableTopicResponse::default().with_topic(TopicName(StrBytes::from_static_str(name)))
        };
        let answer = |names: &[&'static str]| {
            let topics = names.iter().map(|name| topic(name)).collect();
            encoded(&FetchResponse::default().with_responses(topics), version, 7)
        };
        let error = |names: &[_], correlation| {
            let (answer, wanted) = (answer(names), [wanted(TOPIC, 0)]);
            let read = fetch_answer(&answer, version, correlation, &topics(), &wanted);
            read.unwrap_err().to_string()
        };
        assert!(error(&[TOPIC], 8).contains("answers another request"));
        // Also one of those that are read, if it was not asked for this time.
        for names in [&["reading"][..], &["readings2"], &[""], &[TOPIC, "other"], &[TOPIC, OTHER]] {
            assert!(error(names, 7).contains("a topic that was not asked for"), "{names:?}");
        }
        // None at all, when the broker refuses the whole.
        assert_eq!(answered(&answer(&[]), version, 7).unwrap().partitions, []);
    }
}
