//! What is said of the place under the cursor: what it means, what holds and why, where that was written.

use std::ops::Range;

use manifest::syntax::Node;
use manifest::template::{self, Reference, Scope};
use manifest::{Files, Span};
use plan::explain::{ExplainResult, Explanation, describe_origin, explain};
use plan::{LoadedManifest, Origin, ResolvedApplication};

use super::language;
use super::names;
use super::tree::{self, NodePath};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hover {
    /// Markdown.
    pub text: String,
    pub range: Range<usize>,
}

pub struct HoverContext<'a> {
    /// The file's own tree.
    pub root: &'a Node,
    pub text: &'a str,
    pub loaded: &'a LoadedManifest,
    /// One unit as it would be, by its place (`services.api`).
    pub resolve_unit: &'a dyn Fn(&str) -> Option<ResolvedApplication>,
    pub files: &'a dyn Files,
}

/// Fields of one unit that are listed at its name.
const FIELDS_MAX: usize = 12;

#[must_use]
pub fn hover(context: &HoverContext<'_>, offset: usize) -> Option<Hover> {
    let node_path = tree::path_at(context.root, offset);
    if let Some(reference) = placeholder_at(context, &node_path, offset) {
        return Some(Hover { text: describe_reference(context, &reference), range: reference.span.range() });
    }
    let pair = node_path.pair()?;
    let path = node_path.segments();
    let keys = key_path(&node_path);
    let range = if node_path.is_on_key { pair.key.span.range() } else { node_path.node()?.span.range() };
    let text =
        describe_value(context, &node_path, &keys).or_else(|| describe_key(context, &node_path, &keys, &path))?;
    Some(Hover { text, range })
}

fn key_path<'a>(node_path: &NodePath<'a>) -> Vec<Option<&'a str>> {
    let key = |step: &tree::Step<'a>| match step {
        tree::Step::Key(pair) => Some(pair.key.value.as_str()),
        tree::Step::Item(..) => None,
    };
    node_path.steps.iter().map(key).collect()
}

/// The `${...}` under the cursor.
#[must_use]
pub fn placeholder_at(context: &HoverContext<'_>, node_path: &NodePath<'_>, offset: usize) -> Option<Reference> {
    let node = node_path.node().filter(|_| !node_path.is_on_key)?;
    node.as_scalar()?;
    reference_at(context.text, node.span, offset)
}

/// Read from the text as it stands: escapes and folded lines move nothing.
#[must_use]
pub fn reference_at(text: &str, span: Span, offset: usize) -> Option<Reference> {
    let raw = text.get(span.range())?;
    let (template, _) = template::parse(raw, span, false);
    template.references().find(|reference| tree::touches(reference.span, offset)).cloned()
}

fn describe_reference(context: &HoverContext<'_>, reference: &Reference) -> String {
    let manifest = &context.loaded.manifest;
    let mut parts = vec![scope_name(reference.scope)];
    parts.extend(reference.path.iter().map(String::as_str));
    let mut text = format!("`${{{}}}`", parts.join("."));
    if let Some((last, before)) = parts.split_last() {
        let known = names::placeholder_names(manifest, context.files, before);
        if let Some(name) = known.iter().find(|name| name.name == *last) {
            text.push_str(&format!(" – {}", name.description));
        }
    }
    match (reference.scope, reference.path.first()) {
        (Scope::Resources, Some(name)) => {
            if let Some(entry) = manifest.resources.get(name) {
                text.push_str(&format!("\n\nResource `{name}`: `{}`", entry.value.uses.value));
            }
        }
        (Scope::Services, Some(name)) if manifest.services.contains_key(name) => {
            text.push_str(&format!("\n\nService `{name}`"));
        }
        (Scope::Env, Some(name)) => text.push_str(&format!("\n\nThe variable `{name}` of your own environment.")),
        _ => {}
    }
    if let Some(default) = &reference.default {
        text.push_str(&format!("\n\nElse: `{default}`"));
    }
    text
}

fn scope_name(scope: Scope) -> &'static str {
    Scope::ALL.iter().find(|(_, known)| *known == scope).map_or("", |(name, _)| name)
}

/// Values that name something: a module, a rule, a unit.
fn describe_value(context: &HoverContext<'_>, node_path: &NodePath<'_>, keys: &[Option<&str>]) -> Option<String> {
    let manifest = &context.loaded.manifest;
    let value = node_path.node()?.as_scalar().map(|scalar| scalar.text.as_str());
    match (language::without_environment(keys), value) {
        ([Some("resources"), Some(_), Some("uses")] | [Some("resources"), Some(_)], Some(uses))
            if !node_path.is_on_key =>
        {
            describe_module(uses, context.files)
        }
        ([Some("resources"), Some(name), Some("with"), Some(input), ..], _) => {
            let module = names::resource_module(manifest, name, context.files)?;
            let input = module.inputs.get(*input)?;
            Some(super::completion::input_docs(&module.name, input))
        }
        ([Some("guardrails"), Some("waivers"), None, Some("rule")], Some(code)) => {
            let rule = plan::guardrails::find_rule(code)?;
            Some(format!("**{code}**: {}\n\n{}", rule.summary, rule.fix))
        }
        ([.., Some("needs"), Some(unit)], _) => describe_unit(context, unit),
        ([.., Some("needs"), None], Some(unit)) => describe_unit(context, unit),
        ([Some("jobs"), Some(_), Some("service")] | [Some("app"), Some("default")], Some(unit))
            if !node_path.is_on_key =>
        {
            describe_unit(context, unit)
        }
        _ => None,
    }
}

