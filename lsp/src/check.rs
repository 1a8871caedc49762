//! The analysis of a manifest and all files it reads, with the function behind `pdev check`. Open buffers replace files
//! on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use manifest::{Diagnostic, FileId};
use plan::application::RuntimeKind;
use plan::check::{CheckOptions, CheckResult};
use plan::{LoadedManifest, ResolvedApplication};

use crate::files::Buffers;
use crate::text::Text;

/// The input of one analysis. It owns its data, so that another thread can run it.
#[derive(Clone, Debug)]
pub struct AnalysisJob {
    pub manifest_path: PathBuf,
    pub generation: u64,
    pub options: CheckOptions,
    pub buffers: Buffers,
    /// An earlier analysis, whose unchanged parts are reused.
    pub previous: Option<Arc<Analysis>>,
}

/// The result for one generation of the files.
#[derive(Debug)]
pub struct Analysis {
    pub manifest_path: PathBuf,
    pub generation: u64,
    options: CheckOptions,
    pub checked: CheckResult,
    /// All files and folders that the analysis tried to read, including missing ones.
    pub requested_paths: BTreeSet<PathBuf>,
    /// The files at the time of the analysis, for later requests about it.
    pub buffers: Buffers,
    /// Indexed by [`FileId`].
    files: Vec<(PathBuf, OnceLock<Text>)>,
}

impl AnalysisJob {
    #[must_use]
    pub fn run(self) -> Analysis {
        let name = self.manifest_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Other options, for example another environment, change every result.
        let previous = self.previous.as_ref().filter(|previous| previous.options == self.options);
        let previous = previous.map(|previous| &previous.checked);
        let checked = plan::check::check_incremental(&name, &self.buffers, &self.options, previous);
        let path = |source: &manifest::text::Source| (self.buffers.path(&source.path), OnceLock::new());
        let files = checked.loaded.sources.iter().map(|(_, source)| path(source)).collect();
        let requested_paths = self.buffers.requested_paths();
        let Self { manifest_path, generation, options, buffers, .. } = self;
        Analysis { manifest_path, generation, options, checked, requested_paths, buffers, files }
    }
}

impl Analysis {
    #[must_use]
    pub fn loaded(&self) -> &LoadedManifest {
        &self.checked.loaded
    }

    /// The result if these files had other texts.
    #[must_use]
    pub fn check_with_texts(&self, changed: HashMap<PathBuf, Arc<str>>) -> CheckResult {
        let name = self.manifest_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let buffers = self.buffers.with_texts(changed);
        plan::check::check_incremental(&name, &buffers, &self.options, Some(&self.checked))
    }

    #[must_use]
    pub fn path(&self, file: FileId) -> Option<&Path> {
        self.files.get(file.0 as usize).map(|(path, _)| path.as_path())
    }

    #[must_use]
    pub fn file_id(&self, path: &Path) -> Option<FileId> {
        let index = self.files.iter().position(|(own_path, _)| own_path == path)?;
        u32::try_from(index).ok().map(FileId)
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The text of a file at the time of the analysis.
    #[must_use]
    pub fn text(&self, file: FileId) -> Option<&Text> {
        let (_, text) = self.files.get(file.0 as usize)?;
        let source = self.loaded().sources.get(file)?;
        Some(text.get_or_init(|| Text::new(Arc::clone(&source.text))))
    }

    pub fn diagnostics_in(&self, file: FileId) -> impl Iterator<Item = &Diagnostic> {
        self.checked.diagnostics.iter().filter(move |diagnostic| diagnostic.span.file == file)
    }

    /// Resolves one unit, such as `services.api`. Returns `None` if the manifest has errors.
    ///
    /// The result is not cached: all units of a long manifest take tens of megabytes, and one unit is resolved within
    /// the time budget of a hover.
    #[must_use]
    pub fn resolve_unit(&self, unit: &str) -> Option<ResolvedApplication> {
        self.resolve_known_values(Some(unit))
    }

    /// Resolves all units. Returns `None` if the manifest has errors.
    #[must_use]
    pub fn resolve_application(&self) -> Option<ResolvedApplication> {
        self.resolve_known_values(None)
    }

    fn resolve_known_values(&self, unit: Option<&str>) -> Option<ResolvedApplication> {
        let loaded = self.loaded();
        loaded.is_usable().then(|| plan::check::resolve_known_values(loaded, &self.options, self.runtime(), unit))
    }

    /// The environment variables for `${env.X}`.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.options.variables
    }

    /// The analysed environment, `local` by default.
    #[must_use]
    pub fn environment(&self) -> &str {
        self.options.load_options.environment.as_deref().unwrap_or("local")
    }

    fn runtime(&self) -> RuntimeKind {
        self.options.runtime.unwrap_or_else(RuntimeKind::preferred)
    }
}
