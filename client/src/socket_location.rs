//! Location of the agent's socket, and the check that its folder can be trusted.
//!
//! This module creates the folder (0700), because client and agent need it before they can communicate. Only the agent
//! creates the socket.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{ClientError, os_error_message};

/// The folder that holds the socket, the locks and the log of agents started in the background.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketLocation {
    folder: PathBuf,
}

impl SocketLocation {
    /// The folder that the environment variables select.
    #[must_use]
    pub fn from_environment() -> Self {
        Self { folder: host::locations::socket_folder() }
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

    /// Locked by a client while it starts an agent, so that a second client waits for that agent.
    #[must_use]
    pub fn start_lock_path(&self) -> PathBuf {
        self.folder.join("start.lock")
    }

    /// Standard error of agents started in the background.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Creates the folder if it is absent, and rejects a folder that another user could have created.
    ///
    /// # Errors
    /// When the folder cannot be created, is not a directory, belongs to another user, or is accessible to others.
    pub fn prepare_folder(&self) -> Result<(), ClientError> {
        let folder_error = |error: io::Error| ClientError::UnusableFolder {
            folder: self.folder.clone(),
            message: os_error_message(&error),
        };
        match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(folder_error(error)),
            _ => {}
        }
        self.check_folder()
    }

    /// # Errors
    /// When the folder is not a directory, belongs to another user, or is accessible to others.
    pub fn check_folder(&self) -> Result<(), ClientError> {
        let unusable = |message: String| ClientError::UnusableFolder { folder: self.folder.clone(), message };
        // `symlink_metadata`: in a shared temporary folder, another user could create a link with this name.
        let metadata = match std::fs::symlink_metadata(&self.folder) {
            Ok(metadata) => metadata,
            Err(error) => return Err(unusable(os_error_message(&error))),
        };
        if !metadata.is_dir() {
            return Err(unusable("it is not a folder".into()));
        }
        let own_uid = rustix::process::geteuid().as_raw();
        if metadata.uid() != own_uid {
            return Err(unusable(format!("it belongs to uid `{}`, not to `{own_uid}`", metadata.uid())));
        }
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(unusable(format!("its mode is `{mode:04o}`, but it must be closed to others (`0700`)")));
        }
        Ok(())
    }
}
