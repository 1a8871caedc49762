//! Azure's managed identity: as App Service gives it, by a header, and as a virtual machine gives it.

use http::StatusCode;
use http::request::Parts;
use serde_json::json;

use super::{
    EndpointAccess, EndpointProtocol, EndpointRequest, EndpointResponse, constant_time_eq, header_value,
    query_parameter,
};

pub(super) const APP_SERVICE_PATH: &str = "/msi/token";
pub(super) const INSTANCE_PATH: &str = "/metadata/identity/oauth2/token";
pub(super) const HEADER_LABEL: &str = "azure";

pub(super) fn parse_app_service_request(door: &EndpointAccess, asked: &Parts) -> EndpointRequest {
    let given = asked.headers.get("x-identity-header").map(http::HeaderValue::as_bytes).unwrap_or_default();
    if !constant_time_eq(given, door.derive_secret(HEADER_LABEL).as_bytes()) {
        let words = "the header `X-IDENTITY-HEADER` is absent or is not what IDENTITY_HEADER says";
        return EndpointRequest::Answered(problem_response(StatusCode::UNAUTHORIZED, "unauthorized_client", words));
    }
    parse_resource(asked)
}

/// Without a secret: the owner of the listener knows the peer. The header keeps out what only follows redirects.
pub(super) fn parse_instance_request(asked: &Parts) -> EndpointRequest {
    if header_value(asked, "metadata").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        let words = "Required metadata header not specified";
        return EndpointRequest::Answered(problem_response(StatusCode::BAD_REQUEST, "invalid_request", words));
    }
    parse_resource(asked)
}

fn parse_resource(asked: &Parts) -> EndpointRequest {
    match query_parameter(asked, "resource").filter(|resource| !resource.is_empty()) {
        Some(resource) => EndpointRequest::Credential(EndpointProtocol::Azure { resource }),
        None => EndpointRequest::Answered(problem_response(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "`resource` is not given",
        )),
    }
}

pub(super) fn error_response(code: &str, words: &str, passes: bool) -> EndpointResponse {
    let status = if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
    problem_response(status, code, words)
}

fn problem_response(status: StatusCode, code: &str, words: &str) -> EndpointResponse {
    // The third is where App Service's clients look.
    EndpointResponse::json(status, &json!({ "error": code, "error_description": words, "message": words }))
}
