//! Azure's managed identity, in the protocols of App Service (with a secret header) and of a virtual machine.

use http::StatusCode;
use http::request::Parts;
use serde_json::json;

use super::{
    EndpointAccess, EndpointProtocol, EndpointResponse, ParsedRequest, constant_time_eq, header_value, query_parameter,
};

pub(super) const APP_SERVICE_PATH: &str = "/msi/token";
pub(super) const INSTANCE_PATH: &str = "/metadata/identity/oauth2/token";
pub(super) const HEADER_LABEL: &str = "azure";

pub(super) fn parse_app_service_request(access: &EndpointAccess, request: &Parts) -> ParsedRequest {
    let header = request.headers.get("x-identity-header").map(http::HeaderValue::as_bytes).unwrap_or_default();
    if !constant_time_eq(header, access.derive_secret(HEADER_LABEL).as_bytes()) {
        let message = "the header `X-IDENTITY-HEADER` is missing or does not equal IDENTITY_HEADER";
        return ParsedRequest::Response(problem_response(StatusCode::UNAUTHORIZED, "unauthorized_client", message));
    }
    parse_resource(request)
}

/// No secret: the owner of the listener has identified the peer. The header keeps out clients that only follow
/// redirects.
pub(super) fn parse_instance_request(request: &Parts) -> ParsedRequest {
    if header_value(request, "metadata").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        let message = "Required metadata header not specified";
        return ParsedRequest::Response(problem_response(StatusCode::BAD_REQUEST, "invalid_request", message));
    }
    parse_resource(request)
}

fn parse_resource(request: &Parts) -> ParsedRequest {
    match query_parameter(request, "resource").filter(|resource| !resource.is_empty()) {
        Some(resource) => ParsedRequest::Credential(EndpointProtocol::Azure { resource }),
        None => ParsedRequest::Response(problem_response(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "`resource` is missing",
        )),
    }
}

pub(super) fn error_response(code: &str, message: &str, is_transient: bool) -> EndpointResponse {
    let status = if is_transient { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
    problem_response(status, code, message)
}

fn problem_response(status: StatusCode, code: &str, message: &str) -> EndpointResponse {
    // Clients of App Service read `message`; OAuth clients read the other two fields.
    EndpointResponse::json(status, &json!({ "error": code, "error_description": message, "message": message }))
}
