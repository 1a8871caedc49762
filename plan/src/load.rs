//! Loads a manifest and its modules from files. `pdev check`, the agent and the language server all use this function,
//! so their results are identical.
//!
//! It knows nothing about previews: [`mod@crate::resolve`] does everything that depends on one.

use std::collections::BTreeMap;

use manifest::syntax::{Comment, Node, PreviousParse, ReparseBase};
use manifest::{Diagnostic, FileId, Files, Manifest, SetOverride, Severity, Sources};

use crate::catalog_modules::load_modules;
use crate::module::Module;

/// Which variant of the manifest to load.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadOptions {
    /// Name of the environment [default: `local`].
    pub environment: Option<String>,
    pub sets: Vec<SetOverride>,
}

/// The result of loading. It exists even if the files have errors; `diagnostics` lists them.
#[derive(Clone, Debug, Default)]
pub struct LoadedManifest {
    pub sources: Sources,
    pub manifest: Manifest,
    /// By resource name. Resources whose module is unknown are missing.
    pub modules: BTreeMap<String, Module>,
    /// The new text of `pdev.lock`, if it differs from the text on disk.
    pub lock_update: Option<String>,
    pub diagnostics: Vec<Diagnostic>,
    /// The syntax tree of the root file, for editors.
    pub root: Option<Node>,
    pub comments: Vec<Comment>,
    /// State that lets the next version of the root file be parsed incrementally.
    pub reparse_base: ReparseBase,
}

impl LoadedManifest {
    /// False when `up` must refuse, independent of the preview.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }

    /// This version of the root file, as the base for an incremental parse of the next one.
    fn previous_parse(&self) -> Option<PreviousParse<'_>> {
        // Comments of the root file precede those of the files that it includes.
        let root_comments = self.comments.partition_point(|comment| comment.span.file == FileId(0));
        let text = &self.sources.get(FileId(0))?.text;
        PreviousParse::new(&self.reparse_base, text, self.root.as_ref()?, &self.comments[..root_comments])
    }

    /// The new text of `pdev.lock`, if it differs from the text on disk.
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

/// Returns the same result as [`load`], faster if `previous` is an earlier version that differs inside one unit only.
#[must_use]
pub fn load_incremental(
    root: &str,
    files: &dyn Files,
    options: &LoadOptions,
    previous: Option<&LoadedManifest>,
) -> LoadedManifest {
    let reading = manifest::read_incremental(root, files, previous.and_then(LoadedManifest::previous_parse));
    let selected = reading.select(options.environment.as_deref(), &options.sets);
    let mut diagnostics = selected.diagnostics;
    // Guardrail PD016 reports the same problem, and can be waived.
    diagnostics.retain(|diagnostic| diagnostic.code != manifest::codes::SECRET_LITERAL);
    let loaded_modules = load_modules(&selected.manifest, root, files, &mut diagnostics);
    LoadedManifest {
        sources: selected.sources,
        manifest: selected.manifest,
        modules: loaded_modules.modules,
        lock_update: loaded_modules.lock_update,
        diagnostics: manifest::sort_and_limit_diagnostics(diagnostics),
        root: reading.root,
        comments: reading.comments,
        reparse_base: reading.reparse_base,
    }
}
