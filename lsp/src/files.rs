//! File access for the pure crates: the editor's open buffers first, then the disk.
//!
//! Each requested path is recorded, so that a later change of that file triggers a new analysis.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use host::files::{ReadProblem, list_folder, read_file};
use manifest::{FileProblem, Files};

/// Distinguishes two versions of a file on disk without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStamp {
    modified: SystemTime,
    length: u64,
}

impl FileStamp {
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { modified: metadata.modified().ok()?, length: metadata.len() })
    }
}

/// Files by their path relative to the folder of a manifest.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    folder: PathBuf,
    open: HashMap<PathBuf, Arc<str>>,
    requested_paths: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Buffers {
    #[must_use]
    pub fn new(folder: PathBuf, open: HashMap<PathBuf, Arc<str>>) -> Self {
        Self { folder, open, requested_paths: Arc::default() }
    }

    /// A copy in which these files have other texts.
    #[must_use]
    pub fn with_texts(&self, changed: HashMap<PathBuf, Arc<str>>) -> Self {
        let mut open = self.open.clone();
        open.extend(changed);
        Self::new(self.folder.clone(), open)
    }

    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        normalise_path(&self.folder.join(relative))
    }

    /// All files and folders that were requested, including missing ones.
    #[must_use]
    pub fn requested_paths(&self) -> BTreeSet<PathBuf> {
        self.requested_paths.lock().map(|paths| paths.clone()).unwrap_or_default()
    }

    fn record_request(&self, path: &Path) {
        if let Ok(mut paths) = self.requested_paths.lock() {
            paths.insert(path.to_owned());
        }
    }
}

/// Removes `.` and `..`, as editors do in the paths that they send. Symbolic links stay.
#[must_use]
pub fn normalise_path(path: &Path) -> PathBuf {
    let mut normalised = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(normalised.pop()),
            part => normalised.push(part),
        }
    }
    normalised
}

impl Files for Buffers {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        let full = self.path(path);
        self.record_request(&full);
        match self.open.get(&full) {
            Some(text) => Ok(text.as_bytes().to_vec()),
            None => read_from_disk(&full),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let full = self.path(path);
        self.record_request(&full);
        list_folder(&full).map_err(to_file_problem)
    }
}

/// # Errors
/// With the same messages as the agent and `pdev check` for the same file.
pub fn read_from_disk(path: &Path) -> Result<Vec<u8>, FileProblem> {
    read_file(path).map_err(to_file_problem)
}

fn to_file_problem(problem: ReadProblem) -> FileProblem {
    match problem {
        ReadProblem::Missing => FileProblem::Missing,
        ReadProblem::Unreadable(reason) => FileProblem::Unreadable(reason),
    }
}
