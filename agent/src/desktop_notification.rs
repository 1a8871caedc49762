//! A word on the desktop when a person has to sign in: once per login, in the background, and only where there is a
//! desktop that shows notifications (freedesktop.org Desktop Notifications 1.2, over the session bus).
//!
//! It carries our own words and the command that helps, nothing that a provider said. A machine without a desktop, CI,
//! and whoever switched it off hear nothing; whatever fails here stops nothing.

use std::collections::HashMap;
use std::time::Duration;

use credentials::broker::{Broker, ChangeKind, IdentityChange};
use zbus::zvariant::Value;

use crate::convert;

const SERVICE_NAME: &str = "org.freedesktop.Notifications";
const OBJECT_PATH: &str = "/org/freedesktop/Notifications";
/// A bus that accepts and does not answer must not hold the next change back.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// How long it stays is the desktop's own decision.
const DEFAULT_EXPIRATION: i32 = -1;

/// What is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    title: String,
    body: String,
}

/// Whether this user wants to hear of anything at all.
#[must_use]
pub fn is_enabled(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    set("CI").is_none() && set("PDEV_NOTIFY").is_none_or(|value| value != "never")
}

/// The words for a change that a person has not heard of; `None` for all others.
#[must_use]
pub fn notification_for(broker: &Broker, change: &IdentityChange) -> Option<Notification> {
    let (login, title) = match &change.kind {
        _ if !change.is_first_notice => return None,
        ChangeKind::LoginExpiring { at } => {
            let left = convert::format_time_until(*at);
            (&change.identity, format!("pdev: the login of {} ends in {left}", change.identity))
        }
        ChangeKind::NeedsLogin(problem) => {
            let login = problem.login_identity.as_ref().unwrap_or(&change.identity);
            (login, format!("pdev: {login} needs a login"))
        }
        _ => return None,
    };
    let identity = broker.identity(login).ok()?;
    let wanted = identity.text("notify") != Some("never");
    let body = format!("To keep what uses it going: pdev login {login}");
    wanted.then_some(Notification { title, body })
}

/// Shows it, where there is somebody to show it to.
pub async fn show(words: Notification) {
    match tokio::time::timeout(SEND_LIMIT, send_notification(&words)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "no desktop shows notifications"),
        Err(_) => tracing::debug!("the desktop did not take a notification in time"),
    }
}

async fn send_notification(words: &Notification) -> zbus::Result<()> {
    let bus = zbus::Connection::session().await?;
    let hints: HashMap<&str, Value<'_>> = HashMap::from([("category", Value::from("network"))]);
    let actions: Vec<&str> = Vec::new();
    let body = ("pdev", 0_u32, "dialog-password", &words.title, &words.body, actions, hints, DEFAULT_EXPIRATION);
    bus.call_method(Some(SERVICE_NAME), OBJECT_PATH, Some(SERVICE_NAME), "Notify", &body).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_off_in_ci_or_by_setting() {
        for (set, expected) in [
            (&[][..], true),
            (&[("CI", "")], true),
            (&[("CI", "true")], false),
            (&[("PDEV_NOTIFY", "desktop")], true),
            (&[("PDEV_NOTIFY", "never")], false),
        ] {
            let variable = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(is_enabled(variable), expected, "{set:?}");
        }
    }
}
