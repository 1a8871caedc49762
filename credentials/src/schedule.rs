//! Decides when to serve a lease, when to renew it, and when the user must sign in. Pure: the clock is an argument.
//!
//! The rules and their sources are listed in docs/credentials.md.

use crate::lease::{LoginEnd, Times};

const MINUTE: i64 = 60_000;
/// AWS SDKs fetch again on every use below 15 minutes (botocore's advisory refresh window). A shorter lease is
/// therefore only handed out if the source gives no longer one.
pub const REMAINING_MIN: i64 = 15 * MINUTE;
/// A lease must not end while the request that uses it is in transit.
const EXPIRY_MARGIN: i64 = MINUTE;
/// Two machines' clocks may differ by this much. A lease from further in the future means that this clock was set back.
const CLOCK_TOLERANCE: i64 = 5 * MINUTE;
const BACK_OFF_FIRST: i64 = 1_000;
pub const BACK_OFF_MAX: i64 = 5 * MINUTE;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Serve,
    /// Serve this lease now and fetch the next one in the background.
    ServeAndRenew,
    /// Fetch first. The old lease is served only if that fails and it has not ended.
    RenewFirst,
    NeedsLogin,
}

/// `renewable`: the source can provide the next lease without the user.
#[must_use]
pub fn verdict(now: i64, times: &Times, renewable: bool) -> Verdict {
    let Some(expires) = times.expires_at else { return Verdict::Serve };
    // `expires` is by the issuer's clock, so compare by that clock.
    let now = now.saturating_add(times.skew);
    let issued = times.issued_at.saturating_add(times.skew);
    let (life, remaining) = (expires.saturating_sub(issued), expires.saturating_sub(now));
    let first = if renewable { Verdict::RenewFirst } else { Verdict::NeedsLogin };
    if remaining <= EXPIRY_MARGIN.min(life / 10) {
        return first;
    }
    if !renewable {
        return Verdict::Serve;
    }
    let set_back = now < issued.saturating_sub(CLOCK_TOLERANCE);
    let too_short = remaining < REMAINING_MIN && life >= 2 * REMAINING_MIN;
    if set_back || too_short {
        Verdict::RenewFirst
    } else if remaining.saturating_mul(2) <= life {
        Verdict::ServeAndRenew
    } else {
        Verdict::Serve
    }
}

/// The time of the background renewal: after about half of the lifetime. `jitter` (0 to 1000) spreads it over a tenth
/// of the lifetime.
#[must_use]
pub fn renew_at(times: &Times, jitter: u16) -> Option<i64> {
    let expires = times.expires_at?.saturating_sub(times.skew);
    let life = expires.saturating_sub(times.issued_at).max(0);
    Some(times.issued_at + life / 2 + life / 10 * i64::from(jitter.min(1000)) / 1000)
}

/// The time at which the user is warned about the end of a login: a twentieth of its life ahead, at least half an hour
/// and at most a day. For short logins it is a quarter.
#[must_use]
pub fn warn_at(login: &LoginEnd) -> i64 {
    let life = login.ends_at.saturating_sub(login.started_at).max(0);
    login.ends_at.saturating_sub((life / 20).clamp(30 * MINUTE, 24 * 60 * MINUTE).min(life / 4))
}

