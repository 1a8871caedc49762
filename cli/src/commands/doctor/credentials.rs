//! `pdev doctor credentials`: checks the vault, the identities and their expiry, conflicting settings and the clock.
//!
//! It requests the time from the servers and, only with `--ask`, a lease from the sources. It receives no credential.

use client::Client;
use credentials::identity::{Identities, Identity};
use credentials::vault::{self, Vault, VaultOptions};
use credentials::{CredentialPaths, clock};
use host::clock::now_milliseconds;
use protocol::identity::{IdentityState, IdentityStatus};

use super::{Finding, identities};
use crate::commands::identity::load_identities;
use crate::humanize;
use crate::vault_access::credential_paths;

/// Milliseconds. With a larger offset, AWS may refuse signatures and Google assertions.
const CLOCK_TOLERANCE: i64 = 60_000;

pub(super) async fn check(ask: bool) -> Vec<Finding> {
    let paths = match credential_paths() {
        Ok(paths) => paths,
        Err(failure) => return vec![Finding::broken("place", failure.problem.title, "Set HOME.")],
    };
    let mut findings = vec![check_vault(&paths).await];
    let (identities, file_problems) = match load_identities(&paths) {
        Ok(loaded) => loaded,
        Err(failure) => {
            findings.push(Finding::broken("identities", failure.problem.title, "Make the file readable."));
            return findings;
        }
    };
    findings.extend(identities::file_findings(&paths, &file_problems));
    if identities.all.is_empty() && file_problems.is_empty() {
        let message =
            "there are none; `pdev identity add` adds one, `pdev identity import` imports those of other tools";
        findings.push(Finding::fine("identities", message));
    }
    findings.extend(check_identities(&identities, ask).await);
    findings.extend(identities::conflict_findings(&identities));
    findings.extend(clock::compare(&identities).await.into_iter().map(clock_finding));
    findings
}

pub(super) async fn check_vault(paths: &CredentialPaths) -> Finding {
    let folder = paths.vault();
    let key_store = match vault::key_store_of(&folder) {
        Ok(Some(key_store)) => key_store,
        Ok(None) => return Finding::fine("vault", "there is none yet; the first login creates it"),
        Err(problem) => return Finding::broken("vault", problem.to_string(), problem.hint().unwrap_or_default()),
    };
    let vault = match VaultOptions::from_environment() {
        Ok(options) => Vault::open(&folder, &options).await,
        Err(problem) => Err(problem),
    };
    match vault {
        Ok(vault) if vault.is_swappable() => swap_warning("the vault's key"),
        Ok(_) => Finding::fine("vault", format!("opens with the {key_store}")),
        Err(problem) => Finding::broken("vault", problem.to_string(), problem.hint().unwrap_or_default()),
    }
}

/// Reports each identity with the status from the agent. With `ask`, the agent first requests a credential from its
/// source.
async fn check_identities(identities: &Identities, ask: bool) -> Vec<Finding> {
    if identities.all.is_empty() {
        return Vec::new();
    }
    let fetch_statuses = async {
        // Only `--ask` needs a running agent, so only `--ask` starts one.
        let mut client = match ask {
            true => crate::context::Context::connect().await.map_err(|failure| failure.problem.title)?,
            false => {
                Client::connect(&client::SocketLocation::from_environment()).await.map_err(|error| error.to_string())?
            }
        };
        if ask {
            for name in identities.all.keys() {
                client.check_identity(name).await.map_err(|error| error.to_string())?;
            }
        }
        client.identities().await.map_err(|error| error.to_string())
    };
    match fetch_statuses.await {
        Ok(statuses) => {
            let now = now_milliseconds();
            let status_of = |identity: &Identity| statuses.iter().find(|status| status.name == identity.name);
            let findings = identities
                .all
                .values()
                .filter_map(|identity| Some(identity_finding(identity, status_of(identity)?, identities, now)));
            findings.chain(check_locked_memory(&statuses)).collect()
        }
        Err(reason) => {
            vec![Finding::fine("agent", format!("{reason}; the status of the identities is unknown without it"))]
        }
    }
}

/// Whether the leases in the agent's memory may be swapped to disk. `None` if the agent holds no lease.
fn check_locked_memory(statuses: &[IdentityStatus]) -> Option<Finding> {
    let leases: Vec<&IdentityStatus> = statuses.iter().filter(|status| status.state == IdentityState::Ready).collect();
    if leases.is_empty() {
        return None;
    }
    let names: Vec<String> =
        leases.iter().filter(|status| status.swappable).map(|status| format!("`{}`", status.name)).collect();
    Some(match names.is_empty() {
        true => Finding::fine("memory", "all held leases are locked into memory"),
        false => swap_warning(&format!("the lease of {}", names.join(", "))),
    })
}

