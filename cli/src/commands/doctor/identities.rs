//! Identities that will not give a credential when a tool or a service asks, and what gets in their way.

use std::collections::BTreeMap;

use client::{Client, SocketLocation};
use credentials::identity::Identities;
use protocol::identity::{IdentityState, IdentityStatus};

use super::Finding;
use crate::commands::identity::{credential_paths, load_identities};

/// Variables that SDKs of AWS take before any profile or endpoint.
const SHADOWING_VARIABLES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Nothing where there are no identities. Asks no source: what the agent knows already is enough.
pub(super) async fn check() -> Vec<Finding> {
    let Ok(place) = credential_paths() else { return Vec::new() };
    let (identities, wrong) = match load_identities(&place) {
        Ok(read) => read,
        Err(failure) => return vec![Finding::broken("identities", failure.problem.title, "Correct the file's mode.")],
    };
    let mut findings = file_findings(&place, &wrong);
    if identities.all.is_empty() {
        return findings;
    }
    let standings = match Client::connect(&SocketLocation::from_environment()).await {
        Ok(mut client) => client.identities().await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    findings.extend(standings.iter().filter_map(status_finding));
    findings.extend(conflict_findings(&identities));
    if findings.is_empty() {
        let count = identities.all.len();
        let ready = standings.iter().filter(|one| one.state == IdentityState::Ready).count();
        findings.push(Finding::fine("identities", format!("{count}, {ready} with a lease at this moment")));
    }
    findings
}

/// What is wrong with the file of identities.
pub(super) fn file_findings(
    place: &credentials::CredentialPaths,
    wrong: &[credentials::identity::Finding],
) -> Vec<Finding> {
    let told = |found: &credentials::identity::Finding| {
        let seen = format!("{}:{}: {}", place.identities().display(), found.line, found.message);
        Finding::broken("identities", seen, found.hint.clone().unwrap_or_default())
    };
    wrong.iter().map(told).collect()
}

/// What keeps a tool from an identity that would give a credential.
pub(super) fn conflict_findings(identities: &Identities) -> Vec<Finding> {
    let mut findings = shared_host_findings(identities);
    findings.extend(super::tools::check(identities));
    let is_aws = |kind: &str| kind.starts_with("aws-");
    if identities.all.values().any(|identity| is_aws(identity.kind)) {
        findings.extend(shadowing_finding(|name| std::env::var_os(name).is_some()));
    }
    findings
}

pub(super) fn status_finding(standing: &IdentityStatus) -> Option<Finding> {
    match (standing.state, &standing.problem) {
        (IdentityState::NeedsLogin, problem) => {
            let why = problem.as_ref().map_or("nobody is signed in", |problem| problem.title.as_str());
            let seen = format!("`{}`: {why}", standing.name);
            // A keyring that is locked comes before any login, and another identity's login before this one's.
            let hint = problem.as_ref().and_then(|problem| problem.hint.clone());
            let hint = hint.unwrap_or_else(|| format!("`pdev login {}` signs in.", standing.name));
            Some(Finding::warning("identities", seen, hint))
        }
        (IdentityState::Failing, Some(problem)) => {
            Some(Finding::warning("identities", problem.title.clone(), problem.hint.clone().unwrap_or_default()))
        }
        _ => None,
    }
}

/// Servers that two identities serve: docker, git and cargo then get neither.
fn shared_host_findings(identities: &Identities) -> Vec<Finding> {
    let mut owners: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for identity in identities.all.values() {
        for host in identity.list("hosts").unwrap_or_default() {
            owners.entry(host.to_lowercase()).or_default().push(&identity.name);
        }
    }
    let shared = owners.into_iter().filter(|(_, names)| names.len() > 1);
    let told = |(host, names): (String, Vec<&str>)| {
        let seen = format!("`{host}` is served by `{}`", names.join("` and `"));
        Finding::warning("identities", seen, "Leave it in the `hosts` of one of them.")
    };
    shared.map(told).collect()
}

fn shadowing_finding(is_set: impl Fn(&str) -> bool) -> Option<Finding> {
    let set: Vec<&str> = SHADOWING_VARIABLES.into_iter().filter(|name| is_set(name)).collect();
    let seen = format!("{} set in this environment: AWS tools take that before any identity", set.join(", "));
    (!set.is_empty()).then(|| Finding::warning("identities", seen, format!("`unset {}`", set.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_hosts_and_shadowing_variables_are_reported() {
        let exec = "source = \"exec\"\ncommand = [\"x\"]\nhosts = ";
        let text = format!("[a]\n{exec}[\"G.example\", \"h\"]\n[b]\n{exec}[\"g.example\"]\n");
        let seen: Vec<String> =
            shared_host_findings(&credentials::identity::read(&text).0).into_iter().map(|found| found.seen).collect();
        assert_eq!(seen, ["`g.example` is served by `a` and `b`"]);
        assert!(shadowing_finding(|_| false).is_none());
        let one = shadowing_finding(|name| name == "AWS_ACCESS_KEY_ID").unwrap();
        assert_eq!(one.hint.as_deref(), Some("`unset AWS_ACCESS_KEY_ID`"));
        let failing = IdentityStatus { name: "a".into(), state: IdentityState::NeedsLogin, ..Default::default() };
        assert_eq!(status_finding(&failing).unwrap().seen, "`a`: nobody is signed in");
    }
}
