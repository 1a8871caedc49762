//! Converts problems of sources to problems of the broker, each with a message and a fix.

use crate::problem::{BrokerProblem, SourceProblem};
use crate::source;
use crate::vault;

pub(super) fn timeout_problem(name: &str) -> BrokerProblem {
    let message = format!("the source of `{name}` gave no answer within {} s", source::FETCH_TIMEOUT.as_secs());
    BrokerProblem::new("source_unreachable", message, "Check the network, then try again.")
}

pub(super) fn unsuitable_problem(name: &str, reason: &str) -> BrokerProblem {
    // The errors of `format::render` already name the identity.
    let message = if name.is_empty() { reason.to_owned() } else { format!("`{name}` {reason}") };
    BrokerProblem::new("outlet_unfit", message, "Run `pdev identity` to see the source of each identity.")
}

pub(crate) fn to_broker_problem(name: &str, problem: SourceProblem) -> BrokerProblem {
    match problem {
        SourceProblem::NeedsLogin(reason) => {
            let problem = BrokerProblem::new("needs_login", reason, format!("Run `pdev login {name}` to sign in."));
            BrokerProblem { login_identity: Some(name.to_owned()), ..problem }
        }
        SourceProblem::Transient(reason) => BrokerProblem::new(
            "source_unreachable",
            format!("`{name}`: {reason}"),
            "No action is needed; the request is tried again on the next use.",
        ),
        SourceProblem::Refused(reason) => BrokerProblem::new(
            "source_refused",
            format!("`{name}`: {reason}"),
            "Correct it in identities.toml; `pdev identity` shows it.",
        ),
        SourceProblem::NotCompleted(reason) => {
            let hint = format!("Run `pdev login {name}` to try again; the login was not completed.");
            BrokerProblem::new("source_refused", format!("`{name}`: {reason}"), hint)
        }
        SourceProblem::BaseIdentity(problem) => {
            BrokerProblem { message: format!("`{name}`: {}", problem.message), ..problem }
        }
        SourceProblem::Described(problem) => problem,
        // The unreadable file contains only this login, so a new login replaces it.
        SourceProblem::Vault(problem) if problem.is_login_file_problem() => {
            let hint = match problem {
                vault::VaultProblem::NewerFormat { .. } => {
                    format!("Use that version, or run `pdev login {name}` to replace the login by one of this version.")
                }
                _ => format!("Run `pdev login {name}` to replace it; other logins are not affected."),
            };
            BrokerProblem { hint: Some(hint), login_identity: Some(name.to_owned()), ..problem.into() }
        }
        SourceProblem::Vault(problem) => problem.into(),
    }
}
