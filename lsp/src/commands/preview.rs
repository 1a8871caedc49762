//! Commands that read from the agent: the preview's status, logs, address and plan.

use std::path::Path;
use std::sync::Arc;

use client::{Client, Launch};
use host::clock::now_milliseconds;
use protocol::request::LogQuery;
use protocol::status::{PreviewStatus, UnitState, UnitStatus};
use serde_json::{Value, json};
use tower_lsp::jsonrpc::Result;
use tower_lsp::ls_types::ShowDocumentParams;

use super::{Argument, invalid_params_error, show_text, to_rpc_error};
use crate::live::up_request;
use crate::server_state::ServerState;

const LOG_LINES: usize = 200;

/// Reads the cache, which the agent's events keep current.
pub(super) fn status(state: &ServerState, root: &Path) -> Result<PreviewStatus> {
    let environment = state.environment();
    let found = state.with_live(|live| live.preview(root, &environment).cloned());
    found.ok_or_else(|| invalid_params_error("nothing is up from this folder; `pdev.up` starts it"))
}

pub(super) async fn logs(state: &ServerState, root: &Path, argument: &Argument) -> Result<Value> {
    let preview = status(state, root)?;
    let ended = argument.unit.as_ref().and_then(|name| preview.units.iter().find(|unit| unit.name == *name));
    let ended = ended.filter(|unit| unit.state.has_ended()).map(end_of_log);
    let preview = preview.preview.id;
    let client = Client::connect(&state.agent_socket).await.map_err(|error| to_rpc_error(&error))?;
    let query = LogQuery {
        units: argument.unit.clone(),
        tail: Some(argument.tail.unwrap_or(LOG_LINES)),
        ..LogQuery::default()
    };
    let mut lines = client.logs(&preview, &query).await.map_err(|error| to_rpc_error(&error))?;
    let (mut entries, mut text) = (Vec::new(), String::new());
    while let Some(entry) = lines.next().await.map_err(|error| to_rpc_error(&error))? {
        text.push_str(&format!("{}  {}\n", entry.unit, entry.text));
        entries.push(json!({ "at": entry.at, "unit": entry.unit, "stream": entry.stream, "text": entry.text }));
    }
    if let Some((unit, note)) = ended {
        text.push_str(&format!("{note}\n"));
        entries.push(json!({ "at": now_milliseconds(), "unit": unit, "stream": "pdev", "text": note }));
    }
    if argument.show {
        return show_text(state, &format!("logs-{}.txt", argument.unit.as_deref().unwrap_or("all")), &text);
    }
    Ok(Value::Array(entries))
}

/// The name of a unit that has ended, and the line after its log that says so.
fn end_of_log(unit: &UnitStatus) -> (String, String) {
    let state = match unit.state {
        UnitState::Done => "done",
        UnitState::Failed => "failed",
        _ => "stopped",
    };
    let reason = unit.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    (unit.name.clone(), format!("-- `{}` has ended ({state}){reason} --", unit.name))
}

/// Returns the plan of an `up` now. The agent computes it from the file on disk, so unsaved text has no effect.
pub(super) async fn diff(state: &ServerState, root: &Path, argument: &Argument) -> Result<Value> {
    let mut client = Client::connect(&state.agent_socket).await.map_err(|error| to_rpc_error(&error))?;
    let reply = client.plan(&up_request(state, root)).await.map_err(|error| to_rpc_error(&error))?;
    if !argument.show {
        return Ok(json!(reply.plan));
    }
    let mut text = format!("# steps of `pdev up` for {}\n", reply.preview.title);
    if reply.plan.unchanged {
        text.push_str("none: the preview matches the manifest\n");
    } else {
        let steps = reply.plan.steps.iter().map(|step| format!("{}  # {}\n", step.text, step.because));
        text.extend(steps);
    }
    text.extend(reply.notes.iter().map(|note| format!("# {note}\n")));
    show_text(state, "diff.txt", &text)
}

/// Starts only the agent, no preview.
pub(super) async fn start_agent(state: &ServerState) -> Result<Value> {
    let launch = Launch::this_program().map_err(|error| to_rpc_error(&error))?;
    let client = Client::connect_or_start(&state.agent_socket, &launch).await.map_err(|error| to_rpc_error(&error))?;
    drop(client);
    // Live state appears without waiting for the file event of the socket.
    state.agent_check_requested.notify_one();
    Ok(Value::Null)
}

pub(super) fn open(state: &Arc<ServerState>, root: &Path, argument: &Argument) -> Result<Value> {
    let status = status(state, root)?;
    let url = match &argument.unit {
        Some(unit) => status.units.into_iter().find(|status| status.name == *unit).and_then(|status| status.url),
        None => status.url,
    };
    let url = url.ok_or_else(|| {
        let name = argument.unit.as_ref().map_or_else(|| "the preview".to_owned(), |unit| format!("`{unit}`"));
        invalid_params_error(format!("{name} has no URL; give a service a `port` or `routes`"))
    })?;
    if let (true, Ok(uri)) = (state.client_capabilities().show_document, url.parse()) {
        // Not awaited: some clients respond only when the page is closed.
        let client = state.client.clone();
        let params = ShowDocumentParams { uri, external: Some(true), take_focus: Some(true), selection: None };
        state.tasks.spawn(async move { drop(client.show_document(params).await) });
    }
    Ok(json!(url))
}
