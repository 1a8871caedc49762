//! Lenses, hints, diagnostics and hovers about the running preview, from the cache only.

use std::collections::BTreeMap;

use manifest::model::{Manifest, Service};
use manifest::{FileId, Span};
use protocol::Problem;
use protocol::status::{PreviewState, PreviewStatus, UnitState, UnitStatus};
use serde_json::json;
use tower_lsp::ls_types::*;

use super::code_actions::RequestedKinds;
use super::identities;
use crate::analysis::hover::reference_at;
use crate::analysis::{references, tree};
use crate::check::Analysis;
use crate::client_capabilities::{ClientCapabilities, ClientCommand};
use crate::commands::Command as ServerCommand;
use crate::convert::diagnostics::SOURCE;
use crate::live::{AgentState, LiveState};
use crate::log_tail;
use crate::workspace::Snapshot;

const NO_AGENT: &str = "no agent runs: live state is off";
const START_AGENT_LABEL: &str = "start it";
const DRIFT: &str = "drift";
const OUTPUT_LINES_MAX: usize = 10;

/// A document and the live state of its preview.
pub struct LiveContext<'a> {
    pub snapshot: &'a Snapshot,
    pub live: &'a LiveState,
    pub environment: &'a str,
    pub client_capabilities: ClientCapabilities,
}

/// The fixes of drift: apply the manifest to one unit, or to all.
#[must_use]
pub fn drift_fix_actions(params: &CodeActionParams) -> Vec<CodeActionOrCommand> {
    if !RequestedKinds::from_params(params).includes(&CodeActionKind::QUICKFIX) {
        return Vec::new();
    }
    let action = |diagnostic: &Diagnostic| {
        if diagnostic.code != Some(NumberOrString::String(DRIFT.to_owned())) {
            return None;
        }
        let unit = diagnostic.data.as_ref()?.get("unit")?.as_str();
        let title = format!("Apply the manifest{}", unit.map(|unit| format!(" to `{unit}`")).unwrap_or_default());
        let argument = json!({ "uri": params.text_document.uri, "unit": unit });
        let command = Command {
            title: title.clone(),
            command: ServerCommand::Apply.id().to_owned(),
            arguments: Some(vec![argument]),
        };
        Some(CodeActionOrCommand::CodeAction(CodeAction {
            title,
            kind: Some(CodeActionKind::QUICKFIX),
            diagnostics: Some(vec![diagnostic.clone()]),
            command: Some(command),
            is_preferred: Some(true),
            ..CodeAction::default()
        }))
    };
    params.context.diagnostics.iter().filter_map(action).collect()
}

/// For each failed or unhealthy unit: its logs, and a restart.
#[must_use]
pub fn failure_actions(params: &CodeActionParams) -> Vec<CodeActionOrCommand> {
    if !RequestedKinds::from_params(params).includes(&CodeActionKind::QUICKFIX) {
        return Vec::new();
    }
    let actions = |diagnostic: &Diagnostic| {
        let data = diagnostic.data.as_ref()?;
        let is_drift = diagnostic.code == Some(NumberOrString::String(DRIFT.to_owned()));
        let unit = data["unit"].as_str().filter(|_| data["live"] == true && !is_drift)?.to_owned();
        let action = |title: String, command: ServerCommand| {
            let argument = json!({ "uri": params.text_document.uri, "unit": unit, "show": true });
            let command =
                Command { title: title.clone(), command: command.id().to_owned(), arguments: Some(vec![argument]) };
            CodeActionOrCommand::CodeAction(CodeAction {
                title,
                kind: Some(CodeActionKind::QUICKFIX),
                diagnostics: Some(vec![diagnostic.clone()]),
                command: Some(command),
                ..CodeAction::default()
            })
        };
        Some([
            action(format!("Show logs of `{unit}`"), ServerCommand::Logs),
            action(format!("Restart `{unit}`"), ServerCommand::Restart),
        ])
    };
    params.context.diagnostics.iter().filter_map(actions).flatten().collect()
}

/// A unit in the current text of the document, so that lenses and hints follow unsaved edits.
struct NamedUnit {
    name: String,
    span: Span,
}

