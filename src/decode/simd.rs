//! Many bytes at once: 32 with the vector instructions that every x86-64 has, 8 in one integer.
//! Elsewhere than on x86-64 the compiler makes what it can of the portable form, which is tested
//! beside the other, and with the feature `portable` here as well.
#![allow(unsafe_code, reason = "vector instructions are called through functions that need them")]

/// Bytes that are looked at together.
pub(super) const BLOCK: usize = 32;

/// Bytes before the first quote, backslash or control character; 32 if there is none.
#[inline(always)]
pub(super) fn plain_prefix(block: &[u8; BLOCK]) -> usize {
    #[cfg(all(target_feature = "sse2", not(feature = "portable")))]
    // SAFETY: needs nothing but SSE2, which the whole program is compiled for.
    return unsafe { vector::plain_prefix(block) };
    #[cfg(any(not(target_feature = "sse2"), feature = "portable"))]
    return portable::plain_prefix(block);
}

/// Bytes before the first difference; 32 if there is none.
#[inline(always)]
pub(super) fn equal_prefix(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> usize {
    #[cfg(all(target_feature = "sse2", not(feature = "portable")))]
    // SAFETY: needs nothing but SSE2, which the whole program is compiled for.
    return unsafe { vector::equal_prefix(a, b) };
    #[cfg(any(not(target_feature = "sse2"), feature = "portable"))]
    return portable::equal_prefix(a, b);
}

/// Safe functions that need SSE2. Loads are plain Rust: no pointers here.
#[cfg(all(target_feature = "sse2", not(feature = "portable")))]
mod vector {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };

    use super::BLOCK;

    #[inline]
    #[target_feature(enable = "sse2")]
    fn halves(block: &[u8; BLOCK]) -> [__m128i; 2] {
        let (words, _) = block.as_chunks::<8>();
        let [a, b, c, d] = *words else { return [_mm_set1_epi8(0); 2] };
        let [a, b, c, d] = [a, b, c, d].map(i64::from_le_bytes);
        // Two words that are side by side in memory are one load.
        [_mm_set_epi64x(b, a), _mm_set_epi64x(d, c)]
    }

    /// One bit for each byte that has its high bit set, the first byte's lowest.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn bits([low, high]: [__m128i; 2]) -> u32 {
        let [low, high] = [_mm_movemask_epi8(low), _mm_movemask_epi8(high)];
        low.cast_unsigned() | (high.cast_unsigned() << 16)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn special(half: __m128i) -> __m128i {
        let quote = _mm_cmpeq_epi8(half, _mm_set1_epi8(0x22));
        let backslash = _mm_cmpeq_epi8(half, _mm_set1_epi8(0x5C));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(half, _mm_set1_epi8(0x1F)), half);
        _mm_or_si128(_mm_or_si128(quote, backslash), control)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn plain_prefix(block: &[u8; BLOCK]) -> usize {
        let [low, high] = halves(block);
        bits([special(low), special(high)]).trailing_zeros() as usize
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn equal_prefix(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> usize {
        let [a_low, a_high] = halves(a);
        let [b_low, b_high] = halves(b);
        let equal = bits([_mm_cmpeq_epi8(a_low, b_low), _mm_cmpeq_epi8(a_high, b_high)]);
        (!equal).trailing_zeros() as usize
    }
}

#[cfg(any(test, not(target_feature = "sse2"), feature = "portable"))]
mod portable {
    use super::BLOCK;

    /// Bytes before the first flag; flags are 0 or 0xFF.
    fn before_first(flags: [u8; BLOCK]) -> usize {
        let (halves, _) = flags.as_chunks::<16>();
        let mut before = 0;
        for half in halves {
            let zeros = u128::from_le_bytes(*half).trailing_zeros() as usize / 8;
            before += zeros;
            if zeros < 16 {
                break;
            }
        }
        before
    }

    pub(super) fn plain_prefix(block: &[u8; BLOCK]) -> usize {
        before_first(block.map(|b| {
            let special = (b < 0x20) | (b == b'"') | (b == b'\\');
            if special { 0xFF } else { 0 }
        }))
    }

    pub(super) fn equal_prefix(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> usize {
        let mut flags = [0; BLOCK];
        for ((flag, a), b) in flags.iter_mut().zip(a).zip(b) {
            *flag = if a == b { 0 } else { 0xFF };
        }
        before_first(flags)
    }
}

/// The digits that begin eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digits {
    /// How many there are, up to 8.
    pub count: usize,
    /// The number they are, of at most eight digits; 0 if there are none.
    pub value: u64,
}

impl Digits {
    /// The digits before the first other byte of `text`.
    #[inline(always)]
    pub(super) fn of(text: &[u8; 8]) -> Self {
        const ONE_EACH: u64 = 0x0101_0101_0101_0101;
        let bytes = u64::from_le_bytes(*text) ^ (ONE_EACH * u64::from(b'0'));
        // The high bit of each byte above 9. What is carried out of a byte comes from one that is
        // no digit, and only bytes after it are wrong.
        let others = (bytes | bytes.wrapping_add(ONE_EACH * 0x76)) & (ONE_EACH * 0x80);
        let count = others.trailing_zeros() as usize / 8;
        // The bytes after the digits go, and zeros come before them; in two halves, because a shift
        // by all 64 bits is none.
        let half = 32 - 4 * count;
        let digits = bytes << half << half;
        let pairs = (digits * 10 + (digits >> 8)) & 0x00FF_00FF_00FF_00FF;
        let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
        Self { count, value: (fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF }
    }
}

/// Is all of `text` ASCII? Without a way out before its end, so that the compiler makes vector
/// instructions of it: few payloads are not.
#[inline]
pub(super) fn is_ascii(text: &[u8]) -> bool {
    let (words, tail) = text.as_chunks::<8>();
    let all = words.iter().fold(0, |all, word| all | u64::from_le_bytes(*word));
    all & 0x8080_8080_8080_8080 == 0 && tail.is_ascii()
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    type Prefix = fn(&[u8; BLOCK]) -> usize;
    type CommonPrefix = fn(&[u8; BLOCK], &[u8; BLOCK]) -> usize;

    /// The form that this machine uses, and the portable one.
    const PLAIN_PREFIXES: [Prefix; 2] = [|block| plain_prefix(block), portable::plain_prefix];
    const EQUAL_PREFIXES: [CommonPrefix; 2] = [|a, b| equal_prefix(a, b), portable::equal_prefix];

    #[test]
    fn the_first_special_byte_is_found_wherever_it_is_and_no_other() {
        for form in PLAIN_PREFIXES {
            for byte in 0..=255u8 {
                for at in 0..BLOCK {
                    for filler in [b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xFF] {
                        let mut block = [filler; BLOCK];
                        block[at] = byte;
                        let special = byte < 0x20 || byte == b'"' || byte == b'\\';
                        assert_eq!(form(&block), if special { at } else { BLOCK });
                        block[at..].fill(byte);
                        assert_eq!(form(&block), if special { at } else { BLOCK });
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_difference_is_found_wherever_it_is() {
        let rng = &mut Rng::with_seed(1);
        for form in EQUAL_PREFIXES {
            for at in 0..=BLOCK {
                for _ in 0..100 {
                    let a: [u8; BLOCK] = std::array::from_fn(|_| rng.u8(..));
                    let mut b = a;
                    if at < BLOCK {
                        b[at] ^= 1 << rng.u32(0..8);
                        b[at + 1..].fill_with(|| rng.u8(..));
                    }
                    assert_eq!(form(&a, &b), at);
                }
            }
        }
    }

    #[test]
    fn digits_end_at_the_first_other_byte_of_any_kind() {
        let rng = &mut Rng::with_seed(2);
        for _ in 0..10 {
            for count in 0..=8 {
                for other in 0..=255u8 {
                    if other.is_ascii_digit() && count < 8 {
                        continue;
                    }
                    let mut text: [u8; 8] = std::array::from_fn(|_| rng.u8(b'0'..=b'9'));
                    let value = text[..count].iter().fold(0, |v, d| v * 10 + u64::from(d - b'0'));
                    if count < 8 {
                        text[count] = other;
                        text[count + 1..].fill_with(|| rng.u8(..));
                    }
                    assert_eq!(Digits::of(&text), Digits { count, value }, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn one_byte_that_is_not_ascii_is_found_wherever_it_is() {
        for length in 0..100 {
            let mut text = vec![0x7F; length];
            assert!(is_ascii(&text));
            for at in 0..length {
                text[at] = 0x80;
                assert!(!is_ascii(&text), "{at} of {length}");
                text[at] = 0;
            }
        }
    }
}
