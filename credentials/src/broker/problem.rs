//! Why the broker gives nothing, in words, with the way out.

use crate::source::{self, SourceProblem};
use crate::vault;

/// Why there is no lease, for people and programs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BrokerProblem {
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// The identity that a person has to sign in as.
    pub login: Option<String>,
}

impl BrokerProblem {
    pub(super) fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: Some(hint.into()), login: None }
    }
}

impl From<vault::VaultProblem> for BrokerProblem {
    fn from(problem: vault::VaultProblem) -> Self {
        Self { code: problem.code(), message: problem.to_string(), hint: problem.hint(), login: None }
    }
}

pub(super) fn late(name: &str) -> BrokerProblem {
    let message = format!("the source of `{name}` gave no answer within {} s", source::LIMIT.as_secs());
    BrokerProblem::new("source_unreachable", message, "Look at the network, then try again.")
}

pub(super) fn unfit(name: &str, words: &str) -> BrokerProblem {
    let message = if name.is_empty() { words.to_owned() } else { format!("`{name}` {words}") };
    BrokerProblem::new("outlet_unfit", message, "`pdev identity` shows what each identity is.")
}

pub(crate) fn told(name: &str, problem: SourceProblem) -> BrokerProblem {
    match problem {
        SourceProblem::NeedsLogin(words) => {
            let problem = BrokerProblem::new("needs_login", words, format!("`pdev login {name}` signs in."));
            BrokerProblem { login: Some(name.to_owned()), ..problem }
        }
        SourceProblem::Passing(words) => {
            BrokerProblem::new("source_unreachable", format!("`{name}`: {words}"), "It is tried again on the next use.")
        }
        SourceProblem::Refused(words) => BrokerProblem::new(
            "source_refused",
            format!("`{name}`: {words}"),
            "Correct it in identities.toml; `pdev identity` shows it.",
        ),
        SourceProblem::NotDone(words) => {
            let hint = format!("Nobody was signed in: `pdev login {name}` asks again.");
            BrokerProblem::new("source_refused", format!("`{name}`: {words}"), hint)
        }
        SourceProblem::Below(problem) => BrokerProblem { message: format!("`{name}`: {}", problem.message), ..problem },
        SourceProblem::Said(problem) => problem,
        // What is sealed in that file is this login, and nothing else.
        SourceProblem::Vault(problem) if problem.is_of_a_login() => {
            let hint = match problem {
                vault::VaultProblem::Newer { .. } => {
                    format!("Use that version; or `pdev login {name}` makes this one anew for the version here.")
                }
                _ => format!("`pdev login {name}` makes it anew; the others are not affected."),
            };
            BrokerProblem { hint: Some(hint), login: Some(name.to_owned()), ..problem.into() }
        }
        SourceProblem::Vault(problem) => problem.into(),
    }
}
