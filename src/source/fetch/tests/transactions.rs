//! What a committed reader sees, held against a straightforward account of the same log.

use std::collections::BTreeMap;

use proptest::sample::Index;

use super::*;
use crate::source::fetch::batch;
use crate::source::fetch::reader::Part;
use crate::source::fetch::wire::Aborted;

/// What a producer does next.
#[derive(Clone, Debug)]
enum Step {
    /// So many records outside of transactions.
    Plain(usize),
    /// So many in the transaction that it has open, or opens.
    Write(usize),
    /// The marker of its end, also without a transaction: a broker writes that, too.
    End { abort: bool },
}

fn steps() -> impl Strategy<Value = Vec<(i64, Step, Packing)>> {
    let step = prop_oneof![
        1 => (1..4usize).prop_map(Step::Plain),
        3 => (1..4usize).prop_map(Step::Write),
        2 => any::<bool>().prop_map(|abort| Step::End { abort }),
    ];
    vec((0..4i64, step, packings()), 0..40)
}

/// A transaction in the broker's index of those that were aborted.
#[derive(Clone, Copy, Debug)]
struct Indexed {
    producer: i64,
    first: i64,
    marker: i64,
}

/// A log, and what is to be read of it.
#[derive(Default)]
struct Log {
    batches: Vec<Written>,
    index: Vec<Indexed>,
    committed: Vec<Got>,
    /// Offsets of the first record of open transactions, and their batches.
    open: BTreeMap<i64, (i64, Vec<usize>)>,
    next: i64,
}

impl Log {
    fn of(steps: &[(i64, Step, Packing)], compacted: &[bool]) -> Self {
        let mut log = Self::default();
        let mut compacted = compacted.iter().cycle();
        for (producer, step, packing) in steps {
            match step {
                Step::Plain(records) => {
                    let at = log.write(*records, -1, 0, packing);
                    log.committed.extend(log.batches[at].records());
                }
                Step::Write(records) => {
                    let first = log.next;
                    let at = log.write(*records, *producer, TRANSACTIONAL, packing);
                    log.open.entry(*producer).or_insert((first, Vec::new())).1.push(at);
                }
                Step::End { abort } => {
                    let clean = compacted.next() == Some(&true);
                    log.end(*producer, *abort, clean);
                }
            }
        }
        log.committed.sort_by_key(|record| record.offset);
        log
    }

    fn write(
        &mut self,
        records: usize,
        producer: i64,
        attributes: i16,
        packing: &Packing,
    ) -> usize {
        let offsets: Vec<i32> = (0..).take(records).collect();
        let batch = Written::of(self.next, &offsets);
        self.next = batch.last() + 1;
        self.batches.push(Written { producer, attributes, packing: packing.clone(), ..batch });
        self.batches.len() - 1
    }

    /// Ends a transaction, and lets the log be compacted then or not: what was aborted is gone,
    /// and its entry of the index, and what a marker said.
    fn end(&mut self, producer: i64, abort: bool, clean: bool) {
        let marker = self.write(1, producer, TRANSACTIONAL | CONTROL, &Packing::Plain);
        let at = self.batches[marker].base;
        let entry = &mut self.batches[marker].entries[0];
        entry.key = Some(vec![0, 0, 0, u8::from(!abort)]);
        entry.value = Some(vec![0; 6]);
        let begun = self.open.remove(&producer);
        if clean {
            self.batches[marker].entries.clear();
        }
        for batch in begun.iter().flat_map(|(_, batches)| batches) {
            match (abort, clean) {
                (false, _) => self.committed.extend(self.batches[*batch].records()),
                (true, true) => self.batches[*batch].entries.clear(),
                (true, false) => {}
            }
        }
        if let (Some((first, _)), true, false) = (begun, abort, clean) {
            self.index.push(Indexed { producer, first, marker: at });
        }
    }

    /// End of what a committed reader may have: before the first transaction that is open.
    fn stable(&self) -> i64 {
        self.open.values().map(|(first, _)| *first).min().unwrap_or(self.next)
    }

