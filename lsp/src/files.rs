//! How the pure crates reach files from an editor: what it has open, over what is on the disk; and which files were asked
//! for, so that a change of one of them is known to matter.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use manifest::{FileProblem, Files};

/// As the agent's: a manifest, an include or a module file over this size is refused.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// What tells one state of a file on the disk from the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStamp {
    modified: SystemTime,
    length: u64,
}

impl FileStamp {
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self { modified: found.modified().ok()?, length: found.len() })
    }
}

/// Files relative to a manifest's folder.
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

    /// Every file and folder that was asked for, there or not.
    #[must_use]
    pub fn requested_paths(&self) -> BTreeSet<PathBuf> {
        self.requested_paths.lock().map(|asked| asked.clone()).unwrap_or_default()
    }

    fn record_request(&self, path: &Path) {
        if let Ok(mut asked) = self.requested_paths.lock() {
            asked.insert(path.to_owned());
        }
    }
}

/// Without `.` and `..`: the form in which editors name files.
#[must_use]
pub fn normalise_path(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
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
/// In the words that the agent and `pdev check` use for the same file.
pub fn read_from_disk(path: &Path) -> Result<Vec<u8>, FileProblem> {
    let found = fs::metadata(path).map_err(|error| to_file_problem(&error))?;
    if found.is_dir() {
        return Err(FileProblem::Unreadable("it is a folder".into()));
    }
    // A FIFO or a device would block for ever or never end.
    if !found.is_file() {
        return Err(FileProblem::Unreadable("it is not a regular file".into()));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(FileProblem::Unreadable(format!("it has {} bytes; the limit is {FILE_BYTES_MAX}", found.len())));
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
