//! A shard's queue of records that librdkafka fetches: the fetch queues of its partitions forwarded into one, read in batches.
//!
//! `rd_kafka_consume_batch_queue` costs about half the CPU of polling message by message, and the
//! crate does not offer it: this file and `admin.rs` hold all the calls into C.
#![allow(unsafe_code, reason = "librdkafka's batch consume has no safe binding")]

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rdsys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::{
    Header, Headers, HeadersError, PartitionId, Polled, Record, SourceContext, SourceError,
    TopicIndex, Topics, admin,
};
use crate::base::os_error::is_log_truncation;
use crate::protocol::{Offset, TopicPartition};

/// Messages taken from the client at once: enough to spread the cost of a call, few enough that a
/// barrier is seen soon and little memory is held.
const BATCH: usize = 1000;

/// A queue of the client into which the fetch queues of partitions can be forwarded.
pub(super) struct Target {
    queue: *mut rdsys::rd_kafka_queue_t,
    // A queue must not outlive its client.
    consumer: Arc<BaseConsumer<SourceContext>>,
}

// SAFETY: librdkafka's queues may be used from any thread, by several at once; the pointer is owned
// by this value alone and the client it belongs to is kept alive by `consumer`.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: made once in `ClientQueue::new`, and the client still lives.
        unsafe { rdsys::rd_kafka_queue_destroy(self.queue) };
    }
}

/// A partition's fetch queue, forwarded into a target until this is dropped.
pub(super) struct Forwarded {
    source: *mut rdsys::rd_kafka_queue_t,
    // Keeps the target, and with it the client: records flow into it.
    _target: Arc<Target>,
}

// SAFETY: as for `Target`; the reference to the fetch queue is owned by this value alone.
unsafe impl Send for Forwarded {}

impl Forwarded {
    pub(super) fn new(
        consumer: &BaseConsumer<SourceContext>,
        tp: &TopicPartition,
        target: &Arc<Target>,
    ) -> Result<Self, String> {
        let topic = CString::new(tp.topic.as_str()).map_err(|e| e.to_string())?;
        // SAFETY: client and queues are valid; the returned reference is destroyed in drop.
        unsafe {
            let source = rdsys::rd_kafka_queue_get_partition(
                consumer.client().native_ptr(),
                topic.as_ptr(),
                tp.partition,
            );
            if source.is_null() {
                return Err(format!("{tp}: the client has no queue for it"));
            }
            rdsys::rd_kafka_queue_forward(source, target.queue);
            Ok(Self { source, _target: target.clone() })
        }
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // SAFETY: the reference was taken once, and the client still lives.
        unsafe {
            rdsys::rd_kafka_queue_forward(self.source, ptr::null_mut());
            rdsys::rd_kafka_queue_destroy(self.source);
        }
    }
}

/// The queue of one shard. Owned by its thread.
pub(crate) struct ClientQueue {
    target: Arc<Target>,
    topics: Topics,
    batch: Vec<*mut rdsys::rd_kafka_message_t>,
    /// The client's objects of the topics of a batch.
    seen: Vec<(*const rdsys::rd_kafka_topic_t, TopicIndex)>,
}

// SAFETY: `batch` holds no message between calls of `poll`, `seen` is only compared with, and the
// queue may change threads.
unsafe impl Send for ClientQueue {}

