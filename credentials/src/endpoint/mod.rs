//! The credential endpoint that SDKs already use: AWS container credentials and IMDSv2, Google's metadata server,
//! Azure's managed identity. This module parses requests and builds responses; it has no listener and holds no lease.
//!
//! The owner of the listener checks the peer first. Headers, routes and formats are listed in docs/credentials.md.

mod aws;
mod azure;
mod google;
mod variables;

use http::request::Parts;
use http::{Method, StatusCode};
use strings::to_hex;

use crate::format::CredentialFormat;
use crate::identity::Identity;
use crate::problem::BrokerProblem;
use crate::secret::Secret;
use crate::vault;

pub(crate) use google::MetadataAnswer;
pub use variables::{EndpointLocation, Variable, variables};

/// The cloud whose SDK sends requests.
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

/// The endpoint of one consumer: its identity and its token.
pub struct EndpointAccess {
    pub identity: String,
    token: Secret,
    /// The exact values that `Host` may have. A browser page that reaches this port through a changed DNS name sends
    /// another value.
    hosts: Vec<String>,
}

impl EndpointAccess {
    #[must_use]
    pub fn new(identity: String, token: Secret, hosts: Vec<String>) -> Self {
        Self { identity, token, hosts }
    }

    fn derive_secret(&self, label: &str) -> String {
        derive_secret(&self.token, label)
    }
}

/// The file with the token of a unit's endpoint, in the unit's folder.
pub const ENDPOINT_TOKEN_FILE: &str = "endpoint.token";
/// Length of [`new_token`] as text.
pub(crate) const TOKEN_LENGTH: usize = 64;

/// A token for one endpoint: random bytes in hex, without a line end, which SDKs would refuse in a header.
#[must_use]
pub fn new_token() -> Secret {
    Secret::new(to_hex(vault::random::<{ TOKEN_LENGTH / 2 }>()).into_bytes())
}

/// Derives another secret for the same endpoint. It does not reveal the token.
fn derive_secret(token: &Secret, label: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token.expose());
    to_hex(ring::hmac::sign(&key, label.as_bytes()))
}

/// Compares in constant time, so that the duration does not reveal a correct prefix. An empty `expected` matches
/// nothing.
pub(crate) fn constant_time_eq(given: &[u8], expected: &[u8]) -> bool {
    !expected.is_empty()
        && given.len() == expected.len()
        && given.iter().zip(expected).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

pub struct EndpointResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    /// Headers besides the content type. SDKs ignore a response without them.
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

    fn text(status: StatusCode, message: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "text/plain", message)
    }

    /// The response to requests that no SDK sends.
    #[must_use]
    pub fn forbidden(message: &str) -> Self {
        Self::json(StatusCode::FORBIDDEN, &serde_json::json!({ "code": "Forbidden", "message": message }))
    }
}

/// The format of a response with a credential or with an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EndpointProtocol {
    AwsContainer,
    AwsInstance,
    Google,
    GoogleIdToken { audience: String },
    Azure { resource: String },
}

/// The result of parsing a request.
pub(crate) enum ParsedRequest {
    /// The response needs neither the identity nor a credential.
    Response(EndpointResponse),
    /// Google only. The configuration of the identity answers the query, unless it requests a token.
    Metadata(google::MetadataQuery),
    /// Requests the name of the identity as a role.
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

    /// The credential format for an identity at this time.
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
        let response = EndpointResponse { status: StatusCode::OK, content_type, headers: Vec::new(), body: credential };
        if self.cloud() == Cloud::Google { google::with_flavor_headers(response) } else { response }
    }

    /// The response for a credential that this identity cannot provide. Only Google's protocol has this case.
    pub(crate) fn not_found_response(&self, message: &str) -> EndpointResponse {
        google::not_found_response(message)
    }

    pub(crate) fn error_response(&self, problem: &BrokerProblem) -> EndpointResponse {
        // SDKs retry a transient error. Other errors need the user, so SDKs show their message at once.
        let is_transient = problem.code == "source_unreachable";
        let message = match &problem.hint {
            Some(hint) => format!("{}. {hint}", problem.message),
            None => problem.message.clone(),
        };
        match self {
            Self::AwsContainer | Self::AwsInstance => aws::error_response(problem.code, &message, is_transient),
            Self::Google | Self::GoogleIdToken { .. } => google::error_response(&message, is_transient),
            Self::Azure { .. } => azure::error_response(problem.code, &message, is_transient),
        }
    }
}

/// Parses a request as far as possible without the identity. Refusals are complete responses.
pub(crate) fn parse_request(access: &EndpointAccess, request: &Parts, now: i64) -> ParsedRequest {
    if let Some(message) = browser_refusal(access, request) {
        return ParsedRequest::Response(EndpointResponse::forbidden(message));
    }
    let path = request.uri.path();
    // Before the check of the method, because IMDSv2 requests its session token with PUT.
    if path.starts_with("/latest/") {
        return aws::parse_instance_request(access, request, now);
    }
    if request.method != Method::GET {
        return ParsedRequest::Response(EndpointResponse::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        ));
    }
    match path {
        aws::CONTAINER_PATH => aws::parse_container_request(access, request),
        azure::APP_SERVICE_PATH => azure::parse_app_service_request(access, request),
        azure::INSTANCE_PATH => azure::parse_instance_request(request),
        "/" => ParsedRequest::Response(google::root_response()),
        _ if path == "/computeMetadata" || path.starts_with("/computeMetadata/") => google::parse_request(request),
        _ => ParsedRequest::Response(EndpointResponse::text(
            StatusCode::NOT_FOUND,
            "there is no such route; see docs/credentials.md of pdev\n",
        )),
    }
}

pub(crate) fn role_response(identity: &str) -> EndpointResponse {
    aws::role_response(identity)
}

pub(crate) fn answer_metadata_query(query: &google::MetadataQuery, identity: &Identity) -> MetadataAnswer {
    google::answer_metadata_query(query, identity)
}

/// SDKs never send these headers. Browsers and proxies cannot avoid them, so a web page cannot read the endpoint.
fn browser_refusal(access: &EndpointAccess, request: &Parts) -> Option<&'static str> {
    let host = request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !access.hosts.iter().any(|allowed| allowed == host) {
        return Some("this `Host` is not served here");
    }
    let is_forbidden = |name: &str| {
        name.starts_with("sec-fetch-") || matches!(name, "origin" | "x-forwarded-for" | "forwarded" | "referer")
    };
    request
        .headers
        .keys()
        .any(|name| is_forbidden(name.as_str()))
        .then_some("requests of browsers and through proxies are refused")
}

/// A decoded parameter of the query.
fn query_parameter(request: &Parts, name: &str) -> Option<String> {
    let query = request.uri.query()?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decode_query_value(value))
    })
}

fn decode_query_value(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        let escaped = bytes.get(position + 1..position + 3).filter(|_| byte == b'%');
        let escaped = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        position += if escaped.is_some() { 3 } else { 1 };
        decoded.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn header_value<'a>(request: &'a Parts, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests;
