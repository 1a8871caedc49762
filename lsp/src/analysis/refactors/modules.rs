//! From images to modules: a service that is a database in disguise, a service that becomes a module of one's own, and a
//! module whose newer version is there.
//!
//! Offered only where nothing else changes its meaning: what names the service in a way that a resource does not have
//! (its URL, a waiver, an environment's overlay, a job that borrows it) keeps it a service.

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

/// `image: postgres:16` becomes a resource of the module `postgres`.
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
    let has = module.versions.contains(&version) || module.version.major.to_string() == version;
    if !has
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
        let input = INPUTS.iter().find(|(owner, known, _)| *owner == name && *known == variable);
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
    Some(new_action(format!("Use the module `{uses}` instead of the image (its data begins anew)"), edits))
}

/// A service of an image becomes a module in a folder of its own, and a resource that uses it.
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
    // Braces would be taken for a template of the module.
    if renders.contains("{{") || renders.contains("{%") {
        return None;
    }
    let folder = format!("modules/{unit}");
    let team = context.manifest.app.owner.as_ref().map_or("your-team", |owner| owner.value.as_str());
    let module = format!(
        "module: {unit}\nversion: 1.0.0\nowner: {{ team: \"{}\", contact: \"{0}\" }}\nsummary: {unit}, from the image {image}\n\
         docs: docs.md\n\ninputs: {{}}\n\noutputs:\n  host: {{ value: \"{{{{ host }}}}\", description: \"Where it is reached.\" }}\n  \
         port: {{ value: \"{{{{ port }}}}\", description: \"Its port.\" }}\n\nports: {{ main: {port} }}\n\nrenders:\n  docker:\n{renders}",
        escape_yaml(team)
    );
    let docs = format!("# {unit}\n\nRuns the image `{image}` and listens on port {port}.\n");
    let edits = service_to_resource_edits(context, unit, &format!("{unit}: ./{folder}"))?;
    let creates = vec![
        NewFile { path: format!("{folder}/module.yaml"), text: module },
        NewFile { path: format!("{folder}/docs.md"), text: docs },
    ];
    let title = format!("Make `{unit}` a module of its own in `{folder}`");
    Some(Action { new_files: creates, is_extraction: true, ..new_action(title, edits) })
}

fn quoted_literals(node: &Node) -> Option<Vec<String>> {
    let Kind::List(items) = &node.kind else { return None };
    let one = |item: &Node| {
        let scalar = item.as_scalar().filter(|scalar| !scalar.is_null() && !scalar.text.contains("${"))?;
        Some(format!("\"{}\"", escape_yaml(&scalar.text)))
    };
    items.iter().map(one).collect()
}

fn escape_yaml(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The service goes, a resource comes, and whoever asked for its host or port asks the resource.
fn service_to_resource_edits(context: &RefactorContext<'_>, unit: &str, entry: &str) -> Option<Vec<Edit>> {
    let page = context.source_editor();
    let services = &context.root.get("services")?.value;
    if context.has_other_files || is_referenced_as_service(context, unit) {
        return None;
    }
    let mut edits = vec![page.remove_pair(services, unit)?, page.add_to_section(context.root, "resources", entry)?];
    let mut fits = true;
    visit_references(context.root, &page, unit, &mut |field, at| match field {
        Some(field) if SHARED_FIELDS.contains(&field) => edits.push(page.edit(at, "resources")),
        _ => fits = false,
    });
    fits.then_some(edits)
}

/// In places where only a service can stand.
fn is_referenced_as_service(context: &RefactorContext<'_>, unit: &str) -> bool {
    let manifest = context.manifest;
    let named = |value: Option<&str>| value == Some(unit);
    named(manifest.app.default_service.as_ref().map(|name| name.value.as_str()))
        || manifest.jobs.values().any(|job| named(job.value.service.as_ref().map(|name| name.value.as_str())))
        || manifest.waivers.iter().any(|waiver| waiver.scope.value == format!("services.{unit}"))
        || manifest.patches.iter().any(|patch| patch.from.is_some())
        || context.root.get("environments").is_some_and(|pair| {
            let all = pair.value.as_map().unwrap_or_default().iter();
            all.filter_map(|environment| environment.value.get("services")).any(|own| own.value.get(unit).is_some())
        })
}

/// Each `${services.UNIT.FIELD}`: its field, and where `services` stands.
fn visit_references(
    node: &Node,
    page: &SourceEditor<'_>,
    unit: &str,
    visit: &mut dyn FnMut(Option<&str>, std::ops::Range<usize>),
) {
    match &node.kind {
        Kind::Map(pairs) => pairs.iter().for_each(|pair: &Pair| visit_references(&pair.value, page, unit, visit)),
        Kind::List(items) => items.iter().for_each(|item| visit_references(item, page, unit, visit)),
        Kind::Scalar(scalar) if scalar.text.contains("${") => {
            let raw = page.text.as_str().get(node.span.range()).unwrap_or_default();
            let (template, _) = template::parse(raw, node.span, false);
            for reference in template.references().filter(|one| one.scope == Scope::Services) {
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

/// `uses: postgres@15` where the catalog has 17.
pub fn upgrade_module(context: &RefactorContext<'_>, resource: &Node) -> Option<Action> {
    let uses = resource.get("uses").map_or(resource, |pair| &pair.value);
    let written = uses.as_scalar()?.text.trim().to_owned();
    let (name, version) = written.split_once('@')?;
    let module = crate::analysis::names::find_module(name, context.files)?;
    let number =
        |version: &str| version.trim_start_matches(['^', '~', '=', 'v']).split('.').next()?.parse::<u64>().ok();
    let newest = module.versions.iter().filter_map(|version| number(version)).max()?;
    if newest <= number(version)? {
        return None;
    }
    let span = crate::analysis::references::unquoted_span(context.text.as_str(), uses.span);
    let fits = context.text.as_str().get(span.range()) == Some(written.as_str());
    let edit = Edit { span, text: format!("{name}@{newest}") };
    let title = format!("Upgrade `{written}` to `{name}@{newest}` (data of another major version may not serve)");
    fits.then(|| new_action(title, vec![edit]))
}
