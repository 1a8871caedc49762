//! Routes for identities: their status, and credentials as the raw bytes that a tool reads.
//!
//! The broker decides on every request. This module only identifies the requester, from the connection and the process
//! table.

use axum::Json;
use std::convert::Infallible;

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use credentials::BrokerProblem;
use credentials::format::CredentialFormat;
use credentials::{LoginPrompt, OAuthFlow, Secret};
use futures_util::stream::{self, StreamExt};
use protocol::identity::{CredentialRequest, IdentityStatus, LoginEvent, LoginFlow, LoginRequest};
use tokio::sync::mpsc;

use super::{Api, JsonBody, ProblemResponse};
use crate::convert;
use crate::endpoint::program;
use crate::peer::{Peer, requester_of};
use crate::sessions;

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<IdentityStatus>>, ProblemResponse> {
    let snapshots = api.shared.broker.identity_snapshots().map_err(problem_response)?;
    Ok(Json(snapshots.into_iter().map(convert::identity_status).collect()))
}

pub(super) async fn check(
    State(api): State<Api>,
    Path(identity): Path<String>,
) -> Result<Json<IdentityStatus>, ProblemResponse> {
    let snapshot = api.shared.broker.check_identity(&identity).await.map_err(problem_response)?;
    Ok(Json(convert::identity_status(snapshot)))
}

pub(super) async fn store_secret(
    State(api): State<Api>,
    Path(identity): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ProblemResponse> {
    let secret = Secret::new(body.to_vec());
    if secret.is_empty() {
        return Err(ProblemResponse(protocol::Problem::new("invalid_secret", 422, "the secret is empty")));
    }
    api.shared.broker.store_secret(&identity, &secret).await.map_err(problem_response)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn login(
    State(api): State<Api>,
    Path(identity): Path<String>,
    JsonBody(request): JsonBody<LoginRequest>,
) -> Result<Response, ProblemResponse> {
    // Check the name before the stream starts, so that an unknown name is an ordinary problem response.
    api.shared.broker.identity(&identity).map_err(problem_response)?;
    let flow = match request.flow {
        LoginFlow::Browser => OAuthFlow::Browser,
        LoginFlow::Device => OAuthFlow::Device,
    };
    let (prompt_sender, prompt_receiver) = mpsc::channel(4);
    let broker = api.shared.broker.clone();
    let outcome = async move {
        match broker.login(&identity, flow, &prompt_sender).await {
            Ok(()) => LoginEvent::SignedIn,
            Err(problem) => LoginEvent::Failed { problem: convert::broker_problem(problem) },
        }
    };
    // The stream itself polls the login. If the client disconnects, the login is dropped and its port is closed.
    let outcome = stream::once(outcome);
    let prompts = stream::unfold(prompt_receiver, |mut receiver| async move {
        receiver.recv().await.map(|prompt| (login_event(prompt), receiver))
    });
    let lines = stream::select(prompts, outcome).map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    // A login waits for the user, so the agent's drain must not wait for it.
    let guard = api.shared.track_stream();
    let lines = lines.inspect(move |_| {
        // The closure owns the guard, so that it is dropped with the stream.
        let _guard = &guard;
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], axum::body::Body::from_stream(lines)).into_response())
}

fn login_event(prompt: LoginPrompt) -> LoginEvent {
    match prompt {
        LoginPrompt::Open { url } => LoginEvent::Open { url },
        LoginPrompt::Code { url, code, complete_url: complete } => {
            LoginEvent::Code { url, code, complete_url: complete }
        }
    }
}

pub(super) async fn sign_out(
    State(api): State<Api>,
    Path(identity): Path<String>,
) -> Result<StatusCode, ProblemResponse> {
    match api.shared.broker.sign_out(&identity).map_err(problem_response)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ProblemResponse(protocol::Problem::new(
            "not_signed_in",
            404,
            format!("the identity `{identity}` is not signed in"),
        ))),
    }
}

