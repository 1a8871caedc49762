//! From files to a checked manifest with its modules: the one function behind `pdev check`, the agent and the language
//! server, whose answers are therefore identical.
//!
//! Knows nothing of a preview: what depends on one is [`crate::resolve`]'s.

use std::collections::BTreeMap;

use manifest::syntax::{Comment, Node, PreviousParse, ReparseBase};
use manifest::{Diagnostic, FileId, Files, Manifest, SetOverride, Severity, Sources};

use crate::catalog_modules::load_modules;
use crate::module::Module;

/// Which of the manifests in the file is meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadOptions {
    /// `local` unless said.
    pub environment: Option<String>,
    pub sets: Vec<SetOverride>,
}

/// What reading gave, however broken the files are.
#[derive(Clone, Debug, Default)]
pub struct LoadedManifest {
    pub sources: Sources,
    pub manifest: Manifest,
    /// By resource name; resources whose module is unknown are missing.
    pub modules: BTreeMap<String, Module>,
    /// The text `pdev.lock` should have, when it differs from what is there.
    pub lock_update: Option<String>,
    pub diagnostics: Vec<Diagnostic>,
    /// The root file's own tree, for editors.
    pub root: Option<Node>,
    pub comments: Vec<Comment>,
    /// What the root file's next version can be read from.
    pub reparse_base: ReparseBase,
}

impl LoadedManifest {
    /// False when `up` must refuse, whatever the context.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }

    /// The root file as an earlier version of itself.
    fn previous_parse(&self) -> Option<PreviousParse<'_>> {
        // Comments of the root come before those of what it includes.
        let own = self.comments.partition_point(|comment| comment.span.file == FileId(0));
        let text = &self.sources.get(FileId(0))?.text;
        PreviousParse::new(&self.reparse_base, text, self.root.as_ref()?, &self.comments[..own])
    }

    /// The text `pdev.lock` should have, when it differs from what is there.
    #[must_use]
    pub fn lock_update(&self) -> Option<String> {
        self.lock_update.clone()
    }
}

/// Reads `root` (relative to the folder behind `files`), everything it includes, and the modules its resources use.
#[must_use]
pub fn load(root: &str, files: &dyn Files, options: &LoadOptions) -> LoadedManifest {
    load_incremental(root, files, options, None)
}

/// The same answer, sooner where `before` is an earlier version that differs inside of one unit only.
#[must_use]
pub fn load_incremental(
    root: &str,
    files: &dyn Files,
    options: &LoadOptions,
    before: Option<&LoadedManifest>,
) -> LoadedManifest {
    let reading = manifest::read_incremental(root, files, before.and_then(LoadedManifest::previous_parse));
    let selected = reading.select(options.environment.as_deref(), &options.sets);
    let mut diagnostics = selected.diagnostics;
    // Guardrail PD016 tells the same, and can be waived.
    diagnostics.retain(|found| found.code != manifest::codes::SECRET_LITERAL);
    let supplied = load_modules(&selected.manifest, root, files, &mut diagnostics);
    LoadedManifest {
        sources: selected.sources,
        manifest: selected.manifest,
        modules: supplied.modules,
        lock_update: supplied.lock_update,
        diagnostics: manifest::sort_and_limit_diagnostics(diagnostics),
        root: reading.root,
        comments: reading.comments,
        reparse_base: reading.reparse_base,
    }
}