/// The pause after this number of consecutive failures: exponential with a cap. `jitter` (0 to 1000) spreads it over
/// the upper half.
#[must_use]
pub fn back_off(failures: u32, jitter: u16) -> i64 {
    let full = BACK_OFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(BACK_OFF_MAX);
    full / 2 + full / 2 * i64::from(jitter.min(1000)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * MINUTE;

    fn one_hour_lease() -> Times {
        Times { issued_at: 100 * HOUR, expires_at: Some(101 * HOUR), skew: 0 }
    }

    #[test]
    fn verdict_follows_remaining_lifetime() {
        use Verdict::{NeedsLogin, RenewFirst, Serve, ServeAndRenew};
        let short = Times { expires_at: Some(100 * HOUR + 10 * MINUTE), ..one_hour_lease() };
        let endless = Times { expires_at: None, ..one_hour_lease() };
        let ahead = Times { skew: 20 * MINUTE, expires_at: Some(101 * HOUR + 20 * MINUTE), ..one_hour_lease() };
        for (case, minutes, times, renewable, expected) in [
            ("fresh", 0, one_hour_lease(), true, Serve),
            ("before half", 29, one_hour_lease(), true, Serve),
            ("at half", 30, one_hour_lease(), true, ServeAndRenew),
            ("a quarter hour left", 45, one_hour_lease(), true, ServeAndRenew),
            ("below the floor", 46, one_hour_lease(), true, RenewFirst),
            ("below the floor, login needed", 46, one_hour_lease(), false, Serve),
            ("at the margin", 59, one_hour_lease(), true, RenewFirst),
            ("at the margin, login needed", 59, one_hour_lease(), false, NeedsLogin),
            ("over, after a suspend of a day", 24 * 60, one_hour_lease(), true, RenewFirst),
            ("short lives have no floor", 3, short, true, Serve),
            ("short lives at half", 5, short, true, ServeAndRenew),
            ("short lives at the margin", 9, short, true, RenewFirst),
            ("no end", 100_000, endless, false, Serve),
            ("clock set back a little", -4, one_hour_lease(), true, Serve),
            ("clock set back", -60, one_hour_lease(), true, RenewFirst),
            ("clock set back, login needed", -60, one_hour_lease(), false, Serve),
            ("issuer ahead by 20 minutes", 0, ahead, true, Serve),
            ("issuer ahead, at the margin of its clock", 59, ahead, true, RenewFirst),
        ] {
            assert_eq!(verdict(100 * HOUR + minutes * MINUTE, &times, renewable), expected, "{case}");
        }
    }

    /// A linear congruential generator: the sequence is the same on every run.
    fn pseudo_random_numbers(mut state: u64) -> impl FnMut(i64) -> i64 {
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((state >> 33) % u64::try_from(below).unwrap()).unwrap()
        }
    }

    #[test]
    fn random_times_never_serve_expired_leases() {
        let mut number = pseudo_random_numbers(7);
        for _ in 0..20_000 {
            let issued_at = number(1 << 40);
            let life = number(48 * HOUR);
            let skew = number(2 * HOUR) - HOUR;
            let times = Times { issued_at, expires_at: Some(issued_at + skew + life), skew };
            let now = issued_at + number(100 * HOUR) - 20 * HOUR;
            let remaining = times.expires_at.unwrap() - (now + skew);
            for renewable in [true, false] {
                let verdict = verdict(now, &times, renewable);
                if matches!(verdict, Verdict::Serve | Verdict::ServeAndRenew) {
                    assert!(remaining > 0, "an ended lease was served: {times:?} at {now}");
                    assert!(
                        !renewable || life < 2 * REMAINING_MIN || remaining >= REMAINING_MIN,
                        "too short: {times:?} at {now}"
                    );
                }
                assert_eq!(verdict == Verdict::NeedsLogin, !renewable && remaining <= EXPIRY_MARGIN.min(life / 10));
            }
            let at = renew_at(&times, u16::try_from(number(1001)).unwrap()).unwrap();
            assert!(at >= issued_at + life / 2 - 1 && at <= issued_at + life * 6 / 10 + 1, "{times:?}: {at}");
        }
    }

    #[test]
    fn login_warning_time_scales_with_lifetime() {
        for (life, before) in [
            (20 * MINUTE, 5 * MINUTE),
            (HOUR, 15 * MINUTE),
            (8 * HOUR, 30 * MINUTE),
            (90 * 24 * HOUR, 24 * HOUR),
            (-HOUR, 0),
        ] {
            let login = LoginEnd { identity: "a".to_owned(), started_at: HOUR, ends_at: HOUR + life };
            assert_eq!(login.ends_at - warn_at(&login), before, "{life}");
        }
    }

    #[test]
    fn back_off_grows_to_its_cap() {
        let waits: Vec<i64> = (1..=12).map(|failures| back_off(failures, 1000)).collect();
        assert_eq!(waits[..4], [1000, 2000, 4000, 8000]);
        assert_eq!(waits[11], BACK_OFF_MAX);
        assert_eq!(back_off(u32::MAX, 0), BACK_OFF_MAX / 2);
    }
}
