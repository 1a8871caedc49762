//! When units crashed: a unit that crashes too often within a time window fails instead of being restarted again.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How often a crashing unit is restarted within [`CRASH_WINDOW`]. The next crash marks it as failed.
pub const RESTARTS_MAX: u32 = 5;
pub const CRASH_WINDOW: Duration = Duration::from_secs(600);

/// The recent crashes of each unit.
#[derive(Default)]
pub struct CrashHistory {
    crashes: BTreeMap<String, VecDeque<Instant>>,
}

impl CrashHistory {
    /// Adds a crash and returns the number of crashes within the window that ends now.
    pub fn record(&mut self, unit: &str, now: Instant) -> u32 {
        let crashes = self.crashes.entry(unit.to_owned()).or_default();
        crashes.push_back(now);
        while crashes.front().is_some_and(|first| now.duration_since(*first) > CRASH_WINDOW) {
            crashes.pop_front();
        }
        u32::try_from(crashes.len()).unwrap_or(u32::MAX)
    }

    /// A start that a user asked for begins a new count.
    pub fn forget(&mut self, unit: &str) {
        self.crashes.remove(unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crashes_within_the_window_count() {
        let (mut history, start) = (CrashHistory::default(), Instant::now());
        let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(history.record("web", minutes(0)), 1);
        assert_eq!(history.record("web", minutes(4)), 2);
        assert_eq!(history.record("api", minutes(4)), 1, "another unit");
        assert_eq!(history.record("web", minutes(11)), 2, "the first crash is more than ten minutes ago");
        history.forget("web");
        assert_eq!(history.record("web", minutes(12)), 1);
    }
}
