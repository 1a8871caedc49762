//! What has to be there before what: written needs, needs that follow from references, jobs that go first.

use std::collections::{BTreeMap, BTreeSet};

use manifest::model::{Map, Need, When};
use manifest::{Diagnostic, Severity};

use super::draft::{Draft, Kind};
use super::references::References;
use crate::application::{Application, Body, Condition, ImageSource, Role, RuntimeKind, UnitName};
use crate::codes;

#[derive(Default)]
pub(super) struct Links {
    found: BTreeMap<UnitName, References>,
}

impl Links {
    pub(super) fn add(&mut self, draft: &Draft<'_>, references: &References) {
        self.found.insert(draft.name.clone(), references.clone());
    }
}

/// Strongest first: what was written, resources that are read, jobs that go before, services that are read. The last
/// two give way where they would close a circle, the first never do.
pub(super) fn link(
    drafts: &[Draft<'_>],
    links: &Links,
    application: &mut Application,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for draft in drafts {
        let written = written(draft, drafts, diagnostics);
        if let Some(unit) = application.units.get_mut(&draft.name) {
            unit.needs = written;
        }
    }
    for (name, references) in &links.found {
        for resource in &references.resources {
            imply(application, name, resource, Condition::Healthy);
        }
    }
    jobs_before(drafts, application);
    for (name, references) in &links.found {
        for service in &references.services {
            imply(application, name, service, Condition::Started);
        }
    }
}

fn needs_of<'a>(draft: &'a Draft<'_>) -> &'a Map<Need> {
    match &draft.kind {
        Kind::Service(service) => &service.needs,
        Kind::Job(_, job) => &job.body.needs,
        Kind::Resource(resource, _) => &resource.needs,
    }
}

fn written(
    draft: &Draft<'_>,
    drafts: &[Draft<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<UnitName, Condition> {
    let mut needs = BTreeMap::new();
    for (name, entry) in needs_of(draft) {
        let path = format!("{}.needs.{name}", draft.path);
        // Unknown names are told by the reader of the manifest.
        let Some(needed) = drafts.iter().find(|other| other.name == *name) else { continue };
        let condition = entry.value.condition;
        if let Some((message, help)) = impossible(needed, condition) {
            diagnostics.push(
                Diagnostic::new(codes::NEED_IMPOSSIBLE, Severity::Error, entry.span, message).at(path).help(help),
            );
            continue;
        }
        // A job is healthy when it is done.
        let condition = match (needed.role, condition) {
            (Role::Job, Condition::Healthy) => Condition::Completed,
            (_, condition) => condition,
        };
        needs.insert(name.clone(), condition);
    }
    needs
}

fn impossible(needed: &Draft<'_>, condition: Condition) -> Option<(String, String)> {
    let name = &needed.name;
    match (needed.role, condition) {
        (Role::Service | Role::Resource, Condition::Completed) => {
            let kind = if needed.role == Role::Service { "service" } else { "resource" };
            let message = format!("{kind} `{name}` never completes: only a job does");
            Some((message, "Write `healthy` or `started`.".to_owned()))
        }
        (Role::Job, _) if needed.job().is_some_and(|job| job.when == When::Manual) => {
            let message = format!("job `{name}` runs only when asked (`when: manual`), so this would wait for ever");
            Some((message, format!("Give `{name}` `when: before`, or take the need away.")))
        }
        (Role::Job, _) if needed.job().is_some_and(|job| job.when == When::After) => {
            let message = format!("job `{name}` runs after everything is healthy, so nothing can wait for it");
            Some((message, format!("Give `{name}` `when: before`, or take the need away.")))
        }
        _ => None,
    }
}

fn imply(application: &mut Application, unit: &str, needed: &str, condition: Condition) {
    if unit == needed || !application.units.contains_key(needed) || reaches(application, needed, unit) {
        return;
    }
    if let Some(unit) = application.units.get_mut(unit) {
        unit.needs.entry(needed.to_owned()).or_insert(condition);
    }
}

fn reaches(application: &Application, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        if name == to {
            return true;
        }
        if let Some(unit) = application.units.get(&name).filter(|_| seen.insert(name.clone())) {
            open.extend(unit.needs.keys().cloned());
        }
    }
    false
}

/// A job with `when: before` goes before the service it is named for and before services of the same image.
fn jobs_before(drafts: &[Draft<'_>], application: &mut Application) {
    let mut pairs: Vec<(UnitName, UnitName)> = Vec::new();
    for draft in drafts {
        let Some(job) = draft.job().filter(|job| job.when == When::Before) else { continue };
        let image = application.units.get(&draft.name).and_then(|unit| image_of(&unit.body));
        for other in drafts.iter().filter(|other| other.role == Role::Service) {
            let named = job.service.as_ref().is_some_and(|service| service.value == other.name);
            let body = application.units.get(&other.name).map(|unit| &unit.body);
            let same_image = image.is_some() && body.and_then(image_of) == image;
            if named || same_image {
                pairs.push((other.name.clone(), draft.name.clone()));
            }
        }
    }
    for (service, job) in pairs {
        imply(application, &service, &job, Condition::Completed);
    }
}

fn image_of(body: &Body) -> Option<&ImageSource> {
    match body {
        Body::Container(container) => Some(&container.image),
        Body::Process(_) => None,
    }
}

/// Containers call processes by name; the driver has to know the names.
pub(super) fn know_process_peers(application: &mut Application) {
    let is_peer =
        |unit: &crate::application::Unit| unit.body.runtime() == RuntimeKind::Process && !unit.ports.is_empty();
    let peers: Vec<UnitName> =
        application.units.values().filter(|unit| is_peer(unit)).map(|unit| unit.name.clone()).collect();
    for unit in application.units.values_mut() {
        if let Body::Container(container) = &mut unit.body {
            container.process_peers.clone_from(&peers);
        }
    }
}
