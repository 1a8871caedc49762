//! What a value stands for, to be shown behind it: the text of its placeholders, the module behind a `uses`.
//!
//! Only what is true of every copy, or of the one that runs: a stand-in for a port or a branch is not shown. And nothing
//! that may be secret: no variable of the user's environment, no output that is marked, no key that is named like one.

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
    /// Where it is shown: the end of the value.
    pub offset: usize,
    pub text: String,
    pub tooltip: String,
}

/// What a hint may be made of.
pub struct HintContext<'a> {
    pub root: &'a Node,
    pub text: &'a str,
    pub loaded: &'a LoadedManifest,
    /// The environment that is looked at: what is written for another one is not resolved.
    pub environment: &'a str,
    /// What `${env.X}` may read. Names alone are looked at.
    pub variables: &'a BTreeMap<String, String>,
    /// Of the running copy, by `services.NAME.url` and `preview.FIELD`.
    pub running_values: &'a BTreeMap<String, String>,
}

const CHARACTERS_MAX: usize = 60;
/// Variables may stand for variables, but not for ever.
const DEPTH_MAX: u8 = 8;

/// The text of each placeholder in the range.
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
            let own = node.span.range();
            if own.start <= range.end && range.start <= own.end && !is_secret_name(key) {
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
    // One that goes over several lines, or an alias whose text stands elsewhere.
    let written = context.text.get(node.span.range()).filter(|written| !written.contains('\n'))?;
    let fits = written.contains("${") && resolved != scalar.text;
    fits.then(|| Hint { offset, text: format!("= {}", truncate(&resolved)), tooltip: resolved })
}

fn resolve_template(context: &HintContext<'_>, template: &Template, depth: u8) -> Option<String> {
    let mut whole = String::new();
    for part in &template.parts {
        match part {
            Part::Text(text) => whole.push_str(text),
            Part::Reference(reference) => whole.push_str(&resolve_reference(context, reference, depth)?),
        }
    }
    Some(whole)
}

fn resolve_reference(context: &HintContext<'_>, reference: &Reference, depth: u8) -> Option<String> {
    let manifest = &context.loaded.manifest;
    let parts: Vec<&str> = reference.path.iter().map(String::as_str).collect();
    if parts.iter().any(|part| is_secret_name(part)) {
        return None;
    }
    let known = match (reference.scope, parts.as_slice()) {
        (Scope::Vars, [name]) => {
            let variable = manifest.vars.get(*name)?;
            return resolve_template(context, &variable.value, depth.checked_sub(1)?);
        }
        (Scope::App, [field]) => app_field(manifest, field),
        (Scope::Resources, [name, field]) => stable_output(context, name, field),
        (Scope::Services, [name, "url"]) => context.running_values.get(&format!("services.{name}.url")).cloned(),
        (Scope::Preview, ["environment"]) => Some(context.environment.to_owned()),
        (Scope::Preview, [field]) => context.running_values.get(&format!("preview.{field}")).cloned(),
        // Set, it may hold anything; not set, the default is what holds.
        (Scope::Env, [name]) if context.variables.get(*name).is_none_or(String::is_empty) => reference.default.clone(),
        _ => None,
    };
    known.filter(|text| !text.is_empty())
}

fn app_field(manifest: &Manifest, field: &str) -> Option<String> {
    match field {
        "name" => Some(manifest.app.name.value.clone()),
        "owner" => manifest.app.owner.as_ref().map(|owner| owner.value.clone()),
        _ => None,
    }
}

/// An output that is the same wherever the resource listens and whatever its password is.
fn stable_output(context: &HintContext<'_>, name: &str, field: &str) -> Option<String> {
    let module = context.loaded.modules.get(name)?;
    let runtime =
        if module.renderer.can_render(RuntimeKind::Docker) { RuntimeKind::Docker } else { RuntimeKind::Process };
    let one = resource_outputs(context, module, name, runtime, "1").remove(field)?;
    let other = resource_outputs(context, module, name, runtime, "2").remove(field)?;
    (one == other && !one.1).then_some(one.0)
}

fn resource_outputs(
    context: &HintContext<'_>,
    module: &Module,
    resource: &str,
    runtime: RuntimeKind,
    choice: &str,
) -> BTreeMap<String, (String, bool)> {
    let names: Vec<String> = module.renderer.ports(runtime).into_keys().collect();
    let ports: BTreeMap<String, String> = names.into_iter().map(|port| (port, format!("4000{choice}"))).collect();
    let facts = RenderInputs {
        runtime,
        resource: resource.to_owned(),
        app: context.loaded.manifest.app.name.value.clone(),
        ports: ports.clone(),
        password: choice.to_owned(),
    };
    module.renderer.outputs(&facts, &Address { host: format!("host-{choice}"), ports })
}

/// The version behind each `uses`, and what the lock pins where that is another one.
#[must_use]
pub fn version_hints(context: &HintContext<'_>, range: &Range<usize>, lock: &catalog::Lock) -> Vec<Hint> {
    let Some(resources) = context.root.get("resources") else { return Vec::new() };
    let one = |pair: &manifest::syntax::Pair| {
        let module = context.loaded.modules.get(&pair.key.value)?;
        let uses = pair.value.get("uses").map_or(&pair.value, |uses| &uses.value);
        let written = uses.as_scalar()?;
        let own = uses.span.range();
        if own.is_empty() || own.start > range.end || range.start > own.end {
            return None;
        }
        let locked = lock.modules.get(written.text.trim()).map(|entry| entry.version.as_str());
        let (text, words) = match locked {
            Some(locked) if locked == module.version => {
                (module.version.clone(), format!("pinned in pdev.lock, {}", module.source))
            }
            Some(locked) => (
                format!("{}, locked {locked}", module.version),
                format!("pdev.lock pins {locked}; this is {}, {}", module.version, module.source),
            ),
            None => (module.version.clone(), format!("not in pdev.lock yet, {}", module.source)),
        };
        Some(Hint { offset: own.end, text, tooltip: words })
    };
    resources.value.as_map().unwrap_or_default().iter().filter_map(one).collect()
}

/// As in logs: the name says that the value is nobody's business.
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
