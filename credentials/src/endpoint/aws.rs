//! AWS: container credentials in the protocol of ECS and EKS, and version 2 of the instance metadata service.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use super::{EndpointAccess, EndpointProtocol, EndpointResponse, ParsedRequest, constant_time_eq, header_value};

pub(super) const CONTAINER_PATH: &str = "/aws/credentials";
const CREDENTIALS_PATH: &str = "/latest/meta-data/iam/security-credentials";
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// Six hours, the limit of AWS.
const TTL_SECONDS_MAX: i64 = 21_600;

pub(super) fn parse_container_request(access: &EndpointAccess, request: &Parts) -> ParsedRequest {
    let token = request.headers.get(http::header::AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if constant_time_eq(token, access.token.expose()) {
        return ParsedRequest::Credential(EndpointProtocol::AwsContainer);
    }
    let message = "the authorization token is absent or wrong: it is in the file that \
                 AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names";
    ParsedRequest::Response(EndpointResponse::json(
        StatusCode::UNAUTHORIZED,
        &json!({ "code": "InvalidToken", "message": message }),
    ))
}

pub(super) fn parse_instance_request(access: &EndpointAccess, request: &Parts, now: i64) -> ParsedRequest {
    let path = request.uri.path();
    if path == "/latest/api/token" {
        return ParsedRequest::Response(issue_session_token(access, request, now));
    }
    if request.method != Method::GET {
        return ParsedRequest::Response(status_response(StatusCode::METHOD_NOT_ALLOWED));
    }
    if !header_value(request, TOKEN_HEADER).is_some_and(|token| is_session_token_valid(access, token, now)) {
        return ParsedRequest::Response(status_response(StatusCode::UNAUTHORIZED));
    }
    match path.strip_prefix(CREDENTIALS_PATH) {
        Some("" | "/") => ParsedRequest::RoleName,
        Some(name) if name.strip_prefix('/') == Some(&access.identity) => {
            ParsedRequest::Credential(EndpointProtocol::AwsInstance)
        }
        _ => ParsedRequest::Response(status_response(StatusCode::NOT_FOUND)),
    }
}

/// Issues a stateless session token: it contains its own end and a signature, so it stays valid after a restart of the
/// agent.
fn issue_session_token(access: &EndpointAccess, request: &Parts, now: i64) -> EndpointResponse {
    if request.method != Method::PUT {
        return status_response(StatusCode::METHOD_NOT_ALLOWED);
    }
    let seconds = header_value(request, TTL_HEADER).and_then(|text| text.parse::<i64>().ok());
    let Some(seconds) = seconds.filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds)) else {
        return status_response(StatusCode::BAD_REQUEST);
    };
    let end = now / 1000 + seconds;
    let mut response =
        EndpointResponse::text(StatusCode::OK, format!("{end}-{}", access.derive_secret(&format!("imds/{end}"))));
    response.headers.push((TTL_HEADER, seconds.to_string()));
    response
}

fn is_session_token_valid(access: &EndpointAccess, token: &str, now: i64) -> bool {
    let Some((end, signature)) = token.split_once('-') else { return false };
    let Ok(seconds) = end.parse::<i64>() else { return false };
    // The signature covers `end`, so a client cannot extend its token.
    constant_time_eq(signature.as_bytes(), access.derive_secret(&format!("imds/{end}")).as_bytes())
        && seconds > now / 1000
}

fn status_response(status: StatusCode) -> EndpointResponse {
    let message = status.canonical_reason().unwrap_or_default();
    EndpointResponse::text(status, format!("{} - {message}\n", status.as_u16()))
}

pub(super) fn role_response(identity: &str) -> EndpointResponse {
    EndpointResponse::text(StatusCode::OK, identity)
}

pub(super) fn error_response(code: &str, message: &str, is_transient: bool) -> EndpointResponse {
    let status = if is_transient { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
    EndpointResponse::json(status, &json!({ "code": code, "message": message }))
}
