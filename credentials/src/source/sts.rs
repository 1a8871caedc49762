//! AWS STS: AssumeRole and GetSessionToken with another identity's keys, AssumeRoleWithWebIdentity with another
//! identity's token (AWS STS API reference, version 2011-06-15).
//!
//! Uses the query protocol directly: three calls with flat forms and four result fields need no SDK.

use std::time::Duration;

use host::clock::now_milliseconds;
use http::Method;
use time::OffsetDateTime;

use super::aws_signature::{FORM_MEDIA_TYPE, SigningKeys, signed_headers};
use super::{SourceContext, sanitize_text};
use crate::form_encoding::encode_form;
use crate::http::HttpResponse;
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;
use crate::session::rule::SessionRestriction;

type QueryFields = Vec<(String, String)>;

const DEFAULT_ROLE_DURATION: Duration = Duration::from_secs(3600);
/// A working day, so that the user enters a code only once a day.
const DEFAULT_SESSION_DURATION: Duration = Duration::from_secs(12 * 3600);
const VERSION: &str = "2011-06-15";
/// AWS accepts signatures of about this age. Beyond it, the request is signed again with the server's clock.
const SKEW_MAX: i64 = 4 * 60_000;

pub(super) async fn assume_role(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    fetch_lease_signed(identity, context, assume_role_fields(identity, context)).await
}

/// Fetches a lease with a code of an MFA device. STS accepts each code once.
pub(super) async fn fetch_with_mfa_code(
    identity: &Identity,
    context: &SourceContext<'_>,
    code: &str,
) -> Result<Lease, SourceProblem> {
    let mut fields = if identity.kind == "aws-session" {
        session_token_fields(identity)
    } else {
        assume_role_fields(identity, context)
    };
    fields.push(("SerialNumber".to_owned(), identity.text("mfa_serial").unwrap_or_default().to_owned()));
    fields.push(("TokenCode".to_owned(), code.to_owned()));
    fetch_lease_signed(identity, context, fields).await
}

/// GetSessionToken: a temporary session of the same user.
pub(super) async fn get_session_token(
    identity: &Identity,
    context: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    fetch_lease_signed(identity, context, session_token_fields(identity)).await
}

fn assume_role_fields(identity: &Identity, context: &SourceContext<'_>) -> QueryFields {
    let mut fields = common_fields(identity, "AssumeRole", context);
    fields.extend(identity.text("external_id").map(|id| ("ExternalId".to_owned(), id.to_owned())));
    fields.extend(
        context
            .restriction
            .filter(|_| identity.flag("session_tags") != Some(false))
            .map(tag_fields)
            .unwrap_or_default(),
    );
    fields
}

