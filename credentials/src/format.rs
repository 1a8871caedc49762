//! Renders credentials in the formats that tools read, byte for byte. The formats and their specifications are listed
//! in docs/credentials.md.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::identity::Identity;
use crate::lease::Purpose;
use crate::lease::{Lease, Material};
use crate::secret::Secret;
use crate::wiped_json::WipedJson;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CredentialFormat {
    /// AWS `credential_process`.
    Aws,
    /// AWS container credentials (ECS). Here and in the next variants, `now` is in Unix milliseconds.
    AwsContainer { now: i64 },
    /// AWS instance metadata.
    AwsInstance { now: i64 },
    /// The metadata server of Google's Compute Engine.
    Google { now: i64 },
    /// An id token of Google's metadata server.
    GoogleIdToken { audience: String },
    /// Azure's managed identity, for the requested resource.
    Azure { now: i64, resource: String },
    /// kubectl, with the requested `apiVersion`.
    Kubectl { api_version: String },
    /// docker, with the server name as requested.
    Docker { server: String },
    /// git, with or without support for `authtype`.
    Git { authtype: bool },
    /// The response to cargo's `get`.
    Cargo,
    /// The bare token or password.
    Token,
    /// `NAME=value` pairs, each terminated by NUL.
    Env,
}

impl CredentialFormat {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::AwsContainer { .. } => "ecs",
            Self::AwsInstance { .. } => "imds",
            Self::Google { .. } | Self::GoogleIdToken { .. } => "gce",
            Self::Azure { .. } => "msi",
            Self::Kubectl { .. } => "kubectl",
            Self::Docker { .. } => "docker",
            Self::Git { .. } => "git",
            Self::Cargo => "cargo",
            Self::Token => "token",
            Self::Env => "env",
        }
    }
}

impl CredentialFormat {
    /// The purpose of the lease that this format needs.
    pub(crate) fn purpose(&self) -> Purpose {
        match self {
            Self::Azure { resource, .. } => Purpose::Resource(resource.clone()),
            Self::GoogleIdToken { audience } => Purpose::IdToken(audience.clone()),
            _ => Purpose::General,
        }
    }
}

/// The user name next to a token, for tools that require one. Google's and GitHub's registries accept it.
const TOKEN_USER: &str = "oauth2accesstoken";

/// Renders a lease for a tool.
///
/// # Errors
/// A message, if this kind of credential does not exist in this format.
pub fn render(format: &CredentialFormat, identity: &Identity, lease: &Lease) -> Result<Secret, String> {
    let user = identity.text("username").unwrap_or(TOKEN_USER);
    let unsuitable = |required: &str| {
        format!("`{}` gives {}, and {required} is needed", identity.name, lease.material.description())
    };
    let bytes = match format {
        CredentialFormat::Aws | CredentialFormat::AwsContainer { .. } | CredentialFormat::AwsInstance { .. } => {
            render_aws(format, lease).ok_or_else(|| unsuitable("an AWS credential"))?
        }
        CredentialFormat::Google { now } => {
            let Material::Token(token) = &lease.material else { return Err(unsuitable("a token")) };
            let seconds = (expiry_or_one_hour(lease, *now) - now) / 1000;
            to_json_line(
                json!({ "access_token": to_secret_text(token).as_str(), "expires_in": seconds.max(0), "token_type": "Bearer" }),
            )
        }
        CredentialFormat::GoogleIdToken { .. } => match &lease.material {
            Material::Token(token) => token.expose().to_vec(),
            _ => return Err(unsuitable("a token")),
        },
        CredentialFormat::Azure { now, resource } => {
            let Material::Token(token) = &lease.material else { return Err(unsuitable("a token")) };
            let expires_at = expiry_or_one_hour(lease, *now);
            // Azure writes these numbers as strings.
            to_json_line(json!({
                "access_token": to_secret_text(token).as_str(),
                "expires_in": ((expires_at - now) / 1000).max(0).to_string(),
                "expires_on": (expires_at / 1000).to_string(),
                "not_before": (lease.times.issued_at / 1000).to_string(),
                "resource": resource,
                "token_type": "Bearer",
            }))
        }
        CredentialFormat::Kubectl { api_version } => {
            let Material::Token(token) = &lease.material else { return Err(unsuitable("a token")) };
            let mut status = json!({ "token": to_secret_text(token).as_str() });
            if let Some(expires_at) = expiry_rfc3339(lease) {
                status["expirationTimestamp"] = expires_at.into();
            }
            to_json_line(json!({ "apiVersion": api_version, "kind": "ExecCredential", "status": status }))
        }
        CredentialFormat::Docker { server } => {
            let (username, secret) =
                username_and_secret(lease, user).ok_or_else(|| unsuitable("a token or password"))?;
            to_json_line(json!({ "ServerURL": server, "Username": username, "Secret": secret.as_str() }))
        }
        CredentialFormat::Git { authtype } => {
            render_git(lease, user, *authtype).ok_or_else(|| unsuitable("a token or password"))?
        }
        CredentialFormat::Cargo => {
            let (_, token) = username_and_secret(lease, user).ok_or_else(|| unsuitable("a token"))?;
            let mut response =
                json!({ "kind": "get", "token": token.as_str(), "cache": "session", "operation_independent": true });
            if let Some(expires) = lease.times.expires_at {
                response["cache"] = "expires".into();
                response["expiration"] = (expires / 1000).into();
            }
            to_json_line(json!({ "Ok": response }))
        }
        CredentialFormat::Token => {
            username_and_secret(lease, user).ok_or_else(|| unsuitable("a token or password"))?.1.as_bytes().to_vec()
        }
        CredentialFormat::Env => render_env(lease, identity.text("variable").unwrap_or("PDEV_TOKEN")),
    };
    Ok(Secret::new(bytes))
}

