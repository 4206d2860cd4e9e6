//! The same batches through both kinds of queues: librdkafka's and our own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::*;
use crate::base::secret::Properties;
use crate::protocol::TopicPartition;
use crate::source::fetch::tests::{Entry, Got, NamedValue, Written};
use crate::source::{FetchBy, Share, Source, SourceSettings, Topics};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPICS: [&str; 2] = ["orders", "payments"];
/// Of the request that brings batches to a broker.
const VERSION: i16 = 8;

/// What came of each partition.
type Records = BTreeMap<TopicPartition, Vec<Got>>;
type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A broker, and topics of two partitions.
fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    TOPICS.iter().for_each(|topic| cluster.create_topic(topic, 2, 1).unwrap());
    cluster
}

fn topics() -> Topics {
    Topics::new(TOPICS)
}

fn of_topic(topic: &'static str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

/// Appends a batch, byte by byte as it is, but for its offset.
fn append(cluster: &Cluster, tp: &TopicPartition, batch: Vec<u8>) {
    let partition =
        PartitionProduceData::default().with_index(tp.partition).with_records(Some(batch.into()));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(tp.topic.clone())))
        .with_partition_data(vec![partition]);
    let request =
        ProduceRequest::default().with_acks(1).with_timeout_ms(1000).with_topic_data(vec![topic]);
    let header = RequestHeader::default().with_request_api_version(VERSION).with_correlation_id(1);
    let mut body = BytesMut::new();
    header.encode(&mut body, ProduceRequest::header_version(VERSION)).unwrap();
    request.encode(&mut body, VERSION).unwrap();
    let mut stream = TcpStream::connect(cluster.bootstrap_servers()).unwrap();
    stream.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut answer).unwrap();
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, ProduceResponse::header_version(VERSION)).unwrap();
    let answer = ProduceResponse::decode(&mut answer, VERSION).unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
}

/// A queue into which these partitions flow from their beginnings.
fn connect(
    cluster: &Cluster,
    fetch_by: FetchBy,
    partitions: &[TopicPartition],
) -> (Source, ShardQueue) {
    let source = Source::connect(SourceSettings {
        brokers: cluster.bootstrap_servers(),
        topics: topics(),
        group_id: String::from("queues"),
        group: None,
        properties: Properties::default(),
        fetch_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        batch_bytes: 1 << 30,
        queue_messages: 1000,
        fetch_by,
        offsets: Arc::default(),
    })
    .unwrap();
    source.partitions(PATIENCE).unwrap();
    let queue = source.queues(1).remove(0);
    let share = |tp: &TopicPartition| Share { tp: tp.clone(), start: 0, epoch: None, shard: 0 };
    source.assign(&partitions.iter().map(share).collect::<Vec<_>>()).unwrap();
    (source, queue)
}

/// Reads so many records of these partitions from their beginnings, and tells where the queue is.
fn read(
    cluster: &Cluster,
    fetch_by: FetchBy,
    partitions: &[TopicPartition],
    count: usize,
) -> (Records, Vec<(PartitionId, Offset)>) {
    let (source, mut queue) = connect(cluster, fetch_by, partitions);
    let (mut got, mut came, begun) = (Records::new(), 0, Instant::now());
    while came < count {
        assert!(begun.elapsed() < PATIENCE, "{came} of {count} records came");
        source.serve(Duration::ZERO).unwrap();
        queue.poll(Duration::from_millis(20), |polled| {
            match polled {
                Polled::Failed { partition, error } => panic!("{partition:?}: {error}"),
                Polled::Record(record) => {
                    came += 1;
                    got.entry(topics().tp(record.id())).or_default().push(Got::of(record));
                }
            }
            true
        });
    }
    let ids = partitions.iter().map(|tp| topics().id(tp).unwrap());
    (got, queue.positions(ids))
}

const BOTH: [FetchBy; 2] = [FetchBy::Icestream, FetchBy::Librdkafka];

/// Entries as they come, one behind the other.
fn batch(entries: Vec<Entry>) -> Written {
    let offsets: Vec<i32> = (0..).take(entries.len()).collect();
    let number = |(offset, entry)| Entry { offset, ..entry };
    let mut batch = Written::of(0, &offsets);
    batch.entries = offsets.into_iter().zip(entries).map(number).collect();
    batch
}

fn both_hand_over(entries: Vec<Entry>) {
    let (cluster, tp, written) = (cluster(), of_topic(TOPICS[1], 1), batch(entries));
    append(&cluster, &tp, written.bytes());
    let expected = written.records();
    for by in BOTH {
        let (got, _) = read(&cluster, by, std::slice::from_ref(&tp), expected.len());
        assert_eq!(got[&tp], expected, "{by:?}");
    }
}

