//! pdev's folders on this machine: the XDG variables or the system's defaults, and the folder of the socket.
//!
//! Each user of a folder creates it with the mode that its contents need. Only the folder in the temporary folder is created
//! here, because its name is random.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::files::{create_unpredictable_folder, replace_file};
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
/// `$XDG_RUNTIME_DIR` or, without it (`su`, `cron`), `/run/user/<uid>`; else a recorded folder with a random name in the
/// temporary folder.
#[must_use]
pub fn default_socket_folder() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    // The XDG base directory specification: a relative path is invalid and must be ignored.
    let from_variable = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute() && path.is_dir());
    from_variable
        .or_else(|| Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|path| is_own_folder(path, uid)))
        .map_or_else(|| temporary_socket_folder(uid), |runtime| runtime.join("pdev"))
}

/// Other users can create any name in the temporary folder, so this one is random, and recorded where only the user can
/// write. Without a state folder there is no such place, and the caller refuses a planted folder.
fn temporary_socket_folder(uid: u32) -> PathBuf {
    let predictable = || std::env::temp_dir().join(format!("pdev-{uid}"));
    let Some(folders) = UserFolders::find() else { return predictable() };
    let record = AgentFiles::in_state_folder(&folders.state).temporary_folder;
    let recorded = std::fs::read(&record).ok().map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
    if let Some(recorded) = recorded.filter(|path| is_own_folder(path, uid)) {
        return recorded;
    }
    // Two clients may do this at once. They find each other's agent by its record.
    let create = || -> std::io::Result<PathBuf> {
        let parent = record.parent().unwrap_or(&folders.state);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let path = create_unpredictable_folder(&std::env::temp_dir(), "pdev-")?;
        replace_file(&record, path.as_os_str().as_bytes(), 0o600)?;
        Ok(path)
    };
    create().unwrap_or_else(|_| predictable())
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
    /// The folder for sockets in the temporary folder, as text. Exists only if the user has no runtime folder.
    pub temporary_folder: PathBuf,
}

impl AgentFiles {
    #[must_use]
    pub fn in_state_folder(state: &Path) -> Self {
        let (folder, machine) = (state.join("agents"), machine_id());
        let file = |kind: &str| folder.join(format!("{machine}.{kind}"));
        Self { lock: file("lock"), socket_folder: file("socket"), temporary_folder: file("temporary") }
    }

    /// The recorded folder of the agent's socket. The agent may be gone.
    #[must_use]
    pub fn read_socket_folder(&self) -> Option<PathBuf> {
        let bytes = std::fs::read(&self.socket_folder).ok()?;
        Some(PathBuf::from(OsString::from_vec(bytes))).filter(|path| path.is_absolute())
    }
}
