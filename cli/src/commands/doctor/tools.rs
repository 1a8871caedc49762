//! Finds tools with two configured credential sources, where the other source overrides the identity.
//!
//! It reads only the relevant parts of the aws and docker configurations. It ignores files that it cannot parse,
//! because the tool reports them.

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
    let config = text(config_path("AWS_CONFIG_FILE", ".aws/config"));
    let shared = text(config_path("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"));
    let mut findings = aws_findings(&config, &shared);
    let folder = std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = folder.map(|folder| folder.join("config.json")).or_else(|| config_path("", ".docker/config.json"));
    findings.extend(docker_findings(identities, &text(path)));
    findings
}

fn config_path(variable: &str, default: &str) -> Option<PathBuf> {
    let from_variable =
        (!variable.is_empty()).then(|| std::env::var_os(variable)).flatten().filter(|value| !value.is_empty());
    from_variable.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(default)))
}

/// SDKs use the shared credentials file, and a role or sign-in of the profile, before they run a `credential_process`
/// (botocore 1.44, `ProfileProviderBuilder.providers`).
fn aws_findings(config: &str, shared: &str) -> Vec<Finding> {
    const OVERRIDING_FIELDS: [&str; 5] =
        ["role_arn", "web_identity_token_file", "sso_session", "sso_start_url", "login_session"];
    let profiles_with_keys: BTreeSet<&str> = ini_fields(shared)
        .into_iter()
        .filter(|(_, field, _)| *field == "aws_access_key_id")
        .map(|(name, ..)| name)
        .collect();
    let fields = ini_fields(config);
    let pdev_profiles =
        fields.iter().filter(|(_, field, value)| *field == "credential_process" && is_pdev_command(value));
    let mut findings = Vec::new();
    for (title, ..) in pdev_profiles {
        let profile = title.strip_prefix("profile ").unwrap_or(title).trim();
        if profiles_with_keys.contains(profile) {
            let state = format!(
                "the aws profile `{profile}` has keys in the shared credentials file: they win over the identity"
            );
            let hint = format!("Remove `[{profile}]` from ~/.aws/credentials.");
            findings.push(Finding::warning("tools", state, hint));
        }
        for (_, field, _) in
            fields.iter().filter(|(section, field, _)| section == title && OVERRIDING_FIELDS.contains(field))
        {
            let state = format!("the aws profile `{profile}` also has `{field}`: it wins over the identity");
            findings.push(Finding::warning(
                "tools",
                state,
                format!("Remove `{field}` from `[{title}]` in ~/.aws/config."),
            ));
        }
    }
    findings
}

fn is_pdev_command(command: &str) -> bool {
    command.contains("pdev") && command.contains(" credential aws ")
}

/// docker uses the helper of the server (`credHelpers`), else the one for all servers (`credsStore`), else its own
/// file.
fn docker_findings(identities: &Identities, config: &str) -> Vec<Finding> {
    let Ok(config) = serde_json::from_str::<Value>(config) else { return Vec::new() };
    let default_helper = config["credsStore"].as_str();
    let mut findings = Vec::new();
    for (host, helper) in config["credHelpers"].as_object().into_iter().flatten() {
        let identity = identities.all.values().find(|identity| serves_host(identity.list("hosts"), host));
        let helper = helper.as_str().unwrap_or_default();
        match identity {
            Some(identity) if helper != "pdev" => {
                let state = format!("docker asks `{helper}` for `{host}`, which `{}` serves", identity.name);
                let hint = format!(
                    "Run `pdev credential setup docker {}`, or remove the server from its `hosts`.",
                    identity.name
                );
                findings.push(Finding::warning("tools", state, hint));
            }
            None if helper == "pdev" => {
                let state = format!("docker asks pdev for `{host}`, which no identity serves");
                findings.push(Finding::warning("tools", state, "Add it to the `hosts` of an identity."));
            }
            _ => {}
        }
        if helper == "pdev" && config["auths"][host]["auth"].as_str().is_some_and(|auth| !auth.is_empty()) {
            let state =
                format!("docker's configuration also contains a password for `{host}`, which is not used any more");
            findings.push(Finding::warning(
                "tools",
                state,
                format!("Remove the entry of `{host}` from `auths`; docker asks pdev."),
            ));
        }
    }
    if default_helper == Some("pdev")
        && !identities.all.values().any(|identity| serves_host(identity.list("hosts"), DOCKER_HUB))
    {
        let state = "docker asks pdev for all servers, so it does not store new passwords (`credsStore`)";
        findings.push(Finding::warning("tools", state, "Name the servers in `credHelpers` instead."));
    }
    findings
}

fn serves_host(hosts: Option<&[String]>, server: &str) -> bool {
    hosts.unwrap_or_default().iter().any(|host| match host.strip_prefix('*') {
        Some(end) => server.to_lowercase().ends_with(&end.to_lowercase()),
        None => host.eq_ignore_ascii_case(server),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overridden_aws_profile_gives_warning() {
        let config = "[profile a]\ncredential_process = '/x/pdev' credential aws a\nrole_arn = r\n\
                      [profile b]\ncredential_process = other\nrole_arn = r\n\
                      [default]\ncredential_process = pdev credential aws c\ns3 =\n  role_arn = nested\n";
        let shared = "[a]\naws_access_key_id = AK\n[b]\naws_access_key_id = AK\n";
        let states: Vec<String> = aws_findings(config, shared).into_iter().map(|found| found.seen).collect();
        assert_eq!(
            states,
            [
                "the aws profile `a` has keys in the shared credentials file: they win over the identity",
                "the aws profile `a` also has `role_arn`: it wins over the identity",
            ]
        );
    }

    #[test]
    fn docker_helper_conflicts_give_warnings() {
        let text = "[hub]\nsource = \"exec\"\ncommand = [\"x\"]\nhosts = [\"*.example.org\", \"r.example\"]\n";
        let identities = credentials::identity::read(text).0;
        let config = r#"{"credHelpers": {"a.example.org": "gcloud", "r.example": "pdev", "q.example": "pdev", "z": "ecr"},
            "auths": {"r.example": {"auth": "eA=="}, "a.example.org": {}}, "credsStore": "pdev"}"#;
        let states: Vec<String> = docker_findings(&identities, config).into_iter().map(|found| found.seen).collect();
        assert_eq!(
            states,
            [
                "docker asks `gcloud` for `a.example.org`, which `hub` serves",
                "docker's configuration also contains a password for `r.example`, which is not used any more",
                "docker asks pdev for `q.example`, which no identity serves",
                "docker asks pdev for all servers, so it does not store new passwords (`credsStore`)",
            ]
        );
        assert!(docker_findings(&identities, "{").is_empty());
    }
}
