//! Any program: its standard output is JSON in one of the forms that other tools print.
//!
//! Understood are AWS `credential_process`, kubectl's ExecCredential, gcloud's `config-helper`, az's
//! `account get-access-token`, docker's `{"Username", "Secret"}`, and `{"token", "expires_at"}`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::{Purpose, SourceContext, SourceProblem};
use crate::identity::Identity;
use crate::launch::is_start_failure;
use crate::lease::{Lease, Material, Times};
use crate::secret::Secret;
use crate::wiped_json::WipedJson;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Tells the program what a token is asked for, where that is known.
const RESOURCE_VARIABLE: &str = "PDEV_RESOURCE";
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
const OUTPUT_BYTES_INITIAL: usize = 16 << 10;

pub(super) async fn fetch_lease(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let now = means.now;
    let command = identity.list("command").unwrap_or_default();
    let (program, arguments) = command.split_first().ok_or_else(|| SourceProblem::Refused("no command".to_owned()))?;
    let limit = identity.duration("timeout").unwrap_or(DEFAULT_TIMEOUT);
    let mut run = means
        .launcher
        .filter(|launcher| launcher.is_available())
        .map_or_else(|| Command::new(program), |launcher| launcher.command(program));
    if let Purpose::Resource(resource) = means.purpose {
        run.env(RESOURCE_VARIABLE, resource);
    }
    let mut child = run
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| SourceProblem::Refused(format!("cannot start `{program}`: {error}")))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // Enough from the start: bytes that grow leave parts of themselves behind.
    let (mut said, mut complained) = (Zeroizing::new(Vec::with_capacity(OUTPUT_BYTES_INITIAL)), Vec::new());
    let ended = async {
        let read_out = async { read_output(out, &mut said).await };
        let read_err = async { read_output(err, &mut complained).await };
        let (_, _, status) = tokio::join!(read_out, read_err, child.wait());
        status
    };
    let status = match tokio::time::timeout(limit, ended).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(SourceProblem::Transient(format!("`{program}`: {error}"))),
        Err(_) => {
            return Err(SourceProblem::Transient(format!("`{program}` did not end within {} s", limit.as_secs())));
        }
    };
    if !status.success() {
        // Standard error is meant for people; standard output may hold half a secret.
        let words = String::from_utf8_lossy(&complained);
        let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        let last: String = last.chars().filter(|letter| !letter.is_control()).take(300).collect();
        if is_start_failure(status.code(), &last) {
            return Err(SourceProblem::Refused(last));
        }
        return Err(SourceProblem::Transient(format!("`{program}` ended with {status}: {last}")));
    }
    parse_output(&said, now).map_err(|words| SourceProblem::Refused(format!("`{program}` {words}")))
}

async fn read_output(pipe: Option<impl tokio::io::AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // What is beyond the limit is cut; half a JSON text is refused like any other.
        let _read = pipe.take(OUTPUT_BYTES_MAX).read_to_end(into).await;
    }
}

/// The lease in a program's output. The words never repeat the output.
fn parse_output(said: &[u8], now: i64) -> Result<Lease, String> {
    let value = WipedJson::new(serde_json::from_slice(said).map_err(|_| "printed no JSON".to_owned())?);
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let secret = |value: &Value| text(value).map(|text| Secret::new(text.into_bytes()));
    let (material, end) = if let Some(access_key_id) = text(&value["AccessKeyId"]) {
        if value["Version"] != 1 {
            return Err("printed AWS credentials whose `Version` is not 1".to_owned());
        }
        let secret_access_key = secret(&value["SecretAccessKey"]).ok_or("printed no `SecretAccessKey`")?;
        let (session_token, account) = (secret(&value["SessionToken"]), text(&value["AccountId"]));
        (Material::Aws { access_key_id, secret_access_key, session_token, account }, &value["Expiration"])
    } else if value["kind"] == "ExecCredential" {
        let status = &value["status"];
        let token = secret(&status["token"]).ok_or("printed an ExecCredential without a token")?;
        (Material::Token(token), &status["expirationTimestamp"])
    } else if let Some(token) = secret(&value["credential"]["access_token"]) {
        (Material::Token(token), &value["credential"]["token_expiry"])
    } else if let Some(token) = secret(&value["accessToken"]) {
        (Material::Token(token), &value["expires_on"])
    } else if let (Some(username), Some(password)) = (text(&value["Username"]), secret(&value["Secret"])) {
        (Material::Password { username, password }, &Value::Null)
    } else if let Some(token) = secret(&value["token"]) {
        (Material::Token(token), &value["expires_at"])
    } else {
        return Err("printed JSON of no known form".to_owned());
    };
    let expires_at = match end {
        Value::Null => None,
        Value::Number(seconds) => seconds.as_i64().map(|seconds| seconds.saturating_mul(1000)),
        other => {
            Some(parse_rfc3339(other.as_str().unwrap_or_default()).ok_or("printed an end that is no RFC 3339 time")?)
        }
    };
    if expires_at.is_some_and(|end| end <= now) {
        return Err("printed credentials that have ended already; is a clock wrong?".to_owned());
    }
    Ok(Lease::new(material, Times { issued_at: now, expires_at, skew: 0 }))
}

/// Unix milliseconds.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(parsed.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_000_000_000;

    fn describe_output(text: &str) -> String {
        match parse_output(text.as_bytes(), NOW) {
            Ok(lease) => format!("{} until {:?}", lease.material.description(), lease.times.expires_at),
            Err(words) => words,
        }
    }

    #[test]
    fn output_of_known_tools_is_parsed() {
        for (text, expected) in [
            (
                r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"S","SessionToken":"T","Expiration":"2027-01-01T00:00:00Z"}"#,
                "AWS credentials until Some(1798761600000)",
            ),
            (r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"S"}"#, "AWS credentials until None"),
            (
                r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"t"}}"#,
                "a token until None",
            ),
            (
                r#"{"credential":{"access_token":"t","token_expiry":"2027-01-01T00:00:00Z"}}"#,
                "a token until Some(1798761600000)",
            ),
            (
                r#"{"accessToken":"t","expiresOn":"2027-01-01 01:00:00.000000","expires_on":1798761600,"tokenType":"Bearer"}"#,
                "a token until Some(1798761600000)",
            ),
            (r#"{"Username":"u","Secret":"s"}"#, "a password until None"),
            (r#"{"token":"t","expires_at":1798761600}"#, "a token until Some(1798761600000)"),
            (r#"{"Version":2,"AccessKeyId":"A"}"#, "printed AWS credentials whose `Version` is not 1"),
            (r#"{"Version":1,"AccessKeyId":"A"}"#, "printed no `SecretAccessKey`"),
            (r#"{"token":"canary","expires_at":"soon"}"#, "printed an end that is no RFC 3339 time"),
            (
                r#"{"token":"canary","expires_at":"2020-01-01T00:00:00Z"}"#,
                "printed credentials that have ended already; is a clock wrong?",
            ),
            ("canary", "printed no JSON"),
            ("{}", "printed JSON of no known form"),
        ] {
            assert_eq!(describe_output(text), expected, "{text}");
        }
    }
}
