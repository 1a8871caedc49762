//! From what was written to what is wanted: placeholders resolved for the consumer that reads them, defaults filled,
//! objects rendered, each field with its origin.
//!
//! Knows nothing of what runs now. Everything from outside (ports, git, the user's environment, today) is a value of
//! [`Context`]. Never fails: what cannot be resolved is a diagnostic, and the rest is still there.

mod containers;
mod draft;
mod health;
mod hostnames;
mod incremental;
mod injected_env;
mod modules;
mod needs;
mod object_patches;
mod processes;
mod references;
mod runtimes;
mod service_origins;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use manifest::model::Date;
use manifest::{Diagnostic, Severity};

use crate::application::{Application, PreviewName, RuntimeKind, UnitName, UnitPort};
use crate::guardrails;
use crate::load::LoadedManifest;
use crate::origin::Origins;
use incremental::UnitFindings;
pub(crate) use incremental::{FindingsCache, UnitOffsets, compute_unit_offsets};
use references::{ResolveContext, ResolveDepth};

/// Everything that resolving needs from outside.
#[derive(Clone, PartialEq, Debug)]
pub struct ResolveInputs {
    pub preview: PreviewName,
    /// Where a unit runs when neither it nor its environment says: docker where an engine answers.
    pub default_runtime: RuntimeKind,
    /// Host ports that are claimed already, by (unit, port name); see [`required_ports`].
    pub ports: BTreeMap<(UnitName, String), u16>,
    pub proxy_port: u16,
    /// What `${env.X}` may read.
    pub environment: BTreeMap<String, String>,
    pub git: Git,
    /// Absolute folder; a process reads its secret at `<folder>/<unit>/<secret>`.
    pub secrets_folder: String,
    /// Mixed into the passwords that resources get, so that nobody can compute them from a branch's name.
    pub password_seed: String,
    pub today: Date,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Git {
    pub branch: Option<String>,
    pub commit: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ResolvedApplication {
    pub application: Application,
    pub origins: Origins,
    /// For people, nothing wrong: `web runs as a process: it has no image`.
    pub notes: Vec<String>,
    pub diagnostics: Vec<Diagnostic>,
}

impl ResolvedApplication {
    /// False when `up` must refuse.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }
}

/// A port that the agent has to claim before resolving.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortRequest {
    pub unit: UnitName,
    pub port: String,
    /// The user insists on this one.
    pub fixed: Option<u16>,
}

/// Which host ports the application needs, in the order of unit and port names.
#[must_use]
pub fn required_ports(loaded: &LoadedManifest, default_runtime: RuntimeKind) -> Vec<PortRequest> {
    let drafts = draft::draft_units(loaded, default_runtime, &mut Vec::new(), &mut Vec::new());
    let mut wishes: Vec<PortRequest> = drafts.iter().flat_map(draft::UnitDraft::port_requests).collect();
    wishes.sort_by(|a, b| (&a.unit, &a.port).cmp(&(&b.unit, &b.port)));
    wishes
}

/// The places (`services.api`) of the units that would run elsewhere if another runtime were the default. About all
/// others, resolving for one of them finds what resolving for the other does.
#[must_use]
pub fn runtime_dependent_units(loaded: &LoadedManifest) -> BTreeSet<String> {
    let chosen = |runtime| draft::draft_units(loaded, runtime, &mut Vec::new(), &mut Vec::new());
    let (docker, process) = (chosen(RuntimeKind::Docker), chosen(RuntimeKind::Process));
    let differing = docker.into_iter().zip(&process).filter(|(one, other)| one.runtime != other.runtime);
    differing.map(|(one, _)| one.path).collect()
}

/// The application as it should be.
#[must_use]
pub fn resolve(loaded: &LoadedManifest, context: &ResolveInputs) -> ResolvedApplication {
    resolve_selected(loaded, context, &|_| true)
}

/// Only the units whose place (`services.api`) is wanted; of the others no more is known than what these refer to.
#[must_use]
pub fn resolve_selected(
    loaded: &LoadedManifest,
    context: &ResolveInputs,
    wanted: &dyn Fn(&str) -> bool,
) -> ResolvedApplication {
    let mut diagnostics = Vec::new();
    let mut notes = Vec::new();
    let drafts = draft::draft_units(loaded, context.default_runtime, &mut diagnostics, &mut notes);
    hostnames::check(&loaded.manifest, &mut diagnostics);
    let mut origins = Origins::default();
    let world = ResolveContext::new(loaded, context, &drafts, ResolveDepth::Full);
    let mut application = Application {
        preview: context.preview.clone(),
        units: BTreeMap::new(),
        volumes: BTreeMap::new(),
        default_service: units::default_service(&loaded.manifest),
    };
    let mut links = needs::ReferencesByUnit::default();
    for draft in drafts.iter().filter(|draft| wanted(&draft.path)) {
        let built = units::build_unit(&world, draft, &mut origins, &mut diagnostics);
        links.insert(draft, &built.references);
        for volume in built.volumes {
            application.volumes.insert(volume, crate::application::VolumeSpec { owner: draft.name.clone() });
        }
        application.units.insert(draft.name.clone(), built.unit);
    }
    needs::resolve_needs(&drafts, &links, &mut application, &mut diagnostics);
    needs::set_process_peers(&mut application);
    object_patches::report_unmatched_patches(loaded, &drafts, &mut diagnostics);
    diagnostics.extend(guardrails::check(loaded, &application, &origins, context.today));
    ResolvedApplication { application, origins, notes, diagnostics: sort_and_dedup(diagnostics) }
}

/// What was found, before levels and waivers are decided.
pub(crate) struct Findings {
    pub(crate) diagnostics: Vec<Diagnostic>,
    violations: Vec<guardrails::Finding>,
    /// For the next version.
    pub(crate) findings_cache: FindingsCache,
}

impl Findings {
    /// With what the guardrails say.
    pub(crate) fn into_diagnostics(
        self,
        loaded: &LoadedManifest,
        context: &ResolveInputs,
    ) -> (Vec<Diagnostic>, FindingsCache) {
        let Self { mut diagnostics, violations, findings_cache: kept } = self;
        diagnostics.extend(guardrails::to_diagnostics(loaded, &context.preview.environment, context.today, violations));
        (sort_and_dedup(diagnostics), kept)
    }
}

/// The diagnostics of [`resolve_where`] alone, in a quarter of its time: asked at every keystroke in an editor. Each
/// unit is forgotten once it was looked at.
#[must_use]
pub fn diagnose(loaded: &LoadedManifest, context: &ResolveInputs, wanted: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
    collect_findings(loaded, context, wanted, None).into_diagnostics(loaded, context).0
}

/// The same, before anything is judged; units that have only moved since `before` are not looked at again.
pub(crate) fn collect_findings(
    loaded: &LoadedManifest,
    context: &ResolveInputs,
    wanted: &dyn Fn(&str) -> bool,
    before: Option<(&UnitOffsets, &FindingsCache)>,
) -> Findings {
    let mut diagnostics = Vec::new();
    let drafts = draft::draft_units(loaded, context.default_runtime, &mut diagnostics, &mut Vec::new());
    hostnames::check(&loaded.manifest, &mut diagnostics);
    let world = ResolveContext::new(loaded, context, &drafts, ResolveDepth::Diagnostics);
    let known = |unit| before.and_then(|(moved, kept)| kept.get(unit, moved));
    let looks: Vec<AnalysisDecision> =
        drafts.iter().zip(0..).map(|(draft, unit)| decide_analysis(draft, wanted, || known(unit))).collect();
    let anew: Vec<&draft::UnitDraft<'_>> = drafts
        .iter()
        .zip(&looks)
        .filter(|(_, look)| matches!(look, AnalysisDecision::Analyse))
        .map(|(draft, _)| draft)
        .collect();
    let mut fresh = analyse_units(&world, &anew).into_iter();
    let (mut kept, mut violations) = (FindingsCache::default(), Vec::new());
    for (draft, look) in drafts.iter().zip(looks) {
        let found = match look {
            AnalysisDecision::Skip => None,
            AnalysisDecision::Reuse(found) => Some(found),
            AnalysisDecision::Analyse => fresh.next(),
        };
        let Some(found) = found else {
            kept.push_empty();
            continue;
        };
        kept.push(loaded, draft, &found);
        diagnostics.extend(found.diagnostics);
        violations.extend(found.violations);
    }
    needs::check(&world, &drafts, &mut diagnostics);
    object_patches::report_unmatched_patches(loaded, &drafts, &mut diagnostics);
    Findings { diagnostics, violations, findings_cache: kept }
}

enum AnalysisDecision {
    /// Nobody asks about this unit.
    Skip,
    Reuse(UnitFindings),
    Analyse,
}

fn decide_analysis(
    draft: &draft::UnitDraft<'_>,
    wanted: &dyn Fn(&str) -> bool,
    known: impl FnOnce() -> Option<UnitFindings>,
) -> AnalysisDecision {
    if wanted(&draft.path) {
        known().map_or(AnalysisDecision::Analyse, AnalysisDecision::Reuse)
    } else {
        AnalysisDecision::Skip
    }
}

/// Units do not look at one another's results, so a long list is shared out to threads; its order stays.
fn analyse_units(world: &ResolveContext<'_>, drafts: &[&draft::UnitDraft<'_>]) -> Vec<UnitFindings> {
    /// Of this many a thread is worth its start (some 30 us; a unit takes 10).
    const UNITS_PER_THREAD_MIN: usize = 64;
    const THREADS_MAX: usize = 4;
    let each = drafts.len().div_ceil(THREADS_MAX).max(UNITS_PER_THREAD_MIN);
    let mut parts = drafts.chunks(each);
    let own = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(|| analyse_chunk(world, part))).collect();
        let mut found = analyse_chunk(world, own);
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    })
}

