//! Everything `up` would refuse whatever it finds at the time, in one call: what `pdev check`, `pdev up` and the language
//! server say of a manifest is this function's answer, so that they agree on codes and places.
//!
//! What depends on a container engine being there is left to the agent.

use std::collections::{BTreeMap, HashSet};

use manifest::model::Date;
use manifest::{Diagnostic, Files};

use crate::allow;
use crate::application::{PreviewId, PreviewName, RuntimeKind};
use crate::load::{LoadOptions, Loaded, load};
use crate::resolve::{Context, Git, Resolved, depends_on_runtime, required_ports, resolve};

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
#[derive(Clone, Debug, Default)]
pub struct Checked {
    pub loaded: Loaded,
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads `root` and what it includes and uses, and resolves it for every runtime in question.
#[must_use]
pub fn check(root: &str, files: &dyn Files, question: &Question) -> Checked {
    let loaded = load(root, files, &question.options);
    let mut diagnostics = loaded.diagnostics.clone();
    if loaded.is_usable() {
        diagnostics.extend(certain(&loaded, question));
    }
    allow::apply(&loaded, &mut diagnostics);
    diagnostics.sort_by_key(|found| (found.span.file, found.span.start, found.code));
    diagnostics.dedup();
    Checked { loaded, diagnostics }
}

/// What resolving finds under every runtime that could be chosen.
fn certain(loaded: &Loaded, question: &Question) -> Vec<Diagnostic> {
    let both = [RuntimeKind::Docker, RuntimeKind::Process];
    let either = if depends_on_runtime(loaded) { &both[..] } else { &both[..1] };
    let runtimes = question.runtime.as_ref().map_or(either, std::slice::from_ref);
    let mut found = runtimes.iter().map(|&runtime| resolved(loaded, question, runtime).diagnostics);
    let first = found.next().unwrap_or_default();
    let key = |found: &Diagnostic| (found.span, found.code, found.message.clone());
    found.fold(first, |kept, other| {
        // A set, because a manifest of thousands of lines may have thousands of findings.
        let other: HashSet<_> = other.iter().map(key).collect();
        kept.into_iter().filter(|diagnostic| other.contains(&key(diagnostic))).collect()
    })
}

/// The application as it would be, with stand-ins for what only the agent hands out.
#[must_use]
pub fn resolved(loaded: &Loaded, question: &Question, runtime: RuntimeKind) -> Resolved {
    let environment = question.options.environment.as_deref().unwrap_or("local");
    let preview = PreviewName {
        id: PreviewId("check".to_owned()),
        app: crate::naming::app_label(&loaded.manifest.app.name.value).text,
        branch: "main".to_owned(),
        environment: environment.to_owned(),
    };
    let wishes = required_ports(loaded, runtime).into_iter().zip(20_000_u16..);
    let context = Context {
        preview,
        default_runtime: runtime,
        ports: wishes.map(|(wish, stand_in)| ((wish.unit, wish.port), wish.fixed.unwrap_or(stand_in))).collect(),
        proxy_port: 8642,
        environment: question.variables.clone(),
        git: Git { branch: Some("main".to_owned()), commit: Some("0".repeat(40)) },
        secrets_folder: "/run/pdev/secrets".to_owned(),
        password_seed: String::new(),
        today: question.today,
    };
    resolve(loaded, &context)
}
