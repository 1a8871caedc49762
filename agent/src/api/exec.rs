//! `exec`: runs a command inside a unit, over an upgraded connection (see `protocol::exec`).

use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use credentials::broker::Requester;
use drivers::driver::{ExecInput, ExecOutput, ExecRequest, ExecSession};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::exec::{Frame, UPGRADE_PROTOCOL};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::preview_lookup::find_recovered;
use super::{Api, ProblemResponse};
use crate::peer::{Peer, requester_of};
use crate::session_previews;

pub(super) async fn exec(
    State(api): State<Api>,
    Path(preview): Path<String>,
    request: Request<axum::body::Body>,
) -> Result<Response, ProblemResponse> {
    let handle = find_recovered(&api, &preview).await?;
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let exec_request: protocol::exec::ExecRequest = read_request(body).await?;
    let Some(upgrade) =
        upgrade.filter(|_| parts.headers.get(header::UPGRADE).is_some_and(|value| value == UPGRADE_PROTOCOL))
    else {
        let title = format!("this route needs `Connection: Upgrade` and `Upgrade: {UPGRADE_PROTOCOL}`");
        return Err(ProblemResponse(protocol::Problem::new("upgrade_required", 426, title)));
    };
    let requester = requester_of(&api.shared, parts.extensions.get::<Peer>().copied().unwrap_or_default());
    // Start the command before the upgrade, so that a failure is an ordinary problem response.
    let session = start_exec(&api, &handle, exec_request, &requester).await?;
    api.shared.tasks.spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
            relay_frames(session, reader, writer).await;
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, UPGRADE_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

async fn read_request(body: axum::body::Body) -> Result<protocol::exec::ExecRequest, ProblemResponse> {
    let limited = http_body_util::Limited::new(body, 1 << 20);
    let bytes = limited.collect().await.map_err(|error| invalid_request(&error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| invalid_request(&error.to_string()))
}

fn invalid_request(reason: &str) -> ProblemResponse {
    ProblemResponse(protocol::Problem::new("invalid_request", 422, format!("the body is no exec request: {reason}")))
}

async fn start_exec(
    api: &Api,
    handle: &crate::preview::PreviewHandle,
    exec_request: protocol::exec::ExecRequest,
    requester: &Requester,
) -> Result<ExecSession, ProblemResponse> {
    let down = || {
        let title = format!("`{}` is down", handle.published.preview().title);
        ProblemResponse(protocol::Problem::new("not_running", 409, title).hint("Run `pdev up` first."))
    };
    let scope = handle.live.scope().ok_or_else(down)?;
    let Some(unit) = scope.application.units.get(&exec_request.unit) else {
        let names: Vec<&str> = scope.application.units.keys().map(String::as_str).collect();
        let title = format!("there is no unit `{}`; the preview has {}", exec_request.unit, names.join(", "));
        return Err(ProblemResponse(protocol::Problem::new("unknown_unit", 404, title)));
    };
    session_previews::refuse_personal_units(&api.shared, &handle.id, std::iter::once(unit), requester)?;
    if exec_request.argv.is_empty() {
        return Err(invalid_request("`argv` is empty"));
    }
    let request = ExecRequest {
        argv: exec_request.argv,
        env: exec_request.env,
        dir: exec_request.dir,
        user: exec_request.user,
        terminal_size: exec_request.terminal,
    };
    let driver = api.shared.drivers.driver_of(&scope.targets, unit.runtime);
    let session = match driver {
        Ok(driver) => driver.exec(&scope, unit, request).await,
        Err(problem) => Err(problem),
    };
    session.map_err(|problem| ProblemResponse(crate::convert::driver_problem(&problem, Some(&unit.name))))
}

/// Relays frames in both directions. When the client disconnects, the command's input ends, and with it most commands.
async fn relay_frames(session: ExecSession, reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) {
    let ExecSession { input, mut output } = session;
    let outward = async {
        while let Some(part) = output.next().await {
            let (frame, is_last) = match part {
                ExecOutput::Stdout(bytes) => (Frame::Stdout(bytes.to_vec()), false),
                ExecOutput::Stderr(bytes) => (Frame::Stderr(bytes.to_vec()), false),
                ExecOutput::Exit(code) => (Frame::Exit(code), true),
            };
            if writer.write_all(&frame.encode()).await.is_err() || is_last {
                break;
            }
        }
        drop(writer.shutdown().await);
    };
    // The end of the output ends the session: a client that sends nothing must not keep a finished command open.
    tokio::select! {
        () = outward => {}
        () = relay_input(reader, input) => {}
    }
}

async fn relay_input(mut reader: impl AsyncRead + Unpin, input: mpsc::Sender<ExecInput>) {
    let mut buffer = Vec::new();
    let mut chunk = vec![0u8; 16 << 10];
    loop {
        loop {
            match Frame::decode(&mut buffer) {
                Ok(Some(frame)) => forward_frame(frame, &input).await,
                Ok(None) => break,
                Err(_) => return,
            }
        }
        match reader.read(&mut chunk).await {
            // The client has disconnected: dropping the session hangs up the command.
            Ok(0) | Err(_) => return,
            Ok(length) => buffer.extend_from_slice(&chunk[..length]),
        }
    }
}

async fn forward_frame(frame: Frame, input: &mpsc::Sender<ExecInput>) {
    let part = match frame {
        Frame::Stdin(bytes) => ExecInput::Bytes(bytes.into()),
        Frame::Resize(rows, columns) => ExecInput::Resize { rows, columns },
        Frame::StdinEnd => ExecInput::Close,
        _ => return,
    };
    // Fails if the command has closed its input, but its output may continue.
    drop(input.send(part).await);
}
