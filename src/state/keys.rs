//! Keys of the store. One byte of prefix says what a record is; a prefix is never used again for
//! something else, also after its record is retired.

/// The one record about the store itself.
pub(super) const META: &[u8] = &[0x01];
/// The checkpoint that is prepared and not finalized, if there is one (I2: never two).
pub(super) const OPEN: &[u8] = &[0x02];
/// The newest checkpoint that was seen to be in the table.
pub(super) const LAST: &[u8] = &[0x03];
/// The retained checkpoints: this byte and a number, 8 bytes, big end first, so that the order of
/// the keys is the order in which they were prepared.
pub(super) const RECORD_PREFIX: u8 = 0x04;
/// The name under which the process is a member of its consumer group.
pub(super) const MEMBER: &[u8] = &[0x05];
// 0x06 to 0x0f are reserved for records to come.

/// Length of a key of a retained checkpoint.
const RECORD_LENGTH: usize = 9;

/// The key of the retained checkpoint `number`.
pub(super) fn record(number: u64) -> [u8; RECORD_LENGTH] {
    let mut key = [RECORD_PREFIX; RECORD_LENGTH];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number of the retained checkpoint under `key`, if it is the key of one.
pub(super) fn record_number(key: &[u8]) -> Option<u64> {
    match key.split_first() {
        Some((&RECORD_PREFIX, number)) => number.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}

/// A key as messages show it.
pub(super) fn show(key: &[u8]) -> String {
    match key {
        META => "meta".to_owned(),
        OPEN => "open checkpoint".to_owned(),
        LAST => "last checkpoint".to_owned(),
        MEMBER => "group member".to_owned(),
        _ => record_number(key).map_or_else(
            || format!("unknown key {key:02x?}"),
            |number| format!("checkpoint record {number}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_records_sort_by_number_and_are_read_back() {
        let numbers = [0, 1, 255, 256, u64::MAX];
        let keys = numbers.map(record);
        assert!(keys.is_sorted());
        assert_eq!(keys.map(|key| record_number(&key)), numbers.map(Some));
        assert_eq!(record_number(META), None);
        assert_eq!(record_number(&[RECORD_PREFIX, 1, 2]), None);
    }

    #[test]
    fn messages_name_a_key_by_what_it_holds() {
        assert_eq!(show(OPEN), "open checkpoint");
        assert_eq!(show(&record(7)), "checkpoint record 7");
        assert_eq!(show(&[0xff]), "unknown key [ff]");
    }
}
