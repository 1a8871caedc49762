//! AWS STS: AssumeRole and GetSessionToken with another identity's keys, AssumeRoleWithWebIdentity with another identity's
//! token (AWS STS API reference, version 2011-06-15).
//!
//! Asked by its query protocol: three calls with flat forms and four wanted fields do not need an SDK.

use std::time::Duration;

use http::Method;
use time::OffsetDateTime;

use super::aws_signature::{FORM_MEDIA_TYPE, SigningKeys, signed_headers};
use super::{SourceContext, SourceProblem, now, sanitize_text};
use crate::http::{HttpResponse, encode_form};
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
use crate::secret::Secret;
use crate::session::rule::SessionRestriction;

type QueryFields = Vec<(String, String)>;

const DEFAULT_ROLE_DURATION: Duration = Duration::from_secs(3600);
/// As long as a working day; a person gives the code once.
const DEFAULT_SESSION_DURATION: Duration = Duration::from_secs(12 * 3600);
const VERSION: &str = "2011-06-15";
/// What AWS allows for a signature's age.
const SKEW_MAX: i64 = 4 * 60_000;

pub(super) async fn assume_role(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    fetch_lease_signed(identity, means, assume_role_fields(identity, means)).await
}

/// With an MFA device's code, which STS takes once.
pub(super) async fn fetch_with_mfa_code(
    identity: &Identity,
    means: &SourceContext<'_>,
    code: &str,
) -> Result<Lease, SourceProblem> {
    let mut fields = if identity.kind == "aws-session" {
        session_token_fields(identity)
    } else {
        assume_role_fields(identity, means)
    };
    fields.push(("SerialNumber".to_owned(), identity.text("mfa_serial").unwrap_or_default().to_owned()));
    fields.push(("TokenCode".to_owned(), code.to_owned()));
    fetch_lease_signed(identity, means, fields).await
}

/// GetSessionToken: the same user, for a while.
pub(super) async fn get_session_token(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    fetch_lease_signed(identity, means, session_token_fields(identity)).await
}

fn assume_role_fields(identity: &Identity, means: &SourceContext<'_>) -> QueryFields {
    let mut fields = common_fields(identity, "AssumeRole", means);
    fields.extend(identity.text("external_id").map(|id| ("ExternalId".to_owned(), id.to_owned())));
    fields.extend(
        means.restriction.filter(|_| identity.flag("session_tags") != Some(false)).map(tag_fields).unwrap_or_default(),
    );
    fields
}

