//! Connects to the chosen engine. Every error names the endpoint, the setting that selected it, and the cause.

use std::io::ErrorKind;
use std::time::Duration;

#[cfg(unix)]
use bollard::BollardRequest;
use bollard::models::SystemVersion;
use bollard::{API_DEFAULT_VERSION, Docker};
#[cfg(unix)]
use futures_util::TryFutureExt;
#[cfg(unix)]
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
#[cfg(unix)]
use hyperlocal::UnixConnector;
use strings::to_hex;

use super::context::EngineEndpoint;
use crate::problem::{Problem, ProblemKind};

const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// bollard's own limit for one response. The driver's deadlines are shorter, and long calls are streams.
const RESPONSE_TIMEOUT_SECONDS: u64 = 120;
/// Maximum idle connections in the pool: as many as one `up` uses at once.
#[cfg(unix)]
const IDLE_CONNECTIONS_MAX: usize = 8;

pub(super) async fn connect(endpoint: EngineEndpoint) -> Result<(Docker, EngineEndpoint), Problem> {
    check_reachable(&endpoint).await?;
    let docker = new_client(&endpoint).map_err(|error| unreachable_problem(&endpoint, &error.to_string()))?;
    // bollard currently sends paths without an API version. Negotiating keeps old engines working if that changes.
    match tokio::time::timeout(PING_TIMEOUT, docker.negotiate_version()).await {
        Ok(Ok(docker)) => {
            let version = tokio::time::timeout(PING_TIMEOUT, docker.version()).await;
            let is_isolated = version.is_ok_and(|version| version.is_ok_and(|version| is_isolated_engine(&version)));
            let is_isolated = is_isolated || !endpoint.is_local();
            Ok((docker, EngineEndpoint { is_isolated, ..endpoint }))
        }
        Ok(Err(error)) => Err(unreachable_problem(&endpoint, &error.to_string())),
        Err(_) => Err(Problem { kind: ProblemKind::Timeout, ..unreachable_problem(&endpoint, "no answer within 2 s") }),
    }
}

fn new_client(endpoint: &EngineEndpoint) -> Result<Docker, bollard::errors::Error> {
    #[cfg(unix)]
    if let Some(path) = endpoint.host.strip_prefix("unix://") {
        return pooled_client(path);
    }
    if let Some(tls) = &endpoint.tls {
        // rustls needs one process-wide provider. A second installation fails, which is fine: it is already installed.
        drop(rustls::crypto::ring::default_provider().install_default());
        return Docker::connect_with_ssl(
            &endpoint.host,
            &tls.key,
            &tls.cert,
            &tls.ca,
            RESPONSE_TIMEOUT_SECONDS,
            API_DEFAULT_VERSION,
        );
    }
    if endpoint.host.starts_with("tcp://") || endpoint.host.starts_with("http://") {
        return Docker::connect_with_http(&endpoint.host, RESPONSE_TIMEOUT_SECONDS, API_DEFAULT_VERSION);
    }
    Docker::connect_with_host(&endpoint.host)
}

/// A client that reuses connections between calls, which bollard's own client does not. A no-op `up` of ten containers
/// makes a dozen calls, and each one cost a new connection and a new goroutine in the engine. The pool replaces a
/// connection that the engine has closed before a request is lost. It has no timer, so an idle agent sleeps.
#[cfg(unix)]
fn pooled_client(path: &str) -> Result<Docker, bollard::errors::Error> {
    let client =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_CONNECTIONS_MAX).build(UnixConnector);
    let transport = move |request: BollardRequest| client.request(request).map_err(bollard::errors::Error::from);
    // hyperlocal's address format: the host is the socket's path in hexadecimal digits.
    let host = to_hex(path);
    Docker::connect_with_custom_transport(
        transport,
        Some(format!("unix://{host}")),
        RESPONSE_TIMEOUT_SECONDS,
        API_DEFAULT_VERSION,
    )
}

/// Whether containers run in another machine or network: in Docker Desktop's virtual machine, or in the user's own
/// network of a rootless engine.
pub(super) fn is_isolated_engine(version: &SystemVersion) -> bool {
    let is_desktop = version.platform.as_ref().is_some_and(|platform| platform.name.starts_with("Docker Desktop"));
    let is_rootless = version.components.iter().flatten().any(|component| component.name == "rootlesskit");
    is_desktop || is_rootless || !cfg!(target_os = "linux")
}

fn unreachable_problem(endpoint: &EngineEndpoint, reason: &str) -> Problem {
    Problem::new(
        ProblemKind::Unavailable,
        format!("cannot reach the Docker engine at `{}` (chosen by {}): {reason}", endpoint.host, endpoint.chosen_by),
    )
    .hint("Start the Docker engine, or set DOCKER_HOST to a running engine.")
}

/// Connects to the socket once directly, because bollard's error does not distinguish a missing socket from a closed
/// one.
async fn check_reachable(endpoint: &EngineEndpoint) -> Result<(), Problem> {
    let Some(path) = endpoint.host.strip_prefix("unix://") else { return Ok(()) };
    let error = match tokio::time::timeout(PING_TIMEOUT, tokio::net::UnixStream::connect(path)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => {
            return Err(Problem {
                kind: ProblemKind::Timeout,
                ..unreachable_problem(endpoint, "no answer within 2 s")
            });
        }
    };
    Err(match error.kind() {
        ErrorKind::NotFound => unreachable_problem(endpoint, "the socket does not exist"),
        ErrorKind::PermissionDenied => {
            Problem { kind: ProblemKind::PermissionDenied, ..unreachable_problem(endpoint, "permission denied") }
                .hint("Add yourself to the group `docker` (`sudo usermod -aG docker $USER`), then log in again.")
        }
        ErrorKind::ConnectionRefused => unreachable_problem(endpoint, "connection refused, the engine is not running"),
        _ => unreachable_problem(endpoint, &error.to_string()),
    })
}
