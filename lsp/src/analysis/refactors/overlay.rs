//! What holds everywhere becomes what holds in one environment.

use std::ops::Range;

use manifest::syntax::{Node, Pair};

use super::edit::SourceEditor;
use super::{RefactorContext, new_action};
use crate::analysis::actions::Action;
use crate::analysis::tree::touches;

/// A service is none without them: they stay where everybody has them.
const KEYS_NOT_MOVED: [&str; 8] = ["image", "build", "command", "process", "port", "ports", "service", "needs"];
/// Where there is no environment to choose from.
const DEFAULT_ENVIRONMENT: &str = "preview";
const ENVIRONMENTS_MAX: usize = 4;

/// The keys of the unit that the selection touches, for each environment there is.
pub fn move_to_environment(
    context: &RefactorContext<'_>,
    section: &str,
    unit: &str,
    body: &Node,
    range: &Range<usize>,
) -> Vec<Action> {
    let page = context.source_editor();
    let meets = |pair: &&Pair| {
        let own = pair.key.span.range();
        touches(pair.key.span, range.start) || (range.start <= own.start && own.end <= range.end)
    };
    let chosen: Vec<&Pair> = body.as_map().unwrap_or_default().iter().filter(meets).collect();
    let stays =
        |pair: &&Pair| KEYS_NOT_MOVED.contains(&pair.key.value.as_str()) || pair.key.value.starts_with(['+', '<']);
    // Only the first key can be removed where a map has one; the map would be nothing.
    if chosen.is_empty() || chosen.iter().any(stays) || chosen.len() >= body.as_map().map_or(0, <[Pair]>::len) {
        return Vec::new();
    }
    let written: Option<Vec<String>> = chosen.iter().map(|pair| page.pair_text(pair)).collect();
    let Some(written) = written else { return Vec::new() };
    let names: Vec<&str> = chosen.iter().map(|pair| pair.key.value.as_str()).collect();
    let declared = context.root.get("environments").and_then(|pair| pair.value.as_map()).unwrap_or_default();
    let mut environments: Vec<&str> = declared.iter().map(|pair| pair.key.value.as_str()).collect();
    environments.retain(|name| !name.is_empty());
    if environments.is_empty() {
        environments.push(DEFAULT_ENVIRONMENT);
    }
    let one = |environment: &&str| {
        let mut edits = removal_edits(&page, body, &chosen)?;
        edits.push(insertion_edit(context, environment, section, unit, &written, &names)?);
        let title = format!("Move `{}` of `{unit}` into the environment `{environment}`", names.join("`, `"));
        Some(Action { is_extraction: true, ..new_action(title, edits) })
    };
    environments.iter().take(ENVIRONMENTS_MAX).filter_map(one).collect()
}

fn removal_edits(page: &SourceEditor<'_>, body: &Node, chosen: &[&Pair]) -> Option<Vec<manifest::diagnostic::Edit>> {
    // In brackets the commas of neighbours are shared: one at a time.
    if page.is_flow(body) && chosen.len() > 1 {
        return None;
    }
    chosen.iter().map(|pair| page.remove_pair(body, &pair.key.value)).collect()
}

/// As deep as the environment already goes, and from there what is missing.
fn insertion_edit(
    context: &RefactorContext<'_>,
    environment: &str,
    section: &str,
    unit: &str,
    written: &[String],
    names: &[&str],
) -> Option<manifest::diagnostic::Edit> {
    let page = context.source_editor();
    let path = [environment, section, unit];
    let Some(environments) = context.root.get("environments") else {
        let entry = nest_under(&path, written, false)?;
        return page.add_to_section(context.root, "environments", &entry);
    };
    let mut node = &environments.value;
    let mut depth = 0;
    while let Some(pair) = path.get(depth).and_then(|name| node.get(name)) {
        node = &pair.value;
        depth += 1;
    }
    // What the environment says already is not said twice.
    if names.iter().any(|name| depth == path.len() && node.get(name).is_some()) {
        return None;
    }
    page.add_entry(node, &nest_under(&path[depth..], written, page.is_flow(node))?)
}

/// The pairs below these names, on lines or in brackets.
fn nest_under(names: &[&str], written: &[String], flow: bool) -> Option<String> {
    if flow {
        if written.iter().any(|pair| pair.contains('\n') || pair.contains(" #")) {
            return None;
        }
        let whole = names.iter().rev().fold(written.join(", "), |inner, name| format!("{name}: {{ {inner} }}"));
        return Some(whole);
    }
    let deeper = |inner: String, name: &&str| format!("{name}:\n  {}", inner.replace('\n', "\n  "));
    Some(names.iter().rev().fold(written.join("\n"), deeper))
}
