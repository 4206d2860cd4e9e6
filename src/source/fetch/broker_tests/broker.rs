//! A broker: a listener on the loopback device that answers from logs in memory, and misbehaves on
//! demand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse, ProducerId, ResponseHeader,
    TopicName,
};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, StrBytes, decode_request_header_from_buffer,
};
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::super::connection::Address;
use crate::protocol::Offset;
use crate::source::{PartitionId, Topics};

/// Leader epoch of all records.
const EPOCH: i32 = 3;
/// Who has transactions.
const PRODUCER: i64 = 7;
const FETCH: i16 = 1;
const VERSIONS: i16 = 18;

/// The value of a record.
pub(super) fn payload(id: PartitionId, offset: Offset, size: usize) -> Vec<u8> {
    let (topic, partition) = (id.topic.at(), id.partition);
    let mut value = format!("{topic}/{partition}/{offset}/").into_bytes();
    value.resize(size.max(value.len()), b'x');
    value
}

/// A batch of records with values of `size` bytes.
fn batch(
    partition: PartitionId,
    base: Offset,
    count: i64,
    size: usize,
    transactional: bool,
) -> Vec<u8> {
    let record = |offset: Offset| Record {
        transactional,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: EPOCH,
        producer_id: if transactional { PRODUCER } else { -1 },
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: i32::try_from(offset).unwrap(),
        timestamp: 1_000 + offset,
        key: None,
        value: Some(payload(partition, offset, size).into()),
        headers: Default::default(),
    };
    let records: Vec<Record> = (base..base + count).map(record).collect();
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
    out.to_vec()
}

/// How a broker refuses to read from an offset on.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    /// Kafka's error code.
    Code(i16),
    /// The log ends here since another leader was elected.
    Truncated(Offset),
    /// It is to be read from this replica.
    Elsewhere(i32),
}

struct Stored {
    base: Offset,
    next: Offset,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Log {
    leader: i32,
    batches: Vec<Stored>,
    /// Where a transaction began that was aborted.
    aborted: Option<Offset>,
    /// Answered to the next requests, whatever they ask for.
    codes: VecDeque<i16>,
    refused_from: Option<(Offset, Refusal)>,
}

impl Log {
    fn end(&self) -> Offset {
        self.batches.last().map_or(0, |last| last.next)
    }

    /// The log from an offset on, cut off at any byte, as Kafka does.
    fn read(&self, from: Offset, most: usize, one_at_least: bool) -> Bytes {
        let mut out = Vec::new();
        for batch in self.batches.iter().filter(|batch| batch.next > from) {
            let room = most.saturating_sub(out.len());
            if out.is_empty() && batch.bytes.len() > room {
                return match one_at_least {
                    true => Bytes::copy_from_slice(&batch.bytes),
                    false => Bytes::new(),
                };
            }
            out.extend(&batch.bytes[..batch.bytes.len().min(room)]);
        }
        out.into()
    }
}

/// The logs of all brokers.
pub(super) struct World {
    topics: Topics,
    logs: Mutex<BTreeMap<PartitionId, Log>>,
    changed: Condvar,
}

/// What a broker says of the partitions of a topic.
type TopicAnswer = (TopicName, Vec<PartitionData>);

impl World {
    /// Of each topic so many partitions, which have the leader of their number.
    pub(super) fn new(topics: &Topics, partitions: &[i32], leader: impl Fn(i32) -> i32) -> Self {
        let of = topics.iter().zip(partitions);
        let ids = of.flat_map(|((topic, _), partitions)| {
            (0..*partitions).map(move |partition| PartitionId { topic, partition })
        });
        let log = |id: PartitionId| (id, Log { leader: leader(id.partition), ..Log::default() });
        let logs = Mutex::new(ids.map(log).collect());
        Self { topics: topics.clone(), logs, changed: Condvar::new() }
    }

    fn log<T>(&self, partition: impl Into<PartitionId>, change: impl FnOnce(&mut Log) -> T) -> T {
        let done = change(self.logs.lock().unwrap().get_mut(&partition.into()).unwrap());
        self.changed.notify_all();
        done
    }

    /// Appends a batch of records whose values have so many bytes.
    pub(super) fn append(&self, partition: impl Into<PartitionId>, count: i64, size: usize) {
        let partition = partition.into();
        self.log(partition, |log| {
            let base = log.end();
            let bytes = batch(partition, base, count, size, false);
            log.batches.push(Stored { base, next: base + count, bytes });
        });
    }

