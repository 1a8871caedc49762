//! Any program whose standard output is JSON in a format of a known tool.
//!
//! Supported are AWS `credential_process`, kubectl's ExecCredential, gcloud's `config-helper`, docker's `{"Username",
//! "Secret"}`, `{"token", "expires_at"}`, and the output of `az account get-access-token`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::SourceContext;
use crate::identity::Identity;
use crate::launch::is_start_failure;
use crate::lease::Purpose;
use crate::lease::{Lease, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;
use crate::wiped_json::WipedJson;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Passes the requested resource to the program, if there is one.
const RESOURCE_VARIABLE: &str = "PDEV_RESOURCE";
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
const OUTPUT_BYTES_INITIAL: usize = 16 << 10;

pub(super) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let now = context.now;
    let command = identity.list("command").unwrap_or_default();
    let (program, arguments) = command.split_first().ok_or_else(|| SourceProblem::Refused("no command".to_owned()))?;
    let timeout = identity.duration("timeout").unwrap_or(DEFAULT_TIMEOUT);
    let mut process = context
        .launcher
        .filter(|launcher| launcher.is_available())
        .map_or_else(|| Command::new(program), |launcher| launcher.command(program));
    if let Purpose::Resource(resource) = context.purpose {
        process.env(RESOURCE_VARIABLE, resource);
    }
    let mut child = process
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // After the timeout, the child is dropped and must not keep running.
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| SourceProblem::Refused(format!("cannot start `{program}`: {error}")))?;
    let (stdout_pipe, stderr_pipe) = (child.stdout.take(), child.stderr.take());
    // A large initial capacity, because a growing buffer leaves copies of the secret in freed memory.
    let (mut stdout, mut stderr) = (Zeroizing::new(Vec::with_capacity(OUTPUT_BYTES_INITIAL)), Vec::new());
    let wait_for_end = async {
        let read_stdout = async { read_output(stdout_pipe, &mut stdout).await };
        let read_stderr = async { read_output(stderr_pipe, &mut stderr).await };
        // Read both pipes while waiting, because a full pipe would block the program.
        let (_, _, status) = tokio::join!(read_stdout, read_stderr, child.wait());
        status
    };
    let status = match tokio::time::timeout(timeout, wait_for_end).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(SourceProblem::Transient(format!("`{program}`: {error}"))),
        Err(_) => {
            return Err(SourceProblem::Transient(format!("`{program}` did not end within {} s", timeout.as_secs())));
        }
    };
    if !status.success() {
        // Show only standard error, because standard output may contain part of a secret.
        let stderr = String::from_utf8_lossy(&stderr);
        let last_line = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no error message");
        let last_line: String = last_line.chars().filter(|letter| !letter.is_control()).take(300).collect();
        if is_start_failure(status.code(), &last_line) {
            return Err(SourceProblem::Refused(last_line));
        }
        return Err(SourceProblem::Transient(format!("`{program}` ended with {status}: {last_line}")));
    }
    parse_output(&stdout, now).map_err(|reason| SourceProblem::Refused(format!("`{program}` {reason}")))
}

async fn read_output(pipe: Option<impl tokio::io::AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // Output beyond the limit is dropped; the truncated JSON then fails to parse.
        let _read = pipe.take(OUTPUT_BYTES_MAX).read_to_end(into).await;
    }
}

/// Parses the output of a program. The error does not contain the output.
fn parse_output(output: &[u8], now: i64) -> Result<Lease, String> {
    let value = WipedJson::new(serde_json::from_slice(output).map_err(|_| "printed no JSON".to_owned())?);
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let secret = |value: &Value| text(value).map(|text| Secret::new(text.into_bytes()));
    let (material, expiry) = if let Some(access_key_id) = text(&value["AccessKeyId"]) {
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
        return Err("printed JSON in no known format".to_owned());
    };
    let expires_at = match expiry {
        Value::Null => None,
        Value::Number(seconds) => seconds.as_i64().map(|seconds| seconds.saturating_mul(1000)),
        other => {
            Some(parse_rfc3339(other.as_str().unwrap_or_default()).ok_or("printed an end that is no RFC 3339 time")?)
        }
    };
    if expires_at.is_some_and(|expiry| expiry <= now) {
        return Err("printed credentials that have already expired; check the clocks".to_owned());
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
            Err(message) => message,
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
                "printed credentials that have already expired; check the clocks",
            ),
            ("canary", "printed no JSON"),
            ("{}", "printed JSON in no known format"),
        ] {
            assert_eq!(describe_output(text), expected, "{text}");
        }
    }
}