fn render_aws(format: &CredentialFormat, lease: &Lease) -> Option<Vec<u8>> {
    let Material::Aws { access_key_id, secret_access_key, session_token, account } = &lease.material else {
        return None;
    };
    let mut response =
        json!({ "AccessKeyId": access_key_id, "SecretAccessKey": to_secret_text(secret_access_key).as_str() });
    let session = session_token.as_ref().map(|token| to_secret_text(token).to_string());
    let mut fields = vec![("AccountId", account.clone())];
    match format {
        CredentialFormat::AwsContainer { now } | CredentialFormat::AwsInstance { now } => {
            // SDKs require both fields. No SDK sends an empty token.
            fields.push(("Token", Some(session.unwrap_or_default())));
            fields.push(("Expiration", format_rfc3339(expiry_or_one_hour(lease, *now))));
            if matches!(format, CredentialFormat::AwsInstance { .. }) {
                fields.extend([("Code", Some("Success".into())), ("Type", Some("AWS-HMAC".into()))]);
                fields.push(("LastUpdated", format_rfc3339(lease.times.issued_at)));
            }
        }
        _ => {
            response["Version"] = 1.into();
            fields.extend([("SessionToken", session), ("Expiration", expiry_rfc3339(lease))]);
        }
    }
    for (key, value) in fields {
        if let Some(value) = value {
            response[key] = value.into();
        }
    }
    Some(to_json_line(response))
}

fn render_git(lease: &Lease, user: &str, authtype: bool) -> Option<Vec<u8>> {
    let (username, secret) = username_and_secret(lease, user)?;
    let secret = secret.as_str();
    // A line break in a value would start another attribute.
    if secret.contains(['\n', '\0']) || username.contains(['\n', '\0']) {
        return None;
    }
    let mut response = match &lease.material {
        Material::Token(_) if authtype && user == TOKEN_USER => {
            format!("capability[]=authtype\nauthtype=Bearer\ncredential={secret}\nephemeral=1\n")
        }
        _ => format!("username={username}\npassword={secret}\n"),
    };
    if let Some(expires) = lease.times.expires_at {
        response.push_str(&format!("password_expiry_utc={}\n", expires / 1000));
    }
    Some(response.into_bytes())
}

