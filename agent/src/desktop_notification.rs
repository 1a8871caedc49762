//! Desktop notifications for the user who has to sign in: once per login, in the background, and only if a desktop
//! shows notifications (freedesktop.org Desktop Notifications 1.2, over the session bus).
//!
//! A notification contains pdev's own text and the command to run, never text of a provider. None is shown without a
//! desktop, in CI, or if the user disabled them. A failure to notify has no other effect.

use std::collections::HashMap;
use std::time::Duration;

use credentials::broker::{Broker, ChangeKind, IdentityChange};
use zbus::zvariant::Value;

use crate::convert;

const SERVICE_NAME: &str = "org.freedesktop.Notifications";
const OBJECT_PATH: &str = "/org/freedesktop/Notifications";
/// Ends the attempt if the session bus accepts the message but does not answer.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// -1: the desktop decides how long the notification stays.
const DEFAULT_EXPIRATION: i32 = -1;

/// The text of one notification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    title: String,
    body: String,
}

/// False in CI (`CI` is set) and with `PDEV_NOTIFY=never`.
#[must_use]
pub fn is_enabled(variable: impl Fn(&str) -> Option<String>) -> bool {
    let non_empty = |name: &str| variable(name).filter(|value| !value.is_empty());
    non_empty("CI").is_none() && non_empty("PDEV_NOTIFY").is_none_or(|value| value != "never")
}

/// The notification for a change that needs the user and was not announced before; `None` for all other changes.
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
    let is_wanted = identity.text("notify") != Some("never");
    let body = format!("To keep its services signed in, run: pdev login {login}");
    is_wanted.then_some(Notification { title, body })
}

/// Sends the notification to the desktop, if there is one.
pub async fn show(notification: Notification) {
    match tokio::time::timeout(SEND_LIMIT, send_notification(&notification)).await {
        Ok(Ok(())) => {}
        // At debug level: a machine without a desktop is normal.
        Ok(Err(error)) => tracing::debug!(%error, "no desktop shows notifications"),
        Err(_) => tracing::debug!("the desktop did not accept a notification in time"),
    }
}

async fn send_notification(notification: &Notification) -> zbus::Result<()> {
    let bus = zbus::Connection::session().await?;
    let hints: HashMap<&str, Value<'_>> = HashMap::from([("category", Value::from("network"))]);
    let actions: Vec<&str> = Vec::new();
    let body =
        ("pdev", 0_u32, "dialog-password", &notification.title, &notification.body, actions, hints, DEFAULT_EXPIRATION);
    bus.call_method(Some(SERVICE_NAME), OBJECT_PATH, Some(SERVICE_NAME), "Notify", &body).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_off_in_ci_or_by_setting() {
        for (variables, expected) in [
            (&[][..], true),
            (&[("CI", "")], true),
            (&[("CI", "true")], false),
            (&[("PDEV_NOTIFY", "desktop")], true),
            (&[("PDEV_NOTIFY", "never")], false),
        ] {
            let variable =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(is_enabled(variable), expected, "{variables:?}");
        }
    }
}
