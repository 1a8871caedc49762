//! Secrets for `up`, from files, standard input, environment variables or the vault, but never from an argument.
//!
//! The bytes are sent to the agent unchanged and stored nowhere else.

pub(crate) mod delivery;
pub(crate) mod stored;

use std::io::Read;
use std::path::{Path, PathBuf};

use protocol::request::DeliverSecretsRequest;
use stored::find_in_vault;
use strings::nearest;

use crate::context::Context;
use crate::exit::Failure;
use crate::humanize;
use crate::manifest_check::CheckedManifest;

/// Secrets are keys, certificates and tokens; a larger file is a mistake in the path.
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
    let (name, source) = text.split_once('=').ok_or("write it as `NAME=@FILE` or `NAME=-`")?;
    let input = match source {
        "-" => SecretInput::Stdin,
        _ => match source.strip_prefix('@') {
            Some("") => return Err("`@` needs the path of a file".to_owned()),
            Some(path) => SecretInput::File(path.into()),
            // The message does not contain the value, because it may end up in a log.
            None => {
                return Err(format!(
                    "every process on this machine can read a value on the command line; write it to a file and pass `{name}=@FILE`, or pipe it and pass `{name}=-`"
                ));
            }
        },
    };
    Ok(SecretSource { name: name.to_owned(), input })
}

/// The secrets of one `up`.
pub(crate) struct CollectedSecrets {
    pub(crate) values: Vec<(String, Vec<u8>)>,
    /// The names of the other secrets, which the vault contains.
    pub(crate) in_vault: DeliverSecretsRequest,
}

impl CollectedSecrets {
    pub(crate) fn names(&self) -> Vec<String> {
        self.values.iter().map(|(name, _)| name).chain(&self.in_vault.names).cloned().collect()
    }
}

/// Takes each declared secret from `sources`, else from `PDEV_SECRET_<NAME>`, else from the vault.
pub(crate) fn collect(
    sources: &[SecretSource],
    manifest: &CheckedManifest,
    context: &Context,
) -> Result<CollectedSecrets, Failure> {
    let declared = manifest.secret_names();
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
        let has_source = secrets.iter().any(|(known, _)| known == name);
        if let Some(value) = std::env::var_os(env_variable_name(name)).filter(|_| !has_source) {
            secrets.push((name.clone(), std::os::unix::ffi::OsStringExt::into_vec(value)));
        }
    }
    let missing: Vec<String> =
        declared.into_iter().filter(|name| !secrets.iter().any(|(known, _)| known == name)).collect();
    Ok(CollectedSecrets { values: secrets, in_vault: find_in_vault(&missing, &manifest.location.folder)? })
}

fn env_variable_name(name: &str) -> String {
    format!("PDEV_SECRET_{}", name.to_uppercase().replace('-', "_"))
}

fn read_secret(source: &SecretSource, folder: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // One byte more than allowed, to detect a larger input without reading all of it.
    let (origin, result) = match &source.input {
        SecretInput::Stdin => {
            ("standard input".to_owned(), std::io::stdin().lock().take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes))
        }
        SecretInput::File(path) => {
            let opened = std::fs::File::open(folder.join(path));
            let result = opened.and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes));
            (format!("`{}`", path.display()), result)
        }
    };
    result.map_err(|error| {
        Failure::invalid_input(format!(
            "cannot read the secret `{}` from {origin}: {}",
            source.name,
            humanize::io_error(&error)
        ))
    })?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(Failure::invalid_input(format!(
            "the secret `{}` from {origin} is larger than {SECRET_BYTES_MAX} bytes",
            source.name
        )));
    }
    if bytes.is_empty() {
        return Err(Failure::invalid_input(format!("the secret `{}` from {origin} is empty", source.name)));
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
        let message = parse_secret_source("stripe=hunter2").unwrap_err();
        assert!(message.contains("`stripe=@FILE`") && !message.contains("hunter2"), "{message}");
        assert!(parse_secret_source("a").is_err() && parse_secret_source("a=@").is_err());
        assert_eq!(env_variable_name("stripe-key"), "PDEV_SECRET_STRIPE_KEY");
    }
}
