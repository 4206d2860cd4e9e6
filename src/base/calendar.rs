//! Days of the proleptic Gregorian calendar.

/// Seconds of a day.
pub(crate) const SECONDS_OF_DAY: i64 = 86_400;
/// 0001-01-01 as days since 1970-01-01.
pub(crate) const FIRST_DAY: i64 = -719_162;
/// 9999-12-31 as days since 1970-01-01.
pub(crate) const LAST_DAY: i64 = 2_932_896;

/// Days since 1970-01-01, by counting years from March so that the leap day comes last.
#[inline]
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    // Year 0 of this count begins on 0000-03-01, 719,468 days before 1970-01-01.
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

/// Year, month (1 to 12) and day of the month of a count of days since 1970-01-01.
#[inline]
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Counted in eras of 400 years that begin on a first of March, where the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days of a month (1 to 12).
#[inline]
pub(crate) fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{Datelike, NaiveDate};

    #[test]
    fn every_day_of_ten_thousand_years_agrees_with_chrono_in_both_directions() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        let mut day = NaiveDate::from_ymd_opt(1, 1, 1).unwrap();
        assert_eq!((day - epoch).num_days(), FIRST_DAY);
        while day.year() <= 9999 {
            let days = (day - epoch).num_days();
            let parts = (i64::from(day.year()), i64::from(day.month()), i64::from(day.day()));
            assert_eq!(civil_from_days(days), parts);
            assert_eq!(days_from_civil(parts.0, parts.1, parts.2), days);
            let next = day.succ_opt().unwrap();
            let is_last = parts.2 == days_of_month(parts.0, parts.1);
            assert_eq!(is_last, next.month() != day.month(), "{day}");
            day = next;
        }
        assert_eq!((day - epoch).num_days(), LAST_DAY + 1);
    }

    #[test]
    fn days_that_no_text_can_name_have_a_date_too() {
        for days in [i64::from(i32::MIN), -1_000_000_000, 1_000_000_000, i64::from(i32::MAX)] {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(civil_from_days(FIRST_DAY - 1), (0, 12, 31));
    }
}
