//! Delivers secrets as files: one folder per preview and unit, on tmpfs where available, removed at `down`.
//!
//! The root folder has mode 0700 and belongs to the user, so the files inside may be 0444. A container that runs as any
//! user reads them through a read-only bind mount, but no other user of this machine can pass the root folder.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::endpoint::{self, ENDPOINT_TOKEN_FILE};
use crate::secret::Secret;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of statfs(2).
#[cfg(target_os = "linux")]
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Names the folder in shared memory.
const FOLDER_RECORD: &str = "secrets.folder";

#[derive(Debug, thiserror::Error)]
pub enum DeliveryProblem {
    #[error("`{0}` is no name for a secret; allowed are lower-case letters, digits, `-` and `_`")]
    InvalidName(String),
    #[error("the folder for secrets `{path}` belongs to user {owner}, not to user {uid}")]
    WrongOwner { path: PathBuf, owner: u32, uid: u32 },
    #[error("cannot write the secret file `{path}`: {error}")]
    Write { path: PathBuf, error: io::Error },
}

pub struct SecretDelivery {
    root: PathBuf,
    is_in_memory: bool,
}

impl SecretDelivery {
    /// Chooses the folder for secrets: the runtime folder if it is in memory, else `/dev/shm`, else the runtime folder
    /// on disk. [`SecretDelivery::is_in_memory`] returns which, for a message to the user.
    ///
    /// # Errors
    /// When the folder cannot be created, or belongs to another user.
    pub fn open(runtime: &Path) -> Result<Self, DeliveryProblem> {
        let uid = rustix::process::getuid().as_raw();
        let shared_memory = Path::new("/dev/shm");
        let (root, in_memory) = if is_memory_file_system(runtime) {
            (runtime.join("secrets"), true)
        } else if is_memory_file_system(shared_memory) {
            (shared_memory_folder(shared_memory, runtime, uid)?, true)
        } else {
            (runtime.join("secrets"), false)
        };
        ensure_private_folder(&root, uid)?;
        Ok(Self { root, is_in_memory: in_memory })
    }

    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// Stores a secret of a preview until [`SecretDelivery::remove_preview`].
    ///
    /// # Errors
    /// When the name is invalid, or the file cannot be written.
    pub fn put(&self, preview: &str, name: &str, secret: &Secret) -> Result<(), DeliveryProblem> {
        check_name(name)?;
        write_file(&self.ensure_folder(preview, None)?.join(name), secret, 0o400)
    }

