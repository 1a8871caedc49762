//! Refactorings of a unit: optional rewrites that keep the meaning of the rest of the manifest.

mod edit;
mod modules;
mod overlay;

use std::ops::Range;

use manifest::diagnostic::Edit;
use manifest::model::Manifest;
use manifest::syntax::{Comment, Node};
use manifest::{FileId, Files, Span};

use super::actions::{Action, SecretLiteral};
use super::references::unquoted_span;
use super::tree::{self, Step};
use crate::text::Text;
use edit::SourceEditor;

pub struct RefactorContext<'a> {
    pub root: &'a Node,
    pub text: &'a Text,
    pub comments: &'a [Comment],
    pub manifest: &'a Manifest,
    pub file: FileId,
    pub files: &'a dyn Files,
    /// The manifest includes other files, which may refer to the changed unit.
    pub has_other_files: bool,
}

impl<'a> RefactorContext<'a> {
    fn source_editor(&self) -> SourceEditor<'a> {
        SourceEditor { text: self.text, file: self.file }
    }

    /// The source text of the comments in this range of the file.
    fn comments_in(&self, range: &Range<usize>) -> Vec<&'a str> {
        let own = self.comments.iter().filter(|comment| comment.span.file == self.file);
        let inside =
            own.filter(|comment| range.start <= comment.span.range().start && comment.span.range().end <= range.end);
        inside.filter_map(|comment| self.text.as_str().get(comment.span.range())).map(str::trim_end).collect()
    }
}

/// The defaults of a service, as text for the manifest.
const SERVICE_DEFAULTS: [(&str, &str); 4] = [
    ("size", "{ memory: 2Gi, pids: 2048 }"),
    ("restart", "on-failure"),
    ("stop", "{ signal: SIGTERM, grace: 10s }"),
    ("pull", "missing"),
];

/// The refactorings of the unit under the cursor, or of its keys in the selection.
///
/// The caller checks each action before it offers it (`edit_check`).
#[must_use]
pub fn refactorings_at(context: &RefactorContext<'_>, range: &Range<usize>) -> Vec<Action> {
    let node_path = tree::path_at(context.root, range.start);
    let keys: Vec<&str> = node_path.steps.iter().map_while(step_key).collect();
    let mut actions = match keys[..] {
        ["resources", name, ..] => {
            let resource = tree::find(context.root, &["resources", name]);
            resource.and_then(|resource| modules::upgrade_module(context, resource)).into_iter().collect()
        }
        [section @ ("services" | "jobs"), unit, ref rest @ ..] => {
            let body = tree::find(context.root, &[section, unit]).filter(|body| body.as_map().is_some());
            let Some(body) = body else { return Vec::new() };
            // Refactorings of the unit are offered only on its name. On each key they would hide more specific actions.
            let unit_actions = if rest.is_empty() && node_path.is_on_key {
                unit_refactorings(context, section, unit, body)
            } else {
                Vec::new()
            };
            let is_on_keys = !rest.is_empty() && (node_path.is_on_key || !range.is_empty());
            let mut actions = unit_actions;
            if let ["env", name] = rest {
                actions.extend(replace_with_secret(context, unit, body, name));
            }
            // Environments are declared in the manifest, and an included file may not know their names.
            if is_on_keys && context.file == FileId(0) {
                actions.extend(overlay::move_to_environment(context, section, unit, body, range));
            }
            actions
        }
        _ => Vec::new(),
    };
    for action in &mut actions {
        action.unit = keys.get(1).copied().unwrap_or_default().to_owned();
    }
    actions
}

fn unit_refactorings(context: &RefactorContext<'_>, section: &str, unit: &str, body: &Node) -> Vec<Action> {
    let mut actions: Vec<Action> = add_health_check(context, body).into_iter().collect();
    if section == "services" {
        actions.extend(add_route(context, unit, body));
        actions.extend(modules::image_to_module(context, unit, body));
        actions.extend(modules::extract_module(context, unit, body));
    }
    let missing = SERVICE_DEFAULTS.iter().filter(|(key, _)| body.get(key).is_none());
    actions.extend(missing.filter_map(|(key, value)| {
        let edit = context.source_editor().add_entry(body, &format!("{key}: {value}"))?;
        Some(new_action(format!("Write the default of `{key}` explicitly"), vec![edit]))
    }));
    actions
}

