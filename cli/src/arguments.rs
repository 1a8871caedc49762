//! The command line as clap reads it. What a command's own options mean stands in its file under `commands/`.

use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::commands::{
    agent, audit, check, completions, credential, doctor, down, exec, explain, identity, login, logs, ls, lsp, man,
    module, open, plan, restart, run, schema, secret, session, status, stop, up, vault, version, wait,
};
use crate::help;
use crate::render::terminal::Color;

/// Runs your whole application, for this branch, at a URL.
#[derive(Parser, Debug)]
#[command(name = "pdev", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Global {
    /// Work as if started in this folder
    #[arg(short = 'C', value_name = "FOLDER", global = true, help_heading = "Everywhere")]
    pub(crate) directory: Option<PathBuf>,
    /// Write JSON (docs/schemas) and nothing else to standard output
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    /// When to use colours; NO_COLOR and CLICOLOR_FORCE count as well
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        global = true,
        env = "PDEV_COLOR",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    pub(crate) color: Color,
    /// No progress
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub(crate) quiet: bool,
    /// Every step and all build output
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Everywhere")]
    pub(crate) verbose: u8,
}

/// The order here is the order within the groups of `pdev --help` (see `help.rs`).
///
/// Deferred: the options of the other twenty-eight commands are not made at each start.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Bring this folder's preview up, or bring it up to date
    Up(up::Arguments),
    /// Stop a preview; data volumes stay unless `--volumes`
    Down(down::Arguments),
    /// Stop and start units without changing them
    Restart(restart::Arguments),
    /// Stop some units; the others go on
    Stop(stop::Arguments),
    /// Run a job of the manifest, or a program as an identity
    Run(run::Arguments),
    /// Run a command inside a unit
    Exec(exec::Arguments),
    /// Wait until a preview is ready or has failed
    Wait(wait::Arguments),
    /// List all previews of this machine
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    /// Show one preview: units, addresses, what is wrong
    #[command(visible_alias = "ps")]
    Status(status::Arguments),
    /// Show output of all units, merged by time
    Logs(logs::Arguments),
    /// Open a preview in the browser, or print its URL
    Open(open::Arguments),
    /// Show what `up` would do, and why
    Plan(plan::Arguments),
    /// Check a manifest and show every problem in it
    Check(check::Arguments),
    /// Explain a code (PD0104) or a field (services.api.port)
    Explain(explain::Arguments),
    /// Print the JSON Schema of `pdev.yaml`
    Schema(schema::Arguments),
    /// The platform's modules: what a resource can use
    Module(module::Arguments),
    /// The language server, for editors
    Lsp(lsp::Arguments),
    /// Who you are: list, add, remove or import identities
    Identity(identity::Arguments),
    /// Sign in to an identity, once
    Login(login::Arguments),
    /// Forget what you signed in with
    Logout(login::LogoutArguments),
    /// What other tools run to be given a credential
    Credential(credential::Arguments),
    /// Run a coding agent with less of your identities than you have
    Session(session::Arguments),
    /// Who was given a credential, which, how and when
    Audit(audit::Arguments),
    /// Keep a manifest's secrets sealed: set, list, rm, import
    Secret(secret::Arguments),
    /// Where sealed secrets and logins rest, and whether they can be opened
    Vault(vault::Arguments),
    /// The background agent: status, stop, logs, run
    Agent(agent::Arguments),
    /// Look for what could be wrong with this machine
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
    /// Write man pages into a folder
    Man(man::Arguments),
    /// Print the versions of pdev and of the agent
    Version(version::Arguments),
}

/// The whole command line, with its help in groups.
pub(crate) fn command() -> clap::Command {
    help::with_command_groups(Arguments::command())
}
