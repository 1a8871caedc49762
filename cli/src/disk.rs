//! The real disk behind [`manifest::Files`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use manifest::{FileProblem, Files};

/// A manifest, an include or a module file over this size is refused: it cannot be one.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Files relative to the manifest's folder.
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

fn problem(error: &io::Error) -> FileProblem {
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
        let found = fs::metadata(&full).map_err(|error| problem(&error))?;
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
        fs::read(&full).map_err(|error| problem(&error))
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let entries = fs::read_dir(self.root.join(path)).map_err(|error| problem(&error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| problem(&error))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
        }
        names.sort();
        Ok(names)
    }
}

/// Replaces a file so that a crash leaves either the old or the new contents, never half of them.
///
/// # Errors
/// When the folder cannot be written (full disk, permissions).
pub(crate) fn replace_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(folder)?.sync_all()
}