impl LiveContext<'_> {
    fn preview(&self) -> Option<&PreviewStatus> {
        self.live.preview(&self.snapshot.path, self.environment)
    }

    fn units(&self) -> Vec<NamedUnit> {
        let Some(root) = self.snapshot.root() else { return Vec::new() };
        let text = self.snapshot.text.as_str();
        let sections = ["services", "jobs", "resources"].into_iter().filter_map(|section| root.get(section));
        let pairs = sections.flat_map(|section| section.value.as_map().unwrap_or_default());
        pairs
            .map(|pair| NamedUnit {
                name: pair.key.value.clone(),
                span: references::unquoted_span(text, pair.key.span),
            })
            .collect()
    }

    fn range(&self, span: Span) -> Range {
        self.snapshot.encoding.range(&self.snapshot.text, span.range())
    }

    #[must_use]
    pub fn lenses(&self) -> Vec<CodeLens> {
        let uri = &self.snapshot.uri;
        let lens = |range: Range, title: &str, command: &str, argument: serde_json::Value| CodeLens {
            range,
            command: Some(Command {
                title: title.to_owned(),
                command: command.to_owned(),
                arguments: Some(vec![argument]),
            }),
            data: None,
        };
        let preview_lens =
            |title: &str, command: ServerCommand| lens(Range::default(), title, command.id(), json!({ "uri": uri }));
        let mut lenses = Vec::new();
        match (&self.live.agent, self.preview()) {
            (AgentState::Unusable(reason), _) => {
                lenses.push(preview_lens(&format!("pdev: {reason}"), ServerCommand::Status));
            }
            (AgentState::Unknown, None) => {}
            (AgentState::Absent, _) if !self.should_show_agent_hint() => {
                lenses.push(preview_lens(&format!("▶ up ({NO_AGENT})"), ServerCommand::Up));
            }
            (_, None) => lenses.push(preview_lens("▶ up", ServerCommand::Up)),
            (_, Some(preview)) => {
                let state = format!("{}: {}", preview.preview.title, preview_state_label(preview.state));
                lenses.push(preview_lens(&state, ServerCommand::Status));
                let drift = self.live.drift(&self.snapshot.path, self.environment).count();
                let up = if drift > 0 { format!("▶ up ({drift} changes)") } else { "▶ up".to_owned() };
                lenses.push(preview_lens(&up, ServerCommand::Up));
                if preview.state != PreviewState::Down {
                    lenses.push(preview_lens("■ stop", ServerCommand::Stop));
                }
                if preview.url.is_some() && preview.state != PreviewState::Down {
                    lenses.push(preview_lens("open", ServerCommand::Open));
                }
            }
        }
        let statuses = self.preview().map(|preview| preview.units.as_slice()).unwrap_or_default();
        for unit in self.units() {
            let range = self.range(unit.span);
            let unit_lens =
                |title: &str, command: &str| lens(range, title, command, json!({ "uri": uri, "unit": unit.name }));
            let status = statuses.iter().find(|status| status.name == unit.name);
            // A unit is stopped if the last `up` left it out or if it was stopped. It gets a lens only while others
            // run.
            let is_stopped = status.is_none_or(|status| status.state == UnitState::Stopped);
            if is_stopped && self.preview().is_some_and(|preview| preview.state != PreviewState::Down) {
                lenses.push(unit_lens("▶ start", ServerCommand::Up.id()));
            }
            let Some(status) = status else { continue };
            if !is_stopped {
                lenses.push(unit_lens("↻ restart", ServerCommand::Restart.id()));
                if !matches!(status.state, UnitState::Done | UnitState::Failed | UnitState::Stopping) {
                    lenses.push(unit_lens("■ stop", ServerCommand::Stop.id()));
                }
            }
            // A terminal that follows the log of a unit that has ended would close at once.
            let can_tail = self.client_capabilities.tail_logs && !status.state.has_ended();
            let logs = if can_tail { ClientCommand::Tail.id() } else { ServerCommand::Logs.id() };
            lenses.push(unit_lens("logs", logs));
            if status.url.is_some() && status.state == UnitState::Ready {
                lenses.push(unit_lens("open", ServerCommand::Open.id()));
            }
            let is_running = matches!(status.state, UnitState::Ready | UnitState::Unhealthy | UnitState::Starting);
            if self.client_capabilities.run_shell && is_running {
                lenses.push(unit_lens("shell", ClientCommand::Shell.id()));
            }
        }
        lenses
    }

    /// Shows the notice about the missing agent once: in a hint if the client has hints, else in the lens.
    fn should_show_agent_hint(&self) -> bool {
        self.client_capabilities.inlay_hints && self.snapshot.settings.inlay_hints.state
    }

    /// The hint after the first line that says why there is no live state, with a click that starts the agent.
    #[must_use]
    pub fn no_agent_hint(&self, range: Range) -> Option<InlayHint> {
        if self.live.agent != AgentState::Absent || range.start.line > 0 || !self.should_show_agent_hint() {
            return None;
        }
        let start = Command {
            title: START_AGENT_LABEL.to_owned(),
            command: ServerCommand::Agent.id().to_owned(),
            arguments: Some(vec![json!({ "uri": self.snapshot.uri })]),
        };
        let part = |value: String, command: Option<Command>| InlayHintLabelPart {
            value,
            command,
            ..InlayHintLabelPart::default()
        };
        let end = self.snapshot.text.line_range(0).end;
        Some(InlayHint {
            position: self.snapshot.encoding.position(&self.snapshot.text, end),
            label: InlayHintLabel::LabelParts(vec![
                part(format!("{NO_AGENT}; "), None),
                part(START_AGENT_LABEL.to_owned(), Some(start)),
            ]),
            kind: None,
            text_edits: None,
            tooltip: Some(InlayHintTooltip::String(
                "States, addresses, failures and drift come from the agent. `pdev up` starts it.".to_owned(),
            )),
            padding_left: Some(true),
            padding_right: None,
            data: None,
        })
    }

    /// The same on the same line as a code action, for clients whose hints cannot be clicked.
    #[must_use]
    pub fn start_agent_action(&self, params: &CodeActionParams) -> Option<CodeActionOrCommand> {
        let is_on_first_line = params.range.end.line == 0 && params.context.only.is_none();
        (is_on_first_line && self.live.agent == AgentState::Absent).then(|| {
            CodeActionOrCommand::Command(Command {
                title: "Start the pdev agent".to_owned(),
                command: ServerCommand::Agent.id().to_owned(),
                arguments: Some(vec![json!({ "uri": self.snapshot.uri })]),
            })
        })
    }

    #[must_use]
    pub fn inlay_hints(&self, range: Range) -> Vec<InlayHint> {
        let mut hints: Vec<InlayHint> = self.no_agent_hint(range).into_iter().collect();
        hints.extend(self.state_hints(range));
        hints
    }

    fn state_hints(&self, range: Range) -> Vec<InlayHint> {
        let Some(preview) = self.preview() else { return Vec::new() };
        let requested = self.snapshot.encoding.byte_range(&self.snapshot.text, range);
        let hint = |unit: NamedUnit| {
            let status = preview.units.iter().find(|status| status.name == unit.name)?;
            let line = self.snapshot.text.line_range(self.snapshot.text.line_at(unit.span.range().start));
            (requested.start <= line.end && line.start <= requested.end).then(|| InlayHint {
                position: self.snapshot.encoding.position(&self.snapshot.text, line.end),
                label: InlayHintLabel::String(status_label(status)),
                kind: None,
                text_edits: None,
                tooltip: Some(InlayHintTooltip::String(status_details(status))),
                padding_left: Some(true),
                padding_right: None,
                data: None,
            })
        };
        self.units().into_iter().filter_map(hint).collect()
    }

    /// The values of placeholders in the running preview.
    #[must_use]
    pub fn running_values(&self) -> BTreeMap<String, String> {
        let Some(preview) = self.preview().filter(|preview| preview.state != PreviewState::Down) else {
            return BTreeMap::new();
        };
        let preview_ref = &preview.preview;
        let fields = [
            ("app", &preview_ref.app),
            ("branch", &preview_ref.branch),
            ("id", &preview_ref.id),
            ("name", &preview_ref.title),
        ];
        let mut values: BTreeMap<String, String> =
            fields.into_iter().map(|(field, value)| (format!("preview.{field}"), value.clone())).collect();
        values.extend(preview.url.clone().map(|url| ("preview.url".to_owned(), url)));
        let urls =
            preview.units.iter().filter_map(|unit| Some((format!("services.{}.url", unit.name), unit.url.clone()?)));
        values.extend(urls);
        values
    }

    /// The value of the running preview for the placeholder or the ports under the cursor.
    fn running_value_at(&self, position: Position) -> Option<String> {
        let preview = self.preview().filter(|preview| preview.state != PreviewState::Down)?;
        let offset = self.snapshot.encoding.offset(&self.snapshot.text, position);
        let node_path = tree::path_at(self.snapshot.root()?, offset);
        if let Some(node) = node_path.node().filter(|node| !node_path.is_on_key && node.as_scalar().is_some()) {
            let reference = reference_at(self.snapshot.text.as_str(), node.span, offset);
            let value = reference.and_then(|reference| {
                let scope = reference.scope.name();
                self.running_values().remove(&format!("{scope}.{}", reference.path.join(".")))
            });
            if let Some(value) = value {
                return Some(format!("**now**: `{value}`"));
            }
        }
        let segments = node_path.segments();
        let [section, name, key, rest @ ..] = segments.as_slice() else { return None };
        if !["services", "jobs", "resources"].contains(&section.as_str()) || !["port", "ports"].contains(&key.as_str())
        {
            return None;
        }
        let unit = preview.units.iter().find(|unit| unit.name == *name)?;
        let port = rest.first().filter(|_| key == "ports");
        let ports = unit.ports.iter().filter(|(name, _)| port.is_none_or(|port| port == *name));
        let lines: Vec<String> = ports.map(|(name, number)| format!("port {name}: 127.0.0.1:{number}")).collect();
        (!lines.is_empty()).then(|| format!("**now**: {}", lines.join("  \n")))
    }

    /// The unit whose name is at this position, with the id of its preview.
    #[must_use]
    pub fn unit_at(&self, position: Position) -> Option<log_tail::UnitKey> {
        let offset = self.snapshot.encoding.offset(&self.snapshot.text, position);
        let unit = self.units().into_iter().find(|unit| tree::touches(unit.span, offset))?;
        Some((self.preview()?.preview.id.clone(), unit.name))
    }

    /// The live part of the hover on a unit's name: state, age, problems and the last log lines.
    #[must_use]
    pub fn hover(&self, position: Position, now: i64) -> Option<String> {
        let Some(key) = self.unit_at(position) else { return self.running_value_at(position) };
        let preview = self.preview()?;
        let status = preview.units.iter().find(|status| status.name == key.1)?;
        let mut text = format!("**now**: {}", status_details(status).replace('\n', "  \n"));
        text.extend(age_text(status, now).map(|age| format!("  \n{age}")));
        let problems = self.live.problems(preview).into_iter();
        let problems: Vec<_> = problems.filter(|problem| problem.unit.as_ref() == Some(&key.1)).collect();
        for problem in &problems {
            text.push_str(&format!("\n\n{}", problem.title));
            text.push_str(&output_excerpt(problem, "\n\n```text\n", "\n```"));
        }
        // The output of a problem already contains the relevant log lines.
        let has_output = problems.iter().any(|problem| !problem.output.is_empty());
        let tail = self.live.log_tails.get(&key).filter(|tail| !has_output && !tail.lines.is_empty());
        text.extend(tail.map(|tail| {
            // A program that prints a code fence must not end the block and inject Markdown.
            let log_text = tail.lines.join("\n").replace("```", "'''");
            format!("\n\nlast lines, {} ago:\n\n```text\n{log_text}\n```", log_tail::format_age(now - tail.read_at))
        }));
        Some(text)
    }
}

