//! The endpoint that an SDK finds by itself: AWS container credentials and IMDSv2, Google's metadata server, Azure's
//! managed identity. A request is read here and its answer written; nothing is listened on, and no lease is held.
//!
//! Whoever owns the listener checks the peer first. The headers, routes and forms stand in docs/credentials.md.

mod aws;
mod azure;
mod google;
mod variables;

use http::request::Parts;
use http::{Method, StatusCode};

use crate::broker::BrokerProblem;
use crate::format::CredentialFormat;
use crate::identity::Identity;
use crate::secret::Secret;
use crate::vault;

pub use variables::{EndpointLocation, Variable, variables};

/// Whose SDK asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cloud {
    Aws,
    Google,
    Azure,
}

impl Cloud {
    #[must_use]
    pub fn of_identity(identity: &Identity) -> Option<Self> {
        match (identity.text("cloud"), identity.kind) {
            (Some("aws"), _) | (None, "aws-sso" | "aws-role" | "aws-session" | "aws-web-identity" | "exec") => {
                Some(Self::Aws)
            }
            (Some("google"), _) | (None, "google" | "google-impersonation" | "google-federation") => Some(Self::Google),
            (Some("azure"), _) | (None, "entra" | "entra-federation") => Some(Self::Azure),
            (_, "static") if identity.text("kind") == Some("aws") => Some(Self::Aws),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "AWS",
            Self::Google => "Google",
            Self::Azure => "Azure",
        }
    }
}

/// What one consumer may enter, and by which token.
pub struct EndpointAccess {
    pub identity: String,
    token: Secret,
    /// What `Host` may say, letter by letter: a page of a browser that was sent here by a changed DNS name says another.
    hosts: Vec<String>,
}

impl EndpointAccess {
    #[must_use]
    pub fn new(identity: String, token: Secret, hosts: Vec<String>) -> Self {
        Self { identity, token, hosts }
    }

    fn derive_secret(&self, what: &str) -> String {
        derive_secret(&self.token, what)
    }
}

/// Of [`new_token`], as text.
pub(crate) const TOKEN_LENGTH: usize = 64;

/// A token for one endpoint: random bytes as text without a line's end, which SDKs would refuse in a header.
#[must_use]
pub fn new_token() -> Secret {
    Secret::new(vault::hex(&vault::random::<{ TOKEN_LENGTH / 2 }>()).into_bytes())
}

/// Another secret of the same endpoint, which does not tell the token.
fn derive_secret(token: &Secret, what: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token.expose());
    vault::hex(ring::hmac::sign(&key, what.as_bytes()).as_ref())
}

/// In a time that does not tell how much of it was right.
pub(crate) fn constant_time_eq(given: &[u8], expected: &[u8]) -> bool {
    !expected.is_empty()
        && given.len() == expected.len()
        && given.iter().zip(expected).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

pub struct EndpointResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    /// Beside the content type; SDKs take an answer without them for somebody else's.
    pub headers: Vec<(&'static str, String)>,
    pub body: Secret,
}

impl EndpointResponse {
    fn new(status: StatusCode, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: Secret::new(body.into()) }
    }

    fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    fn text(status: StatusCode, words: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "text/plain", words)
    }

    /// For requests that no SDK sends.
    #[must_use]
    pub fn forbidden(words: &str) -> Self {
        Self::json(StatusCode::FORBIDDEN, &serde_json::json!({ "code": "Forbidden", "message": words }))
    }
}

/// How an answer with a credential, or with the reason why there is none, has to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EndpointProtocol {
    AwsContainer,
    AwsInstance,
    Google,
    GoogleIdToken { audience: String },
    Azure { resource: String },
}

/// What a request is about.
pub(crate) enum EndpointRequest {
    /// Needs neither identity nor lease.
    Answered(EndpointResponse),
    /// What the identity's own configuration tells.
    Metadata(google::MetadataQuery),
    /// The name of the identity as a role.
    RoleName,
    Credential(EndpointProtocol),
}

impl EndpointProtocol {
    fn cloud(&self) -> Cloud {
        match self {
            Self::AwsContainer | Self::AwsInstance => Cloud::Aws,
            Self::Google | Self::GoogleIdToken { .. } => Cloud::Google,
            Self::Azure { .. } => Cloud::Azure,
        }
    }

