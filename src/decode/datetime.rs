//! Text -> days, times of day and instants, in the proleptic Gregorian calendar, years 0001 to
//! 9999. Every function tells `BadText` for text of another form, `OutOfRange` for a month 13, and
//! `Inexact` for digits finer than the unit.

use super::error::Reason;
use super::simd::{BLOCK, Digits};
use crate::base::calendar::{FIRST_DAY, LAST_DAY, SECONDS_OF_DAY, days_from_civil, days_of_month};

/// Ten to the number of digits that a fraction lacks.
const FRACTION_POWERS: [i64; 10] =
    [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// The unit that a column counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Microsecond,
    Nanosecond,
}

impl Unit {
    fn digits(self) -> usize {
        match self {
            Self::Microsecond => 6,
            Self::Nanosecond => 9,
        }
    }

    pub(super) fn per_second(self) -> i64 {
        match self {
            Self::Microsecond => 1_000_000,
            Self::Nanosecond => 1_000_000_000,
        }
    }
}

/// Reads ASCII text from the left.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    #[inline]
    fn digits<const N: usize>(&mut self) -> Result<i64, Reason> {
        let (digits, rest) = self.0.split_first_chunk::<N>().ok_or(Reason::BadText)?;
        let mut value = 0;
        for digit in digits {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return Err(Reason::BadText);
            }
            value = value * 10 + i64::from(digit);
        }
        self.0 = rest;
        Ok(value)
    }

    #[inline]
    fn take(&mut self, accepted: &[u8]) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if accepted.contains(first) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn expect(&mut self, accepted: &[u8]) -> Result<(), Reason> {
        if self.take(accepted) { Ok(()) } else { Err(Reason::BadText) }
    }

    fn end(&self) -> Result<(), Reason> {
        if self.0.is_empty() { Ok(()) } else { Err(Reason::BadText) }
    }

    /// `YYYY-MM-DD`, as days since 1970-01-01.
    #[inline]
    fn days(&mut self) -> Result<i64, Reason> {
        let year = self.digits::<4>()?;
        self.expect(b"-")?;
        let month = self.digits::<2>()?;
        self.expect(b"-")?;
        let day = self.digits::<2>()?;
        let last = days_of_month(year, month);
        if year == 0 || !(1..=12).contains(&month) || !(1..=last).contains(&day) {
            return Err(Reason::OutOfRange);
        }
        Ok(days_from_civil(year, month, day))
    }

    /// `HH:MM`, `HH:MM:SS` or `HH:MM:SS.f...`, in `unit`s since midnight.
    #[inline]
    fn time(&mut self, unit: Unit) -> Result<i64, Reason> {
        let hour = self.digits::<2>()?;
        self.expect(b":")?;
        let minute = self.digits::<2>()?;
        let second = if self.take(b":") { Some(self.digits::<2>()?) } else { None };
        if hour > 23 || minute > 59 || second.is_some_and(|s| s > 59) {
            return Err(Reason::OutOfRange);
        }
        let seconds = (hour * 60 + minute) * 60 + second.unwrap_or(0);
        let fraction = if second.is_some() && self.take(b".") { self.fraction(unit)? } else { 0 };
        Ok(seconds * unit.per_second() + fraction)
    }

    /// The digits after the point, in `unit`s.
    #[inline]
    fn fraction(&mut self, unit: Unit) -> Result<i64, Reason> {
        let mut value = 0;
        let mut count = 0;
        while let Some((digit, rest)) = self.0.split_first().filter(|(d, _)| d.is_ascii_digit()) {
            if count < unit.digits() {
                value = value * 10 + i64::from(digit - b'0');
                count += 1;
            } else if *digit != b'0' {
                return Err(Reason::Inexact);
            }
            self.0 = rest;
        }
        if count == 0 {
            return Err(Reason::BadText);
        }
        Ok(value * FRACTION_POWERS.get(unit.digits() - count).copied().unwrap_or(1))
    }

    /// `Z`, `+HH:MM` or `+HHMM`, as seconds east of UTC.
    #[inline]
    fn offset(&mut self) -> Result<i64, Reason> {
        if self.take(b"Zz") {
            return Ok(0);
        }
        let west = self.take(b"-");
        if !west {
            self.expect(b"+")?;
        }
        let hour = self.digits::<2>()?;
        self.take(b":");
        let minute = self.digits::<2>()?;
        if hour > 23 || minute > 59 {
            return Err(Reason::OutOfRange);
        }
        let seconds = (hour * 60 + minute) * 60;
        Ok(if west { -seconds } else { seconds })
    }
}

