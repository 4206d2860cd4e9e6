//! What lies on disk, byte for byte, and the way up from the format before.

use super::*;
use crate::protocol::UNNAMED;

/// The values of the format of today, byte for byte. If this fails, the format has changed: give it
/// a new version, and a way up from this one.
#[test]
fn a_store_of_format_version_two_is_read_and_written_alike() {
    let golden = sample(include_str!("../../../tests/data/state_v2.txt"));
    assert_eq!(hex_lines(&stored(two_epochs().path())), hex_lines(&golden));
    let dir = holding(&golden);
    let state = open(dir.path()).load(FLOW).unwrap();
    assert_eq!(
        state,
        LocalState { pending: prepared(&checkpoint(2)), last: last(1), given_up: false }
    );
}

/// What the version before left: one checkpoint in the table, and one open.
fn format_one() -> TempDir {
    holding(&sample(include_str!("../../../tests/data/state_v1.txt")))
}

fn seen_by_format_one() -> LocalState {
    LocalState { pending: prepared(&checkpoint(2)), last: last_without_uuid(1), given_up: false }
}

#[test]
fn a_store_of_format_version_one_is_upgraded_with_its_first_checkpoint_and_goes_on() {
    let dir = format_one();
    let store = open(dir.path());
    store.finalize(FLOW, &in_table(id(2), 78), &end(10)).unwrap();
    let records = store.checkpoints(FLOW).unwrap();
    let outcomes: Vec<Outcome> = records.iter().map(|record| record.outcome()).collect();
    assert_eq!(outcomes, [committed(77), committed(78)]);
    assert_eq!(records[0].commits[0].frontier, checkpoint(1).frontiers[TABLE]);
    drop(store);

    let raw = stored(dir.path());
    assert!(raw.values().all(|value| value[4..6] == 2u16.to_be_bytes()), "all of it is format 2");
    assert!(raw.keys().all(|key| ![2, 3, 4].contains(&key[0])), "nothing of format 1 is left");

    let store = open(dir.path());
    store.prepare(FLOW, &checkpoint(3), &start()).unwrap();
    assert_eq!(store.load(FLOW).unwrap().last, last(2));
    let records = store.checkpoints(FLOW).unwrap();
    let outcomes: Vec<Outcome> = records.iter().map(|record| record.outcome()).collect();
    assert_eq!(outcomes, [committed(77), committed(78), Outcome::Pending]);
}

/// Everything that a process does before it knows that its tables are the right ones.
#[test]
fn a_store_of_format_version_one_stays_one_until_a_checkpoint_is_written_to_it() {
    let dir = format_one();
    let before = stored(dir.path());
    for open in [StateStore::open, StateStore::open_existing] {
        let store = open(dir.path(), "flow").unwrap();
        let state = store.load(FLOW).unwrap();
        assert_eq!(state, seen_by_format_one());
        assert_eq!(store.checkpoints(FLOW).unwrap().len(), 2);
        drop(store);
        assert_eq!(hex_lines(&stored(dir.path())), hex_lines(&before));
    }
    DB::open_default(dir.path()).unwrap().delete(keys::MEMBER).unwrap();
    let member = open(dir.path()).member().unwrap();
    let raw = stored(dir.path());
    assert!(raw.values().all(|value| value[4..6] == 1u16.to_be_bytes()), "all of it is format 1");
    let store = open(dir.path());
    assert_eq!(store.member().unwrap(), member);
    for write in [
        |store: &StateStore| store.give_up(FLOW, "a reason"),
        |store: &StateStore| store.add_seconds(FLOW, &StepSeconds::default()),
    ] {
        let dir = holding(&raw);
        let store = StateStore::open(dir.path(), "flow").unwrap();
        write(&store).unwrap();
        assert_eq!(store.member().unwrap(), member);
        drop(store);
        let raw = stored(dir.path());
        assert!(raw.values().all(|value| value[4..6] == 2u16.to_be_bytes()));
    }
}

