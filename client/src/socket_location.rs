//! Location of the agent's socket, and the check that its folder can be trusted.
//!
//! This module creates the folder (0700), because client and agent need it before they can communicate. Only the agent
//! creates the socket.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use host::unix_socket::SocketAddressPath;

use crate::error::{ClientError, os_error_message};

/// The folder that holds the socket, the locks and the log of agents started in the background.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketLocation {
    folder: PathBuf,
    /// The folder of the agent that runs for the same state, if the user chose another folder.
    running_elsewhere: Option<PathBuf>,
    /// Whether an agent that listens in another folder is used instead.
    is_default: bool,
}

impl SocketLocation {
    /// The folder that the user chose, else the one of the running agent, else the default folder.
    ///
    /// The default depends on variables that differ between shells (`ssh`, `su`, `cron`), and there must be one agent
    /// only. So a running agent is found by its record in the state folder.
    #[must_use]
    pub fn from_environment() -> Self {
        let chosen = host::locations::chosen_socket_folder();
        let folder = chosen.clone().unwrap_or_else(host::locations::default_socket_folder);
        match recorded_folder().filter(|recorded| *recorded != folder && is_listening(recorded)) {
            None => Self { folder, running_elsewhere: None, is_default: chosen.is_none() },
            Some(recorded) if chosen.is_none() => Self { folder: recorded, running_elsewhere: None, is_default: true },
            Some(recorded) => Self { folder, running_elsewhere: Some(recorded), is_default: false },
        }
    }

    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), running_elsewhere: None, is_default: false }
    }

    /// The location of an agent that was started at the same time by a shell with other variables.
    pub(crate) fn running_agent(&self) -> Option<Self> {
        let recorded = recorded_folder().filter(|recorded| self.is_default && *recorded != self.folder)?;
        is_listening(&recorded).then_some(Self { folder: recorded, running_elsewhere: None, is_default: true })
    }

    /// # Errors
    /// When the user chose a folder, and the agent runs with another one.
    pub fn check_choice(&self) -> Result<(), ClientError> {
        match &self.running_elsewhere {
            None => Ok(()),
            Some(running) => {
                Err(ClientError::OtherSocketFolder { chosen: self.folder.clone(), running: running.clone() })
            }
        }
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
    /// See [`Self::check_choice`]. Also when the folder cannot be created, is not a directory, belongs to another user,
    /// or is accessible to others.
    pub fn prepare_folder(&self) -> Result<(), ClientError> {
        self.check_choice()?;
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

/// The folder that the last agent of this user's state recorded.
fn recorded_folder() -> Option<PathBuf> {
    let state = host::locations::UserFolders::find()?.state;
    host::locations::AgentFiles::in_state_folder(&state).read_socket_folder()
}

/// Whether an agent accepts connections. A killed agent leaves its record and its socket.
fn is_listening(folder: &Path) -> bool {
    let socket = SocketLocation::in_folder(folder).socket_path();
    SocketAddressPath::new(&socket).and_then(|address| UnixStream::connect(address.path())).is_ok()
}
