//! The poll loop of a device login (RFC 8628, section 3.5), while the user types the code on any device. Pure: decides
//! the next step after each response.

use std::time::Duration;

/// The interval if the server specifies none.
const INTERVAL: Duration = Duration::from_secs(5);
const SLOW_DOWN_STEP: Duration = Duration::from_secs(5);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

pub(super) const CODE_EXPIRED: &str = "the code has expired before it was confirmed";
/// The user or a policy denied the request.
pub(super) const LOGIN_DENIED: &str = "the request was denied at the provider";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DevicePoll {
    interval: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PollStep {
    /// Poll again after [`DevicePoll::interval`].
    Retry,
    /// Final. A new code requires the user.
    Failed(String),
}

impl DevicePoll {
    pub fn new(interval: Option<u64>) -> Self {
        let interval = interval.map_or(INTERVAL, Duration::from_secs).clamp(Duration::from_secs(1), INTERVAL_MAX);
        Self { interval }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Decides the step after an error of the token endpoint.
    pub fn handle_error(&mut self, error: &str, description: Option<&str>) -> PollStep {
        match error {
            "authorization_pending" => PollStep::Retry,
            // RFC 8628 applies the longer interval to this and all later polls.
            "slow_down" => {
                self.interval = (self.interval + SLOW_DOWN_STEP).min(INTERVAL_MAX);
                PollStep::Retry
            }
            "access_denied" => PollStep::Failed(LOGIN_DENIED.to_owned()),
            "expired_token" => PollStep::Failed(CODE_EXPIRED.to_owned()),
            other => {
                let detail = description.map(|text| format!(": {}", super::sanitize_text(text))).unwrap_or_default();
                PollStep::Failed(format!(
                    "the provider refused the code with `{}`{detail}",
                    super::sanitize_text(other)
                ))
            }
        }
    }

    /// After a missing or incomplete response, the interval doubles, as section 3.5 requires.
    pub fn handle_no_response(&mut self) {
        self.interval = (self.interval * 2).min(INTERVAL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_down_is_for_all_later_polls() {
        let mut poll = DevicePoll::new(None);
        assert_eq!(poll.interval().as_secs(), 5);
        assert_eq!(poll.handle_error("authorization_pending", None), PollStep::Retry);
        assert_eq!(poll.handle_error("slow_down", None), PollStep::Retry);
        assert_eq!(poll.handle_error("authorization_pending", None), PollStep::Retry);
        assert_eq!(poll.interval().as_secs(), 10);
        poll.handle_no_response();
        assert_eq!(poll.interval().as_secs(), 20);
        (0..9).for_each(|_| poll.handle_no_response());
        assert_eq!(poll.interval().as_secs(), 60);
        assert_eq!(DevicePoll::new(Some(0)).interval().as_secs(), 1);
        for final_error in ["access_denied", "expired_token", "invalid_grant"] {
            assert!(matches!(poll.handle_error(final_error, Some("x")), PollStep::Failed(_)), "{final_error}");
        }
    }
}