#[test]
fn what_format_version_one_saw_is_of_no_table_by_name_until_a_commit_says_of_which() {
    let mut records = sample(include_str!("../../../tests/data/state_v1.txt"));
    records.remove(keys::OPEN_1);
    let dir = holding(&records);
    let store = open(dir.path());
    let unnamed = BTreeMap::from([(UNNAMED.to_owned(), last_without_uuid(1)[TABLE].clone())]);
    assert_eq!(
        store.load(FLOW).unwrap(),
        LocalState { pending: vec![], last: unnamed.clone(), given_up: false }
    );
    store.prepare(FLOW, &checkpoint(2), &start()).unwrap();
    assert_eq!(store.load(FLOW).unwrap().last, unnamed, "after the upgrade, too");
    store.finalize(FLOW, &superseded(id(2)), &end(10)).unwrap();
    assert_eq!(store.load(FLOW).unwrap().last, unnamed);
    store.prepare(FLOW, &checkpoint(3), &start()).unwrap();
    store.finalize(FLOW, &in_table(id(3), 79), &end(10)).unwrap();
    assert_eq!(store.load(FLOW).unwrap().last, last(3));
}

#[test]
fn a_store_of_format_version_one_is_read_without_being_changed() {
    let dir = format_one();
    let before = stored(dir.path());
    let reader = StateStore::open_read_only(dir.path()).unwrap();
    let state = reader.load(FLOW).unwrap();
    assert_eq!(state, seen_by_format_one());
    assert_eq!(reader.open_checkpoints().unwrap(), [checkpoint(2)]);
    assert_eq!(reader.checkpoints(FLOW).unwrap().len(), 2);
    drop(reader);
    assert_eq!(hex_lines(&stored(dir.path())), hex_lines(&before));
}

#[test]
fn a_damaged_store_of_format_version_one_is_left_as_it_is() {
    for key in [keys::OPEN_1, keys::LAST_1] {
        let dir = format_one();
        change(dir.path(), key, damaged);
        let before = stored(dir.path());
        let store = open(dir.path());
        for failed in [store.load(FLOW).err(), store.prepare(FLOW, &checkpoint(3), &start()).err()]
        {
            assert!(matches!(failed, Some(StateError::Corrupt { .. })), "{failed:?}");
        }
        drop(store);
        assert_eq!(hex_lines(&stored(dir.path())), hex_lines(&before));
    }
}

/// Records that people read are not needed for any row: what is left of them is shown, and a damaged
/// one keeps nobody from going on.
#[test]
fn a_damaged_record_that_only_people_read_is_left_out() {
    let newest = keys::record(keys::records_1(), 1);
    let today = keys::record(&keys::records(FLOW), 1);
    for (dir, key) in [(format_one(), newest), (two_epochs(), today)] {
        change(dir.path(), &key, damaged);
        let reader = StateStore::open_read_only(dir.path()).unwrap();
        assert_eq!(reader.checkpoints(FLOW).unwrap().len(), 1);
        drop(reader);
        let store = open(dir.path());
        store.finalize(FLOW, &in_table(id(2), 78), &end(10)).unwrap();
        store.add_seconds(FLOW, &StepSeconds::default()).unwrap();
        store.prepare(FLOW, &checkpoint(3), &start()).unwrap();
        store.give_up(FLOW, "a reason").unwrap();
        let epochs: Vec<Epoch> =
            store.checkpoints(FLOW).unwrap().iter().map(|record| record.epoch).collect();
        assert_eq!((epochs.first(), epochs.last()), (Some(&Epoch(1)), Some(&Epoch(3))));
    }
}

fn damaged(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[20] ^= 1;
    bytes
}

fn sample(text: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(key, value)| (unhex(key), unhex(value)))
        .collect()
}

fn holding(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> TempDir {
    let dir = TempDir::new().unwrap();
    let db = DB::open_default(dir.path()).unwrap();
    records.iter().for_each(|(key, value)| db.put(key, value).unwrap());
    dir
}

fn stored(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    DB::open_default(dir)
        .unwrap()
        .iterator(rocksdb::IteratorMode::Start)
        .map(|item| item.map(|(key, value)| (key.into_vec(), value.into_vec())).unwrap())
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn hex_lines(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    records.iter().map(|(key, value)| format!("{} {}\n", hex(key), hex(value))).collect()
}
