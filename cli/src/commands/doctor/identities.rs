//! Checks the identities: which cannot provide a credential, and which settings prevent tools from using them.

use std::collections::BTreeMap;

use client::{Client, SocketLocation};
use credentials::identity::Identities;
use protocol::identity::{IdentityState, IdentityStatus};

use super::Finding;
use crate::commands::identity::load_identities;
use crate::vault_access::credential_paths;

/// Variables that AWS SDKs read before any profile or endpoint.
const SHADOWING_VARIABLES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Empty if there are no identities. It sends no request to a source: the status from the agent is enough.
pub(super) async fn check() -> Vec<Finding> {
    let Ok(paths) = credential_paths() else { return Vec::new() };
    let (identities, file_problems) = match load_identities(&paths) {
        Ok(loaded) => loaded,
        Err(failure) => return vec![Finding::broken("identities", failure.problem.title, "Make the file readable.")],
    };
    let mut findings = file_findings(&paths, &file_problems);
    if identities.all.is_empty() {
        return findings;
    }
    let statuses = match Client::connect(&SocketLocation::from_environment()).await {
        Ok(mut client) => client.identities().await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    findings.extend(statuses.iter().filter_map(status_finding));
    findings.extend(conflict_findings(&identities));
    if findings.is_empty() {
        let count = identities.all.len();
        let ready = statuses.iter().filter(|status| status.state == IdentityState::Ready).count();
        findings.push(Finding::fine("identities", format!("{count} configured, {ready} with a lease now")));
    }
    findings
}

/// The problems of the identities file.
pub(super) fn file_findings(
    paths: &credentials::CredentialPaths,
    problems: &[credentials::identity::Finding],
) -> Vec<Finding> {
    let to_finding = |problem: &credentials::identity::Finding| {
        let message = format!("{}:{}: {}", paths.identities().display(), problem.line, problem.message);
        Finding::broken("identities", message, problem.hint.clone().unwrap_or_default())
    };
    problems.iter().map(to_finding).collect()
}

/// Settings that prevent tools from using an identity that could provide a credential.
pub(super) fn conflict_findings(identities: &Identities) -> Vec<Finding> {
    let mut findings = shared_host_findings(identities);
    findings.extend(super::tools::check(identities));
    let is_aws = |kind: &str| kind.starts_with("aws-");
    if identities.all.values().any(|identity| is_aws(identity.kind)) {
        findings.extend(shadowing_finding(|name| std::env::var_os(name).is_some()));
    }
    findings
}

pub(super) fn status_finding(status: &IdentityStatus) -> Option<Finding> {
    match (status.state, &status.problem) {
        (IdentityState::NeedsLogin, problem) => {
            let reason = problem.as_ref().map_or("no user is signed in", |problem| problem.title.as_str());
            let message = format!("`{}`: {reason}", status.name);
            // The hint of the problem comes first: it may be to unlock the keyring, or to sign in to another identity.
            let hint = problem.as_ref().and_then(|problem| problem.hint.clone());
            let hint = hint.unwrap_or_else(|| format!("Run `pdev login {}` to sign in.", status.name));
            Some(Finding::warning("identities", message, hint))
        }
        (IdentityState::Failing, Some(problem)) => {
            Some(Finding::warning("identities", problem.title.clone(), problem.hint.clone().unwrap_or_default()))
        }
        _ => None,
    }
}

/// Servers in the `hosts` of several identities: docker, git and cargo then get no credential.
fn shared_host_findings(identities: &Identities) -> Vec<Finding> {
    let mut owners: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for identity in identities.all.values() {
        for host in identity.list("hosts").unwrap_or_default() {
            owners.entry(host.to_lowercase()).or_default().push(&identity.name);
        }
    }
    let shared = owners.into_iter().filter(|(_, names)| names.len() > 1);
    let to_finding = |(host, names): (String, Vec<&str>)| {
        let message = format!("the server `{host}` is in the `hosts` of `{}`", names.join("` and `"));
        Finding::warning("identities", message, "Keep the server in the `hosts` of only one identity.")
    };
    shared.map(to_finding).collect()
}

fn shadowing_finding(is_set: impl Fn(&str) -> bool) -> Option<Finding> {
    let set_variables: Vec<&str> = SHADOWING_VARIABLES.into_iter().filter(|name| is_set(name)).collect();
    if set_variables.is_empty() {
        return None;
    }
    let message = format!("AWS tools use {} of this environment instead of any identity", set_variables.join(", "));
    Some(Finding::warning("identities", message, format!("Run `unset {}`.", set_variables.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_hosts_and_shadowing_variables_are_reported() {
        let exec = "source = \"exec\"\ncommand = [\"x\"]\nhosts = ";
        let text = format!("[a]\n{exec}[\"G.example\", \"h\"]\n[b]\n{exec}[\"g.example\"]\n");
        let messages: Vec<String> = shared_host_findings(&credentials::identity::read(&text).0)
            .into_iter()
            .map(|found| found.message)
            .collect();
        assert_eq!(messages, ["the server `g.example` is in the `hosts` of `a` and `b`"]);
        assert!(shadowing_finding(|_| false).is_none());
        let finding = shadowing_finding(|name| name == "AWS_ACCESS_KEY_ID").unwrap();
        assert_eq!(finding.hint.as_deref(), Some("Run `unset AWS_ACCESS_KEY_ID`."));
        let status = IdentityStatus { name: "a".into(), state: IdentityState::NeedsLogin, ..Default::default() };
        assert_eq!(status_finding(&status).unwrap().message, "`a`: no user is signed in");
    }
}
