//! What the crate's metadata does not tell: the topics' ids, a group's members, and how far it came.
#![allow(
    unsafe_code,
    reason = "librdkafka's functions for these have no safe binding, or a poorer one"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as rdsys;
use rdkafka::client::Client;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::{PartitionId, SourceContext, Topics};
use crate::protocol::{Offset, TopicPartition};

/// Kafka's own "no id": brokers too old to have topic ids answer with it.
const ZERO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The ids of these topics in base64, as `broker` (or the controller) tells them. Those are left out of
/// which the cluster does not tell (old brokers, no right to describe): a missing id only switches off
/// one check, so its cause is logged and not an error.
pub(super) fn topic_ids<'a>(
    client: &Client<SourceContext>,
    topics: impl Iterator<Item = &'a str>,
    broker: Option<i32>,
    timeout: Duration,
) -> BTreeMap<String, String> {
    // A name with a zero byte is no topic's.
    let asked: Vec<CString> = topics.filter_map(|topic| CString::new(topic).ok()).collect();
    let mut names: Vec<*const c_char> = asked.iter().map(|name| name.as_ptr()).collect();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every pointer made here is destroyed here; the names live in `asked` and are copied;
    // results are read before their event is destroyed; the client outlives the call.
    let ids = unsafe {
        let topics =
            rdsys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
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
        let ids = if event.is_null() { BTreeMap::new() } else { read_ids(event) };
        if !event.is_null() {
            rdsys::rd_kafka_event_destroy(event);
        }
        rdsys::rd_kafka_AdminOptions_destroy(options);
        rdsys::rd_kafka_queue_destroy(queue);
        rdsys::rd_kafka_TopicCollection_destroy(topics);
        ids
    };
    if ids.len() < asked.len() {
        tracing::debug!(topics = ?asked, told = ?ids, "the cluster does not tell all topic ids");
    }
    ids
}

/// # Safety
/// `event` must be a live event.
unsafe fn read_ids(event: *mut rdsys::rd_kafka_event_t) -> BTreeMap<String, String> {
    // SAFETY: the results belong to the live event, and the array has `count` elements; strings are
    // copied.
    unsafe {
        if rdsys::rd_kafka_event_error(event) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return BTreeMap::new();
        }
        let result = rdsys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return BTreeMap::new();
        }
        let mut count = 0;
        let topics = rdsys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() {
            return BTreeMap::new();
        }
        let read = |at| {
            let topic = *topics.add(at);
            let name = rdsys::rd_kafka_TopicDescription_name(topic);
            let id = rdsys::rd_kafka_TopicDescription_topic_id(topic);
            if name.is_null() || id.is_null() {
                return None;
            }
            let text = rdsys::rd_kafka_Uuid_base64str(id);
            if text.is_null() {
                return None;
            }
            let [name, id] = [name, text].map(|text| CStr::from_ptr(text).to_string_lossy());
            (!id.is_empty() && id != ZERO_ID).then(|| (name.into_owned(), id.into_owned()))
        };
        (0..count).filter_map(read).collect()
    }
}

/// A member of a group.
pub(super) struct ListedMember {
    /// Its id, which the group gave it.
    pub id: String,
    /// What its client calls itself.
    pub client_id: String,
    /// What it is to read, in the words of its kind of group.
    pub assignment: Vec<u8>,
}

/// State and members of a group, of all brokers the one that knows it. `None` if that one does not answer
/// in time; others need not. (The crate's own function gives nothing where one does not, and takes ids
/// for text.)
pub(super) fn list_members(
    client: &Client<SourceContext>,
    group: &str,
    timeout: Duration,
) -> Option<(String, Vec<ListedMember>)> {
    let asked = CString::new(group).ok()?;
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut list = ptr::null();
    // SAFETY: client and name are live. A list that is given is destroyed here, once, after what is
    // read of it was copied.
    unsafe {
        let code =
            rdsys::rd_kafka_list_groups(client.native_ptr(), asked.as_ptr(), &mut list, millis);
        if list.is_null() {
            tracing::debug!(group, ?code, "the group's members are not told");
            return None;
        }
        let found = slice_of((*list).groups, (*list).group_cnt)
            .iter()
            .find(|found| found.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR)
            .map(|found| {
                let members = slice_of(found.members, found.member_cnt).iter().map(|member| {
                    let bytes = member.member_assignment.cast::<u8>();
                    ListedMember {
                        id: text(member.member_id),
                        client_id: text(member.client_id),
                        assignment: slice_of(bytes, member.member_assignment_size).to_vec(),
                    }
                });
                (text(found.state), members.collect())
            });
        rdsys::rd_kafka_group_list_destroy(list);
        found
    }
}

/// # Safety
/// `items` must be null or have `count` elements that live for `'a`.
unsafe fn slice_of<'a, T>(items: *const T, count: i32) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: by contract of this function.
        Ok(count @ 1..) if !items.is_null() => unsafe { std::slice::from_raw_parts(items, count) },
        _ => &[],
    }
}

/// # Safety
/// `text` must be null or a live string of C.
unsafe fn text(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: by contract of this function.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    }
}

