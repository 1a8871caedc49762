//! The vault: secrets and logins in sealed files, under one data key that the system's keyring holds.
//!
//! The keyring is asked once per opened vault. No value is written unsealed, and files are replaced atomically: a crash
//! at any moment leaves the old value or the new one.

#[cfg(target_os = "linux")]
mod kernel;
mod key_storage;
mod key_store;
#[cfg(target_os = "macos")]
mod keychain;
mod passphrase;
mod problem;
mod seal;
#[cfg(target_os = "linux")]
mod secret_service;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use key_store::{KeyStore, VaultOptions};
pub use problem::VaultProblem;
pub(crate) use seal::KEY_BYTES;
use seal::SealProblem;
use strings::to_hex;

use crate::memory::ProtectedBytes;
use crate::secret::Secret;
use crate::storage;

/// A data key from its store, wiped when dropped.
type DataKey = Box<Zeroizing<[u8; KEY_BYTES]>>;

const FORMAT: u32 = 1;
/// A renewal in another process ends within this time.
const LOGIN_LOCK_TIMEOUT: Duration = Duration::from_secs(60);
const CHECK: &str = "check";
/// A larger value is a mistake.
pub const ITEM_BYTES_MAX: usize = 4 << 20;

/// The content of `vault.json`: the keyring of the key. It contains no secret.
#[derive(Serialize, Deserialize, Clone, Debug)]
struct VaultHeader {
    format: u32,
    /// Random. Names the key in the keyring, so that two vaults of one user do not share a key.
    id: String,
    #[serde(rename = "holder")]
    key_store: KeyStore,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passphrase_file: Option<PathBuf>,
    /// The salt of the passphrase, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
}

/// Describes a vault to another process, without its key.
#[derive(Serialize, Deserialize)]
pub(crate) struct VaultDescriptor {
    folder: PathBuf,
    header: VaultHeader,
}

/// Reserved disk space for the next value of an item.
pub(crate) struct ReservedItem(storage::ReservedFile);

impl ReservedItem {
    /// Seals the value and replaces the old one, with the guarantees of [`Vault::put`].
    pub(crate) fn commit(self, vault: &Vault, name: &str, secret: &Secret) -> Result<(), VaultProblem> {
        let path = item_path(&vault.folder, name)?;
        let sealed = seal::seal(vault.key(), &vault.associated_data(name), &random(), secret.expose());
        self.0.commit(&sealed).map_err(file_problem("write", &path))
    }
}

pub struct Vault {
    folder: PathBuf,
    header: VaultHeader,
    key: ProtectedBytes,
}

