//! Records from Kafka, a batch at a call, as cheaply as librdkafka gives them: the crate offers
//! only one message at a call, which costs about twice the CPU.
#![allow(unsafe_code, reason = "librdkafka's batch consume has no safe binding")]

use std::ffi::CString;
use std::ptr;

use rdkafka::bindings as rdsys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

/// Messages taken at once.
const BATCH: usize = 8192;
/// How long a batch may take to fill.
const WAIT_MS: i32 = 5;

/// A record, borrowed from the client.
pub struct Record<'a> {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Its value.
    pub payload: &'a [u8],
}

/// Some partitions of a topic, all in one queue.
pub struct Batches {
    consumer: BaseConsumer,
    queue: *mut rdsys::rd_kafka_queue_t,
    sources: Vec<*mut rdsys::rd_kafka_queue_t>,
    messages: Vec<*mut rdsys::rd_kafka_message_t>,
}

impl Batches {
    /// Begins to read these partitions at these offsets.
    pub fn new(consumer: BaseConsumer, topic: &str, from: &[(i32, i64)]) -> Self {
        let name = CString::new(topic).expect("a topic's name");
        let client = consumer.client().native_ptr();
        // SAFETY: the client lives as long as `consumer`, which is dropped after the queues.
        let queue = unsafe { rdsys::rd_kafka_queue_new(client) };
        let mut assignment = TopicPartitionList::new();
        let mut sources = Vec::new();
        for (partition, offset) in from {
            // SAFETY: client and queues are valid; the reference is given back in `drop`.
            // Forwarded before it is assigned: nothing reaches the consumer's own queue.
            unsafe {
                let source = rdsys::rd_kafka_queue_get_partition(client, name.as_ptr(), *partition);
                assert!(!source.is_null(), "no queue of {topic}[{partition}]");
                rdsys::rd_kafka_queue_forward(source, queue);
                sources.push(source);
            }
            let offset = Offset::Offset(*offset);
            assignment.add_partition_offset(topic, *partition, offset).expect("an offset");
        }
        consumer.assign(&assignment).expect("an assignment");
        Self { consumer, queue, sources, messages: vec![ptr::null_mut(); BATCH] }
    }

    /// Hands over what comes within a few milliseconds. Gives the number of records.
    pub fn poll(&mut self, mut take: impl FnMut(Record<'_>)) -> usize {
        // SAFETY: `messages` has room for BATCH pointers and the queue is valid.
        let count = unsafe {
            rdsys::rd_kafka_consume_batch_queue(
                self.queue,
                WAIT_MS,
                self.messages.as_mut_ptr(),
                BATCH,
            )
        };
        let count = usize::try_from(count).expect("a batch of records");
        for message in &self.messages[..count] {
            // SAFETY: each of the messages is ours until it is destroyed here, once, after its
            // last use; its payload and length describe one buffer.
            unsafe {
                let m = &**message;
                assert_eq!(m.err, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, "a record");
                let payload = std::slice::from_raw_parts(m.payload.cast::<u8>(), m.len);
                let timestamp = rdsys::rd_kafka_message_timestamp(*message, ptr::null_mut());
                take(Record { partition: m.partition, offset: m.offset, timestamp, payload });
                rdsys::rd_kafka_message_destroy(*message);
            }
        }
        count
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        let none = TopicPartitionList::new();
        self.consumer.assign(&none).expect("the end of an assignment");
        // SAFETY: each was made once above, and the client still lives.
        unsafe {
            for source in &self.sources {
                rdsys::rd_kafka_queue_forward(*source, ptr::null_mut());
                rdsys::rd_kafka_queue_destroy(*source);
            }
            rdsys::rd_kafka_queue_destroy(self.queue);
        }
    }
}
