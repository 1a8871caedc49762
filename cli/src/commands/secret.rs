//! `pdev secret`: values of a manifest's secrets, kept sealed in the vault and delivered at `up`.
//!
//! A value comes by standard input or a file, never as an argument; it is never shown again.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use credentials::secrets::{self, RepositorySecrets};
use credentials::vault::{self, ITEM_BYTES_MAX, Vault};
use credentials::{CredentialPaths, Secret};
use protocol::request::DeliverSecretsRequest;
use serde_json::json;

use super::identity::locations;
use super::vault::{open_vault, vault_failure};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::humanize;
use crate::manifest_check::{self, ManifestOptions};
use crate::manifest_location;
use crate::render::table::{self, Cell};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev secret set stripe              prompt for the value without showing it
  pdev secret set stripe < key.txt
  pdev secret import .env             store every line as a secret, named in lower case

Secrets belong to this repository and all its worktrees. `pdev up` delivers the secrets that the manifest names; \
`--secret` and PDEV_SECRET_<NAME> override them.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Subcommand, Debug)]
enum SecretCommand {
    /// Store a secret, read from standard input or a file
    Set {
        /// Name of the secret, as in the manifest
        #[arg(value_name = "NAME")]
        name: String,
        /// Read the value from this file
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// List the names of the secrets stored for this repository
    #[command(visible_alias = "ls")]
    List,
    /// Delete a stored secret
    Rm {
        /// Name of the secret, as in the manifest
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Store every value of a `.env` file
    Import {
        /// Path of the `.env` file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Deliver the manifest's secrets to the agent, for an `up` from an editor; `pdev up` does this itself
    Deliver {
        /// Environment of the manifest [default: local]
        #[arg(short = 'e', long = "env", value_name = "NAME", env = "PDEV_ENV", hide_env = true)]
        environment: Option<String>,
    },
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    let place = locations()?;
    let scope = repository_scope(&context.folder);
    match arguments.command {
        SecretCommand::Set { name, from } => set(&name, from.as_deref(), &scope, &place, context),
        SecretCommand::List => list(&scope, &place, context),
        SecretCommand::Rm { name } => remove(&name, &scope, &place, context),
        SecretCommand::Import { file } => import(&file, &scope, &place, context),
        SecretCommand::Deliver { environment } => deliver(environment, context),
    }
}

/// As `up` collects and delivers them, and nothing is brought up.
fn deliver(environment: Option<String>, context: &Context) -> Outcome {
    let place = manifest_location::find(&context.folder, None)?;
    let read = manifest_check::read_and_check(
        &place,
        ManifestOptions { environment: environment.as_deref(), sets: &[], runtime: None },
    )?;
    let secrets = crate::secrets::collect(&[], &read, context)?;
    let names = secrets.names();
    if !names.is_empty() {
        let folder = place.folder.to_string_lossy().into_owned();
        Context::block_on_value(async {
            let mut client = Context::connect().await?;
            super::up::deliver_secrets(&mut client, folder, environment, secrets, context).await
        })??;
    }
    print_result(
        context,
        &json!({ "delivered": names }),
        &format!("{} delivered", humanize::count(names.len(), "secret")),
    )
}

/// The repository's shared folder; without git the manifest's folder, else this one.
fn repository_scope(folder: &Path) -> RepositorySecrets {
    let own = || manifest_location::find_above(folder).map_or_else(|| folder.to_owned(), |place| place.folder);
    let path = agent::checkout::find_checkout(folder).map_or_else(own, |checkout| checkout.common_dir);
    RepositorySecrets::new(&path.canonicalize().unwrap_or(path))
}

fn set(
    name: &str,
    from: Option<&Path>,
    scope: &RepositorySecrets,
    place: &CredentialPaths,
    context: &Context,
) -> Outcome {
    if !secrets::is_valid_name(name) {
        return Err(Failure::invalid_input(format!("`{name}` is no name for a secret"))
            .hint("Use up to 64 lower-case letters, digits, `-` and `_`, as in the manifest."));
    }
    let value = read_secret(name, from, context)?;
    let vault = open_vault(place, context)?;
    scope.set(&vault, name, &value, humanize::now_milliseconds()).map_err(|problem| vault_failure(&problem))?;
    print_result(
        context,
        &json!({ "set": name }),
        &format!("kept `{name}`; `pdev up` delivers it where the manifest names it"),
    )
}

pub(crate) fn read_secret(name: &str, from: Option<&Path>, context: &Context) -> Result<Secret, Failure> {
    let limit = ITEM_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    let read = match from {
        Some(path) => std::fs::File::open(context.folder.join(path))
            .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
            .map_err(|error| format!("`{}`: {}", path.display(), humanize::io_error(&error))),
        None if std::io::stdin().is_terminal() => read_hidden_line(name, context).map(|line| {
            bytes = line;
            bytes.len()
        }),
        None => std::io::stdin()
            .lock()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("standard input: {}", humanize::io_error(&error))),
    };
    read.map_err(|problem| Failure::invalid_input(format!("cannot read `{name}` from {problem}")))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::invalid_input(format!("the secret `{name}` has over {limit} bytes")));
    }
    // `echo value | pdev secret set` is what people type; the line's end is not meant.
    if bytes.ends_with(b"\n") && bytes.iter().filter(|byte| **byte == b'\n').count() == 1 {
        bytes.truncate(bytes.len() - if bytes.ends_with(b"\r\n") { 2 } else { 1 });
    }
    if bytes.is_empty() {
        return Err(Failure::invalid_input(format!("the secret `{name}` is empty"))
            .hint(format!("Pipe it in, or name a file: `pdev secret set {name} --from FILE`.")));
    }
    Ok(Secret::new(bytes))
}

