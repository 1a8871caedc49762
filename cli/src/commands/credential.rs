//! `pdev credential`: what other tools run to be given a credential. `main` answers them before clap is asked; this is
//! their help, and what is left when their words are wrong.

use clap::Subcommand;

use super::setup;
use crate::context::Context;
use crate::exit::{Failure, Outcome};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev credential aws shop-dev          as credential_process of an AWS profile
  pdev credential kubectl shop-dev      as exec plugin of a kubeconfig
  pdev credential token shop-dev        the bare token, for curl and scripts

docker, git and cargo find their helpers by name: links `docker-credential-pdev`, `git-credential-pdev` and
`cargo-credential-pdev` to this program.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: CredentialCommand,
}

#[derive(Subcommand, Debug)]
enum CredentialCommand {
    /// AWS credentials as credential_process JSON
    Aws {
        #[arg(value_name = "IDENTITY")]
        identity: String,
    },
    /// A token as ExecCredential
    Kubectl {
        #[arg(value_name = "IDENTITY")]
        identity: String,
    },
    /// The bare token or password
    Token {
        #[arg(value_name = "IDENTITY")]
        identity: String,
    },
    /// Write the configuration of aws, docker, gcloud, git or kubectl, or take it out again
    Setup(setup::Arguments),
    /// docker's helper: `get`, `store`, `erase` or `list`
    Docker {
        #[arg(value_name = "VERB")]
        verb: String,
    },
    /// git's helper: `get`, `store` or `erase`
    Git {
        #[arg(value_name = "VERB")]
        verb: String,
    },
    /// cargo's credential provider
    Cargo {
        /// cargo's own word
        #[arg(long)]
        cargo_plugin: bool,
    },
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let words: Vec<&str> = match &arguments.command {
        CredentialCommand::Setup(arguments) => return setup::run(arguments, context),
        CredentialCommand::Aws { identity } => vec!["aws", identity],
        CredentialCommand::Kubectl { identity } => vec!["kubectl", identity],
        CredentialCommand::Token { identity } => vec!["token", identity],
        CredentialCommand::Docker { verb } => vec!["docker", verb],
        CredentialCommand::Git { verb } => vec!["git", verb],
        CredentialCommand::Cargo { cargo_plugin: true } => vec!["cargo", "--cargo-plugin"],
        CredentialCommand::Cargo { cargo_plugin: false } => {
            return Err(Failure::invalid_input("cargo starts this with `--cargo-plugin`"));
        }
    };
    let arguments = ["pdev", "credential"].iter().chain(&words).map(std::ffi::OsString::from).collect::<Vec<_>>();
    crate::credential::run_as_helper(&arguments).ok_or_else(|| Failure::invalid_input("this is no request of a tool"))
}
