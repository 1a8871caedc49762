//! Where the user's identities and sealed things lie, and how such a file is written: whole or not at all.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct Place {
    /// The user's configuration: `identities.toml`.
    pub config: PathBuf,
    /// Sealed files and the audit log.
    pub data: PathBuf,
}

impl Place {
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
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file: the new bytes are on the disk before the old name means them, and the name is on the disk before
/// this returns. A link is followed, so that a configuration kept elsewhere stays where it is.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    private_folder(folder)?;
    lock_at(&folder.join(".lock"), LOCK_LIMIT)
}

pub(crate) fn lock_at(path: &Path, limit: Duration) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
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
