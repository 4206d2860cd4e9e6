//! What the crate's metadata does not tell: the topic's id, and the log's end without a request.
#![allow(unsafe_code, reason = "librdkafka's DescribeTopics has no safe binding")]

use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::bindings as rdsys;
use rdkafka::client::Client;
use rdkafka::types::RDKafkaRespErr;

use super::SourceContext;
use crate::protocol::{Offset, TopicPartition};

/// Kafka's own "no id": brokers too old to have topic ids answer with it.
const ZERO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The topic's id in base64 as `broker` (or the controller) tells it, or `None` where the cluster does not tell (old brokers, no right to
/// describe). A missing id only switches off one check, so its cause is logged and not an error.
pub(super) fn topic_id(
    client: &Client<SourceContext>,
    topic: &str,
    broker: Option<i32>,
    timeout: Duration,
) -> Option<String> {
    let name = CString::new(topic).ok()?;
    let mut names = [name.as_ptr()];
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every pointer made here is destroyed here; results are read before their event is
    // destroyed; the client outlives the call.
    unsafe {
        let topics = rdsys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let queue = rdsys::rd_kafka_queue_new(client.native_ptr());
        let options = rdsys::rd_kafka_AdminOptions_new(
            client.native_ptr(),
            rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        let mut text = [0; 256];
        rdsys::rd_kafka_AdminOptions_set_request_timeout(
            options,
            millis,
            text.as_mut_ptr(),
            text.len(),
        );
        if let Some(broker) = broker {
            rdsys::rd_kafka_AdminOptions_set_broker(options, broker, text.as_mut_ptr(), text.len());
        }
        rdsys::rd_kafka_DescribeTopics(client.native_ptr(), topics, options, queue);
        let event = rdsys::rd_kafka_queue_poll(queue, millis.saturating_add(1000));
        let id = if event.is_null() { None } else { read_id(event) };
        if !event.is_null() {
            rdsys::rd_kafka_event_destroy(event);
        }
        rdsys::rd_kafka_AdminOptions_destroy(options);
        rdsys::rd_kafka_queue_destroy(queue);
        rdsys::rd_kafka_TopicCollection_destroy(topics);
        if id.is_none() {
            tracing::debug!(topic, "the cluster tells no topic id");
        }
        id
    }
}

/// # Safety
/// `event` must be a live event.
unsafe fn read_id(event: *mut rdsys::rd_kafka_event_t) -> Option<String> {
    // SAFETY: the results belong to the live event; strings are copied.
    unsafe {
        if rdsys::rd_kafka_event_error(event) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let result = rdsys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return None;
        }
        let mut count = 0;
        let topics = rdsys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() || count == 0 {
            return None;
        }
        let id = rdsys::rd_kafka_TopicDescription_topic_id(*topics);
        if id.is_null() {
            return None;
        }
        let text = rdsys::rd_kafka_Uuid_base64str(id);
        if text.is_null() {
            return None;
        }
        let text = CStr::from_ptr(text).to_string_lossy().into_owned();
        (!text.is_empty() && text != ZERO_ID).then_some(text)
    }
}

/// End of the log as the last fetch of the partition saw it. No I/O.
pub(super) fn cached_log_end(
    client: &Client<SourceContext>,
    tp: &TopicPartition,
) -> Option<Offset> {
    let topic = CString::new(tp.topic.as_str()).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is live and both out-pointers are valid for the call.
    let code = unsafe {
        rdsys::rd_kafka_get_watermark_offsets(
            client.native_ptr(),
            topic.as_ptr(),
            tp.partition,
            &mut low,
            &mut high,
        )
    };
    (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

/// How far the client has handed each partition over: the offset after the last record or
/// transaction marker that was taken from its queue. Partitions of which nothing was taken since
/// they were assigned are left out. No I/O.
pub(super) fn positions(
    client: &Client<SourceContext>,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
) -> Vec<(i32, Offset)> {
    let Ok(topic) = CString::new(topic) else { return Vec::new() };
    let (least, _) = partitions.size_hint();
    // SAFETY: the list is made and destroyed here, and the client is live; the elements are read
    // before that, within their count.
    unsafe {
        let list = rdsys::rd_kafka_topic_partition_list_new(i32::try_from(least).unwrap_or(0));
        for partition in partitions {
            rdsys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), partition);
        }
        rdsys::rd_kafka_position(client.native_ptr(), list);
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        let elements =
            if count == 0 { &[][..] } else { std::slice::from_raw_parts((*list).elems, count) };
        let known = elements.iter().filter(|element| element.offset >= 0);
        let known = known.map(|element| (element.partition, element.offset)).collect();
        rdsys::rd_kafka_topic_partition_list_destroy(list);
        known
    }
}
