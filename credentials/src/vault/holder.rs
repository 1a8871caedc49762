//! Who holds the vault's data key, and asking them: every call has a deadline.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(target_os = "macos")]
use super::keychain;
use super::{DataKey, Head, VaultProblem, passphrase};
#[cfg(target_os = "linux")]
use super::{kernel, secret_service};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// The desktop's keyring, by the freedesktop.org Secret Service.
    SecretService,
    /// The login keychain of macOS.
    Keychain,
    /// The Linux kernel's user keyring; forgets at a reboot.
    Kernel,
    /// Derived from a file that the user keeps.
    Passphrase,
}

impl fmt::Display for Holder {
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
const DESKTOP: Holder = if cfg!(target_os = "macos") { Holder::Keychain } else { Holder::SecretService };

/// What the user wants of a new vault, and how long each question may take.
#[derive(Clone, Debug)]
pub struct Choice {
    pub wanted: Option<Holder>,
    pub passphrase_file: Option<PathBuf>,
    /// A person is there: a locked keyring may ask for its password on the desktop.
    pub may_prompt: bool,
    pub limit: Duration,
    pub prompt_limit: Duration,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            wanted: None,
            passphrase_file: None,
            may_prompt: false,
            limit: Duration::from_secs(5),
            prompt_limit: Duration::from_secs(60),
        }
    }
}

impl Choice {
    /// By `PDEV_VAULT` and `PDEV_VAULT_PASSPHRASE_FILE`.
    ///
    /// # Errors
    /// When `PDEV_VAULT` is no keyring.
    pub fn from_environment() -> Result<Self, VaultProblem> {
        let passphrase_file =
            std::env::var_os("PDEV_VAULT_PASSPHRASE_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let wanted = match std::env::var("PDEV_VAULT").ok().as_deref() {
            None | Some("" | "auto") => passphrase_file.as_ref().map(|_| Holder::Passphrase),
            Some("desktop") => Some(DESKTOP),
            Some("kernel") => Some(Holder::Kernel),
            Some("passphrase") => Some(Holder::Passphrase),
            Some(other) => {
                let words = format!("PDEV_VAULT is `{other}`; allowed are `auto`, `desktop`, `kernel`, `passphrase`");
                return Err(VaultProblem::Absent(words));
            }
        };
        Ok(Self { wanted, passphrase_file, ..Self::default() })
    }

    /// Where a new vault's key goes. The kernel's keyring is never chosen unasked: it forgets.
    pub(super) fn holder(&self) -> Result<Holder, VaultProblem> {
        match self.wanted {
            Some(holder) => Ok(holder),
            None => Ok(DESKTOP),
        }
    }
}

/// The key, or `None` when its holder is there but has none.
pub(super) async fn key_of(head: &Head, choice: &Choice) -> Result<Option<DataKey>, VaultProblem> {
    match head.holder {
        #[cfg(target_os = "linux")]
        Holder::SecretService => secret_service::get(&head.id, choice).await,
        #[cfg(target_os = "linux")]
        Holder::Kernel => kernel::get(&head.id),
        #[cfg(not(target_os = "linux"))]
        Holder::SecretService | Holder::Kernel => Err(VaultProblem::Absent("it exists on Linux only".to_owned())),
        #[cfg(target_os = "macos")]
        Holder::Keychain => keychain::get(&head.id, choice).await,
        #[cfg(not(target_os = "macos"))]
        Holder::Keychain => Err(VaultProblem::Absent("it exists on macOS only".to_owned())),
        Holder::Passphrase => passphrase::key(head, choice).await.map(Some),
    }
}

pub(super) async fn keep(head: &Head, key: &DataKey, choice: &Choice) -> Result<(), VaultProblem> {
    match head.holder {
        #[cfg(target_os = "linux")]
        Holder::SecretService => secret_service::set(&head.id, key, choice).await,
        #[cfg(target_os = "linux")]
        Holder::Kernel => kernel::set(&head.id, key),
        #[cfg(not(target_os = "linux"))]
        Holder::SecretService | Holder::Kernel => Err(VaultProblem::Absent("it exists on Linux only".to_owned())),
        #[cfg(target_os = "macos")]
        Holder::Keychain => keychain::set(&head.id, key, choice).await,
        #[cfg(not(target_os = "macos"))]
        Holder::Keychain => Err(VaultProblem::Absent("it exists on macOS only".to_owned())),
        Holder::Passphrase => Ok(()),
    }
}

/// The 32 bytes as text, so that other readers of the keyring can show them.
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(super) fn decoded(text: &[u8]) -> Option<DataKey> {
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
pub(super) fn encoded(key: &DataKey) -> zeroize::Zeroizing<String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    zeroize::Zeroizing::new(STANDARD.encode(key.as_slice()))
}