    /// The same, of a transaction that is aborted in the end.
    pub(super) fn append_aborted(
        &self,
        partition: impl Into<PartitionId>,
        count: i64,
        size: usize,
    ) {
        let partition = partition.into();
        self.log(partition, |log| {
            let base = log.end();
            log.aborted.get_or_insert(base);
            let bytes = batch(partition, base, count, size, true);
            log.batches.push(Stored { base, next: base + count, bytes });
        });
    }

    /// Changes the bytes of the batch that begins at an offset.
    pub(super) fn damage(
        &self,
        partition: impl Into<PartitionId>,
        base: Offset,
        change: impl Fn(&mut Vec<u8>),
    ) {
        self.log(partition, |log| {
            change(&mut log.batches.iter_mut().find(|batch| batch.base == base).unwrap().bytes);
        });
    }

    pub(super) fn refuse(&self, partition: impl Into<PartitionId>, codes: &[i16]) {
        self.log(partition, |log| log.codes.extend(codes));
    }

    pub(super) fn refuse_from(
        &self,
        partition: impl Into<PartitionId>,
        offset: Offset,
        refusal: Refusal,
    ) {
        self.log(partition, |log| log.refused_from = Some((offset, refusal)));
    }

    /// Another broker leads, -1 for none.
    pub(super) fn lead(&self, partition: impl Into<PartitionId>, broker: i32) {
        self.log(partition, |log| log.leader = broker);
    }

    pub(super) fn end(&self, partition: impl Into<PartitionId>) -> Offset {
        self.log(partition, |log| log.end())
    }

    pub(super) fn partitions(&self) -> Vec<PartitionId> {
        self.logs.lock().unwrap().keys().copied().collect()
    }

    pub(super) fn leaders(&self) -> BTreeMap<PartitionId, i32> {
        let logs = self.logs.lock().unwrap();
        logs.iter().filter(|(_, log)| log.leader >= 0).map(|(p, log)| (*p, log.leader)).collect()
    }

