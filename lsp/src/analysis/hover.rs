//! Hover: the meaning of the key or value under the cursor, its effective value and the origin of that value.

use std::ops::Range;

use manifest::syntax::Node;
use manifest::template::{self, Reference, Scope};
use manifest::{Files, Span};
use plan::explain::{ExplainResult, Explanation, describe_origin, explain};
use plan::origin::CHOSEN_AT_UP;
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
    /// The tree of the file.
    pub root: &'a Node,
    pub text: &'a str,
    pub loaded: &'a LoadedManifest,
    /// Resolves one unit by its path, such as `services.api`.
    pub resolve_unit: &'a dyn Fn(&str) -> Option<ResolvedApplication>,
    pub files: &'a dyn Files,
}

/// The limit of fields in the hover on the name of a unit.
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

/// Parses the source text of the scalar, not its value, because escapes and folded lines would shift the offsets.
#[must_use]
pub fn reference_at(text: &str, span: Span, offset: usize) -> Option<Reference> {
    let raw = text.get(span.range())?;
    let (template, _) = template::parse(raw, span, false);
    let mut found = template.outer_references().find(|reference| tree::touches(reference.span, offset))?;
    // In a default, the innermost placeholder counts.
    let is_inside = |reference: &&Reference| tree::touches(reference.span, offset);
    while let Some(inner) = found.default.as_ref().and_then(|default| default.outer_references().find(is_inside)) {
        found = inner;
    }
    Some(found.clone())
}

fn describe_reference(context: &HoverContext<'_>, reference: &Reference) -> String {
    let manifest = &context.loaded.manifest;
    let mut parts = vec![reference.scope.name()];
    parts.extend(reference.path.iter().map(String::as_str));
    let mut text = format!("`${{{}}}`", parts.join("."));
    if let Some((last, before)) = parts.split_last() {
        let names = names::placeholder_names(manifest, context.files, before);
        if let Some(name) = names.iter().find(|name| name.name == *last) {
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
        (Scope::Env, Some(name)) => text.push_str(&format!("\n\nThe variable `{name}` of your environment.")),
        _ => {}
    }
    if let Some(default) = &reference.default {
        text.push_str(&format!("\n\nDefault: `{default}`"));
    }
    text
}

/// Describes values that are names: of a module, a rule or a unit.
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

/// Describes a unit and its effective values.
fn describe_unit(context: &HoverContext<'_>, unit: &str) -> Option<String> {
    let manifest = &context.loaded.manifest;
    let section = [
        ("services", manifest.services.contains_key(unit)),
        ("jobs", manifest.jobs.contains_key(unit)),
        ("resources", manifest.resources.contains_key(unit)),
    ];
    let (section, _) = section.into_iter().find(|(_, is_declared)| *is_declared)?;
    let units = names::units(manifest, None);
    let description =
        units.iter().find(|name| name.name == unit).map(|name| name.description.clone()).unwrap_or_default();
    let mut text = format!("**{unit}** – {description}");
    text.push_str(&describe_effective_values(context, &format!("{section}.{unit}"), FIELDS_MAX));
    Some(text)
}

fn describe_key(
    context: &HoverContext<'_>,
    node_path: &NodePath<'_>,
    keys: &[Option<&str>],
    path: &[String],
) -> Option<String> {
    let base_keys = language::without_environment(keys);
    if let [Some("services" | "jobs" | "resources"), Some(unit)] = base_keys
        && node_path.is_on_key
    {
        return describe_unit(context, unit);
    }
    let allowed = language::allowed_at(keys);
    let (_, key) = allowed.key?;
    // A name that the user chose, such as a variable in `env`, has the specification of the map above it.
    let is_spec_key = matches!(keys.last(), Some(Some(last)) if last.trim_start_matches('+') == key.name);
    if !is_spec_key && node_path.is_on_key {
        return describe_variable(context, base_keys, &path[keys.len() - base_keys.len()..].join("."));
    }
    let mut text = format!("**{}** – {}", key.name, language::key_docs(key));
    let skipped = keys.len() - base_keys.len();
    let dotted = path[skipped..].join(".");
    text.push_str(&describe_effective_values(context, &dotted, 4));
    Some(text)
}

/// Describes an entry of `env` with its effective value and origin.
fn describe_variable(context: &HoverContext<'_>, keys: &[Option<&str>], path: &str) -> Option<String> {
    let [Some("services" | "jobs"), Some(unit), Some("env"), Some(name)] = keys else { return None };
    let values = describe_effective_values(context, path, 1);
    (!values.is_empty()).then(|| format!("**{name}** – a variable of `{unit}`{values}"))
}

/// Lists the effective values below a path, each with its chain of origins. The origin that decides comes first.
fn describe_effective_values(context: &HoverContext<'_>, path: &str, fields_max: usize) -> String {
    // A whole section has too many values for a hover.
    if !path.contains('.') {
        return String::new();
    }
    let unit = path.match_indices('.').nth(1).map_or(path, |(end, _)| &path[..end]);
    let Some(resolved) = (context.resolve_unit)(unit) else { return String::new() };
    let mut all = match explain(&resolved, path) {
        ExplainResult::Field(field) => vec![field],
        ExplainResult::Subtree(fields) => fields,
        ExplainResult::Unknown { .. } => return String::new(),
    };
    // Values that the user has set come before defaults, and those before unknown ones.
    all.sort_by_key(|field| (field.value == CHOSEN_AT_UP, is_default(field)));
    let mut text = String::from("\n\n---\n");
    for field in all.iter().take(fields_max) {
        text.push_str(&value_line(field, path, context));
    }
    if all.len() > fields_max {
        text.push_str(&format!("\n- and {} more: `pdev explain {path}`", all.len() - fields_max));
    }
    // Only a default needs this: a value that is set is in the manifest already.
    if let [field] = &all[..]
        && is_default(field)
    {
        text.push_str(&format!("\n\n{}", field.how_to_change));
    }
    text
}

fn is_default(field: &Explanation) -> bool {
    matches!(field.origins.last(), Some(Origin::Default { .. }))
}

fn value_line(field: &Explanation, path: &str, context: &HoverContext<'_>) -> String {
    let name = field.path.strip_prefix(path).unwrap_or(&field.path).trim_start_matches('.');
    let name = if name.is_empty() { String::new() } else { format!("`{name}` ") };
    if field.value == CHOSEN_AT_UP {
        return format!("\n- {name}{CHOSEN_AT_UP}");
    }
    let is_hidden = is_secret_path(&field.path) && !is_default(field);
    let value = if is_hidden { "(not shown)".to_owned() } else { short_value(&field.value) };
    let origins: Vec<String> =
        field.origins.iter().rev().map(|origin| describe_origin(origin, &context.loaded.sources)).collect();
    format!("\n- {name}= `{value}` – {}", origins.join(" < "))
}

/// Whether the value at this path may contain a secret. Passwords of resources are part of variables and URLs, and a
/// hover may appear on a shared screen.
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
