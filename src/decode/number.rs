//! Number text -> integer, decimal, float. Nothing is rounded but floats, and those once.

use super::error::Reason;
use super::simd::{BLOCK, Digits};

/// Digits that always fit a `u64`.
const EXACT_DIGITS: usize = 19;
/// Digits that always fit an `i128`, and the most that Iceberg's decimals have.
const DECIMAL_DIGITS: usize = 38;
/// Exponents are clamped here: far beyond every type, and far from overflow.
const EXPONENT_LIMIT: i64 = 1_000_000_000_000;
/// The powers of ten that an `f64` holds exactly.
const POWERS_F64: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// What a decimal column takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecimalForm {
    pub precision: u8,
    pub scale: i8,
    /// The first integer that has too many digits.
    limit: i128,
}

impl DecimalForm {
    /// `precision` is 38 at most.
    pub(super) fn new(precision: u8, scale: i8) -> Self {
        let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
        Self { precision, scale, limit }
    }

    /// The value times ten to the scale, if it has at most `precision` digits.
    #[inline]
    pub(super) fn unscaled(&self, number: &Number<'_>) -> Result<i128, Reason> {
        let unscaled = number.scaled(i64::from(self.scale))?;
        if unscaled.abs() < self.limit { Ok(unscaled) } else { Err(Reason::OutOfRange) }
    }
}

/// The sign and the first digits that begin `text`, with the bytes they take; at most 7 digits,
/// and no leading zeros. None for whatever is not as common, or no number.
#[inline(always)]
fn short_whole(text: &[u8; BLOCK]) -> Option<(bool, Digits, usize)> {
    let negative = text[0] == b'-';
    let start = usize::from(negative);
    let digits = Digits::of(text.get(start..)?.first_chunk()?);
    let leading_zero = *text.get(start)? == b'0' && digits.count > 1;
    let common = (1..8).contains(&digits.count) && !leading_zero;
    common.then_some((negative, digits, start + digits.count))
}

/// The number that begins `text` and the bytes it takes, if it has no fraction, no exponent and
/// at most 14 digits: most have. Others may still be numbers, and integers.
#[inline(always)]
pub(super) fn short_integer(text: &[u8; BLOCK]) -> Option<(i64, usize)> {
    let negative = text[0] == b'-';
    let start = usize::from(negative);
    let first = *text.get(start)?;
    let digits = Digits::of(text.get(start..)?.first_chunk()?);
    let mut value = digits.value;
    let mut end = start + digits.count;
    if digits.count == 8 {
        let more = Digits::of(text.get(end..)?.first_chunk()?);
        value = value * POWERS_U64.get(more.count)? + more.value;
        end += more.count;
    }
    let next = *text.get(end)?;
    let more = next.is_ascii_digit() || next == b'.' || next | 0x20 == b'e';
    if digits.count == 0 || (first == b'0' && digits.count > 1) || more {
        return None;
    }
    let value = value.cast_signed();
    Some((if negative { -value } else { value }, end))
}

/// The number that begins `text` and the bytes it takes, if it has no exponent, at most 7 digits
/// before the point and at most 7 after it.
#[inline(always)]
pub(super) fn short_float(text: &[u8; BLOCK]) -> Option<(f64, usize)> {
    let (negative, whole, mut end) = short_whole(text)?;
    let mut digits = whole.value;
    let mut places = 0;
    let mut next = *text.get(end)?;
    if next == b'.' {
        let fraction = Digits::of(text.get(end + 1..)?.first_chunk()?);
        places = fraction.count;
        if !(1..8).contains(&places) {
            return None;
        }
        digits = digits * POWERS_U64.get(places)? + fraction.value;
        end += 1 + places;
        next = *text.get(end)?;
    }
    if next | 0x20 == b'e' {
        return None;
    }
    // Both exact: the division rounds once (Clinger).
    let value = digits.cast_signed() as f64 / POWERS_F64.get(places)?;
    Some((if negative { -value } else { value }, end))
}

const POWERS_U64: [u64; 9] =
    [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// One JSON number, with its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<'a> {
    /// The text of the number.
    pub raw: &'a [u8],
    negative: bool,
    /// All digits as one integer, if there are at most [`EXACT_DIGITS`] of them.
    digits: Option<u64>,
    /// The value is the digits times ten to this.
    exponent: i64,
}

