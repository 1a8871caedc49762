//! `workspace/executeCommand`: the actions behind lenses and code actions, usable by every client.
//!
//! An operation that may take minutes answers its request at once and continues in a background task, which reports
//! progress and failures.

mod approve;
mod command;
mod login;
mod manifest_edits;
mod operation;
mod preview;
mod render;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::ClientError;
use protocol::Problem;
use serde::Deserialize;
use serde_json::{Value, json};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::ls_types::{ExecuteCommandParams, Uri};

pub use self::command::Command;
use self::operation::Operation;
use crate::check::Analysis;
use crate::convert::diagnostics::AdviceDisplay;
use crate::server_state::{ServerState, static_diagnostics, uri_to_path};

/// The argument that all commands share. Every field is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Argument {
    /// The manifest. If absent, the command applies to the only open manifest.
    uri: Option<Uri>,
    unit: Option<String>,
    /// For `pdev.login` and `pdev.approve`.
    identity: Option<String>,
    /// For `pdev.keep`: the variable of `unit` whose literal moves into the vault.
    variable: Option<String>,
    /// For `pdev.render`, `pdev.diff`, `pdev.report` and `pdev.logs`: also show the text as a document.
    show: bool,
    /// For `pdev.logs`: return only the last N lines.
    tail: Option<usize>,
    /// For `pdev.waive`.
    code: Option<String>,
    scope: Option<String>,
    reason: Option<String>,
    owner: Option<String>,
}

/// Bounds commands that read from the agent: the user waits for their result.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// Bounds the wait for the user's answer. No identity provider keeps its login page open longer.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(900);

/// # Errors
/// The message for the user: unknown command, no manifest, no preview, or no connection to the agent.
pub async fn run(state: &Arc<ServerState>, params: ExecuteCommandParams) -> Result<Option<Value>> {
    let first = params.arguments.into_iter().next().unwrap_or(Value::Null);
    let argument: Argument = match first {
        Value::Null => Argument::default(),
        // Short form: the URI alone.
        Value::String(uri) => Argument { uri: uri.parse().ok(), ..Argument::default() },
        other => serde_json::from_value(other)
            .map_err(|error| invalid_params_error(format!("cannot read the argument: {error}")))?,
    };
    let command = Command::parse(&params.command)
        .ok_or_else(|| invalid_params_error(format!("unknown command `{}`", params.command)))?;
    // Resolved only in the arms that need a manifest: `pdev.login` and `pdev.agent` also work when none is open.
    let root = || manifest_path(state, &argument);
    match command {
        Command::Login => {
            let identity = argument
                .identity
                .ok_or_else(|| invalid_params_error("`pdev.login` needs `identity`, such as `shop-dev`"))?;
            // Not awaited, because the user may take minutes. The timeout ends the task if the user never answers.
            let work = login::sign_in(Arc::clone(state), identity);
            state.tasks.spawn(async move { drop(tokio::time::timeout(LOGIN_TIMEOUT, work).await) });
            Ok(None)
        }
        Command::Agent => with_reply_timeout(preview::start_agent(state)).await,
        Command::Up => Ok(operation::spawn(state, Operation::Up, root()?, argument)),
        Command::Stop => Ok(operation::spawn(state, Operation::Stop, root()?, argument)),
        Command::Restart => Ok(operation::spawn(state, Operation::Restart, root()?, argument)),
        Command::Apply => {
            let root = root()?;
            preview::status(state, &root)?;
            Ok(operation::spawn(state, Operation::Up, root, argument))
        }
        Command::Logs => with_reply_timeout(preview::logs(state, &root()?, &argument)).await,
        Command::Diff => with_reply_timeout(preview::diff(state, &root()?, &argument)).await,
        Command::Approve => {
            let root = root()?;
            let waiting = approve::waiting_approvals(state, &root, &argument)?;
            let work = approve::prompt_for_approvals(Arc::clone(state), root, waiting);
            state.tasks.spawn(async move { drop(tokio::time::timeout(LOGIN_TIMEOUT, work).await) });
            Ok(None)
        }
        Command::Report => {
            let root = root()?;
            drop(current_analysis(state, &root).await?);
            let text = report::collect(state, &root);
            if argument.show { show_text(state, "report.txt", &text).map(Some) } else { Ok(Some(json!(text))) }
        }
        Command::Open => preview::open(state, &root()?, &argument).map(Some),
        Command::Status => Ok(Some(json!(preview::status(state, &root()?)?))),
        Command::Check => {
            let root = root()?;
            drop(current_analysis(state, &root).await?);
            Ok(Some(json!(static_diagnostics(&state.workspace(), &root, AdviceDisplay::All))))
        }
        Command::Advice => {
            state.workspace().toggle_advice(&root()?);
            state.mark_client_stale();
            Ok(None)
        }
        Command::Waive => manifest_edits::waive(state, &*current_analysis(state, &root()?).await?, &argument).map(Some),
        Command::Keep => manifest_edits::move_to_vault(state, &root()?, &argument).await.map(Some),
        Command::Render => {
            let text = render::render(&*current_analysis(state, &root()?).await?, &argument)?;
            let name = format!("render-{}.txt", argument.unit.as_deref().unwrap_or("all"));
            if argument.show { show_text(state, &name, &text).map(Some) } else { Ok(Some(json!(text))) }
        }
    }
}

fn invalid_params_error(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::invalid_params(message)
}

fn to_rpc_error(error: &ClientError) -> Error {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    Error { message: format!("{error}{hint}").into(), ..Error::internal_error() }
}

async fn with_reply_timeout(reply: impl Future<Output = Result<Value>>) -> Result<Option<Value>> {
    let timeout_error = || Error { message: "the agent did not answer in time".into(), ..Error::internal_error() };
    tokio::time::timeout(REPLY_TIMEOUT, reply).await.map_err(|_| timeout_error())?.map(Some)
}

fn manifest_path(state: &ServerState, argument: &Argument) -> Result<PathBuf> {
    if let Some(path) = argument.uri.as_ref().and_then(uri_to_path) {
        return Ok(path);
    }
    let roots: Vec<PathBuf> = state.workspace().manifest_paths().map(Path::to_owned).collect();
    match <[PathBuf; 1]>::try_from(roots) {
        Ok([path]) => Ok(path),
        Err(_) => Err(invalid_params_error("name the manifest: `{ \"uri\": \"file:///…/pdev.yaml\" }`")),
    }
}

/// Analyses the newest text of the manifest, unless that is already done.
async fn current_analysis(state: &Arc<ServerState>, root: &Path) -> Result<Arc<Analysis>> {
    let snapshot = state.workspace().snapshot(root).ok_or_else(|| invalid_params_error("open the manifest first"))?;
    state.current_analysis(&snapshot).await.ok_or_else(|| invalid_params_error("open the manifest first"))
}

fn to_problem(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => *problem,
        error => Problem { hint: error.hint(), ..Problem::new("agent", 0, error.to_string()) },
    }
}

fn show_text(state: &ServerState, name: &str, text: &str) -> Result<Value> {
    crate::virtual_documents::show(state, name, text)
        .map_err(|reason| Error { message: reason.into(), ..Error::internal_error() })
}
