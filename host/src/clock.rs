//! The system's clock. The pure crates take the time as a parameter.

use std::time::{SystemTime, UNIX_EPOCH};

#[must_use]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Unix milliseconds; 0 if the clock is set before 1970.
#[must_use]
pub fn now_milliseconds() -> i64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::now_milliseconds;

    #[test]
    fn clock_is_after_the_release_of_pdev() {
        assert!(now_milliseconds() > 1_735_689_600_000);
    }
}
