//! The connection to the chosen engine. Every failure names the endpoint, who chose it and what went wrong.

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

use super::context::{DockerEnv, EngineEndpoint, choose_endpoint};
use crate::driver::{Problem, ProblemKind};

const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// bollard's own limit for one answer; ours are shorter, and long calls are streams.
const RESPONSE_TIMEOUT_SECONDS: u64 = 120;
/// Idle connections kept: as many as one `up` uses at once.
#[cfg(unix)]
const IDLE_CONNECTIONS_MAX: usize = 8;

pub(super) async fn connect(around: DockerEnv) -> Result<(Docker, EngineEndpoint), Problem> {
    let endpoint = tokio::task::spawn_blocking(move || choose_endpoint(&around))
        .await
        .map_err(|error| Problem::new(ProblemKind::Internal, format!("cannot choose a Docker endpoint: {error}")))??;
    check_reachable(&endpoint).await?;
    let docker = new_client(&endpoint).map_err(|error| unreachable_problem(&endpoint, &error.to_string()))?;
    // Bollard sends paths without a version today; negotiating keeps old engines working should that change.
    match tokio::time::timeout(PING_TIMEOUT, docker.negotiate_version()).await {
        Ok(Ok(docker)) => {
            let version = tokio::time::timeout(PING_TIMEOUT, docker.version()).await;
            let apart = version.is_ok_and(|version| version.is_ok_and(|version| is_isolated_engine(&version)));
            let apart = apart || !endpoint.is_local();
            Ok((docker, EngineEndpoint { is_isolated: apart, ..endpoint }))
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
        // The tree's one provider; a second installation only says that it is there.
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

/// Keeps connections between calls, which bollard does not: a no-op `up` of ten containers asks a dozen questions, and
/// each cost a new connection and a new goroutine in the engine. A kept connection that the engine closed meanwhile is
/// replaced by the pool before a request is lost. No timer looks after the pool, so an idle agent sleeps.
#[cfg(unix)]
fn pooled_client(path: &str) -> Result<Docker, bollard::errors::Error> {
    let client =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_CONNECTIONS_MAX).build(UnixConnector);
    let transport = move |request: BollardRequest| client.request(request).map_err(bollard::errors::Error::from);
    // hyperlocal's form of an address: the path in hexadecimal digits is the host.
    let host: String = path.bytes().map(|byte| format!("{byte:02x}")).collect();
    Docker::connect_with_custom_transport(
        transport,
        Some(format!("unix://{host}")),
        RESPONSE_TIMEOUT_SECONDS,
        API_DEFAULT_VERSION,
    )
}

/// Docker Desktop's virtual machine, and the user's own network of a rootless engine.
pub(super) fn is_isolated_engine(version: &SystemVersion) -> bool {
    let desktop = version.platform.as_ref().is_some_and(|platform| platform.name.starts_with("Docker Desktop"));
    let rootless = version.components.iter().flatten().any(|component| component.name == "rootlesskit");
    desktop || rootless || !cfg!(target_os = "linux")
}

fn unreachable_problem(endpoint: &EngineEndpoint, why: &str) -> Problem {
    Problem::new(
        ProblemKind::Unavailable,
        format!("cannot reach the Docker engine at `{}` (chosen by {}): {why}", endpoint.host, endpoint.chosen_by),
    )
    .hint("Start the Docker engine, or point DOCKER_HOST at one that runs.")
}

/// Connects to the socket once by hand, because bollard's error does not tell a missing socket from a closed one.
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
        ErrorKind::NotFound => unreachable_problem(endpoint, "there is no socket"),
        ErrorKind::PermissionDenied => {
            Problem { kind: ProblemKind::PermissionDenied, ..unreachable_problem(endpoint, "permission denied") }
                .hint("Add yourself to the group `docker` (`sudo usermod -aG docker $USER`), then log in again.")
        }
        ErrorKind::ConnectionRefused => unreachable_problem(endpoint, "connection refused, the engine is not running"),
        _ => unreachable_problem(endpoint, &error.to_string()),
    })
}
