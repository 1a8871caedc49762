//! What was found in an earlier version of a manifest, for units that are the same in the next one.
//!
//! What is found in a unit depends on the unit itself, on all that is no unit, and on what others show of themselves:
//! names, ports, runtimes, resources with their modules. Where the latter two are the same, a unit whose part of the tree
//! is the same but for its place has the same findings, at its new place. Whatever is not certain is looked at anew.

use std::collections::{HashMap, HashSet};

use manifest::Diagnostic;
use manifest::syntax::{Kind, Node, Pair};
use manifest::{FileId, Span};

use super::draft::{self, UnitDraft};
use super::runtimes::RuntimeChooser;
use crate::application::{PortProtocol, Role, RuntimeKind};
use crate::guardrails::Finding;
use crate::load::LoadedManifest;

/// Found in one unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnitFindings {
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) violations: Vec<Finding>,
}

/// By unit, in the order of the drafts. None where it was not looked at, or points at what is not the unit's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct FindingsCache(Vec<Option<UnitFindings>>);

/// How far each unit has moved since an earlier version, in the order of the drafts. None for those that have changed.
#[derive(Clone, Debug)]
pub(crate) struct UnitOffsets(Vec<Option<i32>>);

impl FindingsCache {
    pub(super) fn push(&mut self, loaded: &LoadedManifest, draft: &UnitDraft<'_>, found: &UnitFindings) {
        let own = unit_span(loaded, draft);
        let inside = |span: Span| span.file == own.file && own.start <= span.start && span.end <= own.end;
        let all_inside = found.violations.iter().all(|one| inside(one.span))
            && found.diagnostics.iter().flat_map(diagnostic_spans).all(inside);
        self.0.push(all_inside.then(|| found.clone()));
    }

    pub(super) fn push_empty(&mut self) {
        self.0.push(None);
    }

    /// At its place of now, if it still holds.
    pub(super) fn get(&self, unit: usize, moved: &UnitOffsets) -> Option<UnitFindings> {
        let by = (*moved.0.get(unit)?)?;
        let kept = self.0.get(unit)?.as_ref()?;
        Some(UnitFindings {
            diagnostics: kept.diagnostics.iter().map(|one| one.shifted(by)).collect(),
            violations: kept
                .violations
                .iter()
                .map(|one| Finding { span: one.span.shifted(by), ..one.clone() })
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

fn diagnostic_spans(found: &Diagnostic) -> impl Iterator<Item = Span> {
    let related = found.related.iter().map(|related| related.span);
    let edits = found.fixes.iter().flat_map(|fix| &fix.edits).map(|edit| edit.span);
    std::iter::once(found.span).chain(related).chain(edits)
}

/// Both read for the same question. `None` where every unit has to be looked at.
pub(crate) fn compute_unit_offsets(before: &LoadedManifest, now: &LoadedManifest) -> Option<UnitOffsets> {
    if !(is_self_contained(before) && is_self_contained(now) && has_same_modules(before, now)) {
        return None;
    }
    let (old, new) = (before.root.as_ref()?.as_map()?, now.root.as_ref()?.as_map()?);
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
    mark_dependent_jobs_changed(now, &mut units);
    let mut changed = units.iter().filter(|(_, moved)| moved.is_none()).map(|(unit, _)| unit);
    if !changed.all(|(role, name)| has_same_interface(before, now, *role, name)) {
        return None;
    }
    let manifest = &now.manifest;
    let own = |role: Role, name: &str| units.get(&(role, name)).copied().flatten();
    let services = manifest.services.keys().map(|name| own(Role::Service, name));
    let jobs = manifest.jobs.keys().map(|name| own(Role::Job, name));
    // Resources stand among what has to be the same; how far they moved is not looked for, because they are few.
    let resources = manifest.resources.keys().filter(|name| now.modules.contains_key(*name)).map(|_| None);
    Some(UnitOffsets(services.chain(jobs).chain(resources).collect()))
}

/// Nothing is laid over or under the one file: its tree is all there is.
fn is_self_contained(loaded: &LoadedManifest) -> bool {
    let overlay = |root: &Node| {
        let all = root.get("environments");
        all.is_some_and(|all| all.value.get(&loaded.manifest.environment.name).is_some())
    };
    loaded.sources.iter().count() == 1 && !loaded.root.as_ref().is_some_and(overlay)
}

/// Those in folders may have changed without another name or version.
fn has_same_modules(before: &LoadedManifest, now: &LoadedManifest) -> bool {
    let built_in = catalog::Source::BuiltIn.to_string();
    let same = |((one, old), (other, new)): ((&String, &crate::module::Module), (&String, &crate::module::Module))| {
        one == other
            && (&old.name, &old.version) == (&new.name, &new.version)
            && [&old.source, &new.source] == [&built_in; 2]
    };
    before.modules.len() == now.modules.len() && before.modules.iter().zip(&now.modules).all(same)
}

/// How far, when it is the same but for its place.
fn pair_offset(old: &Pair, new: &Pair) -> Option<i32> {
    let start = |pair: &Pair| i32::try_from(pair.key.span.start).ok();
    let by = start(new)?.checked_sub(start(old)?)?;
    is_same_pair(old, new, by).then_some(by)
}

fn is_same_pair(old: &Pair, new: &Pair, by: i32) -> bool {
    old.key.span.shifted(by) == new.key.span
        && old.key.value == new.key.value
        && is_same_node(&old.value, &new.value, by)
}

fn is_same_node(old: &Node, new: &Node, by: i32) -> bool {
    let kinds = match (&old.kind, &new.kind) {
        (Kind::Scalar(old), Kind::Scalar(new)) => old == new,
        (Kind::List(old), Kind::List(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_same_node(old, new, by))
        }
        (Kind::Map(old), Kind::Map(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_same_pair(old, new, by))
        }
        _ => false,
    };
    kinds && old.span.shifted(by) == new.span && new.span.file == FileId(0)
}

/// A job takes over what its service has.
fn mark_dependent_jobs_changed<'a>(now: &'a LoadedManifest, units: &mut HashMap<(Role, &'a str), Option<i32>>) {
    let changed: HashSet<&str> = units
        .iter()
        .filter(|((role, _), moved)| *role == Role::Service && moved.is_none())
        .map(|((_, name), _)| *name)
        .collect();
    for (name, entry) in &now.manifest.jobs {
        if entry.value.service.as_ref().is_some_and(|service| changed.contains(service.value.as_str())) {
            units.insert((Role::Job, name), None);
        }
    }
}

/// Whether other units see no difference.
fn has_same_interface(before: &LoadedManifest, now: &LoadedManifest, role: Role, name: &str) -> bool {
    [RuntimeKind::Docker, RuntimeKind::Process]
        .into_iter()
        .all(|runtime| unit_interface(before, role, name, runtime) == unit_interface(now, role, name, runtime))
}

type UnitInterface = (RuntimeKind, Vec<String>, Vec<(String, u16, Option<u16>, PortProtocol)>);

/// What a unit shows of itself: where it runs, and its ports, also in the order in which they are written.
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
    let written = draft.service().map(|service| service.ports.keys().cloned().collect()).unwrap_or_default();
    let ports =
        draft.ports().into_iter().map(|(name, port)| (name, port.listen_port, port.fixed, port.protocol)).collect();
    Some((draft.runtime, written, ports))
}