/// Steps over digits; tells their count.
#[inline]
fn scan_digits(text: &[u8], from: usize, value: &mut u64) -> usize {
    let mut at = from;
    while let Some(text) = text.get(at..).and_then(<[u8]>::first_chunk) {
        let digits = Digits::of(text);
        let Some(power) = POWERS_U64.get(digits.count) else { break };
        *value = value.wrapping_mul(*power).wrapping_add(digits.value);
        at += digits.count;
        if digits.count < 8 {
            return at - from;
        }
    }
    while let Some(digit) = text.get(at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at - from
}

impl<'a> Number<'a> {
    /// The number that begins `text`, by the grammar of RFC 8259, and the bytes it takes.
    #[inline(always)]
    pub(super) fn scan(text: &'a [u8]) -> Option<(Self, usize)> {
        let byte = |at: usize| text.get(at).copied().unwrap_or(0);
        let negative = byte(0) == b'-';
        let start = usize::from(negative);
        let mut digits = 0;
        let integer = scan_digits(text, start, &mut digits);
        if integer == 0 || (integer > 1 && byte(start) == b'0') {
            return None;
        }
        let mut end = start + integer;
        let mut count = integer;
        let mut exponent = 0;
        if byte(end) == b'.' {
            let fraction = scan_digits(text, end + 1, &mut digits);
            if fraction == 0 {
                return None;
            }
            count += fraction;
            end += 1 + fraction;
            exponent = -i64::try_from(fraction).ok()?;
        }
        if byte(end) | 0x20 == b'e' {
            let (shift, length) = scan_exponent(text.get(end..)?)?;
            exponent += shift;
            end += length;
        }
        let digits = (count <= EXACT_DIGITS).then_some(digits);
        Some((Self { raw: text.get(..end)?, negative, digits, exponent }, end))
    }

    /// The number that is the whole of `text`.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        Self::scan(text).filter(|(_, length)| *length == text.len()).map(|(number, _)| number)
    }

    /// The value times ten to `scale`, exactly.
    ///
    /// # Errors
    /// `OutOfRange` beyond 38 digits, `Inexact` if a digit would be lost.
    #[inline]
    pub(super) fn scaled(&self, scale: i64) -> Result<i128, Reason> {
        let (digits, exponent) = match self.digits {
            Some(digits) => (i128::from(digits), self.exponent),
            None => self.many_digits()?,
        };
        let shift = exponent + scale;
        let magnitude = if shift == 0 || digits == 0 {
            digits
        } else if shift > 0 {
            let power = u32::try_from(shift).ok().and_then(|p| 10i128.checked_pow(p));
            power.and_then(|p| digits.checked_mul(p)).ok_or(Reason::OutOfRange)?
        } else {
            // A power beyond 38 exceeds every value that digits can have.
            let power = u32::try_from(-shift).ok().and_then(|p| 10i128.checked_pow(p));
            let power = power.ok_or(Reason::Inexact)?;
            if digits % power != 0 {
                return Err(Reason::Inexact);
            }
            digits / power
        };
        Ok(if self.negative { -magnitude } else { magnitude })
    }

    /// The significant digits as one integer and the exponent that belongs to them.
    fn many_digits(&self) -> Result<(i128, i64), Reason> {
        let mantissa = self.raw.split(|b| *b | 0x20 == b'e').next().unwrap_or(&[]);
        let digits =
            || mantissa.iter().filter(|b| b.is_ascii_digit()).map(|b| i128::from(b - b'0'));
        let zeros = mantissa.iter().rev().filter(|b| **b != b'.').take_while(|b| **b == b'0');
        let zeros = zeros.count();
        let leading = digits().take_while(|digit| *digit == 0).count();
        let count = digits().count();
        if leading == count {
            return Ok((0, 0));
        }
        let significant = count - leading - zeros;
        if significant > DECIMAL_DIGITS {
            // Too many whether they are before the point or after it.
            let whole = i64::try_from(count - leading).unwrap_or(i64::MAX) + self.exponent;
            let limit = i64::try_from(DECIMAL_DIGITS).unwrap_or(i64::MAX);
            return Err(if whole > limit { Reason::OutOfRange } else { Reason::Inexact });
        }
        let value = digits().skip(leading).take(significant).fold(0, |value, d| value * 10 + d);
        Ok((value, self.exponent + i64::try_from(zeros).unwrap_or(EXPONENT_LIMIT)))
    }

    /// The value as an integer of a type; 1.0 and 1e3 are integers, 1.5 is not.
    #[inline]
    pub(super) fn integer<T: TryFrom<i128> + TryFrom<u64>>(&self) -> Result<T, Reason> {
        match self.digits {
            Some(digits) if self.exponent == 0 && !self.negative => {
                T::try_from(digits).map_err(|_| Reason::OutOfRange)
            }
            _ => T::try_from(self.scaled(0)?).map_err(|_| Reason::OutOfRange),
        }
    }

    /// The nearest `f64`.
    ///
    /// # Errors
    /// `OutOfRange` if that would be infinite.
    #[inline]
    pub(super) fn float64(&self) -> Result<f64, Reason> {
        if let Some(value) = self.short_float64() {
            return Ok(value);
        }
        let value: f64 = self.parse_raw()?;
        if value.is_finite() { Ok(value) } else { Err(Reason::OutOfRange) }
    }

    /// The nearest `f64` where digits and power of ten are both exact, so that the one division
    /// or multiplication rounds once (Clinger).
    #[inline]
    fn short_float64(&self) -> Option<f64> {
        let digits = self.digits.filter(|digits| *digits <= 1 << 53)?;
        let power = POWERS_F64.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        // Exact: at most 53 bits.
        let magnitude = digits as f64;
        let value = if self.exponent < 0 { magnitude / power } else { magnitude * power };
        Some(if self.negative { -value } else { value })
    }

    /// The nearest `f32`: not the nearest to the nearest `f64`, which may differ.
    ///
    /// # Errors
    /// `OutOfRange` if that would be infinite.
    pub(super) fn float32(&self) -> Result<f32, Reason> {
        let value: f32 = self.parse_raw()?;
        if value.is_finite() { Ok(value) } else { Err(Reason::OutOfRange) }
    }

    /// Rust's own parser, which rounds correctly and takes every JSON number.
    fn parse_raw<T: std::str::FromStr>(&self) -> Result<T, Reason> {
        let text = std::str::from_utf8(self.raw).map_err(|_| Reason::BadText)?;
        text.parse().map_err(|_| Reason::BadText)
    }
}

