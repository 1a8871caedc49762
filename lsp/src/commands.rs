//! `workspace/executeCommand`: what lenses do, for any client. A command answers at once; what takes longer goes on beside
//! it, tells of its progress, and ends with a message only where something is to be done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::{Client, ClientError, EventStream, Launch};
use manifest::FileId;
use protocol::Problem;
use protocol::approval::PendingApprovalView;
use protocol::event::EventKind;
use protocol::request::{DownRequest, LogQuery, RestartRequest, StopRequest};
use protocol::status::PreviewStatus;
use serde::Deserialize;
use serde_json::{Value, json};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::ls_types::{ExecuteCommandParams, MessageType, NumberOrString, ShowDocumentParams, Uri};

use crate::analysis::{actions, refactors};
use crate::check::{Analysis, today};
use crate::convert::edits;
use crate::live::up_request;
use crate::server_state::{ServerState, static_diagnostics, uri_to_path};
use crate::{approve, login, report};

/// A command that the server carries out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    Up,
    Stop,
    Restart,
    Logs,
    Open,
    Status,
    Check,
    Waive,
    Render,
    Diff,
    Login,
    Approve,
    Keep,
    Apply,
    Agent,
    Report,
}

impl Command {
    /// In the order in which the server announces them.
    pub const ALL: [Self; 16] = [
        Self::Up,
        Self::Stop,
        Self::Restart,
        Self::Logs,
        Self::Open,
        Self::Status,
        Self::Check,
        Self::Waive,
        Self::Render,
        Self::Diff,
        Self::Login,
        Self::Approve,
        Self::Keep,
        Self::Apply,
        Self::Agent,
        Self::Report,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Up => "pdev.up",
            Self::Stop => "pdev.stop",
            Self::Restart => "pdev.restart",
            Self::Logs => "pdev.logs",
            Self::Open => "pdev.open",
            Self::Status => "pdev.status",
            Self::Check => "pdev.check",
            Self::Waive => "pdev.waive",
            Self::Render => "pdev.render",
            Self::Diff => "pdev.diff",
            Self::Login => "pdev.login",
            Self::Approve => "pdev.approve",
            Self::Keep => "pdev.keep",
            Self::Apply => "pdev.apply",
            Self::Agent => "pdev.agent",
            Self::Report => "pdev.report",
        }
    }

    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.id() == id)
    }
}

/// An operation of the agent on a preview, which the server follows in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
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

/// The one argument of every command; all of it may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Argument {
    /// The manifest; the only open one when it is left out.
    uri: Option<Uri>,
    unit: Option<String>,
    /// For `pdev.login` and `pdev.approve`.
    identity: Option<String>,
    /// For `pdev.keep`: the variable of the unit whose value goes into the vault.
    variable: Option<String>,
    /// For `pdev.render`, `pdev.diff` and `pdev.report`: as a document in the editor.
    show: bool,
    /// For `pdev.logs`: the last so many lines.
    tail: Option<usize>,
    /// For `pdev.waive`.
    code: Option<String>,
    scope: Option<String>,
    reason: Option<String>,
    owner: Option<String>,
}

const LOG_LINES: usize = 200;
/// Answers that need the agent are for somebody who waits for them.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Longer than any provider's page stays open.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(900);

