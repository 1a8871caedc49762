//! `pdev doctor credentials`: the vault, every identity with its end, what is configured twice, and the clock.
//!
//! Asks the servers for their time and, only with `--ask`, the sources for a lease; no credential comes here.

use client::Client;
use credentials::identity::{Identities, Identity};
use credentials::vault::{self, Vault, VaultOptions};
use credentials::{CredentialPaths, clock};
use protocol::identity::{IdentityState, IdentityStatus};

use super::{Finding, identities};
use crate::commands::identity::{credential_paths, load_identities};
use crate::humanize;

/// Signatures of AWS and assertions of Google are refused beyond about this.
const CLOCK_TOLERANCE: i64 = 60_000;

pub(super) async fn check(ask: bool) -> Vec<Finding> {
    let place = match credential_paths() {
        Ok(place) => place,
        Err(failure) => return vec![Finding::broken("place", failure.problem.title, "Set HOME.")],
    };
    let mut findings = vec![check_vault(&place).await];
    let (identities, wrong) = match load_identities(&place) {
        Ok(read) => read,
        Err(failure) => {
            findings.push(Finding::broken("identities", failure.problem.title, "Correct the file's mode."));
            return findings;
        }
    };
    findings.extend(identities::file_findings(&place, &wrong));
    if identities.all.is_empty() && wrong.is_empty() {
        let seen =
            "there are none; `pdev identity add` makes one, `pdev identity import` takes over those of other tools";
        findings.push(Finding::fine("identities", seen));
    }
    findings.extend(check_identities(&identities, ask).await);
    findings.extend(identities::conflict_findings(&identities));
    findings.extend(clock::compare(&identities).await.into_iter().map(clock_finding));
    findings
}

async fn check_vault(place: &CredentialPaths) -> Finding {
    let folder = place.vault();
    let holder = match vault::key_store_of(&folder) {
        Ok(Some(holder)) => holder,
        Ok(None) => return Finding::fine("vault", "there is none yet; the first login makes it"),
        Err(problem) => return Finding::broken("vault", problem.to_string(), problem.hint().unwrap_or_default()),
    };
    let opened = match VaultOptions::from_environment() {
        Ok(choice) => Vault::open(&folder, &choice).await,
        Err(problem) => Err(problem),
    };
    match opened {
        Ok(vault) if vault.is_swappable() => swap_warning("the vault's key"),
        Ok(_) => Finding::fine("vault", format!("opens with the {holder}")),
        Err(problem) => Finding::broken("vault", problem.to_string(), problem.hint().unwrap_or_default()),
    }
}

