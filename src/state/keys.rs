//! Keys of the store. One byte of prefix says what a record is; a prefix is never used again for
//! something else, also after its record is retired.
//!
//! ```text
//! 01                    the store itself
//! 02                    format 1: the open checkpoint
//! 03                    format 1: the last checkpoint seen in the table
//! 04 NUMBER             format 1: a retained checkpoint
//! 05                    the member of the consumer group
//! 06 FLOW               the open checkpoint of a flow (I2: never two)
//! 07 FLOW               the last checkpoints of a flow seen in its tables, by table
//! 08 LENGTH FLOW NUMBER a retained checkpoint of a flow
//! 09 FLOW               leader epochs of what the checkpoints of a flow read
//! ```
//!
//! FLOW is the flow's name, LENGTH its bytes as u16, NUMBER is u64. Numbers stand with their big end
//! first, so that the order of the keys is the order in which checkpoints were prepared.

/// The one record about the store itself.
pub(super) const META: &[u8] = &[0x01];
/// Format 1: the checkpoint that is prepared and not finalized.
pub(super) const OPEN_1: &[u8] = &[0x02];
/// Format 1: the newest checkpoint that was seen to be in the table.
pub(super) const LAST_1: &[u8] = &[0x03];
/// Format 1: the retained checkpoints.
const RECORD_1: &[u8] = &[0x04];
/// The name under which the process is a member of its consumer group.
pub(super) const MEMBER: &[u8] = &[0x05];
const OPEN: u8 = 0x06;
const LAST: u8 = 0x07;
const RECORD: u8 = 0x08;
const LEADERS: u8 = 0x09;
// 0x0a to 0x0f are reserved for records to come.

const NUMBER_BYTES: usize = 8;

/// The key of the checkpoint of `flow` that is prepared and not finalized.
pub(super) fn open(flow: &str) -> Vec<u8> {
    [&[OPEN], flow.as_bytes()].concat()
}

/// The key of what was last seen in the tables of `flow`.
pub(super) fn last(flow: &str) -> Vec<u8> {
    [&[LAST], flow.as_bytes()].concat()
}

/// The key of the leader epochs of what the checkpoints of `flow` read.
pub(super) fn leaders(flow: &str) -> Vec<u8> {
    [&[LEADERS], flow.as_bytes()].concat()
}

/// The beginning of the keys of all open checkpoints.
pub(super) fn opens() -> &'static [u8] {
    &[OPEN]
}

/// The beginning of the keys of the retained checkpoints of `flow`.
pub(super) fn records(flow: &str) -> Vec<u8> {
    // A name is a consumer group's or a route's: far shorter. Longer ones would share a prefix, and
    // the length of the key still tells them apart.
    let length = u16::try_from(flow.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[RECORD], &length[..], flow.as_bytes()].concat()
}

/// The key of a retained checkpoint of those that begin with `records`.
pub(super) fn record(records: &[u8], number: u64) -> Vec<u8> {
    [records, &number.to_be_bytes()].concat()
}

/// The beginning of the keys of the retained checkpoints of format 1.
pub(super) fn records_1() -> &'static [u8] {
    RECORD_1
}

/// The number of the retained checkpoint under `key`, if it is one of those that begin with
/// `records`.
pub(super) fn record_number(records: &[u8], key: &[u8]) -> Option<u64> {
    key.strip_prefix(records)?.try_into().ok().map(u64::from_be_bytes)
}

/// A key as messages show it.
pub(super) fn show(key: &[u8]) -> String {
    match key {
        META => "meta".to_owned(),
        OPEN_1 | [OPEN, ..] => "open checkpoint".to_owned(),
        LAST_1 | [LAST, ..] => "last checkpoint".to_owned(),
        MEMBER => "group member".to_owned(),
        [LEADERS, ..] => "leader epochs".to_owned(),
        [0x04 | RECORD, .., _, _, _, _, _, _, _, _] => {
            let number = key.last_chunk::<NUMBER_BYTES>().map_or(0, |n| u64::from_be_bytes(*n));
            format!("checkpoint record {number}")
        }
        _ => format!("unknown key {key:02x?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_records_sort_by_number_and_are_read_back() {
        let numbers = [0, 1, 255, 256, u64::MAX];
        for records in [records("flow"), records(""), records_1().to_vec()] {
            let keys = numbers.map(|number| record(&records, number));
            assert!(keys.is_sorted());
            let back: Vec<_> = keys.iter().map(|key| record_number(&records, key)).collect();
            assert_eq!(back, numbers.map(Some));
            assert_eq!(record_number(&records, META), None);
        }
    }

    #[test]
    fn no_record_of_a_flow_is_taken_for_one_of_another() {
        let names =
            ["", "a", "ab", "b", "a\0\0\0\0\0\0\0\0", "\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}"];
        for one in names {
            for other in names.iter().filter(|other| **other != one) {
                for number in [0, 1, 0x6161_6161_6161_6161] {
                    let key = record(&records(other), number);
                    assert_eq!(record_number(&records(one), &key), None, "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn messages_name_a_key_by_what_it_holds() {
        assert_eq!(show(OPEN_1), "open checkpoint");
        assert_eq!(show(&open("flow")), "open checkpoint");
        assert_eq!(show(&last("flow")), "last checkpoint");
        assert_eq!(show(&leaders("checkpoints")), "leader epochs");
        assert_eq!(show(&record(&records("flow"), 7)), "checkpoint record 7");
        assert_eq!(show(&record(records_1(), 7)), "checkpoint record 7");
        assert_eq!(show(&[0xff]), "unknown key [ff]");
    }
}
