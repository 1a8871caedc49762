//! Checks whether a container engine answers: one request to its socket, without a client library.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Finding;
use crate::humanize;

const ENGINE_TIMEOUT: Duration = Duration::from_secs(3);
const NO_ENGINE_HINT: &str = "Without an engine, services run as plain local processes (`--runtime process`).";

pub(super) async fn check() -> Finding {
    let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let socket = match host.as_deref() {
        None => PathBuf::from("/var/run/docker.sock"),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => PathBuf::from(path),
            None => {
                return Finding::fine(
                    "engine",
                    format!("DOCKER_HOST is `{host}`: not checked, because it is not a socket on this machine"),
                );
            }
        },
    };
    match tokio::time::timeout(ENGINE_TIMEOUT, query_version(&socket)).await {
        Ok(Ok(version)) => Finding::fine("engine", version),
        Ok(Err(error)) => connection_finding(&socket, &error),
        Err(_) => Finding::broken(
            "engine",
            format!(
                "`{}` accepts connections, but did not answer within {} s",
                socket.display(),
                ENGINE_TIMEOUT.as_secs()
            ),
            "Restart the engine (`systemctl restart docker`).",
        ),
    }
}

fn connection_finding(socket: &Path, error: &std::io::Error) -> Finding {
    let message = format!("`{}`: {}", socket.display(), humanize::io_error(error));
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            format!("Join the engine's group (`sudo usermod -aG docker $USER`, then log in again). {NO_ENGINE_HINT}")
        }
        std::io::ErrorKind::ConnectionRefused => {
            format!("Start the engine: `systemctl start docker`. {NO_ENGINE_HINT}")
        }
        _ => NO_ENGINE_HINT.to_owned(),
    };
    // A warning only, because services can run as local processes.
    Finding::warning("engine", message, hint)
}

async fn query_version(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    // HTTP/1.0, so the engine closes the connection after the response.
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n").await?;
    let mut bytes = Vec::new();
    stream.take(1 << 20).read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let start = body.find('{').unwrap_or(0);
    let end = body.rfind('}').map_or(body.len(), |end| end + 1);
    let value: serde_json::Value = serde_json::from_str(&body[start..end])
        .map_err(|_| std::io::Error::other("the response is not that of a container engine"))?;
    let field = |name: &str| value.get(name).and_then(serde_json::Value::as_str).unwrap_or("unknown").to_owned();
    Ok(format!("{} {}, API {}", platform_name(&value), field("Version"), field("ApiVersion")))
}

fn platform_name(value: &serde_json::Value) -> String {
    let name = value.pointer("/Platform/Name").and_then(serde_json::Value::as_str).unwrap_or_default();
    if name.is_empty() { "engine".to_owned() } else { name.to_owned() }
}
