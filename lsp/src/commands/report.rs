//! `pdev.report`: what somebody who helps has to know, as one text: versions, the agent, each manifest with the codes found
//! in it, the preview with its problems. No values of a manifest, no environment, no logs.

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
        AgentState::Unknown => "nobody looked yet".to_owned(),
        AgentState::Absent => "none runs".to_owned(),
        AgentState::Present => "runs".to_owned(),
        AgentState::Unusable(words) => format!("cannot be spoken to: {words}"),
    });
    append_line(&mut text, &format!("agent: {agent}"));
    append_line(&mut text, &format!("the editor can: {}", capability_names(state.client_capabilities())));
    let environment = state.environment();
    append_line(&mut text, &format!("environment: {environment}"));
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for found in state.all_diagnostics(root) {
        if let Some(NumberOrString::String(code)) = found.code {
            *codes.entry(code).or_default() += 1;
        }
    }
    let codes: Vec<String> = codes.into_iter().map(|(code, count)| format!("{code} x{count}")).collect();
    append_line(&mut text, &format!("\nmanifest: {}", root.display()));
    append_line(
        &mut text,
        &format!("found: {}", if codes.is_empty() { "nothing".to_owned() } else { codes.join(", ") }),
    );
    append_preview(&mut text, state, root, &environment);
    text
}

/// The names of what holds, as the code calls them: for whoever reads the code beside the report.
fn capability_names(capabilities: ClientCapabilities) -> String {
    let all = format!("{capabilities:?}");
    let (_, fields) = all.split_once("{ ").unwrap_or_default();
    let held = fields.trim_end_matches(" }").split(", ").filter_map(|field| field.strip_suffix(": true"));
    held.map(|name| name.replace('_', " ")).collect::<Vec<_>>().join(", ")
}

fn append_preview(text: &mut String, state: &ServerState, root: &Path, environment: &str) {
    state.with_live(|live| {
        let Some(preview) = live.preview(root, environment) else { return append_line(text, "preview: none is known") };
        append_line(text, &format!("preview: {} is {}", preview.preview.title, preview_state_label(preview.state)));
        for unit in &preview.units {
            let reason = unit.reason.as_deref().unwrap_or("nothing to say");
            let state = unit_state_label(unit.state);
            let words = format!("  {} ({}): {state}, {} restarts, {reason}", unit.name, unit.runtime, unit.restarts);
            append_line(text, &words);
        }
        for problem in live.problems(preview) {
            append_line(text, &format!("  problem {}: {}", problem.code, problem.title));
        }
        for step in live.drift(root) {
            append_line(text, &format!("  differs: {} ({})", step.text, step.because));
        }
    });
}

fn append_line(text: &mut String, words: &str) {
    text.push_str(words);
    text.push('\n');
}