pub(crate) fn preview_state_label(state: PreviewState) -> &'static str {
    match state {
        PreviewState::Starting => "starting",
        PreviewState::Ready => "ready",
        PreviewState::Degraded => "degraded",
        PreviewState::Failed => "failed",
        PreviewState::Stopping => "stopping",
        PreviewState::Down => "down",
    }
}

pub(crate) fn unit_state_label(state: UnitState) -> &'static str {
    match state {
        UnitState::Waiting => "waiting",
        UnitState::Preparing => "preparing",
        UnitState::Starting => "starting",
        UnitState::Ready => "ready",
        UnitState::Unhealthy => "unhealthy",
        UnitState::Restarting => "restarting",
        UnitState::Done => "done",
        UnitState::Failed => "failed",
        UnitState::Stopping => "stopping",
        UnitState::Stopped => "stopped",
    }
}

/// `ready http://web.main.shop.localhost:8642`. It contains no age, because clients do not refresh hints every second.
fn status_label(status: &UnitStatus) -> String {
    let mut text = unit_state_label(status.state).to_owned();
    match (&status.url, status.ports.first_key_value(), status.state) {
        (Some(url), _, UnitState::Ready) => text.push_str(&format!(" {url}")),
        (None, Some((_, port)), UnitState::Ready) => text.push_str(&format!(" 127.0.0.1:{port}")),
        _ => {}
    }
    match (&status.reason, status.state) {
        (Some(reason), state) if state != UnitState::Ready => text.push_str(&format!(": {reason}")),
        _ => {}
    }
    if status.restarts > 0 {
        text.push_str(&format!(", {} restarts", status.restarts));
    }
    text
}

