//! What lies on disk, byte for byte, and the way up from the format before.

use super::*;

/// The values of the format of today, byte for byte. If this fails, the format has changed: give it
/// a new version, and a way up from this one.
#[test]
fn a_store_of_format_version_two_is_read_and_written_alike() {
    let golden = sample(include_str!("../../../tests/data/state_v2.txt"));
    assert_eq!(hex_lines(&stored(two_epochs().path())), hex_lines(&golden));
    let dir = holding(&golden);
    let state = open(dir.path()).load(FLOW).unwrap();
    assert_eq!(state, LocalState { pending: prepared(&checkpoint(2)), last: last(1) });
}

/// What the version before left: one checkpoint in the table, and one open.
fn format_one() -> TempDir {
    holding(&sample(include_str!("../../../tests/data/state_v1.txt")))
}

#[test]
fn a_store_of_format_version_one_is_upgraded_when_it_is_opened_and_goes_on() {
    let dir = format_one();
    let store = open(dir.path());
    let state = store.load(FLOW).unwrap();
    assert_eq!(state, LocalState { pending: prepared(&checkpoint(2)), last: last(1) });
    let records = store.checkpoints(FLOW).unwrap();
    let outcomes: Vec<Outcome> = records.iter().map(|record| record.outcome()).collect();
    assert_eq!(outcomes, [committed(77), Outcome::Pending]);
    assert_eq!(records[0].commits[0].frontier, checkpoint(1).frontiers[TABLE]);
    drop(store);

    let raw = stored(dir.path());
    assert!(raw.values().all(|value| value[4..6] == 2u16.to_be_bytes()), "all of it is format 2");
    assert!(raw.keys().all(|key| ![2, 3, 4].contains(&key[0])), "nothing of format 1 is left");

    let store = open(dir.path());
    store.finalize(FLOW, &in_table(id(2), 78), &end(10)).unwrap();
    store.prepare(FLOW, &checkpoint(3), &start()).unwrap();
    assert_eq!(last_epoch(&store.load(FLOW).unwrap()), Some(Epoch(2)));
    let records = store.checkpoints(FLOW).unwrap();
    let outcomes: Vec<Outcome> = records.iter().map(|record| record.outcome()).collect();
    assert_eq!(outcomes, [committed(77), committed(78), Outcome::Pending]);
}

#[test]
fn a_store_of_format_version_one_is_read_without_being_changed() {
    let dir = format_one();
    let before = stored(dir.path());
    let reader = StateStore::open_read_only(dir.path()).unwrap();
    let state = reader.load(FLOW, TABLE).unwrap();
    assert_eq!(state, LocalState { pending: prepared(&checkpoint(2)), last: last(1) });
    assert_eq!(reader.open_checkpoints().unwrap(), [checkpoint(2)]);
    assert_eq!(reader.checkpoints(FLOW).unwrap().len(), 2);
    drop(reader);
    assert_eq!(hex_lines(&stored(dir.path())), hex_lines(&before));
}

#[test]
fn a_damaged_store_of_format_version_one_is_left_as_it_is() {
    for key in [keys::OPEN_1, keys::LAST_1, &keys::record(keys::records_1(), 1)] {
        let dir = format_one();
        change(dir.path(), key, |mut bytes| {
            bytes[20] ^= 1;
            bytes
        });
        let before = stored(dir.path());
        let error = StateStore::open(dir.path(), "flow", (FLOW, TABLE)).unwrap_err();
        assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
        assert_eq!(hex_lines(&stored(dir.path())), hex_lines(&before));
    }
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
