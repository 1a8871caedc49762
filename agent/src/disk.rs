//! Implements [`manifest::Files`] on the real disk, and records reads so that they can be replayed.
//!
//! The command line uses [`Disk`] too, so that `pdev check` and the agent read the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use manifest::{FileProblem, Files};
use serde::{Deserialize, Serialize};

/// A larger file is rejected: no manifest, include or module file has this size.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Files relative to the manifest's folder.
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

fn file_problem(error: &io::Error) -> FileProblem {
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

impl Files for Disk {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        let full = self.root.join(path);
        let metadata = fs::metadata(&full).map_err(|error| file_problem(&error))?;
        if metadata.is_dir() {
            return Err(FileProblem::Unreadable("it is a folder".into()));
        }
        // Reading a FIFO would block, and reading a device may never end.
        if !metadata.is_file() {
            return Err(FileProblem::Unreadable("it is not a regular file".into()));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(FileProblem::Unreadable(format!(
                "it has {} bytes; the limit is {FILE_BYTES_MAX}",
                metadata.len()
            )));
        }
        fs::read(&full).map_err(|error| file_problem(&error))
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let entries = fs::read_dir(self.root.join(path)).map_err(|error| file_problem(&error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| file_problem(&error))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
        }
        names.sort();
        Ok(names)
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

/// Replaces a file atomically: after a crash it has either the old or the new contents.
///
/// # Errors
/// When the folder cannot be written (full disk, permissions).
pub fn replace_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Concurrent writers need different temporary files.
    static NEXT_TEMP_NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT_TEMP_NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let temp = path.with_extension(format!("new-{}-{number}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temp)?;
    file.write_all(contents)?;
    // Sync before the rename, so that the new name never points to unwritten contents.
    file.sync_all()?;
    fs::rename(&temp, path)?;
    // The rename itself is durable only after the folder is synced.
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn folders_and_link_loops_are_reported_separately() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("loop", folder.path().join("loop")).unwrap();
        let disk = Disk::new(folder.path());
        assert_eq!(disk.read("dir"), Err(FileProblem::Unreadable("it is a folder".into())));
        assert_eq!(disk.read("loop"), Err(FileProblem::Unreadable("it is a loop of symbolic links".into())));
        assert_eq!(disk.read("none"), Err(FileProblem::Missing));
    }
}