impl Vault {
    /// Whether a vault exists in this folder. Asks no keyring.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join("vault.json").is_file()
    }

    /// Opens the vault, or creates it if it does not exist.
    ///
    /// # Errors
    /// See the variants of [`VaultProblem`]. Nothing was changed in this case.
    pub async fn open(folder: &Path, options: &VaultOptions) -> Result<Self, VaultProblem> {
        // Before the key is in memory.
        crate::memory::make_undumpable();
        if let Some(header) = read_header(folder)? {
            return Self::open_existing(folder, header, options).await;
        }
        let _folder_lock = storage::lock_folder(folder).map_err(file_problem("use", folder))?;
        // Another process may have created it while this one waited for the lock.
        match read_header(folder)? {
            Some(header) => Self::open_existing(folder, header, options).await,
            None => Self::create(folder, options).await,
        }
    }

    async fn open_existing(folder: &Path, header: VaultHeader, options: &VaultOptions) -> Result<Self, VaultProblem> {
        let key = key_storage::load_key(&header, options).await?.ok_or(VaultProblem::KeyMissing(header.key_store))?;
        let vault = Self { folder: folder.to_owned(), header, key: to_protected_bytes(&key) };
        match vault.get(CHECK) {
            // The check item distinguishes a wrong key from a damaged file.
            Ok(Some(_)) => Ok(vault),
            Ok(None) => Err(VaultProblem::Damaged { path: item_path(folder, CHECK)?, reason: "it is missing" }),
            Err(VaultProblem::Damaged { .. }) => Err(VaultProblem::WrongKey(vault.header.key_store)),
            Err(other) => Err(other),
        }
    }

    async fn create(folder: &Path, options: &VaultOptions) -> Result<Self, VaultProblem> {
        let mut header = VaultHeader {
            format: FORMAT,
            id: to_hex(random::<16>()),
            key_store: options.key_store_or_default()?,
            passphrase_file: None,
            salt: None,
        };
        if header.key_store == KeyStore::Passphrase {
            header.passphrase_file.clone_from(&options.passphrase_file);
            header.salt = Some(to_hex(random::<16>()));
        }
        // A passphrase always gives a key. A keyring cannot have one for a random id, so a new key is stored.
        let key = match key_storage::load_key(&header, options).await? {
            Some(key) => key,
            None => {
                let key: DataKey = Box::new(Zeroizing::new(random()));
                key_storage::store_key(&header, &key, options).await?;
                key
            }
        };
        let vault = Self { folder: folder.to_owned(), header, key: to_protected_bytes(&key) };
        // Write the check item before the header. After a crash in between, a header without it would look like a vault
        // with another key.
        vault.put(CHECK, &Secret::new(vault.header.id.clone().into_bytes()))?;
        let path = folder.join("vault.json");
        let text = serde_json::to_vec_pretty(&vault.header).unwrap_or_default();
        storage::replace_file(&path, &text).map_err(file_problem("write", &path))?;
        Ok(vault)
    }

    /// The data, besides the key, that another process needs to use this vault. It contains no secret.
    pub(crate) fn descriptor(&self) -> VaultDescriptor {
        VaultDescriptor { folder: self.folder.clone(), header: self.header.clone() }
    }

    /// A separate vault with a random key, without a keyring.
    #[cfg(test)]
    pub(crate) fn new_for_test(folder: &Path) -> Self {
        let header = VaultHeader {
            format: FORMAT,
            id: to_hex(random::<16>()),
            key_store: KeyStore::Kernel,
            passphrase_file: None,
            salt: None,
        };
        storage::create_private_folder(folder).unwrap();
        fs::write(folder.join("vault.json"), serde_json::to_vec(&header).unwrap()).unwrap();
        let key: DataKey = Box::new(Zeroizing::new(random()));
        Self { folder: folder.to_owned(), header, key: to_protected_bytes(&key) }
    }

    /// The vault as another process has it open.
    pub(crate) fn from_descriptor(descriptor: VaultDescriptor, key: &[u8; KEY_BYTES]) -> Self {
        Self {
            folder: descriptor.folder,
            header: descriptor.header,
            key: to_protected_bytes(&Box::new(Zeroizing::new(*key))),
        }
    }

    /// Locks like [`Self::lock_login`], but without a timeout. Only for a process with a limited lifetime.
    pub(crate) async fn lock_login_unbounded(&self, item: &str) -> Result<fs::File, VaultProblem> {
        let path = item_path(&self.folder, item)?.with_extension("lock");
        let folder = self.folder.clone();
        let locked = tokio::task::spawn_blocking(move || storage::lock_file_unbounded(&path)).await;
        let locked = locked.unwrap_or_else(|error| Err(io::Error::other(error)));
        locked.map_err(file_problem("use", &folder))
    }

    /// Reserves disk space for the next value of an item, before that value exists.
    pub(crate) fn reserve_item(&self, item: &str) -> Result<ReservedItem, VaultProblem> {
        let path = item_path(&self.folder, item)?;
        storage::ReservedFile::reserve(&path).map(ReservedItem).map_err(file_problem("write", &path))
    }

    /// Whether the item exists.
    pub(crate) fn has(&self, name: &str) -> Result<bool, VaultProblem> {
        Ok(item_path(&self.folder, name)?.is_file())
    }

    /// Locks a login while it is written, across all processes of this user.
    pub(crate) async fn lock_login(&self, item: &str) -> Result<fs::File, VaultProblem> {
        let path = item_path(&self.folder, item)?.with_extension("lock");
        let folder = self.folder.clone();
        let locked = tokio::task::spawn_blocking(move || storage::lock_file(&path, LOGIN_LOCK_TIMEOUT)).await;
        let locked = locked.unwrap_or_else(|error| Err(io::Error::other(error)));
        locked.map_err(file_problem("use", &folder))
    }

    /// Whether the folder still contains this vault. Another process may have set it aside.
    #[must_use]
    pub fn is_current(&self) -> bool {
        read_header(&self.folder).is_ok_and(|header| header.is_some_and(|header| header.id == self.header.id))
    }

    #[must_use]
    pub fn key_store(&self) -> KeyStore {
        self.header.key_store
    }

    /// Seals a value and stores it. It is on disk when this returns.
    ///
    /// # Errors
    /// When the name is invalid or the file cannot be written. The old value is unchanged in this case.
    pub fn put(&self, name: &str, secret: &Secret) -> Result<(), VaultProblem> {
        let path = item_path(&self.folder, name)?;
        let sealed = seal::seal(self.key(), &self.associated_data(name), &random(), secret.expose());
        storage::replace_file(&path, &sealed).map_err(file_problem("write", &path))
    }

    /// # Errors
    /// When the file cannot be read or decrypted.
    pub fn get(&self, name: &str) -> Result<Option<Secret>, VaultProblem> {
        let path = item_path(&self.folder, name)?;
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_problem("read", &path)(error)),
        };
        match seal::open(self.key(), &self.associated_data(name), &sealed) {
            Ok(plain) => Ok(Some(Secret::from_zeroizing(plain))),
            Err(SealProblem::Newer(version)) => Err(VaultProblem::NewerFormat { path, version: version.into() }),
            Err(SealProblem::Truncated) => Err(VaultProblem::Damaged { path, reason: "it is cut off" }),
            Err(SealProblem::NotAuthentic) => {
                Err(VaultProblem::Damaged { path, reason: "it does not open under the vault's key" })
            }
        }
    }

    /// Removes an item. Returns whether it existed.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<bool, VaultProblem> {
        remove(&self.folder, name)
    }

    /// Whether its key may be written to the swap.
    #[must_use]
    pub fn is_swappable(&self) -> bool {
        !self.key.is_locked()
    }

    pub(crate) fn key(&self) -> &[u8; KEY_BYTES] {
        self.key.bytes().first_chunk().expect("it was created from a data key")
    }

    /// Associated data of a sealed file: it opens neither under another name nor in another vault.
    fn associated_data(&self, name: &str) -> String {
        format!("{}/{name}", self.header.id)
    }
}

