//! What the manifest and the catalog call things: what a name in one place may refer to in another.

use std::sync::Arc;

use manifest::model::Manifest;
use manifest::template::Scope;
use manifest::{Files, Span, Spanned};

/// A name that something can be referred to by, and a few words about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameInfo {
    pub name: String,
    pub description: String,
}

fn name_info(name: impl Into<String>, words: impl Into<String>) -> NameInfo {
    NameInfo { name: name.into(), description: words.into() }
}

#[must_use]
pub fn services(manifest: &Manifest) -> Vec<NameInfo> {
    let words = |service: &manifest::model::Service| match (&service.image, &service.build) {
        (Some(image), _) => format!("service from {}", image.as_literal().unwrap_or_default()),
        (None, Some(build)) => format!("service built in {}", build.context.value),
        _ => "service".to_owned(),
    };
    manifest.services.iter().map(|(key, entry)| name_info(key, words(&entry.value))).collect()
}

#[must_use]
pub fn resources(manifest: &Manifest) -> Vec<NameInfo> {
    manifest.resources.iter().map(|(key, entry)| name_info(key, entry.value.uses.value.clone())).collect()
}

#[must_use]
pub fn jobs(manifest: &Manifest) -> Vec<NameInfo> {
    manifest.jobs.keys().map(|key| name_info(key, "job")).collect()
}

#[must_use]
pub fn secrets(manifest: &Manifest) -> Vec<NameInfo> {
    let words = |secret: &manifest::model::SecretDeclaration| {
        secret.description.as_ref().map_or_else(|| "secret".to_owned(), |text| text.value.clone())
    };
    manifest.secrets.iter().map(|(key, entry)| name_info(key, words(&entry.value))).collect()
}

#[must_use]
pub fn identities(manifest: &Manifest) -> Vec<NameInfo> {
    let words = |one: &manifest::model::IdentityDeclaration| {
        one.provider.as_ref().map_or_else(|| "identity".to_owned(), |text| format!("identity of {}", text.value))
    };
    manifest.identities.iter().map(|(key, entry)| name_info(key, words(&entry.value))).collect()
}

/// What can come first: services, jobs and resources, without the unit itself.
#[must_use]
pub fn units(manifest: &Manifest, without: Option<&str>) -> Vec<NameInfo> {
    let mut all = services(manifest);
    all.extend(jobs(manifest));
    all.extend(resources(manifest));
    all.retain(|one| Some(one.name.as_str()) != without);
    all
}

/// Ports of a service or job, `main` for the short form.
#[must_use]
pub fn ports(manifest: &Manifest, unit: &str) -> Vec<NameInfo> {
    let service = manifest.services.get(unit).map(|entry| &entry.value);
    let body = service.or_else(|| manifest.jobs.get(unit).map(|entry| &entry.value.body));
    let all = body.into_iter().flat_map(|body| &body.ports);
    all.map(|(key, entry)| name_info(key, format!("port {}", entry.value.number.value))).collect()
}

/// The module a resource uses.
#[must_use]
pub fn resource_module(manifest: &Manifest, resource: &str, files: &dyn Files) -> Option<Arc<catalog::Module>> {
    let uses = &manifest.resources.get(resource)?.value.uses;
    find_module(&uses.value, files)
}

#[must_use]
pub fn find_module(uses: &str, files: &dyn Files) -> Option<Arc<catalog::Module>> {
    let spanned = Spanned::new(uses.to_owned(), Span::default());
    if let Ok(found) = catalog::resolve_module(&spanned, files) {
        return Some(found.module);
    }
    // A version that is not there, or half typed: the module is still known.
    let (bare, _) = uses.split_once('@')?;
    catalog::resolve_module(&Spanned::new(bare.to_owned(), Span::default()), files).ok().map(|found| found.module)
}

/// `uses:` values of all built-in modules: the module's own version first.
#[must_use]
pub fn builtin_modules() -> Vec<NameInfo> {
    let mut all = Vec::new();
    for module in catalog::built_in_modules() {
        let own = module.version.major.to_string();
        let others = module.versions.iter().rev().filter(|version| **version != own);
        for version in std::iter::once(&own).chain(others) {
            all.push(name_info(format!("{}@{version}", module.name), module.summary.clone()));
        }
    }
    all
}

/// The parts that may follow in a placeholder, after these.
#[must_use]
pub fn placeholder_names(manifest: &Manifest, files: &dyn Files, parts: &[&str]) -> Vec<NameInfo> {
    let fields = |known: &[(&str, &str)]| known.iter().map(|(field, words)| name_info(*field, *words)).collect();
    let Some(first) = parts.first() else {
        return Scope::ALL.iter().map(|(scope, _)| name_info(*scope, scope_description(scope))).collect();
    };
    match (Scope::parse(first), &parts[1..]) {
        (Some(Scope::Resources), []) => resources(manifest),
        (Some(Scope::Resources), [resource]) => {
            let module = resource_module(manifest, resource, files);
            let outputs = module.iter().flat_map(|module| &module.outputs);
            outputs
                .map(|(key, output)| {
                    let secret = if output.sensitive { " (sensitive)" } else { "" };
                    name_info(key, format!("{}{secret}", output.description))
                })
                .collect()
        }
        (Some(Scope::Services), []) => services(manifest),
        (Some(Scope::Services), [_]) => fields(&SERVICE_FIELDS),
        (Some(Scope::Services), [service, "ports"]) => ports(manifest, service),
        (Some(Scope::Secrets), []) => secrets(manifest),
        (Some(Scope::Secrets), [_]) => fields(&[("path", "the file that holds its value")]),
        (Some(Scope::Identities), []) => identities(manifest),
        (Some(Scope::Identities), [_]) => fields(&[("name", "its name")]),
        (Some(Scope::Vars), []) => manifest
            .vars
            .iter()
            .map(|(key, entry)| name_info(key, entry.value.as_literal().unwrap_or_default()))
            .collect(),
        (Some(Scope::App), []) => fields(&[("name", "the application's name"), ("owner", "who to ask")]),
        (Some(Scope::Preview), []) => fields(&PREVIEW_FIELDS),
        (Some(Scope::Git), []) => fields(&[("branch", "the branch"), ("commit", "the commit")]),
        _ => Vec::new(),
    }
}

const SERVICE_FIELDS: [(&str, &str); 6] = [
    ("url", "its URL in a browser"),
    ("internal_url", "its URL for a program: `http://host:port`"),
    ("address", "`host:port`"),
    ("host", "where its consumer reaches it"),
    ("port", "its main port, for its consumer"),
    ("ports", "one of its ports, by name"),
];

const PREVIEW_FIELDS: [(&str, &str); 7] = [
    ("app", "the application's label"),
    ("branch", "the branch's label"),
    ("domain", "the host that all of its hosts end with"),
    ("environment", "the environment"),
    ("id", "a stable id of this copy"),
    ("name", "as people call it: `shop/main`"),
    ("url", "the default service in a browser"),
];

fn scope_description(scope: &str) -> &'static str {
    match scope {
        "resources" => "what a resource gives: `${resources.db.url}`",
        "services" => "where a service is: `${services.api.url}`",
        "secrets" => "the file of a secret: `${secrets.stripe.path}`",
        "identities" => "a cloud identity",
        "vars" => "a value under `vars`",
        "env" => "a variable of your own environment",
        "app" => "the application",
        "preview" => "this copy",
        "git" => "the commit",
        _ => "",
    }
}