/// `YYYY-MM-DD` -> days since 1970-01-01.
pub(super) fn date(text: &[u8]) -> Result<i32, Reason> {
    let mut text = Text(text);
    let days = text.days()?;
    text.end()?;
    i32::try_from(days).map_err(|_| Reason::OutOfRange)
}

/// Days since 1970-01-01, if they fall into the calendar.
pub(super) fn date_from_days(days: i64) -> Result<i32, Reason> {
    if !(FIRST_DAY..=LAST_DAY).contains(&days) {
        return Err(Reason::OutOfRange);
    }
    i32::try_from(days).map_err(|_| Reason::OutOfRange)
}

/// `HH:MM[:SS[.f...]]` -> microseconds since midnight.
pub(super) fn time(text: &[u8]) -> Result<i64, Reason> {
    let mut text = Text(text);
    let time = text.time(Unit::Microsecond)?;
    text.end()?;
    Ok(time)
}

/// What a timestamp column takes, and the last day that it took: the next is mostly the same.
#[derive(Debug)]
pub(super) struct TimestampForm {
    pub unit: Unit,
    /// Has the text a zone? It must have one exactly if the column has.
    pub zoned: bool,
    /// `YYYY-MM-DD`.
    day: [u8; 10],
    /// The same as days since 1970-01-01.
    days: i64,
}

impl TimestampForm {
    pub(super) fn new(unit: Unit, zoned: bool) -> Self {
        Self { unit, zoned, day: *b"1970-01-01", days: 0 }
    }

    /// ISO 8601 date and time -> units since 1970-01-01T00:00.
    pub(super) fn parse(&self, text: &[u8]) -> Result<i64, Reason> {
        let (mut text, unit) = (Text(text), self.unit);
        let days = text.days()?;
        text.expect(b"Tt ")?;
        let time = text.time(unit)?;
        let offset = if self.zoned { text.offset()? } else { 0 };
        text.end()?;
        let seconds = days * SECONDS_OF_DAY - offset;
        let (time_seconds, fraction) = (time / unit.per_second(), time % unit.per_second());
        instant(seconds + time_seconds, fraction, unit)
    }

    /// The instant that begins `text`, and the bytes it takes with the quote after it, if it has
    /// the common form: seconds, at most 7 digits after the point, in UTC as `Z` if zoned. Others
    /// may still be instants.
    #[inline(always)]
    pub(super) fn parse_common(&mut self, text: &[u8; BLOCK]) -> Option<(i64, usize)> {
        let (day, rest) = text.split_first_chunk::<10>()?;
        let (separator, rest) = rest.split_first()?;
        let (clock, rest) = rest.split_first_chunk::<8>()?;
        let (point, rest) = rest.split_first()?;
        let seconds = clock_seconds(clock)?;
        if !matches!(separator, b'T' | b't' | b' ') {
            return None;
        }
        let (mut fraction, mut end) = (0, 19);
        if *point == b'.' {
            let digits = Digits::of(rest.first_chunk()?);
            let missing = FRACTION_POWERS.get(self.unit.digits().checked_sub(digits.count)?)?;
            if !(1..8).contains(&digits.count) {
                return None;
            }
            fraction = digits.value.cast_signed() * missing;
            end += 1 + digits.count;
        }
        if self.zoned {
            if *text.get(end)? | 0x20 != b'z' {
                return None;
            }
            end += 1;
        }
        if *text.get(end)? != b'"' {
            return None;
        }
        if *day != self.day {
            self.days = date(day).ok()?.into();
            self.day = *day;
        }
        let seconds = self.days * SECONDS_OF_DAY + seconds;
        // Without an offset no instant leaves the calendar.
        let value = seconds.checked_mul(self.unit.per_second())?.checked_add(fraction)?;
        Some((value, end + 1))
    }
}

