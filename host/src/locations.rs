//! pdev's folders on this machine: the XDG variables or the system's defaults, and the folder of the socket.
//!
//! This module only computes paths. Each user of a folder creates it with the mode that its contents need.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::machine::machine_id;

/// The user's folders for pdev.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserFolders {
    /// The user's configuration.
    pub config: PathBuf,
    /// The journal, logs and the registry.
    pub state: PathBuf,
    /// The vault and the volumes of local processes.
    pub data: PathBuf,
    /// What can be computed again.
    pub cache: PathBuf,
}

impl UserFolders {
    /// `None` without a home folder.
    #[must_use]
    pub fn find() -> Option<Self> {
        let folders = directories::ProjectDirs::from("", "", "pdev")?;
        Some(Self {
            config: folders.config_dir().to_owned(),
            // Only Linux has a state folder; elsewhere the state is stored with the data.
            state: folders.state_dir().unwrap_or_else(|| folders.data_local_dir()).to_owned(),
            data: folders.data_local_dir().to_owned(),
            cache: folders.cache_dir().to_owned(),
        })
    }
}

/// The folder that the user chose for the agent's socket: `$PDEV_SOCKET_DIR`.
#[must_use]
pub fn chosen_socket_folder() -> Option<PathBuf> {
    variable("PDEV_SOCKET_DIR")
}

/// The folder of the agent's socket if the user chose none: `pdev` in the user's runtime folder, which is
/// `$XDG_RUNTIME_DIR` or, without it (`su`, `cron`), `/run/user/<uid>`; else `pdev-<uid>` in the temporary folder.
#[must_use]
pub fn default_socket_folder() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    // The XDG base directory specification: a relative path is invalid and must be ignored.
    let from_variable = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute() && path.is_dir());
    from_variable
        .or_else(|| Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|path| is_own_folder(path, uid)))
        .map_or_else(|| std::env::temp_dir().join(format!("pdev-{uid}")), |runtime| runtime.join("pdev"))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn is_own_folder(path: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid)
}

/// The files about the agent of a state folder. A state folder has one agent per machine: two agents would start and
/// stop the same programs. Several machines may share the folder, as part of a network home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentFiles {
    /// Locked by the agent while it runs.
    pub lock: PathBuf,
    /// The folder of its socket, as text.
    pub socket_folder: PathBuf,
}

impl AgentFiles {
    #[must_use]
    pub fn in_state_folder(state: &Path) -> Self {
        let (folder, machine) = (state.join("agents"), machine_id());
        Self { lock: folder.join(format!("{machine}.lock")), socket_folder: folder.join(format!("{machine}.socket")) }
    }

    /// The recorded folder of the agent's socket. The agent may be gone.
    #[must_use]
    pub fn read_socket_folder(&self) -> Option<PathBuf> {
        let bytes = std::fs::read(&self.socket_folder).ok()?;
        Some(PathBuf::from(OsString::from_vec(bytes))).filter(|path| path.is_absolute())
    }
}
