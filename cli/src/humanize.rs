//! Formats and parses durations, times and counts for users.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `350 ms`, `2.4 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub(crate) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        60..3600 => two_units(seconds / 60, "min", seconds % 60, "s"),
        3600..86400 => two_units(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two_units(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

fn two_units(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// The time since `since` (Unix milliseconds); zero if the clock was set back.
pub(crate) fn age(since: i64, now: i64) -> String {
    duration(u64::try_from(now - since).unwrap_or(0))
}

/// `90s`, `10m`, `1h30m`, `500ms`, `2d`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("`{text}` is not a duration: write it as `90s`, `10m`, `1h30m` or `2d`");
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let count: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        let letters = &rest[digits..];
        let end = letters.find(|c: char| c.is_ascii_digit()).unwrap_or(letters.len());
        let unit: u64 = match &letters[..end] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(invalid()),
        };
        total = count.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = &letters[end..];
    }
    if text.trim().is_empty() { Err(invalid()) } else { Ok(Duration::from_millis(total)) }
}

/// Unix milliseconds from a duration before `now` (`10m`) or from an RFC 3339 time.
pub(crate) fn parse_since(text: &str, now: i64) -> Result<i64, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(now.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)));
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok())
        .ok_or_else(|| format!("`{text}` is not a time: write it as `10m` (ago) or `2026-11-23T10:00:00Z`"))
}

/// The time of day in UTC, `10:04:05.123`.
pub(crate) fn time_of_day(milliseconds: i64) -> String {
    let since_midnight = milliseconds.rem_euclid(86_400_000);
    let (seconds, rest) = (since_midnight / 1000, since_midnight % 1000);
    format!("{:02}:{:02}:{:02}.{rest:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The day in UTC, `2027-02-21`.
pub(crate) fn date(milliseconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(milliseconds / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:04}-{:02}-{:02}", time.year(), u8::from(time.month()), time.day())
}

/// The message of the operating system in lower case, without the "(os error 13)" that Rust adds.
pub(crate) fn io_error(error: &std::io::Error) -> String {
    let message = error.to_string();
    let message = message.split(" (os error").next().unwrap_or_default();
    let mut letters = message.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// `1 unit`, `2 units`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_formatted() {
        for (text, milliseconds, formatted) in [
            ("90s", 90_000, "1 min 30 s"),
            ("500ms", 500, "500 ms"),
            ("1h30m", 5_400_000, "1 h 30 min"),
            ("5", 5_000, "5.0 s"),
            ("2d", 172_800_000, "2 d"),
        ] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), milliseconds, "{text}");
            assert_eq!(duration(u64::try_from(milliseconds).unwrap()), formatted);
        }
        for invalid in ["", "s", "10x", "1h30", "-5s", "99999999999999999999d"] {
            assert!(parse_duration(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn relative_and_absolute_times_are_parsed() {
        assert_eq!(parse_since("10s", 60_000), Ok(50_000));
        assert_eq!(parse_since("1970-01-01T00:00:01Z", 0), Ok(1000));
        assert!(parse_since("yesterday", 0).is_err());
        assert_eq!(time_of_day(3_723_004), "01:02:03.004");
    }
}
