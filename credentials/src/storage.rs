//! Where the user's identities and sealed things lie, and how such a file is written: whole or not at all.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct CredentialPaths {
    /// The user's configuration: `identities.toml`.
    pub config: PathBuf,
    /// Sealed files and the audit log.
    pub data: PathBuf,
}

impl CredentialPaths {
    /// By the XDG variables, else below the home folder; `None` without a home.
    #[must_use]
    pub fn find() -> Option<Self> {
        let found = directories::ProjectDirs::from("", "", "pdev")?;
        Some(Self { config: found.config_dir().to_owned(), data: found.data_local_dir().join("credentials") })
    }

    #[must_use]
    pub fn identities(&self) -> PathBuf {
        self.config.join("identities.toml")
    }

    #[must_use]
    pub fn vault(&self) -> PathBuf {
        self.data.join("vault")
    }

    #[must_use]
    pub fn approvals(&self) -> PathBuf {
        self.data.join("approvals.json")
    }

    #[must_use]
    pub fn sessions(&self) -> PathBuf {
        self.data.join("sessions.json")
    }

    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.data.join("audit.jsonl")
    }
}

/// A folder that only its owner may enter.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file: the new bytes are on the disk before the old name means them, and the name is on the disk before
/// this returns. A link is followed, so that a configuration kept elsewhere stays where it is.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut fresh =
        tempfile::Builder::new().prefix(".pdev-").permissions(fs::Permissions::from_mode(0o600)).tempfile_in(folder)?;
    fresh.write_all(bytes)?;
    fresh.as_file().sync_all()?;
    fresh.persist(&path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// Another writer is done within milliseconds; one that hangs must not take this one with it.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Held while a file is read, changed and replaced, so that two writers do not lose each other's change.
pub(crate) fn lock_folder(folder: &Path) -> io::Result<File> {
    create_private_folder(folder)?;
    lock_file(&folder.join(".lock"), LOCK_LIMIT)
}

pub(crate) fn lock_file(path: &Path, limit: Duration) -> io::Result<File> {
    let file = open_lock_file(path)?;
    let deadline = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another pdev holds its lock"));
            }
            // The system has no wait for a file lock that ends by itself.
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

/// Waits without a limit, woken by the system.
pub(crate) fn lock_file_unbounded(path: &Path) -> io::Result<File> {
    let file = open_lock_file(path)?;
    file.lock()?;
    Ok(file)
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Far above any login; a bigger value still fits where the disk has more.
const RESERVED_BYTES: usize = 64 << 10;

/// A file's next content, taken on the disk before it is known: a full disk is told while there is nothing to lose.
pub(crate) struct ReservedFile {
    file: File,
    temporary_path: PathBuf,
    path: PathBuf,
}

impl ReservedFile {
    /// The caller holds the lock of what is at `path`: the name beside it is always the same, so that one that was left
    /// over is used again.
    pub(crate) fn reserve(path: &Path) -> io::Result<Self> {
        let beside = path.with_extension("next");
        let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        let room = Self { file, temporary_path: beside, path: path.to_owned() };
        (&room.file).write_all(&vec![0; RESERVED_BYTES])?;
        room.file.sync_all()?;
        Ok(room)
    }

    /// As [`replace`]: on the disk under its name when this returns.
    pub(crate) fn commit(mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(bytes)?;
        self.file.set_len(bytes.len() as u64)?;
        self.file.sync_all()?;
        fs::rename(&self.temporary_path, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for ReservedFile {
    /// What was not needed goes; after [`Room::fill`] there is nothing of this name.
    fn drop(&mut self) {
        drop(fs::remove_file(&self.temporary_path));
    }
}