/// One line from the terminal, not shown while it is typed.
pub(crate) fn read_hidden_line(name: &str, context: &Context) -> Result<Vec<u8>, String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let words = |error: rustix::io::Errno| format!("the terminal: {}", humanize::io_error(&error.into()));
    let before = tcgetattr(&stdin).map_err(words)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    // Silent before it asks: what is typed at once would be shown, and thrown away by the flush.
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(words)?;
    context.terminal.eprint_bytes(format!("{name}: ").as_bytes());
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &before);
    context.terminal.eprint_line("");
    read.map_err(|error| format!("the terminal: {}", humanize::io_error(&error)))?;
    restored.map_err(words)?;
    Ok(line.trim_end_matches(['\n', '\r']).as_bytes().to_vec())
}

fn list(scope: &RepositorySecrets, place: &CredentialPaths, context: &Context) -> Outcome {
    let names = scope.names(&place.vault()).map_err(|problem| vault_failure(&problem))?;
    if context.json {
        context.terminal.print_json(&names);
        return crate::success();
    }
    if names.is_empty() {
        context.terminal.eprint_line("no secrets are kept for this repository; `pdev secret set NAME` keeps one");
        return crate::success();
    }
    let declared = manifest_location::find_above(&context.folder)
        .and_then(|place| manifest_check::read_and_check(&place, ManifestOptions::default()).ok())
        .map(|read| read.secret_names());
    let row = |name: &String| {
        let used = declared.as_ref().is_none_or(|declared| declared.contains(name));
        vec![Cell::painted(name, "1"), Cell::new(if used { "" } else { "not in the manifest" })]
    };
    let rows: Vec<Vec<Cell>> = names.iter().map(row).collect();
    table::lines(&["SECRET", ""], &rows, 0, context.terminal.stdout_paint)
        .iter()
        .for_each(|line| context.terminal.print_line(line));
    crate::success()
}

fn remove(name: &str, scope: &RepositorySecrets, place: &CredentialPaths, context: &Context) -> Outcome {
    if !scope.remove(&place.vault(), name).map_err(|problem| vault_failure(&problem))? {
        return Err(Failure::not_found(format!("no secret `{name}` is kept for this repository"))
            .hint("`pdev secret list` shows those that are."));
    }
    print_result(
        context,
        &json!({ "removed": name }),
        &format!("forgot `{name}`; units that run keep theirs until `pdev down`"),
    )
}

fn import(file: &Path, scope: &RepositorySecrets, place: &CredentialPaths, context: &Context) -> Outcome {
    let text = std::fs::read_to_string(context.folder.join(file)).map_err(|error| {
        Failure::invalid_input(format!("cannot read `{}`: {}", file.display(), humanize::io_error(&error)))
    })?;
    let (found, wrong) = secrets::parse_dotenv(&text);
    if found.is_empty() {
        return Err(Failure::invalid_input(format!("`{}` has no `KEY=value` line", file.display())));
    }
    let vault = open_vault(place, context)?;
    for (name, value) in &found {
        scope.set(&vault, name, value, humanize::now_milliseconds()).map_err(|problem| vault_failure(&problem))?;
    }
    for line in &wrong {
        context.terminal.eprint_line(&format!("{}:{line}: left out, it is no `KEY=value`", file.display()));
    }
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let words = format!("kept {}: {}", humanize::count(names.len(), "secret"), names.join(", "));
    print_result(context, &json!({ "set": names, "left_out_lines": wrong }), &words)
}

fn print_result(context: &Context, json: &serde_json::Value, words: &str) -> Outcome {
    if context.json {
        context.terminal.print_json(json);
    } else {
        context.terminal.print_line(words);
    }
    crate::success()
}

/// For `up`: what is kept of the names that were not given otherwise. No keyring is asked.
pub(crate) fn find_in_vault(names: &[String], folder: &Path) -> Result<DeliverSecretsRequest, Failure> {
    let scope = repository_scope(folder);
    let mut kept = DeliverSecretsRequest { repository: scope.path().display().to_string(), names: Vec::new() };
    if let Some(place) = CredentialPaths::find().filter(|place| Vault::exists(&place.vault())) {
        let there = scope.names(&place.vault()).map_err(|problem| vault_failure(&problem))?;
        kept.names.extend(names.iter().filter(|name| there.contains(name)).cloned());
    }
    Ok(kept)
}

/// Whether the vault's key is derived from a passphrase: that takes a fifth of a second, which the agent spends once. A
/// keyring is asked each time instead, and this process may ask a person; who locks it means it for secrets too.
pub(crate) fn has_passphrase_key() -> bool {
    let holder = CredentialPaths::find().and_then(|place| vault::key_store_of(&place.vault()).ok().flatten());
    holder == Some(vault::KeyStore::Passphrase)
}

/// The values, where the agent cannot open the vault: this process may ask a person.
pub(crate) fn read_from_vault(
    kept: &DeliverSecretsRequest,
    context: &Context,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let vault = open_vault(&locations()?, context)?;
    let scope = RepositorySecrets::new(Path::new(&kept.repository));
    let mut values = Vec::new();
    for name in &kept.names {
        if let Some((secret, _)) = scope.get(&vault, name).map_err(|problem| vault_failure(&problem))? {
            let mut bytes = Vec::new();
            secret.write_to(&mut bytes)?;
            values.push((name.clone(), bytes));
        }
    }
    Ok(values)
}