fn swap_warning(subject: &str) -> Finding {
    let message = format!("{subject} could not be locked into memory: the system may write it to its swap");
    let hint = "Raise the limit of locked memory (`ulimit -l 1024` before the agent is started, `LimitMEMLOCK=` for systemd), or encrypt the swap.";
    Finding::warning("memory", message, hint)
}

fn identity_finding(identity: &Identity, status: &IdentityStatus, identities: &Identities, now: i64) -> Finding {
    if let Some(finding) = identities::status_finding(status) {
        return finding;
    }
    let chain = source_chain(identity, identities);
    let state = match (status.state, status.expires_at) {
        (IdentityState::Ready, Some(end)) => {
            let time = humanize::time_of_day(end);
            // Hours and minutes only.
            let until = format!("{} {} UTC", humanize::date(end), &time[..time.len().min(5)]);
            format!(
                "holds a lease until {until}, in {}; it is renewed before that while it is in use",
                humanize::age(now, end)
            )
        }
        (IdentityState::Ready, None) => "holds a credential that does not expire".to_owned(),
        _ => "not requested since the agent started; pass `--ask` to request a credential from its source".to_owned(),
    };
    Finding::fine("identities", format!("`{}`{chain}: {state}", identity.name))
}

/// The identities that this one is built on, because each of them may be the cause of a failure.
fn source_chain(identity: &Identity, identities: &Identities) -> String {
    let mut names = Vec::new();
    let mut current = identity;
    // It ends, because reading the file refuses cycles.
    while let Some(next) = current.text("from").and_then(|from| identities.get(from)) {
        names.push(format!("`{}`", next.name));
        current = next;
    }
    if names.is_empty() { String::new() } else { format!(" (from {})", names.join(" from ")) }
}

fn clock_finding(reading: clock::ClockReading) -> Finding {
    let server = &reading.server;
    match reading.offset {
        Ok(ahead) if ahead.abs() > CLOCK_TOLERANCE => {
            // Rounded to minutes.
            let difference = humanize::duration((ahead.unsigned_abs() + 30_000) / 60_000 * 60_000);
            let direction = if ahead > 0 { "behind" } else { "ahead of" };
            let message = format!(
                "this machine is about {difference} {direction} `{server}`, so leases seem to end at the wrong time"
            );
            Finding::warning("clock", message, "Set the clock: `timedatectl set-ntp true`.")
        }
        Ok(_) => Finding::fine("clock", format!("agrees with `{server}`")),
        Err(reason) => Finding::warning(
            "clock",
            format!("`{server}` did not report its time: {reason}"),
            "Check the network connection.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_finding_names_expiry_and_chain() {
        let role =
            |name: &str, from: &str| format!("[{name}]\nsource = \"aws-role\"\nfrom = \"{from}\"\nrole_arn = \"r\"\n");
        let text = format!("[a]\nsource = \"exec\"\ncommand = [\"x\"]\n{}{}", role("b", "a"), role("c", "b"));
        let identities = credentials::identity::read(&text).0;
        let finding = |state, expires_at| {
            let status = IdentityStatus { name: "c".into(), state, expires_at, ..Default::default() };
            identity_finding(identities.get("c").unwrap(), &status, &identities, 1_000_000).message
        };
        assert_eq!(
            finding(IdentityState::Ready, Some(3_460_000)),
            "`c` (from `b` from `a`): holds a lease until 1970-01-01 00:57 UTC, in 41 min; it is renewed before that while it is in use"
        );
        assert!(finding(IdentityState::Idle, None).contains("not requested since"));
        assert_eq!(finding(IdentityState::NeedsLogin, None), "`c`: no user is signed in");
    }

    #[test]
    fn swappable_leases_give_one_warning() {
        let lease =
            |name: &str, state, swappable| IdentityStatus { name: name.into(), state, swappable, ..Default::default() };
        let (ready, idle) = (IdentityState::Ready, IdentityState::Idle);
        assert_eq!(check_locked_memory(&[lease("a", idle, false)]), None);
        assert_eq!(
            check_locked_memory(&[lease("a", idle, false), lease("b", ready, false)]).unwrap().health,
            super::super::Health::Fine
        );
        let finding =
            check_locked_memory(&[lease("a", ready, true), lease("b", ready, false), lease("c", ready, true)]).unwrap();
        assert!(
            finding.message.starts_with("the lease of `a`, `c` could not be locked into memory"),
            "{}",
            finding.message
        );
    }

    #[test]
    fn clock_offset_gives_warning() {
        let state = |ahead: Result<i64, String>| {
            clock_finding(clock::ClockReading { server: "s".into(), offset: ahead }).message
        };
        assert_eq!(state(Ok(0)), "agrees with `s`");
        assert!(state(Ok(1_200_000)).starts_with("this machine is about 20 min behind `s`"));
        assert!(state(Ok(-1_200_000)).starts_with("this machine is about 20 min ahead of `s`"));
        assert_eq!(state(Err("no".into())), "`s` did not report its time: no");
    }
}
