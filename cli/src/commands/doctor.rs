//! `pdev doctor`: reports the problems of this machine, each with its fix. Changes nothing.

use serde::Serialize;

use crate::context::Context;
use crate::exit::{self, Outcome};

mod agent;
mod credentials;
mod engine;
mod identities;
mod machine;
mod security;
mod tools;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev doctor                       check the machine, the engine, the agent and the identities
  pdev doctor credentials           check the vault, identities, conflicting settings and the clock
  pdev doctor credentials --ask     the same, after a request to the source of each identity
  pdev doctor security              show what protects this machine from attacks, and what does not

Exit codes: 0 no problems or only warnings, 1 something is broken.")]
pub(crate) struct Arguments {
    /// Subject to check in detail [default: a short check of everything]
    #[arg(value_name = "SUBJECT", value_parser = ["credentials", "security"])]
    subject: Option<String>,
    /// With `credentials`: before the check, make the agent request a credential from the source of each identity; no
    /// program receives it
    #[arg(long, requires = "subject")]
    ask: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Health {
    Fine,
    /// pdev works, but with limits.
    Warning,
    Broken,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Finding {
    /// The stable name of the check.
    pub(crate) check: &'static str,
    pub(crate) health: Health,
    /// The observed state.
    #[serde(rename = "seen")]
    pub(crate) message: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Finding {
    fn fine(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, health: Health::Fine, message: message.into(), hint: None }
    }

    fn warning(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, health: Health::Warning, message: message.into(), hint: Some(hint.into()) }
    }

    fn broken(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, health: Health::Broken, message: message.into(), hint: Some(hint.into()) }
    }
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        if arguments.subject.as_deref() == Some("security") {
            return print_findings(&security::check().await, context);
        }
        if arguments.subject.is_some() {
            return print_findings(&credentials::check(arguments.ask).await, context);
        }
        let (agent, proxy_port) = agent::check().await;
        let mut findings = vec![machine::versions()];
        findings.extend(agent);
        findings.push(engine::check().await);
        findings.extend([
            machine::name_resolution(),
            machine::proxy_port(proxy_port),
            machine::inotify(),
            machine::disk(),
            machine::clock(),
            machine::git(),
        ]);
        findings.extend(identities::check().await);
        print_findings(&findings, context)
    })
}

fn print_findings(findings: &[Finding], context: &Context) -> Outcome {
    if context.json {
        context.terminal.print_json(&findings);
    } else {
        findings.iter().for_each(|finding| print_finding(finding, context));
    }
    let is_broken = findings.iter().any(|finding| finding.health == Health::Broken);
    Ok(if is_broken { exit::FAILED } else { exit::OK })
}

fn print_finding(finding: &Finding, context: &Context) {
    let paint = context.terminal.stdout_paint;
    let label = match finding.health {
        Health::Fine => paint.green("ok     "),
        Health::Warning => paint.yellow("warning"),
        Health::Broken => paint.red("broken "),
    };
    context.terminal.print_line(&format!("{label}  {:<10}  {}", finding.check, finding.message));
    if let Some(hint) = &finding.hint {
        context.terminal.print_line(&format!("         {:<10}  {}", "", paint.dim(hint)));
    }
}
