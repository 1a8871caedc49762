//! The socket's folder and who listens there.

use client::{Client, ClientError, SocketLocation};

use super::Finding;
use crate::humanize;

/// Also the proxy's port, if an agent runs.
pub(super) async fn check() -> (Vec<Finding>, Option<u16>) {
    let place = SocketLocation::from_environment();
    let mut findings = Vec::new();
    match place.prepare_folder() {
        Ok(()) => findings.push(Finding::fine("folder", place.folder().display().to_string())),
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            return (vec![Finding::broken("folder", error.to_string(), hint)], None);
        }
    }
    let stale = place.socket_path().exists();
    match Client::connect(&place).await {
        Ok(client) => {
            let info = client.info();
            let previews = humanize::count(info.previews, "preview");
            let words = format!("pdev {}, pid {}, {previews}", info.version, info.pid);
            let own = env!("CARGO_PKG_VERSION");
            findings.push(if info.version == own {
                Finding::fine("agent", words)
            } else {
                Finding::warning(
                    "agent",
                    words,
                    format!(
                        "This is pdev {own}: `pdev agent stop` lets the next command start it; previews go on running."
                    ),
                )
            });
            (findings, info.proxy_port)
        }
        Err(ClientError::NotRunning { .. }) => {
            let words = if stale {
                "not running; its socket is left over and will be replaced"
            } else {
                "not running; the next command that needs it starts it"
            };
            findings.push(Finding::fine("agent", words));
            (findings, None)
        }
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            findings.push(Finding::broken("agent", error.to_string(), hint));
            (findings, None)
        }
    }
}