    /// Removes one secret. Files that were already delivered to running units stay until `down`.
    ///
    /// # Errors
    /// When a name is invalid, or the file cannot be removed.
    pub fn remove(&self, preview: &str, name: &str) -> Result<(), DeliveryProblem> {
        let path = self.root.join(check_name(preview)?).join("all").join(check_name(name)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DeliveryProblem::Write { path, error }),
            _ => Ok(()),
        }
    }

    /// The subset of `names` that is stored.
    #[must_use]
    pub fn stored_names(&self, preview: &str, names: &[String]) -> Vec<String> {
        names
            .iter()
            .filter(|name| check_name(name).is_ok() && self.root.join(preview).join("all").join(name).is_file())
            .cloned()
            .collect()
    }

    /// The value of a stored secret.
    #[must_use]
    pub fn read_stored(&self, preview: &str, name: &str) -> Option<Secret> {
        let name = check_name(name).ok()?;
        fs::read(self.root.join(preview).join("all").join(name)).ok().map(Secret::new)
    }

    /// Writes exactly these secrets to the folder of one unit and returns its path. Absent secrets are left out.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn deliver(&self, preview: &str, unit: &str, names: &[String]) -> Result<PathBuf, DeliveryProblem> {
        let target = self.ensure_folder(preview, Some(unit))?;
        for name in names {
            let source = self.root.join(preview).join("all").join(check_name(name)?);
            match fs::read(&source) {
                Ok(bytes) => write_file(&target.join(name), &Secret::new(bytes), 0o444)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(DeliveryProblem::Write { path: source, error }),
            }
        }
        Ok(target)
    }

    /// The token of a unit's endpoint. It is created at the first call and stays the same until
    /// [`SecretDelivery::remove_preview`], because programs that outlive the agent still use it. Its file is next to
    /// the unit's secrets; its name contains a `.`, so no secret can have it.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn endpoint_token(&self, preview: &str, unit: &str) -> Result<Secret, DeliveryProblem> {
        let path = self.ensure_folder(preview, Some(unit))?.join(ENDPOINT_TOKEN_FILE);
        match fs::read(&path) {
            // A truncated file (full disk, crash) is replaced. An empty token must never match an empty header.
            Ok(bytes) if bytes.len() == endpoint::TOKEN_LENGTH => Ok(Secret::new(bytes)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DeliveryProblem::Write { path, error }),
            _ => {
                let token = endpoint::new_token();
                write_file(&path, &token, 0o444)?;
                Ok(token)
            }
        }
    }

    /// The folder with one subfolder per unit of a preview.
    #[must_use]
    pub fn units_folder(&self, preview: &str) -> PathBuf {
        self.root.join(preview).join("units")
    }

    /// The folder for a unit's secrets, whether it exists or not.
    #[must_use]
    pub fn unit_folder(&self, preview: &str, unit: &str) -> PathBuf {
        self.units_folder(preview).join(unit)
    }

    /// Removes the files of one unit.
    ///
    /// # Errors
    /// When files are left behind.
    pub fn remove_unit(&self, preview: &str, unit: &str) -> Result<(), DeliveryProblem> {
        let path = self.unit_folder(check_name(preview)?, check_name(unit)?);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DeliveryProblem::Write { path, error }),
            _ => Ok(()),
        }
    }

    /// Removes every secret of a preview.
    ///
    /// # Errors
    /// When files are left behind.
    pub fn remove_preview(&self, preview: &str) -> Result<(), DeliveryProblem> {
        let path = self.root.join(preview);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DeliveryProblem::Write { path, error }),
            _ => Ok(()),
        }
    }

    /// Creates the folder of a preview or of one unit.
    fn ensure_folder(&self, preview: &str, unit: Option<&str>) -> Result<PathBuf, DeliveryProblem> {
        check_name(preview)?;
        let uid = rustix::process::getuid().as_raw();
        ensure_private_folder(&self.root, uid)?;
        let path = match unit {
            Some(unit) => self.unit_folder(preview, check_name(unit)?),
            None => self.root.join(preview).join("all"),
        };
        // The folder is bind-mounted into containers, whose user must be able to enter it. The root folder keeps other
        // users out.
        let created = DirBuilder::new().recursive(true).mode(0o755).create(&path);
        created.map_err(|error| DeliveryProblem::Write { path: path.clone(), error })?;
        Ok(path)
    }
}

fn check_name(name: &str) -> Result<&str, DeliveryProblem> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.len() <= 128 && name.bytes().all(is_allowed) {
        Ok(name)
    } else {
        Err(DeliveryProblem::InvalidName(name.to_owned()))
    }
}

fn write_file(path: &Path, secret: &Secret, mode: u32) -> Result<(), DeliveryProblem> {
    let attempt = || -> io::Result<()> {
        let fresh = path.with_extension("new");
        // A leftover of a killed process would make `create_new` fail.
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        secret.write_to(&mut file)?;
        fs::rename(&fresh, path)
    };
    attempt().map_err(|error| DeliveryProblem::Write { path: path.to_owned(), error })
}

fn ensure_private_folder(path: &Path, uid: u32) -> Result<(), DeliveryProblem> {
    let wrap = |error| DeliveryProblem::Write { path: path.to_owned(), error };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(wrap)?;
    // Do not follow a link: in `/dev/shm`, any user can create this name first.
    let metadata = fs::symlink_metadata(path).map_err(wrap)?;
    if metadata.uid() != uid || !metadata.is_dir() {
        return Err(DeliveryProblem::WrongOwner { path: path.to_owned(), owner: metadata.uid(), uid });
    }
    if metadata.mode() & 0o077 != 0 {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(wrap)?;
    }
    Ok(())
}

/// The folder in shared memory, with a random name that is recorded in the private runtime folder. Programs that outlive
/// the agent still read their files there.
fn shared_memory_folder(shared_memory: &Path, runtime: &Path, uid: u32) -> Result<PathBuf, DeliveryProblem> {
    let record = runtime.join(FOLDER_RECORD);
    let is_own =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid);
    let recorded = fs::read(&record).ok().map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
    if let Some(recorded) = recorded.filter(|path| path.parent() == Some(shared_memory) && is_own(path)) {
        return Ok(recorded);
    }
    let write = |error| DeliveryProblem::Write { path: shared_memory.to_owned(), error };
    let path = host::files::create_unpredictable_folder(shared_memory, "pdev-").map_err(write)?;
    DirBuilder::new().recursive(true).mode(0o700).create(runtime).map_err(write)?;
    host::files::replace_file(&record, path.as_os_str().as_bytes(), 0o600).map_err(write)?;
    Ok(path)
}

