//! `pdev vault`: where sealed things rest, whether they can be opened, and beginning anew.

use clap::Subcommand;
use credentials::Place;
use credentials::vault::{self, Choice, Vault, VaultProblem};
use serde_json::json;

use super::identity::place;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::words;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev vault            is it there, who holds its key, does it open
  pdev vault reset      set the sealed files aside and begin anew

A new vault's key goes into the desktop's keyring. Without one: PDEV_VAULT_PASSPHRASE_FILE=FILE, or PDEV_VAULT=kernel.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<VaultCommand>,
}

#[derive(Subcommand, Debug)]
enum VaultCommand {
    /// Where it is, who holds its key, and whether it opens
    Status,
    /// Set the sealed files aside and begin anew
    Reset,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    match arguments.command {
        None | Some(VaultCommand::Status) => status(context),
        Some(VaultCommand::Reset) => reset(context),
    }
}

/// The vault, opened or made; a locked keyring may ask the person who is there.
pub(crate) fn opened(place: &Place, context: &Context) -> Result<Vault, Failure> {
    let mut choice = Choice::from_environment().map_err(|problem| refused(&problem))?;
    choice.may_prompt = context.terminal.person;
    Context::block_on_value(Vault::open(&place.vault(), &choice))?.map_err(|problem| refused(&problem))
}

pub(crate) fn refused(problem: &VaultProblem) -> Failure {
    let failure = Failure::new(crate::exit::FAILED, problem.code(), problem.to_string());
    match problem.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn status(context: &Context) -> Outcome {
    let place = place()?;
    let folder = place.vault();
    let terminal = &context.terminal;
    let Some(holder) = vault::holder_of(&folder).map_err(|problem| refused(&problem))? else {
        if context.json {
            terminal.say_json(&json!({ "folder": folder, "exists": false }));
        } else {
            terminal.say("no vault yet; the first `pdev secret set` or `pdev login` makes it");
        }
        return crate::done();
    };
    opened(&place, context)?;
    let items = vault::names(&folder, "").map_err(|problem| refused(&problem))?.len().saturating_sub(1);
    if context.json {
        terminal.say_json(&json!({ "folder": folder, "exists": true, "holder": holder, "items": items }));
    } else {
        terminal.say(&format!(
            "opens with the {holder}; {} in {}",
            words::count(items, "sealed item"),
            folder.display()
        ));
    }
    crate::done()
}

fn reset(context: &Context) -> Outcome {
    let aside = vault::set_aside(&place()?.vault(), &words::now_milliseconds().to_string());
    let aside = aside.map_err(|problem| refused(&problem))?;
    if context.json {
        context.terminal.say_json(&json!({ "set_aside": aside }));
        return crate::done();
    }
    match aside {
        Some(path) => context.terminal.say(&format!("set aside, still sealed: {}", path.display())),
        None => context.terminal.say("there was no vault"),
    }
    crate::done()
}
