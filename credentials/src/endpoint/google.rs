//! Google: the metadata server of Compute Engine, as far as credentials and their account go.

use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use super::{Answer, Dialect, Want, header, parameter};
use crate::identity::Identity;

const ACCOUNTS: &str = "instance/service-accounts/";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// What an identity's configuration tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fact {
    Project,
    /// gcloud wants digits before it looks further.
    ProjectNumber,
    Universe,
    Accounts {
        recursive: bool,
    },
    Account {
        named: String,
        field: Field,
    },
    /// A token of the account that is named.
    Token {
        named: String,
    },
    IdToken {
        named: String,
        audience: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    All { recursive: bool },
    Email,
    Aliases,
    Scopes,
}

/// Google's clients believe no answer without it.
pub(super) fn flavored(mut answer: Answer) -> Answer {
    answer.headers.push(("metadata-flavor", "Google".to_owned()));
    answer.headers.push(("server", "Metadata Server for VM".to_owned()));
    answer
}

fn text(status: StatusCode, words: impl Into<Vec<u8>>) -> Answer {
    flavored(Answer::new(status, "application/text", words))
}

pub(super) fn root() -> Answer {
    text(StatusCode::OK, "computeMetadata/\n")
}

pub(super) fn denied(words: &str, passes: bool) -> Answer {
    text(if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN }, format!("{words}\n"))
}

pub(super) fn absent(words: &str) -> Answer {
    text(StatusCode::NOT_FOUND, format!("{words}\n"))
}

pub(super) fn read(asked: &Parts) -> Want {
    if header(asked, "metadata-flavor") != Some("Google") {
        return Want::Said(text(StatusCode::FORBIDDEN, "Missing Metadata-Flavor:Google header.\n"));
    }
    let Some(key) = asked.uri.path().strip_prefix("/computeMetadata/v1/") else {
        return Want::Said(text(StatusCode::OK, "v1/\n"));
    };
    let recursive = parameter(asked, "recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let fact = match key.trim_end_matches('/') {
        "" => return Want::Said(text(StatusCode::OK, "instance/\nproject/\nuniverse/\n")),
        "project/project-id" => Fact::Project,
        "project/numeric-project-id" => Fact::ProjectNumber,
        "universe/universe-domain" | "universe/universe_domain" => Fact::Universe,
        "instance/service-accounts" => Fact::Accounts { recursive },
        _ => match key.strip_prefix(ACCOUNTS).and_then(|rest| account(rest, recursive, asked)) {
            Some(fact) => fact,
            None => return Want::Said(absent("this metadata is not served here")),
        },
    };
    Want::Fact(fact)
}

fn account(rest: &str, recursive: bool, asked: &Parts) -> Option<Fact> {
    let (named, what) = rest.split_once('/').unwrap_or((rest, ""));
    let named = super::decoded(named);
    let field = match what {
        "token" => return Some(Fact::Token { named }),
        "identity" => {
            return Some(Fact::IdToken { named, audience: parameter(asked, "audience").unwrap_or_default() });
        }
        "" => Field::All { recursive },
        "email" => Field::Email,
        "aliases" => Field::Aliases,
        "scopes" => Field::Scopes,
        _ => return None,
    };
    Some(Fact::Account { named, field })
}

/// An answer, or that a lease is needed.
pub(super) fn told(fact: &Fact, identity: &Identity) -> Result<Answer, Dialect> {
    let email = identity.text("email").or(identity.text("service_account")).unwrap_or("default");
    let is_here = |named: &str| named == "default" || named == email;
    let unknown = |named: &str| absent(&format!("there is no service account `{named}`; there is `{email}`"));
    Ok(match fact {
        Fact::Project => match identity.text("project") {
            Some(project) => text(StatusCode::OK, project),
            None => absent("the identity names no `project` in identities.toml"),
        },
        Fact::ProjectNumber => text(StatusCode::OK, "0"),
        Fact::Universe => text(StatusCode::OK, "googleapis.com"),
        Fact::Accounts { recursive: false } if email == "default" => text(StatusCode::OK, "default/\n"),
        Fact::Accounts { recursive: false } => text(StatusCode::OK, format!("default/\n{email}/\n")),
        Fact::Accounts { recursive: true } => {
            let one = described(email);
            json_text(&json!({ "default": one, email: one }))
        }
        Fact::Token { named } | Fact::IdToken { named, .. } | Fact::Account { named, .. } if !is_here(named) => {
            unknown(named)
        }
        Fact::Token { .. } => return Err(Dialect::Google),
        Fact::IdToken { audience, .. } if audience.is_empty() => {
            text(StatusCode::BAD_REQUEST, "non-empty audience parameter required\n")
        }
        Fact::IdToken { audience, .. } => return Err(Dialect::GoogleIdToken { audience: audience.clone() }),
        Fact::Account { field, .. } => match field {
            Field::All { recursive: true } => json_text(&described(email)),
            Field::All { recursive: false } => text(StatusCode::OK, "aliases\nemail\nidentity\nscopes\ntoken\n"),
            Field::Email => text(StatusCode::OK, email),
            Field::Aliases => text(StatusCode::OK, "default\n"),
            Field::Scopes => text(StatusCode::OK, format!("{SCOPE}\n")),
        },
    })
}

fn described(email: &str) -> Value {
    json!({ "aliases": ["default"], "email": email, "scopes": [SCOPE] })
}

fn json_text(value: &Value) -> Answer {
    flavored(Answer::json(StatusCode::OK, value))
}