/// The exponent that begins `text` with its `e`, clamped, and the bytes it takes.
fn scan_exponent(text: &[u8]) -> Option<(i64, usize)> {
    let negative = text.get(1) == Some(&b'-');
    let start = if negative || text.get(1) == Some(&b'+') { 2 } else { 1 };
    let digits = text.iter().skip(start).take_while(|b| b.is_ascii_digit());
    let mut length = start;
    let mut value = 0i64;
    for digit in digits {
        value = (value * 10 + i64::from(digit - b'0')).min(EXPONENT_LIMIT);
        length += 1;
    }
    (length > start).then_some((if negative { -value } else { value }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number<'_> {
        Number::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_grammar_of_numbers_is_that_of_rfc_8259() {
        for good in ["0", "-0", "10", "1.0", "-1.50", "1e3", "1E+3", "1.5e-3", "0e0", "0.0"] {
            assert!(Number::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in
            ["", "-", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "0x1", "1_0", "1.e3", "NaN"]
        {
            assert!(Number::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn integers_are_exact_or_refused() {
        assert_eq!(number("9223372036854775807").integer::<i64>(), Ok(i64::MAX));
        assert_eq!(number("-9223372036854775808").integer::<i64>(), Ok(i64::MIN));
        assert_eq!(number("9223372036854775808").integer::<i64>(), Err(Reason::OutOfRange));
        assert_eq!(number("-2147483649").integer::<i32>(), Err(Reason::OutOfRange));
        assert_eq!(number("1.0").integer::<i32>(), Ok(1));
        assert_eq!(number("-0").integer::<i32>(), Ok(0));
        assert_eq!(number("1e3").integer::<i32>(), Ok(1000));
        assert_eq!(number("1500e-2").integer::<i32>(), Ok(15));
        assert_eq!(number("1.5").integer::<i32>(), Err(Reason::Inexact));
        assert_eq!(number("1e400").integer::<i64>(), Err(Reason::OutOfRange));
        assert_eq!(number("0e99999999999999999999").integer::<i64>(), Ok(0));
        assert_eq!(number("1e-99999999999999999999").integer::<i64>(), Err(Reason::Inexact));
        assert_eq!(
            number("12.000000000000000000000000000000000000000000").integer::<i64>(),
            Ok(12)
        );
    }

    #[test]
    fn decimals_keep_every_digit() {
        let digits = "12345678901234567890123456789012345678";
        assert_eq!(number(digits).scaled(0), Ok(digits.parse().unwrap()));
        assert_eq!(
            number("-1234567890123456789.0123456789012345678").scaled(19),
            Ok(-digits.parse::<i128>().unwrap())
        );
        assert_eq!(number("0.1").scaled(2), Ok(10));
        assert_eq!(number("0.001").scaled(2), Err(Reason::Inexact));
        assert_eq!(number("0.0010000000000000000000000000").scaled(3), Ok(1));
        assert_eq!(number("1e38").scaled(1), Err(Reason::OutOfRange));
        assert_eq!(
            number("123456789012345678901234567890123456789").scaled(0),
            Err(Reason::OutOfRange)
        );
        assert_eq!(
            number("0.123456789012345678901234567890123456789").scaled(38),
            Err(Reason::Inexact)
        );
        assert_eq!(
            number("100000000000000000000000000000000000000000e-10").scaled(0),
            Ok(10i128.pow(31))
        );
    }

    #[test]
    fn floats_are_the_nearest_and_never_infinite() {
        for text in [
            "0.1",
            "-0.0",
            "1e22",
            "1e23",
            "123456789012345678901234567890",
            "5e-324",
            "9007199254740993",
        ] {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(number(text).float64().unwrap().to_bits(), expected.to_bits(), "{text}");
        }
        assert_eq!(number("1e309").float64(), Err(Reason::OutOfRange));
        assert_eq!(number("1e39").float32(), Err(Reason::OutOfRange));
        assert_eq!(number("0.1").float32(), Ok(0.1));
        assert_eq!(number("1e-400").float64(), Ok(0.0));
    }

    #[test]
    fn short_forms_are_read_as_by_the_grammar_or_not_at_all() {
        let rng = &mut fastrand::Rng::with_seed(1);
        let digits = |rng: &mut fastrand::Rng, most| -> String {
            (0..rng.usize(0..=most)).map(|_| rng.digit(10)).collect()
        };
        let mut short = (0, 0);
        for _ in 0..300_000 {
            let mut text = String::new();
            text.push_str(rng.choice(["", "", "-", "0", "-0", "+"]).unwrap_or_default());
            text.push_str(&digits(rng, 17));
            text.push_str(rng.choice(["", "", ".", ".0"]).unwrap_or_default());
            text.push_str(&digits(rng, 9));
            text.push_str(rng.choice([",", "}", "e", "E+1", " ", "\0", ":", "/", "x"]).unwrap());
            let text = text.get(..BLOCK).unwrap_or(&text);
            let mut block = [0; BLOCK];
            block.iter_mut().zip(text.bytes()).for_each(|(byte, text)| *byte = text);
            let number = Number::scan(&block);
            let length = number.map(|(_, length)| length);
            if let Some((value, end)) = short_integer(&block) {
                assert_eq!(number.map(|(number, _)| number.integer()), Some(Ok(value)), "{text}");
                assert_eq!(Some(end), length, "{text}");
                short.0 += 1;
            }
            if let Some((value, end)) = short_float(&block) {
                let expected: f64 = text[..end].parse().unwrap();
                assert_eq!(value.to_bits(), expected.to_bits(), "{text}");
                assert_eq!(Some(end), length, "{text}");
                short.1 += 1;
            }
        }
        assert!(short.0 > 10_000 && short.1 > 10_000, "{short:?}");
    }
}
