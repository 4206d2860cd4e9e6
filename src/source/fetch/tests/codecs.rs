//! Unpacking, held against other crates' packing.

use proptest::sample::Index;

use super::*;
use crate::source::fetch::batch::Codec;
use crate::source::fetch::codec::{Unpacked, Unpacker};

fn codec(packing: &Packing) -> Codec {
    [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]
        [usize::try_from(packing.codec()).unwrap()]
}

/// Bytes that do and that do not compress, up to some blocks of LZ4.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let repeated = (vec(any::<u8>(), 0..600), 0..400usize).prop_map(|(part, n)| part.repeat(n));
    prop_oneof![vec(any::<u8>(), 0..2000), repeated]
}

/// A change of some packed bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Insert(Index, u8),
    Cut(Index),
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 1..=255u8).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Cut),
    ]
}

impl Damage {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            // Headers are worth more than their share.
            Self::Flip(at, mask) if data.len() > 40 && at.index(4) == 0 => {
                data[at.index(40)] ^= mask;
            }
            Self::Flip(at, mask) if !data.is_empty() => {
                let at = at.index(data.len());
                data[at] ^= mask;
            }
            Self::Flip(..) => {}
            Self::Insert(at, byte) => data.insert(at.index(data.len() + 1), *byte),
            Self::Cut(at) => data.truncate(at.index(data.len() + 1)),
        }
    }
}

proptest! {
    #[test]
    fn what_was_packed_is_unpacked_with_one_memory_for_all(
        all in vec((contents(), packings()), 1..4),
    ) {
        let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::default());
        for (content, packing) in all {
            let packed = packing.pack(&content);
            unpacker.unpack(codec(&packing), &packed, &mut out).unwrap();
            prop_assert!(out.bytes() == content, "{packing:?} of {} bytes", content.len());
        }
    }

    #[test]
    fn damage_is_an_error_or_other_bytes_and_the_next_batch_does_not_suffer(
        content in contents(), packing in packings(), damages in vec(damages(), 1..4),
    ) {
        let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::default());
        let packed = packing.pack(&content);
        let mut damaged = packed.clone();
        damages.iter().for_each(|damage| damage.apply(&mut damaged));
        // Whatever comes of it. A batch's checksum and the count of its records are behind it.
        if unpacker.unpack(codec(&packing), &damaged, &mut out).is_ok() {
            prop_assert!(out.bytes().len() < 1 << 30);
        }
        unpacker.unpack(codec(&packing), &packed, &mut out).unwrap();
        prop_assert!(out.bytes() == content);
    }

    #[test]
    fn bytes_that_nobody_packed_are_an_error_or_bytes(
        packed in vec(any::<u8>(), 0..200), mark in 0..5usize,
    ) {
        let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::default());
        let marks: [&[u8]; 5] = [
            b"", b"\x1f\x8b\x08\0", b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01", b"\x04\x22\x4d\x18\x60\x40\x82",
            b"\x28\xb5\x2f\xfd",
        ];
        let data = [marks[mark], &packed].concat();
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            if unpacker.unpack(codec, &data, &mut out).is_ok() {
                prop_assert!(out.bytes().len() < 1 << 30);
            }
        }
    }
}

/// Of each codec with checksums of its own one that has them, and one that has none.
fn samples() -> Vec<Packing> {
    let lz4 = |linked, checksums| Packing::Lz4 {
        size: 1,
        linked,
        block_checksums: checksums,
        content_checksum: checksums,
        content_size: checksums,
    };
    vec![
        Packing::Gzip(6, false),
        Packing::Snappy,
        Packing::Xerial(100),
        lz4(false, false),
        lz4(false, true),
        lz4(true, false),
        lz4(true, true),
        Packing::Zstd(3, false, false),
        Packing::Zstd(3, true, false),
    ]
}

#[test]
fn what_ends_too_early_is_an_error_or_a_beginning_of_the_right_bytes() {
    let content: Vec<u8> = (0..1000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
    let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::default());
    for packing in samples() {
        let packed = packing.pack(&content);
        for end in 0..packed.len() {
            if unpacker.unpack(codec(&packing), &packed[..end], &mut out).is_ok() {
                // Fewer records than the batch counts.
                let whole = out.bytes().len() == content.len();
                assert!(content.starts_with(out.bytes()), "{packing:?} cut at {end}");
                assert!(!whole || end + 8 >= packed.len(), "{packing:?} cut at {end}");
            }
        }
    }
}

#[test]
fn a_checksum_of_the_codec_that_does_not_fit_is_an_error() {
    let content = b"some of it, some of it, some of it, and more of it".repeat(9);
    let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::default());
    for (packing, from_end) in [
        // Its length is behind it.
        (Packing::Gzip(6, false), 8),
        (
            Packing::Lz4 {
                size: 1,
                linked: false,
                block_checksums: false,
                content_checksum: true,
                content_size: false,
            },
            1,
        ),
        (Packing::Zstd(3, true, false), 1),
    ] {
        let mut packed = packing.pack(&content);
        let at = packed.len() - from_end;
        packed[at] ^= 1;
        let unpacked = unpacker.unpack(codec(&packing), &packed, &mut out);
        assert!(matches!(unpacked, Err(BatchError::Packed(_))), "{packing:?}");
    }
}

#[test]
fn a_second_lz4_frame_is_not_passed_over_in_silence() {
    let packing = |content_checksum| Packing::Lz4 {
        size: 1,
        linked: false,
        block_checksums: false,
        content_checksum,
        content_size: false,
    };
    for checksum in [false, true] {
        let packed = packing(checksum).pack(b"first").repeat(2);
        let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::default());
        let unpacked = unpacker.unpack(Codec::Lz4, &packed, &mut out);
        assert!(unpacked.is_err() || out.bytes() == b"firstfirst", "checksum: {checksum}");
    }
}

#[test]
fn snappy_that_tells_a_size_it_cannot_have_takes_no_memory() {
    let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::default());
    let raw = b"\xff\xff\xff\xff\x03\x00a".to_vec();
    let framed = [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x07".to_vec(), raw.clone()].concat();
    for packed in [raw, framed] {
        let error = unpacker.unpack(Codec::Snappy, &packed, &mut out).unwrap_err();
        assert!(error.to_string().contains("a size that it cannot have"), "{error}");
    }
    // What compresses best is well within.
    let zeros = vec![0; 1 << 20];
    unpacker.unpack(Codec::Snappy, &Packing::Snappy.pack(&zeros), &mut out).unwrap();
    assert_eq!(out.bytes(), zeros);
}

#[test]
fn a_batch_that_unpacks_to_more_than_the_bound_takes_no_memory_beyond_it() {
    const MOST: usize = 3 << 20;
    let zeros = vec![0; 64 << 20];
    for packing in samples() {
        let (mut unpacker, mut out) = (Unpacker::default(), Unpacked::of_at_most(MOST));
        let packed = packing.pack(&zeros);
        let error = unpacker.unpack(codec(&packing), &packed, &mut out).unwrap_err();
        assert!(error == BatchError::Large { most: MOST }, "{packing:?}: {error}");
        assert!(error.to_string().contains("3145728 bytes"), "{error}");
        assert!(out.capacity() <= MOST, "{packing:?} took {}", out.capacity());
        // The next batch does not suffer.
        let packed = packing.pack(&zeros[..1 << 20]);
        unpacker.unpack(codec(&packing), &packed, &mut out).unwrap();
        assert_eq!(out.bytes(), &zeros[..1 << 20]);
    }
}
