//! Resolves the needs of units: declared needs, needs implied by references, and jobs that run before services.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use manifest::model::{JobTiming, Map, Need};
use manifest::{Diagnostic, Severity};

use super::draft::{Kind, UnitDraft};
use super::references::{References, ResolveContext};
use crate::application::{Application, Condition, Role, RuntimeKind, Unit, UnitName};
use crate::codes;
use crate::runtime::Route;

#[derive(Default)]
pub(super) struct ReferencesByUnit {
    by_unit: BTreeMap<UnitName, References>,
}

impl ReferencesByUnit {
    pub(super) fn insert(&mut self, draft: &UnitDraft<'_>, references: &References) {
        self.by_unit.insert(draft.name.clone(), references.clone());
    }
}

/// Adds needs in the order of their strength: declared needs, resources that are read, jobs that run before services,
/// services that are read. An implied need that would close a cycle is left out; a declared need never is.
pub(super) fn resolve_needs(
    drafts: &[UnitDraft<'_>],
    references_by_unit: &ReferencesByUnit,
    application: &mut Application,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let by_name: BTreeMap<&str, &UnitDraft<'_>> = drafts.iter().map(|draft| (draft.name.as_str(), draft)).collect();
    for draft in drafts {
        let declared = validate_needs(draft, &by_name, diagnostics);
        if let Some(unit) = application.units.get_mut(&draft.name) {
            unit.needs = declared;
        }
    }
    let mut graph = NeedsGraph::new(application);
    for (name, references) in &references_by_unit.by_unit {
        for resource in &references.resources {
            add_implied_need(application, &mut graph, name, resource, Condition::Healthy);
        }
    }
    add_before_job_needs(drafts, application, &mut graph);
    for (name, references) in &references_by_unit.by_unit {
        for service in &references.services {
            add_implied_need(application, &mut graph, name, service, Condition::Started);
        }
    }
}

/// Reports the same diagnostics as [`resolve_needs`], without building an application.
pub(super) fn check(context: &ResolveContext<'_>, drafts: &[UnitDraft<'_>], diagnostics: &mut Vec<Diagnostic>) {
    for draft in drafts {
        validate_needs(draft, &context.drafts, diagnostics);
    }
}

fn declared_needs<'a>(draft: &'a UnitDraft<'_>) -> &'a Map<Need> {
    match &draft.kind {
        Kind::Service(service) => &service.needs,
        Kind::Job(_, job) => &job.body.needs,
        Kind::Resource(resource, _) => &resource.needs,
    }
}

fn validate_needs(
    draft: &UnitDraft<'_>,
    drafts: &BTreeMap<&str, &UnitDraft<'_>>,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<UnitName, Condition> {
    let mut needs = BTreeMap::new();
    for (name, entry) in declared_needs(draft) {
        let path = format!("{}.needs.{name}", draft.path);
        // The manifest reader already reported unknown names.
        let Some(needed) = drafts.get(name.as_str()) else { continue };
        let condition = entry.value.condition;
        if let Some((message, help)) = explain_impossible_need(needed, condition) {
            diagnostics.push(
                Diagnostic::new(codes::NEED_IMPOSSIBLE, Severity::Error, entry.span, message).at_path(path).help(help),
            );
            continue;
        }
        // A job has no health check: waiting for a healthy job means waiting for its completion.
        let condition = match (needed.role, condition) {
            (Role::Job, Condition::Healthy) => Condition::Completed,
            (_, condition) => condition,
        };
        needs.insert(name.clone(), condition);
    }
    needs
}

fn explain_impossible_need(needed: &UnitDraft<'_>, condition: Condition) -> Option<(String, String)> {
    let name = &needed.name;
    match (needed.role, condition) {
        (Role::Service | Role::Resource, Condition::Completed) => {
            let kind = if needed.role == Role::Service { "service" } else { "resource" };
            let message = format!("{kind} `{name}` never completes: only a job does");
            Some((message, "Write `healthy` or `started`.".to_owned()))
        }
        (Role::Job, _) if needed.job().is_some_and(|job| job.when == JobTiming::Manual) => {
            let message = format!("job `{name}` runs only on request (`when: manual`), so this would wait forever");
            Some((message, format!("Give `{name}` `when: before`, or take the need away.")))
        }
        (Role::Job, _) if needed.job().is_some_and(|job| job.when == JobTiming::After) => {
            let message = format!("job `{name}` runs after everything is healthy, so nothing can wait for it");
            Some((message, format!("Give `{name}` `when: before`, or take the need away.")))
        }
        _ => None,
    }
}

/// The needs as a graph of indices, with edges in both directions. It must be fast: each reference needs one search for
/// a cycle, and there may be thousands of services that call each other.
struct NeedsGraph {
    indices: HashMap<UnitName, usize>,
    needs: Vec<Vec<usize>>,
    needed_by: Vec<Vec<usize>>,
    /// The number of the last search that visited a unit, so that nothing has to be cleared between searches.
    visited_by: Vec<usize>,
    search_count: usize,
}

