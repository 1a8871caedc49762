//! Who holds the vault's data key, and asking them: every call has a deadline.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(target_os = "macos")]
use super::keychain;
use super::{DataKey, VaultHeader, VaultProblem, passphrase};
#[cfg(target_os = "linux")]
use super::{kernel, secret_service};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyStore {
    /// The desktop's keyring, by the freedesktop.org Secret Service.
    SecretService,
    /// The login keychain of macOS.
    Keychain,
    /// The Linux kernel's user keyring; forgets at a reboot.
    Kernel,
    /// Derived from a file that the user keeps.
    Passphrase,
}

impl fmt::Display for KeyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::SecretService => "desktop's keyring (Secret Service)",
            Self::Keychain => "login keychain",
            Self::Kernel => "kernel's keyring",
            Self::Passphrase => "passphrase file",
        })
    }
}

/// The keyring that a desktop of this system has.
const DESKTOP_KEY_STORE: KeyStore =
    if cfg!(target_os = "macos") { KeyStore::Keychain } else { KeyStore::SecretService };

/// What the user wants of a new vault, and how long each question may take.
#[derive(Clone, Debug)]
pub struct VaultOptions {
    pub key_store: Option<KeyStore>,
    pub passphrase_file: Option<PathBuf>,
    /// A person is there: a locked keyring may ask for its password on the desktop.
    pub can_prompt: bool,
    pub timeout: Duration,
    pub prompt_timeout: Duration,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self {
            key_store: None,
            passphrase_file: None,
            can_prompt: false,
            timeout: Duration::from_secs(5),
            prompt_timeout: Duration::from_secs(60),
        }
    }
}

impl VaultOptions {
    /// By `PDEV_VAULT` and `PDEV_VAULT_PASSPHRASE_FILE`.
    ///
    /// # Errors
    /// When `PDEV_VAULT` is no keyring.
    pub fn from_environment() -> Result<Self, VaultProblem> {
        let passphrase_file =
            std::env::var_os("PDEV_VAULT_PASSPHRASE_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let wanted = match std::env::var("PDEV_VAULT").ok().as_deref() {
            None | Some("" | "auto") => passphrase_file.as_ref().map(|_| KeyStore::Passphrase),
            Some("desktop") => Some(DESKTOP_KEY_STORE),
            Some("kernel") => Some(KeyStore::Kernel),
            Some("passphrase") => Some(KeyStore::Passphrase),
            Some(other) => {
                let words = format!("PDEV_VAULT is `{other}`; allowed are `auto`, `desktop`, `kernel`, `passphrase`");
                return Err(VaultProblem::KeyStoreUnavailable(words));
            }
        };
        Ok(Self { key_store: wanted, passphrase_file, ..Self::default() })
    }

    /// Where a new vault's key goes. The kernel's keyring is never chosen unasked: it forgets.
    pub(super) fn key_store_or_default(&self) -> Result<KeyStore, VaultProblem> {
        match self.key_store {
            Some(holder) => Ok(holder),
            None => Ok(DESKTOP_KEY_STORE),
        }
    }
}

/// The key, or `None` when its holder is there but has none.
pub(super) async fn load_key(head: &VaultHeader, choice: &VaultOptions) -> Result<Option<DataKey>, VaultProblem> {
    match head.key_store {
        #[cfg(target_os = "linux")]
        KeyStore::SecretService => secret_service::get(&head.id, choice).await,
        #[cfg(target_os = "linux")]
        KeyStore::Kernel => kernel::get(&head.id),
        #[cfg(not(target_os = "linux"))]
        KeyStore::SecretService | KeyStore::Kernel => {
            Err(VaultProblem::KeyStoreUnavailable("it exists on Linux only".to_owned()))
        }
        #[cfg(target_os = "macos")]
        KeyStore::Keychain => keychain::get(&head.id, choice).await,
        #[cfg(not(target_os = "macos"))]
        KeyStore::Keychain => Err(VaultProblem::KeyStoreUnavailable("it exists on macOS only".to_owned())),
        KeyStore::Passphrase => passphrase::derive_key(head, choice).await.map(Some),
    }
}

pub(super) async fn store_key(head: &VaultHeader, key: &DataKey, choice: &VaultOptions) -> Result<(), VaultProblem> {
    match head.key_store {
        #[cfg(target_os = "linux")]
        KeyStore::SecretService => secret_service::set(&head.id, key, choice).await,
        #[cfg(target_os = "linux")]
        KeyStore::Kernel => kernel::set(&head.id, key),
        #[cfg(not(target_os = "linux"))]
        KeyStore::SecretService | KeyStore::Kernel => {
            Err(VaultProblem::KeyStoreUnavailable("it exists on Linux only".to_owned()))
        }
        #[cfg(target_os = "macos")]
        KeyStore::Keychain => keychain::set(&head.id, key, choice).await,
        #[cfg(not(target_os = "macos"))]
        KeyStore::Keychain => Err(VaultProblem::KeyStoreUnavailable("it exists on macOS only".to_owned())),
        KeyStore::Passphrase => Ok(()),
    }
}

/// The 32 bytes as text, so that other readers of the keyring can show them.
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(super) fn decode_key(text: &[u8]) -> Option<DataKey> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use zeroize::Zeroizing;
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    let mut key: DataKey = Box::new(Zeroizing::new([0; super::KEY_BYTES]));
    if bytes.len() != key.len() {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(super) fn encode_key(key: &DataKey) -> zeroize::Zeroizing<String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    zeroize::Zeroizing::new(STANDARD.encode(key.as_slice()))
}
