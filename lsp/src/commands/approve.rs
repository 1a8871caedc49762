//! `pdev.approve`: a person says, in the editor, that a service may act as an identity for the first time.
//!
//! Always as a question of the server's own, so that whoever only sends commands gets nothing by it. Whether this editor may
//! answer it is the agent's to decide, by who asked; where it may not, the command for another terminal is shown instead.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::Client;
use protocol::Problem;
use protocol::approval::PendingApprovalView;
use tower_lsp::jsonrpc;
use tower_lsp::ls_types::{MessageActionItem, MessageActionItemProperty, MessageType};

use super::{Argument, invalid_params_error, operation, to_problem};
use crate::server_state::ServerState;

const NOT_NOW_TITLE: &str = "Not now";
const UP_AGAIN_TITLE: &str = "Bring it up again";
const COPY_COMMAND_TITLE: &str = "Copy the command";

/// The agent's problem code when it does not know the request, so its code in the command would be useless.
const REQUEST_UNKNOWN: &str = "request_unknown";

/// What waits for a person in this folder, of one unit or identity where it is named.
pub(super) fn waiting_approvals(
    state: &ServerState,
    root: &Path,
    argument: &Argument,
) -> jsonrpc::Result<Vec<PendingApprovalView>> {
    let fits = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let meant = |one: &&PendingApprovalView| {
        fits(&argument.unit, &one.identity_use.service) && fits(&argument.identity, &one.identity_use.identity)
    };
    let found: Vec<PendingApprovalView> =
        state.with_live(|live| live.waiting_approvals(root).filter(meant).cloned().collect());
    match found.is_empty() {
        true => Err(invalid_params_error(
            "nothing waits for an approval here; `pdev up` asks at the first use of an identity",
        )),
        false => Ok(found),
    }
}

/// One question after the other; the first one that is not answered with yes ends it.
pub async fn prompt_for_approvals(state: Arc<ServerState>, root: PathBuf, waiting: Vec<PendingApprovalView>) {
    for one in waiting {
        let outcome = confirm_and_approve(&state, &one).await;
        match outcome {
            Ok(true) => offer_up(&state, &root, &one).await,
            Ok(false) => return,
            Err(problem) => return show_terminal_command(&state, &one, &problem).await,
        }
    }
}

/// True when it is approved now.
async fn confirm_and_approve(state: &ServerState, one: &PendingApprovalView) -> Result<bool, Problem> {
    let mut client = Client::connect(&state.agent_socket).await.map_err(to_problem)?;
    let seen = client.approval_request(&one.code).await.map_err(to_problem)?;
    // Told before anybody types a word that would be refused.
    if let Some(refusal) = seen.refusal {
        return Err(refusal);
    }
    let of = &seen.identity_use;
    let place = of.repository.trim_end_matches("/.git");
    let words = format!("`{}` of {place} would act as `{}`, whenever it runs, for 90 days.", of.service, of.identity);
    let yes = format!("Approve `{}`", of.identity);
    // Sent back by clients that say so: who writes into the pipe blindly cannot know it.
    let token = if state.client_capabilities().confirm_by_typing { Some(random_token()?) } else { None };
    let typed = token.iter().flat_map(|token| [("typed", of.identity.clone()), ("token", token.clone())]);
    let actions = vec![message_action(NOT_NOW_TITLE, []), message_action(&yes, typed)];
    let answer = state.client.show_message_request(MessageType::WARNING, words, Some(actions)).await;
    let fits = |chosen: &MessageActionItem| {
        let own = token.clone().map(MessageActionItemProperty::String);
        chosen.title == yes && (own.is_none() || chosen.properties.get("token") == own.as_ref())
    };
    match answer {
        Ok(Some(chosen)) if fits(&chosen) => {}
        Ok(_) => return Ok(false),
        Err(_) => return Err(Problem::new("unanswered", 0, "this editor asks no questions")),
    }
    // Some time has passed: the connection may have been closed.
    let mut client = Client::connect(&state.agent_socket).await.map_err(to_problem)?;
    client.approve(&one.code).await.map_err(to_problem)?;
    state.agent_check_requested.notify_one();
    Ok(true)
}

/// 128 random bits of the system's.
fn random_token() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Problem::new("agent", 0, format!("this machine gives no random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn message_action<'a>(title: &str, properties: impl IntoIterator<Item = (&'a str, String)>) -> MessageActionItem {
    let properties =
        properties.into_iter().map(|(name, value)| (name.to_owned(), MessageActionItemProperty::String(value)));
    MessageActionItem { title: title.to_owned(), properties: HashMap::from_iter(properties) }
}

/// A service is given its identity when it is brought up; nobody wants to type that again.
async fn offer_up(state: &Arc<ServerState>, root: &Path, one: &PendingApprovalView) {
    let words =
        format!("approved: the next `up` gives `{}` to `{}`", one.identity_use.identity, one.identity_use.service);
    let answer = state
        .client
        .show_message_request(MessageType::INFO, words, Some(vec![message_action(UP_AGAIN_TITLE, [])]))
        .await;
    if matches!(answer, Ok(Some(chosen)) if chosen.title == UP_AGAIN_TITLE) {
        operation::up(Arc::clone(state), root.to_owned()).await;
    }
}

/// What a person types where nobody but they can.
async fn show_terminal_command(state: &ServerState, one: &PendingApprovalView, problem: &Problem) {
    let command = format!("pdev identity approve {}", one.code);
    let hint = problem.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
    let is_code_expired = problem.code == REQUEST_UNKNOWN;
    let words = if is_code_expired {
        format!("{}.{hint}", problem.title)
    } else {
        format!(
            "`{}` is not approved for `{}` here: {}. In a terminal outside of this editor: {command}",
            one.identity_use.identity, one.identity_use.service, problem.title
        )
    };
    if !state.client_capabilities().copy_text || is_code_expired {
        return state.client.show_message(MessageType::WARNING, words).await;
    }
    let actions = vec![message_action(COPY_COMMAND_TITLE, [("copy", command)])];
    drop(state.client.show_message_request(MessageType::WARNING, words, Some(actions)).await);
}
