//! Waiting for a person who types a code elsewhere (RFC 8628, section 3.5). Pure: what to do after each answer.

use std::time::Duration;

/// When the server names no interval.
const INTERVAL: Duration = Duration::from_secs(5);
const SLOWER: Duration = Duration::from_secs(5);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

pub(super) const EXPIRED: &str = "the code has expired before it was confirmed";
/// The person, or a rule of theirs, said no.
pub(super) const DENIED: &str = "the request was denied at the provider";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Poll {
    interval: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Ask again after [`Poll::interval`].
    Again,
    /// Final; a new code needs the person.
    Over(String),
}

impl Poll {
    pub fn new(interval: Option<u64>) -> Self {
        let interval = interval.map_or(INTERVAL, Duration::from_secs).clamp(Duration::from_secs(1), INTERVAL_MAX);
        Self { interval }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// After an error of the token endpoint.
    pub fn refused(&mut self, error: &str, description: Option<&str>) -> Step {
        match error {
            "authorization_pending" => Step::Again,
            // For this and all later polls.
            "slow_down" => {
                self.interval = (self.interval + SLOWER).min(INTERVAL_MAX);
                Step::Again
            }
            "access_denied" => Step::Over(DENIED.to_owned()),
            "expired_token" => Step::Over(EXPIRED.to_owned()),
            other => {
                let more = description.map(|words| format!(": {}", super::words(words))).unwrap_or_default();
                Step::Over(format!("the provider refused the code with `{}`{more}", super::words(other)))
            }
        }
    }

    /// After no answer at all, or a broken one: as section 3.5 asks, the interval doubles.
    pub fn unreachable(&mut self) {
        self.interval = (self.interval * 2).min(INTERVAL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_down_is_for_all_later_polls() {
        let mut poll = Poll::new(None);
        assert_eq!(poll.interval().as_secs(), 5);
        assert_eq!(poll.refused("authorization_pending", None), Step::Again);
        assert_eq!(poll.refused("slow_down", None), Step::Again);
        assert_eq!(poll.refused("authorization_pending", None), Step::Again);
        assert_eq!(poll.interval().as_secs(), 10);
        poll.unreachable();
        assert_eq!(poll.interval().as_secs(), 20);
        (0..9).for_each(|_| poll.unreachable());
        assert_eq!(poll.interval().as_secs(), 60);
        assert_eq!(Poll::new(Some(0)).interval().as_secs(), 1);
        for final_word in ["access_denied", "expired_token", "invalid_grant"] {
            assert!(matches!(poll.refused(final_word, Some("x")), Step::Over(_)), "{final_word}");
        }
    }
}