#[test]
fn both_queues_tell_keys_and_headers_of_all_kinds() {
    let some = |bytes: &[u8]| Some(bytes.to_vec());
    let header = |name: &[u8], value: Option<&[u8]>| (name.to_vec(), value.map(<[u8]>::to_vec));
    let headers = |headers: Vec<NamedValue>| Entry { headers, ..Entry::default() };
    let many = (1..=1000_u16).map(|n| header(n.to_string().as_bytes(), Some(&n.to_be_bytes())));
    both_hand_over(vec![
        Entry { key: None, value: some(b"no key"), ..Entry::default() },
        Entry { key: some(b""), value: some(b"an empty key"), ..Entry::default() },
        Entry { key: some(&[0xff, 0]), value: some(b""), ..Entry::default() },
        Entry { key: some(b"a tombstone"), ..Entry::default() },
        headers(vec![header(b"null", None), header(b"empty", Some(b""))]),
        headers(vec![header(b"twice", Some(b"1")), header(b"twice", Some(b"2"))]),
        headers(vec![header(&[0xff, 0xfe], Some(&[0xff])), header(b"", Some(&[0, 0]))]),
        headers(many.collect()),
    ]);
}

#[test]
fn both_queues_hand_over_the_records_of_two_topics_by_their_topics() {
    let cluster = cluster();
    let tps = TOPICS.map(|topic| [0, 1].map(|n| of_topic(topic, n))).concat();
    let mut expected = BTreeMap::new();
    for (at, tp) in tps.iter().enumerate() {
        let value = tp.to_string().into_bytes();
        let entry = Entry { value: Some(value), ..Entry::default() };
        let written = batch(vec![entry; 100 + at]);
        append(&cluster, tp, written.bytes());
        expected.insert(tp.clone(), written.records());
    }
    let ends: Vec<(PartitionId, Offset)> =
        tps.iter().zip(100..).map(|(tp, end)| (topics().id(tp).unwrap(), end)).collect();
    for by in BOTH {
        let (got, positions) = read(&cluster, by, &tps, 406);
        assert!(got == expected, "{by:?}");
        assert_eq!(positions, ends, "{by:?}");
    }
}

#[test]
fn both_queues_hand_over_a_record_whose_headers_are_malformed_and_tell_so_who_asks() {
    let (cluster, tp) = (cluster(), of_topic(TOPICS[0], 0));
    // Without key, with a value of a byte, and a header whose name has two of its three bytes.
    let record = [0x14, 0, 0, 0, 0x01, 0x02, b'v', 0x02, 0x06, b'a', b'b'];
    append(&cluster, &tp, Written::of(0, &[0]).with(&record, 1));
    for by in BOTH {
        let (got, _) = read(&cluster, by, std::slice::from_ref(&tp), 1);
        let [Got { key, value, headers, .. }] = &got[&tp][..] else { panic!("{got:?}") };
        assert_eq!((key, value, headers), (&None, &Some(b"v".to_vec()), &None), "{by:?}");
    }
}

/// What may be in a record. librdkafka tells no name with a zero byte whole.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let bytes = || option::of(vec(any::<u8>(), 0..20));
    let header = (vec(1..=u8::MAX, 0..6), bytes());
    let entry = (bytes(), bytes(), vec(header, 0..6), 0..1000i64);
    // Of librdkafka, what has none of these is nothing to believe.
    let entry = entry.prop_filter("something", |(key, value, headers, _)| {
        key.is_some() || value.is_some() || !headers.is_empty()
    });
    let entry = entry.prop_map(|(key, value, headers, time)| Entry {
        time,
        key,
        value,
        headers,
        ..Entry::default()
    });
    vec(entry, 1..100)
}

proptest! {
    // Each has a cluster and two clients.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn both_queues_hand_over_whatever_is_in_a_record(entries in entries()) {
        both_hand_over(entries);
    }
}

/// As librdkafka gives each record in a format of before Kafka 0.11, whatever is in it.
#[test]
fn a_record_without_anything_is_a_tombstone_and_from_librdkafka_nothing_to_believe() {
    let (cluster, tp) = (cluster(), of_topic(TOPICS[0], 0));
    let some = |value: &[u8]| Entry { value: Some(value.to_vec()), ..Entry::default() };
    let written = batch(vec![some(b"a"), Entry::default(), some(b"b")]);
    append(&cluster, &tp, written.bytes());
    let (got, _) = read(&cluster, FetchBy::Icestream, std::slice::from_ref(&tp), 3);
    assert_eq!(got[&tp], written.records());
    let (source, mut queue) = connect(&cluster, FetchBy::Librdkafka, std::slice::from_ref(&tp));
    let (mut failed, begun) = (None, Instant::now());
    while failed.is_none() {
        assert!(begun.elapsed() < PATIENCE);
        source.serve(Duration::ZERO).unwrap();
        queue.poll(Duration::from_millis(20), |polled| {
            if let Polled::Failed { error, .. } = polled {
                failed = Some(error);
            }
            true
        });
    }
    let Some(SourceError::Unreadable { offset: 1, next: Some(2), detail, .. }) = failed else {
        panic!("{failed:?}")
    };
    assert!(detail.contains("KAFKA_FETCHER=icestream"), "{detail}");
}

#[test]
fn a_record_is_no_more_than_ten_words() {
    // One is made for each record and handed on by reference: two cache lines would be felt.
    let words = std::mem::size_of::<Record<'_>>() / std::mem::size_of::<usize>();
    assert!(words <= 10, "{words}");
}