fn step_key<'a>(step: &Step<'a>) -> Option<&'a str> {
    match step {
        Step::Key(pair) => Some(pair.key.value.as_str()),
        Step::Item(..) => None,
    }
}

fn new_action(title: String, edits: Vec<Edit>) -> Action {
    Action { title, edits, ..Action::default() }
}

fn add_health_check(context: &RefactorContext<'_>, body: &Node) -> Option<Action> {
    if body.get("health").is_some() || (body.get("port").is_none() && body.get("ports").is_none()) {
        return None;
    }
    let edit = context.source_editor().add_entry(body, "health: /healthz")?;
    Some(new_action("Add a health check".to_owned(), vec![edit]))
}

/// A path on the host of the application, in addition to the service's own host.
fn add_route(context: &RefactorContext<'_>, unit: &str, body: &Node) -> Option<Action> {
    let has_port = body.get("port").is_some() || body.get("ports").is_some();
    let is_taken = context
        .manifest
        .services
        .values()
        .any(|entry| entry.value.routes.iter().any(|route| route.value.trim_matches('/') == unit));
    if !has_port || is_taken || body.get("routes").is_some() {
        return None;
    }
    let edit = context.source_editor().add_entry(body, &format!("routes: [/{unit}]"))?;
    Some(new_action(format!("Add a route: `/{unit}` of the application's host"), vec![edit]))
}

/// Replaces `STRIPE_KEY: abc` by `STRIPE_KEY_FILE: ${secrets.stripe-key.path}` and declares the secret.
fn replace_with_secret(context: &RefactorContext<'_>, unit: &str, body: &Node, name: &str) -> Option<Action> {
    let pair = body.get("env")?.value.get(name)?;
    let value = pair.value.as_scalar().filter(|scalar| !scalar.is_null() && !scalar.text.contains("${"))?;
    if value.text.contains('\n') || context.file != FileId(0) {
        return None;
    }
    let secret = name.trim_end_matches("_FILE").to_ascii_lowercase().replace('_', "-");
    let mut edits = vec![Edit { span: pair.value.span, text: format!("\"${{secrets.{secret}.path}}\"") }];
    if !name.ends_with("_FILE") {
        let span = unquoted_span(context.text.as_str(), pair.key.span);
        edits.push(Edit { span: Span { start: span.end, ..span }, text: "_FILE".to_owned() });
    }
    if !context.manifest.secrets.contains_key(&secret) {
        edits.push(declare_secret(context, &secret, name)?);
    }
    let title = format!("Read `{name}` from the secret `{secret}`, delivered as a file (`pdev secret set {secret}`)");
    let literal = SecretLiteral {
        unit: unit.to_owned(),
        variable: name.to_owned(),
        value: value.text.clone(),
        secret: secret.clone(),
    };
    let secret_literal = (!value.text.is_empty()).then_some(literal);
    Some(Action { secret_literal, unit: unit.to_owned(), ..new_action(title, edits) })
}

/// The action that replaces the literal of one variable of a service or job by a secret.
#[must_use]
pub fn literal_to_secret(context: &RefactorContext<'_>, unit: &str, variable: &str) -> Option<Action> {
    let sections = ["services", "jobs"].into_iter();
    let mut bodies = sections.filter_map(|section| tree::find(context.root, &[section, unit]));
    bodies.find_map(|body| replace_with_secret(context, unit, body, variable))
}

fn declare_secret(context: &RefactorContext<'_>, secret: &str, name: &str) -> Option<Edit> {
    context.source_editor().add_to_section(context.root, "secrets", &format!("{secret}: {{ description: {name} }}"))
}
