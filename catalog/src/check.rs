//! Everything that is wrong with one module's own file, with its exact places: for editors and for who writes modules.
//!
//! What a manifest makes of a module is checked where it is used.

use manifest::syntax::Node;
use manifest::{Diagnostic, Files, Severity, Span};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::inputs::Input;
use crate::module::{Module, Reading, Source, bad};
use crate::render::{Context, RenderProblem, Target};

/// Reads `module.yaml` in `folder` and renders it once with its defaults. Spans are those of that file.
#[must_use]
pub fn check(folder: &str, files: &dyn Files) -> Vec<Diagnostic> {
    let read = match Reading::of(folder, files, Source::Folder(folder.to_owned())) {
        Ok(read) => read,
        Err(found) => return found,
    };
    let mut found = read.found;
    let usable = found.iter().all(|one| one.severity != Severity::Error);
    if let Some(module) = read.module.filter(|_| usable) {
        found.extend(rendered(&module).into_iter().map(|problem| told(&read.root, &problem)));
    }
    found.sort_by_key(|one| (one.span.start, one.span.end));
    found.dedup();
    found
}

fn told(root: &Node, problem: &RenderProblem) -> Diagnostic {
    bad(place(root, &problem.field), format!("`{}` cannot be rendered: {}", problem.field, problem.words))
}

/// The value at a field, or what is nearest above it.
fn place(root: &Node, field: &str) -> Span {
    let mut node = root;
    for part in field.split('.') {
        match node.get(part) {
            Some(pair) => node = &pair.value,
            None => break,
        }
    }
    node.span
}

fn rendered(module: &Module) -> Vec<RenderProblem> {
    let Some(inputs) = samples(module) else { return Vec::new() };
    let ports = module.ports.iter().map(|(name, port)| (name.clone(), port.to_string())).collect();
    let context = Context {
        resource: "example".to_owned(),
        app: "example".to_owned(),
        ports,
        password: "example".to_owned(),
        constraint: module.versions.last().cloned().unwrap_or_else(|| module.version.major.to_string()),
        inputs,
    };
    let targets = [Target::Docker, Target::Process].into_iter().filter(|target| module.renders(*target));
    let mut problems: Vec<RenderProblem> = targets.filter_map(|target| module.render(target, &context).err()).collect();
    problems.extend(module.outputs_at(&context, "127.0.0.1", &context.ports).err());
    problems.dedup();
    problems
}

/// Something for each input without a default; none where a pattern says what it may be.
fn samples(module: &Module) -> Option<JsonMap<String, Json>> {
    let missing = module.inputs.iter().filter(|(_, input)| input.default.is_null());
    missing.map(|(name, input)| Some((name.clone(), sample(input)?))).collect()
}

fn sample(input: &Input) -> Option<Json> {
    Some(match (input.kind.as_str(), input.choices.first()) {
        (_, Some(choice)) => json!(choice),
        ("string", _) if input.pattern.is_some() => return None,
        ("string", _) => json!("example"),
        ("boolean", _) => json!(true),
        ("array", _) => json!([]),
        ("object", _) => json!({}),
        _ => json!(input.minimum.or(input.maximum).unwrap_or(1)),
    })
}
