//! Checks a `module.yaml` and reports exact positions, for editors and module authors.
//!
//! A manifest's use of a module is checked where the manifest uses it.

use manifest::syntax::Node;
use manifest::{Diagnostic, Files, Severity, Span};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::inputs::Input;
use crate::inputs::module_error;
use crate::module::{Module, ParsedModule, Source};
use crate::render::{RenderContext, RenderProblem, RenderTarget};

/// Reads `module.yaml` in `folder` and renders the module once per runtime with its defaults. Spans refer to that file.
#[must_use]
pub fn check_module(folder: &str, files: &dyn Files) -> Vec<Diagnostic> {
    let parsed = match ParsedModule::read(folder, files, Source::Folder(folder.to_owned())) {
        Ok(parsed) => parsed,
        Err(diagnostics) => return diagnostics,
    };
    let mut diagnostics = parsed.diagnostics;
    // Rendering a module with errors would only report consequences of them.
    let is_valid = diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error);
    if let Some(module) = parsed.module.filter(|_| is_valid) {
        diagnostics.extend(render_problems(&module).into_iter().map(|problem| to_diagnostic(&parsed.root, &problem)));
    }
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    diagnostics.dedup();
    diagnostics
}

fn to_diagnostic(root: &Node, problem: &RenderProblem) -> Diagnostic {
    module_error(
        field_span(root, &problem.field),
        format!("`{}` cannot be rendered: {}", problem.field, problem.message),
    )
}

/// The span of a field's value, or of its nearest existing parent.
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
        is_pinned: true,
        constraint: module.versions.last().cloned().unwrap_or_else(|| module.version.major.to_string()),
        inputs,
    };
    let targets = RenderTarget::ALL.into_iter().filter(|target| module.can_render(*target));
    let mut problems: Vec<RenderProblem> = targets.filter_map(|target| module.render(target, &context).err()).collect();
    problems.extend(module.outputs_at(&context, "127.0.0.1", &context.ports).err());
    problems.dedup();
    problems
}

/// A sample value for each input without a default. `None` if a pattern restricts such an input, because no sample can
/// be derived from it.
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
