//! Routes about identities: how they stand, and credentials as the raw bytes that a tool reads.
//!
//! The broker decides; here is only told who asks, by the connection's own word and the process table's.

use axum::Json;
use std::convert::Infallible;

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use credentials::broker::{Asker, BrokerProblem};
use credentials::outlet::Outlet;
use credentials::{Flow, Prompt, Secret};
use futures_util::stream::{self, StreamExt};
use protocol::identity::{CredentialRequest, IdentityStatus, LoginEvent, LoginFlow, LoginRequest};
use tokio::sync::mpsc;

use super::{Api, Body, Peer, Problem, process};
use crate::convert;
use crate::endpoint::program;
use crate::sessions;
use crate::shared::Shared;

/// How far up the process table an asker is followed.
const CHAIN_MAX: usize = 6;

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<IdentityStatus>>, Problem> {
    let standings = api.shared.broker.standings().map_err(refused)?;
    Ok(Json(standings.into_iter().map(convert::identity_status).collect()))
}

pub(super) async fn check(
    State(api): State<Api>,
    Path(identity): Path<String>,
) -> Result<Json<IdentityStatus>, Problem> {
    let standing = api.shared.broker.check(&identity).await.map_err(refused)?;
    Ok(Json(convert::identity_status(standing)))
}

pub(super) async fn keep(
    State(api): State<Api>,
    Path(identity): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let secret = Secret::new(body.to_vec());
    if secret.is_empty() {
        return Err(Problem(protocol::Problem::new("invalid_secret", 422, "the secret is empty")));
    }
    api.shared.broker.keep(&identity, &secret).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn login(
    State(api): State<Api>,
    Path(identity): Path<String>,
    Body(request): Body<LoginRequest>,
) -> Result<Response, Problem> {
    // Known before the stream begins, so that a wrong name is an ordinary answer.
    api.shared.broker.identity(&identity).map_err(refused)?;
    let flow = match request.flow {
        LoginFlow::Browser => Flow::Browser,
        LoginFlow::Device => Flow::Device,
    };
    let (prompts, waiting) = mpsc::channel(4);
    let broker = api.shared.broker.clone();
    let outcome = async move {
        match broker.login(&identity, flow, &prompts).await {
            Ok(()) => LoginEvent::SignedIn,
            Err(problem) => LoginEvent::Failed { problem: convert::broker_problem(problem) },
        }
    };
    // The login is driven by the stream itself: when the reader goes away it is dropped, and its port with it.
    let outcome = stream::once(outcome);
    let asked =
        stream::unfold(waiting, |mut waiting| async move { waiting.recv().await.map(|one| (event(one), waiting)) });
    let lines = stream::select(asked, outcome).map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    let spectator = api.shared.spectator();
    let lines = lines.inspect(move |_| {
        let _until_the_reader_leaves = &spectator;
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], axum::body::Body::from_stream(lines)).into_response())
}

fn event(prompt: Prompt) -> LoginEvent {
    match prompt {
        Prompt::Open { url } => LoginEvent::Open { url },
        Prompt::Code { url, code, complete } => LoginEvent::Code { url, code, complete_url: complete },
    }
}

pub(super) async fn sign_out(State(api): State<Api>, Path(identity): Path<String>) -> Result<StatusCode, Problem> {
    match api.shared.broker.sign_out(&identity).map_err(refused)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => {
            Err(Problem(protocol::Problem::new("not_signed_in", 404, format!("nobody is signed in as `{identity}`"))))
        }
    }
}

pub(super) async fn credential(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<CredentialRequest>,
) -> Result<Response, Problem> {
    let name = named(&api, &request)?;
    if request.form == "endpoint" {
        return place(&api, &name, peer).await;
    }
    let outlet = outlet(&request)?;
    let secret = api.shared.broker.issue(&name, &outlet, &asker(&api.shared, peer)).await;
    let secret = secret.map_err(|problem| refused(sessions::with_way_out(&api.shared, &name, peer.pid, problem)))?;
    Ok(raw(secret))
}

/// Where a program asks from now on; where its credential has no such place, the credential itself.
async fn place(api: &Api, name: &str, peer: Peer) -> Result<Response, Problem> {
    let asker = asker(&api.shared, peer);
    let opened = match peer.pid {
        Some(pid) => program::open(&api.shared, name, pid, &asker).await,
        None => Ok(None),
    };
    let opened = opened.map_err(|problem| {
        if problem.code.starts_with("session_")
            && let Err(error) = api.shared.broker.record("refused", name, &asker, Some(&problem.message))
        {
            tracing::error!(problem = error.message, "the audit log lacks a refusal");
        }
        refused(sessions::with_way_out(&api.shared, name, peer.pid, problem))
    })?;
    let secret = match opened {
        Some(variables) => {
            let pairs = variables.iter().flat_map(|(name, value)| format!("{name}={value}\0").into_bytes());
            Secret::new(pairs.collect())
        }
        None => {
            let secret = api.shared.broker.issue(name, &Outlet::Env, &asker).await;
            secret.map_err(|problem| refused(sessions::with_way_out(&api.shared, name, peer.pid, problem)))?
        }
    };
    Ok(raw(secret))
}

fn raw(secret: Secret) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, secret.into_body()).into_response()
}

pub(super) async fn rejected(
    State(api): State<Api>,
    Body(request): Body<CredentialRequest>,
) -> Result<StatusCode, Problem> {
    let name = named(&api, &request)?;
    api.shared.broker.rejected(&name);
    Ok(StatusCode::NO_CONTENT)
}

fn named(api: &Api, request: &CredentialRequest) -> Result<String, Problem> {
    match (&request.identity, &request.server) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(server)) => api.shared.broker.of_host(server).map_err(refused),
        (None, None) => {
            Err(Problem(protocol::Problem::new("invalid_request", 422, "neither `identity` nor `server` is given")))
        }
    }
}

fn outlet(request: &CredentialRequest) -> Result<Outlet, Problem> {
    Ok(match request.form.as_str() {
        "aws" => Outlet::Aws,
        "kubectl" => Outlet::Kubectl {
            api_version: request.api_version.clone().unwrap_or_else(|| "client.authentication.k8s.io/v1".to_owned()),
        },
        "docker" => Outlet::Docker { server: request.server.clone().unwrap_or_default() },
        "git" => Outlet::Git { authtype: request.authtype },
        "cargo" => Outlet::Cargo,
        "token" => Outlet::Token,
        "env" => Outlet::Env,
        other => {
            let title = format!(
                "`{other}` is no form; allowed are `aws`, `kubectl`, `docker`, `git`, `cargo`, `token`, `env`, `endpoint`"
            );
            return Err(Problem(protocol::Problem::new("invalid_request", 422, title)));
        }
    })
}

fn refused(problem: BrokerProblem) -> Problem {
    Problem(convert::broker_problem(problem))
}

/// The programs above the connection's other end, without pdev's own helper.
pub(crate) fn asker(shared: &Shared, peer: Peer) -> Asker {
    let mut chain = Vec::new();
    let own = std::env::current_exe().ok();
    let mut pid = peer.pid;
    let mut first = None;
    while let Some(at) = pid.filter(|at| *at > 1) {
        if chain.len() == CHAIN_MAX {
            break;
        }
        let executable = std::fs::read_link(format!("/proc/{at}/exe")).ok();
        if executable.is_none() || executable != own {
            first = first.or(Some(at));
            chain.extend(executable.map(|path| path.display().to_string()));
        }
        pid = process::parent(at);
    }
    Asker { pid: first.or(peer.pid), chain, session: sessions::member(shared, peer.pid) }
}
