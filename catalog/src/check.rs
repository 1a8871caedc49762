//! Everything that is wrong with one module's own file, with its exact places: for editors and for who writes modules.
//!
//! What a manifest makes of a module is checked where it is used.

use manifest::syntax::Node;
use manifest::{Diagnostic, Files, Severity, Span};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::inputs::Input;
use crate::module::{Module, ParsedModule, Source, module_error};
use crate::render::{RenderContext, RenderProblem, RenderTarget};

/// Reads `module.yaml` in `folder` and renders it once with its defaults. Spans are those of that file.
#[must_use]
pub fn check_module(folder: &str, files: &dyn Files) -> Vec<Diagnostic> {
    let read = match ParsedModule::read(folder, files, Source::Folder(folder.to_owned())) {
        Ok(read) => read,
        Err(found) => return found,
    };
    let mut found = read.diagnostics;
    let usable = found.iter().all(|one| one.severity != Severity::Error);
    if let Some(module) = read.module.filter(|_| usable) {
        found.extend(render_problems(&module).into_iter().map(|problem| to_diagnostic(&read.root, &problem)));
    }
    found.sort_by_key(|one| (one.span.start, one.span.end));
    found.dedup();
    found
}

fn to_diagnostic(root: &Node, problem: &RenderProblem) -> Diagnostic {
    module_error(
        field_span(root, &problem.field),
        format!("`{}` cannot be rendered: {}", problem.field, problem.message),
    )
}

/// The value at a field, or what is nearest above it.
fn field_span(root: &Node, field: &str) -> Span {
    let mut node = root;
    for part in field.split('.') {
        match node.get(part) {
            Some(pair) => node = &pair.value,
            None => break,
        }
    }
    node.span
}

fn render_problems(module: &Module) -> Vec<RenderProblem> {
    let Some(inputs) = sample_inputs(module) else { return Vec::new() };
    let ports = module.ports.iter().map(|(name, port)| (name.clone(), port.to_string())).collect();
    let context = RenderContext {
        resource: "example".to_owned(),
        app: "example".to_owned(),
        ports,
        password: "example".to_owned(),
        constraint: module.versions.last().cloned().unwrap_or_else(|| module.version.major.to_string()),
        inputs,
    };
    let targets = [RenderTarget::Docker, RenderTarget::Process].into_iter().filter(|target| module.can_render(*target));
    let mut problems: Vec<RenderProblem> = targets.filter_map(|target| module.render(target, &context).err()).collect();
    problems.extend(module.outputs_at(&context, "127.0.0.1", &context.ports).err());
    problems.dedup();
    problems
}

/// Something for each input without a default; none where a pattern says what it may be.
fn sample_inputs(module: &Module) -> Option<JsonMap<String, Json>> {
    let missing = module.inputs.iter().filter(|(_, input)| input.default.is_null());
    missing.map(|(name, input)| Some((name.clone(), sample_value(input)?))).collect()
}

fn sample_value(input: &Input) -> Option<Json> {
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
