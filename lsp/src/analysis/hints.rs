//! Inlay hints: the resolved value after placeholders, and the version of a module after `uses`.
//!
//! A hint shows only values that are valid in every copy or in the running one, never an example port or branch. It
//! shows no values that may be secret: no variable of the user's environment, no sensitive output, no key with a name
//! like a secret.

use std::collections::BTreeMap;
use std::ops::Range;

use manifest::Span;
use manifest::model::Manifest;
use manifest::syntax::{Kind, Node};
use manifest::template::{self, Part, Reference, Scope, Template};
use plan::LoadedManifest;
use plan::application::RuntimeKind;
use plan::module::{Address, Module, RenderInputs};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// The end of the value, where the hint is shown.
    pub offset: usize,
    pub text: String,
    pub tooltip: String,
}

/// The input of the hints.
pub struct HintContext<'a> {
    pub root: &'a Node,
    pub text: &'a str,
    pub loaded: &'a LoadedManifest,
    /// The analysed environment. Overlays of other environments get no hints.
    pub environment: &'a str,
    /// The environment variables. A hint depends only on whether a variable is set, never on its value.
    pub variables: &'a BTreeMap<String, String>,
    /// Values of the running preview, by `services.NAME.url` and `preview.FIELD`.
    pub running_values: &'a BTreeMap<String, String>,
}

const CHARACTERS_MAX: usize = 60;
/// The limit of nested variables, which may form a cycle.
const DEPTH_MAX: u8 = 8;

/// The hints of all values with placeholders in the range.
#[must_use]
pub fn value_hints(context: &HintContext<'_>, range: &Range<usize>) -> Vec<Hint> {
    let mut hints = Vec::new();
    for pair in context.root.as_map().unwrap_or_default() {
        if pair.key.value != "environments" {
            collect_value_hints(context, &pair.value, range, &pair.key.value, &mut hints);
            continue;
        }
        for environment in pair.value.as_map().unwrap_or_default() {
            if environment.key.value == context.environment {
                collect_value_hints(context, &environment.value, range, "", &mut hints);
            }
        }
    }
    hints
}

fn collect_value_hints(context: &HintContext<'_>, node: &Node, range: &Range<usize>, key: &str, hints: &mut Vec<Hint>) {
    match &node.kind {
        Kind::Scalar(_) => {
            let span = node.span.range();
            if span.start <= range.end && range.start <= span.end && !is_secret_name(key) {
                hints.extend(value_hint(context, node));
            }
        }
        Kind::List(items) => items.iter().for_each(|item| collect_value_hints(context, item, range, key, hints)),
        Kind::Map(pairs) => {
            pairs.iter().for_each(|pair| collect_value_hints(context, &pair.value, range, &pair.key.value, hints));
        }
    }
}

fn value_hint(context: &HintContext<'_>, node: &Node) -> Option<Hint> {
    let scalar = node.as_scalar().filter(|scalar| scalar.text.contains("${") && !scalar.text.contains('\n'))?;
    let (template, problems) = template::parse(&scalar.text, Span::default(), false);
    if !problems.is_empty() || template.references().next().is_none() {
        return None;
    }
    let resolved = resolve_template(context, &template, DEPTH_MAX)?;
    let offset = node.span.range().end;
    // Skip values of several lines, and aliases, whose text is in another place.
    let source_text = context.text.get(node.span.range()).filter(|text| !text.contains('\n'))?;
    let is_useful = source_text.contains("${") && resolved != scalar.text;
    is_useful.then(|| Hint { offset, text: format!("= {}", truncate(&resolved)), tooltip: resolved })
}

fn resolve_template(context: &HintContext<'_>, template: &Template, depth: u8) -> Option<String> {
    let mut resolved = String::new();
    for part in &template.parts {
        match part {
            Part::Text(text) => resolved.push_str(text),
            Part::Reference(reference) => resolved.push_str(&resolve_reference(context, reference, depth)?),
        }
    }
    Some(resolved)
}

