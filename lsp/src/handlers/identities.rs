//! Credentials where the manifest names them: an identity that nobody is signed in as, that gives nothing, or that nobody
//! approved for this service, on the line of the service that needs it, with the action that helps. From the cache alone.

use std::collections::BTreeSet;

use manifest::FileId;
use manifest::model::Manifest;
use protocol::approval::PendingApprovalView;
use protocol::identity::{IdentityState, IdentityStatus};
use protocol::status::PreviewStatus;
use serde_json::json;
use tower_lsp::ls_types::*;

use super::code_actions::RequestedKinds;
use crate::commands;
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
    let named = bodies.filter_map(|body| body.identity.as_ref()).filter(|name| name.span.file == file);
    let finding = |name: &manifest::Spanned<String>| {
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
    named.filter_map(finding).collect()
}

/// Services that run without their identity until a person approves its first use.
#[must_use]
pub fn approval_diagnostics(
    manifest: &Manifest,
    preview: &PreviewStatus,
    waiting: &[&PendingApprovalView],
    file: FileId,
    text: &Text,
    encoding: Encoding,
) -> Vec<Diagnostic> {
    let finding = |one: &&PendingApprovalView| {
        let of = &one.identity_use;
        let service = manifest.services.get(&of.service).map(|entry| &entry.value);
        let body = service.or_else(|| manifest.jobs.get(&of.service).map(|entry| &entry.value.body))?;
        let name = body.identity.as_ref().filter(|name| name.value == of.identity && name.span.file == file)?;
        let without = preview.units.iter().find(|unit| unit.name == of.service)?.identity.is_none();
        let message = format!(
            "`{}` runs without the identity `{}`: nobody has approved that this repository uses it\n`pdev identity approve {}` \
             in another terminal than the one that asked approves it.",
            of.service, of.identity, one.code
        );
        without.then(|| Diagnostic {
            range: encoding.range(text, name.span.range()),
            severity: Some(DiagnosticSeverity::WARNING),
            code: Some(NumberOrString::String(NEEDS_APPROVAL.to_owned())),
            source: Some(format!("{SOURCE} (live)")),
            message,
            data: Some(json!({ "identity": of.identity, "unit": of.service, "live": true })),
            ..Diagnostic::default()
        })
    };
    waiting.iter().filter_map(finding).collect()
}

/// The way out of what waits: a question to the person, asked by the server.
#[must_use]
pub fn approval_actions(params: &CodeActionParams) -> Vec<CodeActionOrCommand> {
    if !RequestedKinds::from_params(params).includes(&CodeActionKind::QUICKFIX) {
        return Vec::new();
    }
    let action = |found: &Diagnostic| {
        let waits = found.code == Some(NumberOrString::String(NEEDS_APPROVAL.to_owned()));
        let data = found.data.as_ref().filter(|_| waits)?;
        let (identity, unit) = (data["identity"].as_str()?, data["unit"].as_str()?);
        let title = format!("Approve `{identity}` for `{unit}`…");
        let argument = json!({ "uri": params.text_document.uri, "identity": identity, "unit": unit });
        let command = Command {
            title: title.clone(),
            command: commands::Command::Approve.id().to_owned(),
            arguments: Some(vec![argument]),
        };
        Some(CodeActionOrCommand::CodeAction(CodeAction {
            title,
            kind: Some(CodeActionKind::QUICKFIX),
            diagnostics: Some(vec![found.clone()]),
            command: Some(command),
            ..CodeAction::default()
        }))
    };
    params.context.diagnostics.iter().filter_map(action).collect()
}

fn diagnose_identity(name: &str, status: Option<&IdentityStatus>) -> Option<(DiagnosticSeverity, String, String)> {
    let Some(status) = status else {
        let words =
            format!("`{name}` is not one of your identities\n`pdev identity add {name} --source SOURCE` adds it.");
        return Some((DiagnosticSeverity::INFORMATION, "identity_unknown".to_owned(), words));
    };
    let told = |other: &str| status.problem.as_ref().map_or_else(|| other.to_owned(), |problem| problem.title.clone());
    match status.state {
        IdentityState::Ready | IdentityState::Idle => {
            let (login, end) = (status.sign_in.as_ref()?, status.login_ends_at?);
            let words =
                format!("the login of `{login}` ends at {}\n`pdev login {login}` signs you in anew.", time_of_day(end));
            Some((DiagnosticSeverity::INFORMATION, LOGIN_ENDS.to_owned(), words))
        }
        IdentityState::NeedsLogin => {
            let login = status.sign_in.as_deref().unwrap_or(name);
            let words =
                format!("{}\n`pdev login {login}` signs you in.", told(&format!("nobody is signed in as `{name}`")));
            Some((DiagnosticSeverity::WARNING, NEEDS_LOGIN.to_owned(), words))
        }
        IdentityState::Failing => {
            let hint = status.problem.as_ref().and_then(|problem| problem.hint.as_deref()).unwrap_or_default();
            let code = status.problem.as_ref().map_or("failing", |problem| &problem.code);
            let words = format!("{}\n{hint}", told(&format!("`{name}` gives no credential")));
            Some((DiagnosticSeverity::WARNING, code.to_owned(), words.trim_end().to_owned()))
        }
    }
}

/// The time of day, which stays true while the finding stands.
fn time_of_day(milliseconds: i64) -> String {
    let minutes = milliseconds.div_euclid(60_000).rem_euclid(24 * 60);
    format!("{:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// The way out of the findings that the client shows at this place.
#[must_use]
pub fn login_actions(params: &CodeActionParams) -> Vec<CodeActionOrCommand> {
    if !RequestedKinds::from_params(params).includes(&CodeActionKind::QUICKFIX) {
        return Vec::new();
    }
    let mut told = BTreeSet::new();
    let action = |found: &Diagnostic| {
        let code = |code: &NumberOrString| matches!(code, NumberOrString::String(code) if [NEEDS_LOGIN, LOGIN_ENDS].contains(&code.as_str()));
        let waits = found.code.as_ref().is_some_and(code);
        let name = found.data.as_ref().filter(|_| waits)?["identity"].as_str()?;
        let title = format!("Log in as `{name}`");
        let argument = json!({ "uri": params.text_document.uri, "identity": name });
        let command = Command {
            title: title.clone(),
            command: commands::Command::Login.id().to_owned(),
            arguments: Some(vec![argument]),
        };
        told.insert(name.to_owned()).then(|| {
            CodeActionOrCommand::CodeAction(CodeAction {
                title,
                kind: Some(CodeActionKind::QUICKFIX),
                diagnostics: Some(vec![found.clone()]),
                command: Some(command),
                is_preferred: Some(true),
                ..CodeAction::default()
            })
        })
    };
    params.context.diagnostics.iter().filter_map(action).collect()
}
