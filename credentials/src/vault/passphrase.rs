//! The key store without a desktop: the data key is derived from a passphrase in a file that only its owner can read.

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ring::pbkdf2;
use zeroize::Zeroizing;

use super::{DataKey, KEY_BYTES, KeyStore, VaultHeader, VaultProblem};
use crate::vault::VaultOptions;

/// PBKDF2-HMAC-SHA-256 with 600,000 rounds (OWASP Password Storage Cheat Sheet, 2023).
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).expect("not zero");
const CHARACTERS_MIN: usize = 12;

/// Derives the key on a blocking thread, because it takes some tenths of a second.
pub(super) async fn derive_key(header: &VaultHeader, options: &VaultOptions) -> Result<DataKey, VaultProblem> {
    // The environment overrides the stored path, because the file may have been moved.
    let path = options.passphrase_file.as_ref().or(header.passphrase_file.as_ref());
    let Some(path) = path else {
        return Err(VaultProblem::KeyStoreUnavailable("PDEV_VAULT_PASSPHRASE_FILE is not set".to_owned()));
    };
    let passphrase =
        read_passphrase(path).map_err(|reason| VaultProblem::InvalidPassphraseFile { path: path.clone(), reason })?;
    let salt = header.salt.clone().unwrap_or_default();
    let derive = move || {
        let mut key: DataKey = Box::new(Zeroizing::new([0; KEY_BYTES]));
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt.as_bytes(), passphrase.as_bytes(), key.as_mut_slice());
        key
    };
    let to_problem = |error: tokio::task::JoinError| VaultProblem::KeyStoreFailed {
        key_store: KeyStore::Passphrase,
        reason: error.to_string(),
    };
    tokio::task::spawn_blocking(derive).await.map_err(to_problem)
}

fn read_passphrase(path: &Path) -> Result<Zeroizing<String>, String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(format!("can be read by others (mode {:04o})", metadata.mode() & 0o7777));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?);
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() < CHARACTERS_MIN {
        return Err(format!("has fewer than {CHARACTERS_MIN} characters"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}
