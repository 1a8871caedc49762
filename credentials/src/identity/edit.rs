//! Edits `identities.toml`. Comments, order and spacing of all other content stay unchanged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use strings::nearest;
use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::kinds::{COMMON_FIELDS, SourceKind};
use super::read::{Finding, Identities, parse_argument, quoted_list, read};
use super::{Value, is_valid_name};
use crate::storage;

#[derive(Debug, thiserror::Error)]
pub enum EditProblem {
    #[error("`{0}` is no name for an identity; allowed are up to 64 lower-case letters, digits, `.`, `-` and `_`")]
    InvalidName(String),
    #[error("there is an identity `{0}` already")]
    Exists(String),
    #[error("there is no identity `{name}`")]
    NotFound { name: String, nearest: Option<String> },
    #[error("{message}")]
    InvalidField { message: String, hint: Option<String> },
    #[error("`{path}` is wrong at line {line}: {message}")]
    InvalidFile { path: PathBuf, line: usize, message: String },
    #[error("cannot change `{path}`: {error}")]
    Write { path: PathBuf, error: io::Error },
}

impl EditProblem {
    /// The fix, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(name) => Some(format!("Run `pdev identity rm {name}` to remove it, or choose another name.")),
            Self::NotFound { nearest: Some(near), .. } => Some(format!("Did you mean `{near}`?")),
            Self::NotFound { nearest: None, .. } => Some("Run `pdev identity` to list the identities.".to_owned()),
            Self::InvalidField { hint, .. } => hint.clone(),
            Self::InvalidFile { .. } => {
                Some("Correct the file first; pdev does not change an invalid file.".to_owned())
            }
            Self::InvalidName(_) | Self::Write { .. } => None,
        }
    }
}

/// Adds one identity. `fields` are pairs as on the command line.
///
/// # Errors
/// When the name is taken or invalid, a field is invalid or missing, or the file is invalid or cannot be written.
pub fn add(path: &Path, name: &str, kind: &'static SourceKind, fields: &[(String, String)]) -> Result<(), EditProblem> {
    if !is_valid_name(name) {
        return Err(EditProblem::InvalidName(name.to_owned()));
    }
    let mut table = Table::new();
    table.insert("source", value(kind.name));
    for (key, text) in fields {
        let Some(field) = kind.field(key) else {
            let known = kind.fields.iter().chain(COMMON_FIELDS).map(|field| field.name);
            let hint = match nearest(key, known.clone()) {
                Some(near) => format!("Did you mean `{near}`?"),
                None => format!("Allowed are {}.", quoted_list(known)),
            };
            let message = format!("`{key}` is no field of the source `{}`", kind.name);
            return Err(EditProblem::InvalidField { message, hint: Some(hint) });
        };
        let parsed = parse_argument(field, text).map_err(|message| EditProblem::InvalidField {
            message: format!("`{key}`: {message}"),
            hint: Some(field.doc.to_owned()),
        })?;
        table.insert(key, to_toml_item(parsed));
    }
    edit_file(path, |document, identities| {
        if document.contains_key(name) {
            return Err(EditProblem::Exists(name.to_owned()));
        }
        if !document.is_empty() {
            table.decor_mut().set_prefix("\n");
        }
        document.insert(name, Item::Table(table));
        // The parser checks the rules that concern several fields. Do not write a section that it would refuse.
        let (read_back, findings) = read(&document.to_string());
        match findings.into_iter().next() {
            // Only a new problem is an error of this change. The file may contain other invalid identities.
            Some(Finding { message, hint, .. }) if read_back.broken.len() > identities.broken.len() => {
                Err(EditProblem::InvalidField { message, hint })
            }
            _ => Ok(()),
        }
    })
}

