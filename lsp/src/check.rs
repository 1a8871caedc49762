//! One look at a manifest with everything it reads: the same function that answers `pdev check`, over what is open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use manifest::model::Date;
use manifest::{Diagnostic, FileId};
use plan::application::RuntimeKind;
use plan::check::{CheckOptions, CheckResult};
use plan::{LoadedManifest, ResolvedApplication};

use crate::files::Buffers;
use crate::text::Text;

/// Everything a look needs, so that it can happen on any thread.
#[derive(Clone, Debug)]
pub struct AnalysisJob {
    /// The manifest.
    pub manifest_path: PathBuf,
    pub generation: u64,
    pub options: CheckOptions,
    pub buffers: Buffers,
    /// An earlier look, from which this one takes what has not changed.
    pub previous: Option<Arc<Analysis>>,
}

/// What was found, for one generation of the files.
#[derive(Debug)]
pub struct Analysis {
    pub manifest_path: PathBuf,
    pub generation: u64,
    options: CheckOptions,
    pub checked: CheckResult,
    pub requested_paths: BTreeSet<PathBuf>,
    /// The files as they were, for questions that come later.
    pub buffers: Buffers,
    /// By file of the reading.
    files: Vec<(PathBuf, OnceLock<Text>)>,
}

impl AnalysisJob {
    #[must_use]
    pub fn run(self) -> Analysis {
        let name = self.manifest_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let before = self.previous.as_ref().filter(|before| before.options == self.options);
        let before = before.map(|before| &before.checked);
        let checked = plan::check::check_incremental(&name, &self.buffers, &self.options, before);
        let path = |source: &manifest::text::Source| (self.buffers.path(&source.path), OnceLock::new());
        let files = checked.loaded.sources.iter().map(|(_, source)| path(source)).collect();
        let asked = self.buffers.requested_paths();
        let Self { manifest_path: root, generation, options: question, buffers, .. } = self;
        Analysis { manifest_path: root, generation, options: question, checked, requested_paths: asked, buffers, files }
    }
}

impl Analysis {
    #[must_use]
    pub fn loaded(&self) -> &LoadedManifest {
        &self.checked.loaded
    }

    #[must_use]
    pub fn path(&self, file: FileId) -> Option<&Path> {
        self.files.get(file.0 as usize).map(|(path, _)| path.as_path())
    }

    #[must_use]
    pub fn file_id(&self, path: &Path) -> Option<FileId> {
        let index = self.files.iter().position(|(known, _)| known == path)?;
        u32::try_from(index).ok().map(FileId)
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The text a file had in this reading.
    #[must_use]
    pub fn text(&self, file: FileId) -> Option<&Text> {
        let (_, text) = self.files.get(file.0 as usize)?;
        let source = self.loaded().sources.get(file)?;
        Some(text.get_or_init(|| Text::new(Arc::clone(&source.text))))
    }

    pub fn diagnostics_in(&self, file: FileId) -> impl Iterator<Item = &Diagnostic> {
        self.checked.diagnostics.iter().filter(move |found| found.span.file == file)
    }

    /// One unit (`services.api`) as it would be; `None` while the manifest has errors. Nothing is kept: the whole
    /// application of a long manifest is tens of megabytes, one unit is made in less time than a hover may take.
    #[must_use]
    pub fn resolve_unit(&self, unit: &str) -> Option<ResolvedApplication> {
        let loaded = self.loaded();
        loaded.is_usable().then(|| plan::check::resolve_unit_without_agent(loaded, &self.options, self.runtime(), unit))
    }

    /// The application as it would be; `None` while the manifest has errors.
    #[must_use]
    pub fn resolve_application(&self) -> Option<ResolvedApplication> {
        let loaded = self.loaded();
        loaded.is_usable().then(|| plan::check::resolve_without_agent(loaded, &self.options, self.runtime()))
    }

    /// What `${env.X}` may read.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.options.variables
    }

    /// `local` unless said.
    #[must_use]
    pub fn environment(&self) -> &str {
        self.options.load_options.environment.as_deref().unwrap_or("local")
    }

    fn runtime(&self) -> RuntimeKind {
        self.options.runtime.unwrap_or(RuntimeKind::Docker)
    }
}

/// The day it is, for waivers.
#[must_use]
pub fn today() -> Date {
    let now = time::OffsetDateTime::now_utc();
    Date { year: u16::try_from(now.year()).unwrap_or_default(), month: now.month().into(), day: now.day() }
}
