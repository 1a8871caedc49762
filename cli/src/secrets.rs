//! Secrets for `up`: read from files, standard input, variables or the vault, never from an argument's value.
//!
//! The bytes go to the agent as they are and are kept nowhere else.

use std::io::Read;
use std::path::{Path, PathBuf};

use manifest::nearest::nearest;

use crate::commands::secret::find_in_vault;
use crate::context::Context;
use crate::exit::Failure;
use crate::humanize;
use crate::manifest_check::CheckedManifest as ManifestRead;
use protocol::request::DeliverSecretsRequest;

/// A secret is a key, a certificate, a token; more is a mistake in the path.
const SECRET_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SecretSource {
    name: String,
    input: SecretInput,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum SecretInput {
    File(PathBuf),
    Stdin,
}

/// `name=@file` or `name=-`.
pub(crate) fn parse_secret_source(text: &str) -> Result<SecretSource, String> {
    let (name, from) = text.split_once('=').ok_or("write it as `NAME=@FILE` or `NAME=-`")?;
    let from = match from {
        "-" => SecretInput::Stdin,
        _ => match from.strip_prefix('@') {
            Some("") => return Err("`@` needs the path of a file".to_owned()),
            Some(path) => SecretInput::File(path.into()),
            // The value is not repeated: this message may end up in a log.
            None => {
                return Err(format!(
                    "a value on the command line is seen by every process of this machine; write it to a file and say `{name}=@FILE`, or pipe it and say `{name}=-`"
                ));
            }
        },
    };
    Ok(SecretSource { name: name.to_owned(), input: from })
}

/// For one `up`.
pub(crate) struct CollectedSecrets {
    pub(crate) values: Vec<(String, Vec<u8>)>,
    /// What the vault keeps beside them.
    pub(crate) in_vault: DeliverSecretsRequest,
}

impl CollectedSecrets {
    pub(crate) fn names(&self) -> Vec<String> {
        self.values.iter().map(|(name, _)| name).chain(&self.in_vault.names).cloned().collect()
    }
}

/// The named sources first, then `PDEV_SECRET_<NAME>`, then the vault for the manifest's other secrets.
pub(crate) fn collect(
    sources: &[SecretSource],
    read: &ManifestRead,
    context: &Context,
) -> Result<CollectedSecrets, Failure> {
    let declared = read.secret_names();
    let mut secrets: Vec<(String, Vec<u8>)> = Vec::new();
    for source in sources {
        if !declared.is_empty() && !declared.contains(&source.name) {
            let failure = Failure::invalid_input(format!("the manifest has no secret `{}`", source.name));
            return Err(match nearest(&source.name, declared.iter().map(String::as_str)) {
                Some(near) => failure.hint(format!("Did you mean `{near}`?")),
                None => failure.hint(format!("Declare it: `secrets: {{ {}: {{}} }}`.", source.name)),
            });
        }
        secrets.push((source.name.clone(), read_secret(source, &context.folder)?));
    }
    for name in &declared {
        let given = secrets.iter().any(|(known, _)| known == name);
        if let Some(value) = std::env::var_os(env_variable_name(name)).filter(|_| !given) {
            secrets.push((name.clone(), std::os::unix::ffi::OsStringExt::into_vec(value)));
        }
    }
    let open: Vec<String> =
        declared.into_iter().filter(|name| !secrets.iter().any(|(known, _)| known == name)).collect();
    Ok(CollectedSecrets { values: secrets, in_vault: find_in_vault(&open, &read.location.folder)? })
}

fn env_variable_name(name: &str) -> String {
    format!("PDEV_SECRET_{}", name.to_uppercase().replace('-', "_"))
}

fn read_secret(source: &SecretSource, folder: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let (words, read) = match &source.input {
        SecretInput::Stdin => {
            ("standard input".to_owned(), std::io::stdin().lock().take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes))
        }
        SecretInput::File(path) => {
            let opened = std::fs::File::open(folder.join(path));
            let read = opened.and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes));
            (format!("`{}`", path.display()), read)
        }
    };
    read.map_err(|error| {
        Failure::invalid_input(format!(
            "cannot read the secret `{}` from {words}: {}",
            source.name,
            humanize::io_error(&error)
        ))
    })?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(Failure::invalid_input(format!(
            "the secret `{}` from {words} has over {SECRET_BYTES_MAX} bytes",
            source.name
        )));
    }
    if bytes.is_empty() {
        return Err(Failure::invalid_input(format!("the secret `{}` from {words} is empty", source.name)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_sources_parse_and_refuse_inline_values() {
        assert_eq!(parse_secret_source("a=@b c").unwrap().input, SecretInput::File("b c".into()));
        assert_eq!(parse_secret_source("a=-").unwrap().input, SecretInput::Stdin);
        let refused = parse_secret_source("stripe=hunter2").unwrap_err();
        assert!(refused.contains("`stripe=@FILE`") && !refused.contains("hunter2"), "{refused}");
        assert!(parse_secret_source("a").is_err() && parse_secret_source("a=@").is_err());
        assert_eq!(env_variable_name("stripe-key"), "PDEV_SECRET_STRIPE_KEY");
    }
}
