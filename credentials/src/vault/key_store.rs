//! The kinds of stores for the data key of the vault, and the options of a vault.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DataKey, VaultProblem};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyStore {
    /// The desktop's keyring, through the freedesktop.org Secret Service.
    SecretService,
    /// The login keychain of macOS.
    Keychain,
    /// The Linux kernel's user keyring; loses its keys at a reboot.
    Kernel,
    /// Derived from a passphrase file of the user.
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

/// The keyring of a desktop on this system.
const DESKTOP_KEY_STORE: KeyStore =
    if cfg!(target_os = "macos") { KeyStore::Keychain } else { KeyStore::SecretService };

/// Options for a new vault, and timeouts of the keyring.
#[derive(Clone, Debug)]
pub struct VaultOptions {
    pub key_store: Option<KeyStore>,
    pub passphrase_file: Option<PathBuf>,
    /// The user is present, so a locked keyring may show a prompt for its password.
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
    /// Reads `PDEV_VAULT` and `PDEV_VAULT_PASSPHRASE_FILE`.
    ///
    /// # Errors
    /// When `PDEV_VAULT` is no known keyring.
    pub fn from_environment() -> Result<Self, VaultProblem> {
        let passphrase_file =
            std::env::var_os("PDEV_VAULT_PASSPHRASE_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let key_store = match std::env::var("PDEV_VAULT").ok().as_deref() {
            None | Some("" | "auto") => passphrase_file.as_ref().map(|_| KeyStore::Passphrase),
            Some("desktop") => Some(DESKTOP_KEY_STORE),
            Some("kernel") => Some(KeyStore::Kernel),
            Some("passphrase") => Some(KeyStore::Passphrase),
            Some(other) => {
                let message = format!("PDEV_VAULT is `{other}`; allowed are `auto`, `desktop`, `kernel`, `passphrase`");
                return Err(VaultProblem::KeyStoreUnavailable(message));
            }
        };
        Ok(Self { key_store, passphrase_file, ..Self::default() })
    }

    /// The store for the key of a new vault. The kernel's keyring is never a default, because it loses its keys at a
    /// reboot.
    pub(super) fn key_store_or_default(&self) -> Result<KeyStore, VaultProblem> {
        match self.key_store {
            Some(key_store) => Ok(key_store),
            None => Ok(DESKTOP_KEY_STORE),
        }
    }
}

/// Parses the key, which is stored as text so that other keyring tools can display it.
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
