//! Resolves a manifest to the desired state: resolves placeholders for the unit that reads them, sets defaults, and
//! renders runtime objects. It records the origin of each field.
//!
//! It knows nothing about the observed state. All external values (ports, git, the user's environment, today) are in
//! [`ResolveInputs`]. It never fails: an unresolvable value becomes a diagnostic, and everything else is resolved.

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

use manifest::date::Date;
use manifest::{Diagnostic, Severity};

use crate::application::{Application, PreviewName, RuntimeKind, UnitName, UnitPort, VolumeSpec};
use crate::guardrails;
use crate::load::LoadedManifest;
use crate::origin::Origins;
use incremental::UnitFindings;
pub(crate) use incremental::{FindingsCache, UnitOffsets, compute_unit_offsets};
use references::{ResolveContext, ResolveDepth};

/// All external values that resolving needs.
#[derive(Clone, PartialEq, Debug)]
pub struct ResolveInputs {
    pub preview: PreviewName,
    /// The runtime of a unit if neither it nor its environment sets one. The agent chooses the preferred one that is
    /// available.
    pub default_runtime: RuntimeKind,
    /// Host ports that the agent has reserved, by (unit, port name); see [`required_ports`].
    pub ports: BTreeMap<(UnitName, String), u16>,
    pub proxy_port: u16,
    /// The variables that `${env.X}` may read.
    pub environment: BTreeMap<String, String>,
    pub git: Git,
    /// Absolute path of a folder. A process reads its secret at `<folder>/<unit>/<secret>`.
    pub secrets_folder: String,
    /// Part of the input from which resource passwords are derived, so that the name of a branch does not reveal them.
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
    /// Informational messages, for example which runtime pdev chose instead of an unsupported one.
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

/// A port that the agent has to reserve before the application is resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortRequest {
    pub unit: UnitName,
    pub port: String,
    /// The host port that the manifest requires, if any.
    pub fixed: Option<u16>,
}

/// The host ports that the application needs, sorted by unit and port name.
#[must_use]
pub fn required_ports(loaded: &LoadedManifest, default_runtime: RuntimeKind) -> Vec<PortRequest> {
    let drafts = draft::draft_units(loaded, default_runtime, &mut Vec::new(), &mut Vec::new());
    let mut requests: Vec<PortRequest> = drafts.iter().flat_map(draft::UnitDraft::port_requests).collect();
    requests.sort_by(|a, b| (&a.unit, &a.port).cmp(&(&b.unit, &b.port)));
    requests
}

/// The paths (`services.api`) of the units whose runtime depends on the default runtime. All other units have the same
/// findings for either default.
#[must_use]
pub fn runtime_dependent_units(loaded: &LoadedManifest) -> BTreeSet<String> {
    let draft_for = |runtime| draft::draft_units(loaded, runtime, &mut Vec::new(), &mut Vec::new());
    let mut all_drafts = RuntimeKind::default_candidates().into_iter().map(draft_for);
    let first = all_drafts.next().unwrap_or_default();
    let mut differing = BTreeSet::new();
    for other in all_drafts {
        let changed = first.iter().zip(&other).filter(|(left, right)| left.runtime != right.runtime);
        differing.extend(changed.map(|(draft, _)| draft.path.clone()));
    }
    differing
}

/// Resolves the complete application.
#[must_use]
pub fn resolve(loaded: &LoadedManifest, inputs: &ResolveInputs) -> ResolvedApplication {
    resolve_selected(loaded, inputs, &|_| true)
}