fn describe_module(uses: &str, files: &dyn Files) -> Option<String> {
    let module = names::find_module(uses, files)?;
    let mut text = format!("**{}** {} – {}", module.name, module.version, module.summary);
    let outputs: Vec<String> = module.outputs.keys().map(|name| format!("`{name}`")).collect();
    text.push_str(&format!("\n\nOutputs: {}", outputs.join(", ")));
    let inputs: Vec<String> = module.inputs.keys().map(|name| format!("`{name}`")).collect();
    text.push_str(&format!("\n\nInputs: {}", inputs.join(", ")));
    if !module.owner.team.is_empty() {
        text.push_str(&format!("\n\nOwner: {} ({})", module.owner.team, module.owner.contact));
    }
    text.push_str("\n\n---\n\n");
    text.push_str(&module.docs);
    Some(text)
}

/// A unit's name: what it is, and what holds for it.
fn describe_unit(context: &HoverContext<'_>, unit: &str) -> Option<String> {
    let manifest = &context.loaded.manifest;
    let section = [
        ("services", manifest.services.contains_key(unit)),
        ("jobs", manifest.jobs.contains_key(unit)),
        ("resources", manifest.resources.contains_key(unit)),
    ];
    let (section, _) = section.into_iter().find(|(_, there)| *there)?;
    let known = names::units(manifest, None);
    let words = known.iter().find(|name| name.name == unit).map(|name| name.description.clone()).unwrap_or_default();
    let mut text = format!("**{unit}** – {words}");
    text.push_str(&describe_effective_values(context, &format!("{section}.{unit}"), FIELDS_MAX));
    Some(text)
}

fn describe_key(
    context: &HoverContext<'_>,
    node_path: &NodePath<'_>,
    keys: &[Option<&str>],
    path: &[String],
) -> Option<String> {
    let own = language::without_environment(keys);
    if let [Some("services" | "jobs" | "resources"), Some(unit)] = own
        && node_path.is_on_key
    {
        return describe_unit(context, unit);
    }
    let allowed = language::allowed_at(keys);
    let (_, key) = allowed.key?;
    // A name of the user's below a map is not the map.
    let named = matches!(keys.last(), Some(Some(last)) if last.trim_start_matches('+') == key.name);
    if !named && node_path.is_on_key {
        return describe_variable(context, own, &path[keys.len() - own.len()..].join("."));
    }
    let mut text = format!("**{}** – {}", key.name, language::key_docs(key));
    let skipped = keys.len() - own.len();
    let dotted = path[skipped..].join(".");
    text.push_str(&describe_effective_values(context, &dotted, 4));
    Some(text)
}

/// An entry of `env`: what it will be, and who says so.
fn describe_variable(context: &HoverContext<'_>, own: &[Option<&str>], path: &str) -> Option<String> {
    let [Some("services" | "jobs"), Some(unit), Some("env"), Some(name)] = own else { return None };
    let held = describe_effective_values(context, path, 1);
    (!held.is_empty()).then(|| format!("**{name}** – a variable of `{unit}`{held}"))
}

/// What holds, and the chain of who said so, the last one in force first.
fn describe_effective_values(context: &HoverContext<'_>, path: &str, fields_max: usize) -> String {
    // A branch of the root holds everything; nobody reads that.
    if !path.contains('.') {
        return String::new();
    }
    let unit = path.match_indices('.').nth(1).map_or(path, |(end, _)| &path[..end]);
    let Some(resolved) = (context.resolve_unit)(unit) else { return String::new() };
    let mut all = match explain(&resolved, path) {
        ExplainResult::Field(one) => vec![one],
        ExplainResult::Subtree(all) => all,
        ExplainResult::Unknown { .. } => return String::new(),
    };
    // What somebody wrote comes before what pdev chose.
    all.sort_by_key(is_default);
    let mut text = String::from("\n\n---\n");
    for one in all.iter().take(fields_max) {
        text.push_str(&value_line(one, path, context));
    }
    if all.len() > fields_max {
        text.push_str(&format!("\n- and {} more: `pdev explain {path}`", all.len() - fields_max));
    }
    // Who stands on the very line knows where it is written.
    if let [one] = &all[..]
        && is_default(one)
    {
        text.push_str(&format!("\n\n{}", one.how_to_change));
    }
    text
}

fn is_default(one: &Explanation) -> bool {
    matches!(one.origins.last(), Some(Origin::Default { .. }))
}

fn value_line(one: &Explanation, path: &str, context: &HoverContext<'_>) -> String {
    let name = one.path.strip_prefix(path).unwrap_or(&one.path).trim_start_matches('.');
    let name = if name.is_empty() { String::new() } else { format!("`{name}` ") };
    let hidden = is_secret_path(&one.path) && !is_default(one);
    let value = if hidden { "(not shown)".to_owned() } else { short_value(&one.value) };
    let origins: Vec<String> =
        one.origins.iter().rev().map(|origin| describe_origin(origin, &context.loaded.sources)).collect();
    format!("\n- {name}= `{value}` – {}", origins.join(" < "))
}

/// Passwords of resources end in environments and addresses; a hover may be on a shared screen.
#[must_use]
pub fn is_secret_path(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    ["password", "secret", "token", ".env", "url"].iter().any(|word| path.contains(word))
}

fn short_value(value: &serde_json::Value) -> String {
    const CHARACTERS_MAX: usize = 60;
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = text.replace(['`', '\n'], " ");
    if text.chars().count() <= CHARACTERS_MAX {
        text
    } else {
        text.chars().take(CHARACTERS_MAX - 1).chain(['…']).collect()
    }
}
