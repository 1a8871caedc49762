//! From files to a checked application: the one function behind `pdev check`, the agent and the language server.

use std::collections::BTreeMap;

use manifest::{Diagnostic, Manifest, Severity, Sources};

use crate::module::Module;

/// What reading gave, however broken the files are.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub sources: Sources,
    pub manifest: Manifest,
    /// By resource name; resources whose module is unknown are missing.
    pub modules: BTreeMap<String, Module>,
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// False when `up` must refuse, whatever the context.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }
}
