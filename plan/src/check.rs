//! Finds everything in a manifest that makes `up` refuse, independent of the current state of the machine.
//! `pdev check`, `pdev up` and the language server call this function, so they report the same codes and positions.
//!
//! The agent checks what depends on whether a container engine is available.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use manifest::date::Date;
use manifest::{Diagnostic, Files};

use crate::allow_comments;
use crate::application::{PreviewId, PreviewName, RuntimeKind};
use crate::broken_units::BrokenUnits;
use crate::load::{LoadOptions, LoadedManifest, load_incremental};
use crate::resolve::{
    Findings, FindingsCache, Git, ResolveInputs, ResolvedApplication, UnitOffsets, collect_findings,
    compute_unit_offsets, required_ports, resolve_selected, runtime_dependent_units,
};

/// Everything except the files that affects the result.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckOptions {
    pub load_options: LoadOptions,
    /// Report findings for this runtime only. `None` reports the findings that every possible runtime has in common.
    pub runtime: Option<RuntimeKind>,
    /// The variables that `${env.X}` may read.
    pub variables: BTreeMap<String, String>,
    pub today: Date,
}

/// A loaded manifest and all its diagnostics, sorted by position.
#[derive(Clone, Debug)]
pub struct CheckResult {
    pub loaded: LoadedManifest,
    pub diagnostics: Vec<Diagnostic>,
    /// Findings per unit, which [`check_incremental`] reuses.
    findings_cache: FindingsCacheByRuntime,
}

/// One cache for each default runtime that was checked.
type FindingsCacheByRuntime = BTreeMap<RuntimeKind, FindingsCache>;

/// Loads `root` with its includes and modules, and resolves it for every runtime that `options` allows.
#[must_use]
pub fn check(root: &str, files: &dyn Files, options: &CheckOptions) -> CheckResult {
    check_incremental(root, files, options, None)
}

/// Returns the same result as [`check`], faster if `previous` is the result for the same `options` and for files that
/// differ in a few units.
#[must_use]
pub fn check_incremental(
    root: &str,
    files: &dyn Files,
    options: &CheckOptions,
    previous: Option<&CheckResult>,
) -> CheckResult {
    let loaded = load_incremental(root, files, &options.load_options, previous.map(|previous| &previous.loaded));
    let previous = previous.and_then(|previous| Some((compute_unit_offsets(&previous.loaded, &loaded)?, previous)));
    let mut run = CheckRun { loaded: &loaded, options, previous, findings_cache: FindingsCacheByRuntime::new() };
    let mut findings = run.findings_for_all_runtimes();
    let findings_cache = run.findings_cache;
    let broken_units = BrokenUnits::find(&loaded);
    if !loaded.is_usable() {
        findings.retain(|found| broken_units.is_reliable(&loaded, found));
    }
    let mut diagnostics = loaded.diagnostics.clone();
    diagnostics.extend(findings);
    allow_comments::apply(&loaded, &broken_units, &mut diagnostics);
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.file, diagnostic.span.start, diagnostic.code));
    diagnostics.dedup();
    CheckResult { loaded, diagnostics, findings_cache }
}

struct CheckRun<'a> {
    loaded: &'a LoadedManifest,
    options: &'a CheckOptions,
    previous: Option<(UnitOffsets, &'a CheckResult)>,
    findings_cache: FindingsCacheByRuntime,
}