impl ClientQueue {
    pub(super) fn new(consumer: &Arc<BaseConsumer<SourceContext>>, topics: &Topics) -> Self {
        // SAFETY: the client pointer is valid while `consumer` lives; the queue is destroyed in drop.
        let queue = unsafe { rdsys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self {
            target: Arc::new(Target { queue, consumer: consumer.clone() }),
            topics: topics.clone(),
            batch: vec![ptr::null_mut(); BATCH],
            seen: Vec::new(),
        }
    }

    pub(super) fn target(&self) -> Arc<Target> {
        self.target.clone()
    }

    /// See [`super::ShardQueue::poll`].
    pub(crate) fn poll(
        &mut self,
        wait: Duration,
        mut take: impl FnMut(Polled<'_>) -> bool,
    ) -> usize {
        let mut count = self.fill(BATCH, 0);
        if count == 0 {
            // A larger batch would be waited for until it is full: only the first message is.
            let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
            count = self.fill(1, millis);
        }
        // Only of the messages of one batch, which are there together, is it certain that two topics
        // are not at one address, one after the other.
        self.seen.clear();
        let mut go_on = true;
        for index in 0..count {
            let message = self.batch[index];
            if go_on {
                // SAFETY: the message is ours until it is destroyed below, after its last use.
                let topic = unsafe { self.topic(message) };
                go_on = match topic {
                    // SAFETY: as above.
                    Some(topic) => take(unsafe { polled(&self.topics, topic, message) }),
                    None => true,
                };
            }
            // SAFETY: each message returned by the client is destroyed exactly once.
            unsafe { rdsys::rd_kafka_message_destroy(message) };
        }
        count
    }

    /// See [`super::ShardQueue::has_some`].
    pub(crate) fn has_some(&mut self, wait: Duration) -> bool {
        // SAFETY: the queue is valid.
        let is_there = || unsafe { rdsys::rd_kafka_queue_length(self.target.queue) } > 0;
        if !is_there() {
            // The client offers no wait that takes nothing.
            std::thread::sleep(wait);
        }
        is_there()
    }

    /// See [`super::ShardQueue::positions`].
    pub(crate) fn positions(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Vec<(PartitionId, Offset)> {
        admin::positions(self.target.consumer.client(), &self.topics, partitions)
    }

    /// The topic of a message, by the client's object of it and only once in a batch by its name;
    /// `None` for one that we do not read, of which nothing is forwarded to us.
    ///
    /// # Safety
    /// `message` must be a live message of the batch.
    #[inline]
    unsafe fn topic(&mut self, message: *mut rdsys::rd_kafka_message_t) -> Option<TopicIndex> {
        // SAFETY: by contract of this function.
        let topic = unsafe { (*message).rkt }.cast_const();
        if let Some((_, index)) = self.seen.iter().rev().find(|(seen, _)| *seen == topic) {
            return Some(*index);
        }
        // SAFETY: a live message keeps its topic.
        unsafe { self.look_up(topic) }
    }

    /// # Safety
    /// `topic` must be null or live.
    #[cold]
    unsafe fn look_up(&mut self, topic: *const rdsys::rd_kafka_topic_t) -> Option<TopicIndex> {
        // SAFETY: the name is the topic's own, and is not kept.
        let name = (!topic.is_null())
            .then(|| unsafe { CStr::from_ptr(rdsys::rd_kafka_topic_name(topic)) });
        let found = name.and_then(|name| self.topics.index(name.to_str().ok()?));
        match found {
            Some(index) => self.seen.push((topic, index)),
            None => tracing::warn!(topic = ?name, "the client hands over what nobody asked for"),
        }
        found
    }

    fn fill(&mut self, most: usize, timeout_ms: i32) -> usize {
        // SAFETY: `batch` has room for BATCH >= most pointers and the queue is valid.
        let count = unsafe {
            rdsys::rd_kafka_consume_batch_queue(
                self.target.queue,
                timeout_ms,
                self.batch.as_mut_ptr(),
                most,
            )
        };
        usize::try_from(count).unwrap_or(0)
    }
}

/// The headers of a message, which librdkafka reads, and copies, when it is first asked for them.
#[derive(Clone, Copy)]
pub(super) struct MessageHeaders<'a> {
    message: NonNull<rdsys::rd_kafka_message_t>,
    /// Lives as long as the message.
    of: PhantomData<&'a rdsys::rd_kafka_message_t>,
}

impl<'a> MessageHeaders<'a> {
    /// The headers. A name is cut off at a zero byte, for librdkafka does not tell its length.
    pub(super) fn iter(self) -> impl Iterator<Item = Result<Header<'a>, HeadersError>> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives, and nobody else uses it; what it gives is its own.
        let code = unsafe { rdsys::rd_kafka_message_headers(self.message.as_ptr(), &mut headers) };
        let (count, error) = match code {
            // SAFETY: the list was given just now.
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                (unsafe { rdsys::rd_kafka_header_cnt(headers) }, None)
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__NOENT => (0, None),
            error => (0, Some(HeadersError(RDKafkaErrorCode::from(error).to_string()))),
        };
        // SAFETY: the list has as many, and is not changed while the message lives.
        let header = move |at| Ok(unsafe { header(headers, at) });
        (0..count).map(header).chain(error.map(Err))
    }
}

/// # Safety
/// `headers` must be a list of a message that lives for `'a`, and have a header at `at`.
unsafe fn header<'a>(headers: *const rdsys::rd_kafka_headers_t, at: usize) -> Header<'a> {
    let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
    // SAFETY: by contract of this function; the out-pointers are valid for the call, and what they
    // are set to belongs to the list. Without a header there, they are left as they are.
    unsafe {
        rdsys::rd_kafka_header_get_all(headers, at, &mut name, &mut value, &mut length);
        let name = if name.is_null() { c"" } else { CStr::from_ptr(name) };
        (name.to_bytes(), slice(value, length))
    }
}

/// # Safety
/// `bytes` must be null or have `length` bytes that live for `'a`.
unsafe fn slice<'a>(bytes: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: by contract of this function.
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) })
}