pub(super) async fn issue_credential(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    JsonBody(request): JsonBody<CredentialRequest>,
) -> Result<Response, ProblemResponse> {
    let name = requested_identity(&api, &request)?;
    if request.form == "endpoint" {
        return issue_endpoint(&api, &name, peer).await;
    }
    let format = requested_format(&request)?;
    let secret = api.shared.broker.issue(&name, &format, &requester_of(&api.shared, peer)).await;
    let secret =
        secret.map_err(|problem| problem_response(sessions::offer_approval(&api.shared, &name, peer.pid, problem)))?;
    Ok(raw_response(secret))
}

/// Returns the variables of a new endpoint for the program, or the credential itself if no SDK supports an endpoint for
/// it.
async fn issue_endpoint(api: &Api, name: &str, peer: Peer) -> Result<Response, ProblemResponse> {
    let requester = requester_of(&api.shared, peer);
    let opened = match peer.pid {
        Some(pid) => program::open_endpoint(&api.shared, name, pid, &requester).await,
        None => Ok(None),
    };
    let opened = opened.map_err(|problem| {
        if problem.code.starts_with("session_")
            && let Err(error) = api.shared.broker.record_decision("refused", name, &requester, Some(&problem.message))
        {
            tracing::error!(problem = error.message, "cannot write a refusal to the audit log");
        }
        problem_response(sessions::offer_approval(&api.shared, name, peer.pid, problem))
    })?;
    let secret = match opened {
        Some(variables) => {
            // `NAME=VALUE` with a NUL after each, because values may contain newlines.
            let pairs = variables.iter().flat_map(|(name, value)| format!("{name}={value}\0").into_bytes());
            Secret::new(pairs.collect())
        }
        None => {
            let secret = api.shared.broker.issue(name, &CredentialFormat::Env, &requester).await;
            secret
                .map_err(|problem| problem_response(sessions::offer_approval(&api.shared, name, peer.pid, problem)))?
        }
    };
    Ok(raw_response(secret))
}

fn raw_response(secret: Secret) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, secret.into_body()).into_response()
}

pub(super) async fn report_rejected(
    State(api): State<Api>,
    JsonBody(request): JsonBody<CredentialRequest>,
) -> Result<StatusCode, ProblemResponse> {
    let name = requested_identity(&api, &request)?;
    api.shared.broker.discard_leases(&name);
    Ok(StatusCode::NO_CONTENT)
}

fn requested_identity(api: &Api, request: &CredentialRequest) -> Result<String, ProblemResponse> {
    match (&request.identity, &request.server) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(server)) => api.shared.broker.find_identity_by_host(server).map_err(problem_response),
        (None, None) => Err(ProblemResponse(protocol::Problem::new(
            "invalid_request",
            422,
            "neither `identity` nor `server` is given",
        ))),
    }
}

fn requested_format(request: &CredentialRequest) -> Result<CredentialFormat, ProblemResponse> {
    Ok(match request.form.as_str() {
        "aws" => CredentialFormat::Aws,
        "kubectl" => CredentialFormat::Kubectl {
            api_version: request.api_version.clone().unwrap_or_else(|| "client.authentication.k8s.io/v1".to_owned()),
        },
        "docker" => CredentialFormat::Docker { server: request.server.clone().unwrap_or_default() },
        "git" => CredentialFormat::Git { authtype: request.authtype },
        "cargo" => CredentialFormat::Cargo,
        "token" => CredentialFormat::Token,
        "env" => CredentialFormat::Env,
        other => {
            let title = format!(
                "unknown `form` `{other}`; allowed are `aws`, `kubectl`, `docker`, `git`, `cargo`, `token`, `env`, `endpoint`"
            );
            return Err(ProblemResponse(protocol::Problem::new("invalid_request", 422, title)));
        }
    })
}

fn problem_response(problem: BrokerProblem) -> ProblemResponse {
    ProblemResponse(convert::broker_problem(problem))
}