impl CheckRun<'_> {
    fn collect_findings(&self, inputs: &ResolveInputs, is_selected: &dyn Fn(&str) -> bool) -> Findings {
        let previous = self.previous.as_ref().and_then(|(offsets, previous)| {
            let cache = previous.findings_cache.get(&inputs.default_runtime)?;
            Some((offsets, cache))
        });
        collect_findings(self.loaded, inputs, is_selected, previous)
    }

    /// The findings that apply under every runtime that could be chosen.
    fn findings_for_all_runtimes(&mut self) -> Vec<Diagnostic> {
        let loaded = self.loaded;
        let runtimes = self.options.runtime.map_or_else(RuntimeKind::default_candidates, |runtime| vec![runtime]);
        let Some((first, others)) = runtimes.split_first() else { return Vec::new() };
        let mut findings = self.findings_for_runtime(*first, &|_| true);
        let differing = if others.is_empty() { BTreeSet::new() } else { runtime_dependent_units(loaded) };
        if differing.is_empty() {
            return findings;
        }
        // Whether a waiver is used depends on every unit, so with waivers all units are checked again.
        let all = !loaded.manifest.waivers.is_empty();
        let needs_second_check = |unit: &str| all || differing.contains(unit);
        let key = |diagnostic: &Diagnostic| (diagnostic.span, diagnostic.code, diagnostic.message.clone());
        for other in others {
            let other_findings = self.findings_for_runtime(*other, &needs_second_check);
            // A set, because a manifest of thousands of lines may have thousands of findings.
            let other_keys: HashSet<_> = other_findings.iter().map(key).collect();
            findings.retain(|diagnostic| {
                let was_checked_again = all || is_in_units(&differing, &diagnostic.path);
                !was_checked_again || other_keys.contains(&key(diagnostic))
            });
        }
        findings
    }

    fn findings_for_runtime(&mut self, runtime: RuntimeKind, is_selected: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
        let inputs = inputs_without_agent(self.loaded, self.options, runtime);
        let (diagnostics, cache) = self.collect_findings(&inputs, is_selected).into_diagnostics(self.loaded, &inputs);
        self.findings_cache.insert(runtime, cache);
        diagnostics
    }
}

fn is_in_units(units: &BTreeSet<String>, path: &str) -> bool {
    let unit = path.match_indices('.').nth(1).map_or(path, |(end, _)| &path[..end]);
    units.contains(unit)
}

/// Resolves the application to show it to the user: what only `up` decides reads [`CHOSEN_AT_UP`]. To find it, this
/// resolves twice with different placeholder values. `unit` (`services.api`) limits it to one unit, which is fast
/// even in a long manifest; hover needs that.
///
/// [`CHOSEN_AT_UP`]: crate::origin::CHOSEN_AT_UP
#[must_use]
pub fn resolve_known_values(
    loaded: &LoadedManifest,
    options: &CheckOptions,
    runtime: RuntimeKind,
    unit: Option<&str>,
) -> ResolvedApplication {
    let is_selected = |path: &str| unit.is_none_or(|unit| path == unit);
    let mut resolved = resolve_selected(loaded, &inputs_without_agent(loaded, options, runtime), &is_selected);
    let other = resolve_selected(loaded, &other_inputs_without_agent(loaded, options, runtime), &is_selected);
    resolved.origins = resolved.origins.without_differences(&other.origins);
    resolved
}

/// Placeholder values of which none begins or ends like that of [`inputs_without_agent`].
fn other_inputs_without_agent(loaded: &LoadedManifest, options: &CheckOptions, runtime: RuntimeKind) -> ResolveInputs {
    let mut inputs = inputs_without_agent(loaded, options, runtime);
    let fixed: HashSet<_> = required_ports(loaded, runtime)
        .into_iter()
        .filter(|request| request.fixed.is_some())
        .map(|request| (request.unit, request.port))
        .collect();
    let free_ports = inputs.ports.iter_mut().filter(|(name, _)| !fixed.contains(*name));
    free_ports.for_each(|(_, port)| *port += 21_111);
    inputs.preview.id = PreviewId("other".to_owned());
    inputs.preview.branch = "work".to_owned();
    inputs.proxy_port = 10_971;
    inputs.git = Git { branch: Some("work".to_owned()), commit: Some("1".repeat(40)) };
    inputs.secrets_folder = "secrets:".to_owned();
    inputs.password_seed = "other".to_owned();
    inputs
}

/// Inputs with placeholder values for everything that only the agent can assign, such as ports.
fn inputs_without_agent(loaded: &LoadedManifest, options: &CheckOptions, runtime: RuntimeKind) -> ResolveInputs {
    let environment = options.load_options.environment.as_deref().unwrap_or("local");
    let preview = PreviewName {
        id: PreviewId("check".to_owned()),
        app: crate::naming::app_label(&loaded.manifest.app.name.value).text,
        branch: "main".to_owned(),
        environment: environment.to_owned(),
    };
    let requests = required_ports(loaded, runtime).into_iter().zip(20_000_u16..);
    ResolveInputs {
        preview,
        default_runtime: runtime,
        ports: requests.map(|(request, port)| ((request.unit, request.port), request.fixed.unwrap_or(port))).collect(),
        proxy_port: 8642,
        environment: options.variables.clone(),
        git: Git { branch: Some("main".to_owned()), commit: Some("0".repeat(40)) },
        secrets_folder: "/run/pdev/secrets".to_owned(),
        password_seed: String::new(),
        today: options.today,
    }
}
