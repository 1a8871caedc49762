//! The command line as clap parses it. The options of each command are defined in its file under `commands/`.

use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::commands::{
    agent, audit, check, completions, credential, doctor, down, exec, explain, help, identity, login, logs, ls, lsp,
    man, module, open, plan, restart, run, schema, secret, session, status, stop, up, vault, version, wait,
};
use crate::help::with_front_page;
use crate::terminal::Color;

/// Run the complete application of your branch at its own URL.
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
    /// Run as if started in this folder
    #[arg(short = 'C', value_name = "FOLDER", global = true, help_heading = "Global options")]
    pub(crate) directory: Option<PathBuf>,
    /// Print JSON (docs/schemas) and nothing else to standard output
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// When to color the output; NO_COLOR and CLICOLOR_FORCE also apply
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        global = true,
        env = "PDEV_COLOR",
        hide_env = true,
        help_heading = "Global options"
    )]
    pub(crate) color: Color,
    /// Hide progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Show every step and all build output
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// `help.rs` groups these for the help pages.
///
/// Deferred, so that a start builds the options of one command and not those of all thirty.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Start this folder's preview, or update it
    Up(up::Arguments),
    /// Stop a preview; keep data volumes unless `--volumes` is given
    Down(down::Arguments),
    /// Restart services or resources without applying manifest changes
    Restart(restart::Arguments),
    /// Stop services or resources; the others keep running
    Stop(stop::Arguments),
    /// Run a job, or with `--as` a program that acts as an identity
    Run(run::Arguments),
    /// Run a command inside a unit (service, job or resource)
    Exec(exec::Arguments),
    /// Wait until a preview or the given units are ready or have failed
    Wait(wait::Arguments),
    /// List all previews on this machine
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    /// Show the units, addresses and problems of a preview
    #[command(visible_alias = "ps")]
    Status(status::Arguments),
    /// Show the output of units, merged by time
    Logs(logs::Arguments),
    /// Open a preview in the browser, or print its URL
    Open(open::Arguments),
    /// Show the steps that `up` would take, and the reason of each
    Plan(plan::Arguments),
    /// Check a manifest and show all its problems
    Check(check::Arguments),
    /// Explain a diagnostic code or a manifest field
    Explain(explain::Arguments),
    /// Print the JSON Schema of `pdev.yaml`
    Schema(schema::Arguments),
    /// List the modules that a resource can use, and show their inputs and outputs
    Module(module::Arguments),
    /// Run the language server, for editors
    Lsp(lsp::Arguments),
    /// Manage cloud identities: list, add, rm, import, approve
    Identity(identity::Arguments),
    /// Sign in to an identity
    Login(login::Arguments),
    /// Sign out of an identity and delete its stored login
    Logout(login::LogoutArguments),
    /// Print credentials for other tools, serve as their helper, or configure them
    Credential(credential::Arguments),
    /// Run a coding agent with restricted access to your identities
    Session(session::Arguments),
    /// Show which program received which credential, in which format and when
    Audit(audit::Arguments),
    /// Manage the sealed secrets of a repository: set, list, rm, import
    Secret(secret::Arguments),
    /// Show or reset the vault, which stores sealed secrets and logins
    Vault(vault::Arguments),
    /// Manage the agent, the background process that runs previews and renews credentials
    Agent(agent::Arguments),
    /// Check this machine for problems
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
    /// Write man pages into a folder
    Man(man::Arguments),
    /// Print the versions of pdev and of the agent
    Version(version::Arguments),
    /// Print the help of pdev or of a command
    Help(help::Arguments),
}

/// The complete command line, with the front page as its help.
pub(crate) fn command() -> clap::Command {
    with_front_page(Arguments::command())
}
