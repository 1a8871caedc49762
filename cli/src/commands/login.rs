//! `pdev login` and `pdev logout`: the user signs in to an identity, or out of it. All later renewals are the agent's.

use std::process::{Command, Stdio};

use client::LineStream;
use credentials::identity::Identity;
use protocol::identity::{LoginEvent, LoginFlow};
use serde_json::json;

use super::identity::load_identities;
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::vault_access::{credential_paths, open_vault};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev login registry < token.txt     store the secret of a `static` identity; prompts on a terminal
  pdev login shop-dev                 open the browser, or show a code
  pdev login shop-admin               prompt for the code of an MFA device

An identity without a login of its own signs in to the one that it is built on (`from`). The agent renews the credentials of a login without prompts, until the provider ends the login. `pdev identity` shows \
the status of each identity.

Exit codes: 0 signed in, 1 failed, 2 the identity needs no login, 4 no such identity, 130 Ctrl-C.")]
pub(crate) struct Arguments {
    /// Identity to sign in to
    #[arg(value_name = "IDENTITY")]
    identity: String,
    /// How to sign in [default: the identity's `flow`, else a browser if this machine can open one, else a device code]
    #[arg(long, value_name = "FLOW", value_parser = ["browser", "device"])]
    flow: Option<String>,
    /// Print the address of the login page instead of opening a browser
    #[arg(long)]
    no_open: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct LogoutArguments {
    /// Identity to sign out of
    #[arg(value_name = "IDENTITY")]
    identity: String,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let requested = find_identity(&arguments.identity)?;
    let (identities, _) = load_identities(&credential_paths()?)?;
    let identity = identities.login_identity(&requested.name).cloned().unwrap_or(requested);
    if identity.name != arguments.identity {
        let (name, base) = (&arguments.identity, &identity.name);
        context.terminal.eprint_line(&format!("`{name}` is built on `{base}`: sign in to `{base}`"));
    }
    if identity.secret_description().is_some() {
        send_secret(&identity, context)
    } else if identity.needs_login() {
        sign_in_at_provider(&identity, arguments, context)
    } else {
        let message = format!("`{}` uses the source `{}`, which needs no login", identity.name, identity.kind);
        Err(Failure::invalid_input(message).hint("Run `pdev identity` to see the status of the identity."))
    }
}

pub(crate) fn find_identity(name: &str) -> Result<Identity, Failure> {
    let (mut identities, _) = load_identities(&credential_paths()?)?;
    if let Some(identity) = identities.all.remove(name) {
        return Ok(identity);
    }
    let failure = Failure::not_found(format!("there is no identity `{name}`"));
    Err(match identities.nearest(name) {
        Some(near) => failure.hint(format!("Did you mean `{near}`?")),
        None => failure.hint(format!("Run `pdev identity add {name} --source SOURCE` to add it.")),
    })
}

/// Unlocks the keyring before the agent needs the vault's key: this process may prompt the user, and the agent may not.
fn unlock_vault(context: &Context) -> Result<(), Failure> {
    open_vault(&credential_paths()?, context).map(drop)
}

/// Reads the secret that the user enters, such as a token or an MFA code, and sends it to the agent.
fn send_secret(identity: &Identity, context: &Context) -> Outcome {
    // Unlock the vault before the prompt: an MFA code is valid only for a short time.
    unlock_vault(context)?;
    let prompt = match identity.text("mfa_serial") {
        Some(device) => format!("MFA code of {device}"),
        None => identity.name.clone(),
    };
    let secret = super::secret::read_secret(&prompt, None, context)?;
    let mut bytes = Vec::new();
    secret.write_to(&mut bytes)?;
    Context::block_on(async {
        Context::connect().await?.store_identity_secret(&identity.name, bytes).await?;
        print_signed_in(&identity.name, context)
    })
}

fn sign_in_at_provider(identity: &Identity, arguments: &Arguments, context: &Context) -> Outcome {
    let flow = match arguments.flow.as_deref().or(identity.text("flow")) {
        Some("browser") => LoginFlow::Browser,
        Some("device") => LoginFlow::Device,
        // The reader of identities.toml accepts only one other value, `auto`.
        _ if has_local_browser() => LoginFlow::Browser,
        _ => LoginFlow::Device,
    };
    unlock_vault(context)?;
    Context::block_on(async {
        let mut events = Context::connect().await?.login(&identity.name, flow).await?;
        tokio::select! {
            outcome = follow_login(&mut events, &identity.name, !arguments.no_open, context) => outcome,
            // Closing the event stream cancels the login in the agent.
            _ = tokio::signal::ctrl_c() => Err(Failure::new(exit::INTERRUPTED, "interrupted", "the login was cancelled")),
        }
    })
}

async fn follow_login(
    events: &mut LineStream<LoginEvent>,
    name: &str,
    can_open_browser: bool,
    context: &Context,
) -> Outcome {
    while let Some(event) = events.next().await? {
        if context.json && !matches!(event, LoginEvent::Failed { .. }) {
            context.terminal.print_json(&event);
        }
        match event {
            LoginEvent::Open { url } => {
                let has_started_browser = can_open_browser && context.terminal.is_interactive && start_browser(&url);
                // A started program does not prove that the page appeared, so print the URL in any case.
                let condition = if has_started_browser { "if no page appeared, " } else { "" };
                context
                    .terminal
                    .eprint_line(&format!("{condition}open this page in a browser on this machine:\n  {url}"));
            }
            LoginEvent::Code { url, code, complete_url } => {
                context.terminal.eprint_line(&format!(
                    "open {url} on any device and enter the code {}",
                    context.terminal.stderr_paint.bold(&code)
                ));
                if let Some(url_with_code) = complete_url {
                    context.terminal.eprint_line(&format!("or open {url_with_code}, which contains the code"));
                }
            }
            LoginEvent::SignedIn if context.json => return crate::success(),
            LoginEvent::SignedIn => return print_signed_in(name, context),
            LoginEvent::Failed { problem } => {
                return Err(Failure { exit_code: exit::FAILED, problem: Box::new(problem) });
            }
        }
    }
    Err(Failure::failed("the agent stopped before the login was complete")
        .hint(format!("Run `pdev login {name}` again.")))
}

/// Whether the user sees a browser that is started on this machine. Over SSH the user does not, and a browser on the
/// user's own machine cannot reach the loopback address of this one.
fn has_local_browser() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_remote = is_set("SSH_CONNECTION") || is_set("SSH_TTY");
    !is_remote && (cfg!(target_os = "macos") || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY"))
}

/// Starts the default browser. Returns whether the program could be started, not whether it shows the page.
fn start_browser(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    // The browser must not write into the output of this command or read its terminal.
    Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_ok()
}

fn print_signed_in(name: &str, context: &Context) -> Outcome {
    if context.json {
        context.terminal.print_json(&json!({ "signed_in": name }));
    } else {
        context.terminal.print_line(&format!("signed in as `{name}`"));
    }
    crate::success()
}

pub(crate) fn logout(arguments: &LogoutArguments, context: &Context) -> Outcome {
    let name = &arguments.identity;
    find_identity(name)?;
    Context::block_on(async {
        Context::connect().await?.sign_out(name).await?;
        if context.json {
            context.terminal.print_json(&json!({ "signed_out": name }));
        } else {
            context.terminal.print_line(&format!(
                "signed out of `{name}`; credentials that were already issued to tools remain valid until they expire"
            ));
        }
        crate::success()
    })
}
