//! What brokers say of one partition, and records that are damaged.

use std::time::Duration;

use super::broker::Refusal;
use super::{Got, Rig, SMALL, of_first, until};
use crate::source::SourceError;

/// Two partitions of ten batches of ten records.
fn rig() -> Rig {
    let rig = Rig::new(1, 2, SMALL);
    for partition in rig.world.partitions() {
        for _ in 0..10 {
            rig.world.append(partition, 10, 100);
        }
    }
    rig
}

/// Partition 0 fails behind record `end`, once and for good, and 1 goes on.
fn fails_at(rig: &mut Rig, end: i64) -> SourceError {
    rig.take_all();
    rig.read([1]);
    rig.read_until("the failure", |got| !got.failed.is_empty());
    rig.got.assert_all(0, 0..end);
    for partition in rig.world.partitions() {
        rig.world.append(partition, 10, 100);
    }
    rig.read([1]);
    // What would be asked of 0 would be in the answers to these.
    let asked = rig.broker().asked().len();
    until("two more requests", || rig.broker().asked().len() >= asked + 2);
    rig.poll(Duration::ZERO);
    rig.got.assert_all(0, 0..end);
    rig.got.assert_all(1, 0..rig.world.end(1));
    let Got { failed, .. } = &mut rig.got;
    assert_eq!(failed.len(), 1, "{failed:?}");
    let (partition, error) = failed.remove(0);
    assert_eq!(partition, 0.into());
    error
}

fn refused(refusal: Refusal) -> SourceError {
    let mut rig = rig();
    // At the end of an answer, so that what it has is read before.
    rig.world.refuse_from(0, 100, refusal);
    let error = fails_at(&mut rig, 100);
    assert_eq!(rig.positions(), of_first([(0, 100), (1, 110)]));
    error
}

#[test]
fn an_offset_that_the_broker_does_not_have_is_out_of_range() {
    let error = refused(Refusal::Code(1));
    assert!(matches!(error, SourceError::OutOfRange { offset: 100, .. }), "{error}");
    assert!(!error.is_transient());
}

#[test]
fn an_offset_that_only_a_leader_of_before_does_not_have_is_asked_for_again() {
    let mut rig = rig();
    rig.world.refuse(0, &[1]);
    rig.take_all();
    rig.read([1]);
    assert!(rig.fetcher.take_leaders_wanted());
    rig.read_all();
    rig.got.assert_all(0, 0..100);
    assert!(rig.got.failed.is_empty());
}

#[test]
fn an_offset_behind_the_end_of_the_log_is_out_of_range() {
    let mut rig = rig();
    rig.assign(0, 101);
    rig.read_until("the failure", |got| !got.failed.is_empty());
    let (partition, error) = rig.got.failed.remove(0);
    assert!(matches!(error, SourceError::OutOfRange { offset: 101, .. }), "{error}");
    assert_eq!((partition, rig.got.count()), (0.into(), 0));
}

#[test]
fn a_log_that_was_cut_off_below_what_was_read_is_named_as_that() {
    let error = refused(Refusal::Truncated(70));
    assert!(matches!(error, SourceError::CutOff { .. }), "{error}");
    for words in ["offset 100 was the next", "cut off at 70"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_topic_that_may_not_be_read_is_an_error_of_authorisation() {
    let error = refused(Refusal::Code(29));
    assert!(matches!(error, SourceError::Unauthorised { .. }), "{error}");
}

#[test]
fn a_batch_that_its_broker_cannot_read_either_is_unreadable() {
    for code in [2, 76] {
        let error = refused(Refusal::Code(code));
        assert!(matches!(error, SourceError::Unreadable { next: None, .. }), "{error}");
    }
}

#[test]
fn a_code_that_is_not_known_fails_its_partition() {
    let error = refused(Refusal::Code(87));
    assert!(matches!(error, SourceError::Partition { .. }), "{error}");
    assert!(error.to_string().contains("error 87"), "{error}");
}

#[test]
fn a_broker_that_names_another_replica_to_read_from_is_refused() {
    let error = refused(Refusal::Elsewhere(1));
    assert!(error.to_string().contains("KAFKA_FETCHER=librdkafka"), "{error}");
}

#[test]
fn codes_that_pass_by_themselves_are_waited_out() {
    let mut rig = rig();
    rig.world.refuse(0, &[3, 5, 6, 7, 8, 9, 13, 56, 74, 75, 78, 100, 103]);
    rig.take_all();
    rig.read([1]);
    assert!(rig.fetcher.take_leaders_wanted());
    rig.read_all();
    for partition in rig.world.partitions() {
        rig.got.assert_all(partition, 0..100);
    }
    assert!(rig.got.failed.is_empty());
}

#[test]
fn a_partition_that_cannot_be_served_is_not_asked_for_at_once_again() {
    let rig = rig();
    rig.world.refuse(0, &[6; 5]);
    rig.assign(0, 0);
    until("six requests", || rig.broker().asked().len() >= 6);
    let asked = rig.broker().asked();
    let lasted = asked[5] - asked[0];
    assert!(lasted >= Duration::from_millis(500), "{lasted:?}");
}

#[test]
fn a_damaged_batch_fails_its_partition_behind_the_good_ones() {
    let mut rig = rig();
    rig.world.damage(0, 40, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let error = fails_at(&mut rig, 40);
    // It says itself where it ends.
    assert!(
        matches!(error, SourceError::Unreadable { offset: 40, next: Some(50), .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("at offset 40 cannot be read: the checksum"), "{error}");
    assert!(error.to_string().contains("ledger skip --at 0=50`"), "{error}");
    // Nothing is said of a partition with a hole.
    assert_eq!(rig.positions(), of_first([(1, 110)]));
}

#[test]
fn a_batch_in_an_old_format_fails_its_partition_behind_the_good_ones() {
    let mut rig = rig();
    rig.world.damage(0, 40, |bytes| bytes[16] = 1);
    let error = fails_at(&mut rig, 40);
    assert!(
        error
            .to_string()
            .contains("at offset 40 cannot be read: its records are in format version 1"),
        "{error}"
    );
}

#[test]
fn a_batch_with_an_impossible_length_fails_its_partition_behind_the_good_ones() {
    let mut rig = rig();
    rig.world.damage(0, 40, |bytes| bytes[8] = 0xff);
    let error = fails_at(&mut rig, 40);
    assert!(matches!(error, SourceError::Unreadable { offset: 40, next: None, .. }), "{error:?}");
}

#[test]
fn a_failed_partition_that_is_released_and_taken_again_is_read_again() {
    let mut rig = rig();
    rig.world.damage(0, 40, |bytes| *bytes.last_mut().unwrap() ^= 1);
    fails_at(&mut rig, 40);
    rig.world.damage(0, 40, |bytes| *bytes.last_mut().unwrap() ^= 1);
    rig.revoke(0);
    rig.assign(0, 40);
    rig.read_all();
    rig.got.assert_all(0, 0..110);
}
