//! `pdev.login`: the user signs in from the editor. The agent runs the login. The server opens its page or shows its
//! code, then reports the outcome. Logins that read a secret from the terminal are not supported here.

use std::sync::Arc;

use client::{Client, Launch};
use protocol::Problem;
use protocol::identity::{LoginEvent, LoginFlow};
use tower_lsp::ls_types::{MessageType, ShowDocumentParams};

use super::to_problem;
use crate::server_state::ServerState;

pub async fn sign_in(state: Arc<ServerState>, identity: String) {
    let outcome = follow_login(&state, &identity).await;
    let (kind, message) = match outcome {
        Ok(()) => (MessageType::INFO, format!("signed in as `{identity}`")),
        Err(problem) => {
            let hint =
                problem.hint.unwrap_or_else(|| format!("Run `pdev login {identity}` in a terminal for details."));
            (MessageType::ERROR, format!("{}. {hint}", problem.title))
        }
    };
    state.client.show_message(kind, message).await;
    // The agent may have been started for this login.
    state.agent_check_requested.notify_one();
}

async fn follow_login(state: &ServerState, identity: &str) -> Result<(), Problem> {
    let launch = Launch::this_program().map_err(to_problem)?;
    let client = Client::connect_or_start(&state.agent_socket, &launch).await.map_err(to_problem)?;
    // The client opens pages on the user's machine, which may not be this one. A client that cannot open pages gets a
    // device code, which works from any machine.
    let flow = if state.client_capabilities().show_document { LoginFlow::Browser } else { LoginFlow::Device };
    let mut events = client.login(identity, flow).await.map_err(to_problem)?;
    while let Some(event) = events.next().await.map_err(to_problem)? {
        match event {
            LoginEvent::Open { url } => open_page(state, &url).await,
            LoginEvent::Code { url, code, complete_url } => {
                let message = format!("to sign in as `{identity}`, enter the code {code} at {url}");
                state.client.show_message(MessageType::INFO, message).await;
                if let Some(url) = complete_url {
                    open_page(state, &url).await;
                }
            }
            LoginEvent::SignedIn => return Ok(()),
            LoginEvent::Failed { problem } => return Err(problem),
        }
    }
    Err(Problem::new("login", 0, "the agent stopped before the login was complete".to_owned()))
}

/// Does not wait for the client's response: some clients respond only when the page is closed.
async fn open_page(state: &ServerState, url: &str) {
    match (state.client_capabilities().show_document, url.parse()) {
        (true, Ok(uri)) => {
            let client = state.client.clone();
            let params = ShowDocumentParams { uri, external: Some(true), take_focus: Some(true), selection: None };
            state.tasks.spawn(async move { drop(client.show_document(params).await) });
        }
        _ => state.client.show_message(MessageType::INFO, format!("open {url} in a browser on this machine")).await,
    }
}
