//! Batches with changed bytes behind a checksum that fits: what a broken broker would send.

use proptest::sample::Index;

use super::*;
use crate::source::fetch::batch;
use crate::source::fetch::reader::Part;
use crate::source::fetch::wire::Aborted;

/// A change of a batch.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    /// In the header: offsets, counts, times and attributes.
    Header(usize, u8),
    Insert(Index, u8),
    Remove(Index),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (0..61usize, any::<u8>()).prop_map(|(at, byte)| Change::Header(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<Index>().prop_map(Change::Remove),
    ]
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Header(at, byte) if *at < data.len() => data[*at] = *byte,
            Self::Insert(at, byte) => data.insert(at.index(data.len() + 1), *byte),
            Self::Set(at, byte) if !data.is_empty() => {
                let at = at.index(data.len());
                data[at] = *byte;
            }
            Self::Remove(at) if !data.is_empty() => {
                data.remove(at.index(data.len()));
            }
            _ => {}
        }
    }
}

/// Reads what a broken broker sent. No record is outside of what was asked for, of what its
/// batches may have, or handed over twice.
fn check(data: &[u8], from: i64, aborted: &[Aborted], most: &[usize]) {
    let mut last = -1;
    let mut rest = data;
    while let Ok(Some((batch, after))) = batch::split(rest) {
        last = last.max(batch.last);
        rest = after;
    }
    let (mut reader, mut got) = (Reader::default(), Vec::new());
    reader.begin(Part { partition: partition(), from, aborted: aborted.to_vec() });
    let read = read_to_end(&mut reader, data, most, &mut got);
    for record in &got {
        assert!((from..=last).contains(&record.offset), "{record:?} of {from}..={last}");
    }
    assert!(got.is_sorted_by(|a, b| a.offset < b.offset));
    assert!((from..=from.max(last + 1)).contains(&reader.position()));
    if let (Ok(()), Ok(Some(extent))) = (read, batch::extent(data)) {
        assert_eq!(reader.position(), extent.next.max(from));
    }
}

fn aborted() -> impl Strategy<Value = Vec<Aborted>> {
    let one = (-1..3i64, -1..40i64).prop_map(|(producer, first)| Aborted { producer, first });
    vec(one, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_batches_never_panic_and_never_give_a_record_that_was_not_asked_for(
        log in logs(), changed in vec((any::<Index>(), changes()), 1..6), from in 0..40i64,
        aborted in aborted(), most in vec(1..9usize, 1..3),
    ) {
        let mut batches: Vec<Vec<u8>> = log.iter().map(Written::bytes).collect();
        for (at, change) in changed.iter().filter(|_| !log.is_empty()) {
            let batch = &mut batches[at.index(log.len())];
            change.apply(batch);
            if batch.len() >= 21 {
                seal(batch);
            }
        }
        check(&batches.concat(), from, &aborted, &most);
    }

    #[test]
    fn records_that_were_changed_before_they_were_packed_never_panic(
        mut log in logs(), changed in vec((any::<Index>(), changes()), 1..6), from in 0..40i64,
        attributes in 0..0x80i16, aborted in aborted(), most in vec(1..9usize, 1..3),
    ) {
        let mut data = Vec::new();
        for batch in &mut log {
            let mut records = Vec::new();
            batch.entries.iter().for_each(|entry| entry.write(&mut records));
            for (at, change) in &changed {
                if at.index(2) == 0 {
                    change.apply(&mut records);
                }
            }
            batch.attributes = attributes & !7;
            data.extend(batch.with(&batch.packing.pack(&records), batch.entries.len()));
        }
        check(&data, from, &aborted, &most);
    }

    #[test]
    fn any_bytes_are_an_error_or_no_batch(
        mut data in vec(any::<u8>(), 0..300), from in 0..40i64, shaped: bool,
    ) {
        // A batch by its length, its format and its checksum.
        if shaped && data.len() > 61 {
            data[..8].fill(0);
            data[16] = 2;
            seal(&mut data);
        }
        check(&data, from, &[], &[3]);
    }
}
