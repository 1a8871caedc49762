//! Removes the secrets of a request from an error response. A server may repeat the request in its refusal; the secret
//! must not reach a message, a log or the audit log.
//!
//! Only exact values are found. A server that re-encodes them is not covered.

use serde_json::Value;
use zeroize::Zeroizing;

/// Headers and fields that contain secrets: OAuth 2.0 and its extensions, STS, IAM Identity Center, Vault.
const SECRET_FIELDS: [&str; 19] = [
    "authorization",
    "x-amz-sso_bearer_token",
    "x-vault-token",
    "assertion",
    "client_assertion",
    "client_secret",
    "code",
    "code_verifier",
    "device_code",
    "refresh_token",
    "subject_token",
    "WebIdentityToken",
    "clientSecret",
    "codeVerifier",
    "deviceCode",
    "refreshToken",
    "secret_id",
    "jwt",
    "password",
];
/// A shorter value is not redacted, because it could be an ordinary word.
const SECRET_BYTES_MIN: usize = 8;

/// The secret values of one request.
pub(crate) struct RequestSecrets(Vec<Zeroizing<String>>);

impl RequestSecrets {
    pub(crate) fn from_request(headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut fields: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        fields.extend(body_fields(body));
        let secret = |(name, value): (String, String)| {
            let value = Zeroizing::new(value);
            // Without the scheme (`Bearer`), because a server may repeat the token alone.
            let token = if name == "authorization" { value.rsplit(' ').next().unwrap_or_default() } else { &value };
            let token = token.to_owned();
            (SECRET_FIELDS.contains(&name.as_str()) && token.len() >= SECRET_BYTES_MIN).then(|| Zeroizing::new(token))
        };
        Self(fields.into_iter().filter_map(secret).collect())
    }

    pub(crate) fn redact(&self, response: &mut Zeroizing<Vec<u8>>) {
        for secret in &self.0 {
            let secret = secret.as_bytes();
            // Each replacement shortens the text, so the loop ends.
            while let Some(at) = response.windows(secret.len()).position(|part| part == secret) {
                response.splice(at..at + secret.len(), *b"***");
            }
        }
    }
}

fn body_fields(body: &[u8]) -> Vec<(String, String)> {
    if let Ok(Value::Object(members)) = serde_json::from_slice(body) {
        let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
        return members.into_iter().filter_map(text).collect();
    }
    std::str::from_utf8(body).map(crate::form_encoding::parse_query).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoed_secrets_are_redacted() {
        let bearer = [("authorization", "Bearer canary-of-header"), ("accept", "application/json")];
        for (headers, body, response, expected) in [
            (&bearer[..], "", "no: application/json canary-of-header!", "no: application/json ***!"),
            (
                &[],
                "grant_type=refresh_token&refresh_token=canary%2Fof%20form&client_id=of-the-client",
                "canary/of form is not of of-the-client: refresh_token, canary/of form",
                "*** is not of of-the-client: refresh_token, ***",
            ),
            (
                &[],
                r#"{"secret_id":"canary-of-json","role_id":"public-role"}"#,
                "canary-of-json public-role",
                "*** public-role",
            ),
            (&[], "code=short", "short", "short"),
            (&[], "\u{0}garbage", "garbage", "garbage"),
        ] {
            let mut redacted = Zeroizing::new(response.as_bytes().to_vec());
            RequestSecrets::from_request(headers, body.as_bytes()).redact(&mut redacted);
            assert_eq!(std::str::from_utf8(&redacted).unwrap(), expected, "{body}");
        }
    }
}