/// # Errors
/// Words for the user: an unknown command, no manifest, no preview, an agent that cannot be asked.
pub async fn run(desk: &Arc<ServerState>, params: ExecuteCommandParams) -> Result<Option<Value>> {
    let first = params.arguments.into_iter().next().unwrap_or(Value::Null);
    let argument: Argument = match first {
        Value::Null => Argument::default(),
        Value::String(uri) => Argument { uri: uri.parse().ok(), ..Argument::default() },
        other => serde_json::from_value(other)
            .map_err(|error| invalid_params_error(format!("cannot read the argument: {error}")))?,
    };
    let command = Command::parse(&params.command)
        .ok_or_else(|| invalid_params_error(format!("unknown command `{}`", params.command)))?;
    // Called by every command that applies to a manifest: the others run without an open one.
    let root = || manifest_path(desk, &argument);
    match command {
        Command::Login => {
            let identity = argument
                .identity
                .ok_or_else(|| invalid_params_error("`pdev.login` needs `identity`, such as `shop-dev`"))?;
            let work = login::sign_in(Arc::clone(desk), identity);
            drop(tokio::spawn(async move { tokio::time::timeout(LOGIN_TIMEOUT, work).await }));
            Ok(None)
        }
        Command::Agent => with_reply_timeout(start_agent(desk)).await,
        Command::Up => Ok(spawn_operation(desk, Operation::Up, root()?, argument)),
        Command::Stop => Ok(spawn_operation(desk, Operation::Stop, root()?, argument)),
        Command::Restart => Ok(spawn_operation(desk, Operation::Restart, root()?, argument)),
        Command::Apply => {
            let root = root()?;
            preview_status(desk, &root)?;
            Ok(spawn_operation(desk, Operation::Up, root, argument))
        }
        Command::Logs => with_reply_timeout(logs(desk, &root()?, &argument)).await,
        Command::Diff => with_reply_timeout(diff(desk, &root()?, &argument)).await,
        Command::Approve => {
            let root = root()?;
            let waiting = waiting_approvals(desk, &root, &argument)?;
            let work = approve::prompt_for_approvals(Arc::clone(desk), root, waiting);
            drop(tokio::spawn(async move { tokio::time::timeout(LOGIN_TIMEOUT, work).await }));
            Ok(None)
        }
        Command::Report => {
            let root = root()?;
            drop(current_analysis(desk, &root).await?);
            let text = report::collect(desk, &root);
            if argument.show { show_text(desk, "report.txt", &text).map(Some) } else { Ok(Some(json!(text))) }
        }
        Command::Open => open(desk, &root()?, &argument).map(Some),
        Command::Status => Ok(Some(json!(preview_status(desk, &root()?)?))),
        Command::Check => {
            let root = root()?;
            drop(current_analysis(desk, &root).await?);
            Ok(Some(json!(static_diagnostics(&desk.workspace(), &root))))
        }
        Command::Waive => waive(desk, &*current_analysis(desk, &root()?).await?, &argument).map(Some),
        Command::Keep => move_to_vault(desk, &root()?, &argument).await.map(Some),
        Command::Render => {
            let text = render(&*current_analysis(desk, &root()?).await?, &argument)?;
            let name = format!("render-{}.txt", argument.unit.as_deref().unwrap_or("all"));
            if argument.show { show_text(desk, &name, &text).map(Some) } else { Ok(Some(json!(text))) }
        }
    }
}

fn invalid_params_error(words: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::invalid_params(words)
}

fn to_rpc_error(error: &ClientError) -> Error {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    Error { message: format!("{error}{hint}").into(), ..Error::internal_error() }
}

async fn with_reply_timeout(answer: impl Future<Output = Result<Value>>) -> Result<Option<Value>> {
    let late = || Error { message: "the agent did not answer in time".into(), ..Error::internal_error() };
    tokio::time::timeout(REPLY_TIMEOUT, answer).await.map_err(|_| late())?.map(Some)
}

fn manifest_path(desk: &ServerState, argument: &Argument) -> Result<PathBuf> {
    if let Some(path) = argument.uri.as_ref().and_then(uri_to_path) {
        return Ok(path);
    }
    let roots: Vec<PathBuf> = desk.workspace().manifest_paths().map(Path::to_owned).collect();
    match <[PathBuf; 1]>::try_from(roots) {
        Ok([only]) => Ok(only),
        Err(_) => Err(invalid_params_error("name the manifest: `{ \"uri\": \"file:///…/pdev.yaml\" }`")),
    }
}

/// As new as what is open now.
async fn current_analysis(desk: &Arc<ServerState>, root: &Path) -> Result<Arc<Analysis>> {
    let snapshot = desk.workspace().snapshot(root).ok_or_else(|| invalid_params_error("open the manifest first"))?;
    desk.current_analysis(&snapshot).await.ok_or_else(|| invalid_params_error("open the manifest first"))
}

/// From the cache, which events keep true.
fn preview_status(desk: &ServerState, root: &Path) -> Result<PreviewStatus> {
    let environment = desk.environment();
    let found = desk.with_live(|live| live.preview(root, &environment).cloned());
    found.ok_or_else(|| invalid_params_error("nothing is up from this folder; `pdev.up` starts it"))
}

/// What waits for a person in this folder, of one unit or identity where it is named.
fn waiting_approvals(desk: &ServerState, root: &Path, argument: &Argument) -> Result<Vec<PendingApprovalView>> {
    let fits = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let meant = |one: &&PendingApprovalView| {
        fits(&argument.unit, &one.identity_use.service) && fits(&argument.identity, &one.identity_use.identity)
    };
    let found: Vec<PendingApprovalView> =
        desk.with_live(|live| live.waiting_approvals(root).filter(meant).cloned().collect());
    match found.is_empty() {
        true => Err(invalid_params_error(
            "nothing waits for an approval here; `pdev up` asks at the first use of an identity",
        )),
        false => Ok(found),
    }
}

