//! Where the agent's socket lies, and whether that folder can be trusted.
//!
//! The folder is made here (0700) because both sides need it before either can speak; the socket itself is the
//! agent's to make.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::ClientError;

/// The folder that holds the socket, the locks and the first words of an agent that could not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketLocation {
    folder: PathBuf,
}

impl SocketLocation {
    /// `$PDEV_SOCKET_DIR`, else `$XDG_RUNTIME_DIR/pdev`, else `pdev-<uid>` in the temporary folder.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG specification asks to ignore a relative path.
        let runtime = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute() && path.is_dir());
        let folder = variable("PDEV_SOCKET_DIR")
            .or_else(|| runtime.map(|path| path.join("pdev")))
            .unwrap_or_else(|| std::env::temp_dir().join(format!("pdev-{}", rustix::process::geteuid().as_raw())));
        Self { folder }
    }

    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Held by a client while it starts an agent, so that a second client waits for the first one's agent.
    #[must_use]
    pub fn start_lock_path(&self) -> PathBuf {
        self.folder.join("start.lock")
    }

    /// What an agent started in the background writes to its standard error.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Makes the folder if it is absent and refuses one that others could have planted.
    ///
    /// # Errors
    /// When the folder cannot be made, is no folder, belongs to somebody else, or is open to others.
    pub fn prepare_folder(&self) -> Result<(), ClientError> {
        let fail = |error: io::Error| ClientError::UnusableFolder {
            folder: self.folder.clone(),
            message: os_error_message(&error),
        };
        match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
            _ => {}
        }
        self.check_folder()
    }

    /// # Errors
    /// When the folder is no folder, belongs to somebody else, or is open to others.
    pub fn check_folder(&self) -> Result<(), ClientError> {
        let refuse = |words: String| ClientError::UnusableFolder { folder: self.folder.clone(), message: words };
        let metadata = match std::fs::symlink_metadata(&self.folder) {
            Ok(metadata) => metadata,
            Err(error) => return Err(refuse(os_error_message(&error))),
        };
        if !metadata.is_dir() {
            return Err(refuse("it is not a folder".into()));
        }
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own {
            return Err(refuse(format!("it belongs to uid `{}`, not to `{own}`", metadata.uid())));
        }
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(refuse(format!("its mode is `{mode:04o}`, but it must be closed to others (`0700`)")));
        }
        Ok(())
    }
}

/// The operating system's words without Rust's "(os error 13)".
pub(crate) fn os_error_message(error: &io::Error) -> String {
    let words = error.to_string();
    let end = words.find(" (os error").unwrap_or(words.len());
    let mut words = words[..end].to_owned();
    if let Some(first) = words.get(..1).map(str::to_lowercase) {
        words.replace_range(..1, &first);
    }
    words
}
