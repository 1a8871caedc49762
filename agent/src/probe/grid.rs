//! When to look next while a program starts: at once, then on a 10 ms grid that widens with time.

use std::time::Duration;

/// Quick programs are seen within 10 ms; one that needs a minute is not asked six thousand times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grid {
    waited: Duration,
}

impl Grid {
    /// The next pause, given how long the looking took; the grid starts at zero.
    pub fn next_pause(&mut self) -> Duration {
        let pause = match self.waited.as_millis() {
            0..2_000 => Duration::from_millis(10),
            2_000..10_000 => Duration::from_millis(50),
            10_000..60_000 => Duration::from_millis(200),
            _ => Duration::from_secs(1),
        };
        self.waited += pause;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::Grid;

    #[test]
    fn a_minute_costs_a_few_hundred_looks() {
        let mut grid = Grid::default();
        let mut total = std::time::Duration::ZERO;
        let mut looks = 0;
        while total.as_secs() < 60 {
            total += grid.next_pause();
            looks += 1;
        }
        assert!((500..900).contains(&looks), "{looks}");
    }
}
