//! Azure's managed identity: as App Service gives it, by a header, and as a virtual machine gives it.

use http::StatusCode;
use http::request::Parts;
use serde_json::json;

use super::{Answer, Dialect, Door, Want, header, parameter, same};

pub(super) const APP_SERVICE: &str = "/msi/token";
pub(super) const INSTANCE: &str = "/metadata/identity/oauth2/token";
pub(super) const HEADER: &str = "azure";

pub(super) fn app_service(door: &Door, asked: &Parts) -> Want {
    let given = asked.headers.get("x-identity-header").map(http::HeaderValue::as_bytes).unwrap_or_default();
    if !same(given, door.derived(HEADER).as_bytes()) {
        let words = "the header `X-IDENTITY-HEADER` is absent or is not what IDENTITY_HEADER says";
        return Want::Said(problem(StatusCode::UNAUTHORIZED, "unauthorized_client", words));
    }
    credential(asked)
}

/// Without a secret: the owner of the listener knows the peer. The header keeps out what only follows redirects.
pub(super) fn instance(asked: &Parts) -> Want {
    if header(asked, "metadata").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        let words = "Required metadata header not specified";
        return Want::Said(problem(StatusCode::BAD_REQUEST, "invalid_request", words));
    }
    credential(asked)
}

fn credential(asked: &Parts) -> Want {
    match parameter(asked, "resource").filter(|resource| !resource.is_empty()) {
        Some(resource) => Want::Credential(Dialect::Azure { resource }),
        None => Want::Said(problem(StatusCode::BAD_REQUEST, "invalid_request", "`resource` is not given")),
    }
}

pub(super) fn denied(code: &str, words: &str, passes: bool) -> Answer {
    let status = if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
    problem(status, code, words)
}

fn problem(status: StatusCode, code: &str, words: &str) -> Answer {
    // The third is where App Service's clients look.
    Answer::json(status, &json!({ "error": code, "error_description": words, "message": words }))
}
