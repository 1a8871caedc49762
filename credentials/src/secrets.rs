//! Secrets of a manifest that a user keeps in the vault, per repository.
//!
//! They belong to the repository on this disk (all its worktrees), not to the name in its manifest: another repository
//! that calls its app and its secret the same gets nothing.

use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::vault::{self, Vault, VaultProblem};

/// One repository's part of the vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepositorySecrets {
    path: PathBuf,
    prefix: String,
}

/// What stands before the value: for people who look at a list.
#[derive(Serialize, Deserialize)]
struct SecretMetadata {
    repository: PathBuf,
    saved_at: i64,
}

impl RepositorySecrets {
    /// `path` is the folder that all worktrees share (git's common folder), or the project's own without git.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let hash = digest(&SHA256, path.as_os_str().as_encoded_bytes());
        Self { path: path.to_owned(), prefix: format!("secret/{}/", vault::hex(&hash.as_ref()[..8])) }
    }

    /// Which repository it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names kept for this repository; no keyring is asked.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self, folder: &Path) -> Result<Vec<String>, VaultProblem> {
        let names = vault::names(folder, &self.prefix)?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(&self.prefix)).map(str::to_owned).collect())
    }

    /// # Errors
    /// When the name is not one, or the value cannot be written.
    pub fn set(&self, vault: &Vault, name: &str, value: &Secret, now: i64) -> Result<(), VaultProblem> {
        if !is_valid_name(name) {
            return Err(VaultProblem::InvalidName(name.to_owned()));
        }
        let note = SecretMetadata { repository: self.path.clone(), saved_at: now };
        let mut bytes = serde_json::to_vec(&note).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(value.expose());
        vault.put(&format!("{}{name}", self.prefix), &Secret::new(bytes))
    }

    /// The value, and when it was saved (Unix milliseconds).
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub fn get(&self, vault: &Vault, name: &str) -> Result<Option<(Secret, i64)>, VaultProblem> {
        let Some(kept) = vault.get(&format!("{}{name}", self.prefix))? else { return Ok(None) };
        let bytes = kept.expose();
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let note: Option<SecretMetadata> = serde_json::from_slice(&bytes[..end]).ok();
        Ok(Some((Secret::new(bytes[end + 1..].to_vec()), note.map_or(0, |note| note.saved_at))))
    }

    /// Whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed. No keyring is asked.
    pub fn remove(&self, folder: &Path, name: &str) -> Result<bool, VaultProblem> {
        if !is_valid_name(name) {
            return Err(VaultProblem::InvalidName(name.to_owned()));
        }
        vault::remove(folder, &format!("{}{name}", self.prefix))
    }
}

/// As a manifest may call a secret.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(fits)
}

/// `KEY=value` lines of a `.env` file, as docker and most dotenv libraries read them: comments, `export`, quotes; the
/// values are never shown. Wrong lines come back by their number.
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
        let (one, two) = (RepositorySecrets::new(Path::new("/a/.git")), RepositorySecrets::new(Path::new("/b/.git")));
        assert_ne!(one.prefix, two.prefix);
        assert!(
            is_valid_name("stripe-key_2") && !is_valid_name("Stripe") && !is_valid_name("a/b") && !is_valid_name("")
        );
    }
}
