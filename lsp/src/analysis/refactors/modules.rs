//! Refactorings with modules: replace a service by a built-in module, convert a service to a local module, upgrade a
//! module.
//!
//! A service becomes a resource only if the rest of the manifest keeps its meaning. It stays a service if another part
//! uses it in a way that a resource does not support: its URL, a waiver, an overlay of an environment, or a job based
//! on it.

use manifest::diagnostic::Edit;
use manifest::syntax::{Kind, Node, Pair};
use manifest::template::{self, Scope};

use super::edit::SourceEditor;
use super::{RefactorContext, new_action};
use crate::analysis::actions::{Action, NewFile};

/// Fields that services and resources both have.
const SHARED_FIELDS: [&str; 2] = ["host", "port"];

fn literal_text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    let scalar = node.get(key)?.value.as_scalar()?;
    (!scalar.is_null() && !scalar.text.contains("${")).then_some(scalar.text.as_str())
}

fn has_only_keys(body: &Node, keys: &[&str]) -> bool {
    body.as_map().unwrap_or_default().iter().all(|pair| keys.contains(&pair.key.value.as_str()))
}

/// Replaces a service with `image: postgres:16` by a resource of the module `postgres`.
pub fn image_to_module(context: &RefactorContext<'_>, unit: &str, body: &Node) -> Option<Action> {
    const INPUTS: [(&str, &str, &str); 2] =
        [("postgres", "POSTGRES_DB", "database"), ("postgres", "POSTGRES_USER", "user")];
    const DROPPED: [&str; 2] = ["POSTGRES_PASSWORD", "PGDATA"];
    let image = literal_text(body, "image")?;
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    let image = image.strip_prefix("library/").unwrap_or(image);
    let (name, tag) = image.split_once(':').unwrap_or((image, ""));
    let module = catalog::built_in_modules().iter().find(|module| module.name == name)?;
    let major: String = tag.chars().take_while(char::is_ascii_digit).collect();
    let version = if major.is_empty() { module.version.major.to_string() } else { major };
    let has_version = module.versions.contains(&version) || module.version.major.to_string() == version;
    if !has_version
        || !has_only_keys(
            body,
            &["image", "port", "ports", "env", "volumes", "health", "restart", "size", "stop", "pull"],
        )
    {
        return None;
    }
    let mut with = Vec::new();
    for pair in body.get("env").and_then(|pair| pair.value.as_map()).unwrap_or_default() {
        let variable = pair.key.value.as_str();
        let input = INPUTS.iter().find(|(owner, known_variable, _)| *owner == name && *known_variable == variable);
        match (input, literal_text(&body.get("env")?.value, variable)) {
            (Some((_, _, input)), Some(value)) => with.push(format!("{input}: \"{}\"", escape_yaml(value))),
            _ if DROPPED.contains(&variable) => {}
            _ => return None,
        }
    }
    let uses = format!("{name}@{version}");
    let entry = match with.is_empty() {
        true => format!("{unit}: {uses}"),
        false => format!("{unit}: {{ uses: {uses}, with: {{ {} }} }}", with.join(", ")),
    };
    let edits = service_to_resource_edits(context, unit, &entry)?;
    Some(new_action(format!("Use the module `{uses}` instead of the image (starts without the existing data)"), edits))
}

/// Converts a service with an image to a local module and a resource that uses it.
pub fn extract_module(context: &RefactorContext<'_>, unit: &str, body: &Node) -> Option<Action> {
    let image = literal_text(body, "image")?;
    let port: u16 = literal_text(body, "port")?.parse().ok()?;
    if !has_only_keys(body, &["image", "port", "env", "command"]) {
        return None;
    }
    let mut renders = format!("    image: \"{}\"\n", escape_yaml(image));
    if let Some(command) = body.get("command") {
        renders.push_str(&format!("    command: [{}]\n", quoted_literals(&command.value)?.join(", ")));
    }
    if let Some(env) = body.get("env") {
        renders.push_str("    env:\n");
        for pair in env.value.as_map()? {
            let value = literal_text(&env.value, &pair.key.value)?;
            renders.push_str(&format!("      {}: \"{}\"\n", pair.key.value, escape_yaml(value)));
        }
    }
    // The module would interpret these braces as a template.
    if renders.contains("{{") || renders.contains("{%") {
        return None;
    }
    let folder = format!("modules/{unit}");
    let team = context.manifest.app.owner.as_ref().map_or("your-team", |owner| owner.value.as_str());
    let module = format!(
        "module: {unit}\nversion: 1.0.0\nowner: {{ team: \"{}\", contact: \"{0}\" }}\nsummary: {unit}, from the image {image}\n\
         docs: docs.md\n\ninputs: {{}}\n\noutputs:\n  host: {{ value: \"{{{{ host }}}}\", description: \"Its host.\" }}\n  \
         port: {{ value: \"{{{{ port }}}}\", description: \"Its port.\" }}\n\nports: {{ main: {port} }}\n\nrenders:\n  docker:\n{renders}",
        escape_yaml(team)
    );
    let docs = format!("# {unit}\n\nRuns the image `{image}` and listens on port {port}.\n");
    let edits = service_to_resource_edits(context, unit, &format!("{unit}: ./{folder}"))?;
    let new_files = vec![
        NewFile { path: format!("{folder}/module.yaml"), text: module },
        NewFile { path: format!("{folder}/docs.md"), text: docs },
    ];
    let title = format!("Convert `{unit}` to a module in `{folder}`");
    Some(Action { new_files, is_extraction: true, ..new_action(title, edits) })
}

