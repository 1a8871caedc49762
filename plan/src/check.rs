//! Everything `up` would refuse whatever it finds at the time, in one call: what `pdev check`, `pdev up` and the language
//! server say of a manifest is this function's answer, so that they agree on codes and places.
//!
//! What depends on a container engine being there is left to the agent.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use manifest::model::Date;
use manifest::{Diagnostic, Files};

use crate::application::{PreviewId, PreviewName, RuntimeKind};
use crate::load::{LoadOptions, Loaded, load_after};
use crate::resolve::{
    Context, Findings, Git, Kept, Moved, Resolved, compare, depending_on_runtime, findings_after, in_order,
    required_ports, resolve, resolve_where,
};
use crate::{allow, codes};

/// What changes the answer, besides the files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Question {
    pub options: LoadOptions,
    /// Only what concerns this runtime; what holds under every one of them when it is left open.
    pub runtime: Option<RuntimeKind>,
    /// What `${env.X}` may read.
    pub variables: BTreeMap<String, String>,
    pub today: Date,
}

/// A manifest as read, and everything found in it, in the order of the files.
#[derive(Clone, Debug)]
pub struct Checked {
    pub loaded: Loaded,
    pub diagnostics: Vec<Diagnostic>,
    /// What was found in each unit, for [`check_after`].
    kept: KeptBy,
}

/// By the runtime that was the default.
#[derive(Clone, Debug, Default)]
struct KeptBy {
    docker: Kept,
    process: Kept,
}

impl KeptBy {
    fn of(&mut self, runtime: RuntimeKind) -> &mut Kept {
        match runtime {
            RuntimeKind::Docker => &mut self.docker,
            RuntimeKind::Process => &mut self.process,
        }
    }
}

/// Reads `root` and what it includes and uses, and resolves it for every runtime in question.
#[must_use]
pub fn check(root: &str, files: &dyn Files, question: &Question) -> Checked {
    check_after(root, files, question, None)
}

/// The same answer, sooner where `before` is the answer to the same question about files that differ in a few units.
#[must_use]
pub fn check_after(root: &str, files: &dyn Files, question: &Question, before: Option<&Checked>) -> Checked {
    let loaded = load_after(root, files, &question.options, before.map(|before| &before.loaded));
    let moved = before.and_then(|before| Some((compare(&before.loaded, &loaded)?, before)));
    let mut look = Look { loaded: &loaded, question, before: moved, kept: KeptBy::default() };
    let mut diagnostics = loaded.diagnostics.clone();
    diagnostics.extend(if loaded.is_usable() { look.certain() } else { look.dangling() });
    let kept = look.kept;
    allow::apply(&loaded, &mut diagnostics);
    diagnostics.sort_by_key(|found| (found.span.file, found.span.start, found.code));
    diagnostics.dedup();
    Checked { loaded, diagnostics, kept }
}

struct Look<'a> {
    loaded: &'a Loaded,
    question: &'a Question,
    before: Option<(Moved, &'a Checked)>,
    kept: KeptBy,
}

impl Look<'_> {
    fn findings(&self, context: &Context, wanted: &dyn Fn(&str) -> bool) -> Findings {
        let before = self.before.as_ref().map(|(moved, before)| {
            let kept = match context.default_runtime {
                RuntimeKind::Docker => &before.kept.docker,
                RuntimeKind::Process => &before.kept.process,
            };
            (moved, kept)
        });
        findings_after(self.loaded, context, wanted, before)
    }

    /// Placeholders that lead nowhere, found even where the manifest cannot be used yet, so that one run tells all. Not
    /// those about ports: a port that could not be read would be missed twice.
    fn dangling(&mut self) -> Vec<Diagnostic> {
        let runtime = self.question.runtime.unwrap_or(RuntimeKind::Docker);
        let context = stand_ins(self.loaded, self.question, runtime);
        let Findings { mut diagnostics, kept, .. } = self.findings(&context, &|_| true);
        *self.kept.of(runtime) = kept;
        diagnostics.retain(|found| {
            matches!(found.code, codes::UNRESOLVED | codes::UNKNOWN_OUTPUT) && !found.message.contains(" port")
        });
        in_order(diagnostics)
    }

    /// What is found under every runtime that could be chosen.
    fn certain(&mut self) -> Vec<Diagnostic> {
        let (loaded, question) = (self.loaded, self.question);
        let runtime = question.runtime.unwrap_or(RuntimeKind::Docker);
        let mut found = self.under(runtime, &|_| true);
        let differing = if question.runtime.is_some() { BTreeSet::new() } else { depending_on_runtime(loaded) };
        if differing.is_empty() {
            return found;
        }
        // Whether a waiver is used depends on every unit.
        let all = !loaded.manifest.waivers.is_empty();
        let again = |unit: &str| all || differing.contains(unit);
        let key = |found: &Diagnostic| (found.span, found.code, found.message.clone());
        // A set, because a manifest of thousands of lines may have thousands of findings.
        let other = self.under(RuntimeKind::Process, &again);
        let other: HashSet<_> = other.iter().map(key).collect();
        found.retain(|found| !(all || about_one_of(&differing, &found.path)) || other.contains(&key(found)));
        found
    }

    fn under(&mut self, runtime: RuntimeKind, wanted: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
        let context = stand_ins(self.loaded, self.question, runtime);
        let (found, kept) = self.findings(&context, wanted).judged(self.loaded, &context);
        *self.kept.of(runtime) = kept;
        found
    }
}

fn about_one_of(units: &BTreeSet<String>, path: &str) -> bool {
    let unit = path.match_indices('.').nth(1).map_or(path, |(end, _)| &path[..end]);
    units.contains(unit)
}

/// The application as it would be, with stand-ins for what only the agent hands out.
#[must_use]
pub fn resolved(loaded: &Loaded, question: &Question, runtime: RuntimeKind) -> Resolved {
    resolve(loaded, &stand_ins(loaded, question, runtime))
}

/// The same for one unit (`services.api`), as a hover asks: a moment even in the longest manifest.
#[must_use]
pub fn resolved_unit(loaded: &Loaded, question: &Question, runtime: RuntimeKind, unit: &str) -> Resolved {
    resolve_where(loaded, &stand_ins(loaded, question, runtime), &|place| place == unit)
}

/// A context with stand-ins for what only the agent hands out.
fn stand_ins(loaded: &Loaded, question: &Question, runtime: RuntimeKind) -> Context {
    let environment = question.options.environment.as_deref().unwrap_or("local");
    let preview = PreviewName {
        id: PreviewId("check".to_owned()),
        app: crate::naming::app_label(&loaded.manifest.app.name.value).text,
        branch: "main".to_owned(),
        environment: environment.to_owned(),
    };
    let wishes = required_ports(loaded, runtime).into_iter().zip(20_000_u16..);
    Context {
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
