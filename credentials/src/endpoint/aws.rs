//! AWS: container credentials as ECS and EKS give them, and the instance metadata service, version 2 only.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use super::{EndpointAccess, EndpointProtocol, EndpointRequest, EndpointResponse, constant_time_eq, header_value};

pub(super) const CONTAINER_PATH: &str = "/aws/credentials";
const CREDENTIALS_PATH: &str = "/latest/meta-data/iam/security-credentials";
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// Six hours, as at Amazon.
const TTL_SECONDS_MAX: i64 = 21_600;

pub(super) fn parse_container_request(door: &EndpointAccess, asked: &Parts) -> EndpointRequest {
    let given = asked.headers.get(http::header::AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if constant_time_eq(given, door.token.expose()) {
        return EndpointRequest::Credential(EndpointProtocol::AwsContainer);
    }
    let words = "the authorization token is absent or wrong: it stands in the file that \
                 AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names";
    EndpointRequest::Answered(EndpointResponse::json(
        StatusCode::UNAUTHORIZED,
        &json!({ "code": "InvalidToken", "message": words }),
    ))
}

pub(super) fn parse_instance_request(door: &EndpointAccess, asked: &Parts, now: i64) -> EndpointRequest {
    let path = asked.uri.path();
    if path == "/latest/api/token" {
        return EndpointRequest::Answered(issue_session_token(door, asked, now));
    }
    if asked.method != Method::GET {
        return EndpointRequest::Answered(status_response(StatusCode::METHOD_NOT_ALLOWED));
    }
    if !header_value(asked, TOKEN_HEADER).is_some_and(|given| is_session_token_valid(door, given, now)) {
        return EndpointRequest::Answered(status_response(StatusCode::UNAUTHORIZED));
    }
    match path.strip_prefix(CREDENTIALS_PATH) {
        Some("" | "/") => EndpointRequest::RoleName,
        Some(name) if name.strip_prefix('/') == Some(&door.identity) => {
            EndpointRequest::Credential(EndpointProtocol::AwsInstance)
        }
        _ => EndpointRequest::Answered(status_response(StatusCode::NOT_FOUND)),
    }
}

/// The session token says itself when it ends, so that it is good after a restart too.
fn issue_session_token(door: &EndpointAccess, asked: &Parts, now: i64) -> EndpointResponse {
    if asked.method != Method::PUT {
        return status_response(StatusCode::METHOD_NOT_ALLOWED);
    }
    let seconds = header_value(asked, TTL_HEADER).and_then(|text| text.parse::<i64>().ok());
    let Some(seconds) = seconds.filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds)) else {
        return status_response(StatusCode::BAD_REQUEST);
    };
    let end = now / 1000 + seconds;
    let mut answer =
        EndpointResponse::text(StatusCode::OK, format!("{end}-{}", door.derive_secret(&format!("imds/{end}"))));
    answer.headers.push((TTL_HEADER, seconds.to_string()));
    answer
}

fn is_session_token_valid(door: &EndpointAccess, given: &str, now: i64) -> bool {
    let Some((end, signature)) = given.split_once('-') else { return false };
    let Ok(seconds) = end.parse::<i64>() else { return false };
    constant_time_eq(signature.as_bytes(), door.derive_secret(&format!("imds/{end}")).as_bytes())
        && seconds > now / 1000
}

fn status_response(status: StatusCode) -> EndpointResponse {
    let words = status.canonical_reason().unwrap_or_default();
    EndpointResponse::text(status, format!("{} - {words}\n", status.as_u16()))
}

pub(super) fn role_response(identity: &str) -> EndpointResponse {
    EndpointResponse::text(StatusCode::OK, identity)
}

pub(super) fn error_response(code: &str, words: &str, passes: bool) -> EndpointResponse {
    let status = if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
    EndpointResponse::json(status, &json!({ "code": code, "message": words }))
}
