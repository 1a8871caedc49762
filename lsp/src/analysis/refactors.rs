//! Rewritings of a unit that nobody has to make: what could be said is written down where the cursor is.

use manifest::diagnostic::Edit;
use manifest::model::Manifest;
use manifest::syntax::{Kind, Node};
use manifest::{FileId, Span};

use super::actions::Action;
use super::references::unquoted;
use super::tree::{self, Step};
use crate::text::Text;

pub struct Scene<'a> {
    pub root: &'a Node,
    pub text: &'a Text,
    pub manifest: &'a Manifest,
    pub file: FileId,
}

/// What holds where a service says nothing, as it would be written.
const DEFAULTS: [(&str, &str); 4] = [
    ("size", "{ memory: 2Gi, pids: 2048 }"),
    ("restart", "on-failure"),
    ("stop", "{ signal: SIGTERM, grace: 10s }"),
    ("pull", "missing"),
];

/// All that can be done to the unit under the cursor.
#[must_use]
pub fn at(scene: &Scene<'_>, offset: usize) -> Vec<Action> {
    let way = tree::way(scene.root, offset);
    let keys: Vec<&str> = way.steps.iter().map_while(key).collect();
    let keys = match keys[..] {
        ["environments", _, ..] => return Vec::new(),
        _ => keys,
    };
    let [section @ ("services" | "jobs"), unit, rest @ ..] = &keys[..] else { return Vec::new() };
    let Some(body) = tree::find(scene.root, &[section, unit]).filter(|body| body.as_map().is_some()) else {
        return Vec::new();
    };
    let mut actions = Vec::new();
    if let ["env", name] = rest {
        actions.extend(to_secret(scene, body, name));
    }
    // Offers about the whole unit stand at its name; inside it they would be in the way of every key.
    if rest.is_empty() && way.on_key {
        actions.extend(health(scene, body));
        let missing = DEFAULTS.iter().filter(|(key, _)| body.get(key).is_none());
        actions.extend(missing.filter_map(|(key, value)| {
            let edit = add_key(scene, body, &format!("{key}: {value}"))?;
            Some(action(format!("Write the default of `{key}` here"), vec![edit]))
        }));
    }
    actions
}

fn key<'a>(step: &Step<'a>) -> Option<&'a str> {
    match step {
        Step::Key(pair) => Some(pair.key.value.as_str()),
        Step::Item(..) => None,
    }
}

fn action(title: String, edits: Vec<Edit>) -> Action {
    Action { title, edits, preferred: false }
}

fn health(scene: &Scene<'_>, body: &Node) -> Option<Action> {
    if body.get("health").is_some() || (body.get("port").is_none() && body.get("ports").is_none()) {
        return None;
    }
    let edit = add_key(scene, body, "health: /healthz")?;
    Some(action("Add a health check".to_owned(), vec![edit]))
}

/// At the end of a map, in brackets or on a line of its own, indented like its first key.
fn add_key(scene: &Scene<'_>, map: &Node, entry: &str) -> Option<Edit> {
    let text = scene.text.as_str();
    let pairs = map.as_map()?;
    let (first, last) = (pairs.first()?, pairs.last()?);
    let end = last.value.span.range().end.max(last.key.span.range().end);
    if text.get(map.span.range())?.starts_with('{') {
        let span = Span::new(scene.file, end, end);
        return Some(Edit { span, text: format!(", {entry}") });
    }
    let start = first.key.span.range().start;
    let column = start - scene.text.line_start(scene.text.line_at(start));
    let line = scene.text.line_range(scene.text.line_at(end));
    let span = Span::new(scene.file, line.end, line.end);
    Some(Edit { span, text: format!("\n{}{entry}", " ".repeat(column)) })
}

/// `STRIPE_KEY: abc` becomes `STRIPE_KEY_FILE: ${secrets.stripe-key.path}`, and the secret is declared.
fn to_secret(scene: &Scene<'_>, body: &Node, name: &str) -> Option<Action> {
    let pair = body.get("env")?.value.get(name)?;
    let value = pair.value.as_scalar().filter(|scalar| !scalar.is_null() && !scalar.text.contains("${"))?;
    if value.text.contains('\n') || scene.file != FileId(0) {
        return None;
    }
    let secret = name.trim_end_matches("_FILE").to_ascii_lowercase().replace('_', "-");
    let mut edits = vec![Edit { span: pair.value.span, text: format!("\"${{secrets.{secret}.path}}\"") }];
    if !name.ends_with("_FILE") {
        let span = unquoted(scene.text.as_str(), pair.key.span);
        edits.push(Edit { span: Span { start: span.end, ..span }, text: "_FILE".to_owned() });
    }
    if !scene.manifest.secrets.contains_key(&secret) {
        edits.push(declare(scene, &secret, name)?);
    }
    Some(action(
        format!("Read `{name}` from the secret `{secret}`, delivered as a file (`pdev secret set {secret}`)"),
        edits,
    ))
}

fn declare(scene: &Scene<'_>, secret: &str, name: &str) -> Option<Edit> {
    let entry = format!("{secret}: {{ description: {name} }}");
    match scene.root.get("secrets") {
        Some(pair) if matches!(&pair.value.kind, Kind::Map(pairs) if !pairs.is_empty()) => {
            add_key(scene, &pair.value, &entry)
        }
        Some(_) => None,
        None => {
            let end = scene.text.len();
            let newline = if scene.text.as_str().ends_with('\n') { "" } else { "\n" };
            let text = format!("{newline}secrets:\n  {entry}\n");
            Some(Edit { span: Span::new(scene.file, end, end), text })
        }
    }
}