fn resolve_reference(context: &HintContext<'_>, reference: &Reference, depth: u8) -> Option<String> {
    let manifest = &context.loaded.manifest;
    let parts: Vec<&str> = reference.path.iter().map(String::as_str).collect();
    if parts.iter().any(|part| is_secret_name(part)) {
        return None;
    }
    let value = match (reference.scope, parts.as_slice()) {
        (Scope::Vars, [name]) => {
            let variable = manifest.vars.get(*name)?;
            return resolve_template(context, &variable.value, depth.checked_sub(1)?);
        }
        (Scope::App, [field]) => app_field(manifest, field),
        (Scope::Resources, [name, field]) => stable_output(context, name, field),
        (Scope::Services, [name, "url"]) => context.running_values.get(&format!("services.{name}.url")).cloned(),
        (Scope::Preview, ["environment"]) => Some(context.environment.to_owned()),
        (Scope::Preview, [field]) => context.running_values.get(&format!("preview.{field}")).cloned(),
        // The default is valid only if the variable is not set. The value of a set variable may be secret.
        (Scope::Env, [name]) if context.variables.get(*name).is_none_or(String::is_empty) => {
            resolve_template(context, reference.default.as_ref()?, depth.checked_sub(1)?)
        }
        _ => None,
    };
    value.filter(|text| !text.is_empty())
}

fn app_field(manifest: &Manifest, field: &str) -> Option<String> {
    match field {
        "name" => Some(manifest.app.name.value.clone()),
        "owner" => manifest.app.owner.as_ref().map(|owner| owner.value.clone()),
        _ => None,
    }
}

/// An output that does not depend on the host, the ports or the password of the resource. To find out, it is rendered
/// twice with different values for them.
fn stable_output(context: &HintContext<'_>, name: &str, field: &str) -> Option<String> {
    let module = context.loaded.modules.get(name)?;
    let runtime = *RuntimeKind::ALL.iter().find(|runtime| module.renderer.can_render(**runtime))?;
    let first = resource_outputs(context, module, name, runtime, "1").remove(field)?;
    let second = resource_outputs(context, module, name, runtime, "2").remove(field)?;
    let (value, is_sensitive) = first.clone();
    (first == second && !is_sensitive).then_some(value)
}

fn resource_outputs(
    context: &HintContext<'_>,
    module: &Module,
    resource: &str,
    runtime: RuntimeKind,
    suffix: &str,
) -> BTreeMap<String, (String, bool)> {
    let names: Vec<String> = module.renderer.ports(runtime).into_keys().collect();
    let ports: BTreeMap<String, String> = names.into_iter().map(|port| (port, format!("4000{suffix}"))).collect();
    let inputs = RenderInputs {
        runtime,
        resource: resource.to_owned(),
        app: context.loaded.manifest.app.name.value.clone(),
        ports: ports.clone(),
        password: suffix.to_owned(),
    };
    module.renderer.outputs(&inputs, &Address { host: format!("host-{suffix}"), ports })
}

/// The version of each module after `uses`, and the pinned version if it differs.
#[must_use]
pub fn version_hints(context: &HintContext<'_>, range: &Range<usize>, lock: &catalog::Lock) -> Vec<Hint> {
    let Some(resources) = context.root.get("resources") else { return Vec::new() };
    let hint = |pair: &manifest::syntax::Pair| {
        let module = context.loaded.modules.get(&pair.key.value)?;
        let uses = pair.value.get("uses").map_or(&pair.value, |uses| &uses.value);
        let scalar = uses.as_scalar()?;
        let span = uses.span.range();
        if span.is_empty() || span.start > range.end || range.start > span.end {
            return None;
        }
        let locked = lock.modules.get(scalar.text.trim()).map(|entry| entry.version.as_str());
        let (text, tooltip) = match locked {
            Some(locked) if locked == module.version => {
                (module.version.clone(), format!("pinned in pdev.lock, {}", module.source))
            }
            Some(locked) => (
                format!("{}, locked {locked}", module.version),
                format!("pdev.lock pins {locked}; this is {}, {}", module.version, module.source),
            ),
            None => (module.version.clone(), format!("not in pdev.lock yet, {}", module.source)),
        };
        Some(Hint { offset: span.end, text, tooltip })
    };
    resources.value.as_map().unwrap_or_default().iter().filter_map(hint).collect()
}

/// Whether the name suggests a secret value.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "api_key", "apikey", "private", "credential"]
        .iter()
        .any(|word| name.contains(word))
}

fn truncate(text: &str) -> String {
    if text.chars().count() <= CHARACTERS_MAX {
        text.to_owned()
    } else {
        text.chars().take(CHARACTERS_MAX - 1).chain(['…']).collect()
    }
}
