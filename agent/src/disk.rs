//! The real disk behind [`manifest::Files`], and a remembered reading of it.
//!
//! The command line uses [`Disk`] too, so that `pdev check` and the agent see the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use manifest::{FileProblem, Files};
use serde::{Deserialize, Serialize};

/// A manifest, an include or a module file over this size is refused: it cannot be one.
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
        let found = fs::metadata(&full).map_err(|error| file_problem(&error))?;
        if found.is_dir() {
            return Err(FileProblem::Unreadable("it is a folder".into()));
        }
        // A FIFO or a device would block for ever or never end.
        if !found.is_file() {
            return Err(FileProblem::Unreadable("it is not a regular file".into()));
        }
        if found.len() > FILE_BYTES_MAX {
            return Err(FileProblem::Unreadable(format!(
                "it has {} bytes; the limit is {FILE_BYTES_MAX}",
                found.len()
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

/// Everything one reading saw, so that a preview whose manifest is deleted can still be looked after.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Path -> contents; `None` was missing or unreadable.
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

/// Reads through to the disk and keeps what it saw.
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
        if let Ok(mut seen) = self.snapshot.lock() {
            let text = result.as_ref().ok().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            seen.files.insert(path.to_owned(), text);
        }
        result
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let result = self.disk.list(path);
        if let Ok(mut seen) = self.snapshot.lock() {
            seen.folders.insert(path.to_owned(), result.as_ref().ok().cloned());
        }
        result
    }
}

/// Replaces a file so that a crash leaves either the old or the new contents, never half of them.
///
/// # Errors
/// When the folder cannot be written (full disk, permissions).
pub fn replace_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Two writers at once must not share their unfinished file.
    static NEXT_TEMP_NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT_TEMP_NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let fresh = path.with_extension(format!("new-{}-{number}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
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
