//! Implements [`manifest::Files`] on the real disk, and records reads so that they can be replayed.
//!
//! The command line uses [`Disk`] too, so that `pdev check` and the agent read the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use host::files::{ReadProblem, list_folder, read_file};
use manifest::{FileProblem, Files};
use serde::{Deserialize, Serialize};

/// Files relative to the manifest's folder.
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

fn file_problem(problem: ReadProblem) -> FileProblem {
    match problem {
        ReadProblem::Missing => FileProblem::Missing,
        ReadProblem::Unreadable(reason) => FileProblem::Unreadable(reason),
    }
}

impl Files for Disk {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        read_file(&self.root.join(path)).map_err(file_problem)
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        list_folder(&self.root.join(path)).map_err(file_problem)
    }
}

/// All files that one read of a manifest used, so that a preview can be managed after its manifest is deleted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Path -> contents; `None` if the file was missing or unreadable.
    files: BTreeMap<String, Option<String>>,
    folders: BTreeMap<String, Option<Vec<(String, bool)>>>,
}

impl Files for Snapshot {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        match self.files.get(path) {
            Some(Some(text)) => Ok(text.clone().into_bytes()),
            _ => Err(FileProblem::Missing),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        self.folders.get(path).cloned().flatten().ok_or(FileProblem::Missing)
    }
}

/// Reads from the disk and records the results in a [`Snapshot`].
pub struct Recorder {
    disk: Disk,
    snapshot: Mutex<Snapshot>,
}

impl Recorder {
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { disk: Disk::new(root), snapshot: Mutex::default() }
    }

    #[must_use]
    pub fn into_snapshot(self) -> Snapshot {
        self.snapshot.into_inner().unwrap_or_default()
    }
}

impl Files for Recorder {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        let result = self.disk.read(path);
        if let Ok(mut snapshot) = self.snapshot.lock() {
            let text = result.as_ref().ok().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            snapshot.files.insert(path.to_owned(), text);
        }
        result
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let result = self.disk.list(path);
        if let Ok(mut snapshot) = self.snapshot.lock() {
            snapshot.folders.insert(path.to_owned(), result.as_ref().ok().cloned());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn snapshot_replays_recorded_reads() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pdev.yaml"), "pdev: 1\n").unwrap();
        let recorder = Recorder::new(folder.path());
        assert!(recorder.read("pdev.yaml").is_ok());
        assert_eq!(recorder.read("absent"), Err(FileProblem::Missing));
        assert!(recorder.list(".").is_ok());
        let snapshot = recorder.into_snapshot();
        fs::remove_file(folder.path().join("pdev.yaml")).unwrap();
        assert_eq!(snapshot.read("pdev.yaml"), Ok(b"pdev: 1\n".to_vec()));
        assert_eq!(snapshot.read("absent"), Err(FileProblem::Missing));
        assert_eq!(snapshot.list("."), Ok(vec![("pdev.yaml".to_owned(), false)]));
    }
}
