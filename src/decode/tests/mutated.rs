//! A record broken at random, between two good ones: it is accepted exactly where the reference
//! accepts it, with the same value, and the good rows stay as they were.

use fastrand::Rng;
use proptest::prelude::*;

use super::generated::{
    Datum, Field, Type, random_fields, random_struct, rows, table, write_struct,
};
use super::reference;
use super::{Reason, Table};

/// Bytes that matter to a JSON parser or to a conversion.
const BYTES: &[u8] = b"\"\\{}[]:,0123456789-+.eEtfnuTZ \n\0\x1f\x7f\x80\xc3\xff/=a";

fn mutate(rng: &mut Rng, payload: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..=3) {
        let at = rng.usize(0..=payload.len());
        match rng.u32(0..7) {
            0 => payload.truncate(at),
            1 | 2 if at < payload.len() => {
                payload.remove(at);
            }
            3 if at < payload.len() => payload[at] ^= 1 << rng.u32(0..8),
            4 | 5 if at < payload.len() => payload[at] = *rng.choice(BYTES).unwrap(),
            6 => {
                let piece = payload[at..payload.len().min(at + rng.usize(0..20))].to_vec();
                let to = rng.usize(0..=payload.len());
                payload.splice(to..to, piece);
            }
            _ => payload.insert(at, *rng.choice(BYTES).unwrap()),
        }
    }
}

/// Numbers that serde_json's f64 keeps apart from their neighbours, also after three mutations.
fn keep_short(value: &mut Datum, of: &Type) {
    match (value, of) {
        (Datum::Number(number), Type::Decimal(..) | Type::Primitive("long")) => {
            *number %= 1_000_000_000
        }
        (Datum::Bits(bits), Type::Primitive("double")) => {
            *bits = (f64::from(i32::try_from(*bits >> 40).unwrap()) / 8.0).to_bits();
        }
        (Datum::Bits(bits), Type::Primitive("float")) => *bits = 1.5f32.to_bits().into(),
        (Datum::List(values), Type::List(element)) => {
            values.iter_mut().for_each(|v| keep_short(v, &element.of))
        }
        (Datum::Map(entries), Type::Map(_, of)) => {
            entries.iter_mut().for_each(|(_, v)| keep_short(v, &of.of))
        }
        (Datum::Struct(values), Type::Struct(fields)) => {
            values.iter_mut().zip(fields).for_each(|(v, field)| keep_short(v, &field.of));
        }
        _ => {}
    }
}

fn good_row(rng: &mut Rng, fields: &[Field]) -> (Datum, String) {
    let mut row = random_struct(rng, fields);
    keep_short(&mut row, &Type::Struct(fields.to_vec()));
    let Datum::Struct(values) = &row else { unreachable!() };
    let payload = write_struct(rng, fields, values);
    (row, payload)
}

/// Pushes the payload and checks the answer against the reference. The row, if it is one.
fn push_checked(
    table: &mut Table,
    fields: &[Field],
    payload: &[u8],
) -> Result<Option<Option<Datum>>, TestCaseError> {
    let shown = String::from_utf8_lossy(payload).into_owned();
    let pushed = table.push(payload);
    let syntax =
        pushed.as_ref().is_err_and(|e| matches!(e.reason, Reason::NotJson | Reason::NotUtf8));
    match reference::parse(payload) {
        Err(why) => {
            prop_assert!(pushed.is_err(), "accepted, but {why}: {shown}");
            Ok(None)
        }
        Ok(None) => {
            // serde_json does not look for lone surrogates where it ignores a string.
            prop_assert!(!syntax || shown.contains("\\u"), "{pushed:?}: {shown}");
            Ok(pushed.is_ok().then_some(None))
        }
        Ok(Some(tree)) => {
            prop_assert!(!syntax, "{pushed:?}: {shown}");
            let expected = reference::row(fields, &tree);
            prop_assert_eq!(pushed.is_ok(), expected.is_some(), "{:?}: {}", pushed, shown);
            Ok(expected.map(Some))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_record_is_judged_as_by_the_reference_and_harms_no_other(seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let fields = random_fields(rng, 2);
        let mut table = table(&fields);
        let (first, payload) = good_row(rng, &fields);
        prop_assert!(table.push(payload).is_ok());
        let mut expected = vec![Some(first)];
        for _ in 0..rng.usize(1..8) {
            let (_, payload) = good_row(rng, &fields);
            let mut payload = payload.into_bytes();
            mutate(rng, &mut payload);
            expected.extend(push_checked(&mut table, &fields, &payload)?);
        }
        let (last, payload) = good_row(rng, &fields);
        prop_assert!(table.push(payload).is_ok());
        expected.push(Some(last));
        let found = rows(&mut table);
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.into_iter().zip(expected) {
            // Of a row with a number beyond serde_json's range or precision only the place is known.
            if let Some(expected) = expected {
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic_and_never_leave_a_trace(payload: Vec<u8>, seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let fields = random_fields(rng, 2);
        let mut table = table(&fields);
        let before = table.decoder.buffered_bytes();
        let row = push_checked(&mut table, &fields, &payload)?;
        prop_assert!(row.is_some() || (table.decoder.rows(), table.decoder.buffered_bytes()) == (0, before));
        prop_assert_eq!(rows(&mut table).len(), usize::from(row.is_some()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_cut_or_flipped_anywhere_is_judged_as_by_the_reference(seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let fields = random_fields(rng, 2);
        let mut table = table(&fields);
        let (_, payload) = good_row(rng, &fields);
        let payload = payload.into_bytes();
        let mut expected = Vec::new();
        for at in 0..payload.len() {
            expected.extend(push_checked(&mut table, &fields, &payload[..at])?);
            let mut flipped = payload.clone();
            flipped[at] ^= 1 << rng.u32(0..8);
            expected.extend(push_checked(&mut table, &fields, &flipped)?);
            // What comes after the end must not be read as part of the record.
            let longer = [&payload[..at], &b"\0"[..], &payload[at..]].concat();
            expected.extend(push_checked(&mut table, &fields, &longer)?);
        }
        let found = rows(&mut table);
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.into_iter().zip(expected) {
            if let Some(expected) = expected {
                prop_assert_eq!(found, expected);
            }
        }
    }
}