fn session_token_fields(identity: &Identity) -> QueryFields {
    let duration = identity.duration("duration").unwrap_or(DEFAULT_SESSION_DURATION).as_secs().clamp(900, 129_600);
    let duration = duration.to_string();
    let all = [("Action", "GetSessionToken"), ("Version", VERSION), ("DurationSeconds", &duration)];
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Signed by the keys of the identity below.
async fn fetch_lease_signed(
    identity: &Identity,
    means: &SourceContext<'_>,
    fields: QueryFields,
) -> Result<Lease, SourceProblem> {
    let Material::Aws { access_key_id, secret_access_key, session_token, .. } = &means.base_lease()?.material else {
        return Err(unsuitable_base(identity, "AWS credentials"));
    };
    let token = session_token.as_ref().map(|token| String::from_utf8_lossy(token.expose()).into_owned());
    let keys =
        SigningKeys { access_key_id, secret_access_key: secret_access_key.expose(), session_token: token.as_deref() };
    let body = encode_fields(&fields);
    let (endpoint, region) = endpoint(identity);
    let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest).trim_end_matches('/').to_owned();
    let ask = async |skew: i64| {
        let at = OffsetDateTime::from_unix_timestamp((now() + skew) / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let headers = signed_headers(&keys, (region, "sts"), &host, &body, at);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        means.http()?.send(Method::POST, &endpoint, &headers, body.clone().into_bytes()).await
    };
    let mut answer = ask(0).await?;
    // A signature is refused when the clocks differ: the server's own clock is in its answer.
    if !answer.is_success() && answer.skew.abs() > SKEW_MAX {
        answer = ask(answer.skew).await?;
    }
    parse_lease(identity, &answer)
}

pub(super) async fn assume_role_with_web_identity(
    identity: &Identity,
    means: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let Material::Token(token) = &means.base_lease()?.material else {
        return Err(unsuitable_base(identity, "a token"));
    };
    let mut fields = common_fields(identity, "AssumeRoleWithWebIdentity", means);
    fields.push(("WebIdentityToken".to_owned(), String::from_utf8_lossy(token.expose()).into_owned()));
    let (endpoint, _) = endpoint(identity);
    let headers = [("content-type", FORM_MEDIA_TYPE)];
    let answer = means.http()?.send(Method::POST, &endpoint, &headers, encode_fields(&fields).into_bytes()).await?;
    parse_lease(identity, &answer)
}

fn unsuitable_base(identity: &Identity, wanted: &str) -> SourceProblem {
    SourceProblem::Refused(format!("`{}` gives no {wanted}", identity.text("from").unwrap_or_default()))
}

fn common_fields(identity: &Identity, action: &str, means: &SourceContext<'_>) -> QueryFields {
    let mut duration = identity.duration("duration").unwrap_or(DEFAULT_ROLE_DURATION).as_secs().clamp(900, 43_200);
    let mut session = identity.text("session_name").map_or_else(|| format!("pdev-{}", identity.name), str::to_owned);
    let mut policies = Vec::new();
    if let Some(bound) = means.restriction {
        // As long as the session lasts, as far as AWS allows so little.
        let left = u64::try_from(bound.until - means.now).unwrap_or_default() / 1000;
        duration = duration.min(DEFAULT_ROLE_DURATION.as_secs()).min(left.max(900));
        // Last, so that it is not what a long name pushes out.
        session = format!("{}-{}", session.chars().take(50).collect::<String>(), bound.session);
        policies =
            identity.list("session_policies").map_or_else(|| vec![read_only_policy_arn(identity)], <[String]>::to_vec);
    }
    let session: String = session.chars().take(64).collect();
    let mut fields: QueryFields = [
        ("Action", action.to_owned()),
        ("Version", VERSION.to_owned()),
        ("RoleArn", identity.text("role_arn").unwrap_or_default().to_owned()),
        ("RoleSessionName", session),
        ("DurationSeconds", duration.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    fields.extend((1..).zip(policies).map(|(number, arn)| (format!("PolicyArns.member.{number}.arn"), arn)));
    fields
}

/// AWS's own policy, in the partition of the role.
fn read_only_policy_arn(identity: &Identity) -> String {
    let partition = identity.text("role_arn").and_then(|arn| arn.split(':').nth(1)).unwrap_or("aws");
    format!("arn:{partition}:iam::aws:policy/ReadOnlyAccess")
}

fn tag_fields(bound: &SessionRestriction) -> QueryFields {
    let all = [("pdev:session", &bound.session), ("pdev:agent", &bound.name)];
    let tag = |(number, (key, value)): (usize, (&str, &String))| {
        let name = |part: &str| format!("Tags.member.{number}.{part}");
        [(name("Key"), key.to_owned()), (name("Value"), value.clone())]
    };
    (1..).zip(all).flat_map(tag).collect()
}

fn encode_fields(fields: &QueryFields) -> String {
    encode_form(&fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>())
}

/// Always a regional one: the global endpoint's tokens do not work in newer regions.
pub(super) fn endpoint(identity: &Identity) -> (String, &str) {
    let region = identity.text("region").unwrap_or("us-east-1");
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let usual = || format!("https://sts.{region}.{domain}/");
    (identity.text("endpoint").map_or_else(usual, str::to_owned), region)
}

fn parse_lease(identity: &Identity, answer: &HttpResponse) -> Result<Lease, SourceProblem> {
    let text = String::from_utf8_lossy(&answer.body);
    if !answer.is_success() {
        return Err(refusal_problem(identity, answer, &text));
    }
    let field = |name: &str| {
        element_text(&text, name).ok_or_else(|| SourceProblem::Transient(format!("STS answered without `{name}`")))
    };
    let end = super::exec::parse_rfc3339(&field("Expiration")?);
    let end = end.ok_or_else(|| SourceProblem::Transient("STS answered with an end that is no time".to_owned()))?;
    let material = Material::Aws {
        access_key_id: field("AccessKeyId")?,
        secret_access_key: Secret::new(field("SecretAccessKey")?.into_bytes()),
        session_token: Some(Secret::new(field("SessionToken")?.into_bytes())),
        account: identity.text("role_arn").and_then(|arn| arn.split(':').nth(4)).map(str::to_owned),
    };
    Ok(Lease::new(material, Times { issued_at: now(), expires_at: Some(end), skew: answer.skew }))
}

fn refusal_problem(identity: &Identity, answer: &HttpResponse, text: &str) -> SourceProblem {
    let Some(code) = element_text(text, "Code") else { return answer.unexpected_status_problem() };
    let message = element_text(text, "Message").unwrap_or_default();
    let told = format!("STS answered `{}`: {}", sanitize_text(&code), sanitize_text(&message));
    let from = identity.text("from").unwrap_or_default();
    match code.as_str() {
        "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "InvalidIdentityToken" => {
            SourceProblem::Refused(format!("{told} (the credential of `{from}`)"))
        }
        "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "InternalFailure" | "ServiceUnavailable" => {
            SourceProblem::Transient(told)
        }
        _ if message.contains("sts:TagSession") => SourceProblem::Refused(format!(
            "{told} (allow `sts:TagSession` in the role's trust policy, or say `session_tags = false`)"
        )),
        _ if answer.skew.abs() > SKEW_MAX => {
            let minutes = answer.skew.abs() / 60_000;
            SourceProblem::Refused(format!("{told} (this machine's clock is {minutes} minutes off)"))
        }
        _ => SourceProblem::Refused(told),
    }
}

/// The text of the first element of a name. STS nests none of the four inside itself and uses no attributes on them.
fn element_text(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let mut plain = inner.trim().to_owned();
    for (escape, letter) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")] {
        plain = plain.replace(escape, letter);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_text_is_found_and_unescaped() {
        let text =
            "<R><Credentials>\n<AccessKeyId>A</AccessKeyId><SessionToken> a+b/&amp;= </SessionToken></Credentials></R>";
        assert_eq!(element_text(text, "AccessKeyId").as_deref(), Some("A"));
        assert_eq!(element_text(text, "SessionToken").as_deref(), Some("a+b/&="));
        assert_eq!(element_text(text, "Expiration"), None);
        assert_eq!(element_text("<Code>cut", "Code"), None);
    }
}