fn render_env(lease: &Lease, variable: &str) -> Vec<u8> {
    let mut pairs: Vec<(&str, SecretText)> = Vec::new();
    match &lease.material {
        Material::Aws { access_key_id, secret_access_key, session_token, .. } => {
            pairs.push(("AWS_ACCESS_KEY_ID", access_key_id.clone().into()));
            pairs.push(("AWS_SECRET_ACCESS_KEY", to_secret_text(secret_access_key)));
            pairs.extend(session_token.as_ref().map(|token| ("AWS_SESSION_TOKEN", to_secret_text(token))));
            pairs.extend(expiry_rfc3339(lease).map(|end| ("AWS_CREDENTIAL_EXPIRATION", end.into())));
        }
        Material::Token(token) => pairs.push((variable, to_secret_text(token))),
        Material::Password { username, password } => {
            pairs.push(("PDEV_USERNAME", username.clone().into()));
            pairs.push(("PDEV_PASSWORD", to_secret_text(password)));
        }
    }
    let parts = || pairs.iter().flat_map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b"\0"]);
    // Allocate the exact size, because a growing buffer leaves copies of the secret in freed memory.
    let mut bytes = Vec::with_capacity(parts().map(<[u8]>::len).sum());
    parts().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// The text of a secret, wiped on drop.
type SecretText = Zeroizing<String>;

/// User name and secret, for tools that support only this pair.
fn username_and_secret(lease: &Lease, user: &str) -> Option<(String, SecretText)> {
    match &lease.material {
        Material::Token(token) => Some((user.to_owned(), to_secret_text(token))),
        Material::Password { username, password } => {
            let username = if username.is_empty() { user } else { username };
            Some((username.to_owned(), to_secret_text(password)))
        }
        Material::Aws { .. } => None,
    }
}

fn to_secret_text(secret: &Secret) -> SecretText {
    Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned())
}

/// In whole seconds, which every RFC 3339 parser supports.
fn expiry_rfc3339(lease: &Lease) -> Option<String> {
    format_rfc3339(lease.times.expires_at?)
}

fn format_rfc3339(milliseconds: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(milliseconds / 1000).ok()?.format(&Rfc3339).ok()
}

/// The end of the lease, for formats that require one. A lease without an end is requested again after an hour.
fn expiry_or_one_hour(lease: &Lease, now: i64) -> i64 {
    lease.times.expires_at.unwrap_or(now + 3_600_000)
}

fn to_json_line(value: Value) -> Vec<u8> {
    WipedJson::new(value).to_line()
}

