//! Google: the metadata server of Compute Engine, as far as credentials and their account go.

use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use super::{EndpointProtocol, EndpointRequest, EndpointResponse, header_value, query_parameter};
use crate::identity::Identity;

const ACCOUNTS_PATH: &str = "instance/service-accounts/";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// What an identity's configuration tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MetadataQuery {
    Project,
    /// gcloud wants digits before it looks further.
    ProjectNumber,
    Universe,
    Accounts {
        recursive: bool,
    },
    Account {
        account: String,
        field: AccountField,
    },
    /// A token of the account that is named.
    Token {
        account: String,
    },
    IdToken {
        account: String,
        audience: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AccountField {
    All { recursive: bool },
    Email,
    Aliases,
    Scopes,
}

/// Google's clients believe no answer without it.
pub(super) fn with_flavor_headers(mut answer: EndpointResponse) -> EndpointResponse {
    answer.headers.push(("metadata-flavor", "Google".to_owned()));
    answer.headers.push(("server", "Metadata Server for VM".to_owned()));
    answer
}

fn text_response(status: StatusCode, words: impl Into<Vec<u8>>) -> EndpointResponse {
    with_flavor_headers(EndpointResponse::new(status, "application/text", words))
}

pub(super) fn root_response() -> EndpointResponse {
    text_response(StatusCode::OK, "computeMetadata/\n")
}

pub(super) fn error_response(words: &str, passes: bool) -> EndpointResponse {
    text_response(if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN }, format!("{words}\n"))
}

pub(super) fn not_found_response(words: &str) -> EndpointResponse {
    text_response(StatusCode::NOT_FOUND, format!("{words}\n"))
}

pub(super) fn parse_request(asked: &Parts) -> EndpointRequest {
    if header_value(asked, "metadata-flavor") != Some("Google") {
        return EndpointRequest::Answered(text_response(
            StatusCode::FORBIDDEN,
            "Missing Metadata-Flavor:Google header.\n",
        ));
    }
    let Some(key) = asked.uri.path().strip_prefix("/computeMetadata/v1/") else {
        return EndpointRequest::Answered(text_response(StatusCode::OK, "v1/\n"));
    };
    let recursive = query_parameter(asked, "recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let fact = match key.trim_end_matches('/') {
        "" => return EndpointRequest::Answered(text_response(StatusCode::OK, "instance/\nproject/\nuniverse/\n")),
        "project/project-id" => MetadataQuery::Project,
        "project/numeric-project-id" => MetadataQuery::ProjectNumber,
        "universe/universe-domain" | "universe/universe_domain" => MetadataQuery::Universe,
        "instance/service-accounts" => MetadataQuery::Accounts { recursive },
        _ => match key.strip_prefix(ACCOUNTS_PATH).and_then(|rest| parse_account_path(rest, recursive, asked)) {
            Some(fact) => fact,
            None => return EndpointRequest::Answered(not_found_response("this metadata is not served here")),
        },
    };
    EndpointRequest::Metadata(fact)
}

fn parse_account_path(rest: &str, recursive: bool, asked: &Parts) -> Option<MetadataQuery> {
    let (named, what) = rest.split_once('/').unwrap_or((rest, ""));
    let named = super::decode_query_value(named);
    let field = match what {
        "token" => return Some(MetadataQuery::Token { account: named }),
        "identity" => {
            return Some(MetadataQuery::IdToken {
                account: named,
                audience: query_parameter(asked, "audience").unwrap_or_default(),
            });
        }
        "" => AccountField::All { recursive },
        "email" => AccountField::Email,
        "aliases" => AccountField::Aliases,
        "scopes" => AccountField::Scopes,
        _ => return None,
    };
    Some(MetadataQuery::Account { account: named, field })
}

/// An answer, or that a lease is needed.
pub(super) fn metadata_response(
    fact: &MetadataQuery,
    identity: &Identity,
) -> Result<EndpointResponse, EndpointProtocol> {
    let email = identity.text("email").or(identity.text("service_account")).unwrap_or("default");
    let is_here = |named: &str| named == "default" || named == email;
    let unknown =
        |named: &str| not_found_response(&format!("there is no service account `{named}`; there is `{email}`"));
    Ok(match fact {
        MetadataQuery::Project => match identity.text("project") {
            Some(project) => text_response(StatusCode::OK, project),
            None => not_found_response("the identity names no `project` in identities.toml"),
        },
        MetadataQuery::ProjectNumber => text_response(StatusCode::OK, "0"),
        MetadataQuery::Universe => text_response(StatusCode::OK, "googleapis.com"),
        MetadataQuery::Accounts { recursive: false } if email == "default" => {
            text_response(StatusCode::OK, "default/\n")
        }
        MetadataQuery::Accounts { recursive: false } => text_response(StatusCode::OK, format!("default/\n{email}/\n")),
        MetadataQuery::Accounts { recursive: true } => {
            let one = account_json(email);
            json_response(&json!({ "default": one, email: one }))
        }
        MetadataQuery::Token { account: named }
        | MetadataQuery::IdToken { account: named, .. }
        | MetadataQuery::Account { account: named, .. }
            if !is_here(named) =>
        {
            unknown(named)
        }
        MetadataQuery::Token { .. } => return Err(EndpointProtocol::Google),
        MetadataQuery::IdToken { audience, .. } if audience.is_empty() => {
            text_response(StatusCode::BAD_REQUEST, "non-empty audience parameter required\n")
        }
        MetadataQuery::IdToken { audience, .. } => {
            return Err(EndpointProtocol::GoogleIdToken { audience: audience.clone() });
        }
        MetadataQuery::Account { field, .. } => match field {
            AccountField::All { recursive: true } => json_response(&account_json(email)),
            AccountField::All { recursive: false } => {
                text_response(StatusCode::OK, "aliases\nemail\nidentity\nscopes\ntoken\n")
            }
            AccountField::Email => text_response(StatusCode::OK, email),
            AccountField::Aliases => text_response(StatusCode::OK, "default\n"),
            AccountField::Scopes => text_response(StatusCode::OK, format!("{SCOPE}\n")),
        },
    })
}

fn account_json(email: &str) -> Value {
    json!({ "aliases": ["default"], "email": email, "scopes": [SCOPE] })
}

fn json_response(value: &Value) -> EndpointResponse {
    with_flavor_headers(EndpointResponse::json(StatusCode::OK, value))
}