fn to_protected_bytes(key: &DataKey) -> ProtectedBytes {
    ProtectedBytes::new(Zeroizing::new(key.to_vec()))
}

fn item_path(folder: &Path, name: &str) -> Result<PathBuf, VaultProblem> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/');
    if name.is_empty() || name.len() > 200 || !name.bytes().all(is_allowed) || name.starts_with(['/', '.']) {
        return Err(VaultProblem::InvalidName(name.to_owned()));
    }
    // Names cannot contain `~`, so the mapping is unique, and all items are in one folder.
    Ok(folder.join(format!("{}.sealed", name.replace('/', "~"))))
}

/// Removes an item without a keyring. Returns whether it existed.
///
/// # Errors
/// When the file cannot be removed.
pub fn remove(folder: &Path, name: &str) -> Result<bool, VaultProblem> {
    let path = item_path(folder, name)?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file_problem("remove", &path)(error)),
    }
}

/// The static code for a problem code from another process.
pub(crate) fn problem_code(code: &str) -> &'static str {
    problem::CODES.into_iter().find(|known| *known == code).unwrap_or("vault_file")
}

/// The sorted names of the items with a prefix. Names are not secret, so no keyring is asked.
///
/// # Errors
/// When the folder cannot be read. An absent folder is empty.
pub fn names(folder: &Path, prefix: &str) -> Result<Vec<String>, VaultProblem> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_problem("read", folder)(error)),
    };
    let name_of = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        Some(name.strip_suffix(".sealed")?.replace('~', "/"))
    };
    let mut names: Vec<String> = entries.filter_map(name_of).filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    Ok(names)
}

/// The keyring that holds the key of a vault.
///
/// # Errors
/// When the header cannot be read or is from a newer version.
pub fn key_store_of(folder: &Path) -> Result<Option<KeyStore>, VaultProblem> {
    Ok(read_header(folder)?.map(|header| header.key_store))
}

/// Sets a vault aside, still sealed, so that the next one starts empty. Returns its new path.
///
/// # Errors
/// When the folder cannot be renamed.
pub fn set_aside(folder: &Path, label: &str) -> Result<Option<PathBuf>, VaultProblem> {
    if !folder.exists() {
        return Ok(None);
    }
    let aside = folder.with_extension(format!("aside-{label}"));
    fs::rename(folder, &aside).map_err(file_problem("set aside", folder))?;
    Ok(Some(aside))
}

fn read_header(folder: &Path) -> Result<Option<VaultHeader>, VaultProblem> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let path = folder.join("vault.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_problem("read", &path)(error)),
    };
    let damaged = |_| VaultProblem::Damaged { path: path.clone(), reason: "it is no header of a vault" };
    // Read only the format first, because a newer header may have other fields.
    let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
    if format > FORMAT {
        return Err(VaultProblem::NewerFormat { path, version: format });
    }
    serde_json::from_slice(&text).map_err(damaged).map(Some)
}

fn file_problem(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> VaultProblem + use<> {
    let path = path.to_owned();
    move |error| VaultProblem::File { verb, path: path.clone(), error }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

#[cfg(test)]
mod tests;
