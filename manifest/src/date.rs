//! Calendar days, such as the last day of a waiver.

use std::fmt;

/// A calendar day. Callers pass the current day as a value, because the pure crates have no clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Date {
    pub year: u16,
    pub month: u8,
    pub day: u8,
}

impl Date {
    /// The day (UTC) of a time in Unix milliseconds.
    #[must_use]
    pub fn from_unix_milliseconds(milliseconds: i64) -> Self {
        const MILLISECONDS_PER_DAY: i64 = 86_400_000;
        Self::from_days_since_epoch(milliseconds.div_euclid(MILLISECONDS_PER_DAY))
    }

    /// Days since 1970-01-01 in the Gregorian calendar. Counts years from March, so that a leap day is the last day of
    /// its year.
    #[must_use]
    pub fn days_since_epoch(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    /// The inverse of [`Self::days_since_epoch`]. Years outside of 0 to 65535 become the nearest of these.
    #[must_use]
    pub fn from_days_since_epoch(days: i64) -> Self {
        let days = days.saturating_add(719_468);
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = (year_of_era + era * 400 + i64::from(month <= 2)).clamp(0, i64::from(u16::MAX));
        Self {
            year: u16::try_from(year).unwrap_or_default(),
            month: u8::try_from(month).unwrap_or_default(),
            day: u8::try_from(day_of_year - (153 * shifted_month + 2) / 5 + 1).unwrap_or_default(),
        }
    }
}

/// `2027-03-31`.
impl fmt::Display for Date {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// `2027-03-31`.
///
/// # Errors
/// A message that names the allowed notation.
pub fn parse_date(text: &str) -> Result<Date, String> {
    let invalid = || format!("`{text}` is no day; write it as `2027-03-31`");
    let parts: Vec<&str> = text.trim().split('-').collect();
    let [year, month, day] = parts.as_slice() else { return Err(invalid()) };
    if year.len() != 4 || month.len() != 2 || day.len() != 2 {
        return Err(invalid());
    }
    let date = Date {
        year: year.parse().map_err(|_| invalid())?,
        month: month.parse().map_err(|_| invalid())?,
        day: day.parse().map_err(|_| invalid())?,
    };
    let leap = date.year.is_multiple_of(4) && (!date.year.is_multiple_of(100) || date.year.is_multiple_of(400));
    let days = match date.month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return Err(invalid()),
    };
    if (1..=days).contains(&date.day) { Ok(date) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_since_epoch_match_calendar() {
        let days = |year, month, day| Date { year, month, day }.days_since_epoch();
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 3, 1), 11_017);
        assert_eq!(days(2027, 3, 31) - days(2026, 11, 23), 128);
    }

    #[test]
    fn date_survives_conversion_to_days_and_back() {
        for (date, later, text) in [
            (Date { year: 2026, month: 11, day: 23 }, 90, "2027-02-21"),
            (Date { year: 1970, month: 1, day: 1 }, 0, "1970-01-01"),
            (Date { year: 2024, month: 2, day: 28 }, 1, "2024-02-29"),
            (Date { year: 2023, month: 12, day: 31 }, 1, "2024-01-01"),
        ] {
            assert_eq!(Date::from_days_since_epoch(date.days_since_epoch() + later).to_string(), text);
        }
    }

    #[test]
    fn day_of_a_time_changes_at_midnight() {
        for (milliseconds, text) in
            [(0, "1970-01-01"), (951_868_799_999, "2000-02-29"), (951_868_800_000, "2000-03-01")]
        {
            assert_eq!(Date::from_unix_milliseconds(milliseconds).to_string(), text);
        }
    }

    #[test]
    fn impossible_dates_are_rejected() {
        assert_eq!(parse_date("2024-02-29"), Ok(Date { year: 2024, month: 2, day: 29 }));
        for wrong in ["2023-02-29", "2024-13-01", "24-01-01", "2024/01/01", "tomorrow"] {
            assert!(parse_date(wrong).is_err(), "{wrong}");
        }
    }
}