fn analyse_chunk(world: &ResolveContext<'_>, drafts: &[&draft::UnitDraft<'_>]) -> Vec<UnitFindings> {
    let look_at = |draft: &&draft::UnitDraft<'_>| {
        let mut found = UnitFindings::default();
        let mut origins = Origins::default();
        let built = units::build_unit(world, draft, &mut origins, &mut found.diagnostics);
        guardrails::check_unit(world.loaded, &built.unit, &origins, &mut found.violations);
        found
    };
    drafts.iter().map(look_at).collect()
}

pub(crate) fn sort_and_dedup(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.file, diagnostic.span.start, diagnostic.code));
    // A job repeats the lines of its service: each is told once.
    diagnostics
        .dedup_by(|later, first| (later.span, later.code, &later.message) == (first.span, first.code, &first.message));
    diagnostics
}

/// The ports of a unit as it will have them; the agent's claims first, the wished ones where it has not claimed.
fn unit_ports(draft: &draft::UnitDraft<'_>, context: &ResolveInputs) -> BTreeMap<String, UnitPort> {
    let key = |port: &str| (draft.name.clone(), port.to_owned());
    let ports = draft.ports().into_iter().map(|(name, wish)| {
        let host = context.ports.get(&key(&name)).copied().or(wish.fixed).unwrap_or(wish.listen_port);
        let inside = if draft.runtime == RuntimeKind::Process { host } else { wish.listen_port };
        (name, UnitPort { listen_port: inside, host_port: host, protocol: wish.protocol })
    });
    ports.collect()
}
