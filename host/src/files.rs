//! Reads regular files of a limited size, lists folders, and replaces files atomically.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A larger file is rejected: no manifest, include or module file has this size.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The reason why a file or folder cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadProblem {
    Missing,
    Unreadable(String),
}

impl From<io::Error> for ReadProblem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Unreadable("permission denied".into()),
            io::ErrorKind::IsADirectory => Self::Unreadable("it is a folder".into()),
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Self::Unreadable("it is a loop of symbolic links".into())
            }
            _ => Self::Unreadable(error.to_string()),
        }
    }
}

/// # Errors
/// When the file is missing, unreadable, too large, or no regular file.
pub fn read_file(path: &Path) -> Result<Vec<u8>, ReadProblem> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(ReadProblem::Unreadable("it is a folder".into()));
    }
    // Reading a FIFO would block, and reading a device may never end.
    if !metadata.is_file() {
        return Err(ReadProblem::Unreadable("it is not a regular file".into()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        let message = format!("it has {} bytes; the limit is {FILE_BYTES_MAX}", metadata.len());
        return Err(ReadProblem::Unreadable(message));
    }
    Ok(fs::read(path)?)
}

/// Whether a file or folder no longer exists: it was deleted, or one of its parent folders was. Programs that scan a
/// folder treat such an entry as absent, because editors create and delete temporary files all the time.
#[must_use]
pub fn is_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The names in a folder, sorted, each with whether it is a folder itself.
///
/// # Errors
/// When the folder is missing or unreadable.
pub fn list_folder(path: &Path) -> Result<Vec<(String, bool)>, ReadProblem> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
    }
    names.sort();
    Ok(names)
}

/// What the disk has when a file was replaced. The rest follows later, and only a power failure can prevent that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    Nothing,
    /// The contents, before the file gets its name. After a power failure the file may still have the old contents.
    Contents,
    ContentsAndName,
}

/// Replaces a file atomically: after a crash it has either the old or the new contents. The new contents are on the
/// disk when this returns. Creates the folder if it is missing.
///
/// # Errors
/// When the folder cannot be written (full disk, permissions). The file is unchanged in this case.
pub fn replace_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    fs::create_dir_all(folder_of(path))?;
    replace_file_with(path, contents, mode, Flush::ContentsAndName)
}

/// Like [`replace_file`], in an existing folder, without waiting for more of the disk than `flush` requires.
///
/// # Errors
/// See [`replace_file`].
pub fn replace_file_with(path: &Path, contents: &[u8], mode: u32, flush: Flush) -> io::Result<()> {
    let temporary = temporary_path(path);
    let written =
        write_new_file(&temporary, contents, mode, flush != Flush::Nothing).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // A full disk must not keep the incomplete file. The caller reports the first error.
        drop(fs::remove_file(&temporary));
    }
    written?;
    if flush == Flush::ContentsAndName { File::open(folder_of(path))?.sync_all() } else { Ok(()) }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Concurrent writers need different temporary files.
fn temporary_path(path: &Path) -> PathBuf {
    static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
    path.with_extension(format!("new-{}-{number}", std::process::id()))
}

fn write_new_file(path: &Path, contents: &[u8], mode: u32, flush: bool) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(contents)?;
    // Flush before the rename, so that the new name never points to unwritten contents.
    if flush { file.sync_all() } else { Ok(()) }
}

/// 128 random bits as hexadecimal digits.
///
/// # Errors
/// When the system has no random device.
pub fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Creates a private folder (0700) with an unpredictable name, so that another user cannot have put something in its
/// place. For folders that all users can write to, such as `/tmp` and `/dev/shm`.
///
/// # Errors
/// When the folder cannot be created.
pub fn create_unpredictable_folder(parent: &Path, prefix: &str) -> io::Result<PathBuf> {
    let path = parent.join(format!("{prefix}{}", random_hex()?));
    // Not recursive: an existing entry of this name is an error.
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_link_loops_are_reported_separately() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("loop", folder.path().join("loop")).unwrap();
        let read = |name: &str| read_file(&folder.path().join(name));
        assert_eq!(read("dir"), Err(ReadProblem::Unreadable("it is a folder".into())));
        assert_eq!(read("loop"), Err(ReadProblem::Unreadable("it is a loop of symbolic links".into())));
        assert_eq!(read("none"), Err(ReadProblem::Missing));
        assert_eq!(list_folder(folder.path()), Ok(vec![("dir".to_owned(), true), ("loop".to_owned(), false)]));
    }

    #[test]
    fn replaced_file_has_new_contents_and_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/state.json");
        replace_file(&path, b"one", 0o600).unwrap();
        replace_file(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn failed_replacement_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busy");
        fs::create_dir_all(path.join("inside")).unwrap();
        assert!(replace_file(&path, b"text", 0o600).is_err());
        assert_eq!(list_folder(folder.path()), Ok(vec![("busy".to_owned(), true)]));
    }
}
