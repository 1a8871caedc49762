//! `pdev secret`: stores the values of a manifest's secrets sealed in the vault, from which `up` delivers them.
//!
//! A value is read from standard input or a file, never from an argument, and no command prints it.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use credentials::secrets::{self, RepositorySecrets};
use credentials::vault::ITEM_BYTES_MAX;
use credentials::{CredentialPaths, Secret};
use host::clock::now_milliseconds;
use serde_json::json;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::humanize;
use crate::manifest_check::{self, ManifestOptions};
use crate::manifest_location;
use crate::render::table::{self, Cell};
use crate::secrets::delivery::deliver_secrets;
use crate::secrets::stored::repository_scope;
use crate::vault_access::{credential_paths, open_vault, vault_failure};

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
    let paths = credential_paths()?;
    let scope = repository_scope(&context.folder);
    match arguments.command {
        SecretCommand::Set { name, from } => set(&name, from.as_deref(), &scope, &paths, context),
        SecretCommand::List => list(&scope, &paths, context),
        SecretCommand::Rm { name } => remove(&name, &scope, &paths, context),
        SecretCommand::Import { file } => import(&file, &scope, &paths, context),
        SecretCommand::Deliver { environment } => deliver(environment, context),
    }
}

/// Collects and delivers the secrets like `up`, but starts nothing.
fn deliver(environment: Option<String>, context: &Context) -> Outcome {
    let location = manifest_location::find(&context.folder, None)?;
    let checked = manifest_check::read_and_check(
        &location,
        ManifestOptions { environment: environment.as_deref(), sets: &[], runtime: None },
    )?;
    let secrets = crate::secrets::collect(&[], &checked, context)?;
    let names = secrets.names();
    if !names.is_empty() {
        let folder = location.folder.to_string_lossy().into_owned();
        Context::block_on_value(async {
            let mut client = Context::connect().await?;
            deliver_secrets(&mut client, folder, environment, secrets, context).await
        })??;
    }
    print_result(
        context,
        &json!({ "delivered": names }),
        &format!("{} delivered", humanize::count(names.len(), "secret")),
    )
}

fn set(
    name: &str,
    from: Option<&Path>,
    scope: &RepositorySecrets,
    paths: &CredentialPaths,
    context: &Context,
) -> Outcome {
    if !secrets::is_valid_name(name) {
        return Err(Failure::invalid_input(format!("`{name}` is not a valid name of a secret"))
            .hint("Use up to 64 lower-case letters, digits, `-` and `_`, as in the manifest."));
    }
    let value = read_secret(name, from, context)?;
    let vault = open_vault(paths, context)?;
    scope.set(&vault, name, &value, now_milliseconds()).map_err(|problem| vault_failure(&problem))?;
    print_result(
        context,
        &json!({ "set": name }),
        &format!("stored `{name}`; `pdev up` delivers it and restarts the units that use it"),
    )
}

pub(crate) fn read_secret(name: &str, from: Option<&Path>, context: &Context) -> Result<Secret, Failure> {
    let limit = ITEM_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    // One byte more than allowed, to detect a larger input without reading all of it.
    let result = match from {
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
    result.map_err(|reason| Failure::invalid_input(format!("cannot read `{name}` from {reason}")))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::invalid_input(format!("the secret `{name}` is larger than {limit} bytes")));
    }
    // Users type `echo value | pdev secret set`, and `echo` adds a newline. The newlines of a longer text, such as a
    // certificate, belong to the value.
    if bytes.ends_with(b"\n") && bytes.iter().filter(|byte| **byte == b'\n').count() == 1 {
        bytes.truncate(bytes.len() - if bytes.ends_with(b"\r\n") { 2 } else { 1 });
    }
    if bytes.is_empty() {
        return Err(Failure::invalid_input(format!("the secret `{name}` is empty"))
            .hint(format!("Pipe the value in, or name a file: `pdev secret set {name} --from FILE`.")));
    }
    Ok(Secret::new(bytes))
}

