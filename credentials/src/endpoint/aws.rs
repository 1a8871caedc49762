//! AWS: container credentials as ECS and EKS give them, and the instance metadata service, version 2 only.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use super::{Answer, Dialect, Door, Want, header, same};

pub(super) const CONTAINER: &str = "/aws/credentials";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";
/// Six hours, as at Amazon.
const TTL_SECONDS_MAX: i64 = 21_600;

pub(super) fn container(door: &Door, asked: &Parts) -> Want {
    let given = asked.headers.get(http::header::AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if same(given, door.token.expose()) {
        return Want::Credential(Dialect::AwsContainer);
    }
    let words = "the authorization token is absent or wrong: it stands in the file that \
                 AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names";
    Want::Said(Answer::json(StatusCode::UNAUTHORIZED, &json!({ "code": "InvalidToken", "message": words })))
}

pub(super) fn instance(door: &Door, asked: &Parts, now: i64) -> Want {
    let path = asked.uri.path();
    if path == "/latest/api/token" {
        return Want::Said(token(door, asked, now));
    }
    if asked.method != Method::GET {
        return Want::Said(plain(StatusCode::METHOD_NOT_ALLOWED));
    }
    if !header(asked, TOKEN).is_some_and(|given| lives(door, given, now)) {
        return Want::Said(plain(StatusCode::UNAUTHORIZED));
    }
    match path.strip_prefix(CREDENTIALS) {
        Some("" | "/") => Want::Role,
        Some(name) if name.strip_prefix('/') == Some(&door.identity) => Want::Credential(Dialect::AwsInstance),
        _ => Want::Said(plain(StatusCode::NOT_FOUND)),
    }
}

/// The session token says itself when it ends, so that it is good after a restart too.
fn token(door: &Door, asked: &Parts, now: i64) -> Answer {
    if asked.method != Method::PUT {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let seconds = header(asked, TTL).and_then(|text| text.parse::<i64>().ok());
    let Some(seconds) = seconds.filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds)) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let end = now / 1000 + seconds;
    let mut answer = Answer::text(StatusCode::OK, format!("{end}-{}", door.derived(&format!("imds/{end}"))));
    answer.headers.push((TTL, seconds.to_string()));
    answer
}

fn lives(door: &Door, given: &str, now: i64) -> bool {
    let Some((end, signature)) = given.split_once('-') else { return false };
    let Ok(seconds) = end.parse::<i64>() else { return false };
    same(signature.as_bytes(), door.derived(&format!("imds/{end}")).as_bytes()) && seconds > now / 1000
}

fn plain(status: StatusCode) -> Answer {
    let words = status.canonical_reason().unwrap_or_default();
    Answer::text(status, format!("{} - {words}\n", status.as_u16()))
}

pub(super) fn role(identity: &str) -> Answer {
    Answer::text(StatusCode::OK, identity)
}

pub(super) fn denied(code: &str, words: &str, passes: bool) -> Answer {
    let status = if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
    Answer::json(status, &json!({ "code": code, "message": words }))
}
