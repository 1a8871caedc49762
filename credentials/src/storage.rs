//! Paths of the user's identities, logins and secrets, and atomic file writes: a crash leaves the old content or the
//! new one.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::locations::UserFolders;

#[derive(Clone, Debug)]
pub struct CredentialPaths {
    /// The user's configuration: `identities.toml`.
    pub config: PathBuf,
    /// Sealed files and the audit log.
    pub data: PathBuf,
}

impl CredentialPaths {
    /// Follows the XDG variables, with defaults below the home folder. Returns `None` without a home folder.
    #[must_use]
    pub fn find() -> Option<Self> {
        let UserFolders { config, data, .. } = UserFolders::find()?;
        Some(Self { config, data: data.join("credentials") })
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

/// Creates a folder that only its owner can enter.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file atomically. The new bytes are on disk before the rename, and the rename is on disk before this
/// returns. A symbolic link is followed, so a configuration that is linked from another folder stays there.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    host::files::replace_file(&path, bytes, 0o600)
}

/// Another writer needs milliseconds. The limit keeps a hung writer from blocking this process as well.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Locks a folder while one of its files is read, changed and replaced, so that two writers do not lose changes of each
/// other.
pub(crate) fn lock_folder(folder: &Path) -> io::Result<File> {
    create_private_folder(folder)?;
    lock_file(&folder.join(".lock"), LOCK_LIMIT)
}

pub(crate) fn lock_file(path: &Path, timeout: Duration) -> io::Result<File> {
    let file = open_lock_file(path)?;
    let deadline = Instant::now() + timeout;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another pdev holds its lock"));
            }
            // The system has no file lock with a timeout, so poll.
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

/// Waits without a timeout; the kernel wakes the waiter.
pub(crate) fn lock_file_unbounded(path: &Path) -> io::Result<File> {
    let file = open_lock_file(path)?;
    file.lock()?;
    Ok(file)
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Far larger than any login. A larger value still works if the disk has space for it.
const RESERVED_BYTES: usize = 64 << 10;

/// Disk space for the next content of a file, allocated before the content exists. A full disk is therefore detected
/// while there is nothing to lose.
pub(crate) struct ReservedFile {
    file: File,
    temporary_path: PathBuf,
    path: PathBuf,
}

impl ReservedFile {
    /// The caller holds the lock of the item at `path`. The temporary name is always the same, so a leftover of a
    /// killed process is reused.
    pub(crate) fn reserve(path: &Path) -> io::Result<Self> {
        let temporary_path = path.with_extension("next");
        let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary_path)?;
        let reserved = Self { file, temporary_path, path: path.to_owned() };
        // Write zeros instead of setting the length: a sparse file would reserve nothing.
        (&reserved.file).write_all(&vec![0; RESERVED_BYTES])?;
        reserved.file.sync_all()?;
        Ok(reserved)
    }

    /// Writes the content. As with [`replace_file`], it is on disk under its final name when this returns.
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
    /// Removes an unused reservation. After [`ReservedFile::commit`] no file has this name.
    fn drop(&mut self) {
        drop(fs::remove_file(&self.temporary_path));
    }
}