/// How far the client has handed each partition over: the offset after the last record or
/// transaction marker that was taken from its queue. Partitions of which nothing was taken since
/// they were assigned are left out. No I/O.
pub(super) fn positions(
    client: &Client<SourceContext>,
    topics: &Topics,
    partitions: impl Iterator<Item = PartitionId>,
) -> Vec<(PartitionId, Offset)> {
    let ids: Vec<PartitionId> = partitions.collect();
    // A name with a zero byte is no topic's, and nothing is read from it.
    let names: Vec<Option<CString>> =
        topics.iter().map(|(_, name)| CString::new(name).ok()).collect();
    let named = |id: &PartitionId| names.get(id.topic.at()).and_then(Option::as_ref);
    let ids: Vec<PartitionId> = ids.into_iter().filter(|id| named(id).is_some()).collect();
    // SAFETY: the list is made and destroyed here, and the client is live; names are copied; the
    // elements are read before that, within their count.
    unsafe {
        let list = rdsys::rd_kafka_topic_partition_list_new(i32::try_from(ids.len()).unwrap_or(0));
        for id in &ids {
            if let Some(name) = named(id) {
                rdsys::rd_kafka_topic_partition_list_add(list, name.as_ptr(), id.partition);
            }
        }
        rdsys::rd_kafka_position(client.native_ptr(), list);
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        let elements =
            if count == 0 { &[][..] } else { std::slice::from_raw_parts((*list).elems, count) };
        // In the order in which they were added.
        let known = ids.into_iter().zip(elements).filter(|(_, element)| element.offset >= 0);
        let known = known.map(|(id, element)| (id, element.offset)).collect();
        rdsys::rd_kafka_topic_partition_list_destroy(list);
        known
    }
}

/// What was kept with the offsets of a list, in its order. (The crate's own function wants it to be UTF-8,
/// and panics where another program kept something else.)
pub(super) fn metadata_of(list: &TopicPartitionList) -> Vec<Vec<u8>> {
    let count = list.count();
    // SAFETY: the list is live and has `count` elements, whose metadata is copied.
    unsafe {
        let elements = if count == 0 {
            &[][..]
        } else {
            std::slice::from_raw_parts((*list.ptr()).elems, count)
        };
        let each = elements.iter().map(|element| {
            let size = i32::try_from(element.metadata_size).unwrap_or(0);
            slice_of(element.metadata.cast::<u8>().cast_const(), size).to_vec()
        });
        each.collect()
    }
}

/// Where the logs of these partitions end for a reader of all records, also of transactions that are not
/// ended. All of one leader; those of which it does not tell are left out. Blocks for at most about `timeout`.
pub(super) fn high_watermarks(
    client: &Client<SourceContext>,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> BTreeMap<TopicPartition, Offset> {
    use rdsys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED;
    use rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;

    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let count = i32::try_from(partitions.len()).unwrap_or(0);
    // SAFETY: every pointer made here is destroyed here; names are copied; elements are written within the
    // list; results are read before their event is destroyed; the client outlives the call.
    unsafe {
        let list = rdsys::rd_kafka_topic_partition_list_new(count);
        for tp in partitions {
            // A name with a zero byte is no topic's.
            let Ok(name) = CString::new(tp.topic.as_str()) else { continue };
            let added = rdsys::rd_kafka_topic_partition_list_add(list, name.as_ptr(), tp.partition);
            (*added).offset = rdsys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        }
        let queue = rdsys::rd_kafka_queue_new(client.native_ptr());
        let options =
            rdsys::rd_kafka_AdminOptions_new(client.native_ptr(), RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        let mut text = [0; 256];
        rdsys::rd_kafka_AdminOptions_set_request_timeout(
            options,
            millis,
            text.as_mut_ptr(),
            text.len(),
        );
        let error = rdsys::rd_kafka_AdminOptions_set_isolation_level(
            options,
            RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        );
        let mut ends = BTreeMap::new();
        if error.is_null() {
            rdsys::rd_kafka_ListOffsets(client.native_ptr(), list, options, queue);
            let event = rdsys::rd_kafka_queue_poll(queue, millis.saturating_add(1000));
            if !event.is_null() {
                ends = read_ends(event);
                rdsys::rd_kafka_event_destroy(event);
            }
        } else {
            rdsys::rd_kafka_error_destroy(error);
        }
        rdsys::rd_kafka_AdminOptions_destroy(options);
        rdsys::rd_kafka_queue_destroy(queue);
        rdsys::rd_kafka_topic_partition_list_destroy(list);
        ends
    }
}

/// # Safety
/// `event` must be a live event.
unsafe fn read_ends(event: *mut rdsys::rd_kafka_event_t) -> BTreeMap<TopicPartition, Offset> {
    // SAFETY: the results belong to the live event, and the array has `count` elements; names are copied.
    unsafe {
        let result = rdsys::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return BTreeMap::new();
        }
        let mut count = 0;
        let infos = rdsys::rd_kafka_ListOffsets_result_infos(result, &mut count);
        if infos.is_null() {
            return BTreeMap::new();
        }
        let each = |at| {
            let told = rdsys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(at));
            let told = told.as_ref()?;
            let is_good =
                told.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && told.offset >= 0;
            is_good.then(|| (TopicPartition::new(text(told.topic), told.partition), told.offset))
        };
        (0..count).filter_map(each).collect()
    }
}
