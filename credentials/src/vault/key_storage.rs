//! Loads and stores the data key of the vault in its key store. Every call has a timeout.

use super::key_store::{KeyStore, VaultOptions};
#[cfg(target_os = "macos")]
use super::keychain;
use super::{DataKey, VaultHeader, VaultProblem, passphrase};
#[cfg(target_os = "linux")]
use super::{kernel, secret_service};

/// Loads the key. Returns `None` if the store is available but has no key.
pub(super) async fn load_key(header: &VaultHeader, options: &VaultOptions) -> Result<Option<DataKey>, VaultProblem> {
    match header.key_store {
        #[cfg(target_os = "linux")]
        KeyStore::SecretService => secret_service::get(&header.id, options).await,
        #[cfg(target_os = "linux")]
        KeyStore::Kernel => kernel::get(&header.id),
        #[cfg(not(target_os = "linux"))]
        KeyStore::SecretService | KeyStore::Kernel => {
            Err(VaultProblem::KeyStoreUnavailable("it exists on Linux only".to_owned()))
        }
        #[cfg(target_os = "macos")]
        KeyStore::Keychain => keychain::get(&header.id, options).await,
        #[cfg(not(target_os = "macos"))]
        KeyStore::Keychain => Err(VaultProblem::KeyStoreUnavailable("it exists on macOS only".to_owned())),
        KeyStore::Passphrase => passphrase::derive_key(header, options).await.map(Some),
    }
}

pub(super) async fn store_key(header: &VaultHeader, key: &DataKey, options: &VaultOptions) -> Result<(), VaultProblem> {
    match header.key_store {
        #[cfg(target_os = "linux")]
        KeyStore::SecretService => secret_service::set(&header.id, key, options).await,
        #[cfg(target_os = "linux")]
        KeyStore::Kernel => kernel::set(&header.id, key),
        #[cfg(not(target_os = "linux"))]
        KeyStore::SecretService | KeyStore::Kernel => {
            Err(VaultProblem::KeyStoreUnavailable("it exists on Linux only".to_owned()))
        }
        #[cfg(target_os = "macos")]
        KeyStore::Keychain => keychain::set(&header.id, key, options).await,
        #[cfg(not(target_os = "macos"))]
        KeyStore::Keychain => Err(VaultProblem::KeyStoreUnavailable("it exists on macOS only".to_owned())),
        KeyStore::Passphrase => Ok(()),
    }
}