/// Resolves only the units whose path (`services.api`) is selected. Other units are read only as targets of references.
#[must_use]
pub fn resolve_selected(
    loaded: &LoadedManifest,
    inputs: &ResolveInputs,
    is_selected: &dyn Fn(&str) -> bool,
) -> ResolvedApplication {
    let mut diagnostics = Vec::new();
    let mut notes = Vec::new();
    let drafts = draft::draft_units(loaded, inputs.default_runtime, &mut diagnostics, &mut notes);
    hostnames::check(&loaded.manifest, &mut diagnostics);
    let mut origins = Origins::default();
    let context = ResolveContext::new(loaded, inputs, &drafts, ResolveDepth::Full);
    let mut application = Application {
        preview: inputs.preview.clone(),
        units: BTreeMap::new(),
        volumes: BTreeMap::new(),
        default_service: units::default_service(&loaded.manifest),
    };
    let mut references = needs::ReferencesByUnit::default();
    for draft in drafts.iter().filter(|draft| is_selected(&draft.path)) {
        let built = units::build_unit(&context, draft, &mut origins, &mut diagnostics);
        references.insert(draft, &built.references);
        for volume in built.volumes {
            let spec = VolumeSpec { owner: draft.name.clone(), runtime: draft.runtime };
            application.volumes.insert(volume, spec);
        }
        application.units.insert(draft.name.clone(), built.unit);
    }
    needs::resolve_needs(&drafts, &references, &mut application, &mut diagnostics);
    needs::set_gateway_peers(&mut application);
    object_patches::report_unmatched_patches(loaded, &drafts, &mut diagnostics);
    diagnostics.extend(guardrails::check(loaded, &application, &origins, inputs.today));
    ResolvedApplication { application, origins, notes, diagnostics: sort_and_dedup(diagnostics) }
}

/// Findings before severities and waivers are decided.
pub(crate) struct Findings {
    pub(crate) diagnostics: Vec<Diagnostic>,
    violations: Vec<guardrails::Finding>,
    /// Reused when the next version of the manifest is checked.
    pub(crate) findings_cache: FindingsCache,
}

impl Findings {
    /// Adds the guardrail violations, with severities and waivers applied.
    pub(crate) fn into_diagnostics(
        self,
        loaded: &LoadedManifest,
        inputs: &ResolveInputs,
    ) -> (Vec<Diagnostic>, FindingsCache) {
        let Self { mut diagnostics, violations, findings_cache } = self;
        diagnostics.extend(guardrails::to_diagnostics(loaded, &inputs.preview.environment, inputs.today, violations));
        (sort_and_dedup(diagnostics), findings_cache)
    }
}

/// Returns only the diagnostics of [`resolve_selected`], in a quarter of its time, because editors need them at every
/// keystroke. It drops each unit as soon as it is analysed.
#[must_use]
pub fn diagnose(
    loaded: &LoadedManifest,
    inputs: &ResolveInputs,
    is_selected: &dyn Fn(&str) -> bool,
) -> Vec<Diagnostic> {
    collect_findings(loaded, inputs, is_selected, None).into_diagnostics(loaded, inputs).0
}

/// Like [`diagnose`], before severities and waivers are decided. Units that only moved since `previous` are not
/// analysed again.
pub(crate) fn collect_findings(
    loaded: &LoadedManifest,
    inputs: &ResolveInputs,
    is_selected: &dyn Fn(&str) -> bool,
    previous: Option<(&UnitOffsets, &FindingsCache)>,
) -> Findings {
    let mut diagnostics = Vec::new();
    let drafts = draft::draft_units(loaded, inputs.default_runtime, &mut diagnostics, &mut Vec::new());
    hostnames::check(&loaded.manifest, &mut diagnostics);
    let context = ResolveContext::new(loaded, inputs, &drafts, ResolveDepth::Diagnostics);
    let reusable = |unit| previous.and_then(|(offsets, cache)| cache.get(unit, offsets));
    let decisions: Vec<AnalysisDecision> =
        drafts.iter().zip(0..).map(|(draft, unit)| decide_analysis(draft, is_selected, || reusable(unit))).collect();
    let to_analyse: Vec<&draft::UnitDraft<'_>> = drafts
        .iter()
        .zip(&decisions)
        .filter(|(_, decision)| matches!(decision, AnalysisDecision::Analyse))
        .map(|(draft, _)| draft)
        .collect();
    let mut analysed = analyse_units(&context, &to_analyse).into_iter();
    let (mut findings_cache, mut violations) = (FindingsCache::default(), Vec::new());
    for (draft, decision) in drafts.iter().zip(decisions) {
        let findings = match decision {
            AnalysisDecision::Skip => None,
            AnalysisDecision::Reuse(findings) => Some(findings),
            AnalysisDecision::Analyse => analysed.next(),
        };
        // The cache has one entry for each draft, so that its index is the draft's.
        let Some(findings) = findings else {
            findings_cache.push_empty();
            continue;
        };
        findings_cache.push(loaded, draft, &findings);
        diagnostics.extend(findings.diagnostics);
        violations.extend(findings.violations);
    }
    needs::check(&context, &drafts, &mut diagnostics);
    object_patches::report_unmatched_patches(loaded, &drafts, &mut diagnostics);
    Findings { diagnostics, violations, findings_cache }
}