impl NeedsGraph {
    fn new(application: &Application) -> Self {
        let indices: HashMap<UnitName, usize> = application.units.keys().cloned().zip(0..).collect();
        let no_edges = vec![Vec::new(); indices.len()];
        let visited_by = vec![0; indices.len()];
        let mut graph = Self { indices, needs: no_edges.clone(), needed_by: no_edges, visited_by, search_count: 0 };
        for (name, unit) in &application.units {
            for needed in unit.needs.keys() {
                graph.add_edge(name, needed);
            }
        }
        graph
    }

    fn add_edge(&mut self, unit: &str, needed: &str) {
        if let (Some(&unit), Some(&needed)) = (self.indices.get(unit), self.indices.get(needed)) {
            self.needs[unit].push(needed);
            self.needed_by[needed].push(unit);
        }
    }

    /// True if `from` needs `to`, directly or indirectly. Searches from both ends alternately, because one of them is
    /// usually near a leaf.
    fn reaches(&mut self, from: &str, to: &str) -> bool {
        let (Some(&from), Some(&to)) = (self.indices.get(from), self.indices.get(to)) else { return false };
        if from == to {
            return true;
        }
        let (ahead, behind) = (self.search_count + 1, self.search_count + 2);
        self.search_count = behind;
        (self.visited_by[from], self.visited_by[to]) = (ahead, behind);
        let (mut open_ahead, mut open_behind) = (vec![from], vec![to]);
        while let (Some(unit_ahead), Some(unit_behind)) = (open_ahead.pop(), open_behind.pop()) {
            if expand_frontier(&self.needs[unit_ahead], &mut self.visited_by, ahead, behind, &mut open_ahead)
                || expand_frontier(&self.needed_by[unit_behind], &mut self.visited_by, behind, ahead, &mut open_behind)
            {
                return true;
            }
        }
        false
    }
}

/// Adds the neighbours of a unit to the search; true if the other search has already visited one of them.
fn expand_frontier(
    neighbours: &[usize],
    visited_by: &mut [usize],
    own_search: usize,
    other_search: usize,
    open: &mut Vec<usize>,
) -> bool {
    for &unit in neighbours {
        if visited_by[unit] == other_search {
            return true;
        }
        if visited_by[unit] != own_search {
            visited_by[unit] = own_search;
            open.push(unit);
        }
    }
    false
}

fn add_implied_need(
    application: &mut Application,
    graph: &mut NeedsGraph,
    unit: &str,
    needed: &str,
    condition: Condition,
) {
    if unit == needed || !application.units.contains_key(needed) || graph.reaches(needed, unit) {
        return;
    }
    // A declared condition takes precedence over the implied one.
    if let Some(dependent) = application.units.get_mut(unit)
        && !dependent.needs.contains_key(needed)
    {
        dependent.needs.insert(needed.to_owned(), condition);
        graph.add_edge(unit, needed);
    }
}

/// A job with `when: before` runs before its `service:` and before all services with the same image.
fn add_before_job_needs(drafts: &[UnitDraft<'_>], application: &mut Application, graph: &mut NeedsGraph) {
    let mut pairs: Vec<(UnitName, UnitName)> = Vec::new();
    for draft in drafts {
        let Some(job) = draft.job().filter(|job| job.when == JobTiming::Before) else { continue };
        let image_of = |name: &str| Some(&application.units.get(name)?.body.as_container()?.image);
        let image = image_of(&draft.name);
        for other in drafts.iter().filter(|other| other.role == Role::Service) {
            let is_job_service = job.service.as_ref().is_some_and(|service| service.value == other.name);
            let has_same_image = image.is_some() && image_of(&other.name) == image;
            if is_job_service || has_same_image {
                pairs.push((other.name.clone(), draft.name.clone()));
            }
        }
    }
    for (service, job) in pairs {
        add_implied_need(application, graph, &service, &job, Condition::Completed);
    }
}

/// Lists for each container the units that it reaches through the gateway, so that the driver can make their names
/// resolvable.
pub(super) fn set_gateway_peers(application: &mut Application) {
    let runtimes: BTreeSet<RuntimeKind> = application.units.values().map(|unit| unit.runtime).collect();
    let peers_of = |consumer: &RuntimeKind| {
        let is_peer = |unit: &&Unit| !unit.ports.is_empty() && consumer.route_to(unit.runtime) == Route::Gateway;
        let names = application.units.values().filter(is_peer).map(|unit| unit.name.clone());
        (*consumer, names.collect())
    };
    let peers: BTreeMap<RuntimeKind, Vec<UnitName>> = runtimes.iter().map(peers_of).collect();
    for unit in application.units.values_mut() {
        if let (Some(container), Some(peers)) = (unit.body.as_container_mut(), peers.get(&unit.runtime)) {
            container.gateway_peers.clone_from(peers);
        }
    }
}
