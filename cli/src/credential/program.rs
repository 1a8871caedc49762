//! `pdev run --as IDENTITY -- PROGRAM`: runs a program as an identity.
//!
//! The program gets an endpoint, from which its SDKs fetch and renew credentials. Credentials without an endpoint
//! protocol are put into the environment of this program only.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use protocol::identity::CredentialRequest;

use super::fetch_credential;
use super::setup::ini_fields;
use crate::exit::{EXEC_FAILED, Failure, Outcome};
use crate::humanize;

/// Credentials of the caller's environment. They would override those of the identity, or mix with them.
const CLEARED_VARIABLES: [&str; 6] = [
    "AWS_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
];

/// Variables that SDKs read before an endpoint. The first name of each entry is set only with an endpoint of that
/// cloud.
const OVERRIDING_VARIABLES: [(&str, &[&str]); 3] = [
    (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        &[
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_ROLE_ARN",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        ],
    ),
    (
        "GCE_METADATA_HOST",
        &["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_AUTH_ACCESS_TOKEN", "CLOUDSDK_ACTIVE_CONFIG_NAME"],
    ),
    (
        "IDENTITY_ENDPOINT",
        &["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"],
    ),
];

/// Replaces this process with the program, so the caller sees its exit code and signals.
pub(crate) fn run(identity: &str, command_line: &[OsString], folder: &Path, in_environment: bool) -> Outcome {
    let Some((program, arguments)) = command_line.split_first() else {
        return Err(
            Failure::invalid_input("no program is named").hint("Write it after `--`: `pdev run --as NAME -- PROGRAM`.")
        );
    };
    let request = CredentialRequest {
        identity: Some(identity.to_owned()),
        form: if in_environment { "env" } else { "endpoint" }.to_owned(),
        ..CredentialRequest::default()
    };
    let bytes = fetch_credential(&request).map_err(|problem| Failure { exit_code: EXEC_FAILED, problem })?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).current_dir(folder);
    for name in CLEARED_VARIABLES {
        command.env_remove(name);
    }
    let variables = parse_env_pairs(bytes);
    let has = |name: &str| variables.iter().any(|(variable, _)| variable == name);
    for name in OVERRIDING_VARIABLES
        .iter()
        .filter(|(endpoint_variable, _)| has(endpoint_variable))
        .flat_map(|(_, names)| names.iter())
    {
        command.env_remove(name);
    }
    if has("AWS_CONFIG_FILE")
        && let Some(region) = configured_region()
    {
        // botocore reads only AWS_DEFAULT_REGION, the other SDKs AWS_REGION.
        command.env("AWS_REGION", &region).env("AWS_DEFAULT_REGION", &region);
    }
    command.envs(variables);
    let error = command.exec();
    // `exec` returns only if it failed. The exit codes are those of a shell.
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    let message = format!("cannot start `{}`: {}", program.display(), humanize::io_error(&error));
    Err(Failure::new(code, "program_not_started", message))
}

/// The region of the user's AWS configuration. The program does not see that file, because the credentials in it would
/// override the endpoint. `None` if a variable sets the region, which the program inherits.
fn configured_region() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")).is_some() {
        return None;
    }
    let path = set("AWS_CONFIG_FILE").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".aws/config")))?;
    let text = std::fs::read_to_string(path).ok()?;
    find_region(&text, set("AWS_PROFILE").as_deref()).map(str::to_owned)
}

fn find_region<'a>(config: &'a str, profile: Option<&str>) -> Option<&'a str> {
    let selected = profile.unwrap_or("default");
    let is_selected = |title: &str| title.strip_prefix("profile ").unwrap_or(title).trim() == selected;
    ini_fields(config)
        .into_iter()
        .find(|(title, field, _)| is_selected(title) && *field == "region")
        .map(|(.., value)| value)
}

/// Parses pairs `NAME=value`, each terminated by a NUL, which values cannot contain.
fn parse_env_pairs(bytes: Vec<u8>) -> Vec<(OsString, OsString)> {
    let split = |pair: &[u8]| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((OsString::from_vec(pair[..at].to_vec()), OsString::from_vec(pair[at + 1..].to_vec())))
    };
    bytes.split(|byte| *byte == 0).filter_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_is_read_from_selected_profile() {
        let config = "[default]\nregion = eu-west-1\ns3 =\n  region = nested\n[profile a]\nregion=us-east-2\n";
        assert_eq!(find_region(config, None), Some("eu-west-1"));
        assert_eq!(find_region(config, Some("a")), Some("us-east-2"));
        assert_eq!(find_region(config, Some("b")), None);
    }

    #[test]
    fn nul_separated_variables_are_parsed() {
        let pairs = parse_env_pairs(b"A=1\0B=x=y\nz\0".to_vec());
        assert_eq!(pairs, [("A".into(), "1".into()), ("B".into(), "x=y\nz".into())]);
    }
}