fn session_token_fields(identity: &Identity) -> QueryFields {
    let duration = identity.duration("duration").unwrap_or(DEFAULT_SESSION_DURATION).as_secs().clamp(900, 129_600);
    let duration = duration.to_string();
    let all = [("Action", "GetSessionToken"), ("Version", VERSION), ("DurationSeconds", &duration)];
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Sends a request that is signed with the keys of the base identity.
async fn fetch_lease_signed(
    identity: &Identity,
    context: &SourceContext<'_>,
    fields: QueryFields,
) -> Result<Lease, SourceProblem> {
    let Material::Aws { access_key_id, secret_access_key, session_token, .. } = &context.base_lease()?.material else {
        return Err(unsuitable_base(identity, "AWS credentials"));
    };
    let token = session_token.as_ref().map(|token| String::from_utf8_lossy(token.expose()).into_owned());
    let keys =
        SigningKeys { access_key_id, secret_access_key: secret_access_key.expose(), session_token: token.as_deref() };
    let body = encode_fields(&fields);
    let (endpoint, region) = endpoint(identity);
    let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest).trim_end_matches('/').to_owned();
    let send = async |skew: i64| {
        let time = OffsetDateTime::from_unix_timestamp((now_milliseconds() + skew) / 1000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let headers = signed_headers(&keys, (region, "sts"), &host, &body, time);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        context.http()?.send(Method::POST, &endpoint, &headers, body.clone().into_bytes()).await
    };
    let mut response = send(0).await?;
    // STS refuses a signature if the clocks differ too much. Its own clock is in the `Date` of the response.
    if !response.is_success() && response.skew.abs() > SKEW_MAX {
        response = send(response.skew).await?;
    }
    parse_lease(identity, &response)
}

pub(super) async fn assume_role_with_web_identity(
    identity: &Identity,
    context: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let Material::Token(token) = &context.base_lease()?.material else {
        return Err(unsuitable_base(identity, "a token"));
    };
    let mut fields = common_fields(identity, "AssumeRoleWithWebIdentity", context);
    fields.push(("WebIdentityToken".to_owned(), String::from_utf8_lossy(token.expose()).into_owned()));
    let (endpoint, _) = endpoint(identity);
    let headers = [("content-type", FORM_MEDIA_TYPE)];
    let response = context.http()?.send(Method::POST, &endpoint, &headers, encode_fields(&fields).into_bytes()).await?;
    parse_lease(identity, &response)
}

fn unsuitable_base(identity: &Identity, required: &str) -> SourceProblem {
    SourceProblem::Refused(format!("`{}` gives no {required}", identity.text("from").unwrap_or_default()))
}

fn common_fields(identity: &Identity, action: &str, context: &SourceContext<'_>) -> QueryFields {
    let mut duration = identity.duration("duration").unwrap_or(DEFAULT_ROLE_DURATION).as_secs().clamp(900, 43_200);
    let mut session = identity.text("session_name").map_or_else(|| format!("pdev-{}", identity.name), str::to_owned);
    let mut policies = Vec::new();
    if let Some(restriction) = context.restriction {
        // No longer than the session, but AWS allows no less than 15 minutes.
        let remaining_seconds = u64::try_from(restriction.until - context.now).unwrap_or_default() / 1000;
        duration = duration.min(DEFAULT_ROLE_DURATION.as_secs()).min(remaining_seconds.max(900));
        // Shorten the name and not the session id, because the id identifies the session in CloudTrail.
        session = format!("{}-{}", session.chars().take(50).collect::<String>(), restriction.session);
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

/// The managed policy of AWS, in the partition of the role.
fn read_only_policy_arn(identity: &Identity) -> String {
    let partition = identity.text("role_arn").and_then(|arn| arn.split(':').nth(1)).unwrap_or("aws");
    format!("arn:{partition}:iam::aws:policy/ReadOnlyAccess")
}

fn tag_fields(restriction: &SessionRestriction) -> QueryFields {
    let tags = [("pdev:session", &restriction.session), ("pdev:agent", &restriction.name)];
    let tag = |(number, (key, value)): (usize, (&str, &String))| {
        let name = |part: &str| format!("Tags.member.{number}.{part}");
        [(name("Key"), key.to_owned()), (name("Value"), value.clone())]
    };
    (1..).zip(tags).flat_map(tag).collect()
}

fn encode_fields(fields: &QueryFields) -> String {
    encode_form(&fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>())
}

/// The regional endpoint, because tokens of the global endpoint do not work in newer regions.
pub(super) fn endpoint(identity: &Identity) -> (String, &str) {
    let region = identity.text("region").unwrap_or("us-east-1");
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let default_url = || format!("https://sts.{region}.{domain}/");
    (identity.text("endpoint").map_or_else(default_url, str::to_owned), region)
}

fn parse_lease(identity: &Identity, response: &HttpResponse) -> Result<Lease, SourceProblem> {
    let text = String::from_utf8_lossy(&response.body);
    if !response.is_success() {
        return Err(refusal_problem(identity, response, &text));
    }
    let field = |name: &str| {
        element_text(&text, name).ok_or_else(|| SourceProblem::Transient(format!("STS answered without `{name}`")))
    };
    let expires_at = super::exec::parse_rfc3339(&field("Expiration")?);
    let expires_at =
        expires_at.ok_or_else(|| SourceProblem::Transient("STS answered with an end that is no time".to_owned()))?;
    let material = Material::Aws {
        access_key_id: field("AccessKeyId")?,
        secret_access_key: Secret::new(field("SecretAccessKey")?.into_bytes()),
        session_token: Some(Secret::new(field("SessionToken")?.into_bytes())),
        account: identity.text("role_arn").and_then(|arn| arn.split(':').nth(4)).map(str::to_owned),
    };
    Ok(Lease::new(material, Times { issued_at: now_milliseconds(), expires_at: Some(expires_at), skew: response.skew }))
}

fn refusal_problem(identity: &Identity, response: &HttpResponse, text: &str) -> SourceProblem {
    let Some(code) = element_text(text, "Code") else { return response.unexpected_status_problem() };
    let detail = element_text(text, "Message").unwrap_or_default();
    let message = format!("STS answered `{}`: {}", sanitize_text(&code), sanitize_text(&detail));
    let from = identity.text("from").unwrap_or_default();
    match code.as_str() {
        "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "InvalidIdentityToken" => {
            SourceProblem::Refused(format!("{message} (the credential of `{from}`)"))
        }
        "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "InternalFailure" | "ServiceUnavailable" => {
            SourceProblem::Transient(message)
        }
        _ if detail.contains("sts:TagSession") => SourceProblem::Refused(format!(
            "{message} (allow `sts:TagSession` in the role's trust policy, or set `session_tags = false`)"
        )),
        _ if response.skew.abs() > SKEW_MAX => {
            let minutes = response.skew.abs() / 60_000;
            SourceProblem::Refused(format!("{message} (this machine's clock is {minutes} minutes off)"))
        }
        _ => SourceProblem::Refused(message),
    }
}

/// The text of the first element with this name. In STS responses, the four fields are not nested in themselves and
/// have no attributes.
fn element_text(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let mut unescaped = inner.trim().to_owned();
    // `&amp;` is last, so that `&amp;lt;` becomes `&lt;` and not `<`.
    for (escape, letter) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")] {
        unescaped = unescaped.replace(escape, letter);
    }
    Some(unescaped)
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