/// Removes one identity from the file, and nothing else.
///
/// # Errors
/// When the identity does not exist, another one is built on it, or the file is invalid or cannot be written.
pub fn remove(path: &Path, name: &str) -> Result<(), EditProblem> {
    edit_file(path, |document, identities| {
        let dependent = identities.all.values().find(|identity| identity.text("from") == Some(name));
        if let Some(other) = dependent {
            let message = format!("the identity `{}` is built on `{name}`", other.name);
            return Err(EditProblem::InvalidField {
                message,
                hint: Some(format!("Run `pdev identity rm {}` first.", other.name)),
            });
        }
        match document.remove(name) {
            Some(_) => Ok(()),
            None => {
                let nearest = identities.nearest(name).map(str::to_owned);
                Err(EditProblem::NotFound { name: name.to_owned(), nearest })
            }
        }
    })
}

fn to_toml_item(parsed: Value) -> Item {
    match parsed {
        Value::Text(text) => value(text),
        Value::Number(number) => value(number),
        Value::Flag(flag) => value(flag),
        Value::List(list) => value(list.into_iter().collect::<Array>()),
    }
}

fn edit_file(
    path: &Path,
    change: impl FnOnce(&mut DocumentMut, &Identities) -> Result<(), EditProblem>,
) -> Result<(), EditProblem> {
    let wrap = |error| EditProblem::Write { path: path.to_owned(), error };
    let _folder_lock = storage::lock_folder(path.parent().unwrap_or(Path::new("."))).map_err(wrap)?;
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(wrap(error)),
    };
    let mut document: DocumentMut = text.parse().map_err(|_| {
        let first = read(&text).1.into_iter().next();
        let (line, message) = first.map_or((1, "no TOML".to_owned()), |finding| (finding.line, finding.message));
        EditProblem::InvalidFile { path: path.to_owned(), line, message }
    })?;
    change(&mut document, &read(&text).0)?;
    storage::replace_file(path, document.to_string().as_bytes()).map_err(wrap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::find_source_kind;

    fn to_owned_pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn adding_and_removing_keeps_comments_and_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/identities.toml");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let original = "# mine\n[one]  # first\nsource = \"exec\"\ncommand = [\"a\",\n  \"b\"] # two lines\n";
        fs::write(&path, original).unwrap();
        add(
            &path,
            "two",
            find_source_kind("exec").unwrap(),
            &to_owned_pairs(&[("command", "x,y"), ("hosts", "example.org")]),
        )
        .unwrap();
        let with_two = fs::read_to_string(&path).unwrap();
        assert_eq!(
            with_two,
            format!("{original}\n[two]\nsource = \"exec\"\ncommand = [\"x\", \"y\"]\nhosts = [\"example.org\"]\n")
        );
        remove(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), original);
    }

    #[test]
    fn invalid_changes_are_refused_and_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identities.toml");
        let exec = find_source_kind("exec").unwrap();
        for (name, kind_name, pairs, expected) in [
            ("Shop", "exec", &[("command", "x")][..], "is no name"),
            ("a", "exec", &[], "has no `command`"),
            ("a", "exec", &[("comand", "x")], "is no field"),
            ("a", "aws-role", &[("from", "absent"), ("role_arn", "r")], "there is no identity `absent`"),
            ("a", "oidc", &[("issuer", "ftp://x"), ("client_id", "c")], "is no `https://` URL"),
        ] {
            let problem = add(&path, name, find_source_kind(kind_name).unwrap(), &to_owned_pairs(pairs)).unwrap_err();
            assert!(problem.to_string().contains(expected), "{problem}");
        }
        assert!(!path.exists());
        add(&path, "a", exec, &to_owned_pairs(&[("command", "x")])).unwrap();
        assert!(matches!(add(&path, "a", exec, &to_owned_pairs(&[("command", "x")])), Err(EditProblem::Exists(_))));
        add(&path, "b", find_source_kind("aws-role").unwrap(), &to_owned_pairs(&[("from", "a"), ("role_arn", "r")]))
            .unwrap();
        assert!(remove(&path, "a").unwrap_err().to_string().contains("`b` is built on `a`"));
        assert_eq!(remove(&path, "bb").unwrap_err().hint().unwrap(), "Did you mean `b`?");
        fs::write(&path, "[a\n").unwrap();
        assert!(matches!(remove(&path, "a"), Err(EditProblem::InvalidFile { line: 1, .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[a\n");
    }
}
