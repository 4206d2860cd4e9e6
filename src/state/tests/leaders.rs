//! Leader epochs beside the checkpoints.

use super::*;

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn leaders(generation: u64, of: &[(&str, i32, i64, i32)]) -> Leaders {
    let mut leaders = Leaders { tables: TABLE.into(), generation, ..Leaders::default() };
    for (topic, partition, next, epoch) in of {
        leaders.insert(&tp(topic, *partition), *next, *epoch);
    }
    leaders
}

fn start_with(leaders: &Leaders) -> CheckpointStart {
    CheckpointStart { leaders: leaders.clone(), ..start() }
}

#[test]
fn leader_epochs_are_on_disk_with_their_checkpoint_and_those_of_quiet_partitions_stay() {
    let dir = TempDir::new().unwrap();
    let first = leaders(0, &[("a", 0, 10, 3), ("a", 1, 5, 4), ("b", 0, 7, 1)]);
    open(dir.path()).prepare(FLOW, &checkpoint(1), &start_with(&first)).unwrap();
    let store = open(dir.path());
    assert_eq!(store.leaders(FLOW).unwrap(), first);
    assert_eq!(store.leaders("another").unwrap(), Leaders::default());
    store.finalize(FLOW, &in_table(id(1), 77), &end(10)).unwrap();
    let moved = leaders(0, &[("a", 1, 9, 6)]);
    store.prepare(FLOW, &checkpoint(2), &start_with(&moved)).unwrap();
    let both = store.leaders(FLOW).unwrap();
    let known = [("a", 0, 10), ("a", 1, 9), ("a", 1, 5), ("b", 0, 7), ("b", 1, 7), ("c", 0, 7)]
        .map(|(topic, partition, next)| both.epoch(&tp(topic, partition), next));
    assert_eq!(known, [Some(3), Some(6), None, Some(1), None, None]);
}

#[test]
fn leader_epochs_of_ledgers_as_they_were_before_an_edit_are_forgotten() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let before = leaders(0, &[("a", 0, 10, 3), ("a", 1, 5, 4)]);
    store.prepare(FLOW, &checkpoint(1), &start_with(&before)).unwrap();
    store.finalize(FLOW, &in_table(id(1), 77), &end(10)).unwrap();
    let after = leaders(1, &[("a", 1, 5, 7)]);
    store.prepare(FLOW, &checkpoint(2), &start_with(&after)).unwrap();
    assert_eq!(store.leaders(FLOW).unwrap(), after);
    // A checkpoint that knows of none says nothing of them.
    store.finalize(FLOW, &in_table(id(2), 78), &end(10)).unwrap();
    store.prepare(FLOW, &checkpoint(3), &start()).unwrap();
    assert_eq!(store.leaders(FLOW).unwrap(), after);
}

#[test]
fn damaged_leader_epochs_are_left_out_and_written_anew() {
    let dir = TempDir::new().unwrap();
    let known = leaders(0, &[("a", 0, 10, 3)]);
    open(dir.path()).prepare(FLOW, &checkpoint(1), &start_with(&known)).unwrap();
    change(dir.path(), &keys::leaders(FLOW), |mut bytes| {
        bytes[20] ^= 1;
        bytes
    });
    let store = open(dir.path());
    assert_eq!(store.leaders(FLOW).unwrap(), Leaders::default());
    store.finalize(FLOW, &in_table(id(1), 77), &end(10)).unwrap();
    store.prepare(FLOW, &checkpoint(2), &start_with(&known)).unwrap();
    assert_eq!(store.leaders(FLOW).unwrap(), known);
}

/// Byte for byte: if this fails, the format has changed, and older stores need a way up.
#[test]
fn leader_epochs_lie_on_disk_as_they_did() {
    let leaders = leaders(2, &[("a", 0, 10, 3), ("a", 12, 5, 4)]);
    let text =
        r#"{"tables":"lake.readings","generation":2,"before":{"a":{"0":[10,3],"12":[5,4]}}}"#;
    assert_eq!(serde_json::to_string(&leaders).unwrap(), text);
    assert_eq!(serde_json::from_str::<Leaders>(text).unwrap(), leaders);
}
