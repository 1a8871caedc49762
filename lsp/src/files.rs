//! File access for the pure crates: the editor's open buffers first, then the disk.
//!
//! Each requested path is recorded, so that a later change of that file triggers a new analysis.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use manifest::{FileProblem, Files};

/// The agent's limit too. A larger manifest, include or module file is refused.
const FILE_BYTES_MAX: u64 = 8 << 20;

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
        let entries = fs::read_dir(full).map_err(|error| to_file_problem(&error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| to_file_problem(&error))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
        }
        names.sort();
        Ok(names)
    }
}

/// # Errors
/// With the same messages as the agent and `pdev check` for the same file.
pub fn read_from_disk(path: &Path) -> Result<Vec<u8>, FileProblem> {
    let metadata = fs::metadata(path).map_err(|error| to_file_problem(&error))?;
    if metadata.is_dir() {
        return Err(FileProblem::Unreadable("it is a folder".into()));
    }
    // Reading a FIFO could block forever, and a device may never end.
    if !metadata.is_file() {
        return Err(FileProblem::Unreadable("it is not a regular file".into()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileProblem::Unreadable(format!("it has {} bytes; the limit is {FILE_BYTES_MAX}", metadata.len())));
    }
    fs::read(path).map_err(|error| to_file_problem(&error))
}

fn to_file_problem(error: &io::Error) -> FileProblem {
    match error.kind() {
        io::ErrorKind::NotFound => FileProblem::Missing,
        io::ErrorKind::PermissionDenied => FileProblem::Unreadable("permission denied".into()),
        io::ErrorKind::IsADirectory => FileProblem::Unreadable("it is a folder".into()),
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            FileProblem::Unreadable("it is a loop of symbolic links".into())
        }
        _ => FileProblem::Unreadable(error.to_string()),
    }
}