/// Whether the `hosts` of an identity match a server: exactly, with its port if the pattern has one, or by
/// `*.example.org`.
#[must_use]
pub fn serves_host(identity: &Identity, server: &str) -> bool {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = bare.split('/').next().unwrap_or_default().to_lowercase();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority.as_str(),
    };
    identity.list("hosts").unwrap_or_default().iter().any(|pattern| {
        let pattern = pattern.to_lowercase();
        match pattern.strip_prefix("*.") {
            // The remaining prefix must end with a dot, so that `evil-internal` does not match `*.internal`.
            Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1),
            None => pattern == authority || pattern == host,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity;
    use crate::lease::Times;

    fn identity(more: &str) -> Identity {
        let text = format!("[a]\nsource = \"exec\"\ncommand = [\"x\"]\n{more}");
        identity::read(&text).0.all.remove("a").unwrap()
    }

    fn render_text(format: &CredentialFormat, material: Material, expires_at: Option<i64>) -> String {
        let lease = Lease::new(material, Times { issued_at: 0, expires_at, skew: 0 });
        match render(format, &identity(""), &lease) {
            Ok(secret) => to_secret_text(&secret).to_string(),
            Err(message) => message,
        }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    fn aws_material() -> Material {
        let (access_key_id, secret_access_key) = ("AKIA".to_owned(), secret("S"));
        Material::Aws { access_key_id, secret_access_key, session_token: Some(secret("T")), account: None }
    }

    #[test]
    fn each_format_renders_expected_bytes() {
        let end = Some(1_798_761_600_500);
        let token = || Material::Token(secret("tok"));
        let kubectl = CredentialFormat::Kubectl { api_version: "client.authentication.k8s.io/v1".into() };
        let docker = CredentialFormat::Docker { server: "localhost:5000".into() };
        for (format, material, expected) in [
            (
                CredentialFormat::Aws,
                aws_material(),
                "{\"AccessKeyId\":\"AKIA\",\"SecretAccessKey\":\"S\",\"Version\":1,\"SessionToken\":\"T\",\"Expiration\":\"2027-01-01T00:00:00Z\"}\n",
            ),
            (
                CredentialFormat::AwsContainer { now: 0 },
                aws_material(),
                "{\"AccessKeyId\":\"AKIA\",\"SecretAccessKey\":\"S\",\"Token\":\"T\",\"Expiration\":\"2027-01-01T00:00:00Z\"}\n",
            ),
            (
                CredentialFormat::AwsInstance { now: 0 },
                aws_material(),
                "{\"AccessKeyId\":\"AKIA\",\"SecretAccessKey\":\"S\",\"Token\":\"T\",\"Expiration\":\"2027-01-01T00:00:00Z\",\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"LastUpdated\":\"1970-01-01T00:00:00Z\"}\n",
            ),
            (
                CredentialFormat::Google { now: 1_798_761_500_500 },
                token(),
                "{\"access_token\":\"tok\",\"expires_in\":100,\"token_type\":\"Bearer\"}\n",
            ),
            (
                CredentialFormat::Azure { now: 1_798_761_500_500, resource: "https://vault.azure.net".into() },
                token(),
                "{\"access_token\":\"tok\",\"expires_in\":\"100\",\"expires_on\":\"1798761600\",\"not_before\":\"0\",\"resource\":\"https://vault.azure.net\",\"token_type\":\"Bearer\"}\n",
            ),
            (
                kubectl,
                token(),
                "{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"tok\",\"expirationTimestamp\":\"2027-01-01T00:00:00Z\"}}\n",
            ),
            (
                docker,
                token(),
                "{\"ServerURL\":\"localhost:5000\",\"Username\":\"oauth2accesstoken\",\"Secret\":\"tok\"}\n",
            ),
            (
                CredentialFormat::Git { authtype: true },
                token(),
                "capability[]=authtype\nauthtype=Bearer\ncredential=tok\nephemeral=1\npassword_expiry_utc=1798761600\n",
            ),
            (
                CredentialFormat::Git { authtype: false },
                token(),
                "username=oauth2accesstoken\npassword=tok\npassword_expiry_utc=1798761600\n",
            ),
            (
                CredentialFormat::Git { authtype: true },
                Material::Token(secret("a\nb")),
                "`a` gives a token, and a token or password is needed",
            ),
            (
                CredentialFormat::Cargo,
                token(),
                "{\"Ok\":{\"kind\":\"get\",\"token\":\"tok\",\"cache\":\"expires\",\"operation_independent\":true,\"expiration\":1798761600}}\n",
            ),
            (CredentialFormat::Token, token(), "tok"),
            (CredentialFormat::Token, aws_material(), "`a` gives AWS credentials, and a token or password is needed"),
            (CredentialFormat::Aws, token(), "`a` gives a token, and an AWS credential is needed"),
            (
                CredentialFormat::Env,
                aws_material(),
                "AWS_ACCESS_KEY_ID=AKIA\0AWS_SECRET_ACCESS_KEY=S\0AWS_SESSION_TOKEN=T\0AWS_CREDENTIAL_EXPIRATION=2027-01-01T00:00:00Z\0",
            ),
        ] {
            assert_eq!(render_text(&format, material, end), expected, "{format:?}");
        }
    }

    #[test]
    fn host_patterns_match_exact_or_wildcard() {
        let identity = identity("hosts = [\"git.example.org\", \"*.internal\", \"localhost:5000\"]\n");
        for (server, expected) in [
            ("git.example.org", true),
            ("https://git.example.org/team/repo.git", true),
            ("GIT.example.org:443", true),
            ("evil-git.example.org", false),
            ("git.example.org.evil.com", false),
            ("a.internal", true),
            ("a.b.internal:8443", true),
            ("internal", false),
            (".internal", false),
            ("localhost:5000", true),
            ("localhost:5001", false),
            ("localhost", false),
            ("", false),
        ] {
            assert_eq!(serves_host(&identity, server), expected, "{server}");
        }
    }
}
