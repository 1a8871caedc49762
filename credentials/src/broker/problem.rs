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
    pub login_identity: Option<String>,
}

impl BrokerProblem {
    pub(super) fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: Some(hint.into()), login_identity: None }
    }
}

impl From<vault::VaultProblem> for BrokerProblem {
    fn from(problem: vault::VaultProblem) -> Self {
        Self { code: problem.code(), message: problem.to_string(), hint: problem.hint(), login_identity: None }
    }
}

pub(super) fn timeout_problem(name: &str) -> BrokerProblem {
    let message = format!("the source of `{name}` gave no answer within {} s", source::FETCH_TIMEOUT.as_secs());
    BrokerProblem::new("source_unreachable", message, "Look at the network, then try again.")
}

pub(super) fn unsuitable_problem(name: &str, words: &str) -> BrokerProblem {
    let message = if name.is_empty() { words.to_owned() } else { format!("`{name}` {words}") };
    BrokerProblem::new("outlet_unfit", message, "`pdev identity` shows what each identity is.")
}

pub(crate) fn to_broker_problem(name: &str, problem: SourceProblem) -> BrokerProblem {
    match problem {
        SourceProblem::NeedsLogin(words) => {
            let problem = BrokerProblem::new("needs_login", words, format!("`pdev login {name}` signs in."));
            BrokerProblem { login_identity: Some(name.to_owned()), ..problem }
        }
        SourceProblem::Transient(words) => {
            BrokerProblem::new("source_unreachable", format!("`{name}`: {words}"), "It is tried again on the next use.")
        }
        SourceProblem::Refused(words) => BrokerProblem::new(
            "source_refused",
            format!("`{name}`: {words}"),
            "Correct it in identities.toml; `pdev identity` shows it.",
        ),
        SourceProblem::NotCompleted(words) => {
            let hint = format!("Nobody was signed in: `pdev login {name}` asks again.");
            BrokerProblem::new("source_refused", format!("`{name}`: {words}"), hint)
        }
        SourceProblem::BaseIdentity(problem) => {
            BrokerProblem { message: format!("`{name}`: {}", problem.message), ..problem }
        }
        SourceProblem::Described(problem) => problem,
        // What is sealed in that file is this login, and nothing else.
        SourceProblem::Vault(problem) if problem.is_login_file_problem() => {
            let hint = match problem {
                vault::VaultProblem::NewerFormat { .. } => {
                    format!("Use that version; or `pdev login {name}` makes this one anew for the version here.")
                }
                _ => format!("`pdev login {name}` makes it anew; the others are not affected."),
            };
            BrokerProblem { hint: Some(hint), login_identity: Some(name.to_owned()), ..problem.into() }
        }
        SourceProblem::Vault(problem) => problem.into(),
    }
}
