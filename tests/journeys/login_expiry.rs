//! Before a login expires, the user is notified with the command that renews it: on the desktop, in `pdev identity`,
//! `pdev status` and `pdev up`.

use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zbus::zvariant::OwnedValue;

use crate::aws::{TestServer, aws_credential, sign_in, write_passphrase};
use crate::credential_formats::write_identities;
use crate::keyring::start_session_bus;
use crate::sandbox::{Sandbox, run_with_timeout, wait_until};

type Notifications = Arc<Mutex<Vec<(String, String)>>>;

/// The desktop's notification service, with the signature of the specification.
struct NotificationServer {
    notifications: Notifications,
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl NotificationServer {
    #[expect(clippy::too_many_arguments, reason = "the specification's signature")]
    fn notify(
        &self,
        app: String,
        replaces: u32,
        _icon: String,
        summary: String,
        body: String,
        actions: Vec<String>,
        _hints: HashMap<String, OwnedValue>,
        expires: i32,
    ) -> u32 {
        assert_eq!((app.as_str(), replaces, actions.len(), expires), ("pdev", 0, 0, -1));
        self.notifications.lock().unwrap().push((summary, body));
        1
    }
}

struct DesktopSession {
    bus: Child,
    address: String,
    notifications: Notifications,
    // The connection and the runtime serve until they are dropped.
    _connection: zbus::Connection,
    _runtime: tokio::runtime::Runtime,
}

impl DesktopSession {
    fn start(sandbox: &Sandbox) -> Option<Self> {
        if Command::new("dbus-daemon").arg("--version").output().is_err() {
            println!("skipped: notifications on the desktop: `dbus-daemon` is not installed");
            return None;
        }
        let (bus, address) = start_session_bus(&sandbox.path("home"), &sandbox.path("run"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let notifications = Notifications::default();
        let desktop = NotificationServer { notifications: Arc::clone(&notifications) };
        let connection = runtime.block_on(async {
            let builder = zbus::connection::Builder::address(address.as_str()).unwrap();
            let builder = builder.name("org.freedesktop.Notifications").unwrap();
            builder.serve_at("/org/freedesktop/Notifications", desktop).unwrap().build().await.unwrap()
        });
        Some(Self { bus, address, notifications, _connection: connection, _runtime: runtime })
    }

    fn notifications(&self) -> Vec<(String, String)> {
        self.notifications.lock().unwrap().clone()
    }
}

impl Drop for DesktopSession {
    fn drop(&mut self) {
        drop(self.bus.kill());
        drop(self.bus.wait());
    }
}

#[test]
fn user_is_notified_once_before_login_expires() {
    let sandbox = Sandbox::without_docker();
    let Some(session) = DesktopSession::start(&sandbox) else { return };
    let center = TestServer::start_identity_center(&sandbox, 8);
    let url = format!("http://127.0.0.1:{}", center.port);
    let identity = |name: &str, more: &str| {
        format!(
            "[{name}]\nsource = \"aws-sso\"\nask = \"never\"\nstart_url = \"https://{name}.awsapps.com/start\"\nregion = \"eu-central-1\"\n\
             account = \"111111111111\"\nrole = \"Developer\"\noidc_endpoint = \"{url}\"\nportal_endpoint = \"{url}\"\n{more}"
        )
    };
    write_identities(&sandbox, &[identity("dev", ""), identity("quiet", "notify = \"never\"\n")].concat());
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: a\nidentities: { dev: x }\nservices:\n  api: { identity: dev, health: none, process: { command: [sleep, '1000'] } }\n",
    );
    // The agent inherits the address of the session bus, as in a terminal on a desktop.
    let mut start = sandbox.command(&sandbox.project(), &["up"]);
    start.env("DBUS_SESSION_BUS_ADDRESS", &session.address);
    start.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(&sandbox));
    run_with_timeout(start, Duration::from_secs(60)).ok().prints("which is not signed in: run `pdev login dev`");
    assert_eq!(session.notifications(), [], "a notification before the first request");

    for name in ["dev", "quiet"] {
        sign_in(&sandbox, name, "browser");
        aws_credential(&sandbox, name).ok();
    }
    let status_of = |name: &str| {
        let all = sandbox.pdev(&["identity", "--json"]).ok().json();
        all.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone()
    };
    assert_eq!(status_of("dev")["state"], "ready");
    assert!(status_of("dev")["login_ends_at"].as_i64().is_some(), "{:#}", status_of("dev"));
    wait_until("the desktop shows a notification", Duration::from_secs(20), || !session.notifications().is_empty());
    let (title, body) = session.notifications().remove(0);
    assert_eq!(title, "pdev: the login of dev ends in 1 min");
    assert!(body.contains("pdev login dev"), "{body}");
    assert_eq!((&status_of("dev")["state"], &status_of("dev")["sign_in"]), (&"ready".into(), &"dev".into()));
    sandbox.pdev(&["identity"]).prints("login ends").prints("`pdev login dev` to sign in again");
    sandbox
        .pdev(&["status"])
        .ok()
        .prints("`dev` of `api`: the login of `dev` ends in 1 min")
        .prints("`pdev login dev`");
    sandbox.pdev(&["up"]).ok().prints("`api` acts as `dev`, whose login ends in 1 min: run `pdev login dev`");

    // The login expires, and further requests cause no second notification.
    wait_until("the login has expired", Duration::from_secs(30), || {
        let now = Command::new("date").arg("+%s000").output().unwrap().stdout;
        let now: i64 = String::from_utf8(now).unwrap().trim().parse().unwrap();
        status_of("dev")["login_ends_at"].as_i64().is_none_or(|end| end < now)
    });
    for _ in 0..3 {
        aws_credential(&sandbox, "dev");
    }
    assert_eq!(session.notifications().len(), 1, "{:?}", session.notifications());

    // A new login causes a new notification. `quiet` has notifications disabled.
    sign_in(&sandbox, "dev", "browser");
    aws_credential(&sandbox, "dev").ok();
    assert!(status_of("dev")["sign_in"].is_null(), "{:#}", status_of("dev"));
    wait_until("the next expiry is notified", Duration::from_secs(20), || session.notifications().len() == 2);
    assert!(session.notifications().iter().all(|(title, _)| !title.contains("quiet")), "{:?}", session.notifications());
}