fn status_details(status: &UnitStatus) -> String {
    let mut lines = vec![format!("{} {} as {}", status.role, unit_state_label(status.state), status.runtime)];
    lines.extend(status.reason.clone());
    lines.extend(status.url.clone());
    lines.extend(status.ports.iter().map(|(name, port)| format!("port {name}: 127.0.0.1:{port}")));
    lines.extend(status.exit_code.map(|code| format!("exit code {code}")));
    lines.extend((status.restarts > 0).then(|| format!("{} restarts", status.restarts)));
    lines.extend(status.module.clone());
    lines.join("\n")
}

/// The age of a running unit, and the time from its last start until it was ready.
fn age_text(status: &UnitStatus, now: i64) -> Option<String> {
    let started = status.started_at?;
    let is_running =
        !matches!(status.state, UnitState::Stopped | UnitState::Done | UnitState::Failed | UnitState::Waiting);
    let age = is_running.then(|| format!("started {} ago", log_tail::format_age(now - started)));
    // An older `ready_at` belongs to the previous start.
    let ready_at = status.ready_at.filter(|ready_at| *ready_at >= started);
    let start_time = ready_at.map(|ready_at| format!("ready after {} ms", ready_at - started));
    let parts: Vec<String> = age.into_iter().chain(start_time).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn output_excerpt(problem: &Problem, before: &str, after: &str) -> String {
    if problem.output.is_empty() {
        return String::new();
    }
    let from = problem.output.len().saturating_sub(OUTPUT_LINES_MAX);
    format!("{before}{}{after}", problem.output[from..].join("\n"))
}

/// The diagnostics about failures, missing logins and approvals, and drift, each on the line that it concerns.
#[must_use]
pub fn live_diagnostics(
    analysis: &Analysis,
    live: &LiveState,
    file: FileId,
    environment: &str,
    encoding: crate::convert::Encoding,
) -> Vec<Diagnostic> {
    let manifest = &analysis.loaded().manifest;
    let Some(text) = analysis.text(file) else { return Vec::new() };
    let mut found = identities::identity_diagnostics(manifest, live, file, text, encoding);
    let Some(preview) = live.preview(&analysis.manifest_path, environment) else { return found };
    let pending: Vec<_> = live.waiting_approvals(&analysis.manifest_path).collect();
    found.extend(identities::approval_diagnostics(manifest, preview, &pending, file, text, encoding));
    let mut add =
        |span: Option<Span>, severity: DiagnosticSeverity, code: &str, message: String, data: serde_json::Value| {
            let span = span.unwrap_or_default();
            if span.file == file {
                found.push(Diagnostic {
                    range: encoding.range(text, span.range()),
                    severity: Some(severity),
                    code: Some(NumberOrString::String(code.to_owned())),
                    source: Some(format!("{SOURCE} (live)")),
                    message,
                    data: Some(data),
                    ..Diagnostic::default()
                });
            }
        };
    for problem in live.problems(preview) {
        let span = problem.unit.as_deref().and_then(|unit| problem_span(manifest, unit, &problem.code));
        let mut message = match &problem.unit {
            Some(unit) if !problem.title.contains(&format!("`{unit}`")) => format!("`{unit}`: {}", problem.title),
            _ => problem.title.clone(),
        };
        message.push_str(&output_excerpt(problem, "\n", ""));
        message.extend(problem.hint.iter().map(|hint| format!("\n{hint}")));
        add(span, DiagnosticSeverity::ERROR, &problem.code, message, json!({ "unit": problem.unit, "live": true }));
    }
    let units_with_problem: Vec<&str> =
        live.problems(preview).iter().filter_map(|problem| problem.unit.as_deref()).collect();
    for unit in &preview.units {
        let severity = match unit.state {
            UnitState::Failed => DiagnosticSeverity::ERROR,
            UnitState::Unhealthy | UnitState::Restarting => DiagnosticSeverity::WARNING,
            _ => continue,
        };
        if units_with_problem.contains(&unit.name.as_str()) {
            continue;
        }
        let reason = unit.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let mut message = format!("`{}` is {}{reason}", unit.name, unit_state_label(unit.state));
        let tail = live.log_tails.get(&(preview.preview.id.clone(), unit.name.clone()));
        message.extend(tail.iter().flat_map(|tail| &tail.lines).map(|line| format!("\n{line}")));
        add(
            name_span(manifest, &unit.name),
            severity,
            "not_ready",
            message,
            json!({ "unit": unit.name, "live": true }),
        );
    }
    for step in live.drift(&analysis.manifest_path, environment) {
        let span = step.unit.as_deref().and_then(|unit| drift_span(manifest, unit, &step.because));
        let message = format!("drift: {} ({})\n`pdev up` applies the manifest.", step.because, step.text);
        add(span, DiagnosticSeverity::INFORMATION, DRIFT, message, json!({ "unit": step.unit, "live": true }));
    }
    found
}

fn name_span(manifest: &Manifest, unit: &str) -> Option<Span> {
    let service = manifest.services.get(unit).map(|entry| entry.key);
    let job = || manifest.jobs.get(unit).map(|entry| entry.key);
    service.or_else(job).or_else(|| manifest.resources.get(unit).map(|entry| entry.key))
}

fn unit_body<'a>(manifest: &'a Manifest, unit: &str) -> Option<&'a Service> {
    let service = manifest.services.get(unit).map(|entry| &entry.value);
    service.or_else(|| manifest.jobs.get(unit).map(|entry| &entry.value.body))
}

