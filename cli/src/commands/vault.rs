//! `pdev vault`: shows where the vault is and whether it opens, or starts with an empty one.

use clap::Subcommand;
use credentials::vault::{self};
use host::clock::now_milliseconds;
use serde_json::json;

use crate::context::Context;
use crate::exit::Outcome;
use crate::humanize;
use crate::vault_access::{credential_paths, open_vault, vault_failure};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev vault            show whether the vault exists, what holds its key, and whether it opens
  pdev vault reset      move the sealed files aside and start with an empty vault

The key of a new vault is stored in the keyring of the desktop. Without a keyring, set \
PDEV_VAULT_PASSPHRASE_FILE=FILE or PDEV_VAULT=kernel.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<VaultCommand>,
}

#[derive(Subcommand, Debug)]
enum VaultCommand {
    /// Show where the vault is, what holds its key, and whether it opens
    Status,
    /// Move the sealed files aside and start with an empty vault
    Reset,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    match arguments.command {
        None | Some(VaultCommand::Status) => status(context),
        Some(VaultCommand::Reset) => reset(context),
    }
}

fn status(context: &Context) -> Outcome {
    let paths = credential_paths()?;
    let folder = paths.vault();
    let terminal = &context.terminal;
    let Some(key_store) = vault::key_store_of(&folder).map_err(|problem| vault_failure(&problem))? else {
        if context.json {
            terminal.print_json(&json!({ "folder": folder, "exists": false }));
        } else {
            terminal.print_line("no vault yet; the first `pdev secret set` or `pdev login` creates it");
        }
        return crate::success();
    };
    open_vault(&paths, context)?;
    // Without the item that only proves that the key is right.
    let items = vault::names(&folder, "").map_err(|problem| vault_failure(&problem))?.len().saturating_sub(1);
    if context.json {
        terminal.print_json(&json!({ "folder": folder, "exists": true, "holder": key_store, "items": items }));
    } else {
        terminal.print_line(&format!(
            "opens with the {key_store}; {} in {}",
            humanize::count(items, "sealed item"),
            folder.display()
        ));
    }
    crate::success()
}

fn reset(context: &Context) -> Outcome {
    // Moved and not deleted, in case the key is found again.
    let moved_to = vault::set_aside(&credential_paths()?.vault(), &now_milliseconds().to_string());
    let moved_to = moved_to.map_err(|problem| vault_failure(&problem))?;
    if context.json {
        context.terminal.print_json(&json!({ "set_aside": moved_to }));
        return crate::success();
    }
    match moved_to {
        Some(path) => context.terminal.print_line(&format!("set aside, still sealed: {}", path.display())),
        None => context.terminal.print_line("there was no vault"),
    }
    crate::success()
}