    /// The outlet for an identity, at this time.
    pub(crate) fn credential_format(&self, identity: &Identity, now: i64) -> Result<CredentialFormat, BrokerProblem> {
        let cloud = Cloud::of_identity(identity);
        if cloud.is_some_and(|cloud| cloud != self.cloud()) {
            let message = format!(
                "`{}` is an identity of {}, and it was asked as one of {}",
                identity.name,
                cloud.map_or("no cloud", Cloud::name),
                self.cloud().name()
            );
            let hint = "Name another identity in the manifest, or correct `cloud` in identities.toml.".to_owned();
            return Err(BrokerProblem { code: "outlet_unfit", message, hint: Some(hint), login_identity: None });
        }
        Ok(match self {
            Self::AwsContainer => CredentialFormat::AwsContainer { now },
            Self::AwsInstance => CredentialFormat::AwsInstance { now },
            Self::Google => CredentialFormat::Google { now },
            Self::GoogleIdToken { audience } => CredentialFormat::GoogleIdToken { audience: audience.clone() },
            Self::Azure { resource } => CredentialFormat::Azure { now, resource: resource.clone() },
        })
    }

    pub(crate) fn credential_response(&self, credential: Secret) -> EndpointResponse {
        let content_type = match self {
            Self::AwsInstance => "text/plain",
            Self::GoogleIdToken { .. } => "text/html",
            _ => "application/json",
        };
        let answer = EndpointResponse { status: StatusCode::OK, content_type, headers: Vec::new(), body: credential };
        if self.cloud() == Cloud::Google { google::with_flavor_headers(answer) } else { answer }
    }

    /// What this identity never gives; only Google's dialect asks for such a thing.
    pub(crate) fn not_found_response(&self, words: &str) -> EndpointResponse {
        google::not_found_response(words)
    }

    pub(crate) fn error_response(&self, problem: &BrokerProblem) -> EndpointResponse {
        // What may pass is tried again by every SDK; what needs a person is not, and shows its words at once.
        let passes = problem.code == "source_unreachable";
        let words = match &problem.hint {
            Some(hint) => format!("{}. {hint}", problem.message),
            None => problem.message.clone(),
        };
        match self {
            Self::AwsContainer | Self::AwsInstance => aws::error_response(problem.code, &words, passes),
            Self::Google | Self::GoogleIdToken { .. } => google::error_response(&words, passes),
            Self::Azure { .. } => azure::error_response(problem.code, &words, passes),
        }
    }
}

/// Reads a request as far as it can be read without the identity. The answers to what is refused are ready to send.
pub(crate) fn parse_request(door: &EndpointAccess, asked: &Parts, now: i64) -> EndpointRequest {
    if let Some(words) = browser_refusal(door, asked) {
        return EndpointRequest::Answered(EndpointResponse::forbidden(words));
    }
    let path = asked.uri.path();
    if path.starts_with("/latest/") {
        return aws::parse_instance_request(door, asked, now);
    }
    if asked.method != Method::GET {
        return EndpointRequest::Answered(EndpointResponse::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        ));
    }
    match path {
        aws::CONTAINER_PATH => aws::parse_container_request(door, asked),
        azure::APP_SERVICE_PATH => azure::parse_app_service_request(door, asked),
        azure::INSTANCE_PATH => azure::parse_instance_request(asked),
        "/" => EndpointRequest::Answered(google::root_response()),
        _ if path == "/computeMetadata" || path.starts_with("/computeMetadata/") => google::parse_request(asked),
        _ => EndpointRequest::Answered(EndpointResponse::text(
            StatusCode::NOT_FOUND,
            "there is no such route; see docs/credentials.md of pdev\n",
        )),
    }
}

pub(crate) fn role_response(identity: &str) -> EndpointResponse {
    aws::role_response(identity)
}

/// What the identity's configuration answers; or how the lease that is needed has to look.
pub(crate) fn metadata_response(
    fact: &google::MetadataQuery,
    identity: &Identity,
) -> Result<EndpointResponse, EndpointProtocol> {
    google::metadata_response(fact, identity)
}

/// SDKs never send these; browsers and proxies cannot help it.
fn browser_refusal(door: &EndpointAccess, asked: &Parts) -> Option<&'static str> {
    let host = asked.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !door.hosts.iter().any(|known| known == host) {
        return Some("this `Host` is not served here");
    }
    let telling = |name: &str| {
        name.starts_with("sec-fetch-") || matches!(name, "origin" | "x-forwarded-for" | "forwarded" | "referer")
    };
    asked
        .headers
        .keys()
        .any(|name| telling(name.as_str()))
        .then_some("requests of browsers and through proxies are refused")
}

/// A value of the query, decoded.
fn query_parameter(asked: &Parts, name: &str) -> Option<String> {
    let query = asked.uri.query()?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decode_query_value(value))
    })
}

fn decode_query_value(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let escaped = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        at += if escaped.is_some() { 3 } else { 1 };
        plain.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn header_value<'a>(asked: &'a Parts, name: &str) -> Option<&'a str> {
    asked.headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests;
