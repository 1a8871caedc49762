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
use plan::Loaded;
use plan::application::RuntimeKind;
use plan::module::{Address, Facts, Module};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// Where it is shown: the end of the value.
    pub offset: usize,
    pub text: String,
    pub words: String,
}

/// What a hint may be made of.
pub struct Scene<'a> {
    pub root: &'a Node,
    pub text: &'a str,
    pub loaded: &'a Loaded,
    /// The environment that is looked at: what is written for another one is not resolved.
    pub environment: &'a str,
    /// What `${env.X}` may read. Names alone are looked at.
    pub variables: &'a BTreeMap<String, String>,
    /// Of the running copy, by `services.NAME.url` and `preview.FIELD`.
    pub running: &'a BTreeMap<String, String>,
}

const CHARACTERS_MAX: usize = 60;
/// Variables may stand for variables, but not for ever.
const DEPTH_MAX: u8 = 8;

/// The text of each placeholder in the range.
#[must_use]
pub fn values(scene: &Scene<'_>, range: &Range<usize>) -> Vec<Hint> {
    let mut hints = Vec::new();
    for pair in scene.root.as_map().unwrap_or_default() {
        if pair.key.value != "environments" {
            walk(scene, &pair.value, range, &pair.key.value, &mut hints);
            continue;
        }
        for environment in pair.value.as_map().unwrap_or_default() {
            if environment.key.value == scene.environment {
                walk(scene, &environment.value, range, "", &mut hints);
            }
        }
    }
    hints
}

fn walk(scene: &Scene<'_>, node: &Node, range: &Range<usize>, key: &str, hints: &mut Vec<Hint>) {
    match &node.kind {
        Kind::Scalar(_) => {
            let own = node.span.range();
            if own.start <= range.end && range.start <= own.end && !named_secret(key) {
                hints.extend(value(scene, node));
            }
        }
        Kind::List(items) => items.iter().for_each(|item| walk(scene, item, range, key, hints)),
        Kind::Map(pairs) => pairs.iter().for_each(|pair| walk(scene, &pair.value, range, &pair.key.value, hints)),
    }
}

fn value(scene: &Scene<'_>, node: &Node) -> Option<Hint> {
    let scalar = node.as_scalar().filter(|scalar| scalar.text.contains("${") && !scalar.text.contains('\n'))?;
    let (template, problems) = template::parse(&scalar.text, Span::default(), false);
    if !problems.is_empty() || template.references().next().is_none() {
        return None;
    }
    let resolved = text(scene, &template, DEPTH_MAX)?;
    let offset = node.span.range().end;
    // One that goes over several lines, or an alias whose text stands elsewhere.
    let written = scene.text.get(node.span.range()).filter(|written| !written.contains('\n'))?;
    let fits = written.contains("${") && resolved != scalar.text;
    fits.then(|| Hint { offset, text: format!("= {}", short(&resolved)), words: resolved })
}

fn text(scene: &Scene<'_>, template: &Template, depth: u8) -> Option<String> {
    let mut whole = String::new();
    for part in &template.parts {
        match part {
            Part::Text(text) => whole.push_str(text),
            Part::Reference(reference) => whole.push_str(&of(scene, reference, depth)?),
        }
    }
    Some(whole)
}

fn of(scene: &Scene<'_>, reference: &Reference, depth: u8) -> Option<String> {
    let manifest = &scene.loaded.manifest;
    let parts: Vec<&str> = reference.path.iter().map(String::as_str).collect();
    if parts.iter().any(|part| named_secret(part)) {
        return None;
    }
    let known = match (reference.scope, parts.as_slice()) {
        (Scope::Vars, [name]) => {
            let variable = manifest.vars.get(*name)?;
            return text(scene, &variable.value, depth.checked_sub(1)?);
        }
        (Scope::App, [field]) => app(manifest, field),
        (Scope::Resources, [name, field]) => output(scene, name, field),
        (Scope::Services, [name, "url"]) => scene.running.get(&format!("services.{name}.url")).cloned(),
        (Scope::Preview, ["environment"]) => Some(scene.environment.to_owned()),
        (Scope::Preview, [field]) => scene.running.get(&format!("preview.{field}")).cloned(),
        // Set, it may hold anything; not set, the default is what holds.
        (Scope::Env, [name]) if scene.variables.get(*name).is_none_or(String::is_empty) => reference.default.clone(),
        _ => None,
    };
    known.filter(|text| !text.is_empty())
}

fn app(manifest: &Manifest, field: &str) -> Option<String> {
    match field {
        "name" => Some(manifest.app.name.value.clone()),
        "owner" => manifest.app.owner.as_ref().map(|owner| owner.value.clone()),
        _ => None,
    }
}

/// An output that is the same wherever the resource listens and whatever its password is.
fn output(scene: &Scene<'_>, name: &str, field: &str) -> Option<String> {
    let module = scene.loaded.modules.get(name)?;
    let runtime = if module.renderer.renders(RuntimeKind::Docker) { RuntimeKind::Docker } else { RuntimeKind::Process };
    let one = outputs(scene, module, name, runtime, "1").remove(field)?;
    let other = outputs(scene, module, name, runtime, "2").remove(field)?;
    (one == other && !one.1).then_some(one.0)
}

fn outputs(
    scene: &Scene<'_>,
    module: &Module,
    resource: &str,
    runtime: RuntimeKind,
    choice: &str,
) -> BTreeMap<String, (String, bool)> {
    let names: Vec<String> = module.renderer.ports(runtime).into_keys().collect();
    let ports: BTreeMap<String, String> = names.into_iter().map(|port| (port, format!("4000{choice}"))).collect();
    let facts = Facts {
        runtime,
        resource: resource.to_owned(),
        app: scene.loaded.manifest.app.name.value.clone(),
        ports: ports.clone(),
        password: choice.to_owned(),
    };
    module.renderer.outputs(&facts, &Address { host: format!("host-{choice}"), ports })
}

/// The version behind each `uses`, and what the lock pins where that is another one.
#[must_use]
pub fn versions(scene: &Scene<'_>, range: &Range<usize>, lock: &catalog::Lock) -> Vec<Hint> {
    let Some(resources) = scene.root.get("resources") else { return Vec::new() };
    let one = |pair: &manifest::syntax::Pair| {
        let module = scene.loaded.modules.get(&pair.key.value)?;
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
        Some(Hint { offset: own.end, text, words })
    };
    resources.value.as_map().unwrap_or_default().iter().filter_map(one).collect()
}

/// As in logs: the name says that the value is nobody's business.
fn named_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "api_key", "apikey", "private", "credential"]
        .iter()
        .any(|word| name.contains(word))
}

fn short(text: &str) -> String {
    if text.chars().count() <= CHARACTERS_MAX {
        text.to_owned()
    } else {
        text.chars().take(CHARACTERS_MAX - 1).chain(['…']).collect()
    }
}