/// A record without key, value and headers. librdkafka gives each record like that which was written in a
/// format of before Kafka 0.11 (its issue 5504): as tombstones they would all be lost.
#[cold]
fn empty<'a>(topics: &Topics, id: PartitionId, offset: Offset) -> Polled<'a> {
    let detail = String::from(
        "a record in it has neither key nor value nor headers, and librdkafka reads all records like that \
         whose format is older than Kafka 0.11; KAFKA_FETCHER=icestream tells one from the other",
    );
    let error = SourceError::Unreadable {
        partition: topics.tp(id),
        offset,
        next: Some(offset + 1),
        detail,
    };
    Polled::Failed { partition: id, error }
}

/// # Safety
/// `message` must be a live message of a consumer and of `topic`; the result must not outlive it.
unsafe fn polled<'a>(
    topics: &Topics,
    topic: TopicIndex,
    message: *mut rdsys::rd_kafka_message_t,
) -> Polled<'a> {
    // SAFETY: by contract of this function.
    let m = unsafe { &*message };
    if m.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        // SAFETY: each pair describes one buffer of the live message.
        let [key, value] = [(m.key, m.key_len), (m.payload, m.len)]
            .map(|(bytes, length)| unsafe { slice(bytes, length) });
        // SAFETY: a null type pointer is allowed.
        let timestamp = unsafe { rdsys::rd_kafka_message_timestamp(message, ptr::null_mut()) };
        let of = || MessageHeaders { message: NonNull::from(m), of: PhantomData };
        if key.is_none() && value.is_none() && of().iter().next().is_none() {
            return empty(topics, PartitionId { topic, partition: m.partition }, m.offset);
        }
        return Polled::Record(Record {
            topic,
            partition: m.partition,
            offset: m.offset,
            timestamp_ms: (timestamp >= 0).then_some(timestamp),
            key,
            value,
            headers: NonNull::new(message).map_or(Headers::NONE, |message| {
                Headers::of_message(MessageHeaders { message, of: PhantomData })
            }),
        });
    }
    // SAFETY: the returned string is valid while the message lives; it is copied here.
    let detail = unsafe {
        let text = rdsys::rd_kafka_message_errstr(message);
        if text.is_null() {
            String::from("no detail")
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    let id = PartitionId { topic, partition: m.partition };
    let partition = topics.tp(id);
    let code = RDKafkaErrorCode::from(m.err);
    let error = match code {
        RDKafkaErrorCode::AutoOffsetReset if is_log_truncation(&detail) => {
            SourceError::CutOff { partition, detail }
        }
        RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset => {
            SourceError::OutOfRange { partition, offset: m.offset, detail }
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => SourceError::Unauthorised {
            what: partition.to_string(),
            brokers: String::from("the cluster"),
            detail,
        },
        RDKafkaErrorCode::BadMessage
        | RDKafkaErrorCode::BadCompression
        | RDKafkaErrorCode::InvalidMessage
        | RDKafkaErrorCode::NotImplemented
        | RDKafkaErrorCode::UnsupportedCompressionType => {
            SourceError::Unreadable { partition, offset: m.offset, next: None, detail }
        }
        _ => SourceError::Partition { partition, detail: format!("{code}: {detail}") },
    };
    Polled::Failed { partition: id, error }
}