/// Brings the manifest's preview up, all of it.
pub async fn up(desk: Arc<ServerState>, root: PathBuf) {
    drop(tokio::time::timeout(OPERATION_TIMEOUT, run_operation(desk, Operation::Up, root, None)).await);
}

/// Returns the answer to the request: nothing, because the operation reports its own progress.
fn spawn_operation(desk: &Arc<ServerState>, operation: Operation, root: PathBuf, argument: Argument) -> Option<Value> {
    let work = run_operation(Arc::clone(desk), operation, root, argument.unit);
    drop(tokio::spawn(async move { tokio::time::timeout(OPERATION_TIMEOUT, work).await }));
    None
}

async fn run_operation(desk: Arc<ServerState>, operation: Operation, root: PathBuf, unit: Option<String>) {
    let outcome = match start_operation(&desk, operation, &root, unit).await {
        Ok(stream) => follow_operation(&desk, operation, stream).await,
        Err(problem) => Err(problem),
    };
    desk.agent_check_requested.notify_one();
    if let Err(problem) = outcome {
        let hint = problem.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
        desk.client.show_message(MessageType::ERROR, format!("{problem}.{hint}")).await;
    }
}

/// Applies to one unit, or to all when `unit` is `None`.
async fn start_operation(
    desk: &Arc<ServerState>,
    operation: Operation,
    root: &Path,
    unit: Option<String>,
) -> std::result::Result<EventStream, Problem> {
    let say = |error: ClientError| match error {
        ClientError::Problem(problem) => *problem,
        error => Problem { hint: error.hint(), ..Problem::new("agent", 0, error.to_string()) },
    };
    let units: Vec<String> = unit.into_iter().collect();
    match operation {
        Operation::Up => {
            let launch = Launch::this_program().map_err(say)?;
            let client = Client::connect_or_start(&desk.agent_socket, &launch).await.map_err(say)?;
            desk.agent_check_requested.notify_one();
            deliver_secrets(desk, root).await?;
            let request = protocol::request::UpRequest { services: units, ..up_request(desk, root) };
            client.up(&request).await.map_err(say)
        }
        Operation::Stop => {
            let preview = running_preview_id(desk, root)?;
            let client = Client::connect(&desk.agent_socket).await.map_err(say)?;
            if units.is_empty() {
                client.down(&preview, &DownRequest::default()).await.map_err(say)
            } else {
                client.stop(&preview, &StopRequest { units }).await.map_err(say)
            }
        }
        Operation::Restart => {
            let preview = running_preview_id(desk, root)?;
            let client = Client::connect(&desk.agent_socket).await.map_err(say)?;
            client.restart(&preview, &RestartRequest { units }).await.map_err(say)
        }
    }
}

fn running_preview_id(desk: &ServerState, root: &Path) -> std::result::Result<String, Problem> {
    let status = preview_status(desk, root).map_err(|error| Problem::new("not_up", 0, error.message))?;
    Ok(status.preview.id)
}

/// Only where the manifest has any: the vault may ask its owner to unlock it.
async fn deliver_secrets(desk: &Arc<ServerState>, root: &Path) -> std::result::Result<(), Problem> {
    let analysis = desk.workspace().analyses().find(|one| one.manifest_path == root).cloned();
    if analysis.is_none_or(|one| one.loaded().manifest.secrets.is_empty()) {
        return Ok(());
    }
    let delivered = crate::vault::deliver_secrets(root.parent().unwrap_or(root), &desk.environment()).await;
    delivered.map_err(|words| Problem::new("secret_not_delivered", 0, words))
}