fn quoted_literals(node: &Node) -> Option<Vec<String>> {
    let Kind::List(items) = &node.kind else { return None };
    let quote = |item: &Node| {
        let scalar = item.as_scalar().filter(|scalar| !scalar.is_null() && !scalar.text.contains("${"))?;
        Some(format!("\"{}\"", escape_yaml(&scalar.text)))
    };
    items.iter().map(quote).collect()
}

fn escape_yaml(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Removes the service, adds the resource, and changes references to the service's host and port.
fn service_to_resource_edits(context: &RefactorContext<'_>, unit: &str, entry: &str) -> Option<Vec<Edit>> {
    let editor = context.source_editor();
    let services = &context.root.get("services")?.value;
    if context.has_other_files || is_referenced_as_service(context, unit) {
        return None;
    }
    let removal = editor.remove_pair(services, unit)?;
    // The comments of the removed lines move to the resource.
    let mut lines = context.comments_in(&removal.span.range());
    lines.push(entry);
    let mut edits = vec![removal, editor.add_to_section(context.root, "resources", &lines.join("\n"))?];
    let mut is_convertible = true;
    visit_references(context.root, &editor, unit, &mut |field, scope_range| match field {
        Some(field) if SHARED_FIELDS.contains(&field) => edits.push(editor.edit(scope_range, "resources")),
        _ => is_convertible = false,
    });
    is_convertible.then_some(edits)
}

/// Whether the unit is named in a place where only a service is valid.
fn is_referenced_as_service(context: &RefactorContext<'_>, unit: &str) -> bool {
    let manifest = context.manifest;
    let is_unit = |value: Option<&str>| value == Some(unit);
    is_unit(manifest.app.default_service.as_ref().map(|name| name.value.as_str()))
        || manifest.jobs.values().any(|job| is_unit(job.value.service.as_ref().map(|name| name.value.as_str())))
        || manifest.waivers.iter().any(|waiver| waiver.scope.value == format!("services.{unit}"))
        || manifest.patches.iter().any(|patch| patch.from.is_some())
        || context.root.get("environments").is_some_and(|pair| {
            let environments = pair.value.as_map().unwrap_or_default().iter();
            let mut overlays = environments.filter_map(|environment| environment.value.get("services"));
            overlays.any(|services| services.value.get(unit).is_some())
        })
}

/// Visits each `${services.UNIT.FIELD}` with its field and the range of `services`.
fn visit_references(
    node: &Node,
    editor: &SourceEditor<'_>,
    unit: &str,
    visit: &mut dyn FnMut(Option<&str>, std::ops::Range<usize>),
) {
    match &node.kind {
        Kind::Map(pairs) => pairs.iter().for_each(|pair: &Pair| visit_references(&pair.value, editor, unit, visit)),
        Kind::List(items) => items.iter().for_each(|item| visit_references(item, editor, unit, visit)),
        Kind::Scalar(scalar) if scalar.text.contains("${") => {
            let raw = editor.text.as_str().get(node.span.range()).unwrap_or_default();
            let (template, _) = template::parse(raw, node.span, false);
            for reference in template.references().filter(|reference| reference.scope == Scope::Services) {
                if reference.path.first().is_some_and(|name| name == unit) {
                    let start = reference.span.range().start + "${".len();
                    let field = (reference.path.len() == 2).then(|| reference.path[1].as_str());
                    visit(field, start..start + "services".len());
                }
            }
        }
        Kind::Scalar(_) => {}
    }
}

/// Upgrades `uses: postgres@15` if the catalog has 17.
pub fn upgrade_module(context: &RefactorContext<'_>, resource: &Node) -> Option<Action> {
    let uses = resource.get("uses").map_or(resource, |pair| &pair.value);
    let current = uses.as_scalar()?.text.trim().to_owned();
    let (name, version) = current.split_once('@')?;
    let module = crate::analysis::names::find_module(name, context.files)?;
    let number =
        |version: &str| version.trim_start_matches(['^', '~', '=', 'v']).split('.').next()?.parse::<u64>().ok();
    let newest = module.versions.iter().filter_map(|version| number(version)).max()?;
    if newest <= number(version)? {
        return None;
    }
    let span = crate::analysis::references::unquoted_span(context.text.as_str(), uses.span);
    // An alias has its text at another place, which may be shared.
    let is_literal = context.text.as_str().get(span.range()) == Some(current.as_str());
    let edit = Edit { span, text: format!("{name}@{newest}") };
    let title = format!("Upgrade `{current}` to `{name}@{newest}` (existing data may be incompatible)");
    is_literal.then(|| new_action(title, vec![edit]))
}