#[cfg(not(target_os = "linux"))]
fn is_memory_file_system(_: &Path) -> bool {
    // This system offers no such check. The files are then on disk, in a folder that only its owner can enter.
    false
}

#[cfg(target_os = "linux")]
fn is_memory_file_system(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|file_system| MEMORY_FILE_SYSTEMS.contains(&file_system.f_type))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn new_delivery() -> (tempfile::TempDir, SecretDelivery) {
        let runtime = tempfile::tempdir().unwrap();
        let delivery = SecretDelivery::open(runtime.path()).unwrap();
        (runtime, delivery)
    }

    #[test]
    fn a_unit_gets_exactly_its_own_secrets() {
        let (_runtime, delivery) = new_delivery();
        delivery.put("p1", "stripe", &Secret::new(b"sk".to_vec())).unwrap();
        delivery.put("p1", "other", &Secret::new(b"no".to_vec())).unwrap();
        let folder = delivery.deliver("p1", "api", &["stripe".into(), "absent".into()]).unwrap();
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["stripe"]);
        assert_eq!(fs::read(folder.join("stripe")).unwrap(), b"sk");
        assert_eq!(delivery.stored_names("p1", &["stripe".into(), "absent".into()]), ["stripe"]);
        delivery.remove_preview("p1").unwrap();
        assert!(!folder.exists());
    }

    /// Another user may create any name in shared memory.
    #[test]
    fn folder_in_shared_memory_is_unpredictable_and_stable() {
        let (shared_memory, runtime, other) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let uid = rustix::process::getuid().as_raw();
        let open = |runtime: &Path| shared_memory_folder(shared_memory.path(), runtime, uid).unwrap();
        let first = open(runtime.path());
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(open(runtime.path()), first, "programs that outlive the agent read their files there");
        assert_ne!(open(other.path()), first, "two agents of one user share no folder");
        // After a restart of the machine, another user plants a link under the old name.
        fs::remove_dir(&first).unwrap();
        std::os::unix::fs::symlink(other.path(), &first).unwrap();
        let second = open(runtime.path());
        assert!(second != first && fs::symlink_metadata(&second).unwrap().is_dir());
    }

    #[test]
    fn root_folder_is_private() {
        let (_runtime, delivery) = new_delivery();
        let mode = fs::metadata(&delivery.root).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        delivery.remove_preview("unused").unwrap();
        let _ = fs::remove_dir_all(&delivery.root);
    }

    #[test]
    fn names_with_path_separators_are_refused() {
        let (_runtime, delivery) = new_delivery();
        for name in ["../x", "a/b", "", ".", "a.b"] {
            assert!(
                matches!(delivery.put("p1", name, &Secret::new(vec![1])), Err(DeliveryProblem::InvalidName(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn endpoint_token_is_stable_until_preview_is_removed() {
        let (_runtime, delivery) = new_delivery();
        let token = delivery.endpoint_token("p3", "api").unwrap();
        let path = delivery.unit_folder("p3", "api").join(ENDPOINT_TOKEN_FILE);
        assert_eq!(fs::read(&path).unwrap(), token.expose());
        assert_eq!(delivery.endpoint_token("p3", "api").unwrap().expose(), token.expose());
        assert_ne!(delivery.endpoint_token("p3", "web").unwrap().expose(), token.expose());
        // A file truncated by a full disk must not create an endpoint that accepts an empty header.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(delivery.endpoint_token("p3", "api").unwrap().expose().len(), endpoint::TOKEN_LENGTH);
        delivery.remove_preview("p3").unwrap();
        assert!(!path.exists());
        delivery.endpoint_token("p3", "api").unwrap();
        assert_ne!(fs::read(&path).unwrap(), token.expose());
        delivery.remove_preview("p3").unwrap();
    }

    #[test]
    fn a_secret_put_again_replaces_the_old_one() {
        let (_runtime, delivery) = new_delivery();
        delivery.put("p2", "k", &Secret::new(b"1".to_vec())).unwrap();
        delivery.put("p2", "k", &Secret::new(b"2".to_vec())).unwrap();
        let folder = delivery.deliver("p2", "api", &["k".into()]).unwrap();
        assert_eq!(fs::read(folder.join("k")).unwrap(), b"2");
        delivery.deliver("p2", "api", &["k".into()]).unwrap();
        delivery.remove_preview("p2").unwrap();
    }
}
