//! Errors of the vault, each with a message and a fix.

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
    #[error("the {0} has no space for the vault's key")]
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

/// All values of [`VaultProblem::code`].
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
    /// A stable code for programs.
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

    /// Whether only the file of one login cannot be opened.
    pub(crate) fn is_login_file_problem(&self) -> bool {
        let (Self::Damaged { path, .. } | Self::NewerFormat { path, .. }) = self else { return false };
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"login~"))
    }

    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::KeyStoreUnavailable(_) => {
                "Without a desktop, name a file with a passphrase (mode 0600) in PDEV_VAULT_PASSPHRASE_FILE, or use the kernel's keyring with PDEV_VAULT=kernel, which loses its keys at a reboot."
            }
            Self::Locked(_) => {
                "Unlock it (log in to the desktop, or open its password manager), then try again; nothing is lost."
            }
            Self::Denied { key_store: KeyStore::Kernel, .. } => {
                "Start this process under `keyctl session -`, because it has no session keyring, or use PDEV_VAULT_PASSPHRASE_FILE."
            }
            Self::Denied { .. } => "Allow pdev in the settings of the keyring, then try again.",
            Self::KeyStoreFull(_) => {
                "Run `keyctl show @u` to list its keys; the limit is in /proc/sys/kernel/keys/maxbytes."
            }
            Self::KeyStoreTimeout { .. } => {
                "Answer its prompt on the desktop, if there is one, or restart the keyring service."
            }
            Self::KeyStoreFailed { .. } => "Run `pdev vault` to see which keyring is used.",
            Self::KeyMissing(KeyStore::Kernel) => {
                "Run `pdev vault reset` to set the sealed files aside, then store and log in again: the kernel's keyring loses its keys at a reboot."
            }
            Self::KeyMissing(_) => {
                "Restore the old keyring if it was replaced; otherwise run `pdev vault reset` to set the sealed files aside, then store and log in again."
            }
            Self::WrongKey(KeyStore::Passphrase) => {
                "Restore the old passphrase, or run `pdev vault reset` and sign in again: the passphrase was changed, or the files are from another machine."
            }
            Self::WrongKey(_) => {
                "Run `pdev vault reset` to set the sealed files aside, then store and log in again: they seem to come from another machine."
            }
            Self::InvalidPassphraseFile { .. } => {
                "Write at least 12 characters on its first line, and run `chmod 600 FILE`."
            }
            Self::NewerFormat { .. } => "Use that version, or run `pdev vault reset` to start with an empty vault.",
            Self::Damaged { .. } => "Remove the file and store or log in again; the others are not affected.",
            Self::InvalidName(_) => return None,
            Self::File { verb: "write", error, .. }
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                "Free disk space, then try again: nothing was changed."
            }
            Self::File { verb: "write", .. } => {
                "Correct the folder's owner or mode, then try again: nothing was changed."
            }
            Self::File { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
