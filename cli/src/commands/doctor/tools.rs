//! Finds settings of aws and docker that conflict with pdev: another credential source that overrides an identity,
//! servers without an identity, and leftover passwords.
//!
//! It reads only the relevant parts of the two configurations. It ignores files that it cannot parse, because aws and
//! docker report them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use credentials::identity::Identities;
use serde_json::Value;

use super::Finding;
use crate::credential::setup::ini_fields;

/// The name of Docker Hub in docker's configuration.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

pub(super) fn check(identities: &Identities) -> Vec<Finding> {
    let text = |path: Option<PathBuf>| path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let config = text(path_from("AWS_CONFIG_FILE", ".aws/config"));
    let credentials = text(path_from("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"));
    let docker_config = path_from("DOCKER_CONFIG", ".docker").map(|folder| folder.join("config.json"));
    let mut findings = aws_findings(&config, &credentials);
    findings.extend(docker_findings(identities, &text(docker_config)));
    findings
}

/// The path in an environment variable, else a path in the home folder.
fn path_from(variable: &str, default: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    value.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(default)))
}

/// Reports profiles with pdev as `credential_process` and another credential source. SDKs use the shared credentials
/// file, and a role or sign-in of the profile, before they run a `credential_process` (botocore 1.44,
/// `ProfileProviderBuilder.providers`).
fn aws_findings(config: &str, credentials: &str) -> Vec<Finding> {
    const OVERRIDING_FIELDS: [&str; 5] =
        ["role_arn", "web_identity_token_file", "sso_session", "sso_start_url", "login_session"];
    let profiles_with_keys: BTreeSet<&str> = ini_fields(credentials)
        .into_iter()
        .filter(|(_, field, _)| *field == "aws_access_key_id")
        .map(|(section, ..)| section)
        .collect();
    let fields = ini_fields(config);
    let pdev_profiles =
        fields.iter().filter(|(_, field, value)| *field == "credential_process" && is_pdev_command(value));
    let mut findings = Vec::new();
    for (section, ..) in pdev_profiles {
        // The configuration file has sections `[profile NAME]` and `[default]`, the credentials file only `[NAME]`.
        let profile = section.strip_prefix("profile ").unwrap_or(section).trim();
        if profiles_with_keys.contains(profile) {
            let message = format!(
                "the aws profile `{profile}` has keys in the shared credentials file, which override the identity"
            );
            let hint = format!("Remove the keys of `[{profile}]` from ~/.aws/credentials.");
            findings.push(Finding::warning("tools", message, hint));
        }
        for (other_section, field, _) in &fields {
            if other_section == section && OVERRIDING_FIELDS.contains(field) {
                let message = format!("the aws profile `{profile}` also has `{field}`, which overrides the identity");
                let hint = format!("Remove `{field}` from `[{section}]` in ~/.aws/config.");
                findings.push(Finding::warning("tools", message, hint));
            }
        }
    }
    findings
}

fn is_pdev_command(command: &str) -> bool {
    command.contains("pdev") && command.contains(" credential aws ")
}

/// docker asks the helper of a server (`credHelpers`), else the helper of all servers (`credsStore`). Without a helper
/// it uses the password in its own file (`auths`).
fn docker_findings(identities: &Identities, config: &str) -> Vec<Finding> {
    let Ok(config) = serde_json::from_str::<Value>(config) else { return Vec::new() };
    let mut findings = Vec::new();
    for (server, helper) in config["credHelpers"].as_object().into_iter().flatten() {
        let identity = identities.all.values().find(|identity| has_host(identity.list("hosts"), server));
        let helper = helper.as_str().unwrap_or_default();
        match identity {
            Some(identity) if helper != "pdev" => {
                let name = &identity.name;
                let message =
                    format!("docker asks `{helper}` for the server `{server}`, which is in the `hosts` of `{name}`");
                let hint = format!(
                    "Run `pdev credential setup docker {name}`, or remove the server from the `hosts` of `{name}`."
                );
                findings.push(Finding::warning("tools", message, hint));
            }
            None if helper == "pdev" => {
                let message = format!("docker asks pdev for the server `{server}`, which is in no identity's `hosts`");
                findings.push(Finding::warning("tools", message, "Add the server to the `hosts` of an identity."));
            }
            _ => {}
        }
        if helper == "pdev" && config["auths"][server]["auth"].as_str().is_some_and(|auth| !auth.is_empty()) {
            let message =
                format!("docker's configuration still contains a password for `{server}`, although docker asks pdev");
            findings.push(Finding::warning("tools", message, format!("Remove the entry of `{server}` from `auths`.")));
        }
    }
    // pdev stores no passwords, so with `credsStore` a `docker login` fails at each server without an identity. Docker
    // Hub represents these servers, because docker uses it for images without a server name.
    if config["credsStore"] == "pdev"
        && !identities.all.values().any(|identity| has_host(identity.list("hosts"), DOCKER_HUB))
    {
        let message = "docker asks pdev for all servers (`credsStore`), so docker cannot store new passwords";
        findings.push(Finding::warning(
            "tools",
            message,
            "List the servers of your identities in `credHelpers` instead.",
        ));
    }
    findings
}

fn has_host(hosts: Option<&[String]>, server: &str) -> bool {
    hosts.unwrap_or_default().iter().any(|host| match host.strip_prefix('*') {
        Some(end) => server.to_lowercase().ends_with(&end.to_lowercase()),
        None => host.eq_ignore_ascii_case(server),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn overridden_aws_profile_gives_warning() {
        let config = "[profile a]\ncredential_process = '/x/pdev' credential aws a\nrole_arn = r\n\
                      [profile b]\ncredential_process = other\nrole_arn = r\n\
                      [default]\ncredential_process = pdev credential aws c\ns3 =\n  role_arn = nested\n";
        let credentials = "[a]\naws_access_key_id = AK\n[b]\naws_access_key_id = AK\n";
        assert_eq!(
            messages(aws_findings(config, credentials)),
            [
                "the aws profile `a` has keys in the shared credentials file, which override the identity",
                "the aws profile `a` also has `role_arn`, which overrides the identity",
            ]
        );
    }

    #[test]
    fn docker_helper_conflicts_give_warnings() {
        let text = "[registry]\nsource = \"exec\"\ncommand = [\"x\"]\nhosts = [\"*.example.org\", \"r.example\"]\n";
        let identities = credentials::identity::read(text).0;
        let config = r#"{"credHelpers": {"a.example.org": "gcloud", "r.example": "pdev", "q.example": "pdev", "z": "ecr"},
            "auths": {"r.example": {"auth": "eA=="}, "a.example.org": {}}, "credsStore": "pdev"}"#;
        assert_eq!(
            messages(docker_findings(&identities, config)),
            [
                "docker asks `gcloud` for the server `a.example.org`, which is in the `hosts` of `registry`",
                "docker's configuration still contains a password for `r.example`, although docker asks pdev",
                "docker asks pdev for the server `q.example`, which is in no identity's `hosts`",
                "docker asks pdev for all servers (`credsStore`), so docker cannot store new passwords",
            ]
        );
        assert!(docker_findings(&identities, "{").is_empty());
    }
}
