//! `pdev login` and `pdev logout`: the one thing a person does for an identity.

use credentials::identity::Identity;
use serde_json::json;

use super::identity::{load, place};
use super::vault::opened;
use crate::context::Context;
use crate::exit::{Failure, Outcome};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev login registry < token.txt     a `static` identity's secret, by standard input or typed
  pdev login shop-dev                 opens the browser, or shows a code

The agent keeps the login fresh from then on. `pdev identity` shows how each identity stands.")]
pub(crate) struct Arguments {
    /// An identity of yours
    #[arg(value_name = "IDENTITY")]
    identity: String,
}

#[derive(clap::Args, Debug)]
pub(crate) struct LogoutArguments {
    /// An identity of yours
    #[arg(value_name = "IDENTITY")]
    identity: String,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let identity = known(&arguments.identity)?;
    match identity.kind {
        "static" => keep(&identity, context),
        _ => Err(Failure::wrong(format!("`{}` comes from `{}`, which needs no login", identity.name, identity.kind))
            .hint("Use it; `pdev identity` shows how it stands.")),
    }
}

fn known(name: &str) -> Result<Identity, Failure> {
    let (mut identities, _) = load(&place()?)?;
    if let Some(identity) = identities.all.remove(name) {
        return Ok(identity);
    }
    let failure = Failure::not_found(format!("there is no identity `{name}`"));
    Err(match identities.nearest(name) {
        Some(near) => failure.hint(format!("Did you mean `{near}`?")),
        None => failure.hint(format!("`pdev identity add {name} --source SOURCE` makes it.")),
    })
}

fn keep(identity: &Identity, context: &Context) -> Outcome {
    let secret = super::secret::value(&identity.name, None, context)?;
    // Opened here first: this process may ask the person to unlock the keyring, the agent may not.
    drop(opened(&place()?, context)?);
    let mut bytes = Vec::new();
    secret.write_to(&mut bytes)?;
    Context::block_on(async {
        Context::connect().await?.keep_identity_secret(&identity.name, bytes).await?;
        said(&identity.name, context)
    })
}

fn said(name: &str, context: &Context) -> Outcome {
    if context.json {
        context.terminal.say_json(&json!({ "signed_in": name }));
    } else {
        context.terminal.say(&format!("signed in as `{name}`"));
    }
    crate::done()
}

pub(crate) fn logout(arguments: &LogoutArguments, context: &Context) -> Outcome {
    let name = &arguments.identity;
    known(name)?;
    Context::block_on(async {
        Context::connect().await?.sign_out(name).await?;
        if context.json {
            context.terminal.say_json(&json!({ "signed_out": name }));
        } else {
            context.terminal.say(&format!("signed out of `{name}`; what tools hold already lasts until it expires"));
        }
        crate::done()
    })
}
