//! What can be wrong with the vault, each with its words and its way out.

use std::io;
use std::path::PathBuf;

use super::KeyStore;

#[derive(Debug, thiserror::Error)]
pub enum VaultProblem {
    #[error("there is no keyring to hold the vault's key: {0}")]
    KeyStoreUnavailable(String),
    #[error("the {0} is locked, and was not unlocked")]
    Locked(KeyStore),
    #[error("the {key_store} refuses access: {reason}")]
    Denied { key_store: KeyStore, reason: String },
    #[error("the {0} has no room for the vault's key")]
    KeyStoreFull(KeyStore),
    #[error("the {key_store} did not answer within {seconds} s")]
    KeyStoreTimeout { key_store: KeyStore, seconds: u64 },
    #[error("the {key_store} failed: {reason}")]
    KeyStoreFailed { key_store: KeyStore, reason: String },
    #[error("the vault's key is no longer in the {0}")]
    KeyMissing(KeyStore),
    #[error("the key in the {0} is not this vault's")]
    WrongKey(KeyStore),
    #[error("the passphrase file `{path}` {reason}")]
    InvalidPassphraseFile { path: PathBuf, reason: String },
    #[error("`{path}` was written by a newer pdev (format {version})")]
    NewerFormat { path: PathBuf, version: u32 },
    #[error("`{path}` is damaged: {reason}")]
    Damaged { path: PathBuf, reason: &'static str },
    #[error("`{0}` is no name of an item of the vault")]
    InvalidName(String),
    #[error("cannot {verb} `{path}`: {error}")]
    File { verb: &'static str, path: PathBuf, error: io::Error },
}

/// Every one of [`VaultProblem::code`].
pub(super) const CODES: [&str; 13] = [
    "keyring_absent",
    "keyring_locked",
    "keyring_denied",
    "keyring_full",
    "keyring_hanging",
    "keyring_failing",
    "vault_key_gone",
    "vault_key_other",
    "vault_passphrase",
    "vault_newer",
    "vault_damaged",
    "vault_name",
    "vault_file",
];

impl VaultProblem {
    /// For programs; never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyStoreUnavailable(_) => "keyring_absent",
            Self::Locked(_) => "keyring_locked",
            Self::Denied { .. } => "keyring_denied",
            Self::KeyStoreFull(_) => "keyring_full",
            Self::KeyStoreTimeout { .. } => "keyring_hanging",
            Self::KeyStoreFailed { .. } => "keyring_failing",
            Self::KeyMissing(_) => "vault_key_gone",
            Self::WrongKey(_) => "vault_key_other",
            Self::InvalidPassphraseFile { .. } => "vault_passphrase",
            Self::NewerFormat { .. } => "vault_newer",
            Self::Damaged { .. } => "vault_damaged",
            Self::InvalidName(_) => "vault_name",
            Self::File { .. } => "vault_file",
        }
    }

    /// Whether one login's file cannot be opened, and nothing else.
    pub(crate) fn is_login_file_problem(&self) -> bool {
        let (Self::Damaged { path, .. } | Self::NewerFormat { path, .. }) = self else { return false };
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"login~"))
    }

    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::KeyStoreUnavailable(_) => {
                "Without a desktop, name a file with a passphrase (mode 0600) in PDEV_VAULT_PASSPHRASE_FILE, or take the kernel's keyring, which forgets at a reboot: PDEV_VAULT=kernel."
            }
            Self::Locked(_) => {
                "Unlock it (log in to the desktop, or open its password manager), then try again; nothing is lost."
            }
            Self::Denied { key_store: KeyStore::Kernel, .. } => {
                "This process has no session keyring: start it under `keyctl session -`, or use PDEV_VAULT_PASSPHRASE_FILE."
            }
            Self::Denied { .. } => "Allow pdev in the keyring's own settings, then try again.",
            Self::KeyStoreFull(_) => {
                "`keyctl show @u` lists what fills it; the limit is in /proc/sys/kernel/keys/maxbytes."
            }
            Self::KeyStoreTimeout { .. } => {
                "It may be waiting with a question on a desktop; answer it, or restart the keyring service."
            }
            Self::KeyStoreFailed { .. } => "`pdev vault` tells which keyring is used.",
            Self::KeyMissing(KeyStore::Kernel) => {
                "The kernel's keyring forgets at a reboot: `pdev vault reset` sets the sealed files aside, then store and log in again."
            }
            Self::KeyMissing(_) => {
                "If the keyring was replaced, bring the old one back; otherwise `pdev vault reset` sets the sealed files aside, then store and log in again."
            }
            Self::WrongKey(KeyStore::Passphrase) => {
                "The passphrase was changed, or the files are another machine's: put the old passphrase back, or `pdev vault reset` and sign in again."
            }
            Self::WrongKey(_) => {
                "The sealed files seem to come from another machine: `pdev vault reset` sets them aside, then store and log in again."
            }
            Self::InvalidPassphraseFile { .. } => {
                "It needs at least 12 characters on its first line and mode 0600: `chmod 600 FILE`."
            }
            Self::NewerFormat { .. } => "Use that version, or `pdev vault reset` to begin anew.",
            Self::Damaged { .. } => "Remove the file and store or log in again; the others are not affected.",
            Self::InvalidName(_) => return None,
            Self::File { verb: "write", error, .. }
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                "Make room on the disk, then try again: nothing was changed."
            }
            Self::File { verb: "write", .. } => {
                "Correct the folder's owner or mode, then try again: nothing was changed."
            }
            Self::File { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
