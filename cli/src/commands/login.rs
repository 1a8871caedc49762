//! `pdev login` and `pdev logout`: the only manual step of an identity.

use client::LineStream;
use credentials::identity::Identity;
use protocol::identity::{LoginEvent, LoginFlow};
use serde_json::json;

use super::identity::{credential_paths, load_identities};
use super::vault::open_vault;
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev login registry < token.txt     store the secret of a `static` identity; prompts on a terminal
  pdev login shop-dev                 open the browser, or show a code
  pdev login shop-admin               prompt for the code of an MFA device

The agent renews the login afterwards, so you sign in once. `pdev identity` shows the status of each identity.")]
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
    let identity = find_identity(&arguments.identity)?;
    match identity.secret_description() {
        Some(_) => store_secret(&identity, context),
        _ if identity.needs_login() => sign_in(&identity, arguments, context),
        _ => Err(Failure::invalid_input(format!(
            "`{}` uses the source `{}`, which needs no login",
            identity.name, identity.kind
        ))
        .hint("Run `pdev identity` to see its status.")),
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

fn store_secret(identity: &Identity, context: &Context) -> Outcome {
    // Opened here first, because this process may prompt the user to unlock the keyring and the agent may not. Also
    // before the prompt for an MFA code, which is valid only for a short time.
    drop(open_vault(&credential_paths()?, context)?);
    let prompt = match identity.text("mfa_serial") {
        Some(device) => format!("code of {device}"),
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

fn sign_in(identity: &Identity, arguments: &Arguments, context: &Context) -> Outcome {
    let flow = match arguments.flow.as_deref().or(identity.text("flow")) {
        Some("browser") => LoginFlow::Browser,
        Some("device") => LoginFlow::Device,
        _ if has_local_browser() => LoginFlow::Browser,
        _ => LoginFlow::Device,
    };
    // Opened here first, because this process may prompt the user to unlock the keyring and the agent may not.
    drop(open_vault(&credential_paths()?, context)?);
    Context::block_on(async {
        let mut events = Context::connect().await?.login(&identity.name, flow).await?;
        let followed = follow_login(&mut events, &identity.name, !arguments.no_open, context);
        tokio::select! {
            outcome = followed => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(exit::INTERRUPTED, "interrupted", "the login was cancelled")),
        }
    })
}

async fn follow_login(events: &mut LineStream<LoginEvent>, name: &str, open: bool, context: &Context) -> Outcome {
    while let Some(event) = events.next().await? {
        if context.json && !matches!(event, LoginEvent::Failed { .. }) {
            context.terminal.print_json(&event);
        }
        match event {
            LoginEvent::Open { url } => {
                let is_opened = open && context.terminal.is_interactive && open_page(&url);
                let request = if is_opened { "if no page opened, open this" } else { "open this" };
                context.terminal.eprint_line(&format!("{request} in a browser on this machine:\n  {url}"));
            }
            LoginEvent::Code { url, code, complete_url } => {
                context.terminal.eprint_line(&format!(
                    "open {url} anywhere and type the code  {}",
                    context.terminal.stderr_paint.bold(&code)
                ));
                if let Some(complete) = complete_url {
                    context.terminal.eprint_line(&format!("or open {complete}"));
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

/// Whether a browser opened on this machine is visible to the user. Over SSH it is not, and a browser on the user's own
/// machine does not reach the loopback of this one.
fn has_local_browser() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_remote = set("SSH_CONNECTION") || set("SSH_TTY");
    !is_remote && (cfg!(target_os = "macos") || set("DISPLAY") || set("WAYLAND_DISPLAY"))
}

fn open_page(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = std::process::Command::new(program);
    let null = std::process::Stdio::null;
    command.arg(url).stdin(null()).stdout(null()).stderr(null()).spawn().is_ok()
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
                "signed out of `{name}`; credentials that tools already have stay valid until they expire"
            ));
        }
        crate::success()
    })
}
