//! The agent's folders on this machine (XDG variables override them), and each preview's folders.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use host::locations::UserFolders;
use plan::application::PreviewId;
use sha2::{Digest, Sha256};

#[derive(Clone, Debug)]
pub struct AgentLocations {
    /// The journal, logs, the registry of labels and ports.
    pub state: PathBuf,
    /// Volumes of the process runtime.
    pub data: PathBuf,
    /// Build hashes and listings.
    pub cache: PathBuf,
    /// The socket, keepers' sockets, delivered secrets. Mode 0700.
    pub runtime: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum LocationProblem {
    #[error("no home folder is known; set HOME, or XDG_STATE_HOME, XDG_DATA_HOME and XDG_CACHE_HOME")]
    NoHome,
    #[error("cannot create the folder `{path}`: {error}")]
    CreateFailed { path: PathBuf, error: io::Error },
    #[error("the folder `{path}` belongs to user {owner}, not to user {uid}; remove it or set PDEV_SOCKET_DIR")]
    WrongOwner { path: PathBuf, owner: u32, uid: u32 },
}

impl AgentLocations {
    /// # Errors
    /// When no home folder is known, a folder cannot be created, or the runtime folder belongs to another user.
    pub fn prepare(runtime: &Path) -> Result<Self, LocationProblem> {
        let UserFolders { state, data, cache, .. } = UserFolders::find().ok_or(LocationProblem::NoHome)?;
        let locations = Self { state, data, cache, runtime: runtime.to_owned() };
        for path in [&locations.state, &locations.data, &locations.cache] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| LocationProblem::CreateFailed { path: path.clone(), error })?;
        }
        ensure_private_folder(runtime)?;
        Ok(locations)
    }

    #[must_use]
    pub fn preview_locations(&self, id: &PreviewId, project: &Path) -> drivers::Locations {
        drivers::Locations {
            project: project.to_owned(),
            data: self.data.join("previews").join(&id.0),
            runtime: self.runtime.join(&id.0),
            state: self.state.join("previews").join(&id.0),
            cache: self.cache.clone(),
        }
    }

    /// Names this agent in the labels of objects on engines that it may share: a digest of machine, user and state folder.
    #[must_use]
    pub fn owner(&self) -> String {
        let user = rustix::process::getuid().as_raw();
        let text = format!("{}\0{user}\0{}", host::machine::machine_id(), self.state.display());
        strings::to_hex(&Sha256::digest(text)[..8])
    }

    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }
}

fn ensure_private_folder(path: &Path) -> Result<(), LocationProblem> {
    let failed = |error| LocationProblem::CreateFailed { path: path.to_owned(), error };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    // The folder may have existed, possibly in a shared temporary folder where another user could have created it or a
    // link in its place.
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    let own_uid = rustix::process::getuid().as_raw();
    if metadata.uid() != own_uid {
        return Err(LocationProblem::WrongOwner { path: path.to_owned(), owner: metadata.uid(), uid: own_uid });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
}