/// `HH:MM:SS` -> seconds.
#[inline(always)]
fn clock_seconds(clock: &[u8; 8]) -> Option<i64> {
    let pattern = u64::from_le_bytes(*b"00:00:00");
    let digits = u64::from_le_bytes(*clock) ^ pattern;
    // Sets the high bit of each digit above 9 and of each colon that is none. A byte is carried
    // over only by one that has its high bit set.
    let above = digits.wrapping_add(u64::from_le_bytes(*b"\x76\x76\x7F\x76\x76\x7F\x76\x76"));
    if (digits | above) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let [hour, _, _, minute, _, _, second, _] = (digits * 10 + (digits >> 8)).to_le_bytes();
    let valid = hour < 24 && minute < 60 && second < 60;
    valid.then_some((i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second))
}

/// Milliseconds since 1970-01-01T00:00 UTC -> `unit`s, if they fall into the calendar.
pub(super) fn timestamp_from_millis(millis: i64, unit: Unit) -> Result<i64, Reason> {
    let fraction = millis.rem_euclid(1000) * (unit.per_second() / 1000);
    instant(millis.div_euclid(1000), fraction, unit)
}

#[inline]
fn instant(seconds: i64, fraction: i64, unit: Unit) -> Result<i64, Reason> {
    if !(FIRST_DAY * SECONDS_OF_DAY..(LAST_DAY + 1) * SECONDS_OF_DAY).contains(&seconds) {
        return Err(Reason::OutOfRange);
    }
    // In i128, because the first instant of an i64 of nanoseconds is no whole second.
    let value = i128::from(seconds) * i128::from(unit.per_second()) + i128::from(fraction);
    i64::try_from(value).map_err(|_| Reason::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{Datelike, NaiveDate};

    /// By the common form as well, if the text has it: the same, or nothing.
    fn timestamp(text: &str, unit: Unit, zoned: bool) -> Result<i64, Reason> {
        let mut form = TimestampForm::new(unit, zoned);
        let parsed = form.parse(text.as_bytes());
        let mut block = [0; BLOCK];
        block.iter_mut().zip(format!("{text}\"").bytes()).for_each(|(byte, text)| *byte = text);
        // The second time, the day is known.
        for _ in 0..2 {
            if let Some((instant, length)) = form.parse_common(&block) {
                assert_eq!((Ok(instant), length), (parsed, text.len() + 1), "{text}");
            }
        }
        parsed
    }

    #[test]
    fn every_day_of_the_calendar_agrees_with_chrono() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        let mut day = NaiveDate::from_ymd_opt(1, 1, 1).unwrap();
        while day.year() <= 9999 {
            let text = day.format("%Y-%m-%d").to_string();
            let expected = i32::try_from((day - epoch).num_days()).unwrap();
            assert_eq!(date(text.as_bytes()), Ok(expected), "{text}");
            assert_eq!(date_from_days(i64::from(expected)), Ok(expected));
            day = day.succ_opt().unwrap();
        }
    }

    #[test]
    fn days_that_do_not_exist_are_out_of_range() {
        for text in [
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-04-31",
            "2024-01-00",
            "0000-01-01",
        ] {
            assert_eq!(date(text.as_bytes()), Err(Reason::OutOfRange), "{text}");
        }
        for text in [
            "",
            "2024-1-1",
            "2024/01/01",
            "20240101",
            "2024-01-01T00:00",
            "+2024-01-01",
            "12024-01-01",
        ] {
            assert_eq!(date(text.as_bytes()), Err(Reason::BadText), "{text}");
        }
        assert_eq!(date_from_days(FIRST_DAY - 1), Err(Reason::OutOfRange));
        assert_eq!(date_from_days(LAST_DAY + 1), Err(Reason::OutOfRange));
    }

    #[test]
    fn times_have_minutes_and_at_most_microseconds() {
        assert_eq!(time(b"00:00"), Ok(0));
        assert_eq!(time(b"23:59:59.999999"), Ok(86_399_999_999));
        assert_eq!(time(b"10:15:30.5"), Ok(36_930_500_000));
        assert_eq!(time(b"10:15:30.500000000"), Ok(36_930_500_000));
        assert_eq!(time(b"10:15:30.0000001"), Err(Reason::Inexact));
        for text in ["24:00:00", "10:60", "23:59:60"] {
            assert_eq!(time(text.as_bytes()), Err(Reason::OutOfRange), "{text}");
        }
        for text in ["10", "10:15:", "10:15:30.", "1:15", "10:15Z", " 10:15", "10:15.5"] {
            assert_eq!(time(text.as_bytes()), Err(Reason::BadText), "{text}");
        }
    }

    #[test]
    fn a_zone_is_required_where_the_column_has_one_and_refused_where_not() {
        let micros = |text: &str, zoned| timestamp(text, Unit::Microsecond, zoned);
        let expected = Ok(1_704_103_200_123_456);
        assert_eq!(micros("2024-01-01T10:00:00.123456", false), expected);
        assert_eq!(micros("2024-01-01 10:00:00.123456", false), expected);
        for text in [
            "T10:00:00.123456Z",
            "T12:00:00.123456+02:00",
            "t04:30:00.123456-0530",
            " 10:00:00.123456z",
        ] {
            assert_eq!(micros(&format!("2024-01-01{text}"), true), expected, "{text}");
        }
        assert_eq!(micros("2024-01-01T10:00:00Z", false), Err(Reason::BadText));
        assert_eq!(micros("2024-01-01T10:00:00", true), Err(Reason::BadText));
        assert_eq!(micros("2024-01-01T10:00:00+24:00", true), Err(Reason::OutOfRange));
        assert_eq!(micros("2024-01-01T10:00:00.1234567Z", true), Err(Reason::Inexact));
        assert_eq!(micros("0001-01-01T00:00:00+01:00", true), Err(Reason::OutOfRange));
        assert_eq!(micros("2024-01-01", false), Err(Reason::BadText));
    }

    #[test]
    fn nanoseconds_reach_from_1677_to_2262() {
        let nanos = |text: &str| timestamp(text, Unit::Nanosecond, false);
        assert_eq!(nanos("1970-01-01T00:00:00.000000001"), Ok(1));
        assert_eq!(nanos("2262-04-11T23:47:16.854775807"), Ok(i64::MAX));
        assert_eq!(nanos("2262-04-11T23:47:16.854775808"), Err(Reason::OutOfRange));
        assert_eq!(nanos("1677-09-21T00:12:43.145224192"), Ok(i64::MIN));
        assert_eq!(nanos("1677-09-21T00:12:43.145224191"), Err(Reason::OutOfRange));
    }

    #[test]
    fn integers_are_milliseconds_and_microseconds_by_mistake_are_refused() {
        assert_eq!(timestamp_from_millis(-1, Unit::Microsecond), Ok(-1_000));
        assert_eq!(
            timestamp_from_millis(1_700_000_000_123, Unit::Nanosecond),
            Ok(1_700_000_000_123_000_000)
        );
        assert_eq!(
            timestamp_from_millis(1_700_000_000_123_456, Unit::Microsecond),
            Err(Reason::OutOfRange)
        );
        assert_eq!(timestamp_from_millis(i64::MIN, Unit::Microsecond), Err(Reason::OutOfRange));
    }
}
