//! Reuses findings from an earlier version of a manifest for units that did not change.
//!
//! The findings of a unit depend on three parts: the unit itself, everything that is not a unit, and the interfaces of
//! other units (names, ports, runtimes, resources with their modules). If the last two are unchanged, a unit whose
//! subtree only moved has the same findings at its new position. In every uncertain case the unit is analysed again.

use std::collections::{HashMap, HashSet};

use manifest::Diagnostic;
use manifest::syntax::{Kind, Node, Pair};
use manifest::{FileId, Span};

use super::draft::{self, UnitDraft};
use super::runtimes::RuntimeChooser;
use crate::application::{PortProtocol, Role, RuntimeKind};
use crate::guardrails::Finding;
use crate::load::LoadedManifest;

/// The findings of one unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnitFindings {
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) violations: Vec<Finding>,
}

/// Findings by unit, in the order of the drafts. `None` if the unit was not analysed, or if a finding points outside
/// the unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct FindingsCache(Vec<Option<UnitFindings>>);

/// The offset in bytes by which each unit moved since an earlier version, in the order of the drafts. `None` for units
/// that changed.
#[derive(Clone, Debug)]
pub(crate) struct UnitOffsets(Vec<Option<i32>>);

impl FindingsCache {
    pub(super) fn push(&mut self, loaded: &LoadedManifest, draft: &UnitDraft<'_>, findings: &UnitFindings) {
        let unit = unit_span(loaded, draft);
        let is_inside = |span: Span| span.file == unit.file && unit.start <= span.start && span.end <= unit.end;
        let all_inside = findings.violations.iter().all(|finding| is_inside(finding.span))
            && findings.diagnostics.iter().flat_map(diagnostic_spans).all(is_inside);
        self.0.push(all_inside.then(|| findings.clone()));
    }

    pub(super) fn push_empty(&mut self) {
        self.0.push(None);
    }

    /// The findings of a unit at its new position. `None` if they cannot be reused.
    pub(super) fn get(&self, unit: usize, offsets: &UnitOffsets) -> Option<UnitFindings> {
        let offset = (*offsets.0.get(unit)?)?;
        let cached = self.0.get(unit)?.as_ref()?;
        Some(UnitFindings {
            diagnostics: cached.diagnostics.iter().map(|diagnostic| diagnostic.shifted(offset)).collect(),
            violations: cached
                .violations
                .iter()
                .map(|finding| Finding { span: finding.span.shifted(offset), ..finding.clone() })
                .collect(),
        })
    }
}

fn unit_span(loaded: &LoadedManifest, draft: &UnitDraft<'_>) -> Span {
    let manifest = &loaded.manifest;
    let entry = match draft.role {
        Role::Service => manifest.services.get(&draft.name).map(|entry| (entry.key, entry.span)),
        Role::Job => manifest.jobs.get(&draft.name).map(|entry| (entry.key, entry.span)),
        Role::Resource => manifest.resources.get(&draft.name).map(|entry| (entry.key, entry.span)),
    };
    entry.map(|(key, value)| Span { end: value.end, ..key }).unwrap_or_default()
}

fn diagnostic_spans(diagnostic: &Diagnostic) -> impl Iterator<Item = Span> {
    let related = diagnostic.related.iter().map(|related| related.span);
    let edits = diagnostic.fixes.iter().flat_map(|fix| &fix.edits).map(|edit| edit.span);
    std::iter::once(diagnostic.span).chain(related).chain(edits)
}

/// Compares two versions that were loaded with the same options. `None` if every unit has to be analysed again.
pub(crate) fn compute_unit_offsets(previous: &LoadedManifest, current: &LoadedManifest) -> Option<UnitOffsets> {
    if !(is_self_contained(previous) && is_self_contained(current) && has_same_modules(previous, current)) {
        return None;
    }
    let (old, new) = (previous.root.as_ref()?.as_map()?, current.root.as_ref()?.as_map()?);
    if old.len() != new.len() {
        return None;
    }
    let mut units: HashMap<(Role, &str), Option<i32>> = HashMap::new();
    for (old, new) in old.iter().zip(new) {
        let role = match new.key.value.as_str() {
            "services" => Role::Service,
            "jobs" => Role::Job,
            _ if pair_offset(old, new).is_some() => continue,
            _ => return None,
        };
        let (old, new) = (Some(old).filter(|old| old.key.value == new.key.value)?.value.as_map()?, new.value.as_map()?);
        if old.len() != new.len() || old.iter().zip(new).any(|(old, new)| old.key.value != new.key.value) {
            return None;
        }
        units.extend(old.iter().zip(new).map(|(old, new)| ((role, new.key.value.as_str()), pair_offset(old, new))));
    }
    mark_dependent_jobs_changed(current, &mut units);
    let mut changed = units.iter().filter(|(_, offset)| offset.is_none()).map(|(unit, _)| unit);
    if !changed.all(|(role, name)| has_same_interface(previous, current, *role, name)) {
        return None;
    }
    let manifest = &current.manifest;
    let offset_of = |role: Role, name: &str| units.get(&(role, name)).copied().flatten();
    let services = manifest.services.keys().map(|name| offset_of(Role::Service, name));
    let jobs = manifest.jobs.keys().map(|name| offset_of(Role::Job, name));
    // Resources belong to the part that must be unchanged. They are few, so their offsets are not computed and they are
    // analysed again.
    let resources = manifest.resources.keys().filter(|name| current.modules.contains_key(*name)).map(|_| None);
    Some(UnitOffsets(services.chain(jobs).chain(resources).collect()))
}