/// Reads one line from the terminal without echo.
pub(crate) fn read_hidden_line(name: &str, context: &Context) -> Result<Vec<u8>, String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let describe = |error: rustix::io::Errno| format!("the terminal: {}", humanize::io_error(&error.into()));
    let before = tcgetattr(&stdin).map_err(describe)?;
    let mut without_echo = before.clone();
    without_echo.local_modes.remove(LocalModes::ECHO);
    // Echo is disabled before the prompt appears. Characters typed in between would be visible, and the flush would
    // discard them.
    tcsetattr(&stdin, OptionalActions::Flush, &without_echo).map_err(describe)?;
    context.terminal.eprint_bytes(format!("{name}: ").as_bytes());
    let mut line = String::new();
    let result = stdin.read_line(&mut line);
    // Restored before the result is checked, so an error does not leave the terminal without echo.
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &before);
    context.terminal.eprint_line("");
    result.map_err(|error| format!("the terminal: {}", humanize::io_error(&error)))?;
    restored.map_err(describe)?;
    Ok(line.trim_end_matches(['\n', '\r']).as_bytes().to_vec())
}

fn list(scope: &RepositorySecrets, paths: &CredentialPaths, context: &Context) -> Outcome {
    let names = scope.names(&paths.vault()).map_err(|problem| vault_failure(&problem))?;
    if context.json {
        context.terminal.print_json(&names);
        return crate::success();
    }
    if names.is_empty() {
        context
            .terminal
            .eprint_line("no secrets are stored for this repository; run `pdev secret set NAME` to store one");
        return crate::success();
    }
    let declared = manifest_location::find_above(&context.folder)
        .and_then(|location| manifest_check::read_and_check(&location, ManifestOptions::default()).ok())
        .map(|checked| checked.secret_names());
    let row = |name: &String| {
        let is_declared = declared.as_ref().is_none_or(|declared| declared.contains(name));
        vec![Cell::painted(name, "1"), Cell::new(if is_declared { "" } else { "not in the manifest" })]
    };
    let rows: Vec<Vec<Cell>> = names.iter().map(row).collect();
    table::lines(&["SECRET", ""], &rows, 0, context.terminal.stdout_paint)
        .iter()
        .for_each(|line| context.terminal.print_line(line));
    crate::success()
}

fn remove(name: &str, scope: &RepositorySecrets, paths: &CredentialPaths, context: &Context) -> Outcome {
    if !scope.remove(&paths.vault(), name).map_err(|problem| vault_failure(&problem))? {
        return Err(Failure::not_found(format!("no secret `{name}` is stored for this repository"))
            .hint("Run `pdev secret list` to list the stored secrets."));
    }
    print_result(
        context,
        &json!({ "removed": name }),
        &format!("deleted `{name}`; running units keep the value until `pdev down`"),
    )
}

fn import(file: &Path, scope: &RepositorySecrets, paths: &CredentialPaths, context: &Context) -> Outcome {
    let text = std::fs::read_to_string(context.folder.join(file)).map_err(|error| {
        Failure::invalid_input(format!("cannot read `{}`: {}", file.display(), humanize::io_error(&error)))
    })?;
    let (secrets, invalid_lines) = secrets::parse_dotenv(&text);
    if secrets.is_empty() {
        return Err(Failure::invalid_input(format!("`{}` has no line `KEY=value`", file.display())));
    }
    let vault = open_vault(paths, context)?;
    for (name, value) in &secrets {
        scope.set(&vault, name, value, now_milliseconds()).map_err(|problem| vault_failure(&problem))?;
    }
    for line in &invalid_lines {
        context.terminal.eprint_line(&format!("{}:{line}: left out, because it is not `KEY=value`", file.display()));
    }
    let names: Vec<&str> = secrets.iter().map(|(name, _)| name.as_str()).collect();
    let message = format!("stored {}: {}", humanize::count(names.len(), "secret"), names.join(", "));
    print_result(context, &json!({ "set": names, "left_out_lines": invalid_lines }), &message)
}

fn print_result(context: &Context, json: &serde_json::Value, message: &str) -> Outcome {
    if context.json {
        context.terminal.print_json(json);
    } else {
        context.terminal.print_line(message);
    }
    crate::success()
}