enum AnalysisDecision {
    /// The unit is not selected.
    Skip,
    /// The unit only moved: its cached findings, at their new positions.
    Reuse(UnitFindings),
    Analyse,
}

fn decide_analysis(
    draft: &draft::UnitDraft<'_>,
    is_selected: &dyn Fn(&str) -> bool,
    reusable: impl FnOnce() -> Option<UnitFindings>,
) -> AnalysisDecision {
    if is_selected(&draft.path) {
        reusable().map_or(AnalysisDecision::Analyse, AnalysisDecision::Reuse)
    } else {
        AnalysisDecision::Skip
    }
}

/// Analyses units in parallel, because no unit depends on the results of another. The order of `drafts` is kept.
fn analyse_units(context: &ResolveContext<'_>, drafts: &[&draft::UnitDraft<'_>]) -> Vec<UnitFindings> {
    /// Fewer units do not repay the start of a thread, which takes about 30 us; analysing a unit takes 10 us.
    const UNITS_PER_THREAD_MIN: usize = 64;
    const THREADS_MAX: usize = 4;
    let chunk_size = drafts.len().div_ceil(THREADS_MAX).max(UNITS_PER_THREAD_MIN);
    let mut chunks = drafts.chunks(chunk_size);
    // This thread analyses the first chunk, so a short list starts no thread.
    let own_chunk = chunks.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = chunks.map(|chunk| scope.spawn(|| analyse_chunk(context, chunk))).collect();
        let mut findings = analyse_chunk(context, own_chunk);
        for worker in workers {
            findings.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        findings
    })
}

fn analyse_chunk(context: &ResolveContext<'_>, drafts: &[&draft::UnitDraft<'_>]) -> Vec<UnitFindings> {
    let analyse = |draft: &&draft::UnitDraft<'_>| {
        let mut findings = UnitFindings::default();
        let mut origins = Origins::default();
        let built = units::build_unit(context, draft, &mut origins, &mut findings.diagnostics);
        guardrails::check_unit(context.loaded, &built.unit, &origins, &mut findings.violations);
        findings
    };
    drafts.iter().map(analyse).collect()
}

pub(crate) fn sort_and_dedup(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.file, diagnostic.span.start, diagnostic.code));
    // A job inherits the values of its service, so both may have the same diagnostic. Report it once.
    diagnostics
        .dedup_by(|later, first| (later.span, later.code, &later.message) == (first.span, first.code, &first.message));
    diagnostics
}

/// The ports of a unit. The host port is the one that the agent reserved, else the fixed one, else the port on which
/// the program listens.
fn unit_ports(draft: &draft::UnitDraft<'_>, inputs: &ResolveInputs) -> BTreeMap<String, UnitPort> {
    let key = |port: &str| (draft.name.clone(), port.to_owned());
    let ports = draft.ports().into_iter().map(|(name, request)| {
        let host_port = inputs.ports.get(&key(&name)).copied().or(request.fixed).unwrap_or(request.listen_port);
        // Without a network of its own, a unit has no port mapping: it listens on the host port itself.
        let assigns_ports = draft.runtime.capabilities().addressing.assigns_ports();
        let listen_port = if assigns_ports { host_port } else { request.listen_port };
        (name, UnitPort { listen_port, host_port, protocol: request.protocol })
    });
    ports.collect()
}
