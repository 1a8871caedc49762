//! Checks the folder of the agent's socket, and whether an agent listens there.

use client::{Client, ClientError, SocketLocation};

use super::Finding;
use crate::humanize;

/// The second value is the port of the proxy, if an agent runs.
pub(super) async fn check() -> (Vec<Finding>, Option<u16>) {
    let socket = SocketLocation::from_environment();
    let mut findings = Vec::new();
    match socket.prepare_folder() {
        Ok(()) => findings.push(Finding::fine("folder", socket.folder().display().to_string())),
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            return (vec![Finding::broken("folder", error.to_string(), hint)], None);
        }
    }
    // Checked before the connection: a socket file without an agent is left from an agent that was killed.
    let socket_exists = socket.socket_path().exists();
    match Client::connect(&socket).await {
        Ok(client) => {
            let info = client.info();
            let previews = humanize::count(info.previews, "preview");
            let message = format!("pdev {}, pid {}, {previews}", info.version, info.pid);
            let own_version = env!("CARGO_PKG_VERSION");
            findings.push(if info.version == own_version {
                Finding::fine("agent", message)
            } else {
                Finding::warning(
                    "agent",
                    message,
                    format!(
                        "Run `pdev agent stop`; the next command starts pdev {own_version}, and previews keep running."
                    ),
                )
            });
            (findings, info.proxy_port)
        }
        Err(ClientError::NotRunning { .. }) => {
            let message = if socket_exists {
                "not running; its old socket will be replaced"
            } else {
                "not running; the next command that needs it will start it"
            };
            findings.push(Finding::fine("agent", message));
            (findings, None)
        }
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            findings.push(Finding::broken("agent", error.to_string(), hint));
            (findings, None)
        }
    }
}
