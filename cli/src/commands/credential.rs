//! `pdev credential`: the credential helpers of other tools. `main` serves valid requests before clap parses them, so
//! this module only provides the help, `setup`, and errors for invalid requests.

use clap::Subcommand;

use super::setup;
use crate::context::Context;
use crate::exit::{Failure, Outcome};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev credential setup aws shop-dev    configure aws, so that it runs the next command
  pdev credential aws shop-dev          for the credential_process of an AWS profile
  pdev credential kubectl shop-dev      for the exec plugin of a kubeconfig
  pdev credential token shop-dev        for curl and scripts

docker, git and cargo can find their helpers by name, through links to this program: `docker-credential-pdev`, \
`git-credential-pdev` and `cargo-credential-pdev`. `setup` creates the link for docker, and configures git without a \
link. Configure cargo by hand (docs/credentials.md). gcloud has no credential helpers, so `setup` creates a command \
that runs gcloud as the identity.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: CredentialCommand,
}

#[derive(Subcommand, Debug)]
enum CredentialCommand {
    /// Print AWS credentials as credential_process JSON
    Aws {
        /// Identity that provides the credential
        #[arg(value_name = "IDENTITY")]
        identity: String,
    },
    /// Print a token for kubectl, as ExecCredential JSON
    Kubectl {
        /// Identity that provides the credential
        #[arg(value_name = "IDENTITY")]
        identity: String,
    },
    /// Print only the token or password
    Token {
        /// Identity that provides the credential
        #[arg(value_name = "IDENTITY")]
        identity: String,
    },
    /// Configure aws, docker, gcloud, git or kubectl to use an identity, or with `--undo` remove the configuration
    Setup(setup::Arguments),
    /// Serve docker as its credential helper
    Docker {
        /// Requested operation: `get`, `store`, `erase` or `list`
        #[arg(value_name = "OPERATION")]
        verb: String,
    },
    /// Serve git as its credential helper
    Git {
        /// Requested operation: `get`, `store` or `erase`
        #[arg(value_name = "OPERATION")]
        verb: String,
    },
    /// Serve cargo as its credential provider
    Cargo {
        /// Passed by cargo; required
        #[arg(long)]
        cargo_plugin: bool,
    },
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let tool_arguments: Vec<&str> = match &arguments.command {
        CredentialCommand::Setup(arguments) => return setup::run(arguments, context),
        CredentialCommand::Aws { identity } => vec!["aws", identity],
        CredentialCommand::Kubectl { identity } => vec!["kubectl", identity],
        CredentialCommand::Token { identity } => vec!["token", identity],
        CredentialCommand::Docker { verb } => vec!["docker", verb],
        CredentialCommand::Git { verb } => vec!["git", verb],
        CredentialCommand::Cargo { cargo_plugin: true } => vec!["cargo", "--cargo-plugin"],
        CredentialCommand::Cargo { cargo_plugin: false } => {
            return Err(Failure::invalid_input("cargo runs this command with `--cargo-plugin`"));
        }
    };
    let arguments =
        ["pdev", "credential"].iter().chain(&tool_arguments).map(std::ffi::OsString::from).collect::<Vec<_>>();
    crate::credential::run_as_helper(&arguments)
        .ok_or_else(|| Failure::invalid_input("this is not a valid request to a credential helper"))
}
