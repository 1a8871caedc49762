//! The pauses between probes of a starting program: first 10 ms, then longer ones.

use std::time::Duration;

/// A fast program is detected within 10 ms, and a program that needs a minute is not probed six thousand times.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProbeSchedule {
    elapsed: Duration,
}

impl ProbeSchedule {
    /// The next pause, which depends on the sum of the previous ones.
    pub fn next_delay(&mut self) -> Duration {
        let pause = match self.elapsed.as_millis() {
            0..2_000 => Duration::from_millis(10),
            2_000..10_000 => Duration::from_millis(50),
            10_000..60_000 => Duration::from_millis(200),
            _ => Duration::from_secs(1),
        };
        self.elapsed += pause;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::ProbeSchedule;

    #[test]
    fn one_minute_takes_a_few_hundred_probes() {
        let mut schedule = ProbeSchedule::default();
        let mut total = std::time::Duration::ZERO;
        let mut probes = 0;
        while total.as_secs() < 60 {
            total += schedule.next_delay();
            probes += 1;
        }
        assert!((500..900).contains(&probes), "{probes}");
    }
}
