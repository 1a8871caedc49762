//! Runs the command that the user chose.

use crate::arguments::{self, Command};
use crate::commands::{
    agent, audit, check, completions, credential, doctor, down, exec, explain, help, identity, login, logs, ls, lsp,
    man, module, open, plan, restart, run, schema, secret, session, status, stop, up, vault, version, wait,
};
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
        Command::Completions(options) => completions::run(&options, arguments::command(), context),
        Command::Man(options) => man::run(&options, arguments::command(), context),
        Command::Version(arguments) => version::run(&arguments, context),
        Command::Help(options) => help::run(&options, arguments::command(), context),
    }
}
