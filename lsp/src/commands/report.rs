//! `pdev.report`: a text for support: versions, the agent, the manifest with its diagnostic codes, the preview with its
//! problems. It contains no values of the manifest, no environment variables and no logs.

use std::collections::BTreeMap;
use std::path::Path;

use tower_lsp::ls_types::NumberOrString;

use crate::client_capabilities::ClientCapabilities;
use crate::handlers::live::{preview_state_label, unit_state_label};
use crate::live::AgentState;
use crate::server_state::ServerState;

#[must_use]
pub fn collect(state: &ServerState, root: &Path) -> String {
    let mut text = format!(
        "pdev {} language server on {} {}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    let agent = state.with_live(|live| match &live.agent {
        AgentState::Unknown => "not checked yet".to_owned(),
        AgentState::Absent => "not running".to_owned(),
        AgentState::Present => "running".to_owned(),
        AgentState::Unusable(reason) => format!("unusable: {reason}"),
    });
    append_line(&mut text, &format!("agent: {agent}"));
    append_line(&mut text, &format!("client capabilities: {}", capability_names(state.client_capabilities())));
    let environment = state.environment();
    append_line(&mut text, &format!("environment: {environment}"));
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for diagnostic in state.all_diagnostics(root) {
        if let Some(NumberOrString::String(code)) = diagnostic.code {
            *codes.entry(code).or_default() += 1;
        }
    }
    let codes: Vec<String> = codes.into_iter().map(|(code, count)| format!("{code} x{count}")).collect();
    append_line(&mut text, &format!("\nmanifest: {}", root.display()));
    append_line(
        &mut text,
        &format!("diagnostics: {}", if codes.is_empty() { "none".to_owned() } else { codes.join(", ") }),
    );
    append_preview(&mut text, state, root, &environment);
    text
}

/// Lists the capabilities by their field names in the code, because the readers of a report are developers of pdev.
fn capability_names(capabilities: ClientCapabilities) -> String {
    let debug_text = format!("{capabilities:?}");
    let (_, fields) = debug_text.split_once("{ ").unwrap_or_default();
    let supported = fields.trim_end_matches(" }").split(", ").filter_map(|field| field.strip_suffix(": true"));
    supported.map(|name| name.replace('_', " ")).collect::<Vec<_>>().join(", ")
}

fn append_preview(text: &mut String, state: &ServerState, root: &Path, environment: &str) {
    state.with_live(|live| {
        let Some(preview) = live.preview(root, environment) else { return append_line(text, "preview: none") };
        append_line(text, &format!("preview: {} is {}", preview.preview.title, preview_state_label(preview.state)));
        for unit in &preview.units {
            let reason = unit.reason.as_deref().unwrap_or("no reason given");
            let state = unit_state_label(unit.state);
            let line = format!("  {} ({}): {state}, {} restarts, {reason}", unit.name, unit.runtime, unit.restarts);
            append_line(text, &line);
        }
        for problem in live.problems(preview) {
            append_line(text, &format!("  problem {}: {}", problem.code, problem.title));
        }
        for step in live.drift(root, environment) {
            append_line(text, &format!("  drift: {} ({})", step.text, step.because));
        }
    });
}

fn append_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