    /// Answers as `broker`, after waiting as long as was asked for if there is nothing to say.
    fn answer(&self, broker: i32, request: &FetchRequest) -> Vec<TopicAnswer> {
        let begun = Instant::now();
        let wait = Duration::from_millis(request.max_wait_ms.try_into().unwrap());
        let mut logs = self.logs.lock().unwrap();
        loop {
            let mut room = usize::try_from(request.max_bytes).unwrap();
            let mut first = true;
            let mut of_topic = |asked: &FetchTopic| {
                let topic = self.topics.index(&asked.topic).unwrap();
                let answers = asked.partitions.iter().map(|wanted| {
                    let id = PartitionId { topic, partition: wanted.partition };
                    one(logs.get_mut(&id).unwrap(), broker, wanted, &mut room, &mut first)
                });
                (asked.topic.clone(), answers.collect())
            };
            let answers: Vec<TopicAnswer> = request.topics.iter().map(&mut of_topic).collect();
            let told = |each: &PartitionData| {
                each.error_code != 0
                    || each.records.as_ref().is_some_and(|records| !records.is_empty())
                    || each.diverging_epoch != EpochEndOffset::default()
            };
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() || answers.iter().flat_map(|(_, all)| all).any(told) {
                return answers;
            }
            logs = self.changed.wait_timeout(logs, left).unwrap().0;
        }
    }
}

fn one(
    log: &mut Log,
    broker: i32,
    wanted: &FetchPartition,
    room: &mut usize,
    first: &mut bool,
) -> PartitionData {
    let end = log.end();
    let answer = PartitionData::default()
        .with_partition_index(wanted.partition)
        .with_high_watermark(end)
        .with_last_stable_offset(end)
        .with_records(Some(Bytes::new()));
    if log.leader != broker {
        return answer.with_error_code(6);
    }
    if let Some(code) = log.codes.pop_front() {
        return answer.with_error_code(code);
    }
    match log.refused_from {
        Some((offset, Refusal::Code(code))) if wanted.fetch_offset >= offset => {
            return answer.with_error_code(code);
        }
        Some((offset, Refusal::Truncated(at))) if wanted.fetch_offset >= offset => {
            assert_eq!(wanted.last_fetched_epoch, EPOCH, "the epoch of the record before");
            let epoch = EpochEndOffset::default().with_epoch(EPOCH - 1).with_end_offset(at);
            return answer.with_diverging_epoch(epoch);
        }
        Some((offset, Refusal::Elsewhere(replica))) if wanted.fetch_offset >= offset => {
            return answer.with_preferred_read_replica(BrokerId(replica));
        }
        _ if wanted.fetch_offset > end => return answer.with_error_code(1),
        _ => {}
    }
    let most = usize::try_from(wanted.partition_max_bytes).unwrap().min(*room);
    let records = log.read(wanted.fetch_offset, most, *first);
    *first &= records.is_empty();
    *room = room.saturating_sub(records.len());
    let aborted = log.aborted.map(|first| {
        let producer = ProducerId(PRODUCER);
        vec![AbortedTransaction::default().with_producer_id(producer).with_first_offset(first)]
    });
    answer.with_records(Some(records)).with_aborted_transactions(aborted)
}

/// What a broker does instead of answering.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trick {
    /// Closes the connection.
    Close,
    /// Sends so many bytes of the answer and closes the connection.
    Cut(usize),
    /// Sends something else and closes the connection.
    Say(&'static [u8]),
    /// Answers another request.
    Mistake,
    /// Tells to speak these versions of Fetch.
    Speak(i16, i16),
    /// An error of the whole.
    Error(i16),
    /// Answers, and asks to be left alone for so many milliseconds.
    Throttle(i32),
    /// Says nothing of any partition.
    Nothing,
    /// Answers with the topics in the opposite order.
    Reverse,
    /// Answers as if one topic had been asked for by another name.
    Rename(&'static str),
}

#[derive(Default)]
struct Shared {
    id: i32,
    stopped: AtomicBool,
    /// For connections, requests for versions and requests for records to come.
    on_accept: Mutex<VecDeque<Trick>>,
    on_versions: Mutex<VecDeque<Trick>>,
    on_fetch: Mutex<VecDeque<Trick>>,
    /// When connections and requests for records came.
    accepted: Mutex<Vec<Instant>>,
    asked: Mutex<Vec<Instant>>,
    /// How many partitions of each topic each of these named.
    named: Mutex<Vec<Vec<usize>>>,
    /// Answers with records that were sent.
    served: AtomicUsize,
    /// Are answers held back, and how many are.
    held: Mutex<(bool, usize)>,
    gate: Condvar,
    open: Mutex<Vec<TcpStream>>,
}

/// See the module.
pub(super) struct Broker {
    address: Address,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// An address of this test alone: others cannot get it while nobody listens there.
pub(super) fn new_address() -> Address {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let host = Ipv4Addr::new(127, 86, high, low);
    let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
    Address { host: host.to_string(), port }
}

impl Broker {
    pub(super) fn start(id: i32, world: &Arc<World>) -> Self {
        Self::start_at(id, world, new_address())
    }

    pub(super) fn start_at(id: i32, world: &Arc<World>, address: Address) -> Self {
        let listener = TcpListener::bind((address.host.as_str(), address.port)).unwrap();
        let shared = Arc::new(Shared { id, ..Shared::default() });
        let (own, world) = (shared.clone(), world.clone());
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stopped.load(Ordering::Acquire) {
                    return;
                }
                let (own, world) = (own.clone(), world.clone());
                std::thread::spawn(move || own.connection(&world, stream.unwrap()));
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn on_accept(&self, tricks: &[Trick]) {
        self.shared.on_accept.lock().unwrap().extend(tricks);
    }

    pub(super) fn on_versions(&self, tricks: &[Trick]) {
        self.shared.on_versions.lock().unwrap().extend(tricks);
    }

    pub(super) fn on_fetch(&self, tricks: &[Trick]) {
        self.shared.on_fetch.lock().unwrap().extend(tricks);
    }

    /// When connections came.
    pub(super) fn accepted(&self) -> Vec<Instant> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// When requests for records came.
    pub(super) fn asked(&self) -> Vec<Instant> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many partitions each request for records named.
    pub(super) fn named(&self) -> Vec<usize> {
        self.named_by_topic().iter().map(|request| request.iter().sum()).collect()
    }

    /// How many partitions of a topic, and then of another, each request for records named.
    pub(super) fn named_by_topic(&self) -> Vec<Vec<usize>> {
        self.shared.named.lock().unwrap().clone()
    }

    /// Answers with records that were sent.
    pub(super) fn served(&self) -> usize {
        self.shared.served.load(Ordering::Acquire)
    }

    /// Connections that the other side did not close.
    pub(super) fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Holds answers back from now on, or sends them.
    pub(super) fn hold(&self, hold: bool) {
        self.shared.held.lock().unwrap().0 = hold;
        self.shared.gate.notify_all();
    }

    /// Answers that are held back.
    pub(super) fn held(&self) -> usize {
        self.shared.held.lock().unwrap().1
    }

    /// Listens no more and closes its connections.
    pub(super) fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopped.store(true, Ordering::Release);
        let host: Ipv4Addr = self.address.host.parse().unwrap();
        // Wakes it.
        drop(TcpStream::connect(SocketAddr::from((host, self.address.port))));
        acceptor.join().unwrap();
        self.hold(false);
        for stream in self.shared.open.lock().unwrap().iter() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn connection(&self, world: &World, mut stream: TcpStream) {
        self.accepted.lock().unwrap().push(Instant::now());
        let peer = stream.peer_addr().unwrap();
        self.open.lock().unwrap().push(stream.try_clone().unwrap());
        let trick = self.on_accept.lock().unwrap().pop_front();
        if trick.is_none() {
            // Ends with the connection, by either side.
            while self.exchange(world, &mut stream).is_ok_and(|go_on| go_on) {}
        }
        stream.shutdown(Shutdown::Both).ok();
        self.open.lock().unwrap().retain(|each| each.peer_addr().is_ok_and(|addr| addr != peer));
    }

    /// One request and its answer. False: the connection is to be closed.
    fn exchange(&self, world: &World, stream: &mut TcpStream) -> io::Result<bool> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut request)?;
        let mut request = Bytes::from(request);
        let header = decode_request_header_from_buffer(&mut request).unwrap();
        assert_eq!(header.client_id.as_deref(), Some("icestream"));
        let version = header.request_api_version;
        let tricks = match header.request_api_key {
            VERSIONS => &self.on_versions,
            FETCH => &self.on_fetch,
            other => panic!("nobody asks for {other}"),
        };
        let trick = tricks.lock().unwrap().pop_front();
        let mut answer = BytesMut::new();
        let (mistaken, records) = (i32::from(matches!(trick, Some(Trick::Mistake))), &mut false);
        let id = ResponseHeader::default().with_correlation_id(header.correlation_id + mistaken);
        if header.request_api_key == VERSIONS {
            id.encode(&mut answer, ApiVersionsResponse::header_version(version)).unwrap();
            versions(trick).encode(&mut answer, version).unwrap();
        } else {
            self.asked.lock().unwrap().push(Instant::now());
            let request = FetchRequest::decode(&mut request, version).unwrap();
            assert!(!request.topics.is_empty() && request.isolation_level == 1);
            let named = request.topics.iter().map(|topic| topic.partitions.len());
            self.named.lock().unwrap().push(named.collect());
            id.encode(&mut answer, FetchResponse::header_version(version)).unwrap();
            self.fetch(world, trick, &request, records).encode(&mut answer, version).unwrap();
        }
        let mut frame = u32::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
        frame.extend(&answer);
        let sent = match trick {
            Some(Trick::Close) => &[],
            Some(Trick::Cut(bytes)) => &frame[..bytes.min(frame.len() - 1)],
            Some(Trick::Say(bytes)) => bytes,
            _ => &frame[..],
        };
        self.served.fetch_add(usize::from(*records), Ordering::AcqRel);
        stream.write_all(sent)?;
        Ok(sent.len() == frame.len())
    }

    fn fetch(
        &self,
        world: &World,
        trick: Option<Trick>,
        request: &FetchRequest,
        records: &mut bool,
    ) -> FetchResponse {
        let response = FetchResponse::default();
        match trick {
            Some(Trick::Error(code)) => return response.with_error_code(code),
            Some(Trick::Nothing) => return response,
            _ => {}
        }
        let mut topics = world.answer(self.id, request);
        let mut partitions = topics.iter().flat_map(|(_, partitions)| partitions);
        *records = partitions.any(|each| each.records.as_ref().is_some_and(|r| !r.is_empty()));
        match trick {
            Some(Trick::Reverse) => topics.reverse(),
            Some(Trick::Rename(name)) => topics[0].0 = TopicName(StrBytes::from_static_str(name)),
            _ => {}
        }
        let mut held = self.held.lock().unwrap();
        held.1 += 1;
        while held.0 {
            held = self.gate.wait(held).unwrap();
        }
        held.1 -= 1;
        let topic = |(name, partitions)| {
            FetchableTopicResponse::default().with_topic(name).with_partitions(partitions)
        };
        let topics = topics.into_iter().map(topic).collect();
        let throttle = match trick {
            Some(Trick::Throttle(millis)) => millis,
            _ => 0,
        };
        response.with_throttle_time_ms(throttle).with_responses(topics)
    }
}

/// The versions of a present broker, which has dropped the oldest.
fn versions(trick: Option<Trick>) -> ApiVersionsResponse {
    let (least, most) = match trick {
        Some(Trick::Speak(least, most)) => (least, most),
        _ => (4, 17),
    };
    let api = |key, least, most| {
        ApiVersion::default().with_api_key(key).with_min_version(least).with_max_version(most)
    };
    let error = match trick {
        Some(Trick::Error(code)) => code,
        _ => 0,
    };
    let apis = vec![api(0, 3, 11), api(FETCH, least, most), api(VERSIONS, 0, 4)];
    ApiVersionsResponse::default().with_error_code(error).with_api_keys(apis)
}
