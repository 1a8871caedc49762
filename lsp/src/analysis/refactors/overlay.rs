//! Moves keys of a unit into the overlay of one environment.

use std::ops::Range;

use manifest::syntax::{Node, Pair};

use super::edit::SourceEditor;
use super::{RefactorContext, new_action};
use crate::analysis::actions::Action;
use crate::analysis::tree::touches;

/// Keys that all environments need.
const KEYS_NOT_MOVED: [&str; 8] = ["image", "build", "command", "process", "port", "ports", "service", "needs"];
/// The environment to create if the manifest has none.
const DEFAULT_ENVIRONMENT: &str = "preview";
const ENVIRONMENTS_MAX: usize = 4;

/// Offers to move the selected keys of the unit, one action per environment.
pub fn move_to_environment(
    context: &RefactorContext<'_>,
    section: &str,
    unit: &str,
    body: &Node,
    range: &Range<usize>,
) -> Vec<Action> {
    let editor = context.source_editor();
    let is_selected = |pair: &&Pair| {
        let key = pair.key.span.range();
        touches(pair.key.span, range.start) || (range.start <= key.start && key.end <= range.end)
    };
    let selected: Vec<&Pair> = body.as_map().unwrap_or_default().iter().filter(is_selected).collect();
    let cannot_move =
        |pair: &&Pair| KEYS_NOT_MOVED.contains(&pair.key.value.as_str()) || pair.key.value.starts_with(['+', '<']);
    // At least one key must stay, because an empty unit is invalid.
    if selected.is_empty()
        || selected.iter().any(cannot_move)
        || selected.len() >= body.as_map().map_or(0, <[Pair]>::len)
    {
        return Vec::new();
    }
    let texts: Option<Vec<String>> = selected.iter().map(|pair| editor.pair_text(body, pair)).collect();
    let Some(texts) = texts else { return Vec::new() };
    let names: Vec<&str> = selected.iter().map(|pair| pair.key.value.as_str()).collect();
    let declared = context.root.get("environments").and_then(|pair| pair.value.as_map()).unwrap_or_default();
    let mut environments: Vec<&str> = declared.iter().map(|pair| pair.key.value.as_str()).collect();
    environments.retain(|name| !name.is_empty());
    if environments.is_empty() {
        environments.push(DEFAULT_ENVIRONMENT);
    }
    let move_into = |environment: &&str| {
        let mut edits = removal_edits(&editor, body, &selected)?;
        edits.push(insertion_edit(context, environment, section, unit, &texts, &names)?);
        let title = format!("Move `{}` of `{unit}` into the environment `{environment}`", names.join("`, `"));
        Some(Action { is_extraction: true, ..new_action(title, edits) })
    };
    environments.iter().take(ENVIRONMENTS_MAX).filter_map(move_into).collect()
}

fn removal_edits(
    editor: &SourceEditor<'_>,
    body: &Node,
    selected: &[&Pair],
) -> Option<Vec<manifest::diagnostic::Edit>> {
    // In a flow map two neighbours share a comma, so their edits would overlap.
    if editor.is_flow(body) && selected.len() > 1 {
        return None;
    }
    selected.iter().map(|pair| editor.remove_pair(body, &pair.key.value)).collect()
}

/// Inserts the pairs at the deepest existing level of `environments.NAME.SECTION.UNIT`, with the missing levels around
/// them.
fn insertion_edit(
    context: &RefactorContext<'_>,
    environment: &str,
    section: &str,
    unit: &str,
    texts: &[String],
    names: &[&str],
) -> Option<manifest::diagnostic::Edit> {
    let editor = context.source_editor();
    let path = [environment, section, unit];
    let Some(environments) = context.root.get("environments") else {
        let entry = nest_under(&path, texts, false)?;
        return editor.add_to_section(context.root, "environments", &entry);
    };
    let mut node = &environments.value;
    let mut depth = 0;
    while let Some(pair) = path.get(depth).and_then(|name| node.get(name)) {
        node = &pair.value;
        depth += 1;
    }
    // Do not repeat or overwrite a key that the environment already sets.
    if names.iter().any(|name| depth == path.len() && node.get(name).is_some()) {
        return None;
    }
    editor.add_entry(node, &nest_under(&path[depth..], texts, editor.is_flow(node))?)
}

/// Nests the pairs below these names, as a block or flow map.
fn nest_under(names: &[&str], texts: &[String], is_flow: bool) -> Option<String> {
    if is_flow {
        // Comments and line breaks are not possible on one line.
        if texts.iter().any(|pair| pair.contains('\n') || pair.contains(" #")) {
            return None;
        }
        let nested = names.iter().rev().fold(texts.join(", "), |inner, name| format!("{name}: {{ {inner} }}"));
        return Some(nested);
    }
    let nest = |inner: String, name: &&str| format!("{name}:\n  {}", inner.replace('\n', "\n  "));
    Some(names.iter().rev().fold(texts.join("\n"), nest))
}