    /// An answer, with the aborted transactions that are in its range and `more`.
    fn answer(&self, from: i64, bytes: usize, earlier: bool, more: i64) -> (Vec<u8>, Vec<Aborted>) {
        let stable = self.stable();
        let seen = self.batches.partition_point(|batch| batch.base < stable);
        let data = answer(&self.batches[..seen], from, bytes, earlier);
        let end = batch::extent(&data).unwrap().map_or(from, |extent| extent.next);
        let known = self.index.iter().filter(|each| each.marker >= from && each.first < end + more);
        let aborted = known.map(|each| Aborted { producer: each.producer, first: each.first });
        (data, aborted.collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn exactly_the_committed_records_come_however_the_log_is_fetched(
        steps in steps(), compacted in vec(any::<bool>(), 1..5), start: Index,
        sizes in vec((0..600usize, any::<bool>(), 0..9i64), 1..5),
        most in vec(1..9usize, 1..4), turned: bool,
    ) {
        let log = Log::of(&steps, &compacted);
        let start = i64::try_from(start.index(usize::try_from(log.stable()).unwrap() + 1)).unwrap();
        let (mut reader, mut got, mut from) = (Reader::default(), Vec::new(), start);
        for (size, earlier, more) in sizes.iter().cycle() {
            let (data, mut aborted) = log.answer(from, *size, *earlier, *more);
            let Some(extent) = batch::extent(&data).unwrap() else { break };
            if turned {
                aborted.reverse();
            }
            reader.begin(Part { partition: partition(), from, aborted });
            read_to_end(&mut reader, &data, &most, &mut got).unwrap();
            prop_assert_eq!(reader.position(), extent.next);
            from = extent.next;
        }
        prop_assert_eq!(from, log.stable());
        let wanted = |record: &&Got| (start..log.stable()).contains(&record.offset);
        prop_assert_eq!(got, log.committed.iter().filter(wanted).cloned().collect::<Vec<_>>());
    }

    #[test]
    fn a_part_that_is_given_up_in_a_transaction_goes_on_at_its_position(
        steps in steps(), pieces in vec(0..5usize, 0..20),
    ) {
        let log = Log::of(&steps, &[false]);
        let (mut reader, mut got, mut from) = (Reader::default(), Vec::new(), 0);
        for piece in pieces.into_iter().chain([usize::MAX]) {
            let (data, aborted) = log.answer(from, usize::MAX, false, 0);
            reader.begin(Part { partition: partition(), from, aborted });
            let mut take = |record: Record<'_>| {
                got.push(Got::of(record));
                true
            };
            reader.read(&data, piece, &mut 0, &mut take).unwrap();
            from = reader.position();
        }
        let wanted = log.committed.iter().filter(|record| record.offset < log.stable());
        prop_assert_eq!(got, wanted.cloned().collect::<Vec<_>>());
    }
}

fn marker(key: Option<&[u8]>, packing: Packing) -> Vec<u8> {
    let mut batch = Written {
        attributes: TRANSACTIONAL | CONTROL,
        producer: 5,
        packing,
        ..Written::of(2, &[0])
    };
    batch.entries[0].key = key.map(<[u8]>::to_vec);
    batch.bytes()
}

/// Records of producer 5 of a transaction that is aborted, then `marker`, then more of its records.
fn around(marker: Vec<u8>) -> Result<Vec<i64>, BatchError> {
    let of = |base| {
        let plain = Written::of(base, &[0, 1]);
        Written { attributes: TRANSACTIONAL, producer: 5, ..plain }.bytes()
    };
    let data = [of(0), marker, of(3)].concat();
    let (mut reader, mut got) = (Reader::default(), Vec::new());
    reader.begin(Part {
        partition: partition(),
        from: 0,
        aborted: vec![Aborted { producer: 5, first: 0 }],
    });
    read_to_end(&mut reader, &data, &[9], &mut got)?;
    Ok(got.into_iter().map(|record| record.offset).collect())
}

#[test]
fn an_aborted_transaction_ends_with_its_marker_and_no_other() {
    let plain = || Packing::Plain;
    assert_eq!(around(marker(Some(&[0, 0, 0, 0]), plain())), Ok(vec![3, 4]));
    // A later version of its key.
    assert_eq!(around(marker(Some(&[0, 9, 0, 0, 7]), plain())), Ok(vec![3, 4]));
    // Of a commit, or of a kind that is not known.
    assert_eq!(around(marker(Some(&[0, 0, 0, 1]), plain())), Ok(vec![]));
    assert_eq!(around(marker(Some(&[0, 0, 0, 2]), plain())), Ok(vec![]));
    // What compaction left of one.
    let empty = Written { attributes: TRANSACTIONAL | CONTROL, producer: 5, ..Written::of(2, &[]) };
    assert_eq!(around(empty.bytes()), Ok(vec![]));
}

#[test]
fn a_marker_that_cannot_be_understood_is_refused() {
    for (key, packing, why) in [
        (None, Packing::Plain, "without key"),
        (Some(&[][..]), Packing::Plain, "too short"),
        (Some(&[0, 0, 0]), Packing::Plain, "too short"),
        (Some(&[0, 0, 0, 0]), Packing::Snappy, "compressed"),
    ] {
        let error = around(marker(key, packing)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
