//! Everything `up` would refuse whatever it finds at the time, in one call: what `pdev check`, `pdev up` and the language
//! server say of a manifest is this function's answer, so that they agree on codes and places.
//!
//! What depends on a container engine being there is left to the agent.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use manifest::model::Date;
use manifest::{Diagnostic, Files};

use crate::application::{PreviewId, PreviewName, RuntimeKind};
use crate::load::{LoadOptions, LoadedManifest, load_incremental};
use crate::resolve::{
    Findings, FindingsCache, Git, ResolveInputs, ResolvedApplication, UnitOffsets, collect_findings,
    compute_unit_offsets, required_ports, resolve, resolve_selected, runtime_dependent_units, sort_and_dedup,
};
use crate::{allow_comments, codes};

/// What changes the answer, besides the files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckOptions {
    pub load_options: LoadOptions,
    /// Only what concerns this runtime; what holds under every one of them when it is left open.
    pub runtime: Option<RuntimeKind>,
    /// What `${env.X}` may read.
    pub variables: BTreeMap<String, String>,
    pub today: Date,
}

/// A manifest as read, and everything found in it, in the order of the files.
#[derive(Clone, Debug)]
pub struct CheckResult {
    pub loaded: LoadedManifest,
    pub diagnostics: Vec<Diagnostic>,
    /// What was found in each unit, for [`check_after`].
    findings_cache: FindingsCacheByRuntime,
}

/// By the runtime that was the default.
#[derive(Clone, Debug, Default)]
struct FindingsCacheByRuntime {
    docker: FindingsCache,
    process: FindingsCache,
}

impl FindingsCacheByRuntime {
    fn for_runtime_mut(&mut self, runtime: RuntimeKind) -> &mut FindingsCache {
        match runtime {
            RuntimeKind::Docker => &mut self.docker,
            RuntimeKind::Process => &mut self.process,
        }
    }
}

/// Reads `root` and what it includes and uses, and resolves it for every runtime in question.
#[must_use]
pub fn check(root: &str, files: &dyn Files, question: &CheckOptions) -> CheckResult {
    check_incremental(root, files, question, None)
}

/// The same answer, sooner where `before` is the answer to the same question about files that differ in a few units.
#[must_use]
pub fn check_incremental(
    root: &str,
    files: &dyn Files,
    question: &CheckOptions,
    before: Option<&CheckResult>,
) -> CheckResult {
    let loaded = load_incremental(root, files, &question.load_options, before.map(|before| &before.loaded));
    let moved = before.and_then(|before| Some((compute_unit_offsets(&before.loaded, &loaded)?, before)));
    let mut look = CheckRun {
        loaded: &loaded,
        options: question,
        previous: moved,
        findings_cache: FindingsCacheByRuntime::default(),
    };
    let mut diagnostics = loaded.diagnostics.clone();
    diagnostics.extend(if loaded.is_usable() {
        look.findings_for_all_runtimes()
    } else {
        look.find_unresolved_references()
    });
    let kept = look.findings_cache;
    allow_comments::apply(&loaded, &mut diagnostics);
    diagnostics.sort_by_key(|found| (found.span.file, found.span.start, found.code));
    diagnostics.dedup();
    CheckResult { loaded, diagnostics, findings_cache: kept }
}

struct CheckRun<'a> {
    loaded: &'a LoadedManifest,
    options: &'a CheckOptions,
    previous: Option<(UnitOffsets, &'a CheckResult)>,
    findings_cache: FindingsCacheByRuntime,
}

