//! Diagnostics about identities on the line that names them: missing logins, failing credentials and pending approvals,
//! with their fixes. From the cache only.

use std::collections::BTreeSet;

use manifest::FileId;
use manifest::model::Manifest;
use protocol::approval::PendingApprovalView;
use protocol::identity::{IdentityState, IdentityStatus};
use protocol::status::PreviewStatus;
use serde_json::json;
use tower_lsp::ls_types::*;

use super::code_actions::RequestedKinds;
use crate::commands::Command as ServerCommand;
use crate::convert::Encoding;
use crate::convert::diagnostics::SOURCE;
use crate::live::{AgentState, LiveState};
use crate::text::Text;

const NEEDS_LOGIN: &str = "needs_login";
const LOGIN_ENDS: &str = "login_ends";
const NEEDS_APPROVAL: &str = "needs_approval";

#[must_use]
pub fn identity_diagnostics(
    manifest: &Manifest,
    live: &LiveState,
    file: FileId,
    text: &Text,
    encoding: Encoding,
) -> Vec<Diagnostic> {
    let (AgentState::Present, Some(identities)) = (&live.agent, &live.identities) else { return Vec::new() };
    let services = manifest.services.values().map(|entry| &entry.value);
    let bodies = services.chain(manifest.jobs.values().map(|entry| &entry.value.body));
    let names = bodies.filter_map(|body| body.identity.as_ref()).filter(|name| name.span.file == file);
    let diagnostic = |name: &manifest::Spanned<String>| {
        let status = identities.get(&name.value);
        let (severity, code, message) = diagnose_identity(&name.value, status)?;
        let login = status.and_then(|status| status.sign_in.as_ref()).unwrap_or(&name.value);
        Some(Diagnostic {
            range: encoding.range(text, name.span.range()),
            severity: Some(severity),
            code: Some(NumberOrString::String(code)),
            source: Some(format!("{SOURCE} (live)")),
            message,
            data: Some(json!({ "identity": login, "live": true })),
            ..Diagnostic::default()
        })
    };
    names.filter_map(diagnostic).collect()
}

/// Reports services that run without their identity until the user approves its first use.
#[must_use]
pub fn approval_diagnostics(
    manifest: &Manifest,
    preview: &PreviewStatus,
    pending: &[&PendingApprovalView],
    file: FileId,
    text: &Text,
    encoding: Encoding,
) -> Vec<Diagnostic> {
    let diagnostic = |approval: &&PendingApprovalView| {
        let (service, identity) = (&approval.identity_use.service, &approval.identity_use.identity);
        let body = manifest.services.get(service).map(|entry| &entry.value);
        let body = body.or_else(|| manifest.jobs.get(service).map(|entry| &entry.value.body))?;
        let name = body.identity.as_ref().filter(|name| name.value == *identity && name.span.file == file)?;
        let runs_without = preview.units.iter().find(|unit| unit.name == *service)?.identity.is_none();
        let message = format!(
            "`{service}` runs without the identity `{identity}`: its first use in this repository is not approved\nApprove it \
             with `pdev identity approve {}` in another terminal than the one that requested it.",
            approval.code
        );
        runs_without.then(|| Diagnostic {
            range: encoding.range(text, name.span.range()),
            severity: Some(DiagnosticSeverity::WARNING),
            code: Some(NumberOrString::String(NEEDS_APPROVAL.to_owned())),
            source: Some(format!("{SOURCE} (live)")),
            message,
            data: Some(json!({ "identity": identity, "unit": service, "live": true })),
            ..Diagnostic::default()
        })
    };
    pending.iter().filter_map(diagnostic).collect()
}

