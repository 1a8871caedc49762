//! When to look next while a program starts: at once, then on a 10 ms grid that widens with time.

use std::time::Duration;

/// Quick programs are seen within 10 ms; one that needs a minute is not asked six thousand times.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProbeSchedule {
    elapsed: Duration,
}

impl ProbeSchedule {
    /// The next pause, given how long the looking took; the grid starts at zero.
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
        let mut grid = ProbeSchedule::default();
        let mut total = std::time::Duration::ZERO;
        let mut looks = 0;
        while total.as_secs() < 60 {
            total += grid.next_delay();
            looks += 1;
        }
        assert!((500..900).contains(&looks), "{looks}");
    }
}