/// The value that causes a problem with this code, or the unit's name if the code does not say.
fn problem_span(manifest: &Manifest, unit: &str, code: &str) -> Option<Span> {
    let body = unit_body(manifest, unit);
    let span = match code {
        "image_not_found" | "pull_denied" => body.and_then(|body| body.image.as_ref()).map(|image| image.span),
        "build_failed" | "build_input_missing" => body.and_then(|body| body.build.as_ref()).map(|build| build.span),
        "port_taken" => body
            .and_then(|body| {
                body.ports.values().find(|entry| entry.value.host.is_some()).or(body.ports.values().next())
            })
            .map(|entry| entry.span),
        _ => None,
    };
    span.filter(|span| !span.range().is_empty()).or_else(|| name_span(manifest, unit))
}

/// The line that differs, from a cause such as `env.LOG_LEVEL changed`, or the unit's name.
fn drift_span(manifest: &Manifest, unit: &str, because: &str) -> Option<Span> {
    let field = because.split([' ', ',']).next().unwrap_or_default();
    let body = unit_body(manifest, unit);
    let span = match field.split_once('.') {
        Some(("env", name)) => body.and_then(|body| body.env.get(name)).map(|entry| entry.key),
        None if field == "image" => body.and_then(|body| body.image.as_ref()).map(|image| image.span),
        _ => None,
    };
    span.or_else(|| name_span(manifest, unit))
}
