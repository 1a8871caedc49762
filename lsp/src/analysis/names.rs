//! The names that the manifest and the catalog declare, which other places may refer to.

use std::sync::Arc;

use manifest::model::Manifest;
use manifest::template::Scope;
use manifest::{Files, Span, Spanned};

/// A name and a short description of what it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameInfo {
    pub name: String,
    pub description: String,
}

fn name_info(name: impl Into<String>, description: impl Into<String>) -> NameInfo {
    NameInfo { name: name.into(), description: description.into() }
}

#[must_use]
pub fn services(manifest: &Manifest) -> Vec<NameInfo> {
    let description = |service: &manifest::model::Service| match (&service.image, &service.build) {
        (Some(image), _) => format!("service from {}", image.as_literal().unwrap_or_default()),
        (None, Some(build)) => format!("service built in {}", build.context.value),
        _ => "service".to_owned(),
    };
    manifest.services.iter().map(|(key, entry)| name_info(key, description(&entry.value))).collect()
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
    let description = |secret: &manifest::model::SecretDeclaration| {
        secret.description.as_ref().map_or_else(|| "secret".to_owned(), |text| text.value.clone())
    };
    manifest.secrets.iter().map(|(key, entry)| name_info(key, description(&entry.value))).collect()
}

#[must_use]
pub fn identities(manifest: &Manifest) -> Vec<NameInfo> {
    let description = |identity: &manifest::model::IdentityDeclaration| {
        identity.provider.as_ref().map_or_else(|| "identity".to_owned(), |text| format!("identity of {}", text.value))
    };
    manifest.identities.iter().map(|(key, entry)| name_info(key, description(&entry.value))).collect()
}

/// All services, jobs and resources except `excluded`.
#[must_use]
pub fn units(manifest: &Manifest, excluded: Option<&str>) -> Vec<NameInfo> {
    let mut all = services(manifest);
    all.extend(jobs(manifest));
    all.extend(resources(manifest));
    all.retain(|unit| Some(unit.name.as_str()) != excluded);
    all
}

/// The ports of a service or job. The short form declares the port `main`.
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
    // The version may be unknown or half typed. The module is still useful for completion and hover.
    let (bare, _) = uses.split_once('@')?;
    catalog::resolve_module(&Spanned::new(bare.to_owned(), Span::default()), files).ok().map(|found| found.module)
}

/// The `uses:` values of all built-in modules. For each module its current version is first.
#[must_use]
pub fn builtin_modules() -> Vec<NameInfo> {
    let mut all = Vec::new();
    for module in catalog::built_in_modules() {
        let current = module.version.major.to_string();
        let others = module.versions.iter().rev().filter(|version| **version != current);
        for version in std::iter::once(&current).chain(others) {
            all.push(name_info(format!("{}@{version}", module.name), module.summary.clone()));
        }
    }
    all
}

/// The names that may follow `parts` in a placeholder.
#[must_use]
pub fn placeholder_names(manifest: &Manifest, files: &dyn Files, parts: &[&str]) -> Vec<NameInfo> {
    let fields =
        |all: &[(&str, &str)]| all.iter().map(|(field, description)| name_info(*field, *description)).collect();
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
                    let suffix = if output.sensitive { " (sensitive)" } else { "" };
                    name_info(key, format!("{}{suffix}", output.description))
                })
                .collect()
        }
        (Some(Scope::Services), []) => services(manifest),
        (Some(Scope::Services), [_]) => fields(&SERVICE_FIELDS),
        (Some(Scope::Services), [service, "ports"]) => ports(manifest, service),
        (Some(Scope::Secrets), []) => secrets(manifest),
        (Some(Scope::Secrets), [_]) => fields(&[("path", "the file that contains its value")]),
        (Some(Scope::Identities), []) => identities(manifest),
        (Some(Scope::Identities), [_]) => fields(&[("name", "its name")]),
        (Some(Scope::Vars), []) => manifest
            .vars
            .iter()
            .map(|(key, entry)| name_info(key, entry.value.as_literal().unwrap_or_default()))
            .collect(),
        (Some(Scope::App), []) => {
            fields(&[("name", "the application's name"), ("owner", "the owner of the application")])
        }
        (Some(Scope::Preview), []) => fields(&PREVIEW_FIELDS),
        (Some(Scope::Git), []) => fields(&[("branch", "the branch"), ("commit", "the commit")]),
        _ => Vec::new(),
    }
}

const SERVICE_FIELDS: [(&str, &str); 6] = [
    ("url", "its URL for a browser"),
    ("internal_url", "its URL for a program: `http://host:port`"),
    ("address", "`host:port`"),
    ("host", "the host under which its consumer reaches it"),
    ("port", "its main port, for its consumer"),
    ("ports", "one of its ports, by name"),
];

const PREVIEW_FIELDS: [(&str, &str); 7] = [
    ("app", "the application's label"),
    ("branch", "the branch's label"),
    ("domain", "the common suffix of its host names"),
    ("environment", "the environment"),
    ("id", "a stable id of this copy"),
    ("name", "its display name: `shop/main`"),
    ("url", "the URL of the default service"),
];

fn scope_description(scope: &str) -> &'static str {
    match scope {
        "resources" => "an output of a resource: `${resources.db.url}`",
        "services" => "an address of a service: `${services.api.url}`",
        "secrets" => "the file of a secret: `${secrets.stripe.path}`",
        "identities" => "a cloud identity",
        "vars" => "a value under `vars`",
        "env" => "a variable of your environment",
        "app" => "the application",
        "preview" => "this preview",
        "git" => "the branch and commit",
        _ => "",
    }
}