/// The fixes of pending approvals: a command that makes the server ask the user.
#[must_use]
pub fn approval_actions(params: &CodeActionParams) -> Vec<CodeActionOrCommand> {
    if !RequestedKinds::from_params(params).includes(&CodeActionKind::QUICKFIX) {
        return Vec::new();
    }
    let action = |diagnostic: &Diagnostic| {
        let is_pending = diagnostic.code == Some(NumberOrString::String(NEEDS_APPROVAL.to_owned()));
        let data = diagnostic.data.as_ref().filter(|_| is_pending)?;
        let (identity, unit) = (data["identity"].as_str()?, data["unit"].as_str()?);
        let title = format!("Approve `{identity}` for `{unit}`…");
        let argument = json!({ "uri": params.text_document.uri, "identity": identity, "unit": unit });
        let command = Command {
            title: title.clone(),
            command: ServerCommand::Approve.id().to_owned(),
            arguments: Some(vec![argument]),
        };
        Some(CodeActionOrCommand::CodeAction(CodeAction {
            title,
            kind: Some(CodeActionKind::QUICKFIX),
            diagnostics: Some(vec![diagnostic.clone()]),
            command: Some(command),
            ..CodeAction::default()
        }))
    };
    params.context.diagnostics.iter().filter_map(action).collect()
}

fn diagnose_identity(name: &str, status: Option<&IdentityStatus>) -> Option<(DiagnosticSeverity, String, String)> {
    let Some(status) = status else {
        let message =
            format!("`{name}` is not in your configuration\nAdd it with `pdev identity add {name} --source SOURCE`.");
        return Some((DiagnosticSeverity::INFORMATION, "identity_unknown".to_owned(), message));
    };
    let title_or = |default: String| status.problem.as_ref().map_or(default, |problem| problem.title.clone());
    match status.state {
        IdentityState::Ready | IdentityState::Idle => {
            let (login, end) = (status.sign_in.as_ref()?, status.login_ends_at?);
            let message =
                format!("the login of `{login}` ends at {}\nRun `pdev login {login}` to renew it.", time_of_day(end));
            Some((DiagnosticSeverity::INFORMATION, LOGIN_ENDS.to_owned(), message))
        }
        IdentityState::NeedsLogin => {
            let login = status.sign_in.as_deref().unwrap_or(name);
            let title = title_or(format!("no user is signed in as `{name}`"));
            let message = format!("{title}\nRun `pdev login {login}` to sign in.");
            Some((DiagnosticSeverity::WARNING, NEEDS_LOGIN.to_owned(), message))
        }
        IdentityState::Failing => {
            let hint = status.problem.as_ref().and_then(|problem| problem.hint.as_deref()).unwrap_or_default();
            let code = status.problem.as_ref().map_or("failing", |problem| &problem.code);
            let message = format!("{}\n{hint}", title_or(format!("`{name}` provides no credentials")));
            Some((DiagnosticSeverity::WARNING, code.to_owned(), message.trim_end().to_owned()))
        }
    }
}

/// The time of day, which stays correct as long as the diagnostic is shown; a remaining time would not.
fn time_of_day(milliseconds: i64) -> String {
    let minutes = milliseconds.div_euclid(60_000).rem_euclid(24 * 60);
    format!("{:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// The fixes of missing and ending logins, one per identity.
#[must_use]
pub fn login_actions(params: &CodeActionParams) -> Vec<CodeActionOrCommand> {
    if !RequestedKinds::from_params(params).includes(&CodeActionKind::QUICKFIX) {
        return Vec::new();
    }
    let mut offered = BTreeSet::new();
    let action = |diagnostic: &Diagnostic| {
        let needs_login = |code: &NumberOrString| matches!(code, NumberOrString::String(code) if [NEEDS_LOGIN, LOGIN_ENDS].contains(&code.as_str()));
        let is_fixable = diagnostic.code.as_ref().is_some_and(needs_login);
        let name = diagnostic.data.as_ref().filter(|_| is_fixable)?["identity"].as_str()?;
        let title = format!("Log in as `{name}`");
        let argument = json!({ "uri": params.text_document.uri, "identity": name });
        let command = Command {
            title: title.clone(),
            command: ServerCommand::Login.id().to_owned(),
            arguments: Some(vec![argument]),
        };
        offered.insert(name.to_owned()).then(|| {
            CodeActionOrCommand::CodeAction(CodeAction {
                title,
                kind: Some(CodeActionKind::QUICKFIX),
                diagnostics: Some(vec![diagnostic.clone()]),
                command: Some(command),
                is_preferred: Some(true),
                ..CodeAction::default()
            })
        })
    };
    params.context.diagnostics.iter().filter_map(action).collect()
}