/// Progress of its own, because the request that asked for it has been answered.
async fn follow_operation(
    desk: &ServerState,
    operation: Operation,
    mut events: EventStream,
) -> std::result::Result<(), Problem> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let token = NumberOrString::String(format!("pdev-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let shown =
        desk.client_capabilities().show_progress && desk.client.create_work_done_progress(token.clone()).await.is_ok();
    let progress = if shown { Some(desk.client.progress(token, operation.title()).begin().await) } else { None };
    let mut outcome = Ok(());
    let mut last = String::new();
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
                last = if unchanged { format!("nothing changed{url}") } else { format!("done{url}") };
                break;
            }
            EventKind::Failed { problems, .. } => {
                outcome = Err(problems.into_iter().next().unwrap_or_default());
                last = "failed".to_owned();
                break;
            }
            EventKind::Superseded { by } => {
                last = format!("superseded by {by}");
                break;
            }
            EventKind::AgentStopping => break,
            _ => {}
        }
    }
    if let Some(progress) = progress {
        progress.finish_with_message(last).await;
    }
    outcome
}

async fn logs(desk: &ServerState, root: &Path, argument: &Argument) -> Result<Value> {
    let preview = preview_status(desk, root)?.preview.id;
    let client = Client::connect(&desk.agent_socket).await.map_err(|error| to_rpc_error(&error))?;
    let query = LogQuery {
        units: argument.unit.clone(),
        tail: Some(argument.tail.unwrap_or(LOG_LINES)),
        ..LogQuery::default()
    };
    let mut lines = client.logs(&preview, &query).await.map_err(|error| to_rpc_error(&error))?;
    let mut all = Vec::new();
    while let Some(entry) = lines.next().await.map_err(|error| to_rpc_error(&error))? {
        all.push(json!({ "at": entry.at, "unit": entry.unit, "stream": entry.stream, "text": entry.text }));
    }
    Ok(Value::Array(all))
}

/// What `up` would do now: the plan as the agent makes it from the file on the disk.
async fn diff(desk: &ServerState, root: &Path, argument: &Argument) -> Result<Value> {
    let mut client = Client::connect(&desk.agent_socket).await.map_err(|error| to_rpc_error(&error))?;
    let reply = client.plan(&up_request(desk, root)).await.map_err(|error| to_rpc_error(&error))?;
    if !argument.show {
        return Ok(json!(reply.plan));
    }
    let mut text = format!("# what `pdev up` would do now for {}\n", reply.preview.title);
    if reply.plan.unchanged {
        text.push_str("nothing: what runs is what is written\n");
    } else {
        let steps = reply.plan.steps.iter().map(|step| format!("{}  # {}\n", step.text, step.because));
        text.extend(steps);
    }
    text.extend(reply.notes.iter().map(|note| format!("# {note}\n")));
    show_text(desk, "diff.txt", &text)
}

fn show_text(desk: &ServerState, name: &str, text: &str) -> Result<Value> {
    crate::virtual_documents::show(desk, name, text)
        .map_err(|words| Error { message: words.into(), ..Error::internal_error() })
}

/// The agent alone; nothing is brought up.
async fn start_agent(desk: &ServerState) -> Result<Value> {
    let launch = Launch::this_program().map_err(|error| to_rpc_error(&error))?;
    let client = Client::connect_or_start(&desk.agent_socket, &launch).await.map_err(|error| to_rpc_error(&error))?;
    drop(client);
    desk.agent_check_requested.notify_one();
    Ok(Value::Null)
}

fn open(desk: &Arc<ServerState>, root: &Path, argument: &Argument) -> Result<Value> {
    let status = preview_status(desk, root)?;
    let url = match &argument.unit {
        Some(unit) => status.units.into_iter().find(|status| status.name == *unit).and_then(|status| status.url),
        None => status.url,
    };
    let url = url.ok_or_else(|| invalid_params_error("it has no URL"))?;
    if let (true, Ok(uri)) = (desk.client_capabilities().show_document, url.parse()) {
        let client = desk.client.clone();
        let params = ShowDocumentParams { uri, external: Some(true), take_focus: Some(true), selection: None };
        drop(tokio::spawn(async move { client.show_document(params).await }));
    }
    Ok(json!(url))
}

/// Writes the waiver through the editor, so that it can be undone there.
fn waive(desk: &Arc<ServerState>, analysis: &Analysis, argument: &Argument) -> Result<Value> {
    let (Some(code), Some(scope)) = (&argument.code, &argument.scope) else {
        return Err(invalid_params_error("`pdev.waive` needs `code` and `scope`, such as `PD005` and `services.api`"));
    };
    let encoding = desk.workspace().encoding;
    let reason = argument.reason.as_deref().unwrap_or("say why this is right here");
    let edit = actions::waiver_edit(analysis.loaded(), code, scope, reason, argument.owner.as_deref(), today());
    let edit = edit.ok_or_else(|| invalid_params_error("`guardrails` has a form that cannot be added to"))?;
    let edit = edits::workspace_edit(analysis, &[edit], encoding);
    if desk.client_capabilities().apply_edit {
        let client = desk.client.clone();
        let applied = edit.clone();
        drop(tokio::spawn(async move { client.apply_edit(applied).await }));
    }
    Ok(json!(edit))
}