/// True if no include and no environment overlay takes part, so that the tree of the one file is everything.
fn is_self_contained(loaded: &LoadedManifest) -> bool {
    let has_overlay = |root: &Node| {
        let environments = root.get("environments");
        environments.is_some_and(|environments| environments.value.get(&loaded.manifest.environment.name).is_some())
    };
    loaded.sources.iter().count() == 1 && !loaded.root.as_ref().is_some_and(has_overlay)
}

/// True if both versions use the same built-in modules. A module in a folder may change without a new name or version,
/// so other sources are never considered the same.
fn has_same_modules(previous: &LoadedManifest, current: &LoadedManifest) -> bool {
    let built_in = catalog::Source::BuiltIn.to_string();
    let is_same =
        |((old_name, old), (new_name, new)): ((&String, &crate::module::Module), (&String, &crate::module::Module))| {
            old_name == new_name
                && (&old.name, &old.version) == (&new.name, &new.version)
                && [&old.source, &new.source] == [&built_in; 2]
        };
    previous.modules.len() == current.modules.len() && previous.modules.iter().zip(&current.modules).all(is_same)
}

/// The offset by which a pair moved. `None` if it differs in more than its position.
fn pair_offset(old: &Pair, new: &Pair) -> Option<i32> {
    let start = |pair: &Pair| i32::try_from(pair.key.span.start).ok();
    let offset = start(new)?.checked_sub(start(old)?)?;
    is_same_pair(old, new, offset).then_some(offset)
}

fn is_same_pair(old: &Pair, new: &Pair, offset: i32) -> bool {
    old.key.span.shifted(offset) == new.key.span
        && old.key.value == new.key.value
        && is_same_node(&old.value, &new.value, offset)
}

fn is_same_node(old: &Node, new: &Node, offset: i32) -> bool {
    let has_same_content = match (&old.kind, &new.kind) {
        (Kind::Scalar(old), Kind::Scalar(new)) => old == new,
        (Kind::List(old), Kind::List(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_same_node(old, new, offset))
        }
        (Kind::Map(old), Kind::Map(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_same_pair(old, new, offset))
        }
        _ => false,
    };
    has_same_content && old.span.shifted(offset) == new.span && new.span.file == FileId(0)
}

/// A job inherits from its service, so it changes with it.
fn mark_dependent_jobs_changed<'a>(current: &'a LoadedManifest, units: &mut HashMap<(Role, &'a str), Option<i32>>) {
    let changed: HashSet<&str> = units
        .iter()
        .filter(|((role, _), offset)| *role == Role::Service && offset.is_none())
        .map(|((_, name), _)| *name)
        .collect();
    for (name, entry) in &current.manifest.jobs {
        if entry.value.service.as_ref().is_some_and(|service| changed.contains(service.value.as_str())) {
            units.insert((Role::Job, name), None);
        }
    }
}

/// True if the unit looks the same to other units in both versions.
fn has_same_interface(previous: &LoadedManifest, current: &LoadedManifest, role: Role, name: &str) -> bool {
    RuntimeKind::ALL
        .iter()
        .all(|runtime| unit_interface(previous, role, name, *runtime) == unit_interface(current, role, name, *runtime))
}

type UnitInterface = (RuntimeKind, Vec<String>, Vec<(String, u16, Option<u16>, PortProtocol)>);

/// The properties of a unit that other units can observe: its runtime, its ports, and the order of the ports in the
/// manifest (the first one may be the main port).
fn unit_interface(
    loaded: &LoadedManifest,
    role: Role,
    name: &str,
    default_runtime: RuntimeKind,
) -> Option<UnitInterface> {
    let (mut diagnostics, mut notes) = (Vec::new(), Vec::new());
    let mut chooser = RuntimeChooser {
        manifest: &loaded.manifest,
        default_runtime,
        diagnostics: &mut diagnostics,
        notes: &mut notes,
    };
    let draft = draft::draft_unit(loaded, &mut chooser, role, name)?;
    let port_order = draft.service().map(|service| service.ports.keys().cloned().collect()).unwrap_or_default();
    let ports =
        draft.ports().into_iter().map(|(name, port)| (name, port.listen_port, port.fixed, port.protocol)).collect();
    Some((draft.runtime, port_order, ports))
}
