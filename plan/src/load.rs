//! From files to a checked manifest with its modules: the one function behind `pdev check`, the agent and the language
//! server, whose answers are therefore identical.
//!
//! Knows nothing of a preview: what depends on one is [`crate::resolve`]'s.

use std::collections::BTreeMap;

use manifest::syntax::{Basis, Comment, Earlier, Node};
use manifest::{Diagnostic, FileId, Files, Manifest, Set, Severity, Sources};

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
    /// What the root file's next version can be read from.
    pub basis: Basis,
}

impl Loaded {
    /// False when `up` must refuse, whatever the context.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }

    /// The root file as an earlier version of itself.
    fn earlier(&self) -> Option<Earlier<'_>> {
        // Comments of the root come before those of what it includes.
        let own = self.comments.partition_point(|comment| comment.span.file == FileId(0));
        let text = &self.sources.get(FileId(0))?.text;
        Earlier::of(&self.basis, text, self.root.as_ref()?, &self.comments[..own])
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
    load_after(root, files, options, None)
}

/// The same answer, sooner where `before` is an earlier version that differs inside of one unit only.
#[must_use]
pub fn load_after(root: &str, files: &dyn Files, options: &LoadOptions, before: Option<&Loaded>) -> Loaded {
    let reading = manifest::read_after(root, files, before.and_then(Loaded::earlier));
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
        basis: reading.basis,
    }
}
