//! From files to a checked manifest with its modules: the one function behind `pdev check`, the agent and the language
//! server, whose answers are therefore identical.
//!
//! Knows nothing of a preview: what depends on one is [`crate::resolve`]'s.

use std::collections::BTreeMap;

use manifest::syntax::{Comment, Node};
use manifest::{Diagnostic, Files, Manifest, Set, Severity, Sources};

use crate::module::Module;
use crate::supply::supply;

/// Which of the manifests in the file is meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadOptions {
    /// `local` unless said.
    pub environment: Option<String>,
    pub sets: Vec<Set>,
}

/// What reading gave, however broken the files are.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub sources: Sources,
    pub manifest: Manifest,
    /// By resource name; resources whose module is unknown are missing.
    pub modules: BTreeMap<String, Module>,
    /// The text `pdev.lock` should have, when it differs from what is there.
    pub lock: Option<String>,
    pub diagnostics: Vec<Diagnostic>,
    /// The root file's own tree, for editors.
    pub root: Option<Node>,
    pub comments: Vec<Comment>,
}

impl Loaded {
    /// False when `up` must refuse, whatever the context.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }

    /// The text `pdev.lock` should have, when it differs from what is there.
    #[must_use]
    pub fn lock_update(&self) -> Option<String> {
        self.lock.clone()
    }
}

/// Reads `root` (relative to the folder behind `files`), everything it includes, and the modules its resources use.
#[must_use]
pub fn load(root: &str, files: &dyn Files, options: &LoadOptions) -> Loaded {
    let reading = manifest::read(root, files);
    let selected = reading.select(options.environment.as_deref(), &options.sets);
    let mut diagnostics = selected.diagnostics;
    // Guardrail PD016 tells the same, and can be waived.
    diagnostics.retain(|found| found.code != manifest::codes::SECRET_LITERAL);
    let supplied = supply(&selected.manifest, root, files, &mut diagnostics);
    Loaded {
        sources: selected.sources,
        manifest: selected.manifest,
        modules: supplied.modules,
        lock: supplied.lock,
        diagnostics: manifest::sorted(diagnostics),
        root: reading.root,
        comments: reading.comments,
    }
}