impl CheckRun<'_> {
    fn collect_findings(&self, context: &ResolveInputs, wanted: &dyn Fn(&str) -> bool) -> Findings {
        let before = self.previous.as_ref().map(|(moved, before)| {
            let kept = match context.default_runtime {
                RuntimeKind::Docker => &before.findings_cache.docker,
                RuntimeKind::Process => &before.findings_cache.process,
            };
            (moved, kept)
        });
        collect_findings(self.loaded, context, wanted, before)
    }

    /// Placeholders that lead nowhere, found even where the manifest cannot be used yet, so that one run tells all. Not
    /// those about ports: a port that could not be read would be missed twice.
    fn find_unresolved_references(&mut self) -> Vec<Diagnostic> {
        let runtime = self.options.runtime.unwrap_or(RuntimeKind::Docker);
        let context = inputs_without_agent(self.loaded, self.options, runtime);
        let Findings { mut diagnostics, findings_cache: kept, .. } = self.collect_findings(&context, &|_| true);
        *self.findings_cache.for_runtime_mut(runtime) = kept;
        diagnostics.retain(|found| {
            matches!(found.code, codes::UNRESOLVED | codes::UNKNOWN_OUTPUT) && !found.message.contains(" port")
        });
        sort_and_dedup(diagnostics)
    }

    /// What is found under every runtime that could be chosen.
    fn findings_for_all_runtimes(&mut self) -> Vec<Diagnostic> {
        let (loaded, question) = (self.loaded, self.options);
        let runtime = question.runtime.unwrap_or(RuntimeKind::Docker);
        let mut found = self.findings_for_runtime(runtime, &|_| true);
        let differing = if question.runtime.is_some() { BTreeSet::new() } else { runtime_dependent_units(loaded) };
        if differing.is_empty() {
            return found;
        }
        // Whether a waiver is used depends on every unit.
        let all = !loaded.manifest.waivers.is_empty();
        let again = |unit: &str| all || differing.contains(unit);
        let key = |found: &Diagnostic| (found.span, found.code, found.message.clone());
        // A set, because a manifest of thousands of lines may have thousands of findings.
        let other = self.findings_for_runtime(RuntimeKind::Process, &again);
        let other: HashSet<_> = other.iter().map(key).collect();
        found.retain(|found| !(all || is_in_units(&differing, &found.path)) || other.contains(&key(found)));
        found
    }

    fn findings_for_runtime(&mut self, runtime: RuntimeKind, wanted: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
        let context = inputs_without_agent(self.loaded, self.options, runtime);
        let (found, kept) = self.collect_findings(&context, wanted).into_diagnostics(self.loaded, &context);
        *self.findings_cache.for_runtime_mut(runtime) = kept;
        found
    }
}

fn is_in_units(units: &BTreeSet<String>, path: &str) -> bool {
    let unit = path.match_indices('.').nth(1).map_or(path, |(end, _)| &path[..end]);
    units.contains(unit)
}

/// The application as it would be, with stand-ins for what only the agent hands out.
#[must_use]
pub fn resolve_without_agent(
    loaded: &LoadedManifest,
    question: &CheckOptions,
    runtime: RuntimeKind,
) -> ResolvedApplication {
    resolve(loaded, &inputs_without_agent(loaded, question, runtime))
}

/// The same for one unit (`services.api`), as a hover asks: a moment even in the longest manifest.
#[must_use]
pub fn resolve_unit_without_agent(
    loaded: &LoadedManifest,
    question: &CheckOptions,
    runtime: RuntimeKind,
    unit: &str,
) -> ResolvedApplication {
    resolve_selected(loaded, &inputs_without_agent(loaded, question, runtime), &|place| place == unit)
}

/// A context with stand-ins for what only the agent hands out.
fn inputs_without_agent(loaded: &LoadedManifest, question: &CheckOptions, runtime: RuntimeKind) -> ResolveInputs {
    let environment = question.load_options.environment.as_deref().unwrap_or("local");
    let preview = PreviewName {
        id: PreviewId("check".to_owned()),
        app: crate::naming::app_label(&loaded.manifest.app.name.value).text,
        branch: "main".to_owned(),
        environment: environment.to_owned(),
    };
    let wishes = required_ports(loaded, runtime).into_iter().zip(20_000_u16..);
    ResolveInputs {
        preview,
        default_runtime: runtime,
        ports: wishes.map(|(wish, stand_in)| ((wish.unit, wish.port), wish.fixed.unwrap_or(stand_in))).collect(),
        proxy_port: 8642,
        environment: question.variables.clone(),
        git: Git { branch: Some("main".to_owned()), commit: Some("0".repeat(40)) },
        secrets_folder: "/run/pdev/secrets".to_owned(),
        password_seed: String::new(),
        today: question.today,
    }
}