/// The literal of a variable goes into the vault; only then the manifest names the secret instead.
async fn move_to_vault(desk: &Arc<ServerState>, root: &Path, argument: &Argument) -> Result<Value> {
    let (Some(unit), Some(variable)) = (&argument.unit, &argument.variable) else {
        return Err(invalid_params_error("`pdev.keep` needs `unit` and `variable`, such as `api` and `STRIPE_KEY`"));
    };
    if !desk.client_capabilities().apply_edit {
        return Err(invalid_params_error("the client cannot apply edits; `pdev secret set NAME` keeps a value"));
    }
    let found = find_literal(&*current_analysis(desk, root).await?, unit, variable);
    let (_, kept) = found.ok_or_else(|| invalid_params_error(format!("`{variable}` of `{unit}` is no literal")))?;
    let folder = root.parent().unwrap_or(root);
    let refused = |words: String| Error { message: words.into(), ..Error::internal_error() };
    crate::vault::store_secret(folder, &kept.secret, &kept.value).await.map_err(refused)?;
    // The file may have changed meanwhile: the edit is that of now.
    let analysis = current_analysis(desk, root).await?;
    let now = find_literal(&analysis, unit, variable).filter(|(_, now)| now.value == kept.value);
    let (now, _) =
        now.ok_or_else(|| invalid_params_error(format!("`{variable}` changed meanwhile; the vault has what it was")))?;
    let edit = edits::workspace_edit(&analysis, &now.edits, desk.workspace().encoding);
    let client = desk.client.clone();
    drop(tokio::spawn(async move { client.apply_edit(edit).await }));
    Ok(json!({ "secret": kept.secret }))
}

fn find_literal(analysis: &Analysis, unit: &str, variable: &str) -> Option<(actions::Action, actions::SecretLiteral)> {
    let loaded = analysis.loaded();
    let scene = refactors::RefactorContext {
        root: loaded.root.as_ref()?,
        text: analysis.text(FileId(0))?,
        manifest: &loaded.manifest,
        file: FileId(0),
        files: &analysis.buffers,
        has_other_files: analysis.paths().count() > 1,
    };
    let action = refactors::literal_to_secret(&scene, unit, variable)?;
    let kept = action.secret_literal.clone()?;
    Some((action, kept))
}

/// Every field as it would be rendered, each with its origin, as `path = value  # origin`.
fn render(analysis: &Analysis, argument: &Argument) -> Result<String> {
    let resolved = analysis.resolve_application().ok_or_else(|| invalid_params_error("the manifest has errors"))?;
    let wanted = |path: &str| argument.unit.as_deref().is_none_or(|unit| path.split('.').nth(1) == Some(unit));
    let mut text = String::new();
    for (path, field) in resolved.origins.iter().filter(|(path, _)| wanted(path.as_ref())) {
        let sources = &analysis.loaded().sources;
        let origin =
            field.origins.last().map(|origin| plan::explain::describe_origin(origin, sources)).unwrap_or_default();
        // What pdev itself chose, such as the addresses of the other services, is no secret.
        let own = matches!(field.origins.last(), Some(plan::origin::Origin::Default { .. }));
        let hidden = !own && crate::analysis::hover::is_secret_path(&path);
        let value = if hidden { "(not shown)".to_owned() } else { field.value.to_string() };
        text.push_str(&format!("{path} = {value}  # {origin}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Command;

    #[test]
    fn every_id_parses_to_its_command_and_others_to_none() {
        for command in Command::ALL {
            assert_eq!(Command::parse(command.id()), Some(command));
        }
        for id in ["pdev.nothing", "pdev.shell", "up", ""] {
            assert_eq!(Command::parse(id), None, "{id}");
        }
    }

    #[test]
    fn docs_list_the_same_commands() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lsp.md");
        let page = std::fs::read_to_string(page).unwrap();
        let section = page.split("\n## Commands\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let mut documented: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let mut announced = Command::ALL.map(Command::id).to_vec();
        documented.sort_unstable();
        announced.sort_unstable();
        assert_eq!(documented, announced, "docs/lsp.md");
    }
}
