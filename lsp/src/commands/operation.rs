//! `pdev.up`, `pdev.stop` and `pdev.restart`: operations of the agent, followed in the background.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::{Client, EventStream, Launch};
use protocol::Problem;
use protocol::event::EventKind;
use protocol::request::{DownRequest, RestartRequest, StopRequest};
use serde_json::Value;
use tower_lsp::ls_types::{MessageType, NumberOrString};

use super::{Argument, preview, to_problem};
use crate::live::up_request;
use crate::server_state::ServerState;

/// Bounds one operation, including image pulls and builds.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(3_600);

/// An operation of the agent on a preview, which the server follows in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Up,
    Stop,
    Restart,
}

impl Operation {
    /// The title of the progress that the client shows.
    fn title(self) -> &'static str {
        match self {
            Self::Up => "pdev up",
            Self::Stop => "pdev stop",
            Self::Restart => "pdev restart",
        }
    }
}

/// Brings up all units of the manifest's preview.
pub(super) async fn up(state: Arc<ServerState>, root: PathBuf) {
    drop(tokio::time::timeout(OPERATION_TIMEOUT, run_operation(state, Operation::Up, root, None)).await);
}

/// Returns the answer to the request: nothing, because the operation reports its own progress.
pub(super) fn spawn(
    state: &Arc<ServerState>,
    operation: Operation,
    root: PathBuf,
    argument: Argument,
) -> Option<Value> {
    let work = run_operation(Arc::clone(state), operation, root, argument.unit);
    // Not awaited: the task ends with the operation, or with the timeout.
    state.tasks.spawn(async move { drop(tokio::time::timeout(OPERATION_TIMEOUT, work).await) });
    None
}

async fn run_operation(state: Arc<ServerState>, operation: Operation, root: PathBuf, unit: Option<String>) {
    let outcome = match start_operation(&state, operation, &root, unit).await {
        Ok(stream) => follow_operation(&state, operation, stream).await,
        Err(problem) => Err(problem),
    };
    // The operation may have started or lost the agent.
    state.agent_check_requested.notify_one();
    if let Err(problem) = outcome {
        let hint = problem.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
        state.client.show_message(MessageType::ERROR, format!("{problem}.{hint}")).await;
    }
}

/// Applies to one unit, or to all when `unit` is `None`.
async fn start_operation(
    state: &Arc<ServerState>,
    operation: Operation,
    root: &Path,
    unit: Option<String>,
) -> Result<EventStream, Problem> {
    let units: Vec<String> = unit.into_iter().collect();
    match operation {
        Operation::Up => {
            let launch = Launch::this_program().map_err(to_problem)?;
            let client = Client::connect_or_start(&state.agent_socket, &launch).await.map_err(to_problem)?;
            // The agent may have just started: follow its events, so that the editor shows this operation.
            state.agent_check_requested.notify_one();
            // Before the request, so that the services find their secrets when they start.
            deliver_secrets(state, root).await?;
            let request = protocol::request::UpRequest { services: units, ..up_request(state, root) };
            client.up(&request).await.map_err(to_problem)
        }
        Operation::Stop => {
            let preview = running_preview_id(state, root)?;
            let client = Client::connect(&state.agent_socket).await.map_err(to_problem)?;
            if units.is_empty() {
                client.down(&preview, &DownRequest::default()).await.map_err(to_problem)
            } else {
                client.stop(&preview, &StopRequest { units }).await.map_err(to_problem)
            }
        }
        Operation::Restart => {
            let preview = running_preview_id(state, root)?;
            let client = Client::connect(&state.agent_socket).await.map_err(to_problem)?;
            client.restart(&preview, &RestartRequest { units }).await.map_err(to_problem)
        }
    }
}

fn running_preview_id(state: &ServerState, root: &Path) -> Result<String, Problem> {
    let status = preview::status(state, root).map_err(|error| Problem::new("not_up", 0, error.message))?;
    Ok(status.preview.id)
}

/// Delivers secrets only if the manifest declares any, because the keyring may prompt the user to unlock it.
async fn deliver_secrets(state: &Arc<ServerState>, root: &Path) -> Result<(), Problem> {
    let analysis = state.workspace().analyses().find(|analysis| analysis.manifest_path == root).cloned();
    if analysis.is_none_or(|analysis| analysis.loaded().manifest.secrets.is_empty()) {
        return Ok(());
    }
    let delivered = crate::vault::deliver_secrets(root.parent().unwrap_or(root), &state.environment()).await;
    delivered.map_err(|reason| Problem::new("secret_not_delivered", 0, reason))
}

/// Reports progress under a new token: the request's own token is void because the request is already answered.
async fn follow_operation(state: &ServerState, operation: Operation, mut events: EventStream) -> Result<(), Problem> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let token = NumberOrString::String(format!("pdev-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let can_show = state.client_capabilities().show_progress
        && state.client.create_work_done_progress(token.clone()).await.is_ok();
    let progress = if can_show { Some(state.client.progress(token, operation.title()).begin().await) } else { None };
    // A client without progress support gets only the message about a failure.
    let mut outcome = Ok(());
    let mut final_message = String::new();
    loop {
        let event = match events.next().await {
            Ok(Some(event)) => event,
            Ok(None) => break,
            Err(error) => {
                outcome = Err(Problem::new("agent", 0, error.to_string()));
                break;
            }
        };
        match event.kind {
            EventKind::StepStarted { text, .. } => {
                if let Some(progress) = &progress {
                    progress.report(text).await;
                }
            }
            EventKind::Finished { status, unchanged, .. } => {
                let url = status.url.map(|url| format!(" {url}")).unwrap_or_default();
                final_message = if unchanged { format!("nothing changed{url}") } else { format!("done{url}") };
                break;
            }
            EventKind::Failed { problems, .. } => {
                outcome = Err(problems.into_iter().next().unwrap_or_default());
                final_message = "failed".to_owned();
                break;
            }
            EventKind::Superseded { by } => {
                final_message = format!("superseded by {by}");
                break;
            }
            // The outcome is unknown, so this is reported as neither success nor failure.
            EventKind::AgentStopping => break,
            _ => {}
        }
    }
    if let Some(progress) = progress {
        progress.finish_with_message(final_message).await;
    }
    outcome
}
