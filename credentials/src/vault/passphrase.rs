//! The headless choice: the data key is derived from a passphrase in a file that only its owner can read.

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

/// Takes some tenths of a second, so not on a thread that serves others.
pub(super) async fn derive_key(head: &VaultHeader, choice: &VaultOptions) -> Result<DataKey, VaultProblem> {
    let path = choice.passphrase_file.as_ref().or(head.passphrase_file.as_ref());
    let Some(path) = path else {
        return Err(VaultProblem::KeyStoreUnavailable("PDEV_VAULT_PASSPHRASE_FILE is not set".to_owned()));
    };
    let passphrase = read_passphrase(path)
        .map_err(|words| VaultProblem::InvalidPassphraseFile { path: path.clone(), reason: words })?;
    let salt = head.salt.clone().unwrap_or_default();
    let derive = move || {
        let mut key: DataKey = Box::new(Zeroizing::new([0; KEY_BYTES]));
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt.as_bytes(), passphrase.as_bytes(), key.as_mut_slice());
        key
    };
    let failing = |error: tokio::task::JoinError| VaultProblem::KeyStoreFailed {
        key_store: KeyStore::Passphrase,
        reason: error.to_string(),
    };
    tokio::task::spawn_blocking(derive).await.map_err(failing)
}

fn read_passphrase(path: &Path) -> Result<Zeroizing<String>, String> {
    let found = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if found.mode() & 0o077 != 0 {
        return Err(format!("can be read by others (mode {:04o})", found.mode() & 0o7777));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?);
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() < CHARACTERS_MIN {
        return Err(format!("has fewer than {CHARACTERS_MIN} characters"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}
