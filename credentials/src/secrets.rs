//! Secrets of a manifest that a user stores in the vault, per repository.
//!
//! A secret belongs to the repository on this disk (and all its worktrees), not to the names in its manifest. Another
//! repository with the same app and secret names gets nothing.

use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use strings::to_hex;

use crate::secret::Secret;
use crate::vault::{self, Vault, VaultProblem};

/// The secrets of one repository in the vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepositorySecrets {
    path: PathBuf,
    prefix: String,
}

/// Stored in front of the value, for listings.
#[derive(Serialize, Deserialize)]
struct SecretMetadata {
    repository: PathBuf,
    saved_at: i64,
}

impl RepositorySecrets {
    /// `path` is the folder that all worktrees share (git's common folder), or the project folder without git.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        // A digest, because item names allow no arbitrary path. 8 bytes are enough to distinguish the repositories of
        // one user.
        let hash = digest(&SHA256, path.as_os_str().as_encoded_bytes());
        Self { path: path.to_owned(), prefix: format!("secret/{}/", to_hex(&hash.as_ref()[..8])) }
    }

    /// The folder that identifies the repository.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the stored secrets. Needs no key, so no keyring is asked.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self, folder: &Path) -> Result<Vec<String>, VaultProblem> {
        let names = vault::names(folder, &self.prefix)?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(&self.prefix)).map(str::to_owned).collect())
    }

    /// # Errors
    /// When the name is invalid, or the value cannot be written.
    pub fn set(&self, vault: &Vault, name: &str, value: &Secret, now: i64) -> Result<(), VaultProblem> {
        if !is_valid_name(name) {
            return Err(VaultProblem::InvalidName(name.to_owned()));
        }
        let metadata = SecretMetadata { repository: self.path.clone(), saved_at: now };
        let mut bytes = serde_json::to_vec(&metadata).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(value.expose());
        vault.put(&format!("{}{name}", self.prefix), &Secret::new(bytes))
    }

    /// The value, and the time at which it was saved (Unix milliseconds).
    ///
    /// # Errors
    /// When the item exists and cannot be opened.
    pub fn get(&self, vault: &Vault, name: &str) -> Result<Option<(Secret, i64)>, VaultProblem> {
        let Some(stored) = vault.get(&format!("{}{name}", self.prefix))? else { return Ok(None) };
        let bytes = stored.expose();
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let metadata: Option<SecretMetadata> = serde_json::from_slice(&bytes[..end]).ok();
        Ok(Some((Secret::new(bytes[end + 1..].to_vec()), metadata.map_or(0, |metadata| metadata.saved_at))))
    }

    /// Removes a secret. Returns whether it existed. No keyring is asked.
    ///
    /// # Errors
    /// When the name is invalid, or the file cannot be removed.
    pub fn remove(&self, folder: &Path, name: &str) -> Result<bool, VaultProblem> {
        if !is_valid_name(name) {
            return Err(VaultProblem::InvalidName(name.to_owned()));
        }
        vault::remove(folder, &format!("{}{name}", self.prefix))
    }
}

/// Whether a manifest may use this name for a secret.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(is_allowed)
}

/// Parses the `KEY=value` lines of a `.env` file, as docker and most dotenv libraries do: comments, `export`, quotes.
/// Returns the secrets, and the numbers of invalid lines; a message must not show their content.
#[must_use]
pub fn parse_dotenv(text: &str) -> (Vec<(String, Secret)>, Vec<usize>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        match line.split_once('=').map(|(key, value)| (key.trim(), unquote(value.trim()))) {
            Some((key, Some(value))) if is_valid_name(&key.to_lowercase()) && !value.is_empty() => {
                found.push((key.to_lowercase(), Secret::new(value.into_bytes())));
            }
            _ => wrong.push(index + 1),
        }
    }
    (found, wrong)
}

fn unquote(value: &str) -> Option<String> {
    let inside = |quote: char| value.strip_prefix(quote).map(|rest| rest.strip_suffix(quote));
    match (inside('\''), inside('"')) {
        (Some(plain), _) => plain.map(str::to_owned),
        (_, Some(escaped)) => {
            let mut text = String::new();
            let mut letters = escaped?.chars();
            while let Some(letter) = letters.next() {
                match letter {
                    '\\' => match letters.next()? {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        other => text.push(other),
                    },
                    letter => text.push(letter),
                }
            }
            Some(text)
        }
        _ => Some(value.split(" #").next().unwrap_or_default().trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_values_are_unquoted_and_wrong_lines_reported() {
        let text = "# c\nA=1\nexport B='x # y'\nC=\"two\\nlines\"\nD=z # comment\n\nwrong\nE=\nF='open\n";
        let (found, wrong) = parse_dotenv(text);
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        let expected: [(&str, &[u8]); 4] = [("a", b"1"), ("b", b"x # y"), ("c", b"two\nlines"), ("d", b"z")];
        assert_eq!(found, expected);
        assert_eq!(wrong, [7, 8, 9]);
    }

    #[test]
    fn repositories_do_not_see_each_other() {
        let (first, second) =
            (RepositorySecrets::new(Path::new("/a/.git")), RepositorySecrets::new(Path::new("/b/.git")));
        assert_ne!(first.prefix, second.prefix);
        assert!(
            is_valid_name("stripe-key_2") && !is_valid_name("Stripe") && !is_valid_name("a/b") && !is_valid_name("")
        );
    }
}
