//! pdev's folders on this machine: the XDG variables or the system's defaults, and the folder of the socket.
//!
//! This module only computes paths. Each user of a folder creates it with the mode that its contents need.

use std::path::PathBuf;

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

/// The folder of the agent's socket: `$PDEV_SOCKET_DIR`, else `$XDG_RUNTIME_DIR/pdev`, else `pdev-<uid>` in the
/// temporary folder.
#[must_use]
pub fn socket_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG base directory specification: a relative path is invalid and must be ignored.
    let runtime = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute() && path.is_dir());
    variable("PDEV_SOCKET_DIR")
        .or_else(|| runtime.map(|path| path.join("pdev")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("pdev-{}", rustix::process::geteuid().as_raw())))
}
