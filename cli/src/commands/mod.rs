//! One file per command: its options and its implementation.

pub(crate) mod agent;
mod approvals;
pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod credential;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod help;
pub(crate) mod identity;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod lsp;
pub(crate) mod man;
pub(crate) mod module;
pub(crate) mod open;
pub(crate) mod plan;
pub(crate) mod restart;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod secret;
pub(crate) mod session;
pub(crate) mod setup;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod up;
pub(crate) mod vault;
pub(crate) mod version;
pub(crate) mod wait;

use crate::arguments::Command;
use crate::context::Context;
use crate::exit::Outcome;

pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Up(arguments) => up::run(arguments, context),
        Command::Down(arguments) => down::run(arguments, context),
        Command::Restart(arguments) => restart::run(arguments, context),
        Command::Stop(arguments) => stop::run(arguments, context),
        Command::Run(arguments) => run::run(arguments, context),
        Command::Exec(arguments) => exec::run(arguments, context),
        Command::Wait(arguments) => wait::run(&arguments, context),
        Command::Ls(arguments) => ls::run(&arguments, context),
        Command::Status(arguments) => status::run(&arguments, context),
        Command::Logs(arguments) => logs::run(&arguments, context),
        Command::Open(arguments) => open::run(&arguments, context),
        Command::Plan(arguments) => plan::run(arguments, context),
        Command::Check(arguments) => check::run(&arguments, context),
        Command::Explain(arguments) => explain::run(&arguments, context),
        Command::Schema(arguments) => schema::run(&arguments, context),
        Command::Module(arguments) => module::run(&arguments, context),
        Command::Lsp(arguments) => lsp::run(&arguments),
        Command::Identity(arguments) => identity::run(arguments, context),
        Command::Login(arguments) => login::run(&arguments, context),
        Command::Logout(arguments) => login::logout(&arguments, context),
        Command::Credential(arguments) => credential::run(&arguments, context),
        Command::Session(arguments) => session::run(arguments, context),
        Command::Audit(arguments) => audit::run(&arguments, context),
        Command::Secret(arguments) => secret::run(arguments, context),
        Command::Vault(arguments) => vault::run(&arguments, context),
        Command::Agent(arguments) => agent::run(&arguments, context),
        Command::Doctor(arguments) => doctor::run(&arguments, context),
        Command::Completions(arguments) => completions::run(&arguments, context),
        Command::Man(arguments) => man::run(&arguments, context),
        Command::Version(arguments) => version::run(&arguments, context),
        Command::Help(arguments) => help::run(&arguments, context),
    }
}
