//! Secrets for `up`: read from files, standard input, variables or the vault, never from an argument's value.
//!
//! The bytes go to the agent as they are and are kept nowhere else.

use std::io::Read;
use std::path::{Path, PathBuf};

use manifest::nearest::nearest;

use crate::checking::Read as ManifestRead;
use crate::commands::secret::kept;
use crate::context::Context;
use crate::exit::Failure;
use crate::words;
use protocol::request::KeptSecrets;

/// A secret is a key, a certificate, a token; more is a mistake in the path.
const SECRET_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SecretSource {
    name: String,
    from: From,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum From {
    File(PathBuf),
    Stdin,
}

/// `name=@file` or `name=-`.
pub(crate) fn parse(text: &str) -> Result<SecretSource, String> {
    let (name, from) = text.split_once('=').ok_or("write it as `NAME=@FILE` or `NAME=-`")?;
    let from = match from {
        "-" => From::Stdin,
        _ => match from.strip_prefix('@') {
            Some("") => return Err("`@` needs the path of a file".to_owned()),
            Some(path) => From::File(path.into()),
            // The value is not repeated: this message may end up in a log.
            None => {
                return Err(format!(
                    "a value on the command line is seen by every process of this machine; write it to a file and say `{name}=@FILE`, or pipe it and say `{name}=-`"
                ));
            }
        },
    };
    Ok(SecretSource { name: name.to_owned(), from })
}

/// For one `up`.
pub(crate) struct Collected {
    pub(crate) given: Vec<(String, Vec<u8>)>,
    /// What the vault keeps beside them.
    pub(crate) kept: KeptSecrets,
}

impl Collected {
    pub(crate) fn names(&self) -> Vec<String> {
        self.given.iter().map(|(name, _)| name).chain(&self.kept.names).cloned().collect()
    }
}

/// The named sources first, then `PDEV_SECRET_<NAME>`, then the vault for the manifest's other secrets.
pub(crate) fn collect(sources: &[SecretSource], read: &ManifestRead, context: &Context) -> Result<Collected, Failure> {
    let declared = read.secrets();
    let mut secrets: Vec<(String, Vec<u8>)> = Vec::new();
    for source in sources {
        if !declared.is_empty() && !declared.contains(&source.name) {
            let failure = Failure::wrong(format!("the manifest has no secret `{}`", source.name));
            return Err(match nearest(&source.name, declared.iter().map(String::as_str)) {
                Some(near) => failure.hint(format!("Did you mean `{near}`?")),
                None => failure.hint(format!("Declare it: `secrets: {{ {}: {{}} }}`.", source.name)),
            });
        }
        secrets.push((source.name.clone(), bytes_of(source, &context.folder)?));
    }
    for name in &declared {
        let given = secrets.iter().any(|(known, _)| known == name);
        if let Some(value) = std::env::var_os(variable(name)).filter(|_| !given) {
            secrets.push((name.clone(), std::os::unix::ffi::OsStringExt::into_vec(value)));
        }
    }
    let open: Vec<String> =
        declared.into_iter().filter(|name| !secrets.iter().any(|(known, _)| known == name)).collect();
    Ok(Collected { given: secrets, kept: kept(&open, &read.place.folder)? })
}

fn variable(name: &str) -> String {
    format!("PDEV_SECRET_{}", name.to_uppercase().replace('-', "_"))
}

fn bytes_of(source: &SecretSource, folder: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let (words, read) = match &source.from {
        From::Stdin => {
            ("standard input".to_owned(), std::io::stdin().lock().take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes))
        }
        From::File(path) => {
            let opened = std::fs::File::open(folder.join(path));
            let read = opened.and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes));
            (format!("`{}`", path.display()), read)
        }
    };
    read.map_err(|error| {
        Failure::wrong(format!("cannot read the secret `{}` from {words}: {}", source.name, words::plain(&error)))
    })?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(Failure::wrong(format!(
            "the secret `{}` from {words} has over {SECRET_BYTES_MAX} bytes",
            source.name
        )));
    }
    if bytes.is_empty() {
        return Err(Failure::wrong(format!("the secret `{}` from {words} is empty", source.name)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        assert_eq!(parse("a=@b c").unwrap().from, From::File("b c".into()));
        assert_eq!(parse("a=-").unwrap().from, From::Stdin);
        let refused = parse("stripe=hunter2").unwrap_err();
        assert!(refused.contains("`stripe=@FILE`") && !refused.contains("hunter2"), "{refused}");
        assert!(parse("a").is_err() && parse("a=@").is_err());
        assert_eq!(variable("stripe-key"), "PDEV_SECRET_STRIPE_KEY");
    }
}
