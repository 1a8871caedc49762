//! A word on the desktop when a person has to sign in: once per login, in the background, and only where there is a
//! desktop that shows notifications (freedesktop.org Desktop Notifications 1.2, over the session bus).
//!
//! It carries our own words and the command that helps, nothing that a provider said. A machine without a desktop, CI,
//! and whoever switched it off hear nothing; whatever fails here stops nothing.

use std::collections::HashMap;
use std::time::Duration;

use credentials::broker::{Broker, Change, What};
use zbus::zvariant::Value;

use crate::convert;

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
/// A bus that accepts and does not answer must not hold the next change back.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it stays is the desktop's own decision.
const STAYS: i32 = -1;

/// What is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Words {
    title: String,
    body: String,
}

/// Whether this user wants to hear of anything at all.
#[must_use]
pub fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    set("CI").is_none() && set("PDEV_NOTIFY").is_none_or(|value| value != "never")
}

/// The words for a change that a person has not heard of; `None` for all others.
#[must_use]
pub fn words(broker: &Broker, change: &Change) -> Option<Words> {
    let (login, title) = match &change.what {
        _ if !change.is_news => return None,
        What::Expiring { at } => {
            let left = convert::minutes_until(*at);
            (&change.identity, format!("pdev: the login of {} ends in {left}", change.identity))
        }
        What::NeedsLogin(problem) => {
            let login = problem.login.as_ref().unwrap_or(&change.identity);
            (login, format!("pdev: {login} needs a login"))
        }
        _ => return None,
    };
    let identity = broker.identity(login).ok()?;
    let wanted = identity.text("notify") != Some("never");
    let body = format!("To keep what uses it going: pdev login {login}");
    wanted.then_some(Words { title, body })
}

/// Shows it, where there is somebody to show it to.
pub async fn show(words: Words) {
    match tokio::time::timeout(LIMIT, notify(&words)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "no desktop shows notifications"),
        Err(_) => tracing::debug!("the desktop did not take a notification in time"),
    }
}

async fn notify(words: &Words) -> zbus::Result<()> {
    let bus = zbus::Connection::session().await?;
    let hints: HashMap<&str, Value<'_>> = HashMap::from([("category", Value::from("network"))]);
    let actions: Vec<&str> = Vec::new();
    let body = ("pdev", 0_u32, "dialog-password", &words.title, &words.body, actions, hints, STAYS);
    bus.call_method(Some(NAME), PATH, Some(NAME), "Notify", &body).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_disturbed_in_ci_or_against_their_will() {
        for (set, expected) in [
            (&[][..], true),
            (&[("CI", "")], true),
            (&[("CI", "true")], false),
            (&[("PDEV_NOTIFY", "desktop")], true),
            (&[("PDEV_NOTIFY", "never")], false),
        ] {
            let variable = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(is_wanted(variable), expected, "{set:?}");
        }
    }
}
