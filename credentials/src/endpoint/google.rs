//! Google: the part of the Compute Engine metadata server that concerns credentials and their account.

use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use super::{EndpointProtocol, EndpointResponse, ParsedRequest, header_value, query_parameter};
use crate::identity::Identity;

const ACCOUNTS_PATH: &str = "instance/service-accounts/";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// A metadata query. The configuration of the identity answers it, except for tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MetadataQuery {
    Project,
    /// gcloud requires digits here before it continues.
    ProjectNumber,
    Universe,
    Accounts {
        recursive: bool,
    },
    Account {
        account: String,
        field: AccountField,
    },
    /// A token of the named account.
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

/// Google's clients ignore a response without these headers.
pub(super) fn with_flavor_headers(mut response: EndpointResponse) -> EndpointResponse {
    response.headers.push(("metadata-flavor", "Google".to_owned()));
    response.headers.push(("server", "Metadata Server for VM".to_owned()));
    response
}

fn text_response(status: StatusCode, message: impl Into<Vec<u8>>) -> EndpointResponse {
    with_flavor_headers(EndpointResponse::new(status, "application/text", message))
}

pub(super) fn root_response() -> EndpointResponse {
    text_response(StatusCode::OK, "computeMetadata/\n")
}

pub(super) fn error_response(message: &str, is_transient: bool) -> EndpointResponse {
    text_response(
        if is_transient { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN },
        format!("{message}\n"),
    )
}

pub(super) fn not_found_response(message: &str) -> EndpointResponse {
    text_response(StatusCode::NOT_FOUND, format!("{message}\n"))
}

pub(super) fn parse_request(request: &Parts) -> ParsedRequest {
    if header_value(request, "metadata-flavor") != Some("Google") {
        return ParsedRequest::Response(text_response(
            StatusCode::FORBIDDEN,
            "Missing Metadata-Flavor:Google header.\n",
        ));
    }
    let Some(key) = request.uri.path().strip_prefix("/computeMetadata/v1/") else {
        return ParsedRequest::Response(text_response(StatusCode::OK, "v1/\n"));
    };
    let recursive = query_parameter(request, "recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let query = match key.trim_end_matches('/') {
        "" => return ParsedRequest::Response(text_response(StatusCode::OK, "instance/\nproject/\nuniverse/\n")),
        "project/project-id" => MetadataQuery::Project,
        "project/numeric-project-id" => MetadataQuery::ProjectNumber,
        "universe/universe-domain" | "universe/universe_domain" => MetadataQuery::Universe,
        "instance/service-accounts" => MetadataQuery::Accounts { recursive },
        _ => match key.strip_prefix(ACCOUNTS_PATH).and_then(|rest| parse_account_path(rest, recursive, request)) {
            Some(query) => query,
            None => return ParsedRequest::Response(not_found_response("this metadata is not served here")),
        },
    };
    ParsedRequest::Metadata(query)
}

fn parse_account_path(rest: &str, recursive: bool, request: &Parts) -> Option<MetadataQuery> {
    let (account, field_path) = rest.split_once('/').unwrap_or((rest, ""));
    let account = super::decode_query_value(account);
    let field = match field_path {
        // Requested scopes (`?scopes=`) are ignored, as on Google's own server.
        "token" => return Some(MetadataQuery::Token { account }),
        "identity" => {
            return Some(MetadataQuery::IdToken {
                account,
                audience: query_parameter(request, "audience").unwrap_or_default(),
            });
        }
        "" => AccountField::All { recursive },
        "email" => AccountField::Email,
        "aliases" => AccountField::Aliases,
        "scopes" => AccountField::Scopes,
        _ => return None,
    };
    Some(MetadataQuery::Account { account, field })
}

/// The result of answering a [`MetadataQuery`].
pub(crate) enum MetadataAnswer {
    Response(EndpointResponse),
    /// The query requests a token, so the broker must issue a credential in this protocol.
    NeedsCredential(EndpointProtocol),
}

pub(super) fn answer_metadata_query(query: &MetadataQuery, identity: &Identity) -> MetadataAnswer {
    let email = identity.text("email").or(identity.text("service_account")).unwrap_or("default");
    let is_known_account = |account: &str| account == "default" || account == email;
    let unknown_account =
        |account: &str| not_found_response(&format!("there is no service account `{account}`; there is `{email}`"));
    MetadataAnswer::Response(match query {
        MetadataQuery::Project => match identity.text("project") {
            Some(project) => text_response(StatusCode::OK, project),
            None => not_found_response("the identity names no `project` in identities.toml"),
        },
        // The number is unknown here, and gcloud only requires digits.
        MetadataQuery::ProjectNumber => text_response(StatusCode::OK, "0"),
        MetadataQuery::Universe => text_response(StatusCode::OK, "googleapis.com"),
        MetadataQuery::Accounts { recursive: false } if email == "default" => {
            text_response(StatusCode::OK, "default/\n")
        }
        MetadataQuery::Accounts { recursive: false } => text_response(StatusCode::OK, format!("default/\n{email}/\n")),
        MetadataQuery::Accounts { recursive: true } => {
            let account = account_json(email);
            json_response(&json!({ "default": account, email: account }))
        }
        MetadataQuery::Token { account }
        | MetadataQuery::IdToken { account, .. }
        | MetadataQuery::Account { account, .. }
            if !is_known_account(account) =>
        {
            unknown_account(account)
        }
        MetadataQuery::Token { .. } => return MetadataAnswer::NeedsCredential(EndpointProtocol::Google),
        MetadataQuery::IdToken { audience, .. } if audience.is_empty() => {
            text_response(StatusCode::BAD_REQUEST, "non-empty audience parameter required\n")
        }
        MetadataQuery::IdToken { audience, .. } => {
            let protocol = EndpointProtocol::GoogleIdToken { audience: audience.clone() };
            return MetadataAnswer::NeedsCredential(protocol);
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