/// Each identity by what the agent knows; after asking, if that is wanted.
async fn check_identities(identities: &Identities, ask: bool) -> Vec<Finding> {
    if identities.all.is_empty() {
        return Vec::new();
    }
    let asked = async {
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
    match asked.await {
        Ok(standings) => {
            let now = humanize::now_milliseconds();
            let of = |identity: &Identity| standings.iter().find(|standing| standing.name == identity.name);
            let own = identities
                .all
                .values()
                .filter_map(|identity| Some(identity_finding(identity, of(identity)?, identities, now)));
            own.chain(check_locked_memory(&standings)).collect()
        }
        Err(why) => vec![Finding::fine("agent", format!("{why}; how the identities stand is not known without it"))],
    }
}

/// Whether the leases that the agent holds may end up on the disk; nothing where it holds none.
fn check_locked_memory(standings: &[IdentityStatus]) -> Option<Finding> {
    let mut leases = standings.iter().filter(|standing| standing.state == IdentityState::Ready).peekable();
    leases.peek()?;
    let names: Vec<String> =
        leases.filter(|standing| standing.swappable).map(|standing| format!("`{}`", standing.name)).collect();
    Some(match names.is_empty() {
        true => Finding::fine("memory", "the leases that are held are locked into memory"),
        false => swap_warning(&format!("the lease of {}", names.join(", "))),
    })
}

fn swap_warning(what: &str) -> Finding {
    let seen = format!("{what} could not be locked into memory: the system may write it to its swap");
    let hint = "Raise the limit of locked memory (`ulimit -l 1024` where the agent is started, `LimitMEMLOCK=` for systemd), or encrypt the swap.";
    Finding::warning("memory", seen, hint)
}

fn identity_finding(identity: &Identity, standing: &IdentityStatus, identities: &Identities, now: i64) -> Finding {
    if let Some(finding) = identities::status_finding(standing) {
        return finding;
    }
    let chain = source_chain(identity, identities);
    let seen = match (standing.state, standing.expires_at) {
        (IdentityState::Ready, Some(end)) => {
            let of_day = humanize::time_of_day(end);
            let until = format!("{} {} UTC", humanize::date(end), &of_day[..of_day.len().min(5)]);
            format!("holds a lease until {until}, in {}; renewed before that while it is used", humanize::age(now, end))
        }
        (IdentityState::Ready, None) => "holds a credential without an end".to_owned(),
        _ => "nobody asked since the agent started; `--ask` asks its source".to_owned(),
    };
    Finding::fine("identities", format!("`{}`{chain}: {seen}", identity.name))
}

/// What an identity is built on, so that a failing link is seen in its place.
fn source_chain(identity: &Identity, identities: &Identities) -> String {
    let mut names = Vec::new();
    let mut at = identity;
    // A ring was refused when the file was read.
    while let Some(next) = at.text("from").and_then(|from| identities.get(from)) {
        names.push(format!("`{}`", next.name));
        at = next;
    }
    if names.is_empty() { String::new() } else { format!(" (by {})", names.join(" by ")) }
}

fn clock_finding(reading: clock::ClockReading) -> Finding {
    let server = &reading.server;
    match reading.offset {
        Ok(ahead) if ahead.abs() > CLOCK_TOLERANCE => {
            let by = humanize::duration((ahead.unsigned_abs() + 30_000) / 60_000 * 60_000);
            let side = if ahead > 0 { "behind" } else { "ahead of" };
            let seen = format!("this machine is about {by} {side} `{server}`: leases seem to end at the wrong time");
            Finding::warning("clock", seen, "Set the clock: `timedatectl set-ntp true`.")
        }
        Ok(_) => Finding::fine("clock", format!("agrees with `{server}`")),
        Err(why) => Finding::warning("clock", format!("`{server}` does not tell: {why}"), "Look at the network."),
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
        let told = |state, expires_at| {
            let standing = IdentityStatus { name: "c".into(), state, expires_at, ..Default::default() };
            identity_finding(identities.get("c").unwrap(), &standing, &identities, 1_000_000).seen
        };
        assert_eq!(
            told(IdentityState::Ready, Some(3_460_000)),
            "`c` (by `b` by `a`): holds a lease until 1970-01-01 00:57 UTC, in 41 min; renewed before that while it is used"
        );
        assert!(told(IdentityState::Idle, None).contains("nobody asked since"));
        assert_eq!(told(IdentityState::NeedsLogin, None), "`c`: nobody is signed in");
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
        let told =
            check_locked_memory(&[lease("a", ready, true), lease("b", ready, false), lease("c", ready, true)]).unwrap();
        assert!(told.seen.starts_with("the lease of `a`, `c` could not be locked into memory"), "{}", told.seen);
    }

    #[test]
    fn clock_offset_gives_warning() {
        let told =
            |ahead: Result<i64, String>| clock_finding(clock::ClockReading { server: "s".into(), offset: ahead }).seen;
        assert_eq!(told(Ok(0)), "agrees with `s`");
        assert!(told(Ok(1_200_000)).starts_with("this machine is about 20 min behind `s`"));
        assert!(told(Ok(-1_200_000)).starts_with("this machine is about 20 min ahead of `s`"));
        assert_eq!(told(Err("no".into())), "`s` does not tell: no");
    }
}
