//! Lets polkit ask for the user's password, which confirms an approval (`auth_self`).
//!
//! A program of the user can start an agent, send an approval and type into terminals, but does not know the password.
//! polkit knows the action only if root has installed `dev.pdev.policy`; without it, nothing is asked.

use std::collections::HashMap;
use std::time::Duration;

use zbus::zvariant::Value;

/// Not an address from the environment: whoever started the agent could have set that to a bus of its own.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
const SERVICE: &str = "org.freedesktop.PolicyKit1";
const AUTHORITY_PATH: &str = "/org/freedesktop/PolicyKit1/Authority";
const AUTHORITY: &str = "org.freedesktop.PolicyKit1.Authority";
const ACTION: &str = "dev.pdev.approve";
const ALLOW_USER_INTERACTION: u32 = 1;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the user may take to type the password.
const PROMPT_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Confirmed,
    /// The user cancelled the prompt, or the password was wrong.
    Refused,
    /// No prompt was shown: no polkit, no such action, or no program that shows the prompt.
    Unavailable,
}

/// Asks the user of this process, which is identified by pid and start time.
pub async fn ask(pid: i32) -> Answer {
    ask_at(SYSTEM_BUS, pid).await
}

async fn ask_at(address: &str, pid: i32) -> Answer {
    let Some(process) = host::processes::find(pid) else { return Answer::Unavailable };
    let connecting = async { zbus::connection::Builder::address(address)?.build().await };
    let Ok(Ok(bus)) = tokio::time::timeout(CONNECT_LIMIT, connecting).await else { return Answer::Unavailable };
    let uid = rustix::process::geteuid().as_raw().cast_signed();
    let subject = HashMap::from([
        ("pid", Value::from(pid.cast_unsigned())),
        ("start-time", Value::from(process.start)),
        ("uid", Value::from(uid)),
    ]);
    // polkit accepts details only from root.
    let details: HashMap<&str, &str> = HashMap::new();
    let body = (("unix-process", subject), ACTION, details, ALLOW_USER_INTERACTION, "");
    let call = bus.call_method(Some(SERVICE), AUTHORITY_PATH, Some(AUTHORITY), "CheckAuthorization", &body);
    let reply = match tokio::time::timeout(PROMPT_LIMIT, call).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            tracing::debug!(%error, "polkit cannot confirm approvals");
            return Answer::Unavailable;
        }
        Err(_) => return Answer::Refused,
    };
    type Result = (bool, bool, HashMap<String, String>);
    match reply.body().deserialize::<Result>() {
        Ok((true, ..)) => Answer::Confirmed,
        // A challenge that was not shown: no authentication agent is registered for this login.
        Ok((false, true, details)) if !details.contains_key("polkit.dismissed") => Answer::Unavailable,
        Ok(_) => Answer::Refused,
        Err(_) => Answer::Unavailable,
    }
}

/// Whether polkit knows the action, so that approvals are confirmed by password.
pub async fn is_available() -> bool {
    let asking = async {
        let bus = zbus::connection::Builder::address(SYSTEM_BUS)?.build().await?;
        let reply = bus.call_method(Some(SERVICE), AUTHORITY_PATH, Some(AUTHORITY), "EnumerateActions", &"").await?;
        type Action = (String, String, String, String, String, String, u32, u32, u32, HashMap<String, String>);
        let actions: Vec<Action> = reply.body().deserialize()?;
        Ok::<_, zbus::Error>(actions.iter().any(|action| action.0 == ACTION))
    };
    tokio::time::timeout(CONNECT_LIMIT, asking).await.is_ok_and(|known| known.is_ok_and(|known| known))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use zbus::zvariant::OwnedValue;

    use super::*;

    /// Answers as polkit does, by the pid of the subject.
    struct FakePolkit;

    #[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
    impl FakePolkit {
        async fn check_authorization(
            &self,
            subject: (String, HashMap<String, OwnedValue>),
            action: String,
            details: HashMap<String, String>,
            flags: u32,
            _cancellation: String,
        ) -> zbus::fdo::Result<(bool, bool, HashMap<String, String>)> {
            let has_all = ["pid", "start-time", "uid"].iter().all(|name| subject.1.contains_key(*name));
            assert!(subject.0 == "unix-process" && has_all && details.is_empty() && flags == ALLOW_USER_INTERACTION);
            assert_eq!(action, ACTION);
            let pid = subject.1.get("pid").and_then(|pid| u32::try_from(pid).ok()).unwrap();
            let dismissed = HashMap::from([("polkit.dismissed".to_owned(), "true".to_owned())]);
            match (pid == 1, pid == std::process::id()) {
                (true, _) => Ok((false, true, dismissed)),
                (_, true) => Ok((true, false, HashMap::new())),
                _ => Ok((false, true, HashMap::new())),
            }
        }
    }

    struct Bus(Child, String);

    impl Bus {
        fn start() -> Option<Self> {
            let mut command = Command::new("dbus-daemon");
            command.args(["--session", "--nofork", "--print-address"]).stdout(Stdio::piped());
            let mut child = command.spawn().ok()?;
            let mut address = String::new();
            BufReader::new(child.stdout.take()?).read_line(&mut address).ok()?;
            Some(Self(child, address.trim().to_owned()))
        }
    }

    impl Drop for Bus {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[tokio::test]
    async fn only_the_password_confirms() {
        let Some(bus) = Bus::start() else {
            eprintln!("skipped: `dbus-daemon` is not installed");
            return;
        };
        let own = std::process::id().cast_signed();
        assert_eq!(ask_at(&bus.1, own).await, Answer::Unavailable, "no polkit");
        let builder = zbus::connection::Builder::address(bus.1.as_str()).unwrap();
        let builder = builder.name(SERVICE).unwrap().serve_at(AUTHORITY_PATH, FakePolkit).unwrap();
        let _polkit = builder.build().await.unwrap();
        assert_eq!(ask_at(&bus.1, own).await, Answer::Confirmed);
        assert_eq!(ask_at(&bus.1, 1).await, Answer::Refused, "the user has dismissed the prompt");
        let other = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert_eq!(ask_at(&bus.1, other).await, Answer::Unavailable, "nothing shows the prompt");
        assert_eq!(ask_at("unix:path=/nonexistent", own).await, Answer::Unavailable);
    }
}
