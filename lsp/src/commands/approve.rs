//! `pdev.approve`: the user approves, in the editor, that a service acts as an identity for the first time.
//!
//! The server always asks with a message request. The approval is never an argument of the command, so a program that
//! only sends commands cannot approve. The agent decides whether this editor may approve, by the origin of the request.
//! If it may not, the server shows the command for another terminal.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::Client;
use protocol::Problem;
use protocol::approval::PendingApprovalView;
use strings::to_hex;
use tower_lsp::jsonrpc;
use tower_lsp::ls_types::{MessageActionItem, MessageActionItemProperty, MessageType};

use super::{Argument, invalid_params_error, operation, to_problem};
use crate::server_state::ServerState;

const NOT_NOW_TITLE: &str = "Not now";
const UP_AGAIN_TITLE: &str = "Bring it up again";
const COPY_COMMAND_TITLE: &str = "Copy the command";

/// The agent's problem code for a request that it does not know. `pdev identity approve` with that code would fail too.
const REQUEST_UNKNOWN: &str = "request_unknown";

/// Finds the pending approvals of this folder, only those of `unit` and `identity` if the argument names them.
pub(super) fn waiting_approvals(
    state: &ServerState,
    root: &Path,
    argument: &Argument,
) -> jsonrpc::Result<Vec<PendingApprovalView>> {
    let matches = |filter: &Option<String>, name: &str| filter.as_ref().is_none_or(|filter| filter == name);
    let is_requested = |approval: &&PendingApprovalView| {
        matches(&argument.unit, &approval.identity_use.service)
            && matches(&argument.identity, &approval.identity_use.identity)
    };
    let pending: Vec<PendingApprovalView> =
        state.with_live(|live| live.waiting_approvals(root).filter(is_requested).cloned().collect());
    match pending.is_empty() {
        true => Err(invalid_params_error(
            "no approval is pending here; `pdev up` requests one at the first use of an identity",
        )),
        false => Ok(pending),
    }
}

/// Asks about one approval after the other. Stops at the first one that is not approved.
pub async fn prompt_for_approvals(state: Arc<ServerState>, root: PathBuf, pending: Vec<PendingApprovalView>) {
    for approval in pending {
        let outcome = confirm_and_approve(&state, &approval).await;
        match outcome {
            Ok(true) => offer_up(&state, &root, &approval).await,
            Ok(false) => return,
            Err(problem) => return show_terminal_command(&state, &approval, &problem).await,
        }
    }
}

/// Returns true if the user approved and the agent accepted.
async fn confirm_and_approve(state: &ServerState, approval: &PendingApprovalView) -> Result<bool, Problem> {
    let mut client = Client::connect(&state.agent_socket).await.map_err(to_problem)?;
    let request = client.approval_request(&approval.code).await.map_err(to_problem)?;
    // Check before the prompt, so that the user does not confirm an approval that the agent then refuses.
    if let Some(refusal) = request.refusal {
        return Err(refusal);
    }
    let identity_use = &request.identity_use;
    let (service, identity) = (&identity_use.service, &identity_use.identity);
    let repository = identity_use.repository.trim_end_matches("/.git");
    let question = format!("`{service}` of {repository} would act as `{identity}`, whenever it runs, for 90 days.");
    let approve_title = format!("Approve `{identity}`");
    // Clients with `pdev.approve` send the token back. A program that writes into the pipe blindly cannot know it.
    let token = if state.client_capabilities().confirm_by_typing { Some(random_token()?) } else { None };
    let typed = token.iter().flat_map(|token| [("typed", identity.clone()), ("token", token.clone())]);
    let actions = vec![message_action(NOT_NOW_TITLE, []), message_action(&approve_title, typed)];
    let answer = state.client.show_message_request(MessageType::WARNING, question, Some(actions)).await;
    let is_approval = |chosen: &MessageActionItem| {
        let expected = token.clone().map(MessageActionItemProperty::String);
        chosen.title == approve_title && (expected.is_none() || chosen.properties.get("token") == expected.as_ref())
    };
    match answer {
        Ok(Some(chosen)) if is_approval(&chosen) => {}
        Ok(_) => return Ok(false),
        Err(_) => return Err(Problem::new("unanswered", 0, "this editor does not show questions of a server")),
    }
    // The user may have taken minutes, so the earlier connection may be closed.
    let mut client = Client::connect(&state.agent_socket).await.map_err(to_problem)?;
    client.approve(&approval.code).await.map_err(to_problem)?;
    state.agent_check_requested.notify_one();
    Ok(true)
}

/// 128 random bits of the operating system, as hexadecimal digits.
fn random_token() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Problem::new("agent", 0, format!("cannot read random bytes from /dev/urandom: {error}")))?;
    Ok(to_hex(bytes))
}

fn message_action<'a>(title: &str, properties: impl IntoIterator<Item = (&'a str, String)>) -> MessageActionItem {
    let properties =
        properties.into_iter().map(|(name, value)| (name.to_owned(), MessageActionItemProperty::String(value)));
    MessageActionItem { title: title.to_owned(), properties: HashMap::from_iter(properties) }
}

/// Offers to run `up` again, because a running service gets its identity only at the next start.
async fn offer_up(state: &Arc<ServerState>, root: &Path, approval: &PendingApprovalView) {
    let identity_use = &approval.identity_use;
    let message = format!("approved: the next `up` gives `{}` to `{}`", identity_use.identity, identity_use.service);
    let answer = state
        .client
        .show_message_request(MessageType::INFO, message, Some(vec![message_action(UP_AGAIN_TITLE, [])]))
        .await;
    if matches!(answer, Ok(Some(chosen)) if chosen.title == UP_AGAIN_TITLE) {
        operation::up(Arc::clone(state), root.to_owned()).await;
    }
}

/// Shows the command that approves from a terminal, where only the user can type.
async fn show_terminal_command(state: &ServerState, approval: &PendingApprovalView, problem: &Problem) {
    let command = format!("pdev identity approve {}", approval.code);
    let hint = problem.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
    let is_code_expired = problem.code == REQUEST_UNKNOWN;
    let message = if is_code_expired {
        format!("{}.{hint}", problem.title)
    } else {
        format!(
            "`{}` is not approved for `{}`: {}. Approve it in a terminal outside of this editor: {command}",
            approval.identity_use.identity, approval.identity_use.service, problem.title
        )
    };
    if !state.client_capabilities().copy_text || is_code_expired {
        return state.client.show_message(MessageType::WARNING, message).await;
    }
    let actions = vec![message_action(COPY_COMMAND_TITLE, [("copy", command)])];
    drop(state.client.show_message_request(MessageType::WARNING, message, Some(actions)).await);
}
